"""The gate: which cells are compared, the answer of each level, and the exit code."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import CALLS, make_base, make_cell, make_record, make_run
from numpy.typing import NDArray
from test_tables import RECORD

from bench.__main__ import main
from bench.analysis.scoring import ScoredCell
from bench.gate.compare import compare_stores
from bench.gate.outcome import GateReport, Outcome
from bench.gate.pairing import Pair
from bench.gate.quality import _outcome, exceeds
from bench.gate.report import to_comment, to_junit, to_page, to_terminal
from bench.records.cell import PromptSet, SchedulerSpec
from bench.records.record import Failure, Images, Latency, Memory, Record
from bench.records.run import CostLimits, Limit, Movement
from bench.score.estimate import Estimate, mean_estimate
from bench.store.store import Store

N, D = 400, 4
LIMITS = (
    Movement(0.1, 0.02),
    {"fid": Limit(0.05, 0.02), "clip_score": Limit(0.01, 0.2)},
    CostLimits(Limit(0.05, 0.001), Limit(0.02, 0.0002), Limit(0.1, 1e6)),
    Movement(0.01, 0.02),
)
MACHINE = {"device": "cpu", "processor": "p", "cores": 2}
CELL = make_cell(N, base=make_base(height=8, width=8), steps=2, batch_size=40, versions={"diffusers": "1"})
Make = Callable[..., Store]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a run of one cell. Features, times and the like may be changed; the features' noise is fixed."""

    def write_run(name: str, **changes: Any) -> Store:
        rng = np.random.default_rng(0)
        store = Store(tmp_path / name)
        cell = replace(CELL, **changes.get("cell", {}))
        features: NDArray[np.floating[Any]] = rng.normal(0.3, 1, (N, D))
        clip_score: NDArray[np.floating[Any]] = rng.normal(30, 1, N)
        store.save_reference("r", rng.normal(size=(1000, D)))
        seconds = changes.get("seconds", [0.1 + 0.0001 * i for i in range(10)])
        record = make_record(
            cell,
            environment=changes.get("machine", MACHINE),
            calls=CALLS,
            images=Images(N, 8, 8, changes.get("sha256", name)),
            latency=Latency(
                *(1, 1, "perf_counter", tuple(seconds), (0.0,), (0.0,), (0.0,), None),
                *(changes.get("pace", ()), changes.get("waits")),
            ),
            memory=Memory(1, changes.get("memory", 10**8), None, None, None),
        )
        if failure := changes.get("failure"):
            record = make_record(cell, status="error", environment=MACHINE, failure=failure)
        store.commit(record)
        move = changes.get("move", lambda x: x)
        gain = changes.get("clip_gain", 0.0) * (1 + 0.01 * rng.normal(size=N))  # the same for all tells nothing
        store.cell(cell.key).save_features("e", {"image": move(features), "clip_score": clip_score + gain})
        run = make_run(
            name=name,
            cells=(cell.key,) if changes.get("planned", True) else (),
            prompts=tuple(f"<b>bold</b> {i}" for i in range(N)),
            metrics=changes.get("metrics", ("fid@mini", "clip_score@mini")),
        )
        store.save_run(run)
        return store

    return write_run


def compare(before: Store, after: Store) -> dict[tuple[str, str], Outcome]:
    """Outcomes by level and quantity."""
    return {(o.level, o.quantity): o for o in compare_stores(before, after, *LIMITS).outcomes}


def report_of(before: Store, after: Store) -> GateReport:
    """The whole report."""
    return GateReport("before", "after", compare_stores(before, after, *LIMITS).outcomes)


def test_the_same_run_again_is_unchanged(make: Make) -> None:
    report = report_of(make("a", sha256="s"), make("b", sha256="s"))
    assert report.counts == {"unchanged": 2, "equal": 3}
    assert report.exit_code == 0


def test_rounding_is_unchanged_and_shown_to_lie_within_the_limits(make: Make) -> None:
    rounded = make("b", move=lambda x: x.astype(np.float32).astype(np.float64) + 1e-4, clip_gain=1e-3)
    report = report_of(make("a"), rounded)
    assert report.counts == {"unchanged": 5}
    assert all(o.interval for o in report.outcomes if o.level == "quality")


def test_worse_images_are_a_regression_and_better_ones_an_improvement(make: Make) -> None:
    near, far = make("near"), make("far", move=lambda x: x + 0.2, clip_gain=-0.5)
    worse, better = compare(near, far), compare(far, near)
    assert {worse["quality", name].verdict for name in ("fid@mini", "clip_score@mini")} == {"regressed"}
    assert {better["quality", name].verdict for name in ("fid@mini", "clip_score@mini")} == {"improved"}
    low, high = worse["quality", "fid@mini"].interval or (0, 0)
    assert low < (worse["quality", "fid@mini"].after or 0) - (worse["quality", "fid@mini"].before or 0) < high


def test_a_loss_below_either_limit_passes(make: Make) -> None:
    loss = compare(make("a"), make("b", clip_gain=-0.25))["quality", "clip_score@mini"]
    assert loss.verdict == "unchanged", "above the absolute limit only"
    assert loss.limit == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_change_that_may_lie_on_either_side_of_the_limit_is_undecided(make: Make, sign: int) -> None:
    unsure = sign * (0.35 + np.tile([3.0, -3.0], N // 2))
    assert compare(make("a"), make("b", clip_gain=unsure))["quality", "clip_score@mini"].verdict == "undecided"


def test_few_moved_images_pass_and_many_are_a_change(make: Make) -> None:
    def move(count: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
        return lambda x: np.concatenate([x[:count] + 1.0, x[count:]])

    before = make("a")
    assert compare(before, make("few", move=move(8)))["images", "displacement"].verdict == "unchanged"
    many = compare(before, make("many", move=move(9)))["images", "displacement"]
    assert many.verdict == "changed"
    assert many.after == pytest.approx(9 / N)


def test_different_noise_is_compared_by_quality_only(make: Make) -> None:
    report = report_of(make("a"), make("b", cell={"seed": 1}))
    verdicts = {outcome.level: outcome.verdict for outcome in report.outcomes}
    assert verdicts["images"] == "not comparable"
    assert report.exit_code == 0
    assert all("by prompt only" in outcome.note for outcome in report.outcomes if outcome.level == "quality")


def test_a_slower_cell_regresses_on_the_same_machine_only(make: Make) -> None:
    slow = [0.11 + 0.0001 * i for i in range(10)]
    assert compare(make("a"), make("b", seconds=slow))["cost", "latency_s"].verdict == "regressed"
    assert compare(make("c", seconds=slow), make("d"))["cost", "latency_s"].verdict == "improved"
    within = [0.103 + 0.0001 * i for i in range(10)]
    assert compare(make("e"), make("f", seconds=within))["cost", "latency_s"].verdict == "unchanged"
    noisy = [0.08, 0.13] * 5
    assert compare(make("g"), make("h", seconds=noisy))["cost", "latency_s"].verdict == "undecided"
    other = compare(make("i"), make("j", seconds=slow, machine={**MACHINE, "processor": "q"}))
    assert other["cost", "latency and memory"].verdict == "not comparable"
    assert ("cost", "latency_s") not in other


def test_a_busy_machine_is_not_a_regression(make: Make) -> None:
    slow = [0.11 + 0.0001 * i for i in range(10)]
    calm, busy, jammed = ({"pace": tuple(pace + 1e-6 * i for i in range(10))} for pace in (0.01, 0.011, 0.02))
    assert compare(make("a", **calm), make("b", seconds=slow, **busy))["cost", "latency_s"].verdict == "undecided"
    assert compare(make("c", **calm), make("d", seconds=slow, **calm))["cost", "latency_s"].verdict == "regressed"
    found = compare(make("e", **calm), make("f", seconds=slow, **jammed))["cost", "latency_s"]
    assert found.verdict == "not comparable"
    assert "2.00 times as long" in found.note
    assert compare(make("g", **busy), make("h", **calm))["cost", "latency_s"].verdict == "undecided"


def test_memory_is_compared_with_its_limit(make: Make) -> None:
    assert compare(make("a"), make("b", memory=1.2 * 10**8))["cost", "allocated_bytes"].verdict == "regressed"
    assert compare(make("c"), make("d", memory=1.05 * 10**8))["cost", "allocated_bytes"].verdict == "unchanged"


@pytest.mark.parametrize(("after", "verdict"), [(5, "regressed"), (4, "unchanged"), (0, "improved")])
def test_a_scheduler_that_waits_for_the_gpu_more_often_is_named(make: Make, after: int, verdict: str) -> None:
    found = compare(make("a", waits=4), make("b", waits=after))["cost", "scheduler_syncs"]
    assert (found.verdict, found.before, found.after) == (verdict, 4, after)


def test_syncs_that_were_not_counted_are_not_compared(make: Make) -> None:
    assert ("cost", "scheduler_syncs") not in compare(make("a", waits=4), make("b"))


@pytest.mark.parametrize(
    ("changes", "verdict", "code"),
    [
        ({"failure": Failure("ValueError", "no", "")}, "failed", 1),
        ({"planned": False}, "missing", 3),
        ({"cell": {"prompts": PromptSet("world", N, "other")}}, "not comparable", 2),
        ({"cell": {"base": replace(CELL.base, weights="other")}}, "not comparable", 2),
        ({"cell": {"steps": 4}}, "missing", 3),
    ],
)
def test_cells_without_a_partner_are_reported_and_never_pass(
    make: Make, changes: dict[str, Any], verdict: str, code: int
) -> None:
    report = report_of(make("a"), make("b", **changes))
    assert next(outcome for outcome in report.outcomes if outcome.level == "cells").verdict == verdict
    assert report.exit_code == code


DAMAGES: dict[str, Callable[[Path], object]] = {
    "lost": Path.unlink,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "emptied": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("side", ["baseline", "candidate"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["cells/*/record.json", "cells/*/features-e.npz", "reference-r.npz", "run.json"])
def test_an_incomplete_run_never_passes(make: Make, tmp_path: Path, name: str, damage: str, side: str) -> None:
    runs = {"baseline": make("a", sha256="s"), "candidate": make("b", sha256="s")}
    (file,) = (tmp_path / ("a" if side == "baseline" else "b")).glob(name)
    DAMAGES[damage](file)
    assert run_gate(tmp_path, *(f"{role}={store.location}" for role, store in runs.items())) == 3
    (outcome,) = json.loads((tmp_path / "report" / "gate.json").read_text())["outcomes"]
    assert (outcome["verdict"], outcome["subject"]) == ("missing", runs[side].location)
    assert outcome["quantity"] == file.relative_to(runs[side].location).as_posix()
    assert re.search("it is missing" if damage == "lost" else "read|damaged", outcome["note"])


def test_all_losses_are_named_and_new_cells_are_distinguished_from_lost_ones(make: Make, tmp_path: Path) -> None:
    before, after = make("a", sha256="s"), make("b", sha256="s")
    run, extra = after.run(), replace(CELL, steps=8)
    after.commit(replace(after.cell(CELL.key).record(), key=extra.key, cell=extra))
    after.cell(extra.key).save_features("e", after.cell(CELL.key).features("e"))
    after.save_run(replace(run, cells=(CELL.key, extra.key)))
    report = report_of(before, after)
    assert [o.subject for o in report.outcomes if o.verdict == "new"] == [extra.label]
    assert report.exit_code == 0
    for file in (tmp_path / "b" / "cells").glob("*/features-e.npz"):
        file.unlink()
    report = report_of(before, after)
    assert len(report.outcomes) == 2
    assert report.exit_code == 3


def test_features_of_fewer_images_are_damaged(make: Make) -> None:
    before, after = make("a", sha256="s"), make("b", sha256="s")
    before.cell(CELL.key).save_features(
        "e", {name: rows[:-1] for name, rows in before.cell(CELL.key).features("e").items()}
    )
    report = report_of(before, after)
    assert report.exit_code == 3
    assert "399 rows for 400 images" in report.outcomes[0].note


@pytest.mark.parametrize(
    ("before", "after", "verdict", "code"),
    [
        (("fid@mini", "clip_score@mini"), ("fid@mini",), "missing", 3),
        (("fid@mini",), ("fid@mini", "clip_score@mini"), "new", 0),
        (("fid@mini",), ("fid@mini",), None, 0),
    ],
)
def test_a_score_that_one_side_lacks_is_not_left_out_silently(
    make: Make, before: tuple[str, ...], after: tuple[str, ...], verdict: str | None, code: int
) -> None:
    report = report_of(make("a", sha256="s", metrics=before), make("b", sha256="s", metrics=after))
    found = {o.quantity: o.verdict for o in report.outcomes if o.level == "quality"}
    assert (found.get("clip_score@mini"), report.exit_code) == (verdict, code)


def test_an_empty_comparison_never_passes() -> None:
    assert GateReport("a", "b", ()).exit_code == 3
    undecided = Outcome("quality", "cell", "fid@mini", "undecided")
    assert GateReport("a", "b", (undecided,)).exit_code == 3
    cheap = Outcome("cost", "cell", "latency_s", "unchanged")
    assert GateReport("a", "b", (undecided, cheap)).exit_code == 3


def test_library_versions_and_settings_may_differ(make: Make) -> None:
    changed = {"versions": {"diffusers": "2"}, "scheduler": SchedulerSpec("my.TCDScheduler", {"x": 1})}
    assert report_of(make("a"), make("b", cell=changed)).exit_code == 0


def test_without_a_normal_interval_the_bound_holds_for_any_distribution() -> None:
    rows = np.tile([1.0, -1.0], 50)
    doubtful = Estimate(1.0, rows, correction=1.0, interactions={"images": np.full(50, 0.09)})
    assert doubtful.caveat
    assert exceeds(doubtful, 0.0) == pytest.approx(doubtful.whole_variance / (doubtful.whole_variance + 1))
    assert exceeds(doubtful, 2.0) == 1.0
    assert exceeds(Estimate(1.0, rows, problem="too few"), 0.0) == 1.0


def test_a_loss_that_is_the_same_for_every_image_is_a_loss() -> None:
    same = Estimate(1.0, np.zeros(10))
    assert exceeds(same, 0.5) == 0.5**10
    assert exceeds(same, 1.5) == 1.0
    assert exceeds(Estimate(1.0, np.zeros(2)), 0.5) > 0.05, "of two images that is chance"


def test_false_alarms_are_rare_where_nothing_but_the_noise_changed() -> None:
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(100):
        gain = Estimate(float((rows := rng.normal(size=200)).mean()), rows - rows.mean())
        alarms += exceeds(gain.scaled(-1.0), 0.0) < 0.05 / 2
    assert alarms <= 8  # 2.5 are expected; more than 8 have a chance below 1 in 1,000


def run_gate(tmp_path: Path, *overrides: str) -> int:
    """The verb, with small defaults."""
    return main(["gate", f"output={tmp_path}/report", *overrides])


def test_the_verb_writes_its_reports(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = make("a"), make("b", move=lambda x: x + 1.0)
    assert run_gate(tmp_path, f"baseline={before.location}", f"candidate={after.location}") == 1
    shown = capsys.readouterr().out
    assert "regressed: mini tcd 2 steps eta 0.3: fid" in shown
    assert "Gate failed" in shown
    data = json.loads((tmp_path / "report" / "gate.json").read_text())
    assert data["exit_code"] == 1
    root = ET.parse(tmp_path / "report" / "junit.xml").getroot()  # noqa: S314
    assert {suite.get("name") for suite in root} == {"images", "quality", "cost"}
    assert len(root.findall(".//failure")) == data["counts"]["regressed"] + data["counts"]["changed"]
    assert "### Quality" in (tmp_path / "report" / "gate.md").read_text()


def test_a_side_that_cannot_run_leaves_the_gate_incomplete(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 5\n")
    (tmp_path / "python").chmod(0o755)
    assert run_gate(tmp_path, f"ref={tmp_path}/python") == 3
    (outcome,) = json.loads((tmp_path / "report" / "gate.json").read_text())["outcomes"]
    assert (outcome["verdict"], outcome["level"]) == ("missing", "cells")
    assert outcome["note"].endswith("does not run as a Python; see its own output")
    assert run_gate(tmp_path, f"ref={sys.executable}", f"candidate_ref={tmp_path}/python") == 1, (
        "the one that is judged"
    )


def test_accepting_makes_a_small_baseline_with_its_reason(make: Make, tmp_path: Path) -> None:
    run, baseline = make("a", sha256="s"), tmp_path / "baseline"
    words = ("author=Ada", "reason='a better order'")
    assert main(["gate", "accept", f"candidate={run.location}", f"baseline={baseline}", *words]) == 0
    note = json.loads((baseline / "accepted.json").read_text())
    assert (note["author"], note["reason"], note["replaces"]) == ("Ada", "a better order", None)
    assert run_gate(tmp_path, f"baseline={baseline}", f"candidate={make('b', sha256='s').location}") == 0
    assert main(["gate", "accept", f"candidate={run.location}", f"baseline={baseline}", *words]) == 0
    assert json.loads((baseline / "accepted.json").read_text())["replaces"] == note["cells"]
    assert sorted(path.name for path in tmp_path.glob("baseline*")) == ["baseline"]


WORDS = ("author=a", "reason=b")


def test_accepting_touches_nothing_that_it_did_not_write(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, baseline = make("a"), tmp_path / "b"
    for name in ("b.old", "b.new", ".b.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").touch()
    accept = ["gate", "accept", f"candidate={run.location}", f"baseline={baseline}", *WORDS]
    assert main(accept) == 0
    (baseline / "notes.txt").touch()
    assert main(accept) == 2
    assert "notes.txt, which would be lost" in capsys.readouterr().err
    assert (baseline / "notes.txt").exists()
    (baseline / "notes.txt").unlink()
    (baseline / "accepted.json").write_text("{")
    assert main(accept) == 2
    assert "accepted.json is damaged" in capsys.readouterr().err
    assert len(list(tmp_path.glob("*b.*/thesis.txt"))) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.old", "a", "b", "b.new", "b.old"]


def test_a_baseline_that_cannot_be_replaced_stays(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baseline = tmp_path / "baseline"
    accept = ["gate", "accept", f"baseline={baseline}", *WORDS]
    assert main([*accept, f"candidate={make('a').location}"]) == 0
    before = (baseline / "run.json").read_bytes()
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert main([*accept, f"candidate={make('b').location}"]) == 2
    assert (baseline / "run.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "baseline"]


@pytest.mark.parametrize("name", ["cells/*/record.json", "cells/*/features-e.npz", "reference-r.npz"])
@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_damaged_run_is_not_accepted(
    make: Make, tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make("a")
    DAMAGES[damage](next((tmp_path / "a").glob(name)))
    assert main(["gate", "accept", f"candidate={run.location}", f"baseline={tmp_path}/b", *WORDS]) == 2
    assert "a is not whole: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gate"], "nothing to compare was given"),
        (["gate", "baseline=x"], "baseline and candidate go together"),
        (["gate", "baseline=x", "candidate=y"], "baseline=x holds no run"),
        (["gate", "conformance.directory=nowhere"], "holds no baseline"),
        (["gate", "quality.fid.relative=-1", "conformance.directory=x"], "quality.fid.relative=-1.0 was given"),
        (["gate", "+quality.beauty={relative: 0, absolute: 0}", "conformance.directory=x"], "no such setting"),
        (["gate", "cost.latency.typo=1"], "typo"),
        (["gate", "+cost.latency.typo=1", "conformance.directory=x"], "no such setting"),
        (["gate", "ref=nowhere"], "ref=nowhere was given; give a Python"),
        (["gate", "ref=diffusers==0.41.0", "conformance.only=[tdc]"], "conformance.only=tdc was given"),
        (["gate", "candidate_ref=diffusers==0.41.0"], "candidate_ref was given without ref"),
        (["gate", "ref=x", "baseline=y", "candidate=z"], "ref and baseline were both given"),
        (["gate", "accept", "candidate=x", "baseline=y", "author=z"], "reason was not given"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_baseline_is_complete_and_nothing_else_is_overwritten(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = make("failed", failure=Failure("E", "m", ""))
    assert main(["gate", "accept", f"candidate={failed.location}", f"baseline={tmp_path}/new", *WORDS]) == 2
    assert "1 cells that failed" in capsys.readouterr().err
    good, mine = make("good"), tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").touch()
    assert main(["gate", "accept", f"candidate={good.location}", f"baseline={mine}", *WORDS]) == 2
    assert "not an accepted baseline" in capsys.readouterr().err
    assert (mine / "thesis.txt").exists()


def test_the_page_shows_problems_and_folds_the_rest() -> None:
    bad = Outcome("conformance", "tcd", "step (as configured)", "regressed", note="Call 1 leaves the method")
    fine = Outcome("conformance", "lcm", "checks", "unchanged", note="90 checks")
    page = to_page(GateReport("a", "b", (fine, bad)), [])
    assert page.index("Call 1 leaves the method") < page.index("<details><summary>1 unchanged</summary>")
    assert page.index("<details>") < page.index("90 checks")
    assert "95% interval" not in page, "a column for which no outcome has anything"
    measured = Outcome("quality", "tcd", "fid@mini", "improved", 2.0, 1.0, (-1.5, -0.5), 0.1)
    assert "95% interval" in to_page(GateReport("a", "b", (measured,)), [])


def test_a_terminal_lists_all_that_fails_and_a_screenful_of_the_rest() -> None:
    gone = [Outcome("conformance", "tcd", f"check {i}", "fixed") for i in range(30)]
    bad = [Outcome("conformance", "tcd", f"fault {i}", "regressed") for i in range(20)]
    shown = to_terminal(GateReport("a", "b", (*gone, *bad)))
    assert shown.count("regressed: ") == 20
    assert shown.count("fixed: tcd") == 12
    assert "… and 18 more: 18 fixed" in shown


def test_every_text_is_escaped() -> None:
    outcome = Outcome(
        "quality", "<script>x</script>", "fid@mini", "regressed", 1.0, 2.0, (0.5, 1.5), 0.1, "a | b \x00 <i>"
    )
    report = GateReport("<b>a</b>", "c", (outcome,))
    page = to_page(report, [])
    assert "<script>x" not in page
    assert "<b>a" not in page
    assert "<script>" not in to_comment(report)
    ET.fromstring(to_junit(report))  # noqa: S314


def outcome(gains: Estimate, limit: float, verdict: str, before: Record = RECORD, after: Record = RECORD) -> Outcome:
    cells = [ScoredCell(record, {"clip_score": gains}) for record in (before, after)]
    return _outcome(Pair(*cells), "clip_score", gains, limit, verdict)


UNDECIDED = {
    "beyond the limit": (1.0, 0.1, "undecided", True),
    "beyond it on the bad side": (-1.0, 0.1, "undecided", True),
    "decided": (1.0, 0.1, "improved", False),
    "within the limit": (1.0, 1.0, "undecided", False),
}


@pytest.mark.parametrize(("gain", "limit", "verdict", "explained"), UNDECIDED.values(), ids=UNDECIDED)
def test_an_undecided_outcome_with_an_interval_beyond_the_limit_says_why(
    gain: float, limit: float, verdict: str, explained: bool
) -> None:
    gains = mean_estimate(np.random.default_rng(0).normal(gain, 1.0, 100))
    said = "undecided because all comparisons are counted (Holm)"
    assert (said in outcome(gains, limit, verdict).note) == explained


def test_equal_images_and_other_latents_are_named() -> None:
    gains = mean_estimate(np.random.default_rng(0).normal(1.0, 1.0, 100))
    images = replace(RECORD, images=Images(4, 64, 64, "x"))
    assert outcome(gains, 1.0, "unchanged", images, images).note == "the images are equal"
    reseeded = replace(images, images=Images(4, 64, 64, "y"), cell=replace(RECORD.cell, seed=1))
    assert outcome(gains, 1.0, "unchanged", images, reseeded).note == "other initial latents: paired by prompt only"


def test_without_a_valid_interval_the_reason_is_shown() -> None:
    few = mean_estimate(np.array([0.0, 0.0, 0.0, 1.0]))
    found = outcome(few, 0.1, "undecided")
    assert found.interval is None
    assert found.note == f"no normal interval: {few.caveat}"


@pytest.mark.parametrize("count", [1, 30, 3000])
def test_a_comment_fits_whatever_the_size(count: int) -> None:
    long = "@someone fixes #12 " * 500
    levels = ("conformance", "cells", "images", "quality", "cost")
    outcomes = [
        Outcome(level, f"cell {i} {long}", "q", verdict, 1.0, 2.0, (0.5, 1.5), 0.1, long)
        for level in levels
        for i in range(count)
        for verdict in ("unchanged", "regressed" if level == "quality" else "new")
    ]
    report = GateReport(long, long, tuple(outcomes), {"date": "2026", "commit": long}, ("tcd-bench gate accept",))
    text = to_comment(report)
    assert len(text) < 65_536
    assert text.index("### Quality") < text.index("### Conformance"), "what failed comes first"
    assert "@someone" not in text
    assert "#12" not in text
    assert "\ntcd-bench gate accept\n" in text
    assert "- date: 2026" in text
    assert ("more rows: gate.html has them all" in text) == (count > 1)


def test_a_report_says_what_it_compared_and_how_to_accept_it(make: Make, tmp_path: Path) -> None:
    before, after = make("a"), make("b", move=lambda x: x + 1.0)
    assert run_gate(tmp_path, f"baseline={before.location}", f"candidate={after.location}") == 1
    for name in ("gate.md", "gate.html"):
        text = (tmp_path / "report" / name).read_text()
        assert "diffusers 1" in text
        assert "float32" in text
        assert "UTC" in text
        assert f"gate accept candidate={after.location} baseline={before.location} author=NAME" in text
    assert run_gate(tmp_path, f"baseline={before.location}", f"candidate={before.location}") == 0
    assert "gate accept" not in (tmp_path / "report" / "gate.md").read_text()


def test_equal_pixels_read_differently_from_pixels_within_the_limits(make: Make) -> None:
    equal, near = make("a", sha256="s"), make("b", move=lambda x: x + 1e-4)
    assert "passed: every pixel is equal" in to_terminal(report_of(equal, make("c", sha256="s")))
    assert "passed: cells 1 with other pixels, within the limits" in to_terminal(report_of(equal, near))
