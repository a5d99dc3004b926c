"""What is asked of a base model besides an image for a text: the tasks of the TCD guide, each with its own settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.value_types import STRICT, Source

Scale = Annotated[float, Field(ge=0, le=2)]
Fit = Literal["exact", "crop", "stretch"]
"""What is done with an input image of another aspect ratio: refuse it, cut it about its centre, or distort it."""


@dataclass(config=STRICT)
class TextToImage:
    """An image for each prompt. `style` names what a style adapter should make of it; style similarity needs it."""

    kind: Literal["text_to_image"]
    style: str | None = None
    """Name of the style that a style adapter is expected to produce; `style_similarity` needs it."""


@dataclass(config=STRICT)
class Inpainting:
    """A masked part of an input image is painted anew; at `strength` below 1 it begins from the input, noised."""

    kind: Literal["inpainting"]
    strength: Annotated[float, Field(gt=0, lt=1)]
    """Share of the noise schedule that is run; below 1 sampling starts from the noised input."""
    inputs: Source = "world"
    """`world`, or a folder with one image per prompt and its masks in `masks/`."""
    fit: Fit = "exact"
    """What happens to an input of another aspect ratio."""


@dataclass(config=STRICT)
class ControlNet:
    """An image that follows the Canny edges of an input, or its depth as `estimator`, a hub id, tells it.

    With `inputs_are` control_images the inputs are such edges or depths themselves, and are used as they are.
    """

    kind: Literal["canny", "depth"]
    conditioning_scale: Scale
    """Weight of the ControlNet."""
    inputs: Source = "world"
    """`world`, or a folder with one image per prompt."""
    inputs_are: Literal["photos", "control_images"] = "photos"
    """`control_images`: the folder holds finished edge or depth images, which are used as they are."""
    fit: Fit = "exact"
    """What happens to an input of another aspect ratio."""
    estimator: Source | None = None
    """Hub id of the depth estimator."""


@dataclass(config=STRICT)
class ImagePrompt:
    """An image for each prompt in the likeness of the first input image, by an IP-Adapter."""

    kind: Literal["image_prompt"]
    scale: Scale
    """Weight of the IP-Adapter."""
    inputs: Source = "world"
    """`world`, or a folder; its first image is the image prompt."""
    fit: Fit = "exact"
    """What happens to an input of another aspect ratio."""


@dataclass(config=STRICT)
class Animation:
    """A film of so many frames for each prompt; its frames stand below one another in one image."""

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
}
"""Scores that one task alone has."""

TASK_SCORES = {*SCORES_OF_TASK, "style_similarity"}
"""Scores that need more than the image and its prompt."""


def task_problems(task: Any, models: dict[str, Any], scores: list[Any]) -> Iterator[str]:
    """Models and scores that do not fit the task, a sentence for each."""
    for name, model in models.items():
        part = NEEDED_PART.get(task.kind)
        if part is not None and part not in model.parts:
            yield f"models.{name}.parts has no {part}, and task={task.kind} needs one; choose another model"
        if idle := sorted(set(model.parts) - {part}):
            yield f"models.{name}.parts has a {idle[0]}, of no use to task={task.kind}; choose another model"
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
    if task.kind == "depth" and task.estimator is None and (not finished or "depth_error" in scores):
        yield ("task.estimator was not given; task=depth needs a hub id, such as Intel/dpt-hybrid-midas")
    sizes = {(model.height, model.width) for model in models.values() if model.height and model.width}
    if hasattr(task, "inputs") and len(sizes) > 1:
        yield (
            f"models have {len(sizes)} sizes and task={task.kind} has inputs of one; give all the same height and width"
        )
    for score in scores:
        wanted = SCORES_OF_TASK.get(score)
        if wanted is not None and wanted != task.kind:
            yield f"scores: {score} belongs to task={wanted}, and task={task.kind} was given; leave it out"
    if "style_similarity" in scores and getattr(task, "style", None) is None:
        yield "task.style was not given; style_similarity needs it, as in task.style='papercut'"
