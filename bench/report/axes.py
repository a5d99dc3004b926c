"""Common parts of the plots: logarithmic axes with readable ticks, and legends that fit below them."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import shorten
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

MOST_TICKS, MOST_COLUMNS = 10, 4
COLUMN_INCHES, PAGE_INCHES = 3.25, 6.875
"""Widths of a column and of the text of a two-column paper. Figures have one of them, and text of 6 to 8 points, so
that they are embedded without being scaled."""
MOST_ACROSS = 3
"""Panels beside each other."""
LETTERS_AN_INCH, LINE_INCHES, HANDLE_LETTERS = 15.5, 0.17, 8
"""Of text at the size of legends, of its lines, and how many letters a line's sample and its margins take."""


def panels(count: int, height: float, most: int = MOST_ACROSS, rows: int = 1) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes (rows, count): `count` panels in each of `rows`, at most `most` beside each other.

    A single panel is as wide as a column, several are as wide as a page. Axes that stay empty are not shown.
    """
    across = min(count, most)
    lines = -(-count // across)
    size = COLUMN_INCHES if across == 1 else PAGE_INCHES, height * lines * rows
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines * rows, across, squeeze=False).reshape(rows, lines * across)
    for axes in grid[:, count:].flat:
        axes.set_visible(False)
    return figure, grid[:, :count]


def log_axis(axes: Axes, values: Iterable[float], marked: bool = False) -> None:
    """Make the x-axis logarithmic, with ticks at `values` where they are to be marked and few, else at round ones."""
    found = sorted(set(values))
    axes.set_xscale("log")
    if marked and len(found) <= MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(found))
    elif found and found[-1] > 10 * found[0]:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def legend_below(figure: Figure) -> None:
    """Add a legend of all axes, in as many columns as fit, and enlarge the figure by it; long names are cut."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    room = int(figure.get_figwidth() * LETTERS_AN_INCH)
    names = [shorten(label, room - HANDLE_LETTERS, placeholder=" …") for label in handles]
    letters = [len(name) + HANDLE_LETTERS for name in names]
    counts = range(min(MOST_COLUMNS, len(names)), 1, -1)
    columns = next((count for count in counts if sum(map(max, np.array_split(letters, count))) <= room), 1)
    figure.set_figheight(figure.get_figheight() + LINE_INCHES * -(-len(names) // columns))
    figure.legend(list(handles.values()), names, loc="outside lower center", ncols=columns, frameon=False)
