"""Headers of safetensors files: the tensors of a file, and whether the file is complete. Only tensors of a single
number are read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from bench.records.errors import BenchError

_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
"""Bits per element of the format's types (github.com/huggingface/safetensors, tensor.rs)."""
_NUMBERS = {"F64": "d", "F32": "f", "F16": "e", "BF16": "", "I64": "q", "I32": "i", "I16": "h", "U8": "B"}
_LIMIT = 100_000_000
"""The format's limit on the size of a header, in bytes."""


@dataclass(frozen=True, slots=True)
class Header:
    """Shapes of a file's tensors by name, its free text metadata, and type and position (in bytes) of each tensor."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    positions: Mapping[str, tuple[str, int]]


def read_header(path: Path) -> Header:
    """Return a safetensors file's header; raises BenchError, naming the file, where it is missing, cut or malformed."""
    state = check_payload(path)
    return _read(path, *state)


def check_payload(path: Path) -> tuple[int, int]:
    """Return size and time of change of a weights file; raises BenchError where it is absent, empty, or a text file.

    Git LFS leaves a pointer in place of a file that it did not fetch; a failed download often leaves a web page.
    """
    try:
        state = path.stat()
        if not path.is_file():
            raise BenchError(f"{path} is not a file; a weights file is needed there")
        with path.open("rb") as file:
            beginning = file.read(256)
    except FileNotFoundError as error:
        what = "a broken link" if path.is_symlink() else "missing"
        raise BenchError(f"{path} is {what}; fetch or copy it again") from error
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror})") from error
    if not beginning:
        raise BenchError(f"{path} is empty; fetch or copy it again")
    if beginning.startswith(b"version https://git-lfs"):
        raise BenchError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull`, or fetch it again")
    if beginning.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BenchError(f"{path} is a web page, not a weights file; fetch it again")
    if path.suffix == ".bin" and not beginning.startswith((b"PK\x03\x04", b"\x80")):  # formats of torch.save
        raise BenchError(f"{path} was not written by torch.save; fetch or copy it again")
    return state.st_size, state.st_mtime_ns


@cache
def _read(path: Path, size: int, changed_ns: int) -> Header:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > _LIMIT:
            raise BenchError(f"{path} is not a safetensors file; give one that is, or fetch it again")
        if 8 + length > size:
            raise BenchError(_cut(path, size, 8 + length))
        text = file.read(length)
    try:
        entries: dict[str, Any] = json.loads(text)
        metadata = {str(key): str(value) for key, value in (entries.pop("__metadata__", None) or {}).items()}
        shapes, positions, spans = {}, {}, []
        for name, entry in entries.items():
            shapes[name] = tuple(int(extent) for extent in entry["shape"])
            begin, end = entry["data_offsets"]
            positions[name] = str(entry["dtype"]), 8 + length + int(begin)
            bits = _BITS.get(entry["dtype"])
            if bits is not None and (end - begin) * 8 != prod(shapes[name]) * bits:
                raise BenchError(f"{path} is damaged: the size of {name} does not fit its shape; fetch it again")
            spans.append((begin, end))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BenchError(f"{path} is not a safetensors file, or damaged: its header cannot be read") from error
    position = 0
    for begin, end in sorted(spans):
        if begin != position or end < begin:
            raise BenchError(f"{path} is damaged: its tensors overlap or leave gaps; fetch it again")
        position = end
    if 8 + length + position != size:
        raise BenchError(_cut(path, size, 8 + length + position))
    return Header(shapes, metadata, positions)


def read_number(path: Path, name: str) -> float:
    """Return a tensor of one element; raises BenchError, naming the file, for other shapes and non-numeric types."""
    header = read_header(path)
    dtype, start = header.positions[name]
    if prod(header.shapes[name]) != 1 or dtype not in _NUMBERS:
        raise BenchError(f"{path}: {name} must be one number, but is {dtype} of shape {list(header.shapes[name])}")
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(_BITS[dtype] // 8)
    if dtype == "BF16":  # the upper half of a float32
        dtype, content = "F32", b"\0\0" + content
    return float(struct.unpack(f"<{_NUMBERS[dtype]}", content)[0])


def _cut(path: Path, size: int, wanted: int) -> str:
    kind = "truncated" if size < wanted else "too long"
    return f"{path} is {kind}: it has {size:,} bytes and its header states {wanted:,}; fetch or copy it again"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises BenchError, naming the file, where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BenchError(f"{path} is missing; fetch or copy it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{path} cannot be read as JSON; fetch or copy it again") from error
    if not isinstance(found, dict):
        raise BenchError(f"{path} does not hold a JSON object; fetch or copy it again")
    return found


def layout_of(header: Header) -> str | None:
    """Return the tensor naming of a single-file model: "original", "parts" (unet.*, vae.*, text_encoder.*), or None."""
    first = {name.partition(".")[0] for name in header.shapes}
    if {"unet", "vae", "text_encoder"} <= first:
        return "parts"
    if {"model", "first_stage_model"} <= first and first & {"cond_stage_model", "conditioner"}:
        return "original"
    return None


def is_denoiser(header: Header) -> bool:
    """Whether a single file is a transformer that was published alone, as of FLUX, Qwen-Image, SD 3.5 and Z-Image."""
    names = [name.removeprefix("model.").removeprefix("diffusion_model.") for name in header.shapes]
    return any(name.partition(".")[0] in _BLOCKS for name in names)


_BLOCKS = {
    *("double_blocks", "single_blocks", "joint_blocks", "transformer_blocks", "single_transformer_blocks"),
    *("blocks", "layers", "noise_refiner", "context_refiner"),
}
"""Lists of blocks in transformers, by the names in single files and in diffusers."""


def predicts_v(header: Header) -> bool:
    """Whether a single file declares v prediction: an entry that trainers write for other programs."""
    said = header.metadata.get("modelspec.prediction_type", "")
    return "v_pred" in header.shapes or said in ("v", "v_prediction", "v-prediction")
