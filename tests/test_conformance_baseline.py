"""New, grown, known and fixed deviations; changed trajectories; the committed table."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench
from bench.conformance.baseline import (
    Cause,
    changes,
    compare_with_baseline,
    compared,
    explain,
    load_causes,
    read_baseline,
    read_report,
)
from bench.conformance.report import ConformanceReport, Finding, merge, write_baseline
from bench.records.errors import BenchError

RESULTS = Path(__file__).parents[1] / "results" / "conformance"
SCHEDULERS = sorted(path.stem for path in (RESULTS.parents[1] / "conf" / "scheduler").glob("*.yaml"))


def finding(check: str = "step", setting: str = "as configured", **places: float) -> Finding:
    return Finding(check, setting, "1", "2", "It differs.", tuple(places.items()) or (("", math.inf),))


def report(*findings: Finding, rows: tuple[tuple[float, ...], ...] = ((1.0, 2.0), (0.5, 1.0))) -> ConformanceReport:
    return ConformanceReport(
        *("fork.TCDScheduler", "TCDScheduler", {"diffusers": "1"}, findings, {"step": 1}),
        errors={"Gaussians": {"4": 0.25}},
        fingerprints={"4 steps": rows},
    )


def baseline_of(found: ConformanceReport, path: Path) -> dict[str, Any]:
    """The baseline that a report makes, as it is read."""
    write_baseline(found, path, {})
    return read_baseline(path)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A baseline with one known deviation, at 2 and 3 steps."""
    path = tmp_path / "tcd.json"
    write_baseline(report(finding(two=10.0, three=20.0)), path, {"_target_": "fork.TCDScheduler"})
    return path


def test_a_baseline_is_read_as_it_was_written(stored: Path) -> None:
    known = read_baseline(stored)
    assert known["findings"] == [finding(two=10.0, three=20.0)]
    assert known["fingerprints"] == {"4 steps": [[1.0, 2.0], [0.5, 1.0]]}
    assert "[1.0, 2.0]" in stored.read_text(), "one state per line"


def test_infinite_sizes_survive(tmp_path: Path) -> None:
    write_baseline(report(finding()), tmp_path / "x.json", {})
    json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read_baseline(tmp_path / "x.json")["findings"] == [finding()]


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (finding(two=10.0, three=20.0), "known"),
        (finding(two=14.0), "known"),
        (finding(two=16.0), "grown"),
        (finding(two=10.0, four=1.1), "grown"),
        (finding("landing", two=10.0), "new"),
        (finding("step", "solver_order=3", two=10.0), "new"),
    ],
)
def test_a_deviation_is_compared_with_known_deviations(stored: Path, found: Finding, status: str) -> None:
    verdicts = list(compare_with_baseline(report(found), read_baseline(stored)))
    assert verdicts[0].status == status
    assert verdicts[0].fails == (status != "known")
    assert [verdict.status for verdict in verdicts[1:]] == (["fixed"] if status == "new" else [])


def test_a_deviation_that_is_gone_is_reported_as_fixed_and_a_cause_once(stored: Path) -> None:
    baseline = read_baseline(stored)
    baseline["findings"] = [finding("step", f"solver_order={order}", two=10.0) for order in (1, 2, 3)]
    cause = Cause("halved-term", (), ("step",), "solver_order", "The term is halved.")
    after = compared(report(), baseline, [cause])
    assert [verdict.status for verdict in after.verdicts or ()] == ["fixed"] * 3
    assert not any(verdict.fails for verdict in after.verdicts or ())
    assert not after.passed, "a strict expected failure"
    assert str(after).count("halved-term") == 1
    part = compared(report(finding("step", "solver_order=1", two=10.0)), baseline, [cause])
    assert str(part).count("The term is halved.") == 1, "one cause is printed once"
    assert "fixed: 2 of one cause, as step (solver_order=2): halved-term\n" in str(part)
    assert "fixed: 3 of one cause, as step (solver_order=1): halved-term: The term is halved." in str(after)


def test_without_a_baseline_every_deviation_is_new() -> None:
    assert [verdict.status for verdict in compare_with_baseline(report(finding()), {"findings": []})] == ["new"]


def test_a_changed_trajectory_names_its_first_step_its_size_and_the_error(stored: Path) -> None:
    after = replace(report(rows=((1.0, 2.0), (0.5, 1.25))), errors={"Gaussians": {"4": 0.5}})
    (change,) = changes(after, read_baseline(stored))
    assert (change.call, change.size) == (0, 0.25)
    assert "0.25 → 0.5" in str(change)


def test_rounding_changes_no_trajectory(stored: Path) -> None:
    assert not list(changes(report(rows=((1.0, 2.0), (0.5, 1.0 + 1e-7))), read_baseline(stored)))


def test_nan_is_a_change_only_where_it_is_new(tmp_path: Path) -> None:
    unknown, known = report(rows=((1.0, 2.0), (math.nan, math.inf))), report(rows=((1.0, 2.0), (0.5, 1.0)))
    assert not list(changes(unknown, baseline_of(unknown, tmp_path / "x.json")))
    (fixed,) = changes(known, baseline_of(unknown, tmp_path / "x.json"))
    (broken,) = changes(report(rows=((1.0, 2.0), (0.5, math.inf))), baseline_of(known, tmp_path / "x.json"))
    assert (fixed.call, broken.call) == (0, 0)


def test_single_settings_are_counted_where_the_scheduler_as_configured_has_changed(tmp_path: Path) -> None:
    one, other = ((1.0,), (2.0,)), ((1.0,), (3.0,))
    names = ("4 steps", "5 steps, a=1", "5 steps, b=2")
    known = baseline_of(replace(report(), fingerprints=dict.fromkeys(names, one)), tmp_path / "x.json")
    (all_of_them,) = changes(replace(report(), fingerprints=dict.fromkeys(names, other)), known)
    assert all_of_them.name == "4 steps"
    assert "and 2 more with other settings" in str(all_of_them)
    some = {"4 steps": one, "5 steps, a=1": other, "5 steps, b=2": other}
    assert [change.name for change in changes(replace(report(), fingerprints=some), known)] == list(names[1:])


def test_a_deviation_of_a_setting_that_the_baseline_lacks_or_refuses_is_added(tmp_path: Path) -> None:
    before = replace(report(), parameters=("beta_start",), refused=("solver_order=3: no",))
    known = baseline_of(before, tmp_path / "x.json")
    after = replace(
        report(*(finding(setting=setting) for setting in ("beta_start=1", "use_beta_sigmas=True", "solver_order=3"))),
        parameters=("beta_start", "use_beta_sigmas"),
        refused=("use_beta_sigmas=True, steps_offset=1: no",),
    )
    assert [verdict.status for verdict in compare_with_baseline(after, known)] == ["new", "added", "added"]
    assert not list(changes(after, known))


def test_a_refusal_of_some_step_counts_does_not_excuse_deviations(tmp_path: Path) -> None:
    refused = ("as configured: 64 steps: too many", "beta_end=1: 64 steps: too many")
    rows = {"4 steps": ((1.0,),), "5 steps, beta_end=1": ((1.0,),)}
    known = baseline_of(replace(report(), refused=refused, fingerprints=rows), tmp_path / "x.json")
    after = report(finding(), finding(setting="beta_end=1"))
    assert [verdict.status for verdict in compare_with_baseline(after, known)] == ["new", "new"]


def test_nothing_is_worse_than_a_breakdown(tmp_path: Path) -> None:
    (verdict,) = compare_with_baseline(report(finding(two=1e6)), baseline_of(report(finding()), tmp_path / "x.json"))
    assert verdict.status == "known"


def test_a_baseline_is_a_report_again(stored: Path) -> None:
    read = read_report(stored)
    assert (read.scheduler, read.findings) == ("fork.TCDScheduler", (finding(two=10.0, three=20.0),))
    assert not list(changes(read, read_baseline(stored)))


def test_a_trajectory_of_other_length_is_changed(stored: Path) -> None:
    assert len(list(changes(report(rows=((1.0, 2.0),)), read_baseline(stored)))) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 9, "findings": []}'])
def test_a_file_that_is_not_a_baseline_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BenchError, match=r"x\.json"):
        read_baseline(tmp_path / "x.json")
    with pytest.raises(BenchError, match="does not exist; write one"):
        read_baseline(tmp_path / "y.json")


def test_findings_of_one_check_and_setting_become_one() -> None:
    merged = merge([finding(two=1.5), finding("landing"), finding(three=3.0)])
    assert [found.places for found in merged] == [(("two", 1.5), ("three", 3.0)), (("", math.inf),)]


def test_the_package_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="conformm"):
        bench.conformm  # noqa: B018


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_committed_deviation_has_a_cause(name: str) -> None:
    known, causes = read_baseline(RESULTS / f"{name}.json"), load_causes(RESULTS)
    assert [str(found) for found in known["findings"] if explain(causes, known["scheduler"], found) is None] == []
