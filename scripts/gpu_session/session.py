"""Runs the steps that are missing, each in a process with its own time limit. Standard library only."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_session.plan import STEPS, Step, describe, missing, read_found, update_page

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
PACKED = ("gpu", "mini_cuda", "gate_cuda", "cuda.md")
"""What a session leaves, below results/reference."""
FEWEST_S = 20.0
"""No step begins with less time left."""


@dataclass
class Session:
    """Where a session writes, on which device, and how long it may take."""

    results: Path
    device: str
    minutes: float
    pack: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    now_s: Callable[[], float] = time.monotonic

    @property
    def folder(self) -> Path:
        """The folder of what each step found."""
        return self.results / "gpu"

    def run(self, steps: Sequence[Step]) -> int:
        """Run steps while there is time; returns 0 where all of them were measured, else 1."""
        self.folder.mkdir(parents=True, exist_ok=True)
        begun, done = self.now_s(), []
        for step in steps:
            left = 60 * self.minutes - (self.now_s() - begun)
            if left < FEWEST_S:
                print(f"{step.name}: no time is left", flush=True)
                continue
            print(f"{step.name}: at most {min(left, step.step_timeout_s):.0f} s …", flush=True)
            record = self.measure(step, min(left, step.step_timeout_s))
            done.append(record["status"])
            print(f"{step.name}: {record['status']} in {record['seconds']:.1f} s: {record['summary']}", flush=True)
        return int(done != ["measured"] * len(steps))

    def measure(self, step: Step, step_timeout_s: float) -> dict[str, Any]:
        """Run a step and write what it found, to its end or not."""
        begun = self.now_s()
        part, log = self.folder / f"{step.name}.part.json", self.folder / f"{step.name}.log"
        before = read_found(self.folder, step.name)
        if before is not None and before["found"] and not part.exists():
            part.write_text(json.dumps(before["found"]), encoding="utf-8")
        status = self.start(step, part, log, step_timeout_s)
        found = json.loads(part.read_text(encoding="utf-8")) if part.is_file() else {}
        record = {
            "status": status,
            "date": datetime.now(UTC).date().isoformat(),
            "command": f"scripts/gpu-session {step.name}",
            "seconds": self.now_s() - begun,
            "step_timeout_s": step_timeout_s,
            "device": found.get("device", self.device),
            "summary": found.pop("summary", "") if status == "measured" else last_line(log),
            "found": found,
        }
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (self.folder / f"{step.name}.json").write_text(text + "\n", encoding="utf-8")
        part.unlink(missing_ok=True)
        page = self.results / "cuda.md"
        if page.is_file():
            update_page(page, self.folder)
        if status == "measured":
            log.unlink(missing_ok=True)
        if self.pack is not None:
            pack(self.results, self.pack)
        return record

    def start(self, step: Step, part: Path, log: Path, step_timeout_s: float) -> str:
        """Run a step in a separate process and end it with its children at its limit; returns its status."""
        path = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "scripts" / "benchmarks"), str(ROOT / "tests")]
        python_path = os.pathsep.join([*path, self.environment.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "gpu_session.steps", step.name, self.device, str(self.results), str(part)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **self.environment, "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
            try:
                code = process.wait(step_timeout_s)
            except subprocess.TimeoutExpired:
                return "too slow"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return "measured" if code == 0 else "failed"


class DryRun(Session):
    """Runs steps at tiny sizes in this process, without limits."""

    def start(self, step: Step, part: Path, log: Path, step_timeout_s: float) -> str:
        """Run a step here; an error is the caller's."""
        from gpu_session.steps import run_step

        run_step(step.name, self.device, self.results, part, tiny=True)
        return "measured"


def last_line(log: Path) -> str:
    """Return the last line of a log; empty where there is none."""
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def pack(results: Path, folder: Path) -> None:
    """Write what the session leaves into one file, with the names that it has in the project."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / ".gpu-session.tar.gz"
    with tarfile.open(fresh, "w:gz") as archive:
        for name in PACKED:
            if (results / name).exists():
                archive.add(results / name, f"results/reference/{name}")
    fresh.replace(folder / "gpu-session.tar.gz")


def install(wheels: Path) -> dict[str, str]:
    """Install wheels into a temporary folder; returns the environment in which they are found."""
    target = tempfile.mkdtemp(prefix="gpu-session-")
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade", "--target", target]
    files = [str(path) for path in sorted(wheels.glob("*.whl"))]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *files], check=True)
    return {"PYTHONPATH": target}


def main(description: str | None = None, arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 where nothing that was asked for is missing, else 1."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(step.name for step in STEPS))
    parser.add_argument("--list", action="store_true", help="what is measured, and what is missing")
    parser.add_argument("--prepare", action="store_true", help="download wheels, and compose all settings")
    parser.add_argument("--python", default="3.12", help="with --prepare: the version on the machine with the GPU")
    parser.add_argument("--device", default="cuda", help="cpu: a dry run at tiny sizes")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--wheels", type=Path, help="a folder of wheels that --prepare made")
    parser.add_argument("--pack", type=Path, help="a folder for gpu-session.tar.gz")
    parser.add_argument("--results", type=Path, help="in place of results/reference")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.steps if name not in {step.name for step in STEPS}]:
        parser.error(f"{unknown[0]} is not a step; choose from {', '.join(step.name for step in STEPS)}")
    results = options.results or REFERENCE
    if options.list:
        print("\n".join(describe(results / "gpu")))
        return int(bool(missing(results / "gpu")))
    if options.prepare:
        from gpu_session.prepare import prepare

        return prepare(ROOT / ".gpu-session", options.python)
    if options.device == "cpu" and options.results is None:
        results = Path(tempfile.mkdtemp(prefix="gpu-session-"))
    kind = DryRun if options.device == "cpu" else Session
    session = kind(results, options.device, options.minutes, options.pack)
    if options.wheels is not None:
        session.environment = install(options.wheels)
    steps = [step for step in STEPS if step.name in options.steps] if options.steps else missing(session.folder)
    print(f"{shlex.join(step.name for step in steps) or 'nothing is missing'}; results: {results}", flush=True)
    return session.run(steps)
