"""Safe writing into a run: obstacles and changed files are set aside and never overwritten."""

from __future__ import annotations

import sys
from contextlib import suppress

from bench.records.errors import Corrupt, StoreError
from bench.store.files import Files
from bench.store.sealed import read_sealed


def put(files: Files, name: str, content: bytes, durable: bool = True) -> None:
    """Write a file; a folder in its place, or a file in the place of its folder, is set aside."""
    for _ in range(name.count("/") + 1):
        try:
            return files.write(name, content, durable)
        except StoreError as error:
            if not isinstance(error.__cause__, (IsADirectoryError, NotADirectoryError, FileExistsError)):
                raise
            _clear_way(files, name)
    return files.write(name, content, durable)


def _clear_way(files: Files, name: str) -> None:
    parts = name.split("/")
    for depth in range(1, len(parts)):
        above = "/".join(parts[:depth])
        with suppress(FileNotFoundError, Corrupt):
            files.read(above)
            return quarantine(files, above, "a file is in the place of a folder")
    return quarantine(files, name, "a folder is in its place")


def quarantine(files: Files, name: str, why: str) -> None:
    """Move a changed file to `damaged/`, and report it."""
    target = f"damaged/{name.replace('/', '-')}"
    for number in range(1, 1000):
        if not files.exists(target):
            break
        target = f"damaged/{name.replace('/', '-')}.{number}"
    try:
        files.move(name, target)
    except FileNotFoundError:
        return
    print(
        f"results={files.location}: {name} is damaged ({why}); it was moved to damaged/ and tcd-bench run "
        "regenerates it",
        file=sys.stderr,
    )


def quarantine_if_corrupt(files: Files, name: str) -> None:
    """Quarantine a sealed file whose content was changed; raises BenchError for JSON of another schema version."""
    try:
        read_sealed(files, name)
    except FileNotFoundError:
        pass
    except Corrupt as error:
        quarantine(files, name, str(error))
