"""Records, images and features of a run. Readable without torch; safe against a kill at any moment.

A run's directory, or a URL that fsspec knows, holds `run.json` (what was asked for) and, for each cell, `cells/<key>/`:
`record.json` (written last: a cell is done when it is there), or `failure.json` where the last try failed,
`features-<extractor>.npz` and `images/00000.png` …; while the cell is at work, `batches-<extractor>/00000.npz` marks
each finished batch and `lease-…` says who is at it. Every JSON file and every array carries a hash that each reading
checks (see `bench.store.sealed`); images are checked against their record or batch. What is found damaged goes to
`damaged/` and is made again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bench.records.errors import BenchError, Corrupt, Damaged, StoreError
from bench.records.record import Calls, Record
from bench.records.run import Run
from bench.store.arrays import Arrays, hash_array, pack_arrays, read_arrays
from bench.store.files import Files
from bench.store.local import LocalFiles
from bench.store.locations import open_files
from bench.store.png import hash_image, hash_images, read_known_png, read_png, to_png
from bench.store.retrying import RetryingFiles
from bench.store.sealed import read_sealed, seal

Features = Arrays
GOOD, FAILED, RUN = "record.json", "failure.json", "run.json"
INPUTS = "inputs/hashes.json"
PROBE = ".tcd-bench-probe"


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A finished batch of an unfinished cell; `hashes` are of its images' pixels, one for each."""

    start: int
    features: Features
    calls: Calls
    sampling_s: float
    hashes: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many images it is about."""
        return len(next(iter(self.features.values())))


class Store:
    """One run. Making it checks that it can be written; raises BenchError otherwise.

    `store_retry_s` is how long a full disk or a store out of reach is waited for.
    """

    def __init__(self, location: str | Path, writable: bool = True, store_retry_s: float = 0.0) -> None:
        if str(location) in {"", "None"}:
            raise BenchError("results is empty; name a directory or a URL, as in results=results/mini")
        files = open_files(location)
        self._local = files if isinstance(files, LocalFiles) else None
        self.files: Files = RetryingFiles(files, store_retry_s)
        if writable:
            try:
                if self._local:
                    self._local.check_writable()
                    self._local.sweep()
                else:
                    files.write(PROBE, b"")
                    files.remove(PROBE)
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
        return any(self.files.exists(name) for name in (RUN, "cells", "launches"))

    def cell_keys(self) -> list[str]:
        """The cells that something is known of, in order; what other programs left there is not among them."""
        return [name for name in self.files.names("cells") if not name.startswith(".")]

    def records(self) -> Iterator[Record]:
        """All records, ordered by key."""
        for key in self.cell_keys():
            record = self.record(key)
            if record is not None:
                yield record

    def record(self, key: str) -> Record | None:
        """A cell's record: the good one, else that of its last failure, else None. A damaged one is as if not there.

        Raises BenchError for a record of another schema version.
        """
        for name in (GOOD, FAILED):
            with suppress(FileNotFoundError, Corrupt):
                return self.read_record(key, name)
        return None

    def whole_record(self, key: str) -> Record | None:
        """As `record`, for who must not take a damaged record for a cell that was not run; raises Damaged."""
        for name in (GOOD, FAILED):
            try:
                return self.read_record(key, name)
            except FileNotFoundError:
                continue
            except Corrupt as error:
                raise Damaged(self.location, f"cells/{key}/{name}", str(error)) from error
        return None

    def read_record(self, key: str, name: str) -> Record:
        """One of a cell's records; raises FileNotFoundError, Corrupt, and BenchError for another schema version."""
        content = read_sealed(self.files, f"cells/{key}/{name}")
        return Record.from_json(content.decode(errors="replace"))

    def run(self) -> Run:
        """What was asked for last; raises BenchError when that was never written, Damaged where it was changed."""
        try:
            return Run.from_json(read_sealed(self.files, RUN).decode(errors="replace"))
        except FileNotFoundError as error:
            raise BenchError(
                f"results={self.location} holds no run.json; start the run again, what it finished is kept"
            ) from error
        except (Corrupt, ValueError, TypeError, KeyError, AttributeError) as error:
            raise Damaged(self.location, RUN, str(error)) from error

    def save_run(self, run: Run) -> None:
        """Write what is asked for, in place of what was. Raises BenchError for a store of another schema version."""
        try:
            read_sealed(self.files, RUN)
        except FileNotFoundError:
            pass
        except Corrupt as error:
            self.quarantine(RUN, str(error))
        self._put(RUN, seal(RUN, run.to_json().encode()))

    def _put(self, name: str, content: bytes, durable: bool = True) -> None:
        """Write a file of the run; a folder in its place, or a file in the place of its folder, is set aside."""
        for _ in range(name.count("/") + 1):
            try:
                return self.files.write(name, content, durable)
            except StoreError as error:
                if not isinstance(error.__cause__, (IsADirectoryError, NotADirectoryError, FileExistsError)):
                    raise
                self._clear_way(name)
        return self.files.write(name, content, durable)

    def _clear_way(self, name: str) -> None:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            with suppress(FileNotFoundError, Corrupt):
                self.files.read(above)
                return self.quarantine(above, "a file lies in the place of a folder")
        return self.quarantine(name, "a folder lies in its place")

    def quarantine(self, name: str, why: str) -> None:
        """Move what is not what was written to `damaged/`, and say so."""
        target = f"damaged/{name.replace('/', '-')}"
        for number in range(1, 1000):
            if not self.files.exists(target):
                break
            target = f"damaged/{name.replace('/', '-')}.{number}"
        try:
            self.files.move(name, target)
        except FileNotFoundError:
            return
        print(
            f"results={self.location}: {name} is damaged ({why}); it lies in damaged/ now and tcd-bench run makes it "
            "again",
            file=sys.stderr,
        )

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
        return self.files.exists(features_name(key, extractor))

    def features(self, key: str, extractor: str, images: str = "") -> dict[str, NDArray[Any]]:
        """A finished cell's per-image features by name, rows in the order of the prompts.

        `images` is the hash of the cell's images that they have to be of. Raises Damaged where they are anything else.
        """
        name = features_name(key, extractor)
        try:
            return read_arrays(self.files, name, images)
        except (Corrupt, FileNotFoundError) as error:
            raise Damaged(self.location, name, _why(error)) from error

    def features_of(self, record: Record, extractor: str) -> dict[str, NDArray[Any]]:
        """The features of a record's own images; raises Damaged."""
        return self.features(record.key, extractor, record.images_hash)

    def save_features(self, key: str, extractor: str, features: Features, images: str = "") -> None:
        """Write a cell's features, whole or not at all, bound to the hash of the images they were computed from."""
        name = features_name(key, extractor)
        self._put(name, pack_arrays(name, features, images))

    def drop_features(self, key: str, extractor: str) -> None:
        """Remove a cell's features."""
        self.files.remove(features_name(key, extractor))

    def has_reference(self, reference: str) -> bool:
        """Whether `load_reference` will find something."""
        return self.files.exists(_reference_name(reference))

    def load_reference(self, reference: str) -> NDArray[np.floating] | None:
        """Features of the reference images (m, d), or None while there are none; raises Damaged."""
        name = _reference_name(reference)
        try:
            return read_arrays(self.files, name)["image"]
        except FileNotFoundError:
            return None
        except Corrupt as error:
            raise Damaged(self.location, name, _why(error)) from error

    def save_reference(self, reference: str, features: NDArray[np.floating]) -> None:
        """Write the features of the reference images."""
        name = _reference_name(reference)
        self._put(name, pack_arrays(name, {"image": features}))

    def load_derived(self, reference: str, embeddings: NDArray[Any]) -> Features | None:
        """What was computed from reference features before; None where it was not, or is not what was written."""
        with suppress(FileNotFoundError, Corrupt):
            return read_arrays(self.files, _derived_name(reference), hash_array(embeddings))
        return None

    def save_derived(self, reference: str, embeddings: NDArray[Any], derived: Features) -> None:
        """Keep what takes long to compute from reference features; it is of use for exactly these."""
        name = _derived_name(reference)
        self._put(name, pack_arrays(name, derived, hash_array(embeddings)))

    def image(self, key: str, row: int) -> bytes | None:
        """A kept image as PNG, not verified; None where it is missing."""
        return self.read_bytes(image_name(key, row))

    def has_image(self, key: str, row: int) -> bool:
        """Whether `image` will find something."""
        return self.files.exists(image_name(key, row))

    def images(self, key: str, rows: range) -> NDArray[np.uint8] | None:
        """Kept images, (n, h, w, 3), not verified; None when one of them is missing or broken."""
        try:
            return np.stack([read_png(self.files.read(image_name(key, row))) for row in rows])
        except (FileNotFoundError, Corrupt, ValueError):
            return None

    def kept_image(self, record: Record, row: int) -> bytes:
        """An image of a finished cell as PNG; raises Damaged where it is not the one that the record is about."""
        return self._kept(record, row)[0]

    def kept_images(self, record: Record, rows: range) -> NDArray[np.uint8] | None:
        """Images of a finished cell (n, h, w, 3); None where one was not kept or is gone, else as `kept_image`."""
        hashes = () if record.images is None else record.images.hashes
        if not all(row < len(hashes) and hashes[row] and self.has_image(record.key, row) for row in rows):
            return None
        return np.stack([self._kept(record, row)[1] for row in rows])

    def _kept(self, record: Record, row: int) -> tuple[bytes, NDArray[np.uint8]]:
        name, hashes = image_name(record.key, row), () if record.images is None else record.images.hashes
        try:
            content = self.files.read(name)
            return content, read_known_png(content, hashes[row] if row < len(hashes) else "")
        except (FileNotFoundError, Corrupt) as error:
            raise Damaged(self.location, name, _why(error)) from error

    def missing_images(self, record: Record) -> list[int]:
        """Rows of kept images that are gone; none where the whole folder is, which people remove to make room."""
        hashes = () if record.images is None else record.images.hashes
        there = set(self.files.names(f"cells/{record.key}/images")) if hashes else set()
        return [row for row, known in enumerate(hashes) if there and known and f"{row:05d}.png" not in there]

    def save_image(self, key: str, row: int, image: NDArray[np.uint8]) -> None:
        """Write one image (h, w, 3)."""
        self._put(image_name(key, row), to_png(image))

    def save_inputs(self, inputs: Arrays) -> None:
        """Keep pictures (h, w, 3) of what images were made from, under names such as `00000-mask`, and their hashes."""
        for name, picture in inputs.items():
            self._put(f"inputs/{name}.png", to_png(picture))
        hashes = {name: hash_image(picture) for name, picture in inputs.items()}
        self._put(INPUTS, seal(INPUTS, json.dumps(hashes).encode()))

    def inputs(self) -> dict[str, str]:
        """The hashes of the pictures that `save_inputs` kept, by name; empty where there are none, or damaged ones."""
        with suppress(FileNotFoundError, Corrupt):
            found: dict[str, str] = json.loads(read_sealed(self.files, INPUTS))
            return found
        return {}

    def input_picture(self, name: str) -> bytes | None:
        """One of them as PNG; None where it is gone or not what was written."""
        with suppress(FileNotFoundError, Corrupt):
            content = self.files.read(f"inputs/{name}.png")
            read_known_png(content, self.inputs().get(name, ""))
            return content
        return None

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
        for offset, content in enumerate(() if images is None else each(to_png, images)):
            self._put(image_name(key, batch.start + offset), content, durable=False)
        note = json.dumps({"hashes": batch.hashes, "calls": asdict(batch.calls), "sampling_s": batch.sampling_s})
        arrays = {**batch.features, "note": np.frombuffer(note.encode(), np.uint8)}
        name = _batch_name(key, extractor, batch.start)
        self._put(name, pack_arrays(name, arrays))

    def load_batch(self, key: str, extractor: str, start: int) -> StoredBatch | None:
        """A batch that was finished before, or None; a damaged one is set aside. Its images are not looked at."""
        name = _batch_name(key, extractor, start)
        try:
            arrays = read_arrays(self.files, name)
        except FileNotFoundError:
            return None
        except Corrupt as error:
            self.quarantine(name, str(error))
            return None
        note = json.loads(arrays.pop("note").tobytes())
        calls = Calls.from_dict(note["calls"])
        return StoredBatch(start, arrays, calls, note["sampling_s"], tuple(note["hashes"]))

    def is_whole(self, key: str, batch: StoredBatch) -> bool:
        """Whether a batch's images are there as they were saved, bit for bit."""
        images = self.images(key, range(batch.start, batch.start + batch.count))
        return images is not None and hash_images(images) == batch.hashes

    def commit(self, record: Record, keep_images: int | None = None) -> bool:
        """Make a cell done, or note its failure. The first good record wins: False where another was there before.

        A failure never hides a good record. `keep_images` keeps the first so many images only.
        """
        folder = f"cells/{record.key}"
        if record.status != "ok":
            self._put(f"{folder}/{FAILED}", seal(f"{folder}/{FAILED}", record.to_json().encode()))
            return not self.files.exists(f"{folder}/{GOOD}")
        if not self.files.create(f"{folder}/{GOOD}", seal(f"{folder}/{GOOD}", record.to_json().encode())):
            return False
        self.files.remove(f"{folder}/{FAILED}")
        self.clear_traces(record.key)
        if self._local:
            self._local.sweep(folder)
        if keep_images is not None:
            self.drop_images(record.key, keep_images)
        return True

    def drop_images(self, key: str, first: int) -> None:
        """Remove a cell's images from row `first` on."""
        for name in self.files.names(f"cells/{key}/images"):
            if (found := re.fullmatch(r"([0-9]{5,9})\.png", name)) and int(found[1]) >= first:
                self.files.remove(f"cells/{key}/images/{name}")

    def replace(self, record: Record) -> None:
        """Write a good record that says more in place of the one that is there."""
        name = f"cells/{record.key}/{GOOD}"
        self._put(name, seal(name, record.to_json().encode()))

    def clear_traces(self, key: str) -> None:
        """Remove what only work on a cell needs: marks of finished batches, leases."""
        for name in self.files.names(f"cells/{key}"):
            if name.startswith(("batches-", "lease-")):
                self.files.remove(f"cells/{key}/{name}")

    def batch_starts(self, key: str, extractor: str) -> set[int]:
        """The first rows of all batches that are marked finished."""
        names = self.files.names(f"cells/{key}/batches-{extractor}")
        return {int(name.removesuffix(".npz")) for name in names if re.fullmatch(r"[0-9]{5,9}\.npz", name)}

    def drop_batch(self, key: str, extractor: str, start: int) -> None:
        """Forget that a batch was finished."""
        self.files.remove(_batch_name(key, extractor, start))


def image_name(key: str, row: int) -> str:
    """Where image `row` of a cell lies in the run."""
    return f"cells/{key}/images/{row:05d}.png"


def features_name(key: str, extractor: str) -> str:
    """Where a cell's features lie in the run."""
    return f"cells/{key}/features-{extractor}.npz"


def _reference_name(reference: str) -> str:
    return f"reference-{reference}.npz"


def _derived_name(reference: str) -> str:
    return f"reference-{reference}-parts.npz"


def _why(error: Exception) -> str:
    return "it is gone" if isinstance(error, FileNotFoundError) else str(error)


def _batch_name(key: str, extractor: str, start: int) -> str:
    return f"cells/{key}/batches-{extractor}/{start:05d}.npz"
