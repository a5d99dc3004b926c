"""What the source of a diffusers pipeline says of its call: parameters, defaults, and the use of its scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from bench.records.cell import Base
from bench.records.errors import BenchError

_READ = ("__call__", "prepare_latents")


def pipeline_class_of(name: str) -> Any:
    """Return a pipeline's class in diffusers, None where there is none of that name.

    Raises BenchError for a class that needs a library which is not installed.
    """
    import diffusers  # slow, and not needed to examine a scheduler

    found: Any = getattr(diffusers, name, None) if name else None
    if getattr(found, "is_dummy", False):
        raise BenchError(f"{name} needs {' and '.join(found._backends)}, of which one is not installed; install it")
    return found


def planned_class_of(base: Base) -> Any:
    """Return the class of a model's pipeline where a plan depends on it, else None.

    Pipelines of models with betas set timesteps by their number and guide without a classifier; their classes take
    seconds to import.
    """
    usual = "beta_schedule" in base.noise_schedule and base.guidance is None and not base.arguments
    return None if usual else pipeline_class_of(base.pipeline)


@cache
def call_parameters(pipeline_class: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a pipeline's call by name."""
    return inspect.signature(pipeline_class.__call__).parameters


@cache
def call_defaults(pipeline_class: Any) -> Mapping[str, Any]:
    """Return the defaults of a pipeline's call by parameter; `inspect.Parameter.empty` where there is none."""
    return {name: parameter.default for name, parameter in call_parameters(pipeline_class).items()}


@cache
def source_of(pipeline_class: Any) -> str:
    """Return the source of a pipeline's call and of what prepares its latents; empty where there is none."""
    methods = [inspect.unwrap(vars(pipeline_class)[name]) for name in _READ if name in vars(pipeline_class)]
    with suppress(OSError, TypeError):  # as in a compiled installation
        return "\n".join(map(inspect.getsource, methods))
    return ""
