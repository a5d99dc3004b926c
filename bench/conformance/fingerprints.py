"""Trajectories that a baseline keeps element by element, so that any change shows, with or without a published form."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.conformance.checks_steps import place, run_case
from bench.conformance.settings import variations
from bench.conformance.subject import Case, Subject

States = tuple[tuple[float, ...], ...]
_STEPS = 5
_USUAL = 128  # the allowance of a trajectory covers 1 / a = 15, at the first timestep of Stable Diffusion's schedule
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Print:
    name: str
    steps: int
    eta: float | None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)  # further arguments of set_timesteps
    step: Mapping[str, Any] = field(default_factory=dict)  # and of step


def fingerprints(subject: Subject) -> tuple[dict[str, States], dict[str, float]]:
    """Return the trajectory of one image by name: the start and the state after every call.

    Beside them: how much more than usual equal code may differ, for trajectories that begin so near pure noise that
    reading the data divides roundings by it.
    """
    kept: dict[str, States] = {}
    looser: dict[str, float] = {}
    for chosen in _chosen(subject):
        try:
            case = subject.prepare(chosen.steps, chosen.overrides, **chosen.schedule)
            trace = run_case(subject, case, chosen.eta, arguments=chosen.step)
        except Exception as error:  # the checks report a breakdown as a finding
            _LOG.debug("no trajectory of %s: %s", chosen.name, error)
            continue
        states = [trace.calls[0].state, *(call.next_state for call in trace.calls)]
        kept[chosen.name] = tuple(tuple(float(value) for value in state[0].ravel()) for state in states)
        if (growth := _growth(case) / _USUAL) > 1:
            looser[chosen.name] = float(f"{growth:.3g}")
    return kept, looser


def _growth(case: Case) -> float:
    """Return the largest amplification of a rounding by a step that reads the data from a state and its noise."""
    if case.path.curve is not None:
        return 1.0
    levels = case.path.levels
    if case.rescaled:  # x - sigma noise, of which the largest sigma so far was rounded
        sigmas = [level.sigma for level in levels]
        return max((max(sigmas[:n]) / (1 + sigmas[n]) for n in range(1, len(sigmas))), default=1.0)
    if case.config["prediction_type"] != "epsilon":
        return 1.0
    ratios = [there.a / max(min(level.a for level in levels[: n + 1]), 1e-6) for n, there in enumerate(levels[1:])]
    return max(ratios, default=1.0)


def _chosen(subject: Subject) -> Iterator[_Print]:
    """Yield the configuration at a few steps and etas, then each single setting and the arguments of the methods."""
    etas: tuple[float | None, ...] = (0.0, 0.3, 1.0) if subject.has_eta else (None,)
    yield from (_Print(place(steps, eta), steps, eta) for steps in (4, 10) for eta in etas)
    some = etas[len(etas) // 2]
    where = place(_STEPS, some)
    for variation in variations(subject):
        if len(variation.changed) == 1:
            yield _Print(f"{where}, {variation.label}", _STEPS, some, variation.overrides)
    if "timesteps" in subject.set_parameters:
        yield _Print("timesteps given", _STEPS, some, schedule={"timesteps": [999, 700, 420, 100, 20]})
    if "sigmas" in subject.set_parameters:
        sigmas = [14.0, 6.0, 2.0, 0.7, 0.2] if subject.curve() is None else [1.0, 0.8, 0.5, 0.2, 0.05]
        yield _Print("sigmas given", _STEPS, some, schedule={"sigmas": sigmas})
    if "s_churn" in subject.step_parameters:
        largest = 10.0 if subject.curve() is None else 0.8
        churn = {"s_churn": 1.0, "s_tmin": 0.3, "s_tmax": largest, "s_noise": 1.01}
        yield _Print(f"{where}, churn", _STEPS, some, step=churn)
    if "use_clipped_model_output" in subject.step_parameters:
        clipped = {"clip_sample": True, "clip_sample_range": 0.5}
        yield _Print(f"{where}, clipped output", _STEPS, some, clipped, step={"use_clipped_model_output": True})
