"""The table and the plot in which measured and published numbers stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.judge.published import Beside
from bench.report.identity import NONE
from bench.report.series import COLOURS, MARKERS
from bench.report.tables import Table
from bench.request import Run
from bench.score.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def beside_table(run: Run, pairs: Sequence[Beside]) -> Table:
    """One row a published number."""
    rows = []
    for pair in pairs:
        number, cell = pair.published, pair.cell.record.cell
        rows.append(
            (
                *(cell.base.name, run.labels.get(cell.method, cell.method), str(cell.steps), _title(number.metric)),
                *(f"{number.value:g}", _measured(pair), number.trust),
                *("; ".join(pair.differences), "; ".join(filter(None, (number.source, number.note)))),
            )
        )
    return Table(
        "published",
        "Beside the published numbers",
        (
            *("Base", "Method", "Steps", "Score", "published", "measured", "trust"),
            *("what differs from their protocol", "source"),
        ),
        tuple(rows),
        (False, False, True, False, True, True, False, False, False),
        "One implementation's number is a poor yardstick for another's. Primary: published by the method's authors.",
    )


def draw_beside(run: Run, pairs: Sequence[Beside]) -> Figure:
    """Published (hollow) and measured (filled, with 95% intervals) against steps, one panel a score."""
    from matplotlib.figure import Figure

    from bench.report.axes import legend_below

    metrics = list(dict.fromkeys(pair.published.metric for pair in pairs))
    figure = Figure(figsize=(4.4 * len(metrics), 3.2), layout="constrained")
    methods = list(dict.fromkeys(pair.published.method for pair in pairs))
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for i, method in enumerate(methods):
            own = [p for p in pairs if (p.published.method, p.published.metric) == (method, metric)]
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": "none"}
            label = run.labels.get(method, method)
            theirs = {(p.published.steps, p.published.value) for p in own}
            if theirs:
                axes.plot(*zip(*sorted(theirs), strict=True), **style, fillstyle="none", label=f"{label}, published")
            ours = [(p.published.steps, *_interval(p)) for p in own]
            if ours:
                steps, values, errors = zip(*ours, strict=True)
                axes.errorbar(steps, values, errors, **style, capsize=2, label=f"{label}, measured")
        axes.set_xlabel("steps")
        axes.set_title(_title(metric), fontsize=9, loc="left")
    legend_below(figure)
    return figure


def _title(metric: str) -> str:
    return METRICS[metric].title if metric in METRICS else metric.replace("_", " ")


def _interval(pair: Beside) -> tuple[float, float]:
    """Value, and half the length of its 95% interval (0 where it has none)."""
    estimate = pair.measured
    if estimate is None:
        return pair.seconds or 0.0, 0.0
    return estimate.value, 0.0 if estimate.doubt else 1.96 * estimate.standard_error


def _measured(pair: Beside) -> str:
    if pair.measured is None:
        return NONE if pair.seconds is None else f"{pair.seconds:.3g}"
    value, half = _interval(pair)
    digits = METRICS[pair.published.metric].digits if pair.published.metric in METRICS else 3
    return f"{value:.{digits}f}" + (f" ± {half / 1.96:.{digits}f}" if half else "")
