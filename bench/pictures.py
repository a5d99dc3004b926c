"""Pictures of a run: PNG files, each with a hash over its pixels that every reading checks."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.records.errors import Corrupt, Damaged
from bench.records.record import Record
from bench.store.cell_folder import CellFolder, StoredBatch
from bench.store.files import Files
from bench.store.safe_writing import put
from bench.store.sealed import read_sealed, seal
from bench.store.store import Store

INPUTS = "inputs/hashes.json"


def to_png(image: NDArray[np.uint8]) -> bytes:
    """An image (h, w, 3) as PNG."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)  # small and fast
    return content.getvalue()


def read_png(content: bytes) -> NDArray[np.uint8]:
    """The pixels (h, w, 3) of an image of the store; raises Corrupt."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow: a broken PNG is syntax
        raise Corrupt("it is not a whole PNG") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise Corrupt("it is not an image as they are written")
    return pixels


def read_known_png(content: bytes, known: str) -> NDArray[np.uint8]:
    """The pixels (h, w, 3) of the image with this hash; raises Corrupt where it is another."""
    image = read_png(content)
    if hash_image(image) != known:
        raise Corrupt("it is not the image that was sampled")
    return image


def hash_image(image: NDArray[np.uint8]) -> str:
    """16 hexadecimal digits over the pixels (h, w, 3) and their layout."""
    found = hashlib.sha256(str(image.shape).encode())
    found.update(np.ascontiguousarray(image).data)
    return found.hexdigest()[:16]


def hash_images(images: NDArray[np.uint8]) -> tuple[str, ...]:
    """The hash of each image (n, h, w, 3)."""
    return tuple(hash_image(image) for image in images)


def hash_all(hashes: Sequence[str]) -> str:
    """SHA-256 over the hashes of all images in order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def read_images(cell: CellFolder, rows: range) -> NDArray[np.uint8] | None:
    """Images of a cell, (n, h, w, 3), not verified; None where one is missing or broken."""
    try:
        return np.stack([read_png(cell.files.read(cell.image_name(row))) for row in rows])
    except (FileNotFoundError, Corrupt, ValueError):
        return None


def batch_images(cell: CellFolder, batch: StoredBatch) -> NDArray[np.uint8] | None:
    """The images of a finished batch, (n, h, w, 3); None where one is not as it was saved, bitwise."""
    images = read_images(cell, range(batch.start, batch.start + batch.count))
    return images if images is not None and hash_images(images) == batch.hashes else None


def kept_image(store: Store, record: Record, row: int) -> bytes:
    """An image of a finished cell as PNG; raises Damaged where it is not the one that the record is about."""
    return _kept(store, record, row)[0]


def kept_images(store: Store, record: Record, rows: range) -> NDArray[np.uint8] | None:
    """Images of a finished cell (n, h, w, 3); None where one was not kept or is gone, else as `kept_image`."""
    hashes = () if record.images is None else record.images.hashes
    cell = store.cell(record.key)
    if not all(row < len(hashes) and hashes[row] and cell.has_image(row) for row in rows):
        return None
    return np.stack([_kept(store, record, row)[1] for row in rows])


def _kept(store: Store, record: Record, row: int) -> tuple[bytes, NDArray[np.uint8]]:
    name, hashes = store.cell(record.key).image_name(row), () if record.images is None else record.images.hashes
    try:
        content = store.files.read(name)
        return content, read_known_png(content, hashes[row] if row < len(hashes) else "")
    except (FileNotFoundError, Corrupt) as error:
        raise Damaged(store.location, name, error) from error


def save_inputs(store: Store, inputs: Mapping[str, NDArray[np.uint8]]) -> None:
    """Keep pictures (h, w, 3) of what images were made from, under names such as `00000-mask`, and their hashes."""
    for name, picture in inputs.items():
        put(store.files, f"inputs/{name}.png", to_png(picture))
    hashes = {name: hash_image(picture) for name, picture in inputs.items()}
    put(store.files, INPUTS, seal(INPUTS, json.dumps(hashes).encode()))


def input_hashes(store: Store) -> dict[str, str]:
    """The hashes of the pictures that `save_inputs` kept, by name; empty where there are none, or damaged ones."""
    with suppress(FileNotFoundError, Corrupt):
        return json.loads(read_sealed(store.files, INPUTS))
    return {}


def input_picture(store: Store, name: str) -> bytes | None:
    """One of them as PNG; None where it is gone or not what was written."""
    with suppress(FileNotFoundError, Corrupt):
        content = store.files.read(f"inputs/{name}.png")
        read_known_png(content, input_hashes(store).get(name, ""))
        return content
    return None


def save_pictures(files: Files, folder: str, about: str, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write pictures (h, w, 3) by caption into a folder of the run; `about` names the set that they are of."""
    for row, picture in enumerate(pictures.values()):
        files.write(f"{folder}/{row:05d}.png", to_png(picture))
    captions = {"about": about, "captions": [[caption, hash_image(picture)] for caption, picture in pictures.items()]}
    files.write(captions_of(folder), seal(captions_of(folder), json.dumps(captions).encode()))


def load_pictures(files: Files, folder: str, about: str) -> list[tuple[str, bytes]]:
    """Caption and PNG of each picture of this set; those that are gone, or not what was written, are left out."""
    found = []
    with suppress(FileNotFoundError, Corrupt):
        said = json.loads(read_sealed(files, captions_of(folder)))
        for row, (caption, known) in enumerate(said["captions"] if said["about"] == about else ()):
            with suppress(FileNotFoundError, Corrupt):
                content = files.read(f"{folder}/{row:05d}.png")
                read_known_png(content, known)
                found.append((str(caption), content))
    return found


def captions_of(folder: str) -> str:
    """Return the path of captions and hashes."""
    return f"{folder}/captions.json"
