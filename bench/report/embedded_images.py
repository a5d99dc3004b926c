"""Pictures of the store in the forms that pages embed; a video becomes an animation."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from bench.pictures import input_hashes, input_picture, kept_image
from bench.records.errors import Damaged
from bench.records.record import Record
from bench.store.store import Store

LONGEST_SIDE = 512
SMALL = 128
"""Up to this side a picture is embedded as it was stored."""
FRAMES_PER_SECOND = 8


@dataclass(frozen=True)
class Picture:
    """A kept image of the store: image `row` of a cell. It is read on demand."""

    store: Store
    record: Record
    row: int

    def was_kept(self) -> bool:
        """Whether the record says so; the file may be gone."""
        known = () if self.record.images is None else self.record.images.hashes
        return self.row < len(known) and known[self.row] != ""

    def exists(self) -> bool:
        """Whether it was kept and is there."""
        return self.was_kept() and self.store.cell(self.record.key).has_image(self.row)

    def is_whole(self) -> bool:
        """Whether it was kept and is the image that was sampled."""
        try:
            return self.exists() and self.read() != b""
        except Damaged:
            return False

    def read(self) -> bytes:
        """Return the PNG; raises Damaged where it is not the image that was sampled."""
        return kept_image(self.store, self.record, self.row)

    @property
    def place(self) -> str:
        """Its file in the directory of its run."""
        return self.store.cell(self.record.key).image_name(self.row)


@dataclass(frozen=True)
class InputPicture:
    """A kept input, mask or control image of the store."""

    store: Store
    name: str

    def read(self) -> bytes:
        """Return the PNG; raises Damaged where it was changed."""
        content = input_picture(self.store, self.name)
        if content is None:
            raise Damaged(self.store.location, self.place, "it is not the picture that was written")
        return content

    @property
    def place(self) -> str:
        """Its file in the directory of its run."""
        return f"inputs/{self.name}.png"


def input_pictures(store: Store, task: str, row: int) -> list[tuple[str, InputPicture]]:
    """Return the kept inputs of prompt `row` of a task: the kind of each, and the picture."""
    control = {"canny": "edges", "depth": "depth"}.get(task, "control")
    row = 0 if task == "image_prompt" else row
    names = {"": "image prompt" if task == "image_prompt" else "input", "-mask": "mask", "-control": control}
    known = input_hashes(store)
    found = [(said, f"{row:05d}{end}") for end, said in names.items() if f"{row:05d}{end}" in known]
    return [(said, InputPicture(store, name)) for said, name in found if input_picture(store, name) is not None]


def open_picture(picture: Picture | InputPicture, frames: int = 1) -> Image.Image:
    """Return an image of the store; of a video, whose frames are stacked vertically, the middle frame."""
    return _frame(Image.open(io.BytesIO(picture.read())).convert("RGB"), frames, frames // 2)


def to_gif(picture: Picture, frames: int) -> bytes:
    """Return a video, whose frames are stacked vertically, as an endless animation."""
    return _animation(picture.read(), frames, "GIF", LONGEST_SIDE)


def encode_picture(stored: bytes, frames: int = 1, side: int = LONGEST_SIDE, quality: int = 88) -> tuple[bytes, str]:
    """Return stored PNG bytes in the form that a page shows, and its kind: `png` or `webp`.

    A small picture stays as it is, a larger one becomes WebP with a longest side of at most `side` pixels, a video an
    endless animation.
    """
    if frames > 1:
        return _animation(stored, frames, "WEBP", side, quality=quality), "webp"
    image = Image.open(io.BytesIO(stored))
    if max(image.size) <= min(side, SMALL) and quality >= 85:
        return stored, "png"
    content = io.BytesIO()
    _shrink(image.convert("RGB"), side).save(content, "WEBP", quality=quality)
    return content.getvalue(), "webp"


def to_data_uri(content: bytes, kind: str) -> str:
    """Return the content of an image file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def embedded(picture: bytes | Picture | InputPicture, frames: int = 1) -> str:
    """Return a picture as a data URI, as `encode_picture` makes it."""
    return to_data_uri(*encode_picture(picture if isinstance(picture, bytes) else picture.read(), frames))


def _animation(stored: bytes, frames: int, kind: str, side: int, **options: int) -> bytes:
    content = io.BytesIO()
    strip = Image.open(io.BytesIO(stored)).convert("RGB")
    first, *others = (_shrink(_frame(strip, frames, i), side) for i in range(frames))
    pace = 1000 // FRAMES_PER_SECOND
    first.save(content, kind, save_all=True, append_images=others, duration=pace, loop=0, **options)
    return content.getvalue()


def _frame(strip: Image.Image, frames: int, index: int) -> Image.Image:
    height = strip.height // frames
    return strip.crop((0, index * height, strip.width, (index + 1) * height))


def _shrink(image: Image.Image, side: int) -> Image.Image:
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image
