"""Prompts from files of the kinds that data sets come in, local or in the local hub cache. No torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.generate.weights import local_path
from bench.records import BenchError

DATASET = "dataset://"
COLUMNS = ("prompt", "Prompt", "caption", "text", "TEXT")
"""Where prompts are looked for when no column is named, in this order."""


def find_file(source: str) -> Path:
    """The file that a source names: a path, `bench://…`, or `dataset://owner/name/path` in the local hub cache.

    Raises BenchError for a data set that was not fetched.
    """
    if not source.startswith(DATASET):
        return local_path(source) or Path(source)
    from huggingface_hub.constants import HF_HUB_CACHE

    owner, name, *inside = source.removeprefix(DATASET).split("/")
    root = Path(HF_HUB_CACHE) / f"datasets--{owner}--{name}"
    reference = root / "refs" / "main"
    path = root / "snapshots" / reference.read_text().strip() / "/".join(inside) if reference.is_file() else None
    if path is None or not path.exists():
        raise BenchError(
            f"{source} is not in the local hub cache; fetch it with `hf download --repo-type dataset {owner}/{name}`"
        )
    return path


def read_prompts(path: Path, column: str | None = None) -> tuple[str, ...]:
    """The prompts of a file: .csv, .tsv, .jsonl and .parquet by column, COCO's captions .json, else one a line.

    Of COCO's captions the first of each image is taken, in the order of the images' ids. Raises BenchError for a file
    that cannot be read, is not UTF-8, or lacks the column.
    """
    read = _READERS.get(path.suffix.lower(), _lines)
    try:
        texts = read(path, column)
    except UnicodeDecodeError as error:
        raise BenchError(f"prompts.source={path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise BenchError(
            f"prompts.source={path} cannot be read ({error.strerror}); give 'world' or a file of prompts"
        ) from error
    except (json.JSONDecodeError, csv.Error, TypeError, KeyError) as error:
        kind = path.suffix.lower()
        raise BenchError(
            f"prompts.source={path} is no {kind} file of prompts ({error}); look at its content"
        ) from error
    found = tuple(text.strip() for text in texts if text.strip())
    if not found:
        raise BenchError(f"prompts.source={path} holds no prompt; write one prompt a line")
    return found


def _lines(path: Path, _: str | None) -> Sequence[str]:
    return path.read_text(encoding="utf-8-sig").splitlines()


def _table(path: Path, column: str | None) -> Sequence[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        name = _choose(path, column, rows.fieldnames or ())
        return [row[name] or "" for row in rows]


def _json_lines(path: Path, column: str | None) -> Sequence[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    name = _choose(path, column, list(rows[0]) if rows else ())
    return [str(row[name]) for row in rows]


def _parquet(path: Path, column: str | None) -> Sequence[str]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise BenchError(
            f"prompts.source={path} needs pyarrow; install it with `pip install tcd-bench[data]`"
        ) from error
    table = parquet.ParquetFile(path)
    name = _choose(path, column, table.schema_arrow.names)
    return [str(value) for value in table.read([name]).column(name).to_pylist()]


def _coco(path: Path, _: str | None) -> Iterator[str]:
    entries: Sequence[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8-sig"))["annotations"]
    first: dict[int, str] = {}
    for entry in sorted(entries, key=lambda entry: (entry["image_id"], entry["id"])):
        first.setdefault(entry["image_id"], str(entry["caption"]))
    return iter(" ".join(text.split()) for text in first.values())


_READERS: Mapping[str, Callable[[Path, str | None], Any]] = {
    ".csv": _table,
    ".tsv": _table,
    ".jsonl": _json_lines,
    ".json": _coco,
    ".parquet": _parquet,
}


def _choose(path: Path, column: str | None, there: Sequence[str]) -> str:
    for name in (column,) if column else COLUMNS:
        if name in there:
            return name
    wanted = f"column {column!r}" if column else f"none of the columns {', '.join(COLUMNS)}"
    raise BenchError(
        f"prompts.source={path} has {'no ' if column else ''}{wanted}, but {', '.join(there) or 'nothing'}; name one "
        "with prompts.column=…"
    )
