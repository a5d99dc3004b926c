"""A launch is one start of a run as its workers read it from the store; their states are written beside it."""

from __future__ import annotations

import json
import platform
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from pydantic import TypeAdapter

from bench.parallel import call_periodically
from bench.records.cell import Cell
from bench.records.errors import BenchError, Corrupt, StoreError
from bench.store.files import Files
from bench.store.sealed import read_sealed, seal
from bench.workers.leases import new_worker_name

STATE_S = 5.0
"""Maximum interval between two writes of a worker's state."""


@dataclass(frozen=True)
class Launch:
    """One start of a run: the settings, the interim looks, and the keys of the remaining cells."""

    name: str
    settings: Mapping[str, Any]
    looks: tuple[float, ...]
    cells: tuple[str, ...]
    images: int
    began: float
    """Start time, in seconds since 1970."""

    def save(self, files: Files) -> None:
        """Write the launch to the store, from which workers and `status` read it."""
        name = f"launches/{self.name}.json"
        files.write(name, seal(name, json.dumps(asdict(self), ensure_ascii=False).encode()))

    @classmethod
    def load(cls, files: Files, name: str) -> Self:
        """Return the launch of a name; raises BenchError where it is missing or damaged."""
        try:
            return TypeAdapter(cls).validate_json(read_sealed(files, f"launches/{name}.json"))
        except FileNotFoundError as error:
            raise BenchError(f"results={files.location} has no launch {name}; start the run again") from error
        except (Corrupt, ValueError) as error:
            raise BenchError(
                f"results={files.location}: launches/{name}.json is damaged; start the run again"
            ) from error

    @classmethod
    def latest(cls, files: Files) -> Self | None:
        """Return the latest readable launch, None where there is none; prints which ones cannot be read."""
        for name in reversed(files.names("launches")):
            if not name.startswith(".") and name.endswith(".json"):
                try:
                    return cls.load(files, name.removesuffix(".json"))
                except StoreError:
                    raise
                except BenchError as error:
                    print(f"{error}; it is ignored", file=sys.stderr)
        return None


def new_launch_name() -> str:
    """Return a name; names sort by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{new_worker_name().rpartition('-')[2]}"


@dataclass(frozen=True)
class WorkerState:
    """The state of a worker as last written. `said` and `since` are seconds since 1970 by the worker's clock."""

    worker: str
    launch: str
    host: str
    device: str
    state: str
    cell: str | None
    since: float
    said: float
    images: int

    @classmethod
    def all_of(cls, files: Files, launch: str) -> list[Self]:
        """Return the states of the workers of a launch."""
        found = []
        for name in files.names("workers"):
            with suppress(FileNotFoundError, Corrupt, ValueError):
                state = TypeAdapter(cls).validate_json(read_sealed(files, f"workers/{name}"))
                if state.launch == launch:
                    found.append(state)
        return found


class Reporter:
    """Writes a worker's state into the store: when it changes, and every few seconds while images are saved."""

    def __init__(self, files: Files, launch: str, worker: str, device: str) -> None:
        self._files, self._write_lock, self.images = files, threading.Lock(), 0
        now = time.time()
        self._state = WorkerState(worker, launch, platform.node(), device, "starting", None, now, now, 0)

    def enter(self, state: str, cell: Cell | None) -> None:
        """Record a new state of the worker."""
        label, before = cell.label if cell is not None else None, self._state
        if (state, label) != (before.state, before.cell):
            self._state = replace(before, state=state, cell=label, since=time.time())
            if before.state == "starting":
                self.say()  # a worker that dies at its first cell must not look like one that never started

    def say(self) -> None:
        """Write the state; if the store cannot be reached, only this state is lost."""
        state = replace(self._state, said=time.time(), images=self.images)
        with self._write_lock, suppress(OSError, BenchError):
            name = f"workers/{state.worker}.json"
            content = json.dumps(asdict(state), ensure_ascii=False).encode()
            self._files.write(name, seal(name, content), durable=False)

    @contextmanager
    def saying(self) -> Iterator[None]:
        """Write the state periodically in the background, and once more at the end."""
        self.say()
        try:
            with call_periodically(STATE_S, self.say):
                yield
        finally:
            self.say()
