"""Two installations, the two sides of the gate: both examine the same schedulers and run the same experiment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.execute.job import prepare
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.gate.interleaved_timing import time_interleaved
from bench.records.cell import content_hash
from bench.records.record import InterleavedLatency
from bench.workers.installation import Installation, InstallationError


def run_sides(
    before: Installation, after: Installation, overrides: Sequence[str], directory: Path
) -> tuple[Path, Path]:
    """Run an experiment on both sides, without latencies; returns the directories of the runs.

    A run that was stopped continues; every pair of installation and experiment has its own directory. Raises
    BenchError for overrides that describe no experiment, and InstallationError when an installation cannot run it.
    """
    check_experiment(compose_settings(overrides))
    sides = [
        (installation, directory / f"{side}-{content_hash([installation.name, *overrides], 8)}")
        for side, installation in (("before", before), ("after", after))
    ]
    for installation, results in sides:
        print(f"Running the experiment in {installation.name} ...", file=sys.stderr)
        run_there(installation, "bench", "run", *overrides, f"results='{results.absolute()}'", "measure.latency=false")
        if not (results / "run.json").is_file():
            raise InstallationError(installation.name, "ran nothing of the experiment")
    return sides[0][1], sides[1][1]


def survey_there(installation: Installation, schedulers: Mapping[str, Mapping[str, Any]], directory: Path) -> Path:
    """Have an installation examine schedulers by name, in one process; returns `directory`, with their baselines."""
    print(f"Examining {len(schedulers)} schedulers in {installation.name} ...", file=sys.stderr)
    directory.parent.mkdir(parents=True, exist_ok=True)
    asked = directory.with_suffix(".asked.json")
    asked.write_text(json.dumps(schedulers), encoding="utf-8")
    run_there(installation, "bench.conformance.survey", str(directory.absolute()), str(asked.absolute()))
    return directory


def time_sides(
    before: Installation, after: Installation, overrides: Sequence[str], sessions: int, rounds: int, directory: Path
) -> list[InterleavedLatency]:
    """Time the experiment's cells interleaved in both installations; every raw sample is kept in interleaved.json."""
    job = prepare(check_experiment(compose_settings(overrides)))
    prompts = job.prompts.texts[: job.experiment.measure.batch_size]
    print(f"Timing {len(job.plan.cells)} cells interleaved, {sessions} sessions ...", file=sys.stderr)
    latencies = time_interleaved(before, after, job.plan.cells, prompts, sessions, rounds)
    (directory / "interleaved.json").write_text(
        json.dumps([asdict(entry) for entry in latencies]) + "\n", encoding="utf-8"
    )
    return latencies


def run_there(installation: Installation, module: str, *arguments: str) -> None:
    """Run a module in an installation to its end, or to this process's; what it prints is passed on.

    Exit code 1 is an answer (a cell failed) unless it is Python's own for an exception; any other than 0 raises
    InstallationError with the last line that it printed.
    """
    environment = {**installation.environment(), "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(  # noqa: S603
        installation.command(module, *arguments, attached=True),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    for line in process.stderr or ():
        print(line, end="", file=sys.stderr)
        said += [line.strip()] if line.strip() else []
    broke = any(line.startswith("Traceback (most recent call last)") for line in said)
    if (code := process.wait()) not in (0, 1) or (code == 1 and broke):
        last = said[-1].removeprefix("error: ") if said else f"exit code {code}"
        raise InstallationError(installation.name, f"could not run {module}: {last}")
