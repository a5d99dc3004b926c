"""The report of a run, regenerated only when its inputs or its files have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.pictures import INPUTS, captions_of
from bench.records.cell import content_hash
from bench.records.errors import BenchError, Corrupt
from bench.report.rows import ROWS_FILE
from bench.store.cell_folder import FAILED, GOOD
from bench.store.sealed import read_sealed, seal
from bench.store.store import RUN, Store

_NOTE = "report.json"
"""Says what the report was made of, the hash of each of its files, and which stored files it lacks."""
PAGE = "report.html"
_FORMS = "page", "folder"
"""Where the pictures of a report are: in the page, or in a folder beside it."""


def write_report(store: Store, runs: Sequence[Store] = (), form: str | None = None) -> str:
    """Write scores.csv, tables/, plots/, grid.png and report.html into the run; returns the location of the page.

    With `runs` it is one report of all of them, in a separate store. `form` is `page`, with all pictures in the page,
    or `folder`, with pictures in images/; None keeps what the last report was. The files are replaced together, or none
    where one cannot be written. A report that was made from the same inputs by the same code is left as it is, unless
    one of its files was changed or lost since. Raises Damaged, StoreError where it cannot be written, and BenchError
    for runs that cannot be joined.
    """
    before = _read_note(store)
    form = form or str(before.get("form", _FORMS[0]))
    inputs = _fingerprint(runs or [store], form, _read(store, ROWS_FILE))
    if not _is_whole(store, inputs, before):
        from bench.report.build import make_report  # scipy and matplotlib are slow to import

        made = make_report(store, inputs, runs, beside=form == _FORMS[1])
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in made.files.items()}
        note = {"inputs": inputs, "form": form, "files": hashes, "lacks": made.lacks}
        store.files.write_all({**made.files, _NOTE: seal(_NOTE, json.dumps(note, indent=1).encode())})
        for name in before.get("files", {}).keys() - hashes.keys():
            if _has(store, name, before["files"][name]):
                store.files.remove(name)  # of an earlier report, not modified since
    return f"{store.location}/{PAGE}"


def is_current(store: Store) -> bool:
    """Whether `write_report` would leave the report as it is."""
    note = _read_note(store)
    return _is_whole(store, _fingerprint([store], str(note.get("form", _FORMS[0]))), note)


def _is_whole(store: Store, inputs: str, note: Mapping[str, Any]) -> bool:
    return (
        note.get("inputs") == inputs
        and all(_has(store, name, known) for name, known in note["files"].items())
        and not any(store.files.exists(name) for name in note["lacks"])
    )


def _has(store: Store, name: str, known: str) -> bool:
    with suppress(FileNotFoundError, Corrupt):
        return hashlib.sha256(store.files.read(name)).hexdigest() == known
    return False


def _read_note(store: Store) -> Mapping[str, Any]:
    with suppress(FileNotFoundError, Corrupt, BenchError):
        note: Mapping[str, Any] = json.loads(read_sealed(store.files, _NOTE))
        return note
    return {}


def _fingerprint(stores: Sequence[Store], form: str, rows: bytes | None = None) -> str:
    """A hash over what is asked for, all records, and the code that turns them into the report."""
    package = Path(__file__).parents[1]
    own = (path for name in ("score", "analysis", "report") for path in (package / name).rglob("*") if path.is_file())
    code = sorted(path for path in own if "__pycache__" not in path.parts)
    contents: list[bytes | None] = [form.encode(), rows]
    contents += [] if len(stores) == 1 else [store.location.encode() for store in stores]
    for store in stores:
        said = [f"cells/{key}/{name}" for key in store.cell_keys() for name in (GOOD, FAILED)]
        contents += [_read(store, name) for name in (RUN, INPUTS, captions_of("reference"), *said)]
    contents += [path.read_bytes() for path in code]
    return content_hash([hashlib.sha256(content).hexdigest() for content in contents if content is not None])


def _read(store: Store, name: str) -> bytes | None:
    with suppress(Corrupt):
        return store.read_bytes(name)
    return None
