"""Curves from data to noise, x = a(u) x0 + b(u) noise: levels, velocities and targets follow from a and b alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bench.conformance.noise import Level


@dataclass(frozen=True)
class Curve:
    """A noise schedule over its own parameter u: the factors a(u), b(u), and their slopes a'(u), b'(u).

    A velocity model predicts dx/du = a'(u) x0 + b'(u) noise (Lipman et al. 2023, eq. 23). `clean` and `noisy` are the
    parameters of data and of pure noise. A model is told u, times the number of training timesteps where `counted`.
    """

    factors: Callable[[float], tuple[float, float]]
    slopes: Callable[[float], tuple[float, float]]
    clean: float
    noisy: float
    counted: bool = True

    def level(self, u: float) -> Level:
        """Return the level at u, with its velocity."""
        return Level(*self.factors(u), self.slopes(u))

    def holds(self, u: float) -> bool:
        """Whether u lies between data and noise, up to the rounding of a written number (1.5708 for half of pi)."""
        slack = 1e-5 * abs(self.noisy - self.clean)
        return min(self.clean, self.noisy) - slack <= u <= max(self.clean, self.noisy) + slack


STRAIGHT = Curve(lambda u: (1 - u, u), lambda _: (-1.0, 1.0), 0.0, 1.0)
"""x = (1 - sigma) x0 + sigma noise (Liu et al. 2023, eq. 1; Esser et al. 2024, eq. 13)."""

REVERSED = Curve(lambda u: (u, 1 - u), lambda _: (1.0, -1.0), 1.0, 0.0)
"""The straight line counted from noise to data, as inverted sigmas count it."""


def circle(spread: float) -> Curve:
    """Return TrigFlow, x = cos(t) x0 + sin(t) spread noise, for data of this standard deviation (Lu and Song 2025)."""
    return Curve(
        lambda u: (math.cos(u), spread * math.sin(u)),
        lambda u: (-math.sin(u), spread * math.cos(u)),
        *(0.0, math.pi / 2, False),
    )
