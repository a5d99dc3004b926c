"""SHA256SUMS: hashes of the files of a directory, one line each, in the format that `sha256sum --check` reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\n]+)")


def note_checksum(file: Path) -> None:
    """Add a file to the list of its directory, or replace its hash there; the list stays sorted by name."""
    known = {**listed(file.parent), file.name: _hash(file)}
    _write(file.parent, known)


def write_checksums(directory: Path) -> None:
    """Write the list of all files of a directory and of those below it."""
    _write(directory, {name: _hash(directory / name) for name in _files_of(directory)})


def _write(directory: Path, known: Mapping[str, str]) -> None:
    text = "".join(f"{known[name]}  {name}\n" for name in sorted(known))
    (directory / SUMS).write_text(text, encoding="utf-8")


def listed(directory: Path) -> dict[str, str]:
    """Return the hashes by name; empty where there is no list, and without lines that are damaged."""
    if not (directory / SUMS).is_file():  # a pipe would be read without an end
        return {}
    try:
        text = (directory / SUMS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {found[2]: found[1] for line in text.split("\n") if (found := _LINE.fullmatch(line))}


def damage_in(directory: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return what is wrong with files of a directory, by name: missing, changed, or not in its list.

    By default with all files: those that are listed and those that exist, hidden ones left out. A list that cannot be
    read is itself damaged.
    """
    known = listed(directory)
    if not known:
        return {SUMS: "it is missing or empty, so nothing says what the baseline holds"}
    return {
        name: why
        for name in ([*dict.fromkeys([*known, *_files_of(directory)])] if names is None else names)
        if (why := _why_damaged(directory / name, known.get(name)))
    }


def _why_damaged(file: Path, known: str | None) -> str:
    if known is None:
        return f"{SUMS} does not list it: it belongs to something else, or was written by hand"
    if file.exists() and not file.is_file():
        return "it is not a file"
    try:
        return "" if _hash(file) == known else f"its content is not what {SUMS} lists"
    except FileNotFoundError:
        return f"it is missing, {SUMS} lists it"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _files_of(directory: Path) -> list[str]:
    files = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return sorted(
        path.as_posix() for path in files if path.name != SUMS and not any(part.startswith(".") for part in path.parts)
    )


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
