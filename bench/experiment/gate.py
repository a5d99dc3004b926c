"""The gate's settings as typed, checked data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.conf_files import conf_directories, read_config
from bench.experiment.config import check_settings
from bench.experiment.conform import ConformChoice
from bench.experiment.value_types import STRICT, ScoreName, Source
from bench.records.errors import BenchError
from bench.records.run import CostLimits, Limit, Movement


@dataclass(config=STRICT)
class ConformanceChoice:
    """A directory of baselines, and which of them; all where none is named."""

    directory: Source | None
    """Directory of conformance baselines; their schedulers are examined again."""
    only: list[str]
    """Names of the schedulers to examine; empty: all."""


@dataclass(config=STRICT)
class BothSidesChoice:
    """The work of both installations when one is given by `ref`; only schedulers where `run` is false."""

    run: bool
    """`false` compares schedulers only: seconds, no model."""
    overrides: list[str]
    """What both sides run."""
    sessions: Annotated[int, Field(ge=4, multiple_of=2)]
    """Pairs of fresh processes in which latencies are taken; an even number."""
    rounds: Annotated[int, Field(ge=0)]
    """Rounds of three calls of every cell and side in each process; 0 leaves latencies out."""


@dataclass(config=STRICT)
class GateChoice:
    """The settings of `tcd-bench gate`."""

    baseline: Source | None
    """Directory of a run or of an accepted baseline."""
    candidate: Source | None
    """Directory of the run that is judged."""
    ref: Source | None
    """Installation before the change, in place of both directories: a Python, a virtual environment, a checkout, or a
    version as in `diffusers==0.41.0`."""
    candidate_ref: Source | None
    """Installation after the change; by default this one."""
    installations: Source
    """Where versions are installed, once each."""
    both_sides: BothSidesChoice
    """What both installations run."""
    output: Source
    """Directory of gate.md, gate.json, junit.xml and gate.html."""
    conformance: ConformanceChoice
    """Which schedulers are examined."""
    images: Movement
    """How far images may move."""
    quality: dict[ScoreName, Limit]
    """How much worse each score may get; a loss counts when it exceeds both limits and chance."""
    cost: CostLimits
    """How much latency and memory may rise."""
    author: str | None
    """Who accepts a baseline (`gate accept`)."""
    reason: str | None
    """Why it is accepted (`gate accept`)."""

    def limits(self) -> dict[str, Limit]:
        """How much worse each score may get."""
        return {str(score): limit for score, limit in self.quality.items()}


def check_gate(settings: Mapping[str, Any]) -> GateChoice:
    """Return the gate of plain settings; raises BenchError naming the first fault."""
    gate = check_settings(GateChoice, settings)
    if (gate.baseline is None) != (gate.candidate is None):
        raise BenchError("baseline and candidate go together: give the directories of both runs")
    if gate.ref is not None and gate.baseline is not None:
        raise BenchError("ref and baseline were both given; ref creates both sides, so give only one of them")
    if gate.candidate_ref is not None and gate.ref is None:
        raise BenchError("candidate_ref was given without ref; ref is the installation before the change")
    if not (gate.ref or gate.baseline or gate.conformance.directory):
        raise BenchError(
            "nothing to compare was given; give baseline=DIRECTORY candidate=DIRECTORY, "
            "conformance.directory=results/conformance, or ref=INSTALLATION"
        )
    for name in ("baseline", "candidate"):
        directory = getattr(gate, name)
        if directory is not None and not (Path(directory) / "cells").is_dir():
            raise BenchError(f"{name}={directory} holds no run (no folder cells/ in it); give the directory of a run")
    _check_limits(gate)
    return gate


def chosen_schedulers(only: Sequence[str]) -> dict[str, Any]:
    """Return the settings in conf/scheduler by name, all or the named ones; raises BenchError for an unknown name."""
    files = {path.stem: path for conf in reversed(conf_directories()) for path in conf.glob("scheduler/*.yaml")}
    if unknown := [name for name in only if name not in files]:
        raise BenchError(f"conformance.only={unknown[0]} was given; choose among {', '.join(sorted(files))}")
    schema = (ConformChoice,)
    return {name: read_config(files[name], f"scheduler/{name}", "scheduler", schema) for name in only or sorted(files)}


def check_acceptance(settings: Mapping[str, Any]) -> GateChoice:
    """Return the settings of `tcd-bench gate accept`, which needs both directories, an author and a reason."""
    gate = check_settings(GateChoice, settings)
    for name in ("candidate", "baseline", "author", "reason"):
        if not getattr(gate, name):
            raise BenchError(f"{name} was not given; accept takes candidate=, baseline=, author= and reason=")
    return gate


def _check_limits(gate: GateChoice) -> None:
    limits = {f"quality.{name}": limit for name, limit in gate.quality.items()}
    limits |= {"cost.latency": gate.cost.latency, "cost.memory": gate.cost.memory}
    limits["cost.latency_interleaved"] = gate.cost.latency_interleaved
    numbers = {
        f"{name}.{part}": getattr(limit, part) for name, limit in limits.items() for part in ("relative", "absolute")
    }
    numbers |= {"images.displacement": gate.images.displacement, "images.share": gate.images.share}
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise BenchError(f"{name}={value} was given; give a number of at least 0")
