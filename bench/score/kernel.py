"""Kernel inception distance (Bińkowski et al. 2018, arXiv 1801.01401): unbiased MMD², cubic polynomial kernel. numpy.

k(x, y) = (x·y/d + 1)³. The U-statistic over all pairs is used, not an average over random subsets, and so it has no
bias. Its variance has a part of single images, 4 ζ₁/n, and a part of pairs, 2 η²/(n(n − 1)), η² the variance of the
kernel less what single images explain (Hoeffding 1948, Ann. Math. Stat. 19:293, eq. 5.13); near the reference's
distribution the second is all there is. Both are estimated without bias (η² by U-centring: Székely and Rizzo 2014,
arXiv 1310.2926).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.score.estimate import NONE, Estimate
from bench.score.moments import check_features, float64_blocks

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Images = NDArray[np.floating]
FEWEST = 20
"""Fewer images than this have no interval."""
PAIRS = 8192
"""How many pairs of images stand for all of them in the variance of a difference."""


@dataclass(frozen=True)
class KernelReference:
    """Reference features (m, d), and what they contribute to every kernel distance, computed once."""

    features: Images

    @cached_property
    def among(self) -> Among:
        """Kernels of the reference with itself."""
        return _among(self.features)


def kernel_estimate(features: Images, reference: KernelReference, reference_noise: bool = False) -> Estimate:
    """MMD² of features (n, d) and a reference (m, d), which is held fixed unless `reference_noise`.

    Raises ValueError for fewer than two images, values not finite, or another dimension than the reference's.
    """
    check_features(reference.features, "reference features")
    check_features(features, d=reference.features.shape[1])
    n, m = len(features), len(reference.features)
    own, theirs, across = _among(features), reference.among, _across(features, reference.features)
    value = own.mean + theirs.mean - 2 * float(across.by_image.mean())
    problem = None
    if min(n, m if reference_noise else n) < FEWEST:
        problem = f"{n} images and {m} reference images were given; an interval needs at least {FEWEST}"
    interactions = {"images": own.pairs}
    if reference_noise:
        interactions |= {"reference": theirs.pairs, "cross": across.pairs}
    return Estimate(
        value,
        2 * (own.influence - across.by_image + across.by_image.mean()),
        reference=2 * (theirs.influence - across.by_reference + across.by_reference.mean())
        if reference_noise
        else NONE,
        interactions=interactions,
        exact=True,
        problem=problem,
    )


def random_pairs(n: int, m: int, count: int) -> tuple[Rows, Rows]:
    """Pairs of a row of n and another of m (where m is n: of the same), equal for every set of that size."""
    rng = np.random.default_rng([n, m])
    first, step = rng.integers(0, n, count), rng.integers(1, max(n, 2), count)
    return first, ((first + step) % n if n == m else rng.integers(0, m, count))


@dataclass(frozen=True)
class Among:
    """Kernels of a set with itself: mean over pairs, influence (n,) on half of it, what pairs add to its variance."""

    mean: float
    influence: Floats
    pairs: Floats


@dataclass(frozen=True)
class Across:
    """Kernels of images with reference images: means over either, and what pairs of the two add to the variance."""

    by_image: Floats
    by_reference: Floats
    pairs: Floats


def _among(features: Images) -> Among:
    n = len(features)
    rows, squares = np.zeros(n), 0.0
    start = 0
    whole = np.asarray(features, np.float64)
    for block in float64_blocks(features):
        kernel = _kernel(block, whole)
        kernel[np.arange(len(block)), np.arange(start, start + len(block))] = 0.0
        rows[start : start + len(block)] = kernel.sum(axis=1)
        squares += float(np.square(kernel).sum())
        start += len(block)
    total = float(rows.sum())
    if n < 4:
        return Among(total / (n * (n - 1)), np.zeros(n), NONE)
    centred = squares - 2 * float(rows @ rows) / (n - 2) + total**2 / ((n - 1) * (n - 2))
    first, second = random_pairs(n, n, PAIRS)
    apart = _kernel_of_pairs(whole[first], whole[second])
    pairs = apart - (rows[first] + rows[second]) / (n - 2) + total / ((n - 1) * (n - 2))
    doubled = 4 / (n * (n - 2)) - 2 / (n * (n - 1))  # what s²(influence)/n has of η² too much
    return Among(
        total / (n * (n - 1)), (rows - rows.mean()) / (n - 2), _scaled(pairs, doubled * centred / (n * (n - 3)))
    )


def _across(features: Images, reference: Images) -> Across:
    n, m = len(features), len(reference)
    by_image, by_reference, squares = np.zeros(n), np.zeros(m), 0.0
    start = 0
    whole = np.asarray(reference, np.float64)
    for block in float64_blocks(features):
        kernel = _kernel(block, whole)
        by_image[start : start + len(block)] = kernel.mean(axis=1)
        by_reference += kernel.sum(axis=0) / n
        squares += float(np.square(kernel).sum())
        start += len(block)
    mean = float(by_image.mean())
    centred = squares - m * float(by_image @ by_image) - n * float(by_reference @ by_reference) + n * m * mean**2
    first, second = random_pairs(n, m, PAIRS)
    apart = _kernel_of_pairs(np.asarray(features[first], np.float64), whole[second])
    pairs = apart - by_image[first] - by_reference[second] + mean
    return Across(by_image, by_reference, _scaled(pairs, 4 / (n * m) * centred / ((n - 1) * (m - 1))))


def _scaled(pairs: Floats, variance: float) -> Floats:
    """Pairs whose mean square is that variance, which all pairs have, rather than what a sample of them happens to."""
    power = float(np.mean(np.square(pairs)))
    scaled: Floats = pairs * np.sqrt(max(variance, 0.0) / power) if power > 0 else pairs
    return scaled


def _kernel(a: Floats, b: Floats) -> Floats:
    kernel: Floats = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def _kernel_of_pairs(a: Floats, b: Floats) -> Floats:
    kernel: Floats = (np.einsum("pd,pd->p", a, b) / a.shape[1] + 1) ** 3
    return kernel
