"""Fréchet distance between feature sets (Heusel et al. 2017, arXiv 1706.08500, eq. 6), with its error. numpy only.

‖m − m_r‖² + tr(S) + tr(S_r) − 2 tr((S S_r)^½), the covariances with divisor n − 1, as torchmetrics defines it.

The distance of n images is too large by about a/n + b/n², with many dimensions by more than the distance itself.
Here each image is left out in turn, and each pair, which needs no further eigendecomposition (bench.score.jackknife).
The mean of the pseudo-values n F − (n − 1) F_without has lost a (Quenouille 1956), and b with the pairs (Schucany, Gray
and Owen 1971, J. Am. Stat. Assoc. 66:524). The standard error is the jackknife's (Tukey 1958) of the value without a,
J: the spread of n J − (n − 1) J_without. That of F alone would count how far one rare image bends the distance, which J
does not follow: of heavy-tailed features at n/d = 3 it is half again too wide. As n/d grows these
pseudo-values become the influence function 2 (x − m)·(m − m_r) + (x − m)ᵀ (I − T) (x − m) − tr((I − T) S), T the
transport map (limit law: Rippl, Munk, Sturm, arXiv 1507.04090); at small n/d they are right where it is not
(scripts/calibration/scores.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.score.eigen import between_lower, eigenvectors, is_lower_triangular, lower_times
from bench.score.estimate import ROUNDING, Estimate
from bench.score.groups import Groups, describe_sample, independent
from bench.score.jackknife import Deletions, Spectrum, Whitened
from bench.score.kernel import KernelReference, kernel_estimate, random_pairs
from bench.score.kernel_in_parts import InParts, part_count
from bench.score.moments import (
    BLOCK,
    Moments,
    as_floats,
    check_features,
    features_to_moments,
    float64_blocks,
    overlap,
    row_keys,
)

_Floats = NDArray[np.float64]
_Images = NDArray[np.floating]
_FEWEST = 200
"""Fewer images have no interval at any dimension: with skewed features 160 cover a difference in 92.9%, since few
images lack the rare ones that make up the variance."""
NEEDS_FEATURES = "needs the features of reference images, of which only mean and covariance are known"
_PAIRS = 2048
"""The number of pairs of images that sample the interactions."""
MANY_DIMENSIONS = 512
"""The number of dimensions from which on products of triangular matrices and single precision save time."""
MOST_LOSS = 1e-3
"""The most that single precision may take of a coordinate; what it does to a sum over all images is corrected."""


@dataclass(frozen=True)
class Reference:
    """The contribution of a reference set to every distance from it; each part is computed once, when first needed.

    `parts` are the results of an earlier computation, which are not computed again. Where a mean and a covariance are
    all that is known of the reference, they are among the parts, and there are no features (0, d).
    """

    features: _Images
    parts: Mapping[str, _Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, features: ArrayLike, parts: Mapping[str, _Floats] | None = None) -> Reference:
        """Create from features (m, d) as given to distances; raises ValueError for fewer than two rows, or NaN."""
        rows = as_floats(features)
        check_features(rows, "reference features")
        return cls(rows, parts or {})

    @classmethod
    def of_moments(cls, mean: ArrayLike, covariance: ArrayLike) -> Reference:
        """Create from mean (d,) and covariance (d, d), divisor n − 1: enough for Fréchet distances, for no other."""
        parts = {"mean": np.asarray(mean, np.float64), "covariance": np.asarray(covariance, np.float64)}
        return cls(np.zeros((0, len(parts["mean"]))), parts)

    @property
    def has_images(self) -> bool:
        """Whether the features of its images are known."""
        return len(self.features) > 0

    @property
    def d(self) -> int:
        """Dimension."""
        return int(self.features.shape[1])

    @cached_property
    def moments(self) -> Moments:
        """Mean and covariance of the features, with their number where they are known."""
        if "covariance" in self.parts:
            return Moments(self.parts["mean"], self.parts["covariance"], len(self.features))
        return features_to_moments(self.features)

    @cached_property
    def mean(self) -> _Floats:
        """Mean of the features, (d,)."""
        found = self.parts.get("mean")
        return self.moments.mean if found is None else found

    @cached_property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(self.parts["trace"] if "trace" in self.parts else np.trace(self.moments.covariance))

    @cached_property
    def factor(self) -> _Floats:
        """L (d, r) with L Lᵀ the covariance and r its rank; for m < d from the m × m Gram matrix.

        Lower triangular for a large covariance of full rank.
        """
        if "factor" in self.parts:
            return self.parts["factor"]
        m = len(self.features)
        if m > self.d or not self.has_images:
            covariance = self.moments.covariance
            if self.d >= MANY_DIMENSIONS and _positive(np.asarray(np.linalg.eigvalsh(covariance), np.float64)).all():
                return np.asarray(np.linalg.cholesky(covariance), np.float64)
            values, vectors = np.linalg.eigh(covariance)
            kept = _positive(values)
            return vectors[:, kept] * np.sqrt(values[kept])
        rows = (self.features.astype(np.float64) - self.moments.mean) / np.sqrt(m - 1)
        values, vectors = np.linalg.eigh(rows @ rows.T)
        return rows.T @ vectors[:, _positive(values)]

    @cached_property
    def is_triangular(self) -> bool:
        """Whether the factor is lower triangular."""
        return is_lower_triangular(self.factor)

    def to_parts(self) -> dict[str, _Floats]:
        """Return all parts that can be stored: `Reference.of(features, parts)` computes nothing again."""
        return {"mean": self.mean, "trace": np.array(self.trace), "factor": self.factor}

    @cached_property
    def kernel(self) -> KernelReference:
        """The same features for the kernel distance; raises ValueError where they are not known."""
        if not self.has_images:
            raise ValueError(f"the kernel distance {NEEDS_FEATURES}")
        return KernelReference(self.features)

    @cached_property
    def in_parts(self) -> InParts:
        """The same for kernel distances from parts of the images."""
        return InParts.of(self.kernel.features)


def frechet_estimate(
    features: _Images, reference: Reference, reference_noise: bool = False, groups: Groups | None = None
) -> Estimate:
    """The squared Fréchet (2-Wasserstein) distance of the Gaussians that fit features (n, d) and the reference (m, d).

    The reference is held fixed unless `reference_noise`: then its images are left out in turn as well. tr((S S_r)^½) is
    taken from the eigenvalues of Lᵀ S L, L Lᵀ = S_r: symmetric, no general matrix square root; for fewer images than
    dimensions from those of an n × n Gram matrix, without an interval. Where there is a caveat, the kernel distance is
    its fallback (`kernel_fallback`). Raises ValueError for fewer than two images, values not finite, another dimension
    than the reference's, or reference noise of a reference without features; such a one gives no fallback.
    """
    check_features(features, d=reference.d)
    if reference_noise and not reference.has_images:
        raise ValueError(f"the reference's own noise {NEEDS_FEATURES}")
    estimate = _estimate(features, reference, reference_noise, groups)
    if estimate.caveat is None or not reference.has_images:
        return estimate
    return replace(estimate, fallback=kernel_fallback(features, reference, reference_noise, groups))


def kernel_fallback(
    features: _Images, reference: Reference, reference_noise: bool = False, groups: Groups | None = None
) -> Estimate:
    """Return the kernel distance that replaces a Fréchet distance without an interval, and costs no more than it.

    From parts of the images (bench.score.kernel_in_parts) where there are many images of many dimensions; else, where
    prompts repeat, and with `reference_noise`, from all pairs. Raises as `kernel_estimate` does.
    """
    n, m, d = len(features), len(reference.features), reference.d
    if d < MANY_DIMENSIONS or groups is not None or reference_noise or part_count(n, m, d) == 1:
        return kernel_estimate(features, reference.kernel, reference_noise, groups)
    check_features(features, d=d)
    return reference.in_parts.estimate(features, reference.kernel.keys)


def _estimate(features: _Images, reference: Reference, reference_noise: bool, groups: Groups | None) -> Estimate:
    ours, keys = _distance(features, reference, groups), row_keys(features)
    shared = overlap(keys, reference.kernel.keys) if reference.has_images else None
    problem = shared or ours.problem or _repeats(keys, reference, groups)
    estimate = replace(ours, problem=problem, fallback_name="kernel distance")
    if not reference_noise or estimate.problem:
        return estimate
    theirs = _distance(reference.features, Reference.of(features))
    if theirs.problem:
        return replace(estimate, problem=f"the reference's own noise is not known: {theirs.problem}")
    return replace(
        estimate,
        debiased=estimate.debiased_value + theirs.debiased_value - theirs.value,
        reference_bias=theirs.value - theirs.debiased_value,
        correction=estimate.correction + theirs.correction,
        reference=theirs.influence,
        interactions={**estimate.interactions, "reference": theirs.interactions["images"]},
    )


def _fewest(rank: int) -> int:
    """Return the largest insufficient number: with heavy tails, 2 × rank gives a standard error a fifth too wide."""
    return 2 * (rank + 2)


def _distance(features: _Images, reference: Reference, groups: Groups | None = None) -> Estimate:
    """Return the estimate with the reference held fixed; the value alone, with a problem, where it has no error."""
    n, rank, units = len(features), reference.factor.shape[1], " prompts" if groups else ""
    sample, enough = describe_sample(groups, n), independent(groups, n)
    if rank == 0:
        problem = "the reference images do not vary"
    elif enough <= _fewest(rank):
        problem = f"{sample} are too few for a covariance of rank {rank}: it takes more than {_fewest(rank)}{units}"
    else:
        found = _leave_out(features, features_to_moments(features), reference, groups)
        if isinstance(found, Estimate):
            few = f"{sample} are too few for an interval: it takes {_FEWEST}{units} or more"
            return replace(found, problem=few if enough < _FEWEST else None)
        problem = (
            f"the images do not vary in {found} of the {rank} dimensions in which the reference images do; check for "
            "identical images or constant features"
        )
    return Estimate(bare_distance(features, reference), np.zeros(n), groups=groups, problem=problem)


def _repeats(keys: list[int], reference: Reference, groups: Groups | None) -> str | None:
    """Describe why equal images leave too few distinct images; else None."""
    n, different, fewest = len(keys), len(set(keys)), 2 * _fewest(reference.factor.shape[1])
    if different == n or (groups is None and different > fewest) or (groups and independent(groups, n) > fewest):
        return None
    return (
        f"{n - different} of {n} images are equal to another; an interval then needs more than {fewest} distinct images"
    )


def bare_distance(features: _Images, reference: Reference) -> float:
    """Return the value alone, by the smaller of the two symmetric eigenvalue problems."""
    factor, moments = reference.factor, features_to_moments(features)
    if len(features) < factor.shape[1]:
        rows = (features.astype(np.float64) - moments.mean) @ factor / np.sqrt(len(features) - 1)
        product = rows @ rows.T
    else:
        product = factor.T @ moments.covariance @ factor
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(product), 0, None))
    traces = float(np.trace(moments.covariance)) + reference.trace
    return _squared_shift(moments, reference) + traces - 2 * float(roots.sum())


def _leave_out(
    features: _Images, moments: Moments, reference: Reference, groups: Groups | None = None
) -> Estimate | int:
    """Return the distance without one or two images or groups; or the number of the reference's missing dimensions."""
    n = len(features)
    values, basis = _decompose(moments, reference)
    if not (kept := _positive(values)).all():
        return int((~kept).sum())
    spectrum: Spectrum = Spectrum.of(values)
    shift, trace = moments.mean - reference.mean, float(np.trace(moments.covariance))
    fixed = reference.trace
    value = _squared_shift(moments, reference) + trace + fixed - 2 * spectrum.root_trace
    if groups is not None:
        return _leave_out_groups(features, moments, spectrum, basis, shift, fixed, groups)
    if len(values) >= MANY_DIMENSIONS and _loss(basis, values, trace) < MOST_LOSS:
        spectrum, basis = Whitened.of(values), (basis / np.sqrt(values)).astype(np.float32)
    forms, norms, along, pairs = [], [], [], []
    for block in float64_blocks(features):
        block -= moments.mean
        coordinates = block.astype(basis.dtype, copy=False) @ basis
        forms.append(spectrum.forms(np.square(coordinates), n))
        norms.append(np.square(block).sum(axis=1))
        along.append(block @ shift)
        first, second = random_pairs(len(block), len(block), round(_PAIRS * len(block) / n))
        pairs.append(spectrum.interactions(coordinates, first, second))
    of_all = spectrum.with_totals(np.concatenate(forms))
    without = _without_one_and_two(spectrum.deletions(of_all), *map(np.concatenate, (norms, along)))
    one, two = (rest + fixed + _squared_shift(moments, reference) for rest in without)
    first_step = value - (n - 1) * float((one - value).mean())
    pseudo = n * first_step - (n - 1) * ((n - 1) * one - (n - 2) * two)
    # Schucany, Gray and Owen 1971: (n² F − 2 (n − 1)² F₋₁ + (n − 2)² F₋₂)/2, without its cancellation.
    debiased = value - (n - 1) ** 2 * float((one - value).mean()) + (n - 2) ** 2 * float((two - value).mean()) / 2
    return Estimate(
        value,
        pseudo - pseudo.mean(),
        debiased,
        debiased - first_step,
        plug_in=value,
        resolution=_resolution(n, trace + fixed),
        interactions={"images": np.concatenate(pairs) / (np.sqrt(2) * n)},
    )


def _decompose(moments: Moments, reference: Reference) -> tuple[_Floats, _Floats]:
    """Return the eigenvalues (r,) of Lᵀ S L, and L times its eigenvectors (d, r)."""
    factor = reference.factor
    if factor.shape[1] < MANY_DIMENSIONS:
        values, vectors = np.linalg.eigh(factor.T @ moments.covariance @ factor)
        return values, factor @ vectors
    if reference.is_triangular:
        values, vectors = eigenvectors(between_lower(factor, moments.covariance))
        return values, lower_times(factor, vectors)
    values, vectors = eigenvectors(factor.T @ moments.covariance @ factor)
    return values, factor @ vectors


def _loss(basis: _Floats, values: _Floats, trace: float) -> float:
    """Return how much of a coordinate of unit variance is lost in single precision, where images cancel in it."""
    lengths = np.linalg.norm(basis, axis=0) / np.sqrt(values)
    return float(np.finfo(np.float32).eps * np.sqrt(trace) * lengths.max())


def _leave_out_groups(
    features: _Images,
    moments: Moments,
    spectrum: Spectrum,
    basis: _Floats,
    shift: _Floats,
    fixed: float,
    groups: Groups,
) -> Estimate:
    """The same with all images of a group left out, and all of two: a group is a unit as an image is elsewhere.

    Where sizes differ, the jackknife is weighted: Σ_g (1 − m_g/n) (F_without − F) takes the place of (n − 1) times the
    mean (Busing, Meijer and van der Leeden 1999, Stat. Comput. 9:3).
    """
    n, count, sizes = len(features), groups.count, groups.sizes.astype(np.float64)
    rows, norms = np.zeros((n, basis.shape[1])), np.zeros(count)
    sums = np.zeros((count, features.shape[1]))
    for begun, block in zip(range(0, n, BLOCK), float64_blocks(features[groups.order]), strict=True):
        block -= moments.mean
        rows[begun : begun + len(block)] = block @ basis
        of_block = groups.labels[groups.order[begun : begun + len(block)]]
        norms += np.bincount(of_block, np.square(block).sum(axis=1), count)
        np.add.at(sums, of_block, block)
    constant = fixed + float(shift @ shift)
    value = constant + float(np.trace(moments.covariance)) - 2 * spectrum.root_trace
    deletions = spectrum.group_deletions(rows, groups)
    own, along, total = np.square(sums).sum(axis=1), sums @ shift, float(norms.sum())
    left = n - sizes
    traces = (total - norms - own / left) / (left - 1)
    one = own / left**2 - 2 / left * along + traces - 2 * deletions.one
    fewer = left - left / (count - 1)  # without another group too, of mean size
    both = own + (float(own.sum()) - own) / (count - 1) - 2 * own / (count - 1)  # |s + s'|², mean over the others s'
    traces = (total - norms - (total - norms) / (count - 1) - both / fewer) / (fewer - 1)
    two = both / fewer**2 - 2 / fewer * along * (1 - 1 / (count - 1)) + traces - 2 * deletions.two
    first_weights, second_weights = 1 - sizes / n, 1 - sizes / n - (1 - sizes / n) / (count - 1)
    one, two = (without + constant - value for without in (one, two))
    after_one = one - (count - 2) * (two - one)  # of the value without its first-order bias
    units = -count * first_weights * (after_one - after_one.mean())
    first_step = value - float(first_weights @ one)
    debiased = (
        value
        - (count - 1) * float(first_weights @ one)
        + (count - 2) ** 2 / 2 * float(second_weights @ two) / float(second_weights.sum())
    )
    return Estimate(
        value,
        groups.spread(units - units.mean()),
        debiased,
        debiased - first_step,
        plug_in=value,
        groups=groups,
        resolution=_resolution(n, fixed),
        interactions={"images": spectrum.group_interactions(rows, groups) / (np.sqrt(2) * n**2 / count)},
    )


def _without_one_and_two(deletions: Deletions, norms: _Floats, along: _Floats) -> tuple[_Floats, _Floats]:
    """Return the distance without each image in turn (n,), and without it and another, mean over the others (n,).

    Less what no image changes: the squared shift of the means, and the reference's trace. `norms` (n,) are |x − m|²,
    `along` (n,) are (x − m)·(m − m_r).
    """
    n, total = len(norms), norms.sum()
    shifts, traces = norms / (n - 1) ** 2, (total - n / (n - 1) * norms) / (n - 2)
    one = shifts - 2 / (n - 1) * along + traces - 2 * deletions.one
    both = norms + (total - 3 * norms) / (n - 1)  # |x − m + x' − m|², mean over the others x'
    traces = ((n - 2) / (n - 1) * (total - norms) - both / (n - 2)) / (n - 3)
    return one, both / (n - 2) ** 2 - 2 / (n - 1) * along + traces - 2 * deletions.two


def _positive(values: _Floats) -> NDArray[np.bool_]:
    """Return which eigenvalues are not rounding errors of zero."""
    return values > max(values.max(initial=0.0), 0.0) * len(values) * np.finfo(np.float64).eps


def _resolution(n: int, traces: float) -> float:
    """Return the rounding error of influences: n² times that of the traces, since pairs are left out as well."""
    return ROUNDING * n**2 * float(np.finfo(np.float64).eps) * traces


def _squared_shift(moments: Moments, reference: Reference) -> float:
    shift = moments.mean - reference.mean
    return float(shift @ shift)
