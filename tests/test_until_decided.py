"""A run that ends when its claims are decided samples what open claims need, and comes to the same end by any way."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from factories import make_record

import bench
import bench.__main__
from bench.__main__ import main
from bench.analysis.claims import judge_claims
from bench.analysis.scoring import ScoredRun
from bench.execute.cell_runner import Runner
from bench.execute.job import name_first_inputs, plan_job
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.generate.sampling import Sampler
from bench.records.run import Run
from bench.report.joint import join_runs
from bench.report.ties import best_and_tied
from bench.score.metrics import metric_of
from bench.store.interim_looks import looks_of
from bench.store.store import Store

Overrides = Callable[..., list[str]]

QUICK = ("measure.latency=false", "measure.memory=false", "batch_size=20", "prompts.count=40")
SIDES = "subject: {method: tcd, steps: 2}, object: {method: tcd, steps: 4}, metrics: [clip_score], expect: not_worse"
EASY = f"+claims.easy={{text: easy, {SIDES}, margins: {{clip_score: 100}}}}"
HARD = (
    "+claims.hard={text: hard, subject: {method: tcd, steps: 2}, object: {method: dpmpp_2s, steps: 2}, "
    "metrics: [sharpness]}"
)
CLAIMS = (*QUICK, "claim=[]", EASY, HARD, "scores=[clip_score,sharpness]")
"""The models are as sharp as each other at 2 steps; dpmpp_2s at 4 steps is in no claim."""
DECIDED = (*CLAIMS, "until=decided", "looks=2")
SIZES = {"mini tcd 2 steps eta 0.3": 40, "mini tcd 4 steps eta 0.3": 20, "mini dpmpp_2s 2 steps guidance 3": 40}


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells of sampled batches, as they are sampled."""
    found: list[str] = []
    begin = Sampler.begin
    monkeypatch.setattr(Sampler, "begin", lambda self, start: found.append(self.cell.label) or begin(self, start))
    return found


def stop() -> None:
    raise KeyboardInterrupt


def sizes(store: Store, run: Run) -> dict[str, int]:
    return {record.cell.label: record.images.count for record in store.records(run.cells) if record.images}


def test_only_cells_of_open_claims_get_more_images(
    overrides: Overrides,
    tmp_path: Path,
    sampled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patched:
        begin = Sampler.begin
        patched.setattr(Sampler, "begin", lambda *at: stop() if len(sampled) == 4 else begin(*at))
        assert main(["run", *overrides(*DECIDED)]) == 130
    assert len(sampled) == 4, "one of the two batches of the second round"
    assert main(["run", *overrides(*DECIDED)]) == 0
    shown = capsys.readouterr().err
    assert "1 of 4 cells are not sampled: no claim is about it" in shown
    assert "look 1 of 2, 20 images per cell: 1 of 2 claims decided" in shown
    assert "look 2 of 2, 20 to 40 images per cell: 1 of 2 claims decided" in shown
    assert shown.index("  supported by ") < shown.index("mini dpmpp_2s"), "a verdict is told when its cells are there"
    assert shown.count("  supported by ") == 2, "once by each of two commands"
    assert Counter(sampled) == {label: count // 20 for label, count in SIZES.items()}
    store = Store(tmp_path / "run", writable=False)
    run = store.run()
    assert sizes(store, run) == SIZES
    assert [entry[0] for entry in run.left_out] == ["mini dpmpp_2s 4 steps guidance 3"]
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 3
    looks = {look.images: set(look.claims or ()) for look in looks_of(store)}
    assert looks == {20: {"easy", "hard"}, 40: {"hard"}}
    check_outputs(store, tmp_path / "run")

    sampled.clear()
    monkeypatch.setattr(bench.__main__, "_show_report", lambda _: 0)
    assert main(["run", *overrides(*DECIDED)]) == 0
    assert not sampled
    assert store.run() == run
    assert main(["run", *overrides(*CLAIMS)]) == 0
    assert Counter(sampled) == {"mini tcd 4 steps eta 0.3": 1, "mini dpmpp_2s 4 steps guidance 3": 2}
    assert (len(store.run().cells), {*sizes(store, store.run()).values()}) == (4, {40})
    straight, one = tmp_path / "straight", ("method=[tcd]", "methods.tcd.steps=[4]", "claim=[]", "until=count")
    assert main(["run", *overrides(*QUICK, *one, "scores=[clip_score,sharpness]", f"results={straight}")]) == 0
    (record,) = Store(straight, writable=False).records()
    assert store.cell(record.key).record().reproducible() == record.reproducible(), "bit for bit"
    sampled.clear()
    assert main(["run", *overrides(*DECIDED)]) == 0
    assert not sampled
    assert {*sizes(store, store.run()).values()} == {40}, "no verdict goes back to fewer images"


def check_outputs(store: Store, results: Path) -> None:
    """A claim goes by its own images, and every output shows the cells' own numbers."""
    scored = ScoredRun.load(store)
    easy, hard = judge_claims(scored.run, scored.cells)
    assert [(j.verdict, j.comparisons[0].n) for j in (easy, hard)] == [("supported", 20), ("undecided", 40)]
    small = tuple(record.key for record in store.records() if record.images and record.images.count == 20)
    first = replace(scored.run, cells=small, prompts=scored.run.prompts[:20], looks=(1 / 2,))
    then = judge_claims(first, ScoredRun.load(store, first).cells)[0]
    assert replace(then.comparisons[0], keys=()) == replace(easy.comparisons[0], keys=()), "as it was then"
    joint = judge_claims(*(getattr(join_runs(store, [store]), name) for name in ("run", "distinct")))
    assert [replace(j, sampling_s=0.0) for j in joint] == [replace(j, sampling_s=0.0) for j in (easy, hard)]
    frame = bench.load(results)
    assert {*zip(frame.method, frame.steps, frame.n, strict=True)} == {
        ("tcd", 2, 40),
        ("tcd", 4, 20),
        ("dpmpp_2s", 2, 40),
    }
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "20 to 40 images" in page
    assert "no claim is about it" in page
    assert "marks compare cells by the first images that both have" in page
    assert "Images" in (results / "tables" / "scores.csv").read_text(encoding="utf-8").splitlines()[0]
    verdicts = pd.read_csv(results / "tables" / "verdicts.csv", index_col="Claim")
    assert verdicts.loc["easy", "corrected for looks"] == pytest.approx(easy.comparisons[0].gain, abs=0.01)
    marks = best_and_tied(metric_of("clip_score@mini"), scored.cells)
    assert [*marks.values()].count("best") == 1, "cells with fewer images are compared by these"


def test_images_with_inputs_come_from_a_smaller_run_of_the_same_inputs(overrides: Overrides) -> None:
    asked = ("task=inpainting", "claim=[]", "scores=[sharpness]", "prompts.images_per_prompt=2")
    small, large = (
        plan_job(check_experiment(compose_settings(overrides(*asked, f"prompts.count={count}")))) for count in (2, 4)
    )
    name = name_first_inputs(large, 4)
    (first, *_), (more, *_) = small.plan.cells, large.plan.cells
    assert first.task.inputs == name != more.task.inputs
    assert first.place == more.place
    runner = SimpleNamespace(prompts=large.prompts.texts, name_first_inputs={4: name}.get)
    other = replace(first, task=replace(first.task, inputs="of other pictures"))
    assert [Runner._begins(runner, make_record(cell)) for cell in (first, other, more)] == [True, False, False]


def test_a_claim_is_needed(overrides: Overrides, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *overrides("until=decided", "claim=[]")]) == 2
    assert "without a claim to decide" in capsys.readouterr().err
