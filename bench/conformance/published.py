"""One-step samplers as published, in float64: a state and a model output → mean and noise of the next state.

Written from the papers, not from any library. `PublishedMethod.advance` gets the states and outputs of the
scheduler under test, call by call, so that a difference belongs to the step where it arises and is not carried on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from bench.conformance.curves import Curve
from bench.conformance.noise import Array, Level, NoiseTable
from bench.conformance.targets import data_and_noise


@dataclass(frozen=True)
class Expected:
    """The expected next state, `mean + noise · z`; `size` bounds the scaled intermediate values that were rounded."""

    mean: Array
    noise: float
    size: float


@dataclass(frozen=True)
class Term:
    """One summand of a step: weight · value, and the size of the largest number that the value was computed from."""

    weight: float
    value: Array
    size: float


@dataclass(frozen=True)
class Path:
    """The path of a run: a level for every call, the level on which the last call lands, and the timesteps.

    On a curve `positions` holds the parameters of the levels; otherwise levels come from the noise table. `scales` are
    the factors of the model's input where it is another than the state of a level.
    """

    levels: Sequence[Level]
    timesteps: Sequence[float]
    table: NoiseTable
    curve: Curve | None = None
    positions: Sequence[float] = ()
    scales: Sequence[float] = ()


class PublishedMethod:
    """A published sampler on a path. `rescaled` means that its state is x / a rather than x."""

    rescaled = False

    def __init__(self, config: Mapping[str, Any], path: Path, eta: float | None) -> None:
        self.config, self.path, self.eta = config, path, eta or 0.0
        self.prediction: str = config["prediction_type"]

    def read(self, index: int, state: Array, output: Array) -> tuple[Term, Term]:
        """Return the data and noise of the output, with weight 1; data clipped where the settings say so."""
        level = self.path.levels[index]
        x = state * level.a if self.rescaled else state
        data, noise = data_and_noise(output, x, level, self.prediction)
        parts = float(np.abs(x).max() + np.abs(output).max())
        data_size = parts / level.a if self.prediction == "epsilon" or self.rescaled else parts
        noise_size = parts / level.b if self.prediction == "sample" else parts
        if self.config.get("thresholding"):
            data = dynamic_threshold(data, self.config)
            data_size *= 4  # the quantile that the data are divided by has their rounding as well
        elif self.config.get("clip_sample"):
            limit = float(self.config["clip_sample_range"])
            data = np.clip(data, -limit, limit)
        return Term(1.0, data, data_size), Term(1.0, noise, noise_size)

    def noise_of(self, index: int, state: Array, output: Array) -> Term:
        """Return the noise part of the state, with data thresholded where the settings say so."""
        data, noise = self.read(index, state, output)
        level = self.path.levels[index]
        if not self.config.get("thresholding"):
            return noise
        return Term(1.0, (state - level.a * data.value) / level.b, data.size / level.b)

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """Return the next state, from the state and output of this call and the memory of earlier calls."""
        raise NotImplementedError


def of_state(weight: float, state: Array) -> Term:
    """Return the state itself as a summand."""
    return Term(weight, state, float(np.abs(state).max()))


def add_up(noise: float, *terms: Term) -> Expected:
    """Return the sum of a step's terms."""
    mean = sum((term.weight * term.value for term in terms), np.zeros_like(terms[0].value))
    return Expected(mean, noise, noise + sum(abs(term.weight) * term.size for term in terms))


def times(weight: float, term: Term) -> Term:
    """Return a term multiplied by a weight."""
    return Term(weight * term.weight, term.value, term.size)


def dynamic_threshold(data: Array, config: Mapping[str, Any]) -> Array:
    """Clip to the quantile s of |x0| (at least 1) and divide by s, per image (Saharia et al. 2022, section 2.3)."""
    rows = np.abs(data).reshape(len(data), -1)
    quantile = np.quantile(rows, float(config["dynamic_thresholding_ratio"]), axis=1)
    limit = np.clip(quantile, 1.0, float(config["sample_max_value"])).reshape(-1, *[1] * (data.ndim - 1))
    return np.asarray(np.clip(data, -limit, limit) / limit)


class Ddim(PublishedMethod):
    """Song et al. 2021, eq. 12 with the variance of eq. 16."""

    def variance(self, index: int) -> float:
        """eta² (b'² / b²) (1 - a² / a'²)."""
        here, there = self.path.levels[index], self.path.levels[index + 1]
        return self.eta**2 * (there.b / here.b) ** 2 * (1 - (here.a / there.a) ** 2)

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """a' x0 + sqrt(b'² - variance) epsilon + sqrt(variance) z."""
        data, epsilon = self.read(index, state, output)
        there, variance = self.path.levels[index + 1], self.variance(index)
        direction = math.sqrt(max(0.0, there.b**2 - variance))
        return add_up(math.sqrt(variance), times(there.a, data), times(direction, epsilon))


class Ddpm(PublishedMethod):
    """Ho et al. 2020, eq. 6 and 7 between any two levels; the variance is that of eq. 7, or beta (`fixed_large`)."""

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """The posterior mean of x' given x and the predicted x0, and its standard deviation."""
        data, _ = self.read(index, state, output)
        here, there = self.path.levels[index], self.path.levels[index + 1]
        beta = 1 - (here.a / there.a) ** 2
        variance = beta if self.config["variance_type"] == "fixed_large" else beta * (there.b / here.b) ** 2
        if self.path.timesteps[index] == 0 or there.b == 0:
            variance = 0.0
        keep = here.a / there.a * (there.b / here.b) ** 2
        return add_up(math.sqrt(variance), times(there.a * beta / here.b**2, data), of_state(keep, state))


class Tcd(PublishedMethod):
    """Zheng et al. 2024, strategic stochastic sampling: denoise to s = (1 - gamma) t', then diffuse to t'.

    The last step goes to timestep 0 without noise. s is rounded down to a training timestep, in exact arithmetic.
    """

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """(a' / a_s) (a_s x0 + b_s epsilon) + sqrt(1 - a'² / a_s²) z."""
        data, epsilon = self.read(index, state, output)
        last = index == len(self.path.timesteps) - 1
        following = 0 if last else int(self.path.timesteps[index + 1])
        between = self.path.table.level(math.floor((1 - Fraction(str(self.eta))) * following))
        ratio = self.path.levels[index + 1].a / between.a
        noise = math.sqrt(max(0.0, 1 - ratio**2))
        return add_up(noise, times(ratio * between.a, data), times(ratio * between.b, epsilon))


class Lcm(PublishedMethod):
    """Luo et al. 2023, algorithm 3 (multistep): the consistency function, then noise to the next level.

    c_skip and c_out as in Song et al. 2023, appendix C, with sigma_data = 0.5 and the scaled timestep.
    """

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """a' (c_out x0 + c_skip x) + b' z; the last step returns the consistency function itself."""
        data, _ = self.read(index, state, output)
        scaled = self.path.timesteps[index] * float(self.config.get("timestep_scaling", 10.0))
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / math.sqrt(scaled**2 + 0.25)
        last = index == len(self.path.timesteps) - 1
        there = Level(1.0, 0.0) if last else self.path.levels[index + 1]
        return add_up(there.b, times(there.a * out, data), of_state(there.a * skip, state))


class Euler(PublishedMethod):
    """Karras et al. 2022, algorithm 1 without its second-order correction, in x / a over sigma."""

    rescaled = True

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """x + (sigma' - sigma) (x - x0) / sigma."""
        data, _ = self.read(index, state, output)
        here, there = self.path.levels[index].sigma, self.path.levels[index + 1].sigma
        return add_up(0.0, of_state(there / here, state), times(1 - there / here, data))


class EulerAncestral(PublishedMethod):
    """An Euler step to sigma_down, then noise sigma_up, with sigma_down² + sigma_up² = sigma'².

    The variance is the posterior's of Ho et al. 2020, eq. 7, written in sigma (Song et al. 2021, appendix F).
    """

    rescaled = True

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """sigma_up² = sigma'² (sigma² - sigma'²) / sigma²."""
        data, _ = self.read(index, state, output)
        here, there = self.path.levels[index].sigma, self.path.levels[index + 1].sigma
        up = there * math.sqrt(1 - (there / here) ** 2)
        down = there**2 / here
        return add_up(up, of_state(down / here, state), times(1 - down / here, data))


class Heun(PublishedMethod):
    """Karras et al. 2022, algorithm 1 without churn: an Euler step, then the mean of both slopes."""

    rescaled = True
    begun: tuple[Array, Term] | None = None

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """Return the next state: calls alternate between predictor and corrector; the last step only predicts."""
        data, _ = self.read(index, state, output)
        sigma = self.path.levels[index].sigma
        slope = Term(1.0, (state - data.value) / sigma, data.size / sigma)
        if self.begun is None:
            self.begun = (state, slope)
            return add_up(0.0, of_state(1.0, state), times(self.path.levels[index + 1].sigma - sigma, slope))
        start, first = self.begun
        half = (sigma - self.path.levels[index - 1].sigma) / 2
        self.begun = None
        return add_up(0.0, of_state(1.0, start), times(half, first), times(half, slope))
