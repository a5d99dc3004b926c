"""Cells on a Ray cluster: one actor per GPU, which is one worker and keeps its pipeline until nothing is left.

A cluster that is started here requires a token (RAY_AUTH_MODE=token) and listens on the loopback interface only. Ray
ends actors when their driver is gone.
"""

from __future__ import annotations

import importlib
import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.experiment.executors import Ray
from bench.records.errors import BenchError
from bench.workers.installation import package_paths
from bench.workers.pool import Executor, WorkerHandle
from bench.workers.worker import REAL_WORK, take_part

_KILLED = -9


class Actor:
    """The worker that Ray runs in a separate process."""

    def work(self, directory: str, location: str, launch: str, name: str, first: int, work: str) -> int:
        """Take part in a launch; returns the exit code that a worker process would have.

        `directory` is the driver's current directory, to which relative paths refer; it is not searched for modules.
        """
        os.environ["PYTHONSAFEPATH"] = "1"  # for processes that this one starts
        if Path(directory).is_dir():
            os.chdir(directory)
        return take_part(location, launch, name, first, work)


@dataclass
class RayWorker(WorkerHandle):
    """An actor, and the reference to its exit code."""

    name: str
    ray: Any
    actor: Any
    promise: Any
    last_line: str = ""

    def poll(self) -> int | None:
        ready, _ = self.ray.wait([self.promise], timeout=0)
        if not ready:
            return None
        try:
            code: int = self.ray.get(self.promise)
        except self.ray.exceptions.RayTaskError as error:
            self.last_line, code = str(error.cause or error).strip().splitlines()[-1], 2
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.RayError) as error:
            self.last_line, code = str(error).strip().splitlines()[0], _KILLED
        self.stop()
        return code

    def last_log_line(self) -> str:
        return self.last_line

    def stop(self) -> None:
        self.ray.kill(self.actor)


class RayCluster(Executor):
    """Capacity for as many actors as the cluster's GPUs, or CPUs, allow at present."""

    def __init__(self, location: str, launch: str, choice: Ray, device: str, work: str = REAL_WORK) -> None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads these variables on import
        if choice.address is None:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on all systems: a node's address is 127.0.0.1
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise BenchError(
                "executor=ray needs Ray; install it with `pip install tcd-bench[ray]`, or use executor=local"
            ) from error
        if "://" not in location:
            location = str(Path(location).absolute())
        self._ray, self._choice, self._arguments = ray, choice, (str(Path.cwd()), location, launch)
        self._work, self._on_gpu, self._started_here = work, device.startswith("cuda"), not ray.is_initialized()
        if not self._started_here:
            return
        quiet = {"log_to_driver": False, "configure_logging": False}
        here = {"address": "local", "include_dashboard": False}
        try:
            with chdir(next(iter(package_paths()), sys.prefix)):  # Ray lets workers import from the current directory
                ray.init(**(here if choice.address is None else {"address": choice.address}), **quiet)
        except Exception as error:
            where = choice.address or "null"
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BenchError(
                f"executor.address={where}: no Ray cluster could be started or joined ({first}); start one with "
                "`ray start --head`, and give its address and RAY_AUTH_TOKEN"
            ) from error

    def capacity(self) -> int:
        """Return how many actors fit the cluster's nodes at present."""
        resources = self._ray.cluster_resources()
        gpus = self._gpus(resources)
        by_gpu = int(resources.get("GPU", 0) / gpus) if gpus else None
        by_cpu = int(resources.get("CPU", 0) / self._choice.cpus) if self._choice.cpus else None
        limits = [limit for limit in (by_gpu, by_cpu, self._choice.workers) if limit is not None]
        return min(limits, default=1)

    def _gpus(self, resources: Any) -> float:
        if self._choice.gpus is not None:
            return self._choice.gpus
        return 1.0 if self._on_gpu and resources.get("GPU", 0) else 0.0

    def start(self, names: Sequence[str], first: int) -> list[RayWorker]:
        gpus = self._gpus(self._ray.cluster_resources())
        threads = str(max(1, int(self._choice.cpus)))
        kind = self._ray.remote(num_gpus=gpus, num_cpus=self._choice.cpus, max_restarts=0)(Actor)
        settings = {} if self._on_gpu else {"runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}}}
        workers = []
        for i, name in enumerate(names, first):
            actor = kind.options(**settings).remote()
            promise = actor.work.remote(*self._arguments, name, i, self._work)
            workers.append(RayWorker(name, self._ray, actor, promise))
        return workers

    def close(self) -> None:
        if self._started_here:
            self._ray.shutdown()
