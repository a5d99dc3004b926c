"""Latency before and after, of two runs on one machine or of two installations that were timed interleaved.

Two runs are compared by a rank test (Mann and Whitney 1947), shifted by the limit, so that no distribution is assumed.
But a machine is not equally fast at all times. The reference workload, a fixed piece of work between the calls, says by
how much: a difference counts only where it shows both in the seconds of the calls and in units of the seconds of the
workload around them. The calls between two workloads are one sample, since what disturbs one of them mostly disturbs
the next.

Interleaved latencies are compared by Student's t over the sessions: calls do not average out what one pair of processes
has in common. Either way each cell is tested, and all of them together, where a change that slows every cell a little
shows first. They are one family: by Holm's weighted procedure (1979, Scand. J. Statist. 6:65) half of the level is for
all cells together and half for the cells, and whatever is decided leaves its share to the rest. So at most 5% of
comparisons report a regression whose loss is within its limit, and at most 5% an improvement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from bench.analysis.claims import LEVEL, holm
from bench.gate.outcome import Outcome
from bench.gate.pairing import Pair
from bench.records.record import InterleavedLatency, Latency
from bench.records.run import Limit

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Timed:
    """A latency before and after, in seconds per image, and its test.

    `test(slower, limit)` is the p-value of the hypothesis that the later side is not slower than the earlier one by
    more than the limit; not faster, where `slower` is False.
    """

    label: str
    before: float
    after: float
    test: Callable[[bool, float], float]
    note: str
    weight: float = 1.0


def compare_interleaved(latencies: Sequence[InterleavedLatency], limit: Limit) -> list[Outcome]:
    """Compare interleaved latencies of two installations: of each cell, and the mean of all, with equal weights."""
    seconds = [(_medians(one.before_s, one.batch_size), _medians(one.after_s, one.batch_size)) for one in latencies]
    count = f"{len(seconds[0][0])} sessions" if seconds else ""
    timed = [_interleaved(one.cell, *both, f"means of {count}") for one, both in zip(latencies, seconds, strict=True)]
    if len(latencies) > 1:
        usual = np.array([fmean(before) for before, _ in seconds])
        before, after = (
            usual.mean() * (np.array(cells) / usual[:, None]).mean(axis=0) for cells in zip(*seconds, strict=True)
        )
        together = _interleaved("all cells", before.tolist(), after.tolist(), f"means over cells and {count}")
        timed.append(replace(together, weight=float(len(latencies))))
    return _decide(timed, limit)


def _medians(sessions: Sequence[Sequence[float]], batch_size: int) -> list[float]:
    return [median(seconds) / batch_size for seconds in sessions]


def _interleaved(label: str, before: list[float], after: list[float], note: str) -> _Timed:
    def test(slower: bool, limit: float) -> float:
        return later_interleaved(*((before, after) if slower else (after, before)), limit)

    return _Timed(label, fmean(before), fmean(after), test, note)


def later_interleaved(before: Sequence[float], after: Sequence[float], limit: float) -> float:
    """p-value of the hypothesis that `after` is not above `before` by more than the limit, of sessions that are pairs.

    Student's t of their ratios, which a machine that gets slower does not change. `before` was first in even sessions,
    `after` in odd ones, and the first may be slower by some per cent; so each order has its own mean, and the middle of
    both is tested (the analysis of a crossover trial).
    """
    from scipy.stats import ttest_ind

    beyond = np.asarray(after) / np.asarray(before) - 1 - limit / fmean(before)
    return float(ttest_ind(beyond[::2], -beyond[1::2], alternative="greater").pvalue)


def compare_latencies(pairs: Sequence[tuple[Pair, Latency, Latency]], limit: Limit) -> list[Outcome]:
    """Latencies of two runs on one machine: each cell, and all cells together, each sample in units of its own cell."""
    cells = [_OfRuns.of(pair.label, old, new) for pair, old, new in pairs]
    fewest = min((len(samples) for cell in cells for samples in (cell.before, cell.after)), default=0)
    timed = [cell.timed(f"medians of {fewest} or more samples each") for cell in cells]
    if len(cells) > 1:
        together = _OfRuns.together(cells).timed(f"medians over {len(cells)} cells")
        timed.append(replace(together, weight=float(len(cells))))
    return _decide(timed, limit)


def pace_of(before: Latency, after: Latency) -> float:
    """Return the ratio of the machine's workload times, later to earlier run; 1 where that was not timed."""
    if not before.workload_s or not after.workload_s:
        return 1.0
    return median(after.workload_s) / median(before.workload_s)


@dataclass(frozen=True)
class _OfRuns:
    """Seconds per image of two runs: as measured, and what they would be at one pace of the machine."""

    label: str
    before: _Floats
    after: _Floats
    before_at_pace: _Floats
    after_at_pace: _Floats

    @classmethod
    def of(cls, label: str, old: Latency, new: Latency) -> _OfRuns:
        if not old.workload_s or not new.workload_s:
            before, after = (np.array(latency.call_s) / latency.batch_size for latency in (old, new))
            return cls(label, before, after, before, after)
        (before, old_pace), (after, new_pace) = _samples(old), _samples(new)
        usual = median(old_pace)
        return cls(label, before, after, before * usual / old_pace, after * usual / new_pace)

    @classmethod
    def together(cls, cells: Sequence[_OfRuns]) -> _OfRuns:
        """All samples of all cells, each relative to what is usual for its cell, times the mean of what is usual."""
        usual = [(median(cell.before), median(cell.before_at_pace)) for cell in cells]
        mean = fmean(raw for raw, _ in usual)
        columns = ("before", 0), ("after", 0), ("before_at_pace", 1), ("after_at_pace", 1)
        return cls(
            "all cells",
            *(
                mean * np.concatenate([getattr(cell, name) / of[which] for cell, of in zip(cells, usual, strict=True)])
                for name, which in columns
            ),
        )

    def timed(self, note: str) -> _Timed:
        return _Timed(self.label, float(median(self.before)), float(median(self.after)), self._test, note)

    def _test(self, slower: bool, limit: float) -> float:
        pairs = (self.before, self.after), (self.before_at_pace, self.after_at_pace)
        return max(later(*(both if slower else both[::-1]), limit) for both in pairs)


def _samples(latency: Latency) -> tuple[_Floats, _Floats]:
    """Mean seconds per image of the calls between two reference workloads, and the seconds of those."""
    samples = [
        (fmean(call for call, _ in calls) / latency.batch_size, pace)
        for pace, calls in groupby(zip(latency.call_s, latency.workload_s, strict=True), key=itemgetter(1))
    ]
    seconds, paces = np.array(samples).T
    return seconds, paces


def later(before: _Floats, after: _Floats, limit: float) -> float:
    """p-value of the hypothesis that `after` is not larger than `before` by more than the limit, by ranks."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(after - limit, before, alternative="greater").pvalue)


def _decide(timed: Sequence[_Timed], limit: Limit) -> list[Outcome]:
    """Return an outcome for each, with Holm's procedure over all of them."""
    weights = [entry.weight for entry in timed]
    allowed = [limit.of(entry.before) for entry in timed]
    bounded = list(zip(timed, allowed, strict=True))
    worse = holm([entry.test(True, bound) for entry, bound in bounded], weights)
    better = holm([entry.test(False, bound) for entry, bound in bounded], weights)
    outcomes = []
    for (entry, bound), slower, faster in zip(bounded, worse, better, strict=True):
        verdict = "undecided"
        if slower < LEVEL:
            verdict = "regressed"
        elif faster < LEVEL:
            verdict = "improved"
        elif max(entry.test(True, -bound), entry.test(False, -bound)) < LEVEL:
            verdict = "unchanged"
        numbers = (entry.before, entry.after, None, bound)
        outcomes.append(
            Outcome("cost", entry.label, "latency_s", verdict, *numbers, f"{entry.note}, seconds per image")
        )
    return outcomes
