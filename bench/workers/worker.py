"""A worker process: takes part in a launch, which it reads from the store.

    python -m bench.workers.worker LOCATION LAUNCH NAME [INDEX]

It may be started on any machine that has access to the store and the same models. SIGTERM and SIGUSR1 make it finish
its batch, release its leases and end with code 75; another worker may then continue.
"""

from __future__ import annotations

import faulthandler
import os
import pkgutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.experiment.config import check_settings
from bench.experiment.executors import Common
from bench.parallel import call_periodically
from bench.records.cell import Cell
from bench.records.errors import BenchError, CellError
from bench.records.record import Record
from bench.store.store import Store
from bench.workers.launch import Launch, Reporter
from bench.workers.leases import Leases
from bench.workers.loop import DeviceLost, Loop, Stopped, Work, WorkerContext

if TYPE_CHECKING:
    from bench.workers.progress import Bars

DONE, BAD, STOPPED, HUNG, LOST = 0, 2, 75, 76, 77
"""Exit codes: nothing is left, it cannot work here, it was asked to stop, a cell took too long, the GPU is
lost to it."""
REAL_WORK = "bench.execute.job:make_runner_for"
MakeRunner = Callable[[Launch, Store, WorkerContext], tuple[Work, Sequence[Cell]]]
"""Creates the work of a launch, with everything it needs, and its cells."""


@dataclass(kw_only=True)
class Worker(WorkerContext):
    """One worker of a launch, in any process."""

    store: Store
    launch: Launch
    common: Common
    name: str
    device: str
    may_exit: bool = False
    """Whether this process may be ended when a cell takes too long, which is impossible for a thread."""
    bars: Bars | None = None
    """Shows progress where there is one."""
    _work: Work | None = None
    _timer: threading.Timer | None = None

    def __post_init__(self) -> None:
        self._reporter = Reporter(self.store.files, self.launch.name, self.name, self.device)

    @contextmanager
    def records(self, make_runner: MakeRunner, first: int = 0) -> Iterator[Iterator[Record]]:
        """Yield the record of each cell that ends here, until none is left; iterating over them raises Stopped."""
        leases = Leases(self.store.files, self.name, self.common.lease_s)
        with self._reporter.saying(), call_periodically(self.common.lease_s / 4, leases.renew):
            self._work, cells = make_runner(self.launch, self.store, self)
            loop = Loop(self._work, self.store, leases, self.launch.name, self, self.common.max_attempts)
            try:
                yield loop.run(cells, first)
                self._reporter.enter("done", None)
            except BaseException:
                self._reporter.enter("stopped", None)
                raise
            finally:
                self._time(None)

    def progress(self, cell: Cell, images: int) -> None:
        """See `WorkerContext`; `status` shows it."""
        self._reporter.images += images
        if self.bars is not None:
            self.bars.advance(cell, images)

    def entering(self, state: str, cell: Cell | None) -> None:
        """See `WorkerContext`; `status` shows it, and the time limit `cell_timeout_s` of a cell starts."""
        self._reporter.enter(state, cell)
        if self.bars is not None:
            self.bars.enter(state, cell)
        self._time(cell)

    def _time(self, cell: Cell | None) -> None:
        """Start the time limit of a cell and end that of the previous one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if cell is not None and self.may_exit and self.common.cell_timeout_s:
            self._timer = threading.Timer(self.common.cell_timeout_s, self.on_timeout, (cell,))
            self._timer.daemon = True
            self._timer.start()

    def on_timeout(self, cell: Cell) -> None:
        """Record that a cell hung, with the stacks of all threads, and end the process."""
        error = CellError(f"it took longer than executor.cell_timeout_s={self.common.cell_timeout_s:g} s")
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            error.add_note(file.read())
        try:
            if self._work is not None:
                self._work.fail(cell, error)
        finally:
            os._exit(HUNG)


@contextmanager
def signals_stop(stop: threading.Event) -> Iterator[None]:
    """Let the signals that a cluster sends before it takes a machine away set `stop`, within the block."""
    chosen = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    is_main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in chosen} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take_part(location: str, launch_name: str, name: str, first: int = 0, work: str = REAL_WORK) -> int:
    """Work for a launch until nothing is left; returns the exit code. Raises BenchError where it cannot work.

    `work` names the function that creates the work, as module:function.
    """
    launch = Launch.load(Store(location, writable=False).files, launch_name)
    common = check_settings(Common, {k: launch.settings["executor"][k] for k in Common.__dataclass_fields__})
    store = Store(location, store_retry_s=common.store_retry_s)
    device = str(launch.settings.get("device", "cpu"))
    worker = Worker(store=store, launch=launch, common=common, name=name, device=device, may_exit=True)
    try:
        with signals_stop(worker.stop), worker.records(pkgutil.resolve_name(work), first) as records:
            for record in records:
                print(f"{record.cell.label}: {record.status}", flush=True)
    except Stopped:
        return STOPPED
    except DeviceLost as error:
        print(f"the device is lost to this process: {error}", flush=True)
        return LOST
    return DONE


def main() -> int:
    """Run the worker process."""
    location, launch, name, *rest = sys.argv[1:]
    try:
        return take_part(location, launch, name, int(rest[0]) if rest else 0, *rest[1:])
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD


if __name__ == "__main__":
    sys.exit(main())
