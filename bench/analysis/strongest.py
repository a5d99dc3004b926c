"""Sides whose guidance scale is chosen: how much better one is than the other, each at its best scale.

The truth is max_g S(g) − max_h O(h), over the scales of the subject and of the object, larger scores being better. With
one scale each it is a paired difference. Otherwise:

- The prompts are split into two halves. On each half the best scale of a side is chosen, and judged on the other half,
  so that the noise that made it look best does not count. The shown gain is the mean of both halves' (cross-fitting:
  every image judges once). Scores that are not means, such as distances, are computed for each half on its own,
  against the same reference, without the bias of that half's number of images. Each half brings its own influences:
  together there is one for each image.
- A choice may miss the best scale, so a chosen object is at most as good as the best one. That the subject beats it is
  not enough: to support a claim the subject has to beat the object at every scale, on all images. That needs neither a
  choice nor a correction (intersection–union test: Berger 1982, Technometrics 24:295).
- A subject that loses to a chosen scale loses to the best one, so cross-fitting is right for a refutation. (A chosen
  subject is handled the other way round: a support goes by its choices, a refutation by all of its scales.)
- Where scales are equally good, chance decides what a half chooses, the same chance by which its other scales look
  worse when they are judged there, so that the two judgements are correlated. Their covariance is 1/2π = .159 times the
  variance of the difference of two scales on a half; of three scales .179 times, of more less. `TOGETHER` times that
  variance is added, for scales that may be best. (Where one is slightly better than the others the covariance may be
  larger, but then a wrong choice overestimates the gain by more than that.)
- Where a half has no interval, all images choose and judge, and p-values are multiplied by the number of scales that
  were chosen from (Bonferroni).

scripts/calibration/strongest.py simulates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.analysis.scoring import ScoredCell
from bench.records.cell import plain_number
from bench.score.estimate import Estimate, mean_estimate, paired_difference
from bench.score.groups import Groups
from bench.score.metrics import Metric

Rows = NDArray[np.intp]
TOGETHER = 0.18
"""The covariance of the judgements of two halves, in variances of the difference of two scales on a half."""
AS_GOOD = 3.0
"""The number of standard errors within which a scale may be the best one."""
SEED = 0


@dataclass(frozen=True)
class Scale:
    """A score at one guidance scale: of all images, and of either half (None where it cannot be computed)."""

    guidance: float
    whole: Estimate
    halves: tuple[Estimate, Estimate] | None = None


@dataclass(frozen=True)
class Gains:
    """How much better the subject is. `shown` is the estimate, `chosen` the scales of subject and object, by half.

    The gain is above a threshold if for one of the alternatives in `above` all gains are, and likewise `below` one.
    `best` are the positions of the scales that are best over all images. `halves` tells whether halves chose.
    """

    shown: Estimate
    above: tuple[tuple[Estimate, ...], ...]
    below: tuple[tuple[Estimate, ...], ...]
    chosen: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    best: tuple[int, int] = (0, 0)
    halves: bool = True

    @classmethod
    def of_one(cls, gain: Estimate) -> Gains:
        """Create from the gain of one cell over another."""
        return cls(gain, ((gain,),), ((gain,),))

    @property
    def caveat(self) -> str | None:
        """The reason why the interval would not hold; None where it holds."""
        tested = (gain for row in (*self.above, *self.below) for gain in row)
        return next((gain.caveat for gain in (self.shown, *tested) if gain.caveat), None)

    def choices(self, subject: str, other: str) -> str:
        """Return the chosen guidance scales in words, with the names of the sides; empty where there was no choice."""
        told = []
        for name, scales in zip((subject, other), self.chosen, strict=True):
            if not scales:
                continue
            first, last = plain_number(scales[0]), plain_number(scales[-1])
            by = "both halves of the prompts" if self.halves else "all images, since a half has no interval"
            if first != last:
                by = f"one half of the prompts, {last} by the other"
            told.append(f"{name} at its best: guidance {first} by {by}")
        return "; ".join(told)

    def p_above(self, threshold: float) -> float:
        """Return the p-value of the hypothesis that the gain is not above a threshold."""
        found = (max(gain.scaled(1.0, -threshold).p_value("greater") for gain in row) for row in self.above)
        return min(1.0, len(self.above) * min(found))

    def p_below(self, threshold: float) -> float:
        """Return the p-value of the hypothesis that the gain is not below a threshold."""
        found = (max(gain.scaled(-1.0, threshold).p_value("greater") for gain in row) for row in self.below)
        return min(1.0, len(self.below) * min(found))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the values that are rejected on neither side by a test at a one-sided level."""
        low = max(min(gain.interval(1 - 2 * level / len(self.above))[0] for gain in row) for row in self.above)
        high = min(max(gain.interval(1 - 2 * level / len(self.below))[1] for gain in row) for row in self.below)
        return low, high


def gains_of(
    metric: Metric,
    ours: Sequence[ScoredCell],
    theirs: Sequence[ScoredCell],
    our_scores: Sequence[Estimate],
    their_scores: Sequence[Estimate],
) -> Gains:
    """Return the gains of a subject over an object, each with one cell, and its score, for each guidance scale.

    Raises ValueError where images cannot be paired, Damaged for a feature file.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    if len(ours) == len(theirs) == 1:
        return Gains.of_one(paired_difference(our_scores[0], their_scores[0]).scaled(sign))
    rows = split_prompts(our_scores[0].groups, our_scores[0].n)
    mine, yours = (
        [
            Scale(cell.record.cell.guidance_scale, whole, _halves(metric, cell, whole, rows))
            for cell, whole in zip(cells, scores, strict=True)
        ]
        for cells, scores in ((ours, our_scores), (theirs, their_scores))
    )
    return best_gains(mine, yours, sign, rows)


def _halves(
    metric: Metric, cell: ScoredCell, whole: Estimate, rows: tuple[Rows, Rows]
) -> tuple[Estimate, Estimate] | None:
    """Return a cell's score of either half; None where it cannot be computed."""
    if metric.score not in cell.halves:
        found: Sequence[Estimate] = ()
        with suppress(ValueError):  # a half may be too small
            if whole.mean_of and not metric.of_prompts:
                found = [mean_of_rows(whole, own) for own in rows]
            elif cell.source is not None:
                found = cell.source.estimate_parts(cell.record, metric, rows)
        cell.halves[metric.score] = (found[0], found[1]) if found else None
    return cell.halves[metric.score]


def split_prompts(groups: Groups | None, n: int) -> tuple[Rows, Rows]:
    """Return the images of either half: all of a prompt are in one, and of each two prompts in turn one in each.

    Which one is drawn from a fixed seed, so that an image stays in its half when more images follow.
    """
    prompt = np.arange(n)
    if groups is not None:
        _, first = np.unique(groups.labels, return_index=True)
        prompt = np.argsort(np.argsort(first))[groups.labels]  # numbered as they come
    count = int(prompt.max(initial=0)) + 1
    drawn = np.random.default_rng(SEED).random(count // 2 + 1) < 0.5
    number = np.arange(count)
    in_first = (number % 2 == 0) == drawn[number // 2]
    return np.flatnonzero(in_first[prompt]), np.flatnonzero(~in_first[prompt])


def mean_of_rows(whole: Estimate, rows: Rows) -> Estimate:
    """Return a mean over some images from the mean over all, to the same definition; raises ValueError for no rows."""
    values = whole.value + whole.influence[rows]
    shares = whole.mean_of == "shares"
    labels = None if whole.groups is None else whole.groups.labels[rows]
    part = mean_estimate(np.clip(values, 0, 1) if shares else values, Groups.of(labels, len(rows)), shares)
    return replace(part, resolution=max(part.resolution, whole.resolution))


def join_halves(halves: Sequence[Estimate], rows: Sequence[Rows], groups: Groups | None) -> Estimate:
    """Return the mean of two halves' estimates, weighted by their images, with one influence for each image."""
    n = sum(map(len, rows))
    shares, influence = [len(own) / n for own in rows], np.zeros(n)
    units = [half.groups.count if half.groups else half.n for half in halves]
    for half, own, count in zip(halves, rows, units, strict=True):
        lost = count / max(count - 1, 1) * (sum(units) - 1) / sum(units)  # each half's mean takes a degree of freedom
        influence[own] = np.sqrt(lost) * half.influence

    value, debiased, correction = (
        float(np.dot(shares, parts))
        for parts in zip(*((half.value, half.debiased_value, half.correction) for half in halves), strict=True)
    )
    kinds = set.intersection(*(set(half.interactions) for half in halves))
    pairs = {
        kind: [share * half.interactions[kind] for share, half in zip(shares, halves, strict=True)] for kind in kinds
    }
    return Estimate(
        value,
        influence,
        debiased if any(half.debiased is not None for half in halves) else None,
        correction,
        groups=groups,
        interactions={  # whose mean square is the sum of both halves'
            kind: np.concatenate([part * np.sqrt(sum(map(len, parts)) / max(len(part), 1)) for part in parts])
            for kind, parts in sorted(pairs.items())
        },
        resolution=max(half.resolution for half in halves),
        mean_of=halves[0].mean_of,
        exact=all(half.exact for half in halves),
        problem=next((half.problem for half in halves if half.problem), None),
    )


def best_gains(ours: Sequence[Scale], theirs: Sequence[Scale], sign: float, rows: tuple[Rows, Rows]) -> Gains:
    """Return the gains of a subject over an object, each at its best scale; `sign` is −1 where smaller is better."""
    found = _cross_fitted(ours, theirs, sign, rows)
    return found if found is not None else _of_all_images(ours, theirs, sign)


def _gain(subject: Estimate, other: Estimate, sign: float) -> Estimate:
    return paired_difference(subject, other).scaled(sign)


def _cross_fitted(ours: Sequence[Scale], theirs: Sequence[Scale], sign: float, rows: tuple[Rows, Rows]) -> Gains | None:
    """Return the gains by both halves; None where one has no interval."""
    groups = ours[0].whole.groups
    sides = [[scale.halves for scale in side if scale.halves is not None] for side in (ours, theirs)]
    if len(sides[0]) < len(ours) or len(sides[1]) < len(theirs):
        return None
    picked = [[_best([halves[half] for halves in side], sign) for half in (0, 1)] for side in sides]
    judged = [
        join_halves((side[second][0], side[first][1]), rows, groups)  # each by the other's choice
        for side, (first, second) in zip(sides, picked, strict=True)
    ]
    subject, other = judged
    whole = [[join_halves(halves, rows, groups) for halves in side] for side in sides]
    shown = _widened(_widened(_gain(subject, other, sign), theirs, sign), ours, sign)
    above = [
        _gain(ours[0].whole, scale.whole, sign)
        if len(ours) == 1
        else _widened(_gain(subject, joined, sign), ours, sign)
        for scale, joined in zip(theirs, whole[1], strict=True)
    ]
    below = [
        _gain(scale.whole, theirs[0].whole, sign)
        if len(theirs) == 1
        else _widened(_gain(joined, other, sign), theirs, sign)
        for scale, joined in zip(ours, whole[0], strict=True)
    ]
    if any(found.caveat for found in (shown, *above, *below)):
        return None
    chosen = [
        tuple(side[at].guidance for at in own) if len(side) > 1 else ()
        for side, own in zip((ours, theirs), picked, strict=True)
    ]
    best = tuple(_best([scale.whole for scale in side], sign) for side in (ours, theirs))
    return Gains(shown, (tuple(above),), (tuple(below),), (chosen[0], chosen[1]), (best[0], best[1]))


def _of_all_images(ours: Sequence[Scale], theirs: Sequence[Scale], sign: float) -> Gains:
    """Return the gains by all images: the subject wins if one of its scales beats every one of the object's."""
    table = [[_gain(mine.whole, yours.whole, sign) for yours in theirs] for mine in ours]
    best = _best([scale.whole for scale in ours], sign), _best([scale.whole for scale in theirs], sign)
    chosen = [(side[at].guidance,) if len(side) > 1 else () for side, at in zip((ours, theirs), best, strict=True)]
    below = tuple(zip(*table, strict=True))
    return Gains(table[best[0]][best[1]], tuple(map(tuple, table)), below, (chosen[0], chosen[1]), best, halves=False)


def _best(estimates: Sequence[Estimate], sign: float) -> int:
    """Return the position of the best estimate, the first of equal ones."""
    return int(np.argmax([sign * estimate.debiased_value for estimate in estimates]))


def _widened(difference: Estimate, scales: Sequence[Scale], sign: float) -> Estimate:
    """Return a cross-fitted difference with what choices among scales that are as good as equal add to its variance."""
    best = scales[_best([scale.whole for scale in scales], sign)].whole
    near = [scale.whole for scale in scales if _as_good(scale.whole, best, sign)]
    apart = max((paired_difference(a, b).standard_error ** 2 for a in near for b in near if a is not b), default=0.0)
    variance = difference.standard_error**2
    if not variance > 0:
        return difference
    factor = float(np.sqrt(1 + TOGETHER * apart / variance))
    return replace(
        difference,
        influence=factor * difference.influence,
        interactions={kind: factor * pairs for kind, pairs in difference.interactions.items()},
    )


def _as_good(estimate: Estimate, best: Estimate, sign: float) -> bool:
    gap = paired_difference(best, estimate)
    return sign * gap.debiased_value <= AS_GOOD * gap.standard_error
