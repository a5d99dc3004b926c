"""Accepted baselines of several machines in one directory: a folder for each GPU and precision, chosen by the run.

A pool of machines may have two kinds that give different pixels with one GPU and precision: `cpu-float32` and
`cpu-float32-2` are then both accepted, and a run is compared with each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.gate.completeness import DamagedRunError, read_whole
from bench.gate.outcome import FAILS, VERDICTS, Outcome
from bench.gate.provenance import hardware
from bench.records.errors import BenchError
from bench.records.record import Record
from bench.store.store import Store


def fingerprint_of(records: Iterable[Record]) -> str:
    """Return the name of the folder for a run: its GPUs, or `cpu`, and its precisions, as in `nvidia-h200-float16`."""
    records = list(records)
    parts = [*sorted({hardware(record) for record in records}), *sorted({record.cell.base.dtype for record in records})]
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)


def fingerprint_of_run(store: Store) -> str:
    """Return the fingerprint of a stored run; raises BenchError where it is damaged or has no finished cell."""
    records = store.good_records(read_whole(store).cells)
    if not records:
        raise BenchError(f"{store.location} has no finished cell, so that no baseline can be chosen for it")
    return fingerprint_of(records)


def folders_for(directory: Path, fingerprint: str) -> list[Path]:
    """Return the folders of a fingerprint, the first accepted one first."""
    pattern = re.compile(rf"{re.escape(fingerprint)}(-(\d{{1,3}}))?")
    found = {path: match for path in _folders(directory) if (match := pattern.fullmatch(path.name))}
    return sorted(found, key=lambda path: int(found[path][2] or 1))


def _folders(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.is_dir()] if directory.is_dir() else []


def place_for(directory: Path, fingerprint: str, another: bool) -> Path:
    """Return the folder that a newly accepted run goes to: the fingerprint's own, or one beside those that exist."""
    known = folders_for(directory, fingerprint)
    if another and known:
        numbers = [int(path.name.removeprefix(fingerprint).strip("-") or 1) for path in known]
        return directory / f"{fingerprint}-{max(numbers) + 1}"
    return directory / fingerprint


def choose(directory: Path, candidate: Store) -> tuple[list[Path], list[Outcome]]:
    """Return the baselines that a run is compared with, and an outcome for each that is not whole or another one's."""
    try:
        fingerprint = fingerprint_of_run(candidate)
    except DamagedRunError as error:
        return [], error_outcomes(error)
    except BenchError as error:
        return [], [Outcome("cells", candidate.location, "run", "missing", note=str(error))]
    folders = folders_for(directory, fingerprint)
    if not folders:
        known = ", ".join(sorted(path.name for path in _folders(directory))) or "nothing"
        note = f"there is none for {fingerprint}, only {known}; accept a run of this machine with baselines={directory}"
        return [], [Outcome("cells", fingerprint, "baseline", "missing", note=note)]
    whole, outcomes = list[Path](), list[Outcome]()
    for folder in folders:
        try:
            own = fingerprint_of_run(Store(folder, writable=False))
        except DamagedRunError as error:
            outcomes += error_outcomes(error)
        except BenchError as error:
            outcomes.append(Outcome("cells", str(folder), "baseline", "missing", note=str(error)))
        else:
            if own == fingerprint:
                whole.append(folder)
            else:
                note = f"it holds a baseline of {own}; move it to a folder of that name"
                outcomes.append(Outcome("cells", str(folder), "baseline", "missing", note=note))
    return whole, outcomes


def error_outcomes(error: DamagedRunError) -> list[Outcome]:
    """Return an outcome for each file that is missing or damaged."""
    return [Outcome("cells", error.location, name, "missing", note=why) for name, why in error.damage.items()]


def agrees_best(found: Mapping[Path, Sequence[Outcome]]) -> Path:
    """Return the accepted baseline that a run agrees with best: the fewest failures, then the best verdicts."""

    def distance(folder: Path) -> tuple[int, int]:
        verdicts = [outcome.verdict for outcome in found[folder]]
        return sum(verdict in FAILS for verdict in verdicts), -sum(map(VERDICTS.index, verdicts))

    return min(found, key=distance)
