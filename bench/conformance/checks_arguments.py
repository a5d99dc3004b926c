"""Arguments of `step` and modes of flow schedulers that pipelines use: plain numbers, churn, tokens, growing images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bench.conformance.checks_steps import allowance, run_case
from bench.conformance.noise import Array
from bench.conformance.published import Euler
from bench.conformance.report import Finding
from bench.conformance.subject import Case, Subject
from bench.conformance.targets import GAUSSIAN
from bench.conformance.trace import DrawRecorder, to_numpy

_STEPS = 6
_CHURN: tuple[dict[str, float], ...] = (
    {"s_churn": 1.0},
    {"s_churn": 2.0, "s_noise": 1.5},
    {"s_churn": 100.0},
    {"s_churn": 1.0, "s_tmin": 0.9},
    {"s_churn": 1.0, "s_tmax": 0.3},
)


def check_arguments(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check `step` with churn, and on a curve with a plain number for a timestep and with a timestep per token."""
    if subject.curve() is None:
        by_euler = subject.family is not None and subject.family.method is Euler and not subject.family.own
        if by_euler and "s_churn" in subject.step_parameters and subject.config["prediction_type"] == "epsilon":
            yield from _check_churn(subject, setting)
        if "order" in subject.step_parameters:
            yield from _check_order(subject, setting)
        return
    yield from _check_plain_timestep(subject, setting)
    if "s_churn" in subject.step_parameters:
        yield from _check_churn(subject, setting)
    if "per_token_timesteps" in subject.step_parameters:
        yield from _check_tokens(subject, setting)
    if "scale_factors" in subject.parameters:
        yield from _check_growth(subject, setting)


def _call(case: Case, index: int, **arguments: Any) -> tuple[Array, Array, Array, Array]:
    """Return state, output, next state and the sum of draws of one call from a begin index."""
    case.scheduler.set_begin_index(index)
    state = case.start(GAUSSIAN, index)
    output = case.model(GAUSSIAN)(state, index, case.path.timesteps[index])
    generator = torch.Generator().manual_seed(4)
    if "generator" in arguments:
        arguments["generator"] = generator
    recorder = DrawRecorder(generator)
    with recorder:
        result = case.scheduler.step(
            torch.from_numpy(output), case.timesteps[index], torch.from_numpy(state.copy()), **arguments
        )
    drawn = sum(recorder.draws, np.zeros_like(state))
    return state, output, to_numpy(result.prev_sample), drawn


def _check_plain_timestep(subject: Subject, setting: str) -> Iterator[Finding]:
    """A timestep as a number and as a tensor mean the same; an index in place of a timestep is refused."""
    results = []
    for number in (False, True):
        case = subject.prepare(_STEPS)
        state = torch.from_numpy(case.start(GAUSSIAN))
        timestep = float(case.timesteps[0]) if number else case.timesteps[0]
        draw = {"generator": torch.Generator().manual_seed(4)} if "generator" in subject.step_parameters else {}
        results.append(to_numpy(case.scheduler.step(torch.ones_like(state), timestep, state, **draw).prev_sample))
    if not np.array_equal(results[0], results[1]):
        words = "A timestep as a number gives another state than as a tensor."
        yield Finding("timestep as a number", setting, "equal states", "other states", words)


def _check_churn(subject: Subject, setting: str) -> Iterator[Finding]:
    """Karras et al. 2022, algorithm 2, with gamma = s_churn / calls, on the level's sigma; or whether it is ignored.

    On a noise table the output is the noise.
    """
    for index in (0, 4):
        for given in _CHURN:
            case = subject.prepare(_STEPS)
            state, output, after, drawn = _call(case, index, generator=None, **given)
            sigma, following = case.level(index).b, case.level(index + 1).b
            inside = given.get("s_tmin", 0.0) <= sigma <= given.get("s_tmax", math.inf)
            gamma = min(given["s_churn"] / len(case.path.timesteps), math.sqrt(2) - 1) if inside else 0.0
            raised = sigma * (1 + gamma)
            noise = given.get("s_noise", 1.0) * math.sqrt(raised**2 - sigma**2) * drawn
            slope = output if case.rescaled else sigma / raised * output
            wanted = state + noise + (following - raised) * slope
            label = f"{setting}, {', '.join(f'{name}={value:g}' for name, value in given.items())}"
            plain = state + (following - sigma) * output
            limit = allowance(float(np.abs(state).max() + np.abs(output).max() + np.abs(noise).max()))
            if gamma and not drawn.any() and np.abs(after - plain).max() <= limit:
                words = "step takes s_churn and its companions and ignores them."
                yield Finding("argument ignored", f"{setting}, s_churn", "noise", "the step without it", words)
                return
            gap = float(np.abs(after - wanted).max())
            if not gap <= limit:
                words = f"Call {index} adds other noise than its churn, or steps from another level."
                place = ((f"call {index}", gap / limit),)
                yield Finding("churn", label, f"{wanted.flat[0]:.8g}", f"{after.flat[0]:.8g}", words, place)
                return


def _check_order(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check that a multistep method which is told to be of order 1 makes the steps of Euler's method."""
    case = subject.prepare(_STEPS)
    euler = Euler(case.config, case.path, None)
    for call in run_case(subject, case, None, arguments={"order": 1}).calls:
        wanted = euler.advance(call.index, call.state, call.output)
        gap, limit = float(np.abs(call.next_state - wanted.mean).max()), allowance(wanted.size)
        if not gap <= limit:
            words = f"Call {call.index} with order=1 is not a step of Euler's method."
            place = ((f"call {call.index}", gap / limit),)
            got = f"{call.next_state.flat[0]:.8g}"
            yield Finding("argument ignored", f"{setting}, order", f"{wanted.mean.flat[0]:.8g}", got, words, place)
            return


def _check_tokens(subject: Subject, setting: str) -> Iterator[Finding]:
    """Each token steps from its own level to the next lower one of the schedule; the output is data - noise."""
    case = subject.prepare(_STEPS)
    levels, trained = np.array(case.path.positions), float(case.config["num_train_timesteps"])
    own = np.stack([levels[[0, 1, 3, 5, 6]], levels[[2, 2, 4, 6, 1]]])
    lower = np.array([[max((u for u in levels if u < sigma - 1e-6), default=0.0) for sigma in row] for row in own])
    rng = np.random.default_rng(6)
    state, output = rng.standard_normal((2, 2, 5, 3))
    case.scheduler.set_begin_index(1)
    result = case.scheduler.step(
        *(torch.from_numpy(output).float(), case.timesteps[1], torch.from_numpy(state).float()),
        per_token_timesteps=torch.from_numpy(own * trained).float(),
    ).prev_sample
    wanted = state + (own - lower)[..., None] * output
    gap = float(np.abs(to_numpy(result) - wanted).max()) if result.shape == wanted.shape else math.inf
    if not gap <= allowance(4.0):
        words = "With a timestep for each token a token does not step to the next lower level of the schedule."
        yield Finding("tokens", setting, f"{wanted.flat[0]:.8g}", f"{float(result.flatten()[0]):.8g}", words)


def _check_growth(subject: Subject, setting: str) -> Iterator[Finding]:
    """Images that grow along the run: constant data stay constant in a larger image, with noise of the next level."""
    factors = [1.0, 2.0, 2.0, 3.0, 3.0]
    case = subject.prepare(_STEPS, {"scale_factors": factors, "upscale_mode": "nearest"})
    size = 4
    for index, factor in enumerate((*factors, factors[-1])):
        here, there = case.path.levels[index], case.path.levels[index + 1]
        state = torch.full((2, 3, size, size), 0.5 * here.a, dtype=torch.float64)
        generator = torch.Generator().manual_seed(index)
        recorder = DrawRecorder(generator)
        output = torch.full_like(state, -0.5)  # the velocity of data 0.5 and noise 0
        with recorder:
            result = case.scheduler.step(output, case.timesteps[index], state, generator=generator).prev_sample
        size = round(factor * 4)
        wanted = 0.5 * there.a + there.b * sum(recorder.draws, np.zeros(()))
        expected = (2, 3, size, size)
        same = tuple(result.shape) == expected
        gap = float(np.abs(to_numpy(result) - wanted).max()) if same else math.inf
        if not gap <= allowance(8.0):
            words = (
                f"Call {index} does not enlarge the data by {factor:g} of the first size and add noise of its level."
            )
            yield Finding("growth", setting, str(expected), f"{tuple(result.shape)}, {gap:.3g} off", words)
            return
