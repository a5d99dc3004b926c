"""The claims of each known scheduler class: published method, timesteps, last level, and order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.conformance import spacing
from bench.conformance.exponential import Deis, Multistep, Singlestep, UniPc
from bench.conformance.noise import Array, Level, NoiseTable
from bench.conformance.published import Ddim, Ddpm, Euler, EulerAncestral, Heun, Lcm, PublishedMethod, Tcd

Config = Mapping[str, Any]


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


def everywhere(config: Config) -> bool:
    """Return True: the claim holds at every setting."""
    return True


@dataclass(frozen=True)
class Family:
    """The claims of one class. `method` is None where no published form is written here; general checks still apply.

    `declared_order` is None where the setting `solver_order` declares it. `draws` tells which runs draw noise: never,
    always, those with an `eta` above 0, or the `sde` forms of an algorithm. `exact_on_point`: given the true x0, every
    step lands exactly on the next noise level.
    """

    name: str
    method: type[PublishedMethod] | None
    timesteps: Callable[[Config, int], Array] | None
    end: Callable[[Config, NoiseTable], Level | None]
    declared_order: int | None = 1
    draws: str = "never"
    exact_on_point: Callable[[Config], bool] = everywhere
    calls_per_step: int = 1

    def order(self, config: Config) -> int:
        """Return the convergence order that the class claims at these settings."""
        return int(config["solver_order"]) if self.declared_order is None else self.declared_order

    def stochastic(self, config: Config, eta: float) -> bool:
        """Whether a run draws noise, from the settings and eta."""
        sde = str(config.get("algorithm_type", "")).startswith("sde")
        return {"never": False, "always": True, "eta": eta > 0, "sde": sde}[self.draws]


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
            Family(name, method, spacing.spaced_before_the_end, end, None, "sde", keeps_data)
            for name, method, end in (
                ("DPMSolverSinglestepScheduler", Singlestep, ends_by_sigma),
                ("DPMSolverMultistepScheduler", Multistep, ends_by_sigma),
                ("UniPCMultistepScheduler", UniPc, ends_by_sigma),
                ("DEISMultistepScheduler", Deis, ends_at_zero),
            )
        ),
        Family("PNDMScheduler", None, None, ends_by_alpha),
        Family("LMSDiscreteScheduler", None, spacing.spaced, ends_clean, 2),
        Family("KDPM2DiscreteScheduler", None, None, ends_clean, 2, calls_per_step=2),
        Family("KDPM2AncestralDiscreteScheduler", None, None, ends_clean, 1, "always", calls_per_step=2),
        Family("SASolverScheduler", None, spacing.spaced_before_the_end, ends_at_zero, 2, "always"),
    )
}


def family_of(scheduler: Any, name: str | None = None) -> Family | None:
    """Return the family named like a class or one of its bases, or the family of a given name."""
    if name is not None:
        return FAMILIES[name]
    return next((FAMILIES[base.__name__] for base in type(scheduler).__mro__ if base.__name__ in FAMILIES), None)
