"""A LaTeX document with the plots and tables of a run, to compile as it is or to copy from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.report.axes import COLUMN_INCHES
from bench.report.table_forms import escape_latex
from bench.report.tables import Table
from bench.report.ties import MARKS_IN_WORDS

PAPER = "paper.tex"
MOST_ROWS = 45
"""Of a table on one page."""
_SHOWN = ("scores", "costs")
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@+")
_HEAD = r"""% Compile it here: pdflatex paper.tex. Plots are as wide as a column or a page of a two-column paper and are
% embedded without being scaled, so that their text keeps its size; lines to copy begin with \includegraphics or \input.
\documentclass[twocolumn]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage{lmodern}
\usepackage[textwidth=6.875in,columnsep=0.3125in,textheight=9.2in]{geometry}
\usepackage{graphicx}
\usepackage{booktabs}
\setcounter{dbltopnumber}{4}
\renewcommand{\dbltopfraction}{0.95}
\begin{document}
"""


@dataclass(frozen=True)
class Plot:
    """A plot as files by their kind (`png`, `svg`, `pdf`), with its width in inches."""

    stem: str
    caption: str
    inches: float
    files: Mapping[str, bytes]


def make_paper(name: str, answer: str, plots: Iterable[Plot], tables: Iterable[Table]) -> str:
    """Return the document, whose plots are files of plots/ and whose tables are files of tables/.

    Plots whose names LaTeX could misread, tables that are longer than a page, and those that are mostly sentences stay
    comments.
    """
    lines = [_HEAD, rf"\section*{{{escape_latex(name)}}}", escape_latex(answer), ""]
    for plot in plots:
        picture = rf"\includegraphics{{plots/{plot.stem}.pdf}}"
        if _SAFE.issuperset(plot.stem):
            lines += _float("figure" if plot.inches <= COLUMN_INCHES else "figure*", picture, plot.caption)
        else:
            lines.append(f"% left out, its name needs other signs: {escape_latex(plot.stem)}")
    for table in tables:
        content = rf"\resizebox{{\textwidth}}{{!}}{{\input{{tables/{table.name}}}}}"
        marks = f" {MARKS_IN_WORDS}" if table.marks else ""
        lines_of = _float("table*", content, f"{table.title}.{marks}")
        fits = table.name in _SHOWN and len(table.rows) <= MOST_ROWS
        lines += lines_of if fits else [f"% {line}".rstrip() for line in lines_of]
    return "\n".join([*lines, r"\end{document}", ""])


def _float(kind: str, content: str, caption: str) -> list[str]:
    return [
        rf"\begin{{{kind}}}[tp]\centering",
        content,
        rf"\caption{{{escape_latex(caption)}}}",
        rf"\end{{{kind}}}",
        "",
    ]
