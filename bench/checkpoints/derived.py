"""Packaged weights that are stored as differences from other packaged weights.

A directory with a `derived.json` holds only what is its own, which goes before what is copied. The file says what to
copy, which weights to change, which of their tensors to leave out, by the beginnings of their names, and what to write
before the other names of a file:

    {"copied": {"text_encoder": "teacher/text_encoder"},
     "changed": {"vae/diffusion_pytorch_model.safetensors": "teacher/vae/diffusion_pytorch_model.safetensors"},
     "without": [],
     "prefixes": {}}

with paths on the right below `bench/mini/weights`. In the place of a changed file, `<name>.changes.safetensors` holds
tensors under their own names, which replace those of the original, and differences of a lower rank to add to the
original, as `<tensor>.up` (out, rank) and `<tensor>.down` (rank, rest).
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
_Tensors = dict[str, NDArray[np.float16]]


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

        kept = load_file(_original(below, original))
        left_out, prefix = tuple(index.get("without", ())), index.get("prefixes", {}).get(name, "")
        kept = {f"{prefix}{key}": value for key, value in kept.items() if not key.startswith(left_out)}
        save_file(change(kept, load_file(directory / f"{name}{CHANGES}")), whole / name, metadata={"format": "pt"})
    return whole


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
