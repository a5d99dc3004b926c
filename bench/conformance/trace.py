"""One sampling run with an ideal model, with every call and every random number recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from bench.conformance.noise import Array, Draws
from bench.generate.schedulers import parameters_of

_Model = Callable[[Array, int, float], Array]
RANDOM = {
    *(torch.randn, torch.randn_like, torch.rand, torch.rand_like, torch.normal, torch.bernoulli, torch.randint),
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.exponential_, torch.Tensor.cauchy_),
}


@dataclass(frozen=True)
class Call:
    """One call of `step`: the input and output of the model, the state before and after, the noise that was drawn."""

    index: int
    timestep: float
    state: Array
    model_input: Array
    output: Array
    next_state: Array
    draws: tuple[Array, ...]
    stray_draws: int  # random numbers from another source than the given generator
    data: Array | None = None  # the x0 that the scheduler reports, where it reports one


@dataclass(frozen=True)
class Trace:
    """The calls of a run, in order, and its final state."""

    calls: tuple[Call, ...]
    final: Array


class DrawRecorder(TorchFunctionMode):
    """Records every random tensor that torch makes inside the context, and whether `generator` made it."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator
        self.draws: list[Array] = []
        self.stray = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        if func in RANDOM:
            if kwargs.get("generator") is self.generator:
                self.draws.append(to_numpy(result))
            else:
                self.stray += 1
        return result


class GivenDraws(TorchFunctionMode):
    """Replaces the normal numbers that torch draws inside the context by given ones."""

    def __init__(self, noise: Draws) -> None:
        super().__init__()
        self.noise, self.count = noise, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.randn, torch.randn_like, torch.normal):
            self.count += 1
            return torch.from_numpy(self.noise.draw(self.count - 1)).to(result.dtype).reshape(result.shape)
        return result


@dataclass
class TracedRun:
    """Options of a run: dtype, the seed of its generator, and further arguments of `step` such as eta."""

    dtype: torch.dtype = torch.float64
    seed: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    begin: int | None = None
    told: bool = True  # set the begin index; otherwise the scheduler has to find it by the timestep
    record: bool = True  # record random draws and look for stray ones, which slows every torch call down
    pairs: bool = False  # let `step` return a tuple rather than an object

    def sample(self, scheduler: Any, model: _Model, start: Array, count: int | None = None) -> Trace:
        """Run the loop of a pipeline over `count` or all timesteps (from `begin` on); set_timesteps was called before.

        `model` gets (input, index of the step, timestep) and returns float64, whatever the run's dtype is.
        """
        generator = torch.Generator().manual_seed(self.seed)
        accepted = parameters_of(type(scheduler), "step")
        arguments = dict(self.arguments)
        if "generator" in accepted:
            arguments["generator"] = generator
        if self.begin is not None and self.told:
            scheduler.set_begin_index(self.begin)
        state = torch.from_numpy(start.copy()).to(self.dtype)
        calls: list[Call] = []
        numpy_state = _global_numpy_state() if self.record else b""
        for index, timestep in enumerate(scheduler.timesteps[:count]):
            if index < (self.begin or 0):
                continue
            seen = scaled_input(scheduler, state, timestep)
            output = torch.from_numpy(np.array(model(to_numpy(seen), index, float(timestep)))).to(self.dtype)
            before = to_numpy(state)
            recorder = DrawRecorder(generator)
            with recorder if self.record else nullcontext():
                if self.pairs:
                    state, data = scheduler.step(output, timestep, state, **arguments, return_dict=False)[0], None
                else:
                    result = scheduler.step(output, timestep, state, **arguments)
                    state, data = result.prev_sample, getattr(result, "pred_original_sample", None)
            numpy_before, numpy_state = numpy_state, _global_numpy_state() if self.record else b""
            stray = recorder.stray + int(numpy_before != numpy_state)
            calls.append(
                Call(
                    *(index, float(timestep), before, to_numpy(seen), to_numpy(output), to_numpy(state)),
                    draws=tuple(recorder.draws),
                    stray_draws=stray,
                    data=None if data is None else to_numpy(data),
                )
            )
        return Trace(tuple(calls), to_numpy(state))


def scaled_input(scheduler: Any, state: torch.Tensor, timestep: Any) -> torch.Tensor:
    """Return what the model sees; flow schedulers do not scale it."""
    scale = getattr(scheduler, "scale_model_input", None)
    return state if scale is None else scale(state, timestep)


def to_numpy(tensor: torch.Tensor) -> Array:
    """Return a float64 copy."""
    return np.array(tensor.detach().to(torch.float64).cpu().numpy(), dtype=np.float64)


def _global_numpy_state() -> bytes:
    """Return the state of numpy's global generator as bytes, to detect draws from it."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return bytes(state[1].tobytes()) + bytes(str(state[2:]), "ascii")
