"""Host clock and device events, by which calls and the reference workload are timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Stopwatch:
    """A host clock, a function that waits for the device, and device events where the device has them."""

    now_s: Callable[[], float]
    synchronise: Callable[[], None]
    event: Callable[[], Any] | None
    name: str

    @classmethod
    def of(cls, device: torch.device) -> Stopwatch:
        """Return the stopwatch of a device: CUDA events and the host clock on a GPU, the host clock alone elsewhere.

        Events are recorded on the stream of that device, whichever one is the current device of the thread.
        """
        if device.type == "cuda":
            return cls(
                time.perf_counter,
                lambda: torch.cuda.synchronize(device),
                lambda: _Event(device),
                "perf_counter and CUDA events",
            )
        return cls(time.perf_counter, lambda: None, None, "perf_counter")


class _Event:
    """A CUDA event on the current stream of one device; `record` of PyTorch's own takes that of the current device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def record(self) -> None:
        self._event.record(torch.cuda.current_stream(self._device))

    def elapsed_time(self, later: _Event) -> float:
        """Return the milliseconds until a later event."""
        return float(self._event.elapsed_time(later._event))
