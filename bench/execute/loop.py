"""What every worker does, wherever it is: take what nobody is at, do it, let go, until nothing is left.

Large cells are cut into chunks of images; whoever finds the last one done finishes the cell. There is no master:
workers know of one another through leases in the store alone, so that one may die, join late, or belong to another run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from bench.cell import Cell
from bench.execute.leases import Lease, Leases
from bench.records import CellError, Record, StoreError
from bench.store import FAILED, GOOD, Store

WAIT_S = 0.5, 15.0
"""At first, and at most: who has nothing to do asks the store less and less often."""


class Work(Protocol):
    """What is done with a cell; whoever places it knows no more of it."""

    def is_complete(self, cell: Cell) -> bool:
        """Whether the store holds all that is asked for."""
        ...

    def open_chunks(self, cell: Cell) -> Sequence[range]:
        """The pieces of its images that are not in the store yet."""
        ...

    def progress(self, cell: Cell, chunk: range) -> int:
        """How much of a chunk is in the store; grows as it is sampled."""
        ...

    def sample(self, cell: Cell, chunk: range) -> None:
        """Bring a chunk into the store."""
        ...

    def finish(self, cell: Cell) -> Record | None:
        """Put the chunks together, measure, commit; None where a chunk turned out damaged and must be made again."""
        ...

    def fail(self, cell: Cell, error: Exception) -> Record:
        """Make an error the cell's record."""
        ...


class Stopped(Exception):  # noqa: N818
    """Somebody asked the worker to stop; what it held is free again."""


@dataclass
class Loop:
    """One worker's loop. `tries` is how many workers may die at one place of a cell before it is given up."""

    work: Work
    store: Store
    leases: Leases
    launch: str
    tries: int = 3
    should_stop: Callable[[], bool] = lambda: False
    enter: Callable[[str, Cell | None], None] = lambda *_: None
    """Told what the worker is doing now."""
    sleep: Callable[[float], object] = time.sleep
    _turn: int = 0
    """At which of a cell's chunks this worker looks first: those that begin together do not all want the same one."""

    def run(self, cells: Sequence[Cell], first: int = 0) -> Iterator[Record]:
        """Yield the record of each cell that was ended here; ends when none is left, in other hands neither.

        Begins at the `first` group of cells that share a pipeline. Raises Stopped.
        """
        left, wait_s = from_group(cells, first), WAIT_S[0]
        self._turn = first // max(len({cell.pipeline_key for cell in cells}), 1)
        while left:
            idle = True
            for cell in list(left):
                if self._is_over(cell):
                    left.remove(cell)
                    continue
                worked, record = self._visit(cell)
                idle = idle and not worked
                if record is not None:
                    left.remove(cell)
                    yield record
            if idle and left:
                self.enter("waiting", None)
                self._check()
                self.sleep(wait_s)
            wait_s = min(2 * wait_s, WAIT_S[1]) if idle else WAIT_S[0]

    def _is_over(self, cell: Cell) -> bool:
        """Whether the cell is complete, or was given up in this launch."""
        names = self.store.files.names(f"cells/{cell.key}")
        if GOOD in names:
            return self.work.is_complete(cell)
        return FAILED in names and self._was_given_up(cell)

    def _was_given_up(self, cell: Cell) -> bool:
        record = self.store.record(cell.key)
        return record is not None and record.status != "ok" and record.environment.get("launch") == self.launch

    def _visit(self, cell: Cell) -> tuple[bool, Record | None]:
        """Do what can be done for a cell now: whether anything was, and its record where that ended it."""
        worked = False
        try:
            while chunks := list(self.work.open_chunks(cell)):
                taken = self._take_one(cell, chunks)
                if taken is None:
                    return worked, None
                chunk, lease = taken
                worked = True
                with self._holding(cell, lease, "sampling"):
                    over = self._is_over(cell)
                    if not over and chunk in self.work.open_chunks(cell):
                        self.work.sample(cell, chunk)
                self._check()
                if over:
                    return worked, None
            if self._is_over(cell):
                return worked, None
            last = self.leases.take(f"cells/{cell.key}/lease-finish")
            if last is None:
                return worked, None
            with self._holding(cell, last, "finishing"):
                record = None if self._is_over(cell) else self.work.finish(cell)
        except (Stopped, StoreError):
            raise
        except Exception as error:
            return True, self.work.fail(cell, error)
        return True, record

    def _take_one(self, cell: Cell, chunks: list[range]) -> tuple[range, Lease] | None:
        """One of a cell's open chunks that nobody is at."""
        folder, turn = f"cells/{cell.key}", self._turn % len(chunks)
        there = self.leases.newest(folder)
        for chunk in chunks[turn:] + chunks[:turn]:
            reached = partial(self.work.progress, cell, chunk)
            lease = self.leases.take(f"{folder}/lease-{chunk.start:05d}", reached, there)
            if lease is not None:
                return chunk, lease
        return None

    @contextmanager
    def _holding(self, cell: Cell, lease: Lease, state: str) -> Iterator[None]:
        """Work under a lease, which is let go at the end; raises CellError where too many died at it."""
        done = False
        try:
            if lease.deaths >= self.tries:
                raise CellError(
                    f"{lease.deaths} workers died at this cell and got no further, so it is given up; look at their "
                    "logs, run it alone with executor=local, or allow more with executor.tries"
                )
            self.enter(state, cell)
            yield
            done = True
        finally:
            self.leases.release(lease, done)

    def _check(self) -> None:
        if self.should_stop():
            raise Stopped


def from_group(cells: Sequence[Cell], first: int) -> list[Cell]:
    """The cells group by group of equal pipelines, beginning with the group of that number."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.pipeline_key, []).append(cell)
    order = list(groups.values())
    turn = first % len(order) if order else 0
    return [cell for group in order[turn:] + order[:turn] for cell in group]


class Watchdog:
    """Calls `bark(cell)` when a worker is at one cell for longer than `limit_s`."""

    def __init__(self, limit_s: float, bark: Callable[[Cell], None]) -> None:
        self._limit_s, self._bark = limit_s, bark
        self._timer: threading.Timer | None = None

    def enter(self, state: str, cell: Cell | None) -> None:
        """Begin to wait for the end of what is entered; the end of what was before is here."""
        self.stop()
        if cell is not None:
            self._timer = threading.Timer(self._limit_s, self._bark, (cell,))
            self._timer.daemon = True
            self._timer.start()

    def stop(self) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
