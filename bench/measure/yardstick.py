"""How fast a machine is at the moment: a fixed piece of work, timed beside what is measured.

Two latencies of one machine differ as well where it was busy, throttled, or its host was; this work then takes longer,
too, whatever the code that is judged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.measure.latency import Stopwatch

SAMPLES = 5
WIDTH = {"cpu": 512, "cuda": 4096}


def make_yardstick(device: torch.device, stopwatch: Stopwatch) -> Callable[[], tuple[float, ...]]:
    """Return what times a product of two matrices, float32, `SAMPLES` times: seconds each, the first left out."""
    width = WIDTH.get(device.type, WIDTH["cpu"])
    matrix = torch.full((width, width), 1 / width, device=device)

    def measure() -> tuple[float, ...]:
        seconds = []
        for _ in range(SAMPLES + 1):
            stopwatch.synchronise()
            begun = stopwatch.now_s()
            torch.mm(matrix, matrix)
            stopwatch.synchronise()
            seconds.append(stopwatch.now_s() - begun)
        return tuple(seconds[1:])

    return measure
