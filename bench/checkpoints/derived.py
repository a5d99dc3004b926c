"""Packaged weights that are stored as differences from other packaged weights.

A directory with a `derived.json` holds only what is its own, which goes before what is copied. The file says what to
copy, which weights to change, which of their tensors to leave out, by the beginnings of their names, and what to write
before the other names of a file:

    {"copied": {"text_encoder": "teacher/text_encoder"},
     "changed": {"vae/diffusion_pytorch_model.safetensors": "teacher/vae/diffusion_pytorch_model.safetensors"},
     "without": [],
     "prefixes": {}}

with paths on the right below `bench/mini/weights`, empty where a file has no original. In the place of a changed file,
`<name>.changes.safetensors` holds tensors under their own names, which replace those of the original, and differences
of a lower rank to add to the original, as `<tensor>.up` (out, rank) and `<tensor>.down` (rank, rest). A tensor of 8
bits has `<tensor>.scale`, by which each of its rows is multiplied.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from threading import RLock

import numpy as np
from numpy.typing import NDArray

INDEX = "derived.json"
CHANGES = ".changes.safetensors"
SCALE = ".scale"
FACTORS = (".up", ".down", ".lora_A.weight", ".lora_B.weight")
FEWEST_VALUES, FEWEST_OF_FACTORS = 2048, 256
"""Smaller tensors stay in half precision: first and last layers are among them, and 8 bits of these cost the most. Of
factors, which make a difference alone, only those that are not worth their scales."""
_Tensors = dict[str, NDArray[np.float16]]
_Stored = dict[str, NDArray[np.float16 | np.int8]]


def completed(directory: Path, below: Path) -> Path:
    """Return the directory, or of a derived one a complete copy that lasts until the process ends.

    `below` is the directory of the originals, which may be derived too.
    """
    if not (directory / INDEX).is_file():
        return directory
    with _LOCK:
        return _complete(directory, below)


@cache
def _complete(directory: Path, below: Path) -> Path:
    index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
    whole = Path(tempfile.mkdtemp(dir=_folder().name)) / directory.name
    for name, original in index.get("copied", {}).items():
        shutil.copytree(_original(below, original), whole / name, dirs_exist_ok=True)
    shutil.copytree(directory, whole, ignore=shutil.ignore_patterns(INDEX, f"*{CHANGES}"), dirs_exist_ok=True)
    for name, original in index.get("changed", {}).items():
        from safetensors.numpy import load_file, save_file

        kept = load_file(_original(below, original)) if original else {}
        left_out, prefix = tuple(index.get("without", ())), index.get("prefixes", {}).get(name, "")
        kept = {f"{prefix}{key}": value for key, value in kept.items() if not key.startswith(left_out)}
        changes = unpack(load_file(directory / f"{name}{CHANGES}"))
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(change(kept, changes), whole / name, metadata={"format": "pt"})
    return whole


def pack(tensors: _Tensors) -> _Stored:
    """Return large tensors of at least two dimensions in 8 bits, with one scale per row."""
    stored: _Stored = {}
    for name, value in tensors.items():
        fewest = FEWEST_OF_FACTORS if name.endswith(FACTORS) else FEWEST_VALUES
        if value.ndim < 2 or value.size < fewest:
            stored[name] = value
            continue
        rows = value.reshape(len(value), -1).astype(np.float64)
        scale = (np.abs(rows).max(axis=1) / 127).astype(np.float16)
        steps = np.rint(rows / np.where(scale > 0, scale, 1)[:, None])
        stored[name] = np.clip(steps, -127, 127).astype(np.int8).reshape(value.shape)
        stored[f"{name}{SCALE}"] = scale
    return stored


def unpack(stored: _Stored) -> _Tensors:
    """Return tensors in half precision: those of 8 bits times the scales of their rows."""
    tensors: _Tensors = {}
    for name, value in stored.items():
        if value.dtype == np.int8:
            scale = stored[f"{name}{SCALE}"].reshape(-1, *[1] * (value.ndim - 1))
            tensors[name] = (value * scale.astype(np.float64)).astype(np.float16)
        elif not name.endswith(SCALE):
            tensors[name] = value.astype(np.float16)
    return tensors


def change(original: _Tensors, changes: _Tensors) -> _Tensors:
    """Return the original's tensors with the changes made; sums are rounded once, to float16."""
    result = dict(original)
    for name, value in changes.items():
        if name.endswith(".up"):
            key = name.removesuffix(".up")
            difference = value.astype(np.float64) @ changes[f"{key}.down"].astype(np.float64)
            result[key] = (original[key] + difference.reshape(original[key].shape)).astype(np.float16)
        elif not name.endswith(".down"):
            result[name] = value
    return result


def _original(below: Path, path: str) -> Path:
    first, _, rest = path.partition("/")
    return completed(below / first, below) / rest


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tcd-bench-")  # removed when the process ends


_LOCK = RLock()
