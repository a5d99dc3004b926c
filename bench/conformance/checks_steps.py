"""Single steps compared with the published method: same state, output and noise, so that a fault is localised."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from bench.conformance.noise import Array, Level
from bench.conformance.report import Finding
from bench.conformance.subject import Case, Refusal, Subject, step_arguments
from bench.conformance.targets import GAUSSIAN, POINT, Several, Target
from bench.conformance.trace import Call, Trace, TracedRun, UnknownDraws

# Schedulers keep their tables in float32 (unit rounding 2^-24). A step takes a few dozen operations on them: square
# roots, logarithms of size up to 8 and their differences, a small linear system. 256 roundings of the largest term
# cover that; a wrong index, sign or factor is larger by orders of magnitude.
FLOAT32 = 2.0**-24
ROUNDINGS = 256


def allowance(size: float) -> float:
    """Return how far a float64 run on float32 tables may be from exact arithmetic, for terms of this size."""
    return ROUNDINGS * FLOAT32 * size


def place(steps: int, eta: float | None = None, begin: int = 0) -> str:
    """Return a readable label of a place at a setting, for example `8 steps, eta 0.3`."""
    parts = [f"{steps} steps", "" if eta is None else f"eta {eta:g}", f"from call {begin}" if begin else ""]
    return ", ".join(part for part in parts if part)


def check_steps(
    subject: Subject,
    setting: str,
    steps: int,
    eta: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    target: Target = GAUSSIAN,
    begin: int = 0,
    told: bool = True,
) -> Iterator[Finding]:
    """Compare every call of a run with the published method; the first call that differs is the finding.

    Raises Refusal when the class does not take the setting.
    """
    case = subject.prepare(steps, overrides)
    trace = run_case(subject, case, eta, target, begin, told=told)
    yield from compare_steps(case, trace, setting, place(steps, eta, begin), eta, begin)


def run_case(
    subject: Subject,
    case: Case,
    eta: float | None,
    target: Target = GAUSSIAN,
    begin: int = 0,
    told: bool = True,
    arguments: Mapping[str, Any] | None = None,
) -> Trace:
    """Run a case on a target, with further arguments of step; an error inside becomes a Refusal that quotes it.

    The run of a new scheduler is kept, since several checks look at the same one. Noise of a known class is standard
    normal in the shape of the state, so that it can be drawn a second time; where it cannot, the run is made again with
    every draw recorded.
    """
    random = case.family is None or case.family.stochastic(case.config, eta or 0.0)
    given = {**step_arguments(subject, eta), **(arguments or {})}
    key = (case.key, target.name, begin, told, repr(given))
    if case.key and key in subject.traces:
        return subject.traces[key]
    run = TracedRun(arguments=given, begin=begin or None, told=told, draws="recorded" if random else "none")
    try:
        trace = None
        if random and case.family is not None and case.again is not None:
            with suppress(UnknownDraws):
                trace = case.run(target, replace(run, draws="repeated"), begin)
            case = case if trace else case.again()
        trace = trace or case.run(target, run, begin)
    except (ValueError, NotImplementedError) as error:
        raise Refusal(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    if case.key:
        subject.traces[key] = trace
    return trace


def run_each(
    subject: Subject,
    case: Case,
    eta: float | None,
    targets: tuple[Target, ...],
    arguments: Mapping[str, Any] | None = None,
) -> list[Trace]:
    """Run a case on each target: in one batch where a known class draws no noise, and one after another elsewhere."""
    if case.family is not None and not case.family.stochastic(case.config, eta or 0.0):
        return run_case(subject, case, eta, Several(targets), arguments=arguments).shares(len(targets))
    cases = [case, *(case.twin() for _ in targets[1:])]
    pairs = zip(cases, targets, strict=True)
    return [run_case(subject, one, eta, target, arguments=arguments) for one, target in pairs]


def check_finite(
    subject: Subject, setting: str, eta: float | None, overrides: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Check that a run of every number of steps up to 20 holds finite numbers: schedules that end near pure noise
    break down at single ones.
    """
    for steps in range(1, 21):
        try:
            case = subject.prepare(steps, overrides)
            trace = run_case(subject, case, eta, arguments=subject.brief)
        except Refusal:
            continue
        yield from _not_finite(trace, setting, place(steps, eta))


def _not_finite(trace: Trace, setting: str, where: str) -> Iterator[Finding]:
    for call in trace.calls:
        if not np.isfinite(call.next_state).all():
            words = f"The run breaks down at timestep {call.timestep:g}."
            got = f"NaN or infinity after call {call.index}"
            yield Finding("finite", setting, "finite numbers", got, words, ((where, np.inf),))
            return


def compare_steps(
    case: Case, trace: Trace, setting: str, where: str, eta: float | None, begin: int = 0
) -> Iterator[Finding]:
    """Compare a recorded run with the published method."""
    for call in trace.calls:
        if call.next_state.shape != call.state.shape:
            words = f"Call {call.index} changes the shape of the state."
            shapes = str(call.state.shape), str(call.next_state.shape)
            yield Finding("step", setting, *shapes, words, ((where, np.inf),))
            return
    if not np.isfinite(trace.final).all():
        yield from _not_finite(trace, setting, where)
        return
    method = case.method(eta, begin)
    if method is None:
        return
    for call in trace.calls:
        level = case.path.levels[call.index]
        scaled = (call.state * level.a if case.rescaled else call.state) * case.scale(call.index)
        off = float(np.abs(call.model_input - scaled).max())
        if not off <= allowance(1 + float(np.abs(scaled).max())):
            words = f"In call {call.index} the model input is not of the form a x0 + b noise of its level."
            got = f"{call.model_input.flat[0]:.8g}"
            yield Finding("model input", setting, f"{scaled.flat[0]:.8g}", got, words, ((where, np.inf),))
            return
        expected = method.advance(call.index - begin, call.state, call.output)
        noise = sum(call.draws, np.zeros_like(call.state))
        wanted = expected.mean + expected.noise * noise
        if expected.noise > 0 and not call.draws:
            demand = f"noise of {expected.noise:.4g} in call {call.index}"
            words = "The published method adds noise in this step and the scheduler draws none."
            yield Finding("step", setting, demand, "none drawn", words, ((where, np.inf),))
            return
        limit = allowance(expected.size)
        worst = int(np.abs(call.next_state - wanted).argmax())
        gap = float(np.abs(call.next_state - wanted).flat[worst])
        if not gap <= limit:
            yield Finding(
                *("step", setting, f"{wanted.flat[worst]:.10g}", f"{call.next_state.flat[worst]:.10g}"),
                f"Call {call.index} (timestep {call.timestep:g}) is the first to differ from the published method, by "
                f"up to {gap:.3g} where rounding explains {limit:.1g}{_split(call.next_state, expected.mean, noise)}.",
                ((where, float(gap / limit)),),
            )
            return
        if call.data is not None:
            data, _ = method.read(call.index - begin, call.state, call.output)
            gap, limit = float(np.abs(call.data - data.value).max()), allowance(data.size)
            if not gap <= limit:
                words = f"In call {call.index} pred_original_sample differs from the x0 that the output implies."
                expected_data, got = f"{data.value.flat[0]:.8g}", f"{call.data.flat[0]:.8g}"
                places = ((where, float(gap / limit)),)
                yield Finding("predicted data", setting, expected_data, got, words, places)
                return


def _split(got: Array, mean: Array, noise: Array) -> str:
    """Describe how much of a difference is noise: the factor that the scheduler multiplied it by."""
    power = float((noise**2).sum())
    if not power:
        return ""
    return f"; its noise has the factor {float(((got - mean) * noise).sum()) / power:.4g}"


def check_landing(
    subject: Subject,
    setting: str,
    steps: int,
    eta: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[Finding]:
    """Check on a point, whose x0 is known without error, that every step lands on the level of the next timestep.

    x - a mu = b z has to become a' mu + b' z' with z' again of unit variance: for the state's part A and the noise's
    part C of the step, A² b² + C² = b'². This holds for any consistent method, with or without a published form.
    """
    case = subject.prepare(steps, overrides)
    if keeps_point(case):
        yield from compare_landing(case, run_case(subject, case, eta, POINT), setting, eta)


def keeps_point(case: Case) -> bool:
    """Whether every step of a consistent method lands exactly, given the true x0."""
    return case.family is None or case.family.exact_on_point(case.config)


def compare_landing(case: Case, trace: Trace, setting: str, eta: float | None) -> Iterator[Finding]:
    """Compare a run on a point with the levels."""
    steps = case.steps
    method = None if case.path.curve is None else case.method(eta)
    if _has_inner_calls(case):
        yield from _final_landing(case, trace, setting, place(steps, eta))
        return
    for call in trace.calls:
        here, last = case.level(call.index), call.index == len(case.path.timesteps) - 1
        landings = [_landing(call, here, level) for level in (_ends(case) if last else [case.level(call.index + 1)])]
        off, spread, there = min(landings, key=lambda landing: max(landing[0], abs(landing[1] - landing[2].b)))
        # a value that an earlier call computed from epsilon carries that call's rounding, amplified by 1 / a
        smallest = min(level.a for level in case.path.levels[: call.index + 1])
        growth = max(1.0, there.a / max(smallest, 1e-6)) if case.path.curve is None else 1.0
        size = float(1 + np.abs(call.state).max()) * growth
        if method is not None:
            size += method.advance(call.index, call.state, call.output).size
        limit = allowance(size)
        gap = max(off, abs(spread - there.b))
        if not gap <= limit:
            words = f"Call {call.index} (timestep {call.timestep:g}) does not land on the level of the next timestep."
            got, places = f"{spread:.6g}, mean off by {off:.2g}", ((place(steps, eta), float(gap / limit)),)
            yield Finding("landing", setting, f"noise {there.b:.6g}", got, words, places)
            return


def _landing(call: Call, here: Level, there: Level) -> tuple[float, float, Level]:
    """Return how far the mean of a call's result is off that of a level, its spread, and the level."""
    before, after = call.state - here.a * POINT.mean, call.next_state - there.a * POINT.mean
    columns = [before.ravel(), sum(call.draws, np.zeros_like(before)).ravel()][: 2 if call.draws else 1]
    design = np.stack(columns, 1)
    weights = np.linalg.lstsq(design, after.ravel(), rcond=None)[0]
    spread = math.hypot(weights[0] * here.b, weights[1] if call.draws else 0.0)
    return float(np.abs(design @ weights - after.ravel()).max()), spread, there


def _ends(case: Case) -> list[Level]:
    """Return the levels on which a run may end: the claimed one; of an unknown class also clean data and timestep 0."""
    claimed = case.level(len(case.path.timesteps))
    if case.family is not None:
        return [claimed]
    first = case.path.table.level(0)
    return [claimed, Level(1.0, 0.0), Level(1.0, first.sigma) if case.rescaled else first]


def _has_inner_calls(case: Case) -> bool:
    """Whether some calls lie between levels; of an unknown class, whether it makes more calls than steps."""
    if case.family is None:
        return len(set(case.path.timesteps)) != case.steps or len(case.path.timesteps) != case.steps
    return case.family.calls_per_step > 1 or (case.family.timesteps is None and case.path.curve is None)


def _final_landing(case: Case, trace: Trace, setting: str, where: str) -> Iterator[Finding]:
    """Check only the end, for methods whose inner calls lie between levels."""
    ends = [POINT.flow(trace.calls[0].state, case.level(0), level) for level in _ends(case)]
    wanted = min(ends, key=lambda end: float(np.abs(trace.final - end).max()))
    gap = float(np.abs(trace.final - wanted).max())
    limit = allowance(float(1 + np.abs(trace.calls[0].state).max()) * len(trace.calls))
    if not any(call.draws for call in trace.calls) and not gap <= limit:
        words = f"On a point every consistent method ends exactly on its last level; this run ends {gap:.3g} away."
        got, places = f"{trace.final.flat[0]:.8g}", ((where, float(gap / limit)),)
        yield Finding("landing", setting, f"{wanted.flat[0]:.8g} at the end", got, words, places)
