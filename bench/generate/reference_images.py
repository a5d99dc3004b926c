"""Reference images for Fréchet and kernel distances: of the procedural world, or of a folder. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from bench.generate.image_files import READER, read_image
from bench.generate.image_folders import check_readable, hash_files, list_images, say_once
from bench.mini import looks, world
from bench.records.errors import BenchError, check_path
from bench.records.reference import LOOKS, is_statistics


def name_real_images(source: str, count: int) -> str:
    """Return the identity of the first `count` images of a source: the seeds, or a hash over the files' content.

    Of a file of statistics it is the hash of the file.

    Raises BenchError for a folder that does not exist or holds fewer images. Prints once which files were left out, and
    how many of the images are duplicates.
    """
    if source in LOOKS:
        return f"{source}-{world.split_seeds('reference', count)}"
    if is_statistics(source):
        (content,) = hash_real_images(source, count).values()
        return f"statistics-{content.hex()[:16]}"
    contents = [*hash_real_images(source, count).values()]
    if copies := len(contents) - len(set(contents)):
        say_once(f"reference.source={source}: {copies} of the {count} images are duplicates")
    return hashlib.sha256(READER.encode() + b"".join(contents)).hexdigest()[:16]


def hash_real_images(source: str, count: int) -> dict[str, bytes]:
    """Return the SHA-256 of each file's bytes by its path below the folder; empty for the procedural world."""
    if source in LOOKS:
        return {}
    if is_statistics(source):
        file = Path(source).expanduser()
        check_path(f"reference.source={source}", file, "file", "give a file of statistics, or a folder of images")
        return {file.name: hashlib.sha256(file.read_bytes()).digest()}
    folder, names = real_image_files(source, count)
    try:
        return hash_files(folder, names)
    except BenchError as error:
        raise BenchError(f"reference.source: {error}") from error


def check_real_images(source: str, count: int, name: str) -> None:
    """Decode all images of `name`; raises BenchError that lists those that cannot be read.

    The contents decoded by each version of Pillow are noted in the user's cache, so that they are decoded once. Images
    are decoded again when their features are computed, independently of these notes.
    """
    if source in LOOKS or is_statistics(source):
        return
    try:
        mark = cache_directory() / "decoded" / hashlib.sha256(f"{name} Pillow {PIL.__version__}".encode()).hexdigest()
        known = mark.exists()
    except (OSError, RuntimeError):  # no home directory, or no access to it
        mark, known = None, False
    if known:
        return
    check_readable(*real_image_files(source, count))
    if mark is not None:
        with suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def shrunk(image: NDArray[np.uint8], side: int = 512) -> NDArray[np.uint8]:
    """Return a picture (h, w, 3) for display, its longer side at most `side` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def cache_directory() -> Path:
    """Return the folder of notes that only save time and affect no number; it may be removed at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tcd-bench"


def load_real_images(source: str, count: int, batch_size: int = 128) -> Iterator[NDArray[np.uint8]]:
    """Yield the first `count` images of a source in batches (n, h, w, 3), uint8, sRGB.

    A folder's images come sorted by their path below it, and are read as `bench.generate.image_files` says. The images
    of a batch have one size. Raises BenchError for a file that cannot be read as a picture.
    """
    if source in LOOKS:
        seeds = world.split_seeds("reference", count)
        images = (looks.render_look(world.scene(seed), LOOKS[source]) for seed in seeds)
    else:
        folder, names = real_image_files(source, count)
        images = (read_image(folder / name) for name in names)
    for _, alike in groupby(images, lambda image: image.shape):
        batch: list[NDArray[np.uint8]] = []
        for image in alike:
            batch.append(image)
            if len(batch) == batch_size:
                yield np.stack(batch)
                batch.clear()
        if batch:
            yield np.stack(batch)


def real_image_files(source: str, count: int) -> tuple[Path, tuple[str, ...]]:
    """Return a folder, and the paths below it of its first `count` images; raises BenchError where it holds fewer."""
    remedy = f"give {', '.join(LOOKS)}, or a folder of images"
    folder = check_path(f"reference.source={source}", Path(source).expanduser(), "folder", remedy)
    found = list_images(folder)
    if len(found.files) < count:
        raise BenchError(
            f"reference.source={source} holds {found} but {count} images were requested; set reference.count to at "
            "most that number"
        )
    if found.left_out:
        say_once(f"reference.source={source} holds {found}")
    return folder, found.files[:count]
