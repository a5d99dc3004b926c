"""The context that a worker passes to its loop and its work: progress, requests to stop, and the clock."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from bench.records.cell import Cell


class Stopped(Exception):  # noqa: N818
    """The worker was asked to stop; its leases were released."""


@dataclass
class WorkerContext:
    """The context of a worker that reports nothing, with the clock of this machine."""

    stop: threading.Event = field(default_factory=threading.Event)

    def progress(self, images: int) -> None:
        """Count images that were saved."""

    def entering(self, state: str, cell: Cell | None) -> None:
        """Note what the worker begins: "sampling", "finishing" or "waiting", and the cell that it is about."""

    def check_stop(self) -> None:
        """Raise Stopped if the worker was asked to stop."""
        if self.stop.is_set():
            raise Stopped

    def now_s(self) -> float:
        """Return the seconds of a monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Pause the worker."""
        time.sleep(seconds)
