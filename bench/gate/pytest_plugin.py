"""The gate's tests of the pytest plugin, which is `tcd_bench_pytest` at the top level: one per outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.experiment.compose import compose_settings
from bench.experiment.verbs import check_gate
from bench.gate.compare import compare_stores
from bench.gate.outcome import DECIDED, FAILS, Outcome
from bench.gate.report import in_words
from bench.records.errors import BenchError
from bench.store.store import Store

Outcomes = Sequence[Outcome]


class GateOutcomes:
    """The hook that adds the comparison of two runs; registered where the options name both."""

    def __init__(self, baseline: Path, candidate: Path) -> None:
        self.baseline, self.candidate = baseline, candidate

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add a test per outcome; raises pytest.UsageError for bad input."""
        try:
            items += [
                GateItem.from_parent(session, name=name, compare=compare)
                for name, compare in _runs(self.baseline, self.candidate)
            ]
        except BenchError as error:
            raise pytest.UsageError(str(error)) from error


class GateItem(pytest.Item):
    """One test: `compare` returns outcomes, of which any that fails the gate fails the test, any open one skips it."""

    def __init__(self, *, compare: Callable[[], Outcomes], **more: Any) -> None:
        super().__init__(**more)
        self.compare = compare

    def runtest(self) -> None:
        outcomes = self.compare()
        if failing := [outcome for outcome in outcomes if outcome.verdict in (*FAILS, "missing")]:
            raise GateError("\n".join(f"{outcome.verdict}: {in_words(outcome)}" for outcome in failing))
        if not any(outcome.verdict in DECIDED for outcome in outcomes):
            pytest.skip("; ".join(f"{outcome.verdict}: {in_words(outcome)}" for outcome in outcomes))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """The gate's words, and no traceback through its code."""
        if isinstance(excinfo.value, GateError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return the location and name of the test."""
        return self.path, None, f"tcd-bench: {self.name}"


class GateError(Exception):
    """The findings of the gate."""


def _runs(baseline: Path, candidate: Path) -> Iterator[tuple[str, Callable[[], Outcomes]]]:
    """One test per outcome, at the limits of conf/gate.yaml."""
    choice = check_gate(compose_settings([f"baseline='{baseline}'", f"candidate='{candidate}'"], "gate"))
    before, after = (Store(directory, writable=False) for directory in (baseline, candidate))
    limits = choice.images, choice.limits(), choice.cost, choice.latents
    for outcome in compare_stores(before, after, *limits).outcomes:
        yield f"{outcome.level}[{outcome.subject}: {outcome.quantity}]", partial(list, [outcome])
