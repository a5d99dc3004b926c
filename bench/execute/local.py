"""All cells in this process, one after another."""

from __future__ import annotations

from collections.abc import Iterable

from bench.cell import Cell
from bench.execute.runner import Runner
from bench.records import Record


def run_locally(runner: Runner, cells: Iterable[Cell]) -> Iterable[Record]:
    """Yield each cell's record as it is committed."""
    for cell in cells:
        yield runner.run(cell)
