"""What a user gives as a scheduler: a function, a class or an object; and what the theory has nothing to say about."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bench.conformance.families import FAMILIES, Family
from bench.conformance.noise import Level
from bench.conformance.targets import parts_of
from bench.records.errors import BenchError

_TAKES = "conform takes a function that makes a new scheduler, a scheduler class, or a scheduler object"
_BETAS = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule"}
_ROLES = ("model_output", "timestep", "sample")


def maker_of(given: Any) -> Callable[[], Any]:
    """Return a function that makes a new scheduler at each call, or copies a given one.

    The two that are made here, to see that they are two, are handed out first: some take a quarter of a second.

    Raises BenchError for anything but a function without arguments, a class, or an object, and for what cannot be
    created or is not a scheduler.
    """
    if not inspect.isclass(given) and hasattr(given, "set_timesteps") and hasattr(given, "step"):
        return _copies(given)
    if not callable(given):
        advice = f"; import the class and pass it, not its name {given!r}" if isinstance(given, str) else ""
        raise BenchError(f"{_TAKES}, and was given {_kind(given)}{advice}")
    one, two = (_made(given) for _ in range(2))
    if one is two:
        raise BenchError(
            f"{_name(given)} returned the same object twice; let it create a new scheduler at each call, or pass the "
            "object itself, which is then copied"
        )
    unused = [two, one]
    return lambda: unused.pop() if unused else given()


def _copies(scheduler: Any) -> Callable[[], Any]:
    try:
        untouched = copy.deepcopy(scheduler)
    except Exception as error:
        raise BenchError(
            f"the object of class {type(scheduler).__name__} cannot be copied ({_said(error)}); pass a function that "
            "makes a new one"
        ) from error
    return lambda: copy.deepcopy(untouched)


def _made(given: Any) -> Any:
    try:
        made = given()
    except BenchError:
        raise
    except Exception as error:
        advice = f"; {_TAKES}, and calls it without arguments, so bind them: lambda: {_name(given)}(…)"
        wrong_call = isinstance(error, TypeError) and "argument" in str(error)
        raise BenchError(f"{_name(given)}() raises {_said(error)}{advice if wrong_call else ''}") from error
    if lacking := [method for method in ("set_timesteps", "step") if not callable(getattr(made, method, None))]:
        what = "class" if inspect.isclass(given) else f"function returns {_kind(made)}, which"
        raise BenchError(f"{_name(given)} is not a scheduler: the {what} has no {' and no '.join(lacking)}")
    return made


def check_examinable(scheduler: Any, family: Family | None) -> None:
    """Raise BenchError, one sentence, for a scheduler whose runs have no exact solution to be compared with.

    Those are classes on tokens, classes whose step or set_timesteps needs more than a pipeline's usual loop has, and
    classes without a noise schedule that can be read.
    """
    if reason := _of_interface(scheduler) or _of_theory(scheduler, family):
        raise BenchError(f"{type(scheduler).__name__} cannot be examined: {reason}")


def _of_interface(scheduler: Any) -> str:
    for method, given in (("step", _ROLES), ("set_timesteps", ("num_inference_steps", "mu"))):
        try:
            parameters = list(inspect.signature(getattr(scheduler, method)).parameters.values())
        except (TypeError, ValueError):
            return f"the signature of its {method} cannot be read"
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if len(named) < len(parameters):
            continue  # it hands on what it gets
        if method == "step" and any("LongTensor" in str(p.annotation) for p in named[:3]):
            return "its states are discrete tokens; the exact solutions are of continuous ones"
        by_place = method == "step" and not {p.name for p in named} >= set(_ROLES)
        needed = [p.name for p in (named[3:] if by_place else named) if p.default is p.empty]
        if more := [name for name in needed if name not in given]:
            return f"its {method} needs {' and '.join(more)}, which only its own pipeline has"
        if method == "step" and len(named) < 3:
            return f"its step takes {', '.join(p.name for p in named)}; it has to take {', '.join(_ROLES)}"
        if method == "set_timesteps" and "num_inference_steps" not in {p.name for p in named}:
            return "its set_timesteps takes no num_inference_steps"
    if not isinstance(getattr(scheduler, "config", None), Mapping):
        return "it has no config, where its settings are read (derive it from diffusers' ConfigMixin)"
    return ""


def _of_theory(scheduler: Any, family: Family | None) -> str:
    config = {**(family.defaults if family else {}), **scheduler.config}
    on_curve = family is not None and family.flow is not None and family.flow.curve(config) is not None
    own = family is not None and family.own is not None
    if not on_curve and not own and not config.keys() >= _BETAS:
        known = "; if it follows a known class, name that by family=" if family is None else ""
        return f"its config holds no noise schedule ({', '.join(sorted(_BETAS))}) and no curve is known for it{known}"
    prediction = config.get("prediction_type")
    try:
        parts_of(str(prediction), Level(0.6, 0.8, (1.0, 1.0) if on_curve else None))
    except ValueError as error:
        return "its config does not say what the model predicts" if prediction is None else str(error)
    return ""


def check_family(name: str | None) -> None:
    """Raise BenchError for the name of a family that does not exist."""
    if name is not None and name not in FAMILIES:
        raise BenchError(f"family {name!r} is unknown; choose one of {', '.join(sorted(FAMILIES))}")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _name(given: Any) -> str:
    name = getattr(given, "__qualname__", None) or repr(given)
    return "the function" if "<lambda>" in name else name


def _kind(value: Any) -> str:
    return "None" if value is None else f"an object of class {type(value).__name__}"
