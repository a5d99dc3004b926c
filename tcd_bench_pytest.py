"""A pytest plugin: one test per outcome of the gate.

    pytest --tcd-bench-baseline=results/conformance                     each scheduler against its baseline
    pytest --tcd-bench-baseline=BASELINE --tcd-bench-candidate=RUN      a run against an accepted baseline

Without the first option it does nothing and imports nothing: pytest loads it in every repository of an environment that
has tcd-bench, including repositories with their own package `bench`. Therefore it is located outside the package.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("tcd-bench", "scheduler and image regressions (tcd-bench)")
    group.addoption(
        "--tcd-bench-baseline",
        metavar="DIR",
        help="baselines of `tcd-bench conform`, or with --tcd-bench-candidate an accepted baseline of `tcd-bench gate`",
    )
    group.addoption("--tcd-bench-candidate", metavar="DIR", help="the run that is compared with the baseline")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the gate's tests to the collected ones."""
    baseline, candidate = config.getoption("--tcd-bench-baseline"), config.getoption("--tcd-bench-candidate")
    if baseline is None:
        if candidate is not None:
            raise pytest.UsageError("--tcd-bench-candidate needs --tcd-bench-baseline")
        return
    try:
        from bench.gate.pytest_plugin import gate_items
    except ImportError as error:
        raise pytest.UsageError(
            f"--tcd-bench-baseline: the package bench imported here is not tcd-bench's ({error}); start pytest "
            "in another directory, by `pytest` rather than `python -m pytest`"
        ) from error
    items += gate_items(session, Path(baseline), Path(candidate) if candidate else None)
