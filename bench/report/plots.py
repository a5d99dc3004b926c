"""Plots as matplotlib figures: quality against cost, eta curves, latency parts, memory. No pyplot, no global state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.analysis.scoring import ScoredCell, cost_of
from bench.records.cell import plain_number
from bench.records.run import Run
from bench.report.axes import PAGE_INCHES, legend_below, log_axis, panels
from bench.report.series import EtaPanel, Series, eta_panels, line_style, to_series
from bench.score.metrics import Metric, metric_of

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "tcd-bench",
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "text.parse_math": False,  # labels are plain text
}
_PEAKS = (("allocated_bytes", "GPU, allocated"), ("device_bytes", "GPU, whole device"))
MOST_LINES = 12
MOST_BARS = 60
MOST_VALUES = 300
MOST_PANELS = 8
MOST_FIGURES = 16
"""Larger plots are reduced, with a note: they are unreadable, and drawing them takes longer than all the rest."""


def plan_figures(run: Run, cells: Sequence[ScoredCell]) -> list[tuple[str, str, Callable[[], Figure]]]:
    """Return file stem, caption and drawing function of every plot that the records allow, per base model.

    Where that makes more than MOST_FIGURES, those of quality against evaluations come first and the last are left out.
    """
    found: list[tuple[int, str, str, Callable[[], Figure]]] = []
    models = list(dict.fromkeys(scored.record.cell.base.name for scored in cells))
    for model in models:
        own = [scored for scored in cells if scored.record.cell.base.name == model]
        cost_only = own[0].record.cell.cost_only
        for rank, name, about, draw in _figures_of(run, own):
            caption = f"{model}: {about}" if len(models) > 1 else about
            if cost_only:
                caption, draw = f"{caption} (cost only)", partial(_marked, draw)
            found.append((rank, f"{model}-{name}", caption, draw))
    chosen = found if len(found) <= MOST_FIGURES else sorted(found, key=itemgetter(0))[:MOST_FIGURES]
    planned = [(name, caption, draw) for _, name, caption, draw in chosen]
    if left_out := len(found) - len(chosen):
        name, caption, draw = planned[0]
        planned[0] = (name, f"{caption} ({left_out} more plots are omitted, since there are many cells)", draw)
    return planned


def _marked(draw: Callable[[], Figure]) -> Figure:
    figure = draw()
    figure.suptitle("cost only: random weights", fontsize=8, color="#666666", x=0.01, ha="left")
    return figure


def _figures_of(run: Run, own: Sequence[ScoredCell]) -> Iterator[tuple[int, str, str, Callable[[], Figure]]]:
    """Yield rank (lowest first), name, caption, and drawing function."""
    series = to_series(run, own)
    metrics = [metric_of(score) for score in run.metrics]
    if any(scored.estimates for scored in own) and metrics:
        named, others = _part(series, metrics)
        rest = f"; of {len(series)} lines, those on the front are named, the others grey" if others else ""
        caption = f"Quality against denoiser evaluations per image (guidance counts twice){rest}"
        yield 0, "quality-evaluations", caption, partial(_quality, run, named, others, metrics, "evaluations")
        if any(scored.record.latency for scored in own):
            hollow = "; hollow: disturbed by load, on no front" if any(scored.disturbed for scored in own) else ""
            caption = f"Quality against measured latency, seconds per image{rest}{hollow}"
            yield 1, "quality-latency", caption, partial(_quality, run, named, others, metrics, "latency")
        if found := eta_panels(run, own):
            most = max(1, MOST_PANELS // len(metrics))
            rest = f" (the first {most} of {len(found)} panels)" if len(found) > most else ""
            given = found[:most], metrics
            yield 3, "eta", f"Quality against eta, one line per step count{rest}", partial(_eta_curves, *given)
            yield 2, "eta-steps", f"Quality by eta and steps; darker is better{rest}", partial(_eta_map, *given)
    cells = [(line.label, s) for line in series for s in line.cells]
    bars = [(f"{label}, {s.record.cell.steps} steps{'*' if s.disturbed else ''}", s) for label, s in cells]
    cut = "" if len(bars) <= MOST_BARS else f" (the first {MOST_BARS} of {len(bars)} cells)"
    bars = bars[:MOST_BARS]
    if any(scored.record.latency for _, scored in bars):
        mark = "; * disturbed by load" if any(scored.disturbed for _, scored in bars) else ""
        caption = f"Time of a call by part: median seconds per image{cut}{mark}"
        yield 4, "latency-parts", caption, partial(_latency_parts, bars)
    if any(getattr(s.record.memory, name, None) is not None for _, s in bars for name, _ in _PEAKS):
        yield 5, "memory", f"Peak GPU memory of one call{cut}", partial(_memory, bars)


def pareto_front(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """The (cost, quality) points that no other beats in both, by growing cost."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1] if higher_is_better else p[1])):
        if not front or (quality > front[-1][1] if higher_is_better else quality < front[-1][1]):
            front.append((cost, quality))
    return front


def _part(series: Sequence[Series], metrics: Sequence[Metric]) -> tuple[list[Series], list[Series]]:
    """Return the named lines and the others; of many lines, those on the front against evaluations are named."""
    if len(series) <= MOST_LINES:
        return list(series), []
    first: dict[int, None] = {}
    for metric in metrics:
        points = {(x, y): i for i, line in enumerate(series) for x, y, _ in _points_of(line, metric, "evaluations")}
        first.update((points[point], None) for point in pareto_front(list(points), metric.higher_is_better))
    chosen = sorted(list(first)[:MOST_LINES])
    named = [replace(series[i], style=line_style(place)) for place, i in enumerate(chosen)]
    return named, [line for i, line in enumerate(series) if i not in chosen]


def _points_of(
    line: Series, metric: Metric, kind: str, disturbed: bool | None = None
) -> list[tuple[float, float, tuple[float, float]]]:
    """Cost, value and error_bars of those cells of a line that have them; of latencies the disturbed or the others."""
    return [
        (cost, estimate.debiased_value, estimate.error_bars)
        for s in line.cells
        if (estimate := s.estimates.get(metric.score)) and (cost := cost_of(s.record, kind))
        if disturbed is None or disturbed == bool(kind == "latency" and s.disturbed)
    ]


def _quality(
    run: Run, named: Sequence[Series], others: Sequence[Series], metrics: Sequence[Metric], kind: str
) -> Figure:
    figure, grid = panels(len(metrics), 2.5, most=2)
    for axes, metric in zip(grid[0], metrics, strict=True):
        for line in named:
            style = {**line.style, "markersize": 3.5}
            if known := _points_of(line, metric, kind):
                costs, values, errors = zip(*known, strict=True)
                bars = np.transpose(errors)
                axes.errorbar(costs, values, bars, label=line.label, capsize=2, linewidth=1.2, **style)
            if hollow := _points_of(line, metric, kind, disturbed=True):
                costs, values, _ = zip(*hollow, strict=True)
                inside = {"markerfacecolor": "white", "markeredgecolor": line.style["color"], "linestyle": "none"}
                axes.plot(costs, values, zorder=3, **style, **inside)
        points = [(x, y) for line in named for x, y, _ in _points_of(line, metric, kind, disturbed=False)]
        grey = [(x, y) for line in others for x, y, _ in _points_of(line, metric, kind, disturbed=False)]
        if grey:
            axes.scatter(*zip(*grey, strict=True), s=6, color="#bbbbbb", zorder=0, label="others")
            points += grey
        front = pareto_front(points, metric.higher_is_better)
        where = {"drawstyle": "steps-post", "color": "#888888", "linestyle": ":", "linewidth": 1.6, "zorder": 0}
        if front:
            axes.plot(*zip(*front, strict=True), label="Pareto front", **where)
        shown = [x for line in (*named, *others) for x, _, _ in _points_of(line, metric, kind)]
        log_axis(axes, shown, marked=kind == "evaluations")
        axes.set_xlabel("denoiser evaluations per image" if kind == "evaluations" else "latency, s per image (median)")
        estimates = [s.estimates.get(metric.score) for line in (*named, *others) for s in line.cells]
        counts = {estimate.n for estimate in estimates if estimate}
        axes.set_ylabel(f"{metric.title} {'↑' if metric.higher_is_better else '↓'}")
        axes.set_title(metric.name_over(counts), fontsize=8, loc="left")
    legend_below(figure)
    return figure


def _eta_curves(shown: Sequence[EtaPanel], metrics: Sequence[Metric]) -> Figure:
    figure, grid = panels(len(metrics), 2.2, rows=len(shown))
    for row, panel in zip(grid, shown, strict=True):
        steps = sorted({s.record.cell.steps for s in panel.cells})
        for axes, metric in zip(row, metrics, strict=True):
            for i, count in enumerate(steps):
                own = [s for s in panel.cells if s.record.cell.steps == count and metric.score in s.estimates]
                own.sort(key=lambda s: s.record.cell.eta or 0.0)
                if own:
                    estimates = [s.estimates[metric.score] for s in own]
                    aside = 0.012 * (i - (len(steps) - 1) / 2)  # so that error bars do not hide one another
                    etas = [(s.record.cell.eta or 0.0) + aside for s in own]
                    values, bars = [e.debiased_value for e in estimates], [e.error_bars for e in estimates]
                    style = {**line_style(i), "label": f"{count} steps", "capsize": 2}
                    axes.errorbar(etas, values, np.transpose(bars), **style)
            axes.set_xlabel("η")
            axes.set_title(f"{metric.title} {'↑' if metric.higher_is_better else '↓'}", fontsize=8, loc="left")
        row[0].set_ylabel(panel.label)
        row[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _eta_map(shown: Sequence[EtaPanel], metrics: Sequence[Metric]) -> Figure:
    figure, grid = panels(len(metrics), 1.9, rows=len(shown))
    crowded = len(metrics) * sum(len(panel.cells) for panel in shown) > MOST_VALUES
    for row, panel in zip(grid, shown, strict=True):
        steps = sorted({s.record.cell.steps for s in panel.cells})
        etas = sorted({s.record.cell.eta or 0.0 for s in panel.cells})
        for axes, metric in zip(row, metrics, strict=True):
            values = np.full((len(etas), len(steps)), np.nan)
            for s in panel.cells:
                if metric.score in s.estimates:
                    position = etas.index(s.record.cell.eta or 0.0), steps.index(s.record.cell.steps)
                    values[position] = s.estimates[metric.score].debiased_value
            _draw_map(axes, values, metric, crowded)
            axes.set_xticks(range(len(steps)), [str(count) for count in steps])
            axes.set_yticks(range(len(etas)), [plain_number(eta) for eta in etas])
            axes.set_xlabel("steps")
            axes.set_title(f"{metric.title} {'↑' if metric.higher_is_better else '↓'}", fontsize=8, loc="left")
        row[0].set_ylabel(f"{panel.label}, η")
    return figure


def _draw_map(axes: Axes, values: NDArray[np.float64], metric: Metric, crowded: bool) -> None:
    """Values (eta, steps) as shades, written out where they are few; what is not known stays empty."""
    image = axes.imshow(values, cmap="Blues" if metric.higher_is_better else "Blues_r", aspect="auto", origin="lower")
    if np.isnan(values).all():
        return
    if crowded:
        axes.figure.colorbar(image, ax=axes)
        return
    shade = values if metric.higher_is_better else -values
    middle = np.mean([np.nanmin(shade), np.nanmax(shade)])
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if shade[i, j] > middle else "black"
            axes.text(j, i, f"{value:.{metric.digits}f}", ha="center", va="center", fontsize=6, color=colour)


def _latency_parts(cells: Sequence[tuple[str, ScoredCell]]) -> Figure:
    bars = [(label, scored.record.latency) for label, scored in cells if scored.record.latency]
    figure = Figure(figsize=(PAGE_INCHES, 0.19 * len(bars) + 1.0), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(bars)
    parts = {
        name: [median(getattr(latency, f"{key}_s")) / latency.batch_size for _, latency in bars]
        for name, key in (("text encoder", "text_encoder"), ("denoiser", "denoiser"), ("VAE", "vae"))
    }
    whole = [median(latency.call_s) / latency.batch_size for _, latency in bars]
    parts["scheduler and the rest"] = [max(0.0, w - sum(p[i] for p in parts.values())) for i, w in enumerate(whole)]
    for (name, widths), colour in zip(parts.items(), ("#CC79A7", "#0072B2", "#E69F00", "#999999"), strict=True):
        axes.barh(range(len(bars)), widths, left=left, color=colour, label=name, height=0.75)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    ends = [(min(latency.call_s) / latency.batch_size, max(latency.call_s) / latency.batch_size) for _, latency in bars]
    spread = np.transpose([(middle - low, high - middle) for middle, (low, high) in zip(whole, ends, strict=True)])
    style: dict[str, Any] = {"fmt": "|", "color": "black", "linewidth": 1, "markersize": 7}
    axes.errorbar(whole, range(len(bars)), xerr=spread, label="whole call, range", **style)
    _name_bars(axes, [label for label, _ in bars], "seconds per image (medians)")
    return figure


def _memory(cells: Sequence[tuple[str, ScoredCell]]) -> Figure:
    bars = [(label, scored.record.memory) for label, scored in cells if scored.record.memory]
    shown = [(key, name) for key, name in _PEAKS if any(getattr(memory, key) is not None for _, memory in bars)]
    figure = Figure(figsize=(PAGE_INCHES, 0.19 * len(bars) * max(1, len(shown)) ** 0.5 + 1.0), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / max(1, len(shown))
    for i, ((key, name), colour) in enumerate(zip(shown, ("#0072B2", "#56B4E9"), strict=False)):
        widths = [math.nan if (count := getattr(memory, key)) is None else count / 2**20 for _, memory in bars]
        places = [y + (i - (len(shown) - 1) / 2) * height for y in range(len(bars))]
        axes.barh(places, widths, height, color=colour, label=name)
    _name_bars(axes, [label for label, _ in bars], "peak, MiB")
    return figure


def _name_bars(axes: Axes, labels: Sequence[str], unit: str) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    style = {"frameon": False, "fontsize": 7, "columnspacing": 1.0, "handlelength": 1.4}
    axes.figure.legend(loc="outside upper right", ncols=5, **style)
