"""An experiment of rows: further experiments below its directory, one report, and a gate that compares each."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_gate import WORDS, run_gate
from test_gate import make as make_gate_run
from test_joint import make

from bench.__main__ import main, run
from bench.analysis.claims import judge_run
from bench.experiment.compose import compose_settings, run_application
from bench.records.errors import BenchError
from bench.records.run import Claim, Side
from bench.report.joint import join_runs
from bench.report.rows import RowRuns, read_rows, save_rows, stores_of
from bench.report.sentences import GUIDE
from bench.store.store import Store

__all__ = ["make", "make_gate_run"]


def jobs(verb: str, *overrides: str) -> list[dict[str, Any]]:
    """Return the settings that a verb is run with."""
    found: list[dict[str, Any]] = []
    assert run_application(verb, "", overrides, lambda settings: found.append(settings) or 0) == 0  # type: ignore[func-returns-value]
    return found


def test_rows_run_first_with_the_same_overrides_each_in_its_own_directory() -> None:
    *rows, report = jobs("run", "experiment=mini_guide", "rows=[mini_canny,mini_style]", "prompts.count=8", "name=a")
    assert [row["results"] for row in rows] == ["results/a/rows/mini_canny", "results/a/rows/mini_style"]
    assert [row["name"] for row in rows] == ["mini_canny", "mini_style"]
    assert [row["prompts"]["count"] for row in rows] == [8, 8]
    assert report["rows"] == ["mini_canny", "mini_style"]
    assert not report.get("models"), "it has no cells"
    assert len(jobs("plan", "experiment=mini_guide")) == len(compose_settings(["experiment=mini_guide"])["rows"])


def test_overrides_of_rows_do_not_touch_the_experiment_and_the_command_line_has_the_last_word() -> None:
    *rows, own = jobs("plan", "experiment=gate", "reference.count=300")
    assert own["prompts"]["count"] == 256
    assert not own.get("claims")
    assert {row["prompts"]["count"] for row in rows} == {48}
    assert {row["reference"]["count"] for row in (*rows, own)} == {300}
    (style,) = (row for row in rows if row["name"] == "mini_style")
    assert style["methods"]["tcd"]["adapter"] == ["tcd", "papercut"]


def test_unknown_rows_and_rows_of_rows_are_refused() -> None:
    with pytest.raises(BenchError, match="experiment=mini_cany was given"):
        jobs("run", "experiment=mini_guide", "rows=[mini_cany]")
    with pytest.raises(BenchError, match="mini_guide has rows of its own"):
        jobs("run", "experiment=mini_guide", "rows=[mini_guide]")


BETTER = Claim(
    *("between", "One model beats the other", Side("tcd", (4,), model="mini"), Side("tcd", (4,), model="other")),
    *(("fid@mini",), "better"),
    source=GUIDE,
    published="in words: one is better",
)


def of_another_model(store: Store) -> Store:
    """Make a run's cells those of another base model."""
    keys = []
    for record in [*store.records()]:
        cell = replace(record.cell, base=replace(record.cell.base, name="other", weights="another"))
        store.commit(replace(record, key=cell.key, cell=cell))
        for identity in ("e", "p"):
            known = store.features_of(record, identity)
            store.cell(cell.key).save_features(identity, known, record.images_hash)
        keys.append(cell.key)
    store.save_run(replace(store.run(), cells=tuple(keys)))
    return store


def test_one_report_judges_claims_about_two_rows_and_says_what_share_of_a_gain_is_kept(
    make: Any, tmp_path: Path
) -> None:
    reuse = Claim(
        *("reuse", "TCD wins there too", Side("tcd", (4,)), Side("ddim", (4,)), ("sharpness",), "better"),
        **{"models": ("other",), "source": GUIDE, "published": "in words: it can be reused"},
    )
    rng, runs = np.random.default_rng(0), []
    for name, gain in (("a", 2.0), ("b", 1.0)):
        runs.append(make(f"guide/rows/{name}", claims=() if name == "a" else (reuse,), images=name))
        for record in runs[-1].records():
            sharpness = rng.normal(8 + gain * (record.cell.method == "tcd"), 0.1, record.images.count)
            runs[-1].cell(record.key).save_features("p", {"sharpness": sharpness}, record.images_hash)
    of_another_model(runs[1])
    store = Store(tmp_path / "guide")
    save_rows(store, RowRuns(("rows/a", "rows/b"), (BETTER,)))
    assert read_rows(store) == RowRuns(("rows/a", "rows/b"), (BETTER,))
    assert read_rows(runs[0]) is None
    judged = judge_run(join_runs(store, stores_of(store, RowRuns(("rows/a", "rows/b"))), (BETTER,)))
    assert [len(judgement.comparisons) for judgement in judged] == [1, 1]
    assert main(["report", f"results={store.location}"]) == 0
    page = (tmp_path / "guide" / "report.html").read_text()
    assert "The guide, sentence by sentence" in page
    assert "One is better" in page
    said = re.findall(r"kept: (\d+)% \[(\d+)%, (\d+)%\] of the gain on mini, sharpness at 4 steps", page)
    ((share, low, high),) = [tuple(map(int, numbers)) for numbers in said]
    assert 49 <= low <= share <= high <= 51


def test_a_row_that_was_not_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_rows(Store(tmp_path), RowRuns(("rows/a",)))
    assert main(["report", f"results={tmp_path}"]) == 2
    assert "rows/a holds no run" in capsys.readouterr().err


def test_a_refused_row_is_left_out_of_the_report_which_says_so(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row, seed in (("mini_canny", 0), ("mini_style", 1)):  # of an earlier run
        make(f"guide/rows/{row}", ("tcd", "ddim"), seed=seed)
    refused = ["mini_canny"]

    def task(settings: dict[str, Any]) -> int:
        if not settings.get("models"):
            return run(settings)
        if settings["name"] in refused:
            raise BenchError("results=<x> holds another experiment; give a separate directory")
        return 0

    arguments = ["experiment=mini_guide", "rows=[mini_canny,mini_style]", f"results={tmp_path}/guide"]
    with pytest.raises(BenchError, match="another experiment"):
        run_application("run", "", arguments, task)
    sentence = "Row mini_canny is left out; it was refused when the rows were last run: results=<x> holds another"
    assert sentence in " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "guide" / "report.html").read_text()
    assert html.escape(sentence) in page
    scores = tmp_path / "guide" / "scores.csv"
    assert set(pd.read_csv(scores)["run"]) == {"guide/rows/mini_style"}, "nothing of the older run"
    assert main(["report", f"results={tmp_path}/guide"]) == 0
    assert sentence in " ".join(capsys.readouterr().out.split())
    refused[:] = []
    assert run_application("run", "", arguments, task) == 0
    assert "left out" not in capsys.readouterr().out
    assert pd.read_csv(scores)["run"].nunique() == 2
    refused[:] = ["mini_canny", "mini_style"]
    with pytest.raises(BenchError, match="every row was refused, so there is no report to make"):
        run_application("run", "", arguments, task)


def test_the_gate_compares_each_row(make_gate_run: Any, tmp_path: Path) -> None:
    for side, moved in (("a", "s"), ("b", "s"), ("c", "t")):
        make_gate_run(side, sha256="s")
        make_gate_run(f"{side}/rows/canny", sha256=moved, move=(lambda x: x + 9) if moved == "t" else lambda x: x)
    sides = [f"baseline={tmp_path / 'base'}", f"candidate={tmp_path / 'b'}"]
    assert main(["gate", "accept", f"candidate={tmp_path / 'a'}", sides[0], *WORDS]) == 0
    assert main(["gate", "accept", f"candidate={tmp_path / 'a'}", sides[0], *WORDS]) == 0, "rows are its own"
    assert run_gate(tmp_path, *sides) == 0
    assert run_gate(tmp_path, sides[0], f"candidate={tmp_path / 'c'}") == 1, "a row changed"
    shutil.rmtree(tmp_path / "b" / "rows")
    assert run_gate(tmp_path, *sides) == 3, "a row is missing"
    outcomes = json.loads((tmp_path / "report" / "gate.json").read_text())["outcomes"]
    assert [o["subject"] for o in outcomes if o["verdict"] == "missing"] == ["canny"]
    (tmp_path / "base" / "rows" / "canny" / "run.json").write_text("{}")
    assert run_gate(tmp_path, sides[0], f"candidate={tmp_path / 'c'}") != 0, "its hashes cover rows"
