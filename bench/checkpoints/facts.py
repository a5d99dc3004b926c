"""Facts declared by a base model's folder: pipeline class, size, noise schedule. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench.experiment.config import Model
from bench.records.errors import BenchError
from bench.records.noise_schedule import NEUTRAL, Schedule, settle

_SD, _XL = "Stable Diffusion", "Stable Diffusion XL"
FLOW_PIPELINES = {
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "FluxPipeline": "FLUX.1",
    "Flux2KleinPipeline": "FLUX.2 klein",
    "SanaPipeline": "SANA",
    "SanaSprintPipeline": "SANA-Sprint",
    "ZImagePipeline": "Z-Image",
    "QwenImagePipeline": "Qwen-Image",
}
"""Pipelines whose denoiser is a transformer, and their architectures; they make images from text alone."""
ARCHITECTURES = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionImg2ImgPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "StableDiffusionControlNetPipeline": _SD,
    "AnimateDiffPipeline": _SD,
    "LatentConsistencyModelPipeline": _SD,
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": _XL,
    "StableDiffusionXLControlNetPipeline": _XL,
    "AnimateDiffSDXLPipeline": _XL,
    **FLOW_PIPELINES,
}
"""Architecture by pipeline class: a checkpoint's parts fit every class of its architecture."""
_OF_TASK = {
    "inpainting": {_SD: "StableDiffusionInpaintPipeline", _XL: "StableDiffusionXLInpaintPipeline"},
    "controlnet": {_SD: "StableDiffusionControlNetPipeline", _XL: "StableDiffusionXLControlNetPipeline"},
    "motion_adapter": {_SD: "AnimateDiffPipeline", _XL: "AnimateDiffSDXLPipeline"},
    "text": {_SD: "StableDiffusionPipeline", _XL: "StableDiffusionXLPipeline"},
}
GUIDANCE = {
    **dict.fromkeys([name for name, family in ARCHITECTURES.items() if family == _SD], 7.5),
    **dict.fromkeys([name for name, family in ARCHITECTURES.items() if family == _XL], 5.0),
    "StableDiffusionXLInpaintPipeline": 7.5,
    "LatentConsistencyModelPipeline": 8.5,
    "StableDiffusion3Pipeline": 7.0,
    "FluxPipeline": 3.5,
    "Flux2KleinPipeline": 4.0,
    "SanaPipeline": 4.5,
    "SanaSprintPipeline": 4.5,
    "ZImagePipeline": 5.0,
    "QwenImagePipeline": 4.0,
}
"""Default guidance scale by pipeline: the default of its `__call__` in diffusers 0.42, of `true_cfg_scale` where that
guides."""
_SIZE = 1024
"""Pixels of a side where the denoiser has no size: what FLUX, Qwen-Image and Z-Image make by default in diffusers."""
CHAT = ("Flux2KleinPipeline", "ZImagePipeline")
"""Pipelines that put each prompt into the tokenizer's chat template."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of a base model's folder; `pipeline` is its own class, `inpaints` is true if its denoiser takes a mask.

    Height and width of its images are multiples of `multiple`.
    """

    pipeline: str
    height: int | None
    width: int | None
    noise_schedule: Schedule = field(default_factory=dict)
    inpaints: bool = False
    variant: str | None = None
    multiple: int = 8


def size_of(denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return height and width in pixels: the denoiser's own size times the VAE's scale.

    Of a transformer without a size it is the pipeline's default, of a UNet None.
    """
    sample, factor = denoiser.get("sample_size"), scale_of(vae)
    if isinstance(sample, int):
        return sample * factor, sample * factor
    if isinstance(sample, list) and len(sample) == 2:
        return int(sample[0]) * factor, int(sample[1]) * factor
    return (_SIZE, _SIZE) if "Transformer" in str(denoiser.get("_class_name")) else (None, None)


def scale_of(vae: Mapping[str, Any]) -> int:
    """Return how many pixels of an image's side one latent stands for."""
    if "temperal_downsample" in vae:  # AutoencoderKLQwenImage
        return int(2 ** len(vae["temperal_downsample"]))
    widths = (
        vae.get("encoder_block_out_channels") or vae.get("block_out_channels") or [0]
    )  # AutoencoderDC has the first
    return int(2 ** (len(widths) - 1))


def multiple_of(pipeline: str, vae: Mapping[str, Any]) -> int:
    """Return what height and width are multiples of: one latent, or the patches of 2 × 2 that transformers read."""
    patch = 2 if pipeline in FLOW_PIPELINES and not pipeline.startswith("Sana") else 1
    return scale_of(vae) * patch


def complete_facts(name: str, model: Model, task: str, facts: Facts, guidance_open: bool) -> tuple[Model, list[str]]:
    """Return the model with everything that the checkpoint decides, and notes for the user.

    `guidance_open` is true when a method uses the model's guidance scale.

    Raises BenchError where a setting contradicts the checkpoint, or neither says what is needed.
    """
    told: list[str] = []
    setting = f"models.{name}"
    pipeline = _pipeline(setting, model, task, facts)
    height, width = model.height or facts.height, model.width or facts.width
    if height is None or width is None:
        raise BenchError(
            f"{setting}.height and {setting}.width were not given and the checkpoint does not state its size; set both"
        )
    for side, pixels in (("height", height), ("width", width)):
        if pixels % facts.multiple:
            raise BenchError(
                f"{setting}.{side}={pixels} was given; the model makes images whose sides are multiples of "
                f"{facts.multiple}, so give {max(1, round(pixels / facts.multiple)) * facts.multiple}"
            )
    schedule = settle(name, model.noise_schedule, facts.noise_schedule, model.noise_schedule_override)
    if schedule != facts.noise_schedule:
        told.append(f"{setting}: sampled with {_shown(schedule, facts)}, as noise_schedule_override=true allows")
    guidance = model.guidance_scale
    if guidance is None:
        guidance = GUIDANCE.get(pipeline, 7.5)
        if guidance_open:
            told.append(
                f"{setting}.guidance_scale was not given; methods without a guidance scale use {guidance:g}, the "
                f"default of {pipeline} in diffusers"
            )
    model = replace(
        model,
        pipeline=pipeline,
        height=height,
        width=width,
        noise_schedule=schedule,
        guidance_scale=guidance,
        variant=facts.variant,
    )
    return model, told


def _pipeline(setting: str, model: Model, task: str, facts: Facts) -> str:
    family = ARCHITECTURES.get(facts.pipeline)
    if family is None:
        raise BenchError(
            f"{setting}: the checkpoint was made for {facts.pipeline}; models of "
            f"{', '.join(dict.fromkeys(ARCHITECTURES.values()))} can be sampled, so choose one of these"
        )
    given = model.pipeline
    if given is not None:
        if given not in ARCHITECTURES:
            raise BenchError(
                f"{setting}.pipeline={given} was given; choose one of {', '.join(ARCHITECTURES)}, or omit it"
            )
        if ARCHITECTURES[given] != family:
            raise BenchError(
                f"{setting}.pipeline={given} was given, but the checkpoint is {family}'s ({facts.pipeline}); omit the "
                "setting"
            )
        return given
    if family not in (_SD, _XL):
        if task != "text_to_image":
            raise BenchError(
                f"{setting}: {family} makes images from text alone; choose task=text_to_image, or another model"
            )
        return facts.pipeline
    part = next((role for role in ("controlnet", "motion_adapter") if role in model.parts), None)
    kind = "inpainting" if task == "inpainting" else part or "text"
    if facts.inpaints and kind != "inpainting":
        raise BenchError(f"{setting}: the checkpoint was made for inpainting; choose task=inpainting, or another model")
    return _OF_TASK[kind][family]


def _shown(schedule: Mapping[str, Any], facts: Facts) -> str:
    parts = {**NEUTRAL, **facts.noise_schedule, **schedule}
    others = [p for p in parts if schedule.get(p, NEUTRAL.get(p)) != facts.noise_schedule.get(p, NEUTRAL.get(p))]
    return " and ".join(
        f"{p}={schedule.get(p, NEUTRAL.get(p))!r} where the checkpoint states "
        f"{facts.noise_schedule.get(p, NEUTRAL.get(p))!r}"
        for p in others
    )
