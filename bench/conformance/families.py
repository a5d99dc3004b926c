"""The claims of each known scheduler class: published method, timesteps or levels, last level, and order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bench.conformance import flow_spacing, spacing
from bench.conformance.curves import REVERSED, STRAIGHT, Curve, circle
from bench.conformance.exponential import Deis, Multistep, SaSolver, Singlestep, UniPc
from bench.conformance.flow_methods import FlowEuler, FlowHeun, Renoise
from bench.conformance.flow_spacing import Config
from bench.conformance.noise import Array, Level, NoiseTable
from bench.conformance.preconditioned import EDM, OwnLevels
from bench.conformance.published import Ddim, Ddpm, Euler, EulerAncestral, Heun, Lcm, PublishedMethod, Tcd


def ends_by_sigma(config: Config, table: NoiseTable) -> Level | None:
    """Return the level of `final_sigmas_type`: sigma 0 or the schedule's smallest; None without the setting."""
    if "final_sigmas_type" not in config:
        return None
    return table.level(0) if config.get("final_sigmas_type") == "sigma_min" else Level(1.0, 0.0)


def ends_by_alpha(config: Config, table: NoiseTable) -> Level:
    """Return the level of `set_alpha_to_one`: alpha_bar 1, or that of timestep 0."""
    return Level(1.0, 0.0) if config.get("set_alpha_to_one", True) else table.level(0)


def ends_clean(config: Config, table: NoiseTable) -> Level:
    """Return the level without noise."""
    return Level(1.0, 0.0)


def ends_at_zero(config: Config, table: NoiseTable) -> Level:
    """Return the level of training timestep 0, which still carries a little noise."""
    return table.level(0)


def ends_by_own(config: Config, table: NoiseTable) -> Level:
    """Return the level of `final_sigmas_type` of a class without a noise table."""
    return Level(1.0, float(config["sigma_min"]) if config["final_sigmas_type"] == "sigma_min" else 0.0)


def everywhere(config: Config) -> bool:
    """Return True: the claim holds at every setting."""
    return True


@dataclass(frozen=True)
class Flow:
    """How a class steps on a curve; `curve` returns None where the settings put it on a noise table.

    `positions` returns the levels of the calls and `ends` those on which a run may end, both as the curve's parameter;
    `shifted_ends` the levels of a known fault. `arguments` returns what `set_timesteps` needs beside a step count.
    """

    curve: Callable[[Config], Curve | None]
    positions: Callable[[Config, int, Array | None], Array]
    ends: Callable[[Config], tuple[float, ...]] = flow_spacing.ends
    shifted_ends: Callable[[Config, int, Array | None], Array] | None = None
    arguments: Callable[[Config, int, bool], Mapping[str, Any]] = lambda *_: {}


def straight(config: Config) -> Curve:
    """Return the straight line, in the direction in which the settings count it."""
    return REVERSED if config.get("invert_sigmas") else STRAIGHT


def straight_if_told(config: Config) -> Curve | None:
    """Return the straight line for a solver of noise tables that is set to flow sigmas."""
    return STRAIGHT if config.get("use_flow_sigmas") else None


def amount_of_shift(config: Config, steps: int, given: bool) -> Mapping[str, Any]:
    """Return mu where the shift is dynamic."""
    return {"mu": flow_spacing.MU} if config.get("use_dynamic_shifting") else {}


def times_on_circle(config: Config, steps: int, given: bool) -> Mapping[str, Any]:
    """Return what goes with SCM's two-step schedule, another number of steps, or given times."""
    if given:
        return {"num_inference_steps": steps, "max_timesteps": None, "intermediate_timesteps": None}
    return {} if steps == 2 else {"intermediate_timesteps": None}


@dataclass(frozen=True)
class Family:
    """The claims of one class. `method` is None where no published form is written here; general checks still apply.

    `declared_order` is None where the setting `solver_order` declares it. `draws` tells which runs draw noise: never,
    always, those with an `eta` above 0, the `sde` forms of an algorithm, or those with a setting of that name.
    `exact_on_point`: given the true x0, every step lands exactly on the next noise level.
    """

    name: str
    method: type[PublishedMethod] | None
    timesteps: Callable[[Config, int], Array] | None
    end: Callable[[Config, NoiseTable], Level | None]
    declared_order: int | None = 1
    draws: str = "never"
    exact_on_point: Callable[[Config], bool] = everywhere
    calls_per_step: int = 1
    rescaled: bool = False  # the state is x / a; a published method says it itself
    flow: Flow | None = None
    own: OwnLevels | None = None
    defaults: Config = field(default_factory=dict)  # what a class without the setting does

    def order(self, config: Config) -> int:
        """Return the convergence order that the class claims at these settings."""
        return int(config["solver_order"]) if self.declared_order is None else self.declared_order

    def stochastic(self, config: Config, eta: float) -> bool:
        """Whether a run draws noise, from the settings and eta."""
        sde = str(config.get("algorithm_type", "")).startswith("sde")
        known = {"never": False, "always": True, "eta": eta > 0, "sde": sde}
        return known[self.draws] if self.draws in known else bool(config.get(self.draws))


def allows(family: Family | None, config: Config, steps: int) -> bool:
    """Whether the training schedule has so many different timesteps at the spacing that the settings name."""
    trained = int(config["num_train_timesteps"])
    most = int(config.get("original_inference_steps") or trained)
    if steps > most:
        return False
    if family is None or family.timesteps is None:
        return steps < most
    wanted = np.round(family.timesteps(config, steps))
    return bool(wanted.min() >= 0 and wanted.max() < trained and len(set(wanted.tolist())) == steps)


def keeps_data(config: Config) -> bool:
    """Exclude noise prediction under an SDE (not constant on a point) and groups of calls (one start for all)."""
    return not str(config.get("algorithm_type", "")).startswith("sde") or (
        config["algorithm_type"] == "sde-dpmsolver++" and "euler_at_final" in config
    )


def nowhere(config: Config) -> bool:
    """Return False: the consistency function keeps a share c_skip of the state."""
    return False


def by_posterior(config: Config) -> bool:
    """Exclude Ho et al.'s larger variance, which keeps the marginals of unit Gaussian data, not of a point."""
    return str(config["variance_type"]).startswith("fixed_small")


SOLVED = Flow(straight_if_told, flow_spacing.solved, arguments=amount_of_shift)
SOLVED_FROM_NOISE = replace(SOLVED, positions=flow_spacing.solved_from_noise)
SOLVED_NEAR_DATA = replace(SOLVED, ends=flow_spacing.ends_near_data)
MATCHED: dict[str, Any] = {
    "flow": Flow(
        *(straight, flow_spacing.matched, flow_spacing.ends, flow_spacing.matched_with_shifted_ends, amount_of_shift)
    ),
    "defaults": {"prediction_type": "flow_prediction"},
}

FAMILIES = {
    family.name: family
    for family in (
        Family("TCDScheduler", Tcd, spacing.distilled, ends_at_zero, 1, "eta"),
        Family("LCMScheduler", Lcm, spacing.distilled, ends_clean, 1, "always", nowhere),
        Family("DDIMScheduler", Ddim, spacing.spaced, ends_by_alpha, 1, "eta"),
        Family("DDIMParallelScheduler", Ddim, spacing.spaced, ends_by_alpha, 1, "eta"),
        Family("DDPMScheduler", Ddpm, spacing.spaced, ends_clean, 1, "always", by_posterior),
        Family("EulerDiscreteScheduler", Euler, spacing.spaced, ends_by_sigma),
        Family("EulerAncestralDiscreteScheduler", EulerAncestral, spacing.spaced, ends_clean, 1, "always"),
        Family("HeunDiscreteScheduler", Heun, spacing.twice_but_the_first, ends_clean, 2, calls_per_step=2),
        *(
            Family(name, method, spacing.spaced_before_the_end, end, None, "sde", keeps_data, flow=flow)
            for name, method, end, flow in (
                ("DPMSolverSinglestepScheduler", Singlestep, ends_by_sigma, SOLVED),
                ("DPMSolverMultistepScheduler", Multistep, ends_by_sigma, SOLVED),
                ("UniPCMultistepScheduler", UniPc, ends_by_sigma, SOLVED_FROM_NOISE),
                ("DEISMultistepScheduler", Deis, ends_at_zero, SOLVED_NEAR_DATA),
            )
        ),
        Family("PNDMScheduler", None, None, ends_by_alpha),
        Family("LMSDiscreteScheduler", None, spacing.spaced, ends_clean, 2, rescaled=True),
        Family("KDPM2DiscreteScheduler", None, None, ends_clean, 2, calls_per_step=2, rescaled=True),
        Family(
            *("KDPM2AncestralDiscreteScheduler", None, None, ends_clean, 1, "always"), calls_per_step=2, rescaled=True
        ),
        Family(
            *("SASolverScheduler", SaSolver, spacing.spaced_before_the_end, ends_at_zero, 2, "always"),
            flow=SOLVED_NEAR_DATA,
        ),
        Family(
            *("FlowMatchEulerDiscreteScheduler", FlowEuler, None, ends_clean, 1, "stochastic_sampling"),
            **MATCHED,
        ),
        Family("FlowMatchHeunDiscreteScheduler", FlowHeun, None, ends_clean, 2, calls_per_step=2, **MATCHED),
        Family("FlowMatchLCMScheduler", Renoise, None, ends_clean, 1, "always", **MATCHED),
        Family("EDMEulerScheduler", Euler, None, ends_by_own, own=EDM),
        Family("EDMDPMSolverMultistepScheduler", Multistep, None, ends_by_own, None, "sde", keeps_data, own=EDM),
        Family(
            *("SCMScheduler", Renoise, None, ends_clean, 1, "always"),
            flow=Flow(
                lambda config: circle(float(config["sigma_data"])),
                flow_spacing.on_circle,
                lambda _: (0.0,),
                arguments=times_on_circle,
            ),
        ),
    )
}


def family_of(scheduler: Any, name: str | None = None) -> Family | None:
    """Return the family named like a class or one of its bases, or the family of a given name."""
    if name is not None:
        return FAMILIES[name]
    return next((FAMILIES[base.__name__] for base in type(scheduler).__mro__ if base.__name__ in FAMILIES), None)
