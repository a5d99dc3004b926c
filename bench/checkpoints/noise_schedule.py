"""The noise schedule of trained weights, as stated by the checkpoint's scheduler_config.json. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.records.errors import BenchError

Schedule = dict[str, Any]

_LINEAR: Schedule = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
}
_LATENT: Schedule = {**_LINEAR, "beta_start": 0.00085, "beta_end": 0.012}
_SCALED: Schedule = {**_LATENT, "beta_schedule": "scaled_linear"}
_OF_LINEAR = (
    *("DDIMScheduler", "DDIMInverseScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler"),
    *("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler"),
    *("DPMSolverSinglestepScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
    *("LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler", "UniPCMultistepScheduler"),
)
DEFAULTS: Mapping[str, Schedule] = {
    **dict.fromkeys(_OF_LINEAR, _LINEAR),
    **dict.fromkeys(("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"), _LATENT),
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), _SCALED),
}
"""Defaults of diffusers' scheduler classes for settings that a configuration omits, from their constructors.

Classes that are not listed have no betas (EDM, flow matching) or a schedule that these settings do not describe.
"""
NEUTRAL: Schedule = {"trained_betas": None, "rescale_betas_zero_snr": False, "use_flow_sigmas": False}
"""Parts of a noise schedule that not every scheduler can express; these values have no effect."""
PARTS = (*_LINEAR, *NEUTRAL)


def schedule_of(config: Mapping[str, Any], where: str) -> Schedule:
    """Return the noise schedule of a scheduler's configuration, without parts at their neutral value.

    Raises BenchError, naming `where`, for a class of scheduler that has no such schedule.
    """
    name = str(config.get("_class_name"))
    defaults = DEFAULTS.get(name, DEFAULTS.get(name.removeprefix("Flax"), {}))
    if not defaults:
        known = ", ".join(sorted(DEFAULTS))
        raise BenchError(f"{where} has the class {name}, whose noise schedule is not given by betas; known are {known}")
    return without_neutral({part: config.get(part, value) for part, value in {**defaults, **NEUTRAL}.items()})


def without_neutral(schedule: Mapping[str, Any]) -> Schedule:
    """Return a schedule without the parts that have no effect."""
    return {part: value for part, value in schedule.items() if part not in NEUTRAL or value != NEUTRAL[part]}


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the names of settings for which `wanted` and `found` differ."""
    return [part for part, value in wanted.items() if value != found.get(part, NEUTRAL.get(part))]


def settle(model: str, stated: Mapping[str, Any], found: Schedule, override: bool) -> Schedule:
    """Return the schedule that a model is sampled with: the checkpoint's; with `override`, the stated values instead.

    Raises BenchError for a name that is not a part of a noise schedule, and where a statement differs from the
    checkpoint and no override allows it.
    """
    setting = f"models.{model}.noise_schedule"
    if unknown := [name for name in stated if name not in PARTS]:
        raise BenchError(
            f"{setting}.{unknown[0]} is not a part of a noise schedule ({', '.join(PARTS)}); settings of a solver go "
            "to methods.NAME.scheduler"
        )
    others = differences(stated, found)
    if others and not override:
        pairs = " and ".join(f"{setting}.{part}={stated[part]!r}" for part in others)
        own = " and ".join(f"{part}={found.get(part, NEUTRAL.get(part))!r}" for part in others)
        raise BenchError(
            f"{pairs} was given, but the checkpoint states {own}; omit the setting, or deviate from the "
            f"training with models.{model}.noise_schedule_override=true"
        )
    return without_neutral({**found, **stated})
