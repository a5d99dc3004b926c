"""The progress of a run on a terminal: a bar for the whole run and one for each cell, with the time left of each."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from bench.printable import is_plain, printable
from bench.records.cell import Cell

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

MOST_CELL_BARS = 8
"""Cells that have a bar each."""
_REDRAW_S = 0.1
_PACE_S = 900.0
"""Seconds over which the pace is measured, from which the time left follows."""


class Bars:
    """Bars on stderr where that is a terminal, and nothing elsewhere.

    They are drawn by the calls of the work, without another thread, which would disturb what is being measured.
    A cell counts by its images times its denoiser evaluations, since these take the time.
    """

    def __init__(self, cells: Sequence[Cell], images: int) -> None:
        self._cells, self._images = {cell.key: cell for cell in cells}, images
        self._done: dict[str, int] = {}
        self._rows: dict[str, TaskID] = {}
        self._drawn_at = 0.0
        self._bars: Progress | None = None if is_plain(sys.stderr) else _make_bars()

    @property
    def shown(self) -> bool:
        """Whether there are bars."""
        return self._bars is not None

    def __enter__(self) -> Self:
        if self._bars is not None:
            total = sum(map(_cost, self._cells.values())) * self._images
            self._all = self._bars.add_task("", total=total, said=self._count(0, len(self._cells) * self._images))
            self.ended(0)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            for row in self._rows.values():
                self._bars.remove_task(row)
            self._bars.stop()

    def advance(self, cell: Cell, images: int) -> None:
        """Count images of a cell that were saved."""
        self.show({**self._done, cell.key: self._done.get(cell.key, 0) + images}, [cell.key])

    def enter(self, state: str, cell: Cell | None) -> None:
        """Show what a worker in this process does."""
        if self._bars is None or cell is None or cell.key not in self._cells:
            return
        self._begin(cell.key)
        for key, row in self._rows.items():
            self._bars.update(row, description=_named(self._cells[key], state if key == cell.key else ""))
        self._draw(now=True)

    def ended(self, cells: int, workers: int = 0, key: str = "") -> None:
        """Show the number of cells that have ended; the bar of the cell `key` goes."""
        if self._bars is None:
            return
        if key in self._rows:
            self._bars.remove_task(self._rows.pop(key))
        said = f"{cells} of {len(self._cells)} cells{f', {workers} workers' if workers else ''}"
        self._bars.update(self._all, description=said)
        self._draw(now=True)

    def show(self, images: Mapping[str, int], begun: Sequence[str] = ()) -> None:
        """Show the images of each cell that are in the store, with a bar for each of `begun`."""
        self._done = {key: min(count, self._images) for key, count in images.items()}
        if self._bars is None:
            return
        for key in begun:
            self._begin(key)
        done = sum(_cost(self._cells[key]) * count for key, count in self._done.items() if key in self._cells)
        total = len(self._cells) * self._images
        self._bars.update(self._all, completed=done, said=self._count(sum(self._done.values()), total))
        for key, row in self._rows.items():
            count = self._done.get(key, 0)
            self._bars.update(row, completed=count, said=self._count(count, self._images))
        self._draw()

    def say(self, text: str) -> None:
        """Print a line on stderr, above the bars."""
        if self._bars is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _begin(self, key: str) -> None:
        if self._bars is None or key in self._rows or key not in self._cells:
            return
        if len(self._rows) >= MOST_CELL_BARS:
            self._bars.remove_task(self._rows.pop(next(iter(self._rows))))
        count = self._done.get(key, 0)
        name, said = _named(self._cells[key], ""), self._count(count, self._images)
        self._rows[key] = self._bars.add_task(name, total=self._images, completed=count, said=said)

    def _draw(self, now: bool = False) -> None:
        if self._bars is not None and (now or time.monotonic() - self._drawn_at >= _REDRAW_S):
            self._drawn_at = time.monotonic()
            self._bars.refresh()

    @staticmethod
    def _count(images: int, total: int) -> str:
        return f"{images:,} of {total:,} images"


def _cost(cell: Cell) -> int:
    return cell.steps * (2 if cell.guidance_scale > 1 else 1)


def _named(cell: Cell, state: str) -> str:
    label = printable(cell.label)
    label = label if len(label) <= 44 else f"{label[:43]}…"
    return f"  {label}{f', {state}' if state not in ('', 'sampling') else ''}"


def _make_bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        TextColumn("{task.fields[said]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("left", style="progress.remaining"),
        console=Console(stderr=True, force_terminal=True),
        auto_refresh=False,
        redirect_stdout=not is_plain(sys.stdout),
        speed_estimate_period=_PACE_S,
    )
