"""Completeness of a run: every file that its run.json lists exists and can be read to its end."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from bench.checksums import SUMS, damage_in
from bench.experiment.config import ROWS_FOLDER
from bench.records.errors import BenchError, Corrupt, Damaged
from bench.records.record import Record
from bench.records.run import Run
from bench.store.cell_folder import FAILED, GOOD
from bench.store.store import Store

NOTE = "accepted.json"
"""Who accepted a baseline, and why; a run has none."""
REMEDY = "start the run again, which makes it again, or accept another run as the baseline"
UNREADABLE_FILE = (BenchError, Corrupt, OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


class DamagedRunError(BenchError):
    """A run with files that are missing or damaged: `damage` maps their names to what is wrong with them."""

    def __init__(self, location: str, damage: Mapping[str, str]) -> None:
        first, *others = (f"{name}: {why}" for name, why in damage.items())
        more = f" (and {len(others)} more files)" if others else ""
        super().__init__(f"{location} is not whole: {first}{more}; {REMEDY}")
        self.location, self.damage = location, damage


def row_directories(directory: Path) -> dict[str, Path]:
    """Return the directories of the runs of an experiment's rows, by name."""
    folder = directory / ROWS_FOLDER
    found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return {path.name: path for path in found if not path.name.startswith(".")}


def read_whole(store: Store) -> Run:
    """The run in `store`, after every file that it promises was read: records, features, reference;
    of an accepted baseline also its list of hashes.

    Raises DamagedRunError, and BenchError where another version wrote run.json. A cell that failed has a record only.
    """
    if damage := _damage_of_baseline(store):
        raise DamagedRunError(store.location, damage)
    if not store.files.exists("run.json"):
        raise DamagedRunError(store.location, {"run.json": "it is missing, so nothing says which cells the run has"})
    try:
        run = store.run()
    except Damaged as error:
        raise DamagedRunError(store.location, {"run.json": f"it cannot be read: {error.why}"}) from error
    if not run.cells:
        raise DamagedRunError(store.location, {"run.json": "it lists no cell, so there is nothing to compare"})
    damage = {}
    for key in run.cells:
        damage |= _damage_of_cell(store, run, key)
    for reference in run.references.values():
        name = f"reference-{reference}.npz"
        try:
            damage |= {} if store.load_reference(reference) is not None else {name: "it is missing"}
        except UNREADABLE_FILE as error:
            damage[name] = _cannot_read(error)
    if damage:
        raise DamagedRunError(store.location, damage)
    return run


def _damage_of_baseline(store: Store) -> dict[str, str]:
    """What is wrong with the files of an accepted baseline, all of which have their hash beside them."""
    directory = Path(store.location)
    if not ((directory / NOTE).exists() or (directory / SUMS).exists()):
        return {}  # a run, or a URL
    return damage_in(directory)


def _damage_of_cell(store: Store, run: Run, key: str) -> dict[str, str]:
    good = f"cells/{key}/{GOOD}"
    try:
        record = store.cell(key).record()
    except UNREADABLE_FILE as error:
        return {good: _cannot_read(error)}
    if store.files.exists(good) and (record is None or record.status != "ok"):
        return {good: "it is damaged"}
    if record is None:
        failed = f"cells/{key}/{FAILED}"
        if store.files.exists(failed):
            return {failed: "it is damaged"}
        return {good: "it is missing: the cell was never finished, or its record was lost"}
    if record.status != "ok":
        return {}
    damage: dict[str, str] = {}
    for identity in run.features.values():
        damage |= _damage_of_features(store, record, identity)
    return damage


def _damage_of_features(store: Store, record: Record, identity: str) -> dict[str, str]:
    name = store.cell(record.key).features_name(identity)
    if not store.cell(record.key).has_features(identity):
        return {name: "it is missing: features that the cell is scored by"}
    try:
        found = store.features_of(record, identity)
    except UNREADABLE_FILE as error:
        return {name: _cannot_read(error)}
    count = record.images.count if record.images else 0
    rows = next((len(array) for array in found.values() if len(array) != count), None)
    return {} if rows is None else {name: f"it is damaged: {rows} rows for {count} images"}


def _cannot_read(error: BaseException) -> str:
    reason = error.why if isinstance(error, Damaged) else " ".join(str(error).split())
    return f"it cannot be read: {reason or type(error).__name__}"
