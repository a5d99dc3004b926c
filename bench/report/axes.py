"""Logarithmic axes whose ticks are plain numbers, enough of them to read a value by."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

MOST_TICKS = 10


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
