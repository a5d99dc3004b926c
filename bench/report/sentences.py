"""The guide, sentence by sentence: what was measured of each, on which row, with pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.claims import Comparison
from bench.analysis.kept import kept_share
from bench.analysis.scoring import ScoredCell
from bench.records.cell import Cell, plain_number
from bench.report.claim_views import ClaimView
from bench.report.comparisons import metric_in_words
from bench.report.embedded_images import InputPicture, Picture
from bench.report.image_grid import PromptGrid
from bench.score.estimate import Estimate, paired_difference
from bench.score.metrics import metric_of

GUIDE = "the guide of diffusers on TCD"
"""The source of claims that are sentences of the guide."""
_OF_INPUTS = ("kind", "fit", "inputs_are")


@dataclass(frozen=True)
class OnRow:
    """A claim on one row: the comparison on which its verdict hangs, the row's settings, and pictures of a prompt.

    `kept` says for each of its gains what share it is of the same gain on the first row.
    """

    view: ClaimView
    row: str
    settings: str
    pictures: tuple[tuple[str, Picture | InputPicture], ...]
    kept: tuple[str, ...] = ()


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
    settings = "" if cell is None else row_in_words(cell)
    return OnRow(view, hangs_on.model, settings, _pictures(hangs_on, grids), tuple(_kept(view, cells)))


def _kept(view: ClaimView, cells: Sequence[ScoredCell]) -> Iterator[str]:
    """Yield what share of the gain on the first row's model is kept, of comparisons with the strongest opponent."""
    known, claim = {scored.label: scored for scored in cells}, view.judgement.claim
    for c in view.judgement.comparisons:
        pair = [known[label] for label in (c.subject, c.object) if label in known]
        if claim.expect != "better" or claim.between_models or len(pair) < 2 or (c.opponent and not c.strongest):
            continue
        originals = [_on_first(scored, cells) for scored in pair]
        gain, original = _gain(c, pair), _gain(c, [scored for scored in originals if scored is not None])
        if gain is None or original is None or (found := kept_share(gain, original)) is None:
            continue
        share, low, high = (f"{number:.0%}" for number in (found.share, *found.interval))
        base, steps = cells[0].record.cell.base.name, pair[0].record.cell.steps
        yield f"{share} [{low}, {high}] of the gain on {base}, {metric_in_words(c)} at {steps} steps"


def _on_first(scored: ScoredCell, cells: Sequence[ScoredCell]) -> ScoredCell | None:
    """Return the cell of the first row's model with the same method and settings; None where there is not one."""
    base = cells[0].record.cell.base.name
    if scored.record.cell.base.name == base:
        return None

    def chosen(cell: Cell) -> tuple[object, ...]:
        return cell.method, cell.steps, cell.eta, cell.guidance_scale

    found = [
        other
        for other in cells
        if other.record.cell.base.name == base and chosen(other.record.cell) == chosen(scored.record.cell)
    ]
    return found[0] if len(found) == 1 else None


def _gain(comparison: Comparison, pair: Sequence[ScoredCell]) -> Estimate | None:
    """Return the gain by a comparison's metric; None where a cell lacks it."""
    metric = comparison.compared or comparison.metric
    if len(pair) < 2 or any(metric not in scored.estimates for scored in pair):
        return None
    ours, theirs = (scored.estimates[metric] for scored in pair)
    return paired_difference(ours, theirs).scaled(1.0 if metric_of(metric).higher_is_better else -1.0)


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
