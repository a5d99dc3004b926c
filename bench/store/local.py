"""Files in a directory, possibly shared by several machines: renaming and linking are atomic, locks are not used."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from bench.records.errors import Corrupt
from bench.store.files import Files


class LocalFiles(Files):
    """A directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes:
        try:
            with open(self._name(name), "rb") as file:  # noqa: PTH123
                return file.read()
        except IsADirectoryError as error:
            raise Corrupt("a folder is in its place") from error
        except NotADirectoryError as error:
            raise FileNotFoundError(error.errno, error.strerror, name) from error

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        self._put({name: self._partial(name, content, durable)})

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        partials: dict[str, Path] = {}
        try:
            for name, content in contents.items():
                partials[name] = self._partial(name, content, durable=True)
            for name in partials:
                if (self.root / name).is_dir() and not (self.root / name).is_symlink():
                    raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
        except OSError:
            _unlink(partials.values())
            raise
        self._put(partials)

    def create(self, name: str, content: bytes, durable: bool = True) -> bool:
        partial = self._partial(name, content, durable)
        try:
            os.link(partial, self.root / name)  # only one writer can, also on network file systems
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        return True

    def exists(self, name: str) -> bool:
        return os.path.exists(self._name(name))  # noqa: PTH110

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._name(folder)) if not name.endswith(PARTIAL))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []

    def tree(self, folder: str) -> list[str]:
        found: list[str] = []
        for directory, folders, files in os.walk(self.root / folder):
            folders.sort()
            inside = Path(directory).relative_to(self.root)
            found += ((inside / name).as_posix() for name in sorted(files) if not name.endswith(PARTIAL))
        return found

    def move(self, name: str, to: str) -> None:
        for path in (self.root / name, self.root / to):
            self._check_inside(path.parent)
        (self.root / to).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).rename(self.root / to)

    def remove(self, name: str) -> None:
        path = self.root / name
        self._check_inside(path.parent)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(NotADirectoryError):
                path.unlink(missing_ok=True)

    def _name(self, name: str) -> str:
        """Return the path as text, since creating a pathlib path takes longer than reading a small file."""
        return f"{self.root}/{name}"

    def check_writable(self) -> None:
        self._partial("probe", b"", durable=False).unlink()

    def sweep(self, folder: str = "") -> None:
        """Remove incomplete files of writers of this program that were killed here, or more than a day ago.

        Only folders of a run's files are searched, and only for names that no other program uses.
        """
        for directory, folders, files in os.walk(self.root / folder):  # does not follow links
            if not folder and Path(directory) == self.root:
                folders[:] = [name for name in folders if name in FOLDERS]
            for name in files:
                if found := _MARK.fullmatch(name):
                    _remove_if_left(Path(directory) / name, found[1], int(found[2]))

    def _put(self, partials: Mapping[str, Path]) -> None:
        """Rename written files to their names; those that cannot be renamed are removed."""
        waiting = dict(partials)
        try:
            for name, partial in partials.items():
                partial.replace(self.root / name)
                del waiting[name]
        except OSError:
            _unlink(waiting.values())
            raise

    def _check_inside(self, folder: Path) -> None:
        """Raise OSError where a link leads out of the root."""
        root, real = os.path.realpath(self.root), os.path.realpath(folder)
        if real != root and not real.startswith(f"{root.rstrip(os.sep)}{os.sep}"):
            raise OSError(errno.ELOOP, "a link leads out of the results there")

    def _partial(self, name: str, content: bytes, durable: bool) -> Path:
        """A written file beside the final one, with a unique name that identifies its process."""
        path = self.root / name
        self._check_inside(path.parent)
        partial = path.with_name(f"{path.name}.{_WRITER}-{uuid.uuid4().hex}{PARTIAL}")
        try:
            file = partial.open("xb")
        except FileNotFoundError:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:
                raise NotADirectoryError(errno.ENOTDIR, "a file is in the place of a folder") from error
            file = partial.open("xb")
        try:
            with file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError:
            _unlink([partial])  # to free space on a full disk
            raise
        return partial


PARTIAL = ".tcd-bench-partial"
FOLDERS = ("cells", "damaged", "launches", "looks", "plots", "tables", "workers")
"""Folders of a run's directory."""
_HOST = re.sub(r"[^A-Za-z0-9_]", "_", platform.node()) or "host"
_WRITER = f"{_HOST}-{os.getpid()}"
_MARK = re.compile(r".+\.([A-Za-z0-9_]+)-([0-9]+)-[0-9a-f]{32}" + re.escape(PARTIAL))


def _remove_if_left(path: Path, host: str, pid: int) -> None:
    with suppress(OSError):
        written = path.lstat().st_mtime
        if (host == _HOST and not _is_writing(pid, written)) or time.time() - written > 86_400:
            path.unlink()


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _is_writing(pid: int, written: float) -> bool:
    """Whether the process that wrote at a given time is still alive; a later process may have the same number."""
    try:
        began: float = psutil.Process(pid).create_time()
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return False
    return began <= written
