"""A number with its uncertainty, carried as one influence value per image.

Every score here is, to first order, a mean over images: value ≈ truth + mean(influence). Its standard error is
sd(influence)/√n, and two methods on the same prompts and latents differ with standard error
sd(influence_a − influence_b)/√n, whatever the score is (delta method).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value and the influence (n,) of each image on it."""

    value: float
    influence: Floats

    @property
    def n(self) -> int:
        """How many images."""
        return len(self.influence)

    @property
    def standard_error(self) -> float:
        """sd(influence)/√n, the standard deviation with divisor n − 1."""
        return float(np.std(self.influence, ddof=1) / np.sqrt(self.n))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The normal interval around the value that covers with probability `level`."""
        half = float(ndtri(0.5 + level / 2)) * self.standard_error
        return self.value - half, self.value + half

    def p_value(self) -> float:
        """Two-sided p-value of the hypothesis that the true value is zero; 1.0 when nothing differs."""
        error = self.standard_error
        if error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * ndtr(-abs(self.value) / error))


def paired_difference(ours: Estimate, theirs: Estimate) -> Estimate:
    """ours − theirs over the same prompts and latents; raises ValueError when the numbers of images differ."""
    if ours.n != theirs.n:
        raise ValueError(f"{ours.n} and {theirs.n} images cannot be paired; sample the same prompts in both cells")
    return Estimate(ours.value - theirs.value, ours.influence - theirs.influence)


def mean_estimate(values: NDArray[np.floating]) -> Estimate:
    """The mean of a per-image number (n,); raises ValueError for fewer than two, or values not finite."""
    rows = np.asarray(values, np.float64)
    if len(rows) < 2 or not np.isfinite(rows).all():
        raise ValueError(f"{len(rows)} values were given; a mean with an error needs at least 2, all finite")
    mean = float(rows.mean())
    return Estimate(mean, rows - mean)
