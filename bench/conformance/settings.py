"""The settings that are tried: every setting of the class, one at a time, with those that it needs to take effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.conformance.checks_steps import run_case
from bench.conformance.report import Finding
from bench.conformance.subject import OTHER_SIGMAS, Refusal, Subject
from bench.conformance.targets import GAUSSIAN


@dataclass(frozen=True)
class Variation:
    """One changed setting, or a combination; `companions` are set on both sides of the comparison."""

    changed: Mapping[str, Any]
    companions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """A readable label, for example `solver_order=3`."""
        shown = {**self.changed, **self.companions}
        return ", ".join(f"{name}={_short(value)}" for name, value in shown.items())

    @property
    def overrides(self) -> dict[str, Any]:
        """Everything that differs from the configuration under test."""
        return {**self.companions, **self.changed}


def _short(value: Any) -> str:
    return "[…]" if isinstance(value, list) and len(value) > 3 else str(value)


AXES: dict[str, tuple[Any, ...]] = {
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "beta_start": (0.002,),
    "beta_end": (0.016,),
    "num_train_timesteps": (500,),
    "trained_betas": (np.linspace(0.0002, 0.015, 1000).tolist(),),
    "clip_sample": (True, False),
    "thresholding": (True, False),
    "set_alpha_to_one": (True, False),
    "timestep_scaling": (0.02,),  # at the usual 10 the boundary terms vanish in rounding
    "original_inference_steps": (25, 100),
    "solver_order": (1, 2, 3),
    "solver_type": ("midpoint", "heun", "bh1", "bh2"),
    "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"),
    "lower_order_final": (True, False),
    "euler_at_final": (True, False),
    "final_sigmas_type": ("zero", "sigma_min"),
    "use_karras_sigmas": (True,),
    "use_exponential_sigmas": (True,),
    "use_beta_sigmas": (True,),
    "use_lu_lambdas": (True,),
    "predict_x0": (True, False),
    "disable_corrector": ([0, 1],),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large"),
    "lambda_min_clipped": (-1.5,),
    "interpolation_type": ("log_linear",),
    "sigma_min": (0.1,),
    "sigma_max": (10.0,),
    "skip_prk_steps": (True, False),
    "predictor_order": (1, 3),
    "corrector_order": (1, 3),
    "shift": (3.0,),
    "flow_shift": (3.0,),
    "use_dynamic_shifting": (True,),
    "time_shift_type": ("linear",),
    "shift_terminal": (0.1,),
    "invert_sigmas": (True,),
    "stochastic_sampling": (True,),
    "sigma_data": (1.0,),
}
"""The values that are tried for each setting; a value that is already set is left out."""
OTHERS = (
    *("steps_offset", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"),
    "rescale_betas_zero_snr",
)
"""Settings of which one further value is tried, with what it needs to take effect."""
ON_CURVE = {
    *("shift", "flow_shift", "use_dynamic_shifting", "time_shift_type", "shift_terminal", "invert_sigmas"),
    *("stochastic_sampling", "sigma_data"),
}
"""Settings that mean something on a curve only."""
ON_TABLE = {
    *("beta_schedule", "beta_start", "beta_end", "trained_betas", "timestep_spacing", "lambda_min_clipped"),
    *("steps_offset", "rescale_betas_zero_snr", "sigma_min", "sigma_max"),
}
"""Settings that mean something on a noise table only."""
OF_OWN_LEVELS: dict[str, Any] = {"sigma_schedule": "exponential", "rho": 5.0, "sigma_data": 1.0}
"""Settings of classes whose levels have no table, tried one at a time."""
COMPANIONS: dict[str, dict[str, Any]] = {
    "lower_order_final": {"final_sigmas_type": "sigma_min"},
    "euler_at_final": {"final_sigmas_type": "sigma_min", "lower_order_final": False},
    "algorithm_type": {"final_sigmas_type": "sigma_min"},
    "predict_x0": {"final_sigmas_type": "sigma_min"},
    "thresholding": {"clip_sample": False},
    "sigma_min": {"use_karras_sigmas": True},
    "sigma_max": {"use_karras_sigmas": True},
    "time_shift_type": {"use_dynamic_shifting": True},
}


PAIRS_ON_CURVE: tuple[dict[str, Any], ...] = (
    {"use_dynamic_shifting": True, "shift_terminal": 0.1},
    {"use_dynamic_shifting": True, "shift": 3.0},
    {"use_dynamic_shifting": True, "flow_shift": 3.0},
    {"flow_shift": 3.0, "shift_terminal": 0.1},
    {"use_dynamic_shifting": True, "use_karras_sigmas": True},
    {"shift_terminal": 0.1, "use_exponential_sigmas": True},
    {"use_dynamic_shifting": True, "invert_sigmas": True},
    {"invert_sigmas": True, "shift_terminal": 0.1},
    {"invert_sigmas": True, "stochastic_sampling": True},
    {"use_dynamic_shifting": True, "stochastic_sampling": True},
)
"""Settings of a curve that act on one another, as pipelines combine them."""


def variations(subject: Subject) -> Iterator[Variation]:
    """Yield every single change that the class's signature allows, and the combinations on which solvers branch."""
    on_curve = subject.curve() is not None
    has, config = subject.parameters - (ON_TABLE if on_curve else ON_CURVE), subject.config
    if subject.family is not None and subject.family.own is not None:
        yield from (Variation({name: value}) for name, value in OF_OWN_LEVELS.items() if name in subject.parameters)
    for name, values in AXES.items():
        if name not in has:
            continue
        companions = {key: value for key, value in COMPANIONS.get(name, {}).items() if key in has}
        for value in values:
            if config.get(name) != value and _means_something(name, value, subject):
                yield Variation({name: value}, companions)
    if "steps_offset" in has:
        leading = {"timestep_spacing": "leading"} if "timestep_spacing" in has else {}
        yield Variation({"steps_offset": 0 if config["steps_offset"] else 1}, leading)
    if "clip_sample_range" in has:
        yield Variation({"clip_sample_range": 0.5}, {"clip_sample": True})
    if "dynamic_thresholding_ratio" in has:
        yield Variation({"dynamic_thresholding_ratio": 0.6}, {"thresholding": True, "sample_max_value": 9.0})
        yield Variation({"sample_max_value": 1.5}, {"thresholding": True})
    if "rescale_betas_zero_snr" in has:
        trailing = {"timestep_spacing": "trailing"} if "timestep_spacing" in has else {}
        yield Variation({"rescale_betas_zero_snr": True}, {"prediction_type": "v_prediction", **trailing})
    for name in OTHER_SIGMAS:
        if name in has and "beta_schedule" in has:
            yield Variation({"beta_schedule": "squaredcos_cap_v2", name: True})
    if on_curve:
        yield from (Variation(pair) for pair in PAIRS_ON_CURVE if pair.keys() <= has)
    if "solver_order" in has:
        yield from _solver_combinations(has, "dpmsolver" in str(config.get("algorithm_type")))


def single_values(subject: Subject) -> dict[str, list[Any]]:
    """Return the values, other than the configured one, that are tried for each setting of the class."""
    values: dict[str, list[Any]] = {}
    for variation in variations(subject):
        if len(variation.changed) == 1:
            ((name, value),) = variation.changed.items()
            values.setdefault(name, []).append(value)
    return values


def _means_something(name: str, value: Any, subject: Subject) -> bool:
    """Whether a value has an effect; values that a class only translates for another family are left out."""
    own = str(subject.config.get(name))
    curve = subject.curve()
    if name == "prediction_type" and curve is not None:  # v is defined for a² + b² = 1 only
        return curve.counted and value != "v_prediction"
    if name == "num_train_timesteps":
        return curve.counted if curve is not None else subject.family is None or subject.family.own is None
    if name == "solver_type":
        return any(own in kinds and value in kinds for kinds in (("bh1", "bh2"), ("midpoint", "heun")))
    if name == "algorithm_type":
        return "dpmsolver" in own
    if name == "variance_type":
        return own.startswith("fixed")
    return True


def _solver_combinations(has: set[str], dpm: bool) -> Iterator[Variation]:
    """Yield order × type × algorithm, which share code but not formulas; ended at sigma_min so that all orders run.

    Solvers of the noise read each prediction type differently, and clip the data that it stands for.
    """
    end = {"final_sigmas_type": "sigma_min"} if "final_sigmas_type" in has else {}
    of_noise = {"algorithm_type": "dpmsolver"} if dpm else {"predict_x0": False} if "predict_x0" in has else {}
    for reading in (("prediction_type", "v_prediction"), ("prediction_type", "sample"), ("thresholding", True)):
        if of_noise and (reading[1] != "v_prediction" or "beta_schedule" in has):
            yield Variation({**of_noise, reading[0]: reading[1]}, end)
    for order in (1, 2, 3):
        if dpm:
            for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"):
                for kind in ("midpoint", "heun"):
                    yield Variation({"solver_order": order, "solver_type": kind, "algorithm_type": algorithm}, end)
        if "predict_x0" in has:
            for x0 in (True, False):
                for kind in ("bh1", "bh2"):
                    yield Variation({"solver_order": order, "solver_type": kind, "predict_x0": x0}, end)
        if end:
            yield Variation({"solver_order": order, "final_sigmas_type": "zero"})


def check_effect(subject: Subject, variation: Variation, eta: float | None) -> Iterator[Finding]:
    """Check that a setting of the class changes the timesteps, the initial noise, or a state of the trajectory."""
    if len(variation.changed) > 1:
        return
    companions = dict(variation.companions)
    unchanged = {name: subject.config[name] for name in variation.changed}
    for steps in (5, 6):  # whole and incomplete groups of orders; a divisor of 1000 and a number that is not
        try:
            before = subject.prepare(steps, {**companions, **unchanged})
            after = subject.prepare(steps, variation.overrides)
            one, two = (run_case(subject, case, eta, GAUSSIAN) for case in (before, after))
        except Refusal:
            return
        if len(one.calls) != len(two.calls) or not all(
            np.array_equal(a.next_state, b.next_state)
            and np.array_equal(a.output, b.output)  # one that only changes what the model predicts has an effect
            and a.timestep == b.timestep
            for a, b in zip(one.calls, two.calls, strict=True)
        ):
            return
    ((name, _),) = variation.changed.items()
    words = f"The class takes {name} and ignores it."
    yield Finding("setting ignored", variation.label, f"another run than with {unchanged[name]!r}", "the same", words)
