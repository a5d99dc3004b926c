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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from bench.analysis.claims import LEVEL, holm
from bench.gate.outcome import Outcome, verdict_of
from bench.gate.pairing import Pair
from bench.records.record import InterleavedLatency, Latency
from bench.records.run import CostLimits, Limit

_Floats = NDArray[np.float64]
_Pair = tuple[_Floats, _Floats]


@dataclass(frozen=True)
class _Timed:
    """Samples of a latency before and after, in seconds per image, and their test.

    `samples` are pairs: first as measured, then as they would be at one pace of the machine, where that is known.
    `later(before, after, limit)` is the p-value of the hypothesis that `after` is not above `before` by more than the
    limit.
    """

    label: str
    samples: tuple[_Pair, ...]
    middle: Callable[[_Floats], float]
    later: Callable[[_Floats, _Floats, float], float]
    note: str
    weight: float = 1.0
    interval: tuple[float, float] | None = None

    @property
    def before(self) -> float:
        return float(self.middle(self.samples[0][0]))

    @property
    def after(self) -> float:
        return float(self.middle(self.samples[0][1]))

    def test(self, slower: bool, limit: float) -> float:
        """p-value of the hypothesis that the later side is not slower (or not faster) by more than the limit."""
        return max(self.later(*(pair if slower else pair[::-1]), limit) for pair in self.samples)


def compare_interleaved(latencies: Sequence[InterleavedLatency], limits: CostLimits) -> list[Outcome]:
    """Compare what two installations took in turn: seconds and, on a GPU, joules per image; first calls apart.

    Seconds are one family of tests, joules another. First calls, in which a model may be compiled or kernels chosen,
    are measured and have no limit.
    """
    seconds = [
        (one.cell, (_medians(one.before_s, one.batch_size), _medians(one.after_s, one.batch_size))) for one in latencies
    ]
    joules = [
        (one.cell, (_medians(one.before_j, one.batch_size), _medians(one.after_j, one.batch_size)))
        for one in latencies
        if one.before_j and one.after_j
    ]
    return [
        *_decide(_in_turn(seconds), limits.latency_interleaved),
        *_decide(_in_turn(joules), limits.energy, "energy_j", "joules per image"),
        *(outcome for one in latencies for outcome in _first_calls(one)),
    ]


def _in_turn(cells: Sequence[tuple[str, _Pair]]) -> list[_Timed]:
    """Each cell, and the mean of all with equal weights."""
    pairs = [pair for _, pair in cells]
    count = f"{len(pairs[0][0])} sessions" if pairs else ""

    def timed(label: str, pair: _Pair, note: str, weight: float = 1.0) -> _Timed:
        return _Timed(label, (pair,), fmean, later_interleaved, note, weight, interval_interleaved(*pair))

    found = [timed(label, pair, f"means of {count}{_processes(*pair)}") for label, pair in cells]
    if len(cells) > 1:
        usual = np.array([entry.before for entry in found])
        before, after = (
            usual.mean() * (np.array(cells) / usual[:, None]).mean(axis=0) for cells in zip(*pairs, strict=True)
        )
        found.append(timed("all cells", (before, after), f"means over cells and {count}", float(len(cells))))
    return found


def _processes(before: _Floats, after: _Floats) -> str:
    """How much two fresh processes differ beyond what slows both: the effect of a process, of this cell."""
    ratios = np.log(after / before)
    orders = [ratios[::2], ratios[1::2]]
    spread = float(np.sqrt(fmean(float(order.var(ddof=1)) for order in orders))) if len(ratios) >= 4 else 0.0
    return f", whose processes differ by {spread / 2**0.5:.1%}" if spread else ""


def _first_calls(one: InterleavedLatency) -> Iterator[Outcome]:
    """The first calls of fresh processes, with Student's interval of the difference over sessions."""
    if not one.before_first_s or len(one.before_first_s) != len(one.after_first_s):
        return
    before, after = np.array(one.before_first_s), np.array(one.after_first_s)
    note = f"means of the first calls of {len(before)} processes each, seconds per call of {one.batch_size} images"
    interval = interval_interleaved(before, after)
    yield Outcome("cost", one.cell, "first_call_s", "measured", fmean(before), fmean(after), interval, None, note)


def _medians(sessions: Sequence[Sequence[float]], batch_size: int) -> _Floats:
    return np.array([median(seconds) / batch_size for seconds in sessions])


def later_interleaved(before: _Floats, after: _Floats, limit: float) -> float:
    """p-value of the hypothesis that `after` is not above `before` by more than the limit, of sessions that are pairs.

    Student's t of their ratios, which a machine that gets slower does not change. `before` was first in even sessions,
    `after` in odd ones, and the first may be slower by some per cent; so each order has its own mean, and the middle of
    both is tested (the analysis of a crossover trial).
    """
    from scipy.stats import ttest_ind

    beyond = after / before - 1 - limit / fmean(before)
    return float(ttest_ind(beyond[::2], -beyond[1::2], alternative="greater").pvalue)


def interval_interleaved(before: _Floats, after: _Floats) -> tuple[float, float] | None:
    """95% interval of `after` − `before` by the same analysis; None of fewer than two sessions of either order."""
    from scipy.stats import ttest_ind

    change = after / before - 1
    if len(change) < 4:
        return None
    bounds = ttest_ind(change[::2], -change[1::2]).confidence_interval(1 - LEVEL)
    return float(bounds.low / 2 * fmean(before)), float(bounds.high / 2 * fmean(before))


def compare_latencies(pairs: Sequence[tuple[Pair, Latency, Latency]], limit: Limit) -> list[Outcome]:
    """Latencies of two runs on one machine: each cell, and all cells together, each sample in units of its own cell."""
    cells = [(pair.label, _samples_of(old, new)) for pair, old, new in pairs]
    fewest = min((len(samples) for _, (measured, _) in cells for samples in measured), default=0)
    note = f"medians of {fewest} or more samples each"
    timed = [_Timed(label, samples, median, later, note) for label, samples in cells]
    if len(cells) > 1:
        note = f"medians over {len(cells)} cells"
        timed.append(_Timed("all cells", _together(timed), median, later, note, float(len(cells))))
    return _decide(timed, limit)


def pace_of(before: Latency, after: Latency) -> float:
    """Return the ratio of the machine's workload times, later to earlier run; 1 where that was not timed."""
    if not before.workload_s or not after.workload_s:
        return 1.0
    return median(after.workload_s) / median(before.workload_s)


def _samples_of(old: Latency, new: Latency) -> tuple[_Pair, _Pair]:
    """Seconds per image of two runs: as measured, and what they would be at one pace of the machine."""
    if not old.workload_s or not new.workload_s:
        measured = np.array(old.call_s) / old.batch_size, np.array(new.call_s) / new.batch_size
        return measured, measured
    (before, old_pace), (after, new_pace) = _samples(old), _samples(new)
    usual = median(old_pace)
    return (before, after), (before * usual / old_pace, after * usual / new_pace)


def _together(cells: Sequence[_Timed]) -> tuple[_Pair, _Pair]:
    """All samples of all cells, each relative to what is usual for its cell, times the mean of what is usual."""
    mean = fmean(cell.before for cell in cells)

    def relative(kind: int, side: int) -> _Floats:
        return mean * np.concatenate([cell.samples[kind][side] / median(cell.samples[kind][0]) for cell in cells])

    return (relative(0, 0), relative(0, 1)), (relative(1, 0), relative(1, 1))


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


def _decide(
    timed: Sequence[_Timed], limit: Limit, quantity: str = "latency_s", unit: str = "seconds per image"
) -> list[Outcome]:
    """Return an outcome for each, with Holm's procedure over all of them."""
    weights = [entry.weight for entry in timed]
    bounded = [(entry, limit.of(entry.before)) for entry in timed]
    worse = holm([entry.test(True, bound) for entry, bound in bounded], weights)
    better = holm([entry.test(False, bound) for entry, bound in bounded], weights)
    outcomes = []
    for (entry, bound), slower, faster in zip(bounded, worse, better, strict=True):
        verdict = verdict_of(slower, faster, max(entry.test(True, -bound), entry.test(False, -bound)), LEVEL)
        numbers, note = (entry.before, entry.after, entry.interval, bound), f"{entry.note}, {unit}"
        outcomes.append(Outcome("cost", entry.label, quantity, verdict, *numbers, note))
    return outcomes
