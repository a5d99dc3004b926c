"""Test statistics of a mean and their inverses: Hall's for skewed values, Wilson's for shares. numpy only.

Hall's (1992, J. R. Stat. Soc. B 54:221) cubic removes the skewness of a t statistic; its inverse gives the quantile of
the skewed statistic. Wilson's (1927, J. Am. Stat. Assoc. 22:209) interval contains the shares that are not too far from
the estimate by their own standard errors, with the number of independent answers that the
estimate's error amounts to (Korn and Graubard 1998, Surv. Methodol. 24:193).
"""

from __future__ import annotations

import math

import numpy as np

SYMMETRIC = 1e-6
"""Skewness of a mean below which the correction has no effect."""


def without_skewness(t: float, skewness: float) -> float:
    """Apply Hall's transformation to the t statistic of a mean whose own skewness (of units, over √n) is `skewness`."""
    return t + skewness * (t**2 / 3 + 1 / 6) + skewness**2 * t**3 / 27


def with_skewness(quantile: float, skewness: float) -> float:
    """Return the t statistic that `without_skewness` maps to `quantile`."""
    if abs(skewness) < SYMMETRIC:
        return quantile
    return float(3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / 6)) - 1))


def wilson_interval(share: float, error: float, quantile: float) -> tuple[float, float]:
    """Return both ends of the interval of a share strictly between 0 and 1 with standard error `error`."""
    inverse = error**2 / (share * (1 - share)) * quantile**2  # q² over the effective number
    middle = share + inverse / 2
    half = quantile * math.hypot(error, inverse / (2 * quantile))
    return (middle - half) / (1 + inverse), (middle + half) / (1 + inverse)


def wilson_statistic(share: float, error: float, supposed: float) -> float:
    """Return by how many of its own standard errors a share exceeds the `supposed` one; infinite where impossible."""
    if not 0 < supposed < 1:
        return math.inf if supposed <= 0 else -math.inf
    return (share - supposed) / error * math.sqrt(share * (1 - share) / (supposed * (1 - supposed)))
