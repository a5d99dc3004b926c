"""What stands on the page before any script runs: the answer, the forest plot, claims, marked tables, the album."""

import html
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from factories import make_cell, make_record, make_run
from PIL import Image
from test_report import CLAIM, keep, store
from test_terminal import Terminal

from bench.analysis.claims import Comparison, Judgement
from bench.analysis.scoring import ScoredCell
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.records.run import Claim, Side
from bench.report import album
from bench.report.album import make_album
from bench.report.claim_views import answer, claim_in_yaml, claim_views
from bench.report.embedded_images import Picture
from bench.report.table_forms import FORMS
from bench.report.tables import Table
from bench.report.terminal_tables import show_summary
from bench.report.ties import best_and_tied
from bench.report.write import write_report
from bench.score.estimate import mean_estimate
from bench.score.metrics import metric_of
from bench.store.store import Store

__all__ = ["store"]


def compared(gain: float, interval: tuple[float, float] | None, **changes: object) -> Comparison:
    plain = Comparison("mini", "fid@mini", "a", "b", 1.0, 2.0, gain, interval, 0.0, 100, adjusted_interval=interval)
    return replace(plain, **changes)  # type: ignore[arg-type]


def judged(name: str, verdict: str, *comparisons: Comparison, method: str = "tcd") -> Judgement:
    claim = replace(CLAIM, name=name, text=f"claim {name}", subject=replace(CLAIM.subject, method=method))
    return Judgement(claim, verdict, comparisons, ())


def test_the_answer_counts_verdicts_and_names_the_first_claims_about_the_first_method() -> None:
    run = make_run(settings={"methods": {"tcd": {}, "ddim": {}}})
    judgements = [
        *(judged("a", "supported", method="ddim"), judged("b", "supported"), judged("c", "supported")),
        *(judged("d", "undecided"), judged("e", "undecided")),
    ]
    assert answer(run, judgements) == (
        "Of 5 claims: 3 supported, 0 refuted, 2 undecided. Supported: claim b. Undecided: claim d."
    )
    assert answer(run, judgements[:1]) == "Of 1 claim: 1 supported, 0 refuted, 0 undecided. Supported: claim a."
    assert answer(run, []) == ""


def test_bars_of_one_score_share_a_scale_and_have_zero_in_the_middle() -> None:
    wide, narrow = compared(4.0, (3.0, 5.0)), compared(-0.5, (-1.0, 0.0))
    other = compared(0.01, (0.005, 0.02), metric="kid@mini", compared="kid@mini")
    margin = compared(0.0, (-0.5, 0.5), expect="equivalent", threshold=1.0)
    unknown = compared(1.0, None)
    first, second, third, fourth, fifth = (
        view.bar
        for view in claim_views([judged("x", "supported", c) for c in (wide, narrow, other, margin, unknown)], {})
    )
    assert None not in (first, second, third, fourth, fifth)
    scale = 92 / 5
    assert first.gain == pytest.approx(100 + 4 * scale, abs=0.06)
    assert first.interval == pytest.approx((100 + 3 * scale, 192), abs=0.06)
    assert second.interval == pytest.approx((100 - scale, 100), abs=0.06)
    assert third.interval == pytest.approx((100 + 23, 192), abs=0.06), "another score has a separate scale"
    assert fourth.limits == pytest.approx((100 - scale, 100 + scale), abs=0.06)
    assert fifth.interval is None
    assert "no interval" in fifth.words
    assert "must be within ±1" in fourth.words


def test_the_yaml_of_a_claim_can_be_run_again() -> None:
    claim = Claim(
        "few", "TCD: wins <b>", Side("tcd", (2, 4), 0.3), Side(("dpmpp_2s", "dpmpp_2m"), (2, 4), None, "best"),
        ("fid@mini", "attribute_accuracy@mini"), "better", margins={"fid@mini": 0.1},
    )  # fmt: skip
    text = claim_in_yaml(claim)
    assert "models" not in text
    settings = compose_settings(["experiment=smoke", "claim=[]", "method=[tcd,dpmpp_2s,dpmpp_2m]"])
    settings["claims"] = yaml.safe_load(text)["claims"]
    assert check_experiment(settings).claims["few"].to_claim("few") == claim


def scored(steps: int, values: np.ndarray) -> ScoredCell:
    return ScoredCell(make_record(make_cell(steps=steps)), {"clip_score@mini": mean_estimate(values)})


def cells_of(*means: float, noise: float = 1.0) -> list[ScoredCell]:
    rng = np.random.default_rng(0)
    common = rng.normal(size=400)
    found = []
    for i, mean in enumerate(means):
        values = mean + common + noise * rng.normal(size=400)
        values += mean - values.mean()
        found.append(scored(2 + i, values))
    return found


def test_cells_that_a_test_cannot_tell_from_the_best_are_marked() -> None:
    metric = metric_of("clip_score@mini")
    assert best_and_tied(metric, cells_of(10.0, 9.95, 5.0)) == {0: "best", 1: "tied"}
    assert best_and_tied(metric, cells_of(10.0)) == {}, "a single cell is not compared"
    # A difference of 2.1 standard errors is significant alone, and not among eight.
    off = 10.0 - 2.1 * 2**0.5 / 20
    assert 1 not in best_and_tied(metric, cells_of(10.0, off))
    assert 1 in best_and_tied(metric, cells_of(10.0, off, *[5.0] * 6))


def test_marked_cells_contain_the_truly_best_one() -> None:
    metric, missed = metric_of("clip_score@mini"), 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        cells = [scored(2 + i, rng.normal(size=60)) for i in range(6)]
        missed += 3 not in best_and_tied(metric, cells)  # all are equally good: each may be called the best
    assert missed <= 400 * 0.05


def test_rows_of_a_table_can_be_copied_one_by_one() -> None:
    table = Table("t", "T", ("a", "b"), (("x", "1"), ("y", "2")), (False, True), "note")
    for form, write in FORMS.items():
        whole, part = str(write(table)), write(replace(table, rows=table.rows[1:]))
        text = write(table)
        assert str(part) == "\n".join([*text.head, text.rows[1], *text.foot, ""]), form
        assert whole.count("\n") == len(text.head) + 2 + len(text.foot)


def test_the_best_cells_are_marked_in_markdown_and_latex_and_the_csv_stays_plain() -> None:
    marks = {(0, 1): "best", (1, 1): "tied"}
    table = Table("t", "T", ("a", "b"), (("x", "1"), ("y", "2"), ("z", "3")), (False, True), "note", marks=marks)
    texts = {form: str(write(table)) for form, write in FORMS.items()}
    assert all(row in texts["md"] for row in ("| x | 1 ● |", "| y | 2 ○ |", "| z | 3 |"))
    assert all(row in texts["tex"] for row in (r"x & 1 $\bullet$ \\", r"y & 2 $\circ$ \\", r"z & 3 \\"))
    assert texts["csv"] == "a,b\nx,1\ny,2\nz,3\n"
    assert "may be as good" in texts["md"]
    assert "may be as good" in texts["tex"]


def test_an_album_embeds_each_picture_once_and_shrinks_what_is_too_much(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 255, (300, 300, 3)).astype(np.uint8)) for _ in range(4)]
    record = keep(store, next(r for r in store.records() if r.status == "ok"), noise)
    shown = [(Picture(store, record, row % 4), 1) for row in range(8)]
    whole = make_album(shown)
    assert len(whole.sources) == 4
    assert whole.note == ""
    monkeypatch.setattr(album, "MOST_BYTES", sum(map(len, whole.sources.values())) // 3)
    small = make_album(shown)
    assert sum(map(len, small.sources.values())) <= album.MOST_BYTES
    assert re.fullmatch(r"Pictures are reduced to \d+ pixels to keep the page small\.", small.note)
    beside = make_album(shown, beside=True)
    assert {*beside.sources.values()} == {*beside.files} == {f"images/p{i}.webp" for i in range(4)}
    assert max(Image.open(io.BytesIO(beside.files["images/p0.webp"])).size) == 300


HOSTILE = (
    "</script><script>x</script>",
    "$x_1$ \\frac{",
    "long " * 400,
    "\u202eright to left\u202c",
    "🙂" * 40,
    "w" * 2000,
)


def test_hostile_texts_cannot_end_the_data(store: Store) -> None:
    run = store.run()
    record = next(r for r in store.records() if r.status == "ok")
    keep(store, record, [Image.new("RGB", (8, 8))] * 8)
    store.save_run(replace(run, prompts=(*HOSTILE, *run.prompts[len(HOSTILE) :])))
    page = Path(write_report(store)).read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    prompts = [prompt["text"] for prompt in json.loads(text)["prompts"]]
    assert prompts[:3] == [*HOSTILE[:3]]
    assert "\u202e" not in page, "it would turn the text around it as well"
    assert "\\u202e" not in page
    assert page.count("<script>x</script>") == 0


def test_pictures_are_beside_the_page_where_that_is_asked_for_and_stay_there(store: Store) -> None:
    record = next(r for r in store.records() if r.status == "ok")
    keep(store, record, [Image.new("RGB", (8, 8), (9 * row, 0, 0)) for row in range(8)])
    root = Path(store.location)
    write_report(store, form="folder")
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "data:image" not in page
    pictures = {f"images/{path.name}" for path in (root / "images").iterdir()}
    assert len(pictures) == 8
    assert all(f'"{name}"' in page for name in pictures)
    write_report(store)
    assert (root / "report.html").read_text(encoding="utf-8") == page, "without a choice it stays as it was"
    write_report(store, form="page")
    assert "data:image" in (root / "report.html").read_text(encoding="utf-8")
    assert not [*(root / "images").iterdir()]


def test_page_csv_terminal_and_latex_have_the_same_numbers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save_run(replace(store.run(), claims=(CLAIM, replace(CLAIM, name="fid", metrics=("fid@mini",)))))
    root = Path(write_report(store)).parent
    page = (root / "report.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    cells = {cell["key"]: cell for cell in json.loads(text)["cells"]}
    rows = pd.read_csv(root / "scores.csv").dropna(subset=["score"])
    read = {path.name: path.read_text(encoding="utf-8") for path in (root / "tables").glob("*.*")}
    terminals = (root / "summary.txt").read_text(encoding="utf-8"), drawn_summary(store, monkeypatch)
    tables = {
        name: html.unescape(body) for name, body in re.findall(r'data-table="(\w+)">(.*?)</table>', page, re.DOTALL)
    }
    assert len(rows) == 2 * 5
    for row in rows.itertuples():
        score = f"{row.score.rsplit('_', 2)[0]}@mini"
        digits = metric_of(score).digits
        shown = cells[row.key]["scores"][score]["text"]
        if np.isnan(row.standard_error):
            assert "no interval" in shown
            assert all(f"{row.value:.{digits}f}" in form for form in (tables["scores"], read["scores.tex"]))
            assert all(f"{shown.partition(',')[0]} (no ±)" in terminal for terminal in terminals)
            continue
        value, error = f"{row.debiased:.{digits}f}", f"{row.standard_error:.{digits}f}"
        assert shown == f"{value} [{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]"
        assert f"{value} ± {error}" in tables["scores"]
        assert all(f"{value} ± {error}" in terminal for terminal in terminals)
        assert f"{value} $\\pm$ {error}" in read["scores.tex"]
    assert rows["standard_error"].notna().sum() == 5

    claims = html.unescape(page[page.index('<div class="forest">') : page.index('<section id="charts">')])
    verdicts = pd.read_csv(root / "tables" / "verdicts.csv", dtype=str)
    assert len(verdicts) == 2
    for _, row in verdicts.iterrows():
        whole, adjusted = (row[name].lstrip("'") for name in ("Gain [95% interval]", "adjusted interval"))
        gain = f"{whole.split()[0]} {adjusted}"
        assert all(row["Verdict"] in terminal and gain in terminal for terminal in terminals)
        assert all(number in claims for number in (whole, adjusted, gain))
        for number in (row["Gain [95% interval]"], row["adjusted interval"], row["p (adjusted)"], row["its value"]):
            assert number.lstrip("'") in tables["verdicts"]
            assert number.lstrip("'") in read["verdicts.tex"]
    costs = pd.read_csv(root / "tables" / "costs.csv", dtype=str)
    costs = costs[costs["call p50 ms"] != "–"]
    latencies = [cells[key]["latency"] for key in rows["key"].unique()]
    assert sorted(costs["call p50 ms"]) == sorted(f"{1000 * latency:.1f}" for latency in latencies)
    for text in costs["call p50 ms"]:
        assert all(f" {float(text):.0f} ms" in terminal for terminal in terminals)
        assert all(text in form for form in (tables["costs"], read["costs.tex"]))


def drawn_summary(store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what a wide terminal shows, without its colours."""
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setenv("TERM", "xterm")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", shown := Terminal())
        show_summary(store)
    return re.sub("\x1b\\[[0-9;]*m", "", shown.getvalue())
