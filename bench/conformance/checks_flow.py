"""Schedules on a curve: the levels of every call, the end, what the model is told, and levels given by the caller."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from bench.conformance.checks_steps import FLOAT32, compare_steps, place, run_case
from bench.conformance.families import Flow
from bench.conformance.flow_spacing import MU, RAMPS, moved
from bench.conformance.noise import Array
from bench.conformance.report import Finding
from bench.conformance.settings import ON_CURVE
from bench.conformance.subject import OTHER_SIGMAS, Case, Refusal, Subject

ALL = (*range(1, 52), *range(54, 260, 3), 333, 499, 500, 999, 1000)
SOME = (1, 2, 3, 4, 7, 8, 15, 16, 20, 28, 50)
POSITION = 32 * FLOAT32  # a shift, a stretch and a power of numbers up to 1 in float32
_SHIFT = 3.0
SPACING = {*ON_CURVE - {"stochastic_sampling"}, *OTHER_SIGMAS, "num_train_timesteps", "final_sigmas_type"}
"""Settings on which the levels depend."""
_SIGMAS = (1.0, 0.81, 0.55, 0.3, 0.12, 0.04)
_TIMESTEPS = (1000.0, 787.0, 500.0, 263.0, 140.0, 77.0)
_TIMES = (1.5, 1.2, 0.9, 0.5, 0.2, 0.1, 0.0)


def check_spacing(
    subject: Subject, setting: str, overrides: Mapping[str, Any] | None = None, counts: tuple[int, ...] = ALL
) -> Iterator[Finding]:
    """Check level, end and timestep of every call against the definition of the spacing, at many numbers of steps."""
    scheduler = subject.fresh(overrides)
    for steps in counts:
        try:
            case = subject.prepare(steps, overrides, subject.fresh(overrides) if steps < 9 else scheduler)
        except Refusal as refusal:
            words = f"The class refuses a number of steps that a curve allows. ({refusal})"
            where = ((f"{steps} steps", math.inf),)
            yield Finding("spacing", setting, f"{steps} steps", "a refusal", words, where)
            continue
        yield from check_schedule(case, setting, f"{steps} steps")


def check_schedule(
    case: Case, setting: str, where: str, given: Array | None = None, told: Array | None = None
) -> Iterator[Finding]:
    """Check one schedule: the levels of the calls, the end, and the timesteps, `told` where the caller gave them."""
    flow = _flow_of(case)
    wanted = flow.positions(case.config, case.steps, given)
    calls = case.family.calls_per_step if case.family else 1
    if calls > 1:
        wanted = np.repeat(wanted, calls)[calls - 1 :]
    got, end = np.array(case.path.positions[:-1]), case.path.positions[-1]
    if len(got) != len(wanted) or len(case.path.positions) != _count(case):
        words = "The schedule has another number of levels than its calls and their end need."
        found = f"{_count(case) - 1} and {len(case.path.timesteps)} timesteps"
        yield Finding("spacing", setting, f"{len(wanted)} levels", found, words, ((where, math.inf),))
        return
    steps = getattr(case.scheduler, "num_inference_steps", case.steps)
    if steps != case.steps:
        words = "num_inference_steps is not the number of steps."
        yield Finding("spacing", setting, f"{case.steps} steps", f"{steps} steps", words, ((where, math.inf),))
    yield from _check_positions(case, setting, where, got, wanted, given)
    ends = flow.ends(case.config)
    off = min(abs(end - allowed) for allowed in ends)
    if not off <= POSITION:
        words = "The last call ends on a level other than the settings': noise is left in the image."
        places = ((where, off / POSITION),)
        yield Finding("end", setting, " or ".join(f"{u:.7g}" for u in ends), f"{end:.7g}", words, places)
    if np.isfinite(got).all():
        yield from _check_told(case, setting, where, got, told)


def _flow_of(case: Case) -> Flow:
    if case.family is None or case.family.flow is None:
        raise ValueError("a schedule on a curve belongs to a family that describes it")
    return case.family.flow


def _count(case: Case) -> int:
    own = getattr(case.scheduler, "sigmas", None)
    return len(case.scheduler.timesteps if own is None else own)


def _check_positions(
    case: Case, setting: str, where: str, got: Array, wanted: Array, given: Array | None
) -> Iterator[Finding]:
    gaps = np.abs(got - wanted)
    limit = POSITION * (16 if any(case.config.get(kind) for kind in RAMPS) else 1)  # powers of numbers up to 157
    if bool((gaps <= limit).all()):
        return
    index = int(np.argmax(~(gaps <= limit))) if np.isnan(gaps).any() else int(gaps.argmax())
    flow = _flow_of(case)
    calls = case.family.calls_per_step if case.family else 1
    twice = None if flow.shifted_ends is None else flow.shifted_ends(case.config, case.steps, given)
    places = ((where, float(np.nan_to_num(gaps[index] / limit, nan=math.inf))),)
    if twice is not None and given is None and np.all(np.abs(got - np.repeat(twice, calls)[calls - 1 :]) <= POSITION):
        words = (
            "The levels are shifted twice: the ends when the scheduler is created, everything in set_timesteps. Calls "
            f"with a step count alone and a fixed shift other than 1 are affected, here by up to {gaps[index]:.2g}; "
            "calls with sigmas=, timesteps= or mu are not."
        )
        yield Finding("shift twice", setting, f"{wanted[-1]:.6g} last", f"{got[-1]:.6g}", words, places)
        return
    words = f"Level {index} of {len(wanted)} differs from the definition of the spacing."
    yield Finding("spacing", setting, f"{wanted[index]:.7g}", f"{got[index]:.7g}", words, places)


def _check_told(case: Case, setting: str, where: str, positions: Array, told: Array | None) -> Iterator[Finding]:
    """Check the timesteps: the level times the training timesteps, to the nearest where whole; or those given."""
    curve = case.path.curve
    unit = float(case.config["num_train_timesteps"]) if curve is not None and curve.counted else 1.0
    got = np.array(case.path.timesteps)
    wanted = positions * unit if told is None else told
    whole = not case.scheduler.timesteps.is_floating_point()
    slack = 0.5 + POSITION * unit if whole else POSITION * unit
    gaps = np.abs(got - wanted)
    if not bool((gaps <= slack).all()):
        index = int(gaps.argmax())
        words = f"Call {index} passes the model a timestep that differs from the one of its level."
        if told is not None:
            words = f"Call {index} passes the model another timestep than the caller's."
        places = ((where, float(gaps[index] / slack)),)
        yield Finding("told timesteps", setting, f"{wanted[index]:.6g}", f"{got[index]:.6g}", words, places)
    elif whole and np.any(np.diff(got) >= 0) and told is None:
        words = (
            "Calls share a timestep: a run without a begin index starts at the second of them and runs past its end."
        )
        yield Finding("repeats", setting, "falling timesteps", "a timestep twice", words, ((where, math.inf),))


def check_own_table(subject: Subject, setting: str, overrides: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Check the levels of a new object, which training and noising before a run use: 1, 1 - 1 / T, … shifted once."""
    scheduler, config = subject.fresh(overrides), {**subject.config, **(overrides or {})}
    if hasattr(scheduler, "time_shift"):
        yield from _check_time_shift(scheduler, setting, config.get("time_shift_type") == "linear")
    own = getattr(scheduler, "sigmas", None)
    if own is None or hasattr(scheduler, "alphas_cumprod"):
        return
    trained = int(config["num_train_timesteps"])
    calls = subject.family.calls_per_step if subject.family else 1
    if (scheduler.order, len(scheduler)) != (calls, trained):
        words = "Pipelines read the calls of a step from `order`, and the training timesteps from the length."
        yield Finding("order", setting, f"{calls}, {trained}", f"{scheduler.order}, {len(scheduler)}", words)
    shift = 1.0 if config.get("use_dynamic_shifting") else float(config.get("shift", 1.0))
    wanted = moved(np.arange(trained, 0, -1) / trained, shift)
    for name, got, unit in (("levels", own, 1.0), ("timesteps", scheduler.timesteps, float(trained))):
        values = np.asarray(got.double().numpy())
        gap = float(np.abs(values - wanted * unit).max()) if values.shape == wanted.shape else math.inf
        if not gap <= POSITION * unit:
            words = f"The {name} of a new object differ from the training schedule."
            places = (("before set_timesteps", gap / POSITION / unit),)
            yield Finding(
                "training levels", setting, f"{wanted[-1] * unit:.6g} last", f"{values[-1]:.6g}", words, places
            )


def _check_arrays(subject: Subject, label: str, arguments: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that levels as arrays, as pipelines hand them over, are left as they are."""
    arrays: dict[str, Any] = {key: np.array(value) for key, value in arguments.items()}
    try:
        subject.prepare(len(_SIGMAS), **arrays)
    except Refusal:
        return
    if any(not np.array_equal(arrays[key], np.array(value)) for key, value in arguments.items()):
        words = "set_timesteps writes into the caller's array."
        yield Finding("given levels", label, "the array as it was", "a changed array", words)


def _check_time_shift(scheduler: Any, setting: str, linear: bool) -> Iterator[Finding]:
    """Check the public shift, m / (m + (1 / t - 1)^sigma) with m = exp(mu), or mu where it is linear."""
    t = np.array([1.0, 0.7, 0.2])
    for power in (1.0, 2.0):
        factor = MU if linear else math.exp(MU)
        wanted = factor / (factor + (1 / t - 1) ** power)
        got = np.asarray(scheduler.time_shift(MU, power, t))
        if not np.abs(got - wanted).max() <= POSITION:
            words = f"time_shift with the power {power:g} is not m / (m + (1 / t - 1)^sigma)."
            yield Finding("time shift", setting, f"{wanted[1]:.7g}", f"{got[1]:.7g}", words)


def check_set_shift(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check that set_shift gives the levels of a scheduler that was made with that shift."""
    if not hasattr(subject.base, "set_shift") or "shift" not in subject.parameters:
        return
    for steps in (4, 9):
        scheduler = subject.fresh()
        scheduler.set_shift(_SHIFT)
        prepared = subject.prepare(steps, scheduler=scheduler)
        case = Case(scheduler, {**prepared.config, "shift": _SHIFT}, prepared.family, prepared.path, steps)
        yield from check_schedule(case, f"{setting}, set_shift({_SHIFT:g})", f"{steps} steps")


def check_again(subject: Subject, setting: str, overrides: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Check that a schedule set after another, of another shift or of the caller, is the one of a new object."""
    config, steps = {**subject.config, **(overrides or {})}, len(_SIGMAS)
    scheduler = subject.fresh(overrides)
    needed = subject.schedule_arguments(steps, config)
    if "mu" in needed:
        scheduler.set_timesteps(**{**needed, "mu": 0.3})
    if "sigmas" in subject.set_parameters:
        given: dict[str, Any] = {**subject.schedule_arguments(steps, config, "sigmas"), "sigmas": np.array(_SIGMAS)}
        scheduler.set_timesteps(**given)
    again, wanted = (subject.prepare(steps, overrides, one).path for one in (scheduler, None))
    if not np.array_equal(again.positions, wanted.positions, equal_nan=True) or again.timesteps != wanted.timesteps:
        words = "The levels of an earlier schedule are left."
        got = ", ".join(f"{u:.4g}" for u in again.positions)
        yield Finding("set again", setting, ", ".join(f"{u:.4g}" for u in wanted.positions), got, words)


def check_given(
    subject: Subject, setting: str, eta: float | None, overrides: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Check set_timesteps(sigmas=…), (timesteps=…) and both: levels are shifted, timesteps are told as they were given.

    Then every step from these levels is compared with the published method.
    """
    curve = subject.curve(overrides)
    if curve is None:
        return
    trained = float({**subject.config, **(overrides or {})}["num_train_timesteps"])
    sigmas, timesteps = np.array(_SIGMAS), np.array(_TIMESTEPS) * trained / 1000
    offers: dict[str, tuple[dict[str, Any], Array, Array | None]] = {
        "sigmas": ({"sigmas": sigmas.tolist()}, sigmas, None),
        "timesteps": ({"timesteps": timesteps.tolist()}, timesteps / trained, timesteps),
        "sigmas and timesteps": ({"sigmas": sigmas.tolist(), "timesteps": timesteps.tolist()}, sigmas, timesteps),
    }
    if not curve.counted:
        times, calls = np.array(_TIMES), np.array(_TIMES[:-1])
        offers = {"timesteps": ({"timesteps": list(_TIMES)}, times, calls)}
        offers["timesteps as a tensor"] = ({"timesteps": torch.tensor(_TIMES)}, times, calls)
    for name, (arguments, positions, told) in offers.items():
        if not arguments.keys() <= subject.set_parameters:
            continue
        label = f"{setting}, {name} given"
        try:
            case = subject.prepare(len(_SIGMAS), overrides, **arguments)
        except Refusal as refusal:
            # pipelines hand over arrays; where only these are taken, the list that is documented is refused
            arrays = {key: np.array(value) for key, value in arguments.items()}
            try:
                case = subject.prepare(len(_SIGMAS), overrides, **arrays)
            except Refusal:
                continue
            words = "Levels are taken as an array and refused as a list."
            if overrides is None:
                yield Finding("given as a list", label, "the same as for an array", str(refusal), words)
        if overrides is None:
            yield from _check_arrays(subject, label, arguments)
        inverted = case.config.get("invert_sigmas")
        yield from check_schedule(case, label, "6 steps", positions, None if inverted else told)
        if all(curve.holds(u) for u in case.path.positions):
            trace = run_case(subject, case, eta)
            yield from compare_steps(case, trace, label, place(len(_SIGMAS), eta), eta)
