"""Latency of a pipeline call and of its parts, every raw sample kept.

Warm-up runs the very call that is measured, at its own step count. Parts are timed by hooks on the modules, in calls
of their own, because a hook that waits for the GPU slows the call it watches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from bench.records import Latency


@dataclass(frozen=True)
class Stopwatch:
    """A host clock, a way to wait for the device, and device events where the device has them."""

    now_s: Callable[[], float]
    synchronise: Callable[[], None]
    event: Callable[[], Any] | None
    name: str

    @classmethod
    def of(cls, device: torch.device) -> Stopwatch:
        """The stopwatch of a device: CUDA events beside the host clock on a GPU, the host clock alone elsewhere."""
        if device.type == "cuda":
            return cls(
                time.perf_counter,
                lambda: torch.cuda.synchronize(device),
                lambda: torch.cuda.Event(enable_timing=True),  # type: ignore[no-untyped-call]
                "perf_counter and CUDA events",
            )
        return cls(time.perf_counter, lambda: None, None, "perf_counter")


def measure_latency(
    call: Callable[[], object],
    parts: Mapping[str, torch.nn.Module],
    stopwatch: Stopwatch,
    batch_size: int,
    repeats: int,
    warmup: int,
) -> Latency:
    """Time `call` `repeats` times whole, then `repeats` times in parts; `parts` has the keys of `PARTS`.

    Parts are seconds per call, summed over the module's uses within the call (0.0 for a module that is not used).
    """
    for _ in range(warmup):
        call()
    whole, device = [], []
    for _ in range(repeats):
        begun, ended = (stopwatch.event(), stopwatch.event()) if stopwatch.event else (None, None)
        stopwatch.synchronise()
        start = stopwatch.now_s()
        if begun is not None:
            begun.record()
        call()
        if ended is not None:
            ended.record()
        stopwatch.synchronise()
        whole.append(stopwatch.now_s() - start)
        if begun is not None:
            device.append(begun.elapsed_time(ended) / 1000)
    samples: dict[str, list[float]] = {name: [] for name in PARTS}
    for _ in range(repeats):
        with ExitStack() as stack:
            timers = {name: stack.enter_context(_ModuleTimer(module, stopwatch)) for name, module in parts.items()}
            call()
        for name in PARTS:
            samples[name].append(timers[name].total_s if name in timers else 0.0)
    return Latency(
        batch_size=batch_size,
        warmup=warmup,
        clock=stopwatch.name,
        call_s=tuple(whole),
        text_encoder_s=tuple(samples["text_encoder"]),
        denoiser_s=tuple(samples["denoiser"]),
        vae_s=tuple(samples["vae"]),
        device_s=tuple(device) if stopwatch.event else None,
    )


PARTS = ("text_encoder", "denoiser", "vae")


class _ModuleTimer:
    """Sums the time that a module's forward calls take while the context is open."""

    def __init__(self, module: torch.nn.Module, stopwatch: Stopwatch) -> None:
        self.total_s = 0.0
        self._module, self._stopwatch = module, stopwatch
        self._start_s = 0.0

    def __enter__(self) -> _ModuleTimer:
        self._hooks = [
            self._module.register_forward_pre_hook(self._begin),
            self._module.register_forward_hook(self._end),
        ]
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
