"""Where a run's files lie: on a disk or in an object store, patiently or not."""

from __future__ import annotations

from pathlib import Path

from bench.files.local import LocalFiles
from bench.files.named import Files
from bench.files.patient import PatientFiles
from bench.files.sealed import read_sealed, seal, unseal

__all__ = ["Files", "LocalFiles", "PatientFiles", "open_files", "read_sealed", "seal", "unseal"]


def open_files(location: str | Path) -> Files:
    """The files of a directory, or of a URL that fsspec knows, such as s3://bucket/run."""
    if isinstance(location, str) and "://" in location:
        from bench.files.remote import RemoteFiles

        return RemoteFiles(location)
    return LocalFiles(Path(location).expanduser())
