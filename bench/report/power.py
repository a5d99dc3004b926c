"""Images that a claim needs: the probability of a verdict against n, if the measured gain is the true one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.analysis.claims import Comparison, Judgement
from bench.analysis.sequential import OF_WHAT_IS_LEFT
from bench.report.axes import PAGE_INCHES, legend_below, log_axis
from bench.report.series import LINE_COLOURS


def power(comparison: Comparison, counts: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the probability that a separate run of `counts` images, judged once, decides a comparison.

    At the level that this run's other claims leave it. None where there is no interval.
    """
    effect = comparison.effect
    if effect is None or not effect.error > 0:
        return None
    return np.array([effect.chance(float(count), OF_WHAT_IS_LEFT * comparison.level) for count in counts])


def power_of_claim(judgement: Judgement, counts: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return that of its hardest comparison; where gains contradict the claim, of the one that refutes it best.

    None where a comparison has no interval.
    """
    lines = [power(comparison, counts) for comparison in judgement.comparisons]
    known = [line for line in lines if line is not None]
    if not known or len(known) < len(lines):
        return None
    effects = [comparison.effect for comparison in judgement.comparisons]
    against = [line for line, effect in zip(known, effects, strict=True) if effect and effect.excess < 0]
    return np.asarray(np.max(against, axis=0) if against else np.min(known, axis=0))


def draw_power(judgements: Sequence[Judgement]) -> Figure | None:
    """Draw one line per claim whose comparisons have intervals; returns None without a line."""
    comparisons = [c for judgement in judgements for c in judgement.comparisons]
    if not comparisons:
        return None
    most = max(c.n for c in comparisons)
    counts = np.geomspace(16, 32 * most, 120)
    figure = Figure(figsize=(PAGE_INCHES, 2.6), layout="constrained")
    axes = figure.subplots()
    for i, judgement in enumerate(judgements):
        line = power_of_claim(judgement, counts)
        if line is not None:
            colour = LINE_COLOURS[i % len(LINE_COLOURS)]
            style = "-" if i < len(LINE_COLOURS) else "--"
            axes.plot(counts, line, style, color=colour, label=judgement.claim.text, linewidth=1.3)
    if not axes.lines:
        return None
    axes.axvline(most, color="#888888", linewidth=0.8, linestyle=":")
    log_axis(axes, counts)
    axes.set_xlabel("images per cell of a run judged once (dotted: this run)")
    axes.set_ylabel("chance of a verdict")
    legend_below(figure)
    return figure
