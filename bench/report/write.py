"""The report of a run, made anew only where what it is made of has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bench.cell import content_hash
from bench.store import FAILED, GOOD, Store


def write_report(store: Store) -> str:
    """Write scores.csv, tables/, plots/, grid.png and report.html into the run; returns where the page lies.

    A page that was made from the same inputs by the same code is left as it is.
    """
    inputs = _fingerprint(store)
    page = store.read_bytes("report.html")
    if page is not None and f'content="{inputs}"'.encode() in page[:600]:
        return f"{store.location}/report.html"
    from bench.report.make import make_report  # scipy and matplotlib take their time

    return make_report(store, inputs)


def _fingerprint(store: Store) -> str:
    """A hash over what is asked for, all records, and the code that turns them into the report."""
    package = Path(__file__).parents[1]
    code = sorted(
        path for name in ("score", "judge", "report") for path in (package / name).iterdir() if path.is_file()
    )
    said = [f"cells/{key}/{name}" for key in store.cell_keys() for name in (GOOD, FAILED)]
    contents = [store.read_bytes(name) for name in ("run.json", *said)]
    contents += [path.read_bytes() for path in code]
    return content_hash([hashlib.sha256(content).hexdigest() for content in contents if content is not None])
