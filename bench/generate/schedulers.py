"""Schedulers, built from explicit settings alone; a checkpoint's own scheduler configuration never leaks in."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from diffusers import SchedulerMixin

from bench.generate.own_code import load_own
from bench.generate.quiet import quiet_libraries
from bench.records.cell import Cell, SchedulerSpec
from bench.records.errors import BenchError


def make_scheduler(spec: SchedulerSpec) -> SchedulerMixin:
    """Return a fresh scheduler; raises BenchError for a class or setting that does not exist."""
    scheduler_class = scheduler_class_of(spec.target)
    allowed = settings_of(scheduler_class)
    types = _annotations(scheduler_class)
    for name, value in spec.settings.items():
        if name not in allowed:
            near = get_close_matches(name, allowed, 1, 0.6)
            meant = f"did you mean scheduler.{near[0]}? It" if near else "it"
            raise BenchError(
                f"scheduler.{name} was given, and {spec.target} has no such setting; {meant} takes {', '.join(allowed)}"
            )
        if value != _default(scheduler_class, name) and (wanted := _refused(name, value, types.get(name, Any))):
            raise BenchError(f"scheduler.{name}={_written(value)} was given; {spec.target} takes {wanted}")
    quiet_libraries()
    try:
        return scheduler_class(**spec.settings)
    except Exception as error:  # whatever a class of anybody's makes of its settings
        raise BenchError(f"scheduler: {spec.target} refuses its settings ({_said(error)})") from error


def settings_of(scheduler_class: type[Any]) -> tuple[str, ...]:
    """The settings that a class takes by name."""
    return parameters_of(scheduler_class, "__init__")


def parameters_of(scheduler_class: type[Any], method: str) -> tuple[str, ...]:
    """What a method takes by name; what its bases' take, too, where it hands `**more` on to them."""
    names: dict[str, None] = {}
    for base in scheduler_class.__mro__:
        if method not in vars(base):
            continue
        parameters = inspect.signature(vars(base)[method]).parameters.values()
        names |= dict.fromkeys(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return tuple(name for name in names if name != "self")


def try_scheduler(spec: SchedulerSpec, steps: int, eta: float | None) -> SchedulerMixin:
    """The scheduler with its timesteps set; raises BenchError if it cannot be made, refuses the step count, or has an
    eta where none is given.

    Pipelines hand their own default of 0 to a scheduler that has an eta, so it is never left open.
    """
    scheduler = make_scheduler(spec)
    if has_eta(scheduler) and eta is None:
        raise BenchError(f"{spec.target} has an eta, and none was given; say which, as in eta=[0.3]")
    if not has_eta(scheduler) and eta is not None:
        raise BenchError(f"{spec.target} has no eta, and {eta:g} was given; leave it empty, eta=[]")
    try:
        scheduler.set_timesteps(steps)
    except Exception as error:
        raise BenchError(
            f"scheduler: {spec.target} refuses {steps} steps with these settings ({_said(error)})"
        ) from error
    return scheduler


def expected_evaluations(cell: Cell, scheduler: Any) -> int:
    """Denoiser evaluations per image that a cell will take with a scheduler whose timesteps are set.

    Pipelines call the denoiser once for each timestep, of which some schedulers have more than steps (Heun 2N - 1), and
    guidance doubles that. An image that begins from a noised input leaves out the first ones, as diffusers'
    `get_timesteps` does. A record holds what was counted.
    """
    strength = float(cell.task.settings.get("strength", 1))
    left_out = cell.steps - min(int(cell.steps * strength), cell.steps)
    calls = len(scheduler.timesteps[left_out * int(getattr(scheduler, "order", 1)) :])
    return calls * (2 if cell.guidance_scale > 1 else 1)


def _annotations(scheduler_class: type[Any]) -> dict[str, Any]:
    """The declared types of a class's settings; none for those that cannot be read."""
    types: dict[str, Any] = {}
    for base in reversed(scheduler_class.__mro__):
        if "__init__" in vars(base):
            with suppress(Exception):  # names that only a type checker knows
                types |= get_type_hints(inspect.unwrap(vars(base)["__init__"]))
    return types


def _default(scheduler_class: type[Any], name: str) -> Any:
    parameter = inspect.signature(scheduler_class).parameters.get(name)
    return parameter.default if parameter else inspect.Parameter.empty


def _refused(name: str, value: Any, annotation: Any) -> str | None:
    """What a setting takes instead of a value; None where it takes that."""
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
"""What a denoiser can be trained to predict, as diffusers calls it."""

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
    """The class that a dotted path names: `diffusers.TCDScheduler`, or `my_fork.MyScheduler` of one's own.

    See `bench.generate.own_code` for where it is looked for. Raises BenchError where it cannot be imported.
    """
    module_name, _, class_name = target.rpartition(".")
    try:
        load_own(module_name)
        found: type[Any] = getattr(importlib.import_module(module_name), class_name)
        usable = inspect.isclass(found) and hasattr(found, "step") and hasattr(found, "set_timesteps")
    except Exception as error:  # whatever a module does when it is imported
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BenchError(
            f"scheduler {target!r} cannot be imported ({reason}); give the dotted path of a class, such as "
            "diffusers.TCDScheduler, that is installed or in a module of the current directory"
        ) from error
    if not usable:
        raise BenchError(f"{target} is no scheduler: it needs the methods set_timesteps and step")
    return found


def resolved_schedule(scheduler: Any) -> dict[str, Any]:
    """What `set_timesteps` made of the settings: timesteps, sigmas and solver orders (None where there are none)."""
    sigmas = getattr(scheduler, "sigmas", None)
    orders = getattr(scheduler, "order_list", None)
    return {
        "timesteps": tuple(float(t) for t in scheduler.timesteps),
        "sigmas": None if sigmas is None else tuple(float(s) for s in sigmas),
        "orders": None if orders is None else tuple(int(order) for order in orders),
    }


def plain_config(scheduler: Any) -> dict[str, Any]:
    """The scheduler's whole resolved configuration as JSON-ready values, private entries left out."""
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
