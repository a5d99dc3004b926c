"""The pictures of a page: each embedded once, and made smaller where they would be too much for one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.parallel import map_forked
from bench.report.embedded_images import LONGEST_SIDE, InputPicture, Picture, encode_picture, to_data_uri

Shown = Picture | InputPicture
MOST_BYTES = 16_000_000
"""Of all pictures of a page, as text."""
MOST_PICTURES = 1000
_SIZES = ((LONGEST_SIDE, 88), (384, 84), (256, 82), (192, 80), (128, 78), (96, 75))
"""Longest sides and qualities, of which the first that fits is taken."""
_TRIED = 8
_AS_TEXT = 4 / 3
"""Bytes of base64 per byte."""
FOLDER = "images"


@dataclass(frozen=True)
class Album:
    """The pictures of a page by their names, and `files` that lie beside it. `note` says if they were made smaller."""

    names: Mapping[Any, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    """By name what the page loads: a data URI, or a path from the page's directory."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    note: str = ""

    def name(self, picture: Shown) -> str:
        """Return the name of a picture in the page."""
        return self.names[_identity(picture)]


def make_album(shown: Iterable[tuple[Shown, int]], beside: bool = False) -> Album:
    """Encode pictures, each with its number of frames; `beside` writes files in place of data URIs.

    Raises Damaged for a picture that differs from the stored one.
    """
    distinct = {_identity(picture): (picture, frames) for picture, frames in shown}
    wanted = [*distinct.values()]
    size = _SIZES[0] if beside else _fitting(wanted)
    encoded = map_forked(lambda item: encode_picture(item[0].read(), item[1], *size), wanted, fewest=40)
    names = {identity: f"p{i}" for i, identity in enumerate(distinct)}
    note = "" if size == _SIZES[0] else f"Pictures are reduced to {size[0]} pixels to keep the page small."
    if beside:
        files = {f"{FOLDER}/p{i}.{kind}": content for i, (content, kind) in enumerate(encoded)}
        return Album(names, {f"p{i}": path for i, path in enumerate(files)}, files, note)
    return Album(names, {f"p{i}": to_data_uri(*both) for i, both in enumerate(encoded)}, {}, note)


def _fitting(wanted: Sequence[tuple[Shown, int]]) -> tuple[int, int]:
    """Return the largest size at which all pictures fit, judged by a few of them."""
    tried = [(picture.read(), frames) for picture, frames in wanted[:: max(1, len(wanted) // _TRIED)][:_TRIED]]
    for size in _SIZES[:-1]:
        mean = sum(len(encode_picture(stored, frames, *size)[0]) for stored, frames in tried) / max(1, len(tried))
        if mean * len(wanted) * _AS_TEXT <= MOST_BYTES:
            return size
    return _SIZES[-1]


def _identity(picture: Shown) -> tuple[str, str]:
    return picture.store.location, picture.place
