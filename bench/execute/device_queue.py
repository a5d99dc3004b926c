"""Concurrent batches share a device: one samples at a time, and the time that each batch took of it is measured."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext


class DeviceQueue:
    """ConcurrentBatches' queue at a device, and how much of its time each batch took.

    Where one samples at a time, a lane looks at its images and saves them while the next one samples.
    """

    def __init__(self, concurrent_batches: int, one_samples: bool) -> None:
        self.concurrent_batches, self._one_samples = concurrent_batches, one_samples
        self._turn, self._clock = threading.Lock(), threading.Lock()
        self._busy_until = 0.0

    def slot(self) -> AbstractContextManager[object]:
        """A lane's turn to ask the device for a batch; the next one asks while the device is still at work on it."""
        return self._turn if self._one_samples else nullcontext()

    def spent(self, begun: float, done: float) -> float:
        """Seconds that a batch took of the device: of its time since the batch before was done, or a lane's share."""
        if not self._one_samples:
            return (done - begun) / self.concurrent_batches
        with self._clock:
            begun, self._busy_until = max(begun, self._busy_until), max(done, self._busy_until)
        return max(0.0, done - begun)
