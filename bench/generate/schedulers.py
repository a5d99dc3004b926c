"""Schedulers, created from explicit settings only; a checkpoint's own scheduler configuration is not used."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from bench.checkpoints.own_code import import_own
from bench.generate.flow import lacking, timestep_arguments, timesteps_sampled, translated
from bench.generate.guidance import is_doubled
from bench.generate.pipeline_calls import planned_class_of
from bench.generate.quiet import quiet_libraries
from bench.records.cell import Base, Cell, SchedulerSpec
from bench.records.errors import BenchError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def make_scheduler(spec: SchedulerSpec) -> SchedulerMixin:
    """Return a fresh scheduler; raises BenchError for a class or setting that does not exist."""
    scheduler_class = scheduler_class_of(spec.target)
    allowed = settings_of(scheduler_class)
    settings, beside = translated(spec.target, spec.settings, allowed)
    types, parameters = _annotations(scheduler_class), inspect.signature(scheduler_class).parameters
    for name, value in settings.items():
        if name not in allowed:
            near = get_close_matches(name, allowed, 1, 0.6)
            meant = f"did you mean scheduler.{near[0]}? It" if near else "it"
            raise BenchError(
                f"scheduler.{name} was given, but {spec.target} has no such setting; {meant} takes {', '.join(allowed)}"
            )
        default = getattr(parameters.get(name), "default", inspect.Parameter.empty)
        if value != default and (wanted := _refused(name, value, types.get(name, Any))):
            raise BenchError(f"scheduler.{name}={_written(value)} was given; {spec.target} takes {wanted}")
    quiet_libraries()
    try:
        scheduler = scheduler_class(**settings)
        if beside:
            scheduler.register_to_config(**beside)
    except Exception as error:  # a user's class may raise anything
        raise BenchError(f"scheduler: {spec.target} refuses its settings ({_said(error)})") from error
    else:
        return scheduler


def settings_of(scheduler_class: type[Any]) -> tuple[str, ...]:
    """Return the settings that a class takes by name."""
    return parameters_of(scheduler_class, "__init__")


def parameters_of(scheduler_class: type[Any], method: str) -> tuple[str, ...]:
    """Return the parameters of a method, including those of its bases where it passes `**more` on to them."""
    names: dict[str, None] = {}
    for base in scheduler_class.__mro__:
        if method not in vars(base):
            continue
        parameters = inspect.signature(vars(base)[method]).parameters.values()
        names |= dict.fromkeys(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return tuple(name for name in names if name != "self")


def try_scheduler(spec: SchedulerSpec, steps: int, eta: float | None, base: Base | None = None) -> SchedulerMixin:
    """Return the scheduler with its timesteps set, as the pipeline of a model sets them.

    Raises BenchError if it cannot be created, refuses the step count, or has an eta and none is given: pipelines pass
    their own default of 0 to a scheduler that has an eta, so it is always set explicitly.
    """
    scheduler = make_scheduler(spec)
    if has_eta(scheduler) and eta is None:
        raise BenchError(f"{spec.target} has an eta and none was given; give one, as in eta=[0.3]")
    if not has_eta(scheduler) and eta is not None:
        raise BenchError(f"{spec.target} has no eta but {eta:g} was given; leave it empty, eta=[]")
    if base is not None and (missing := lacking(scheduler, base)):
        raise BenchError(
            f"scheduler: {spec.target} has no {' and no '.join(missing)}, which {base.pipeline} uses; choose another "
            f"scheduler for models.{base.name}"
        )
    given = timestep_arguments(scheduler, base, steps)
    taken = parameters_of(type(scheduler), "set_timesteps")
    if base is not None and (unknown := [name for name in given if name not in taken]):
        raise BenchError(
            f"scheduler: {base.pipeline} gives its scheduler {' and '.join(unknown)}, which {spec.target} does not "
            f"take; choose another scheduler for models.{base.name}"
        )
    try:
        scheduler.set_timesteps(**given)
    except Exception as error:
        still = base is not None and "mu" in given and not scheduler.config.get("use_dynamic_shifting")
        hint = (
            f"; {base.pipeline} shifts by the image's size, so set use_dynamic_shifting=true" if base and still else ""
        )
        raise BenchError(
            f"scheduler: {spec.target} refuses {steps} steps with these settings ({_said(error)}){hint}"
        ) from error
    return scheduler


def expected_evaluations(cell: Cell, scheduler: Any) -> int:
    """Return the denoiser evaluations per image that a cell will take with a scheduler whose timesteps are set.

    Pipelines call the denoiser once per timestep, of which some schedulers have more than steps (Heun 2N - 1), and
    guidance may double that. A run that begins from a noised input skips the first timesteps, as diffusers'
    `get_timesteps` does. A record holds the counted number.
    """
    strength = float(cell.task.settings.get("strength", 1))
    left_out = cell.steps - min(int(cell.steps * strength), cell.steps)
    pipeline_class = planned_class_of(cell.base)
    calls = max(timesteps_sampled(scheduler, pipeline_class) - left_out * int(getattr(scheduler, "order", 1)), 0)
    doubled = cell.guidance_scale > 1 if pipeline_class is None else is_doubled(cell, pipeline_class)
    return calls * (2 if doubled else 1)


def _annotations(scheduler_class: type[Any]) -> dict[str, Any]:
    """Return the declared types of a class's settings; empty where they cannot be read."""
    types: dict[str, Any] = {}
    for base in reversed(scheduler_class.__mro__):
        if "__init__" in vars(base):
            with suppress(Exception):  # names that exist only for a type checker
                types |= get_type_hints(inspect.unwrap(vars(base)["__init__"]))
    return types


def _refused(name: str, value: Any, annotation: Any) -> str | None:
    """Return what a setting takes instead of a value; None where it takes the value."""
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if isinstance(value, int) and not isinstance(value, bool) and int in members:
        least = 1 if name.endswith("_order") or name in ("num_train_timesteps", "original_inference_steps") else 0
        return None if least <= value < 2**31 else f"a whole number from {least}"
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if name == "prediction_type" and value not in PREDICTIONS:
        return f"one of {', '.join(PREDICTIONS)}"
    if any(_fits(value, member) for member in members):
        return None
    containers = [member for member in members if member not in _NAMES and get_origin(member) is not Literal]
    if str not in members and containers:
        return " or ".join(["a list of numbers", *(["null"] if NoneType in members else [])])
    named = (
        f"one of {', '.join(map(str, get_args(m)))}" if get_origin(m) is Literal else _NAMES.get(m, "") for m in members
    )
    return " or ".join(filter(None, named)) or "something else"


def _fits(value: Any, member: Any) -> bool:
    if get_origin(member) is Literal:
        return value in get_args(member)
    if member in (bool, str, NoneType):
        return isinstance(value, member)
    if member in (int, float):
        return isinstance(value, int if member is int else int | float) and not isinstance(value, bool)
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(entry, int | float | str) for entry in value)
    return member is Any or not isinstance(value, bool | int | float | str | NoneType)


PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")
"""The prediction types of denoisers, by diffusers' names."""

_NAMES = {bool: "true or false", str: "a text", int: "a whole number", float: "a number", NoneType: "null"}


def _written(value: Any) -> str:
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _said(error: Exception) -> str:
    text = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if not isinstance(error, ValueError | NotImplementedError) else text


def has_eta(scheduler: Any) -> bool:
    """Whether a scheduler's step takes an eta."""
    return "eta" in inspect.signature(scheduler.step).parameters


def scheduler_class_of(target: str) -> type[Any]:
    """Return the class of a dotted path: `diffusers.TCDScheduler`, or a user's `my_fork.MyScheduler`.

    `bench.checkpoints.own_code` documents the search order. Raises BenchError where it cannot be imported.
    """
    found: type[Any] = import_own(target, f"scheduler {target!r}", "diffusers.TCDScheduler")
    if not (inspect.isclass(found) and hasattr(found, "step") and hasattr(found, "set_timesteps")):
        raise BenchError(f"{target} is not a scheduler: it needs the methods set_timesteps and step")
    return found


def resolved_schedule(scheduler: Any) -> dict[str, Any]:
    """Return the result of `set_timesteps`: timesteps, sigmas and solver orders (None for those that do not exist)."""
    sigmas = getattr(scheduler, "sigmas", None)
    orders = getattr(scheduler, "order_list", None)
    return {
        "timesteps": tuple(float(t) for t in scheduler.timesteps),
        "sigmas": None if sigmas is None else tuple(float(s) for s in sigmas),
        "orders": None if orders is None else tuple(int(order) for order in orders),
    }


def plain_config(scheduler: Any) -> dict[str, Any]:
    """Return the scheduler's whole resolved configuration as JSON-ready values, without private entries."""
    config: Mapping[str, Any] = scheduler.config
    return {name: _plain(value) for name, value in config.items() if not name.startswith("_")}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value)
