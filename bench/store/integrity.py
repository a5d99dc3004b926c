"""Integrity of stored files: changed files are detected by their hashes and set aside, to be regenerated."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records.errors import BenchError, Corrupt, Damaged
from bench.records.run import Run
from bench.store.cell_folder import FAILED, GOOD
from bench.store.store import Store


def quarantine_corrupt_records(store: Store, keys: Sequence[str]) -> list[str]:
    """Move damaged records of these cells to `damaged/` and report them; returns their previous names."""
    found = []
    for key in keys:
        for name in (GOOD, FAILED):
            try:
                store.cell(key).read_record(name)
            except (FileNotFoundError, BenchError):
                pass  # missing, or intact but of another version
            except Corrupt as error:
                store.quarantine(f"cells/{key}/{name}", str(error))
                found.append(f"cells/{key}/{name}")
    return found


def quarantine_corrupt_features(store: Store, run: Run) -> list[str]:
    """Do the same for the features by which a run is scored and for its reference's; all of them are read."""
    found = []
    for key in run.cells:
        record = store.cell(key).record()
        try:
            if record is not None and store.cell(key).has_features(run.extractor):
                store.features_of(record, run.extractor)
        except Damaged as error:
            found.append(error)
    try:
        if run.reference is not None:
            store.load_reference(run.reference)
    except Damaged as error:
        found.append(error)
    for damaged in found:
        store.quarantine(damaged.name, damaged.why)
    return [damaged.name for damaged in found]
