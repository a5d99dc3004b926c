"""What a run found, in a few lines of plain text for a terminal: a table of cells and one line for each claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from textwrap import wrap

from bench.analysis.claims import Judgement
from bench.analysis.scoring import ScoredCell
from bench.printable import printable
from bench.records.run import Run
from bench.report.comparisons import decisive, experimental_in_words, gain_in_words, metric_in_words
from bench.report.identity import NO_VALUE, Trait, traits
from bench.score.metrics import Metric, metric_of

SUMMARY = "summary.txt"
LINE_WIDTH = 100
MOST_CELLS = 25


def summarise(run: Run, cells: Sequence[ScoredCell], judgements: Sequence[Judgement]) -> str:
    """Scores ± standard error and latency of the first `MOST_CELLS` cells, and all verdicts, at most `LINE_WIDTH` wide.

    Biased scores are shown without their bias, as verdicts take them.
    """
    lines = [*_table(run, cells), *([""] if judgements else []), *map(_verdict, judgements)]
    return "".join(f"{printable(line).rstrip()}\n" for line in lines)


def _table(run: Run, cells: Sequence[ScoredCell]) -> list[str]:
    if not cells:
        return []
    names = _columns(run, cells)
    heads = [trait.head for trait in names]
    columns = [[_name(trait, cell) for cell in cells[:MOST_CELLS]] for trait in names]
    more = [(_head(run, metric_of(name)), _scores(name, cells)) for name in run.metrics]
    if any(cell.record.latency for cell in cells):
        more.insert(min(3, len(more)), ("latency", [_latency(cell) for cell in cells[:MOST_CELLS]]))
    for head, column in more:
        if sum(_width(*both) + 2 for both in zip([*heads, head], [*columns, column], strict=True)) <= LINE_WIDTH:
            heads.append(head)
            columns.append(column)
    padded = []
    for i, (head, column) in enumerate(zip(heads, columns, strict=True)):
        pad = str.ljust if i < len(names) and not names[i].numeric else str.rjust
        padded.append([pad(text, _width(head, column)) for text in (head, *column)])
    lines = ["  ".join(row) for row in zip(*padded, strict=True)]
    if len(cells) > MOST_CELLS:
        lines.append(f"… and {len(cells) - MOST_CELLS} more in the report")
    if any(cell.disturbed for cell in cells):
        lines.append("* disturbed by load: measure again on an idle machine (measure.again=true)")
    if run.images_per_prompt > 1:
        lines.append(f"{run.sample} per cell")
    if said := experimental_in_words(run.metrics):
        lines += wrap(said.strip(), LINE_WIDTH)
    if waiting := len(run.cells) - len(cells):
        lines.append(f"{waiting} cells have not been run yet")
    return lines


def _head(run: Run, metric: Metric) -> str:
    """The score's name, with its extractor where the run has scores by several, and the better direction."""
    several = len({metric_of(score).extractor for score in run.metrics} - {""}) > 1
    return f"{metric.score if several else metric.short} {'↑' if metric.higher_is_better else '↓'}"


def _width(head: str, column: Sequence[str]) -> int:
    return max(map(len, [head, *column]))


def _columns(run: Run, cells: Sequence[ScoredCell]) -> list[Trait]:
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
    for cell in cells[:MOST_CELLS]:
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


def _verdict(judgement: Judgement) -> str:
    """The verdict, the comparison that it hangs on with its interval, and the claim."""
    hangs_on = decisive(judgement)
    if hangs_on is None:
        reason = f"needs {judgement.missing[0]}" if judgement.missing else "nothing to compare"
    else:
        against = f" against {hangs_on.opponent}" if hangs_on.opponent else ""
        reason = f"{metric_in_words(hangs_on)}{against} {gain_in_words(hangs_on)}"
        if (others := len(judgement.comparisons) - 1) > 0:
            reason += f" and {others} more"
    room = LINE_WIDTH - len(reason) - 14
    text = judgement.claim.text if len(judgement.claim.text) <= room else f"{judgement.claim.text[: room - 1]}…"
    return f"{judgement.verdict:<10}  {text}: {reason}"[:LINE_WIDTH]
