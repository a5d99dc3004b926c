"""Data distributions whose ideal prediction and whose probability-flow solution are known exactly.

With x_t = a x0 + b noise, a scheduler that receives the ideal prediction has only its own error left.
Arrays are float64 of shape (batch, *item); every function acts on each item of the batch alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.integrate import solve_ivp

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

    The flow has no closed form. In y = x / a and sigma = b / a it reads dy/dsigma = (y - E[x0 | y]) / sigma
    (Karras et al. 2022, eq. 1 with s = 1), integrated by Dormand-Prince 8(5,3) to a relative 1e-12; with one component
    it agrees with `Gaussian.flow` to 1e-10, which a test checks.
    """

    name: str
    weights: Array
    means: Array
    widths: Array

    def _slope(self, y: Array, sigma: float) -> Array:
        """Return (y - E[x0 | y]) / sigma for rows y, without the division, so that sigma = 0 needs no special case."""
        apart = y[:, None, :] - self.means[None]
        variance = self.widths**2 + sigma**2
        log_share = np.log(self.weights) - 0.5 * y.shape[1] * np.log(variance) - (apart**2).sum(-1) / (2 * variance)
        share = np.exp(log_share - log_share.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        return np.asarray(sigma * np.einsum("bk,bkd->bd", share / variance, apart))

    def expected_data(self, x: Array, level: Level) -> Array:
        """E[x0 | x] by the components' posterior shares."""
        y = (x / level.a).reshape(len(x), -1)
        return np.asarray((y - level.sigma * self._slope(y, level.sigma)).reshape(x.shape))

    def flow(self, x: Array, start: Level, end: Level) -> Array:
        """Return x at the end level, to about 1e-10."""
        rows = (x / start.a).reshape(len(x), -1)

        def slope(sigma: float, flat: Array) -> Array:
            return self._slope(flat.reshape(rows.shape), sigma).ravel()

        span = (start.sigma, end.sigma)
        solution = solve_ivp(slope, span, rows.ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
        return np.asarray(end.a * solution.y[:, -1].reshape(x.shape))


def predictions(data: Array, x: Array, level: Level, prediction_type: str) -> Array:
    """Return the output of a network of a prediction type whose data prediction is E[x0 | x].

    epsilon = (x - a x0) / b; v = a epsilon - b x0 (Salimans and Ho 2022, appendix D); sample = x0.
    """
    if prediction_type == "sample":
        return data
    epsilon = (x - level.a * data) / level.b
    if prediction_type == "epsilon":
        return np.asarray(epsilon)
    if prediction_type == "v_prediction":
        return np.asarray(level.a * epsilon - level.b * data)
    raise ValueError(f"prediction type {prediction_type!r} is not one of epsilon, v_prediction, sample")


def data_and_noise(output: Array, x: Array, level: Level, prediction_type: str) -> tuple[Array, Array]:
    """Invert `predictions`: return the data and the noise that an output stands for."""
    if prediction_type == "epsilon":
        return np.asarray((x - level.b * output) / level.a), output
    if prediction_type == "v_prediction":
        return np.asarray(level.a * x - level.b * output), np.asarray(level.a * output + level.b * x)
    if prediction_type == "sample":
        return output, np.asarray((x - level.a * output) / level.b)
    raise ValueError(f"prediction type {prediction_type!r} is not one of epsilon, v_prediction, sample")


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
