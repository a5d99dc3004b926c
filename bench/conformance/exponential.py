"""Exponential integrators as published, in float64: DPM-Solver and DPM-Solver++, UniPC, DEIS and SA-Solver.

With lam = log(a / b) the exact solution from s to t is (Lu et al. 2022, eq. 3.4; 2023, eq. 8)

    x_t = (b_t / b_s) x_s + a_t ∫ exp(lam - lam_t) x0(lam) dlam                 data prediction
    x_t = (a_t / a_s) x_s - b_t ∫ exp(lam_t - lam) epsilon(lam) dlam            noise prediction

and every solver of the family replaces x0 or epsilon by a polynomial through known values. Here the integrals of those
polynomials are taken by Gauss-Legendre quadrature, exact to rounding, rather than by each paper's phi functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bench.conformance.noise import Array
from bench.conformance.published import Expected, Path, PublishedMethod, Term, add_up, of_state, times
from bench.conformance.spacing import orders_of_single_steps

_ROUNDING = 2.0**-24  # of the float32 tables
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)


def interpolation_weights(width: float, known: Sequence[float], kernel: Mapping[str, float]) -> Array:
    """Return weights w with ∫_0^width kernel(x) p(x) dx = Σ w_j p(known_j), p the polynomial through the known nodes.

    The kernel is factor · exp(rate · (width - x)).
    """
    x = (_NODES + 1) * width / 2
    weight = kernel["factor"] * np.exp(kernel["rate"] * (width - x)) * _WEIGHTS * width / 2
    result = []
    for j, node in enumerate(known):
        others = [other for k, other in enumerate(known) if k != j]
        lagrange = np.prod([(x - other) / (node - other) for other in others], axis=0) if others else np.ones_like(x)
        result.append(float(np.sum(weight * lagrange)))
    return np.array(result)


class ExponentialMethod(PublishedMethod):
    """The common part of DPM-Solver and UniPC: the kernel of their integral, and the polynomial step."""

    algorithm = "dpmsolver++"

    def __init__(self, config: Mapping[str, Any], path: Path, eta: float | None) -> None:
        super().__init__(config, path, eta)
        self.algorithm = str(config.get("algorithm_type", self.algorithm))
        self.order = int(config.get("solver_order", 2))
        self.values: list[Term] = []

    def value(self, index: int, state: Array, output: Array) -> Term:
        """Return the quantity that the polynomial interpolates: data or noise."""
        if self.algorithm.endswith("++"):
            return self.read(index, state, output)[0]
        return self.noise_of(index, state, output)

    def kernel(self) -> dict[str, float]:
        """Rate and factor of exp(rate (lam_t - lam)) under the integral; SDE forms: Lu et al. 2023, section 5."""
        return {
            "dpmsolver++": {"rate": -1.0, "factor": 1.0},
            "dpmsolver": {"rate": 1.0, "factor": -1.0},
            "sde-dpmsolver++": {"rate": -2.0, "factor": 2.0},
            "sde-dpmsolver": {"rate": 1.0, "factor": -2.0},
        }[self.algorithm]

    def integrate(
        self, index: int, start: int, state: Array, nodes: Sequence[int], values: Sequence[Term], rule: str = "exact"
    ) -> Expected:
        """Integrate from the level of call `start` to the level after call `index`, through values at nodes (calls).

        Rule `midpoint` (two nodes): the straight line's value half way, times the integral of the kernel (Lu et al.
        2022, algorithm 1).
        """
        here, there = self.path.levels[start], self.path.levels[index + 1]
        width = there.lam - here.lam
        if math.isinf(width):  # sigma = 0 is reached to first order: x = a x0
            return add_up(0.0, times(there.a, values[0]))
        known = [self.path.levels[node].lam - here.lam for node in nodes]
        if rule == "midpoint":
            total = interpolation_weights(width, [0.0], self.kernel())[0]
            slope = width / 2 / known[1]
            weights = np.array([total * (1 - slope), total * slope])
        else:
            weights = interpolation_weights(width, known, self.kernel())
        scale = there.a if self.algorithm.endswith("++") else there.b
        keep = there.b / here.b if self.algorithm.endswith("++") else there.a / here.a
        noise = 0.0
        if self.algorithm == "sde-dpmsolver++":
            keep, noise = keep * math.exp(-width), there.b * math.sqrt(max(0.0, -math.expm1(-2 * width)))
        elif self.algorithm == "sde-dpmsolver":
            noise = there.b * math.sqrt(max(0.0, math.expm1(2 * width)))
        terms = [times(scale * weight, value) for weight, value in zip(weights, values, strict=True)]
        step = add_up(noise, of_state(keep, state), *terms)
        if not noise:
            return step
        # the root of a step without length is that of the rounding of its ends
        lost = 8 * _ROUNDING * (1 + max(abs(here.lam), abs(there.lam)))
        spread = there.b * (math.sqrt(2 * (max(width, 0.0) + lost)) - math.sqrt(2 * max(width, 0.0)))
        return Expected(step.mean, noise, step.size + spread / (64 * _ROUNDING))


class Singlestep(ExponentialMethod):
    """Singlestep solvers (Lu et al. 2022, algorithms 1, 2; 2023, algorithm 1), with inner nodes on the schedule."""

    start = 0
    begun: Array

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """Return the next state; calls of order 1, 2, 3 start a step at its first node and replace the previous one."""
        calls = len(self.path.timesteps)
        zero = self.path.levels[-1].b == 0
        orders = orders_of_single_steps(calls, self.order, bool(self.config["lower_order_final"]), zero)
        self.values.append(self.value(index, state, output))
        if orders[index] == 1:
            self.start, self.begun = index, state
        rule = "midpoint" if orders[index] == 2 and self.config["solver_type"] == "midpoint" else "exact"
        nodes = list(range(self.start, index + 1))
        if orders[index] == 3 and self.config["solver_type"] == "midpoint":
            nodes = [self.start, index]  # Lu et al. 2022, algorithm 2, uses first and last
        return self.integrate(index, self.start, self.begun, nodes, [self.values[node] for node in nodes], rule)


class Multistep(ExponentialMethod):
    """Multistep solvers: Lu et al. 2023, algorithm 2, and its third-order form: Adams-Bashforth, exponential kernel."""

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """Return the next state; the order grows with the history and falls at the end where the settings say so."""
        self.values.append(self.value(index, state, output))
        calls, order = len(self.path.timesteps), min(self.order, index + 1)
        falls = bool(self.config.get("lower_order_final")) and calls < 15
        if index == calls - 2 and falls:
            order = min(order, 2)
        if index == calls - 1 and (falls or self.config.get("euler_at_final") or self.path.levels[-1].b == 0):
            order = 1
        rule = "midpoint" if order == 2 and self.config["solver_type"] == "midpoint" else "exact"
        nodes = list(range(index, index - order, -1))
        return self.integrate(index, index, state, nodes, [self.values[node] for node in nodes], rule)


class UniPc(ExponentialMethod):
    """Zhao et al. 2023, algorithms 5 and 6: UniC through the new value corrects a step, UniP makes the next.

    From order 2 on UniC, and from order 3 on UniP, integrate the interpolating polynomial; UniP-2 and UniC-1 put 1/2
    for the solution of their system, with B(h) = h or exp(h) - 1 (section 3.4 and appendix E).
    """

    def __init__(self, config: Mapping[str, Any], path: Path, eta: float | None) -> None:
        super().__init__(config, path, eta)
        self.algorithm = "dpmsolver++" if config["predict_x0"] else "dpmsolver"
        self.corrected: Array | None = None
        self.corrected_size = 0.0  # corrected states follow from one another, and so do their roundings
        self.last_order = 1

    def half(self, width: float) -> float:
        """Return B(h) / 2 with the kernel's sign: the weight of a first difference."""
        rate = self.kernel()["rate"]
        signed = rate * width
        size = signed if self.config["solver_type"] == "bh1" else math.expm1(signed)
        return self.kernel()["factor"] / rate * size / 2

    def with_half(self, index: int, start: int, state: Array, after: Term, before: Term, ratio: float) -> Expected:
        """Return the first-order step plus B(h) / 2 times a difference of values."""
        here, there = self.path.levels[start], self.path.levels[index + 1]
        step = self.integrate(index, start, state, [start], [self.values[start]])
        scale = there.a if self.algorithm.endswith("++") else there.b
        weight = scale * self.half(there.lam - here.lam) * ratio
        extra = add_up(0.0, times(weight, after), times(-weight, before))
        return Expected(step.mean + extra.mean, 0.0, step.size + extra.size)

    def correct(self, index: int, state: Array, value: Term) -> Expected:
        """Apply UniC to the step that led here, now that the value at its end is known."""
        if index == 0 or self.corrected is None or index - 1 in self.config["disable_corrector"]:
            return Expected(state, 0.0, 0.0)
        last = index - 1
        if self.last_order == 1:
            step = self.with_half(last, last, self.corrected, value, self.values[last], 1.0)
            return Expected(step.mean, 0.0, step.size + self.corrected_size)
        nodes = [index, *range(last, last - self.last_order, -1)]
        values = [value, *(self.values[node] for node in nodes[1:])]
        step = self.integrate(last, last, self.corrected, nodes, values)
        return Expected(step.mean, 0.0, step.size + self.corrected_size)

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """Correct the state, then predict from it; the value remains that of the uncorrected state."""
        value = self.value(index, state, output)
        corrected = self.correct(index, state, value)
        self.corrected, self.corrected_size = corrected.mean, corrected.size
        self.values.append(value)
        left = len(self.path.timesteps) - index if self.config["lower_order_final"] else self.order
        order = self.last_order = min(self.order, left, index + 1)
        if order == 2:
            before = self.path.levels[index].lam - self.path.levels[index - 1].lam
            width = self.path.levels[index + 1].lam - self.path.levels[index].lam
            step = self.with_half(index, index, self.corrected, value, self.values[index - 1], width / before)
        else:
            nodes = list(range(index, index - order, -1))
            step = self.integrate(index, index, self.corrected, nodes, [self.values[node] for node in nodes])
        return Expected(step.mean, 0.0, step.size + corrected.size)


class Deis(PublishedMethod):
    """Zhang and Chen 2023, log-rho Adams-Bashforth: d(x / a) = epsilon d(sigma), epsilon a polynomial in log sigma."""

    def __init__(self, config: Mapping[str, Any], path: Path, eta: float | None) -> None:
        super().__init__(config, path, eta)
        self.values: list[Term] = []

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """Return the next state; the order changes as in `Multistep`; the integral is that of sigma = exp(-lam)."""
        self.values.append(self.noise_of(index, state, output))
        calls, order = len(self.path.timesteps), min(int(self.config["solver_order"]), index + 1)
        if self.config["lower_order_final"] and calls < 15:
            order = min(order, calls - index) if calls - index <= 2 else order
        here, there = self.path.levels[index], self.path.levels[index + 1]
        if there.b == 0:  # data lie at an infinite log sigma and are reached to first order
            return add_up(0.0, of_state(there.a / here.a, state), times(-there.a * here.sigma, self.values[-1]))
        nodes = list(range(index, index - order, -1))
        known = [self.path.levels[node].lam - here.lam for node in nodes]
        weights = interpolation_weights(there.lam - here.lam, known, {"rate": 1.0, "factor": -1.0})
        terms = [times(there.b * weight, self.values[node]) for weight, node in zip(weights, nodes, strict=True)]
        return add_up(0.0, of_state(there.a / here.a, state), *terms)


class SaSolver(PublishedMethod):
    """Xue et al. 2023, algorithms 1 and 2: an SDE of strength tau, predicted and corrected through past values.

    With k = 1 + tau² the data's kernel is k exp(-k (lam_t - lam)) and the noise's k exp(lam_t - lam) (section 4).
    At order 2 the data's slope is integrated as B(h) = h² / 2, the authors' form for few steps. The corrector keeps the
    noise that the predictor drew.
    """

    def __init__(self, config: Mapping[str, Any], path: Path, eta: float | None) -> None:
        super().__init__(config, path, eta)
        self.of_data = config["algorithm_type"] == "data_prediction"
        self.values: list[Term] = []
        self.corrected: Array | None = None
        self.predicted: Expected | None = None
        self.corrector_order = 1

    def tau(self, index: int) -> float:
        """Return the strength at a call; by default 1 between timesteps 200 and 800, and else 0."""
        chosen, timestep = self.config.get("tau_func"), self.path.timesteps[index]
        return float(200 <= timestep <= 800) if chosen is None else float(chosen(timestep))

    def step(self, index: int, state: Array, nodes: Sequence[int], values: Sequence[Term]) -> Expected:
        """Step from the level of a call to the next through values at nodes, the first of them at either end."""
        here, there = self.path.levels[index], self.path.levels[index + 1]
        width, strength = there.lam - here.lam, self.tau(index) ** 2
        if math.isinf(width):  # sigma = 0 is reached to first order: x = a x0
            return add_up(0.0, times(there.a, values[0]))
        known = [self.path.levels[node].lam - here.lam for node in nodes]
        k = 1 + strength
        kernel = {"rate": -k, "factor": k} if self.of_data else {"rate": 1.0, "factor": -k}
        weights = interpolation_weights(width, known, kernel)
        if len(nodes) == 2 and self.of_data:  # value + slope, the slope's integral as k h² / 2 from the step's start
            per_unit = k * width**2 / 2 / (known[0] - known[1])
            start = -math.expm1(-k * width)
            weights = np.array([per_unit, start - per_unit] if known[0] else [start + per_unit, -per_unit])
        if self.of_data:
            scale, keep = there.a, there.b / here.b * math.exp(-strength * width)
            noise = there.b * math.sqrt(-math.expm1(-2 * strength * width))
        else:
            scale, keep = there.b, there.a / here.a
            noise = math.sqrt(strength) * there.b * math.sqrt(math.expm1(2 * width))
        # the class expands the polynomial in powers of lambda, where neighbouring nodes cancel
        gap = min((abs(a - b) for a, b in pairwise(known)), default=0.0)
        lost = (1 + max(abs(here.lam), abs(there.lam)) / gap) ** (len(known) - 1) if gap else 1.0
        rounded = [Term(value.weight, value.value, value.size * lost) for value in values]
        terms = [times(scale * weight, value) for weight, value in zip(weights, rounded, strict=True)]
        return add_up(noise, of_state(keep, state), *terms)

    def advance(self, index: int, state: Array, output: Array) -> Expected:
        """Correct the state, then predict from it; orders grow with the history and fall at the end."""
        value = self.read(index, state, output)[0] if self.of_data else self.noise_of(index, state, output)
        size = 0.0
        if self.corrected is None or self.predicted is None:
            self.corrected = state
        else:
            nodes = list(range(index, index - self.corrector_order, -1))
            step = self.step(index - 1, self.corrected, nodes, [value, *(self.values[node] for node in nodes[1:])])
            self.corrected = state + step.mean - self.predicted.mean
            size = step.size + self.predicted.size
        self.values.append(value)
        predictor, corrector = int(self.config["predictor_order"]), int(self.config["corrector_order"])
        known, left = min(index, max(predictor, corrector - 1)), len(self.path.timesteps) - index
        if self.config["lower_order_final"]:
            predictor, corrector = min(predictor, left), min(corrector, left + 1)
        order, self.corrector_order = min(predictor, known + 1), min(corrector, known + 2)
        nodes = list(range(index, index - order, -1))
        self.predicted = self.step(index, self.corrected, nodes, [self.values[node] for node in nodes])
        return Expected(self.predicted.mean, self.predicted.noise, self.predicted.size + size)
