"""A pytest plugin: every outcome of the gate as a test of its own.

    pytest --tcd-bench-baseline=results/conformance                     each scheduler against its baseline
    pytest --tcd-bench-baseline=BASELINE --tcd-bench-candidate=RUN      a run against an accepted baseline

Without the first option it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bench.judge.gate.outcome import Outcome

Outcomes = Sequence["Outcome"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("tcd-bench", "scheduler and image regressions (tcd-bench)")
    group.addoption(
        "--tcd-bench-baseline",
        metavar="DIR",
        help="baselines of `tcd-bench conform`, or with --tcd-bench-candidate an accepted baseline of `tcd-bench gate`",
    )
    group.addoption("--tcd-bench-candidate", metavar="DIR", help="the run that is held against the baseline")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the gate's tests to whatever else was collected."""
    baseline, candidate = config.getoption("--tcd-bench-baseline"), config.getoption("--tcd-bench-candidate")
    if baseline is None:
        if candidate is not None:
            raise pytest.UsageError("--tcd-bench-candidate needs --tcd-bench-baseline")
        return
    from bench.records import BenchError

    try:
        found = _runs(Path(baseline), Path(candidate)) if candidate else _schedulers(Path(baseline))
        items += [GateItem.from_parent(session, name=name, judge=judge) for name, judge in found]
    except BenchError as error:
        raise pytest.UsageError(str(error)) from error


class GateItem(pytest.Item):
    """One test: `judge` returns outcomes, of which any that fails the gate fails the test, any open one skips it."""

    def __init__(self, *, judge: Callable[[], Outcomes], **more: Any) -> None:
        super().__init__(**more)
        self.judge = judge

    def runtest(self) -> None:
        """Judge."""
        from bench.judge.gate.outcome import DECIDED, FAILS
        from bench.report.gate import in_words

        outcomes = self.judge()
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
        """How the test is called."""
        return self.path, None, f"tcd-bench: {self.name}"


class GateError(Exception):
    """What the gate found."""


def _schedulers(directory: Path) -> Iterator[tuple[str, Callable[[], Outcomes]]]:
    """A test a scheduler; it is examined when the test runs."""
    from bench.judge.gate.schedulers import find_baselines

    for path in find_baselines(directory, ()):
        yield f"conformance[{path.stem}]", partial(_examine, path)


def _examine(path: Path) -> Outcomes:
    from bench.judge.gate.schedulers import compare_schedulers

    return list(compare_schedulers([path]))


def _runs(baseline: Path, candidate: Path) -> Iterator[tuple[str, Callable[[], Outcomes]]]:
    """A test an outcome, at the limits of conf/gate.yaml."""
    from bench.experiment.compose import compose_settings
    from bench.experiment.gate import check_gate
    from bench.judge.gate.compare import compare_stores
    from bench.store import Store

    choice = check_gate(compose_settings([f"baseline='{baseline}'", f"candidate='{candidate}'"], "gate"))
    before, after = (Store(directory, writable=False) for directory in (baseline, candidate))
    for outcome in compare_stores(before, after, choice.images, choice.limits(), choice.cost).outcomes:
        yield f"{outcome.level}[{outcome.subject}: {outcome.quantity}]", partial(list, [outcome])
