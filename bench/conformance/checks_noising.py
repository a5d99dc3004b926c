"""Noise that is added to data: add_noise and its form for flows, scale_noise, and the velocity between both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from bench.conformance.noise import Array
from bench.conformance.report import Finding
from bench.conformance.subject import Case, Subject, step_arguments
from bench.conformance.trace import to_numpy

_STEPS = 6


def noising_of(scheduler: Any) -> str | None:
    """Return the name of the method that adds noise to data, None where the class has none."""
    return next((name for name in ("add_noise", "scale_noise") if hasattr(scheduler, name)), None)


def noised(scheduler: Any, data: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Return noised data; flow schedulers take the arguments in another order."""
    if noising_of(scheduler) == "scale_noise":
        result: torch.Tensor = scheduler.scale_noise(data, timesteps, noise)
    else:
        result = scheduler.add_noise(data, noise, timesteps)
    return result


def check_noising(subject: Subject, setting: str, overrides: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Check that noised data is a x0 + b noise of its timestep, before a run, from a begin index and half way."""
    name = noising_of(subject.base)
    if name is None:
        return
    rng = np.random.default_rng(5)
    x0, noise = rng.standard_normal((2, 3, 3, 2, 2))
    for occasion in ("before a run", "from a begin index", "half way"):
        case = subject.prepare(_STEPS, overrides)
        if occasion != "before a run" and not hasattr(case.scheduler, "set_begin_index"):
            continue
        rows = [0, 2, 4] if subject.family is None or subject.family.calls_per_step == 1 else [0, 0, 0]
        if occasion != "before a run":
            rows = [2, 2, 2]
            case.scheduler.set_begin_index(2 if occasion == "from a begin index" else 0)
        if occasion == "half way":
            run = case.states(step_arguments(subject, 0.0))
            try:
                next(run), next(run)
            except (ValueError, NotImplementedError):  # a setting that step refuses
                continue
        chosen = case.scheduler.timesteps[rows]
        data, added = torch.from_numpy(x0), torch.from_numpy(noise)
        try:
            got = to_numpy(noised(case.scheduler, data, added, chosen))
        except RuntimeError as error:
            words = f"{name} takes one timestep but not one for each image of a batch."
            yield Finding(f"{name} of a batch", f"{setting}, {occasion}", "noised data", str(error), words)
            chosen = chosen[:1]
            got = to_numpy(noised(case.scheduler, data, added, chosen))
        half = noised(case.scheduler, data.half(), added.half(), chosen)
        if half.dtype != torch.float16:
            words = f"{name} returns a dtype other than that of the data, which the next model call does not expect."
            yield Finding("dtype", f"{setting}, {name} {occasion}", "torch.float16", str(half.dtype), words)
        differing = list(_compare(case, name, f"{setting}, {occasion}", rows, (x0, noise, got)))
        yield from differing
        if case.path.curve is not None and len(chosen) == len(rows) and not differing:
            yield from _check_shapes(case, name, f"{setting}, {occasion}", rows)
        if hasattr(case.scheduler, "get_velocity") and occasion == "before a run":
            yield from _check_velocity(case, setting, x0, noise, rows)


def check_training_timesteps(subject: Subject, setting: str) -> Iterator[Finding]:
    """Check that noise can be added at every whole timestep of the training schedule, as training draws them."""
    name, scheduler = noising_of(subject.base), subject.fresh()
    own = getattr(scheduler, "timesteps", None)
    by_sigma = subject.family is not None and subject.family.own is not None  # its timesteps are logarithms
    if name is None or not isinstance(own, torch.Tensor) or by_sigma:
        return
    whole = torch.unique(own.double().round()[(own.double() - own.double().round()).abs() < 1e-3])
    whole = whole.to(own.dtype if name == "scale_noise" else torch.int64)
    lost = list[float]()
    for some in (whole, *whole.split(1)):
        data = torch.ones(len(some), 1)
        try:
            noised(scheduler, data, data, some)
        except ValueError:  # the class refuses to add noise before a run
            return
        except (IndexError, RuntimeError):
            lost += some.tolist() if len(some) == 1 else []
        else:
            if len(some) == len(whole):
                return
    if lost:
        found = f"IndexError at {len(lost)}, the first of them {lost[0]:g}"
        words = f"{name} does not find whole timesteps, as training draws them, in its rounded schedule."
        yield Finding(f"{name} of whole timesteps", setting, f"{len(whole)} noise levels", found, words)


def _check_shapes(case: Case, name: str, label: str, rows: list[int]) -> Iterator[Finding]:
    """Check packed latents of transformers (three dimensions) and videos (five)."""
    rng = np.random.default_rng(8)
    for shape in ((len(rows), 4, 5), (len(rows), 2, 3, 2, 2)):
        x0, noise = rng.standard_normal((2, *shape))
        try:
            got = to_numpy(
                noised(case.scheduler, torch.from_numpy(x0), torch.from_numpy(noise), case.scheduler.timesteps[rows])
            )
        except RuntimeError as error:
            words = f"{name} does not take data of {len(shape)} dimensions."
            yield Finding(name, label, "noised data", str(error), words)
            return
        yield from _compare(case, name, f"{label}, {len(shape)} dimensions", rows, (x0, noise, got))


def _compare(
    case: Case, name: str, label: str, rows: list[int], arrays: tuple[Array, Array, Array]
) -> Iterator[Finding]:
    for row, (index, x0, noise, got) in enumerate(zip(rows, *arrays, strict=True)):
        level = case.level(index)
        wanted = level.a * x0 + level.b * noise
        if not float(np.abs(got - wanted).max()) <= 64 * 2**-24 * (1 + level.b) * 4:
            timestep = float(case.scheduler.timesteps[rows[row]])
            words = f"At timestep {timestep:g} noise is added with factors other than the marginal's."
            yield Finding(name, label, f"{wanted.flat[0]:.8g}", f"{got.flat[0]:.8g}", words)
            return


def _check_velocity(case: Case, setting: str, x0: Array, noise: Array, rows: list[int]) -> Iterator[Finding]:
    """Check v = a noise - b x0 (Salimans and Ho 2022, appendix D)."""
    chosen = case.scheduler.timesteps[rows]
    got = to_numpy(case.scheduler.get_velocity(torch.from_numpy(x0), torch.from_numpy(noise), chosen))
    for row, index in enumerate(rows):
        level = case.path.levels[index]
        wanted = level.a * noise[row] - level.b * x0[row]
        if not np.abs(got[row] - wanted).max() <= 256 * 2**-24 * 4:
            words = f"At timestep {float(chosen[row]):g} the velocity is not a noise - b x0."
            expected = f"{wanted.flat[0]:.8g}"
            yield Finding("get_velocity", setting, expected, f"{got[row].flat[0]:.8g}", words)
            return
