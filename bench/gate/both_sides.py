"""Two installations, the two sides of the gate: both examine the same schedulers and run the same experiment."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.conformance.survey import Survey
from bench.execute.job import prepare
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.gate.interleaved_timing import time_interleaved
from bench.records.cell import content_hash
from bench.records.record import InterleavedLatency
from bench.workers.installation import Installation, InstallationError

SURVEY = "bench.conformance.survey"
SURVEY_SILENT_S = 600.0
"""Seconds that a scheduler may take to be examined, a hundred times what the slowest takes."""


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


def survey_there(installation: Installation, schedulers: Mapping[str, Mapping[str, Any]], directory: Path) -> Survey:
    """Have an installation examine schedulers by name; returns what it found, with a baseline each in `directory`.

    One process examines them all. Where a scheduler ends it, or keeps it silent for `SURVEY_SILENT_S`, that one is
    broken and another process examines the rest. Raises InstallationError where a process ends before it examines any.
    """
    print(f"Examining {len(schedulers)} schedulers in {installation.name} ...", file=sys.stderr)
    directory.parent.mkdir(parents=True, exist_ok=True)
    asked, note = directory.with_suffix(".asked.json"), directory.with_suffix(".json")
    found, left = Survey(directory, {}), dict(schedulers)
    while left or not found.versions:
        asked.write_text(json.dumps(left), encoding="utf-8")
        note.unlink(missing_ok=True)
        arguments = SURVEY, str(directory.absolute()), str(asked.absolute())
        try:
            run_there(installation, *arguments, silent_s=SURVEY_SILENT_S)
            part = Survey.read(directory)
        except InstallationError as error:
            part = Survey.read(directory) if note.is_file() else Survey(directory, {})
            if part.current is None:
                raise
            part = replace(part, broken={**part.broken, part.current: f"it ends the process: {error.reason}"})
        found = replace(
            part,
            examined=(*found.examined, *part.examined),
            absent={**found.absent, **part.absent},
            left_out={**found.left_out, **part.left_out},
            broken={**found.broken, **part.broken},
            current=None,
        )
        left = {name: left[name] for name in left if name not in {*part.examined, *part.absent, *part.broken}}
    return found


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


def run_there(installation: Installation, module: str, *arguments: str, silent_s: float | None = None) -> None:
    """Run a module in an installation to its end, or to this process's; what it prints is passed on.

    Exit code 1 is an answer (a cell failed) unless it is Python's own for an exception; any other than 0 raises
    InstallationError with the last line that it printed. A process that prints nothing for `silent_s` is ended.
    """
    environment = {**installation.environment(), "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(  # noqa: S603
        installation.command(module, *arguments, attached=True),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    said, lines = list[str](), queue.Queue[str | None]()
    threading.Thread(target=_pass_on, args=(process.stderr, lines), daemon=True).start()
    why = ""
    while True:
        try:
            line = lines.get(timeout=silent_s)
        except queue.Empty:
            process.kill()
            why = f"nothing was heard of it for {silent_s:g} s"
            break
        if line is None:
            break
        print(line, end="", file=sys.stderr, flush=True)
        said += [line.strip()] if line.strip() and not line.strip().endswith("...") else []
    broke = any(line.startswith("Traceback (most recent call last)") for line in said)
    if (code := process.wait()) not in (0, 1) or (code == 1 and broke) or why:
        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        last = why or (said[-1].removeprefix("error: ") if said and code > 0 else ended)
        raise InstallationError(installation.name, f"could not run {module}: {last}")


def _pass_on(stream: Iterable[str] | None, lines: queue.Queue[str | None]) -> None:
    for line in stream or ():
        lines.put(line)
    lines.put(None)
