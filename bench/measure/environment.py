"""Fingerprint of a machine and of its libraries.

Torch is imported only where NVML finds a GPU and CUDA's view of it is needed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from typing import Any

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "open-clip-torch", "numpy")


def library_versions() -> dict[str, str]:
    """Return versions of the libraries that compute images and features; "missing" for one that is not installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def nvidia_devices() -> list[dict[str, Any]]:
    """Return name, total memory, driver and UUID of each NVIDIA GPU; empty where there is no GPU or no driver.

    The order is NVML's, which differs from CUDA's; GPUs hidden by CUDA_VISIBLE_DEVICES are included.
    """
    with suppress(Exception):  # NVML raises different errors for each way of being absent
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [
            {
                "name": pynvml.nvmlDeviceGetName(handle),
                "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                "driver": pynvml.nvmlSystemGetDriverVersion(),
                "uuid": pynvml.nvmlDeviceGetUUID(handle),
            }
            for handle in handles
        ]
    return []


def cuda_devices() -> int:
    """Return how many GPUs torch can use: 0 for a CPU build, or where CUDA_VISIBLE_DEVICES hides them all."""
    if not nvidia_devices():
        return 0  # without torch, whose import takes seconds
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, each as a value of CUDA_VISIBLE_DEVICES for a child process.

    Numbers, UUIDs or names of MIG instances, as given. As in CUDA, entries after an invalid one are ignored.
    """
    count = cuda_devices()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count)] if given is None else [name.strip() for name in given.split(",")]
    return names[:count]


def gpu_of(device: str) -> dict[str, Any] | None:
    """Return name, total memory, driver and UUID of the GPU that torch calls `device`; None for a CPU."""
    if not device.startswith("cuda") or not cuda_devices():
        return None
    import torch

    found = torch.cuda.get_device_properties(torch.device(device))
    uuid = str(found.uuid).removeprefix("GPU-")
    same = [gpu for gpu in nvidia_devices() if gpu["uuid"].removeprefix("GPU-") == uuid]
    return same[0] if same else {"name": found.name, "memory_bytes": found.total_memory, "driver": None, "uuid": uuid}


def machine_fingerprint(device: str, threads: int | None = None) -> Mapping[str, Any]:
    """Return what a latency depends on besides the code: processor, GPU in use, threads, versions."""
    gpu = gpu_of(device)
    return {
        "device": device,
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "gpus": [] if gpu is None else [{name: value for name, value in gpu.items() if name != "uuid"}],
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
