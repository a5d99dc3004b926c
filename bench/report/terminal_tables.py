"""The summary of a run as coloured tables, where the output is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.printable import is_plain, printable
from bench.report.terminal import SUMMARY, SUMMARY_DATA, Column, Summary, VerdictLine
from bench.report.ties import MARKS
from bench.store.store import Store

_STYLES = {"supported": "bold green", "refuted": "bold red", "undecided": "bold yellow", "not tested": "bold"}


def show_summary(store: Store) -> None:
    """Print the stored summary of a run on stdout: tables on a terminal, plain text elsewhere.

    Colours are left out where the variable NO_COLOR of the environment is set, as https://no-color.org asks.
    """
    data = None if is_plain(sys.stdout) else store.read_bytes(SUMMARY_DATA)
    if data is not None:
        _print_tables(Summary.from_json(data))
        return
    text = (store.read_bytes(SUMMARY) or b"").decode(errors="replace")
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


def _print_tables(summary: Summary) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(force_terminal=True, highlight=False)
    if columns := summary.fitting(console.width, gap=5):
        console.print(_of_cells(columns))
    notes = list(summary.notes)
    if any(column.marks for column in columns):
        notes.append("● is the best cell of a model, ○ may be as good.")
    for note in notes:
        console.print(Text(printable(note), style="dim"))
    if summary.verdicts:
        console.print(_of_verdicts(summary.verdicts))


def _of_cells(columns: Sequence[Column]) -> object:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(Text(column.head), justify="right" if column.numeric else "left", overflow="fold")
    for row in range(len(columns[0].texts)):
        texts = []
        for column in columns:
            mark = column.marks.get(row, "")
            sign = f" {MARKS.get(mark, ' ')}" if column.marks else ""
            texts.append(Text(f"{printable(column.texts[row])}{sign}", style="bold" if mark == "best" else ""))
        table.add_row(*texts)
    return table


def _of_verdicts(verdicts: Sequence[VerdictLine]) -> object:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("verdict", no_wrap=True)
    table.add_column("claim", overflow="fold", ratio=1)
    table.add_column("score", overflow="fold")
    table.add_column(Text("gain [adjusted interval]"), overflow="fold")
    for line in verdicts:
        score = f"{line.score}{f', and {line.more} more' if line.more else ''}"
        texts = (Text(printable(text)) for text in (line.claim, score, line.gain))
        table.add_row(Text(line.verdict, style=_STYLES.get(line.verdict, "")), *texts)
    return table
