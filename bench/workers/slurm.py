"""Cells in a Slurm job array, through submitit: a task is a worker, requeued when its time is up.

Nothing pickled by submitit is ever read here: squeue reports whether a task is queued, the store how it ended.
Tasks survive the driver by design: they belong to Slurm, and `scancel` ends them.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.experiment.executors import Slurm
from bench.records.errors import BenchError
from bench.store.store import Store
from bench.workers.installation import this_installation
from bench.workers.launch import WorkerState
from bench.workers.pool import Executor, WorkerHandle
from bench.workers.worker import DONE, REAL_WORK, STOPPED, take_part

_KILLED = -9
WARNING_S = 90
"""How long before the end of its time a task is warned."""
QUEUE_S = 5.0
"""Minimum time between two calls of squeue."""
SETTLE_S = 60.0
"""How long a task may be missing in squeue after its submission: a busy controller can be that slow."""


class Shard:
    """The worker that submitit runs. After `checkpoint` the same task is queued again."""

    def __init__(self, location: str, launch: str, name: str, first: int, work: str) -> None:
        self.arguments = location, launch, name, first, work

    def __call__(self) -> int:
        """Take part in the launch; returns the exit code."""
        return take_part(*self.arguments)

    def checkpoint(self) -> Any:
        """Called by submitit when time is up or the node is taken away; finished work is in the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Queue:
    """The job ids that Slurm knows, updated at most every few seconds."""

    def __init__(self) -> None:
        self._asked, self._ids = 0.0, frozenset[str]()

    def ids(self) -> frozenset[str]:
        """Return all waiting or running tasks; array tasks as 12_3."""
        if time.monotonic() - self._asked > QUEUE_S:
            command = ["squeue", "--noheader", "--array", "--me", "--format=%i"]
            try:
                listing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
                self._ids = frozenset(listing.stdout.split())
            except (OSError, subprocess.SubprocessError):
                return self._ids  # the controller is unreachable for a moment; its last answer holds
            self._asked = time.monotonic()
        return self._ids


@dataclass
class _Task(WorkerHandle):
    """A task of the array."""

    name: str
    job: Any
    queue: Queue
    store: Store
    launch: str
    submitted: float
    seen: bool = False

    def poll(self) -> int | None:
        known = WorkerState.all_of(self.store.files, self.launch)
        state = next((said.state for said in known if said.worker == self.name), None)
        if state == "done":
            return DONE
        if str(self.job.job_id) in self.queue.ids():
            self.seen = True
            return None
        if not self.seen and time.monotonic() - self.submitted < SETTLE_S:
            return None
        return STOPPED if state == "stopped" else _KILLED

    def last_log_line(self) -> str:
        try:
            lines = [line for line in Path(self.job.paths.stderr).read_text(errors="replace").splitlines() if line]
        except OSError:
            lines = []
        return lines[-1] if lines else f"nothing in {self.job.paths.stderr}"

    def stop(self) -> None:
        subprocess.run(["scancel", str(self.job.job_id)], check=False, capture_output=True)  # noqa: S603, S607


class JobArray(Executor):
    """Capacity for a fixed number of tasks."""

    def __init__(self, location: str, launch: str, choice: Slurm, work: str = REAL_WORK) -> None:
        try:
            from submitit import SlurmExecutor
        except ImportError as error:
            raise BenchError(
                "executor=slurm needs submitit; install it with `pip install tcd-bench[slurm]`, or use executor=local"
            ) from error
        if "://" not in location:
            location = str(Path(location).absolute())
        self._arguments, self._choice, self._work = (location, launch), choice, work
        self._queue, self._store = Queue(), Store(location, writable=False)
        try:
            self._executor = SlurmExecutor(folder=Path(choice.folder).absolute() / "%j", max_num_timeout=1000)
        except Exception as error:
            raise BenchError(
                f"executor=slurm: this machine has no Slurm ({error}); start the run where sbatch works"
            ) from error
        environment = this_installation().environment()
        self._executor.update_parameters(
            job_name="tcd-bench",
            setup=[f"export {name}={shlex.quote(environment[name])}" for name in ("PYTHONSAFEPATH", "PYTHONPATH")],
            time=choice.minutes,
            cpus_per_task=choice.cpus,
            signal_delay_s=min(WARNING_S, 20 * choice.minutes),
            additional_parameters={**choice.options},
            stderr_to_stdout=False,
        )

    def capacity(self) -> int:
        return self._choice.workers

    def start(self, names: Sequence[str], first: int) -> list[_Task]:
        shards = [Shard(*self._arguments, name, first + i, self._work) for i, name in enumerate(names)]
        with self._executor.batch():
            jobs = [self._executor.submit(shard) for shard in shards]
        now, launch = time.monotonic(), self._arguments[1]
        return [_Task(name, job, self._queue, self._store, launch, now) for name, job in zip(names, jobs, strict=True)]

    def close(self) -> None:
        """Do nothing: tasks end by themselves, or by `scancel`."""
