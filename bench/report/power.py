"""How many images a claim needs: the chance of a verdict against n, if the measured gain is the true one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from bench.judge.claims import LEVEL, Comparison, Judgement
from bench.report.axes import legend_below, log_axis
from bench.report.series import COLOURS


def power(comparison: Comparison, counts: NDArray[np.float64], tests: int) -> NDArray[np.float64] | None:
    """Chance that a comparison is decided with so many images, at the level that Bonferroni leaves each of `tests`.

    None where there is no interval. Standard errors shrink like 1/√n.
    """
    half = (comparison.interval[1] - comparison.interval[0]) / 2
    if not math.isfinite(half) or half <= 0:
        return None
    errors = half / -float(ndtri(LEVEL / 2)) * np.sqrt(comparison.n / counts)
    needed = -float(ndtri(LEVEL / tests / 2))
    if comparison.expect == "equivalent":
        inside = sum(ndtr((comparison.threshold + sign * comparison.gain) / errors - needed) for sign in (1, -1)) - 1
        outside = ndtr((abs(comparison.gain) - comparison.threshold) / errors - needed)
        return np.asarray(np.clip(np.maximum(inside, outside), 0, 1))
    return np.asarray(ndtr(abs(comparison.gain - comparison.threshold) / errors - needed))


def draw_power(judgements: Sequence[Judgement]) -> Figure | None:
    """One line a claim, its hardest comparison; none for a claim with one that has no interval. None without a line."""
    comparisons = [c for judgement in judgements for c in judgement.comparisons]
    if not comparisons:
        return None
    most = max(c.n for c in comparisons)
    counts = np.geomspace(16, 32 * most, 120)
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for i, judgement in enumerate(judgements):
        lines = [power(c, counts, len(comparisons)) for c in judgement.comparisons]
        known = [line for line in lines if line is not None]
        if known and len(known) == len(lines):
            colour = COLOURS[i % len(COLOURS)]
            style = "-" if i < len(COLOURS) else "--"
            axes.plot(counts, np.min(known, axis=0), style, color=colour, label=judgement.claim.text, linewidth=1.3)
    if not axes.lines:
        return None
    axes.axvline(most, color="#888888", linewidth=0.8, linestyle=":")
    log_axis(axes, counts)
    axes.set_xlabel("images a cell (dotted: this run)")
    axes.set_ylabel("chance of a verdict")
    legend_below(figure)
    return figure
