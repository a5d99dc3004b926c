"""What `conform` answers with: findings as frozen data, readable without torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.records.cell import content_hash


@dataclass(frozen=True, slots=True)
class Finding:
    """One deviation: which check, at which setting, what theory demands and what came out.

    `places` says at which steps and eta, each with how far out it is in units of what is allowed (1 is the limit;
    infinite where the question is yes or no). Expected, got and sentence are those of the first place.
    """

    check: str
    setting: str
    expected: str
    got: str
    sentence: str
    places: tuple[tuple[str, float], ...] = (("", math.inf),)

    @property
    def key(self) -> str:
        """The same for the same check at the same setting: what a baseline knows a deviation by."""
        return content_hash([self.check, self.setting], digits=10)

    @property
    def words(self) -> str:
        """What was expected, what came out, and what that means."""
        more = f" Also at {len(self.places) - 1} other places." if len(self.places) > 1 else ""
        return f"expected {self.expected}, got {self.got}. {self.sentence}{more}"

    def __str__(self) -> str:
        where = self.setting if not self.places[0][0] else f"{self.setting}, {self.places[0][0]}"
        return f"{self.check} ({where}): {self.words}"


def merge(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """One finding for each check and setting, with all its places, in the order of their first appearance."""
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
    """The whole answer. `checked` counts what was tried, by check; `refused` lists settings that the class refuses.

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
        """Plain data for JSON, without what differs from run to run."""
        data = asdict(self)
        del data["duration_s"]
        return data
