"""A worker pool starts workers and replaces those that die. An `Executor` decides where they run."""

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
    """A started worker."""

    name: str
    """Its name in the store."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs, below 0 where it was killed."""

    def last_log_line(self) -> str:
        """The last line that it printed, which may say why it ended; empty where it printed none."""

    def stop(self) -> None:
        """Terminate it, then kill it."""


class Executor(Protocol):
    """Starts workers somewhere."""

    def capacity(self) -> int:
        """Return how many workers there can be now."""

    def start(self, names: Sequence[str], first: int) -> Sequence[WorkerHandle]:
        """Start one for each name; the first begins at the `first` group of cells, the next at the next."""

    def close(self) -> None:
        """Release its resources."""


@dataclass
class WorkerPool:
    """As many workers as the executor has capacity for, while work is left."""

    executor: Executor
    store: Store
    launch: str
    started: int = 0
    deaths: int = 0
    _workers: list[WorkerHandle] = field(default_factory=list)
    _failed_starts: int = 0
    _over: bool = False
    """Whether a worker found no remaining work."""

    def reconcile(self, left: int) -> bool:
        """Replace dead workers, add some where there is capacity; `left` cells remain. Returns False when none runs.

        Raises BenchError when workers die one after another before they begin to work.
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
        said = worker.last_log_line()
        output = f"last output: {said}" if said else "no output"
        print(f"worker {worker.name} died (exit code {code}, {output}); its work was released", file=sys.stderr)
        states = {state.worker: state.state for state in WorkerState.all_of(self.store.files, self.launch)}
        at_work = states.get(worker.name, "starting") != "starting"
        self._failed_starts = 0 if at_work else self._failed_starts + 1
        if self._failed_starts >= FAILED_STARTS:
            raise BenchError(
                f"{FAILED_STARTS} workers in a row died before they began to work ({output}); see tcd-bench doctor"
            )

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.stop()
        self.executor.close()
