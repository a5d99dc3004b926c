"""Energy that a GPU has used, by its own counter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bench.measure.environment import gpu_of


def energy_counter(device: str) -> Callable[[], float] | None:
    """Return a function that reads the joules a GPU has used since its driver was loaded; None where there is none.

    NVML counts on Volta and later GPUs, the whole board with whatever else runs on it, in millijoules that are updated
    some ten times a second.
    """
    gpu = gpu_of(device)
    with suppress(Exception):  # NVML raises different errors for each way of being absent
        import pynvml

        if gpu is None:
            return None
        pynvml.nvmlInit()
        handle: Any = pynvml.nvmlDeviceGetHandleByUUID(gpu["uuid"])
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # not supported by every GPU
        return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    return None
