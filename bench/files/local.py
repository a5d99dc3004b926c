"""Files in a directory, also one that several machines share: renaming and linking decide, never locks."""

from __future__ import annotations

import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil


class LocalFiles:
    """A directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        """The directory."""
        return str(self.root)

    def read(self, name: str) -> bytes:
        """See `bench.files.named.Files`."""
        with open(self._name(name), "rb") as file:  # noqa: PTH123
            return file.read()

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        """See `bench.files.named.Files`."""
        partial = self._partial(name, content, durable)
        partial.replace(self.root / name)

    def create(self, name: str, content: bytes, durable: bool = True) -> bool:
        """See `bench.files.named.Files`. A link is made by one writer alone, on network file systems too."""
        partial = self._partial(name, content, durable)
        try:
            os.link(partial, self.root / name)
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        return True

    def exists(self, name: str) -> bool:
        """See `bench.files.named.Files`."""
        return os.path.exists(self._name(name))  # noqa: PTH110

    def names(self, folder: str) -> list[str]:
        """See `bench.files.named.Files`."""
        try:
            found = (path.name for path in (self.root / folder).iterdir())
            return sorted(name for name in found if not name.endswith(".partial"))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def tree(self, folder: str) -> Iterator[str]:
        """See `bench.files.named.Files`."""
        for directory, folders, files in os.walk(self.root / folder):
            folders.sort()
            inside = Path(directory).relative_to(self.root)
            yield from ((inside / name).as_posix() for name in sorted(files) if not name.endswith(".partial"))

    def remove(self, name: str) -> None:
        """See `bench.files.named.Files`."""
        path = self.root / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def _name(self, name: str) -> str:
        """As text: to make a pathlib path of it takes longer than to read a small file."""
        return f"{self.root}/{name}"

    def check_writable(self) -> None:
        """Make the directory and write into it; raises OSError where that fails."""
        self._partial("probe", b"", durable=False).unlink()

    def sweep(self, folder: str = "") -> None:
        """Remove what writers left half done that were killed on this machine, and whatever is more than a day old."""
        _sweep((self.root / folder).rglob("*.partial"))

    def _partial(self, name: str, content: bytes, durable: bool) -> Path:
        """A written file beside the one that is meant, whose name no other writer has and says who writes."""
        path = self.root / name
        partial = path.with_name(f"{path.name}.{_WRITER}-{uuid.uuid4().hex}.partial")
        try:
            file = partial.open("wb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = partial.open("wb")
        try:
            with file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                partial.unlink()  # a full disk needs the room
            raise
        return partial


_HOST = platform.node().replace(".", "_") or "host"
_WRITER = f"{_HOST}-{os.getpid()}"


def _sweep(leftovers: Iterable[Path]) -> None:
    for path in leftovers:
        host, _, pid = path.name.split(".")[-2].rpartition("-")[0].rpartition("-")
        ours = host == _HOST
        with suppress(OSError):
            written = path.stat().st_mtime
            if (ours and not _is_writing(int(pid), written)) or time.time() - written > 86_400:
                path.unlink()


def _is_writing(pid: int, written: float) -> bool:
    """Whether the process that wrote at a moment still lives; a later one may have been given its number."""
    try:
        began: float = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return False
    return began <= written
