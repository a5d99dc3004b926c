"""Whether a run is whole: every file that its run.json promises is there and can be read to its end."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from bench.records.errors import BenchError, Corrupt, Damaged
from bench.records.record import Record
from bench.records.run import Run
from bench.store.store import FAILED, GOOD, Store

REMEDY = "start the run again, which makes it again, or accept another run as the baseline"
UNREADABLE = (BenchError, Corrupt, OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


class DamagedRunError(BenchError):
    """A run with files that are missing or damaged: `damage` maps their names to what is wrong with them."""

    def __init__(self, location: str, damage: Mapping[str, str]) -> None:
        first, *others = (f"{name}: {why}" for name, why in damage.items())
        more = f" (and {len(others)} more files)" if others else ""
        super().__init__(f"{location} is not whole: {first}{more}; {REMEDY}")
        self.location, self.damage = location, damage


def read_whole(store: Store) -> Run:
    """The run in `store`, after every file that it promises was read: records, features, reference.

    Raises DamagedRunError, and BenchError where another version wrote run.json. A cell that failed has a record only.
    """
    if not store.files.exists("run.json"):
        raise DamagedRunError(store.location, {"run.json": "it is missing, so nothing says which cells the run has"})
    try:
        run = store.run()
    except Damaged as error:
        raise DamagedRunError(store.location, {"run.json": f"it cannot be read: {error.why}"}) from error
    damage: dict[str, str] = {}
    for key in run.cells:
        damage |= _damage_of_cell(store, run, key)
    if run.reference is not None:
        rows, why = _try(lambda: store.load_reference(str(run.reference)))
        if why is None and rows is None:
            why = "it is missing"
        if why is not None:
            damage[f"reference-{run.reference}.npz"] = why
    if damage:
        raise DamagedRunError(store.location, damage)
    return run


def _damage_of_cell(store: Store, run: Run, key: str) -> dict[str, str]:
    good, features = f"cells/{key}/{GOOD}", f"cells/{key}/features-{run.extractor}.npz"
    record, why = _try(lambda: store.record(key))
    there = store.files.exists(good)
    if why is not None or (there and (record is None or record.status != "ok")):
        return {good: why or "it is damaged"}
    if record is None:
        failed = f"cells/{key}/{FAILED}"
        if store.files.exists(failed):
            return {failed: "it is damaged"}
        return {good: "it is missing: the cell was never finished, or its record was lost"}
    if record.status != "ok":
        return {}
    if not store.has_features(key, run.extractor):
        return {features: "it is missing: the features that the cell is scored by"}
    found, why = _try(lambda: store.features_of(record, run.extractor))
    why = why or _short(record, found)
    return {} if why is None else {features: why}


def _short(record: Record, features: Any) -> str | None:
    count = record.images.count if record.images else 0
    rows = {name: len(array) for name, array in features.items() if len(array) != count}
    return f"it is damaged: {next(iter(rows.values()))} rows for {count} images" if rows else None


def _try(read: Callable[[], Any]) -> tuple[Any, str | None]:
    try:
        return read(), None
    except UNREADABLE as error:
        return None, _cannot_read(error)


def _cannot_read(error: BaseException) -> str:
    reason = error.why if isinstance(error, Damaged) else " ".join(str(error).split())
    return f"it cannot be read: {reason or type(error).__name__}"
