"""Pictures embedded in the page; a video becomes an animation."""

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
FRAMES_PER_SECOND = 8


@dataclass(frozen=True)
class Picture:
    """A kept image of the store: image `row` of a cell. It is read on demand."""

    store: Store
    record: Record
    row: int

    def exists(self) -> bool:
        """Whether it was kept."""
        known = () if self.record.images is None else self.record.images.hashes
        return self.row < len(known) and known[self.row] != "" and self.store.cell(self.record.key).has_image(self.row)

    def is_whole(self) -> bool:
        """Whether it was kept and is the image that was sampled."""
        try:
            return self.exists() and self.read() != b""
        except Damaged:
            return False

    def read(self) -> bytes:
        """Return the PNG; raises Damaged where it is not the image that was sampled."""
        return kept_image(self.store, self.record, self.row)


@dataclass(frozen=True)
class InputPicture:
    """A kept input, mask or control image of the store."""

    store: Store
    name: str

    def read(self) -> bytes:
        """Return the PNG; raises Damaged where it was changed."""
        content = input_picture(self.store, self.name)
        if content is None:
            raise Damaged(self.store.location, f"inputs/{self.name}.png", "it is not the picture that was written")
        return content


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
    content = io.BytesIO()
    strip = Image.open(io.BytesIO(picture.read())).convert("RGB")
    first, *others = (_shrink(_frame(strip, frames, i)) for i in range(frames))
    pace = 1000 // FRAMES_PER_SECOND
    first.save(content, "GIF", save_all=True, append_images=others, duration=pace, loop=0)
    return content.getvalue()


def to_data_uri(picture: bytes | Picture | InputPicture, frames: int = 1) -> str:
    """PNG bytes as they are; a stored image as PNG, or WebP where it is large and shrunk; a video as GIF."""
    if isinstance(picture, bytes):
        return _encode(picture, "png")
    if frames > 1 and isinstance(picture, Picture):
        return _encode(to_gif(picture, frames), "gif")
    content, stored = io.BytesIO(), picture.read()
    image = Image.open(io.BytesIO(stored))
    if max(image.size) <= LONGEST_SIDE:
        return _encode(stored, "png")
    _shrink(image.convert("RGB")).save(content, "WEBP", quality=90)
    return _encode(content.getvalue(), "webp")


def _frame(strip: Image.Image, frames: int, index: int) -> Image.Image:
    height = strip.height // frames
    return strip.crop((0, index * height, strip.width, (index + 1) * height))


def _shrink(image: Image.Image) -> Image.Image:
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return image


def _encode(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
