"""A row's images are, bit for bit, those of the guide's own calls, on substitutes under the real hub ids."""

from pathlib import Path
from typing import Any

import huggingface_hub
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
from standins import PUBLISHED, REPOSITORIES, build_hub, commit_of

from bench.execute.feature_extraction import make_inputs
from bench.execute.job import plan_job
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler, image_generator
from bench.generate.task_inputs import Inputs

pytestmark = [pytest.mark.slow, pytest.mark.rows]
HALF = {"dtype": torch.float16, "variant": "fp16"}
COUNT, SIDE = 2, 64
SDXL, TCD = "stabilityai/stable-diffusion-xl-base-1.0", "h1t/TCD-SDXL-LoRA"
Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_hub(tmp_path_factory.mktemp("hub"), REPOSITORIES)


@pytest.fixture
def at(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the directory of a repository's files; the benchmark looks for them in the same cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("TORCH_HOME", str(hub))
    return lambda name: str(hub / f"models--{name.replace('/', '--')}" / "snapshots" / commit_of(name))


def of_benchmark(row: str, *overrides: str) -> tuple[Images, Any, Inputs, list[str]]:
    """Return a row's images, its cell, inputs and prompts."""
    settings = [f"experiment={row}", "method=[tcd]", "claim=[]", "scores=[]", f"prompts.count={COUNT}", "device=cpu"]
    (model,) = check_experiment(compose_settings(settings)).models
    size = [f"models.{model}.height={SIDE}", f"models.{model}.width={SIDE}"]
    job = plan_job(check_experiment(compose_settings([*settings, *size, *overrides])))
    (cell,) = job.plan.cells
    inputs = make_inputs(job.experiment, cell.task, "cpu", job.prompts.rows)
    sampler = Sampler(load_pipeline(cell), cell, job.prompts.texts, inputs=inputs)
    return sampler.sample(0).images, cell, inputs, list(job.prompts.texts)


def with_tcd(pipeline: Any, lora: str) -> Any:
    """The guide's lines after the pipeline is loaded."""
    pipeline.scheduler = TCDScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(lora, weight_name=PUBLISHED)
    pipeline.fuse_lora()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call(
    pipeline: Any, prompts: list[str], steps: int, frames: int = 0, own_noise: bool = False, **more: Any
) -> Images:
    """The guide's call, on the benchmark's noise."""
    generators = [image_generator(0, row) for row in range(COUNT)]
    if not own_noise:
        shape = (4, *([frames] if frames else []), *[SIDE // pipeline.vae_scale_factor] * 2)
        latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        more |= {"latents": latents.half()} | ({"num_frames": frames} if frames else {})
    output = pipeline(
        prompt=prompts, num_inference_steps=steps, guidance_scale=0, eta=0.3, generator=generators,
        height=SIDE, width=SIDE, output_type="pil", **more,
    )  # fmt: skip
    films = output.frames if frames else [[image] for image in output.images]
    return np.stack([np.concatenate([np.asarray(frame) for frame in film]) for film in films])


TEXT_TO_IMAGE = {
    "guide_sdxl_t2i": (StableDiffusionXLPipeline, SDXL, TCD),
    "guide_community": (StableDiffusionXLPipeline, "cagliostrolab/animagine-xl-3.0", TCD),
    "guide_sd15_t2i": (StableDiffusionPipeline, "stable-diffusion-v1-5/stable-diffusion-v1-5", "h1t/TCD-SD15-LoRA"),
    "guide_sd21_t2i": (StableDiffusionPipeline, "stabilityai/stable-diffusion-2-1-base", "h1t/TCD-SD21-base-LoRA"),
}


@pytest.mark.parametrize("row", TEXT_TO_IMAGE)
def test_text_to_image_and_a_community_model(row: str, at: Any) -> None:
    kind, base, lora = TEXT_TO_IMAGE[row]
    steps = 8 if row == "guide_community" else 4
    ours, _, _, prompts = of_benchmark(row, f"methods.tcd.steps=[{steps}]", "methods.tcd.eta=[0.3]")
    options = {"dtype": torch.float16} if row == "guide_community" else HALF
    assert np.array_equal(ours, call(with_tcd(kind.from_pretrained(at(base), **options), at(lora)), prompts, steps))


def test_inpainting(at: Any) -> None:
    ours, _, inputs, prompts = of_benchmark("guide_inpainting")
    base = at("diffusers/stable-diffusion-xl-1.0-inpainting-0.1")
    pipeline = with_tcd(AutoPipelineForInpainting.from_pretrained(base, **HALF), at(TCD))
    images = [Image.fromarray(image) for image in inputs.images]
    masks = [Image.fromarray(mask * np.uint8(255)) for mask in inputs.masks]
    theirs = call(pipeline, prompts, 8, own_noise=True, image=images, mask_image=masks, strength=0.99)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["canny", "depth"])
def test_controlnets(kind: str, at: Any) -> None:
    ours, _, inputs, prompts = of_benchmark(f"guide_{kind}")
    controlnet = ControlNetModel.from_pretrained(at(f"diffusers/controlnet-{kind}-sdxl-1.0"), **HALF)
    base = StableDiffusionXLControlNetPipeline.from_pretrained(at(SDXL), controlnet=controlnet, **HALF)
    images = [Image.fromarray(condition) for condition in inputs.conditions]
    theirs = call(with_tcd(base, at(TCD)), prompts, 4, image=images, controlnet_conditioning_scale=0.5)
    assert np.array_equal(ours, theirs)


def test_an_image_prompt(at: Any) -> None:
    ours, _, inputs, prompts = of_benchmark("guide_ip_adapter")
    pipeline = with_tcd(StableDiffusionXLPipeline.from_pretrained(at(SDXL), **HALF), at(TCD))
    pipeline.load_ip_adapter(
        at("h94/IP-Adapter"), subfolder="sdxl_models", weight_name="ip-adapter_sdxl.safetensors", local_files_only=True
    )
    pipeline.set_ip_adapter_scale(0.5)
    theirs = call(pipeline, prompts, 4, ip_adapter_image=Image.fromarray(inputs.images[0]))
    assert np.array_equal(ours, theirs)


def test_a_style_lora_beside(at: Any) -> None:
    ours, _, _, prompts = of_benchmark("guide_style")
    pipeline = StableDiffusionXLPipeline.from_pretrained(at(SDXL), **HALF)
    pipeline.scheduler = TCDScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(at(TCD), weight_name=PUBLISHED, adapter_name="tcd")
    pipeline.load_lora_weights(at("TheLastBen/Papercut_SDXL"), weight_name="papercut.safetensors", adapter_name="style")
    pipeline.set_adapters(["tcd", "style"], adapter_weights=[1.0, 1.0])
    assert all(prompt.startswith("papercut") for prompt in prompts)
    assert np.array_equal(ours, call(pipeline, prompts, 4))


def test_an_animation(at: Any) -> None:
    ours, _, _, prompts = of_benchmark("guide_animatediff", "batch_size=2", "task.frames=8")
    adapter = MotionAdapter.from_pretrained(at("guoyww/animatediff-motion-adapter-v1-5"), **HALF)
    base = at("frankjoshua/toonyou_beta6")
    pipeline = AnimateDiffPipeline.from_pretrained(base, motion_adapter=adapter, dtype=torch.float16)
    pipeline.scheduler = TCDScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(at("h1t/TCD-SD15-LoRA"), weight_name=PUBLISHED, adapter_name="tcd")
    pipeline.load_lora_weights(
        at("guoyww/animatediff-motion-lora-zoom-in"),
        weight_name="diffusion_pytorch_model.safetensors",
        adapter_name="motion-lora",
    )
    pipeline.set_adapters(["tcd", "motion-lora"], adapter_weights=[1.0, 1.2])
    theirs = call(pipeline, prompts, 5, frames=8, cross_attention_kwargs={"scale": 1})
    assert np.array_equal(ours, theirs)
