"""A few pictures of a run that a report shows, each with its caption and a hash that each reading checks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from bench.records.errors import Corrupt
from bench.store.files import Files
from bench.store.png import hash_image, read_known_png, to_png
from bench.store.sealed import read_sealed, seal


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
    """Where captions and hashes lie."""
    return f"{folder}/captions.json"
