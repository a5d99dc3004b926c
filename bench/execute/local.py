"""All cells in this process, one after another."""

from __future__ import annotations

from collections.abc import Iterable

from bench.execute.runner import Runner
from bench.records import Cell, Record


def run_locally(runner: Runner, cells: Iterable[Cell]) -> Iterable[Record]:
    """Yield each cell's record as it is committed."""
    for cell in cells:
        yield runner.run(cell)
