"""The results of a run. Readable without torch; safe against a kill at any moment.

A run's directory, or a URL that fsspec supports, holds `run.json` (the request) and a folder `cells/<key>/` for each
cell (`bench.store.cell_folder`). Every JSON file and every array carries a hash that each reading verifies (see
`bench.store.sealed`); images are verified by their record or batch (`bench.pictures`). Damaged files are moved to
`damaged/` and regenerated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from bench.records.errors import BenchError, Corrupt, Damaged
from bench.records.record import Record
from bench.records.run import Run
from bench.store.cell_folder import FAILED, GOOD, CellFolder
from bench.store.files import Files
from bench.store.local import LocalFiles
from bench.store.retrying import RetryingFiles
from bench.store.safe_writing import put, quarantine, quarantine_if_corrupt
from bench.store.sealed import Arrays, pack_arrays, read_arrays, read_sealed, seal

RUN = "run.json"
_Result = TypeVar("_Result")


class Store:
    """One run. Creating it checks that it can be written; raises BenchError otherwise.

    `store_retry_s` is how long to wait for a full disk or an unreachable store.
    """

    def __init__(self, location: str | Path, writable: bool = True, store_retry_s: float = 0.0) -> None:
        if str(location) in {"", "None"}:
            raise BenchError("results is empty; name a directory or a URL, as in results=results/mini")
        files = open_files(location)
        self.files = cast(Files, RetryingFiles(files, store_retry_s))
        if writable:
            try:
                files.check_writable()
                files.sweep()
            except OSError as error:
                raise BenchError(
                    f"results={location} cannot be written ({error.strerror}); choose another directory with results=…"
                ) from error
        elif not any(self.files.exists(name) for name in (RUN, "cells", "launches")):
            raise BenchError(
                f"results={location} holds no run (no folder cells/ in it); give the directory of a run, as in "
                "results=results/mini"
            )

    @classmethod
    def of_run(cls, location: str | Path) -> Self | None:
        """Return the store for reading; None where nothing was run yet."""
        try:
            return cls(location, writable=False)
        except BenchError:
            return None

    @property
    def location(self) -> str:
        """The directory or URL."""
        return self.files.location

    def cell_keys(self) -> list[str]:
        """Return the keys of stored cells, in order, without entries of other programs."""
        return [name for name in self.files.names("cells") if not name.startswith(".")]

    def records(self, keys: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield the existing records of these cells, in their order; by default all, ordered by key."""
        for key in self.cell_keys() if keys is None else keys:
            record = self.cell(key).record()
            if record is not None:
                yield record

    def good_records(self, keys: Sequence[str] | None = None) -> list[Record]:
        """Return those of `records` that no failure ended."""
        return [record for record in self.records(keys) if record.status == "ok"]

    def cell(self, key: str) -> CellFolder:
        """Return the folder of one cell."""
        return CellFolder(self.files, key)

    def commit(self, record: Record, keep_images: int | None = None) -> bool:
        """As `CellFolder.commit`."""
        return self.cell(record.key).commit(record, keep_images)

    def features_of(self, record: Record, identity: str) -> dict[str, NDArray[Any]]:
        """Return a set of features of a record's own images; raises Damaged."""
        return self.cell(record.key).features(identity, record.images_hash)

    def missing_images(self, record: Record) -> list[int]:
        """As `CellFolder.missing_images`."""
        return self.cell(record.key).missing_images(() if record.images is None else record.images.hashes)

    def quarantine(self, name: str, why: str) -> None:
        """Move a changed file to `damaged/`, and report it."""
        quarantine(self.files, name, why)

    def unless_damaged(self, read: Callable[[], _Result]) -> _Result | None:
        """Return what `read` returns; None where it finds a damaged file, which is then quarantined."""
        try:
            return read()
        except Damaged as error:
            self.quarantine(error.name, error.why)
            return None

    def run(self) -> Run:
        """Return the last request; raises BenchError when none was written, Damaged where it was changed."""
        try:
            return Run.from_json(read_sealed(self.files, RUN).decode(errors="replace"))
        except FileNotFoundError as error:
            raise BenchError(
                f"results={self.location} holds no run.json; start the run again, what it finished is kept"
            ) from error
        except (Corrupt, ValueError, TypeError, KeyError, AttributeError) as error:
            raise Damaged(self.location, RUN, error) from error

    def save_run(self, run: Run) -> None:
        """Replace what was asked for. Raises BenchError for a store of another schema version."""
        quarantine_if_corrupt(self.files, RUN)
        put(self.files, RUN, seal(RUN, run.to_json().encode()))

    def write_bytes(self, name: str, content: bytes) -> str:
        """Write a file of the run, atomically; returns its location."""
        self.files.write(name, content)
        return f"{self.location}/{name}"

    def read_bytes(self, name: str) -> bytes | None:
        """Return a file of the run; None where it is missing."""
        with suppress(FileNotFoundError):
            return self.files.read(name)
        return None

    def has_reference(self, reference: str) -> bool:
        """Whether `load_reference` returns features."""
        return self.files.exists(_reference_name(reference))

    def load_reference(self, reference: str) -> NDArray[np.floating] | None:
        """Return features of the reference images (m, d), or None while there are none; raises Damaged."""
        found = self._reference(reference)
        return None if found is None else found["image"]

    def load_reference_parts(self, reference: str) -> Arrays:
        """Return the statistics that a reference is known by instead, if it is; raises Damaged."""
        return {name: array for name, array in (self._reference(reference) or {}).items() if name != "image"}

    def _reference(self, reference: str) -> Arrays | None:
        name = _reference_name(reference)
        try:
            return read_arrays(self.files, name)
        except FileNotFoundError:
            return None
        except Corrupt as error:
            raise Damaged(self.location, name, error) from error

    def save_reference(self, reference: str, features: NDArray[np.floating], parts: Arrays | None = None) -> None:
        """Write the features of the reference images, or none of them (0, d) and their statistics."""
        name = _reference_name(reference)
        put(self.files, name, pack_arrays(name, {"image": features, **(parts or {})}))

    def load_derived(self, reference: str, embeddings: NDArray[Any]) -> Arrays | None:
        """Return earlier results computed from reference features; None where they are missing or changed."""
        with suppress(FileNotFoundError, Corrupt):
            return read_arrays(self.files, _derived_name(reference), _hash_array(embeddings))
        return None

    def save_derived(self, reference: str, embeddings: NDArray[Any], derived: Arrays) -> None:
        """Store results that take long to compute from reference features; they are valid for exactly these."""
        name = _derived_name(reference)
        put(self.files, name, pack_arrays(name, derived, _hash_array(embeddings)))


def open_files(location: str | Path) -> Files:
    """Return the files of a directory, or of a URL that fsspec supports, such as s3://bucket/run."""
    if isinstance(location, str) and "://" in location:
        from bench.store.object_store import RemoteFiles

        return RemoteFiles(location)
    return LocalFiles(Path(location).expanduser())


def _reference_name(reference: str) -> str:
    return f"reference-{reference}.npz"


def _hash_array(values: NDArray[Any]) -> str:
    """Return the SHA-256 over values and layout."""
    found = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()


def _derived_name(reference: str) -> str:
    return f"reference-{reference}-parts.npz"


def quarantine_corrupt_records(store: Store, keys: Sequence[str]) -> list[str]:
    """Move damaged records of these cells to `damaged/` and report them; returns their previous names."""
    found = []
    for key in keys:
        for name in (GOOD, FAILED):
            try:
                store.cell(key).read_record(name)
            except (FileNotFoundError, BenchError):
                pass  # missing, or intact but of another version
            except Corrupt as error:
                store.quarantine(f"cells/{key}/{name}", str(error))
                found.append(f"cells/{key}/{name}")
    return found


def quarantine_corrupt_features(store: Store, run: Run) -> list[str]:
    """Do the same for the features by which a run is scored and for its reference's; all of them are read."""
    found = []
    for key in run.cells:
        record = store.cell(key).record()
        for identity in run.features.values():
            try:
                if record is not None and store.cell(key).has_features(identity):
                    store.features_of(record, identity)
            except Damaged as error:
                found.append(error)
    for reference in run.references.values():
        try:
            store.load_reference(reference)
        except Damaged as error:
            found.append(error)
    for damaged in found:
        store.quarantine(damaged.name, damaged.why)
    return [damaged.name for damaged in found]
