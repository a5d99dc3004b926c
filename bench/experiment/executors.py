"""Executors of cells: this process, this machine's devices, a Ray cluster, or a Slurm job array."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.value_types import STRICT, Count, Source

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(config=STRICT)
class Common:
    """Settings that every executor has."""

    max_attempts: Count = 3
    """Number of workers that may die at the same point of a cell before the cell is abandoned."""
    cell_timeout_s: Seconds | None = None
    """Seconds that a worker may spend on one piece of work before it counts as hung and is ended; null: no limit."""
    lease_s: Seconds = 30.0
    """Seconds without a sign of life after which the work of a worker is released to the others."""
    store_retry_s: Annotated[float, Field(ge=0)] = 600.0
    """Seconds to wait for a full disk or an unreachable store."""
    chunk_images: Count = 1024
    """Images per chunk; large cells are split into chunks that several workers can take."""


@dataclass(config=STRICT)
class Local(Common):
    """This process; with several `workers`, or a time limit, worker processes on this machine."""

    kind: Literal["local"] = "local"
    workers: Count = 1
    """Number of worker processes; 1 runs in the process itself."""


@dataclass(config=STRICT)
class Ray(Common):
    """A Ray cluster, with one actor per GPU."""

    kind: Literal["ray"] = "ray"
    address: str | None = None
    """Address of a running cluster; by default a cluster is started on this machine."""
    workers: Count | None = None
    """Largest number of actors; by default the capacity of the cluster."""
    gpus: Share | None = None
    """GPUs per actor, which may be a fraction; 0 on a cluster without GPUs."""
    cpus: Share = 1.0
    """Processor cores per actor."""


@dataclass(config=STRICT)
class Slurm(Common):
    """A Slurm job array, whose tasks are requeued while work is left."""

    kind: Literal["slurm"] = "slurm"
    workers: Count = 1
    """Number of array tasks."""
    minutes: Count = 60
    """Time limit of a task; it is requeued while work is left."""
    cpus: Count = 1
    """Processor cores per task."""
    options: dict[str, str | int] = Field(default_factory=dict)
    """Further options of sbatch, as in `{partition: gpu, gres: "gpu:1"}`."""
    folder: Source = "slurm"
    """Directory of job scripts and logs, on a file system that all nodes share."""


ExecutorChoice = Annotated[Local | Ray | Slurm, Field(discriminator="kind")]
