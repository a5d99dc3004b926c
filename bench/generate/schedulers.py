"""Schedulers, built from explicit settings alone; a checkpoint's own scheduler configuration never leaks in."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from typing import Any

from diffusers import SchedulerMixin

from bench.cell import Cell, SchedulerSpec
from bench.generate.own_code import load_own
from bench.records import BenchError


def make_scheduler(spec: SchedulerSpec) -> SchedulerMixin:
    """Return a fresh scheduler; raises BenchError for a class or setting that does not exist."""
    scheduler_class = scheduler_class_of(spec.target)
    allowed = settings_of(scheduler_class)
    for name in spec.settings:
        if name not in allowed:
            raise BenchError(f"{spec.target} has no setting {name!r}; it takes {', '.join(allowed)}")
    try:
        return scheduler_class(**spec.settings)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise BenchError(f"{spec.target} refuses its settings: {' '.join(str(error).split())}") from error


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
    except (ValueError, IndexError, AssertionError) as error:
        raise BenchError(f"{spec.target} refuses {steps} steps: {error}") from error
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
