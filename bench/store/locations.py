"""Locations of results directories: on a disk or in an object store."""

from __future__ import annotations

from pathlib import Path

from bench.store.files import Files
from bench.store.local import LocalFiles


def open_files(location: str | Path) -> Files:
    """Return the files of a directory, or of a URL that fsspec supports, such as s3://bucket/run."""
    if isinstance(location, str) and "://" in location:
        from bench.store.object_store import RemoteFiles

        return RemoteFiles(location)
    return LocalFiles(Path(location).expanduser())
