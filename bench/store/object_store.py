"""Files in an object store, through fsspec: s3://, gs:// and its other protocols. Needs the extra `remote`."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from bench.records.errors import BenchError
from bench.store.files import Files

_PROBE = ".tcd-bench-probe"


class RemoteFiles(Files):
    """A prefix in a bucket. Objects are written atomically, but a set of them may be incomplete.

    Credentials and endpoints come from the environment or the provider's own configuration files, never from the URL,
    which is in records and reports.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query:
            raise BenchError(
                f"results={parts.scheme}://… was given with credentials in it; leave them out and set them in the "
                "environment, as the provider's own tools read them"
            )
        self._url, self._root = url.rstrip("/"), f"{parts.netloc}{parts.path}".strip("/")
        try:
            self._system: Any = fsspec.filesystem(parts.scheme, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise BenchError(
                f"results={url} cannot be opened ({error}); install what it needs with `pip install tcd-bench[remote]`"
            ) from error

    @property
    def location(self) -> str:
        return self._url

    def read(self, name: str) -> bytes:
        return bytes(_call(self._system.cat_file, self._path(name)))

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        _call(self._system.pipe_file, self._path(name), content)

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        for name, content in contents.items():
            self.write(name, content)

    def create(self, name: str, content: bytes, durable: bool = True) -> bool:
        try:
            _call(self._system.pipe_file, self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def exists(self, name: str) -> bool:
        return bool(_call(self._system.exists, self._path(name)))

    def names(self, folder: str) -> list[str]:
        try:
            found = _call(self._system.ls, self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in found} - {""})

    def tree(self, folder: str) -> list[str]:
        with suppress(FileNotFoundError):
            found = sorted(_call(self._system.find, self._path(folder)))
            return [path.lstrip("/").removeprefix(f"{self._root}/") for path in found]
        return []

    def move(self, name: str, to: str) -> None:
        _call(self._system.mv, self._path(name), self._path(to), recursive=True)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            _call(self._system.rm, self._path(name), recursive=True)

    def check_writable(self) -> None:
        self.write(_PROBE, b"")
        self.remove(_PROBE)

    def sweep(self, folder: str = "") -> None:
        """Do nothing: objects are atomic, so nothing is left over."""

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")


def _call(operation: Any, *arguments: Any, **more: Any) -> Any:
    """Return the operation's result; errors of any client library become OSError."""
    try:
        return operation(*arguments, **more)
    except OSError:
        raise
    except Exception as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code") if hasattr(error, "response") else None
        if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
            raise FileExistsError(str(error)) from error
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error
