"""`tcd-bench conform`: settings → scheduler → report → summary and exit code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.conformance.baseline import changes, compare_with_baseline, load_causes, read_baseline, write_baseline
from bench.conformance.conform import conform
from bench.conformance.families import FAMILIES
from bench.conformance.report import ConformanceReport
from bench.generate.schedulers import make_scheduler
from bench.records.cell import SchedulerSpec
from bench.records.errors import BenchError


def spec_of(entry: Any) -> SchedulerSpec:
    """Return a scheduler from its settings, `_target_` and arguments; raises BenchError without a target."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("_target_"), str):
        raise BenchError("scheduler names no class; choose one of conf/scheduler, or pass scheduler._target_=my.Class")
    return SchedulerSpec(entry["_target_"], {name: value for name, value in entry.items() if name != "_target_"})


def examine_scheduler(settings: Mapping[str, Any]) -> ConformanceReport:
    """Return the report on the scheduler that the settings name."""
    spec, family = spec_of(settings["scheduler"]), settings.get("family")
    if family is not None and family not in FAMILIES:
        raise BenchError(f"family {family!r} is unknown; choose one of {', '.join(sorted(FAMILIES))}")
    make_scheduler(spec)
    return conform(lambda: make_scheduler(spec), family)


def run_verb(settings: Mapping[str, Any]) -> int:
    """Examine, compare with the baseline, print; return 1 when a deviation is new or grown or a trajectory changed."""
    path = Path(settings["baseline"]) if settings.get("baseline") else None
    baseline = read_baseline(path) if path else {"findings": [], "fingerprints": {}}
    causes = load_causes(path.parent) if path else ()
    report = examine_scheduler(settings)
    verdicts = list(compare_with_baseline(report, baseline, causes))
    changed = list(changes(report, baseline))
    for line in (*verdicts, *changed):
        print(line)
    print(summary(report, [verdict.status for verdict in verdicts], len(changed), path))
    if settings.get("write"):
        write_baseline(report, Path(settings["write"]), settings["scheduler"])
        print(f"Baseline: {settings['write']}")
        return 0
    return 1 if changed or any(verdict.fails for verdict in verdicts) else 0


def summary(report: ConformanceReport, statuses: list[str], changed: int, path: Path | None) -> str:
    """Summarise the checks and their results in a few lines."""
    counts = ", ".join(f"{statuses.count(name)} {name}" for name in ("new", "added", "grown", "known", "vanished"))
    orders = "; ".join(f"{o.setting}: {o.fitted:.2f} of {o.declared:g}" for o in report.orders)
    family = report.family or "no known family: only checks that need no published form"
    lines = [
        f"{report.scheduler} ({family}), {', '.join(f'{name} {v}' for name, v in report.versions.items())}",
        f"{sum(report.checked.values())} checks in {report.duration_s:.1f} s, {len(report.refused)} settings refused",
        f"Orders: {orders}" if orders else "Orders: none, the run always draws noise",
        f"Deviations: {counts}; {changed} trajectories changed" + ("" if path else " (no baseline: all count as new)"),
    ]
    return "\n".join(lines)
