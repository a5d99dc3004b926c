"""Kernel distances: unbiased MMD² (Gretton et al. 2012, JMLR 13:723, eq. 3). numpy only.

Of KID (Bińkowski et al. 2018, arXiv 1801.01401) with k(x, y) = (x·y/d + 1)³, of CMMD (Jayasumana et al. 2024, arXiv
2401.09603) with the Gaussian exp(−‖x − y‖²/(2·10²)) of vectors of unit length, times 1000. The U-statistic over all
pairs is used, not an average over random subsets, and so it has no bias. Its variance has a part of single images,
4 ζ₁/n, and a part of pairs, 2 η²/(n(n − 1)), η² the variance of the kernel less what single images explain (Hoeffding
1948, Ann. Math. Stat. 19:293, eq. 5.13); near the reference's distribution the second is all there is. Both are
estimated without bias (η² by U-centring: Székely and Rizzo 2014, arXiv 1310.2926).

With δ what the two mean embeddings differ by and Σ the covariance of the images' embedding, the first part is 4 δᵀΣδ/n.
Where the noise in δ makes the estimate too low, it makes this too low as well: the regression of one on the other has
the slope (4/n) δᵀΣ²δ/δᵀΣδ, which is the `variance_slope` of the variance that intervals take into account. Σδ is the
mean of embeddings weighted by influences, so δᵀΣ²δ is a mean over pairs of images.

Where prompts repeat, the mean over pairs of images of different prompts has no bias, that over all pairs has one. All
of the above then holds with the sums of kernels over the images of either prompt in place of kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.score.estimate import NONE, ROUNDING, Estimate
from bench.score.groups import Groups, describe_sample, independent
from bench.score.moments import check_features, overlap, row_keys

_Floats = NDArray[np.float64]
_Rows = NDArray[np.intp]
_Images = NDArray[np.floating]
_FEWEST = 50
"""Fewer images than this have no interval."""
TILE = 512
"""The number of images compared with as many others at once: their kernels fit into the processor's cache."""
_PAIRS = 8192
"""The number of pairs of images that represent all in the variance of a difference."""


Kernel = Callable[[_Floats, int], _Floats]
"""A function from inner products of features, and their dimension, to kernel values; it may overwrite the products."""
CMMD_SCALE, CMMD_WIDTH = 1000.0, 10.0
"""The bandwidth and factor of Jayasumana et al. (section 4)."""


def cubic(products: _Floats, d: int) -> _Floats:
    """KID's kernel, by multiplication, which is many times faster than a power."""
    products /= d
    products += 1
    cubes: _Floats = products * products
    cubes *= products
    return cubes


def gaussian(products: _Floats, d: int) -> _Floats:
    """CMMD's kernel of vectors of unit length, of which ‖x − y‖² = 2 − 2 x·y."""
    products -= 1
    products /= CMMD_WIDTH**2
    return np.exp(products, out=products)


@dataclass(frozen=True)
class KernelReference:
    """Reference features (m, d), and their contribution to every kernel distance, computed once.

    Kernels are computed in the precision `dtype`; what is summed over tiles of images is float64 in either.
    """

    features: _Images
    kernel: Kernel = cubic
    dtype: type[np.floating] = np.float64

    @cached_property
    def keys(self) -> frozenset[int]:
        """Keys of the rows, which identify them among images."""
        return frozenset(row_keys(self.features))

    @cached_property
    def among(self) -> Among:
        """Kernels of the reference with itself."""
        return among(self.features, self.kernel, dtype=self.dtype)

    @classmethod
    def of_directions(cls, features: _Images) -> KernelReference:
        """Create from the features' directions, for CMMD."""
        return cls(to_unit_length(features), gaussian)


def cmmd_estimate(features: _Images, reference: KernelReference, groups: Groups | None = None) -> Estimate:
    """CMMD of features (n, d) of any length from `KernelReference.of_directions`.

    `value` is the V-statistic that the authors' code prints, `debiased` the U-statistic. Raises ValueError as
    `kernel_estimate` does, and for features of length 0.
    """
    _check(features, reference)
    unit = to_unit_length(features)
    own = among(unit, gaussian, groups)
    found = _estimate(unit, own, reference, False, groups)
    value = found.value + own.lift + reference.among.lift
    return replace(found, value=value, debiased=found.debiased_value).scaled(CMMD_SCALE)


def to_unit_length(features: _Images) -> _Floats:
    """Return rows divided by their lengths, float64; raises ValueError for a row of length 0."""
    rows = np.asarray(features, np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not lengths.all():
        raise ValueError("features of length 0 were given, which have no direction; look for broken images")
    return rows / lengths


def kernel_estimate(
    features: _Images, reference: KernelReference, reference_noise: bool = False, groups: Groups | None = None
) -> Estimate:
    """MMD² of features (n, d) and a reference (m, d), which is held fixed unless `reference_noise`.

    `value` is over all pairs of images, `debiased` over those of different `groups`, if there are any. Raises
    ValueError for fewer than two images, values not finite, or another dimension than the reference's.
    """
    _check(features, reference)
    own = among(features, reference.kernel, groups, reference.dtype)
    return _estimate(features, own, reference, reference_noise, groups)


def _check(features: _Images, reference: KernelReference) -> None:
    check_features(reference.features, "reference features")
    check_features(features, d=reference.features.shape[1])


def _estimate(
    features: _Images, own: Among, reference: KernelReference, reference_noise: bool, groups: Groups | None
) -> Estimate:
    n, m = len(features), len(reference.features)
    theirs, apart = reference.among, across(features, reference, groups)
    level = theirs.mean - 2 * float(apart.by_image.mean())
    problem = overlap(row_keys(features), reference.keys)
    if min(independent(groups, n), m if reference_noise else n) < _FEWEST:
        problem = (
            f"{describe_sample(groups, n)} and {m} reference images were given; an interval needs at least {_FEWEST}"
            f"{' prompts' if groups else ''}"
        )
    interactions = {"images": own.pairs}
    if reference_noise:
        interactions |= {"reference": theirs.pairs, "cross": apart.pairs}
    influence = 2 * (own.influence - apart.by_image + apart.by_image.mean())
    return Estimate(
        own.mean + level,
        influence,
        groups=groups,
        debiased=None if groups is None else own.apart + level,
        reference=2 * (theirs.influence - apart.by_reference + apart.by_reference.mean()) if reference_noise else NONE,
        interactions=interactions,
        variance_slope=slope_of_variance(influence, own, groups) * (1 + n / m if reference_noise else 1),
        resolution=ROUNDING**2 * float(np.finfo(np.float64).eps) * (abs(own.mean) + abs(theirs.mean)),
        exact=True,
        problem=problem,
    )


@lru_cache(maxsize=64)
def random_pairs(n: int, m: int, count: int) -> tuple[_Rows, _Rows]:
    """Return pairs of a row of n and another of m (the same set where m is n), equal for every set of that size."""
    rng = np.random.default_rng([n, m])
    first, step = rng.integers(0, n, count), rng.integers(1, max(n, 2), count)
    second = (first + step) % n if n == m else rng.integers(0, m, count)
    for rows in (first, second):
        rows.setflags(write=False)  # they are shared
    return first, second


@dataclass(frozen=True)
class Among:
    """Kernels of a set with itself: mean over pairs, influence (n,) on half of it, variance added by pairs.

    `apart` is the mean over pairs of different groups, which the rest is about. `centred` are the kernels of
    `random_pairs` of units (images, or groups) less what single units explain, which `pairs` are in another scale.
    `lift` is by how much the mean over all n², an image with itself counted, is above the mean over pairs.
    """

    mean: float
    apart: float
    influence: _Floats
    centred: _Floats
    pairs: _Floats
    lift: float


@dataclass(frozen=True)
class Across:
    """Kernels of images with reference images: means over either, and the variance added by pairs of the two."""

    by_image: _Floats
    by_reference: _Floats
    pairs: _Floats


def among(
    features: _Images, kernel_of: Kernel, groups: Groups | None = None, dtype: type[np.floating] = np.float64
) -> Among:
    """Return the kernels of features (n, d) with themselves, in the precision `dtype` where there are no groups."""
    if groups is not None:
        return _among_groups(np.asarray(features, np.float64)[groups.order], kernel_of, groups)
    n, d = features.shape
    rows, squares, own = np.zeros(n), 0.0, 0.0
    whole = np.asarray(features, dtype)
    for i in _tiles(n):
        for j in _tiles(n, i.start):
            kernel = kernel_of(whole[i] @ whole[j].T, d)
            if i == j:
                own += float(np.trace(kernel))
                np.fill_diagonal(kernel, 0.0)
            else:  # and the same the other way round
                rows[j] += kernel.sum(axis=0)
            rows[i] += kernel.sum(axis=1)
            squares += (1 if i == j else 2) * float(np.vdot(kernel, kernel))
    total = float(rows.sum())
    mean = total / (n * (n - 1))
    lift = (own / n - mean) / n
    if n < 4:
        return Among(mean, mean, np.zeros(n), NONE, NONE, lift)
    first, second = random_pairs(n, n, _PAIRS)
    apart = kernel_of(_products(whole[first], whole[second]), d)
    return _hoeffding(mean, rows, squares, apart, lift)


def _hoeffding(mean: float, rows: _Floats, squares: float, apart: _Floats, lift: float) -> Among:
    """Create from the kernel of n units: sums `rows` (n,) and `squares` off its diagonal, and random pairs."""
    n, total = len(rows), float(rows.sum())
    power = squares - 2 * float(rows @ rows) / (n - 2) + total**2 / ((n - 1) * (n - 2))
    first, second = random_pairs(n, n, _PAIRS)
    centred = apart - (rows[first] + rows[second]) / (n - 2) + total / ((n - 1) * (n - 2))
    doubled = 4 / (n * (n - 2)) - 2 / (n * (n - 1))  # what s²(influence)/n has of η² too much
    pairs = _scaled(centred, doubled * power / (n * (n - 3)))
    return Among(mean, mean, (rows - rows.mean()) / (n - 2), centred, pairs, lift)


def _among_groups(ordered: _Floats, kernel_of: Kernel, groups: Groups) -> Among:
    """As `among` of features sorted by group, with the sums of kernels over two groups as the kernel of the two.

    On the scale of one pair of images, and less the mean over pairs of different groups, so that sizes may differ.
    """
    (n, d), count, sizes = ordered.shape, groups.count, groups.sizes.astype(np.float64)
    rows, squares, crossed, within, own = np.zeros(count), 0.0, 0.0, 0.0, 0.0
    first, second = random_pairs(count, count, _PAIRS)
    apart = np.zeros(_PAIRS)
    tiles = groups.tiles(TILE)
    for number, (i, a) in enumerate(tiles):
        for j, b in tiles[number:]:
            kernel = kernel_of(ordered[i] @ ordered[j].T, d)
            if i == j:
                own += float(np.trace(kernel))
            sums = np.add.reduceat(kernel, groups.starts[a] - i.start, axis=0)
            sums = np.add.reduceat(sums, groups.starts[b] - j.start, axis=1)
            if i == j:
                within += float(np.trace(sums))
                np.fill_diagonal(sums, 0.0)
            else:
                rows[b] += sums.sum(axis=0)
            rows[a] += sums.sum(axis=1)
            times = 1 if i == j else 2
            squares += times * float(np.vdot(sums, sums))
            crossed += times * float(sizes[a] @ sums @ sizes[b])
            for one, other in ((first, second), (second, first)):
                here = _within(one, a) & _within(other, b)
                apart[here] = sums[one[here] - a.start, other[here] - b.start]
    total, of_sizes = float(rows.sum()), float(np.square(sizes).sum())
    mean, found = (total + within - own) / (n * (n - 1)), total / (n**2 - of_sizes) if count > 1 else 0.0
    lift = (own / n - mean) / n
    if count < 4:
        return Among(mean, found, np.zeros(n), NONE, NONE, lift)
    scale = (count / n) ** 2  # of one pair of images, where groups are of one size
    squares += found**2 * (of_sizes**2 - float((sizes**4).sum())) - 2 * found * crossed
    rows = scale * (rows - found * sizes * (n - sizes))
    apart = scale * (apart - found * sizes[first] * sizes[second])
    units = _hoeffding(mean, rows, scale**2 * squares, apart, lift)
    return replace(units, apart=found, influence=groups.spread(units.influence))


def across(features: _Images, reference: KernelReference, groups: Groups | None = None) -> Across:
    """Return the kernels of features (n, d) with a reference."""
    n, m, d = len(features), len(reference.features), features.shape[1]
    by_image, by_reference, squares = np.zeros(n), np.zeros(m), 0.0
    whole = np.asarray(reference.features, reference.dtype)
    count = n if groups is None else groups.count
    first, second = random_pairs(count, m, _PAIRS)
    apart = np.zeros(_PAIRS)
    order = None if groups is None else groups.order
    for i, units in [(i, i) for i in _tiles(n)] if groups is None else groups.tiles(TILE):
        rows = i if order is None else order[i]
        ours = np.asarray(features[rows], reference.dtype)
        for j in _tiles(m):
            kernel = reference.kernel(ours @ whole[j].T, d)
            by_image[rows] += kernel.sum(axis=1) / m
            by_reference[j] += kernel.sum(axis=0) / n
            if groups is not None:
                kernel = np.add.reduceat(kernel, groups.starts[units] - i.start, axis=0) * (count / n)
                here = _within(first, units) & _within(second, j)
                apart[here] = kernel[first[here] - units.start, second[here] - j.start]
            squares += float(np.vdot(kernel, kernel))
    mean = float(by_image.mean())
    by_unit = by_image
    if groups is None:
        apart = reference.kernel(_products(np.asarray(features[first], reference.dtype), whole[second]), d)
    else:
        by_unit = groups.units(by_image)
    n = count
    centred = squares - m * float(by_unit @ by_unit) - n * float(by_reference @ by_reference) + n * m * mean**2
    pairs = apart - by_unit[first] - by_reference[second] + mean
    return Across(by_image, by_reference, _scaled(pairs, 4 / (n * m) * centred / max(1, (n - 1) * (m - 1))))


def slope_of_variance(influence: _Floats, own: Among, groups: Groups | None) -> float:
    """Return the slope of the variance in the true value (see above), at least 0."""
    units = influence if groups is None else groups.units(influence)
    n, variance = len(units), float(np.var(units))
    if not len(own.centred) or variance == 0:
        return 0.0
    first, second = random_pairs(n, n, _PAIRS)
    return max(4 / n * float(np.mean(units[first] * units[second] * own.centred)) / variance, 0.0)


def _within(rows: _Rows, part: slice) -> NDArray[np.bool_]:
    """Return which rows are in a slice."""
    return (rows >= part.start) & (rows < part.stop)


def _tiles(count: int, start: int = 0) -> list[slice]:
    """Return slices of TILE rows from `start` on."""
    return [slice(at, min(at + TILE, count)) for at in range(start, count, TILE)]


def _scaled(pairs: _Floats, variance: float) -> _Floats:
    """Scale pairs to the mean square `variance` of all pairs, in place of that of the sample."""
    power = float(np.mean(np.square(pairs)))
    return pairs * np.sqrt(max(variance, 0.0) / power) if power > 0 else pairs


def _products(a: _Floats, b: _Floats) -> _Floats:
    """Inner products of rows with rows, one by one."""
    return np.einsum("pd,pd->p", a, b)
