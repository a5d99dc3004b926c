"""The fingerprint of a machine and of the libraries on it. No torch is imported."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from typing import Any

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "open-clip-torch", "numpy")


def library_versions() -> dict[str, str]:
    """Versions of the libraries that compute images and features; "missing" for one that is not installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def nvidia_devices() -> list[dict[str, Any]]:
    """Name, total memory and driver of each NVIDIA GPU; empty where there is none, or no driver."""
    with suppress(Exception):  # NVML raises its own errors for every way of not being there
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [
            {
                "name": pynvml.nvmlDeviceGetName(handle),
                "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                "driver": pynvml.nvmlSystemGetDriverVersion(),
            }
            for handle in handles
        ]
    return []


def machine_fingerprint(device: str, threads: int | None = None) -> Mapping[str, Any]:
    """What a latency depends on besides the code: processor, GPU, threads, versions."""
    return {
        "device": device,
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "gpus": nvidia_devices() if device.startswith("cuda") else [],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": library_versions(),
    }


def _processor_name() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
