"""The pytest plugin: a test per outcome of the gate, and no effect without its option."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from test_gate import Make, make  # noqa: F401

ROOT = Path(__file__).parents[1]


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m pytest` as in an environment with tcd-bench, whose entry point is simulated by -p."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tcd_bench_pytest", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A foreign repository with its own package `bench`, and a test of it."""
    directory = tmp_path / "repository"
    (directory / "bench").mkdir(parents=True)
    (directory / "bench" / "__init__.py").write_text("ANSWER = 42\n")
    (directory / "test_own.py").write_text("import bench\n\n\ndef test_own():\n    assert bench.ANSWER == 42\n")
    return directory


def test_a_repository_with_its_own_package_bench_is_left_alone(repository: Path) -> None:
    done = run(repository, "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_another_package_bench_that_shadows_this_one_is_reported(repository: Path) -> None:
    done = run(repository, "--tcd-bench-baseline=x")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the package bench imported here is not tcd-bench's" in done.stderr


def test_without_its_option_the_plugin_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import sys\n\n\ndef test_own():\n"
        "    assert not [name for name in sys.modules if name.partition('.')[0] in ('bench', 'numpy', 'torch')]\n"
    )
    done = run(tmp_path, "-q")
    assert done.returncode == 0, done.stdout


def test_every_outcome_is_a_test(make: Make, tmp_path: Path) -> None:  # noqa: F811
    same, worse = make("same", sha256="s"), make("worse", clip_gain=-2.0)
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    baseline = f"--tcd-bench-baseline={same.location}"
    done = run(tmp_path, baseline, f"--tcd-bench-candidate={same.location}")
    assert "6 passed" in done.stdout
    assert done.returncode == 0
    done = run(tmp_path, baseline, f"--tcd-bench-candidate={worse.location}")
    assert "5 passed, 1 failed" in done.stdout or "1 failed, 5 passed" in done.stdout
    assert "regressed: mini tcd 2 steps eta 0.3: clip_score" in done.stdout
    (Path(same.location) / "run.json").unlink()
    done = run(tmp_path, baseline, f"--tcd-bench-candidate={worse.location}")
    assert "1 failed, 1 passed" in done.stdout
    assert run(tmp_path, "--tcd-bench-candidate=x").returncode == pytest.ExitCode.USAGE_ERROR
    assert run(tmp_path, "--tcd-bench-baseline=nowhere").returncode == pytest.ExitCode.USAGE_ERROR


def test_the_plugin_is_declared_and_packaged_outside_the_package() -> None:
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"tcd-bench": "tcd_bench_pytest"}
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"]["tcd_bench_pytest.py"] == "tcd_bench_pytest.py"
    assert (ROOT / "tcd_bench_pytest.py").is_file()
