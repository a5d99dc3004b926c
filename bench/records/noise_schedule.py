"""The noise schedule of trained weights, as stated by the checkpoint's scheduler_config.json. Imports no torch.

It is given by betas, or is flow matching (x_t = (1 − σ) x_0 + σ ε, Lipman et al. 2023, arXiv:2210.02747) with the shift
of its levels σ, or TrigFlow (x_t = cos t · x_0 + sin t · ε, Lu and Song 2024, arXiv:2410.11081).
"""

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
NEUTRAL: Schedule = {
    **{"trained_betas": None, "rescale_betas_zero_snr": False, "use_flow_sigmas": False},
    **{"use_dynamic_shifting": False, "shift_terminal": None, "invert_sigmas": False},
}
"""Parts of a noise schedule that not every scheduler can express; these values have no effect."""
_BOUNDS: Schedule = {
    **{"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096},
    "time_shift_type": "exponential",
}
"""How the shift grows with the image's size, where it does; pipelines take them from the scheduler's configuration, or
use these values."""
FLOW: Schedule = {"num_train_timesteps": 1000, "shift": 1.0, **_BOUNDS}
"""Defaults of diffusers' FlowMatchEulerDiscreteScheduler; NEUTRAL holds further parts."""
TRIGFLOW: Schedule = {"num_train_timesteps": 1000, "prediction_type": "trigflow", "sigma_data": 0.5}
"""Defaults of diffusers' SCMScheduler."""
SHIFTED = ("FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler")
"""Flow-matching schedulers with every part of FLOW."""
FLOW_SOLVERS = (
    *("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("SASolverScheduler", "UniPCMultistepScheduler"),
)
"""Solvers of schedules by betas that also take flow matching's, by `use_flow_sigmas` and `flow_shift`."""
_HEUN, _SCM = "FlowMatchHeunDiscreteScheduler", "SCMScheduler"
_UNSHIFTED = {
    **dict.fromkeys(FLOW_SOLVERS, ("shift_terminal", "invert_sigmas")),
    **dict.fromkeys(("SASolverScheduler", _HEUN), ("use_dynamic_shifting", "shift_terminal", "invert_sigmas")),
}
"""Parts that a flow-matching scheduler does not have."""
PARTS = (*_LINEAR, *NEUTRAL, *FLOW, *TRIGFLOW)
_OF_SAMPLING = {"shift", *_BOUNDS, "use_dynamic_shifting", "shift_terminal"}
"""Parts that space the levels: a method may set its own, as distilled LoRAs ask for."""


def schedule_of(config: Mapping[str, Any], where: str) -> Schedule:
    """Return the noise schedule of a scheduler's configuration, without parts at their neutral value.

    Flow matching has `prediction_type` flow_prediction, `use_flow_sigmas`, and its shift in the names of
    FlowMatchEulerDiscreteScheduler, whichever class states it. Raises BenchError, naming `where`, for a class of
    scheduler whose schedule is not known.
    """
    name = str(config.get("_class_name"))
    if name in (*SHIFTED, _HEUN):
        return _flow(config)
    if name == _SCM:
        return {part: config.get(part, value) for part, value in TRIGFLOW.items()}
    defaults = DEFAULTS.get(name, DEFAULTS.get(name.removeprefix("Flax"), {}))
    if not defaults:
        known = ", ".join(sorted((*DEFAULTS, *SHIFTED, _HEUN, _SCM)))
        raise BenchError(f"{where} has the class {name}, whose noise schedule is not known; known are {known}")
    if config.get("use_flow_sigmas"):
        return _flow({**config, "shift": config.get("flow_shift", 1.0)})
    neutral = ("trained_betas", "rescale_betas_zero_snr", "use_flow_sigmas")
    return without_neutral(
        {part: config.get(part, value) for part, value in {**defaults, **{n: NEUTRAL[n] for n in neutral}}.items()}
    )


def _flow(config: Mapping[str, Any]) -> Schedule:
    neutral = {part: config.get(part, NEUTRAL[part]) for part in ("use_dynamic_shifting", "shift_terminal")}
    neutral["invert_sigmas"] = config.get("invert_sigmas", False)
    parts = FLOW if neutral["use_dynamic_shifting"] else ("num_train_timesteps", "shift")
    said = {part: config.get(part, FLOW[part]) for part in parts}
    return without_neutral({"prediction_type": "flow_prediction", "use_flow_sigmas": True, **said, **neutral})


def misfit(scheduler: Mapping[str, Any], schedule: Mapping[str, Any]) -> str | None:
    """Return why a method's scheduler cannot sample weights of a noise schedule; None where it can, or is not known."""
    name, predicts = _class_of(str(scheduler.get("_target_"))), schedule.get("prediction_type")
    taken = ("flow_prediction",) if scheduler.get("use_flow_sigmas") else _taken_by(name)
    if predicts is None or taken is None:
        return None
    trained = _TRAINED.get(str(predicts), "on a schedule of betas")
    if (predicts if predicts in _TRAINED else "betas") not in taken:
        wanted = " or ".join(_TRAINED.get(kind, "on a schedule of betas") for kind in taken)
        return f"its weights were trained {trained}, and {name} samples those trained {wanted}"
    stated = {**schedule, **scheduler}
    lacking = [part for part in _UNSHIFTED.get(name, ()) if stated.get(part, NEUTRAL[part]) != NEUTRAL[part]]
    return f"its levels have {lacking[0]}={stated[lacking[0]]}, and {name} has no such setting" if lacking else None


_TRAINED = {"flow_prediction": "by flow matching", "trigflow": "by TrigFlow"}


def _taken_by(name: str) -> tuple[str, ...] | None:
    """Return the kinds of schedule that a class of diffusers samples; None for any other class."""
    if name in (*SHIFTED, _HEUN):
        return ("flow_prediction",)
    if name == _SCM:
        return ("trigflow",)
    return ("betas", "flow_prediction") if name in FLOW_SOLVERS else ("betas",) if name in DEFAULTS else None


def _class_of(target: str) -> str:
    """Return the name of a class of diffusers; empty for any other."""
    package, _, name = target.rpartition(".")
    return name if package.partition(".")[0] == "diffusers" else ""


def stated_by(scheduler: Mapping[str, Any]) -> Schedule:
    """Return the parts of a noise schedule that a method's settings state and that must be those of the training."""
    return {part: value for part, value in scheduler.items() if part in PARTS and part not in _OF_SAMPLING}


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
