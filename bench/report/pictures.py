"""Pictures as text that stands in the page itself; a film becomes an animation."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

LONGEST_SIDE = 512
FRAMES_PER_SECOND = 8


def open_picture(path: Path, frames: int = 1) -> Image.Image:
    """An image of the store; of a film, whose frames stand below one another, the middle one."""
    return _frame(Image.open(path).convert("RGB"), frames, frames // 2)


def to_data_uri(picture: bytes | Path, frames: int = 1) -> str:
    """PNG bytes as they are; a stored image as PNG, or WebP where it is so large that it is shrunk; a film as GIF."""
    if isinstance(picture, bytes):
        return _encode(picture, "png")
    content = io.BytesIO()
    if frames > 1:
        strip = Image.open(picture).convert("RGB")
        first, *others = (_shrink(_frame(strip, frames, i)) for i in range(frames))
        pace = 1000 // FRAMES_PER_SECOND
        first.save(content, "GIF", save_all=True, append_images=others, duration=pace, loop=0)
        return _encode(content.getvalue(), "gif")
    image = Image.open(picture)
    if max(image.size) <= LONGEST_SIDE:
        return _encode(picture.read_bytes(), "png")
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
