"""How often a scheduler makes the host wait for the device.

A step that reads a value from the device, as indexing a table on the host with a timestep on the device does, waits
until all that was asked for before is done; the device then idles until the host has asked for more.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch

WORDS = "synchronizing CUDA operation"
"""What PyTorch's warning says of an operation that waits."""


def count_waits(call: Callable[[], object], scheduler: Any) -> int:
    """How many operations inside `scheduler.step` wait for the device in one `call`, by PyTorch's sync debug mode."""
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
        del scheduler.step  # the class's own shows again
    return waits
