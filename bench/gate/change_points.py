"""Steps and drifts in a series of numbers, where nothing is known of its distribution.

A step is found by the statistic of Pettitt (1979, Appl. Statist. 28:126), the largest of Mann and Whitney's over all
splits, with its p-value by permutation, and placed where two levels explain most of the ranks; both parts are searched
again. Where a straight line fits a stretch better than
two levels it is a drift, tested by Kendall's tau against time (Mann 1945, Econometrica 13:245).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHANGE_LEVEL = 0.01
"""Chance of a step or drift in a series without any; of each series on its own."""
FEWEST_GATES = 8
"""The shortest series in which anything can be found at that level."""
_PERMUTATIONS = 999
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SeriesChange:
    """A `step` at index `at`, the first of the new level, or a `drift` from `at` to `until`, both included."""

    kind: str
    at: int
    until: int
    before: float
    after: float
    p_value: float


def find_changes(values: Sequence[float]) -> list[SeriesChange]:
    """Return the steps and drifts of a series, in order."""
    series = np.asarray(values, float)
    return sorted(_changes_in(series, 0), key=lambda change: change.at)


def _changes_in(series: _Floats, start: int) -> Iterator[SeriesChange]:
    if len(series) < FEWEST_GATES or np.all(series == series[0]):
        return
    split, p_value = _pettitt(series)
    if p_value > CHANGE_LEVEL:
        return
    left, right = series[:split], series[split:]
    line = np.polyval(np.polyfit(np.arange(len(series)), series, 1), np.arange(len(series)))
    around_levels = float(((left - left.mean()) ** 2).sum() + ((right - right.mean()) ** 2).sum())
    if float(((series - line) ** 2).sum()) < around_levels:
        from scipy.stats import kendalltau

        trend = float(kendalltau(np.arange(len(series)), series).pvalue)
        if trend <= CHANGE_LEVEL:
            end = start + len(series) - 1
            yield SeriesChange("drift", start, end, float(line[0]), float(line[-1]), trend)
            return
    yield from _changes_in(left, start)
    yield SeriesChange("step", start + split, start + split, float(np.median(left)), float(np.median(right)), p_value)
    yield from _changes_in(right, start + split)


def _pettitt(series: _Floats) -> tuple[int, float]:
    """Return the index at which the second part begins, and the p-value."""
    from scipy.stats import rankdata

    ranks = rankdata(series)
    rng = np.random.default_rng(0)  # the same series has the same answer
    shuffled = rng.permuted(np.tile(ranks, (_PERMUTATIONS, 1)), axis=1)
    statistic, largest = _splits(ranks), np.abs(_splits(shuffled)).max(axis=1)
    reached = int((largest >= np.abs(statistic).max()).sum())
    places = np.arange(1, len(series))
    explained = statistic**2 / (places * (len(series) - places))  # of the ranks' sum of squares, by two levels
    return int(explained.argmax()) + 1, (1 + reached) / (1 + _PERMUTATIONS)


def _splits(ranks: _Floats) -> _Floats:
    """Return Pettitt's U for each split after the first, second, … value; over the last axis."""
    count = ranks.shape[-1]
    splits: _Floats = 2 * np.cumsum(ranks, axis=-1)[..., :-1] - np.arange(1, count) * (count + 1)
    return splits
