"""Image folders: their picture files in order, the masks that belong to them, and the files left out."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.generate.image_files import SUFFIXES, read_image
from bench.records.errors import BenchError

MASKS = "masks"
"""The subfolder that holds the masks of a folder of pictures."""

_OF_SYSTEMS = {"thumbs.db", "desktop.ini", "icon\r"}


def check_readable(folder: Path, names: Sequence[str]) -> None:
    """Read all files, in threads; raises BenchError that lists those that cannot be decoded."""

    def attempt(name: str) -> str | None:
        try:
            read_image(folder / name)
        except BenchError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        failed = [reason for reason in pool.map(attempt, names) if reason]
    if failed:
        refuse(failed, "replace or remove them" if len(failed) > 1 else "replace or remove it")


def hash_files(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the SHA-256 of each file's bytes, in the order of `names`; raises BenchError for unreadable files."""

    def attempt(name: str) -> bytes:
        try:
            return hashlib.sha256((folder / name).read_bytes()).digest()
        except OSError as error:
            raise BenchError(f"{folder / name} cannot be read ({error.strerror}); remove it") from error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(attempt, names), strict=True))


def refuse(reasons: Sequence[str], remedy: str, shown: int = 5) -> None:
    """Raise BenchError with the first few reasons, each a clause that names its file."""
    more = f"; and {len(reasons) - shown} more like these" if len(reasons) > shown else ""
    raise BenchError(f"{'; '.join(reasons[:shown])}{more}; {remedy}")


@cache
def say_once(text: str) -> None:
    """Print a text to stderr, once per process."""
    print(text, file=sys.stderr)


@dataclass(frozen=True)
class Listing:
    """The pictures below a folder, as relative paths with /, and the files left out, by reason."""

    files: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        """A summary such as `64 images; left out: 2 hidden (._a.png, .b.png)`."""
        parts = []
        for reason, names in self.left_out.items():
            more = ", …" if len(names) > 3 else ""
            parts.append(f"{len(names)} {reason} ({', '.join(names[:3])}{more})")
        return f"{len(self.files)} images" + (f"; left out: {', '.join(parts)}" if parts else "")


def list_images(folder: Path, but: Collection[str] = ()) -> Listing:
    """Find the pictures in a folder and all folders below it, numbers in names sorted by value (2.png before 10.png).

    Links to folders are followed, each folder once. Folders named in `but`, directly below, are left out, with that
    name as the reason. Raises BenchError for a folder that cannot be read.
    """
    files: list[str] = []
    left_out: dict[str, list[str]] = {}
    for name in _walk(folder, but, left_out):
        last = name.rpartition("/")[2]
        if last.startswith(".") or last.casefold() in _OF_SYSTEMS:
            left_out.setdefault("hidden", []).append(name)
        elif Path(last).suffix.lower() in SUFFIXES:
            files.append(name)
        else:
            left_out.setdefault("of other kinds", []).append(name)
    files.sort(key=natural)
    return Listing(tuple(files), {reason: tuple(sorted(names, key=natural)) for reason, names in left_out.items()})


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that orders numbers within names by value."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _walk(folder: Path, but: Collection[str], left_out: dict[str, list[str]]) -> Iterator[str]:
    """Yield every file below a folder, relative to it; skipped folders are noted in `left_out`."""

    def fail(error: OSError) -> None:
        raise BenchError(f"{error.filename} cannot be read ({error.strerror}); grant read access, or move it away")

    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        here = Path(place).stat()
        if (here.st_dev, here.st_ino) in seen:  # reached by a link already
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        prefix = Path(place).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        if prefix and "run.json" in names:  # its images would become the reference of the next run
            left_out.setdefault("results of a run", []).append(prefix)
            folders.clear()
            continue
        for name in sorted(folders):
            if name.startswith(".") or name == "__MACOSX":
                left_out.setdefault("hidden", []).append(f"{prefix}{name}/")
            elif not prefix and name in but:
                left_out.setdefault(name, []).append(f"{name}/")
            else:
                continue
            folders.remove(name)
        folders.sort()
        yield from (prefix + name for name in names)


def pair_masks(pictures: Sequence[str], masks: Sequence[str]) -> list[tuple[str, str]]:
    """Return each picture with the mask of its name: cats/1.jpg with cats/1.png or cats/1_mask.png, relative to masks/.

    Raises BenchError that names the pictures and masks without a partner, or with several.
    """
    by_name: dict[str, list[str]] = {}
    for mask in masks:
        by_name.setdefault(_stem(mask).removesuffix("_mask"), []).append(mask)
    names = [_stem(picture) for picture in pictures]
    problems = [
        f"{names.count(name)} pictures are called {name}" for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    for picture, name in zip(pictures, names, strict=True):
        found = by_name.get(name, [])
        if len(found) != 1:
            problems.append(f"{picture} has {len(found) or 'no'} mask{'s' if found else ''} {MASKS}/{name}.*")
    problems += [f"{MASKS}/{mask} has no picture" for name in by_name.keys() - set(names) for mask in by_name[name]]
    if problems:
        problems[0] = f"task.inputs: {problems[0]}"
        refuse(problems, f"give each picture one mask of the same name in {MASKS}/, and each mask a picture")
    return [(picture, by_name[name][0]) for picture, name in zip(pictures, names, strict=True)]


def _stem(name: str) -> str:
    """Return a path without its suffix, in one Unicode normalisation form, since file systems differ in theirs."""
    return unicodedata.normalize("NFC", name.rpartition(".")[0])
