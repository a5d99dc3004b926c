"""Peak memory of one untimed call on a GPU. Values that the machine cannot report are None, never 0."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from bench.parallel import call_periodically
from bench.records.record import Memory

POLL_S = 0.005
Gauge = Callable[[], int | None]
"""Bytes currently in use, or None where unknown."""


def measure_memory(
    call: Callable[[], object],
    device: torch.device,
    batch_size: int,
    process_bytes: Gauge | None = None,
    device_bytes: Gauge | None = None,
    excluded_bytes: int = 0,
) -> Memory:
    """Run `call` once and return its peaks.

    `allocated` and `reserved` come from PyTorch's allocator; the process's and the whole device's use are polled from
    NVML (or from the given gauges). The device's is the number of nvidia-smi, which excludes memory reserved by the
    driver; it is unknown where another process computes on the device too. `excluded_bytes` are on the GPU before the
    call and do not belong to it; they are subtracted from its peaks.
    """
    cuda = device.type == "cuda"
    if cuda:
        process_bytes = process_bytes or NvmlGauge(device, own_process=True)
        device_bytes = device_bytes or NvmlGauge(device, own_process=False)
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    given = {"process": process_bytes, "device": device_bytes}
    with poll_peaks({name: gauge for name, gauge in given.items() if gauge}) as peaks:
        call()
        if cuda:
            torch.cuda.synchronize(device)

    def own_part(peak: int | None) -> int | None:
        return None if peak is None else max(0, peak - excluded_bytes)

    return Memory(
        batch_size=batch_size,
        allocated_bytes=own_part(torch.cuda.max_memory_allocated(device) if cuda else None),
        reserved_bytes=own_part(torch.cuda.max_memory_reserved(device) if cuda else None),
        process_bytes=own_part(peaks.get("process")),
        device_bytes=own_part(peaks.get("device")),
        excluded_bytes=excluded_bytes,
    )


@contextmanager
def poll_peaks(gauges: Mapping[str, Gauge], period_s: float = POLL_S) -> Iterator[dict[str, int]]:
    """Poll gauges in a thread while the context is open, and once at each end; yields their peaks by name.

    A gauge that fails once has no peak: its highest moment may have been missed, which would give a wrong number.
    """
    peaks: dict[str, int] = {}
    broken: set[str] = set()

    def read() -> None:
        for name, gauge in gauges.items():
            try:
                value = gauge()
            except Exception:  # NVML raises different errors for each way of failing
                broken.add(name)
            else:
                if value is not None:
                    peaks[name] = max(peaks.get(name, 0), value)

    read()
    try:
        with call_periodically(period_s, read):
            yield peaks
    finally:
        read()
        for name in broken:
            peaks.pop(name, None)


class NvmlGauge:
    """Device memory in use as reported by NVML: by this process, or by everything on the device.

    The latter raises OtherProcesses where another process computes on the device, such as a second worker.
    """

    def __init__(self, device: torch.device, own_process: bool) -> None:
        self._own_process = own_process
        self._nvml: Any = None
        with suppress(Exception):  # no NVML or no driver: the gauge then gives None
            import pynvml

            pynvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
            self._nvml = pynvml

    def __call__(self) -> int | None:
        if self._nvml is None:
            return None
        processes: list[Any] = []
        with suppress(self._nvml.NVMLError):  # not every virtual machine shows its processes
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        if not self._own_process:
            if len(processes) > 1:
                raise OtherProcesses
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle, self._nvml.nvmlMemory_v2).used)
        for process in processes:
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        return None


class OtherProcesses(Exception):  # noqa: N818
    """Another process computes on the device, so that its use is not that of one call."""
