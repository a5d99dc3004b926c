"""Files that wait for a full disk or an unreachable store, instead of losing results."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from bench.records.errors import StoreError
from bench.store.files import Files

_Result = TypeVar("_Result")
IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP)
LASTING = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, *IN_THE_WAY)
"""Errors that waiting cannot fix."""
LONGEST_PAUSE_S = 10.0


class RetryingFiles:
    """Retries each operation for up to `store_retry_s` seconds, reporting it once; then raises StoreError."""

    def __init__(
        self,
        files: Files,
        store_retry_s: float,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inner, self._store_retry_s, self._sleep, self._clock = files, store_retry_s, sleep, clock

    @property
    def location(self) -> str:
        """The root."""
        return self.inner.location

    def read(self, name: str) -> bytes:
        """See `bench.store.files.Files`."""
        return self._try(name, lambda: self.inner.read(name))

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        """See `bench.store.files.Files`."""
        self._try(name, lambda: self.inner.write(name, content, durable))

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        """See `bench.store.files.Files`."""
        self._try("", lambda: self.inner.write_all(contents))

    def create(self, name: str, content: bytes, durable: bool = True) -> bool:
        """See `bench.store.files.Files`."""
        return self._try(name, lambda: self.inner.create(name, content, durable))

    def exists(self, name: str) -> bool:
        """See `bench.store.files.Files`."""
        return self._try(name, lambda: self.inner.exists(name))

    def names(self, folder: str) -> list[str]:
        """See `bench.store.files.Files`."""
        return self._try(folder, lambda: self.inner.names(folder))

    def tree(self, folder: str) -> Iterator[str]:
        """See `bench.store.files.Files`."""
        return iter(self._try(folder, lambda: list(self.inner.tree(folder))))

    def move(self, name: str, to: str) -> None:
        """See `bench.store.files.Files`."""
        self._try(name, lambda: self.inner.move(name, to))

    def remove(self, name: str) -> None:
        """See `bench.store.files.Files`."""
        self._try(name, lambda: self.inner.remove(name))

    def check_writable(self) -> None:
        """See `bench.store.files.Files`; tried once."""
        self.inner.check_writable()

    def sweep(self, folder: str = "") -> None:
        """See `bench.store.files.Files`; tried once."""
        self.inner.sweep(folder)

    def _try(self, name: str, operation: Callable[[], _Result]) -> _Result:
        begun, pause, said = self._clock(), 0.1, False
        while True:
            try:
                result = operation()
            except (FileNotFoundError, FileExistsError):
                raise
            except OSError as error:
                waited = self._clock() - begun
                if error.errno in LASTING or waited >= self._store_retry_s:
                    raise StoreError(self._refusal(name, error, waited)) from error
                if not said:
                    print(
                        f"results={self.location}: {error.strerror or error}; trying again for up to "
                        f"{self._store_retry_s:.0f} s",
                        file=sys.stderr,
                    )
                    said = True
                self._sleep(min(pause, LONGEST_PAUSE_S, max(0.05, self._store_retry_s - waited)))
                pause *= 2
            else:
                if said:
                    print(f"results={self.location}: back again, going on", file=sys.stderr)
                return result

    def _refusal(self, name: str, error: OSError, waited: float) -> str:
        reason = error.strerror or str(error)
        at = f"{self.location}/{name}" if name else f"{self.location}"
        if error.errno in IN_THE_WAY:
            return f"results={at} cannot be written ({reason}); move away the files there, then start the command again"
        after = f" after {waited:.0f} s" if waited >= 1 else ""
        return (
            f"results={at} cannot be used ({reason}){after}; make room or bring it back, then start the same command "
            "again: what it finished is kept"
        )
