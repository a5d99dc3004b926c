"""Pickles of tensors are read where a repository has no other files; memory_options reach every pipeline."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from standins import REPOSITORIES, commit_of
from test_checkpoints import experiment_on, settle
from test_sampling import images_of, make_cell

from bench.checkpoints.survey import survey_checkpoints
from bench.generate.pipelines import load_pipeline
from bench.records.errors import BenchError


def to_pickles(directory: Path) -> None:
    """Save every safetensors file as the .bin that the libraries wrote before."""
    for path in directory.rglob("*.safetensors"):
        stem = path.stem if path.stem.startswith("diffusion_") else f"pytorch_{path.stem}"
        torch.save(load_file(path), path.with_name(f"{stem}.bin"))
        path.unlink()


def test_a_model_of_pickled_tensors_gives_the_same_images_and_is_reported(own: Path, models: Path) -> None:
    cell = make_cell(models)
    expected = images_of(cell)
    to_pickles(own / "teacher")
    assert any("models.mini: some of its weights are .bin files" in line for line in settle(own).told)
    survey_checkpoints(experiment_on(own)).check()
    there = replace(cell, base=replace(cell.base, source=str(own / "teacher")))
    np.testing.assert_array_equal(images_of(there), expected)


def test_a_pickle_that_is_more_than_tensors_is_refused(own: Path, models: Path) -> None:
    to_pickles(own / "teacher" / "unet")
    torch.save({"x": Path("anything")}, own / "teacher" / "unet" / "diffusion_pytorch_model.bin")
    cell = make_cell(models)
    with pytest.raises(Exception, match=r"(?i)weights.only|unpickl|load"):
        load_pipeline(replace(cell, base=replace(cell.base, source=str(own / "teacher"))))


@pytest.mark.parametrize("upcast", [False, True])
def test_a_vae_decodes_in_float32_where_that_is_asked_for(models: Path, upcast: bool) -> None:
    cell = make_cell(models)
    base = replace(cell.base, dtype="bfloat16", memory_options={"vae_upcast": True} if upcast else {})
    pipeline: Any = load_pipeline(replace(cell, base=base))
    channels = pipeline.vae.config.latent_channels
    latents = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        image = pipeline.vae.decode(latents).sample
    assert image.dtype == (torch.float32 if upcast else torch.bfloat16)
    whole: Any = load_pipeline(replace(cell, base=replace(cell.base, dtype="float32")))
    for ours, theirs in zip(pipeline.vae.parameters(), whole.vae.parameters(), strict=True):
        theirs.data = ours.data.float()
    with torch.no_grad():
        exact = whole.vae.decode(latents.float()).sample
    assert bool((image.float() - exact).abs().max() < 1e-5) is upcast


def test_a_compiled_denoiser_stays_compiled_when_it_is_offloaded(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fake_compile(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
        def compiled(*arguments: Any, **options: Any) -> Any:
            calls.append(1)
            return function(*arguments, **options)

        return compiled

    def offload(pipeline: Any, device: str) -> None:
        """Do as diffusers at the beginning of each call, which removes its hooks and adds them again."""
        accelerate.hooks.remove_hook_from_module(pipeline.unet, recurse=True)
        accelerate.cpu_offload_with_hook(pipeline.unet, "cpu")

    cell = make_cell(models)
    monkeypatch.setattr(torch, "compile", fake_compile)
    monkeypatch.setattr("diffusers.DiffusionPipeline.enable_model_cpu_offload", offload)
    memory_options = {"offload": "model", "compile": "default"}
    pipeline: Any = load_pipeline(replace(cell, device="cuda", base=replace(cell.base, memory_options=memory_options)))
    text = torch.zeros(1, 4, pipeline.unet.config.cross_attention_dim)
    config = pipeline.unet.config
    latents = torch.zeros(1, config.in_channels, config.sample_size, config.sample_size)
    for count in (1, 2, 3):
        offload(pipeline, "cpu")
        pipeline.unet(latents, 1, encoder_hidden_states=text)
        assert len(calls) == count


def test_layers_that_are_moved_one_by_one_are_not_compiled(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = make_cell(models)
    memory_options = {"offload": "sequential", "compile": "default"}
    with pytest.raises(BenchError, match="cannot be compiled; choose one"):
        load_pipeline(replace(cell, device="cuda", base=replace(cell.base, memory_options=memory_options)))


def test_each_substitute_has_its_own_commit() -> None:
    assert len({commit_of(repository) for repository in REPOSITORIES}) == len(REPOSITORIES)
