"""The result of the gate: one outcome per cell and quantity, and an exit code. Plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

VERDICTS = (
    *("failed", "regressed", "changed", "missing", "not comparable", "undecided", "quarantined", "improved"),
    *("fixed", "new", "known", "unchanged", "equal", "measured"),
)
"""Worst first. `known` and `fixed` are deviations of schedulers, `new` is a cell that the baseline does not have.
`unchanged` is a difference within its limit, `equal` none at all; `quarantined` would fail but for its quarantine;
`measured` has no limit."""
FAILS = ("failed", "regressed", "changed")
DECIDED = (*FAILS, "quarantined", "improved", "unchanged", "equal", "known", "fixed")
PASS, REGRESSION, NOT_COMPARABLE, INCOMPLETE = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """One quantity of one cell before and after. `interval` is that of `after` − `before`, 95%; `limit` the loss let
    pass. `note` says in words what the numbers do not.
    """

    level: str
    subject: str
    quantity: str
    verdict: str
    before: float | None = None
    after: float | None = None
    interval: tuple[float, float] | None = None
    limit: float | None = None
    note: str = ""


def verdict_of(worse: float, better: float, within: float, level: float) -> str:
    """Return the verdict of three tests, by their p-values: that it got worse, got better, stayed within the limit."""
    tests = {"regressed": worse, "improved": better, "unchanged": within}
    return next((verdict for verdict, p_value in tests.items() if p_value < level), "undecided")


@dataclass(frozen=True, slots=True)
class GateReport:
    """All outcomes, level by level. `baseline` and `candidate` are display names of what was compared.

    `about` says by name what a reader has to know to repeat it: versions, commits, the date. `accepting` are the
    commands that accept the change. With `warn_only` what got worse does not fail. `summary` is what
    changed in a maintainer's words, paragraph by paragraph.
    """

    baseline: str
    candidate: str
    outcomes: tuple[Outcome, ...]
    about: Mapping[str, str] = field(default_factory=dict)
    accepting: tuple[str, ...] = ()
    warn_only: bool = False
    summary: tuple[str, ...] = ()

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of outcomes of each verdict, worst first."""
        found = Counter(outcome.verdict for outcome in self.outcomes)
        return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}

    @property
    def levels(self) -> Mapping[str, tuple[Outcome, ...]]:
        """Outcomes by level, in each the worst first."""
        names = dict.fromkeys(outcome.level for outcome in self.outcomes)
        ordered = sorted(self.outcomes, key=lambda outcome: VERDICTS.index(outcome.verdict))
        return {name: tuple(outcome for outcome in ordered if outcome.level == name) for name in names}

    @property
    def answer(self) -> int:
        """0 pass; 1 something got worse, changed, or fails now; 2 not comparable; 3 missing, or nothing decided.

        Costs that cannot be compared (another machine) do not count, for quality does not depend on them. Schedulers
        and runs are two questions: an answer to one of them is none to the other.
        """
        if any(outcome.verdict in FAILS for outcome in self.outcomes):
            return REGRESSION
        if any(outcome.verdict == "not comparable" and outcome.level == "cells" for outcome in self.outcomes):
            return NOT_COMPARABLE
        asked = {outcome.level == "conformance" for outcome in self.outcomes if outcome.level != "cost"}
        decided = {
            outcome.level == "conformance"
            for outcome in self.outcomes
            if outcome.verdict in DECIDED and outcome.level != "cost"
        }
        if not asked or asked - decided or any(outcome.verdict == "missing" for outcome in self.outcomes):
            return INCOMPLETE
        return PASS

    @property
    def exit_code(self) -> int:
        """The answer; where it is only to warn, 0 for what got worse. What is missing still fails."""
        return PASS if self.warn_only and self.answer == REGRESSION else self.answer

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "counts": dict(self.counts), "answer": self.answer, "exit_code": self.exit_code}
