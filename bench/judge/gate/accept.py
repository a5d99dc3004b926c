"""A run becomes the new baseline: its records and arrays without the bulk, with who accepted it and why."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from bench.records import BenchError
from bench.store import Store, image_name

NOTE = "accepted.json"
KEPT_IMAGES = 8


def accept(candidate: Store, directory: Path, author: str, reason: str) -> Path:
    """Copy what the gate compares into `directory`, in place of the baseline there; returns the note's path.

    Raises BenchError where a cell failed or was not run: a baseline is complete.
    """
    run = candidate.run()
    records = {key: candidate.record(key) for key in run.cells}
    bad = [key for key, record in records.items() if record is None or record.status != "ok"]
    if bad:
        raise BenchError(
            f"candidate={candidate.location} has {len(bad)} cells that failed or were not run; run it whole"
        )
    fresh = directory.with_name(f"{directory.name}.new")
    old = directory.with_name(f"{directory.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    if directory.exists() and not (directory / NOTE).is_file():
        raise BenchError(f"baseline={directory} exists and is no accepted baseline; choose another directory")
    try:
        names = ["run.json", *([] if run.reference is None else [f"reference-{run.reference}.npz"])]
        for key in run.cells:
            names += [f"cells/{key}/record.json", f"cells/{key}/features-{run.extractor}.npz"]
            names += [image_name(key, row) for row in range(KEPT_IMAGES) if candidate.has_image(key, row)]
        for name in names:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(candidate.files.read(name))
        note = {
            "author": author,
            "reason": reason,
            "accepted": datetime.now(UTC).date().isoformat(),
            "cells": {record.cell.label: record.key for record in records.values() if record},
            "replaces": _cells_of(directory),
        }
        (fresh / NOTE).write_text(json.dumps(note, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)
    except OSError as error:
        raise BenchError(
            f"baseline={directory} cannot be written ({error.strerror}); choose another directory"
        ) from error
    shutil.rmtree(old, ignore_errors=True)
    return directory / NOTE


def _cells_of(directory: Path) -> dict[str, str] | None:
    if not (directory / NOTE).is_file():
        return None
    cells: dict[str, str] = json.loads((directory / NOTE).read_text(encoding="utf-8"))["cells"]
    return cells
