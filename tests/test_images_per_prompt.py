"""Several images per prompt: noise of their own, counts in words, growth, and what refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import bench
from bench.__main__ import main
from bench.checkpoints.manifest import MANIFEST
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.experiment.plan import counts_of_looks
from bench.features import tasks
from bench.generate.prompts import load_prompts
from bench.generate.sampling import Sampler
from bench.generate.task_inputs import Inputs
from bench.pictures import read_images
from bench.records.cell import Task
from bench.store.store import Store

Overrides = Callable[..., list[str]]
QUIET = ("measure.latency=false", "measure.memory=false")
ONE = ("method=[tcd]", "methods.tcd.steps=[2]", "methods.tcd.eta=[0.3]", "claim=[]", *QUIET)
SEVERAL = (*ONE, "prompts.count=2", "prompts.images_per_prompt=3", "scores=[pairwise_distance,vendi_score,clip_score]")
"""Two prompts of three images each, in batches of four, so that a batch ends within a prompt."""


def images_of(results: Path) -> NDArray[np.uint8]:
    """Return the images of the only cell of a run."""
    store = Store(results, writable=False)
    (key,) = store.run().cells
    record = store.cell(key).record()
    assert record is not None
    assert record.images is not None
    found: NDArray[np.uint8] = read_images(store.cell(key), range(record.images.count))
    return found


def written(results: Path, name: str) -> str:
    return (results / name).read_text()


def test_image_i_is_of_prompt_i_over_k_with_noise_of_its_own(
    overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = overrides(*SEVERAL)
    assert main(["plan", *several]) == 0
    assert "1 cells × 6 images of 2 prompts on cpu" in capsys.readouterr().out
    assert main(["run", *several]) == 0
    results = tmp_path / "run"
    run, two = Store(results, writable=False).run(), load_prompts("world", 2).texts
    assert run.prompts == (two[0],) * 3 + (two[1],) * 3
    images = images_of(results)
    assert len({image.tobytes() for image in images}) == 6

    repeated = tmp_path / "repeated.txt"  # the same prompts written out, one image each, are the same cell
    repeated.write_text("\n".join(run.prompts))
    asked = overrides(*ONE, f"prompts.source={repeated}", "prompts.shuffle=false", f"results={tmp_path}/written")
    assert main(["run", *asked, "scores=[clip_score]"]) == 0
    assert np.array_equal(images_of(tmp_path / "written"), images)
    assert Store(tmp_path / "written", writable=False).run().cells == run.cells

    scores = bench.load(results).set_index("score")
    assert [*scores.index] == ["pairwise_distance_mini_n6", "vendi_score_mini_n6", "clip_score_mini_n6"]
    assert [*scores["n"]] == [6] * 3
    assert [*scores["prompts"]] == [2] * 3
    page = written(results, "report.html")
    assert page.count("6 images of 2 prompts") >= 3  # the heading, what was run, the note of the scores
    assert all(page.count(f'<h3 class="prompt">{text}</h3>') == 1 for text in two), "the grid shows each prompt once"
    assert "6 images of 2 prompts" in written(results, "summary.txt")
    capsys.readouterr()
    assert main(["status", f"results={results}"]) == 0
    assert "6 images of 2 prompts" in capsys.readouterr().out


def test_one_image_per_prompt_is_as_before() -> None:
    prompts = load_prompts("world", 4)
    assert prompts == load_prompts("world", 4, images_per_prompt=1)
    assert prompts.identity.text_hash == "392e5c346c842d87"


def test_more_prompts_may_follow_and_borrow_the_images(
    overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *overrides(*SEVERAL)]) == 0
    before, begun, begin = images_of(tmp_path / "run"), list[int](), Sampler.begin

    def noted(self: Sampler, start: int) -> object:
        begun.append(start)
        return begin(self, start)

    monkeypatch.setattr(Sampler, "begin", noted)
    assert main(["run", *overrides(*SEVERAL, "prompts.count=4")]) == 0
    assert sorted(begun) == [4, 8], "the first batch is borrowed"
    after = images_of(tmp_path / "run")
    assert np.array_equal(after[:6], before)
    assert len(after) == 12
    capsys.readouterr()

    assert main(["run", *overrides(*SEVERAL, "prompts.count=3")]) == 2
    assert "prompts.count=3 was given, but" in (said := capsys.readouterr().err)
    assert "has 12 images of 4 prompts per cell already" in said
    assert main(["run", *overrides(*SEVERAL, "prompts.images_per_prompt=2", "prompts.count=12")]) == 2
    said = capsys.readouterr().err
    assert "belongs to another experiment: prompts.images_per_prompt is 3 there and 2 here; choose" in said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            ["scores=[vendi_score]"],
            "scores: vendi_score@mini is about the images of one prompt, and prompts.images_per_prompt=1 was given; "
            "give 2 or more, as in prompts.images_per_prompt=8, or omit the score",
        ),
        (["prompts.images_per_prompt=0"], "prompts.images_per_prompt=0 was given"),
        (
            ["prompts.count=1000000", "prompts.images_per_prompt=8"],
            "prompts.count=1000000 with prompts.images_per_prompt=8 makes 8,000,000 images per cell; give at most "
            "1,000,000",
        ),
        (
            ["scores=[pairwise_lpips]", "prompts.images_per_prompt=3", "batch_size=4"],
            "batch_size=4 was given; pairwise_lpips compares the images of a prompt within a batch, so give a multiple "
            "of prompts.images_per_prompt=3, as 6",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    asked: list[str], said: str, overrides: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *overrides(*ONE, *asked)]) == 2
    assert said in capsys.readouterr().err


def test_diversity_is_added_to_a_finished_run_from_its_images(
    overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def levels(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.abs(ours.astype(float) - theirs).mean(axis=(1, 2, 3))

    monkeypatch.setattr(tasks, "lpips", levels)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setitem(MANIFEST, "pairwise_lpips", replace(MANIFEST["pairwise_lpips"], sha256=None))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    torch.save({}, tmp_path / "torch" / "hub" / "checkpoints" / MANIFEST["pairwise_lpips"].file)
    asked = (*ONE, "prompts.count=3", "prompts.images_per_prompt=2")
    assert main(["run", *overrides(*asked, "scores=[clip_score]")]) == 0
    monkeypatch.setattr(Sampler, "begin", None)
    added = "scores=[pairwise_distance,vendi_score,pairwise_lpips]"
    assert main(["score", f"results={tmp_path}/run", added, "device=cpu"]) == 0
    scores = bench.load(tmp_path / "run").set_index("score")
    images = images_of(tmp_path / "run")
    assert scores.loc["pairwise_lpips_alexnet_n6", "value"] == pytest.approx(levels(images[::2], images[1::2]).mean())
    assert {*scores["prompts"]} == {3}
    assert 1 < scores.loc["vendi_score_mini_n6", "value"] < 2


def test_looks_are_at_whole_prompts(overrides: Overrides) -> None:
    claim = "{text: x, subject: {method: tcd, steps: 2}, object: {method: tcd, steps: 4}, metrics: [fid]}"
    asked = ("method=[tcd]", "methods.tcd.steps=[2,4]", "methods.tcd.eta=[0.3]", "claim=[]", f"+claims.x={claim}")
    late = (*asked, "until=decided", "looks=4", "batch_size=8", "prompts.count=100", "prompts.images_per_prompt=4")
    experiment = check_experiment(compose_settings(overrides(*late)))
    assert counts_of_looks(experiment) == (24, 50, 76, 100)  # of prompts; whole batches of two prompts each


def test_inputs_go_with_the_prompt() -> None:
    one = Inputs(Task("inpainting", {"strength": 0.9}), "world", 3, 32, 32)
    several = Inputs(one.task, "world", 3, 32, 32, images_per_prompt=2)
    given = several.arguments(range(1, 5))
    expected = one.arguments([0, 1, 1, 2])

    def pixels(images: Any) -> NDArray[np.uint8]:
        return np.stack([np.asarray(image) for image in images])

    for name in ("image", "mask_image"):
        assert np.array_equal(pixels(given[name]), pixels(expected[name]))


def test_of_a_grid_the_images_of_the_first_eight_prompts_are_kept(overrides: Overrides, tmp_path: Path) -> None:
    asked = (*ONE, "prompts.count=10", "prompts.images_per_prompt=2", "keep=grid", "scores=[clip_score]")
    assert main(["run", *overrides(*asked)]) == 0
    store = Store(tmp_path / "run", writable=False)
    (record,) = store.records()
    assert record.images is not None
    assert (record.images.count, len(record.images.hashes)) == (20, 16)
    assert [store.cell(record.key).has_image(row) for row in (0, 15, 16, 19)] == [True, True, False, False]
