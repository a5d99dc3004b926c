"""What is known of a scheduler: its deviations with their causes, and its trajectories; new against known.

A baseline is one JSON file a scheduler, reviewable as text; beside it `causes.yaml` explains deviations, many by one
cause. No torch here: a report is compared where it was made or anywhere else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.judge.conformance.report import ConformanceReport, Finding
from bench.records import BenchError, check_schema

GROWTH = 1.5  # sizes are repeatable to the rounding of float32 tables; half as much again is another fault
SAME = 2e-6  # trajectories of equal code on other processors: a few float32 roundings a step
CAUSES = "causes.yaml"

FORMAT = 1
"""Of baseline files; read and written."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why deviations are there: a pattern of check and setting, words, and a minimal reproduction."""

    name: str
    schedulers: tuple[str, ...]
    checks: tuple[str, ...]
    settings: str
    explanation: str
    kind: str = "defect"
    reproduction: str = ""

    def fits(self, scheduler: str, finding: Finding) -> bool:
        """Whether this cause explains a finding of a scheduler class."""
        name = scheduler.rpartition(".")[2]
        return (
            (not self.schedulers or name in self.schedulers)
            and finding.check in self.checks
            and re.search(self.settings, finding.setting) is not None
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """A deviation beside what the baseline knows: new, grown, known or vanished."""

    status: str
    finding: Finding
    explanation: str = ""

    @property
    def fails(self) -> bool:
        """Whether it ends the command with exit code 1."""
        return self.status in ("new", "grown")

    def __str__(self) -> str:
        why = f" Known because: {self.explanation}" if self.explanation else ""
        return f"{self.status}: {self.finding}{why}"


@dataclass(frozen=True, slots=True)
class Change:
    """A trajectory that is no longer the baseline's: where it parts, by how much, and what that does to the error."""

    name: str
    step: int
    size: float
    consequence: str

    def __str__(self) -> str:
        return (
            f"changed: the trajectory of {self.name} parts from the baseline's after call {self.step}, "
            f"by {self.size:.3g}; {self.consequence}"
        )


def load_causes(directory: Path) -> tuple[Cause, ...]:
    """The explanations that lie beside the baselines; none if there is no such file."""
    path = directory / CAUSES
    if not path.is_file():
        return ()
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(
        Cause(**{**entry, "schedulers": tuple(entry.get("schedulers", ())), "checks": tuple(entry["checks"])})
        for entry in entries
    )


def explain(causes: Sequence[Cause], scheduler: str, finding: Finding) -> Cause | None:
    """The first cause that fits."""
    return next((cause for cause in causes if cause.fits(scheduler, finding)), None)


def write_baseline(report: ConformanceReport, path: Path, settings: Mapping[str, Any]) -> None:
    """Write a report as the baseline at `path`: one state a line, sizes to four digits."""
    data = report.to_dict()
    for finding in data["findings"]:
        finding["places"] = {name: _plain(size) for name, size in finding["places"]}
    data["settings"] = dict(settings)
    data["schema"] = FORMAT
    text = json.dumps(data, indent=1, ensure_ascii=False, default=float)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_rows_on_one_line(text) + "\n", encoding="utf-8")


def _plain(size: float) -> float | str:
    return float(f"{size:.4g}") if math.isfinite(size) else str(size)


def _rows_on_one_line(text: str) -> str:
    return re.sub(r"\[([^\[\]{}]*)\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)


def read_baseline(path: Path) -> dict[str, Any]:
    """A baseline's data with its findings restored; raises BenchError for a file that is none."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        check_schema(data, f"the baseline {path}", FORMAT)
        data["findings"] = [
            Finding(**{**finding, "places": tuple((name, float(size)) for name, size in finding["places"].items())})
            for finding in data["findings"]
        ]
    except FileNotFoundError as error:
        raise BenchError(f"there is no baseline {path}; write one with write={path}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} is no baseline of conformance ({error}); write one with write=…") from error
    return data


def judge(report: ConformanceReport, known: Sequence[Finding], causes: Sequence[Cause]) -> Iterator[Verdict]:
    """Every deviation of the report beside the known ones, then those that are gone."""
    before = {finding.key: finding for finding in known}
    for finding in report.findings:
        cause = explain(causes, report.scheduler, finding)
        words = " ".join(cause.explanation.split()) if cause else ""
        old = before.pop(finding.key, None)
        if old is None:
            yield Verdict("new", finding)
        elif grown := growth(old, finding):
            yield Verdict("grown", finding, f"{words} Now also {grown}.".strip())
        else:
            yield Verdict("known", finding, words)
    for finding in before.values():
        yield Verdict("vanished", finding)


def growth(old: Finding, new: Finding) -> str:
    """In words, what is worse: another place, or a larger size at one."""
    sizes = dict(old.places)
    for name, size in new.places:
        if name not in sizes:
            return f"at {name or 'this setting'}"
        if size > GROWTH * sizes[name]:
            return f"{size / sizes[name]:.2g} times as large at {name or 'this setting'}"
    return ""


def changes(report: ConformanceReport, baseline: Mapping[str, Any]) -> Iterator[Change]:
    """Trajectories that differ from the baseline's beyond rounding, and settings that are refused only now."""
    refused = {text.partition(":")[0] for text in baseline.get("refused", report.refused)}
    for text in report.refused:
        if text.partition(":")[0] not in refused:
            yield Change(text.partition(":")[0], 0, math.inf, f"the setting is refused now ({text})")
    for name, states in baseline["fingerprints"].items():
        now = report.fingerprints.get(name)
        if now is None:
            yield Change(name, 0, math.inf, "it cannot be run any more")
            continue
        old, new = np.array(states), np.array(now)
        if old.shape != new.shape:
            yield Change(name, 0, math.inf, f"it has {len(new) - 1} calls instead of {len(old) - 1}")
            continue
        gap = np.abs(new - old).max(axis=1)
        apart = ~(gap <= SAME * (1 + np.abs(old).max(axis=1)) * len(old))
        if apart.any():
            first = int(np.argmax(apart))
            yield Change(name, first, float(gap[first]), _consequence(report, baseline))


def _consequence(report: ConformanceReport, baseline: Mapping[str, Any]) -> str:
    """What a change does to error and order, so that a reader sees whether it got better or worse."""
    parts = []
    for target, errors in baseline["errors"].items():
        for steps in ("4", "16"):
            old, new = errors.get(steps), report.errors.get(target, {}).get(steps)
            if old is not None and new is not None:
                parts.append(f"error on {target} at {steps} steps {old:.4g} → {new:.4g}")
    fitted = {order.setting: order.fitted for order in report.orders}
    for order in baseline["orders"]:
        if order["setting"] in fitted:
            parts.append(f"order ({order['setting']}) {order['fitted']:.2f} → {fitted[order['setting']]:.2f}")
    return ", ".join(parts) or "no error or order is defined for it"


def report_as_json(report: ConformanceReport) -> str:
    """The whole report for machines."""
    return json.dumps({**asdict(report), "passed": report.passed}, default=float, ensure_ascii=False)
