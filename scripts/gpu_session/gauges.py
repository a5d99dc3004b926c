"""Clocks, power, temperature, throttling and energy of a GPU around a piece of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bench.measure.energy import energy_counter
from bench.measure.environment import gpu_of


@contextmanager
def watched(device: str) -> Iterator[dict[str, Any]]:
    """Yield what is filled when the block ends: `joules` of the board, and its state then; empty without NVML."""
    found: dict[str, Any] = {}
    joules = energy_counter(device)
    before = joules() if joules else 0.0
    yield found
    if joules:
        found["joules"] = joules() - before
    found.update(state_of(device))


def state_of(device: str) -> dict[str, Any]:
    """Return clocks (MHz), power (W), temperature (°C) and the reasons for lower clocks, as NVML reads them now."""
    gpu, found = gpu_of(device), dict[str, Any]()
    with suppress(Exception):  # NVML raises different errors for each way of being absent
        import pynvml

        if gpu is None:
            return found
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu["uuid"])
        reads = {
            "sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "most_sm_mhz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "memory_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            "throttle_reasons": lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        }
        for name, read in reads.items():
            with suppress(pynvml.NVMLError):  # not every GPU has every sensor
                found[name] = read()
    return found
