"""What every consistent method does, with or without a published form: it converges to the data's law."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bench.conformance.checks_convergence import FIT_WHOLE, fit_orders, order_of_fit, plain_overrides
from bench.conformance.noise import Array
from bench.conformance.report import Finding, Order
from bench.conformance.subject import Case, Refusal, Subject, step_arguments
from bench.conformance.targets import GAUSSIAN, MIXTURE
from bench.conformance.trace import TracedRun

LEAPS = {"TCDScheduler", "LCMScheduler", "FlowMatchLCMScheduler", "SCMScheduler"}
"""Samplers of distilled students: each call leaps to the data, and an ideal teacher's prediction does not help it."""
CONVERGED = 1e-4  # an error of this size, in units of the data, is that of float32 tables
_LEAST = 0.4  # the slope of a first-order method at 20 to 200 steps is 0.75 to 1.1, of one that stalls below 0.5
_SPARE = 6
_NORMAL = 6.0  # standard errors; the seeds are fixed, so that this does not depend on chance


def law_error(subject: Subject, case: Case, eta: float | None) -> tuple[float, Array]:
    """Return how far mean and standard deviation at a run's end are from the marginal's, and all numbers drawn.

    With the ideal model of Gaussians a sampler is affine in its start and in its draws: x = c + A x_T + Σ B_k z_k for
    each coordinate. Its coefficients follow from a batch of runs larger than their number, by least squares, and the
    law from them without sampling error: mean c + A E[x_T], variance A² Var[x_T] + Σ B_k². Infinite for a sampler that
    is not affine.
    """
    calls = len(case.path.timesteps)
    batch = 2 * calls + _SPARE
    run = TracedRun(arguments=step_arguments(subject, eta))
    trace = run.sample(case.scheduler, case.model(GAUSSIAN), case.start(GAUSSIAN, batch=batch), calls)
    draws = [draw for call in trace.calls for draw in call.draws]
    before, after = case.level(0), case.level(calls)
    errors = []
    for where in np.ndindex(trace.final.shape[1:]):
        rows = (slice(None), *where)
        columns = [np.ones(batch), trace.calls[0].state[rows], *(draw[rows] for draw in draws)]
        design, final = np.stack(columns, 1), trace.final[rows]
        weights = np.linalg.lstsq(design, final, rcond=None)[0]
        if not np.abs(design @ weights - final).max() <= 1e-3 * (1 + np.abs(final).max()):
            return math.inf, np.concatenate([draw.ravel() for draw in draws] or [np.empty(0)])
        mean, width = GAUSSIAN.mean[where], GAUSSIAN.width[where]
        start = math.hypot(before.a * width, before.b)
        got = (weights[0] + weights[1] * before.a * mean, math.hypot(weights[1] * start, *weights[2:]))
        wanted = (after.a * mean, math.hypot(after.a * width, after.b))
        errors += [got[0] - wanted[0], got[1] - wanted[1]]
    return float(np.sqrt(np.mean(np.square(errors)))), np.concatenate([draw.ravel() for draw in draws] or [np.empty(0)])


def check_law(subject: Subject, setting: str, eta: float | None, orders: list[Order]) -> Iterator[Finding]:
    """Check that runs which draw noise end in the law of the data, to first order in the number of steps at least.

    The draws themselves have to be standard normal. Deterministic runs of a known class are left to `check_order`.
    """
    family = subject.family
    if family is not None and (family.name in LEAPS or not family.stochastic(subject.config, eta or 0.0)):
        return
    overrides = plain_overrides(subject)
    if family is not None and not family.stochastic({**subject.config, **overrides}, eta or 0.0):
        return
    errors, drawn = [], np.empty(0)
    for count in FIT_WHOLE:
        try:
            error, drawn = law_error(subject, subject.prepare(count, overrides), eta)
        except (Refusal, ValueError, NotImplementedError):
            return
        errors.append(error)
    if not len(drawn):
        return
    yield from _check_normal(setting, drawn)
    name = "law of Gaussians" if eta is None else f"law of Gaussians, eta {eta:g}"
    slope, uncertainty = order_of_fit(FIT_WHOLE, errors)
    order = Order(name, 1.0, slope, FIT_WHOLE, tuple(errors), uncertainty)
    orders.append(order)
    yield from _too_slow(order, f"{setting}, {name}")


def _check_normal(setting: str, drawn: Array) -> Iterator[Finding]:
    off = abs(drawn.mean()) * math.sqrt(len(drawn)), abs(drawn.var() - 1) * math.sqrt(len(drawn) / 2)
    if not max(off) <= _NORMAL:
        words = "The numbers that are drawn as noise are not standard normal."
        got = f"mean {drawn.mean():.3g}, variance {drawn.var():.3g}"
        yield Finding("noise drawn", setting, "mean 0, variance 1", got, words, (("", max(off) / _NORMAL),))


def check_convergence(subject: Subject, setting: str, orders: list[Order]) -> Iterator[Finding]:
    """Check that a class of no known family converges to the exact solution, at the order that it
    declares (`solver_order`, or its `order`).

    A run that draws noise is judged by `check_law`.
    """
    if subject.family is not None or _draws(subject):
        return
    plain = plain_overrides(subject)
    declared = float(subject.config.get("solver_order", getattr(subject.base, "order", 1)))
    try:
        fitted = fit_orders(subject, plain, (GAUSSIAN, MIXTURE), declared)
    except Refusal:
        return
    orders += fitted
    for order in fitted:
        yield from _too_slow(order, f"{setting}, {order.setting}")


def _draws(subject: Subject, overrides: Mapping[str, Any] | None = None) -> bool:
    run = TracedRun(arguments=step_arguments(subject, 0.0 if subject.has_eta else None))
    return any(call.draws for call in subject.prepare(4, overrides).run(GAUSSIAN, run).calls)


def _too_slow(order: Order, setting: str) -> Iterator[Finding]:
    """Yield a finding where even the upper end of the fitted order is below the declared one."""
    upper = order.fitted + 2 * min(order.uncertainty, 0.1)
    if upper >= order.declared - _LEAST or order.errors[-1] <= CONVERGED:
        return
    errors = ", ".join(f"{error:.3g}" for error in order.errors)
    words = (
        f"With {', '.join(map(str, order.steps))} steps the distance from the exact solution is {errors}: the run does "
        "not converge to it as a consistent method does."
    )
    got, places = f"{order.fitted:.2f} ± {order.uncertainty:.2f}", (("", (order.declared - upper) / _LEAST),)
    yield Finding("convergence", setting, f"order {order.declared:g}", got, words, places)
