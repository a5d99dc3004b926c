"""Host syncs: how often a scheduler makes the host wait for the device.

A step that reads a value from the device, for example to index a table on the host with a timestep, waits until all
queued work is done; the device then idles until the host has queued more.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch

WORDS = "synchronizing CUDA operation"
"""The text of PyTorch's warning for an operation that waits."""


class HostSyncs:
    """Counts, while the context is open, the operations in `scheduler.step` that wait for the device.

    They are those of which PyTorch's sync debug mode warns.
    """

    def __init__(self, scheduler: Any) -> None:
        self.count, self._scheduler = 0, scheduler

    def __enter__(self) -> HostSyncs:
        step = self._scheduler.step

        @functools.wraps(step)  # pipelines read the signature
        def watched(*args: Any, **kwargs: Any) -> Any:
            before = torch.cuda.get_sync_debug_mode()
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    return step(*args, **kwargs)
                finally:
                    torch.cuda.set_sync_debug_mode(before)
                    self.count += sum(WORDS in str(warning.message) for warning in heard)

        self._scheduler.step = watched
        return self

    def __exit__(self, *exception: object) -> None:
        del self._scheduler.step  # uncovers the class's method
