"""A pytest plugin: one test per scheduler and check, or per outcome of the gate.

    pytest --tcd-bench-baseline=tests/conformance                       each scheduler against its baseline
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


def pytest_configure(config: pytest.Config) -> None:
    """Register the tests that the options name."""
    baseline, candidate = config.getoption("--tcd-bench-baseline"), config.getoption("--tcd-bench-candidate")
    if baseline is None:
        if candidate is not None:
            raise pytest.UsageError("--tcd-bench-candidate needs --tcd-bench-baseline")
        return
    try:
        from bench.records.errors import BenchError
    except ImportError as error:
        raise pytest.UsageError(
            f"--tcd-bench-baseline: the package bench imported here is not tcd-bench's ({error}); start pytest "
            "in another directory, by `pytest` rather than `python -m pytest`"
        ) from error
    try:
        if candidate is None:
            from bench.conformance.pytest_plugin import SchedulerBaselines

            baselines = SchedulerBaselines(Path(baseline))
            baselines.name_arguments(config)
            config.pluginmanager.register(baselines, "tcd-bench-schedulers")
        else:
            from bench.gate.pytest_plugin import GateOutcomes

            config.pluginmanager.register(GateOutcomes(Path(baseline), Path(candidate)), "tcd-bench-gate")
    except BenchError as error:
        raise pytest.UsageError(str(error)) from error
    except ModuleNotFoundError as error:
        raise pytest.UsageError(
            f"--tcd-bench-candidate needs {error.name}, which is not installed: pip install 'tcd-bench[full]'"
        ) from error
