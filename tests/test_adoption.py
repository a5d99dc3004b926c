"""A foreign repository adopts the scheduler tests by the lines of the page, with the real steps of the action."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from diffusers.schedulers import scheduling_flow_match_heun_discrete as original
from test_core import ABSENT
from test_workflows import ROOT, steps_of

ACTION = ROOT / ".github" / "actions" / "conform" / "action.yml"
PAGE = (ROOT / "docs" / "howto" / "conformance.md").read_text(encoding="utf-8")
LAUNCH = f"import sys; sys.modules |= dict.fromkeys({ABSENT!r}); "
PROGRAMS = {
    "pytest": "import pytest; sys.exit(pytest.main(['-p', 'tcd_bench_pytest', *sys.argv[1:]]))",
    "tcd-bench": "from bench.__main__ import main; sys.exit(main())",
    "python": "open('installed', 'w').write('\\n'.join(sys.argv[1:]))",
}
"""Programs of an environment in which only the core is installed; `python -m pip` writes down what it would install."""


def of_page(language: str) -> list[str]:
    """The blocks of a language on the page."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def workflow() -> str:
    """The workflow that the page shows."""
    return next(block for block in of_page("yaml") if "jobs:" in block)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a copy of a scheduler, and the programs of its environment."""
    source = re.sub(r"from \.\.(\w)", r"from diffusers.\1", inspect.getsource(original))
    source = re.sub(r"from \.(\w)", r"from diffusers.schedulers.\1", source)
    (tmp_path / "my_fork.py").write_text(source.replace("FlowMatchHeunDiscreteScheduler", "MyScheduler"))
    for name, code in PROGRAMS.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{LAUNCH}{code}" "$@"\n')
        program.chmod(0o755)
    return tmp_path


def bash(repository: Path, command: str, **given: str) -> subprocess.CompletedProcess[str]:
    """Run a step as a runner does."""
    paths = {"PATH": f"{repository / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **given}
    call = ["bash", "-e", "-o", "pipefail", "-c", command]
    return subprocess.run(call, env=environment, cwd=repository, capture_output=True, text=True, check=False)


def test_the_page_shows_ten_lines_and_the_inputs_that_exist() -> None:
    lines = [line for line in workflow().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 10
    steps = yaml.safe_load(workflow().replace("<", "").replace(">", ""))["jobs"]["conformance"]["steps"]
    inputs = yaml.safe_load(ACTION.read_text(encoding="utf-8"))["inputs"]
    (own,) = (step for step in steps if "tcd-bench" in step["uses"])
    assert own["with"].keys() <= inputs.keys()
    assert {name for name, entry in inputs.items() if entry.get("required")} <= own["with"].keys()


def test_the_action_installs_the_core_and_what_is_named(repository: Path) -> None:
    install = steps_of(ACTION)[0]["run"]
    done = bash(repository, install, INSTALL="diffusers==0.30.3\n-e .\n", ACTION=str(ACTION.parent))
    assert done.returncode == 0, done.stderr
    *pip, core, pytest_, diffusers, own = (repository / "installed").read_text().splitlines()
    assert pip[:3] == ["-m", "pip", "install"]
    assert core.endswith("[conform]")
    found = (Path(core.removesuffix("[conform]")).resolve(), pytest_, diffusers, own)
    assert found == (ROOT, "pytest", "diffusers==0.30.3", "-e .")
    bash(repository, install, INSTALL="", ACTION=str(ACTION.parent))
    assert (repository / "installed").read_text().splitlines()[-1] == "pytest"


@pytest.mark.slow
def test_a_fault_is_red_and_an_equal_rewriting_green(repository: Path) -> None:
    command = next(
        line for block in of_page("bash") for line in block.splitlines() if "write=tests/conformance" in line
    )
    assert bash(repository, f"{command} family=FlowMatchHeunDiscreteScheduler").returncode == 0
    step = steps_of(ACTION)[1]["run"]
    summary, fork = repository / "summary.md", repository / "my_fork.py"
    given = {"BASELINES": "tests/conformance", "ARGUMENTS": "", "GITHUB_STEP_SUMMARY": str(summary)}
    right = fork.read_text()
    line = "prev_sample = sample + derivative * dt"
    assert right.count(line) == 1
    fork.write_text(right.replace(line, "prev_sample = dt * derivative + sample"))
    green = bash(repository, step, **given)
    assert green.returncode == 0, green.stdout
    assert "XFAIL" in summary.read_text()
    fork.write_text(right.replace("derivative = 0.5 * (self.prev_derivative + derivative)", "pass"))
    red = bash(repository, step, **given)
    assert red.returncode == 1
    assert "FAILED tests/conformance/my_scheduler.json::step" in red.stdout
    assert "is the first to differ from the published method" in summary.read_text()
    assert "Traceback" not in red.stdout
    assert not (repository / "installed").exists()
    fork.write_text("raise ImportError('half a file')")
    assert bash(repository, step, **given).returncode == 1
