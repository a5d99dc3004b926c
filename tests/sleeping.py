"""Cells that cost a known time instead of a GPU's, and that fail on request: work for tests of executors."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
from factories import CALLS, make_base, make_record

from bench.records.cell import Cell, SchedulerSpec
from bench.records.errors import StoreError
from bench.records.record import Failure, Images, Record
from bench.store.cell_folder import StoredBatch, batch_identity
from bench.store.store import Store
from bench.workers.launch import Launch
from bench.workers.loop import Chunk, Ended, Stopped, WorkerContext
from bench.workers.pool import Executor, WorkerPool
from bench.workers.status import describe, read_status

WORK = "sleeping:make_runner_for"

BATCHES = batch_identity(["e"])


def make_cell(i: int, group: int = 0) -> Cell:
    """Cell number i, on pipeline number `group`."""
    base = make_base(name=f"model{group}", weights=f"w{group}", height=8, width=8)
    return factories.make_cell(
        1, base=base, scheduler=SchedulerSpec("x.Y", {"i": i}), method="sleep", eta=None, steps=1, batch_size=1
    )


class Sleeper:
    """Samples by sleeping; a cell may hang, raise, or kill its process, by number, always or only the first time.

    A cell of `until_stopped` runs until its worker is asked to stop, and is an ordinary cell the next time.

    It begins `ahead` chunks before the one that it samples is finished.
    """

    def __init__(self, launch: Launch, store: Store, context: WorkerContext) -> None:
        self.launch, self.store, self.context = launch, store, context
        self.settings = launch.settings["sleeping"]
        self._begun: deque[Chunk] = deque()

    def is_complete(self, cell: Cell) -> bool:
        record = self.store.cell(cell.key).record()
        return record is not None and record.status == "ok"

    def chunks(self, cell: Cell) -> Sequence[range]:
        return [range(i, i + 1) for i in range(self.settings.get("chunks", 1))]

    def open_chunks(self, cell: Cell) -> Sequence[range]:
        done = self.store.cell(cell.key).batch_starts(BATCHES)
        return [chunk for chunk in self.chunks(cell) if chunk.start not in done]

    def rows_done(self, cell: Cell, rows: range) -> int:
        return len(self.store.cell(cell.key).batch_starts(BATCHES).intersection(rows))

    def sample(self, chunk: Chunk) -> Ended:
        self._begun.append(chunk)
        if len(self._begun) > self.settings.get("ahead", 0):
            yield self._sample_next()

    def sample_rest(self) -> Ended:
        while self._begun:
            yield self._sample_next()

    def release_threads(self) -> None:
        self._begun.clear()

    def _sample_next(self) -> tuple[Chunk, Exception | None]:
        chunk = self._begun.popleft()
        try:
            self._sample(chunk.cell, chunk.rows)
        except (Stopped, StoreError):
            raise
        except Exception as error:
            return chunk, error
        return chunk, None

    def _sample(self, cell: Cell, chunk: range) -> None:
        number = cell.scheduler.settings["i"]
        with (Path(self.settings["log"])).open("a") as log:
            log.write(f"{number} {chunk.start} {os.getpid()} {time.time()}\n")
        if number in self.settings.get("kill", []):
            os.kill(os.getpid(), signal.SIGKILL)
        if number in self.settings.get("kill_once", []) and self._is_first("killed", number):
            os.kill(os.getpid(), signal.SIGKILL)
        if number in self.settings.get("raise", []):
            raise ValueError(f"cell {number} cannot be done")
        if number in self.settings.get("hang", []):
            time.sleep(3600)
        if number in self.settings.get("until_stopped", []) and self._is_first("stopped", number):
            while True:
                time.sleep(0.01)
                self.context.check_stop()
        time.sleep(self.settings.get("seconds", 0.0))
        self.context.check_stop()
        batch = StoredBatch(chunk.start, {"e": {"image": np.full((1, 2), number)}}, CALLS, 0.1, ("s",))
        self.store.cell(cell.key).save_batch(batch)
        self.context.progress(cell, 1)

    def _is_first(self, what: str, number: int) -> bool:
        mark = Path(self.settings["log"]).with_name(f"{what}-{number}")
        there = mark.exists()
        mark.touch()
        return not there

    def finish(self, cell: Cell) -> Record | None:
        batches = [self.store.cell(cell.key).load_batch(BATCHES, chunk.start) for chunk in self.chunks(cell)]
        features = np.concatenate([batch.features["e"]["image"] for batch in batches if batch])
        self.store.cell(cell.key).save_features("e", {"image": features})
        record = make_record(cell, calls=CALLS, images=Images(len(batches), 8, 8, "s"))
        self.store.commit(record)
        return record

    def fail(self, cell: Cell, error: Exception) -> Record:
        notes = "\n".join(getattr(error, "__notes__", []))
        failure = Failure(type(error).__name__, str(error), notes)
        record = make_record(cell, status="error", environment={"launch": self.launch.name}, failure=failure)
        self.store.commit(record)
        return record

    def lost_device(self, device: str) -> str | None:
        return "no kernel runs" if self.settings.get("lost") else None


def make_runner_for(launch: Launch, store: Store, context: WorkerContext) -> tuple[Sleeper, list[Cell]]:
    """The work of sleeping cells."""
    settings = launch.settings["sleeping"]
    while (wanted := settings.get("wait_for")) and len(store.files.names("workers")) < wanted:
        time.sleep(0.01)  # so that start-up is apart from what is timed
    cells = [make_cell(i, i % settings.get("groups", 1)) for i in range(settings["cells"])]
    return Sleeper(launch, store, context), [cell for cell in cells if cell.key in launch.cells]


def make_launch(
    store: Store, log: Path, cells: int, name: str = "launch", common: dict[str, Any] | None = None, **more: Any
) -> Launch:
    """Save a launch of sleeping cells."""
    settings = {
        "name": "sleeping",
        "batch_size": 1,
        "device": "cpu",
        "executor": {
            "max_attempts": 3, "cell_timeout_s": None, "lease_s": 100.0, "store_retry_s": 5.0, "chunk_images": 1,
            **(common or {}),
        },
        "sleeping": {"cells": cells, "log": str(log), **more},
    }  # fmt: skip
    keys = tuple(make_cell(i, i % more.get("groups", 1)).key for i in range(cells))
    launch = Launch(name, settings, (1.0,), keys, more.get("chunks", 1), time.time())
    launch.save(store.files)
    return launch


def oversee(executor: Executor, store: Store, launch: Launch, limit: float = 600) -> WorkerPool:
    """Keep a pool running until no worker is left."""
    pool = WorkerPool(executor, store, launch.name)
    try:
        end = time.monotonic() + limit
        while pool.reconcile(len(launch.cells)):
            assert time.monotonic() < end, describe(read_status(store, launch, 1))
            time.sleep(0.05)
    finally:
        pool.close()
    return pool


def ray_here(store: Store, launch: Launch, workers: int) -> Executor:
    """A Ray cluster on this machine."""
    if importlib.util.find_spec("ray") is None:  # without importing it: how it authenticates is decided before
        pytest.skip("needs Ray")
    from bench.experiment.executors import Ray
    from bench.workers.ray import RayCluster

    return RayCluster(store.location, launch.name, Ray(workers=workers, cpus=0.5), "cpu", WORK)
