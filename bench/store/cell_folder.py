"""One cell's folder in a run: its record, features, images and, while the cell is unfinished, its finished batches.

`record.json` is written last: a cell is done when it exists; `failure.json` holds the record of the last failed
attempt, `features-<identity>.npz` a set of features, `features-latents.npz` the latents of a few images,
`images/00000.png` … the images, `batches-<identity>/00000.npz` marks each finished batch, and `lease-…` names the
worker that holds it. The identity of features is a hash of what computes them, that of batches a hash over those of
their sets of features.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records.cell import content_hash
from bench.records.errors import Corrupt, Damaged
from bench.records.record import Calls, Record, to_tuples
from bench.store.files import Files
from bench.store.safe_writing import put, quarantine
from bench.store.sealed import Arrays, pack_arrays, read_arrays, read_sealed, seal

GOOD, FAILED = "record.json", "failure.json"
LATENTS = "latents"
"""In place of the identity of features: the trajectory of a few images' latents, which no score needs."""


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A finished batch of an unfinished cell, with its features by the identity of their set.

    `hashes` are of its images' pixels, one per image.
    """

    start: int
    features: Mapping[str, Arrays]
    calls: Calls
    sampling_s: float
    hashes: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.hashes)


@dataclass(frozen=True, slots=True)
class CellFolder:
    """The stored data of one cell, read on demand."""

    files: Files
    key: str

    @property
    def name(self) -> str:
        """The folder's name below the root of the run."""
        return f"cells/{self.key}"

    def record(self, must_be_whole: bool = False) -> Record | None:
        """Return the cell's good record, else that of its last failure, else None.

        A damaged record counts as missing, or raises Damaged where that must not look like a cell that was not run.
        Raises BenchError for a record of another schema version.
        """
        for name in (GOOD, FAILED):
            try:
                return self.read_record(name)
            except FileNotFoundError:
                continue
            except Corrupt as error:
                if must_be_whole:
                    raise Damaged(self.files.location, f"{self.name}/{name}", error) from error
        return None

    def read_record(self, name: str) -> Record:
        """Return one of the records; raises FileNotFoundError, Corrupt, and BenchError for another schema version."""
        return Record.from_json(read_sealed(self.files, f"{self.name}/{name}").decode(errors="replace"))

    def commit(self, record: Record, keep_images: int | None = None) -> bool:
        """Mark the cell as done, or record its failure. The first good record wins: returns False if another exists.

        A failure never hides a good record. `keep_images` limits the kept images to the first ones.
        """
        if record.status != "ok":
            put(self.files, f"{self.name}/{FAILED}", self._seal(FAILED, record))
            return not self.files.exists(f"{self.name}/{GOOD}")
        if not self.files.create(f"{self.name}/{GOOD}", self._seal(GOOD, record)):
            return False
        self.files.remove(f"{self.name}/{FAILED}")
        self.clear_traces()
        self.files.sweep(self.name)
        if keep_images is not None:
            self.drop_images(keep_images)
        return True

    def replace(self, record: Record) -> None:
        """Replace the good record by one that says more."""
        put(self.files, f"{self.name}/{GOOD}", self._seal(GOOD, record))

    def _seal(self, name: str, record: Record) -> bytes:
        return seal(f"{self.name}/{name}", record.to_json().encode())

    def clear_traces(self) -> None:
        """Remove files that only unfinished work needs: marks of finished batches, leases."""
        for name in self.files.names(self.name):
            if name.startswith(("batches-", "lease-")):
                self.files.remove(f"{self.name}/{name}")

    def features_name(self, identity: str) -> str:
        """Return the name of the file of a set of features below the root of the run."""
        return f"{self.name}/features-{identity}.npz"

    def has_features(self, identity: str) -> bool:
        """Whether `features` exist."""
        return self.files.exists(self.features_name(identity))

    def missing_features(self, identities: Iterable[str]) -> list[str]:
        """Return the sets of features that do not exist, in the given order."""
        return [identity for identity in dict.fromkeys(identities) if not self.has_features(identity)]

    def features(self, identity: str, images: str = "") -> dict[str, NDArray[Any]]:
        """Return a set of per-image features of the finished cell by name, rows in the order of the prompts.

        `images` is the hash of the images that they were computed from. Raises Damaged where they belong to others.
        """
        name = self.features_name(identity)
        try:
            return read_arrays(self.files, name, images)
        except (Corrupt, FileNotFoundError) as error:
            raise Damaged(self.files.location, name, error) from error

    def save_features(self, identity: str, features: Arrays, images: str = "") -> None:
        """Write a set of features atomically, bound to the hash of the images that they were computed from."""
        name = self.features_name(identity)
        put(self.files, name, pack_arrays(name, features, images))

    def drop_features(self, identity: str) -> None:
        """Remove a set of features."""
        self.files.remove(self.features_name(identity))

    def image_name(self, row: int) -> str:
        """Return the name of an image's file below the root of the run."""
        return f"{self.name}/images/{row:05d}.png"

    def image(self, row: int) -> bytes | None:
        """Return the file of a kept image, not verified; None where it is missing."""
        with suppress(FileNotFoundError):
            return self.files.read(self.image_name(row))
        return None

    def has_image(self, row: int) -> bool:
        """Whether `image` exists."""
        return self.files.exists(self.image_name(row))

    def save_image(self, row: int, content: bytes, durable: bool = True) -> None:
        """Write the file of one image."""
        put(self.files, self.image_name(row), content, durable)

    def drop_images(self, first: int) -> None:
        """Remove images from row `first` on."""
        for name in self.files.names(f"{self.name}/images"):
            if (found := re.fullmatch(r"([0-9]{5,9})\.png", name)) and int(found[1]) >= first:
                self.files.remove(f"{self.name}/images/{name}")

    def missing_images(self, hashes: Sequence[str]) -> list[int]:
        """Return rows of missing kept images; empty where users removed the whole folder to save space.

        `hashes` are those of the record, empty for an image that was not kept.
        """
        there = set(self.files.names(f"{self.name}/images")) if hashes else set()
        return [row for row, known in enumerate(hashes) if there and known and f"{row:05d}.png" not in there]

    def save_batch(self, batch: StoredBatch, images: Iterable[bytes] = ()) -> None:
        """Write the files of a batch's images, unless they are stored already, then the mark of the finished batch."""
        for row, content in enumerate(images, batch.start):
            self.save_image(row, content, durable=False)
        note = json.dumps({"hashes": batch.hashes, "calls": asdict(batch.calls), "sampling_s": batch.sampling_s})
        arrays = {
            f"{identity}/{name}": rows for identity, found in batch.features.items() for name, rows in found.items()
        }
        name = _mark(self.name, batch_identity(batch.features), batch.start)
        put(self.files, name, pack_arrays(name, {**arrays, "note": np.frombuffer(note.encode(), np.uint8)}))

    def load_batch(self, identity: str, start: int) -> StoredBatch | None:
        """Return a batch that was finished before, or None; a damaged one is set aside. Its images are not read."""
        name = _mark(self.name, identity, start)
        try:
            arrays = read_arrays(self.files, name)
        except FileNotFoundError:
            return None
        except Corrupt as error:
            quarantine(self.files, name, str(error))
            return None
        note = json.loads(arrays.pop("note").tobytes())
        features: dict[str, dict[str, NDArray[Any]]] = {}
        for place, rows in arrays.items():
            owner, _, feature = place.partition("/")
            features.setdefault(owner, {})[feature] = rows
        calls = Calls(**to_tuples(note["calls"]))
        return StoredBatch(start, features, calls, note["sampling_s"], tuple(note["hashes"]))

    def other_batches(self, identity: str, start: int) -> Iterator[StoredBatch]:
        """Yield the same batch as it was finished with other sets of features."""
        for folder in self.files.names(self.name):
            other = folder.removeprefix("batches-")
            if folder != other != identity and (batch := self.load_batch(other, start)) is not None:
                yield batch

    def batch_starts(self, identity: str) -> set[int]:
        """Return the first rows of all batches that are marked as finished."""
        names = self.files.names(f"{self.name}/batches-{identity}")
        return {int(name.removesuffix(".npz")) for name in names if re.fullmatch(r"[0-9]{5,9}\.npz", name)}

    def drop_batch(self, identity: str, start: int) -> None:
        """Remove the mark of a finished batch."""
        self.files.remove(_mark(self.name, identity, start))


def batch_identity(identities: Iterable[str]) -> str:
    """Return the identity of batches that have these sets of features."""
    return content_hash(sorted(identities))


def _mark(cell: str, identity: str, start: int) -> str:
    return f"{cell}/batches-{identity}/{start:05d}.npz"
