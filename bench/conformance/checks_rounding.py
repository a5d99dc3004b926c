"""Lower precision: every call from the float64 run's own state, with the same noise, to within its own rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from bench.conformance.checks_steps import ROUNDINGS, place, run_case
from bench.conformance.noise import Array
from bench.conformance.report import Finding
from bench.conformance.subject import Case, Subject, step_arguments
from bench.conformance.trace import RANDOM, Call, Trace, scaled_input, to_numpy

UNITS = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
LARGEST = {"float16": 65504.0}
_MEMORY = 4  # calls whose values a multistep method uses
OPERATIONS = 32  # casts of the inputs and of the result, and a handful of terms between them


class SameNoise(TorchFunctionMode):
    """Makes torch return given numbers for its random ones, in the dtype and shape that it was asked for."""

    def __init__(self, draws: tuple[Array, ...]) -> None:
        super().__init__()
        self.draws = list(draws)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in RANDOM and self.draws and isinstance(result, torch.Tensor):
            result.copy_(torch.from_numpy(self.draws.pop(0)).reshape(result.shape))
        return result


def check_precision(subject: Subject, setting: str, steps: int, eta: float | None) -> Iterator[Finding]:
    """Check a run as configured in float32, bfloat16 and float16."""
    exact = run_case(subject, subject.prepare(steps), eta)
    for name in UNITS:
        label, where = f"{setting}, {name}", place(steps, eta)
        yield from check_rounding(subject, subject.prepare(steps), exact, name, label, where, eta)


def check_rounding(
    subject: Subject,
    case: Case,
    exact: Trace,
    name: str,
    setting: str,
    where: str,
    eta: float | None,
    given: Mapping[str, Any] | None = None,
) -> Iterator[Finding]:
    """Check each step of a run in a dtype; the first that differs by more than rounding explains is the finding.

    `given` are further arguments of step, those of the exact run. The state must keep its dtype, since the next model
    call expects it.
    """
    dtype: torch.dtype = getattr(torch, name)
    method = case.method(eta)
    arguments: dict[str, Any] = {**step_arguments(subject, eta), **(given or {})}
    if "generator" in subject.step_parameters:
        arguments["generator"] = torch.Generator().manual_seed(0)
    places, sizes, changed = ((f"{name}, {where}", math.inf),), list[float](), False
    for call, timestep in zip(exact.calls, case.timesteps, strict=True):
        state, output = (torch.from_numpy(x).to(dtype) for x in (call.state, call.output))
        seen = scaled_input(case.scheduler, state, timestep)
        if seen.dtype != dtype:
            words = f"scale_model_input changes {name} to another dtype, which the model does not expect."
            yield Finding("dtype", f"{setting}, model input", name, str(seen.dtype), words, places)
            return
        with SameNoise(call.draws) if call.draws else nullcontext():
            result = case.scheduler.step(output, timestep, state, **arguments).prev_sample
        if result.dtype != dtype and not changed:
            words = f"The state changes from {name} to another dtype, which the next model call does not expect."
            yield Finding("dtype", setting, name, str(result.dtype), words, places)
            changed = True  # its values are judged all the same
        size = _size(case, call, method)
        sizes.append(size * reach(case, call.index))
        history = max(sizes[-_MEMORY:]) if _remembers(case) else size
        if history > LARGEST.get(name, math.inf) / 16:
            return  # the values themselves are beyond the range of the dtype
        gap = float(np.abs(to_numpy(result) - call.next_state).max())
        limit = (OPERATIONS * UNITS[name] + ROUNDINGS * 2.0**-24) * history
        if not gap <= limit:
            words = f"Call {call.index} in {name} is {gap:.3g} from float64, where rounding explains {limit:.1g}."
            at = ((places[0][0], gap / limit),)
            yield Finding("precision", setting, f"below {limit:.2g}", f"{gap:.3g}", words, at)
            return


def _remembers(case: Case) -> bool:
    """Whether a step uses values of earlier calls, and with them their roundings; a one-step method does not."""
    return case.family is None or case.family.declared_order != 1 or case.family.method is None


def _size(case: Case, call: Call, method: Any) -> float:
    """Return the largest term of a step: that of the published method, or what the data reads from state and output."""
    size = float(np.abs(call.state).max() + sum(float(np.abs(draw).max()) for draw in call.draws))
    if method is not None:
        return size + float(method.advance(call.index, call.state, call.output).size)
    level = case.path.levels[call.index]
    read = (np.abs(call.state).max() + np.abs(call.output).max()) * (1 + case.level(call.index).b)
    return size + float(read) * max(1.0, 1 / max(level.a, 1e-6) if not case.rescaled else 1.0)


def reach(case: Case, index: int) -> float:
    """Return the amplification of differences of past values: 1 + the ratio of this step's width to the last one's."""
    if index == 0:
        return 1.0
    widths = [case.path.levels[k + 1].lam - case.path.levels[k].lam for k in (index - 1, index)]
    if math.isinf(widths[1]) or math.isinf(widths[0]) or widths[0] == 0:
        return 1.0
    return 1.0 + abs(widths[1] / widths[0])
