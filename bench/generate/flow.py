"""Flow-matching schedulers: the model's shift in each scheduler's own names, and timesteps as each pipeline sets them.

Flow-matching pipelines hand their scheduler sigmas, and the exponent `mu` of a shift that depends on the image's size.
Both are known before anything is loaded, so that a plan can try them.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.generate.pipeline_calls import call_defaults, planned_class_of, source_of
from bench.records.cell import Base
from bench.records.errors import BenchError

SHIFTS: Mapping[str, Any] = {
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "shift_terminal": None,
    "time_shift_type": "exponential",
}
"""The parts of a flow-matching model's noise schedule that say how timesteps are spaced, and what leaves them as they
are. The four of the image's size are read by pipelines, from the scheduler's configuration."""
_OF_THE_SIZE = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
_IMPLIED = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
"""Settings of solvers for several kinds of models that a scheduler for flow matching alone does not have."""
TOKEN_SIDE = 16
"""Pixels along a side of an image token: an autoencoder of factor 8 and patches of 2, as in all published models whose
shift depends on the size."""


def translated(
    target: str, settings: Mapping[str, Any], allowed: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split settings into those of a scheduler's constructor, and those kept in its configuration for pipelines.

    Raises BenchError where a scheduler cannot express the shift.
    """
    own, beside = dict(settings), dict[str, Any]()
    flow_only = "shift" in allowed
    for name, value in settings.items():
        if name in allowed or name not in {*SHIFTS, *_IMPLIED, "flow_shift"}:
            continue
        other = {"shift": "flow_shift", "flow_shift": "shift"}.get(name, "")
        if other in allowed:
            own.setdefault(other, own.pop(name))
        elif name in _OF_THE_SIZE:
            beside[name] = own.pop(name)
        elif (name in SHIFTS and value == SHIFTS[name]) or (flow_only and _IMPLIED.get(name) == value):
            del own[name]
        elif name in SHIFTS:
            raise BenchError(
                f"scheduler: {target} has no {name}, and the model's noise schedule has {name}={value}; choose another "
                "scheduler for this model"
            )
    return own, beside


def timestep_arguments(scheduler: Any, base: Base | None, steps: int) -> dict[str, Any]:
    """Return the arguments by which a model's pipeline sets the timesteps of a scheduler."""
    pipeline_class = None if base is None else planned_class_of(base)
    arguments: dict[str, Any] = {"num_inference_steps": steps}
    if base is None or pipeline_class is None:
        return arguments
    source, config = source_of(pipeline_class), scheduler.config
    if _GIVES_SIGMAS.search(source) and not ("use_flow_sigmas" in source and config.get("use_flow_sigmas")):
        arguments = {"sigmas": np.linspace(1.0, 1 / steps, steps)}
    if (_ALWAYS_GIVES_MU.search(source) or config.get("use_dynamic_shifting")) and (
        mu := _mu(pipeline_class, config, base, steps)
    ) is not None:
        arguments["mu"] = mu
    stated = {**call_defaults(pipeline_class), **base.arguments, **arguments_of_steps(pipeline_class, steps)}
    return arguments | {name: stated[name] for name in ("max_timesteps", "intermediate_timesteps") if name in stated}


def lacking(scheduler: Any, base: Base) -> list[str]:
    """Return what a model's pipeline uses of its scheduler and a scheduler does not have, such as init_noise_sigma."""
    pipeline_class = planned_class_of(base)
    source = "" if pipeline_class is None else source_of(pipeline_class)
    needed = dict.fromkeys(_NEEDS.findall(source)).keys() - set(_ASKS_FOR.findall(source))
    return sorted(name for name in needed if not hasattr(scheduler, name))


def arguments_of_steps(pipeline_class: Any, steps: int) -> dict[str, Any]:
    """Return the arguments that a pipeline's call needs for some number of steps: SANA-Sprint's second timestep is
    that of two steps alone."""
    of_two_alone = "intermediate_timesteps" in call_defaults(pipeline_class) and steps != 2
    return {"intermediate_timesteps": None} if of_two_alone else {}


def timesteps_sampled(scheduler: Any, pipeline_class: Any) -> int:
    """Return how many of a scheduler's timesteps a pipeline samples at: all, or all but the end of the last step."""
    ends = pipeline_class is not None and _LEAVES_LAST.search(source_of(pipeline_class))
    return len(scheduler.timesteps) - bool(ends)


_GIVES_SIGMAS = re.compile(r"^\s+sigmas = (np\.linspace|get_default_\w+sigmas)\(", re.MULTILINE)
_ALWAYS_GIVES_MU = re.compile(r"[( ]mu=mu\b|\{\"mu\": mu\}")
_READS = re.compile(r"scheduler\.config\.get\(\"(\w+)\", ([\d.]+)\)")
_NEEDS = re.compile(r"self\.scheduler\.(\w+)")
_ASKS_FOR = re.compile(r"hasattr\(self\.scheduler, \"(\w+)\"\)")
_LEAVES_LAST = re.compile(r"^\s+timesteps = timesteps\[:-1\]", re.MULTILINE)


def _mu(pipeline_class: Any, config: Mapping[str, Any], base: Base, steps: int) -> float | None:
    """Return the exponent of the shift by the pipeline's own function; None where its module has none."""
    tokens = (base.height // TOKEN_SIDE) * (base.width // TOKEN_SIDE)
    module = sys.modules[pipeline_class.__module__]
    if hasattr(module, "compute_empirical_mu"):
        return float(module.compute_empirical_mu(tokens, steps))
    if not hasattr(module, "calculate_shift"):
        return None
    read = {name: float(value) for name, value in _READS.findall(source_of(pipeline_class))}
    values = {name: config.get(name, read.get(name, SHIFTS[name])) for name in _OF_THE_SIZE}
    named = {name.replace("image_seq", "seq"): value for name, value in values.items()}
    taken = inspect.signature(module.calculate_shift).parameters
    return float(module.calculate_shift(tokens, **{name: value for name, value in named.items() if name in taken}))
