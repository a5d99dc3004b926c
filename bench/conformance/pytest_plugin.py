"""The scheduler tests of the pytest plugin, `tcd_bench_pytest` at the top level: one per baseline and check.

A baseline is collected as a file of tests, so that an id such as `tests/conformance/fork.json::step` runs again alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.checksums import SUMS, damage_in
from bench.conformance.baseline import UNREADABLE, whole_baseline
from bench.conformance.report import ConformanceReport, Verdict
from bench.conformance.versions import installed_diffusers, untried
from bench.records.errors import BenchError

TRAJECTORY = "trajectory"
REST = "any other check"
"""The test of deviations that a check makes which the baseline does not know yet."""


class SchedulerBaselines:
    """Hooks that collect the baselines of a directory; registered where the option names one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        if not list(self.directory.glob("*.json")) and not (self.directory / SUMS).is_file():
            raise BenchError(
                f"--tcd-bench-baseline={directory} holds no baseline; write one with tcd-bench conform "
                f"scheduler._target_=my.Class write={directory}/my.json"
            )
        self.visited = False

    def name_arguments(self, config: pytest.Config) -> None:
        """Add the directory to what is collected, unless it, a part of it or a folder above it is named already."""
        here = config.invocation_params.dir
        named = [(here / argument.partition("::")[0]).resolve() for argument in config.args]
        own = self.directory
        self.visited = any(own in path.parents for path in named)  # a part was chosen
        if not any(path == own or path in own.parents or own in path.parents for path in named):
            config.args.append(str(own))

    @pytest.hookimpl
    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect a baseline, or the list that tells which baselines there are."""
        if file_path.resolve().parent != self.directory:
            return None
        self.visited = True
        if file_path.suffix == ".json":
            return SchedulerFile.from_parent(parent, path=file_path)
        return SumsFile.from_parent(parent, path=file_path) if file_path.name == SUMS else None

    @pytest.hookimpl
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Refuse a run in which no baseline was visited: it would pass."""
        if not self.visited and not session.testsfailed:
            raise pytest.UsageError(
                f"--tcd-bench-baseline={self.directory}: no baseline was collected; does norecursedirs exclude it?"
            )

    @pytest.hookimpl
    def pytest_report_header(self) -> str:
        """Say what is examined, and whether it is newer than what was tried."""
        return f"tcd-bench: {untried() or f'diffusers {installed_diffusers()}'}"


class SchedulerFile(pytest.File):
    """One baseline: a test per check, all of which read one examination."""

    _examined: ConformanceReport | str | None = None
    _origins: dict[str, str]

    def collect(self) -> Iterator[pytest.Item]:
        """One test per check that the baseline ran, one for trajectories, and one for all other checks."""
        try:
            baseline = whole_baseline(self.path)
            checks, self._origins = [*baseline["checked"], TRAJECTORY, REST], dict(baseline.get("origins", {}))
            if not baseline["fingerprints"]:
                raise BenchError(f"{self.path.name} holds no trajectory; write it again with a scheduler that runs")
        except UNREADABLE as error:
            yield BrokenItem.from_parent(self, name="baseline", reason=_words(error))
            return
        for check in checks:
            yield CheckItem.from_parent(self, name=check.replace(" ", "_"), check=check, checks=checks)

    def examined(self) -> ConformanceReport | str:
        """Return the report, or why there is none; the first test of the file examines."""
        if self._examined is None:
            from bench.conformance.verb import examine_again  # imports torch

            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a repository may turn them into errors
                    self._examined = examine_again(whole_baseline(self.path), self.path)
            except BenchError as error:
                self._examined = str(error)
            except (Exception, SystemExit) as error:
                self._examined = f"the scheduler breaks down: {_words(error)}"
        return self._examined

    def check_of(self, verdict: Verdict, report: ConformanceReport, checks: Sequence[str]) -> str:
        """Return the check whose test reports a verdict."""
        finding = verdict.finding
        found = report.origins.get(finding.key) or self._origins.get(finding.key) or finding.check.partition(":")[0]
        return found if found in checks else REST


class CheckItem(pytest.Item):
    """One check of one scheduler: deviations that the baseline knows are expected, strictly."""

    def __init__(self, *, check: str, checks: Sequence[str], **more: Any) -> None:
        super().__init__(**more)
        self.check, self.checks = check, checks

    def runtest(self) -> None:
        """Fail for a deviation that is new, has grown, or is gone; xfail where only known ones are left."""
        file: Any = self.parent
        report = file.examined()
        if isinstance(report, str):
            raise ConformanceError(report)
        mine = [v for v in report.verdicts or () if file.check_of(v, report, self.checks) == self.check]
        lines = [str(verdict) for verdict in mine if verdict.fails]
        lines += [f"fixed: {verdict.finding}" for verdict in mine if verdict.status == "fixed"]
        if any(verdict.status == "fixed" for verdict in mine):
            lines.append(f"where that is meant, write the baseline again: tcd-bench conform … write={self.path}")
        lines += [str(change) for change in report.changes or () if self.check == TRAJECTORY]
        for text in report.unfinished:
            if text.startswith(f"{self.check} (") or (
                self.check == REST and text.partition(" (")[0] not in self.checks
            ):
                lines.append(f"an error of tcd-bench: {text}")
        if lines:
            raise ConformanceError("\n".join(lines))
        if known := [verdict for verdict in mine if verdict.status == "known"]:
            why = dict.fromkeys(verdict.explanation.partition(". ")[0] or str(verdict.finding) for verdict in known)
            pytest.xfail(f"{len(known)} known: {'; '.join(why)}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """The deviations, and no traceback through the checks."""
        if isinstance(excinfo.value, ConformanceError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return the location and name of the test."""
        return self.path, None, f"{self.path.stem}: {self.check}"


class BrokenItem(CheckItem):
    """A baseline that cannot be read, as a failing test: the others still run."""

    def __init__(self, *, reason: str, **more: Any) -> None:
        super().__init__(check="baseline", checks=(), **more)
        self.reason = reason

    def runtest(self) -> None:
        """Fail."""
        raise ConformanceError(self.reason)


class SumsFile(pytest.File):
    """The list of baselines: a test that none is missing, changed or foreign."""

    def collect(self) -> Iterator[pytest.Item]:
        """One test."""
        yield SumsItem.from_parent(self, name="complete", check="complete", checks=())


class SumsItem(CheckItem):
    """Whether the directory holds what its list says."""

    def runtest(self) -> None:
        """Fail for each file that is missing, changed, or not in the list."""
        damage = damage_in(self.path.parent)
        wrong = [f"{name}: {why}" for name, why in damage.items() if name.endswith(".json") or name == SUMS]
        if wrong:
            raise ConformanceError("\n".join(wrong))


class ConformanceError(Exception):
    """What deviates."""


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
