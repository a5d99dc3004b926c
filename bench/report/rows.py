"""An experiment of rows: several runs below one directory, whose report is one, with claims about them together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bench.records.cell import plain
from bench.records.errors import Corrupt, Damaged
from bench.records.run import Claim
from bench.store.sealed import read_sealed, seal
from bench.store.store import Store

ROWS_FILE = "rows.json"
"""Says which runs a directory's report joins."""


@dataclass(frozen=True)
class RowRuns:
    """The directories of the runs below that of the report, the claims beside theirs, and the rows that are left out.

    `refused` has these, each with the reason; what an earlier run left in their directories may be of other settings.
    """

    directories: tuple[str, ...]
    claims: tuple[Claim, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """A sentence for each row that is left out."""
        return [
            f"Row {row} is left out; it was refused when the rows were last run: {reason}"
            for row, reason in self.refused.items()
        ]


def save_rows(store: Store, rows: RowRuns) -> None:
    """Write what a directory's report joins."""
    store.write_bytes(
        ROWS_FILE, seal(ROWS_FILE, (json.dumps(plain(rows), indent=1, ensure_ascii=False) + "\n").encode())
    )


def read_rows(store: Store) -> RowRuns | None:
    """Return what a directory's report joins; None where it is that of a run. Raises Damaged."""
    try:
        with suppress(FileNotFoundError):
            data: Mapping[str, Any] = json.loads(read_sealed(store.files, ROWS_FILE))
            claims = tuple(map(Claim.from_dict, data["claims"]))
            return RowRuns(tuple(data["directories"]), claims, dict(data.get("refused", {})))
    except (Corrupt, ValueError, KeyError, TypeError) as error:
        raise Damaged(store.location, ROWS_FILE, error) from error
    return None


def stores_of(store: Store, rows: RowRuns) -> list[Store]:
    """Return the runs, for reading; raises BenchError where one is missing."""
    return [Store(f"{store.location}/{directory}", writable=False) for directory in rows.directories]
