"""Where cells run: in this process, on this machine's devices, on a Ray cluster, or in a Slurm job array."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.values import STRICT, Count

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(config=STRICT)
class Common:
    """What every executor has.

    `tries` is how many workers may die at one place of a cell before it is given up, `limit_s` how long a worker may be
    at one piece of work before it counts as hung, `lease_s` after what silence a worker counts as lost, `patience_s`
    how long a full disk or a store out of reach is waited for, `chunk_images` into how large pieces cells are cut.
    """

    tries: Count = 3
    limit_s: Seconds | None = None
    lease_s: Seconds = 30.0
    patience_s: Annotated[float, Field(ge=0)] = 600.0
    chunk_images: Count = 1024


@dataclass(config=STRICT)
class Local(Common):
    """This process alone; with more `workers`, or a time limit, processes of their own on this machine."""

    kind: Literal["local"] = "local"
    workers: Count = 1


@dataclass(config=STRICT)
class Ray(Common):
    """One actor per GPU of the cluster at `address`, or of one on this machine alone where none is given.

    `gpus` is an actor's share of a GPU, 0 on a cluster of processors; `cpus` its share of a machine's. `workers` limits
    the actors, whose number else follows the cluster as it grows.
    """

    kind: Literal["ray"] = "ray"
    address: str | None = None
    workers: Count | None = None
    gpus: Share | None = None
    cpus: Share = 1.0


@dataclass(config=STRICT)
class Slurm(Common):
    """A job array of `workers` tasks, each for `minutes`, begun again where its time is up and work is left.

    `options` are sbatch's own, as in {partition: gpu, gres: "gpu:1"}; `folder` is for job scripts and logs, on a file
    system that all nodes share.
    """

    kind: Literal["slurm"] = "slurm"
    workers: Count = 1
    minutes: Count = 60
    cpus: Count = 1
    options: dict[str, str | int] = Field(default_factory=dict)
    folder: str = "slurm"


Executor = Annotated[Local | Ray | Slurm, Field(discriminator="kind")]
