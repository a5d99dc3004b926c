"""Limits: inputs that must be refused, and settings that must survive a round trip."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, get_args, get_type_hints

import numpy as np
import torch

from bench.conformance.checks_steps import run_case
from bench.conformance.curves import Curve
from bench.conformance.report import Finding
from bench.conformance.settings import Variation
from bench.conformance.subject import Subject
from bench.conformance.targets import GAUSSIAN
from bench.conformance.trace import TracedRun

CLEAR = (ValueError, AssertionError, TypeError, IndexError, NotImplementedError)


def check_refusals(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check that eta outside [0, 1], timesteps that do not fall, and more steps than timesteps are refused."""
    trained = int(subject.config["num_train_timesteps"])
    curve = subject.curve()
    most = int(subject.config.get("original_inference_steps", trained))

    attempts: dict[str, Callable[[], Any]] = {}
    if curve is None and (subject.family is None or subject.family.own is None):
        attempts[f"{most + 1} steps"] = lambda: subject.fresh().set_timesteps(most + 1)
    if subject.has_eta:
        for eta in (-0.1, 1.1):
            run = TracedRun(arguments={"eta": eta})
            attempts[f"eta {eta}"] = lambda run=run: subject.prepare(4).run(GAUSSIAN, run)  # type: ignore[misc]
    if curve is not None:
        attempts |= _attempts_on_curve(subject, curve, trained)
    elif "timesteps" in subject.set_parameters:
        attempts["timesteps [500, 700]"] = lambda: subject.fresh().set_timesteps(timesteps=[500, 700])
        attempts["timesteps [700, 700]"] = lambda: subject.fresh().set_timesteps(timesteps=[700, 700])
        attempts[f"timesteps [{trained}]"] = lambda: subject.fresh().set_timesteps(timesteps=[trained, 5])
    for name, attempt in attempts.items():
        try:
            attempt()
        except CLEAR:
            continue
        except Exception as error:
            got = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            got = "accepted"
        words = "Invalid input must be refused with an error that names it."
        yield Finding("refusal", f"{setting}, {name}", "ValueError or the like", got, words)


def check_declared(subject: Subject, variation: Variation, refusal: str) -> Iterator[Finding]:
    """Check that a value which the class refuses is none of those that its signature declares for the setting."""
    for name, value in variation.changed.items() if len(variation.changed) == 1 else ():
        try:
            declared = get_type_hints(inspect.unwrap(subject.cls.__init__)).get(name)
        except Exception:  # names that exist only for a type checker
            return
        values = [one for part in (declared, *get_args(declared)) for one in get_args(part)]
        if value in values:
            words = f"The signature declares {name}={value!r}, and the class refuses it."
            yield Finding("declared value", variation.label, "a run", refusal, words)


def _attempts_on_curve(subject: Subject, curve: Curve, trained: int) -> dict[str, Callable[[], Any]]:
    """Return calls of set_timesteps with levels that do not fall, lie off the curve, or lack the amount of a shift."""
    unit, rows = (float(trained), ((0.5, 0.7), (0.7, 0.7), (1.25, 0.5))) if curve.counted else (1.0, _BAD_TIMES)
    attempts: dict[str, Callable[[], Any]] = {}
    for name, scale in (("timesteps", unit), ("sigmas", 1.0)):
        for row in rows if name in subject.set_parameters else ():
            given = [value * scale for value in row]
            needed = subject.schedule_arguments(len(row) if curve.counted else len(row) - 1, subject.config, name)
            label = ", ".join(f"{value:g}" for value in given)
            attempts[f"{name} [{label}]"] = partial(subject.fresh().set_timesteps, **{**needed, name: given})
    attempts |= _contradictions(subject, curve)
    if "mu" in subject.set_parameters and "use_dynamic_shifting" in subject.parameters:
        attempts["a dynamic shift without mu"] = lambda: subject.fresh({"use_dynamic_shifting": True}).set_timesteps(4)
    return attempts


def _contradictions(subject: Subject, curve: Curve) -> dict[str, Callable[[], Any]]:
    """Return calls whose arguments or settings contradict one another."""
    has, takes = subject.parameters, subject.set_parameters
    attempts: dict[str, Callable[[], Any]] = {}
    if curve.counted and {"sigmas", "timesteps"} <= takes:
        given = {"sigmas": [1.0, 0.5], "timesteps": [1000.0, 700.0, 300.0]}
        attempts["2 sigmas and 3 timesteps"] = lambda: subject.fresh().set_timesteps(**given)
        attempts["3 steps and 2 sigmas"] = lambda: subject.fresh().set_timesteps(3, sigmas=[1.0, 0.5])
    if not curve.counted:
        attempts["3 steps with a middle of two"] = lambda: subject.fresh().set_timesteps(3)
        attempts["3 times for 3 steps"] = lambda: subject.fresh().set_timesteps(
            3, timesteps=[1.5, 0.5, 0.0], max_timesteps=None, intermediate_timesteps=None
        )
        attempts["times and a largest time"] = lambda: subject.fresh().set_timesteps(2, timesteps=[1.5, 0.5, 0.0])
    if {"use_karras_sigmas", "use_beta_sigmas"} <= has:
        attempts["two spacings"] = lambda: _made(subject, use_karras_sigmas=True, use_beta_sigmas=True)
    if "time_shift_type" in has:
        attempts["an unknown time shift"] = lambda: _made(
            subject, time_shift_type="quadratic", use_dynamic_shifting=True
        ).set_timesteps(**subject.schedule_arguments(4, {**subject.config, "use_dynamic_shifting": True}))
    if not hasattr(subject.base, "alphas_cumprod") and curve.counted:
        attempts["an index for a timestep"] = lambda: _step_by_index(subject)
    return attempts


def _made(subject: Subject, **settings: Any) -> Any:
    kept = {name: value for name, value in subject.config.items() if name in subject.parameters}
    return subject.cls(**{**kept, **settings})


def _step_by_index(subject: Subject) -> Any:
    case = subject.prepare(4)
    state = torch.from_numpy(case.start(GAUSSIAN))
    return case.scheduler.step(state, 0, state)


_BAD_TIMES = ((0.5, 0.7, 0.0), (0.7, 0.7, 0.0), (2.5, 0.5, 0.0))


def check_round_trip(subject: Subject, setting: str, eta: float | None) -> Iterator[Finding]:
    """Check that save and load, and from_config, keep the configuration and the run."""
    first = subject.fresh()

    def through_disk() -> Any:
        with TemporaryDirectory(prefix="tcd-bench-") as scratch:
            first.save_pretrained(scratch)
            return subject.restored(subject.quick.from_pretrained(scratch))

    def through_config() -> Any:
        return subject.restored(subject.quick.from_config(first.config))

    ways = {"from_config": through_config, "save and load": through_disk}
    wanted = run_case(subject, subject.prepare(5), eta).final
    for name, way in ways.items():
        loaded = way()
        changed = sorted(
            key for key, value in subject.config.items() if _plain(subject.config_of(loaded).get(key)) != _plain(value)
        )
        if changed:
            words = "A saved and reloaded scheduler has different settings."
            yield Finding("round trip", f"{setting}, {name}", "the same settings", f"other {changed}", words)
        elif not np.array_equal(run_case(subject, subject.prepare(5, scheduler=loaded), eta).final, wanted):
            words = "A saved and reloaded scheduler has the same settings but a different run."
            yield Finding("round trip", f"{setting}, {name}", "the same run", "other states", words)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple | np.ndarray) else value
