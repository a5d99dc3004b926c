"""How fast a machine is at the moment: a fixed piece of work, timed beside what is measured.

Two latencies of one machine differ as well where it was busy, throttled, or its host was; this work then takes longer,
too, whatever the code that is judged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.measure.latency import Stopwatch

SAMPLES = 5
WIDTH = {"cpu": 768, "cuda": 4096}
SMALL = 300
"""How many operations of next to no work, which cost what a call costs."""


def make_yardstick(device: torch.device, stopwatch: Stopwatch) -> Callable[[], tuple[float, ...]]:
    """Return what times the work `SAMPLES` times: seconds each. It does once more first, which does not count.

    The work is a product of two square matrices, float32, a softmax of the result, and many small sums.
    """
    width = WIDTH.get(device.type, WIDTH["cpu"])
    matrix, number = torch.full((width, width), 1 / width, device=device), torch.zeros(1, device=device)

    def measure() -> tuple[float, ...]:
        seconds = []
        for _ in range(SAMPLES + 1):
            stopwatch.synchronise()
            begun = stopwatch.now_s()
            torch.softmax(torch.mm(matrix, matrix), dim=1)
            stopwatch.synchronise()  # else a GPU hides behind it what calls cost the host
            for _ in range(SMALL):
                number.add_(1.0)
            stopwatch.synchronise()
            seconds.append(stopwatch.now_s() - begun)
        return tuple(seconds[1:])

    return measure
