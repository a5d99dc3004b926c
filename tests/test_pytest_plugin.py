"""The pytest plugin: a test per scheduler and check or per outcome of the gate, and no effect without its option."""

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_gate import Make, make  # noqa: F401

from bench.conformance.report import ConformanceReport, Finding

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


SHAM = """
import sys
import types
from pathlib import Path

from bench.conformance.baseline import compared, read_baseline, read_report


def examine_again(baseline, path):
    name = path.stem
    if name == "broken":
        raise IndexError("list index out of range")
    return compared(read_report(Path(f"{name}_now.json")), read_baseline(path))


sys.modules["bench.conformance.verb"] = types.SimpleNamespace(examine_again=examine_again)
"""
"""A conftest that makes examinations read their report from a file, without torch."""


def finding(check: str, **places: float) -> Finding:
    return Finding(check, "as configured", "1", "2", "It differs.", tuple(places.items()))


def report(*findings: Finding, end: float = 1.0, origin: str = "step") -> ConformanceReport:
    return ConformanceReport(
        *("fork.Fork", None, {"diffusers": "1"}, findings, {"noise table": 1, "step": 2}),
        fingerprints={"4 steps": ((1.0,), (end,))},
        origins={one.key: origin for one in findings},
        settings={"_target_": "fork.Fork"},
    )


def test_a_test_per_scheduler_and_check(tmp_path: Path) -> None:
    baselines = tmp_path / "tests" / "conformance"
    for name, before, now in (
        ("same", report(), report()),
        ("known", report(finding("finite", a=2.0)), report(finding("finite", a=2.0))),
        ("new", report(), report(finding("finite", a=2.0))),
        ("elsewhere", report(), report(finding("odd"), origin="added check")),
        ("grown", report(finding("step", a=2.0)), report(finding("step", a=9.0))),
        ("fixed", report(finding("step", a=2.0)), report()),
        ("moved", report(), report(end=2.0)),
        ("unfinished", report(), replace(report(), unfinished=("step (eta=1): KeyError: 'x'",))),
        ("broken", report(), report()),
    ):
        before.write(baselines / f"{name}.json")
        now.write(tmp_path / f"{name}_now.json")
        if now.unfinished:
            text = json.loads((tmp_path / f"{name}_now.json").read_text())
            (tmp_path / f"{name}_now.json").write_text(json.dumps({**text, "unfinished": list(now.unfinished)}))
    (tmp_path / "conftest.py").write_text(SHAM)
    done = run(tmp_path, "-rA", "--tcd-bench-baseline=tests/conformance", "-W", "error")
    for name, failing in (
        *(("same", ""), ("known", ""), ("new", "step"), ("elsewhere", "any_other_check"), ("grown", "step")),
        *(("fixed", "step"), ("moved", "trajectory"), ("unfinished", "step")),
    ):
        found = set(re.findall(rf"^FAILED tests/conformance/{name}.json::(\w+)", done.stdout, re.MULTILINE))
        assert found == ({failing} if failing else set()), done.stdout
    assert "XFAIL tests/conformance/known.json::step - 1 known" in done.stdout
    assert len(re.findall(r"FAILED tests/conformance/broken.json::", done.stdout)) == 4
    assert "the scheduler breaks down: IndexError: list index out of range" in done.stdout
    assert "fixed: step (as configured, a): expected 1, got 2" in done.stdout
    assert "an error of tcd-bench: step (eta=1): KeyError: 'x'" in done.stdout
    assert "Traceback" not in done.stdout
    assert done.returncode == 1
    for chosen, passed in (
        (["tests/conformance/new.json::noise_table"], "1 passed"),
        (["-k", "new and noise_table"], "1 passed, 36 deselected"),
        (["tests/conformance/new.json::step"], "1 failed"),
    ):
        again = run(tmp_path, "-q", "--tcd-bench-baseline=tests/conformance", *chosen)
        assert passed in again.stdout, again.stdout


def test_baselines_are_collected_beside_named_tests_and_never_lost(tmp_path: Path) -> None:
    report().write(tmp_path / "build" / "fork.json")
    report().write(tmp_path / "fork_now.json")
    (tmp_path / "conftest.py").write_text(SHAM)
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    done = run(tmp_path, "-q", "--tcd-bench-baseline=build", "test_own.py")
    assert "6 passed" in done.stdout, done.stdout
    done = run(tmp_path, "-q", "--tcd-bench-baseline=build", ".")  # build is one of pytest's norecursedirs
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no baseline was collected" in done.stderr
    for damage in ("{", '{"schema": 1}', ""):
        (tmp_path / "build" / "fork.json").write_text(damage)
        done = run(tmp_path, "-q", "--tcd-bench-baseline=build", "test_own.py")
        assert "2 failed, 1 passed" in done.stdout, done.stdout  # the baseline, and the list that tells its hash
    (tmp_path / "build" / "fork.json").unlink()
    done = run(tmp_path, "-q", "--tcd-bench-baseline=build", "test_own.py")
    assert "1 failed, 1 passed" in done.stdout
    assert "it is missing, SHA256SUMS lists it" in done.stdout
    (tmp_path / "build" / "SHA256SUMS").unlink()
    assert run(tmp_path, "--tcd-bench-baseline=build").returncode == pytest.ExitCode.USAGE_ERROR


def test_the_plugin_is_declared_and_packaged_outside_the_package() -> None:
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"tcd-bench": "tcd_bench_pytest"}
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"]["tcd_bench_pytest.py"] == "tcd_bench_pytest.py"
    assert (ROOT / "tcd_bench_pytest.py").is_file()
