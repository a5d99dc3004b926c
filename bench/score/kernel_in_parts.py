"""A kernel distance in linear time, for many images of many dimensions: in place of a distance without an interval.

All pairs of 10,000 images of 2,048 dimensions cost several Fréchet distances. Here images and reference images are cut
at random into as many parts, each part of images is compared with itself and with its part of the reference, and the
mean over the parts is taken (as in Bińkowski et al. 2018, arXiv 1801.01401, whose subsets are drawn with replacement).
The expected value is that of all pairs: every image and every reference image counts once. The parts are independent
estimates of squared lengths, whose mean is one as well, in as many times more directions: all that intervals are made
of (bench.score.estimate) is known for it. What is lost is only in the variance of pairs, which is larger by the number
of parts. Products are in single precision, of kernels less a constant, which changes no distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.score.estimate import ROUNDING, Estimate
from bench.score.kernel import KernelReference, across, among, cubic, slope_of_variance
from bench.score.moments import overlap, row_keys

_Floats = NDArray[np.float64]
_Rows = NDArray[np.intp]
_Images = NDArray[np.floating]
FEWEST_IN_PART = 250
"""No part has fewer images."""


@dataclass(frozen=True)
class InParts:
    """A reference of many dimensions for distances in linear time; `whole` are its kernels over all pairs."""

    whole: KernelReference
    level: float
    """What is taken from every kernel: about its mean."""

    @classmethod
    def of(cls, features: _Images) -> InParts:
        """Create from reference features (m, d)."""
        mean = features.mean(axis=0, dtype=np.float64)
        level = float(cubic(np.array([mean @ mean]), features.shape[1])[0])

        def shifted(products: _Floats, d: int) -> _Floats:
            kernels = cubic(products, d)
            kernels -= level
            return kernels

        return cls(KernelReference(np.asarray(features, np.float32), shifted, np.float32), level)

    @cached_property
    def mean(self) -> float:
        """The mean kernel of two reference images."""
        return self.whole.among.mean

    def estimate(self, features: _Images, keys: frozenset[int]) -> Estimate:
        """MMD² of features (n, d), from parts; `keys` are those of the reference's rows."""
        (n, d), m = features.shape, len(self.whole.features)
        parts = part_count(n, m, d)
        value, slope, influence, pairs = 0.0, 0.0, np.zeros(n), []
        for images, real in zip(random_parts(n, parts), random_parts(m, parts), strict=True):
            rows = np.asarray(features[images], np.float32)
            own = among(rows, self.whole.kernel, dtype=np.float32)
            apart = across(rows, KernelReference(self.whole.features[real], self.whole.kernel, np.float32))
            share = len(real) / m  # each reference image counts once
            of_part = 2 * (own.influence - apart.by_image + apart.by_image.mean())
            value += share * (own.mean - 2 * float(apart.by_image.mean()))
            influence[images] = of_part * (share * n / len(images))
            pairs.append(own.pairs * (share * np.sqrt(parts)))
            slope += share**2 * slope_of_variance(of_part, own, None)
        return Estimate(
            value + self.mean,
            influence,
            interactions={"images": np.concatenate(pairs)},
            variance_slope=slope,
            resolution=ROUNDING * float(np.finfo(np.float32).eps) * (1 + abs(self.level)),
            exact=True,
            problem=overlap(row_keys(features), keys),
        )


def part_count(n: int, m: int, d: int) -> int:
    """Return the number of parts of n images and m reference images: with it n images take time n d²."""
    return max(1, min(-(-(n + 2 * m) // (6 * d)), n // FEWEST_IN_PART, m // FEWEST_IN_PART))


@lru_cache(maxsize=8)
def random_parts(count: int, parts: int) -> tuple[_Rows, ...]:
    """Return the rows of each part, ascending; the same for every set of that size, so that differences are paired."""
    order = np.random.default_rng([count, parts]).permutation(count)
    found = tuple(np.sort(part) for part in np.array_split(order, parts))
    for rows in found:
        rows.setflags(write=False)  # they are shared
    return found
