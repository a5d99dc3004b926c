"""Tasks of a base model: those of the TCD guide, each with its own settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.value_types import STRICT, Source
from bench.records.score import split_score

Scale = Annotated[float, Field(ge=0, le=2)]
Fit = Literal["exact", "crop", "stretch"]
"""Treatment of an input image with another aspect ratio: refuse it, crop it about its centre, or distort it."""


@dataclass(config=STRICT)
class TextToImage:
    """An image per prompt. `style` names the intended result of a style adapter; style similarity needs it."""

    kind: Literal["text_to_image"]
    style: str | None = None
    """Name of the style that a style adapter is expected to produce, or of the miniature world `world-ink` or
    `world-papercut`; `style_similarity` needs it."""


@dataclass(config=STRICT)
class Inpainting:
    """A masked part of an input image is repainted; at `strength` below 1 sampling begins from the noised input."""

    kind: Literal["inpainting"]
    strength: Annotated[float, Field(gt=0, le=1)]
    """Share of the noise schedule that is run; below 1 sampling starts from the noised input, at 1 from noise alone."""
    inputs: Source = "world"
    """`world`, `scenes`: the prompts' own in the miniature world, or a folder with one image per prompt and its masks
    in `masks/`."""
    fit: Fit = "exact"
    """What happens to an input of another aspect ratio."""


@dataclass(config=STRICT)
class ControlNet:
    """An image that follows the Canny edges of an input, or its depth by `estimator`, a hub id.

    With `inputs_are` control_images the inputs are such edge or depth images, and are used unchanged.
    """

    kind: Literal["canny", "depth"]
    conditioning_scale: Scale
    """Weight of the ControlNet."""
    inputs: Source = "world"
    """`world`, `scenes`: the prompts' own in the miniature world, or a folder with one image per prompt."""
    inputs_are: Literal["photos", "control_images"] = "photos"
    """`control_images`: the folder holds finished edge or depth images, which are used as they are."""
    fit: Fit = "exact"
    """What happens to an input of another aspect ratio."""
    estimator: Source | None = None
    """Hub id of the depth estimator, or `world`: read from the colours of the miniature's images."""


@dataclass(config=STRICT)
class ImagePrompt:
    """An image per prompt that resembles the first input image, by an IP-Adapter."""

    kind: Literal["image_prompt"]
    scale: Scale
    """Weight of the IP-Adapter."""
    inputs: Source = "world"
    """`world`, `scenes`, or a folder; the first image is the image prompt."""
    fit: Fit = "exact"
    """What happens to an input of another aspect ratio."""


@dataclass(config=STRICT)
class Animation:
    """A video of `frames` frames per prompt; its frames are stacked vertically in one image."""

    kind: Literal["animation"]
    frames: Annotated[int, Field(ge=2, le=512)]
    """Number of frames."""


TaskChoice = Annotated[TextToImage | Inpainting | ControlNet | ImagePrompt | Animation, Field(discriminator="kind")]

NEEDED_PART = {
    "canny": "controlnet",
    "depth": "controlnet",
    "image_prompt": "image_adapter",
    "animation": "motion_adapter",
}
SCORES_OF_TASK = {
    "masked_fid": "inpainting",
    "background_psnr": "inpainting",
    "background_lpips": "inpainting",
    "edge_agreement": "canny",
    "depth_error": "depth",
    "image_similarity": "image_prompt",
    "temporal_consistency": "animation",
    "flicker": "animation",
    "path_error": "animation",
    "speed": "animation",
}
"""Scores that belong to a single task."""


def task_problems(task: Any, models: dict[str, Any], scores: list[Any]) -> Iterator[str]:
    """Yield a sentence for each model and score that does not fit the task."""
    shorts = list(dict.fromkeys(split_score(score)[0] for score in scores))
    for name, model in models.items():
        part = NEEDED_PART.get(task.kind)
        if part is not None and part not in model.parts:
            yield f"models.{name}.parts has no {part}, but task={task.kind} needs one; choose another model"
        if idle := sorted(set(model.parts) - {part}):
            yield f"models.{name}.parts has a {idle[0]}, which task={task.kind} does not use; choose another model"
        if model.pipeline and (task.kind == "inpainting") != ("Inpaint" in model.pipeline):
            yield (
                f"models.{name}.pipeline={model.pipeline} does not fit task={task.kind}; choose a model with "
                f"{'an inpainting' if task.kind == 'inpainting' else 'another'} pipeline"
            )
    finished = getattr(task, "inputs_are", "photos") == "control_images"
    if finished and task.inputs == "world":
        yield (
            "task.inputs_are=control_images was given and task.inputs=world has none; give a folder of control images"
        )
    if task.kind == "depth" and task.estimator is None and (not finished or "depth_error" in shorts):
        yield ("task.estimator was not given; task=depth needs a hub id, such as Intel/dpt-hybrid-midas")
    sizes = {(model.height, model.width) for model in models.values() if model.height and model.width}
    if hasattr(task, "inputs") and len(sizes) > 1:
        yield (
            f"models have {len(sizes)} sizes but task={task.kind} has inputs of one; give all the same height and width"
        )
    for score in shorts:
        wanted = SCORES_OF_TASK.get(score)
        if wanted is not None and wanted != task.kind:
            yield f"scores: {score} belongs to task={wanted}, but task={task.kind} was given; omit it"
    if "style_similarity" in shorts and getattr(task, "style", None) is None:
        yield "task.style was not given; style_similarity needs it, as in task.style='papercut'"
