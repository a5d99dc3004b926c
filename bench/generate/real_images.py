"""Real images, which Fréchet and kernel distances compare with: of the procedural world, or of a folder. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.mini import world
from bench.records import BenchError

WORLD = "world"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def name_real_images(source: str, count: int) -> str:
    """What the first `count` images of a source are named by: the seeds, or a hash over the files' content.

    Raises BenchError for a folder that does not exist or holds fewer images.
    """
    if source == WORLD:
        return f"{WORLD}-{world.split_seeds('reference', count)}"
    digest = hashlib.sha256()
    for path in _image_files(Path(source), count):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def load_real_images(source: str, count: int, batch_size: int = 128) -> Iterator[NDArray[np.uint8]]:
    """Yield the first `count` images of a source (a folder's by name) in batches (n, h, w, 3), uint8, RGB.

    The images of a batch have one size. Raises BenchError for a file that is no image.
    """
    if source == WORLD:
        seeds = world.split_seeds("reference", count)
        images = (world.render(world.scene(seed)) for seed in seeds)
    else:
        images = (_read_image(path) for path in _image_files(Path(source), count))
    for _, alike in groupby(images, lambda image: image.shape):
        batch: list[NDArray[np.uint8]] = []
        for image in alike:
            batch.append(image)
            if len(batch) == batch_size:
                yield np.stack(batch)
                batch.clear()
        if batch:
            yield np.stack(batch)


def _image_files(folder: Path, count: int) -> list[Path]:
    if not folder.is_dir():
        raise BenchError(f"reference.source={folder}: there is no such folder; give {WORLD!r} or a folder of images")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(files) < count:
        raise BenchError(
            f"reference.source={folder} holds {len(files)} images ({', '.join(sorted(SUFFIXES))}) and {count} were "
            "asked for; set reference.count to at most what it holds"
        )
    return files[:count]


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow calls a broken PNG a syntax error
        raise BenchError(f"{path} is no image that can be read ({error}); replace or remove it") from error
