"""Guidance: which argument of a pipeline's call a cell's scale goes to, and whether it doubles the evaluations.

Pipelines differ. Most guide without a classifier by `guidance_scale`, and evaluate each image with its prompt and
without it; some give that scale to the network as an input; some have `true_cfg_scale`, which takes effect with a
negative prompt.
"""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

from bench.generate.pipeline_calls import call_parameters, planned_class_of, source_of
from bench.records.cell import Cell
from bench.records.errors import BenchError


def guidance_of(cell: Cell, pipeline_class: Any) -> str:
    """Return a model's kind of guidance: the stated one, or else what the pipeline's call and properties say.

    Raises BenchError where the pipeline does not have the stated kind.
    """
    stated, found = cell.base.guidance, _found(pipeline_class)
    has = {
        "classifier_free": found == "classifier_free",
        "true_cfg": "true_cfg_scale" in call_parameters(pipeline_class),
    }
    if stated in (None, found, "none") or has.get(str(stated)):
        return stated or found
    raise BenchError(
        f"models.{cell.base.name}.guidance={stated} was given, but {pipeline_class.__name__} has {found}; omit it"
    )


def _found(pipeline_class: Any) -> str:
    parameters = call_parameters(pipeline_class)
    if "true_cfg_scale" in parameters:
        return "true_cfg" if (parameters["true_cfg_scale"].default or 0) > 1 else "embedded"
    condition = "do_classifier_free_guidance"
    if hasattr(pipeline_class, condition) or condition in source_of(pipeline_class):
        return "classifier_free"
    return "embedded" if "guidance_scale" in parameters else "none"


def guidance_arguments(cell: Cell, pipeline_class: Any) -> dict[str, Any]:
    """Return the arguments of a call that carry the cell's guidance scale, with the negative prompt it needs."""
    kind = guidance_of(cell, pipeline_class)
    if kind == "true_cfg":
        negative = {"negative_prompt": cell.base.arguments.get("negative_prompt", "")}
        return {"true_cfg_scale": cell.guidance_scale, **(negative if is_doubled(cell, pipeline_class) else {})}
    return {"guidance_scale": cell.guidance_scale} if "guidance_scale" in call_parameters(pipeline_class) else {}


def check_arguments(cell: Cell) -> None:
    """Raise BenchError for further arguments that a model's pipeline does not take, or that other settings decide, and
    for a guidance scale of a model without guidance."""
    pipeline_class = planned_class_of(cell.base)
    if pipeline_class is None:
        return
    setting, kind = f"models.{cell.base.name}.arguments", guidance_of(cell, pipeline_class)
    if kind == "none" and cell.guidance_scale > 1:
        raise BenchError(
            f"{cell.label}: models.{cell.base.name}.guidance=none, so it takes no guidance; use a scale of 0 or 1"
        )
    decided = _DECIDED - ({"guidance_scale"} if kind == "true_cfg" else set())
    for name, value in cell.base.arguments.items():
        if name not in (taken := call_parameters(pipeline_class)):
            near = get_close_matches(name, taken, 1, 0.6)
            meant = f"did you mean {near[0]}?" if near else "omit it"
            raise BenchError(f"{setting}.{name} was given, but {cell.base.pipeline} takes no such argument; {meant}")
        if name in decided:
            raise BenchError(f"{setting}.{name} was given, but other settings decide it; omit it")
        if name == "negative_prompt" and not isinstance(value, str):
            raise BenchError(f"{setting}.negative_prompt={value!r} was given; give one text, which all prompts get")


_DECIDED = {
    *("prompt", "height", "width", "num_inference_steps", "guidance_scale", "true_cfg_scale", "eta", "generator"),
    *("latents", "timesteps", "sigmas", "output_type", "return_dict", "num_images_per_prompt", "skip_guidance_layers"),
}
"""Arguments that belong to a cell's axes, to the noise of an image or to the counting of evaluations."""


def is_doubled(cell: Cell, pipeline_class: Any) -> bool:
    """Whether each image is evaluated twice per step: with its prompt and without it.

    Asks the pipeline itself where it has a condition for that; Z-Image's begins above 0, others' above 1.
    """
    kind, scale = guidance_of(cell, pipeline_class), cell.guidance_scale
    if kind in ("embedded", "none"):
        return False
    condition = inspect.getattr_static(pipeline_class, "do_classifier_free_guidance", None)
    if kind == "true_cfg" or not isinstance(condition, property) or condition.fget is None:
        return scale > 1
    unet = SimpleNamespace(config=SimpleNamespace(time_cond_proj_dim=None))
    pipeline = SimpleNamespace(
        _guidance_scale=scale, guidance_scale=scale, unet=unet, config=SimpleNamespace(is_distilled=False)
    )
    try:
        return bool(condition.fget(pipeline))
    except AttributeError:  # it depends on more than the scale
        return scale > 1
