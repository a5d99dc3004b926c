"""A run becomes the new baseline: its records and arrays without the bulk, with the author and the reason."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.checksums import SUMS, write_checksums
from bench.experiment.config import ROWS_FOLDER
from bench.gate.completeness import NOTE, read_whole, row_directories
from bench.records.errors import BenchError
from bench.records.record import Record
from bench.records.run import Run
from bench.store.cell_folder import LATENTS
from bench.store.store import Store

KEPT_IMAGES = 8
OWN = ("cells", "run.json", "reference-", ROWS_FOLDER, NOTE, SUMS)
"""Prefixes of the names of a baseline's files."""


def accept(candidate: Store, directory: Path, author: str, reason: str) -> Path:
    """Copy what the gate compares into `directory`, replacing the baseline there; returns the note's path.

    A baseline is complete: raises BenchError where a file of the candidate is missing or damaged, or a cell failed, and
    where `directory` holds anything that a baseline does not.
    """
    sides = {Path(): candidate}
    for name, path in row_directories(Path(candidate.location)).items():
        sides[Path(ROWS_FOLDER) / name] = Store(path, writable=False)
    runs = {place: _read_good(store) for place, store in sides.items()}
    before = _note_of(directory)
    try:
        with _beside(directory) as fresh:
            for place, (run, records) in runs.items():
                _copy(sides[place], run, records, fresh / place)
            note = {
                **{"author": author, "reason": reason, "accepted": datetime.now(UTC).date().isoformat()},
                "cells": {record.cell.label: record.key for _, records in runs.values() for record in records},
                "replaces": before and before["cells"],
            }
            (fresh / NOTE).write_text(json.dumps(note, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            write_checksums(fresh)
            _replace(directory, fresh)
    except OSError as error:
        refusal = f"baseline={directory} cannot be written ({error.strerror}); choose another directory"
        raise BenchError(refusal) from error
    return directory / NOTE


def _read_good(store: Store) -> tuple[Run, list[Record]]:
    """Return a run that is whole, and the records of its cells; raises BenchError where one failed."""
    run = read_whole(store)
    records = store.good_records(run.cells)
    if len(records) < len(run.cells):
        raise BenchError(
            f"candidate={store.location} has {len(run.cells) - len(records)} cells that failed; run it whole"
        )
    return run, records


def _note_of(directory: Path) -> dict[str, Any] | None:
    """Return the note of the existing baseline; None where nothing exists. Raises BenchError for anything else."""
    if not directory.exists():
        return None
    other = f"baseline={directory} exists and is not an accepted baseline"
    if not (directory / NOTE).is_file():
        raise BenchError(f"{other}; choose another directory")
    if strangers := sorted(path.name for path in directory.iterdir() if not path.name.startswith(OWN)):
        raise BenchError(f"baseline={directory} also holds {strangers[0]}, which would be lost; move it elsewhere")
    try:
        note: dict[str, Any] = json.loads((directory / NOTE).read_text(encoding="utf-8"))
        return {**note, "cells": dict(note["cells"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{other}: its {NOTE} is damaged; remove the directory, or choose another") from error


def _copy(candidate: Store, run: Run, records: list[Record], directory: Path) -> None:
    """Copy the data that the gate reads, through the store, which adds hashes to verify it."""
    fresh = Store(directory)
    for record in records:
        before, after = candidate.cell(record.key), fresh.cell(record.key)
        for identity in run.features.values():
            after.save_features(identity, before.features(identity, record.images_hash), record.images_hash)
        if before.has_features(LATENTS):
            after.save_features(LATENTS, before.features(LATENTS, record.images_hash), record.images_hash)
        for row in range(KEPT_IMAGES):
            if (image := before.image(row)) is not None:
                after.save_image(row, image)
        after.commit(record)
    for identity in run.references.values():
        if (reference := candidate.load_reference(identity)) is not None:
            fresh.save_reference(identity, reference, candidate.load_reference_parts(identity))
    fresh.save_run(run)


@contextmanager
def _beside(directory: Path) -> Iterator[Path]:
    """A new empty directory on the same disk, below one with a unique name, which is removed at the end."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=f".{directory.name}.tcd-bench-", dir=directory.parent))
    try:
        (own / "new").mkdir()
        yield own / "new"
    finally:
        if directory.exists() or not (own / "old").exists():  # else it holds the only copy of the old baseline
            shutil.rmtree(own, ignore_errors=True)


def _replace(directory: Path, fresh: Path) -> None:
    """Replace `directory` by `fresh`; `directory` comes back where that fails."""
    if not directory.exists():
        fresh.rename(directory)
        return
    old = fresh.with_name("old")
    directory.rename(old)
    try:
        fresh.rename(directory)
    except BaseException:
        old.rename(directory)
        raise
