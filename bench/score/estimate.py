"""A number with its uncertainty, carried as one influence value per image.

Every score here is, to first order, a mean over images: value ≈ truth + mean(influence). Its standard error is
sd(influence)/√n, and two methods on the same prompts and latents differ with standard error
sd(influence_a − influence_b)/√n, whatever the score is (delta method). All parts of an estimate are linear in it, so
that a difference of estimates is an estimate again.

Several images of one prompt depend on each other. Where prompts repeat, influences are summed by prompt, and the sums
are the independent values (bench.score.groups). Intervals cover new prompts and new noise together, for fixed reference
images and extractor; those of `within_prompts` cover new noise for the same prompts.

Influence values that are computed by leaving one image out count the joint effect of pairs of images twice (Efron and
Stein 1981, Ann. Statist. 9:586, eq. 2.8). `interactions` samples that part, and it is subtracted; if it is too large,
the interval does not hold.

The interval of a mean, and of a difference of means, holds what Student's or Hall's (1992) interval holds: skewed
values need Hall's, which is too short where tails are heavy on both sides, and Student's is right there. A mean of
shares has Wilson's (bench.score.intervals). Where nearly all units have the same value, neither a mean nor a difference
has an interval. A test rejects what the interval excludes.

All other intervals, and tests, are Student's, with as many degrees of freedom as the variance of the influences has: n
− 1 of normal ones, fewer where their tails are heavy. A squared distance has a first-order variance that grows with it,
so that a low estimate would come with too short an interval. Where it grows in proportion, the interval holds all
values that are not too far from the estimate by their own standard errors, as Wilson's does. Where `variance_slope` is
known, the estimate is a squared length whose noise has variance variance_slope/4 in each of several directions, as many
as the variance of pairs amounts to, and the interval is that of a noncentral χ² (bench.score.noncentral). In one
direction it is Student's on the scale of the root, in very many Student's. scripts/calibration/scores.py measures what
covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.records.score import Fallback, Score
from bench.score.groups import Groups, describe_sample, independent
from bench.score.intervals import wilson_interval, wilson_statistic, with_skewness, without_skewness
from bench.score.noncentral import squared_length_reach

_Floats = NDArray[np.float64]
NONE: _Floats = np.empty(0)
ROUNDING = 16.0
"""Values that differ by at most this many units of the last digit of the largest value count as equal."""
FEWEST = 20
"""Fewer images (prompts, where they repeat) have no interval of a mean: with log-normal values 20 cover 93%."""
FEWEST_APART = 5
"""With fewer images (or prompts) off the most common value, no interval: 5 of 64 or of 1,000 cover 94%."""
FEWEST_OF_TIES = 50
"""With fewer images (or prompts), no interval of a mean difference where most of them are equal in both methods, but
for shares: of 20 or 32 of which one in three differs, by skewed amounts, it covers 98%."""
FEWEST_APART_OF_PROMPTS = 10
"""The same for shares where prompts repeat, whose error is itself estimated from few prompts: 5 of 32 cover 90%."""
LARGEST_INTERACTION = 0.35
"""Largest share of the variance that interactions may have; it is 1/2 where the first order vanishes (S = S_r).

For distances only: differences are too large as often as too small, and their intervals cover at any share.
"""
LARGEST_INTERACTION_OF_KERNEL = 0.45
"""The same for kernel distances. Closer to the reference, an interval has nothing to miss below and covers 98 to 99%;
between, it is the uncertain slope of the variance, low where the estimate is, that makes 92% of 95%. Those that are
left cover 94 to 97% where most are printed, and 93 to 98% where few are.
"""
SMALLEST_VARIANCE = 0.75
"""Smallest variance, in that of the interactions: 1 in truth, less because estimates are bounded from below only."""
LARGEST_CORRECTION = 1.5
"""Largest second step of the bias correction, in standard errors; about a quarter of it remains as bias."""


@dataclass(frozen=True)
class Estimate:
    """A value and the influence (n,) of each image on it; `groups` holds the prompt of each image where prompts repeat.

    `debiased` is the value without its bias, None where the value has none. `correction` is the part of `debiased` that
    the last step of the bias correction made. `plug_in` is given for a squared distance: what the images' own
    distribution has, at least zero. `others` (n_b,) are the influences of a second, unpaired set of images, `reference`
    (m,) those of the reference images where their noise counts. The mean squares of `interactions` are the variances
    that pairs of images add (see above), by kind of pair; `exact` says that they are known exactly, `only_bounds` that
    nothing is known but a variance that is never too small on average. `variance_slope` is
    by how much the variance is larger where the true value is, per unit. `resolution` is the size below which
    influences are rounding errors. `reference_bias` is what the reference's own number of images adds, where `debiased`
    is without it. `mean_of` says of what it is a mean: "values", "shares" from 0 to 1 on the scale of `unit` (slope,
    offset), "differences", or "differences of shares"; None of other scores. `strata` counts the prompts of an estimate
    for fixed prompts. `problem` says why there is no interval, whatever the numbers. `fallback`, of the score
    `fallback_name`, replaces an estimate with a caveat; it is computed by what has the features, once there is one.
    """

    value: float
    influence: _Floats
    debiased: float | None = None
    correction: float = 0.0
    plug_in: float | None = None
    groups: Groups | None = None
    others: _Floats = field(default_factory=lambda: NONE)
    other_groups: Groups | None = None
    reference: _Floats = field(default_factory=lambda: NONE)
    interactions: Mapping[str, _Floats] = field(default_factory=dict)
    variance_slope: float | None = None
    resolution: float = 0.0
    reference_bias: float | None = None
    strata: int = 0
    mean_of: str | None = None
    unit: tuple[float, float] = (1.0, 0.0)
    exact: bool = False
    only_bounds: bool = False
    problem: str | None = None
    fallback: Estimate | None = None
    fallback_name: str = ""

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.influence)

    @property
    def sample(self) -> str:
        """The size of the sample: "512 images", or "512 images of 32 prompts"."""
        return describe_sample(self.groups, self.n) + (f" of {self.strata} prompts" if self.strata else "")

    @property
    def debiased_value(self) -> float:
        """The value without its bias: the centre of intervals and the tested value."""
        return self.value if self.debiased is None else self.debiased

    @cached_property
    def standard_error(self) -> float:
        """The square root of Σ s²(influence)/n over independent sets of images, divisors n − 1, less interactions."""
        whole, together = self._variances
        return float(np.sqrt(max(whole - together, SMALLEST_VARIANCE * together)))

    @cached_property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of the variance: 2 n s⁴/(m₄ − s⁴) of a set, up to n − 1; else Satterthwaite's (1946) sum.

        For a mean n − 1: heavy tails on both sides make its t statistic narrower, and skewness is handled separately.
        """
        if self.mean_of and len(self._sets) == 1:
            return float(max(len(self._sets[0]) - (self.strata or 1), 1))
        shares = [(float(np.var(rows, ddof=1)) / len(rows), _freedom(rows, self.strata)) for rows in self._sets]
        total = sum(variance for variance, _ in shares)
        if total == 0:
            return float(max(len(self._sets[0]) - 1, 1))
        return total**2 / sum(v**2 / freedom for v, freedom in shares)

    @property
    def whole_variance(self) -> float:
        """The variance with the effect of pairs of images counted twice: never too small, for bounds that must hold."""
        return self._variances[0]

    @cached_property
    def _variances(self) -> tuple[float, float]:
        whole = sum(float(np.var(rows, ddof=1)) / len(rows) for rows in self._sets)
        return whole, sum(float(np.mean(np.square(pairs))) for pairs in self.interactions.values() if len(pairs))

    @cached_property
    def _sets(self) -> list[_Floats]:
        """The influences of independent units, images or prompts, by independent set."""
        sets = (self.influence, self.groups), (self.others, self.other_groups), (self.reference, None)
        return [rows if groups is None else groups.units(rows) for rows, groups in sets if len(rows)]

    @cached_property
    def is_constant(self) -> bool:
        """Whether no unit differs from another by more than rounding."""
        return all(float(np.ptp(rows)) <= self.resolution for rows in self._sets)

    @cached_property
    def _apart(self) -> int:
        """The number of units that differ from the most common value; exact up to half of them."""
        return sum(int((np.abs(rows - np.median(rows)) > self.resolution).sum()) for rows in self._sets)

    @property
    def _away_from_bound(self) -> float:
        """The effective number of independent answers, by a share's error, that have the rarer value."""
        share, error = self._share
        return share * (1 - share) / error**2 * min(share, 1 - share)

    @cached_property
    def caveat(self) -> str | None:
        """The reason why the interval would not hold; None where it holds."""
        if self.problem is not None:
            return self.problem
        if self.is_constant:
            return f"all of {self.sample} have the same value, which says nothing about others"
        units = "prompts" if self.groups else "images"
        if self.mean_of and self._apart < FEWEST_APART:
            return f"{self._apart} of {self.sample} differ from all others; an interval needs {FEWEST_APART} {units}"
        independent_units = sum(map(len, self._sets))
        ties = 2 * self._apart < independent_units
        if self.mean_of == "differences" and ties and independent_units < FEWEST_OF_TIES:
            return f"most of {self.sample} are equal in both; an interval then needs {FEWEST_OF_TIES} {units}"
        fewest = FEWEST_APART if self.groups is None else FEWEST_APART_OF_PROMPTS
        if self.mean_of == "shares" and (count := self._away_from_bound) < fewest - 0.5:
            return (
                f"{self.sample} have as much to say as {count:.1f} answers that are not the most common one; it takes "
                f"{fewest}"
            )
        if self.only_bounds:
            return "leaving images out gives an error that may be twice too large, which makes no interval"
        whole, together = self._variances
        largest = LARGEST_INTERACTION if self.plug_in is not None else LARGEST_INTERACTION_OF_KERNEL
        if (self.plug_in is not None or self.variance_slope is not None) and together > largest * whole:
            return (
                f"pairs of images make {together / whole:.0%} of the variance, so the distance is too small, or the "
                "images too few, for an interval"
            )
        if self.exact:
            return None
        if abs(self.correction) > LARGEST_CORRECTION * self.standard_error:
            return (
                f"{self.sample} are too few to remove the bias: the last step of its correction is "
                f"{abs(self.correction) / self.standard_error:.1f} standard errors"
            )
        return None

    @property
    def or_fallback(self) -> Estimate:
        """The estimate whose interval holds: this one, or its fallback where there is a caveat."""
        return self.fallback if self.caveat and self.fallback else self

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The interval around `debiased_value` that covers with probability `level`, if there is no caveat.

        Of means Student's and Hall's together, or Wilson's (see above); else Student's. Of a squared distance it holds
        the t with (d − t)² ≤ q² (SE² + variance_slope (t − d)), d the debiased value: longer above than below.
        """
        from scipy.special import stdtrit  # slow to import, and a plan does not need it

        quantile = float(stdtrit(self.degrees_of_freedom, 0.5 + level / 2))
        if self.mean_of == "shares":
            slope, offset = self.unit
            low, high = sorted(offset + slope * end for end in wilson_interval(*self._share, quantile))
            return low, high
        if self.mean_of:
            below = max(quantile, with_skewness(quantile, self._skewness))
            above = min(-quantile, with_skewness(-quantile, self._skewness))
            return self.debiased_value - below * self.standard_error, self.debiased_value - above * self.standard_error
        if self.variance_slope:
            return self._of_square(quantile)
        variance_slope = self.whole_variance / self.plug_in if self.plug_in else 0.0
        middle = self.debiased_value + quantile**2 * variance_slope / 2
        half = quantile * float(np.hypot(self.standard_error, quantile * variance_slope / 2))
        return middle - half, middle + half

    @cached_property
    def _skewness(self) -> float:
        """Skewness of the mean itself: the third moments of independent units over the cubed error."""
        centred = [rows - rows.mean() for rows in self._sets]
        third = sum(float(np.mean(rows**3)) / len(rows) ** 2 for rows in centred)
        second = sum(float(np.mean(rows**2)) / len(rows) for rows in centred)
        return float(third / second**1.5)

    @property
    def _share(self) -> tuple[float, float]:
        """Share and standard error on the scale from 0 to 1."""
        slope, offset = self.unit
        return (self.debiased_value - offset) / slope, self.standard_error / abs(slope)

    def _of_square(self, quantile: float) -> tuple[float, float]:
        """The interval of a squared length in D directions, of what moves the variance; the rest has no noise.

        With s = variance_slope/4: V₂ = 2 s² D of pairs, whole variance 4 s (|δ + ε|²), so that D = V₂/(2 s²). Where
        not even a length of 0 is too small for the estimate, the lower end is Student's if that is lower.
        """
        whole, together = self._variances
        scale = (self.variance_slope or 0.0) / 4
        below, above = squared_length_reach(whole, together, abs(scale), quantile, quantile * self.standard_error)
        low, high = (below, above) if scale > 0 else (-above, -below)
        return self.debiased_value + low, self.debiased_value + high

    @property
    def error_bars(self) -> tuple[float, float]:
        """How far the 95% interval reaches below and above `debiased_value`; nowhere where there is a caveat."""
        low, high = (self.debiased_value, self.debiased_value) if self.caveat else self.interval()
        return self.debiased_value - low, high - self.debiased_value

    def p_value(self, alternative: str = "two-sided") -> float:
        """p-value of the hypothesis that the true value is zero; 1.0 where no image differs from another.

        `alternative` is "two-sided", or "greater" for the hypothesis that it is not above zero.
        """
        from scipy.special import stdtr

        if self.is_constant:
            return 1.0  # values without variation carry no information
        statistics = self._statistics
        above = max(float(stdtr(self.degrees_of_freedom, -t)) for t in statistics)
        below = max(float(stdtr(self.degrees_of_freedom, t)) for t in statistics)
        return above if alternative == "greater" else min(1.0, 2 * min(above, below))

    @property
    def _statistics(self) -> list[float]:
        """Statistics of the hypothesis that the true value is zero; it must be rejected by each."""
        if self.mean_of == "shares":
            slope, offset = self.unit
            return [float(np.copysign(1.0, slope)) * wilson_statistic(*self._share, -offset / slope)]
        t = self.debiased_value / self.standard_error
        return [t, without_skewness(t, self._skewness)] if self.mean_of else [t]

    def scaled(self, factor: float, offset: float = 0.0) -> Estimate:
        """Return factor × this + offset. The fallback is scaled too, but as another score it cannot take an offset."""
        return replace(
            self,
            value=factor * self.value + offset,
            influence=factor * self.influence,
            debiased=None if self.debiased is None else factor * self.debiased + offset,
            correction=factor * self.correction,
            plug_in=None if self.plug_in is None else factor * self.plug_in,
            others=factor * self.others,
            reference=factor * self.reference,
            interactions={kind: factor * pairs for kind, pairs in self.interactions.items()},
            variance_slope=None if self.variance_slope is None else factor * self.variance_slope,
            resolution=abs(factor) * self.resolution,
            reference_bias=None if self.reference_bias is None else factor * self.reference_bias,
            unit=(factor * self.unit[0], factor * self.unit[1] + offset),
            fallback=None if offset or self.fallback is None else self.fallback.scaled(factor),
        )

    def within_prompts(self) -> Estimate:
        """Return the estimate for the same prompts with new noise, without the variance between prompts; means only.

        Raises ValueError where a prompt has one image.
        """
        if self.groups is None or self.groups.sizes.min() < 2:
            raise ValueError(f"{self.sample} were given; an interval for fixed prompts needs 2 or more of each prompt")
        groups, sizes = self.groups, self.groups.sizes
        centred = self.influence - (np.bincount(groups.labels, self.influence) / sizes)[groups.labels]
        unbiased = np.sqrt(sizes / (sizes - 1) * (self.n - 1) / self.n)[groups.labels]
        few = f"{self.sample} are too few for an interval for fixed prompts: it takes {FEWEST} images more than prompts"
        return replace(
            self,
            influence=centred * unbiased,
            groups=None,
            strata=groups.count,
            problem=few if self.n - groups.count < FEWEST else None,
        )

    def to_score(self) -> Score:
        """Return the estimate as plain data; where there is a caveat, without error and with the fallback."""
        if self.caveat is None:
            sure = self.standard_error, self.debiased_value, self.interval()
            return Score(self.value, *sure, self.n, None, self._prompts, self.reference_bias)
        other = self.or_fallback.to_score() if self.fallback else None
        fallback = Fallback(self.fallback_name, self.caveat, other)
        return Score(self.value, None, None, None, self.n, fallback, self._prompts)

    @property
    def _prompts(self) -> int | None:
        return self.groups.count if self.groups else self.strata or None


def paired_difference(ours: Estimate, theirs: Estimate) -> Estimate:
    """ours − theirs over the same prompts and latents; raises ValueError where images or groups differ in number."""
    if ours.n != theirs.n:
        raise ValueError(f"{ours.n} and {theirs.n} images cannot be paired; sample the same prompts in both cells")
    same = ours.groups is theirs.groups or (ours.groups is not None and ours.groups.same_as(theirs.groups))
    if ours.strata != theirs.strata or not same:
        raise ValueError(f"{ours.sample} and {theirs.sample} cannot be paired row by row; give both the same groups")
    difference = _difference(ours, theirs)
    kinds = ours.interactions.keys() & theirs.interactions.keys()
    return replace(
        difference,
        influence=ours.influence - theirs.influence,
        interactions={kind: ours.interactions[kind] - theirs.interactions[kind] for kind in sorted(kinds)},
    )


def unpaired_difference(ours: Estimate, theirs: Estimate) -> Estimate:
    """Return ours − theirs over independent sets of images; only the reference is shared."""
    difference = _difference(ours, theirs)
    apart = {
        f"{whose} {kind}": pairs
        for whose, estimate in (("our", ours), ("their", theirs))
        for kind, pairs in estimate.interactions.items()
        if kind != "reference"
    }
    if "reference" in ours.interactions and "reference" in theirs.interactions:
        apart["reference"] = ours.interactions["reference"] - theirs.interactions["reference"]
    return replace(difference, others=-theirs.influence, other_groups=theirs.groups, interactions=apart)


def mean_estimate(values: NDArray[np.floating], groups: Groups | None = None, shares: bool = False) -> Estimate:
    """Return the mean of a per-image number (n,), or of `shares` from 0 to 1.

    A mean of few values, even one, has no interval. Raises ValueError for no values, values not finite, or shares
    outside 0 to 1.
    """
    given = np.asarray(values)
    rows = given.astype(np.float64)
    if rows.ndim != 1 or len(rows) < 1 or not np.isfinite(rows).all():
        raise ValueError(f"values of shape {rows.shape} were given; a mean needs values (n,), at least one, all finite")
    if shares and (rows.min() < 0 or rows.max() > 1):
        raise ValueError(f"values from {rows.min():g} to {rows.max():g} were given; shares are from 0 to 1")
    mean = float(rows.mean())
    kind = given.dtype if given.dtype in (np.float16, np.float32) else np.float64
    verb = "is" if len(rows) == 1 else "are"
    few = (
        f"{describe_sample(groups, len(rows))} {verb} too few for an interval of their mean: it takes {FEWEST} or more"
    )
    return Estimate(
        mean,
        rows - mean,
        groups=groups,
        resolution=ROUNDING * float(np.finfo(kind).eps) * float(np.abs(rows).max()),
        mean_of="shares" if shares else "values",
        problem=few if independent(groups, len(rows)) < FEWEST else None,
    )


def _mean_of_difference(ours: str | None, theirs: str | None) -> str | None:
    if not ours or not theirs:
        return None
    return "differences of shares" if ours.endswith("shares") and theirs.endswith("shares") else "differences"


def _freedom(rows: _Floats, strata: int = 0) -> float:
    """Degrees of freedom of the variance of one set of influences, of which each stratum's mean took one."""
    squares = np.square(rows - rows.mean())
    spread = float(np.var(squares))
    most = float(max(len(rows) - (strata or 1), 1))
    return most if spread == 0 else max(1.0, min(most, 2 * len(rows) * float(squares.mean()) ** 2 / spread))


def _difference(ours: Estimate, theirs: Estimate) -> Estimate:
    """All parts that do not depend on whether the images are paired."""
    if len(ours.reference) != len(theirs.reference):
        raise ValueError("the reference's own noise is in one of two scores only; include it in both, or in neither")
    biased = ours.debiased is not None or theirs.debiased is not None
    return Estimate(
        ours.value - theirs.value,
        ours.influence,
        ours.debiased_value - theirs.debiased_value if biased else None,
        ours.correction - theirs.correction,
        groups=ours.groups,
        reference=ours.reference - theirs.reference,
        resolution=max(ours.resolution, theirs.resolution),
        strata=ours.strata,
        mean_of=_mean_of_difference(ours.mean_of, theirs.mean_of),
        exact=ours.exact and theirs.exact,
        only_bounds=ours.only_bounds or theirs.only_bounds,
        problem=ours.problem or theirs.problem,
        fallback_name=ours.fallback_name or theirs.fallback_name,
    )
