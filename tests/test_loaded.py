"""One loaded pipeline serves many cells, counts excluded memory, and is released before the next one is loaded."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_sampling import PROMPTS, make_cell

import bench.generate.loaded_pipeline
from bench.__main__ import main
from bench.generate.loaded_pipeline import Loaded
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler
from bench.generate.task_inputs import Inputs
from bench.records.cell import Cell, Task

INPUTS = Inputs(Task(), "", 1, 64, 64)


def test_cells_share_caches_whose_bytes_are_counted(models: Path) -> None:
    cells = [make_cell(models, eta=eta) for eta in (0.0, 1.0)]
    plain = load_pipeline(cells[0])
    loaded = Loaded(cells[0])
    assert loaded._shared.used == 0
    for cell in cells:
        images = loaded.sampler(cell, PROMPTS, INPUTS).sample(0).images
        assert np.array_equal(images, Sampler(plain, cell, PROMPTS).sample(0).images)
    assert loaded._shared.used == 1
    text = 7 * 24 * 96 * 4
    latents, timestep = 7 * 8 * 16 * 16 * 4, 8
    assert loaded._shared.used_bytes == text + 3 * (2 * latents + timestep)


def test_the_last_pipeline_is_gone_before_the_next_one_is_loaded(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = Loaded(make_cell(models))
    weights = weakref.ref(last.pipeline.unet)
    load = lambda _: pytest.fail("too early") if weights() else 1  # noqa: E731
    monkeypatch.setattr(bench.generate.loaded_pipeline, "load_pipeline", load)
    del last
    with pytest.raises(AttributeError, match="components"):  # of the number that stands for a pipeline
        Loaded(make_cell(models))


def test_gpu_memory_in_use_before_loading_is_excluded(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = SimpleNamespace(components={"unet": torch.nn.Identity()})
    monkeypatch.setattr(bench.generate.loaded_pipeline, "load_pipeline", lambda _: pipeline)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: {"cuda:1": 7000}[device])
    assert Loaded(replace(make_cell(models), device="cuda:1")).excluded_bytes == 7000


@pytest.mark.parametrize(("concurrent_batches", "fails"), [(1, False), (2, False), (2, True)])
def test_a_run_keeps_no_pipeline_longer_than_its_cells(
    overrides: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, concurrent_batches: int, fails: bool
) -> None:
    seen: list[weakref.ref[torch.nn.Module]] = []

    def load(cell: Cell) -> Any:
        assert not [1 for weights in seen if weights() is not None], "an earlier one is still there"
        pipeline: Any = load_pipeline(cell)
        seen.append(weakref.ref(pipeline.unet))
        return pipeline

    monkeypatch.setattr(bench.generate.loaded_pipeline, "load_pipeline", load)
    if fails:
        monkeypatch.setattr(Sampler, "initial_latents", lambda *_: 1 / 0)
    assert main(
        ["run", *overrides("method=[tcd,lcm,ddim]", "claim=[]", f"concurrent_batches={concurrent_batches}")]
    ) == int(fails)
    assert len(seen) == 3
