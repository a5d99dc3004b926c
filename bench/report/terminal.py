"""What a run found, for a terminal: a table of cells and one line for each claim, as data and as plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from textwrap import wrap
from typing import Self

from pydantic import TypeAdapter

from bench.analysis.claims import Judgement
from bench.analysis.scoring import ScoredCell
from bench.printable import printable
from bench.records.run import Run
from bench.report.comparisons import decisive, experimental_in_words, gain_in_words, metric_in_words
from bench.report.identity import NO_VALUE, Trait, sample_in_words, traits
from bench.report.ties import best_and_tied
from bench.score.metrics import Metric, metric_of

SUMMARY = "summary.txt"
SUMMARY_DATA = "summary.json"
LINE_WIDTH = 100
MOST_CELLS = 25


@dataclass(frozen=True)
class Column:
    """One column of the table: its head, a text for each cell, and the marks of the best cells by row."""

    head: str
    texts: Sequence[str]
    numeric: bool = True
    needed: bool = False
    """Whether it is shown however narrow the terminal is."""
    marks: Mapping[int, str] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Of the longest text."""
        return max(map(len, [self.head, *self.texts]))


@dataclass(frozen=True)
class VerdictLine:
    """A claim with its verdict, the score and the gain that it hangs on, and the number of further comparisons."""

    verdict: str
    claim: str
    score: str
    gain: str
    more: int = 0

    @property
    def reason(self) -> str:
        """Score, gain and number as one text."""
        more = f" and {self.more} more" if self.more else ""
        return f"{self.score} {self.gain}".strip() + more


@dataclass(frozen=True)
class Summary:
    """What a terminal shows of a run: columns in the order of their worth, notes, verdicts."""

    columns: Sequence[Column] = ()
    notes: Sequence[str] = ()
    verdicts: Sequence[VerdictLine] = ()

    def fitting(self, width: int, gap: int = 2) -> list[Column]:
        """Return the columns that fit beside each other, the needed ones in any case."""
        chosen: list[Column] = []
        for column in self.columns:
            if column.needed or sum(one.width + gap for one in (*chosen, column)) <= width:
                chosen.append(column)
        return chosen

    def to_text(self) -> str:
        """Return it as plain text, at most `LINE_WIDTH` wide."""
        padded = []
        for column in self.fitting(LINE_WIDTH):
            pad = str.rjust if column.numeric else str.ljust
            padded.append([pad(text, column.width) for text in (column.head, *column.texts)])
        lines = ["  ".join(row) for row in zip(*padded, strict=True)]
        lines += [part for note in self.notes for part in wrap(note, LINE_WIDTH)]
        lines += [*([""] if self.verdicts else []), *map(_one_line, self.verdicts)]
        return "".join(f"{printable(line).rstrip()}\n" for line in lines)

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return what `to_json` wrote; raises ValueError for any other text."""
        return TypeAdapter(cls).validate_json(text)


def summarise(
    run: Run, cells: Sequence[ScoredCell], judgements: Sequence[Judgement], notes: Sequence[str] = ()
) -> Summary:
    """Return scores ± standard error and latency of the first `MOST_CELLS` cells, all verdicts, and further `notes`.

    Biased scores are shown without their bias, as verdicts take them.
    """
    found = [*notes, *_notes(run, cells)]
    return Summary(_columns(run, cells) if cells else (), found, tuple(map(_verdict, judgements)))


def _columns(run: Run, cells: Sequence[ScoredCell]) -> list[Column]:
    first = cells[:MOST_CELLS]
    names = [
        Column(trait.head, [_name(trait, cell) for cell in first], trait.numeric, needed=True)
        for trait in _telling(run, cells)
    ]
    scores = [
        Column(_head(run, metric_of(name)), _scores(name, first), marks=_marks(name, cells)) for name in run.metrics
    ]
    if any(cell.record.latency for cell in cells):
        scores.insert(min(3, len(scores)), Column("latency", [_latency(cell) for cell in first]))
    return [*names, *scores]


def _marks(name: str, cells: Sequence[ScoredCell]) -> dict[int, str]:
    return {row: mark for row, mark in best_and_tied(metric_of(name), cells).items() if row < MOST_CELLS}


def _notes(run: Run, cells: Sequence[ScoredCell]) -> list[str]:
    if not cells:
        return []
    notes = []
    if len(cells) > MOST_CELLS:
        notes.append(f"… and {len(cells) - MOST_CELLS} more in the report")
    if any(cell.disturbed for cell in cells):
        notes.append("* disturbed by load: measure again on an idle machine (measure.again=true)")
    if run.images_per_prompt > 1:
        notes.append(f"{sample_in_words(run, cells)} per cell")
    if said := experimental_in_words(run.metrics):
        notes.append(said.strip())
    if waiting := len(run.cells) - len(cells):
        notes.append(f"{waiting} cells have not been run yet")
    return notes


def _head(run: Run, metric: Metric) -> str:
    """The score's name, with its extractor where the run has scores by several, and the better direction."""
    several = len({metric_of(score).extractor for score in run.metrics} - {""}) > 1
    return f"{metric.score if several else metric.short} {'↑' if metric.higher_is_better else '↓'}"


def _telling(run: Run, cells: Sequence[ScoredCell]) -> list[Trait]:
    """The columns that tell cells apart, methods and steps in any case."""
    usual = {"Base": "model", "Method": "method", "η": "eta", "Guidance": "guidance", "Steps": "steps"}
    columns = []
    for trait in traits(run, cells):
        if trait.head == "Guidance":
            needed = len({(c.record.cell.method, trait.of(c)) for c in cells}) > len(
                {c.record.cell.method for c in cells}
            )
        elif trait.head == "η":
            needed = any(cell.record.cell.eta is not None for cell in cells)
        else:
            needed = trait.head != "Base" or len({trait.of(cell) for cell in cells}) > 1
        if needed:
            columns.append(replace(trait, head=usual.get(trait.head, trait.head)))
    return columns


def _name(trait: Trait, scored: ScoredCell) -> str:
    text = trait.of(scored).replace(NO_VALUE, "")
    if trait.head == "method":
        text = text if len(text) <= 32 else f"{text[:31]}…"
        text += "" if scored.record.status == "ok" else " (failed)"
    return text


def _scores(name: str, cells: Sequence[ScoredCell]) -> list[str]:
    texts = []
    for cell in cells:
        estimate, digits = cell.estimates.get(name), metric_of(name).digits
        if estimate is None:
            texts.append("")
        elif estimate.caveat:
            texts.append(f"{estimate.debiased_value:.{digits}f} (no ±)")
        else:
            texts.append(f"{estimate.debiased_value:.{digits}f} ± {estimate.standard_error:.{digits}f}")
    return texts


def _latency(cell: ScoredCell) -> str:
    latency = cell.record.latency
    return f"{1000 * median(latency.call_s):.0f} ms{'*' if cell.disturbed else ''}" if latency else ""


def _verdict(judgement: Judgement) -> VerdictLine:
    """Return the verdict, the claim, and the comparison that it hangs on with its interval."""
    hangs_on, text = decisive(judgement), judgement.claim.text
    if hangs_on is None:
        reason = f"needs {judgement.missing[0]}" if judgement.missing else "nothing to compare"
        return VerdictLine(judgement.verdict, text, "", reason)
    against = f" against {hangs_on.opponent}" if hangs_on.opponent else ""
    score, more = f"{metric_in_words(hangs_on)}{against}", len(judgement.comparisons) - 1
    return VerdictLine(judgement.verdict, text, score, gain_in_words(hangs_on), more)


def _one_line(line: VerdictLine) -> str:
    room = LINE_WIDTH - len(line.reason) - 14
    text = line.claim if len(line.claim) <= room else f"{line.claim[: room - 1]}…"
    return f"{line.verdict:<10}  {text}: {line.reason}"[:LINE_WIDTH]
