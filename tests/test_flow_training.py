"""The flow teacher and its adapter train, resume, and save files that diffusers loads."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline

from bench.checkpoints.derived import completed
from bench.checkpoints.sources import local_path
from bench.mini import world
from bench.mini.training import flow_distillation, flow_teacher, row_export
from bench.mini.training.teacher import Latents
from bench.mini.training.vocabulary import tokenize

SCENES = [world.scene(seed) for seed in world.split_seeds("train", 24)]
CAPTIONS = [world.caption(scene) for scene in SCENES]


@pytest.fixture(scope="module")
def first() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(
        Path(str(local_path("bench://mini/weights/teacher"))), dtype=torch.float32
    )


@pytest.fixture(scope="module")
def data(first: StableDiffusionPipeline) -> Latents:
    ids = tokenize(first.tokenizer, CAPTIONS)
    complete = tokenize(first.tokenizer, [world.caption(world.complete(scene)) for scene in SCENES])
    return Latents(torch.randn(24, 8, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.5, ids, complete, SCENES)


@pytest.fixture(scope="module")
def trained(first: StableDiffusionPipeline, data: Latents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of one iteration of each phase, on disk; its transformer's last layer is not zero."""
    directory = tmp_path_factory.mktemp("flow")
    latents, vae = flow_teacher.standardize(data, first.vae)
    recipes = (flow_teacher.SECOND_READING, flow_teacher.FOLLOWING, flow_teacher.FOLLOWING_ON, flow_teacher.RECIPE)
    reading, *following, last = (replace(recipe, iterations=1, batch_size=4) for recipe in recipes)
    short = (reading, following, last)
    teacher = flow_teacher.train_flow_teacher(latents, vae, first, directory, *short)
    again = flow_teacher.train_flow_teacher(latents, vae, first, directory, *short)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), again.parameters(), strict=True)), "resumed"
    pipeline = flow_teacher.assemble_flow_pipeline(teacher, vae, first.tokenizer)
    for name, parameter in pipeline.transformer.named_parameters():
        if "norm" in name or name.startswith("proj_out"):
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    pipeline.save_pretrained(directory / "final")
    return directory / "final"


@pytest.fixture
def load(trained: Path) -> Callable[[], StableDiffusion3Pipeline]:
    return lambda: StableDiffusion3Pipeline.from_pretrained(
        trained, dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
    )


def test_the_first_teachers_text_encoder_and_autoencoder_are_taken_over(
    first: StableDiffusionPipeline, data: Latents, trained: Path, load: Callable[[], StableDiffusion3Pipeline]
) -> None:
    pipeline = load()
    taken = pipeline.text_encoder.text_model.state_dict()
    assert all(torch.equal(taken[name], value) for name, value in first.text_encoder.state_dict().items())
    config = json.loads((trained / "vae" / "config.json").read_text())
    scaled = (data.latents / first.vae.config.scaling_factor - config["shift_factor"]) * config["scaling_factor"]
    assert (scaled.mean().item(), scaled.std().item()) == pytest.approx((0, 1), abs=1e-4)
    assert pipeline.tokenizer.model_max_length == flow_teacher.CAPTION_LENGTH
    assert max(len(pipeline.tokenizer(text).input_ids) for text in CAPTIONS) < flow_teacher.CAPTION_LENGTH


def test_an_exported_teacher_holds_only_what_is_its_own_and_loads_as_it_was(
    load: Callable[[], StableDiffusion3Pipeline], tmp_path: Path
) -> None:
    (tmp_path / "teacher").symlink_to(Path(str(local_path("bench://mini/weights/teacher"))))
    row_export.export_flow(load(), tmp_path)
    kept = sum(file.stat().st_size for file in (tmp_path / "flow-teacher" / "text_encoder").iterdir())
    assert kept < 25_000, "but the projection"
    whole = completed(tmp_path / "flow-teacher", tmp_path)
    loaded = StableDiffusion3Pipeline.from_pretrained(whole, dtype=torch.float32, text_encoder_3=None, tokenizer_3=None)
    before = load()
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        tensors = getattr(loaded, name).state_dict()
        for key, value in getattr(before, name).state_dict().items():
            assert torch.equal(tensors[key], value.half().float()), f"{name} {key}"
    assert loaded.vae.config.shift_factor == before.vae.config.shift_factor
    assert loaded.tokenizer.model_max_length == flow_teacher.CAPTION_LENGTH


@pytest.mark.parametrize("zeros", [0, flow_teacher.ABSENT_TOKENS])
def test_one_biased_zero_stands_for_the_pipelines_many(
    zeros: int, load: Callable[[], StableDiffusion3Pipeline]
) -> None:
    pipeline = load()
    embedded = pipeline.encode_prompt(
        CAPTIONS[:4], None, None, max_sequence_length=zeros, do_classifier_free_guidance=False
    )
    noisy, times = torch.randn(4, 8, 16, 16), torch.tensor([0.1, 0.4, 0.8, 1.0])
    with torch.no_grad():
        expected = pipeline.transformer(noisy, embedded[0], embedded[2], 1000 * times).sample
        encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
        text = flow_teacher.embed_ids(encoders, tokenize(pipeline.tokenizer, CAPTIONS[:4]), torch.Generator())
        assert text.bias[..., :-1].abs().max() == 0
        assert all(one in (-1e4, pytest.approx(5.545, abs=1e-3)) for one in text.bias[:, 0, 0, -1].tolist())
        text.bias[..., -1] = -1e4 if zeros == 0 else torch.tensor(zeros).log()
        for block in pipeline.transformer.transformer_blocks:
            block.attn.set_processor(flow_teacher.BiasedJointAttention())
        found = flow_teacher.velocity(pipeline.transformer, noisy, times, text)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert found.std() > 0.1


def test_the_first_teachers_prediction_becomes_the_velocity_of_the_line(
    first: StableDiffusionPipeline, data: Latents
) -> None:
    """A UNet that predicts v without error gives noise − data at every one of its times."""
    latents, vae = flow_teacher.standardize(data, first.vae)
    z, noise, steps = latents.latents[:4], torch.randn(4, 8, 16, 16), torch.tensor([0, 300, 700, 999])

    def perfect(noisy: torch.Tensor, timesteps: torch.Tensor, encoder_hidden_states: Any) -> SimpleNamespace:
        own = data.latents[:4]
        alpha = teacher.alphas[timesteps][:, None, None, None]
        torch.testing.assert_close(noisy, alpha.sqrt() * own + (1 - alpha).sqrt() * noise, rtol=1e-4, atol=1e-4)
        return SimpleNamespace(sample=alpha.sqrt() * noise - (1 - alpha).sqrt() * own)

    fake = SimpleNamespace(vae=first.vae, text_encoder=lambda _: (None,), unet=perfect)
    teacher = flow_teacher.FirstTeacher(fake, vae)  # type: ignore[arg-type]
    torch.testing.assert_close(teacher.velocity(steps, z, noise, data.ids[:4]), noise - z, rtol=1e-3, atol=2e-3)
    near, within = teacher.nearest(torch.tensor([0.0, *teacher.times[[5, 600]].tolist(), 1.0]))
    assert (near.tolist()[1:3], within.tolist()) == ([5, 600], [False, True, True, False])


def test_the_adapter_trains_and_loads_through_the_pipeline(
    data: Latents, first: StableDiffusionPipeline, load: Callable[[], StableDiffusion3Pipeline], tmp_path: Path
) -> None:
    latents, _ = flow_teacher.standardize(data, first.vae)
    recipe = replace(flow_distillation.RECIPE, iterations=2, batch_size=4)
    weights = flow_distillation.distill_flow(load(), latents, tmp_path / "tcd", recipe)
    StableDiffusion3Pipeline.save_lora_weights(tmp_path / "lora", transformer_lora_layers=weights)
    fresh = load()
    fresh.load_lora_weights(str(tmp_path / "lora"), weight_name="pytorch_lora_weights.safetensors", adapter_name="tcd")
    loaded = {name: p for name, p in fresh.transformer.named_parameters() if "lora_" in name}
    assert len(loaded) == len(weights)
    assert any(p.abs().max() > 0 for name, p in loaded.items() if "lora_B" in name), "two steps of training moved it"
