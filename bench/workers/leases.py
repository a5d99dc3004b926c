"""Leases let any number of workers and runs share a store without losing or repeating work.

A lease is the file `<name>.<generation>`, which only one worker can create. Its holder rewrites it periodically. A
worker that sees it unchanged for `lease_s` seconds by its own clock, or sees that its process has died on this machine,
may create the next generation. So clocks of machines are never compared, and nothing is deleted that another worker
might hold. A lease also counts the workers that died at the current point of the work: a worker that made progress
before it died did not die of the work. Two workers may do the same work if one was only slow; the store keeps the first
result.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from bench.records.cell import content_hash
from bench.records.errors import BenchError, Corrupt
from bench.store.files import Files


@dataclass(frozen=True)
class Lease:
    """A lease of this worker. `deaths` is how many workers held it before and died in a row at the same point."""

    name: str
    file: str
    deaths: int
    progress: int | None = None
    """The progress of the work when the lease was taken; None where no worker held it before."""


@dataclass(frozen=True)
class _Sight:
    """The content of another worker's lease when it was last read, and the time since which it is unchanged."""

    content: bytes
    elsewhere: bool
    since: float
    read: float


@dataclass
class Leases:
    """A worker's view of the leases below a store, and its own leases, which a background thread renews."""

    files: Files
    worker: str
    lease_s: float = 30.0
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, _Sight] = field(default_factory=dict)
    _held: dict[str, Lease] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _beat: int = 0

    def newest(self, folder: str) -> Mapping[str, int]:
        """Return the leases of a folder with the newest generation of each."""
        found: dict[str, int] = {}
        for file in self.files.names(folder):
            name, number = _split(file)
            if name.startswith("lease-") and number is not None:
                found[f"{folder}/{name}"] = max(number, found.get(f"{folder}/{name}", 0))
        return found

    def take(self, name: str, reached: int = 0, there: Mapping[str, int] | None = None) -> Lease | None:
        """Return the lease of that name, or None while another worker holds it. `reached` is how far the work is.

        `there` is an earlier result of `newest`; it may be somewhat outdated.
        """
        newest = (self.newest(name.rpartition("/")[0]) if there is None else there).get(name, -1)
        lease = Lease(name, f"{name}.{newest + 1}", 0)
        if newest >= 0:
            deaths = self._deaths_before(f"{name}.{newest}", reached)
            if deaths is None:
                return None
            lease = replace(lease, deaths=deaths, progress=reached)
        if not self.files.create(lease.file, self._content(lease), durable=False):
            return None
        with self._lock:
            self._held[lease.file] = lease
        return lease

    def _deaths_before(self, file: str, reached: int) -> int | None:
        """Return how many workers died at this point if the holder released it or is dead; None while it is held.

        The lease of a holder on another machine that was alive recently is not read again.
        """
        before, now = self._seen.get(file), self.clock()
        if before and before.elsewhere and now - before.read < self.lease_s / 4 and now - before.since < self.lease_s:
            return None
        try:
            content = self.files.read(file)
        except FileNotFoundError:
            return 0
        except Corrupt:
            content = b""  # a folder instead of a lease counts as garbage
        note = _parse(content)
        deaths = int(note.get("deaths", 0)) if note.get("progress") == reached else 0
        if note.get("state") == "released":
            return deaths
        if note.get("state") == "dead" or _died(note):
            return deaths + 1
        since = before.since if before is not None and before.content == content else now
        self._seen[file] = _Sight(content, not _is_here(note), since, now)
        return deaths + 1 if now - since >= self.lease_s else None

    def release(self, lease: Lease, done: bool) -> None:
        """Release it: its files are removed where the work is done, else another worker may go on."""
        with self._lock:  # a renewal that is under way ends first, and none comes after
            self._held.pop(lease.file, None)
        if not done:
            self.files.write(lease.file, self._content(lease, "released"), durable=False)
            return
        folder, own = lease.file.rpartition("/")[0], _split(lease.file)[1] or 0
        for file in self.files.names(folder):
            name, number = _split(file)
            if f"{folder}/{name}" == lease.name and number is not None and number <= own:
                self.files.remove(f"{folder}/{file}")

    def renew(self) -> None:
        """Rewrite the held leases as a sign of life; to be called every `lease_s / 4`."""
        with self._lock:
            self._beat += 1
            for lease in self._held.values():
                with suppress(OSError, BenchError):  # the next renewal is soon; losing a lease costs repeated work only
                    self.files.write(lease.file, self._content(lease), durable=False)

    def _content(self, lease: Lease, state: str = "held") -> bytes:
        note = {
            **_this_process(os.getpid()),
            "worker": self.worker,
            "state": state,
            "deaths": lease.deaths,
            "progress": lease.progress,
            "beat": self._beat,
        }
        return json.dumps(note, sort_keys=True).encode()


def expire_leases_of(files: Files, worker: str) -> None:
    """Mark as dead every lease of a worker that is known to be gone, so that no worker waits for it."""
    for name in files.tree("cells"):
        if name.rpartition("/")[2].startswith("lease-"):
            with suppress(FileNotFoundError):
                note = _parse(files.read(name))
                if note.get("worker") == worker and note.get("state") == "held":
                    files.write(name, json.dumps({**note, "state": "dead"}, sort_keys=True).encode())


def new_worker_name() -> str:
    """Return a unique name: machine, process, and a random part."""
    return f"{platform.node() or 'host'}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _split(file: str) -> tuple[str, int | None]:
    """Return name and generation of a lease's file; the generation is None where the file is not a lease."""
    name, _, number = file.rpartition(".")
    return name, int(number) if number.isascii() and number.isdigit() and len(number) < 10 else None


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "machine": str,
    "pid": int,
    "born": (int, float),
    "worker": str,
    "state": str,
    "deaths": int,
    "progress": (int, type(None)),
    "beat": int,
}


def _parse(content: bytes) -> Mapping[str, Any]:
    """Return the content of a lease; empty where `_content` did not write it."""
    try:
        note = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    whole = isinstance(note, dict) and all(isinstance(note.get(name, ...), kind) for name, kind in _KINDS.items())
    return note if whole else {}


def _died(note: Mapping[str, Any]) -> bool:
    """Whether a holder was a process of this machine that has ended."""
    if not _is_here(note):
        return False
    try:
        return bool(psutil.Process(note["pid"]).create_time() != note["born"])
    except psutil.AccessDenied:
        return False
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return True


def _is_here(note: Mapping[str, Any]) -> bool:
    return bool(note.get("machine") == _this_process(os.getpid())["machine"])


@cache
def _this_process(pid: int) -> Mapping[str, Any]:
    """Return an identity of this process that distinguishes it from all others.

    `machine` is that of this machine since its start, and of its view of processes (a container has its own).
    """
    parts: list[object] = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(Path("/proc/self/ns/pid").stat().st_ino)
    return {"machine": content_hash(parts), "pid": pid, "born": psutil.Process(pid).create_time()}
