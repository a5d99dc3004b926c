"""scripts/gpu-session: every step on a CPU at tiny sizes, limits by an injected clock, and the list in cuda.md."""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "scripts" / "benchmarks")]

from gpu_session import plan, prepare, session  # noqa: E402

REFERENCE = ROOT / "results" / "reference"


@pytest.mark.slow
def test_a_dry_run_on_a_processor_does_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, packed = tmp_path / "results", tmp_path / "pack"
    given = ["--device", "cpu", "--results", str(results)]
    assert session.main(None, [*given, "--pack", str(packed), "--minutes", "600"]) == 0
    for step in plan.STEPS:
        found = plan.read_found(results / "gpu", step.name)
        assert found is not None
        assert (found["status"], found["device"]) == ("measured", "cpu")
        assert found["summary"]
    capsys.readouterr()
    assert session.main(None, [*given, "--list"]) == 0
    assert capsys.readouterr().out.count(": measured ") == len(plan.STEPS)
    costs = plan.read_found(results / "gpu", "costs")["found"]["cells"]  # type: ignore[index]
    assert len(costs) == 2
    assert all(row["median_s"] > 0 and row["parts_s"]["denoiser"] > 0 for row in costs.values())
    schedulers = plan.read_found(results / "gpu", "conformance")["found"]["schedulers"]  # type: ignore[index]
    assert {name for name, row in schedulers.items() if row != {"float64": 0.0, "bfloat16": 0.0}} == set()
    assert plan.read_found(results / "gpu", "tests")["found"]["files"].count("test_on_a_gpu.py") == 1  # type: ignore[index]
    with tarfile.open(packed / "gpu-session.tar.gz") as archive:
        assert "results/reference/gpu/costs.json" in archive.getnames()
    assert session.main(None, given) == 0, "nothing is left to do"


class Simulated(session.Session):
    """A session on an injected clock, whose steps take given seconds."""

    def __init__(self, results: Path, minutes: float, takes: Mapping[str, float]) -> None:
        super().__init__(results, "cuda", minutes, now_s=lambda: self.time_s)
        self.time_s, self.takes, self.limits = 0.0, takes, dict[str, float]()

    def start(self, step: plan.Step, part: Path, log: Path, step_timeout_s: float) -> str:
        self.limits[step.name] = step_timeout_s
        self.time_s += min(self.takes[step.name], step_timeout_s)
        before = json.loads(part.read_text()) if part.is_file() else {"rows": []}
        part.write_text(json.dumps({"rows": [*before["rows"], step.name], "device": "H", "summary": "fine"}))
        log.write_text("first\nlast line of it\n\n")
        return "measured" if self.takes[step.name] <= step_timeout_s else "too slow"


def some(*names: str) -> list[plan.Step]:
    return [step for step in plan.STEPS if step.name in names]


def test_each_step_has_its_limit_and_all_of_them_have_the_time_of_the_session(tmp_path: Path) -> None:
    steps = some("tests", "noise", "by_hand", "costs")
    simulated = Simulated(tmp_path, 3.0, {"tests": 100.0, "noise": 500.0, "by_hand": 15.0, "costs": 1.0})
    assert simulated.run(steps) == 1
    assert simulated.limits == {"tests": 110.0, "noise": 40.0, "by_hand": 40.0, "costs": 25.0}
    assert next(step.name for step in plan.missing(simulated.folder)) == "noise"
    found = plan.read_found(simulated.folder, "noise")
    assert found is not None
    assert (found["status"], found["summary"], found["seconds"]) == ("too slow", "last line of it", 40.0)
    assert (simulated.folder / "noise.log").is_file()
    assert not (simulated.folder / "tests.log").exists()


def test_no_step_begins_at_the_end_of_the_time(tmp_path: Path) -> None:
    simulated = Simulated(tmp_path, 2.0, {"tests": 105.0, "noise": 1.0})
    assert simulated.run(some("tests", "noise")) == 1
    assert [*simulated.limits] == ["tests"]


def test_a_second_session_continues_with_what_a_step_had_found(tmp_path: Path) -> None:
    assert Simulated(tmp_path, 9.0, {"noise": 50.0}).run(some("noise")) == 1
    assert Simulated(tmp_path, 9.0, {"noise": 5.0}).run(some("noise")) == 0
    found = plan.read_found(tmp_path / "gpu", "noise")
    assert found is not None
    assert (found["status"], found["found"]["rows"]) == ("measured", ["noise", "noise"])
    assert not list((tmp_path / "gpu").glob("*.part.json"))


def test_a_step_is_ended_at_its_limit(tmp_path: Path) -> None:
    real = session.Session(tmp_path, "cuda", 9.0)
    real.folder.mkdir()
    step, log = plan.Step("noise", "", 1.0), tmp_path / "gpu" / "log"
    assert real.start(step, tmp_path / "part", log, 0.2) == "too slow"


def test_a_step_that_fails_is_missing(tmp_path: Path) -> None:
    real = session.Session(tmp_path, "cuda", 9.0, environment={"PYTHONHOME": "/nowhere"})  # no Python starts there
    real.folder.mkdir()
    assert real.measure(plan.Step("noise", "", 60.0), 60.0)["status"] == "failed"
    assert next(line for line in plan.describe(real.folder) if "- noise" in line).count("missing (failed") == 1


def test_the_page_has_a_line_for_each_step_and_they_are_those_of_the_results(tmp_path: Path) -> None:
    text = (REFERENCE / "cuda.md").read_text(encoding="utf-8")
    written = text.partition(plan.BEGIN)[2].partition(plan.END)[0].strip().splitlines()
    assert written == [*plan.describe(REFERENCE / "gpu")], "run scripts/gpu-session --list, which writes them"
    page = tmp_path / "cuda.md"
    page.write_text(text, encoding="utf-8")
    Simulated(tmp_path, 9.0, {"noise": 5.0}).run(some("noise"))
    updated = page.read_text(encoding="utf-8")
    assert re.search(r"- noise, .*: measured \d{4}-\d\d-\d\d on H: fine\n", updated)
    assert updated.partition(plan.BEGIN)[0] == text.partition(plan.BEGIN)[0]
    assert updated.partition(plan.END)[2] == text.partition(plan.END)[2]


def test_every_other_line_of_the_page_has_its_date() -> None:
    text = (REFERENCE / "cuda.md").read_text(encoding="utf-8").partition(plan.BEGIN)[0]
    items = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
    assert items
    assert [item for item in items if not re.match(r"measured \d{4}-\d\d-\d\d", item)] == []


def test_steps_are_those_of_the_module_that_does_them() -> None:
    source = (ROOT / "scripts" / "gpu_session" / "steps.py").read_text(encoding="utf-8")
    for step in plan.STEPS:
        assert f"\ndef {step.name}(work: Work) -> str:" in source
    assert sum(step.step_timeout_s for step in plan.STEPS[:6]) <= 9 * 60, "what is worth most fits into one session"


def test_an_unknown_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        session.main(None, ["everything"])
    assert "everything is not a step; choose from tests, noise" in capsys.readouterr().err


def test_wheels_have_pinned_versions() -> None:
    assert {name for name in prepare.WHEELS if name not in prepare.pins()} == set()
