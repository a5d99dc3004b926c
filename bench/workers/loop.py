"""The loop of every worker: take work that no other worker holds, do it, release it, until nothing is left.

Large cells are cut into chunks of images; the worker that finds all of them done finishes the cell. Chunks of cells
that share a pipeline follow each other without a pause, and the cells are finished afterwards. There is no master:
workers coordinate only through leases in the store, so that one may die, join late, or belong to another run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from bench.records.cell import Cell
from bench.records.errors import CellError, StoreError
from bench.records.record import Record
from bench.store.cell_folder import FAILED, GOOD
from bench.store.store import Store
from bench.workers.leases import Lease, Leases

WAIT_S = 0.5, 15.0
"""Pauses of an idle worker in seconds: the first and the longest; each is twice the previous one."""
FLOW_S = 60.0
"""Seconds for which new cells are begun before sampled cells are finished."""


@dataclass(frozen=True)
class Chunk:
    """A range of a cell's images, sampled by the holder of the lease."""

    cell: Cell
    rows: range
    lease: Lease


Ended = Iterator[tuple[Chunk, Exception | None]]
"""Chunks that ended, each with None or its error."""


class Stopped(Exception):  # noqa: N818
    """The worker was asked to stop; its leases were released."""


class DeviceLost(Exception):  # noqa: N818
    """No work is possible in this process any more, as after an illegal access to a GPU's memory."""


@dataclass
class WorkerContext:
    """The context of a worker that reports nothing, with the clock of this machine."""

    stop: threading.Event = field(default_factory=threading.Event)

    def progress(self, cell: Cell, images: int) -> None:
        """Count images of a cell that were saved."""

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


class Work(Protocol):
    """The work on cells, as far as workers and executors know it."""

    def is_complete(self, cell: Cell) -> bool:
        """Whether the store holds all that is requested."""

    def open_chunks(self, cell: Cell) -> Sequence[range]:
        """The rows of its chunks that are not in the store yet."""

    def rows_done(self, cell: Cell, rows: range) -> int:
        """How much of a chunk is in the store; grows as it is sampled."""

    def sample(self, chunk: Chunk) -> Ended:
        """Begin a chunk and yield, in order, the chunks that are in the store by now.

        This one may be among them, or go on while the next one begins. Chunks between two calls of `release_threads`
        share a pipeline. Raises StoreError, which is not an error of any of them.
        """

    def sample_rest(self) -> Ended:
        """Yield the other chunks that were begun, waiting for each."""

    def release_threads(self) -> None:
        """Wait for batches that are running and drop those that have not started."""

    def finish(self, cell: Cell) -> Record | None:
        """Join the chunks, measure, commit; None where a chunk turned out damaged and must be sampled again."""

    def fail(self, cell: Cell, error: Exception) -> Record:
        """Make an error the cell's record."""

    def lost_device(self, device: str) -> str | None:
        """Why every further cell on a device would fail in this process; None where that is not so."""


class State(Enum):
    """The state of a cell in a worker's loop."""

    NEW = auto()  # nothing is known of it yet
    OPEN = auto()  # it is not over; no chunk of it was sampled here
    SAMPLED = auto()  # chunks of it were sampled here
    ALONE = auto()  # workers died at a chunk of it, which is sampled alone: the cell comes next again
    ELSEWHERE = auto()  # other workers hold all that is left of it
    OVER = auto()  # it is complete, or was abandoned in this launch


@dataclass
class _CellProgress:
    """A cell, its state, and its error."""

    cell: Cell
    state: State = State.NEW
    error: Exception | None = None


@contextmanager
def _failing(one: _CellProgress) -> Iterator[None]:
    """Make an error within the block the cell's, unless it concerns the store or the worker."""
    try:
        yield
    except (Stopped, StoreError):
        raise
    except Exception as error:
        one.error = error


@dataclass
class Loop:
    """One worker's loop. `max_attempts` is how many workers may die at the same images before the cell is abandoned."""

    work: Work
    store: Store
    leases: Leases
    launch: str
    context: WorkerContext
    max_attempts: int = 3
    _first_chunk: int = 0
    """The chunk that this worker tries first, so that workers that begin together do not compete for the same one."""
    _idle: bool = True

    def run(self, cells: Sequence[Cell], first: int = 0) -> Iterator[Record]:
        """Yield the record of each cell that ended here, until every cell has ended here or elsewhere.

        Begins at the `first` group of cells that share a pipeline. Raises Stopped; and DeviceLost after the record of
        the first cell that failed with the device: what failed after it is left for another process.
        """
        left, wait_s = from_group(cells, first), WAIT_S[0]
        self._first_chunk = first // max(len({cell.pipeline_key for cell in cells}), 1)
        while left:
            self._idle, coming = True, list(left)
            while coming:
                begun = self._sample(coming)
                del coming[: len(begun)]
                for one in begun:
                    record = self._end(one)
                    if record is not None or one.state is State.OVER:
                        left.remove(one.cell)
                    elif one.state is State.ALONE:
                        coming.insert(0, one.cell)
                    if record is not None:
                        yield record
                        if record.status != "ok" and (why := self.work.lost_device(record.cell.device)) is not None:
                            raise DeviceLost(why)
            if self._idle and left:
                self.context.entering("waiting", None)
                self.context.check_stop()
                self.context.sleep(wait_s)
            wait_s = min(2 * wait_s, WAIT_S[1]) if self._idle else WAIT_S[0]

    def _is_over(self, cell: Cell) -> bool:
        """Whether the cell is complete, or was abandoned in this launch."""
        names = self.store.files.names(f"cells/{cell.key}")
        if GOOD in names:
            return self.work.is_complete(cell)
        record = self.store.cell(cell.key).record() if FAILED in names else None
        return record is not None and record.status != "ok" and record.environment.get("launch") == self.launch

    def _sample(self, cells: Sequence[Cell]) -> list[_CellProgress]:
        """Sample, without pauses, the chunks that no other worker holds, of the first cells that share a pipeline.

        A chunk at which workers died is sampled alone.
        """
        begun: dict[str, _CellProgress] = {}
        held: list[Chunk] = []
        end_s = self.context.now_s() + FLOW_S
        try:
            for cell in cells:
                if begun and (cell.pipeline_key != cells[0].pipeline_key or self.context.now_s() >= end_s):
                    break
                one = begun[cell.key] = _CellProgress(cell)
                while one.state is not State.ALONE and (chunk := self._take(one)) is not None:
                    if chunk.lease.deaths:
                        one.state = State.ALONE
                        if held:  # those would die with it
                            self.leases.release(chunk.lease, done=False)
                            break
                    held.append(chunk)
                    if len(held) == 1:
                        self.context.entering("sampling", cell)
                    for ended in self.work.sample(chunk):
                        self._note(*ended, held, begun)
                if one.state is State.ALONE:
                    break
            for ended in self.work.sample_rest():
                self._note(*ended, held, begun)
        finally:
            self.work.release_threads()
            for chunk in held:
                self.leases.release(chunk.lease, done=False)
        return list(begun.values())

    def _note(self, chunk: Chunk, error: Exception | None, held: list[Chunk], begun: dict[str, _CellProgress]) -> None:
        """Release a chunk that ended and note its error."""
        held.remove(chunk)
        self.leases.release(chunk.lease, done=error is None)
        one = begun[chunk.cell.key]
        one.error = one.error or error
        if held:
            self.context.entering("sampling", held[0].cell)
        self.context.check_stop()

    def _take(self, one: _CellProgress) -> Chunk | None:
        """Return a chunk of a cell that no other worker holds; None where there is none, or a chunk of it failed."""
        cell = one.cell
        with _failing(one):
            if one.state is State.NEW:
                one.state = State.OVER if self._is_over(cell) else State.OPEN
            while one.state is not State.OVER and not one.error and (rows := list(self.work.open_chunks(cell))):
                chunk = self._take_one(cell, rows)
                if chunk is None:
                    if one.state is State.OPEN:
                        one.state = State.ELSEWHERE
                    return None
                if self._is_over(cell):
                    one.state = State.OVER
                elif chunk.rows in self.work.open_chunks(cell):
                    one.state, self._idle = State.SAMPLED, False
                    return chunk
                self.leases.release(chunk.lease, done=True)  # another worker was faster
        return None

    def _take_one(self, cell: Cell, chunks: list[range]) -> Chunk | None:
        """Return one of a cell's open chunks that no other worker holds."""
        folder, first = f"cells/{cell.key}", self._first_chunk % len(chunks)
        there = self.leases.newest(folder)
        for rows in chunks[first:] + chunks[:first]:
            name = f"{folder}/lease-{rows.start:05d}"
            lease = self.leases.take(name, self.work.rows_done(cell, rows) if name in there else 0, there)
            if lease is not None:
                return Chunk(cell, rows, self._check_attempts(lease))
        return None

    def _end(self, one: _CellProgress) -> Record | None:
        """Return the record of a cell that ends here, since it was sampled or failed."""
        self.context.check_stop()
        cell, is_left = one.cell, one.state not in (State.OVER, State.ELSEWHERE)
        with _failing(one):
            is_sampled = is_left and not (one.error or self.work.open_chunks(cell) or self._is_over(cell))
            lease = self.leases.take(f"cells/{cell.key}/lease-finish") if is_sampled else None
            if lease is not None:
                self._check_attempts(lease)
                self._idle, done = False, False
                try:
                    self.context.entering("finishing", cell)
                    record = None if self._is_over(cell) else self.work.finish(cell)
                    done = True
                finally:
                    self.leases.release(lease, done)
                return record
        if one.error is None:
            return None
        self._idle = False
        error, one.error = one.error, None  # its traceback holds what was loaded, and would keep it
        return self.work.fail(cell, error)

    def _check_attempts(self, lease: Lease) -> Lease:
        """Return the lease; raises CellError where too many workers died at it."""
        if lease.deaths < self.max_attempts:
            return lease
        self.leases.release(lease, done=False)
        raise CellError(
            f"{lease.deaths} workers died at this cell without progress, so it was abandoned; see their logs, run it "
            f"alone with executor=local, or allow more than executor.max_attempts={self.max_attempts}"
        )


def from_group(cells: Sequence[Cell], first: int) -> list[Cell]:
    """Return the cells in groups of equal pipelines, beginning with the group of that number."""
    order = list(dict.fromkeys(cell.pipeline_key for cell in cells))
    first %= max(len(order), 1)
    order = order[first:] + order[:first]
    return sorted(cells, key=lambda cell: order.index(cell.pipeline_key))
