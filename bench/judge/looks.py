"""What a p-value is worth when data are looked at more than once.

A run that goes on until its claims are decided looks at them at growing numbers of images, and would find something by
chance too often. Of the error that a test may make, a share t² is spent by the time a share t of the planned images is
there (the power family with exponent 2: Lan and DeMets 1983, Biometrika 70:659; Kim and DeMets 1987, Biometrika
74:149). Boundaries follow from the joint law of the statistics, whose increments are independent, by numerical
integration (Armitage, McPherson and Rowe 1969, J. R. Stat. Soc. A 132:235). `overall_p_value` turns that round: the
smallest error at which the test would have stopped at this look. Holm's procedure on such p-values keeps the error of a
whole family (Maurer and Bretz 2013, Stat. Biopharm. Res. 5:311).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

NODES = 128
SMALLEST = 1e-12


def overall_p_value(p_value: float, fractions: Sequence[float]) -> float:
    """The two-sided p-value of one look as that of the whole design.

    `fractions` are the shares of the planned images at this look and at all before it, growing, at most 1; one look at
    everything leaves the p-value as it is.
    """
    shares = tuple(fractions)
    if shares == (1.0,):
        return p_value
    last = _spent(1.0, shares)[-1]
    if p_value < SMALLEST:
        return min(1.0, p_value / last)  # so small that no look before could have stopped
    errors, levels = _table(shares)
    found = float(np.exp(np.interp(math.log(p_value), np.log(levels), np.log(errors))))
    return 1.0 if p_value >= levels[-1] else min(1.0, found)


def nominal_level(error: float, fractions: Sequence[float]) -> float:
    """The two-sided level that a test keeps at its last look when `error` is spent over all of them."""
    spent = _spent(error, fractions)
    nodes, weights = np.zeros(1), np.ones(1)  # where the sum stands, and with which probability, nothing crossed yet
    before, bound = 0.0, math.inf
    for share, spend in zip(fractions, spent, strict=True):
        sigma = math.sqrt(share - before)
        bound = _bound(nodes, weights, sigma, spend)
        before = share
        x, w = np.polynomial.legendre.leggauss(NODES)
        ahead = bound * x
        density = np.exp(-0.5 * ((ahead[:, None] - nodes) / sigma) ** 2) @ weights / (sigma * math.sqrt(2 * math.pi))
        nodes, weights = ahead, bound * w * density
    return float(2 * ndtr(-bound / math.sqrt(before)))


def _spent(error: float, fractions: Sequence[float]) -> list[float]:
    """What is spent at each look."""
    squares = [0.0, *(share**2 for share in fractions)]
    return [error * (b - a) for a, b in pairwise(squares)]


def _bound(nodes: NDArray[np.float64], weights: NDArray[np.float64], sigma: float, spend: float) -> float:
    """How far from zero the sum must stand to stop, so that it does with probability `spend`."""
    from scipy.optimize import brentq  # takes its time, and most runs look once

    def crossing(bound: float) -> float:
        return float(weights @ (ndtr((-bound - nodes) / sigma) + ndtr((nodes - bound) / sigma)))

    if crossing(0.0) <= spend:
        return 1e-9
    farthest = -float(ndtri(max(spend, 1e-300) / 4)) * (sigma + float(np.abs(nodes).max())) + 10 * sigma
    found: float = brentq(lambda bound: crossing(bound) - spend, 0.0, farthest, xtol=1e-12)
    return max(found, 1e-9)


@lru_cache(maxsize=32)
def _table(fractions: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Overall errors, growing, and the levels at the last look that belong to them."""
    errors = np.geomspace(SMALLEST / 10, 1.0, 48)
    levels = np.maximum.accumulate([nominal_level(float(error), fractions) for error in errors])
    keep = np.concatenate([[True], np.diff(levels) > 0])
    return errors[keep], levels[keep]
