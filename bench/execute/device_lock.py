"""Device locks: while one run times calls on a device, no other run that measures samples on it.

Locks of the operating system on two small files per device, common to all runs of one user on one machine; they end
with their process, however it ends. The second file keeps a stream of samplers from shutting out a run that waits to
measure. Each file names the process that locked it last, so that a wait can be explained.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from bench.measure.environment import gpu_of
from bench.records.errors import BenchError

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

_said: set[str] = set()
"""Messages about waits that were printed, so that each process prints one once."""
_saying = threading.Lock()


@contextmanager
def alone_on(device: str) -> Iterator[None]:
    """Wait until no process samples on the device, and keep others from it."""
    with _locked(device, "door", shared=False), _locked(device, "room", shared=False):
        yield


@contextmanager
def beside_others_on(device: str) -> Iterator[None]:
    """Wait while another process measures on the device; any number may sample."""
    with ExitStack() as room:
        with _locked(device, "door", shared=True):
            room.enter_context(_locked(device, "room", shared=True))
        yield


@contextmanager
def _locked(device: str, part: str, shared: bool) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    name, kind = f"{lock_name(device)}-{part}.lock", fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    folder = _folder()
    try:
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    except OSError as error:
        raise BenchError(f"the lock {_path() / name} cannot be opened ({error.strerror}); remove it") from error
    finally:
        os.close(folder)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell(handle, f"{'measures' if shared else 'samples or measures'} on {device}")
            fcntl.flock(handle, kind)
        note = json.dumps({"pid": os.getpid(), "born": psutil.Process().create_time()}).encode()
        with suppress(OSError):  # a full disk; the lock holds all the same
            os.pwrite(handle, note.ljust(80), 0)
        yield
    finally:
        os.close(handle)


def _tell(handle: int, doing: str) -> None:
    """Print once which process this one waits for, the last that got the lock; nothing where that is this process."""
    holder = "another process of this user"
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError, psutil.Error):
        note = json.loads(os.pread(handle, 80, 0))
        process = psutil.Process(note["pid"])
        if process.create_time() == note["born"]:
            holder = f"process {process.pid} ({' '.join(shlex.join(process.cmdline()).split())[:200]})"
            if process.pid == os.getpid():
                return
    with _saying:
        if (said := f"Waiting: {holder} {doing}") not in _said:
            _said.add(said)
            print(said, file=sys.stderr, flush=True)


def lock_name(device: str) -> str:
    """Return one name per physical device: `cpu`, or the GPU's UUID, which CUDA_VISIBLE_DEVICES does not change."""
    if not device.startswith("cuda"):
        return device
    gpu = gpu_of(device)
    return "".join(c if c.isalnum() or c == "-" else "_" for c in str(gpu["uuid"] if gpu else device))


def _path() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"tcd-bench-{user}"


def _folder() -> int:
    """Return the open folder of this user's locks; raises BenchError where it is a link or another user's."""
    path = _path()
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise BenchError(
            f"the folder of device locks {path} cannot be used ({error.strerror}); remove it, or set TMPDIR to a "
            "directory of your own"
        ) from error
    if (owner := os.fstat(folder).st_uid) != os.getuid():
        os.close(folder)
        raise BenchError(
            f"the folder of device locks {path} belongs to another user (number {owner}); set TMPDIR to another "
            "directory"
        )
    os.fchmod(folder, 0o700)
    return folder
