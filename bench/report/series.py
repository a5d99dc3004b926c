"""Cells that belong on one line of a plot, or in one row of the image grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.judge.scores import ScoredCell
from bench.request import Run

# Okabe and Ito's palette, told apart by colour-blind readers; shapes tell the series apart once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#7B3294", "#5D8A00")
MARKERS = "osD^vP*Xh<"


@dataclass(frozen=True)
class Series:
    """The cells that belong on one line: one method at one eta and guidance scale, by growing steps."""

    label: str
    colour: str
    marker: str
    cells: tuple[ScoredCell, ...]


def to_series(run: Run, cells: Sequence[ScoredCell]) -> list[Series]:
    """Group one base model's good cells into lines, in the plan's order."""
    groups: dict[tuple[str, float | None, float], list[ScoredCell]] = {}
    for scored in cells:
        cell = scored.record.cell
        if scored.record.status == "ok":
            groups.setdefault((cell.method, cell.eta, cell.guidance_scale), []).append(scored)
    scales: dict[str, set[float]] = {}
    etas: dict[str, set[float | None]] = {}
    for method, eta, guidance in groups:
        scales.setdefault(method, set()).add(guidance)
        etas.setdefault(method, set()).add(eta)
    series = []
    for i, ((method, eta, guidance), members) in enumerate(groups.items()):
        label = run.labels.get(method, method)
        label += f", η = {eta:g}" if len(etas[method]) > 1 else ""
        label += f", guidance {guidance:g}" if len(scales[method]) > 1 else ""
        ordered = tuple(sorted(members, key=lambda scored: scored.record.cell.steps))
        series.append(Series(label, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], ordered))
    return series
