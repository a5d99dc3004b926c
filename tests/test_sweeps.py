"""A sweep's jobs never share a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.experiment.compose import run_application
from bench.experiment.overrides import give_directories
from bench.records.errors import BenchError

Overrides = Callable[..., list[str]]


def sweep(*arguments: str) -> list[str]:
    """Return the directories of the jobs of a sweep."""
    found: list[dict[str, Any]] = []
    run_application("run", "", ["-m", *arguments], lambda settings: found.append(settings) or 0)
    return [settings["results"] for settings in found]


@pytest.mark.parametrize(
    ("arguments", "directories"),
    [
        (("seed=0,1",), ["results/mini-seed=0", "results/mini-seed=1"]),
        (("seed=range(0,2)", "results=here/"), ["here-seed=0", "here-seed=1"]),
        (("seed=0,1", "results=s3://bucket/run"), ["s3://bucket/run-seed=0", "s3://bucket/run-seed=1"]),
        (("name=a,b",), ["results/a", "results/b"]),
        (("seed=0,1", "results='x/${{seed}}'".replace("{{", "{").replace("}}", "}")), ["x/0", "x/1"]),
        (("results=x,y",), ["x", "y"]),
        (("name=a,b", "seed=0,1"), [f"results/{name}-seed={seed}" for name in "ab" for seed in (0, 1)]),
        (("methods.tcd.steps=[2,4],[8]", "claim=[]"), [f"results/mini-methods.tcd.steps={n}" for n in ("2,4", "8")]),
        (("seed=0",), ["results/mini"]),
        (("experiment=mini,smoke",), ["results/mini", "results/smoke"]),
    ],
)
def test_each_job_has_its_own_directory(arguments: tuple[str, ...], directories: list[str]) -> None:
    assert sweep(*arguments) == directories


def test_the_same_job_twice_is_refused() -> None:
    with pytest.raises(BenchError, match="two of its 3 jobs would write to results=results/mini-seed=0; give each"):
        sweep("seed=0,1,0")


def test_the_jobs_are_named_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    def task(settings: dict[str, Any]) -> int:
        if settings["seed"] == 2:
            raise BenchError("no")
        return int(settings["seed"])

    with pytest.raises(BenchError, match="no"):
        run_application("run", "", ["-m", "seed=0,1,2", "results=x"], task)
    assert capsys.readouterr().out.splitlines() == [
        "3 jobs:",
        "  seed=0: x-seed=0 (done)",
        "  seed=1: x-seed=1 (exit code 1)",
        "  seed=2: x-seed=2 (refused)",
    ]


def test_directories_of_long_values_that_begin_alike_differ_and_have_names_that_a_disk_takes() -> None:
    jobs = give_directories([{"results": "r"}, {"results": "r"}], [f"x={'a' * 300}{end}" for end in "bc"])
    names = [job["results"] for job in jobs]
    assert len(set(names)) == 2
    assert max(map(len, names)) < 150


def test_the_largest_exit_code_of_the_jobs_is_that_of_the_sweep() -> None:
    assert run_application("run", "", ["-m", "seed=1,0", "results=x"], lambda settings: int(settings["seed"])) == 1


def test_two_seeds_leave_two_reports(overrides: Overrides, tmp_path: Path) -> None:
    from bench.__main__ import main

    quick = ("measure.latency=false", "measure.memory=false", "method=[tcd]", "methods.tcd.steps=[2]", "claim=[]")
    assert main(["run", "-m", *overrides(*quick, "prompts.count=2", "scores=[fid]", "seed=0,1")]) == 0
    for seed in (0, 1):
        assert f"seed {seed}" in (tmp_path / f"run-seed={seed}" / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "run").exists()
