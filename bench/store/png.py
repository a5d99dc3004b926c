"""Images as PNG files of a run, and the hashes by which they are known."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.records.errors import Corrupt


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
