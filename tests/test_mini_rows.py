"""The rows on trained miniatures: images are, bit for bit, those of the guide's own calls, and add-ons do their job.

A row whose add-on is left out, is another one, or is half applied gives other images, so that the first test fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoPipelineForInpainting,
    ControlNetModel,
    MotionAdapter,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
)
from numpy.typing import NDArray
from PIL import Image

from bench.checkpoints.sources import local_path
from bench.execute.feature_extraction import load_extractors, make_feature_sets, make_inputs
from bench.execute.job import Job, plan_job
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler, image_generator
from bench.generate.task_inputs import Inputs
from bench.mini.reading import read_depth

pytestmark = pytest.mark.slow
COUNT, FILMS, STEPS = 8, 6, 4
WEIGHTS = "bench://mini/weights"
LORA = "pytorch_lora_weights.safetensors"
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Made:
    """Images of a row, and what they were made from."""

    images: Images
    job: Job
    inputs: Inputs

    @property
    def prompts(self) -> list[str]:
        return list(self.job.prompts.texts)

    def score(self, name: str) -> float:
        """Return the mean of a score."""
        identities = self.job.run.features
        sets = make_feature_sets(self.job.experiment, self.job.prompts, evaluator(), self.inputs, identities, "cpu")
        found = {
            name: rows for one in sets.extract(self.images, 0, sets.identities).values() for name, rows in one.items()
        }
        if name == "attribute_accuracy":
            return float((found["attributes_right"] / found["attributes_named"]).mean())
        return float(found[name].mean())


@cache
def of_row(row: str, *overrides: str) -> Made:
    """Return a row's images by TCD."""
    given = [f"experiment={row}", "method=[tcd]", "claim=[]", f"methods.tcd.steps=[{STEPS}]"]
    given += [
        f"prompts.count={FILMS if row == 'mini_animation' else COUNT}",
        "device=cpu",
        f"models.{MODELS[row]}.channels_last=false",
        *overrides,
    ]
    job = plan_job(check_experiment(compose_settings(given)), decode=False)
    (cell,) = job.plan.cells
    inputs = make_inputs(job.experiment, cell.task, "cpu", job.prompts.rows)
    images = Sampler(load_pipeline(cell), cell, job.prompts.texts, inputs=inputs).sample(0).images
    return Made(images, job, inputs)


@cache
def evaluator() -> Any:
    settings = compose_settings(["experiment=mini_xl", "claim=[]"])
    return load_extractors(check_experiment(settings), "cpu")


def at(name: str) -> str:
    """Return the directory of packaged weights."""
    return str(local_path(f"{WEIGHTS}/{name}"))


def with_tcd(pipeline: Any, lora: str = "xl-tcd-lora") -> Any:
    """The guide's lines after the pipeline is loaded."""
    pipeline.scheduler = TCDScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(at(lora), weight_name=LORA)
    pipeline.fuse_lora()
    return pipeline


def call(pipeline: Any, prompts: Sequence[str], own_noise: bool = False, frames: int = 0, **more: Any) -> Images:
    """The guide's call, on the benchmark's noise; frames are one below the other."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [image_generator(0, row) for row in range(len(prompts))]
    shape = (4, frames, 16, 16) if frames else (4, 16, 16)
    if not own_noise:
        more["latents"] = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    if frames:
        more["num_frames"] = frames
    output = pipeline(
        prompt=list(prompts), num_inference_steps=STEPS, guidance_scale=0, eta=0.3, generator=generators,
        height=64, width=64, output_type="pil", **more,
    )  # fmt: skip
    if frames:
        return np.stack([np.concatenate([*map(np.asarray, film)]) for film in output.frames])
    return np.stack([np.asarray(image) for image in output.images])


def text_to_image(made: Made, base: str) -> Images:
    return call(with_tcd(StableDiffusionXLPipeline.from_pretrained(at(base), dtype=torch.float32)), made.prompts)


def of_second_version(made: Made) -> Images:
    pipeline = StableDiffusionPipeline.from_pretrained(at("v2"), dtype=torch.float32)
    return call(with_tcd(pipeline, "v2-tcd-lora"), made.prompts)


def animated(made: Made) -> Images:
    adapter = MotionAdapter.from_pretrained(at("v2-motion"), dtype=torch.float32)
    pipeline = AnimateDiffPipeline.from_pretrained(at("v2"), motion_adapter=adapter, dtype=torch.float32)
    pipeline.scheduler = TCDScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(at("v2-tcd-lora"), weight_name=LORA, adapter_name="tcd")
    pipeline.load_lora_weights(at("v2-zoom-lora"), weight_name=LORA, adapter_name="zoom")
    pipeline.set_adapters(["tcd", "zoom"], adapter_weights=[1.0, 1.2])
    return call(pipeline, made.prompts, frames=8)


def inpainting(made: Made) -> Images:
    pipeline = with_tcd(AutoPipelineForInpainting.from_pretrained(at("xl-inpainting"), dtype=torch.float32))
    images = [Image.fromarray(image) for image in made.inputs.images]
    masks = [Image.fromarray(mask * np.uint8(255)) for mask in made.inputs.masks]
    return call(pipeline, made.prompts, own_noise=True, image=images, mask_image=masks, strength=0.99)


def controlled(made: Made, kind: str) -> Images:
    network = ControlNetModel.from_pretrained(at(f"xl-{kind}"), dtype=torch.float32)
    base = StableDiffusionXLControlNetPipeline.from_pretrained(at("xl"), controlnet=network, dtype=torch.float32)
    images = [Image.fromarray(condition) for condition in made.inputs.conditions]
    return call(with_tcd(base), made.prompts, image=images, controlnet_conditioning_scale=0.5)


def prompted(made: Made) -> Images:
    pipeline = with_tcd(StableDiffusionXLPipeline.from_pretrained(at("xl"), dtype=torch.float32))
    folder = at("xl-image-prompt")
    pipeline.load_ip_adapter(folder, subfolder="", weight_name="ip_adapter.safetensors", local_files_only=True)
    pipeline.set_ip_adapter_scale(0.5)
    return call(pipeline, made.prompts, ip_adapter_image=Image.fromarray(made.inputs.images[0]))


def styled(made: Made) -> Images:
    pipeline = StableDiffusionXLPipeline.from_pretrained(at("xl"), dtype=torch.float32)
    pipeline.scheduler = TCDScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(at("xl-tcd-lora"), weight_name=LORA, adapter_name="tcd")
    pipeline.load_lora_weights(at("xl-papercut-lora"), weight_name=LORA, adapter_name="style")
    pipeline.set_adapters(["tcd", "style"], adapter_weights=[1.0, 1.0])
    return call(pipeline, made.prompts)


MODELS = {
    "mini_xl": "mini_xl",
    "mini_community": "mini_xl_ink",
    "mini_style": "mini_xl_papercut",
    "mini_inpainting": "mini_xl_inpainting",
    "mini_canny": "mini_xl_canny",
    "mini_depth": "mini_xl_depth",
    "mini_image_prompt": "mini_xl_image_prompt",
    "mini_v2": "mini_v2",
    "mini_animation": "mini_v2_animated",
}
BY_HAND: dict[str, Callable[[Made], Images]] = {
    "mini_xl": partial(text_to_image, base="xl"),
    "mini_community": partial(text_to_image, base="xl-ink"),
    "mini_style": styled,
    "mini_inpainting": inpainting,
    "mini_canny": partial(controlled, kind="canny"),
    "mini_depth": partial(controlled, kind="depth"),
    "mini_image_prompt": prompted,
    "mini_v2": of_second_version,
    "mini_animation": animated,
}
PAPERCUT = "models.mini_xl_papercut.adapters.papercut"
ZOOM = "models.mini_v2_animated.adapters.zoom_in"
LEFT_OUT = {
    "mini_xl": ("methods.tcd.adapter=[]",),
    "mini_community": (f"models.mini_xl_ink.source={WEIGHTS}/xl",),
    "mini_style": ("methods.tcd.adapter=[tcd]",),
    "mini_inpainting": (f"models.mini_xl_inpainting.source={WEIGHTS}/xl",),
    "mini_canny": ("task.conditioning_scale=0",),
    "mini_depth": ("task.conditioning_scale=0",),
    "mini_image_prompt": ("task.scale=0",),
    "mini_v2": ("methods.tcd.adapter=[]",),
    "mini_animation": ("methods.tcd.adapter=[tcd]",),
}
"""Settings without a row's add-on: the adapter, the other weights, the ControlNet."""
OTHERWISE = {
    "mini_xl": ("models.mini_xl.adapters.tcd.scale=0.5",),
    "mini_style": (f"{PAPERCUT}.scale=0.5", f"{PAPERCUT}.source={WEIGHTS}/xl-tcd-lora"),
    "mini_inpainting": ("task.strength=0.5",),
    "mini_canny": ("task.conditioning_scale=0.25", f"models.mini_xl_canny.parts.controlnet.source={WEIGHTS}/xl-depth"),
    "mini_depth": ("task.conditioning_scale=0.25", f"models.mini_xl_depth.parts.controlnet.source={WEIGHTS}/xl-canny"),
    "mini_image_prompt": ("task.scale=0.25", "task.inputs=world"),
    "mini_v2": ("models.mini_v2.adapters.tcd.scale=0.5",),
    "mini_animation": (f"{ZOOM}.scale=0.6", f"{ZOOM}.source={WEIGHTS}/v2-tcd-lora"),
}
"""Single settings that apply it by half, or another one in its place."""


@pytest.mark.parametrize("row", BY_HAND)
def test_a_row_s_images_are_those_of_the_guide_s_calls(row: str) -> None:
    made = of_row(row)
    assert np.array_equal(made.images, BY_HAND[row](made))


@pytest.mark.parametrize("row", BY_HAND)
def test_a_row_without_its_add_on_or_with_half_of_it_has_other_images(row: str) -> None:
    whole = of_row(row).images.astype(int)
    for overrides in (LEFT_OUT[row], *((setting,) for setting in OTHERWISE.get(row, ()))):
        broken = of_row(row, *(f"++{setting}" if ".scale=" in setting else setting for setting in overrides)).images
        differing = (np.abs(broken - whole).max(axis=(1, 2, 3)) > 8).mean()
        assert differing == 1, overrides


@pytest.mark.parametrize(
    ("row", "score", "gain"),
    [
        ("mini_xl", "attribute_accuracy", 0.04),
        ("mini_v2", "attribute_accuracy", 0.04),
        ("mini_style", "style_similarity", 2.0),
        ("mini_canny", "edge_agreement", 0.15),
        ("mini_depth", "depth_error", -0.03),
    ],
)
def test_an_add_on_does_its_job(row: str, score: str, gain: float) -> None:
    """At 4 steps of TCD; the model card has its quality at the teacher's 50."""
    whole, without = (of_row(row, *overrides).score(score) for overrides in ((), LEFT_OUT[row]))
    assert (whole - without) / gain > 1, (whole, without)


def test_inpainting_keeps_the_background_of_its_input() -> None:
    made = of_row("mini_inpainting")
    outside = ~made.inputs.masks
    errors = [
        ((images[outside].astype(float) - made.inputs.images[outside]) ** 2).mean()
        for images in (made.images, of_row("mini_xl").images)
    ]
    assert errors[0] < errors[1] / 10


def test_a_fine_tune_looks_otherwise() -> None:
    look = ("task.style=world-ink",)
    whole, without = (
        of_row("mini_community", *look, *overrides).score("style_similarity")
        for overrides in ((), LEFT_OUT["mini_community"])
    )
    assert whole > without + 2, (whole, without)


@pytest.mark.parametrize("row", ["mini_canny", "mini_depth", "mini_image_prompt"])
def test_an_add_on_at_scale_0_leaves_the_base_as_it_is_bit_for_bit(row: str) -> None:
    assert np.array_equal(of_row(row, *LEFT_OUT[row]).images, of_row("mini_xl").images)


def test_frames_belong_together_by_the_motion_adapter_alone(tmp_path: Path) -> None:
    still = MotionAdapter.from_pretrained(at("v2-motion"), dtype=torch.float32)
    for name, parameter in still.named_parameters():
        if "proj_out" in name:
            torch.nn.init.zeros_(parameter)
    still.save_pretrained(tmp_path)
    without = ("methods.tcd.adapter=[tcd]", f"models.mini_v2_animated.parts.motion_adapter.source={tmp_path}/")
    for score, share in (("flicker", 0.5), ("path_error", 0.7)):
        whole, alone = (of_row("mini_animation", *more).score(score) for more in ((), without))
        assert whole < share * alone, (score, whole, alone)


def test_the_motion_lora_enlarges_things() -> None:
    grown = []
    for more in ((), LEFT_OUT["mini_animation"]):
        frames = of_row("mini_animation", *more).images.reshape(FILMS, 8, 64, 64, 3)
        share = (read_depth(frames.reshape(-1, 64, 64, 3)) > 0).mean(axis=(1, 2)).reshape(FILMS, 8)
        grown.append(np.median(share[:, -1]) / np.median(share[:, 0]))
    assert grown[0] > 1.4 * grown[1], grown


def test_a_motion_lora_at_scale_0_leaves_the_film_as_it_is_bit_for_bit() -> None:
    nothing = of_row("mini_animation", f"++{ZOOM}.scale=0")
    assert np.array_equal(nothing.images, of_row("mini_animation", *LEFT_OUT["mini_animation"]).images)


def test_a_style_at_scale_0_leaves_the_base_as_it_is_bit_for_bit() -> None:
    nothing = of_row("mini_style", f"++{PAPERCUT}.scale=0")
    assert np.array_equal(nothing.images, of_row("mini_style", *LEFT_OUT["mini_style"]).images)
