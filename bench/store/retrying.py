"""Files that wait for a full disk or an unreachable store, instead of losing results."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.records.errors import StoreError
from bench.store.files import Files

IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP)
LASTING = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, *IN_THE_WAY)
"""Errors that waiting cannot fix."""
LONGEST_PAUSE_S = 10.0
ONCE = ("location", "check_writable", "sweep")
"""Operations that are not retried."""


class RetryingFiles:
    """`Files` that retry each operation for up to `store_retry_s` seconds, reporting it once; then StoreError."""

    def __init__(
        self,
        files: Files,
        store_retry_s: float,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inner, self._store_retry_s, self._sleep, self._clock = files, store_retry_s, sleep, clock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return found if name in ONCE else partial(self._try, found)

    def _try(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        begun, pause, said = self._clock(), 0.1, False
        while True:
            try:
                result = operation(*arguments, **options)
            except (FileNotFoundError, FileExistsError):
                raise
            except OSError as error:
                waited = self._clock() - begun
                if error.errno in LASTING or waited >= self._store_retry_s:
                    raise StoreError(self._refusal(arguments[0], error, waited)) from error
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

    def _refusal(self, name: object, error: OSError, waited: float) -> str:
        reason = error.strerror or str(error)
        at = f"{self.location}/{name}" if name and isinstance(name, str) else self.location
        if error.errno in IN_THE_WAY:
            return f"results={at} cannot be written ({reason}); move away the files there, then start the command again"
        after = f" after {waited:.0f} s" if waited >= 1 else ""
        return (
            f"results={at} cannot be used ({reason}){after}; make room or bring it back, then start the same command "
            "again: what it finished is kept"
        )
