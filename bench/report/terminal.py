"""What a run found, in a few lines of plain text for a terminal: a table of cells and one line for each claim."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.judge.claims import Comparison, Judgement
from bench.judge.scores import ScoredCell
from bench.printable import printable
from bench.report.comparisons import digits_of, interval_in_words, metric_of
from bench.request import Run
from bench.score.metrics import METRICS

SUMMARY = "summary.txt"
WIDTH = 100
MOST_CELLS = 25


def summarise(run: Run, cells: Sequence[ScoredCell], judgements: Sequence[Judgement]) -> str:
    """Scores ± standard error and latency of the first `MOST_CELLS` cells, and all verdicts; lines of at most `WIDTH`.

    Biased scores are shown without their bias, as verdicts take them.
    """
    lines = [*_table(run, cells), *([""] if judgements else []), *map(_verdict, judgements)]
    return "".join(f"{printable(line).rstrip()}\n" for line in lines)


def _table(run: Run, cells: Sequence[ScoredCell]) -> list[str]:
    rows = [_names(run, cells, cell) for cell in cells[:MOST_CELLS]]
    columns = [list(column) for column in zip(*rows, strict=True)]
    if not columns:
        return []
    heads: list[str] = [name for name in ("model", "method", "eta", "guidance", "steps") if name in _axes(cells)]
    more = [(f"{name} {'↑' if METRICS[name].higher_is_better else '↓'}", _scores(name, cells)) for name in run.metrics]
    if any(cell.record.latency for cell in cells):
        more.insert(min(3, len(more)), ("latency", [_latency(cell) for cell in cells[:MOST_CELLS]]))
    for head, column in more:
        if sum(_width(*both) + 2 for both in zip([*heads, head], [*columns, column], strict=True)) <= WIDTH:
            heads.append(head)
            columns.append(column)
    widths = [_width(*both) for both in zip(heads, columns, strict=True)]
    flush_left = sum(head in ("model", "method") for head in heads)
    lines = [
        "  ".join(
            text.ljust(width) if i < flush_left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [heads, *zip(*columns, strict=True)]
    ]
    if len(cells) > MOST_CELLS:
        lines.append(f"… and {len(cells) - MOST_CELLS} more in the report")
    if waiting := len(run.cells) - len(cells):
        lines.append(f"{waiting} cells have not been run yet")
    return lines


def _width(head: str, column: Sequence[str]) -> int:
    return max(map(len, [head, *column]))


def _axes(cells: Sequence[ScoredCell]) -> set[str]:
    """The columns that tell cells apart."""
    found = {"method", "steps"}
    cell = [scored.record.cell for scored in cells]
    if len({one.base.name for one in cell}) > 1:
        found.add("model")
    if any(one.eta is not None for one in cell):
        found.add("eta")
    if len({(one.method, one.guidance_scale) for one in cell}) > len({one.method for one in cell}):
        found.add("guidance")
    return found


def _names(run: Run, cells: Sequence[ScoredCell], scored: ScoredCell) -> list[str]:
    cell, axes = scored.record.cell, _axes(cells)
    label = run.labels.get(cell.method, cell.method)
    label = label if len(label) <= 32 else f"{label[:31]}…"
    known = {
        "model": cell.base.name,
        "method": label + ("" if scored.record.status == "ok" else " (failed)"),
        "eta": "" if cell.eta is None else f"{cell.eta:g}",
        "guidance": f"{cell.guidance_scale:g}",
        "steps": str(cell.steps),
    }
    return [text for name, text in known.items() if name in axes]


def _scores(name: str, cells: Sequence[ScoredCell]) -> list[str]:
    texts = []
    for cell in cells[:MOST_CELLS]:
        estimate, digits = cell.estimates.get(name), METRICS[name].digits
        if estimate is None:
            texts.append("")
        elif estimate.doubt:
            texts.append(f"{estimate.value:.{digits}f} (no ±)")
        else:
            texts.append(f"{estimate.best:.{digits}f} ± {estimate.standard_error:.{digits}f}")
    return texts


def _latency(cell: ScoredCell) -> str:
    latency = cell.record.latency
    return f"{1000 * median(latency.call_s):.0f} ms" if latency else ""


def _verdict(judgement: Judgement) -> str:
    """The verdict, the comparison that it hangs on with its interval, and the claim."""
    hangs_on = _decisive(judgement)
    if hangs_on is None:
        reason = f"needs {judgement.missing[0]}" if judgement.missing else "nothing to compare"
    else:
        digits = digits_of(hangs_on)
        interval = interval_in_words(hangs_on.adjusted_interval or hangs_on.interval, digits)
        reason = f"{metric_of(hangs_on)} {hangs_on.gain:+.{digits}f} {interval}"
        if (others := len(judgement.comparisons) - 1) > 0:
            reason += f" and {others} more"
    room = WIDTH - len(reason) - 14
    text = judgement.claim.text if len(judgement.claim.text) <= room else f"{judgement.claim.text[: room - 1]}…"
    return f"{judgement.verdict:<10}  {text}: {reason}"[:WIDTH]


def _decisive(judgement: Judgement) -> Comparison | None:
    """The comparison that decides: the strongest refutation, or else the weakest support."""
    choose = min if judgement.verdict == "refuted" else max
    wanted = [c for c in judgement.comparisons if judgement.verdict != "refuted" or c.verdict == "refuted"]
    return choose(wanted or judgement.comparisons, key=lambda c: c.p_value, default=None)
