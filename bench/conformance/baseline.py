"""Baselines of schedulers: known deviations with their causes, and trajectories, compared with a new report.

A baseline is one JSON file per scheduler, reviewable as text; `causes.yaml` in the same folder explains deviations,
many by one cause. This module needs no torch, so a report can be compared on any machine.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.checksums import damage_in
from bench.conformance.report import FORMAT, Change, ConformanceReport, Finding, Order, Verdict
from bench.records.errors import BenchError, check_path
from bench.records.record import check_schema

GROWTH = 1.5  # sizes are repeatable to the rounding of float32 tables; a factor of 1.5 indicates another fault
SAME = 2e-6  # trajectories of equal code on different processors: a few float32 roundings per step
CAUSES = "causes.yaml"

UNREADABLE = (BenchError, OSError, KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError)
"""What reading a damaged baseline may raise."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The cause of known deviations: a pattern of check and setting, an explanation, and a minimal reproduction.

    `avoid` says to a user what not to do until it is fixed.

    `issues` are numbers of issues or pull requests of the library's repository that are about it.
    """

    name: str
    schedulers: tuple[str, ...]
    checks: tuple[str, ...]
    settings: str
    explanation: str
    kind: str = "defect"
    reproduction: str = ""
    avoid: str = ""
    issues: tuple[int, ...] = ()

    def fits(self, scheduler: str, finding: Finding) -> bool:
        """Whether this cause explains a finding of a scheduler class."""
        name = scheduler.rpartition(".")[2]
        return (
            (not self.schedulers or name in self.schedulers)
            and finding.check in self.checks
            and re.search(self.settings, finding.setting) is not None
        )


def load_causes(directory: Path) -> tuple[Cause, ...]:
    """Return the explanations in the folder of the baselines; empty if it has no `causes.yaml`."""
    return _causes_in(directory / CAUSES)


def causes_of_diffusers() -> tuple[Cause, ...]:
    """Return the explanations of what diffusers' own classes deviate in, which belong to this package."""
    here = Path(__file__)
    return _causes_in(here.with_name(CAUSES)) or _causes_in(here.parents[2] / "results" / "conformance" / CAUSES)


def _causes_in(path: Path) -> tuple[Cause, ...]:
    if not path.is_file():
        return ()
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(
        Cause(**{**entry, **{name: tuple(entry.get(name, ())) for name in ("schedulers", "checks", "issues")}})
        for entry in entries
    )


def explain(causes: Sequence[Cause], scheduler: str, finding: Finding) -> Cause | None:
    """Return the first cause that fits a finding, or None."""
    return next((cause for cause in causes if cause.fits(scheduler, finding)), None)


def read_baseline(path: Path) -> dict[str, Any]:
    """Return a baseline's data with its findings restored; raises BenchError for a file that is not a baseline."""
    check_path(f"baseline={path}", path, "file", f"write one with write={path}")
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        check_schema(data, f"the baseline {path}", FORMAT)
        data["settings"] = dict(data["settings"])
        data["findings"] = [
            Finding(**{**finding, "places": tuple((name, float(size)) for name, size in finding["places"].items())})
            for finding in data["findings"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} is not a conformance baseline ({error}); write one with write=…") from error
    return data


def whole_baseline(path: Path) -> dict[str, Any]:
    """Return a baseline whose hash is the one beside it; raises BenchError for any other."""
    for name, why in damage_in(path.parent, [path.name]).items():
        raise BenchError(f"{name}: {why}; write the baseline again with tcd-bench conform write={path}")
    return read_baseline(path)


def read_report(path: Path) -> ConformanceReport:
    """Return the report that a baseline was written from."""
    data = read_baseline(path)
    orders = [Order(**{**order, **{k: tuple(order[k]) for k in ("steps", "errors")}}) for order in data["orders"]]
    kept = {field.name for field in fields(ConformanceReport)} & data.keys() - {"findings", "orders"}
    found = {name: data[name] for name in kept}
    return ConformanceReport(findings=tuple(data["findings"]), orders=tuple(orders), **found)


def compare_with_baseline(
    report: ConformanceReport, baseline: Mapping[str, Any], causes: Sequence[Cause] = ()
) -> Iterator[Verdict]:
    """Yield a verdict on every deviation of the report, then on those of the baseline that are gone.

    A deviation at a setting that the baseline's class does not take, or refuses at every number of steps, is not a
    regression: it was added.
    """
    before = {finding.key: finding for finding in baseline["findings"]}
    ran = tuple(baseline.get("fingerprints", ()))
    refused = {text.partition(":")[0] for text in baseline.get("refused", ())}
    refused = {label for label in refused if "=" in label and not any(name.endswith(label) for name in ran)}
    for finding in report.findings:
        words = _words(explain(causes, report.family or report.scheduler, finding))
        old = before.pop(finding.key, None)
        if old is None:
            added = _mentioned(finding.setting) & _additions(report, baseline) or finding.setting in refused
            yield Verdict("added" if added else "new", finding)
        elif grown := growth(old, finding):
            yield Verdict("grown", finding, f"{words} Now also {grown}.".strip())
        else:
            yield Verdict("known", finding, words)
    for finding in before.values():
        yield Verdict("fixed", finding, _words(explain(causes, report.family or report.scheduler, finding)))


def _words(cause: Cause | None) -> str:
    return f"{cause.name}: {' '.join(cause.explanation.split())}" if cause else ""


def compared(report: ConformanceReport, baseline: Mapping[str, Any], causes: Sequence[Cause] = ()) -> ConformanceReport:
    """Return a report with its verdicts and changes against a baseline."""
    verdicts = tuple(compare_with_baseline(report, baseline, causes))
    return replace(report, verdicts=verdicts, changes=tuple(changes(report, baseline)))


def explained(report: ConformanceReport) -> ConformanceReport:
    """Return a report with the causes of those deviations that diffusers' own class of the family has as well."""
    causes = causes_of_diffusers() if report.family else ()
    found = {finding.key: explain(causes, report.family or "", finding) for finding in report.findings}
    return replace(report, explained={key: _words(cause) for key, cause in found.items() if cause})


def growth(old: Finding, new: Finding) -> str:
    """Describe what is worse: a new place or a larger size at a known one; nothing is worse than a breakdown."""
    sizes = dict(old.places)
    if sizes.get("") == math.inf:
        return ""
    for name, size in new.places:
        if name not in sizes:
            return f"at {name or 'this setting'}"
        if size > GROWTH * sizes[name]:
            return f"{size / sizes[name]:.2g} times as large at {name or 'this setting'}"
    return ""


def changes(report: ConformanceReport, baseline: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the trajectories that differ from the baseline's beyond rounding, and the settings that are newly refused.

    Where the trajectory of the scheduler as configured has changed, those of its single settings have changed as well
    and are only counted.
    """
    refused = {text.partition(":")[0] for text in baseline.get("refused", report.refused)}
    for text in report.refused:
        label = text.partition(":")[0]
        if label not in refused and not _mentioned(label) & _additions(report, baseline):
            yield Change(label, None, math.inf, f"the setting is now refused ({text})")
    found = [
        change
        for name, states in baseline["fingerprints"].items()
        if (change := _change(name, states, report, _consequence(report, baseline)))
    ]
    whole = [change for change in found if not _mentioned(change.name)]
    single = [change for change in found if change not in whole]
    yield from whole[:-1] if whole else single
    if whole:
        more = f"; and {len(single)} more with other settings" if single else ""
        yield replace(whole[-1], consequence=whole[-1].consequence + more)


def _change(name: str, before: Any, report: ConformanceReport, consequence: str) -> Change | None:
    now = report.fingerprints.get(name)
    if now is None:
        return Change(name, None, math.inf, "it can no longer be run")
    old, new = np.array(before), np.array(now)
    if old.shape != new.shape:
        return Change(name, None, math.inf, f"it has {len(new) - 1} calls instead of {len(old) - 1}")
    with np.errstate(invalid="ignore"):
        gap = np.abs(new - old).max(axis=1)
    allowed = report.looser.get(name, 1.0) * SAME * (1 + np.abs(old).max(axis=1)) * len(old)
    alike = np.isclose(new, old, rtol=0, atol=0, equal_nan=True).all(axis=1)  # NaN and infinity included
    apart = ~(alike | ((gap <= allowed) & np.isfinite(allowed)))
    first = int(np.argmax(apart))
    return Change(name, max(0, first - 1), float(gap[first]), consequence) if apart.any() else None


def _mentioned(words: str) -> set[str]:
    """Return the settings that a label names."""
    return set(re.findall(r"(\w+)=", words))


def _additions(report: ConformanceReport, baseline: Mapping[str, Any]) -> set[str]:
    """Return the settings that the class takes and the baseline's class did not."""
    return set(report.parameters) - set(baseline.get("parameters", report.parameters))


def _consequence(report: ConformanceReport, baseline: Mapping[str, Any]) -> str:
    """Describe the effect of a change on errors and orders, so that a reader sees whether they improved."""
    parts = []
    for target, errors in baseline["errors"].items():
        for steps in ("4", "16"):
            old, new = errors.get(steps), report.errors.get(target, {}).get(steps)
            if old is not None and new is not None and f"{old:.4g}" != f"{new:.4g}":
                parts.append(f"error on {target} at {steps} steps {old:.4g} → {new:.4g}")
    fitted = {order.setting: order.fitted for order in report.orders}
    for order in baseline["orders"]:
        setting, old = order["setting"], order["fitted"]
        if setting in fitted and f"{old:.2f}" != f"{fitted[setting]:.2f}":
            parts.append(f"order ({setting}) {old:.2f} → {fitted[setting]:.2f}")
    return ", ".join(parts) or "errors and orders as configured are unchanged"
