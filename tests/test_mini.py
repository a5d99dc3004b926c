"""The models of the package: small, safe to load, and good enough for conclusions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from bench.checkpoints.sources import local_path
from bench.features.extractor import encode_captions, images_to_features
from bench.features.openclip import load_open_clip
from bench.mini import world

WEIGHTS = Path(str(local_path("bench://mini/weights")))


def test_the_weights_are_safetensors_of_at_most_30_megabytes() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".txt"}


def test_the_teacher_loads_as_any_stable_diffusion_does() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS / "teacher", dtype=torch.float32)
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    assert pipeline.unet.config.in_channels == pipeline.vae.config.latent_channels


@pytest.mark.parametrize("name", ["tcd", "lcm"])
def test_every_key_of_an_adapter_finds_its_place(name: str) -> None:
    from safetensors import safe_open

    pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS / "teacher", dtype=torch.float32)
    pipeline.load_lora_weights(
        str(WEIGHTS / f"{name}-lora"), weight_name="pytorch_lora_weights.safetensors", adapter_name=name
    )
    loaded = [key for key, value in pipeline.unet.named_parameters() if "lora_" in key and value.abs().max() > 0]
    with safe_open(WEIGHTS / f"{name}-lora" / "pytorch_lora_weights.safetensors", "pt") as file:
        assert len(loaded) == len(list(file.keys()))


def test_the_evaluator_reads_real_images_and_finds_their_captions() -> None:
    """On 256 images it has not seen; scripts/calibration/measure_mini.py measures the same on 2,048."""
    evaluator = load_open_clip("mini", WEIGHTS / "evaluator", "cpu")
    scenes = [world.scene(seed) for seed in world.split_seeds("validation", 256)]
    truths = [tuple(world.counterfactuals(scene)) for scene in scenes]
    captions = encode_captions(evaluator, [world.caption(scene) for scene in scenes], truths)
    features = images_to_features(evaluator, np.stack([world.render(scene) for scene in scenes]), captions, 0)
    accuracy = (features["attributes_right"] / features["attributes_named"]).mean()
    assert accuracy >= 0.97, "0.99 on 2,048 images"
    unit = features["image"] / np.linalg.norm(features["image"], axis=1, keepdims=True)
    found = [(unit[i : i + 64] @ captions.own[i : i + 64].T).argmax(1) == np.arange(64) for i in range(0, 256, 64)]
    assert np.mean(found) >= 0.95, "two of the 64 captions may be the same"
