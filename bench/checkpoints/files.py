"""Selection of the files of a directory or repository that are read: the doctor requires them, fetching downloads them.

It works on names alone, on a listing of the hub as well as of a disk. Code files are never selected.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from bench.checkpoints.required import PUBLISHED_LORA, Required
from bench.records.errors import BenchError

_STEMS = ("diffusion_pytorch_model", "model", "open_clip_model")
_PICKLED_STEMS = ("pytorch_model", "diffusion_pytorch_model")
_SIDE_FILES = (".json", ".txt", ".model", ".jinja")
"""Configurations, vocabularies and chat templates, which transformers renders in a sandbox."""


def components_of(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return library and class of a pipeline's parts by the folders that hold them, as its model_index.json says."""
    return {
        name: (str(value[0]), str(value[1]))
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and value[0] is not None
    }


def wanted_files(entry: Required, names: Iterable[str], parts: Collection[str] | None = None) -> list[str]:
    """Return the files of `names` (paths with /, relative to the root) that an entry reads, in the order of `names`.

    `parts` are the folders of a pipeline's parts, all folders where these are not known. Raises BenchError where one
    file is needed and the choice is ambiguous.
    """
    names = list(names)
    wanted: set[str] = set()
    if entry.kind == "lora":
        return [single_file(entry, names)]
    if entry.kind == "image_adapter":
        folder = _join(entry.subfolder, "image_encoder")
        wanted = {single_file(entry, names), *_side_files(folder, names), *weights_in(folder, names, None)[0]}
    elif entry.kind in ("pipeline", "config"):
        folders = {str(PurePosixPath(name).parent) for name in names if name.count("/") == 1}
        wanted = {name for name in names if name == "model_index.json"}
        for folder in folders if parts is None else folders.intersection(parts):
            wanted |= {*_side_files(folder, names)}
            if entry.kind == "pipeline":
                found, which = weights_in(folder, names, entry.variant)
                wanted |= {*found}
                wanted -= {name for name in _indexes(folder, names) if not name.endswith(_index_of(which))}
    elif entry.file is not None:
        wanted = {single_file(entry, names)}
    else:
        folder = entry.subfolder or "."
        inner = {str(PurePosixPath(name).parent) for name in names}
        tokenizers = [name for name in inner if name.endswith("_tokenizer") and "/" not in name]
        wanted = {*weights_in(folder, names, entry.variant)[0]}
        for place in (folder, *tokenizers):
            wanted |= {*_side_files(place, names)}
    return [name for name in names if name in wanted]


def single_file(entry: Required, names: Sequence[str]) -> str:
    """Return the single file of an entry: the named file, or the only .safetensors; a .bin yields to its .safetensors.

    Raises BenchError where there is none, or several and no name was given.
    """
    if entry.file is not None:
        name = _join(entry.subfolder, entry.file)
        twin = f"{name.removesuffix('.bin')}.safetensors"
        found = twin if name.endswith(".bin") and twin in names else name
        if found not in names:
            there = [other for other in names if other.endswith((".safetensors", ".bin"))]
            listed = f"; available: {first_few(there, 6)}" if there else ", and no other weights file"
            raise BenchError(
                f"{entry.setting}.file={entry.file} was given, but {entry.source} has no such file{listed}"
            )
        return found
    if PUBLISHED_LORA in names:
        return PUBLISHED_LORA
    there = [name for name in names if name.endswith(".safetensors")]
    if len(there) != 1:
        found = f"{len(there)} ({first_few(there, 6)})" if there else "none"
        raise BenchError(
            f"{entry.setting}: {entry.source} must hold one .safetensors file and holds {found}; name it with "
            f"{entry.setting}.file=…"
        )
    return there[0]


def weights_in(folder: str, names: Iterable[str], variant: str | None) -> tuple[list[str], str | None]:
    """Return a model's weights files in a folder, and their variant: the requested variant where it exists.

    Safetensors are preferred; .bin files are read with `weights_only=True`: tensors and no code.
    """
    inside = [name for name in names if str(PurePosixPath(name).parent) == folder]
    for stems, ending in ((_STEMS, "safetensors"), (_PICKLED_STEMS, "bin")):
        for which in dict.fromkeys((variant, None)):
            infix, numbers = re.escape(f".{which}") if which else "", r"-\d{5}-of-\d{5}"
            pattern = re.compile(rf"({'|'.join(stems)})({infix}|{infix}{numbers}|{numbers}{infix})\.{ending}")
            if found := [name for name in inside if pattern.fullmatch(PurePosixPath(name).name)]:
                return found, which
    return [], None


def _indexes(folder: str, names: Iterable[str]) -> list[str]:
    """Return the indexes of sharded weights in a folder; one whose shards are not read is not read either."""
    return [name for name in _side_files(folder, names) if ".safetensors.index" in name]


def _index_of(variant: str | None) -> str:
    return f".safetensors.index{f'.{variant}' if variant else ''}.json"


def _side_files(folder: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if str(PurePosixPath(name).parent) == folder and name.endswith(_SIDE_FILES)]


def _join(*parts: str | None) -> str:
    return "/".join(part for part in parts if part)


def first_few(names: Sequence[str], shown: int = 3) -> str:
    """Return the first names of a list, and the number of the others: `a, b, c and 4 more`."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
