"""The workflows and the action: pinned, without permissions, and their shell commands work."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / ".github" / "actions" / "gate" / "action.yml"
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))


def steps_of(path: Path) -> list[dict[str, Any]]:
    """All steps of a workflow or of the action."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "runs" in data:
        return list(data["runs"]["steps"])
    return [step for job in data["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_actions_are_pinned_to_a_commit_and_name_their_release(path: Path) -> None:
    lines = re.findall(r"^ *(?:- )?uses: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == sum("uses" in step for step in steps_of(path))
    for line in lines:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_only_read_permission(path: Path) -> None:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    text = path.read_text(encoding="utf-8")
    assert data["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in data["jobs"].values())
    assert "pull_request_target" not in text
    assert "secrets." not in text
    checkouts = [step for step in steps_of(path) if "actions/checkout" in step.get("uses", "")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_a_self_hosted_runner_never_runs_code_of_forks() -> None:
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            if "self-hosted" in job["runs-on"]:
                assert "head.repo.full_name == github.repository" in job["if"]


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_workflow_steps_are_the_local_scripts(path: Path) -> None:
    for step in steps_of(path):
        assert "${{" not in step.get("run", ""), "an expression in a shell is an injection"
        for script in re.findall(r"\./(scripts/\S+)", step.get("run", "")):
            assert os.access(ROOT / script, os.X_OK)


def test_the_action_hands_on_arguments_answer_and_exit_code(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "tcd-bench"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" >arguments\nmkdir tcd-bench-gate\necho said >tcd-bench-gate/gate.md\nexit 3\n'
    )
    program.chmod(0o755)
    summary = tmp_path / "summary"
    given = {
        "CONFORMANCE": "my baselines",
        "BASELINE": "",
        "CANDIDATE": "",
        "OVERRIDES": "conformance.only=[mine]\ncost.latency.relative=0.1\n",
        "GITHUB_STEP_SUMMARY": str(summary),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    command = ["bash", "-e", "-o", "pipefail", "-c", steps_of(ACTION)[1]["run"]]
    assert subprocess.run(command, env=given, cwd=tmp_path, check=False).returncode == 3
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "gate",
        "output=tcd-bench-gate",
        "conformance.directory='my baselines'",
        "conformance.only=[mine]",
        "cost.latency.relative=0.1",
    ]
    assert summary.read_text() == "said\n"
