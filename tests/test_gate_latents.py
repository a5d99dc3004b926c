"""Latents and pixels before and after: where two runs part, what made them, and by how much images differ."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_flow_pipelines import CASES, PROMPTS, build
from test_flow_pipelines import make_cell as make_flow_cell
from test_gate import CELL, Make, compare, make, report_of  # noqa: F401

from bench.execute.job import prepare
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.gate.latents import compare_trajectories
from bench.gate.outcome import Outcome
from bench.gate.similarity import decibels, interval_of, measure_pixels, ssim
from bench.generate.denoisers import denoisers
from bench.generate.loaded_pipeline import Loaded
from bench.generate.sampling import Sampler
from bench.generate.trajectory import KEPT_VALUES, trace_latents
from bench.records.cell import Cell
from bench.records.run import Movement
from bench.store.cell_folder import LATENTS

LIMIT = Movement(0.002, 0.0)
Trajectory = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def cells() -> dict[str, Cell]:
    """Cells of the miniature by method."""
    wanted = ["prompts.count=2", "method=[tcd,ddim]", "methods.tcd.steps=[2]", "methods.ddim.steps=[2]", "claim=[]"]
    job = prepare(check_experiment(compose_settings([*wanted, "methods.tcd.eta=[0.3]"])))
    return {cell.method: cell for cell in job.plan.cells}


@pytest.fixture(scope="module")
def loaded(cells: dict[str, Cell]) -> dict[str, Loaded]:
    """Their pipelines."""
    return {method: Loaded(cell) for method, cell in cells.items()}


def traced(pipeline: Any, cell: Cell) -> Trajectory:
    return trace_latents(Sampler(pipeline, cell, ["a red circle", "two blue squares"]), range(2))


def judged(old: Trajectory, new: Trajectory) -> Outcome:
    return compare_trajectories("cell", old, new, LIMIT)


@pytest.fixture
def in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that computes in half precision."""
    step = diffusers.DDIMScheduler.step

    @functools.wraps(step)
    def half(self: Any, model_output: Any, timestep: Any, sample: Any, **more: Any) -> Any:
        return (step(self, model_output.half(), timestep, sample.half(), **more)[0].float(),)

    monkeypatch.setattr(diffusers.DDIMScheduler, "step", half)


def test_the_same_code_has_equal_latents(cells: dict[str, Cell], loaded: dict[str, Loaded]) -> None:
    cell, pipeline = cells["ddim"], loaded["ddim"].pipeline
    first, again = traced(pipeline, cell), traced(pipeline, cell)
    shapes = {name: values.shape for name, values in first.items()}
    assert shapes == {"states": (2, 3, KEPT_VALUES), "outputs": (2, 2, KEPT_VALUES), "denoised": (2, 2, KEPT_VALUES)}
    assert judged(first, again).verdict == "equal"
    assert "step" not in vars(Sampler(pipeline, cell, ["x"]).pipeline.scheduler)


def test_guidance_2_percent_off_is_reported_as_guidance(cells: dict[str, Cell], loaded: dict[str, Loaded]) -> None:
    cell, pipeline = cells["ddim"], loaded["ddim"].pipeline
    off = traced(pipeline, replace(cell, guidance_scale=cell.guidance_scale * 1.02))
    found = judged(traced(pipeline, cell), off)
    assert found.verdict == "changed"
    assert "part at call 1: the denoiser's outputs are equal, and what guidance makes of them differs" in found.note


def test_a_lora_at_97_percent_is_reported_as_another_network(cells: dict[str, Cell], loaded: dict[str, Loaded]) -> None:
    cell = cells["tcd"]
    off = replace(cell, adapters=tuple(replace(adapter, scale=0.97) for adapter in cell.adapters))
    found = judged(traced(loaded["tcd"].pipeline, cell), traced(Loaded(off).pipeline, off))
    assert found.verdict == "changed"
    assert "part at call 1: the denoiser's own output differs" in found.note


def test_float16_in_the_scheduler_is_reported_as_that(
    cells: dict[str, Cell], loaded: dict[str, Loaded], request: pytest.FixtureRequest
) -> None:
    cell, pipeline = cells["ddim"], loaded["ddim"].pipeline
    before = traced(pipeline, cell)
    request.getfixturevalue("in_float16")
    found = judged(before, traced(pipeline, cell))
    assert found.verdict == "unchanged", "it moves latents by less than a thousandth"
    assert "part at call 1: from equal model outputs the scheduler's step makes other latents" in found.note
    assert "rounded to float16" in found.note


def test_a_vae_scale_1_percent_off_leaves_latents_equal_and_not_pixels(
    cells: dict[str, Cell], loaded: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, pipeline = cells["ddim"], loaded["ddim"].pipeline
    before, decode = traced(pipeline, cell), pipeline.vae.decode
    sampler = Sampler(pipeline, cell, ["a red circle", "two blue squares"])
    images = sampler.call(range(2))
    monkeypatch.setattr(pipeline.vae, "decode", lambda latents, *a, **more: decode(latents * 1.01, *a, **more))
    assert judged(before, traced(pipeline, cell)).verdict == "equal"
    noise, similarity, *_ = measure_pixels("cell", images, sampler.call(range(2)))
    assert (noise.quantity, noise.verdict, similarity.quantity) == ("psnr", "measured", "ssim")
    assert 30 < (noise.after or 0) < 70
    assert (similarity.after or 0) < 1


@pytest.mark.parametrize("name", ["sd3", "dev"])
def test_a_transformer_of_random_weights_has_a_trajectory(name: str) -> None:
    case = CASES[name]
    pipeline = build(case)
    cell = make_flow_cell(case, pipeline)
    rows = range(len(PROMPTS))
    before = trace_latents(Sampler(pipeline, cell, PROMPTS), rows)
    assert before["states"].shape[:2] == (len(PROMPTS), 3)
    assert judged(before, trace_latents(Sampler(pipeline, cell, PROMPTS), rows)).verdict == "equal"
    weights = next(iter(denoisers(pipeline).values()))
    with torch.no_grad():
        for values in weights.parameters():
            values.mul_(1.02)
    found = judged(before, trace_latents(Sampler(pipeline, cell, PROMPTS), rows))
    assert found.verdict == "changed"
    assert "part at call 1: the " in found.note
    assert "output" in found.note


def made(change: Callable[[int], float] = lambda _: 0.0, calls: int = 3) -> Trajectory:
    """A trajectory of two images whose state after call k moves by a share `change(k)`."""
    rng = np.random.default_rng(0)
    states = np.array(rng.normal(size=(2, calls + 1, 64)), np.float32)
    moved = np.array([1 + change(call) for call in range(calls + 1)], np.float32)
    return {"states": states * moved[:, None], "outputs": states[:, 1:]}


def test_the_first_call_that_differs_is_named() -> None:
    found = judged(made(), made(lambda call: 0.01 if call >= 2 else 0.0))
    assert found.verdict == "changed"
    assert "part at call 2: from equal model outputs" in found.note
    assert found.after == pytest.approx(0.01, rel=1e-4)
    assert "before the first call: the initial latents differ" in judged(made(), made(lambda _: 0.01)).note
    rounded = judged(made(), made(lambda call: 1e-5 * call))
    assert (rounded.verdict, rounded.note[:36]) == ("unchanged", "they differ by rounding, at call 1; ")
    half = compare_trajectories("cell", made(), made(lambda call: 0.01 * bool(call)), LIMIT, "float16")
    assert half.verdict == "unchanged", "another GPU's rounding in half precision"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_latents_that_are_not_numbers_are_a_change(value: float) -> None:
    found = judged(made(), made(lambda call: value if call == 3 else 0.0))
    assert found.verdict == "changed"
    assert np.isfinite(found.after or 0)
    assert judged(made(), made(calls=4)).note == "the run has 4 calls instead of 3"


def test_stored_latents_are_compared_and_lost_ones_are_missing(make: Make, tmp_path: Path) -> None:  # noqa: F811
    runs = {name: make(name, sha256="s") for name in ("a", "b", "none")}
    for name in ("a", "b"):
        runs[name].cell(CELL.key).save_features(LATENTS, made(), "s")
    assert compare(runs["a"], runs["b"])["latents", "displacement"].verdict == "equal"
    assert compare(runs["a"], runs["none"])["latents", "displacement"].verdict == "missing"
    assert compare(runs["none"], runs["a"])["latents", "displacement"].verdict == "new"
    assert ("latents", "displacement") not in compare(runs["none"], runs["none"])
    runs["b"].cell(CELL.key).save_features(LATENTS, made(lambda _: 0.1), "s")
    assert report_of(runs["a"], runs["b"]).exit_code == 1
    (file,) = (tmp_path / "b").glob("cells/*/features-latents.npz")
    file.write_bytes(file.read_bytes()[:-9])
    assert report_of(runs["a"], runs["b"]).exit_code == 3


@pytest.fixture
def pictures() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Eight images before and after, of which the first is equal."""
    rng = np.random.default_rng(0)
    before = rng.integers(0, 200, (8, 32, 32, 3)).astype(np.uint8)
    after = before.copy()
    after[1:] += rng.integers(0, 20, (7, 32, 32, 3)).astype(np.uint8)
    return before, after


def test_psnr_and_ssim_are_those_of_their_definitions(
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = pictures
    error = np.mean((after[1].astype(float) - before[1]) ** 2)
    assert decibels(before, after)[:2] == pytest.approx([np.inf, 20 * np.log10(255) - 10 * np.log10(error)])
    assert ssim(before, after)[0] == 1
    assert ssim(before, after)[1] < 1
    monkeypatch.setattr("bench.gate.similarity._lpips", lambda *_: np.full(8, 0.5))
    noise, similarity, distance = measure_pixels("cell", before, after)
    assert "mean of 7 images [" in noise.note
    assert "1 more are equal" in noise.note
    low, high = similarity.interval or (0, 0)
    assert low < (similarity.after or 0) - 1 < high
    assert (distance.quantity, distance.after) == ("lpips", 0.5)
    assert interval_of(np.array([1.0])) is None
