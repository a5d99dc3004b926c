"""Latency before and after, of two runs on one machine or of two installations that took turns.

Of two runs by a rank test of all raw samples (Mann and Whitney 1947), shifted by the limit, so that no distribution is
assumed. But a cell's samples were taken within a moment, and moments differ. By how much tells the yardstick, a fixed
piece of work that is timed around each cell's calls: a difference counts only where it also lies beyond what the
yardstick varied by within a run, and where both is so at the yardstick's own pace as well.

Where both sides took turns, by Student's t over the sittings: what one pair of processes has in common, calls cannot
average out. Either way each cell is judged (by Holm), and all of them together, where what slows every cell a little is
seen first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, median

import numpy as np
from scipy.special import stdtr

from bench.judge.claims import LEVEL, holm
from bench.judge.gate.cells import Pair
from bench.judge.gate.outcome import Outcome
from bench.records import Latency, Turns
from bench.request import Limit


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


def compare_turns(turns: Sequence[Turns], limit: Limit) -> list[Outcome]:
    """Latencies of two installations that took turns: each cell, and the mean of all, each weighing as much."""
    sides = [(_medians(entry.before_s, entry.batch_size), _medians(entry.after_s, entry.batch_size)) for entry in turns]
    count = f"{len(sides[0][0])} sittings" if sides else ""
    outcomes = _judge(
        [_in_turn(t.cell, *both) for t, both in zip(turns, sides, strict=True)], limit, f"means of {count}"
    )
    if len(turns) > 1:
        usual = np.array([fmean(before) for before, _ in sides])
        before, after = (
            usual.mean() * (np.array(side) / usual[:, None]).mean(axis=0) for side in zip(*sides, strict=True)
        )
        together = _in_turn("all cells", before.tolist(), after.tolist())
        outcomes += _judge([together], limit, f"means over cells and {count}")
    return outcomes


def _medians(sittings: Sequence[Sequence[float]], batch_size: int) -> list[float]:
    return [median(seconds) / batch_size for seconds in sittings]


def _in_turn(label: str, before: list[float], after: list[float]) -> _Timed:
    def test(slower: bool, limit: float) -> float:
        return later_in_turn(*((before, after) if slower else (after, before)), limit)

    return _Timed(label, fmean(before), fmean(after), test)


def later_in_turn(before: Sequence[float], after: Sequence[float], limit: float) -> float:
    """p-value of the hypothesis that `after` is not above `before` by more than the limit, of sittings that are pairs.

    Student's t of their ratios, which a machine that gets slower leaves alone. `before` was first in even sittings and
    `after` in odd ones, and whoever is first may be slower by some per cent; so each order has a mean of its own, and
    what is tested is the middle of both (the analysis of a crossover trial).
    """
    from scipy.stats import ttest_ind

    beyond = np.asarray(after) / np.asarray(before) - 1 - limit / fmean(before)
    return float(ttest_ind(beyond[::2], -beyond[1::2], alternative="greater").pvalue)


def compare_latencies(pairs: Sequence[tuple[Pair, Latency, Latency]], limit: Limit) -> list[Outcome]:
    """Latencies of two runs on one machine: each cell, and all together where the yardstick was timed."""
    unsteady = Unsteadiness.of([[old for _, old, _ in pairs], [new for _, _, new in pairs]])
    timed = [_of_runs(pair.label, old, new, unsteady) for pair, old, new in pairs]
    fewest = min((len(latency.call_s) for _, *both in pairs for latency in both), default=0)
    outcomes = _judge(timed, limit, f"medians of {fewest} or more samples a side")
    if len(pairs) > 1 and unsteady is not None:
        outcomes += _judge(
            [_together(timed, [pace_of(*both) for _, *both in pairs], unsteady)], limit, "means over cells"
        )
    return outcomes


def pace_of(before: Latency, after: Latency) -> float:
    """How much longer the machine took for its yardstick on the later side; 1 where that was not measured."""
    if not before.yardstick_s or not after.yardstick_s:
        return 1.0
    return median(after.yardstick_s) / median(before.yardstick_s)


@dataclass(frozen=True)
class Unsteadiness:
    """How much what the same work takes differs between moments of a run: deviation of its logarithm, and freedom."""

    deviation: float
    freedom: int

    @classmethod
    def of(cls, runs: Sequence[Sequence[Latency]]) -> Unsteadiness | None:
        """From the yardsticks before and after each cell's calls; None where they were not timed."""
        residuals: list[float] = []
        freedom = 0
        for run in runs:
            halves = chain.from_iterable(_halves(latency.yardstick_s) for latency in run)
            logs = np.log([median(half) for half in halves if half])
            if len(logs) > 1:
                residuals += (logs - logs.mean()).tolist()
                freedom += len(logs) - 1
        return cls(math.sqrt(float(np.square(residuals).sum()) / freedom), freedom) if freedom else None

    def test(self, ratio: float, pace: float, limit: float, cells: int = 1) -> float:
        """p-value of the hypothesis that a ratio of latencies is no larger than `limit`, as it is and at that pace.

        Each side is a moment of its own; the pace is known from two moments of either side.
        """
        if self.deviation == 0:
            return float(min(ratio, ratio / pace) <= limit)
        views = ((ratio, 2.0), (ratio / pace, 3.0))
        return max(
            float(stdtr(self.freedom, -math.log(value / limit) / (self.deviation * math.sqrt(variance / cells))))
            for value, variance in views
        )


def _halves(seconds: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    return seconds[: len(seconds) // 2], seconds[len(seconds) // 2 :]


def _of_runs(label: str, old: Latency, new: Latency, unsteady: Unsteadiness | None) -> _Timed:
    before, after = ([seconds / latency.batch_size for seconds in latency.call_s] for latency in (old, new))
    pace = pace_of(old, new)
    centres = median(before), median(after)

    def test(slower: bool, limit: float) -> float:
        sides = [(before, after), (before, [seconds / pace for seconds in after])]
        ranks = max(later(*(both if slower else both[::-1]), limit) for both in sides)
        first, last = centres if slower else centres[::-1]
        if unsteady is None:
            return ranks
        return max(ranks, unsteady.test(last / first, pace if slower else 1 / pace, 1 + limit / first))

    return _Timed(label, *centres, test)


def _together(cells: Sequence[_Timed], paces: Sequence[float], unsteady: Unsteadiness) -> _Timed:
    """All cells as one: the mean of their ratios' logarithms."""
    ratio, pace = (math.exp(fmean(map(math.log, x))) for x in ([cell.after / cell.before for cell in cells], paces))
    before = fmean(cell.before for cell in cells)

    def test(slower: bool, limit: float) -> float:
        found = (ratio, pace) if slower else (1 / ratio, 1 / pace)
        return unsteady.test(*found, 1 + limit / before, len(cells))

    return _Timed("all cells", before, before * ratio, test)


def later(before: Sequence[float], after: Sequence[float], limit: float) -> float:
    """p-value of the hypothesis that `after` is not larger than `before` by more than the limit, by ranks."""
    from scipy.stats import mannwhitneyu

    shifted = np.asarray(after) - limit
    return float(mannwhitneyu(shifted, np.asarray(before), alternative="greater").pvalue)


def _judge(timed: Sequence[_Timed], limit: Limit, note: str) -> list[Outcome]:
    """By Holm over all that is given, as quality is judged."""
    allowed = [limit.of(entry.before) for entry in timed]
    judged = list(zip(timed, allowed, strict=True))
    worse = holm([entry.test(True, bound) for entry, bound in judged])
    better = holm([entry.test(False, bound) for entry, bound in judged])
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
        outcomes.append(Outcome("cost", entry.label, "latency_s", verdict, *numbers, f"{note}, seconds an image"))
    return outcomes
