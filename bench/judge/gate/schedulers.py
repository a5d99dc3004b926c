"""Schedulers against their baselines of conformance, as outcomes of the gate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.judge.conformance.baseline import changes, judge, load_causes, read_baseline
from bench.judge.gate.outcome import Outcome
from bench.records import BenchError

_VERDICTS = {"new": "regressed", "grown": "regressed", "known": "known", "vanished": "vanished"}


def find_baselines(directory: Path, only: Iterable[str]) -> list[Path]:
    """The baselines of a directory, or those named; raises BenchError where there are none."""
    names = list(only)
    paths = [directory / f"{name}.json" for name in names] or sorted(directory.glob("*.json"))
    if absent := [path.name for path in paths if not path.is_file()]:
        raise BenchError(f"conformance.directory={directory} holds no {', '.join(absent)}")
    if not paths:
        raise BenchError(
            f"conformance.directory={directory} holds no baseline; write one with tcd-bench conform write=…"
        )
    return paths


def compare_schedulers(paths: Iterable[Path]) -> Iterator[Outcome]:
    """Examine each baseline's scheduler again, with the settings that the baseline notes."""
    from bench.judge.conformance.verb import examine

    for path in paths:
        baseline = read_baseline(path)
        report = examine({"scheduler": baseline["settings"]})
        outcomes = [
            Outcome("conformance", path.stem, f"{verdict.finding.check} ({verdict.finding.setting})", status, note=note)
            for verdict in judge(report, baseline["findings"], load_causes(path.parent))
            for status, note in [(_VERDICTS[verdict.status], str(verdict))]
        ]
        outcomes += [
            Outcome("conformance", path.stem, "trajectory", "changed", note=str(change))
            for change in changes(report, baseline)
        ]
        note = f"{sum(report.checked.values())} checks"
        yield from outcomes or [Outcome("conformance", path.stem, "checks", "unchanged", note=note)]
