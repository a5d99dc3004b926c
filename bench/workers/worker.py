"""A worker process: takes part in a launch, which it reads from the store.

    python -m bench.workers.worker LOCATION LAUNCH NAME [INDEX]

It may be started on any machine that sees the store and has the same models. SIGTERM and SIGUSR1 make it finish its
batch, let go and end with code 75, after which another may go on.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bench.experiment.config import check_settings
from bench.experiment.executors import Common
from bench.records.cell import Cell
from bench.records.errors import BenchError
from bench.records.record import Record
from bench.store.store import Store
from bench.workers.launch import Launch, Reporter
from bench.workers.leases import Leases
from bench.workers.loop import Loop, Stopped, Watchdog, Work

if TYPE_CHECKING:
    from types import FrameType

DONE, BAD, STOPPED, HUNG = 0, 2, 75, 76
"""Exit codes: nothing is left, it cannot work here, it was asked to stop, it was at one cell for too long."""
REAL_WORK = "bench.execute.job:make_runner_for"


class MakeRunner(Protocol):
    """Makes what a launch asks for, with all that it needs, and names the cells it is about."""

    def __call__(
        self, launch: Launch, store: Store, advance: Callable[[int], object], check: Callable[[], object]
    ) -> tuple[Work, Sequence[Cell]]:
        """The work and its cells."""
        ...


@dataclass
class Worker:
    """One worker of a launch, in whatever process it is."""

    store: Store
    launch: Launch
    common: Common
    name: str
    device: str
    stop: threading.Event
    watch: bool = False
    """Whether this process may be ended when a cell hangs."""

    def work_through(
        self, make_runner_for: MakeRunner, advance: Callable[[int], object], first: int = 0
    ) -> Iterator[Record]:
        """Yield the record of each cell that it ended, until none is left. Raises Stopped."""
        reporter = Reporter(self.store.files, self.launch.name, self.name, self.device)
        leases = Leases(self.store.files, self.name, self.common.lease_s)

        def count(images: int) -> None:
            reporter.advance(images)
            advance(images)

        with reporter.saying(), leases.kept_alive():
            work, cells = make_runner_for(self.launch, self.store, count, self._check)
            dog = (
                Watchdog(self.common.cell_timeout_s, self._on_timeout(work))
                if self.watch and self.common.cell_timeout_s
                else None
            )

            def enter(state: str, cell: Cell | None) -> None:
                reporter.enter(state, cell)
                if dog:
                    dog.enter(state, cell)

            loop = Loop(work, self.store, leases, self.launch.name, self.common.max_attempts, self.stop.is_set, enter)
            try:
                yield from loop.run(cells, first)
                reporter.enter("done", None)
            except BaseException:
                reporter.enter("stopped", None)
                raise
            finally:
                if dog:
                    dog.stop()

    def _check(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def _on_timeout(self, work: Work) -> Callable[[Cell], None]:
        """Make a hung cell's record from what all threads are at, and end the process: a thread cannot be ended."""

        def on_timeout(cell: Cell) -> None:
            stacks = stacks_of_all_threads()
            error = HungError(f"it took longer than executor.cell_timeout_s={self.common.cell_timeout_s:g} s", stacks)
            try:
                work.fail(cell, error)
            finally:
                os._exit(HUNG)

        return on_timeout


class HungError(BenchError):
    """A cell that took too long, with the stacks of all threads at that moment."""

    def __init__(self, message: str, stacks: str) -> None:
        super().__init__(message)
        self.add_note(stacks)


def stacks_of_all_threads() -> str:
    """Where every thread of this process is, as faulthandler says it."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


@contextmanager
def signals_stop(stop: threading.Event) -> Iterator[None]:
    """Within the block, what a cluster sends before it takes a machine away sets `stop`."""
    names = ("SIGTERM", "SIGUSR1")
    chosen = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before: dict[Any, Any] = {}

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, on_signal) for number in chosen}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def import_work(path: str) -> MakeRunner:
    """The function that a launcher named, as module:function."""
    module, _, name = path.partition(":")
    function: MakeRunner = getattr(importlib.import_module(module), name)
    return function


def take_part(location: str, launch_name: str, name: str, first: int = 0, work: str = REAL_WORK) -> int:
    """Be a worker of a launch until nothing is left; returns the exit code. Raises BenchError where it cannot work."""
    launch = Launch.load(Store(location, writable=False).files, launch_name)
    common = check_settings(Common, {k: launch.settings["executor"][k] for k in Common.__dataclass_fields__})
    store = Store(location, store_retry_s=common.store_retry_s)
    stop = threading.Event()
    device = str(launch.settings.get("device", "cpu"))
    worker = Worker(store, launch, common, name, device, stop, watch=True)
    with signals_stop(stop):
        try:
            for record in worker.work_through(import_work(work), lambda _: None, first):
                print(f"{record.cell.label}: {record.status}", flush=True)
        except Stopped:
            return STOPPED
    return DONE


def main() -> int:
    """The worker process."""
    location, launch, name, *rest = sys.argv[1:]
    first, work = int(rest[0]) if rest else 0, rest[1] if len(rest) > 1 else REAL_WORK
    try:
        return take_part(location, launch, name, first, work)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD


if __name__ == "__main__":
    sys.exit(main())
