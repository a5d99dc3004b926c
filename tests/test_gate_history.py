"""Baselines of several machines, quarantine, warnings, and the history of outcomes with its steps and drifts."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_gate import MACHINE, Make, make, run_gate  # noqa: F401

from bench.__main__ import main
from bench.gate.baselines import folders_for, place_for
from bench.gate.change_points import find_changes
from bench.gate.history import History, append_history, read_history, to_trend_page
from bench.gate.outcome import GateReport, Outcome
from bench.gate.quarantine import apply_quarantine
from bench.records.errors import BenchError

WORDS = ("author=a", "reason=b")
GPU = {**MACHINE, "device": "cuda", "gpus": [{"name": "NVIDIA H200", "memory_bytes": 1}]}


ELSEWHERE = json.dumps(
    {
        **{"format": 1, "date": "", "candidate": "", "outcomes": []},
        "images": [{"cell": "a", "prompt": "b", "moved": 1, "before": "../" + "0" * 16 + ".png", "after": "x.png"}],
    }
)


def outcomes_of(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "report" / "gate.json").read_text())["outcomes"]


def test_the_baseline_of_the_runs_machine_is_chosen(make: Make, tmp_path: Path) -> None:  # noqa: F811
    runs = {"cpu": make("cpu", sha256="c"), "gpu": make("gpu", sha256="g", machine=GPU)}
    place = f"baselines={tmp_path}/baselines"
    assert main(["gate", "accept", f"candidate={runs['cpu'].location}", place, *WORDS]) == 0
    assert run_gate(tmp_path, place, f"candidate={runs['gpu'].location}") == 3
    (missing,) = outcomes_of(tmp_path)
    assert missing["note"].startswith("there is none for nvidia-h200-float32, only cpu-float32; accept a run")
    assert main(["gate", "accept", f"candidate={runs['gpu'].location}", place, *WORDS]) == 0
    for name, run in runs.items():
        assert run_gate(tmp_path, place, f"candidate={run.location}") == 0
        shown = (tmp_path / "report" / "gate.md").read_text()
        assert {"cpu": "cpu-float32", "gpu": "nvidia-h200-float32"}[name] in shown
        assert "every pixel is equal" in shown
    (tmp_path / "baselines" / "cpu-float32").rename(tmp_path / "baselines" / "nvidia-h200-float32-2")
    assert run_gate(tmp_path, place, f"candidate={runs['gpu'].location}") == 3
    assert "holds a baseline of cpu-float32" in outcomes_of(tmp_path)[-1]["note"]


def test_two_kinds_of_one_machine_are_both_accepted(make: Make, tmp_path: Path) -> None:  # noqa: F811
    place = f"baselines={tmp_path}/baselines"
    other = make("other", sha256="o", move=lambda x: x + 1.0)
    assert main(["gate", "accept", f"candidate={make('one', sha256='s').location}", place, *WORDS]) == 0
    candidate = f"candidate={other.location}"
    assert run_gate(tmp_path, place, candidate) == 1
    assert main(["gate", "accept", candidate, place, "another=true", *WORDS]) == 0
    assert run_gate(tmp_path, place, candidate) == 0
    assert "compared with cpu-float32-2, which agrees best" in (tmp_path / "report" / "gate.md").read_text()
    assert run_gate(tmp_path, place, f"candidate={make('again', sha256='s').location}") == 0
    (tmp_path / "baselines" / "cpu-float32" / "SHA256SUMS").unlink()
    assert run_gate(tmp_path, place, candidate) == 3, "a damaged one never passes, whatever the other says"


def test_folders_are_numbered(tmp_path: Path) -> None:
    assert place_for(tmp_path, "cpu-float32", another=True) == tmp_path / "cpu-float32"
    for name in ("cpu-float32", "cpu-float32-10", "cpu-float32-2", "cpu-float32-old", "cpu-float16"):
        (tmp_path / name).mkdir()
    assert [path.name for path in folders_for(tmp_path, "cpu-float32")] == [
        "cpu-float32",
        "cpu-float32-2",
        "cpu-float32-10",
    ]
    assert place_for(tmp_path, "cpu-float32", another=True).name == "cpu-float32-11"
    assert place_for(tmp_path, "cpu-float32", another=False).name == "cpu-float32"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gate", "baseline=a", "baselines=b", "candidate=c"], "baseline and baselines were both given"),
        (["gate", "baselines=b"], "baseline and candidate go together"),
        (["gate", "accept", "candidate=c", "baseline=b", "another=true", *WORDS], "another=true was given without"),
        (["gate", "conformance.directory=x", "quarantine={fid@mini: tomorrow}"], "should be a day, as 2027-01-31"),
        (["gate", "history"], "history was not given"),
        (["gate", "history", "history=nowhere.jsonl"], "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_warning_only_fails_for_what_is_missing_alone(make: Make, tmp_path: Path) -> None:  # noqa: F811
    before, after = make("a"), make("b", move=lambda x: x + 1.0)
    runs = f"baseline={before.location}", f"candidate={after.location}"
    assert run_gate(tmp_path, *runs, "warn_only=true") == 0
    assert "(a warning only)" in (tmp_path / "report" / "gate.md").read_text()
    assert json.loads((tmp_path / "report" / "gate.json").read_text())["answer"] == 1
    (tmp_path / "a" / "reference-r.npz").unlink()
    assert run_gate(tmp_path, *runs, "warn_only=true") == 3


def test_a_quarantine_holds_for_one_quantity_until_its_day(make: Make, tmp_path: Path) -> None:  # noqa: F811
    before, after = make("a", sha256="s"), make("b", sha256="t", clip_gain=-2.0)
    runs = f"baseline={before.location}", f"candidate={after.location}"
    today = datetime.now(UTC).date()
    assert run_gate(tmp_path, *runs) == 1
    later = today + timedelta(days=9)
    assert run_gate(tmp_path, *runs, f"quarantine={{clip_score@mini: {later}}}") == 0
    (found,) = (o for o in outcomes_of(tmp_path) if o["quantity"] == "clip_score@mini")
    assert (found["verdict"], found["note"].partition(";")[0]) == (
        "quarantined",
        f"would be regressed, in quarantine until {later}",
    )
    assert run_gate(tmp_path, *runs, f"quarantine={{fid@mini: {later}}}") == 1
    assert run_gate(tmp_path, *runs, f"quarantine={{clip_score@mini: {today - timedelta(days=1)}}}") == 1
    assert "expired on" in (tmp_path / "report" / "gate.md").read_text()


def test_the_last_day_of_a_quarantine_still_counts() -> None:
    bad = [Outcome("quality", "c", "fid@mini", "regressed"), Outcome("quality", "c", "kid@mini", "regressed")]
    for today, verdict in ((date(2027, 1, 31), "quarantined"), (date(2027, 2, 1), "regressed")):
        found, said = apply_quarantine(bad, {"fid@mini": "2027-01-31", "typo": "2027-01-31"}, today)
        assert [o.verdict for o in found] == [verdict, "regressed"]
    assert "expired" in said["quarantine of fid@mini"]
    assert (
        "nothing of that name"
        in apply_quarantine(bad, {"typo": "2027-01-31"}, date(2027, 1, 1))[1]["quarantine of typo"]
    )


def series(rng: np.random.Generator, steps: dict[int, float], drift: float = 0.0, length: int = 40) -> list[float]:
    levels = np.cumsum([steps.get(i, 0.0) for i in range(length)])
    return list(levels + drift * np.arange(length) + rng.normal(0, 0.1, length))


def test_steps_and_drifts_are_found_where_they_are() -> None:
    rng = np.random.default_rng(0)
    (step,) = find_changes(series(rng, {25: 0.5}))
    assert (step.kind, step.at) == ("step", 25)
    assert step.after - step.before == pytest.approx(0.5, abs=0.1)
    up, down = find_changes(series(rng, {15: 1.0, 30: -1.5}, length=45))
    assert [up.at, down.at] == [15, 30]
    (drift,) = find_changes(series(rng, {}, drift=0.02))
    assert (drift.kind, drift.at, drift.until) == ("drift", 0, 39)
    assert drift.after - drift.before == pytest.approx(0.78, abs=0.2)
    exact = find_changes([1.0] * 6 + [2.0] * 6)
    assert [(change.kind, change.at) for change in exact] == [("step", 6)]


def test_without_a_change_few_series_show_one() -> None:
    rng = np.random.default_rng(1)
    assert sum(bool(find_changes(list(rng.standard_cauchy(20)))) for _ in range(100)) <= 4  # 1 is expected
    assert find_changes([1.0] * 50) == []
    assert find_changes([0.0, 1.0] * 3) == []


def written(path: Path, values: list[float], name: str = "fid@mini") -> None:
    for i, value in enumerate(values):
        outcomes = (Outcome("quality", "<b>cell</b>", name, "regressed" if value > 1 else "unchanged", 0.5, value),)
        about = {"date": f"2027-01-{i + 1:02d}"}
        append_history(GateReport("main", f"<i>commit {i}</i>", outcomes, about), path)


def test_a_history_is_drawn_with_its_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "gate.jsonl"
    written(path, [0.5 + 0.01 * (i % 3) for i in range(12)] + [1.5 + 0.01 * (i % 2) for i in range(12)])
    assert main(["gate", "history", f"history={path}", f"output={tmp_path}/page"]) == 0
    said = capsys.readouterr().out
    assert "<b>cell</b>: fid@mini: step at 2027-01-13 (<i>commit 12</i>): 0.51 → 1.505" in said
    page = (tmp_path / "page" / "history.html").read_text()
    assert "<b>cell" not in page
    assert "<i>commit" not in page
    assert page.count("<circle") == 24
    assert page.count('class="bad"') == 12
    assert page.count("<line ") == 1
    ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])  # noqa: S314


@pytest.mark.parametrize(
    "line", ["<<<<<<< HEAD", "[]", "{}", '{"format": 9, "outcomes": []}', '{"format": 1}', "[" * 99999, ELSEWHERE]
)
def test_a_foreign_line_of_a_history_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "gate.jsonl"
    written(path, [0.5])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BenchError, match="line 2 is not an entry of tcd-bench gate"):
        read_history(path)
    path.write_text("")
    with pytest.raises(BenchError, match="is empty"):
        read_history(path)


def test_the_gate_writes_its_history(make: Make, tmp_path: Path) -> None:  # noqa: F811
    before = make("a")
    for _ in range(2):
        assert (
            run_gate(
                tmp_path, f"baseline={before.location}", f"candidate={before.location}", f"history={tmp_path}/h.jsonl"
            )
            == 0
        )
    found, pictures = read_history(tmp_path / "h.jsonl")
    assert {one.quantity for one in found} >= {"fid@mini", "latency_s", "displacement"}
    assert all(len(one.points) == 2 for one in found)
    assert pictures == [], "nothing moved"
    assert to_trend_page(History(found, []), tmp_path / "h.jsonl").count("<svg") == len(found)
