"""Pictures of every mode and format are read as a colour-managed viewer shows them, or refused by name."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from bench.generate.image_files import MAX_PIXELS, read_image, read_mask
from bench.records.errors import BenchError

RNG = np.random.default_rng(0)
TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, 3),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}
"""Orientation → stored pixels upright, by EXIF 2.3's table: where row 0 and column 0 are to be seen."""

Chunks = tuple[tuple[bytes, bytes], ...]


def png(array: NDArray[Any], kind: int, depth: int, chunks: Chunks = ()) -> bytes:
    """A PNG of samples (h, w, channels) of 1 to 16 bits; `kind` is its colour type."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = array.shape[:2]
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in array]
    else:
        bits = np.unpackbits(array.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = [np.packbits(row).tobytes() for row in bits]
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(array: NDArray[Any], photometric: int, orientation: int = 1, extra: int | None = None, form: int = 1) -> bytes:
    """An uncompressed little-endian TIFF of samples (h, w, channels); `form` is its SampleFormat."""
    height, width, channels = array.shape
    raw, bits = array.astype(array.dtype.newbyteorder("<")).tobytes(), 8 * array.itemsize
    entries = [(256, [width]), (257, [height]), (258, [bits] * channels), (259, [1]), (262, [photometric]), (273, [8])]
    entries += [(274, [orientation]), (277, [channels]), (278, [height]), (279, [len(raw)]), (284, [1])]
    entries += [(338, [extra])] if extra is not None else []
    entries += [(339, [form] * channels)]
    table, more, place = struct.pack("<H", len(entries)), b"", 8 + len(raw) + 6 + 12 * len(entries)
    for tag, values in entries:
        packed = struct.pack(f"<{len(values)}I" if tag == 279 else f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, more = struct.pack("<I", place + len(more)), more + packed
        table += struct.pack("<HHI", tag, 4 if tag == 279 else 3, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + table + b"\0\0\0\0" + more


def exif(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + b"\0\0\0\0\0\0"


def over(colour: NDArray[Any], alpha: NDArray[Any], top: int, ground: float = 1) -> NDArray[np.uint8]:
    """Return samples (h, w, 1 or 3) with opacity (h, w), both up to `top`, as shown on a grey in [0, 1]."""
    c, a = colour / top, alpha[..., None] / top
    levels = np.floor((c * a + ground * (1 - a)) * 255 + 0.5)
    shown: NDArray[np.uint8] = np.broadcast_to(levels.astype(np.uint8), (*levels.shape[:2], 3))
    return shown


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., NDArray[np.uint8]]:
    def write_and_read(data: bytes, name: str = "a.png", reader: Any = read_image) -> NDArray[np.uint8]:
        (tmp_path / name).write_bytes(data)
        found: NDArray[np.uint8] = reader(tmp_path / name)
        assert found.dtype == np.uint8
        assert found.ndim == 3
        assert found.shape[-1] == 3
        return found

    return write_and_read


Reading = Callable[..., NDArray[np.uint8]]
KINDS = {"grey": (0, 1), "rgb": (2, 3), "grey+alpha": (4, 2), "rgba": (6, 4)}
"""PNG's colour types, and their samples a pixel."""
GREY_DEPTHS = (1, 2, 4, 8, 16)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("kind", "depth"), [*itertools.product(["grey"], GREY_DEPTHS), *itertools.product(list(KINDS)[1:], (8, 16))]
)
def test_png_of_every_kind_depth_and_orientation(read: Reading, kind: str, depth: int, orientation: int) -> None:
    colour_type, channels = KINDS[kind]
    top = 2**depth - 1
    array = RNG.integers(0, top + 1, (7, 5, channels))
    colour, alpha = (array[..., :-1], array[..., -1]) if channels in (2, 4) else (array, np.full((7, 5), top))
    found = read(png(array, colour_type, depth, ((b"eXIf", exif(orientation)),)))
    assert np.array_equal(found, TURNED[orientation](over(colour, alpha, top)))


@pytest.mark.parametrize(("kind", "depth"), [*((0, d) for d in GREY_DEPTHS), (2, 8), (2, 16)])
def test_png_with_one_transparent_colour(read: Reading, kind: int, depth: int) -> None:
    top, channels = 2**depth - 1, 3 if kind else 1
    array = RNG.integers(0, top + 1, (6, 6, channels))
    key = array[2, 3]
    alpha = np.where((array == key).all(axis=-1), 0, top)
    found = read(png(array, kind, depth, ((b"tRNS", struct.pack(f">{channels}H", *key)),)))
    assert np.array_equal(found, over(array, alpha, top))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_png_with_a_palette_and_its_transparencies(read: Reading, depth: int) -> None:
    palette = RNG.integers(0, 256, (2**depth, 3))
    opacities = RNG.integers(0, 256, 2**depth)
    array = RNG.integers(0, 2**depth, (6, 6, 1))
    plain: Chunks = ((b"PLTE", palette.astype(np.uint8).tobytes()),)
    opaque = np.full((6, 6), 255)
    assert np.array_equal(read(png(array, 3, depth, plain)), over(palette[array[..., 0]], opaque, 255))
    clear = (*plain, (b"tRNS", opacities.astype(np.uint8).tobytes()))
    wanted = over(palette[array[..., 0]], opacities[array[..., 0]], 255)
    assert np.array_equal(read(png(array, 3, depth, clear)), wanted)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("photometric", "channels", "extra"),
    [(0, 1, None), (1, 1, None), (2, 3, None), (2, 4, 0), (2, 4, 1), (2, 4, 2), (5, 4, None)],
)
def test_tiff_of_every_kind_depth_and_orientation(
    read: Reading, photometric: int, channels: int, extra: int | None, dtype: Any, orientation: int
) -> None:
    top = int(np.iinfo(dtype).max)
    array = RNG.integers(0, top + 1, (7, 5, channels)).astype(dtype)
    alpha = np.full((7, 5), top)
    colour: NDArray[Any] = array.astype(np.int64)
    if extra == 1:
        array[..., :3] = np.minimum(array[..., :3], array[..., 3:])  # premultiplied
    data = tiff(array, photometric, orientation, extra)
    if photometric == 5 and dtype == np.uint16:
        with pytest.raises(BenchError, match="16-bit samples of TIFF's kind 5"):
            read(data, "a.tif")
        return
    if photometric == 0:
        colour = top - colour
    if photometric == 5:
        colour = (255 - colour[..., :3]) * (255 - colour[..., 3:]) / 255
    if channels == 4 and photometric == 2:
        colour, alpha = array[..., :3].astype(np.int64), array[..., 3] if extra else alpha
    wanted = over(colour, alpha, top)
    if extra == 1:
        wanted = np.floor((colour + top - alpha[..., None].astype(np.int64)) / top * 255 + 0.5).astype(np.uint8)
    difference = np.abs(read(data, "a.tif").astype(int) - TURNED[orientation](wanted))
    assert difference.max() <= (1 if extra == 1 or photometric == 5 else 0)  # Pillow divides opacity out in 8 bits


def test_sixteen_bits_are_rounded_to_the_nearest_level_and_not_cut(read: Reading) -> None:
    every = np.arange(65536).reshape(256, 256, 1)
    wanted = np.floor(every / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(read(png(every, 0, 16))[..., :1], wanted)
    assert np.array_equal(read(png(np.repeat(every, 3, axis=-1), 2, 16))[..., :1], wanted)
    assert np.array_equal(read(tiff(every.astype(np.uint16), 1), "a.tiff")[..., :1], wanted)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


WRITABLE = {
    "PNG": ["1", "L", "LA", "I;16", "P", "RGB", "RGBA"],
    "JPEG": ["1", "L", "RGB", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
    "TIFF": ["1", "L", "LA", "I;16", "P", "RGB", "RGBA", "CMYK"],
    "BMP": ["1", "L", "P", "RGB"],
    "GIF": ["L", "P", "RGB", "RGBA"],
    "PPM": ["1", "L", "I;16", "RGB"],
}
ORIENTABLE = ("PNG", "JPEG", "WEBP", "TIFF")


def cases() -> Iterator[tuple[str, str, int]]:
    for form, modes in WRITABLE.items():
        for mode in modes:
            for orientation in TURNED if form in ORIENTABLE else (1,):
                yield form, mode, orientation


def in_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(RNG.integers(0, 65536, (16, 24), dtype=np.uint16))
    noise = Image.fromarray(RNG.integers(0, 256, (16, 24, 4), dtype=np.uint8), "RGBA")
    if mode in ("RGBA", "LA"):
        return noise.convert(mode)
    return noise.convert("RGB").convert(mode)


def second_reading(data: bytes) -> NDArray[np.uint8]:
    """Do each step with Pillow, one by one, for 8-bit files without a profile."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.float64) / 257
        return np.repeat(np.floor(levels + 0.5).astype(np.uint8)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB"))
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("form", "mode", "orientation"), list(cases()))
def test_every_format_that_pillow_writes(read: Reading, form: str, mode: str, orientation: int) -> None:
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    if form in ORIENTABLE:
        note = Image.Exif()
        note[274] = orientation
        options["exif"] = note
    data = saved(in_mode(mode), form, **options)
    found, wanted = read(data, f"a.{form.lower()}"), second_reading(data)
    assert found.shape == wanted.shape
    assert found.shape[:2] == ((24, 16) if orientation > 4 else (16, 24))
    assert np.abs(found.astype(int) - wanted).max() <= (1 if mode in ("RGBA", "LA", "CMYK") else 0)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
def test_tiff_of_every_compression(read: Reading, compression: str, orientation: int) -> None:
    image = in_mode("1" if compression == "group4" else "RGB")
    note = Image.Exif()
    note[274] = orientation
    data = saved(image, "TIFF", compression=compression, exif=note)
    upright = TURNED[orientation](np.asarray(image.convert("RGB")))
    wanted = second_reading(data) if compression == "jpeg" else upright
    assert np.array_equal(read(data, "a.tif"), wanted)
    with pytest.raises(BenchError, match="cannot be read"):
        read(data[: len(data) * 9 // 10], "a.tif")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM"])
def test_opencv_sees_the_same(read: Reading, form: str) -> None:
    data = saved(in_mode("RGB").resize((64, 48)), form, **({"lossless": True} if form == "WEBP" else {}))
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(read(data).astype(int) - theirs).max() <= (3 if form == "JPEG" else 0)  # another inverse DCT


def test_cmyk_is_converted_as_in_browsers(read: Reading) -> None:
    data = saved(in_mode("CMYK"), "JPEG", quality=100)
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(read(data, "a.jpg").astype(int) - theirs).max() <= 1
    cyan = saved(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF")
    assert read(cyan, "a.tif")[0, 0].tolist() == [0, 255, 255]


def test_hidden_colours_stay_hidden(read: Reading) -> None:
    magenta = Image.new("RGBA", (4, 4), (255, 0, 255, 0))
    assert (read(saved(magenta, "PNG")) == 255).all()
    assert (read(saved(magenta, "PNG"), reader=lambda path: read_image(path, 0)) == 0).all()


def profile_with_gamma(signature: bytes, gamma: float, primaries: dict[bytes, tuple[float, ...]]) -> bytes:
    """A minimal ICC profile, version 2, of a display (or grey device) with a pure power law."""

    def s15(values: tuple[float, ...]) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": b"XYZ \0\0\0\0" + s15((0.9642, 1.0, 0.8249))}
    tags |= {name: b"XYZ \0\0\0\0" + s15(value) for name, value in primaries.items()}
    tags |= dict.fromkeys([b"kTRC"] if signature == b"GRAY" else [b"rTRC", b"gTRC", b"bTRC"], curve)
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    head = struct.pack(">I", place + len(body)) + b"lcms\x02\x10\0\0mntr" + signature + b"XYZ " + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + s15((0.9642, 1.0, 0.8249))
    return head.ljust(128, b"\0") + table + body


ADOBE_PRIMARIES = {
    b"rXYZ": (0.60974, 0.31111, 0.01947),
    b"gXYZ": (0.20528, 0.62567, 0.06087),
    b"bXYZ": (0.14919, 0.06322, 0.74457),
}
SRGB_PRIMARIES = {
    b"rXYZ": (0.43607, 0.22249, 0.01392),
    b"gXYZ": (0.38515, 0.71687, 0.09708),
    b"bXYZ": (0.14307, 0.06061, 0.71410),
}


def to_srgb(values: NDArray[Any], gamma: float, primaries: dict[bytes, tuple[float, ...]]) -> NDArray[np.float64]:
    """Samples in [0, 1] of a display with a power law → sRGB levels, by IEC 61966-2-1 and matrices in D50."""
    theirs, ours = (np.array([*p.values()]).T for p in (primaries, SRGB_PRIMARIES))
    linear = np.clip(values**gamma @ (np.linalg.inv(ours) @ theirs).T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return encoded * 255


ADOBE = profile_with_gamma(b"RGB ", 2.2, ADOBE_PRIMARIES)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_embedded_profiles_are_followed(read: Reading, form: str, mode: str) -> None:
    image = in_mode(mode)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    found = read(saved(image, form, icc_profile=ADOBE, **options), f"a.{form.lower()}")
    array = np.asarray(image).astype(np.float64)
    alpha = array[..., 3:] / 255 if mode == "RGBA" else 1.0
    wanted = to_srgb(array[..., :3] / 255, 2.2, ADOBE_PRIMARIES) * alpha + 255 * (1 - alpha)
    assert np.abs(found - wanted).max() <= 1.6
    assert np.abs(found - np.asarray(image.convert("RGB")).astype(float)).max() > 10


def test_profiles_of_grey_deep_and_ink(read: Reading) -> None:
    grey = profile_with_gamma(b"GRAY", 1.8, {})
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    linear = (levels / 255) ** 1.8
    wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(read(saved(Image.fromarray(levels), "PNG", icc_profile=grey))[..., 0] - wanted).max() <= 0.6
    deep = RNG.integers(0, 65536, (9, 9, 3))
    chunk = b"adobe\0\0" + zlib.compress(ADOBE)
    found = read(png(deep, 2, 16, ((b"iCCP", chunk),)))
    assert np.abs(found - to_srgb(deep / 65535, 2.2, ADOBE_PRIMARIES)).max() <= 3  # it is rounded to 8 bits first
    with pytest.raises(BenchError, match="profile is for GRAY"):
        read(saved(in_mode("RGB"), "PNG", icc_profile=grey))
    with pytest.raises(BenchError, match="profile is for RGB"):
        read(saved(in_mode("CMYK"), "JPEG", icc_profile=ADOBE), "a.jpg")
    with pytest.raises(BenchError, match="profile is damaged"):
        read(saved(in_mode("RGB"), "PNG", icc_profile=b"no profile"))


def test_samples_declared_as_srgb_are_unchanged(read: Reading) -> None:
    image = in_mode("RGB")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read(saved(image, "PNG", icc_profile=srgb)), np.asarray(image))
    deep = RNG.integers(0, 65536, (9, 9, 3))
    found = read(png(deep, 2, 16, ((b"iCCP", b"s\0\0" + zlib.compress(srgb)),)))
    assert np.array_equal(found, over(deep, np.full((9, 9), 65535), 65535))
    usual = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    array = RNG.integers(0, 256, (5, 5, 3))
    tagged = png(array, 2, 8, ((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", usual)))
    assert np.array_equal(read(tagged), array)
    assert np.array_equal(read(png(array, 2, 8, ((b"cICP", bytes([1, 13, 0, 1])),))), array)


FAR = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
REFUSED: dict[str, tuple[bytes, str]] = {
    "linear.png": (png(np.zeros((2, 2, 3)), 2, 8, ((b"gAMA", struct.pack(">I", 100000)),)), "gAMA chunk has 1 "),
    "adobe.png": (png(np.zeros((2, 2, 3)), 2, 8, ((b"cHRM", FAR),)), "cHRM chunk has primaries other than"),
    "hdr.png": (png(np.zeros((2, 2, 3)), 2, 16, ((b"cICP", bytes([9, 16, 0, 1])),)), "cICP chunk"),
    "float.tif": (tiff(np.ones((2, 2, 1), np.float32), 1, form=3), "signed or floating-point"),
    "signed.tif": (tiff(np.ones((2, 2, 1), np.int16), 1, form=2), "signed or floating-point"),
    "long.tif": (tiff(np.ones((2, 2, 1), np.uint32), 1), "32-bit samples"),
    "lab.tif": (tiff(np.ones((2, 2, 3), np.uint8), 8), "LAB samples"),
    "float.pfm.ppm": (b"Pf\n1 1\n-1.0\n\0\0\x80\x3f", "F samples"),
    "lfs.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "text.png": (b"no picture at all", "its format is not supported"),
    "empty.jpg": (b"", "its format is not supported"),
    "no-width.png": (png(np.zeros((0, 0, 1)), 0, 8), "damaged"),
    "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "its format is not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_features_on_which_viewers_disagree_are_refused_by_name(read: Reading, name: str) -> None:
    data, said = REFUSED[name]
    with pytest.raises(BenchError, match=said) as error:
        read(data, name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_and_multi_page_files_are_refused(read: Reading, form: str) -> None:
    pages = [in_mode("RGB") for _ in range(3)]
    with pytest.raises(BenchError, match="3 frames or pages"):
        read(saved(pages[0], form, save_all=True, append_images=pages[1:]), f"a.{form.lower()}")


def test_a_photograph_with_further_pictures_is_its_first(read: Reading) -> None:
    pages = [in_mode("RGB"), in_mode("RGB")]
    found = read(saved(pages[0], "MPO", save_all=True, append_images=pages[1:]), "a.jpg")
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(saved(pages[0], "JPEG")))))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_a_file_truncated_anywhere_is_refused(read: Reading, form: str) -> None:
    whole = saved(in_mode("RGB").resize((64, 64)), form)
    for size in (len(whole) * 9 // 10, len(whole) // 2, len(whole) // 10, 4):
        with pytest.raises(BenchError, match=r"a\.x cannot be read as a picture"):
            read(whole[:size], "a.x")


def test_a_flipped_bit_in_a_png_is_found(read: Reading) -> None:
    whole = bytearray(saved(in_mode("RGB"), "PNG"))
    for place in range(40, len(whole), 37):
        whole[place] ^= 1
        with pytest.raises(BenchError, match="cannot be read"):
            read(bytes(whole))
        whole[place] ^= 1
    read(bytes(whole))


@pytest.mark.parametrize("width", [9500, 20000])
def test_too_large_pictures_are_refused_before_they_are_decoded(read: Reading, width: int) -> None:
    head = struct.pack(">IIBBBBB", width, 10000, 8, 0, 0, 0, 0)
    small = png(np.zeros((1, 1, 1)), 0, 8)
    chunk = b"IHDR" + head
    data = small[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + small[33:]
    with pytest.raises(BenchError, match=f"more than {MAX_PIXELS:,}"):
        read(data)


def test_a_damaged_exif_block_is_ignored(read: Reading) -> None:
    array = RNG.integers(0, 256, (4, 6, 3))
    assert np.array_equal(read(png(array, 2, 8, ((b"eXIf", b"rubbish"),))), array)


def test_links_folders_and_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(BenchError, match=r"link\.png .* a link to a file that does not exist"):
        read_image(tmp_path / "link.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BenchError, match=r"folder\.png .*directory"):
        read_image(tmp_path / "folder.png")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BenchError, match=r"a\.png .*Permission denied"):
        read_image(tmp_path / "a.png")


def test_masks_are_read_on_black_and_0_and_1_are_black_and_white(read: Reading) -> None:
    shape = RNG.integers(0, 2, (8, 8)).astype(np.uint8)
    wanted = np.repeat(shape[..., None] * np.uint8(255), 3, axis=-1)
    clear = np.full((8, 8, 4), 255, np.uint8)
    clear[..., 3] = shape * 255
    for image in (
        Image.fromarray(shape),
        Image.fromarray(shape * np.uint8(255)),
        Image.fromarray(np.repeat(shape[..., None], 3, axis=-1)),
        Image.fromarray(shape * np.uint8(255)).convert("1"),
        Image.fromarray(clear, "RGBA"),
        Image.fromarray(clear[..., 2:], "LA"),
    ):
        assert np.array_equal(read(saved(image, "PNG"), reader=read_mask), wanted)
    soft = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert np.array_equal(read(saved(soft, "PNG"), reader=read_mask)[..., 0], np.asarray(soft))
