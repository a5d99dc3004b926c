"""Forms of tables for files and for copying: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bench.printable import spreadsheet_text
from bench.report.tables import Table
from bench.report.ties import MARKS, MARKS_IN_WORDS


@dataclass(frozen=True, slots=True)
class Written:
    """A table as text: the lines before its rows, one line per row, and the lines after them."""

    head: tuple[str, ...]
    rows: tuple[str, ...]
    foot: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([*self.head, *self.rows, *self.foot, ""])


def to_markdown(table: Table) -> str:
    """Return a pipe table with its title and note."""
    return str(_markdown(table))


def to_latex(table: Table) -> str:
    """Return a tabular environment (packages booktabs and, for a page's width, graphicx)."""
    return str(_latex(table))


def to_csv(table: Table) -> str:
    """Return the same texts as in the other forms, with Unix line ends."""
    return str(_comma_separated(table))


def _markdown(table: Table) -> Written:
    head, *rows = (
        "| " + " | ".join(_escape_markdown(text) for text in row) + " |" for row in (table.columns, *_marked(table))
    )
    rule = "|" + "|".join(" ---: " if numeric else " --- " for numeric in table.numeric) + "|"
    return Written((f"## {table.title}", "", head, rule), tuple(rows), ("", _note(table)))


def _latex(table: Table) -> Written:
    spec = "".join("r" if numeric else "l" for numeric in table.numeric)
    head, *rows = (_guard(" & ".join(map(escape_latex, row))) + r" \\" for row in (table.columns, *_marked(table)))
    title = f"% {escape_latex(f'{table.title}: {_note(table)}')}"
    begin, end = rf"\begin{{tabular}}{{{spec}}}", r"\end{tabular}"
    return Written((title, begin, r"\toprule", head, r"\midrule"), tuple(rows), (r"\bottomrule", end))


def _marked(table: Table) -> Iterator[tuple[str, ...]]:
    """Yield the rows with the marks of the best cells behind their values."""
    for i, row in enumerate(table.rows):
        yield tuple(
            f"{text} {MARKS[mark]}" if (mark := table.marks.get((i, j))) else text for j, text in enumerate(row)
        )


def _note(table: Table) -> str:
    return f"{table.note} {MARKS_IN_WORDS}" if table.marks else table.note


def _comma_separated(table: Table) -> Written:
    head, *rows = (_csv_line(row) for row in (table.columns, *table.rows))
    return Written((head,), tuple(rows))


FORMS: Mapping[str, Callable[[Table], Written]] = {"md": _markdown, "tex": _latex, "csv": _comma_separated}
"""By the suffix of the file."""


def _csv_line(row: tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([*map(spreadsheet_text, row)])
    return text.getvalue().removesuffix("\n")


def _escape_markdown(text: str) -> str:
    for character in "\\`*_{}[]<>|#~$":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("&", "&amp;").split())


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "η": r"$\eta$"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "×": r"$\times$"},
    **{"−": "$-$", "∞": r"$\infty$", "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\rightarrow$", "…": r"\ldots{}"},
    **{"●": r"$\bullet$", "○": r"$\circ$"},
    **{"‘": "`", "’": "'", "“": "``", "”": "''", "—": "---", "²": r"$^2$", "·": r"$\cdot$"},
}


def _guard(line: str) -> str:
    """A row that begins with a bracket or a star would be read as an argument of the row end before it."""
    return "{}" + line if line[:1] in ("[", "*") else line


def escape_latex(text: str) -> str:
    """As text that pdflatex sets in any of the usual fonts; what those lack is named by its code point."""
    letters = " ".join(text.split())
    known = {letter: letter for letter in letters if letter < "\u0180" and letter.isprintable()} | _LATEX
    return "".join(known.get(letter, f"[U+{ord(letter):04X}]") for letter in letters)
