"""Tables show what is known and nothing else, and no text breaks their format."""

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import CALLS, make_cell, make_failure, make_record, make_run

from bench.analysis.claims import Comparison, Judgement
from bench.analysis.scoring import ScoredCell
from bench.records.cell import Adapter, Task
from bench.records.record import Latency, Memory
from bench.records.run import Claim, Side
from bench.report.data_frame import scores_to_frame
from bench.report.identity import NO_VALUE
from bench.report.plots import pareto_front
from bench.report.table_forms import to_csv, to_latex, to_markdown
from bench.report.tables import (
    Table,
    cost_table,
    score_table,
    settings_table,
    verdict_table,
)
from bench.report.terminal import summarise
from bench.score.estimate import Estimate, mean_estimate
from bench.score.groups import Groups

NASTY = r"""<script>alert("1")</script>, | $%&_#{}~^\ *[x](y)` 'η' ± 3–4"""
CELL = make_cell()
LATENCY = Latency(2, 1, "clock", (0.1, 0.2, 0.4), (0.01, 0.02, 0.04), (0.05, 0.06, 0.3), (0.03, 0.03, 0.03))
MEMORY = Memory(2, 3 * 2**20, None, None, 0)
RECORD = make_record(CELL, calls=CALLS, latency=LATENCY, memory=MEMORY)
FAILED = make_failure(CELL)
RUN = make_run(
    labels={"tcd": "TCD"},
    metrics=("fid@mini", "attribute_accuracy@mini"),
    features={"mini": "e1"},
    references={"mini": "r1"},
)
ESTIMATES = {
    "fid@mini": Estimate(12.3456, np.array([1.0, -1.0, 3.0, -3.0])),
    "attribute_accuracy@mini": Estimate(np.float64(2 / 3), np.array([0.1, 0.2, -0.1, -0.2])),
}
COMPARISON = Comparison(
    model="mini",
    metric="fid@mini",
    subject="mini tcd 4 steps",
    object="mini dpmpp_2s 4 steps",
    subject_value=10.0,
    object_value=12.5,
    gain=2.5,
    interval=(-0.25, 5.25),
    threshold=0.0,
    n=512,
    p_value=0.0749,
    images_needed=(616, 1234),
    adjusted_interval=(-0.5, 5.5),
    error=1.4,
)
CLAIM = Claim("c", "TCD wins", Side("tcd", (4,)), Side("dpmpp_2s", (4,)), ("fid@mini",), "better")


def in_columns(table: Table) -> list[dict[str, str]]:
    """The rows, each by column."""
    assert len(set(table.columns)) == len(table.columns) == len(table.numeric)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def read_markdown(line: str) -> list[str]:
    """Return the texts of a row of a pipe table; fails for a character that would be read as markup."""
    assert line.startswith("| ")
    assert line.endswith(" |")
    cells = re.findall(r"((?:\\.|[^\\|])*)\|", line[1:])
    for cell in cells:
        assert set(re.sub(r"\\.", "", cell)).isdisjoint("\\`*_{}[]<>|#~$"), cell
        assert "&" not in cell.replace("&amp;", ""), cell
    return [re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell).replace("&amp;", "&").strip() for cell in cells]


LATEX = {
    **{rf"\{character}": character for character in "&%$#_{}"},
    **{r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textbackslash{}": "\\", r"\textbar{}": "|"},
    **{r"\textless{}": "<", r"\textgreater{}": ">", r"$\pm$": "±", r"$\eta$": "η", r"$\uparrow$": "↑"},
    **{r"$\downarrow$": "↓", "--": "–"},
}


def read_latex(line: str) -> list[str]:
    """Return the texts of a row of a tabular; fails for a character with a special meaning."""
    assert line.endswith(r" \\")
    known = "|".join(re.escape(piece) for piece in sorted(LATEX, key=len, reverse=True))
    cells: list[list[str]] = [[]]
    for piece in re.findall(rf"{known}|.", line.removesuffix(r" \\")):
        if piece == "&":
            cells.append([])
        else:
            assert piece in LATEX or piece not in "$%_#{}~^\\", (piece, line)
            cells[-1].append(LATEX.get(piece, piece))
    return ["".join(cell).strip() for cell in cells]


TABLE = Table(
    "t", "Title", ("Base", f"head {NASTY}"), (("mini", NASTY), (NASTY, "1.0 ± 0.1")), (False, True), "A note."
)
TEXTS = [list(row) for row in (TABLE.columns, *TABLE.rows)]


def test_no_text_breaks_out_of_markdown() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert lines[0] == "## Title"
    assert lines[3] == "| --- | ---: |"
    assert [read_markdown(line) for line in (lines[2], *lines[4:6])] == TEXTS
    assert lines[7] == "A note."
    assert "<script>" not in to_markdown(TABLE)


def test_no_text_breaks_out_of_latex() -> None:
    lines = to_latex(TABLE).splitlines()
    begin = lines.index(r"\begin{tabular}{lr}")
    assert lines[begin + 1] == r"\toprule"
    assert lines[begin + 3] == r"\midrule"
    assert [read_latex(lines[begin + i]) for i in (2, 4, 5)] == TEXTS
    assert lines[begin + 6 : begin + 8] == [r"\bottomrule", r"\end{tabular}"]


def test_no_text_breaks_out_of_csv() -> None:
    text = to_csv(replace(TABLE, rows=(*TABLE.rows, ("two\nlines", '"quoted", twice'))))
    assert list(csv.reader(io.StringIO(text, newline=""))) == [*TEXTS, ["two\nlines", '"quoted", twice']]
    assert "\r" not in text


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_text_of_two_lines_stays_in_its_row(line_end: str) -> None:
    table = Table("t", "Title", ("Claim", "p"), ((f"two{line_end}lines", "0.1"),), (False, True))
    assert "| two lines | 0.1 |" in to_markdown(table).splitlines()
    assert r"two lines & 0.1 \\" in to_latex(table).splitlines()


def test_display_names_are_unchanged_in_every_format() -> None:
    cell = replace(CELL, base=replace(CELL.base, name=NASTY))
    run = replace(RUN, labels={"tcd": NASTY})
    table = score_table(run, [ScoredCell(replace(RECORD, cell=cell), ESTIMATES)])
    assert read_markdown(to_markdown(table).splitlines()[4])[:2] == [NASTY, NASTY]
    assert [NASTY, NASTY] in [read_latex(line)[:2] for line in to_latex(table).splitlines() if line.endswith(r"\\")]
    claim = replace(CLAIM, text=NASTY)
    verdicts = verdict_table(RUN, [Judgement(claim, "undecided", (COMPARISON,), ())])
    assert read_markdown(to_markdown(verdicts).splitlines()[4])[0] == NASTY


def test_scores_have_their_error_and_are_named_by_their_protocol() -> None:
    (row,) = in_columns(score_table(RUN, [ScoredCell(RECORD, ESTIMATES)]))
    assert row == {
        "Base": "mini",
        "Method": "TCD",
        "η": "0.3",
        "Guidance": "0",
        "Steps": "4",
        "Denoiser evaluations": "8",
        "fid_mini_n4 ↓": "12.35 ± 1.29",
        "attribute_accuracy_mini_n4 ↑": "0.667 ± 0.091",
    }


def test_unknown_values_of_a_failed_cell_are_dashes_and_never_zeros() -> None:
    failed = ScoredCell(replace(FAILED, cell=replace(CELL, eta=None)), {})
    for table in (score_table(RUN, [failed]), cost_table(RUN, [failed])):
        base, method, eta, guidance, steps, *rest = table.rows[0]
        assert (base, method, eta, guidance, steps) == ("mini", "TCD (failed)", NO_VALUE, "0", "4")
        assert set(rest) - {"cpu"} == {NO_VALUE}, "of costs the device is known"
    assert NO_VALUE == "–"


def test_a_score_missing_in_one_cell_is_a_dash() -> None:
    cells = [ScoredCell(RECORD, ESTIMATES), ScoredCell(RECORD, {"fid@mini": ESTIMATES["fid@mini"]})]
    rows = in_columns(score_table(RUN, cells))
    assert [row["attribute_accuracy_mini_n4 ↑"] for row in rows] == ["0.667 ± 0.091", NO_VALUE]
    assert [row["fid_mini_n4 ↓"] for row in rows] == ["12.35 ± 1.29"] * 2


def test_costs_are_medians_over_calls_and_images_per_second() -> None:
    (row,) = in_columns(cost_table(RUN, [ScoredCell(RECORD, {})]))
    assert row["call p50 ms"] == "200.0"
    assert row["call p95 ms"] == "380.0"
    assert row["text encoder ms"] == "20.0"
    assert row["denoiser ms"] == "60.0"
    assert row["VAE ms"] == "30.0"
    assert row["scheduler syncs"] == NO_VALUE
    assert row["images/s"] == "10.00"
    on_gpu = replace(RECORD, latency=replace(LATENCY, scheduler_syncs=4))
    (row,) = in_columns(cost_table(RUN, [ScoredCell(on_gpu, {})]))
    assert row["scheduler syncs"] == "4"


def test_unknown_memory_is_a_dash_and_a_measured_zero_is_a_zero() -> None:
    (row,) = in_columns(cost_table(RUN, [ScoredCell(RECORD, {})]))
    assert row["GPU allocated MiB"] == "3"
    assert row["GPU device MiB"] == "0"
    unknown = replace(RECORD, memory=replace(MEMORY, allocated_bytes=None, device_bytes=None), latency=None)
    (row,) = in_columns(cost_table(RUN, [ScoredCell(unknown, {})]))
    assert [row[name] for name in ("GPU allocated MiB", "GPU device MiB")] == [NO_VALUE, NO_VALUE]
    assert [row[name] for name in ("call p50 ms", "denoiser ms", "images/s")] == [NO_VALUE] * 3


def test_a_verdict_shows_its_gain_interval_and_how_many_images_would_decide() -> None:
    (row,) = in_columns(verdict_table(RUN, [Judgement(CLAIM, "undecided", (COMPARISON,), ())]))
    assert row == {
        "Claim": "TCD wins",
        "Verdict": "undecided",
        "Metric": "fid@mini",
        "Subject": "mini tcd 4 steps",
        "its value": "10.00",
        "Object": "mini dpmpp_2s 4 steps",
        "its value ": "12.50",
        "Gain [95% interval]": "+2.50 [-0.25, +5.25]",
        "must exceed": "+0",
        "adjusted interval": "[-0.50, +5.50]",
        "p (adjusted)": "0.075",
        "n": "512",
        "Comparison": "undecided; about 616 images (chance 50%) or 1,230 images (chance 80%) would decide if this gain "
        "is the true one",
    }


def test_a_verdict_shows_the_comparison_and_a_missing_interval() -> None:
    instead = replace(COMPARISON, compared="kid@mini", images_needed=None, note="kernel distance instead: too few")
    none = replace(COMPARISON, interval=None, adjusted_interval=None, images_needed=None, note="no interval: too few")
    first, second = in_columns(verdict_table(RUN, [Judgement(CLAIM, "undecided", (instead, none), ())]))
    assert first["Metric"] == "kid@mini (for fid@mini)"
    assert first["Gain [95% interval]"] == "+2.500 [-0.250, +5.250]"
    assert first["Comparison"] == "undecided; kernel distance instead: too few"
    assert second["Gain [95% interval]"] == "+2.50 no interval"
    assert second["adjusted interval"] == "no interval"


def test_images_that_would_decide_are_reported_with_their_prompts_where_prompts_repeat() -> None:
    (row,) = in_columns(verdict_table(RUN, [Judgement(CLAIM, "undecided", (replace(COMPARISON, prompts=32),), ())]))
    assert "about 616 images of 38 prompts (chance 50%) or 1,230 images of 77 prompts" in row["Comparison"]


def test_verdicts_name_their_look() -> None:
    judged = [Judgement(CLAIM, "undecided", (COMPARISON,), ())]
    assert "look" not in verdict_table(RUN, judged).note
    assert "This is look 3 " in verdict_table(replace(RUN, earlier_looks=((64, 64), (128, 128))), judged).note


def test_a_claim_that_lacks_cells_names_them_and_has_dashes_for_numbers() -> None:
    lacking = Judgement(CLAIM, "not tested", (), ("mini tcd 4 steps", "mini dpmpp_2s 4 steps"))
    (row,) = verdict_table(RUN, [lacking]).rows
    assert row[:3] == ("TCD wins", "not tested", "needs mini tcd 4 steps, mini dpmpp_2s 4 steps")
    assert set(row[3:]) == {NO_VALUE}


def test_a_claim_that_could_not_be_tested_at_all_still_has_a_row() -> None:
    (row,) = verdict_table(RUN, [Judgement(CLAIM, "not tested", (), ())]).rows
    assert row[:2] == ("TCD wins", "not tested")


def test_what_was_published_about_a_claim_is_beside_its_verdict() -> None:
    claim = replace(CLAIM, source="a paper, table 1", published="12.68 against 18.50")
    judged = [Judgement(claim, "undecided", (COMPARISON,), ()), Judgement(CLAIM, "not tested", (), ())]
    told, untold = in_columns(verdict_table(RUN, judged))
    assert told["Published"] == "12.68 against 18.50; a paper, table 1"
    assert untold["Published"] == NO_VALUE


def csv_rows(*cells: ScoredCell) -> list[dict[str, str]]:
    """Return the content of scores.csv."""
    return list(csv.DictReader(io.StringIO(scores_to_frame(RUN, cells).to_csv(index=False), newline="")))


def test_numbers_in_scores_csv_are_not_rounded() -> None:
    rows = csv_rows(ScoredCell(RECORD, ESTIMATES))
    assert [row["score"] for row in rows] == ["fid_mini_n4", "attribute_accuracy_mini_n4"]
    for row, estimate in zip(rows, ESTIMATES.values(), strict=True):
        assert float(row["value"]) == estimate.value
        assert float(row["standard_error"]) == estimate.standard_error
        assert (float(row["ci_low"]), float(row["ci_high"])) == estimate.interval()


def test_scores_csv_names_the_subject_of_the_score() -> None:
    row = csv_rows(ScoredCell(RECORD, ESTIMATES))[1]
    said: Mapping[str, Any] = {
        "key": CELL.key,
        "base": "mini",
        "method": "tcd",
        "eta": "0.3",
        "steps": "4",
        "guidance_scale": "0.0",
        "scheduler_steps": "4",
        "denoiser_evaluations": "8",
        "denoiser_samples": "32",
        "n": "4",
        "higher_is_better": "True",
        "extractor": "e1",
        "reference": "",
        "experimental": "False",
    }
    assert csv_rows(ScoredCell(RECORD, ESTIMATES))[0]["reference"] == "r1"
    assert {name: row[name] for name in said} == said


def test_unknown_values_in_scores_csv_are_empty_and_never_zero() -> None:
    record = replace(RECORD, cell=replace(CELL, eta=None), calls=None)
    row = csv_rows(ScoredCell(record, ESTIMATES))[0]
    assert [row[name] for name in ("eta", "scheduler_steps", "denoiser_evaluations", "denoiser_samples")] == [""] * 4
    assert csv_rows(ScoredCell(replace(record, cell=replace(CELL, eta=0.0)), ESTIMATES))[0]["eta"] == "0.0"


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_pareto_front_holds_the_points_that_no_other_point_beats(higher_is_better: bool) -> None:
    rng = np.random.default_rng(0)
    sign = 1 if higher_is_better else -1

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a != b and a[0] <= b[0] and sign * a[1] >= sign * b[1]

    for _ in range(200):
        points = [(float(c), float(q)) for c, q in rng.integers(0, 8, (rng.integers(0, 12), 2))]
        expected = sorted({p for p in points if not any(beats(other, p) for other in points)})
        assert pareto_front(points, higher_is_better) == expected


def test_a_biased_score_is_shown_with_and_without_its_bias() -> None:
    influence = np.array([1.0, -1.0, 3.0, -3.0])
    known = {**ESTIMATES, "fid@mini": Estimate(12.0, influence, debiased=11.0)}
    doubtful = {**ESTIMATES, "fid@mini": Estimate(12.0, influence, debiased=11.0, problem="too few")}
    table = score_table(RUN, [ScoredCell(RECORD, known), ScoredCell(RECORD, doubtful), ScoredCell(FAILED, {})])
    assert table.columns[6:8] == ("fid_mini_n4 ↓", "fid_mini without bias ↓")
    assert table.rows[0][6:8] == ("12.00", "11.00 ± 1.29")
    assert table.rows[1][6:8] == ("12.00", "11.00 (no interval)")
    assert table.rows[2][6:] == (NO_VALUE, NO_VALUE, NO_VALUE)


def test_the_fallback_of_a_score_is_named_with_its_own_value() -> None:
    other = Estimate(0.0123, np.array([0.001, -0.001, 0.003, -0.003]))
    fid = Estimate(12.0, other.influence, debiased=11.0, problem="too few", fallback=other, fallback_name="kernel")
    (row,) = score_table(RUN, [ScoredCell(RECORD, {"fid@mini": fid})]).rows
    assert row[6:8] == ("12.00", "11.00 (no interval; kid 0.012 ± 0.001)")
    (row,) = score_table(
        replace(RUN, metrics=("fid@mini", "kid@mini")), [ScoredCell(RECORD, {"fid@mini": fid, "kid@mini": other})]
    ).rows
    assert row[6:9] == ("12.00", "11.00 (no interval)", "0.012 ± 0.001")
    assert "inf" not in str(row)


def test_tables_show_the_number_of_prompts() -> None:
    rng = np.random.default_rng(0)
    clusters = mean_estimate(rng.normal(size=64), Groups.of(np.repeat(np.arange(32), 2), 64))
    table = score_table(replace(RUN, metrics=("clip_score@mini",)), [ScoredCell(RECORD, {"clip_score@mini": clusters})])
    assert "standard error over 64 images of 32 prompts." in table.note
    (row,) = csv_rows(ScoredCell(RECORD, {"clip_score@mini": clusters}))
    assert (row["n"], row["prompts"]) == ("64", "32")
    judged = [Judgement(CLAIM, "undecided", (replace(COMPARISON, prompts=32),), ())]
    assert in_columns(verdict_table(RUN, judged))[0]["n"] == "512 of 32 prompts"


def test_a_mean_of_one_number_is_that_number_without_an_interval() -> None:
    one = mean_estimate(np.array([31.5]))
    table = score_table(replace(RUN, metrics=("clip_score@mini",)), [ScoredCell(RECORD, {"clip_score@mini": one})] * 3)
    assert [row[-1] for row in table.rows] == ["31.50 (no interval)"] * 3
    assert table.note.count("1 image is too few for an interval of their mean: it takes 20 or more") == 1
    (row,) = csv_rows(ScoredCell(RECORD, {"clip_score@mini": one}))
    assert (row["value"], row["standard_error"], row["ci_low"]) == ("31.5", "", "")


def test_descriptions_of_cells_name_strength_scale_adapters_dtype_and_size() -> None:
    task = Task("inpainting", {"kind": "inpainting", "strength": 0.99}, "abc")
    cell = replace(CELL, task=task, adapters=(Adapter("tcd", "x", "f", "w1", 0.7),), fused=True)
    table = settings_table(RUN, [ScoredCell(replace(RECORD, cell=replace(cell, steps=n)), {}) for n in (2, 4)])
    (row,) = in_columns(table)
    assert row["Task"] == "inpainting, strength 0.99, inputs abc"
    assert row["Adapters × scale (weights)"] == "tcd × 0.7 (w1), fused"
    assert (row["dtype"], row["Size"], row["Steps"]) == ("float32", "64×64", "2, 4")


LINES = (
    r"""<script>alert("1")</script>, | $%&_#{}~^\ *[x](y)` 'η' ± 3–4 × 2 ↑↓""",
    "[brackets first] & a star",
    "* first",
    r"\input{/etc/passwd} \end{tabular} $x_1^2$ 100%",
    "Ünïcode é ß ñ “quotes” — 100 € 你好 Привет ✓ −1 ∞ ≤ … ² µ",
    "tabs\tand\nlines \x00 \x1b",
)
SPECIAL = Table(
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
    text = to_latex(SPECIAL)
    assert all(character < "\u0180" for character in text)
    assert "[U+4F60][U+597D]" in text
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    assert len(text.splitlines()) == 9


def compile_latex(folder: Path, name: str) -> None:
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode("utf-8", "replace")[-1500:]
    assert (folder / f"{name}.pdf").stat().st_size > 1000


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex here")
def test_pdflatex_compiles_a_table_of_all_special_characters(tmp_path: Path) -> None:
    (tmp_path / "t.tex").write_text(DOCUMENT % (RULES, to_latex(SPECIAL)), encoding="utf-8")
    compile_latex(tmp_path, "t")


def test_scores_whose_numbers_were_not_seen_on_published_weights_are_called_experimental() -> None:
    run = replace(RUN, metrics=("clip_score@mini", "pick_score", "hps_v2"))
    cells = [ScoredCell(RECORD, {score: mean_estimate(np.arange(8.0)) for score in run.metrics})]
    said = "pick_score, hps_v2 are experimental: their numbers were not yet seen on the published weights."
    assert said in score_table(run, cells).note
    features = {"mini": "e1", "pick_score": "e2", "hps_v2": "e3"}
    frame = scores_to_frame(replace(run, features=features), cells)
    assert list(frame["experimental"]) == [False, True, True]
    assert said in " ".join(summarise(run, cells, []).to_text().split())
    assert "experimental" not in score_table(replace(run, metrics=("clip_score@mini",)), cells).note
    for metric, marked in (("vqa_score", True), ("fid@mini", False)):
        judged = Judgement(CLAIM, "undecided", (replace(COMPARISON, metric=metric),), ())
        assert ("vqa_score is experimental: its numbers" in verdict_table(run, [judged]).note) == marked
