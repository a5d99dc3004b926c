"""The result of `conform`: findings as frozen data, readable without torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.checksums import note_checksum
from bench.records.cell import content_hash

FORMAT = 1
"""Version of the format of baseline files; written and checked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One deviation: the check, the setting, the value that theory demands and the actual value.

    `places` lists the steps and etas, each with its deviation in units of the allowed one (1 is the limit; infinite for
    a yes-or-no question). Expected, got and sentence are those of the first place.
    """

    check: str
    setting: str
    expected: str
    got: str
    sentence: str
    places: tuple[tuple[str, float], ...] = (("", math.inf),)

    @property
    def key(self) -> str:
        """The identity of a finding in a baseline: the same for the same check at the same setting."""
        return content_hash([self.check, self.setting], digits=10)

    @property
    def is_breakdown(self) -> bool:
        """Whether the scheduler ended with an error rather than with another result."""
        return self.expected == _NO_ERROR

    @property
    def words(self) -> str:
        """The expected and the actual value, and what the difference means."""
        more = f" Also at {len(self.places) - 1} other places." if len(self.places) > 1 else ""
        return f"expected {self.expected}, got {self.got}. {self.sentence}{more}"

    def __str__(self) -> str:
        where = self.setting if not self.places[0][0] else f"{self.setting}, {self.places[0][0]}"
        return f"{self.check} ({where}): {self.words}"


_NO_ERROR = "a run without an error"


def breakdown(check: str, setting: str, error: str) -> Finding:
    """Return the finding of an error inside the scheduler."""
    return Finding(check, setting, _NO_ERROR, error, "The scheduler breaks down.")


def merge(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return one finding per check and setting, with all its places, in the order of first appearance."""
    merged: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        known = merged.get((finding.check, finding.setting))
        places = finding.places if known is None else known.places + finding.places
        merged[finding.check, finding.setting] = replace(known or finding, places=tuple(dict(places).items()))
    return tuple(merged.values())


@dataclass(frozen=True, slots=True)
class Verdict:
    """A deviation compared with the baseline: new, grown, known, fixed, or added with a new setting of the class."""

    status: str
    finding: Finding
    explanation: str = ""

    @property
    def fails(self) -> bool:
        """Whether this verdict ends the command with exit code 1."""
        return self.status in ("new", "grown")

    @property
    def words(self) -> str:
        """The place, the expected and the actual value, and the cause if it is known."""
        where = f"{self.finding.places[0][0]}: " if self.finding.places[0][0] else ""
        return f"{where}{self.finding.words}{self._why}"

    def __str__(self) -> str:
        return f"{self.status}: {self.finding}{self._why}"

    @property
    def _why(self) -> str:
        known = "It was known" if self.status == "fixed" else "Known"
        return f" {known} because: {self.explanation}" if self.explanation else ""


@dataclass(frozen=True, slots=True)
class Change:
    """A trajectory that differs from the baseline's.

    It holds the first call that differs (counted from 0, None where the calls cannot be compared), the size of the
    difference, and its effect on the error.
    """

    name: str
    call: int | None
    size: float
    consequence: str

    @property
    def words(self) -> str:
        """The description of the change, without the word `changed`."""
        where = "" if self.call is None else f" differs from the baseline from call {self.call} on, by {self.size:.3g}"
        return f"the trajectory of {self.name}{where}; {self.consequence}"

    def __str__(self) -> str:
        return f"changed: {self.words}"


@dataclass(frozen=True, slots=True)
class Order:
    """A convergence order with the fit shown: log(error) against log(steps), by least squares.

    `uncertainty` is the slope's standard error.
    """

    setting: str
    declared: float
    fitted: float
    steps: tuple[int, ...]
    errors: tuple[float, ...]
    uncertainty: float = 0.0


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """The whole result of `conform`; readable without torch, and printed as a summary.

    `scheduler` is the class by its dotted path, `family` the diffusers class whose published method it claims, None for
    an unknown one. `findings` are all deviations. `checked` counts checks by name; `refused` lists settings that the
    class refuses; `unfinished` checks that an error of tcd-bench itself ended, which say nothing about the scheduler.
    `orders` holds fitted convergence orders, `errors` the global error by target and number of steps, root mean square
    against the exact solution; `fingerprints` the trajectories that a baseline keeps, and `looser` how much more than
    usual some of them may differ by rounding; `parameters` the settings that the class takes, `settings` those that
    were examined. `origins` names the check of each finding, by its key.

    With a baseline, `verdicts` compares every finding with it, and `changes` are the trajectories that differ from
    it; both are None without one. Without a baseline `explained` holds the cause of each finding, by its key, that
    diffusers' own class of the family is known to have as well.
    """

    scheduler: str
    family: str | None
    versions: Mapping[str, str]
    findings: tuple[Finding, ...]
    checked: Mapping[str, int]
    refused: tuple[str, ...] = ()
    orders: tuple[Order, ...] = ()
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fingerprints: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    looser: Mapping[str, float] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    duration_s: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] | None = None
    changes: tuple[Change, ...] | None = None
    explained: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing deviates; with a baseline whether no deviation is new or grown and no trajectory changed.

        A known deviation that is gone does not pass either, as a strict expected failure: the baseline has to say so.
        False where an error of tcd-bench left a check unfinished.
        """
        if self.unfinished:
            return False
        if self.verdicts is None:
            return not self.findings
        return not self.changes and not any(verdict.fails or verdict.status == "fixed" for verdict in self.verdicts)

    def write(self, path: str | Path) -> None:
        """Write the report as a baseline, one JSON file, for `conform(…, baseline=path)` and the pytest plugin."""
        write_baseline(self, Path(path), self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without the values that differ between runs or depend on a baseline."""
        data = asdict(self)
        for name in ("duration_s", "unfinished", "verdicts", "changes", "explained"):
            del data[name]
        return data

    def __str__(self) -> str:
        if self.verdicts is None:
            shown = [str(finding) for finding in self.findings if finding.key not in self.explained]
            known = [(finding, self.explained.get(finding.key, "")) for finding in self.findings]
            shown += _by_cause(f"as in diffusers' {self.family}", known)
        else:
            grouped = ("known", "fixed")
            shown = [
                str(verdict) for verdict in self.verdicts if verdict.status not in grouped or not verdict.explanation
            ]
            still = {one.explanation for one in self.verdicts if one.status == "known"}
            for status in grouped:
                found = [(v.finding, v.explanation) for v in self.verdicts if v.status == status]
                if status == "fixed":  # what is left of a cause has explained it
                    found = [(one, why.partition(": ")[0] if why in still else why) for one, why in found]
                shown += _by_cause(status, found)
        rest = [*map(str, self.changes or ()), *(f"unfinished: {text}" for text in self.unfinished)]
        return "\n".join([*shown, *rest, self.summary])

    @property
    def summary(self) -> str:
        """The checks and their results in a few lines."""
        orders = "; ".join(f"{o.setting}: {o.fitted:.2f} of {o.declared:g}" for o in self.orders)
        family = self.family or "no known family: only checks that need no published form"
        statuses = [verdict.status for verdict in self.verdicts or ()]
        names = ("new", "added", "grown", "known", "fixed")
        counts = ", ".join(f"{statuses.count(name)} {name}" for name in names)
        changed = f"{counts}; {len(self.changes or ())} trajectories changed"
        bare = f"{len(self.findings)}, of which diffusers' own class has {len(self.explained)} as well (no baseline)"
        lines = [
            f"{self.scheduler} ({family}), {', '.join(f'{name} {v}' for name, v in self.versions.items())}",
            f"{sum(self.checked.values())} checks in {self.duration_s:.1f} s, {len(self.refused)} settings refused",
            f"Orders: {orders}" if orders else "Orders: none, the run always draws noise",
            f"Deviations: {bare if self.verdicts is None else changed}",
        ]
        if "fixed" in statuses:
            lines.append("What is fixed is to leave the baseline: write it again with write=…")
        if self.unfinished:
            lines.append(
                f"{len(self.unfinished)} checks could not be finished: an error of tcd-bench, please report it"
            )
        return "\n".join(lines)


def _by_cause(status: str, findings: Iterable[tuple[Finding, str]]) -> list[str]:
    """Return one line per cause, with the number of its deviations and the first of them."""
    groups: dict[str, list[Finding]] = {}
    for finding, cause in findings:
        if cause:
            groups.setdefault(cause, []).append(finding)
    return [
        f"{status}: {len(found)} of one cause, as {found[0].check} ({found[0].setting}): {cause}"
        for cause, found in groups.items()
    ]


def write_baseline(report: ConformanceReport, path: Path, settings: Mapping[str, Any]) -> None:
    """Write a report as the baseline at `path`, and its hash beside it: one line per state, sizes to four digits."""
    data = report.to_dict()
    for finding in data["findings"]:
        finding["places"] = {name: _plain(size) for name, size in finding["places"]}
    data["settings"] = dict(settings)
    data["schema"] = FORMAT
    text = json.dumps(data, indent=1, ensure_ascii=False, default=float)
    text = re.sub(r"\[([^\[\]{}]*)\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    note_checksum(path)


def _plain(size: float) -> float | str:
    return float(f"{size:.4g}") if math.isfinite(size) else str(size)
