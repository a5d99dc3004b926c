"""p-values for data that are examined more than once, or that grow beyond the plan.

A run that goes on until its claims are decided looks at them at growing numbers of images, and a run that is given more
images afterwards has been looked at before. Either would find something by chance too often. So every look spends a
share of the error that a test may make, and what is spent is gone: a plan may spend `OF_WHAT_IS_LEFT` of what no
earlier plan has spent, of that the share t² by the time a share t of its additional images is available (the power
family with exponent 2: Lan and DeMets 1983, Biometrika 70:659; Kim and DeMets 1987, Biometrika 74:149). A first plan
that is judged once thus leaves a fifth of the error for images that were not planned.

All looks that the run made up to a number of images count for every claim, whether it was judged at each of them or
not. What a claim would find at a look depends on its own first images alone, so that the chance of an error at any of
the looks is bounded beforehand; to judge it at some of them only, whichever way these are chosen, leaves errors out.

Boundaries follow from the joint law of the statistics, whose increments are independent, by numerical integration
(Armitage, McPherson and Rowe 1969, J. R. Stat. Soc. A 132:235), for one-sided tests. `overall_p_value` inverts this:
it is the smallest error at which the test would have rejected at its last look. Procedures for several hypotheses that
compare p-values with levels keep the error of the whole family on such p-values (Maurer and Bretz 2013, Stat. Biopharm.
Res. 5:311).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

OF_WHAT_IS_LEFT = 0.8
NODES = 128
FARTHEST = 9.0
"""Standard deviations beyond which a sum below its boundary is not followed."""
SMALLEST = 1e-12
HARDLY = 0.05
"""The chance below which a statistic is taken to have rejected at an earlier look."""

LookSizes = tuple[int, int]
"""Numbers of images at which a claim was judged, each with the number planned then."""
_Path = tuple[tuple[float, float], ...]
"""The looks that count, at growing numbers of images: the number of images, and the share of the error spent."""


def path_of(history: Sequence[LookSizes]) -> _Path:
    """Return the looks that lead to the last one of a history, which is in order of time.

    A look at the same number of images as before gives no new information and spends nothing. One at fewer images
    spends like a separate plan, without credit for data shared with the others.
    """
    path: list[tuple[float, float]] = []
    aside: dict[int, float] = {}
    plan, start, room, left = 0, 0.0, 1.0, 1.0
    for images, planned in history:
        if images in aside or any(images == had for had, _ in path):
            continue
        if path and images < path[-1][0]:
            aside[images] = OF_WHAT_IS_LEFT * left
            left -= aside[images]
            continue
        if planned != plan:
            plan, start, room = planned, path[-1][0] if path else 0.0, OF_WHAT_IS_LEFT * left
        before = path[-1][0] if path else 0.0
        whole = max(planned, images) - start
        spend = room * (((images - start) / whole) ** 2 - ((before - start) / whole) ** 2)
        left -= spend
        path.append((float(images), spend))
    last = history[-1][0]
    return ((float(last), aside[last]),) if last in aside else tuple(step for step in path if step[0] <= last)


def overall_p_value(p_value: float, path: _Path) -> float:
    """Return the one-sided p-value of the path's last look as that of the whole design."""
    if len(path) == 1:
        return min(1.0, p_value / path[0][1])
    if p_value < SMALLEST:
        return min(1.0, p_value / path[-1][1])  # so small that no earlier look could have rejected
    errors, levels = _table(path)
    found = float(np.exp(np.interp(math.log(p_value), np.log(levels), np.log(errors))))
    return 1.0 if p_value >= levels[-1] else min(1.0, found)


@lru_cache(maxsize=4096)
def nominal_level(error: float, path: _Path) -> float:
    """Return the one-sided level that a test keeps at its last look when `error` is spent along the path."""
    if len(path) == 1:
        return error * path[0][1]
    nodes, weights = np.zeros(1), np.ones(1)  # values of the sum with their probabilities, nothing rejected yet
    before, bound = 0.0, math.inf
    last = path[-1][0]
    for images, spend in path:
        share = images / last
        sigma = math.sqrt(share - before)
        bound = _bound(nodes, weights, sigma, error * spend)
        before = share
        x, w = np.polynomial.legendre.leggauss(NODES)
        half = (bound + FARTHEST * math.sqrt(share)) / 2
        ahead = bound - half + half * x
        density = np.exp(-0.5 * ((ahead[:, None] - nodes) / sigma) ** 2) @ weights / (sigma * math.sqrt(2 * math.pi))
        nodes, weights = ahead, half * w * density
    return float(ndtr(-bound / math.sqrt(before)))


def median_unbiased(statistic: float, path: _Path, error: float) -> float | None:
    """Return a true effect that is found larger as often as smaller, in standard errors at the path's last look.

    Sampling is taken to end at the first look where a test of either side rejects, each with this error over the whole
    path, and results are ordered by the look at which they end (Fairbanks and Madsen 1982, Biometrika 69:69). None
    where the statistic is so large that it most likely rejected before, so that something else was waited for.
    """
    from scipy.optimize import brentq

    if len(path) == 1:
        return statistic
    bounds = [-float(ndtri(nominal_level(error, path[: i + 1]))) for i in range(len(path) - 1)]
    sigma = math.sqrt(1 - path[-2][0] / path[-1][0])

    def exceeded(effect: float) -> float:
        """Return the chance of a result that is more in favour than this one."""
        beyond, nodes, weights = _still_open(effect, path, bounds)
        return beyond + float(weights @ ndtr((nodes + effect * sigma**2 - statistic) / sigma))

    _, nodes, weights = _still_open(statistic, path, bounds)
    was_open = float(weights @ np.exp(-0.5 * ((statistic - nodes) / sigma - statistic * sigma) ** 2)) / sigma
    if was_open < HARDLY:
        return None
    found: float = brentq(lambda effect: exceeded(effect) - 0.5, statistic - FARTHEST, statistic + FARTHEST, xtol=1e-6)
    return found


def _still_open(
    effect: float, path: _Path, bounds: Sequence[float]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return the chance of a rejection above before the last look, and the sums that reject nothing by then.

    The sums (NODES,) are those at the look before the last, with their probabilities; they drift by `effect` in all.
    """
    nodes, weights, before, beyond = np.zeros(1), np.ones(1), 0.0, 0.0
    for (images, _), bound in zip(path, bounds, strict=False):
        share = images / path[-1][0]
        sigma, sums = math.sqrt(share - before), nodes + effect * (share - before)
        high, reach = bound * math.sqrt(share), FARTHEST * math.sqrt(share)
        beyond += float(weights @ ndtr((sums - high) / sigma))
        low, high = max(-high, effect * share - reach), min(high, effect * share + reach)
        x, w = np.polynomial.legendre.leggauss(NODES)
        half = max(0.0, (high - low) / 2)
        ahead = low + half + half * x
        density = np.exp(-0.5 * ((ahead[:, None] - sums) / sigma) ** 2) @ weights / (sigma * math.sqrt(2 * math.pi))
        nodes, weights, before = ahead, half * w * density, share
    return beyond, nodes, weights


def _bound(nodes: NDArray[np.float64], weights: NDArray[np.float64], sigma: float, spend: float) -> float:
    """Return the bound of the sum that is exceeded with probability `spend`."""
    from scipy.optimize import brentq  # slow to import, and most runs look once

    def excess(bound: float) -> float:
        return float(weights @ ndtr((nodes - bound) / sigma)) - spend

    reach = sigma * (FARTHEST - float(ndtri(max(spend, 1e-300) / 2)))
    low, high = float(nodes.min()) - reach, float(nodes.max()) + reach
    if excess(low) <= 0:
        return low
    found: float = brentq(excess, low, high, xtol=1e-12)
    return found


@lru_cache(maxsize=32)
def _table(path: _Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return overall errors, ascending, and their levels at the last look."""
    errors = np.geomspace(SMALLEST / 10, 1.0, 48)
    levels = np.maximum.accumulate([nominal_level(float(error), path) for error in errors])
    keep = np.concatenate([[True], np.diff(levels) > 0])
    return errors[keep], levels[keep]
