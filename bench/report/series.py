"""Cells that belong on one line of a plot, in one row of the image grid, or in one panel of the plots against eta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.analysis.scoring import ScoredCell
from bench.records.cell import plain_number
from bench.records.run import Run
from bench.report.identity import further_traits

# Okabe and Ito's palette, distinguishable for colour-blind readers; shapes distinguish the series as well.
LINE_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"),
    *("#7B3294", "#5D8A00"),
)
MARKERS = "osD^vP*Xh<p"
"""One more than colours, so that both together repeat late."""


def line_style(i: int) -> dict[str, Any]:
    """Return matplotlib's colour and marker of line number `i`."""
    return {"color": LINE_COLOURS[i % len(LINE_COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


@dataclass(frozen=True)
class Series:
    """The cells that belong on one line: alike in all but their steps, which grow."""

    label: str
    style: Mapping[str, Any]
    cells: tuple[ScoredCell, ...]


@dataclass(frozen=True)
class EtaPanel:
    """Cells of a method that vary eta and steps, and are alike in everything else."""

    label: str
    cells: tuple[ScoredCell, ...]


def to_series(run: Run, cells: Sequence[ScoredCell]) -> list[Series]:
    """Group one base model's good cells into lines, in the plan's order."""
    series = []
    for i, (label, members) in enumerate(_grouped(run, cells, with_eta=True)):
        ordered = tuple(sorted(members, key=lambda scored: scored.record.cell.steps))
        series.append(Series(label, line_style(i), ordered))
    return series


def eta_panels(run: Run, cells: Sequence[ScoredCell]) -> list[EtaPanel]:
    """Group one base model's good cells into panels; methods with a single eta have none."""
    return [
        EtaPanel(label, tuple(members))
        for label, members in _grouped(run, cells, with_eta=False)
        if len({scored.record.cell.eta for scored in members}) > 1
    ]


def _grouped(run: Run, cells: Sequence[ScoredCell], with_eta: bool) -> list[tuple[str, list[ScoredCell]]]:
    """Group cells that differ only in steps (and eta), by the fields that distinguish them within their method."""
    good = [scored for scored in cells if scored.record.status == "ok"]
    further = further_traits(good)
    groups: dict[tuple[str, ...], list[ScoredCell]] = {}
    for scored in good:
        cell = scored.record.cell
        eta = "" if cell.eta is None or not with_eta else f"η = {plain_number(cell.eta)}"
        others = (f"{trait.head} {trait.of(scored)}" for trait in further)
        key = (cell.method, eta, f"guidance {plain_number(cell.guidance_scale)}", *others)
        groups.setdefault(key, []).append(scored)
    return [(_label(run, key, list(groups)), members) for key, members in groups.items()]


def _label(run: Run, key: tuple[str, ...], keys: Sequence[tuple[str, ...]]) -> str:
    """The method's label, with those parts of the key in which lines of the method differ."""
    method, *parts = key
    alike = [other for other in keys if other[0] == method]
    told = [part for i, part in enumerate(parts, 1) if part and len({other[i] for other in alike}) > 1]
    return ", ".join([run.labels.get(method, method), *told])
