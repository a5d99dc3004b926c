"""Data distributions whose ideal prediction and whose probability-flow solution are known exactly.

With x_t = a x0 + b noise, a scheduler that receives the ideal prediction has only its own error left.
Arrays are float64 of shape (batch, *item); every function acts on each item of the batch alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.conformance.noise import Array, Level


class Target(Protocol):
    """A distribution of x0."""

    @property
    def name(self) -> str:
        """The display name."""
        ...

    def expected_data(self, x: Array, level: Level) -> Array:
        """Return E[x0 | x_t = x], the ideal data prediction."""
        ...

    def flow(self, x: Array, start: Level, end: Level) -> Array:
        """Return the state to which the probability-flow ODE takes x from one noise level to another."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """x0 ~ N(mean, width²), independent coordinates; `mean` and `width` broadcast against an item. Width 0 is a point.

    E[x0 | x] = mean + a width² / (a² width² + b²) (x - a mean), by Bayes' rule for two Gaussians. The flow keeps
    z = (x - a mean) / sqrt(a² width² + b²) constant, since the marginals are Gaussian and the ODE is linear in x
    (Song et al. 2021, eq. 13).
    """

    name: str
    mean: Array
    width: Array

    def expected_data(self, x: Array, level: Level) -> Array:
        """E[x0 | x]."""
        spread = (level.a * self.width) ** 2 + level.b**2
        gain = np.divide(level.a * self.width**2, spread, out=np.zeros_like(spread), where=spread > 0)
        return np.asarray(self.mean + gain * (x - level.a * self.mean))

    def flow(self, x: Array, start: Level, end: Level) -> Array:
        """Return x at the end level, in closed form."""
        before = np.hypot(start.a * self.width, start.b)
        after = np.hypot(end.a * self.width, end.b)
        return np.asarray(end.a * self.mean + after / before * (x - start.a * self.mean))


@dataclass(frozen=True)
class Mixture:
    """x0 drawn from Gaussians with `weights` (k), `means` (k, dimensions) and round `widths` (k).

    The flow has no closed form. On the circle z = x / r, a = r cos u, b = r sin u it reads dz/du = cos u E[noise | z] -
    sin u E[x0 | z] (Lu and Song 2025, eq. 2), which is finite from pure noise to clean data; integrated by
    Dormand-Prince 8(5,3) to a relative 1e-12. With one component it agrees with `Gaussian.flow` to 1e-10, which a test
    checks.
    """

    name: str
    weights: Array
    means: Array
    widths: Array

    def _expected(self, rows: Array, a: float, b: float) -> tuple[Array, Array]:
        """Return E[x0 | x] and E[noise | x] for rows x: Bayes' rule in each component, averaged by posterior shares."""
        apart = rows[:, None, :] - a * self.means[None]
        variance = (a * self.widths) ** 2 + b**2
        log_share = np.log(self.weights) - 0.5 * rows.shape[1] * np.log(variance) - (apart**2).sum(-1) / (2 * variance)
        share = np.exp(log_share - log_share.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        data = share @ self.means + np.einsum("bk,bkd->bd", share * a * self.widths**2 / variance, apart)
        return np.asarray(data), np.einsum("bk,bkd->bd", share * b / variance, apart)

    def expected_data(self, x: Array, level: Level) -> Array:
        """E[x0 | x] by the components' posterior shares."""
        return self._expected(x.reshape(len(x), -1), level.a, level.b)[0].reshape(x.shape)

    def flow(self, x: Array, start: Level, end: Level) -> Array:
        """Return x at the end level, to about 1e-10."""
        from scipy.integrate import solve_ivp  # half a second to import

        rows = x.reshape(len(x), -1) / math.hypot(start.a, start.b)

        def slope(angle: float, flat: Array) -> Array:
            a, b = math.cos(angle), math.sin(angle)
            data, noise = self._expected(flat.reshape(rows.shape), a, b)
            return np.asarray(a * noise - b * data).ravel()

        span = (math.atan2(start.b, start.a), math.atan2(end.b, end.a))
        solution = solve_ivp(slope, span, rows.ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
        return np.asarray(math.hypot(end.a, end.b) * solution.y[:, -1].reshape(x.shape))


@dataclass(frozen=True)
class Several:
    """Several targets in one batch, an equal share of it for each."""

    targets: tuple[Target, ...]

    @property
    def name(self) -> str:
        """The display name."""
        return " and ".join(target.name for target in self.targets)

    def expected_data(self, x: Array, level: Level) -> Array:
        """E[x0 | x] by each row's target."""
        shares = np.split(x, len(self.targets))
        return np.concatenate([target.expected_data(x, level) for target, x in zip(self.targets, shares, strict=True)])

    def flow(self, x: Array, start: Level, end: Level) -> Array:
        """Return x at the end level, by each row's target."""
        shares = np.split(x, len(self.targets))
        return np.concatenate([target.flow(x, start, end) for target, x in zip(self.targets, shares, strict=True)])


def parts_of(prediction_type: str, level: Level) -> tuple[float, float]:
    """Return (p, q) with output = p x0 + q noise for a prediction type at a level.

    epsilon = noise; sample = x0; v = a noise - b x0 (Salimans and Ho 2022, appendix D); flow_prediction and trigflow
    are the velocity of the curve, a' x0 + b' noise (Lipman et al. 2023, eq. 23; Lu and Song 2025, section 3). Raises
    ValueError for another type, or a velocity without a curve.
    """
    known = {"epsilon": (0.0, 1.0), "sample": (1.0, 0.0), "v_prediction": (-level.b, level.a)}
    if level.velocity is not None:
        known |= dict.fromkeys(VELOCITIES, level.velocity)
    if prediction_type not in known:
        raise ValueError(f"prediction type {prediction_type!r} is not one of {', '.join(known)}")
    return known[prediction_type]


VELOCITIES = ("flow_prediction", "trigflow")
"""The names under which schedulers take the velocity of a curve."""


def predictions(data: Array, x: Array, level: Level, prediction_type: str) -> Array:
    """Return the output of a network of a prediction type whose data prediction is E[x0 | x].

    The noise is (x - a x0) / b; without noise (b = 0) its expectation is 0.
    """
    of_data, of_noise = parts_of(prediction_type, level)
    if of_noise == 0:
        return np.asarray(of_data * data)
    noise = (x - level.a * data) / level.b if level.b else np.zeros_like(x)
    return np.asarray(of_data * data + of_noise * noise)


def data_and_noise(output: Array, x: Array, level: Level, prediction_type: str) -> tuple[Array, Array]:
    """Invert `predictions`: return the data and the noise of x = a x0 + b noise and output = p x0 + q noise."""
    of_data, of_noise = parts_of(prediction_type, level)
    if of_noise == 0:
        return output / of_data, np.asarray((x - level.a * output / of_data) / level.b)
    determinant = level.a * of_noise - level.b * of_data
    data = (of_noise * x - level.b * output) / determinant
    return np.asarray(data), np.asarray((level.a * output - of_data * x) / determinant)


ITEM = (3, 2, 1)
_FIRST = np.array([0.7, -0.4, 0.2, 0.9, -0.8, 0.1]).reshape(ITEM)
POINT = Gaussian("point", _FIRST, np.zeros(ITEM))
NARROW = Gaussian("narrow Gaussian", _FIRST[::-1].copy(), np.full(ITEM, 0.1))
GAUSSIAN = Gaussian("Gaussians", _FIRST, np.array([0.5, 0.25, 1.0, 0.15, 2.0, 0.7]).reshape(ITEM))
MIXTURE = Mixture(
    "mixture of Gaussians",
    np.array([0.5, 0.3, 0.2]),
    np.stack([_FIRST.ravel(), -_FIRST.ravel(), np.roll(_FIRST.ravel(), 2)]),
    np.array([0.4, 0.25, 0.6]),
)
