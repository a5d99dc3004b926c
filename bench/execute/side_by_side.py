"""The gate's two sides made here and now: the same experiment in another installation and in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.execute.assemble import prepare
from bench.execute.contest import take_turns
from bench.execute.installation import Installation, this_installation
from bench.experiment.compose import compose_settings, conf_directories
from bench.experiment.config import check_experiment
from bench.records import BenchError, Turns


def run_sides(before: Installation, overrides: Sequence[str], directory: Path) -> tuple[Path, Path]:
    """Run an experiment on both sides, without latencies; returns the directories of the runs.

    A side that ran before goes on where it was; raises BenchError when a side cannot run at all.
    """
    sides = (before, directory / "before"), (this_installation(), directory / "after")
    for installation, results in sides:
        print(f"Running the experiment in {installation.name} ...", file=sys.stderr)
        _call(installation, "bench", "run", *overrides, f"results='{results}'", "measure.latency=false")
    return sides[0][1], sides[1][1]


def write_conformance(before: Installation, names: Sequence[str], directory: Path) -> Path:
    """Baselines of conformance of the other installation's schedulers, one process for all of them."""
    chosen = list(names) or sorted({path.stem for conf in conf_directories() for path in conf.glob("scheduler/*.yaml")})
    print(f"Examining {len(chosen)} schedulers in {before.name} ...", file=sys.stderr)
    target = f"write='{directory}'/${{hydra:runtime.choices.scheduler}}.json"
    _call(before, "bench", "conform", "-m", f"scheduler={','.join(chosen)}", target)
    return directory


def time_sides(before: Installation, overrides: Sequence[str], rounds: int, directory: Path) -> list[Turns]:
    """Latencies of the experiment's cells in turn; every raw sample is kept in turns.json."""
    job = prepare(check_experiment(compose_settings(overrides)))
    prompts = job.prompts.texts[: job.experiment.measure.batch_size]
    print(f"Timing {len(job.plan.cells)} cells in turn, {rounds} calls a side ...", file=sys.stderr)
    turns = list(take_turns(before, this_installation(), job.plan.cells, prompts, rounds))
    (directory / "turns.json").write_text(json.dumps([asdict(entry) for entry in turns]) + "\n", encoding="utf-8")
    return turns


def _call(installation: Installation, module: str, *arguments: str) -> None:
    command = installation.command(module, *arguments)
    done = subprocess.run(  # noqa: S603
        command, env={**installation.environment(), "TQDM_DISABLE": "1"}, stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode not in (0, 1):  # 1: a cell failed, or a scheduler deviates, which is the gate's to judge
        raise BenchError(f"{installation.name} could not run `{arguments[0]}` (exit code {done.returncode}); see above")
