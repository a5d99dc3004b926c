"""The pictures of a history: those that moved most at each gate, before and after, in a folder beside its file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gate.report import BeforeAfter
from bench.report.embedded_images import Picture, encode_picture, to_data_uri

_MOST = 4
"""Pairs that are kept of one gate."""
_SIDE, _QUALITY = 512, 85
_NAME = re.compile(r"([0-9a-f]{16})\.(png|webp)")
"""A name says the hash of its content, so that equal pictures are kept once, and which kind of file it is."""


@dataclass(frozen=True, slots=True)
class MovedPicture:
    """One image before and after a gate's candidate, as names of files; `place` is the index of the gate's line.

    `moved` is how far, with the median distance between images of different prompts as 1.
    """

    place: int
    date: str
    candidate: str
    label: str
    prompt: str
    moved: float
    before: str
    after: str


def folder_of(history: Path) -> Path:
    """Return the folder of a history's pictures."""
    return history.with_name(f"{history.stem}-pictures")


def keep_pictures(history: Path, images: Sequence[BeforeAfter]) -> list[dict[str, Any]]:
    """Write the images that moved most; return what a line of the history says of them. Raises OSError."""
    worst = sorted(images, key=lambda image: -image.moved)[:_MOST]
    return [
        {
            **{"cell": image.label, "prompt": image.prompt, "moved": image.moved},
            **{"before": _keep(history, image.before), "after": _keep(history, image.after)},
        }
        for image in worst
    ]


def _keep(history: Path, picture: Picture) -> str:
    content, kind = encode_picture(picture.read(), side=_SIDE, quality=_QUALITY)
    name = f"{hashlib.sha256(content).hexdigest()[:16]}.{kind}"
    path = folder_of(history) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return name


def pictures_of(line: Mapping[str, Any], place: int) -> list[MovedPicture]:
    """Return the pictures that a line names; raises ValueError, KeyError or TypeError where it is not one of ours."""
    found = []
    for image in line.get("images", ()):
        before, after = str(image["before"]), str(image["after"])
        if not (_NAME.fullmatch(before) and _NAME.fullmatch(after)):
            raise ValueError(f"{before} and {after} are not names of pictures")
        date, candidate = str(line["date"]), str(line["candidate"])
        label, prompt, moved = str(image["cell"]), str(image["prompt"]), float(image["moved"])
        found.append(MovedPicture(place, date, candidate, label, prompt, moved, before, after))
    return found


def load_picture(history: Path, name: str) -> str | None:
    """Return a picture as a data URI; None where it is missing or another one than its name says."""
    found = _NAME.fullmatch(name)
    with suppress(OSError):
        content = (folder_of(history) / name).read_bytes()
        if found and hashlib.sha256(content).hexdigest().startswith(found[1]):
            return to_data_uri(content, found[2])
    return None
