"""Records, images and features of a run. Readable without torch; safe against a kill at any moment.

A run's directory, or a URL that fsspec knows, holds `run.json` (what was asked for) and, for each cell, `cells/<key>/`:
`record.json` (written last: a cell is done when it is there), or `failure.json` where the last try failed,
`features-<extractor>.npz` and `images/00000.png` …; while the cell is at work, `batches-<extractor>/00000.npz` marks
each finished batch and `lease-…` says who is at it. What is found damaged goes to `damaged/` and is made again.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.files import Files, LocalFiles, PatientFiles, open_files
from bench.records import BenchError, Calls, Corrupt, Record
from bench.request import Run

Features = Mapping[str, NDArray[Any]]
GOOD, FAILED = "record.json", "failure.json"


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A finished batch of an unfinished cell; `sha256` is of its images' pixels."""

    start: int
    features: Features
    calls: Calls
    sampling_s: float
    sha256: str

    @property
    def count(self) -> int:
        """How many images it is about."""
        return len(next(iter(self.features.values())))


class Store:
    """One run. Making it checks that it can be written; raises BenchError otherwise.

    `patience_s` is how long a full disk or a store out of reach is waited for.
    """

    def __init__(self, location: str | Path, writable: bool = True, patience_s: float = 0.0) -> None:
        if str(location) in {"", "None"}:
            raise BenchError("results is empty; name a directory or a URL, as in results=results/mini")
        files = open_files(location)
        self._local = files if isinstance(files, LocalFiles) else None
        self.files: Files = PatientFiles(files, patience_s) if patience_s else files
        if writable:
            try:
                if self._local:
                    self._local.check_writable()
                    self._local.sweep()
                else:
                    files.write("probe", b"")
            except OSError as error:
                raise BenchError(
                    f"results={location} cannot be written ({error.strerror}); choose another directory with results=…"
                ) from error
        elif not self.has_run():
            raise BenchError(
                f"results={location} holds no run (no folder cells/ in it); give the directory of a run, as in "
                "results=results/mini"
            )

    @classmethod
    def of_run(cls, location: str | Path) -> Self | None:
        """The store to read from; None where nothing was run yet."""
        try:
            return cls(location, writable=False)
        except BenchError:
            return None

    @property
    def location(self) -> str:
        """The directory or URL."""
        return self.files.location

    def has_run(self) -> bool:
        """Whether anything was ever run here."""
        return any(self.files.exists(name) for name in ("run.json", "cells", "launches"))

    def cell_keys(self) -> list[str]:
        """The cells that something is known of, in order."""
        return self.files.names("cells")

    def records(self) -> Iterator[Record]:
        """All records, ordered by key."""
        for key in self.cell_keys():
            record = self.record(key)
            if record is not None:
                yield record

    def record(self, key: str) -> Record | None:
        """A cell's record: the good one, else that of its last failure, else None. A damaged one is as if not there."""
        for name in (GOOD, FAILED):
            with suppress(FileNotFoundError, Corrupt):
                return Record.from_json(self.files.read(f"cells/{key}/{name}").decode(errors="replace"))
        return None

    def run(self) -> Run:
        """What was asked for last; raises BenchError when that was never written."""
        try:
            return Run.from_json(self.files.read("run.json").decode())
        except FileNotFoundError as error:
            raise BenchError(
                f"results={self.location} holds no run.json; start the run again, what it finished is kept"
            ) from error

    def save_run(self, run: Run) -> None:
        """Write what is asked for, in place of what was."""
        self.write_text("run.json", run.to_json())

    def write_text(self, name: str, text: str) -> str:
        """Write a file of the run as UTF-8, whole or not at all; returns where it lies."""
        return self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> str:
        """Write a file of the run, whole or not at all; returns where it lies."""
        self.files.write(name, content)
        return f"{self.location}/{name}"

    def read_bytes(self, name: str) -> bytes | None:
        """A file of the run; None where there is none."""
        with suppress(FileNotFoundError):
            return self.files.read(name)
        return None

    def has_features(self, key: str, extractor: str) -> bool:
        """Whether `features` will find something."""
        return self.files.exists(_features_name(key, extractor))

    def features(self, key: str, extractor: str) -> dict[str, NDArray[Any]]:
        """A finished cell's per-image features by name, rows in the order of the prompts.

        Raises BenchError where they are damaged.
        """
        name = _features_name(key, extractor)
        try:
            return to_arrays(self.files.read(name))
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BenchError(
                f"results={self.location}: {name} is damaged ({error}); start the run again, it makes that file anew"
            ) from error

    def save_features(self, key: str, extractor: str, features: Features) -> None:
        """Write a cell's features, whole or not at all."""
        self.files.write(_features_name(key, extractor), to_bytes(features))

    def drop_features(self, key: str, extractor: str) -> None:
        """Remove a cell's features."""
        self.files.remove(_features_name(key, extractor))

    def load_reference(self, reference: str) -> NDArray[np.floating] | None:
        """Features of the reference images (m, d), or None while there are none."""
        content = self.read_bytes(f"reference-{reference}.npz")
        return None if content is None else to_arrays(content)["image"]

    def save_reference(self, reference: str, features: NDArray[np.floating]) -> None:
        """Write the features of the reference images."""
        self.files.write(f"reference-{reference}.npz", to_bytes({"image": features}))

    def image(self, key: str, row: int) -> bytes | None:
        """A kept image as PNG; None where it is missing."""
        return self.read_bytes(image_name(key, row))

    def has_image(self, key: str, row: int) -> bool:
        """Whether `image` will find something."""
        return self.files.exists(image_name(key, row))

    def images(self, key: str, rows: range) -> NDArray[np.uint8] | None:
        """Kept images, (n, h, w, 3); None when one of them is missing or broken."""
        try:
            return np.stack([np.asarray(Image.open(io.BytesIO(self.files.read(image_name(key, row))))) for row in rows])
        except (OSError, ValueError, SyntaxError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise  # the disk's trouble, not the image's
            return None  # Pillow calls a broken PNG a syntax error

    def save_batch(
        self,
        key: str,
        extractor: str,
        batch: StoredBatch,
        images: NDArray[np.uint8] | None,
        each: Callable[..., Iterable[bytes]] = map,
    ) -> None:
        """Write a batch's images, where they are not kept already, then the file that marks it finished.

        `each` is `map`, or one in threads.
        """
        for offset, content in enumerate(() if images is None else each(_to_png, images)):
            self.files.write(image_name(key, batch.start + offset), content, durable=False)
        note = json.dumps({"sha256": batch.sha256, "calls": asdict(batch.calls), "sampling_s": batch.sampling_s})
        arrays = {**batch.features, "note": np.frombuffer(note.encode(), np.uint8)}
        self.files.write(_batch_name(key, extractor, batch.start), to_bytes(arrays))

    def load_batch(self, key: str, extractor: str, start: int) -> StoredBatch | None:
        """A batch that was finished before; None if it is missing or damaged. Its images are not looked at."""
        try:
            arrays = to_arrays(self.files.read(_batch_name(key, extractor, start)))
            note = json.loads(arrays.pop("note").tobytes())
            return StoredBatch(start, arrays, Calls.from_dict(note["calls"]), note["sampling_s"], note["sha256"])
        except (FileNotFoundError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def is_whole(self, key: str, batch: StoredBatch) -> bool:
        """Whether a batch's images are there as they were saved, bit for bit."""
        images = self.images(key, range(batch.start, batch.start + batch.count))
        return images is not None and hash_images(images) == batch.sha256

    def commit(self, record: Record, keep_images: int | None = None) -> bool:
        """Make a cell done, or note its failure. The first good record wins: False where another was there before.

        A failure never hides a good record. `keep_images` keeps the first so many images only.
        """
        folder = f"cells/{record.key}"
        content = record.to_json().encode() + b"\n"
        if record.status != "ok":
            self.files.write(f"{folder}/{FAILED}", content)
            return not self.files.exists(f"{folder}/{GOOD}")
        if not self.files.create(f"{folder}/{GOOD}", content):
            return False
        self.files.remove(f"{folder}/{FAILED}")
        self.clear_traces(record.key)
        if self._local:
            self._local.sweep(folder)
        if keep_images is not None and record.images is not None:
            for row in range(keep_images, record.images.count):
                self.files.remove(image_name(record.key, row))
        return True

    def replace(self, record: Record) -> None:
        """Write a good record that says more in place of the one that is there."""
        self.files.write(f"cells/{record.key}/{GOOD}", record.to_json().encode() + b"\n")

    def clear_traces(self, key: str) -> None:
        """Remove what only work on a cell needs: marks of finished batches, leases."""
        for name in self.files.names(f"cells/{key}"):
            if name.startswith(("batches-", "lease-")):
                self.files.remove(f"cells/{key}/{name}")

    def batch_starts(self, key: str, extractor: str) -> set[int]:
        """The first rows of all batches that are marked finished."""
        names = self.files.names(f"cells/{key}/batches-{extractor}")
        return {int(name.removesuffix(".npz")) for name in names if name.endswith(".npz")}

    def drop_batch(self, key: str, extractor: str, start: int) -> None:
        """Forget that a batch was finished."""
        self.files.remove(_batch_name(key, extractor, start))


def _to_png(image: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)  # small and fast
    return content.getvalue()


def hash_images(images: NDArray[np.uint8]) -> str:
    """SHA-256 of the pixels."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def image_name(key: str, row: int) -> str:
    """Where image `row` of a cell lies in the run."""
    return f"cells/{key}/images/{row:05d}.png"


def _features_name(key: str, extractor: str) -> str:
    return f"cells/{key}/features-{extractor}.npz"


def _batch_name(key: str, extractor: str, start: int) -> str:
    return f"cells/{key}/batches-{extractor}/{start:05d}.npz"


def to_bytes(arrays: Features) -> bytes:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **dict(arrays))
    return content.getvalue()


def to_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Arrays by name as `np.savez` wrote them; raises ValueError, KeyError or BadZipFile for what is damaged."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)
