"""Schedulers against their baselines of conformance, as outcomes of the gate."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from bench.checksums import listed
from bench.conformance.baseline import (
    UNREADABLE,
    changes,
    compare_with_baseline,
    load_causes,
    read_baseline,
    read_report,
    whole_baseline,
)
from bench.conformance.report import ConformanceReport, Verdict, write_baseline
from bench.conformance.survey import Survey
from bench.gate.concerns import Concern, concern_of
from bench.gate.outcome import Outcome
from bench.records.errors import BenchError

_VERDICTS = {"new": "regressed", "grown": "regressed", "added": "new", "known": "known", "fixed": "fixed"}


def find_baselines(directory: Path, only: Iterable[str]) -> list[Path]:
    """The baselines of a directory, those that its SHA256SUMS lists included, or those named.

    Raises BenchError where there are none, or not the named ones.
    """
    names = list(only)
    every = {path.name for path in directory.glob("*.json")} | {name for name in listed(directory) if _is_json(name)}
    paths = [directory / name for name in ([f"{name}.json" for name in names] or sorted(every))]
    if absent := [path.name for path in paths if path.name not in every]:
        raise BenchError(f"conformance.directory={directory} holds no {', '.join(absent)}")
    if not paths:
        advice = "write one with tcd-bench conform write=…"
        raise BenchError(f"conformance.directory={directory} holds no baseline; {advice}")
    return paths


def _is_json(name: str) -> bool:
    return name.endswith(".json") and "/" not in name


def compare_schedulers(paths: Iterable[Path], concerns: list[Concern] | None = None) -> Iterator[Outcome]:
    """Examine each baseline's scheduler again, with the settings that the baseline notes.

    Whatever one of them does, and however one of the files is damaged, the others are compared. What changed is added
    to `concerns`.
    """
    paths = list(paths)
    for number, path in enumerate(paths, 1):
        print(f"{path.stem} ({number} of {len(paths)}) ...", file=sys.stderr, flush=True)
        try:
            baseline = whole_baseline(path)
        except UNREADABLE as error:
            yield _missing(path, error)
            continue
        from bench.conformance.verb import examine_again  # it imports torch

        try:
            report = examine_again(baseline)
        except BenchError as error:
            yield Outcome("conformance", path.stem, "scheduler", "failed", note=str(error))
        except (Exception, SystemExit) as error:
            note = f"it breaks down: {type(error).__name__}: {' '.join(str(error).split())}"
            yield Outcome("conformance", path.stem, "scheduler", "failed", note=note)
        else:
            yield from compare_report(path, report, concerns)


def _missing(path: Path, error: BaseException) -> Outcome:
    reason = str(error) if isinstance(error, BenchError) else f"it is damaged ({type(error).__name__}: {error})"
    return Outcome("conformance", path.stem, "baseline", "missing", note=reason)


def compare_surveys(before: Survey, after: Survey, concerns: list[Concern] | None = None) -> Iterator[Outcome]:
    """The schedulers of two installations, each with the settings that the one before takes."""
    for name, reason in before.absent.items():
        yield Outcome("conformance", name, "scheduler", "new", note=f"not in {before.name}: {reason}")
    for name, reason in before.broken.items():
        note = f"in {before.name} {reason}; there is nothing to compare with"
        yield Outcome("conformance", name, "scheduler", "not comparable", note=note)
    for name, settings in before.left_out.items():
        note = f"{before.name} does not take them; both installations were examined without"
        yield Outcome("conformance", name, f"settings {', '.join(settings)}", "not comparable", note=note)
    for name, reason in {**after.absent, **after.broken}.items():
        yield Outcome("conformance", name, "scheduler", "failed", note=reason)
    for name, settings in after.left_out.items():
        note = f"{after.name} does not take them any more"
        yield Outcome("conformance", name, f"settings {', '.join(settings)}", "failed", note=note)
    for name in before.examined:
        if name in after.examined:
            yield from compare_report(before.baseline(name), read_report(after.baseline(name)), concerns)


def compare_report(path: Path, report: ConformanceReport, concerns: list[Concern] | None = None) -> list[Outcome]:
    """A report against the baseline at `path`; a damaged one is missing, and so is one that checked nothing."""
    try:
        baseline = whole_baseline(path)
        verdicts = list(compare_with_baseline(report, baseline, load_causes(path.parent)))
        moved = list(changes(report, baseline))
    except UNREADABLE as error:
        return [_missing(path, error)]
    if concerns is not None and (concern := concern_of(path.stem, report, baseline, verdicts, moved)) is not None:
        concerns.append(concern)
    found = []
    for _, one_cause in groupby(sorted(verdicts, key=_cause_of), _cause_of):
        first, *others = one_cause
        more = f" and {len(others)} more of one cause" if others else ""
        found.append((f"{first.finding.check} ({first.finding.setting}){more}", _VERDICTS[first.status], first.words))
    found += [("trajectory", "changed", change.words) for change in moved]
    found += [("check", "missing", f"an error of tcd-bench ended it: {text}") for text in report.unfinished]
    count = sum(report.checked.values())
    verdict, note = ("unchanged", f"{count} checks") if count and baseline["fingerprints"] else ("missing", _NOTHING)
    nothing = [("checks", verdict, note)]
    return [Outcome("conformance", path.stem, what, verdict, note=note) for what, verdict, note in found or nothing]


def _cause_of(verdict: Verdict) -> tuple[str, str]:
    """Return what is reported in one line: known or fixed deviations of one cause, and any other alone."""
    grouped = verdict.explanation and verdict.status in ("known", "fixed")
    return verdict.status, verdict.explanation if grouped else verdict.finding.key


_NOTHING = "the baseline holds no trajectory, so that nothing was compared; write it again with a scheduler that runs"


def accept_schedulers(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Examine each baseline's scheduler again and replace the baseline; yields paths and what was wrong, if anything.

    A baseline whose scheduler cannot be examined stays.
    """
    from bench.conformance.verb import examine_again

    for path in paths:
        try:
            baseline = read_baseline(path)
            write_baseline(examine_again(baseline), path, baseline["settings"])
        except (Exception, SystemExit) as error:
            yield path, f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            yield path, ""
