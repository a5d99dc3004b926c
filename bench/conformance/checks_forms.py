"""The same numbers in another form: layout, size, plain timesteps, gradients; and what a class says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from bench.conformance.breakdown import deliberate
from bench.conformance.checks_steps import allowance, place
from bench.conformance.noise import Array
from bench.conformance.report import Finding
from bench.conformance.subject import Case, Subject, step_arguments
from bench.conformance.targets import GAUSSIAN
from bench.conformance.trace import scaled_input, to_numpy

_STEPS = 6
_LARGE = 1000.0
_FOREIGN = {
    **{"num_train_timesteps": 500, "beta_start": 0.002, "beta_end": 0.016, "beta_schedule": "linear"},
    **{"prediction_type": "v_prediction", "shift": 3.0, "flow_shift": 3.0},
}


def check_forms(subject: Subject, setting: str, eta: float | None) -> Iterator[Finding]:
    """Check a first step on inputs of another layout and size, with a plain timestep, and with gradients."""
    case = subject.prepare(_STEPS)
    where = ((place(_STEPS, eta), math.inf),)
    state, output = _inputs(case)
    plain = _step(subject, eta, state, output)
    layout = [torch.from_numpy(x).contiguous(memory_format=torch.channels_last) for x in (state, output)]
    if not np.array_equal(plain, _step(subject, eta, *layout)):
        words = "Latents with channels last in memory give another state."
        yield Finding("form", f"{setting}, channels last", "equal states", "another state", words, where)
    config = subject.config
    if not config.get("clip_sample") and not config.get("thresholding"):
        nothing = _step(subject, eta, 0 * state, 0 * output)
        off = _step(subject, eta, _LARGE * state, _LARGE * output) - nothing - _LARGE * (plain - nothing)
        size = float(np.abs(state).max() + np.abs(output).max()) / max(case.path.levels[0].a, 1e-6)
        limit = allowance(_LARGE * size)
        if not np.abs(off).max() <= limit:
            words = f"A step is linear in state and output; inputs {_LARGE:g} times as large give another state."
            got, places = f"{np.abs(off).max():.3g}", ((where[0][0], float(np.abs(off).max()) / limit),)
            yield Finding("form", f"{setting}, large values", f"below {limit:.2g}", got, words, places)
    number = _plain(case.timesteps[0])
    if number is not None and case.path.curve is None:
        try:
            told = _step(subject, eta, state, output, number)
        except Exception as error:  # some classes refuse numbers, which could be indices
            told = plain if deliberate(error) or isinstance(error, AttributeError) else np.full_like(plain, math.nan)
        if not np.abs(plain - told).max() <= allowance(1 + float(np.abs(plain).max())):
            words = "A timestep as a number gives another state than as a tensor."
            yield Finding("timestep as a number", setting, "equal states", "another state", words, where)
    yield from _check_gradients(subject, setting, eta, state, output)


def _inputs(case: Case) -> tuple[Array, Array]:
    state = case.start(GAUSSIAN)
    return state, np.random.default_rng(9).standard_normal(state.shape)


def _plain(timestep: Any) -> int | None:
    return int(timestep) if float(timestep).is_integer() else None


def _step(subject: Subject, eta: float | None, state: Any, output: Any, timestep: Any = None) -> Array:
    """Return the state after a first step, always with the same noise."""
    case = subject.prepare(_STEPS)
    draw = {"generator": torch.Generator().manual_seed(6)} if "generator" in subject.step_parameters else {}
    given = [torch.as_tensor(x) for x in (state, output)]
    scaled_input(case.scheduler, given[0], case.timesteps[0])
    told = case.timesteps[0] if timestep is None else timestep
    return to_numpy(case.scheduler.step(given[1], told, given[0], **step_arguments(subject, eta), **draw).prev_sample)


def _check_gradients(
    subject: Subject, setting: str, eta: float | None, state: Array, output: Array
) -> Iterator[Finding]:
    """Check that gradients pass the step, from the next state to the output: training through samplers needs them."""
    case = subject.prepare(_STEPS)
    draw = {"generator": torch.Generator().manual_seed(6)} if "generator" in subject.step_parameters else {}
    with torch.enable_grad():
        given = [torch.from_numpy(x).requires_grad_() for x in (state, output)]
        scaled_input(case.scheduler, given[0].detach(), case.timesteps[0])
        step: Callable[..., Any] = case.scheduler.step
        result = step(given[1], case.timesteps[0], given[0], **step_arguments(subject, eta), **draw).prev_sample
        slopes = torch.autograd.grad(result.sum(), given, allow_unused=True) if result.requires_grad else (None, None)
    plain = _step(subject, eta, state, output)
    for name, slope, index in (("state", slopes[0], 0), ("output", slopes[1], 1)):
        moved = [state, output]
        moved[index] = moved[index] + 1e-3
        matters = float(np.abs(_step(subject, eta, *moved) - plain).max()) > 1e-6
        if matters and (slope is None or not bool((slope != 0).any())):
            words = f"The next state depends on the {name}, and step passes no gradient back to it."
            yield Finding("gradients", f"{setting}, {name}", "a gradient", "none", words)


def check_self(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check what pipelines read from an object, and that it takes over settings from the config of another class."""
    scheduler, family = subject.fresh(), subject.family
    if family is not None and getattr(scheduler, "order", family.calls_per_step) != family.calls_per_step:
        words = "Pipelines read the number of calls of a step from `order`."
        yield Finding("order", setting, f"{family.calls_per_step}", f"{scheduler.order}", words)
    scheduler = subject.prepare(_STEPS).scheduler
    trained = int(subject.config["num_train_timesteps"])
    if hasattr(scheduler, "__len__") and len(scheduler) != trained:
        words = "The length of a scheduler is its number of training timesteps."
        yield Finding("length", setting, f"{trained}", f"{len(scheduler)}", words)
    given = {name: value for name, value in _FOREIGN.items() if name in subject.parameters}
    other = "DDIMScheduler" if subject.cls.__name__ != "DDIMScheduler" else "EulerDiscreteScheduler"
    taken = subject.config_of(subject.quick.from_config({"_class_name": other, **given}))
    if lost := sorted(name for name, value in given.items() if taken.get(name) != value):
        words = "from_config drops settings that the config of another class holds and this class takes."
        yield Finding("round trip", f"{setting}, config of another class", "the same settings", f"other {lost}", words)
