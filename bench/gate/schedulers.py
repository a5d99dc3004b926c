"""Schedulers against their baselines of conformance, as outcomes of the gate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.conformance.baseline import changes, compare_with_baseline, load_causes, read_baseline, read_report
from bench.conformance.report import ConformanceReport
from bench.conformance.survey import Survey
from bench.gate.outcome import Outcome
from bench.records.errors import BenchError

_VERDICTS = {"new": "regressed", "grown": "regressed", "added": "new", "known": "known", "vanished": "vanished"}


def find_baselines(directory: Path, only: Iterable[str]) -> list[Path]:
    """The baselines of a directory, or those named; raises BenchError where there are none."""
    names = list(only)
    paths = [directory / f"{name}.json" for name in names] or sorted(directory.glob("*.json"))
    if absent := [path.name for path in paths if not path.is_file()]:
        raise BenchError(f"conformance.directory={directory} holds no {', '.join(absent)}")
    if not paths:
        advice = "write one with tcd-bench conform write=…"
        raise BenchError(f"conformance.directory={directory} holds no baseline; {advice}")
    return paths


def compare_schedulers(paths: Iterable[Path]) -> Iterator[Outcome]:
    """Examine each baseline's scheduler again, with the settings that the baseline notes."""
    for path in paths:
        from bench.conformance.verb import examine_scheduler  # it imports diffusers, which is slow

        settings = read_baseline(path)["settings"]
        try:
            report = examine_scheduler({"scheduler": settings})
        except BenchError as error:
            yield Outcome("conformance", path.stem, "scheduler", "failed", note=str(error))
        else:
            yield from compare_report(path, report)


def compare_surveys(before: Survey, after: Survey) -> Iterator[Outcome]:
    """The schedulers of two installations, each with the settings that the one before takes."""
    for name, reason in before.absent.items():
        yield Outcome("conformance", name, "scheduler", "new", note=f"not in {before.name}: {reason}")
    for name, settings in before.left_out.items():
        note = f"{before.name} does not take them; both installations were examined without"
        yield Outcome("conformance", name, f"settings {', '.join(settings)}", "not comparable", note=note)
    for name, reason in after.absent.items():
        yield Outcome("conformance", name, "scheduler", "failed", note=reason)
    for name, settings in after.left_out.items():
        note = f"{after.name} does not take them any more"
        yield Outcome("conformance", name, f"settings {', '.join(settings)}", "failed", note=note)
    for name in before.examined:
        if name in after.examined:
            yield from compare_report(before.baseline(name), read_report(after.baseline(name)))


def compare_report(path: Path, report: ConformanceReport) -> list[Outcome]:
    """A report against the baseline at `path`."""
    baseline = read_baseline(path)
    found = [
        (f"{verdict.finding.check} ({verdict.finding.setting})", _VERDICTS[verdict.status], verdict.words)
        for verdict in compare_with_baseline(report, baseline, load_causes(path.parent))
    ]
    found += [("trajectory", "changed", change.words) for change in changes(report, baseline)]
    nothing = [("checks", "unchanged", f"{sum(report.checked.values())} checks")]
    return [Outcome("conformance", path.stem, what, verdict, note=note) for what, verdict, note in found or nothing]
