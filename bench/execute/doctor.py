"""What this machine has, what an experiment needs, what is missing and how to get it. Loads no model."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from bench.checkpoints.hub_notes import note_of
from bench.checkpoints.inspect import Found, inspect
from bench.checkpoints.required import Required, is_random, required
from bench.checkpoints.sources import NotFetchedError, local_path
from bench.checkpoints.survey import settle_models, survey_checkpoints
from bench.execute.feature_extraction import make_inputs, prompts_of
from bench.execute.job import find_real_images, prepare, resolve_device, resolve_source
from bench.experiment.config import Experiment
from bench.generate.task_inputs import name_inputs
from bench.measure.environment import library_versions, nvidia_devices
from bench.records.cell import Task
from bench.records.errors import BenchError

GIB = 2**30


@dataclass(frozen=True)
class _Finding:
    """One line of the examination; `fine` is False for what stands in the experiment's way."""

    subject: str
    state: str
    fine: bool = True

    def __str__(self) -> str:
        return f"{'ok' if self.fine else 'MISSING':<8} {self.subject:<24} {self.state}"


def examine(experiment: Experiment) -> list[_Finding]:
    """All findings, machine first."""
    return [*_machine(), *_libraries(), *_needs(experiment)]


def _machine() -> Iterator[_Finding]:
    version = sys.version_info[:2]
    yield _Finding("Python", platform.python_version(), (3, 11) <= version < (3, 14))
    yield _Finding(
        "processor", f"{os.cpu_count()} cores, {psutil.virtual_memory().available / GIB:.1f} GiB free memory"
    )
    gpus = nvidia_devices()
    for gpu in gpus:
        yield _Finding("GPU", f"{gpu['name']}, {gpu['memory_bytes'] / GIB:.0f} GiB, driver {gpu['driver']}")
    if not gpus:
        yield _Finding("GPU", "none seen; the miniature runs on the processor")
        return
    import torch

    usable = torch.cuda.is_available()
    yield _Finding(
        "PyTorch on the GPU",
        f"CUDA {torch.version.cuda}" if usable else "this build of torch cannot use the GPU; update the driver",
        usable,
    )


def _libraries() -> Iterator[_Finding]:
    for name, version in library_versions().items():
        there = version != "missing"
        yield _Finding(name, version if there else "not installed; run ./scripts/set-up", there)


def _needs(experiment: Experiment) -> Iterator[_Finding]:
    yield _checked("device", lambda: resolve_device(experiment.device))
    models = {name: resolve_source(name, model, experiment.weights) for name, model in experiment.models.items()}
    experiment = replace(experiment, models=models)
    if experiment.weights == "random":
        yield _Finding("weights", "random ones, for costs alone; nothing to fetch")
    fine = True
    for entry in required(experiment):
        if not is_random(entry):
            finding = _checked(entry.subject, lambda entry=entry: _state(entry))  # type: ignore[misc]
            fine = fine and finding.fine
            yield finding
    yield _checked("settings", lambda: _settings(experiment))
    yield _checked("reference images", lambda: _reference(experiment))
    if fine and hasattr(experiment.task, "inputs"):
        yield _checked(
            "task inputs", lambda: _inputs(settle_models(experiment, survey_checkpoints(experiment)).experiment)
        )
    if fine:
        yield _checked("prompts and plan", lambda: f"{len(prepare(experiment).plan.cells)} cells")
    yield _disk(Path(experiment.results))


def _reference(experiment: Experiment) -> str:
    """Which real images there are, all of which were decoded."""
    if find_real_images(experiment) is None:
        return "none are needed"
    return f"{experiment.reference.count} of {experiment.reference.source}"


def _inputs(experiment: Experiment) -> str:
    """Which input images there are, all of which were decoded."""
    task, rows = experiment.task, prompts_of(experiment, experiment.prompts.count).rows
    inputs = make_inputs(experiment, Task(task.kind, asdict(task)), "cpu", rows)
    name_inputs(inputs, None)
    return f"{inputs.count} of {inputs.source}"


def _settings(experiment: Experiment) -> str:
    settle_models(experiment, survey_checkpoints(experiment))
    return "fit the weights"


def _state(entry: Required) -> str:
    """Where the weights lie, how large they are, and what they are named by."""
    try:
        found: Found = inspect(entry)
    except NotFetchedError as error:
        if entry.manifest is not None or local_path(entry.source) is not None:
            raise
        raise BenchError(f"{error} ({note_of(entry.source)})") from error
    if local_path(entry.source) is None and entry.manifest is None:
        return f"{entry.source} at {found.identity[:12]}"
    return f"{entry.source}, {found.size / 2**20:.1f} MiB, {found.identity}"


def _checked(subject: str, look: Callable[[], str]) -> _Finding:
    try:
        return _Finding(subject, look())
    except BenchError as error:
        return _Finding(subject, str(error), fine=False)


def _disk(results: Path) -> _Finding:
    place = next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK):
        return _Finding("results", f"{place} cannot be written; choose another with results=…", fine=False)
    return _Finding("results", f"{results}, {shutil.disk_usage(place).free / GIB:.1f} GiB free")
