"""The scheduler under test: fresh objects at any setting, their paths, and runs of them on exact targets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from bench.conformance.breakdown import deliberate
from bench.conformance.curves import Curve
from bench.conformance.families import Family, family_of
from bench.conformance.noise import Array, Level, NoiseTable, alpha_bars, level_of_sigma
from bench.conformance.published import Path, PublishedMethod
from bench.conformance.targets import GAUSSIAN, ITEM, VELOCITIES, Several, Target, predictions
from bench.conformance.trace import Trace, TracedRun, numbers_of, scaled_input, to_numpy
from bench.generate.schedulers import parameters_of, settings_of

BATCH = 4
OTHER_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


class Refusal(Exception):  # noqa: N818
    """A class refuses a setting with an error when it is created, set up or stepped."""

    @property
    def breakdown(self) -> str:
        """The error where the class did not mean to raise it; empty otherwise."""
        cause = self.__cause__
        if cause is None or deliberate(cause):
            return ""
        return f"{type(cause).__name__}: {' '.join(str(cause).split())}"


@dataclass(frozen=True)
class Case:
    """A set-up scheduler with everything that the theory needs.

    Of a new scheduler, `again` makes the same case, and `key` names it where its steps and settings say all about it.
    """

    scheduler: Any
    config: Mapping[str, Any]
    family: Family | None
    path: Path
    steps: int
    again: Callable[[], Case] | None = None
    key: tuple[int, str] | None = None

    @property
    def rescaled(self) -> bool:
        """Whether the state is x / a, as for schedulers that scale the model's input."""
        if self.path.curve is not None:
            return False
        if self.family is not None and (self.family.method is not None or self.family.rescaled):
            return self.family.rescaled or (self.family.method is not None and self.family.method.rescaled)
        return float(self.scheduler.init_noise_sigma) > 1.5

    @property
    def timesteps(self) -> Any:
        """The scheduler's timesteps for which a call is made; some end with the one on which the run lands."""
        return self.scheduler.timesteps[: len(self.path.timesteps)]

    def twin(self) -> Case:
        """Return the same case with a copy of its scheduler, which can be used beside it."""
        return replace(self, scheduler=copy.deepcopy(self.scheduler))

    def level(self, index: int) -> Level:
        """Return the level of the state before call `index`, in the scheduler's own variable."""
        level = self.path.levels[index]
        return Level(1.0, level.sigma) if self.rescaled else level

    def scale(self, index: int) -> float:
        """Return the factor by which the input of a call's model differs from a x0 + b noise."""
        return self.path.scales[index] if self.path.scales else 1.0

    def model(self, target: Target) -> Callable[[Array, int, float], Array]:
        """Return the ideal model of a target, which depends on the level of each timestep only."""

        def ideal(seen: Array, index: int, timestep: float) -> Array:
            level, x = self.path.levels[index], seen / self.scale(index)
            data = target.expected_data(x, level)
            return predictions(data, x, level, self.config["prediction_type"])

        return ideal

    def start(self, target: Target, begin: int = 0, batch: int = BATCH, seed: int = 7) -> Array:
        """Return a state at the first level, with about the width of the targets' data; fixed normal draws."""
        z = np.random.default_rng(seed).standard_normal((batch, *ITEM))
        level = self.path.levels[begin]
        x = level.b * z + level.a * GAUSSIAN.width * z + level.a * GAUSSIAN.mean
        return x / level.a if self.rescaled else x

    def run(self, target: Target, run: TracedRun | None = None, begin: int = 0) -> Trace:
        """Sample from the target's ideal model."""
        calls, start = len(self.path.timesteps), self.start(target, begin)
        if isinstance(target, Several):
            start = np.concatenate([start] * len(target.targets))
        return (run or TracedRun()).sample(self.scheduler, self.model(target), start, calls)

    def states(self, arguments: Mapping[str, Any], begin: int = 0, rows: slice = slice(None)) -> Iterator[Array]:
        """Yield the states of a run on GAUSSIAN one by one, so that runs can be interleaved and copied half way."""
        if begin:
            self.scheduler.set_begin_index(begin)
        state = self.start(GAUSSIAN)[rows]
        for index in range(begin, len(self.path.timesteps)):
            state = self.call(state, index, arguments)
            yield state

    def call(self, state: Array, index: int, arguments: Mapping[str, Any]) -> Array:
        """Return the state after one call on GAUSSIAN."""
        given, timestep = torch.from_numpy(state.copy()), self.timesteps[index]
        seen = to_numpy(scaled_input(self.scheduler, given, timestep))
        output = torch.from_numpy(self.model(GAUSSIAN)(seen, index, float(timestep)))
        return to_numpy(self.scheduler.step(output, timestep, given, **arguments).prev_sample)

    def method(self, eta: float | None, begin: int = 0) -> PublishedMethod | None:
        """Return the published method on this path, or on the part from `begin` on."""
        if self.family is None or self.family.method is None:
            return None
        path = replace(self.path, levels=self.path.levels[begin:], timesteps=self.path.timesteps[begin:])
        return self.family.method(self.config, path, eta)


class Subject:
    """A scheduler class with its settings, given as a function that creates it."""

    def __init__(self, make: Callable[[], Any], family: str | None = None, base: Any = None) -> None:
        self.make = make
        self.base = make() if base is None else base
        self.cls = type(self.base)
        self.family = family_of(self.base, family)
        self.parameters = set(settings_of(self.cls))
        self.step_parameters = set(parameters_of(self.cls, "step"))
        self.set_parameters = set(parameters_of(self.cls, "set_timesteps"))
        self.config = self.config_of(self.base)
        self._untouched: dict[str, Any] = {_key({}): self.base}
        self.traces: dict[Any, Trace] = {}

    def config_of(self, scheduler: Any) -> dict[str, Any]:
        """Return the public part of a configuration, with the defaults of the base classes and of the family."""
        own = {name: value for name, value in dict(scheduler.config).items() if not name.startswith("_")}
        return {**(self.family.defaults if self.family else {}), **own}

    def curve(self, overrides: Mapping[str, Any] | None = None) -> Curve | None:
        """Return the curve on which the class steps at these settings; None on a noise table."""
        flow = self.family.flow if self.family else None
        return None if flow is None else flow.curve({**self.config, **(overrides or {})})

    @cached_property
    def has_eta(self) -> bool:
        """Whether `step` takes an eta."""
        return "eta" in self.step_parameters

    @cached_property
    def brief(self) -> dict[str, Any]:
        """Arguments of `step` for runs at very many settings: order 2 where it takes one.

        LMS integrates each coefficient numerically in each step, which takes three milliseconds at its order 4.
        """
        return {"order": 2} if "order" in self.step_parameters else {}

    def fresh(self, overrides: Mapping[str, Any] | None = None) -> Any:
        """Return a scheduler with some settings changed; raises Refusal where the class does not take them.

        This is a deep copy of an object that was never used; the checks of leftover state and of copies make their own.
        """
        key = _key(overrides or {})
        if key not in self._untouched:
            self._untouched[key] = self.made(overrides)
        return copy.deepcopy(self._untouched[key])

    def made(self, overrides: Mapping[str, Any] | None = None) -> Any:
        """Return an object that was created, not copied; raises Refusal where the class does not take the settings."""
        if not overrides:
            return self.make()
        given = {name: value for name, value in self.config.items() if name in self.parameters} | dict(overrides)
        with suppress(Exception):
            return self.restored(self.quick(**given))
        try:
            return self.cls(**given)
        except Exception as error:
            raise Refusal(" ".join(str(error).split())) from error

    @cached_property
    def quick(self) -> Any:
        """The class, which makes no more than four timesteps when it is created.

        Some make those of all training steps, which takes a second. `restored` gives an object its own class back.
        """

        class Quick(self.cls):  # type: ignore[misc, name-defined]
            def set_timesteps(self, steps: Any = None, *more: Any, **others: Any) -> None:
                super().set_timesteps(steps if steps is None else min(steps, 4), *more, **others)

        Quick.__name__, Quick.__qualname__ = self.cls.__name__, self.cls.__qualname__
        return Quick

    def restored(self, scheduler: Any) -> Any:
        """Return an object of `quick` as one of the class."""
        scheduler.__class__ = self.cls
        return scheduler

    def prepare(
        self, steps: int, overrides: Mapping[str, Any] | None = None, scheduler: Any = None, **arguments: Any
    ) -> Case:
        """Return a case at `steps` steps, or with given timesteps or sigmas; raises Refusal where the class refuses."""
        again = None if scheduler is not None else partial(self.prepare, steps, overrides, **arguments)
        scheduler = scheduler if scheduler is not None else self.fresh(overrides)
        config = {**self.config, **(overrides or {})}
        try:
            scheduler.set_timesteps(**{**self.schedule_arguments(steps, config, *arguments), **arguments})
        except Exception as error:
            raise Refusal(f"{steps} steps: {' '.join(str(error).split())}") from error
        path = self.path_of(scheduler, config)
        if self.family is not None and self.family.own is not None:  # the levels say what the model predicts
            config["prediction_type"] = VELOCITIES[0]
        key = None if again is None or arguments else (steps, _key(overrides or {}))
        return Case(scheduler, config, self.family, path, steps, again, key)

    def schedule_arguments(self, steps: int, config: Mapping[str, Any], *given: str) -> dict[str, Any]:
        """Return what set_timesteps needs for so many steps, beside arguments of the given names."""
        handed_over = bool({"timesteps", "sigmas"} & set(given))
        needed: dict[str, Any] = {} if handed_over else {"num_inference_steps": steps}
        flow = self.family.flow if self.family else None
        if flow is not None and flow.curve(config) is not None:
            more = flow.arguments(config, steps, handed_over)
            needed |= {name: value for name, value in more.items() if name in self.set_parameters}
        return needed

    def path_of(self, scheduler: Any, config: Mapping[str, Any]) -> Path:
        """Return the scheduler's own levels, on a curve or in its noise table; others compare with theory."""
        curve = None if self.family is None or self.family.flow is None else self.family.flow.curve(config)
        if curve is not None:
            return path_on_curve(scheduler, curve)
        if self.family is not None and self.family.own is not None:
            return path_of_own(scheduler, config, self.family)
        own = getattr(scheduler, "alphas_cumprod", None)
        table = NoiseTable(alpha_bars(config) if own is None else np.asarray(own.double().numpy()))
        timesteps = numbers_of(scheduler.timesteps)
        sigmas = getattr(scheduler, "sigmas", None)
        other = any(config.get(name) for name in OTHER_SIGMAS) or config.get("interpolation_type") == "log_linear"
        inner = getattr(scheduler, "sigmas_interpol", None)
        if inner is not None and sigmas is not None:  # every second call lies between two levels
            ahead = 1 if hasattr(scheduler, "sigmas_up") else 0
            own_sigmas = [sigmas[index] if index % 2 == 0 else inner[index - ahead] for index in range(len(timesteps))]
            levels = [level_of_sigma(float(sigma)) for sigma in own_sigmas]
        elif other and sigmas is not None:
            levels = [level_of_sigma(sigma) for sigma in numbers_of(sigmas[: len(timesteps)])]
        else:
            levels = [table.level(min(max(t, 0.0), len(table.alpha_bar) - 1.0)) for t in timesteps]
        end = self.family.end(config, table) if self.family else None
        return Path([*levels, end or self._own_end(scheduler, table)], timesteps, table)

    @staticmethod
    def _own_end(scheduler: Any, table: NoiseTable) -> Level:
        """Return the last level of a class without a setting for it: last sigma, final alpha_bar, or timestep 0."""
        sigmas = getattr(scheduler, "sigmas", None)
        if sigmas is not None and len(sigmas) > len(scheduler.timesteps):
            return level_of_sigma(float(sigmas[-1]))
        final = getattr(scheduler, "final_alpha_cumprod", None)
        return table.level(0) if final is None else NoiseTable(np.array([float(final)])).level(0)


def _key(overrides: Mapping[str, Any]) -> str:
    return repr(sorted(overrides.items(), key=lambda item: item[0]))


def path_of_own(scheduler: Any, config: Mapping[str, Any], family: Family) -> Path:
    """Return the levels at the sigmas of a class without a noise table."""
    own, table = family.own, NoiseTable(np.empty(0))
    if own is None:
        raise ValueError("a class without a noise table belongs to a family that describes its levels")
    timesteps = numbers_of(scheduler.timesteps)
    sigmas = numbers_of(scheduler.sigmas[: len(timesteps)])
    levels = [Level(1.0, sigma, own.parts(config, sigma)) for sigma in sigmas]
    end = family.end(config, table) or Level(1.0, 0.0)
    scales = [own.scale(config, sigma) for sigma in sigmas]
    return Path([*levels, end], timesteps, table, scales=scales)


def path_on_curve(scheduler: Any, curve: Curve) -> Path:
    """Return the levels at the scheduler's sigmas or, where it has none, at its timesteps.

    One level more than calls is needed; a run that lacks its last one is taken to end on clean data.
    """
    timesteps = numbers_of(scheduler.timesteps)
    own = getattr(scheduler, "sigmas", None)
    positions = timesteps if own is None else numbers_of(own)
    calls = timesteps[:-1] if own is None else timesteps
    positions = [*positions, curve.clean] if len(positions) == len(calls) else positions[: len(calls) + 1]
    return Path([curve.level(u) for u in positions], calls, NoiseTable(np.empty(0)), curve, positions)


def step_arguments(subject: Subject, eta: float | None) -> dict[str, float]:
    """Return the keyword arguments of `step` for an eta."""
    return {} if eta is None or not subject.has_eta else {"eta": eta}
