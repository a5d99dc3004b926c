"""Prompts from files: text, .csv, .tsv, .jsonl, .json, .parquet. Imports no torch.

A prompt is text. Any other value (nothing, a number, a list, bytes) is refused with its row, and so are rows whose
fields do not match the header: a prompt cut at a comma is not the prompt that the file's author wrote. White space
around a prompt is removed; prompts are not changed otherwise.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.checkpoints.sources import local_path
from bench.records.errors import BenchError, check_path

DATASET = "dataset://"
_COLUMNS = ("prompt", "caption", "text")
"""Columns that hold prompts when none is named; case is ignored."""
POINTER = b"version https://git-lfs.github.com/spec/"
_Rows = Iterator[tuple[str, object]]
"""Pairs of the place of a value, for messages, and the value."""
_Reader = Callable[[bytes, Path, str | None, bool | None], _Rows]


class PromptFileError(ValueError):
    """The problem with a file, beginning with the row where that is known."""


def find_prompt_file(source: str) -> Path:
    """Return the file that a source names: a path, `bench://…`, or `dataset://owner/name/path` in the local hub cache.

    Raises BenchError for a data set that is not in the cache, or a source that names no file in it.
    """
    if not source.startswith(DATASET):
        return local_path(source) or Path(source)
    from huggingface_hub import constants, try_to_load_from_cache

    parts = source.removeprefix(DATASET).split("/")
    if len(parts) < 3 or {"", ".", ".."} & {*parts}:
        raise BenchError(f"prompts.source={source} was given; name a file, as in {DATASET}owner/name/prompts.csv")
    owner, name, *inside = parts
    path = try_to_load_from_cache(
        f"{owner}/{name}", "/".join(inside), cache_dir=constants.HF_HUB_CACHE, repo_type="dataset"
    )
    if not isinstance(path, str):
        raise BenchError(
            f"{source} is not in the local hub cache; fetch it with `hf download --repo-type dataset {owner}/{name}`"
        )
    return Path(path)


def read_prompts(path: Path, column: str | None = None, quoted: bool | None = None) -> tuple[str, ...]:
    """Return the prompts of a file, in its order, without blank lines of a text file.

    | ending | prompts |
    | --- | --- |
    | .txt, none | one per line; lines end at a line feed, with or without a carriage return before it |
    | .csv, .tsv | a column; fields may be quoted in a .csv, and not in a .tsv, unless `quoted` says otherwise |
    | .jsonl, .ndjson | a member of the object on each line |
    | .json | a list of texts, a list of objects, or COCO's captions: the first non-blank caption of each image, in
      the order of the images' ids |
    | .parquet | a column |

    `column` defaults to the one of `_COLUMNS` that the file has. Raises BenchError, naming the row, for a file that
    cannot be read, is not UTF-8, lacks the column, or holds a value that is not text.
    """
    check_path(f"prompts.source={path}", path, "file", "give 'world' or a file of prompts")
    try:
        read = _choose_reader(path, column, quoted)
        found = tuple(_to_text(where, value) for where, value in read(_contents(path), path, column, quoted))
    except UnicodeDecodeError as error:
        raise BenchError(f"prompts.source={path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise BenchError(
            f"prompts.source={path} cannot be read ({error.strerror}); give 'world' or a file of prompts"
        ) from error
    except PromptFileError as error:
        raise BenchError(f"prompts.source={path} {error}") from error
    if not found:
        raise BenchError(f"prompts.source={path} holds no prompt; write one prompt per line")
    return found


def _choose_reader(path: Path, column: str | None, quoted: bool | None) -> _Reader:
    ending = path.suffix.lower()
    read = _READERS.get(ending)
    if read is None:
        known = ", ".join(filter(None, _READERS))
        raise PromptFileError(f"ends in {ending}, which is not supported; give a file that ends in one of {known}")
    if column is not None and read is _lines:
        raise PromptFileError("is plain text, which has no columns; remove prompts.column, or rename the file to .csv")
    if quoted is not None and read is not _table:
        raise PromptFileError("is not a .csv or .tsv; remove prompts.quoted")
    return read


def _contents(path: Path) -> bytes:
    content = path.read_bytes()
    if content.startswith(POINTER):
        raise PromptFileError("is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`")
    return content


def _to_text(where: str, value: object) -> str:
    """Return a prompt without surrounding white space."""
    if not isinstance(value, str):
        shown = "nothing" if value is None else f"{type(value).__name__} {_brief(value)}"
        raise PromptFileError(f"{where} holds {shown} where a prompt is expected; write text, or remove the row")
    text = value.strip()
    if not text:
        raise PromptFileError(f"{where} holds no prompt; write one, or remove the row")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PromptFileError(f"{where} holds a character that is not text ({_brief(text)}); remove it")
    return text


def _brief(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _decode(content: bytes) -> str:
    """Return the text of a file whose lines end at a line feed, with or without a carriage return before it."""
    text = content.decode("utf-8-sig")
    if "\r" in (ends := text.replace("\r\n", "\n")):
        number = ends.count("\n", 0, ends.index("\r")) + 1
        raise PromptFileError(f"line {number} holds a carriage return without a line feed; end lines with a line feed")
    return text


def _lines(content: bytes, *_: object) -> _Rows:
    lines = _decode(content).split("\n")
    return ((f"line {number}", line) for number, line in enumerate(lines, 1) if line.strip())


def _table(content: bytes, path: Path, column: str | None, quoted: bool | None) -> _Rows:
    """Read with the standard library: pandas would take surplus fields for an index and shift the columns by it."""
    tabs = path.suffix.lower() == ".tsv"
    csv.field_size_limit(2**31 - 1)
    rows = csv.reader(
        io.StringIO(_decode(content), newline=""),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_MINIMAL if (not tabs if quoted is None else quoted) else csv.QUOTE_NONE,
        skipinitialspace=not tabs,
        strict=True,
    )
    header: list[str] = []
    place, line = 0, 1
    try:
        for row in rows:
            where, line = f"the row at line {line}", rows.line_num + 1
            if not any(field.strip() for field in row):
                continue
            if not header:
                header = [field.strip() for field in row]
                place = _choose(header, column)
                continue
            if len(row) != len(header):
                advice = "" if tabs else "; put a prompt with commas into quotation marks"
                raise PromptFileError(f"{where} has {len(row)} fields where the header has {len(header)}{advice}")
            yield where, row[place]
    except csv.Error as error:
        raise PromptFileError(
            f"line {line} cannot be read ({error}); write quotation marks in a quoted field twice"
        ) from error


def _json_lines(content: bytes, _: Path, column: str | None, *__: object) -> _Rows:
    name = None
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), 1):
        if line.strip():
            entry = _parse(line, f"the row at line {number}")
            name = name or _name_of(entry, column)
            yield f"the row at line {number}", _member(entry, name, f"the row at line {number}")


def _json(content: bytes, _: Path, column: str | None, *__: object) -> _Rows:
    text = content.decode("utf-8-sig")
    try:
        entries = _parse(text, "its content")
    except PromptFileError as error:
        first = text.strip().partition("\n")[0]
        if first != text.strip() and first.rstrip().endswith("}"):
            raise PromptFileError("holds an object per line; rename it to .jsonl") from error
        raise
    if isinstance(entries, dict) and isinstance(entries.get("annotations"), list):
        if column is not None:
            raise PromptFileError("holds COCO's captions, which have no columns; remove prompts.column")
        yield from _first_captions(entries["annotations"])
    elif isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
        name = _name_of(entries[0], column) if entries else ""
        for number, entry in enumerate(entries, 1):
            yield f"entry {number}", _member(entry, name, f"entry {number}")
    elif isinstance(entries, list) and column is None:
        for number, entry in enumerate(entries, 1):
            yield f"entry {number}", entry
    else:
        raise PromptFileError(
            "is JSON of an unknown shape; a .json holds a list of texts, a list of objects with a column, or COCO's "
            '{"annotations": [{"image_id": …, "id": …, "caption": …}]}'
        )


def _first_captions(entries: Sequence[Any]) -> _Rows:
    captions: dict[int | str, list[tuple[int | str, str]]] = {}
    for number, entry in enumerate(entries, 1):
        where = f"annotation {number}"
        caption = _member(entry, "caption", where)
        if not isinstance(caption, str):
            _to_text(where, caption)
        ids = [_to_id(_member(entry, name, where), name, where) for name in ("image_id", "id")]
        captions.setdefault(ids[0], []).append((ids[1], " ".join(str(caption).split())))
    if len({type(image) for image in captions}) > 1 or any(
        len({type(own) for own, _ in of_image}) > 1 for of_image in captions.values()
    ):
        raise PromptFileError("holds ids that are numbers and ids that are words, which cannot be ordered")
    for image in sorted(captions):
        ordered = [text for _, text in sorted(captions[image])]
        yield f"image {image}", next(filter(None, ordered), "")


def _to_id(value: object, name: str, where: str) -> int | str:
    """Return an id, converted to a number where possible, so that image "10" comes after image "9"."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 4000:
        return int(value)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise PromptFileError(f"{where} has {name}={_brief(value)}; ids are whole numbers or text")


def _parquet(content: bytes, _: Path, column: str | None, *__: object) -> _Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise PromptFileError("needs pyarrow; install it with `pip install tcd-bench[data]`") from error
    try:
        table = parquet.ParquetFile(io.BytesIO(content))
        names = table.schema_arrow.names
        values = table.read([names[_choose(names, column)]]).column(0).to_pylist()
    except pyarrow.ArrowException as error:
        raise PromptFileError(
            f"is not a .parquet file ({' '.join(str(error).split())[:200]}); look at its content"
        ) from error
    return ((f"row {number}", value) for number, value in enumerate(values, 1))


_READERS: Mapping[str, _Reader] = {
    "": _lines,
    ".txt": _lines,
    ".csv": _table,
    ".tsv": _table,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}


def _parse(text: str, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name occurs twice in one object")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise PromptFileError(f"{where} is not JSON ({str(error).partition(';')[0]})") from error


def _member(entry: object, name: str, where: str) -> object:
    if not isinstance(entry, dict):
        raise PromptFileError(f'{where} is not an object; write one, as in {{"{name}": "a cat"}}')
    if name not in entry:
        raise PromptFileError(f"{where} has no {name!r}")
    return entry[name]


def _name_of(entry: object, column: str | None) -> str:
    if not isinstance(entry, dict):
        raise PromptFileError('its first row is not an object; write one, as in {"prompt": "a cat"}')
    names = [*map(str, entry)]
    return names[_choose(names, column)]


def _choose(there: Sequence[str], column: str | None) -> int:
    """Return the index of the column that holds the prompts; exactly one must match."""
    known = [i for i, name in enumerate(there) if (name == column if column else name.lower() in _COLUMNS)]
    if len(known) == 1:
        return known[0]
    listed = ", ".join(there) or "nothing"
    if known:
        raise PromptFileError(
            f"has several columns that may hold the prompts ({', '.join(there[i] for i in known)}); "
            + ("name one with prompts.column=…" if len({there[i] for i in known}) > 1 else "rename all but one")
        )
    wanted = f"no column {column!r}" if column else f"none of the columns {', '.join(_COLUMNS)}"
    raise PromptFileError(f"has {wanted}, but {listed}; name one with prompts.column=…")
