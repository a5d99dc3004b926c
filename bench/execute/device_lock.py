"""Latency is measured alone: while one process times calls on a device, no other one samples on it.

Locks of the operating system on two small files a device, common to all runs of one user on one machine; they end with
their process, however it ends. The second file keeps a stream of samplers from shutting out who wants to measure.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.execute.pulse import every

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE_S = 60.0
"""A wait longer than this is said aloud, again and again: whom one waits for may be asleep."""


@contextmanager
def alone_on(device: str) -> Iterator[None]:
    """Wait until nobody samples on the device, and keep others from it."""
    with _locked(device, "door", shared=False), _locked(device, "room", shared=False):
        yield


@contextmanager
def beside_others_on(device: str) -> Iterator[None]:
    """Wait while somebody measures on the device; any number may sample."""
    with _locked(device, "door", shared=True):
        room = _open(device, "room", shared=True)
    try:
        yield
    finally:
        _close(room)


@contextmanager
def _locked(device: str, part: str, shared: bool) -> Iterator[None]:
    handle = _open(device, part, shared)
    try:
        yield
    finally:
        _close(handle)


def _open(device: str, part: str, shared: bool) -> int | None:
    if fcntl is None:
        return None
    handle = os.open(_path(device, part), os.O_RDWR | os.O_CREAT, 0o600)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        doing = "measures" if shared else "samples or measures"
        waiting = f"Waiting: another process of this user {doing} on {device} (it holds {_path(device, part)})"
        with every(PATIENCE_S, lambda: print(waiting, file=sys.stderr, flush=True)):
            fcntl.flock(handle, kind)
    return handle


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _path(device: str, part: str) -> Path:
    """One file a physical device: CUDA_VISIBLE_DEVICES says which one `cuda:0` is."""
    kind, _, index = device.partition(":")
    name = kind
    if kind == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        number = int(index or 0)
        name = f"cuda-{visible[number] if number < len(visible) and visible[number] else number}"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"tcd-bench-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name.replace('/', '_')}-{part}.lock"
