"""Host syncs: how often a scheduler makes the host wait for the device.

A step that reads a value from the device, for example to index a table on the host with a timestep, waits until all
queued work is done; the device then idles until the host has queued more.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch

WORDS = "synchronizing CUDA operation"
"""The text of PyTorch's warning for an operation that waits."""


def count_waits(call: Callable[[], object], scheduler: Any) -> int:
    """Return how many operations in `scheduler.step` wait for the device in one `call` (PyTorch's sync debug mode)."""
    waits = 0
    step = scheduler.step

    @functools.wraps(step)  # pipelines read the signature
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal waits
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                return step(*args, **kwargs)
            finally:
                torch.cuda.set_sync_debug_mode(before)
                waits += sum(WORDS in str(warning.message) for warning in heard)

    scheduler.step = watched
    try:
        call()
    finally:
        del scheduler.step  # uncovers the class's method
    return waits
