"""Concurrent batches share a device: one samples at a time, and the time that each batch took of it is measured."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext


class DeviceQueue:
    """The queue of concurrent batches at a device, and how much of the device's time each batch took.

    Where one samples at a time, features of a batch are computed and its images saved while the next one samples.
    """

    def __init__(self, concurrent_batches: int, one_samples: bool) -> None:
        self.concurrent_batches, self._one_samples = concurrent_batches, one_samples
        self._slot, self._clock = threading.Lock(), threading.Lock()
        self._busy_until = 0.0

    def slot(self) -> AbstractContextManager[object]:
        """The right to give the device a batch; the next one is given while the device still works on it."""
        return self._slot if self._one_samples else nullcontext()

    def spent(self, begun: float, done: float) -> float:
        """Seconds that a batch took of the device: since the batch before it was done, or its share of all batches."""
        if not self._one_samples:
            return (done - begun) / self.concurrent_batches
        with self._clock:
            begun, self._busy_until = max(begun, self._busy_until), max(done, self._busy_until)
        return max(0.0, done - begun)
