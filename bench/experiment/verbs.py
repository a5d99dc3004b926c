"""The settings of the verbs that run no experiment, as typed, checked data: report, score, conform and gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.conf_files import conf_directories, read_config
from bench.experiment.config import Experiment, check_settings
from bench.experiment.conform_settings import check_conform_paths
from bench.experiment.executors import Seconds
from bench.experiment.extractors import ExtractorChoice
from bench.experiment.hydra_errors import written
from bench.experiment.value_types import (
    STRICT,
    AnyNumber,
    Count,
    Day,
    Distinct,
    Eta,
    ExtractorName,
    ImageCount,
    MetricName,
    PreferenceModelName,
    ScoreName,
    Source,
)
from bench.records.cell import fields_of
from bench.records.errors import BenchError, check_path
from bench.records.run import CostLimits, Limit, Movement


@dataclass(config=STRICT)
class OtherReference:
    """Reference images other than the run's own."""

    source: Source | None = None
    """`world`, a folder of images, or an .npz with their statistics."""
    count: ImageCount | None = None
    """Number of reference images."""


@dataclass(config=STRICT)
class ScoreChoice:
    """The settings of `tcd-bench score`."""

    results: Source
    """Directory or URL of the run."""
    scores: Annotated[list[ScoreName], AnyNumber, Distinct] = Field(default_factory=list)
    """Scores to add to those that the run has, as in `fid@dinov2`; without `@` by the first extractor of the run that
    can give it."""
    extractors: dict[ExtractorName, ExtractorChoice] = Field(default_factory=dict)
    """Extractors to add to those that the run has; `extractor=[…]` chooses files of conf/extractor."""
    reference: OtherReference = Field(default_factory=OtherReference)
    """Reference images other than those of the run."""
    preference_models: dict[PreferenceModelName, Source] = Field(default_factory=dict)
    """Checkpoints of the preference models, by score."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` …"""


@dataclass(config=STRICT)
class ReportChoice(Experiment):
    """The settings of `tcd-bench report`: those of an experiment, whose directory is found from its name."""

    results: Annotated[Source, Field(min_length=1)] | Annotated[list[Source], Field(min_length=1)]  # type: ignore[assignment]
    """Directory or URL of the run, or several in brackets, which `output` joins in one report."""
    output: Source | None = None
    """Directory or URL of one report of several runs."""
    report: Literal["page", "folder"] | None = None
    """`page` embeds all pictures in report.html, `folder` writes them beside it, in images/, for large runs; null keeps
    what the last report was."""


@dataclass(config=STRICT)
class ViewChoice:
    """The settings of `tcd-bench view`."""

    results: Annotated[str, Field(min_length=1)] = "results"
    """Directory of runs, or of one run."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of this machine; 0 takes any that is free."""


def check_report(settings: Mapping[str, Any]) -> tuple[list[str], str | None, str | None]:
    """Return the directories of the runs, that of their joint report (None for a single run), and the report's form.

    Raises BenchError for several directories without an output, an output for one, or one in a run.
    """
    choice = check_settings(ReportChoice, settings)
    results = [choice.results] if isinstance(choice.results, str) else [*choice.results]
    if len(results) == 1:
        if choice.output is not None:
            raise BenchError(
                f"output={choice.output} was given with one run; the report of a single run is written into its own "
                "directory, so leave output out, or give several runs, as in 'results=[results/a,results/b]'"
            )
        return results, None, choice.report
    if choice.output is None:
        raise BenchError(
            f"results={written(results)} was given without an output; name the directory of the joint report, as in "
            "output=results/joint"
        )
    places = [_place(location) for location in (*results, choice.output)]
    *homes, output = places
    if twice := [results[i] for i, home in enumerate(homes) if home in homes[:i]]:
        raise BenchError(f"results: {twice[0]} occurs twice; give each run once")
    for location, home in zip(results, homes, strict=True):
        if output[: len(home)] == home:
            raise BenchError(
                f"output={choice.output} is in the run {location}; give a separate directory, as in "
                "output=results/joint"
            )
    return results, choice.output, choice.report


def _place(location: str) -> tuple[str, ...]:
    """Return the parts of a location, the same for each way of writing it."""
    if "://" in location:
        return tuple(part for part in location.split("/") if part not in ("", "."))
    return Path(location).expanduser().resolve().parts


@dataclass(config=STRICT)
class ConformChoice:
    """The settings of `tcd-bench conform`."""

    scheduler: dict[str, Any]
    """The scheduler's class as `_target_`, and the arguments of its constructor; `scheduler=…` chooses a file of
    conf/scheduler."""
    family: str | None = None
    """The diffusers class whose method the scheduler claims to implement; by default its own class or a base of it."""
    baseline: Source | None = None
    """JSON file of known deviations, which do not fail."""
    write: Source | None = None
    """Where to write a new baseline; the exit code is 0 then."""


def check_conform(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with which a scheduler can be examined; raises BenchError naming the fault."""
    choice = check_settings(ConformChoice, settings)
    check_conform_paths(choice.baseline, choice.write)
    return asdict(choice)


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
class EngineChoice:
    """A sampler that is not a Python class: a process that speaks the protocol, or a file of its latents."""

    command: list[str]
    """The program and its arguments, which are run as they are."""
    scheduler: str | None
    """Scheduler of conf/scheduler that the process should agree with; without one it only has to converge."""
    path: Literal["diffusion", "flow"]
    """The path from data to noise: `diffusion` with the schedule of Stable Diffusion, or `flow`."""
    eta: Eta | None
    """How stochastic the sampler is, which it is told, and so is the scheduler; null: neither is told."""
    steps: Annotated[list[Count], AnyNumber]
    """Step counts to run."""
    timeout_s: Seconds
    """How long the process may take for each answer."""
    latents: Source | None
    """File (.npz, .safetensors) of latents in place of a process."""
    baseline: Source | None
    """File of the latents that they are compared with."""


@dataclass(config=STRICT)
class GateChoice:
    """The settings of `tcd-bench gate`."""

    baseline: Source | None
    """Directory of a run or of an accepted baseline."""
    baselines: Source | None
    """Directory of accepted baselines in place of `baseline`: a folder for each GPU and precision, as `cpu-float32`, of
    which the candidate's is chosen."""
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
    engine: EngineChoice
    """A sampler of another engine."""
    output: Source
    """Directory of gate.md, gate.json, junit.xml and gate.html."""
    conformance: ConformanceChoice
    """Which schedulers are examined."""
    latents: Movement
    """How far latents may move at the last call, relative to their norm, beyond the rounding of their precision."""
    images: Movement
    """How far images may move."""
    quality: dict[MetricName, Limit]
    """How much worse each score may get, by any extractor; a loss counts when it exceeds both limits and chance."""
    cost: CostLimits
    """How much latency and memory may rise."""
    warn_only: bool
    """Exit with 0 where something got worse; what is missing or damaged still fails."""
    quarantine: dict[str, Day]
    """Quantities whose failures do not count, with the last day on which that holds, as `{fid@mini: 2027-01-31}`."""
    history: Source | None
    """File of JSON lines to which the outcomes are added, with pictures in a folder beside it; see `gate history`."""
    another: bool
    """Accept into `baselines` beside the present baseline, where a pool of machines has two kinds (`gate accept`)."""
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
    if gate.baseline is not None and gate.baselines is not None:
        raise BenchError("baseline and baselines were both given; give one directory, or the directory of several")
    if ((gate.baseline or gate.baselines) is None) != (gate.candidate is None):
        raise BenchError("baseline and candidate go together: give the directories of both runs")
    if gate.ref is not None and (gate.baseline or gate.baselines) is not None:
        raise BenchError("ref and baseline were both given; ref creates both sides, so give only one of them")
    if gate.candidate_ref is not None and gate.ref is None:
        raise BenchError("candidate_ref was given without ref; ref is the installation before the change")
    _check_engine(gate.engine)
    if not (gate.ref or gate.candidate or gate.engine.command or gate.engine.latents or gate.conformance.directory):
        raise BenchError(
            "nothing to compare was given; give baseline=DIRECTORY candidate=DIRECTORY, "
            "conformance.directory=results/conformance, or ref=INSTALLATION"
        )
    for name in ("baseline", "candidate"):
        directory = getattr(gate, name)
        if directory is not None and not (Path(directory) / "cells").is_dir():
            raise BenchError(f"{name}={directory} holds no run (no folder cells/ in it); give the directory of a run")
    if gate.baselines is not None and not Path(gate.baselines).is_dir():
        raise BenchError(
            f"baselines={gate.baselines} is not a directory; write one with gate accept baselines=DIRECTORY"
        )
    _check_limits(gate)
    return gate


def chosen_schedulers(only: Sequence[str], setting: str = "conformance.only") -> dict[str, Any]:
    """Return the settings in conf/scheduler by name, all or the named ones; raises BenchError for an unknown name."""
    files = {path.stem: path for conf in reversed(conf_directories()) for path in conf.glob("scheduler/*.yaml")}
    if unknown := [name for name in only if name not in files]:
        raise BenchError(f"{setting}={unknown[0]} was given; choose among {', '.join(sorted(files))}")
    schema = (ConformChoice,)
    return {name: read_config(files[name], f"scheduler/{name}", "scheduler", schema) for name in only or sorted(files)}


def check_acceptance(settings: Mapping[str, Any]) -> GateChoice:
    """Return the settings of `tcd-bench gate accept`: a directory of schedulers' baselines, or a run and its place.

    A run needs an author and a reason; baselines of schedulers are text, whose history says both.
    """
    gate = check_settings(GateChoice, settings)
    if gate.baseline and gate.baselines:
        raise BenchError("baseline and baselines were both given; give one directory, or the directory of several")
    if gate.another and not gate.baselines:
        raise BenchError("another=true was given without baselines; give the directory of the baselines")
    run = ("candidate", "baselines" if gate.baselines else "baseline", "author", "reason")
    if gate.conformance.directory and not any(getattr(gate, name) for name in run):
        return gate
    for name in run:
        if not getattr(gate, name):
            raise BenchError(
                f"{name} was not given; accept takes candidate=, baseline=, author= and reason=, or "
                "conformance.directory="
            )
    return gate


def check_history(settings: Mapping[str, Any]) -> tuple[Path, Path]:
    """Return the file and the directory of the page of `tcd-bench gate history`."""
    gate = check_settings(GateChoice, settings)
    if gate.history is None:
        raise BenchError("history was not given; name the file that tcd-bench gate history=FILE … wrote")
    return Path(gate.history), Path(gate.output)


def _check_engine(engine: EngineChoice) -> None:
    if engine.command and engine.latents:
        raise BenchError("engine.command and engine.latents were both given; give a process or a file")
    if (engine.latents is None) != (engine.baseline is None):
        raise BenchError("engine.latents and engine.baseline go together: give both files")
    for name in ("latents", "baseline"):
        if path := getattr(engine, name):
            check_path(f"engine.{name}={path}", Path(path), "file", "give an .npz or .safetensors file")
    if engine.command and not engine.steps:
        raise BenchError("engine.steps is empty; give step counts, as in 'engine.steps=[4,16,64]'")
    if engine.scheduler is not None:
        chosen_schedulers([engine.scheduler], "engine.scheduler")


def _check_limits(gate: GateChoice) -> None:
    limits = {f"quality.{name}": limit for name, limit in gate.limits().items()}
    limits |= {f"cost.{name}": limit for name, limit in fields_of(gate.cost).items()}
    for name, limit in {**limits, "latents": gate.latents, "images": gate.images}.items():
        for part, value in fields_of(limit).items():
            if value < 0:
                raise BenchError(f"{name}.{part}={value} was given; give a number of at least 0")
