"""`tcd-bench conform`: settings → scheduler → report → summary and exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.conformance.conform import conform
from bench.conformance.given import check_family
from bench.conformance.report import ConformanceReport, write_baseline
from bench.generate.schedulers import make_scheduler
from bench.records.cell import SchedulerSpec
from bench.records.errors import BenchError


def spec_of(entry: Any) -> SchedulerSpec:
    """Return a scheduler from its settings, `_target_` and arguments; raises BenchError without a target."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("_target_"), str):
        raise BenchError("scheduler names no class; choose one of conf/scheduler, or pass scheduler._target_=my.Class")
    return SchedulerSpec(entry["_target_"], {name: value for name, value in entry.items() if name != "_target_"})


def examine_scheduler(settings: Mapping[str, Any]) -> ConformanceReport:
    """Return the report on the scheduler that the settings name; raises BenchError for one that cannot be examined."""
    spec, family = spec_of(settings["scheduler"]), settings.get("family")
    check_family(family)
    make_scheduler(spec)
    return conform(lambda: make_scheduler(spec), family, settings.get("baseline"))


def examine_again(baseline: Mapping[str, Any], path: Path | None = None) -> ConformanceReport:
    """Return the report on the scheduler of a baseline, with its settings and family; compared with it by its path."""
    settings = {"scheduler": baseline["settings"], "family": baseline.get("family")}
    return examine_scheduler({**settings, "baseline": None if path is None else str(path)})


def run_verb(settings: Mapping[str, Any]) -> int:
    """Examine, compare with the baseline, print.

    Returns 1 when a deviation is new or has grown or a trajectory changed, without a baseline for any deviation, and 3
    when an error of this package left a check unfinished.
    """
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        report = examine_scheduler(settings)
    for warning in warned:
        print(f"warning: {warning.message}", file=sys.stderr)
    print(report)
    if report.unfinished:
        return 3
    if settings.get("write"):
        write_baseline(report, Path(settings["write"]), settings["scheduler"])
        print(f"Baseline: {settings['write']}")
        return 0
    return 0 if report.passed else 1
