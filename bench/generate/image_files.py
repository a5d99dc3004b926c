"""Image files as a colour-managed viewer shows them: 8-bit sRGB, upright; other files are refused by name.

Features on which viewers agree are converted: EXIF orientation, embedded ICC profiles (by perceptual intent),
transparency, palettes, and 1 to 16 bits, rounded to the nearest of 256 levels. CMYK without a profile is
(1 - C)(1 - K), as in browsers. Features on which viewers disagree, and anything but one still picture, are refused.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from bench.records.errors import BenchError

_Pixels = NDArray[np.uint8]

READER = "version 1: upright by EXIF, sRGB by embedded profiles, transparency on white, rounded to 8 bits"
"""The version of the conversion, part of the name of a set of images; raised with any change that alters pixels."""

WHITE, BLACK = 255, 0
MAX_PIXELS = 89_478_485
"""Larger pictures are refused before they are decoded; Pillow warns of such sizes."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .mpo .webp .tif .tiff .bmp .dib .gif .ppm .pgm .pbm .pnm".split()  # noqa: SIM905
)
"""Suffixes of picture files; the content decides the format."""

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM")
_LFS = b"version https://git-lfs.github.com/"
_PNG = b"\x89PNG\r\n\x1a\n"
_SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_TURNS: Mapping[Any, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""The transformation that brings a picture upright, by EXIF orientation."""


class _UnreadableError(Exception):
    """The reason why a file is not read, for error messages."""


def read_image(path: Path, background: int = WHITE) -> _Pixels:
    """Return the picture in a file, (h, w, 3), uint8, sRGB; transparent areas show a grey `background`.

    Raises BenchError, naming the file, for anything but one still picture of defined colours, and for more than
    `MAX_PIXELS` pixels, before they are decoded.
    """
    try:
        return _decode(path.read_bytes(), background)
    except Exception as error:  # Pillow's decoders raise anything for malformed files
        raise BenchError(f"{path} cannot be read as a picture: {_reason(error)}") from error


def read_mask(path: Path) -> _Pixels:
    """Read a mask like `read_image`: transparent areas are black, and a mask of 0 and 1 becomes one of 0 and 255."""
    pixels = read_image(path, BLACK)
    return pixels * np.uint8(255) if pixels.max() == 1 else pixels


def _reason(error: Exception) -> str:
    if isinstance(error, _UnreadableError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels; scale it down"
    if isinstance(error, FileNotFoundError):
        return "it is a link to a file that does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "its format is not supported (PNG, JPEG, WebP, TIFF, BMP, GIF, PPM), or it is damaged"
    said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"it is damaged or unreadable ({said})"


def _decode(data: bytes, background: int) -> _Pixels:
    if data.startswith(_LFS):
        raise _UnreadableError("it is a Git LFS pointer instead of a picture; fetch the picture with git lfs pull")
    if data.startswith(_PNG):
        _check_png(data)
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _UnreadableError(f"it has {width * height:,} pixels, more than {MAX_PIXELS:,}; scale it down")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # an MPO holds further pictures: a preview, a gain map
            raise _UnreadableError(f"it has {frames} frames or pages; save one of them as a separate file")
        profile = image.info.get("icc_profile")
        if image.format == "PNG" and not profile:
            _check_gamma(image)
        samples, alpha, top = _samples(image, data)
        if profile:
            samples, alpha, top = _managed(samples, alpha, top, profile)
    if samples.shape[-1] == 4:  # CMYK without a profile, as in browsers: (1 - C)(1 - K)
        samples = _over(255 - samples[..., :3], 255 - samples[..., 3:], 255, BLACK)
    pixels = _over(samples, alpha, top, background)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _over(samples: NDArray[Any], alpha: NDArray[Any] | int, top: int, background: int) -> _Pixels:
    """Blend samples of `top` + 1 levels over a grey of 256 levels; round to the nearest of 256 levels."""
    if top == 255 and isinstance(alpha, int) and alpha == 255:
        return samples.astype(np.uint8, copy=False)  # the usual case
    scale = top // 255  # 1 or 257
    wide, cover = samples.astype(np.int64), np.asarray(alpha, np.int64)
    levels = wide * cover + background * scale * (top - cover)
    unit = scale * top
    return ((levels + unit // 2) // unit).astype(np.uint8)


_Samples = tuple[NDArray[Any], NDArray[Any] | int, int]
"""Colour (h, w, 1 grey, 3 RGB or 4 CMYK), opacity (h, w, 1) or a scalar, and the highest level of both."""


def _samples(image: Image.Image, data: bytes) -> _Samples:
    """Decode a picture as stored, upright."""
    orientation, deep = _orientation(image), _is_deep_colour(image, data)
    if image.format == "TIFF":
        _check_tiff(image)
    image.load()
    if deep:
        return _deep_colour(image, data, orientation)
    if image.format == "TIFF":  # Pillow rotates TIFF on decoding
        orientation = _orientation(image)
    mode, key = image.mode, image.info.get("transparency")
    if mode in ("P", "PA", "LA", "La", "RGBA", "RGBa"):
        grey = mode in ("LA", "La")
        both = _turn(np.asarray(image.convert("LA" if grey else "RGBA")), orientation)
        return both[..., :-1], both[..., -1:], 255
    if mode in ("L", "RGB", "CMYK", "1"):
        array, top = _turn(np.asarray(image.convert("L") if mode == "1" else image), orientation), 255
    elif mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        array, top = _turn(np.asarray(image), orientation), 65535
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]  # WhiteIsZero
            array = 65535 - array
    else:
        raise _UnreadableError(
            f"it holds {mode} samples, whose colours are not defined; save it as sRGB of 8 or 16 bits"
        )
    colour = array[..., None] if array.ndim == 2 else array
    if key is None or mode == "CMYK":
        return colour, top, top
    if image.format == "PNG" and data[24] < 8:  # Pillow widens the samples, but not their transparent colour
        key = key * 255 // (2 ** data[24] - 1)
    return colour, np.where((colour == np.asarray(key)).all(axis=-1, keepdims=True), 0, top), top


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # viewers ignore a damaged EXIF block; Pillow raises any exception for it
        return 1


def _turn(array: NDArray[Any], orientation: Any) -> NDArray[Any]:
    return _TURNS[orientation](array) if orientation in _TURNS else array


def _is_deep_colour(image: Image.Image, data: bytes) -> bool:
    """Whether a pixel has several samples of 16 bits, of which Pillow keeps only the high byte."""
    if image.format == "PNG":
        return data[24] == 16 and data[25] in (2, 4, 6)
    bits = image.tag_v2.get(258, ()) if image.format == "TIFF" else ()  # type: ignore[attr-defined]
    return len(bits) > 1 and max(bits) == 16


def _deep_colour(image: Image.Image, data: bytes, orientation: Any) -> _Samples:
    """Decode 16-bit colour with OpenCV, since Pillow keeps only the high byte."""
    import cv2

    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.ndim != 3:
        raise _UnreadableError("its 16-bit samples cannot be decoded; save it with 8 bits")
    if image.format == "PNG":  # OpenCV rotates a TIFF itself
        decoded = _turn(decoded, orientation)
    colour, alpha = decoded[..., 2::-1], decoded[..., 3:] if decoded.shape[-1] == 4 else 65535
    extra = image.tag_v2.get(338, (2,)) if image.format == "TIFF" else (2,)  # type: ignore[attr-defined]
    if extra[0] == 0:
        alpha = 65535
    elif extra[0] == 1:  # premultiplied
        cover = np.maximum(alpha, 1).astype(np.int64)
        colour = np.minimum((colour * np.int64(65535) + cover // 2) // cover, 65535)
    return colour, alpha, 65535


def _check_tiff(image: Image.Image) -> None:
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, formats, photometric = tags.get(258, (1,)), tags.get(339, (1,)), tags.get(262)
    if set(formats) != {1}:
        raise _UnreadableError(
            "its samples are signed or floating-point, of no defined range; save it with 8 or 16 bits"
        )
    if not set(bits) <= {1, 2, 4, 8, 16} or (max(bits) == 16 and photometric not in (0, 1, 2)):
        raise _UnreadableError(
            f"it has {max(bits)}-bit samples of TIFF's kind {photometric}; save it as sRGB of 8 bits"
        )


def _check_png(data: bytes) -> None:
    """Check that all chunks are present and intact; decoders accept many damaged files."""
    view, start = memoryview(data), len(_PNG)
    while (end := start + 12 + int.from_bytes(view[start : start + 4])) <= len(data):
        kind, body = bytes(view[start + 4 : start + 8]), view[start + 4 : end - 4]
        if zlib.crc32(body) != int.from_bytes(view[end - 4 : end]):
            raise _UnreadableError(f"its {kind.decode('latin-1')} chunk is damaged")
        if kind == b"cICP" and bytes(body[4:]) != b"\x01\x0d\x00\x01":
            raise _UnreadableError("its cICP chunk specifies colours other than sRGB; save it as sRGB")
        if kind == b"IEND":
            return
        start = end
    raise _UnreadableError("it is truncated")


def _check_gamma(image: Image.Image) -> None:
    """Check PNG's gAMA and cHRM chunks: within 5% and .01 they are sRGB, as for libpng; beyond, viewers disagree."""
    gamma, chromaticities = image.info.get("gamma"), image.info.get("chromaticity", _SRGB_CHROMATICITIES)
    if "srgb" in image.info:
        return
    if gamma is not None and abs(gamma * 2.2 - 1) > 0.05:
        raise _UnreadableError(f"its gAMA chunk has {gamma:g} where sRGB has 0.45455; save it as sRGB")
    if max(abs(ours - srgb) for ours, srgb in zip(chromaticities, _SRGB_CHROMATICITIES, strict=True)) > 0.01:
        raise _UnreadableError("its cHRM chunk has primaries other than sRGB's; save it as sRGB")


def _managed(samples: NDArray[Any], alpha: NDArray[Any] | int, top: int, profile: bytes) -> _Samples:
    """Convert samples of an embedded profile to sRGB; they are rounded to 8 bits first, unless already sRGB."""
    transform = _transform(profile, samples.shape[-1])
    if transform is None:
        return samples, alpha, top
    mode, apply = transform
    eight = _over(samples, top, top, BLACK)
    cover = 255 if isinstance(alpha, int) else _over(alpha, top, top, BLACK)
    if mode == "RGB":
        eight = np.broadcast_to(eight, (*eight.shape[:2], 3))
    image = Image.frombytes(mode, eight.shape[1::-1], np.ascontiguousarray(eight).tobytes())
    return np.asarray(ImageCms.applyTransform(image, apply)), cover, 255


@lru_cache(maxsize=64)
def _transform(profile: bytes, channels: int) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Return a profile's mode and transform to sRGB; None where no colour changes by more than one level."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = {(1, "GRAY"): "L", (1, "RGB"): "RGB", (3, "RGB"): "RGB", (4, "CMYK"): "CMYK"}.get((channels, space))
        if mode is None:
            raise _UnreadableError(f"its colour profile is for {space}, unlike its samples; save it as sRGB")
        srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.PERCEPTUAL
        exact = ImageCms.Flags(0) if mode == "RGB" else ImageCms.Flags.NOOPTIMIZE  # optimised tables err by levels here
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB", intent, exact)
    except (OSError, TypeError, ImageCms.PyCMSError) as error:
        raise _UnreadableError("its colour profile is damaged; save it as sRGB") from error
    if mode == "CMYK":
        return mode, transform
    ramp = (
        np.arange(256) if mode == "L" else np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).reshape(-1, 3)
    )
    lattice = Image.frombytes(mode, (len(ramp), 1), ramp.astype(np.uint8).tobytes())
    moved = np.asarray(ImageCms.applyTransform(lattice, transform), np.int16)[0] - ramp.reshape(len(ramp), -1)
    return None if np.abs(moved).max() <= 1 else (mode, transform)
