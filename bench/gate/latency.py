"""Latency before and after, of two runs on one machine or of two installations that took turns.

Of two runs by a rank test (Mann and Whitney 1947), shifted by the limit, so that no distribution is assumed. But
moments of a machine differ. By how much tells the reference workload, a fixed piece of work in turn with the calls: a
difference counts only where it shows both in what the calls took and in units of what the reference workload took about
them. The calls between two turns of the workload are one sample, for what disturbs one of them mostly disturbs the
next.

Where both sides took turns, by Student's t over the sessions: what one pair of processes has in common, calls cannot
average out. Either way each cell is judged, and all of them together, where what slows every cell a little is seen
first. They are one family: by Holm's weighted procedure (1979, Scand. J. Statist. 6:65) half of the level is for all
cells together and half for the cells, and whatever is decided leaves its share to the rest. So no more than 5% of
comparisons call something a regression whose loss is within its limit, and no more than 5% an improvement.
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
    """A latency before and after, seconds an image, and what tests it.

    `test(slower, limit)` is the p-value of the hypothesis that the later side is not slower than the earlier one by
    more than the limit; not faster, where `slower` is False.
    """

    label: str
    before: float
    after: float
    test: Callable[[bool, float], float]
    note: str
    weight: float = 1.0


def compare_interleaved(turns: Sequence[InterleavedLatency], limit: Limit) -> list[Outcome]:
    """Latencies of two installations that took turns: each cell, and the mean of all, each weighing as much."""
    sides = [(_medians(entry.before_s, entry.batch_size), _medians(entry.after_s, entry.batch_size)) for entry in turns]
    count = f"{len(sides[0][0])} sessions" if sides else ""
    timed = [_interleaved(t.cell, *both, f"means of {count}") for t, both in zip(turns, sides, strict=True)]
    if len(turns) > 1:
        usual = np.array([fmean(before) for before, _ in sides])
        before, after = (
            usual.mean() * (np.array(side) / usual[:, None]).mean(axis=0) for side in zip(*sides, strict=True)
        )
        together = _interleaved("all cells", before.tolist(), after.tolist(), f"means over cells and {count}")
        timed.append(replace(together, weight=float(len(turns))))
    return _judge(timed, limit)


def _medians(sessions: Sequence[Sequence[float]], batch_size: int) -> list[float]:
    return [median(seconds) / batch_size for seconds in sessions]


def _interleaved(label: str, before: list[float], after: list[float], note: str) -> _Timed:
    def test(slower: bool, limit: float) -> float:
        return later_in_turn(*((before, after) if slower else (after, before)), limit)

    return _Timed(label, fmean(before), fmean(after), test, note)


def later_in_turn(before: Sequence[float], after: Sequence[float], limit: float) -> float:
    """p-value of the hypothesis that `after` is not above `before` by more than the limit, of sessions that are pairs.

    Student's t of their ratios, which a machine that gets slower leaves alone. `before` was first in even sessions and
    `after` in odd ones, and whoever is first may be slower by some per cent; so each order has a mean of its own, and
    what is tested is the middle of both (the analysis of a crossover trial).
    """
    from scipy.stats import ttest_ind

    beyond = np.asarray(after) / np.asarray(before) - 1 - limit / fmean(before)
    return float(ttest_ind(beyond[::2], -beyond[1::2], alternative="greater").pvalue)


def compare_latencies(pairs: Sequence[tuple[Pair, Latency, Latency]], limit: Limit) -> list[Outcome]:
    """Latencies of two runs on one machine: each cell, and all cells together, each sample in units of its own cell."""
    cells = [_OfRuns.of(pair.label, old, new) for pair, old, new in pairs]
    fewest = min((len(side) for cell in cells for side in (cell.before, cell.after)), default=0)
    timed = [cell.timed(f"medians of {fewest} or more turns a side") for cell in cells]
    if len(cells) > 1:
        together = _OfRuns.together(cells).timed(f"medians over {len(cells)} cells")
        timed.append(replace(together, weight=float(len(cells))))
    return _judge(timed, limit)


def pace_of(before: Latency, after: Latency) -> float:
    """How much longer the machine took for its workload on the later side; 1 where that was not timed."""
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
        (before, old_pace), (after, new_pace) = _turns(old), _turns(new)
        usual = median(old_pace)
        return cls(label, before, after, before * usual / old_pace, after * usual / new_pace)

    @classmethod
    def together(cls, cells: Sequence[_OfRuns]) -> _OfRuns:
        """All turns of all cells, each relative to what is usual for its cell, times the mean of what is usual."""
        usual = [(median(cell.before), median(cell.before_at_pace)) for cell in cells]
        mean = fmean(raw for raw, _ in usual)
        sides = ("before", 0), ("after", 0), ("before_at_pace", 1), ("after_at_pace", 1)
        return cls(
            "all cells",
            *(
                mean * np.concatenate([getattr(cell, name) / of[which] for cell, of in zip(cells, usual, strict=True)])
                for name, which in sides
            ),
        )

    def timed(self, note: str) -> _Timed:
        return _Timed(self.label, float(median(self.before)), float(median(self.after)), self._test, note)

    def _test(self, slower: bool, limit: float) -> float:
        sides = (self.before, self.after), (self.before_at_pace, self.after_at_pace)
        return max(later(*(both if slower else both[::-1]), limit) for both in sides)


def _turns(latency: Latency) -> tuple[_Floats, _Floats]:
    """Mean seconds per image of the calls between two reference workloads, and the seconds of those."""
    turns = [
        (fmean(call for call, _ in calls) / latency.batch_size, pace)
        for pace, calls in groupby(zip(latency.call_s, latency.workload_s, strict=True), key=itemgetter(1))
    ]
    seconds, paces = np.array(turns).T
    return seconds, paces


def later(before: _Floats, after: _Floats, limit: float) -> float:
    """p-value of the hypothesis that `after` is not larger than `before` by more than the limit, by ranks."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(after - limit, before, alternative="greater").pvalue)


def _judge(timed: Sequence[_Timed], limit: Limit) -> list[Outcome]:
    """By Holm over all that is given."""
    weights = [entry.weight for entry in timed]
    allowed = [limit.of(entry.before) for entry in timed]
    judged = list(zip(timed, allowed, strict=True))
    worse = holm([entry.test(True, bound) for entry, bound in judged], weights)
    better = holm([entry.test(False, bound) for entry, bound in judged], weights)
    outcomes = []
    for (entry, bound), slower, faster in zip(judged, worse, better, strict=True):
        verdict = "undecided"
        if slower < LEVEL:
            verdict = "regressed"
        elif faster < LEVEL:
            verdict = "improved"
        elif max(entry.test(True, -bound), entry.test(False, -bound)) < LEVEL:
            verdict = "unchanged"
        numbers = (entry.before, entry.after, None, bound)
        outcomes.append(Outcome("cost", entry.label, "latency_s", verdict, *numbers, f"{entry.note}, seconds an image"))
    return outcomes
