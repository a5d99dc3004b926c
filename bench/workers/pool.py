"""Workers somewhere: started, looked after, replaced when they die. Where they are is the affair of an `Executor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.records.errors import BenchError
from bench.store.store import Store
from bench.workers.launch import WorkerState
from bench.workers.leases import expire_leases_of
from bench.workers.worker import DONE, STOPPED

FAILED_STARTS = 3


class WorkerHandle(Protocol):
    """A worker that was started."""

    @property
    def name(self) -> str:
        """As it calls itself in the store."""
        ...

    def poll(self) -> int | None:
        """Its exit code, None while it is at work; what was killed has one below 0."""
        ...

    def last_log_line(self) -> str:
        """What it printed last, for a person to see why it ended."""
        ...

    def stop(self) -> None:
        """End it, gently first."""
        ...


class Executor(Protocol):
    """Where workers can be started."""

    def capacity(self) -> int:
        """How many workers there can be now."""
        ...

    def start(self, names: Sequence[str], first: int) -> Sequence[WorkerHandle]:
        """Start one for each name, which begin at the `first` group of cells and those after it."""
        ...

    def close(self) -> None:
        """Give back what was taken."""
        ...


@dataclass
class WorkerPool:
    """As many workers as there is room for, for as long as work is left."""

    executor: Executor
    store: Store
    launch: str
    started: int = 0
    deaths: int = 0
    _workers: list[WorkerHandle] = field(default_factory=list)
    _failed_starts: int = 0
    _over: bool = False
    """Whether a worker found that nothing is left."""

    def reconcile(self, left: int) -> bool:
        """Replace who died, add where room is; `left` is how many cells there are to do. False when all have gone home.

        Raises BenchError when workers die one after another before they get to work.
        """
        for worker in list(self._workers):
            code = worker.poll()
            if code is None:
                continue
            self._workers.remove(worker)
            self._over = self._over or code == DONE
            if code not in (DONE, STOPPED):
                self._replace(worker, code)
        wanted = 0 if self._over else min(self.executor.capacity(), left)
        if (missing := wanted - len(self._workers)) > 0:
            names = [f"{self.launch}-{self.started + i}" for i in range(missing)]
            self._workers += self.executor.start(names, self.started)
            self.started += missing
        return bool(self._workers)

    def _replace(self, worker: WorkerHandle, code: int) -> None:
        self.deaths += 1
        expire_leases_of(self.store.files, worker.name)
        print(f"worker {worker.name} died ({code}): {worker.last_log_line()}; its work is free again", file=sys.stderr)
        states = {said.worker: said.state for said in WorkerState.all_of(self.store.files, self.launch)}
        at_work = states.get(worker.name, "starting") != "starting"
        self._failed_starts = 0 if at_work else self._failed_starts + 1
        if self._failed_starts >= FAILED_STARTS:
            raise BenchError(
                f"{FAILED_STARTS} workers in a row died before they began; the last one said: {worker.last_log_line()}"
            )

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.stop()
        self.executor.close()
