"""Files of the store that are not what was written: found by their hashes, set aside, so that they are made anew."""

from __future__ import annotations

import sys
import zipfile

from bench.records import BenchError, Corrupt, Record
from bench.store import FAILED, GOOD, Store, to_arrays


def set_damaged_aside(store: Store) -> list[str]:
    """Move damaged records and features to `damaged/`, saying so; returns the names that they had."""
    found = []
    for name in store.files.tree("cells"):
        folder, _, file = name.rpartition("/")
        if folder.count("/") != 1 or not (file in (GOOD, FAILED) or file.startswith("features-")):
            continue
        content = store.files.read(name)
        if (why := _damage(file, content)) is not None:
            store.files.write(f"damaged/{name.replace('/', '-')}", content)
            store.files.remove(name)
            print(
                f"results={store.location}: {name} is damaged ({why}); it lies in damaged/ now and is made anew",
                file=sys.stderr,
            )
            found.append(name)
    return found


def _damage(file: str, content: bytes) -> str | None:
    """What is wrong with a record or features; None where nothing is. Arrays carry checksums of their own."""
    try:
        if file.endswith(".json"):
            Record.from_json(content.decode())
        else:
            to_arrays(content)
    except BenchError:
        return None  # another version's, and whole
    except (Corrupt, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        return str(error) or type(error).__name__
    return None
