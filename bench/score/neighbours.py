"""Precision, recall, density and coverage: nearest neighbours of images among the real ones. numpy only.

Around each point of a set lies a ball that reaches to its k-th nearest neighbour in that set. Precision is the share of
images in some ball of a real one, recall the share of real images in some ball of a generated one (Kynkäänniemi et al.
2019, arXiv 1904.06991, eq. 1 and 2, k = 3). Density counts the real balls that an image is in, over k, and coverage is
the share of real balls that hold an image (Naeem et al. 2020, arXiv 2002.09797, eq. 4 and 5, k = 5).

Precision and density are means over images. Recall and coverage grow with the number of images, and have no interval.
Leaving each image out in turn gives a variance for them that is never too small on average (Efron and Stein 1981, Ann.
Statist. 9:586), which is enough for bounds that must hold, but errors come out 1.3 to 2.6 times too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.score.estimate import Estimate, mean_estimate
from bench.score.groups import Groups
from bench.score.moments import BLOCK, check_features

_Floats = NDArray[np.float64]
_Rows = NDArray[np.intp]
_Images = NDArray[np.floating]
K_OF_PRECISION, K_OF_DENSITY = 3, 5


@dataclass(frozen=True)
class Neighbourhood:
    """Features (m, d) with the squared radii of their balls, computed once."""

    features: _Images

    @cached_property
    def nearest(self) -> tuple[_Floats, _Rows]:
        """Squared distances (m, k + 1) to each row's nearest others in ascending order, k = K_OF_DENSITY, and which."""
        count = K_OF_DENSITY + 1
        check_features(self.features)
        if len(self.features) <= count:
            raise ValueError(
                f"{len(self.features)} images were given; scores of nearest neighbours need more than {count}"
            )
        distances, rows = [], []
        for start, block in _blocks(self.features, self.features):
            own = np.arange(len(block))
            block[own, start + own] = np.inf
            near = np.argpartition(block, count, axis=1)[:, :count]
            order = np.argsort(np.take_along_axis(block, near, axis=1), axis=1)
            rows.append(np.take_along_axis(near, order, axis=1))
            distances.append(np.take_along_axis(block, rows[-1], axis=1))
        return np.concatenate(distances), np.concatenate(rows)

    def radius(self, k: int) -> _Floats:
        """Return squared distances (m,) to the k-th nearest other row."""
        return self.nearest[0][:, k - 1]


def precision_estimate(features: _Images, real: Neighbourhood, groups: Groups | None = None) -> Estimate:
    """Share of features (n, d) that lie in a ball of a real image.

    Raises ValueError, like all of these functions, for NaN, too few rows, or another dimension than the real ones'.
    """
    inside = _inside(features, real, K_OF_PRECISION)
    return mean_estimate(np.concatenate([block.any(axis=1) for block in inside]), groups, shares=True)


def density_estimate(features: _Images, real: Neighbourhood, groups: Groups | None = None) -> Estimate:
    """Mean number of real balls that an image is in, over k; above 1 where images crowd dense regions."""
    k = K_OF_DENSITY
    return mean_estimate(np.concatenate([block.sum(axis=1) / k for block in _inside(features, real, k)]), groups)


def coverage_estimate(features: _Images, real: Neighbourhood, groups: Groups | None = None) -> Estimate:
    """Share of the real images' balls that contain an image."""
    n, m = len(features), len(real.features)
    if groups is not None:
        return _coverage_of_groups(features, real, groups)
    inside = list(_inside(features, real, K_OF_DENSITY))
    counts = np.sum([block.sum(axis=0) for block in inside], axis=0)
    lost = np.concatenate([block[:, counts == 1].sum(axis=1) for block in inside])
    return _left_out(float((counts > 0).mean()), lost / m, n)


def _coverage_of_groups(features: _Images, real: Neighbourhood, groups: Groups) -> Estimate:
    """Coverage with each group left out as a whole: a ball is lost that only its images are in."""
    holds = np.zeros((groups.count, len(real.features)), bool)
    start = 0
    for block in _inside(features, real, K_OF_DENSITY):
        np.logical_or.at(holds, groups.labels[start : start + len(block)], block)
        start += len(block)
    counts = holds.sum(axis=0)
    lost = holds[:, counts == 1].sum(axis=1) / len(real.features)
    units = (1 - groups.sizes / len(features)) * groups.count * lost
    return Estimate(float((counts > 0).mean()), groups.spread(units - units.mean()), groups=groups, only_bounds=True)


def recall_estimate(features: _Images, real: Neighbourhood, groups: Groups | None = None) -> Estimate:
    """Share of the real images that lie in a ball of a generated one; no bounds hold where there are `groups`."""
    k, ours = K_OF_PRECISION, Neighbourhood(features)
    check_features(features, d=real.features.shape[1])
    n, m = len(features), len(real.features)
    near, far, neighbours = ours.radius(k), ours.radius(k + 1), ours.nearest[1][:, :k]
    covered, lost = 0, np.zeros(n)
    for _, distances in _blocks(real.features, features):
        within = distances <= near
        counts = within.sum(axis=1)
        covered += int((counts > 0).sum())
        # Without one of its k neighbours a ball reaches to the next: so real images are gained, or kept all the same.
        for row in np.flatnonzero(counts <= 1):
            grown = np.flatnonzero(distances[row] <= far)
            saving = sorted({int(other) for j in grown if not within[row, j] for other in neighbours[j]})
            if counts[row] == 0:
                lost[saving] -= 1
            elif (only := int(np.argmax(within[row]))) not in saving:
                lost[only] += 1
    found = _left_out(covered / m, lost / m, n)
    alike = "images of one prompt are close to each other, which shrinks the balls of recall: no interval is known"
    return found if groups is None else replace(found, groups=groups, problem=alike)


def _left_out(value: float, lost: _Floats, n: int) -> Estimate:
    """Return an estimate without an interval from the loss of value when each image is left out."""
    influence = (n - 1) * lost
    return Estimate(value, influence - influence.mean(), only_bounds=True)


def _inside(features: _Images, real: Neighbourhood, k: int) -> Iterator[NDArray[np.bool_]]:
    """Yield which images are in which real balls, in blocks (b, m) of images."""
    check_features(features, d=real.features.shape[1])
    radius = real.radius(k)
    return (distances <= radius for _, distances in _blocks(features, real.features))


def _blocks(ours: _Images, theirs: _Images) -> Iterator[tuple[int, _Floats]]:
    """Yield squared distances (b, m) between rows, block by block, with the index of the first row."""
    whole = np.asarray(theirs, np.float64)
    lengths = np.square(whole).sum(axis=1)
    for start in range(0, len(ours), BLOCK):
        block = np.asarray(ours[start : start + BLOCK], np.float64)
        squares = np.square(block).sum(axis=1)[:, None] + lengths - 2 * block @ whole.T
        yield start, np.maximum(squares, 0.0)
