"""Latency of a pipeline call and of its parts, every raw sample kept.

Warm-up runs the same call that is measured, with its own step count. Parts are timed by hooks on the modules; on a GPU
in separate calls, alternating with the others, because a hook that waits for the device slows its call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from bench.measure.reference_workload import ReferenceWorkload
from bench.measure.stopwatch import Stopwatch
from bench.records.record import Latency

WORKLOAD_EVERY_S = 0.2
"""Minimum time of calls between two runs of the reference workload; the machine's speed changes within seconds."""


def measure_latency(
    call: Callable[[], object],
    parts: Mapping[str, Sequence[torch.nn.Module]],
    stopwatch: Stopwatch,
    batch_size: int,
    repeats: int,
    warmup: int,
    workload: ReferenceWorkload | None = None,
) -> Latency:
    """Time `call` `repeats` times, whole and in parts; `parts` maps names of `_PARTS` to modules.

    Where no waiting is needed (a CPU), one set of calls gives both. Parts are seconds per call, summed over the
    module's uses within the call (0.0 for a module that is not used). The reference workload is timed before, after,
    and in between whenever `WORKLOAD_EVERY_S` have passed: it evicts the caches of the next call.
    """
    in_one = stopwatch.event is None
    before, whole, split = [], [], []
    for _ in range(warmup):
        before.append(_time_call(call, {}, stopwatch).call_s)
    paces = _Paces(workload, stopwatch) if workload else None
    for _ in range(repeats):
        whole.append(_time_call(call, parts if in_one else {}, stopwatch))
        split.append(whole[-1] if in_one else _time_call(call, parts, stopwatch))
        if paces:
            paces.after_call(last=len(whole) == repeats)
    parts_s = {name: tuple(sample.parts_s.get(name, 0.0) for sample in split) for name in _PARTS}
    return Latency(
        batch_size=batch_size,
        warmup=warmup,
        clock=stopwatch.name,
        call_s=tuple(sample.call_s for sample in whole),
        text_encoder_s=parts_s["text_encoder"],
        denoiser_s=parts_s["denoiser"],
        vae_s=parts_s["vae"],
        device_s=None if in_one else tuple(sample.device_s for sample in whole),
        workload_s=tuple(paces.of_calls) if paces else (),
        warmup_s=tuple(before),
    )


class _Paces:
    """Times of the reference workload at each call: the mean of the runs before and after it."""

    def __init__(self, workload: ReferenceWorkload, stopwatch: Stopwatch) -> None:
        self.of_calls: list[float] = []
        self._workload, self._stopwatch = workload, stopwatch
        workload.time_s()  # discarded: caches are cold
        self._before_s, self._since_s, self._calls = workload.time_s(), stopwatch.now_s(), 0

    def after_call(self, last: bool) -> None:
        """Count a call; run the reference workload when it is due."""
        self._calls += 1
        if last or self._stopwatch.now_s() - self._since_s >= WORKLOAD_EVERY_S:
            after_s = self._workload.time_s()
            self.of_calls += [(self._before_s + after_s) / 2] * self._calls
            self._before_s, self._since_s, self._calls = after_s, self._stopwatch.now_s(), 0


@dataclass(frozen=True)
class _Sample:
    call_s: float
    device_s: float
    parts_s: Mapping[str, float]


def _time_call(
    call: Callable[[], object], parts: Mapping[str, Sequence[torch.nn.Module]], stopwatch: Stopwatch
) -> _Sample:
    with ExitStack() as stack:
        timers = {name: stack.enter_context(_ModuleTimer(modules, stopwatch)) for name, modules in parts.items()}
        events = (stopwatch.event(), stopwatch.event()) if stopwatch.event else None
        stopwatch.synchronise()
        start = stopwatch.now_s()
        if events:
            events[0].record()
        call()
        if events:
            events[1].record()
        stopwatch.synchronise()
        elapsed = stopwatch.now_s() - start
    device_s = events[0].elapsed_time(events[1]) / 1000 if events else 0.0
    return _Sample(elapsed, device_s, {name: timer.total_s for name, timer in timers.items()})


_PARTS = ("text_encoder", "denoiser", "vae")


class _ModuleTimer:
    """Sums the time of forward calls of modules, none nested in another, while the context is open."""

    def __init__(self, modules: Sequence[torch.nn.Module], stopwatch: Stopwatch) -> None:
        self.total_s = 0.0
        self._modules, self._stopwatch = modules, stopwatch
        self._start_s = 0.0

    def __enter__(self) -> _ModuleTimer:
        self._hooks = [module.register_forward_pre_hook(self._begin) for module in self._modules]
        self._hooks += [module.register_forward_hook(self._end) for module in self._modules]
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: object) -> None:
        self._stopwatch.synchronise()
        self._start_s = self._stopwatch.now_s()

    def _end(self, *_: object) -> None:
        self._stopwatch.synchronise()
        self.total_s += self._stopwatch.now_s() - self._start_s
