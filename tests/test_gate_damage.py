"""Damaged, partial, foreign, empty and mixed baselines never pass, and cost nobody else's report."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_gate import LIMITS, Make, make, run_gate  # noqa: F401

from bench.__main__ import main
from bench.checksums import SUMS, damage_in
from bench.conformance.report import ConformanceReport, Finding, write_baseline
from bench.gate.compare import compare_stores
from bench.gate.outcome import GateReport
from bench.gate.schedulers import compare_schedulers, find_baselines
from bench.records.errors import BenchError
from bench.store.store import Store

WORDS = ("author=a", "reason=b")
REPORT = ConformanceReport(
    "fork.A", None, {"diffusers": "1"}, (), {"step": 2}, fingerprints={"4 steps": ((0.0,), (1.0,))}
)
Damage = Callable[[Path, Path], object]


def flip(file: Path, share: float) -> None:
    """Change one bit, at a share of the length."""
    content = bytearray(file.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Damage] = {
    "lost": lambda file, _: file.unlink(),
    "cut": lambda file, _: file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2]),
    "emptied": lambda file, _: file.write_bytes(b""),
    "first bit": lambda file, _: flip(file, 0.0),
    "a bit in the middle": lambda file, _: flip(file, 0.5),
    "last bit": lambda file, _: flip(file, 1.0),
    "another baseline's": lambda file, other: shutil.copyfile(other, file),
    "a pipe": lambda file, _: (file.unlink(), os.mkfifo(file)),
    "a device": lambda file, _: (file.unlink(), file.symlink_to("/dev/zero")),
    "a folder": lambda file, _: (file.unlink(), file.mkdir()),
    "a foreign file beside it": lambda file, _: (file.parent / "features-x.npz").write_bytes(b"x"),
    "a foreign baseline beside it": lambda file, _: (file.parent / "foreign.json").write_text('{"schema": 1}'),
}


@pytest.fixture
def accepted(make: Make, tmp_path: Path) -> dict[str, Path]:  # noqa: F811
    """An accepted baseline, another one of the same cell, and a run whose images equal the first one's."""
    runs = {name: make(name, sha256=name[0]) for name in ("same", "other")}
    for name, run in runs.items():
        words = f"candidate={run.location}", f"baseline={tmp_path}/{name}-baseline"
        assert main(["gate", "accept", *words, *WORDS]) == 0
    again = make("again", sha256="s")
    return {"baseline": tmp_path / "same-baseline", "other": tmp_path / "other-baseline", "run": Path(again.location)}


def judged(baseline: Path, run: Path) -> int:
    """The gate's exit code for two runs."""
    stores = (Store(path, writable=False) for path in (baseline, run))
    return GateReport("a", "b", compare_stores(*stores, *LIMITS).outcomes).exit_code


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "a foreign baseline beside it"])
def test_a_damaged_baseline_never_passes(accepted: dict[str, Path], tmp_path: Path, damage: str) -> None:
    whole, run = accepted["baseline"], accepted["run"]
    assert run_gate(tmp_path, f"baseline={whole}", f"candidate={run}") == 0
    for file in sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()):
        broken = tmp_path / "broken"
        shutil.copytree(whole, broken)
        DAMAGES[damage](broken / file, accepted["other"] / file)
        same = (broken / file).is_file() and (broken / file).read_bytes() == (whole / file).read_bytes()
        if not (same and damage == "another baseline's"):
            assert judged(broken, run) == 3, file
        shutil.rmtree(broken)


def test_a_baseline_without_cells_or_of_two_baselines_never_passes(accepted: dict[str, Path], tmp_path: Path) -> None:
    whole, run = accepted["baseline"], accepted["run"]
    (tmp_path / "empty" / "cells").mkdir(parents=True)
    assert run_gate(tmp_path, f"baseline={tmp_path}/empty", f"candidate={run}") == 3
    mixed = tmp_path / "mixed"
    shutil.copytree(whole, mixed)
    shutil.rmtree(mixed / "cells")
    shutil.copytree(accepted["other"] / "cells", mixed / "cells")
    assert run_gate(tmp_path, f"baseline={mixed}", f"candidate={run}") == 3
    shutil.rmtree(mixed / "cells")
    (mixed / "cells").mkdir()
    assert run_gate(tmp_path, f"baseline={mixed}", f"candidate={run}") == 3


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the examination of a scheduler: returns a report, or raises."""
    found: dict[str, Any] = {"fork.A": REPORT, "fork.B": replace(REPORT, scheduler="fork.B")}

    def examine(settings: Mapping[str, Any]) -> ConformanceReport:
        answer = found[settings["scheduler"]["_target_"]]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr("bench.conformance.verb.examine_scheduler", examine)
    return found


@pytest.fixture
def baselines(tmp_path: Path) -> Path:
    """Baselines of two schedulers."""
    for name in ("a", "b"):
        report = replace(REPORT, scheduler=f"fork.{name.upper()}")
        write_baseline(report, tmp_path / "conformance" / f"{name}.json", {"_target_": report.scheduler})
    return tmp_path / "conformance"


def test_one_scheduler_that_breaks_down_leaves_the_others_report(
    examined: dict[str, Any], baselines: Path, tmp_path: Path
) -> None:
    for error in (IndexError("index 5 is out of bounds"), KeyError("x"), SystemExit(3), RecursionError()):
        examined["fork.A"] = error
        assert run_gate(tmp_path, f"conformance.directory={baselines}") == 1
        outcomes = json.loads((tmp_path / "report" / "gate.json").read_text())["outcomes"]
        assert {(o["subject"], o["verdict"]) for o in outcomes} == {("a", "failed"), ("b", "unchanged")}
        assert type(error).__name__ in next(o["note"] for o in outcomes if o["subject"] == "a")


def answer_of(directory: Path) -> int:
    """The gate's exit code for baselines of schedulers."""
    try:
        return GateReport("a", "b", tuple(compare_schedulers(find_baselines(directory, ())))).exit_code
    except BenchError:
        return 2


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(
    name=st.sampled_from(["a.json", "b.json", SUMS]),
    damage=st.sampled_from([*sorted(DAMAGES), "any bit", "any length"]),
    share=st.floats(0, 1),
)
def test_damaged_baselines_of_schedulers_never_pass(
    name: str, damage: str, share: float, examined: dict[str, Any], baselines: Path, tmp_path: Path
) -> None:
    assert answer_of(baselines) == 0
    broken, other = tmp_path / "broken", tmp_path / "other"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(baselines, broken)
    write_baseline(replace(REPORT, checked={"step": 3}), other / "a.json", {"_target_": "fork.A"})
    shutil.copyfile(other / "a.json", other / "b.json")
    file = broken / name
    if damage == "any bit":
        flip(file, share)
    elif damage == "any length":
        file.write_bytes(file.read_bytes()[: int(share * (len(file.read_bytes()) - 2))])
    else:
        DAMAGES[damage](file, other / name)
    # a file without .json does not belong to a scheduler, as a causes.yaml or a README.md
    assert answer_of(broken) in ((0,) if damage == "a foreign file beside it" else (2, 3))


def test_an_empty_baseline_and_an_empty_directory_never_pass(
    examined: dict[str, Any], baselines: Path, tmp_path: Path, accepted: dict[str, Path]
) -> None:
    write_baseline(replace(REPORT, fingerprints={}, checked={}), baselines / "a.json", {"_target_": "fork.A"})
    assert run_gate(tmp_path, f"conformance.directory={baselines}") == 3
    (tmp_path / "nothing").mkdir()
    assert run_gate(tmp_path, f"conformance.directory={tmp_path}/nothing") == 2
    write_baseline(REPORT, baselines / "a.json", {"_target_": "fork.A"})
    both = (f"conformance.directory={baselines}", f"candidate={accepted['run']}")
    (tmp_path / "empty" / "cells").mkdir(parents=True)
    assert run_gate(tmp_path, *both, f"baseline={tmp_path}/empty") == 3, "schedulers that pass do not answer for a run"
    assert run_gate(tmp_path, *both, f"baseline={accepted['baseline']}") == 0


def test_accepting_schedulers_writes_their_baselines_again(
    examined: dict[str, Any], baselines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examined["fork.A"] = replace(REPORT, findings=(Finding("step", "x=1", "1", "2", "No."),))
    directory = f"conformance.directory={baselines}"
    assert run_gate(tmp_path, directory) == 1
    text = (tmp_path / "report" / "gate.md").read_text()
    command = next(line for line in text.splitlines() if "gate accept " in line)
    assert command == f"tcd-bench gate accept {directory} 'conformance.only=[NAME]'"
    assert main(["gate", "accept", directory, "conformance.only=[a]"]) == 0
    assert run_gate(tmp_path, directory) == 0
    examined["fork.B"], before = IndexError("5"), (baselines / "b.json").read_bytes()
    assert main(["gate", "accept", directory]) == 1
    assert "b.json (IndexError: 5)" in capsys.readouterr().out
    assert (baselines / "b.json").read_bytes() == before


def test_a_baseline_of_an_unknown_setting_is_named(baselines: Path) -> None:
    (baselines / "c.json").write_text((baselines / "a.json").read_text())
    found = {o.subject: o for o in compare_schedulers(path for path in find_baselines(baselines, ["c"]))}
    assert found["c"].verdict == "missing"
    assert "SHA256SUMS does not list it" in found["c"].note


def test_the_committed_baselines_are_whole_and_small() -> None:
    root = Path(__file__).parents[1] / "results"
    assert damage_in(root / "reference" / "gate") == {}
    assert damage_in(root / "conformance", [path.name for path in find_baselines(root / "conformance", ())]) == {}
    assert sum(path.stat().st_size for path in (root / "reference" / "gate").rglob("*") if path.is_file()) < 2_000_000
