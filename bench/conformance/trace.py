"""One sampling run with an ideal model, with every call and every random number recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from bench.conformance.noise import Array, Draws
from bench.generate.schedulers import parameters_of

_Model = Callable[[Array, int, float], Array]
_BATCHED = ("state", "model_input", "output", "next_state")
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

    def shares(self, count: int) -> list[Trace]:
        """Return the runs of equal shares of the batch, for a run that drew no noise."""

        def share(x: Array, number: int) -> Array:
            size = len(x) // count
            return x[number * size : (number + 1) * size]

        def part(call: Call, number: int) -> Call:
            kept: dict[str, Any] = {name: share(getattr(call, name), number) for name in _BATCHED}
            return replace(call, **kept, data=None if call.data is None else share(call.data, number))

        return [
            Trace(tuple(part(call, number) for call in self.calls), share(self.final, number))
            for number in range(count)
        ]


class UnknownDraws(Exception):  # noqa: N818
    """A call drew something else from its generator than standard normal numbers in the shape of the state."""


class DrawRecorder(TorchFunctionMode):
    """Records every random tensor that torch makes inside the context, and whether `generator` made it.

    It sees every call of torch, which takes about as long as the calls themselves. `RepeatedDraws` does not.
    """

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


class RepeatedDraws:
    """Draws the noise of a call a second time, from the state that `generator` had before it.

    Leaving the context raises UnknownDraws where the generator is not then in the state in which the call left it, as
    after other numbers than one normal number for each of the state, in the state's dtype or in float32.
    """

    stray = 0

    def __init__(self, generator: torch.Generator, state: torch.Tensor) -> None:
        self.generator, self.state = generator, state
        self.draws: list[Array] = []

    def __enter__(self) -> None:
        self.before = self.generator.get_state()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        after = self.generator.get_state()
        if kind is not None or torch.equal(self.before, after):
            return
        twin, shape = torch.Generator(), self.state.shape
        for dtype in dict.fromkeys((self.state.dtype, torch.float32)):
            twin.set_state(self.before)
            self.draws = [to_numpy(torch.randn(shape, generator=twin, dtype=dtype))]
            if torch.equal(twin.get_state(), after):
                return
        raise UnknownDraws


class NoDraws:
    """Looks for no draws: those of a run that is deterministic by its settings."""

    stray, draws = 0, ()

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


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
    draws: Literal["recorded", "repeated", "none"] = "recorded"  # how a call's noise is found; recording is slow
    pairs: bool = False  # let `step` return a tuple rather than an object

    def sample(self, scheduler: Any, model: _Model, start: Array, count: int | None = None) -> Trace:
        """Run the loop of a pipeline over `count` or all timesteps (from `begin` on); set_timesteps was called before.

        `model` gets (input, index of the step, timestep) and returns float64, whatever the run's dtype is. Raises
        UnknownDraws where noise is to be drawn again and cannot.
        """
        generator = torch.Generator().manual_seed(self.seed)
        accepted = _accepted(type(scheduler))  # type: ignore[arg-type]
        arguments = dict(self.arguments)
        if "generator" in accepted:
            arguments["generator"] = generator
        if self.begin is not None and self.told:
            scheduler.set_begin_index(self.begin)
        state = torch.from_numpy(start.copy()).to(self.dtype)
        calls: list[Call] = []
        recorded = self.draws == "recorded"
        numpy_state = _global_numpy_state() if recorded else b""
        for index, timestep in enumerate(scheduler.timesteps[:count]):
            if index < (self.begin or 0):
                continue
            seen = scaled_input(scheduler, state, timestep)
            output = torch.from_numpy(np.array(model(to_numpy(seen), index, float(timestep)))).to(self.dtype)
            before = to_numpy(state)
            noise = self._noise(generator, state)
            with noise:
                if self.pairs:
                    state, data = scheduler.step(output, timestep, state, **arguments, return_dict=False)[0], None
                else:
                    result = scheduler.step(output, timestep, state, **arguments)
                    state, data = result.prev_sample, getattr(result, "pred_original_sample", None)
            numpy_before, numpy_state = numpy_state, _global_numpy_state() if recorded else b""
            stray = noise.stray + int(numpy_before != numpy_state)
            calls.append(
                Call(
                    *(index, float(timestep), before, to_numpy(seen), to_numpy(output), to_numpy(state)),
                    draws=tuple(noise.draws),
                    stray_draws=stray,
                    data=None if data is None else to_numpy(data),
                )
            )
        return Trace(tuple(calls), to_numpy(state))

    def _noise(self, generator: torch.Generator, state: torch.Tensor) -> DrawRecorder | RepeatedDraws | NoDraws:
        if self.draws == "recorded":
            return DrawRecorder(generator)
        return RepeatedDraws(generator, state) if self.draws == "repeated" else NoDraws()


@lru_cache(maxsize=32)
def _accepted(cls: type[Any]) -> tuple[str, ...]:
    return parameters_of(cls, "step")


def scaled_input(scheduler: Any, state: torch.Tensor, timestep: Any) -> torch.Tensor:
    """Return what the model sees; flow schedulers do not scale it."""
    scale = getattr(scheduler, "scale_model_input", None)
    return state if scale is None else scale(state, timestep)


def to_numpy(tensor: torch.Tensor) -> Array:
    """Return a float64 copy."""
    return np.array(tensor.detach().to(torch.float64).cpu().numpy(), dtype=np.float64)


def numbers_of(values: Any) -> list[float]:
    """Return the numbers of a tensor, an array or a list; of a tensor ten times as fast as one by one."""
    return [float(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def _global_numpy_state() -> bytes:
    """Return the state of numpy's global generator as bytes, to detect draws from it."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return bytes(state[1].tobytes()) + bytes(str(state[2:]), "ascii")
