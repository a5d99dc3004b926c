"""What a worker passes to everything that works for it: its progress, whether it shall stop, and the time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from bench.records.cell import Cell


class Stopped(Exception):  # noqa: N818
    """The worker was asked to stop; what it held was released."""


@dataclass
class WorkerContext:
    """The context of a worker that reports to nobody, by the clock of this machine."""

    stop: threading.Event = field(default_factory=threading.Event)

    def progress(self, images: int) -> None:
        """So many more images were saved."""

    def entering(self, state: str, cell: Cell | None) -> None:
        """The worker begins something: "sampling", "finishing", "waiting", "done" or "stopped"."""

    def check_stop(self) -> None:
        """Raise Stopped where the worker was asked to stop."""
        if self.stop.is_set():
            raise Stopped

    def now_s(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Do nothing for so long."""
        time.sleep(seconds)
