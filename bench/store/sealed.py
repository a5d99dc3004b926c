"""Sealed content carries a hash over its name and all of its bytes, which every reader verifies.

JSON ends with a member `sha256`, a `.npz` archive with a comment; other readers of both formats ignore it. The hash
covers the bytes as stored, so that a changed space is detected like a changed number, and the name below the store's
root, so that a file copied from elsewhere in the store is detected too.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records.errors import Corrupt
from bench.records.record import SCHEMA_VERSION, check_schema
from bench.store.files import Files

Arrays = Mapping[str, NDArray[Any]]
_IN_JSON = re.compile(rb', "sha256": "([0-9a-f]{64})"\}\n\Z')
_IN_ZIP = re.compile(rb"sha256:([0-9a-f]{64}) ([0-9a-z]{0,64})\Z")
_LONGEST_SEAL = 160
_END_OF_ZIP, _END_BYTES = b"PK\5\6", 22


def seal(name: str, content: bytes, about: str = "") -> bytes:
    """Return the content with its hash; `about` (letters and digits, .npz only) binds it to another file's hash.

    Raises ValueError for content that is neither a JSON object nor an archive of `np.savez`.
    """
    if name.endswith(".npz"):
        if content[-_END_BYTES:][:4] != _END_OF_ZIP or content[-2:] != b"\0\0":
            raise ValueError(f"{name} does not end as an archive does")
        body = content[:-2]
        comment = f"sha256:{_hash(name, body, about)} {about}".encode()
        return body + len(comment).to_bytes(2, "little") + comment
    body = content.rstrip()
    if not body.endswith(b"}"):
        raise ValueError(f"{name} is not a JSON object")
    body = body[:-1].rstrip()
    return b'%b, "sha256": "%b"}\n' % (body, _hash(name, body).encode())


def unseal(name: str, content: bytes, about: str = "") -> bytes:
    """Return the content that was sealed under this name; raises Corrupt for any other.

    Where both the content and the caller give `about`, they must agree. Raises BenchError for JSON of another schema
    version, written before hashes were introduced.
    """
    if name.endswith(".npz"):
        return _unseal_archive(name, content, about)
    found = _IN_JSON.search(content, max(0, len(content) - _LONGEST_SEAL))
    if found is None:
        _refuse_other_version(name, content)
        raise Corrupt("it does not end with its hash")
    body = content[: found.start()]
    if _hash(name, body) != found[1].decode():
        raise Corrupt(_OTHER)
    return body + b"}"


def read_sealed(files: Files, name: str, about: str = "") -> bytes:
    """Return a file's verified content; raises FileNotFoundError where it is missing, else as `unseal` does."""
    return unseal(name, files.read(name), about)


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


_OTHER = "its content does not have the hash that it was written with"


def _unseal_archive(name: str, content: bytes, about: str) -> bytes:
    found = _IN_ZIP.search(content, max(0, len(content) - _LONGEST_SEAL))
    if found is None:
        raise Corrupt("it does not end with its hash")
    start, bound = found.start(), found[2].decode()
    body, length = content[: start - 2], content[start - 2 : start]
    if length != (len(content) - start).to_bytes(2, "little") or _hash(name, body, bound) != found[1].decode():
        raise Corrupt(_OTHER)
    if about and bound and about != bound:
        raise Corrupt("it belongs to other images")
    return content


def _hash(name: str, body: bytes, about: str = "") -> str:
    found = hashlib.sha256(f"{name}\0{about}\0".encode())
    found.update(body)
    return found.hexdigest()


def _refuse_other_version(name: str, content: bytes) -> None:
    """Refuse JSON of earlier versions, which had no hash; a single wrong bit does not look like that."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return
    if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] != SCHEMA_VERSION:
        check_schema(data, name)
