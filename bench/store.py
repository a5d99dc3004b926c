"""Records, images and features on disk. Readable without torch; safe against a kill at any moment.

A run's directory holds `run.json` (what was asked for) and, for each cell, `cells/<key>/`: `record.json` (written last:
a cell is done when it is there), or `failure.json` where the last try failed, `features-<extractor>.npz` and
`images/00000.png` …; while the cell runs, `batches/00000.npz` marks each finished batch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import time
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from bench.records import BenchError, Calls, Record
from bench.request import Run

Features = Mapping[str, NDArray[Any]]
GOOD, FAILED = "record.json", "failure.json"


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A finished batch of an unfinished cell."""

    start: int
    images: NDArray[np.uint8]
    features: Features
    calls: Calls
    sampling_s: float


class Store:
    """One run's directory. Making it checks that it can be written; raises BenchError otherwise."""

    def __init__(self, directory: Path, writable: bool = True) -> None:
        self.directory = directory
        if writable:
            try:
                (directory / "cells").mkdir(parents=True, exist_ok=True)
                probe = _partial(directory / "probe")
                probe.touch()
                probe.unlink()
                _sweep(chain(directory.glob("*.partial"), directory.glob("cells/*/*.partial")))
            except OSError as error:
                raise BenchError(
                    f"results={directory} cannot be written ({error.strerror}); choose another directory with results=…"
                ) from error
        elif not (directory / "cells").is_dir():
            raise BenchError(
                f"results={directory} holds no run (no folder cells/ in it); give the directory of a run, as in "
                "results=results/mini"
            )

    def cell_directory(self, key: str) -> Path:
        """Where everything of one cell lies."""
        return self.directory / "cells" / key

    def image_path(self, key: str, row: int) -> Path:
        """Where image `row` of a cell lies."""
        return self.cell_directory(key) / "images" / f"{row:05d}.png"

    def records(self) -> Iterator[Record]:
        """All records, ordered by key."""
        for directory in sorted((self.directory / "cells").iterdir()):
            record = self.record(directory.name)
            if record is not None:
                yield record

    def record(self, key: str) -> Record | None:
        """A cell's record: the good one, else that of its last failure, else None."""
        for name in (GOOD, FAILED):
            with suppress(FileNotFoundError):
                return Record.from_json((self.cell_directory(key) / name).read_text(encoding="utf-8"))
        return None

    def run(self) -> Run:
        """What was asked for last; raises BenchError when that was never written."""
        try:
            return Run.from_json((self.directory / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BenchError(
                f"results={self.directory} holds no run.json; start the run again, what it finished is kept"
            ) from error

    def save_run(self, run: Run) -> None:
        """Write what is asked for, in place of what was."""
        self.write_text("run.json", run.to_json())

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the run's directory as UTF-8, whole or not at all; returns its path."""
        return self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Write a file of the run's directory, whole or not at all; returns its path."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_durably(path, content)
        return path

    def has_features(self, key: str, extractor: str) -> bool:
        """Whether `features` will find something."""
        return self._features_path(key, extractor).exists()

    def features(self, key: str, extractor: str) -> dict[str, NDArray[Any]]:
        """A finished cell's per-image features by name, rows in the order of the prompts."""
        with np.load(self._features_path(key, extractor), allow_pickle=False) as arrays:
            return dict(arrays)

    def save_features(self, key: str, extractor: str, features: Features) -> None:
        """Write a cell's features, whole or not at all."""
        _write_arrays(self._features_path(key, extractor), features)

    def _features_path(self, key: str, extractor: str) -> Path:
        return self.cell_directory(key) / f"features-{extractor}.npz"

    def load_reference(self, reference: str) -> NDArray[np.floating] | None:
        """Features of the reference images (m, d), or None while there are none."""
        path = self.directory / f"reference-{reference}.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            features: NDArray[np.floating] = arrays["image"]
            return features

    def save_reference(self, reference: str, features: NDArray[np.floating]) -> None:
        """Write the features of the reference images."""
        _write_arrays(self.directory / f"reference-{reference}.npz", {"image": features})

    def images(self, key: str, rows: range) -> NDArray[np.uint8] | None:
        """Kept images, (n, h, w, 3); None when one of them is missing or broken."""
        try:
            return np.stack([np.asarray(Image.open(self.image_path(key, row))) for row in rows])
        except (OSError, ValueError, SyntaxError):  # Pillow calls a broken PNG a syntax error
            return None

    def save_batch(self, key: str, batch: StoredBatch) -> None:
        """Write a batch's images, then the file that marks it finished."""
        for offset, image in enumerate(batch.images):
            path = self.image_path(key, batch.start + offset)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = _partial(path)
            Image.fromarray(image).save(partial, format="PNG", compress_level=1)
            partial.replace(path)
        note = json.dumps(
            {"sha256": hash_images(batch.images), "calls": asdict(batch.calls), "sampling_s": batch.sampling_s}
        )
        path = self.cell_directory(key) / "batches" / f"{batch.start:05d}.npz"
        _write_arrays(path, {**batch.features, "note": np.frombuffer(note.encode(), np.uint8)})

    def load_batch(self, key: str, start: int) -> StoredBatch | None:
        """A batch that an earlier run finished; None if it is missing or damaged."""
        path = self.cell_directory(key) / "batches" / f"{start:05d}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = dict(stored)
            note = json.loads(arrays.pop("note").tobytes())
            count = len(next(iter(arrays.values())))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        images = self.images(key, range(start, start + count))
        if images is None or hash_images(images) != note["sha256"]:
            return None
        return StoredBatch(start, images, arrays, Calls.from_dict(note["calls"]), note["sampling_s"])

    def commit(self, record: Record, keep_images: int | None = None) -> bool:
        """Make a cell done, or note its failure. The first good record wins: False where another was there before.

        A failure never hides a good record. `keep_images` keeps the first so many images only.
        """
        directory = self.cell_directory(record.key)
        content = record.to_json().encode() + b"\n"
        if record.status != "ok":
            _write_durably(directory / FAILED, content)
            return not (directory / GOOD).exists()
        partial = _partial(directory / GOOD)
        _write_through(partial, content)
        try:
            os.link(partial, directory / GOOD)
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        (directory / FAILED).unlink(missing_ok=True)
        shutil.rmtree(directory / "batches", ignore_errors=True)
        _sweep(directory.rglob("*.partial"))
        if keep_images is not None and record.images is not None:
            for row in range(keep_images, record.images.count):
                self.image_path(record.key, row).unlink(missing_ok=True)
        return True

    def replace(self, record: Record) -> None:
        """Write a good record that says more in place of the one that is there."""
        _write_durably(self.cell_directory(record.key) / GOOD, record.to_json().encode() + b"\n")


def hash_images(images: NDArray[np.uint8]) -> str:
    """SHA-256 of the pixels."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def _write_arrays(path: Path, arrays: Features) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **dict(arrays))
    _write_durably(path, content.getvalue())


def _write_durably(path: Path, content: bytes) -> None:
    partial = _partial(path)
    _write_through(partial, content)
    partial.replace(path)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _partial(path: Path) -> Path:
    """A name beside `path` that no other writer has, and that says who writes; its directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.{_WRITER}-{uuid.uuid4().hex}.partial")


_HOST = platform.node().replace(".", "_") or "host"
_WRITER = f"{_HOST}-{os.getpid()}"


def _sweep(leftovers: Iterable[Path]) -> None:
    """Remove what writers left that were killed on this machine, and whatever is more than a day old."""
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
