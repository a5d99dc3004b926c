"""Workers as processes of this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.workers.attached import GRACE_S
from bench.workers.installation import this_installation
from bench.workers.pool import Executor, WorkerHandle
from bench.workers.worker import REAL_WORK


@dataclass
class Process(WorkerHandle):
    """A worker process of this machine, which ends when this process does; its output goes into a file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def poll(self) -> int | None:
        return self.process.poll()

    def last_log_line(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def stop(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_S)
        self.process.kill()
        self.process.wait()


class ThisMachine(Executor):
    """Capacity for a fixed number of processes, which share the CPU or are distributed over the GPUs.

    `gpus` are values of CUDA_VISIBLE_DEVICES; empty where cells run on the CPU, or on one GPU that they name.
    """

    def __init__(
        self, location: str, launch: str, workers: int, gpus: Sequence[str] = (), work: str = REAL_WORK
    ) -> None:
        self._location, self._launch, self._workers, self._work = location, launch, workers, work
        self._gpus = gpus
        self._logs = TemporaryDirectory(prefix="tcd-bench-workers-")

    def capacity(self) -> int:
        return self._workers

    def start(self, names: Sequence[str], first: int) -> list[Process]:
        return [self._start(name, first + i) for i, name in enumerate(names)]

    def _start(self, name: str, first: int) -> Process:
        installation = this_installation()
        environment = installation.environment()
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[first % len(self._gpus)]
        elif self._workers > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self._workers)))
        log = Path(self._logs.name) / f"{name}.log"
        arguments = (self._location, self._launch, name, str(first), self._work)
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                installation.command("bench.workers.worker", *arguments, attached=True),
                stdin=subprocess.PIPE,  # open for as long as this process lives
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        return Process(name, process, log)

    def close(self) -> None:
        self._logs.cleanup()
