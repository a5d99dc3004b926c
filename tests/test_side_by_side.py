"""Another installation beside this one: which one is meant, and calls that take turns."""

import json
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.cell import Cell
from bench.execute.assemble import prepare
from bench.execute.contest import take_turns
from bench.execute.installation import (
    Installation,
    InstallationError,
    check_installation,
    find_installation,
    this_installation,
    with_companions,
)
from bench.execute.side_by_side import run_there, survey_there
from bench.execute.worker import serve
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.judge.conformance.baseline import write_baseline
from bench.judge.conformance.report import ConformanceReport
from bench.judge.conformance.survey import Survey
from bench.judge.gate.cost import compare_turns
from bench.judge.gate.schedulers import compare_surveys
from bench.records import BenchError, Turns
from bench.request import Limit


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
    """An environment of its own with nothing in it."""
    venv.create(tmp_path / "bare", with_pip=False)
    return find_installation(str(tmp_path / "bare"), tmp_path / "cache")


def in_there(installation: Installation, code: str) -> str:
    command = [installation.python, "-c", code]
    return subprocess.run(command, env=installation.environment(), capture_output=True, text=True, check=True).stdout


def test_an_environment_is_lent_what_it_lacks_and_keeps_what_it_has(bare: Installation, tmp_path: Path) -> None:
    code = "import bench.execute.installation, yaml, sys; print(yaml.__file__, sys.prefix)"
    lent, prefix = in_there(bare, code).split()
    assert Path(lent).is_relative_to(sys.prefix)
    assert Path(prefix) == tmp_path / "bare"
    (own,) = (tmp_path / "bare" / "lib").glob("python*/site-packages")
    (own / "yaml.py").touch()
    assert Path(in_there(bare, code).split()[0]) == own / "yaml.py"


def test_an_environment_without_a_diffusers_of_its_own_is_refused(bare: Installation, tmp_path: Path) -> None:
    with pytest.raises(InstallationError, match=r"bare has no diffusers of its own"):
        check_installation(bare)
    (own,) = (tmp_path / "bare" / "lib").glob("python*/site-packages")
    (own / "diffusers.py").write_text("raise ImportError('no torch.compile')")
    with pytest.raises(InstallationError, match=r"cannot import diffusers and torch \(ImportError: no torch.compile\)"):
        check_installation(bare)


def test_what_is_no_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 5\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(InstallationError, match="does not run as a Python"):
        check_installation(find_installation(str(tmp_path / "python"), tmp_path))


def test_an_old_diffusers_brings_what_it_needs() -> None:
    assert with_companions(["diffusers==0.25.1"]) == ["diffusers==0.25.1", "huggingface_hub==0.24.7", "numpy==1.26.4"]
    named = ["diffusers==0.25.1", "huggingface-hub==0.20.2"]
    assert with_companions(named) == [*named, "numpy==1.26.4"]
    assert "peft==0.6.2" in with_companions(["diffusers==0.23.1"])
    assert with_companions(["diffusers==0.41.0"]) == ["diffusers==0.41.0"]


@pytest.mark.parametrize(
    "ref", ["diffusers", "diffusers>=1", "--index-url=x", "a==1 -r x", "git+x", "", "nowhere/at/all"]
)
def test_whatever_else_is_refused(ref: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="give a Python"):
        find_installation(ref, tmp_path)


def test_a_directory_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="neither an environment"):
        find_installation(str(tmp_path), tmp_path)


def test_the_worker_answers_every_line(cell: Cell) -> None:
    request = {"cell": asdict(cell), "prompts": ["a red circle"], "warmup": 0, "threads": None}
    early, ready, timed, wrong = serve(["{}", json.dumps(request), "{}", "no JSON"])
    assert early == {"error": "no cell was given yet"}
    assert "torch" in ready["ready"]
    assert timed["seconds"] > 0
    assert "JSONDecodeError" in wrong["error"]


def test_two_installations_take_turns(cell: Cell) -> None:
    (turns,) = take_turns(this_installation(), this_installation(), [cell], ["a red circle"], rounds=3, warmup=0)
    assert (turns.cell, turns.batch_size) == (cell.label, 1)
    assert len(turns.before_s) == len(turns.after_s) == 3


def test_an_installation_that_cannot_run_is_named(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('this one is broken')")
    broken = Installation("the broken one", sys.executable, (str(tmp_path),))
    with pytest.raises(InstallationError, match=r"the broken one cannot be timed.*this one is broken"):
        list(take_turns(broken, this_installation(), [cell], ["x"], rounds=1))


def test_turns_see_a_difference_that_the_noise_between_rounds_hides() -> None:
    noise = [0.1 * (1 + 0.2 * (i % 7)) for i in range(40)]
    slower = [seconds * 1.05 for seconds in noise]
    limit = Limit(0.02, 0.0)
    assert compare_turns([Turns("c", 1, tuple(noise), tuple(slower))], limit)[0].verdict == "regressed"
    assert compare_turns([Turns("c", 1, tuple(slower), tuple(noise))], limit)[0].verdict == "improved"
    assert compare_turns([Turns("c", 2, tuple(noise), tuple(noise))], limit)[0].verdict == "unchanged"


FORK = """
import diffusers
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
    two_forks: tuple[Installation, Installation], tmp_path: Path
) -> None:
    entries = {
        "mine": {"_target_": "fork.DDIMScheduler", "beta_end": 0.012, "steps_offset": 1},
        "gone": {"_target_": "fork.Nothing"},
    }
    before, after = (Survey.read(survey_there(side, entries, tmp_path / "found" / side.name)) for side in two_forks)
    assert before.examined == ("mine",)
    assert before.left_out == {"mine": ("steps_offset",)}
    outcomes = list(compare_surveys(before, replace(after, absent={}, left_out={})))
    verdicts = {outcome.quantity: outcome for outcome in outcomes}
    assert verdicts["settings steps_offset"].verdict == "not comparable"
    assert [o.verdict for o in outcomes if o.subject == "gone"] == ["new"]
    changed = [o for o in outcomes if o.verdict == "changed"]
    assert any("4 steps, eta 0 parts from the baseline's in call 1" in o.note for o in changed)
    assert any(o.verdict == "regressed" and "Call 1 (timestep 500)" in o.note for o in outcomes)


def test_a_scheduler_or_setting_that_is_gone_fails(tmp_path: Path) -> None:
    before = Survey(tmp_path, {"diffusers": "1"}, ("a", "b"))
    after = Survey(tmp_path, {"diffusers": "2"}, ("b",), {"a": "it cannot be imported"}, {"b": ("x",)})
    write_baseline(ConformanceReport("c", None, {}, (), {"step": 1}), tmp_path / "b.json", {})
    outcomes = [(o.subject, o.quantity, o.verdict) for o in compare_surveys(before, after)]
    assert outcomes == [
        ("a", "scheduler", "failed"),
        ("b", "settings x", "failed"),
        ("b", "checks", "unchanged"),
    ]


def test_a_module_that_breaks_is_said_in_its_own_last_words(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('the disk is full')")
    (tmp_path / "failing.py").write_text("raise SystemExit(1)")
    side = Installation("there", sys.executable, (str(tmp_path),))
    with pytest.raises(InstallationError, match="there could not run broken: RuntimeError: the disk is full"):
        run_there(side, "broken")
    run_there(side, "failing")
