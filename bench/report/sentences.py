"""The guide, sentence by sentence: what was measured of each, on which row, with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.claims import Comparison
from bench.analysis.scoring import ScoredCell
from bench.records.cell import Cell, plain_number
from bench.report.claim_views import ClaimView
from bench.report.embedded_images import InputPicture, Picture
from bench.report.image_grid import PromptGrid

GUIDE = "the guide of diffusers on TCD"
"""The source of claims that are sentences of the guide."""
_OF_INPUTS = ("kind", "fit", "inputs_are")


@dataclass(frozen=True)
class OnRow:
    """A claim on one row: the comparison on which its verdict hangs, the row's settings, and pictures of a prompt."""

    view: ClaimView
    row: str
    settings: str
    pictures: tuple[tuple[str, Picture | InputPicture], ...]


@dataclass(frozen=True)
class Sentence:
    """What the guide says, and what became of it, row by row."""

    said: str
    rows: tuple[OnRow, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of rows by verdict."""
        verdicts = [on.view.judgement.verdict for on in self.rows]
        return {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}


def sentences(
    views: Sequence[ClaimView], cells: Sequence[ScoredCell], grids: Sequence[PromptGrid]
) -> tuple[Sentence, ...]:
    """Return the guide's sentences that claims are about, in the order of the claims; none for other claims."""
    found: dict[str, list[OnRow]] = {}
    for view in views:
        claim = view.judgement.claim
        if claim.source == GUIDE:
            said = claim.published.removeprefix("in words: ")
            found.setdefault(said[:1].upper() + said[1:], []).append(_on_row(view, cells, grids))
    return tuple(Sentence(said, tuple(rows)) for said, rows in found.items())


def row_in_words(cell: Cell) -> str:
    """Return what a row sets besides its methods: strength, scales, weights of adapters, precision and size."""
    settings = {name: value for name, value in cell.task.settings.items() if name not in _OF_INPUTS}
    task = [f"{name.replace('_', ' ')} {value}" for name, value in settings.items() if value is not None]
    adapters = [f"{adapter.name} × {plain_number(adapter.scale)}" for adapter in cell.adapters]
    size = f"{cell.base.width}×{cell.base.height}"
    kind = cell.task.kind.replace("_", " ")
    return ", ".join([kind, *task, *adapters, cell.base.dtype, size])


def _on_row(view: ClaimView, cells: Sequence[ScoredCell], grids: Sequence[PromptGrid]) -> OnRow:
    hangs_on = view.decisive
    if hangs_on is None:
        return OnRow(view, ", ".join(view.judgement.claim.models), "", ())
    cell = next((scored.record.cell for scored in cells if scored.label == hangs_on.subject), None)
    return OnRow(view, hangs_on.model, "" if cell is None else row_in_words(cell), _pictures(hangs_on, grids))


def _pictures(comparison: Comparison, grids: Sequence[PromptGrid]) -> tuple[tuple[str, Picture | InputPicture], ...]:
    """Return inputs and both sides of the first prompt that has pictures of both."""
    inputs: dict[str, InputPicture] = {}
    shown: dict[str, Picture] = {}
    for grid in grids:
        own = {p.record.cell.label: p for _, line in grid.rows for p in line if p is not None}
        sides = {name: own[name] for name in (comparison.subject, comparison.object) if name in own}
        if sides and grid.place == 0:
            shown |= sides
            inputs |= dict(grid.inputs)
    return (
        *inputs.items(),
        *((name, shown[name]) for name in (comparison.subject, comparison.object) if name in shown),
    )
