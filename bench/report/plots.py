"""Plots as matplotlib figures: quality against cost, eta curves, latency parts, memory. No pyplot, no global state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from bench.judge.scores import ScoredCell, cost_of
from bench.report.series import COLOURS, MARKERS, Series, to_series
from bench.request import Run
from bench.score.metrics import METRICS, Metric

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "tcd-bench",
}


def draw_figures(run: Run, cells: Sequence[ScoredCell]) -> Iterator[tuple[str, str, Figure]]:
    """Yield file stem, caption and figure of every plot that the records can carry, base model by base model."""
    for model in dict.fromkeys(scored.record.cell.base.name for scored in cells):
        own = [scored for scored in cells if scored.record.cell.base.name == model]
        for name, caption, figure in _figures_of(run, own):
            if own[0].record.cell.cost_only:
                figure.suptitle("cost only: random weights", fontsize=8, color="#666666")
                caption += " (cost only)"
            yield f"{model}-{name}", caption, figure


def _figures_of(run: Run, own: Sequence[ScoredCell]) -> Iterator[tuple[str, str, Figure]]:
    series = to_series(run, own)
    metrics = [METRICS[short] for short in run.metrics]
    if any(scored.estimates for scored in own) and metrics:
        caption = "Quality against UNet evaluations per image (guidance counts twice)"
        yield "quality-evaluations", caption, _quality(run, series, metrics, "evaluations")
        if any(scored.record.latency for scored in own):
            caption = "Quality against measured latency, seconds per image"
            yield "quality-latency", caption, _quality(run, series, metrics, "latency")
        if varied := _methods_that_vary_eta(own):
            yield "eta", "Quality against eta, one line a step count", _eta_curves(run, own, varied, metrics)
            yield "eta-steps", "Quality by eta and steps; darker is better", _eta_map(run, own, varied, metrics)
    if any(scored.record.latency for scored in own):
        yield "latency-parts", "Where a call's time goes: median seconds per image by part", _latency_parts(series)
    if any(scored.record.memory for scored in own):
        yield "memory", "Peak memory of one call", _memory(series)


def pareto_front(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """The (cost, quality) points that no other beats in both, by growing cost."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1] if higher_is_better else p[1])):
        if not front or (quality > front[-1][1] if higher_is_better else quality < front[-1][1]):
            front.append((cost, quality))
    return front


def _quality(run: Run, series: Sequence[Series], metrics: Sequence[Metric], kind: str) -> Figure:
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.5 * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, metric in zip(grid.flat, metrics, strict=False):
        points = []
        for line in series:
            known = [
                (c, s.estimates[metric.short])
                for s in line.cells
                if metric.short in s.estimates
                if (c := cost_of(s.record, kind))
            ]
            if known:
                costs, values = [c for c, _ in known], [e.best for _, e in known]
                errors = np.transpose([e.whiskers for _, e in known])
                style = {"color": line.colour, "marker": line.marker, "markersize": 4.5, "linewidth": 1.2}
                axes.errorbar(costs, values, errors, label=line.label, capsize=2, **style)
                points += list(zip(costs, values, strict=True))
        front = pareto_front(points, metric.higher_is_better)
        where = {"drawstyle": "steps-post", "color": "#888888", "linestyle": ":", "linewidth": 1.6, "zorder": 0}
        axes.plot(*zip(*front, strict=True), label="Pareto front", **where)
        _log_axis(axes, [cost for cost, _ in points], plain=kind == "evaluations")
        axes.set_xlabel("UNet evaluations per image" if kind == "evaluations" else "latency, s per image (median)")
        n = max(
            (s.estimates[metric.short].n for line in series for s in line.cells if metric.short in s.estimates),
            default=0,
        )
        axes.set_ylabel(f"{metric.title} {'↑' if metric.higher_is_better else '↓'}")
        axes.set_title(metric.name(run.evaluator, n), fontsize=9, loc="left")
    for axes in list(grid.flat)[len(metrics) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return figure


def _log_axis(axes: Axes, values: Sequence[float], plain: bool) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(values))) if plain else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _methods_that_vary_eta(cells: Sequence[ScoredCell]) -> list[str]:
    etas: dict[str, set[float | None]] = {}
    for scored in cells:
        etas.setdefault(scored.record.cell.method, set()).add(scored.record.cell.eta)
    return [method for method, found in etas.items() if len(found) > 1]


def _eta_curves(run: Run, cells: Sequence[ScoredCell], varied: Sequence[str], metrics: Sequence[Metric]) -> Figure:
    figure = Figure(figsize=(3.4 * len(metrics), 3.2 * len(varied)), layout="constrained")
    grid = figure.subplots(len(varied), len(metrics), squeeze=False)
    for row, method in zip(grid, varied, strict=True):
        for axes, metric in zip(row, metrics, strict=True):
            steps = sorted({s.record.cell.steps for s in cells if s.record.cell.method == method})
            for i, count in enumerate(steps):
                own = [s for s in cells if s.record.cell.method == method and s.record.cell.steps == count]
                own = sorted((s for s in own if metric.short in s.estimates), key=lambda s: s.record.cell.eta or 0.0)
                if own:
                    estimates = [s.estimates[metric.short] for s in own]
                    axes.errorbar(
                        [s.record.cell.eta or 0.0 for s in own],
                        [e.best for e in estimates],
                        np.transpose([e.whiskers for e in estimates]),
                        **{"color": COLOURS[i], "marker": MARKERS[i], "capsize": 2, "label": f"{count} steps"},
                    )
            axes.set_xlabel("η")
            axes.set_title(f"{metric.title} {'↑' if metric.higher_is_better else '↓'}", fontsize=9, loc="left")
        row[0].set_ylabel(run.labels.get(method, method))
        row[0].legend(frameon=False, fontsize=8)
    return figure


def _eta_map(run: Run, cells: Sequence[ScoredCell], varied: Sequence[str], metrics: Sequence[Metric]) -> Figure:
    figure = Figure(figsize=(3.0 * len(metrics), 2.6 * len(varied)), layout="constrained")
    grid = figure.subplots(len(varied), len(metrics), squeeze=False)
    for row, method in zip(grid, varied, strict=True):
        own = [s for s in cells if s.record.cell.method == method and s.record.status == "ok"]
        steps = sorted({s.record.cell.steps for s in own})
        etas = sorted({s.record.cell.eta or 0.0 for s in own})
        for axes, metric in zip(row, metrics, strict=True):
            values = np.full((len(etas), len(steps)), np.nan)
            for s in own:
                if metric.short in s.estimates:
                    place = etas.index(s.record.cell.eta or 0.0), steps.index(s.record.cell.steps)
                    values[place] = s.estimates[metric.short].best
            shade = values if metric.higher_is_better else -values
            axes.imshow(shade, cmap="Blues", aspect="auto", origin="lower")
            middle = np.nanmean([np.nanmin(shade), np.nanmax(shade)])
            for (i, j), value in np.ndenumerate(values):
                colour = "white" if shade[i, j] > middle else "black"
                axes.text(j, i, f"{value:.{metric.digits}f}", ha="center", va="center", fontsize=7, color=colour)
            axes.set_xticks(range(len(steps)), [str(count) for count in steps])
            axes.set_yticks(range(len(etas)), [f"{eta:g}" for eta in etas])
            axes.set_xlabel("steps")
            axes.set_title(f"{metric.title} {'↑' if metric.higher_is_better else '↓'}", fontsize=9, loc="left")
        row[0].set_ylabel(f"{run.labels.get(method, method)}, η")
    return figure


def _bars(series: Sequence[Series]) -> list[tuple[str, ScoredCell]]:
    return [(f"{line.label}, {s.record.cell.steps} steps", s) for line in series for s in line.cells]


def _latency_parts(series: Sequence[Series]) -> Figure:
    bars = [(label, scored.record.latency) for label, scored in _bars(series) if scored.record.latency]
    figure = Figure(figsize=(8, 0.24 * len(bars) + 1.2), layout="constrained")
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
    _name_bars(axes, [label for label, _ in bars], "seconds per image (medians)")
    return figure


def _memory(series: Sequence[Series]) -> Figure:
    bars = [(label, scored.record.memory) for label, scored in _bars(series) if scored.record.memory]
    names = (
        ("allocated_bytes", "GPU, allocated"),
        ("device_bytes", "GPU, whole device"),
        ("host_rss_bytes", "host, resident"),
    )
    shown = [(key, name) for key, name in names if any(getattr(memory, key) is not None for _, memory in bars)]
    figure = Figure(figsize=(8, 0.24 * len(bars) * max(1, len(shown)) ** 0.5 + 1.2), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / max(1, len(shown))
    for i, ((key, name), colour) in enumerate(zip(shown, ("#0072B2", "#56B4E9", "#999999"), strict=False)):
        widths = [math.nan if (count := getattr(memory, key)) is None else count / 2**20 for _, memory in bars]
        axes.barh(
            [y + (i - (len(shown) - 1) / 2) * height for y in range(len(bars))],
            widths,
            height,
            color=colour,
            label=name,
        )
    _name_bars(axes, [label for label, _ in bars], "peak, MiB")
    return figure


def _name_bars(axes: Axes, labels: Sequence[str], unit: str) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=7.5)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.figure.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=8)
