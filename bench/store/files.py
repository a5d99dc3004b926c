"""Files by name below one root: whole or not at all, and the first writer wins.

A name is a path with slashes, as in `cells/0123/record.json`. The store needs no more than this of a disk or a bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol


class Files(Protocol):
    """Where names lead to bytes. What is not there is a FileNotFoundError; other trouble is another OSError.

    Nothing is written, moved or removed through a link that leads out of the root.
    """

    @property
    def location(self) -> str:
        """The root as a person gave it: a directory or a URL."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes of a file; raises Corrupt where a folder lies in its place."""
        ...

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        """Replace what was there, whole or not at all; `durable` files outlast a power cut."""
        ...

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        """As `write` for several files; where one cannot be written, all that were there before stay."""
        ...

    def create(self, name: str, content: bytes, durable: bool = True) -> bool:
        """As `write`, where nothing was there; False where another was first."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def names(self, folder: str) -> list[str]:
        """What lies in a folder, sorted, files and folders alike; nothing where there is no such folder."""
        ...

    def tree(self, folder: str) -> Iterator[str]:
        """All files below a folder, as names below the root."""
        ...

    def move(self, name: str, to: str) -> None:
        """Give a file or a folder another name, which nothing has yet."""
        ...

    def check_writable(self) -> None:
        """Make the root and write into it; raises OSError where that fails."""
        ...

    def sweep(self, folder: str = "") -> None:
        """Remove what killed writers left half done in a folder, or anywhere in the run."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all that is in it; nothing happens where there is none."""
        ...
