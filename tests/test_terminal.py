"""The summary of a run on a terminal: a short table and one line per claim."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories import make_cell
from test_report import store

from bench.__main__ import main
from bench.analysis.claims import Comparison, Judgement, judge_claims
from bench.analysis.scoring import ScoredRun
from bench.records.run import Claim, Side
from bench.report.terminal import LINE_WIDTH, MOST_CELLS, summarise
from bench.store.store import Store
from bench.workers.progress import Bars

assert store  # a fixture
CLAIM = Claim(
    "c", "TCD at 2 steps beats TCD at 4", Side("tcd", (2,), 0.0), Side("tcd", (4,), 0.0), ("fid@mini",), "better"
)


def compared(gain: float, p_value: float, verdict: str, metric: str = "fid@mini") -> Comparison:
    return Comparison(
        *("mini", metric, "a", "b", 1.0, 2.0, gain, (gain - 1, gain + 1), 0.0, 40, p_value, "better", None, verdict),
        adjusted_interval=(gain - 2, gain + 2),
        compared=metric,
    )


def test_the_table_has_a_line_per_cell_and_shows_failed_and_waiting_cells(store: Store) -> None:
    run = store.run()
    shown = summarise(run, ScoredRun.load(store, run).cells, []).to_text().splitlines()
    assert shown[0].split() == ["method", "eta", "steps", "fid", "↓", "clip_score", "↑", "latency"]
    assert len(shown) == 1 + 6 + 1
    assert shown[1].startswith("TCD & <friends> $\\frac{1$")
    assert shown[1].endswith(" 200 ms")
    assert "(no ±)" in shown[1], "40 images are too few"
    assert "(failed)" in shown[6]
    assert shown[-1] == "1 cells have not been run yet"


def test_a_score_is_shown_without_bias_with_its_standard_error(store: Store) -> None:
    estimate: Any = SimpleNamespace(value=5.0, debiased_value=4.0, standard_error=0.25, caveat=None)
    (cell, *_) = ScoredRun.load(store).cells
    shown = summarise(store.run(), [replace(cell, estimates={"fid@mini": estimate})], []).to_text()
    assert "  4.00 ± 0.25  " in shown


def test_no_line_is_longer_than_a_terminal_and_many_cells_are_cut(store: Store) -> None:
    run = store.run()
    cells = ScoredRun.load(store, run).cells * 10
    wide = replace(run, metrics=("fid@mini", "clip_score@mini") * 6, labels={"tcd": "T" * 200})
    text = replace(CLAIM, text="very " * 50)
    judged = [Judgement(text, "supported", (compared(3.0, 0.01, "supported"),), ())]
    shown = summarise(wide, cells, judged).to_text().splitlines()
    assert max(map(len, shown)) <= LINE_WIDTH
    assert f"… and {60 - MOST_CELLS} more in the report" in shown
    assert shown[-1].startswith("supported   very very")
    assert shown[-1].endswith("…: fid@mini +3.00 [+1.00, +5.00]")


@pytest.mark.parametrize(
    ("verdict", "comparisons", "shown"),
    [
        (
            "supported",
            [(3.0, 0.001, "supported"), (2.0, 0.04, "supported")],
            "fid@mini +2.00 [+0.00, +4.00] and 1 more",
        ),
        ("refuted", [(3.0, 0.001, "supported"), (-4.0, 0.002, "refuted")], "fid@mini -4.00 [-6.00, -2.00] and 1 more"),
        (
            "refuted",
            [(-4.0, 0.002, "refuted"), (-5.0, 0.0001, "refuted"), (-3.0, 0.004, "refuted")],
            "fid@mini -5.00 [-7.00, -3.00] and 2 more",
        ),
        ("undecided", [(1.0, 0.5, "undecided")], "fid@mini +1.00 [-1.00, +3.00]"),
    ],
)
def test_a_verdict_names_its_decisive_comparison(
    verdict: str, comparisons: list[tuple[float, float, str]], shown: str, store: Store
) -> None:
    judged = Judgement(CLAIM, verdict, tuple(compared(*found) for found in comparisons), ())
    line = summarise(store.run(), [], [judged]).to_text().splitlines()[-1]
    assert line == f"{verdict:<10}  TCD at 2 steps beats TCD at 4: {shown}"


def test_a_claim_that_was_not_tested_names_its_missing_cells(store: Store) -> None:
    run = replace(store.run(), claims=(replace(CLAIM, subject=Side("tcd", (99,), 0.0)),))
    shown = summarise(run, [], judge_claims(run, ScoredRun.load(store, run).cells)).to_text().splitlines()[-1]
    assert shown == "not tested  TCD at 2 steps beats TCD at 4: needs mini tcd 99 steps eta 0 (not run)"


def test_a_disturbed_latency_has_a_mark_that_is_explained(store: Store) -> None:
    (cell, *others) = ScoredRun.load(store).cells
    shown = summarise(store.run(), [replace(cell, disturbed="load"), *others], []).to_text().splitlines()
    assert shown[1].endswith(" 200 ms*")
    assert "* disturbed by load: measure again on an idle machine (measure.again=true)" in shown
    assert not any("disturbed" in line for line in summarise(store.run(), [cell, *others], []).to_text().splitlines())


def test_long_requirements_of_a_claim_are_cut(store: Store) -> None:
    judged = Judgement(CLAIM, "not tested", (), (f"mini {'x' * 300}",))
    assert len(summarise(store.run(), [], [judged]).to_text().splitlines()[-1]) == LINE_WIDTH


def test_control_characters_of_labels_and_claims_do_not_reach_the_terminal(store: Store) -> None:
    run = replace(store.run(), labels={"tcd": "a\x1b]0;title\x07b"})
    judged = Judgement(replace(CLAIM, text="c\x1b[2J\u202ed"), "not tested", (), ("e\x9bf",))
    shown = summarise(run, ScoredRun.load(store, run).cells, [judged]).to_text()
    assert "a\ufffd]0;title\ufffdb" in shown
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & {*shown}


def test_report_prints_the_table_the_verdicts_and_the_page(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.save_run(replace(store.run(), claims=(CLAIM,)))
    for _ in range(2):  # made, and found up to date
        assert main(["report", f"results={store.location}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("method ")
        assert any(line.startswith(("supported", "refuted", "undecided")) for line in lines)
        assert lines[-1] == f"Report: {store.location}/report.html"


def test_a_terminal_without_these_characters_still_gets_the_table(store: Store) -> None:
    command = [sys.executable, "-m", "bench", "report", f"results={store.location}"]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert "fid ?" in ran.stdout


class Terminal(io.StringIO):
    """Text that was written to a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on_a_terminal(*arguments: str) -> str:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "PYTHONIOENCODING": "utf-8"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "bench", *arguments]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=root, env=environment) as running:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    assert running.returncode == 0, shown
    return shown.decode()


def test_a_terminal_gets_tables_in_colour_unless_it_is_told_not_to(store: Store) -> None:
    store.save_run(replace(store.run(), claims=(replace(CLAIM, metrics=("clip_score@mini",)),)))
    assert main(["report", f"results={store.location}"]) == 0
    shown = on_a_terminal("report", f"results={store.location}")
    colour = re.compile("\x1b\\[[0-9;]*3[0-7]m")
    assert colour.search(shown), "the verdict"
    plain = re.sub("\x1b\\[[0-9;]*m", "", shown)
    assert re.search("verdict +claim +score +gain", plain)
    summary = (Path(store.location) / "summary.txt").read_text(encoding="utf-8")
    for number in re.findall(r"\d+\.\d+ ± \d+\.\d+|[+-]\d+\.\d+ \[.*?\]", summary):
        assert number in plain
    assert "●" in plain
    assert not colour.search(on_a_terminal("report", f"results={store.location}", "--no-color"))


def test_progress_shows_the_time_left_of_the_run_and_of_each_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    short, long = make_cell(10, steps=2), make_cell(10, steps=18)
    with Bars([short, long], 10) as bars:
        bars.enter("sampling", short)
        for _ in range(5):
            bars.advance(short, 2)
        assert "0 of 2 cells" in shown.getvalue()
        bars.ended(1, key=short.key)
        bars.enter("finishing", long)
        lines = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).splitlines()
        bars.say("a line above")
    whole = next(line for line in reversed(lines) if "of 2 cells" in line)
    assert re.match(r" *1 of 2 cells .*10 of 20 images", whole)
    one = next(line for line in reversed(lines) if long.label in line)
    assert "finishing" in one
    assert "0 of 10 images" in one
    assert "left" in one
    assert "a line above" in shown.getvalue()


def test_what_is_not_a_terminal_gets_no_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = make_cell(10)
    with Bars([cell], 10) as bars:
        bars.enter("sampling", cell)
        bars.advance(cell, 10)
        bars.ended(1, key=cell.key)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not Bars([cell], 10).shown
