"""The LaTeX tables compile with any prompt or name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.report.tables import Table, to_latex

LINES = (
    r"""<script>alert("1")</script>, | $%&_#{}~^\ *[x](y)` 'η' ± 3–4 × 2 ↑↓""",
    "[brackets first] & a star",
    "* first",
    r"\input{/etc/passwd} \end{tabular} $x_1^2$ 100%",
    "Ünïcode é ß ñ “quotes” — 100 € 你好 Привет ✓ −1 ∞ ≤ … ² µ",
    "tabs\tand\nlines \x00 \x1b",
)
TABLE = Table(
    "t", "Title % of {all}\n", ("First", *LINES), ((*LINES, "1.0 ± 0.1"), ("1", *LINES)), (False, *[True] * 6), LINES[0]
)
RULES = r"\newcommand{\toprule}{\hline}\newcommand{\midrule}{\hline}\newcommand{\bottomrule}{\hline}"
DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\IfFileExists{booktabs.sty}{\usepackage{booktabs}}{%s}
\begin{document}
%s
\end{document}
"""


def test_no_line_of_latex_has_characters_missing_from_its_fonts() -> None:
    text = to_latex(TABLE)
    assert all(character < "\u0180" for character in text)
    assert "[U+4F60][U+597D]" in text
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    assert len(text.splitlines()) == 9


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex here")
def test_pdflatex_compiles_a_table_of_all_special_characters(tmp_path: Path) -> None:
    (tmp_path / "t.tex").write_text(DOCUMENT % (RULES, to_latex(TABLE)), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode("utf-8", "replace")[-1500:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000
