"""Peak memory of one untimed call on a GPU. Values that the machine cannot report are None, never 0."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol

import torch

from bench.records.record import Memory

POLL_S = 0.005


class Gauge(Protocol):
    """Bytes currently in use, or None where unknown."""

    def __call__(self) -> int | None: ...


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
    driver. `excluded_bytes` are on the GPU all the time and do not belong to the call; they are subtracted from its
    peaks.
    """
    cuda = device.type == "cuda"
    if cuda:
        process_bytes = process_bytes or NvmlGauge(device, own_process=True)
        device_bytes = device_bytes or NvmlGauge(device, own_process=False)
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    gauges: dict[str, Gauge] = {}
    if process_bytes:
        gauges["process"] = process_bytes
    if device_bytes:
        gauges["device"] = device_bytes
    with PeakPoller(gauges) as poller:
        call()
        if cuda:
            torch.cuda.synchronize(device)

    def own_part(peak: int | None) -> int | None:
        return None if peak is None else max(0, peak - excluded_bytes)

    return Memory(
        batch_size=batch_size,
        allocated_bytes=own_part(torch.cuda.max_memory_allocated(device) if cuda else None),
        reserved_bytes=own_part(torch.cuda.max_memory_reserved(device) if cuda else None),
        process_bytes=own_part(poller.peaks.get("process")),
        device_bytes=own_part(poller.peaks.get("device")),
        excluded_bytes=excluded_bytes,
    )


class PeakPoller:
    """Polls gauges from a thread while the context is open, and once at each end.

    A gauge that fails once has no peak: it may have missed the highest moment, which would give a wrong number.
    """

    def __init__(self, gauges: dict[str, Gauge], period_s: float = POLL_S) -> None:
        self.peaks: dict[str, int] = {}
        self._gauges, self._period_s = gauges, period_s
        self._broken: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> PeakPoller:
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._read()
        for name in self._broken:
            self.peaks.pop(name, None)

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._read()

    def _read(self) -> None:
        for name, gauge in self._gauges.items():
            try:
                value = gauge()
            except Exception:  # NVML raises different errors for each way of failing
                self._broken.add(name)
                continue
            if value is not None:
                self.peaks[name] = max(self.peaks.get(name, 0), value)


class NvmlGauge:
    """Device memory in use as reported by NVML: by this process, or by everything on the device."""

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
        if not self._own_process:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle, self._nvml.nvmlMemory_v2).used)
        for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle):
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        return None
