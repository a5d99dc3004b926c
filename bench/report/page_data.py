"""The numbers of a run as the page's scripts read them, and the charts they draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.analysis.scoring import ScoredCell, ScoredRun, cost_of, fingerprint
from bench.records.run import Run
from bench.report.album import Album
from bench.report.embedded_images import Picture
from bench.report.identity import NO_VALUE, Trait, traits
from bench.report.image_grid import PromptGrid
from bench.report.series import to_series
from bench.score.metrics import Metric, metric_of

_PARTS = (("text_encoder_s", "text encoder"), ("denoiser_s", "denoiser"), ("vae_s", "VAE"))
_REST = "scheduler and the rest"
_DEVICE = "Device kind"
"""Not `Device`, by which joined runs tell their machines apart."""


def page_data(scored: ScoredRun, grids: Sequence[PromptGrid], album: Album) -> dict[str, Any]:
    """Return what charts, filters and the viewer of pictures need, as plain JSON values.

    `cells` has one entry per cell with its texts by column head (`traits`), costs and scores; `filters` the heads in
    which cells differ, with their values; `scores` the scores, `series` the lines of charts; `pictures` what the names
    of pictures stand for, and `files` those that lie beside the page of a single run. `prompts` are those of the grids,
    with their places in the run.
    """
    run, cells = scored.run, scored.cells
    columns = traits(run, cells)
    lines = _lines(run, cells)
    shown = _shown(grids, album)
    return {
        "cells": [_cell(run, cell, columns, lines, shown) for cell in cells],
        "filters": _filters(columns, cells),
        "scores": [_score(metric_of(name), cells) for name in run.metrics],
        "series": [{"label": label, "model": model} for label, model in dict.fromkeys(lines.values())],
        "prompts": [{"text": grid.prompt, "model": grid.model, "place": grid.place} for grid in grids],
        "pictures": album.sources,
        "files": {} if scored.joined else {name: place for (_, place), name in album.names.items()},
    }


def _lines(run: Run, cells: Sequence[ScoredCell]) -> dict[int, tuple[str, str]]:
    """Return for each good cell, by the identity of the object, the label of its line and its base model."""
    found: dict[int, tuple[str, str]] = {}
    for model in dict.fromkeys(scored.record.cell.base.name for scored in cells):
        own = [scored for scored in cells if scored.record.cell.base.name == model]
        found |= {id(cell): (line.label, model) for line in to_series(run, own) for cell in line.cells}
    return found


def _shown(grids: Sequence[PromptGrid], album: Album) -> dict[tuple[str, str], dict[int, str]]:
    """Return by store and cell the pictures that grids show, by the number of the grid."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for i, grid in enumerate(grids):
        for picture in (picture for _, row in grid.rows for picture in row if picture):
            found.setdefault(_home(picture), {})[i] = album.name(picture)
    return found


def _home(picture: Picture) -> tuple[str, str]:
    return picture.store.location, picture.record.key


def _cell(
    run: Run,
    scored: ScoredCell,
    columns: Sequence[Trait],
    lines: Mapping[int, tuple[str, str]],
    shown: Mapping[tuple[str, str], Mapping[int, str]],
) -> dict[str, Any]:
    record = scored.record
    cell, memory = record.cell, record.memory
    home = scored.source.store.location if scored.source else ""
    label, model = lines.get(id(scored), ("", cell.base.name))
    return {
        "key": record.key,
        "label": scored.label,
        "series": label,
        "model": model,
        "steps": cell.steps,
        "eta": cell.eta,
        "method": cell.method,
        "traits": {**{trait.head: trait.of(scored) for trait in columns}, _DEVICE: cell.device},
        "evaluations": cost_of(record, "evaluations"),
        "latency": cost_of(record, "latency"),
        "disturbed": scored.disturbed or "",
        "parts": _parts(scored),
        "memory": {
            name: count
            for name, field in (("allocated", "allocated_bytes"), ("device", "device_bytes"))
            if (count := getattr(memory, field, None)) is not None
        },
        "scores": {name: _estimate(run, scored, metric_of(name)) for name in run.metrics if name in scored.estimates},
        "pictures": shown.get((home, record.key), {}),
    }


def _parts(scored: ScoredCell) -> dict[str, Any] | None:
    """Return the median seconds per image of each part of a call, and the range of whole calls."""
    latency = scored.record.latency
    if latency is None:
        return None
    seconds = {name: median(getattr(latency, field)) / latency.batch_size for field, name in _PARTS}
    whole = median(latency.call_s) / latency.batch_size
    ends = min(latency.call_s) / latency.batch_size, max(latency.call_s) / latency.batch_size
    return {"parts": {**seconds, _REST: max(0.0, whole - sum(seconds.values()))}, "whole": whole, "range": ends}


def _estimate(run: Run, scored: ScoredCell, metric: Metric) -> dict[str, Any]:
    estimate = scored.estimates[metric.score]
    score, digits = estimate.to_score(), metric.digits
    value = estimate.debiased_value
    said = f"{value:.{digits}f}"
    if score.interval:
        said += f" [{score.interval[0]:.{digits}f}, {score.interval[1]:.{digits}f}]"
    return {
        "value": value if math.isfinite(value) else None,
        "interval": score.interval,
        "text": said if score.interval else f"{said}, no interval: {estimate.caveat}",
        "sample": estimate.sample,
        "protocol": fingerprint(run, metric.score, estimate.n),
    }


def _score(metric: Metric, cells: Sequence[ScoredCell]) -> dict[str, Any]:
    counts = {scored.estimates[metric.score].n for scored in cells if metric.score in scored.estimates}
    return {
        "score": metric.score,
        "name": metric.name_over(counts),
        "title": f"{metric.title} {'↑' if metric.higher_is_better else '↓'}",
        "higher": metric.higher_is_better,
        "extractor": metric.extractor or "none",
    }


def _filters(columns: Sequence[Trait], cells: Sequence[ScoredCell]) -> list[dict[str, Any]]:
    """Return the columns in which cells differ, with their values: numbers by size, texts in the order of the plan."""
    found = []
    for trait in columns:
        values = list(dict.fromkeys(trait.of(scored) for scored in cells))
        if trait.numeric:
            values.sort(key=lambda text: -math.inf if text == NO_VALUE else float(text))
        if len(values) > 1:
            found.append({"head": trait.head, "values": values})
    devices = dict.fromkeys(scored.record.cell.device for scored in cells)
    return found if len(devices) < 2 else [*found, {"head": _DEVICE, "values": list(devices)}]
