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
        """Return the stopwatch of a device: CUDA events and the host clock on a GPU, the host clock alone elsewhere."""
        if device.type == "cuda":
            return cls(
                time.perf_counter,
                lambda: torch.cuda.synchronize(device),
                lambda: torch.cuda.Event(enable_timing=True),  # type: ignore[no-untyped-call]
                "perf_counter and CUDA events",
            )
        return cls(time.perf_counter, lambda: None, None, "perf_counter")
