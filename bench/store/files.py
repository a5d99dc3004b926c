"""Files by name below one root: written atomically, and the first writer wins.

A name is a path with slashes, as in `cells/0123/record.json`. The store needs no more than this of a disk or a bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Files(Protocol):
    """A mapping of names to bytes. A missing file raises FileNotFoundError, other trouble another OSError.

    Nothing is written, moved or removed through a link that leads out of the root.
    """

    @property
    def location(self) -> str:
        """The root as given by the user: a directory or a URL."""

    def read(self, name: str) -> bytes:
        """Return all bytes of a file; raises Corrupt where a folder is in its place."""

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        """Replace what was there, whole or not at all; `durable` files outlast a power cut."""

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        """Write several files like `write`; if one cannot be written, all previous files stay."""

    def create(self, name: str, content: bytes, durable: bool = True) -> bool:
        """Write a file like `write` if it does not exist; returns False if another writer was first."""

    def exists(self, name: str) -> bool:
        """Whether the file exists."""

    def names(self, folder: str) -> list[str]:
        """Return the entries of a folder, sorted, files and folders alike; empty for a missing folder."""

    def tree(self, folder: str) -> list[str]:
        """Return all files below a folder, as names below the root."""

    def move(self, name: str, to: str) -> None:
        """Rename a file or a folder to an unused name."""

    def check_writable(self) -> None:
        """Create the root and write into it; raises OSError where that fails."""

    def sweep(self, folder: str = "") -> None:
        """Remove incomplete files of killed writers in a folder, or anywhere in the run."""

    def remove(self, name: str) -> None:
        """Remove a file or a folder with its content; a missing one is ignored."""
