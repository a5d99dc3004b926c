"""Global error against the exact solution, and the order at which it falls with the number of steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.conformance.checks_steps import run_each
from bench.conformance.noise import Array, Level
from bench.conformance.report import Finding, Order
from bench.conformance.subject import Case, Refusal, Subject
from bench.conformance.targets import GAUSSIAN, MIXTURE, NARROW, Target
from bench.conformance.trace import Trace

_LOG = logging.getLogger(__name__)
_STEPS = (2, 4, 8, 16, 32, 64, 3, 7, 48)
FIT = (18, 36, 72, 144)  # whole groups of orders 1, 2 and 3
FIT_WHOLE = (20, 40, 100, 200)  # whole timesteps between steps even in t
SLACK = 0.25  # allows for pre-asymptotic terms and the rounding to whole timesteps at 18 to 144 steps
# Data and pure noise lie at an infinite log SNR, which no number of steps even in the curve's parameter divides: the
# first-order steps at both ends leave an error of log(N) / N^2, whose slope at 20 to 200 steps is 1.4 to 1.9.
BETWEEN_INFINITE_ENDS = 1.4
PLAIN = {
    "lower_order_final": False,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "thresholding": False,
    "set_alpha_to_one": True,
    "beta_schedule": "linear",
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
}
_SIGMAS = {
    "use_karras_sigmas": True,
    "timestep_spacing": "linspace",
    "final_sigmas_type": "zero",
    "lower_order_final": True,
}


_ON_CURVE = {
    **{"thresholding": False, "lower_order_final": True, "final_sigmas_type": "zero"},
    **{"shift": 1.0, "flow_shift": 1.0, "use_dynamic_shifting": False, "stochastic_sampling": False},
    **{"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False},
}
_FLOWS: dict[tuple[str, bytes, tuple[Level, Level]], Array] = {}  # the mixture's flow takes 0.25 s to compute


def error_of(case: Case, trace: Trace, target: Target, calls_left: int = 0) -> float:
    """Return the root mean square distance from the exact solution, at a run's end or `calls_left` calls before."""
    reached = len(case.path.timesteps) - calls_left
    start, levels = trace.calls[0].state, (case.level(0), case.level(reached))
    end = trace.calls[-calls_left].state if calls_left else trace.final
    key = (target.name, start.tobytes(), levels)
    if key not in _FLOWS:
        _FLOWS[key] = target.flow(start, *levels)
    return float(np.sqrt(np.mean((end - _FLOWS[key]) ** 2)))


def global_errors(subject: Subject) -> dict[str, dict[str, float]]:
    """Return the error by target and number of steps; empty for schedulers that always draw noise."""
    eta = 0.0 if subject.has_eta else None
    if subject.family is not None and subject.family.stochastic(subject.config, 0.0):
        return {}
    targets: tuple[Target, ...] = (NARROW, GAUSSIAN, MIXTURE)
    errors: dict[str, dict[str, float]] = {target.name: {} for target in targets}
    for steps in _STEPS:
        try:
            case = subject.prepare(steps)
            if case.path.levels[0].a == 0 and case.config["prediction_type"] == "epsilon":
                continue  # pure noise says nothing of the data, and dividing by a = 0 gives no number
            traces = run_each(subject, case, eta, targets)
            if any(call.draws for call in traces[0].calls):
                return {}
            for target, trace in zip(targets, traces, strict=True):
                errors[target.name][str(steps)] = error_of(case, trace, target)
        except Exception as error:  # the checks report a breakdown as a finding
            _LOG.debug("no error at %s steps: %s", steps, error)
    return {name: found for name, found in errors.items() if found}


def plain_overrides(subject: Subject) -> dict[str, Any]:
    """Return the settings under which a method's own order is visible, as far as the class has them.

    Steps even in t do not become small in log SNR near t = 0 until they are single timesteps. Classes that offer
    Karras' sigmas therefore use them, and the error is read before the last call, which spans an infinite log SNR.
    """
    wanted = {**PLAIN, **(_SIGMAS if "use_karras_sigmas" in subject.parameters else {})}
    if subject.curve() is not None:
        wanted = _ON_CURVE
    overrides = {name: value for name, value in wanted.items() if name in subject.parameters}
    if "original_inference_steps" in subject.parameters:
        overrides["original_inference_steps"] = subject.config["num_train_timesteps"]
    return overrides


def order_of_fit(steps: Sequence[int], errors: Sequence[float]) -> tuple[float, float]:
    """Return the slope of -log error on log steps by least squares, and its standard error from the residuals."""
    x, y = np.log(steps), np.log(np.clip(errors, 1e-300, 1e300))
    slope, offset = np.polyfit(x, y, 1)
    variance = float(np.sum((y - slope * x - offset) ** 2)) / max(1, len(x) - 2)
    return -float(slope), math.sqrt(variance / float(np.sum((x - x.mean()) ** 2)))


def fit_orders(
    subject: Subject, overrides: Mapping[str, Any], targets: tuple[Target, ...], declared: float | None = None
) -> list[Order]:
    """Fit the order on each target, with its uncertainty; raises Refusal where a step count is refused.

    `declared` is the order that is claimed, by default the family's.
    """
    eta = 0.0 if subject.has_eta else None
    by_sigma = bool(overrides.get("use_karras_sigmas"))
    fit, rows = FIT if by_sigma else FIT_WHOLE, []
    for count in fit:
        case = subject.prepare(count, overrides)
        traces = zip(targets, run_each(subject, case, eta, targets), strict=True)
        rows.append([error_of(case, trace, target, int(by_sigma)) for target, trace in traces])
    config = {**subject.config, **overrides}
    if declared is None:
        declared = float(subject.family.order(config)) if subject.family else 1.0
    solver_order = overrides.get("solver_order")
    orders = []
    for target, errors in zip(targets, zip(*rows, strict=True), strict=True):
        fitted, uncertainty = order_of_fit(fit, errors)
        name = target.name if solver_order is None else f"solver_order={solver_order}, {target.name}"
        orders.append(Order(name, declared, fitted, fit, errors, uncertainty))
    return orders


def check_order(subject: Subject, orders: list[Order]) -> Iterator[Finding]:
    """Check that the fitted order reaches the declared one; every fit is appended to `orders`."""
    plain = plain_overrides(subject)
    if subject.family is None or subject.family.stochastic({**subject.config, **plain}, 0.0):
        return
    solver_orders = (1, 2, 3) if "solver_order" in subject.parameters else (None,)
    for solver_order in solver_orders:
        extra = {} if solver_order is None else {"solver_order": solver_order}
        targets = (GAUSSIAN, MIXTURE) if solver_order in (None, 2) else (GAUSSIAN,)
        try:
            fitted = fit_orders(subject, {**plain, **extra}, targets)
        except Refusal:
            continue
        for order in fitted:
            orders.append(order)
            least = order.declared - SLACK
            if subject.curve() is not None and order.declared > 1:
                least = BETWEEN_INFINITE_ENDS
            if not order.fitted >= least:
                errors = ", ".join(f"{error:.3g}" for error in order.errors)
                words = f"Errors {errors} at {', '.join(map(str, order.steps))} steps fall too slowly."
                places = (("", (order.declared - order.fitted) / SLACK),)
                yield Finding("order", order.setting, f"{order.declared:g}", f"{order.fitted:.2f}", words, places)
