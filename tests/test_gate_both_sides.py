"""Comparison with another installation: how it is found, and interleaved calls."""

import json
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from bench.conformance.report import ConformanceReport, write_baseline
from bench.conformance.survey import Survey
from bench.execute.job import prepare
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.gate.both_sides import run_there, survey_there
from bench.gate.interleaved_timing import CALLS, time_interleaved
from bench.gate.latency import compare_interleaved
from bench.gate.schedulers import compare_surveys
from bench.gate.timing_worker import serve
from bench.records.cell import Cell
from bench.records.errors import BenchError
from bench.records.record import InterleavedLatency
from bench.records.run import CostLimits, Limit
from bench.workers.installation import (
    Installation,
    InstallationError,
    check_installation,
    find_installation,
    this_installation,
    with_companions,
)


@pytest.fixture
def cell(overrides: Callable[..., list[str]]) -> Cell:
    """A cell of the small models."""
    return prepare(check_experiment(compose_settings(overrides("method=[dpmpp_2s]", "claim=[]")))).plan.cells[0]


def test_a_python_an_environment_and_a_checkout_are_found(tmp_path: Path) -> None:
    assert find_installation(sys.executable, tmp_path).python == sys.executable
    environment, checkout = tmp_path / "environment", tmp_path / "checkout"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    assert find_installation(str(environment), tmp_path).python == str(environment / "bin" / "python")
    (checkout / "src" / "diffusers").mkdir(parents=True)
    (checkout / "src" / "diffusers" / "__init__.py").touch()
    found = find_installation(str(checkout), tmp_path)
    assert (found.python, found.paths) == (sys.executable, (str(checkout / "src"),))
    assert found.environment()["PYTHONPATH"].startswith(str(checkout / "src"))


@pytest.fixture
def bare(tmp_path: Path) -> Installation:
    """An empty environment."""
    venv.create(tmp_path / "bare", with_pip=False)
    return find_installation(str(tmp_path / "bare"), tmp_path / "cache")


def in_there(installation: Installation, code: str) -> str:
    command = [installation.python, "-c", code]
    return subprocess.run(command, env=installation.environment(), capture_output=True, text=True, check=True).stdout


def test_an_environment_borrows_missing_packages_and_keeps_its_own(bare: Installation, tmp_path: Path) -> None:
    code = "import bench.workers.installation, yaml, sys; print(yaml.__file__, sys.prefix)"
    borrowed, prefix = in_there(bare, code).split()
    assert Path(borrowed).is_relative_to(sys.prefix)
    assert Path(prefix) == tmp_path / "bare"
    (own,) = (tmp_path / "bare" / "lib").glob("python*/site-packages")
    (own / "yaml.py").touch()
    assert Path(in_there(bare, code).split()[0]) == own / "yaml.py"


def test_an_environment_without_diffusers_is_refused(bare: Installation, tmp_path: Path) -> None:
    with pytest.raises(InstallationError, match=r"bare has no diffusers;"):
        check_installation(bare)
    (own,) = (tmp_path / "bare" / "lib").glob("python*/site-packages")
    (own / "diffusers.py").write_text("raise ImportError('no torch.compile')")
    with pytest.raises(InstallationError, match=r"cannot import diffusers and torch \(ImportError: no torch.compile\)"):
        check_installation(bare)


def test_a_file_that_is_not_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 5\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(InstallationError, match="does not run as a Python"):
        check_installation(find_installation(str(tmp_path / "python"), tmp_path))


def test_an_old_diffusers_is_installed_with_its_requirements() -> None:
    assert with_companions(["diffusers==0.25.1"]) == ["diffusers==0.25.1", "huggingface_hub==0.24.7", "numpy==1.26.4"]
    named = ["diffusers==0.25.1", "huggingface-hub==0.20.2"]
    assert with_companions(named) == [*named, "numpy==1.26.4"]
    assert "peft==0.6.2" in with_companions(["diffusers==0.23.1"])
    assert with_companions(["diffusers==0.41.0"]) == ["diffusers==0.41.0"]


@pytest.mark.parametrize(
    "ref", ["diffusers", "diffusers>=1", "--index-url=x", "a==1 -r x", "git+x", "", "nowhere/at/all"]
)
def test_any_other_installation_is_refused(ref: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="give a Python"):
        find_installation(ref, tmp_path)


def test_a_directory_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="neither an environment"):
        find_installation(str(tmp_path), tmp_path)


def test_the_worker_answers_every_line(cell: Cell) -> None:
    request = {"cell": asdict(cell), "prompts": ["a red circle"], "warmup": 0, "threads": None}
    early, ready, timed, wrong = serve(['{"calls": 2}', json.dumps(request), '{"calls": 2}', "no JSON"])
    assert early == {"error": "no cell was given yet"}
    assert "torch" in ready["ready"]
    assert len(timed["seconds"]) == 2
    assert min(timed["seconds"]) > 0
    assert "JSONDecodeError" in wrong["error"]


STUB = """#!{python}
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    with open({log!r}, "a") as log:
        print({name!r}, *request, file=log)
    answer = {{"ready": {{}}}} if "cell" in request else {{"seconds": [{seconds}] * request["calls"]}}
    print(json.dumps(answer), flush=True)
"""


def test_two_installations_are_interleaved(cell: Cell, tmp_path: Path) -> None:
    """Their processes are stubs, which `serve` above answers for."""
    log, sides = tmp_path / "log", []
    for name, seconds in (("old", 1.0), ("new", 2.0)):
        python = tmp_path / name
        python.write_text(STUB.format(python=sys.executable, log=str(log), name=name, seconds=seconds))
        python.chmod(0o755)
        sides.append(Installation(name, str(python)))
    (turns,) = time_interleaved(*sides, [cell], ["a red circle"], sessions=2, rounds=2, warmup=0)
    assert (turns.cell, turns.batch_size) == (cell.label, 1)
    assert turns.before_s == ((1.0,) * 2 * CALLS,) * 2
    assert turns.after_s == ((2.0,) * 2 * CALLS,) * 2
    asked = [line.split()[0] for line in log.read_text().splitlines() if "calls" in line]
    assert asked == ["old", "new", "new", "old", "new", "old", "old", "new"], "A B B A, the other first in odd sessions"


def test_an_installation_that_cannot_run_is_named(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('this one is broken')")
    broken = Installation("the broken one", sys.executable, (str(tmp_path),))
    with pytest.raises(InstallationError, match=r"the broken one cannot be timed.*this one is broken"):
        time_interleaved(broken, this_installation(), [cell], ["x"], sessions=2, rounds=1)


def sat(seed: int, slowdown: float = 1.0, own: float = 0.0) -> tuple[tuple[float, ...], ...]:
    """Eight sessions of nine calls of about .1 s, each 3% noisy; `own` is the deviation of each session's processes."""
    rng = np.random.default_rng(seed)
    machine = 1 + 0.2 * np.arange(8)[:, None]  # gets slower and slower, for both sides alike
    alike = slowdown * np.exp(own * rng.standard_normal((8, 1)))
    return tuple(map(tuple, 0.1 * machine * alike * np.exp(0.03 * rng.standard_normal((8, 9)))))


def limits(interleaved: float) -> CostLimits:
    return CostLimits(*(Limit(relative, 0.0) for relative in (0.05, interleaved, 0.1, interleaved)))


def test_first_calls_and_joules_are_apart(cell: Cell, tmp_path: Path) -> None:
    """A side that compiles longer and uses more energy is not slower."""
    stub = STUB.replace('{{"ready": {{}}}}', '{{"ready": {{}}, "first_s": {seconds}}}')
    stub = stub.replace('* request["calls"]}}', '* request["calls"], "joules": 30.0 * {seconds}}}').replace(
        "[{seconds}]", "[0.5]"
    )
    sides = []
    for name, seconds in (("old", 1.0), ("new", 2.0)):
        (tmp_path / name).write_text(
            stub.format(python=sys.executable, log=str(tmp_path / "log"), name=name, seconds=seconds)
        )
        (tmp_path / name).chmod(0o755)
        sides.append(Installation(name, str(tmp_path / name)))
    (turns,) = time_interleaved(*sides, [cell], ["a", "b"], sessions=4, rounds=2, warmup=1)
    assert (turns.before_first_s, turns.after_first_s) == ((1.0,) * 4, (2.0,) * 4)
    assert turns.before_j == ((30.0 / CALLS,) * 2,) * 4
    found = {outcome.quantity: outcome for outcome in compare_interleaved([turns], limits(0.02))}
    assert {name: (o.verdict, o.before, o.after) for name, o in found.items()} == {
        "latency_s": ("unchanged", 0.25, 0.25),
        "energy_j": ("regressed", 5.0, 10.0),
        "first_call_s": ("measured", 1.0, 2.0),
    }


def test_the_interval_covers_the_change_and_the_process_effect_is_told() -> None:
    covered, effects = 0, []
    for seed in range(200):
        turns = InterleavedLatency("c", 1, sat(seed, own=0.03), sat(1000 + seed, 1.05, own=0.03))
        (found,) = compare_interleaved([turns], limits(0.02))
        low, high = found.interval or (0.0, 0.0)
        covered += low <= 0.05 * (found.before or 0) <= high
        effects.append(float(found.note.partition("differ by ")[2].partition("%")[0]))
    assert 180 <= covered <= 199
    assert np.mean(effects) == pytest.approx(3.0, rel=0.15)


def test_interleaving_detects_a_difference_hidden_by_noise_between_sessions() -> None:
    limit = limits(0.02)
    usual, again, slower = sat(0), sat(1), sat(2, 1.06)
    assert compare_interleaved([InterleavedLatency("c", 1, usual, slower)], limit)[0].verdict == "regressed"
    assert compare_interleaved([InterleavedLatency("c", 1, slower, usual)], limit)[0].verdict == "improved"
    assert compare_interleaved([InterleavedLatency("c", 2, usual, again)], limit)[0].verdict == "unchanged"


def test_the_order_of_the_sides_makes_no_difference() -> None:
    order = np.array([1.0, 1.04] * 4)[:, None]
    usual, again = np.array(sat(0)) / order, np.array(sat(1)) * order
    turns = InterleavedLatency("c", 1, tuple(map(tuple, usual)), tuple(map(tuple, again)))
    assert compare_interleaved([turns], limits(0.06))[0].verdict == "unchanged"


def test_a_small_slowdown_of_all_cells_is_detected_jointly() -> None:
    turns = [InterleavedLatency(f"c{i}", 1, sat(2 * i, own=0.02), sat(2 * i + 1, 1.022, own=0.02)) for i in range(12)]
    *cells, together = compare_interleaved(turns, limits(0.01))
    assert "regressed" not in {outcome.verdict for outcome in cells}
    assert (together.subject, together.verdict) == ("all cells", "regressed")
    assert together.after / together.before == pytest.approx(1.022, abs=0.01)


def test_sessions_are_the_samples_not_calls() -> None:
    """Two processes of one installation differ; their many calls must not become a finding."""
    alarms = 0
    for seed in range(200):
        (outcome,) = compare_interleaved(
            [InterleavedLatency("c", 1, sat(seed, own=0.03), sat(1000 + seed, own=0.03))], limits(0.0)
        )
        alarms += outcome.verdict == "regressed"
    assert 1 <= alarms <= 20  # 5% of 200 are 10


FORK = """
import diffusers
class Wrong(diffusers.DDIMScheduler):
    def step(self, *arguments, **more):
        raise SystemExit("it ends the process")
class DDIMScheduler(diffusers.DDIMScheduler):
    def __init__(self, num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02):
        super().__init__(num_train_timesteps=num_train_timesteps, beta_start=beta_start, beta_end=beta_end)
    {change}
"""
CHANGE = """def step(self, output, timestep, sample, return_dict=True, **more):
        result = super().step(output, timestep, sample, **more)
        result.prev_sample = result.prev_sample * (1.001 if int(timestep) < 600 else 1.0)
        return result if return_dict else (result.prev_sample,)"""


@pytest.fixture
def two_forks(tmp_path: Path) -> tuple[Installation, Installation]:
    """Installations with a scheduler before and after a change."""
    sides = []
    for name, change in (("old", "pass"), ("new", CHANGE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fork.py").write_text(FORK.format(change=change))
        sides.append(Installation(name, sys.executable, (str(tmp_path / name),)))
    return sides[0], sides[1]


def test_two_installations_schedulers_are_compared(
    two_forks: tuple[Installation, Installation], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    entries = {
        "mine": {"_target_": "fork.DDIMScheduler", "beta_end": 0.012, "steps_offset": 1},
        "gone": {"_target_": "fork.Nothing"},
        "wrong": {"_target_": "fork.Wrong"},
    }
    before, after = (survey_there(side, entries, tmp_path / "found" / side.name) for side in two_forks)
    assert before.examined == ("mine",)
    assert list(before.broken) == ["wrong"], before
    assert "mine (1 of 3) ..." in capfd.readouterr().err
    assert before.left_out == {"mine": ("steps_offset",)}
    outcomes = list(compare_surveys(before, replace(after, absent={}, left_out={}, broken={})))
    verdicts = {outcome.quantity: outcome for outcome in outcomes}
    assert verdicts["settings steps_offset"].verdict == "not comparable"
    assert [o.verdict for o in outcomes if o.subject == "gone"] == ["new"]
    changed = [o for o in outcomes if o.verdict == "changed"]
    assert any("4 steps, eta 0 differs from the baseline from call 1" in o.note for o in changed)
    assert any(o.verdict == "regressed" and "Call 1 (timestep 500)" in o.note for o in outcomes)


BREAKS = {
    "raises": "raise IndexError('index 5 is out of bounds')",
    "exits": "raise SystemExit(3)",
    "ends the process": "import os; os._exit(9)",
    "hangs": "import time; time.sleep(1000)",
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_scheduler_that_breaks_down_costs_the_others_nothing(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The survey itself is a stub with the same note, whose schedulers are its lines of code."""
    monkeypatch.setattr("bench.gate.both_sides.SURVEY_SILENT_S", 5.0)
    stub = """
import json, sys
from pathlib import Path
note, asked = Path(sys.argv[1] + ".json"), json.loads(Path(sys.argv[2]).read_text())
found = {"versions": {"diffusers": "1"}, "examined": [], "absent": {}, "left_out": {}, "broken": {}, "current": None}
for name, entry in asked.items():
    note.write_text(json.dumps({**found, "current": name}))
    try:
        exec(entry["code"])
        found["examined"].append(name)
    except Exception as error:
        found["broken"][name] = repr(error)
note.write_text(json.dumps(found))
"""
    (tmp_path / "surveyor.py").write_text(stub)
    monkeypatch.setattr("bench.gate.both_sides.SURVEY", "surveyor")
    side = Installation("there", sys.executable, (str(tmp_path),))
    entries = {"one": {"code": "pass"}, "bad": {"code": BREAKS[how]}, "two": {"code": "pass"}}
    found = survey_there(side, entries, tmp_path / "found")
    assert found.examined == ("one", "two")
    assert list(found.broken) == ["bad"]
    assert {"raises": "IndexError", "hangs": "nothing was heard of it for 5 s"}.get(how, "process") in found.broken[
        "bad"
    ]
    outcomes = [(o.subject, o.verdict) for o in compare_surveys(replace(found, examined=()), found)]
    assert outcomes == [("bad", "not comparable"), ("bad", "failed")]


def test_a_scheduler_or_setting_that_is_gone_fails(tmp_path: Path) -> None:
    before = Survey(tmp_path, {"diffusers": "1"}, ("a", "b"))
    after = Survey(tmp_path, {"diffusers": "2"}, ("b",), {"a": "it cannot be imported"}, {"b": ("x",)})
    whole = ConformanceReport("c", None, {}, (), {"step": 1}, fingerprints={"4 steps": ((0.0,),)})
    write_baseline(whole, tmp_path / "b.json", {})
    outcomes = [(o.subject, o.quantity, o.verdict) for o in compare_surveys(before, after)]
    assert outcomes == [
        ("a", "scheduler", "failed"),
        ("b", "settings x", "failed"),
        ("b", "checks", "unchanged"),
    ]


def test_a_broken_module_is_reported_with_its_last_output(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('the disk is full')")
    (tmp_path / "failing.py").write_text("raise SystemExit(1)")
    side = Installation("there", sys.executable, (str(tmp_path),))
    with pytest.raises(InstallationError, match="there could not run broken: RuntimeError: the disk is full"):
        run_there(side, "broken")
    run_there(side, "failing")
