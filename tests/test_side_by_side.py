"""Another installation beside this one: which one is meant, and calls that take turns."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.cell import Cell
from bench.execute.assemble import prepare
from bench.execute.contest import take_turns
from bench.execute.installation import Installation, find_installation, this_installation
from bench.execute.worker import serve
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.judge.gate.cost import compare_turns
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
    with pytest.raises(BenchError, match=r"the broken one cannot be timed.*this one is broken"):
        list(take_turns(broken, this_installation(), [cell], ["x"], rounds=1))


def test_turns_see_a_difference_that_the_noise_between_rounds_hides() -> None:
    noise = [0.1 * (1 + 0.2 * (i % 7)) for i in range(40)]
    slower = [seconds * 1.05 for seconds in noise]
    limit = Limit(0.02, 0.0)
    assert compare_turns([Turns("c", 1, tuple(noise), tuple(slower))], limit)[0].verdict == "regressed"
    assert compare_turns([Turns("c", 1, tuple(slower), tuple(noise))], limit)[0].verdict == "improved"
    assert compare_turns([Turns("c", 2, tuple(noise), tuple(noise))], limit)[0].verdict == "unchanged"
