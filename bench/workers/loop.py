"""What every worker does, wherever it is: take what nobody is at, do it, let go, until nothing is left.

Large cells are cut into chunks of images; whoever finds the last one done finishes the cell. Chunks of cells that share
a pipeline follow each other without a pause, and what was sampled so is finished afterwards. There is no master:
workers know of one another through leases in the store alone, so that one may die, join late, or belong to another run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from bench.records.cell import Cell
from bench.records.errors import CellError, StoreError
from bench.records.record import Record
from bench.store.store import FAILED, GOOD, Store
from bench.workers.leases import Lease, Leases

WAIT_S = 0.5, 15.0
"""At first, and at most: who has nothing to do asks the store less and less often."""
FLOW_S = 60.0
"""For how long cells are begun before those that were sampled are finished."""


class Piece(NamedTuple):
    """A chunk of a cell's images."""

    cell: Cell
    chunk: range


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

    def sample(self, pieces: Iterable[Piece]) -> Generator[Exception | None]:
        """Bring pieces into the store and yield for each, in order, None or what was wrong with it.

        A piece may be asked for before those ahead of it are done; all are of one pipeline. Raises StoreError, which is
        wrong with none of them.
        """
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
    """One worker's loop. `max_attempts` is how many workers may die at one place of a cell before it is given up."""

    work: Work
    store: Store
    leases: Leases
    launch: str
    max_attempts: int = 3
    should_stop: Callable[[], bool] = lambda: False
    enter: Callable[[str, Cell | None], None] = lambda *_: None
    """Told what the worker is doing now."""
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _turn: int = 0
    """At which of a cell's chunks this worker looks first: those that begin together do not all want the same one."""

    def run(self, cells: Sequence[Cell], first: int = 0) -> Iterator[Record]:
        """Yield the record of each cell that was ended here; ends when none is left, in other hands neither.

        Begins at the `first` group of cells that share a pipeline. Raises Stopped.
        """
        left, wait_s = from_group(cells, first), WAIT_S[0]
        self._turn = first // max(len({cell.pipeline_key for cell in cells}), 1)
        while left:
            idle, turn = True, deque(left)
            while turn:
                for visit in self._sample(turn):
                    record = self._end(visit)
                    idle = idle and not visit.worked
                    if visit.over or record is not None:
                        left.remove(visit.cell)
                    elif visit.again:
                        turn.appendleft(visit.cell)
                    if record is not None:
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

    def _sample(self, turn: deque[Cell]) -> list[_Visit]:
        """Sample of the next cells of one pipeline what nobody is at, without a pause between them."""
        visits: list[_Visit] = []
        held: deque[tuple[_Visit, Lease]] = deque()
        try:
            with closing(self.work.sample(self._pieces(turn, visits, held))) as ended:
                for error in ended:
                    visit, lease = held.popleft()
                    self.leases.release(lease, error is None)
                    visit.error = visit.error or error
                    if held:
                        self.enter("sampling", held[0][0].cell)
                    self._check()
        finally:
            for _, lease in held:
                self.leases.release(lease, done=False)
        return visits

    def _pieces(self, turn: deque[Cell], visits: list[_Visit], held: deque[tuple[_Visit, Lease]]) -> Iterator[Piece]:
        """Take cells off the turn, and of each what nobody is at; what workers died at goes alone."""
        end = self.clock() + FLOW_S
        while turn and (not visits or (turn[0].pipeline_key == visits[0].cell.pipeline_key and self.clock() < end)):
            visits.append(visit := _Visit(turn.popleft()))
            try:
                for chunk, lease in self._takes(visit):
                    visit.again = lease.deaths > 0
                    if visit.again and held:  # those under way would die with it
                        self.leases.release(lease, done=False)
                        return
                    held.append((visit, lease))
                    if len(held) == 1:
                        self.enter("sampling", visit.cell)
                    yield Piece(visit.cell, chunk)
                    if visit.again:
                        return
            except (Stopped, StoreError):
                raise
            except Exception as error:
                visit.error = error

    def _takes(self, visit: _Visit) -> Iterator[tuple[range, Lease]]:
        """A cell's chunks that nobody is at, one after the other, until one fails."""
        cell = visit.cell
        visit.over = self._is_over(cell)
        while not (visit.over or visit.error) and (chunks := list(self.work.open_chunks(cell))):
            taken = self._take_one(cell, chunks)
            if taken is None:
                visit.waits = not visit.worked
                return
            chunk, lease = taken
            visit.over = self._is_over(cell)
            if visit.over or chunk not in self.work.open_chunks(cell):
                self.leases.release(lease, done=True)  # somebody was faster
            else:
                visit.worked = True
                yield chunk, lease

    def _take_one(self, cell: Cell, chunks: list[range]) -> tuple[range, Lease] | None:
        """One of a cell's open chunks that nobody is at."""
        folder, turn = f"cells/{cell.key}", self._turn % len(chunks)
        there = self.leases.newest(folder)
        for chunk in chunks[turn:] + chunks[:turn]:
            reached = partial(self.work.progress, cell, chunk)
            lease = self.leases.take(f"{folder}/lease-{chunk.start:05d}", reached, there)
            if lease is not None:
                return chunk, self._check_attempts(lease)
        return None

    def _end(self, visit: _Visit) -> Record | None:
        """A cell's record where this ended it: finished, if all of it is sampled, or failed."""
        self._check()
        error, visit.error = visit.error, None  # its traceback holds what was loaded, and would keep it
        if error is None:
            try:
                return self._finish(visit)
            except (Stopped, StoreError):
                raise
            except Exception as raised:
                error = raised
        visit.worked = True
        return self.work.fail(visit.cell, error)

    def _finish(self, visit: _Visit) -> Record | None:
        cell = visit.cell
        if visit.over or visit.waits or self.work.open_chunks(cell) or self._is_over(cell):
            return None
        lease = self.leases.take(f"cells/{cell.key}/lease-finish")
        if lease is None:
            return None
        self._check_attempts(lease)
        visit.worked, done = True, False
        try:
            self.enter("finishing", cell)
            record = None if self._is_over(cell) else self.work.finish(cell)
            done = True
        finally:
            self.leases.release(lease, done)
        return record

    def _check_attempts(self, lease: Lease) -> Lease:
        """The lease; raises CellError where too many died at it."""
        if lease.deaths < self.max_attempts:
            return lease
        self.leases.release(lease, done=False)
        raise CellError(
            f"{lease.deaths} workers died at this cell and got no further, so it is given up; look at their "
            "logs, run it alone with executor=local, or allow more with executor.max_attempts"
        )

    def _check(self) -> None:
        if self.should_stop():
            raise Stopped


@dataclass
class _Visit:
    """What became of a cell in one turn."""

    cell: Cell
    over: bool = False
    """It is complete, or was given up."""
    waits: bool = False
    """Others are at all that is left of it."""
    worked: bool = False
    """Something was done for it here."""
    again: bool = False
    """It comes next, as the first of its turn or with what is left of it."""
    error: Exception | None = None


def from_group(cells: Sequence[Cell], first: int) -> list[Cell]:
    """The cells group by group of equal pipelines, beginning with the group of that number."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.pipeline_key, []).append(cell)
    order = list(groups.values())
    turn = first % len(order) if order else 0
    return [cell for group in order[turn:] + order[:turn] for cell in group]


class Watchdog:
    """Calls `on_timeout(cell)` when a worker is at one cell for longer than `cell_timeout_s`."""

    def __init__(self, cell_timeout_s: float, on_timeout: Callable[[Cell], None]) -> None:
        self._cell_timeout_s, self._on_timeout = cell_timeout_s, on_timeout
        self._timer: threading.Timer | None = None

    def enter(self, state: str, cell: Cell | None) -> None:
        """Begin to wait for the end of what is entered; the end of what was before is here."""
        self.stop()
        if cell is not None:
            self._timer = threading.Timer(self._cell_timeout_s, self._on_timeout, (cell,))
            self._timer.daemon = True
            self._timer.start()

    def stop(self) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
