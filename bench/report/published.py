"""Measured and published numbers in one table and one plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.analysis.published import Beside
from bench.records.cell import plain_number
from bench.records.run import Run
from bench.report.identity import NO_VALUE
from bench.report.series import line_style
from bench.report.tables import Table
from bench.score.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def beside_table(run: Run, pairs: Sequence[Beside]) -> Table:
    """Return one row per published number."""
    rows = []
    for pair in pairs:
        number, cell = pair.published, pair.cell.record.cell
        rows.append(
            (
                *(cell.base.name, run.labels.get(cell.method, cell.method)),
                *(NO_VALUE if cell.eta is None else plain_number(cell.eta), plain_number(cell.guidance_scale)),
                *(str(cell.steps), _title(number.metric)),
                *(f"{number.value:g}", _measured(pair), number.trust),
                *(
                    pair.verdict,
                    pair.reason,
                    "; ".join(pair.differences),
                    "; ".join(filter(None, (number.source, number.note))),
                ),
            )
        )
    return Table(
        "published",
        "Beside the published numbers",
        (
            *("Base", "Method", "η", "Guidance", "Steps", "Score", "published", "measured", "trust", "Verdict", "why"),
            *("what differs from their protocol", "source"),
        ),
        tuple(rows),
        (False, False, True, True, True, False, True, True, False, False, False, False, False),
        "Reproduced: within the error of both samples, rounding, and the known spread of one protocol. Different: "
        "beyond that and beyond what is known to lie between tools. Not comparable: in between, or the protocols "
        "differ. Primary: published by the method's authors.",
    )


def draw_beside(run: Run, pairs: Sequence[Beside]) -> Figure:
    """Published (hollow) and measured (filled, with 95% intervals) against steps, one panel per score."""
    from bench.report.axes import legend_below, panels

    metrics = list(dict.fromkeys(pair.published.metric for pair in pairs))
    figure, grid = panels(len(metrics), 2.6, most=2)
    methods = list(dict.fromkeys(pair.published.method for pair in pairs))
    for axes, metric in zip(grid[0], metrics, strict=True):
        for i, method in enumerate(methods):
            own = [p for p in pairs if (p.published.method, p.published.metric) == (method, metric)]
            style = {**line_style(i), "linestyle": "none"}
            label = run.labels.get(method, method)
            theirs = {(p.published.steps, p.published.value) for p in own}
            if theirs:
                axes.plot(*zip(*sorted(theirs), strict=True), **style, fillstyle="none", label=f"{label}, published")
            for j, (name, found) in enumerate(_by_settings(own).items()):
                aside = 0.12 * j  # so that error bars of several settings do not hide one another
                values, errors = zip(*map(_interval, found), strict=True)
                steps = [p.published.steps + aside for p in found]
                axes.errorbar(steps, values, errors, **style, capsize=2, label=f"{label}{name}, measured")
        axes.set_xlabel("steps")
        axes.set_title(_title(metric), fontsize=8, loc="left")
    legend_below(figure)
    return figure


def _by_settings(pairs: Sequence[Beside]) -> dict[str, list[Beside]]:
    """Measured cells of one method by eta and guidance, named where there are several."""
    cells = [pair.cell.record.cell for pair in pairs]
    several_etas = len({cell.eta for cell in cells}) > 1
    several_scales = len({cell.guidance_scale for cell in cells}) > 1
    found: dict[str, list[Beside]] = {}
    for cell, pair in zip(cells, pairs, strict=True):
        name = f", η = {plain_number(cell.eta)}" if several_etas and cell.eta is not None else ""
        name += f", guidance {plain_number(cell.guidance_scale)}" if several_scales else ""
        found.setdefault(name, []).append(pair)
    return found


def _title(metric: str) -> str:
    return METRICS[metric].title if metric in METRICS else metric.replace("_", " ")


def _interval(pair: Beside) -> tuple[float, float]:
    """Value, and half the length of its 95% interval (0 where it has none)."""
    estimate = pair.measured
    if estimate is None:
        return pair.seconds or 0.0, 0.0
    return estimate.value, 0.0 if estimate.caveat else 1.96 * estimate.standard_error


def _measured(pair: Beside) -> str:
    if pair.measured is None:
        return NO_VALUE if pair.seconds is None else f"{pair.seconds:.3g}"
    value, half = _interval(pair)
    digits = METRICS[pair.published.metric].digits if pair.published.metric in METRICS else 3
    return f"{value:.{digits}f}" + (f" ± {half / 1.96:.{digits}f}" if half else "")
