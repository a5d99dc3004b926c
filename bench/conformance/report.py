"""The result of `conform`: findings as frozen data, readable without torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.records.cell import content_hash


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
    def words(self) -> str:
        """The expected and the actual value, and what the difference means."""
        more = f" Also at {len(self.places) - 1} other places." if len(self.places) > 1 else ""
        return f"expected {self.expected}, got {self.got}. {self.sentence}{more}"

    def __str__(self) -> str:
        where = self.setting if not self.places[0][0] else f"{self.setting}, {self.places[0][0]}"
        return f"{self.check} ({where}): {self.words}"


def merge(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return one finding per check and setting, with all its places, in the order of first appearance."""
    merged: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        known = merged.get((finding.check, finding.setting))
        places = finding.places if known is None else known.places + finding.places
        merged[finding.check, finding.setting] = replace(known or finding, places=tuple(dict(places).items()))
    return tuple(merged.values())


@dataclass(frozen=True, slots=True)
class Order:
    """A convergence order with the fit shown: log(error) against log(steps), by least squares."""

    setting: str
    declared: float
    fitted: float
    steps: tuple[int, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """The whole result. `checked` counts checks by name; `refused` lists settings that the class refuses.

    `errors` holds the global error by target and steps, root mean square against the exact solution;
    `fingerprints` the trajectories that a baseline keeps; `parameters` the settings that the class takes.
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
    parameters: tuple[str, ...] = ()
    duration_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing deviates."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without the values that differ between runs."""
        data = asdict(self)
        del data["duration_s"]
        return data
