"""Arrays by name as files of a run, each with its hash."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records.errors import Corrupt
from bench.store.files import Files
from bench.store.sealed import read_sealed, seal

Arrays = Mapping[str, NDArray[Any]]


def pack_arrays(name: str, arrays: Arrays, about: str = "") -> bytes:
    """Return a sealed `.npz` archive; `about` is the hash of the data that the arrays were computed from."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **dict(arrays))
    return seal(name, content.getvalue(), about)


def read_arrays(files: Files, name: str, about: str = "") -> dict[str, NDArray[Any]]:
    """Return arrays as written; raises FileNotFoundError, and Corrupt where they were changed or not about `about`."""
    content = read_sealed(files, name, about)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise Corrupt(str(error)) from error


def hash_array(values: NDArray[Any]) -> str:
    """Return the SHA-256 over values and layout."""
    found = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()
