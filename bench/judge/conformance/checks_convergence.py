"""Global error against the exact solution, and how fast it falls with the number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bench.judge.conformance.checks_steps import run_case
from bench.judge.conformance.noise import Array, Level
from bench.judge.conformance.report import Finding, Order
from bench.judge.conformance.subject import Case, Refusal, Subject
from bench.judge.conformance.targets import GAUSSIAN, MIXTURE, NARROW, Target
from bench.judge.conformance.trace import Trace

STEPS = (2, 4, 8, 16, 32, 64, 3, 7, 48)
FIT = (20, 40, 100, 200)
SLACK = 0.25  # what is left of pre-asymptotic terms and of timesteps rounded to whole ones at 20 to 200 steps
PLAIN = {
    "final_sigmas_type": "sigma_min",  # the last step to sigma 0 spans an infinite log SNR, to first order only
    "lower_order_final": False,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "thresholding": False,
    "set_alpha_to_one": True,
    "beta_schedule": "linear",
    "use_karras_sigmas": False,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
}


_FLOWS: dict[tuple[str, bytes, tuple[Level, Level]], Array] = {}  # the mixture's takes a quarter of a second


def error_of(case: Case, trace: Trace, target: Target) -> float:
    """Root mean square distance of a run's end from the exact solution, in units of x."""
    start, levels = trace.calls[0].state, (case.level(0), case.level(len(case.path.timesteps)))
    key = (target.name, start.tobytes(), levels)
    if key not in _FLOWS:
        _FLOWS[key] = target.flow(start, *levels)
    return float(np.sqrt(np.mean((trace.final - _FLOWS[key]) ** 2)))


def global_errors(subject: Subject) -> dict[str, dict[str, float]]:
    """The error at each number of steps, by target; nothing for schedulers that always draw noise."""
    eta = 0.0 if subject.has_eta else None
    if subject.family is not None and subject.family.stochastic(subject.config, 0.0):
        return {}
    errors: dict[str, dict[str, float]] = {}
    for target in (NARROW, GAUSSIAN, MIXTURE):
        for steps in STEPS:
            try:
                case = subject.prepare(steps)
                if math.isinf(case.path.levels[0].sigma):
                    continue
                errors.setdefault(target.name, {})[str(steps)] = error_of(
                    case, run_case(subject, case, eta, target), target
                )
            except Refusal:
                continue
    return errors


def fit_order(subject: Subject, overrides: Mapping[str, Any], target: Target, steps: tuple[int, ...] = FIT) -> Order:
    """Least squares of log error on log steps; raises Refusal where a step count is refused."""
    eta = 0.0 if subject.has_eta else None
    errors = []
    for count in steps:
        case = subject.prepare(count, overrides)
        errors.append(error_of(case, run_case(subject, case, eta, target), target))
    slope = float(np.polyfit(np.log(steps), np.log(np.maximum(errors, 1e-300)), 1)[0])
    config = {**subject.config, **overrides}
    declared = subject.family.order(config) if subject.family else 1
    return Order(f"{target.name}", float(declared), -slope, steps, tuple(errors))


def plain_overrides(subject: Subject) -> dict[str, Any]:
    """The settings that leave a method's own order visible, as far as the class has them."""
    overrides = {name: value for name, value in PLAIN.items() if name in subject.parameters}
    if "original_inference_steps" in subject.parameters:
        overrides["original_inference_steps"] = subject.config["num_train_timesteps"]
    return overrides


def check_order(subject: Subject, orders: list[Order]) -> Iterator[Finding]:
    """The fitted order reaches the declared one; the fits go to `orders` whatever they are."""
    if subject.family is None or subject.family.stochastic({**subject.config, **plain_overrides(subject)}, 0.0):
        return
    solver_orders = (1, 2, 3) if "solver_order" in subject.parameters else (None,)
    for solver_order in solver_orders:
        extra = {} if solver_order is None else {"solver_order": solver_order}
        for target in (GAUSSIAN, MIXTURE):
            steps = FIT if solver_order != 3 else (21, 42, 99, 201)
            try:
                order = fit_order(subject, {**plain_overrides(subject), **extra}, target, steps)
            except Refusal:
                continue
            name = target.name if solver_order is None else f"solver_order={solver_order}, {target.name}"
            order = Order(name, *(order.declared, order.fitted, order.steps, order.errors))
            orders.append(order)
            if not order.fitted >= order.declared - SLACK:
                errors = ", ".join(f"{error:.3g}" for error in order.errors)
                yield Finding(
                    *("order", name, f"order {order.declared:g}", f"{order.fitted:.2f}"),
                    f"Errors {errors} at {', '.join(map(str, order.steps))} steps fall too slowly.",
                    (("", (order.declared - order.fitted) / SLACK),),
                )
