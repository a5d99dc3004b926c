"""The interval of a squared length from a noisy one, by inverting a noncentral χ². numpy only.

|δ + ε|² with normal ε of equal variance s in D directions is s times a noncentral χ² of D degrees of freedom with
noncentrality |δ|²/s. Its quantiles by Sankaran's (1963, Biometrika 50:199) normal power, which also takes a D that is
not whole.
"""

from __future__ import annotations

import math

MANY_DIRECTIONS = 1e5
"""The number of directions from which on the noise counts as normal."""


def noncentrality(value: float, freedom: float, quantile: float) -> float:
    """Return the noncentrality at which a normal deviate of `value` ≥ 0 is `quantile`; at least 0."""

    def excess(noncentral: float) -> float:
        return _deviate(value, freedom, noncentral) - quantile

    if excess(0.0) <= 0:
        return 0.0
    from scipy.optimize import brentq  # slow to import, and a plan does not need it

    high = max(value, 1.0)
    while excess(high) > 0:
        high *= 2
    return brentq(excess, 0.0, high, xtol=1e-9 * high)


def _deviate(value: float, freedom: float, noncentral: float) -> float:
    """Return the standard normal deviate of a noncentral χ²."""
    mean, half_variance, third = freedom + noncentral, freedom + 2 * noncentral, freedom + 3 * noncentral
    power = 1 - 2 / 3 * mean * third / half_variance**2
    p, m = half_variance / mean**2, (power - 1) * (1 - 3 * power)
    middle = 1 + power * p * (power - 1 - 0.5 * (2 - power) * m * p)
    return ((value / mean) ** power - middle) / (power * math.sqrt(2 * p) * (1 + 0.5 * m * p))


def squared_length_reach(
    whole: float, together: float, scale: float, quantile: float, student: float
) -> tuple[float, float]:
    """Return how far the interval reaches below (negative) and above an estimate of a squared length.

    `whole` is the variance with the whole effect of pairs of images, `together` that part, `scale` a quarter of the
    variance's slope; `student` is the reach of Student's interval.
    """
    freedom = max(together / (2 * scale**2), 1.0)
    if freedom > MANY_DIRECTIONS:
        return -student, student
    value = whole / (4 * scale**2)
    low, high = (noncentrality(value, freedom, q) for q in (quantile, -quantile))
    below, above = (scale * (noncentral - (value - freedom)) for noncentral in (low, high))
    return (min(below, -student) if low == 0 else below), above
