"""The doctor: resources of this machine, needs of an experiment, missing parts and their remedies. Loads no model."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench.checkpoints.hub_notes import note_of
from bench.checkpoints.inspect import Found, inspect
from bench.checkpoints.required import Required, is_random, required
from bench.checkpoints.sources import NotFetchedError, local_path
from bench.checkpoints.survey import settle_models, survey_checkpoints
from bench.execute.feature_extraction import make_inputs, prompts_of
from bench.execute.job import find_real_images, prepare, resolve_device, resolve_sources
from bench.experiment.config import Experiment
from bench.generate.task_inputs import name_inputs
from bench.measure.environment import library_versions, nvidia_devices
from bench.records.cell import Task
from bench.records.errors import BenchError
from bench.records.reference import reference_in_words

GIB = 2**30


@dataclass
class _Finding:
    """One line of the examination; `fine` is False for what prevents the experiment."""

    subject: str
    state: str = ""
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
    with _checking("device") as found:
        found.state = resolve_device(experiment.device)
    yield found
    experiment = resolve_sources(experiment)
    if experiment.weights == "random":
        yield _Finding("weights", "random ones, for costs alone; nothing to fetch")
    fine = True
    for entry in required(experiment):
        if not is_random(entry):
            with _checking(entry.subject) as found:
                found.state = _state(entry)
            fine = fine and found.fine
            yield found
    with _checking("settings") as found:
        settle_models(experiment, survey_checkpoints(experiment))
        found.state = "fit the weights"
    yield found
    with _checking("reference images") as found:  # decodes all of them
        is_needed = find_real_images(experiment) is not None
        found.state = reference_in_words(asdict(experiment.reference)) if is_needed else "none are needed"
    yield found
    if fine and hasattr(experiment.task, "inputs"):
        with _checking("task inputs") as found:
            found.state = _inputs(settle_models(experiment, survey_checkpoints(experiment)).experiment)
        yield found
    if fine:
        with _checking("prompts and plan") as found:
            found.state = f"{len(prepare(experiment).plan.cells)} cells"
        yield found
    yield _disk(Path(experiment.results))


@contextmanager
def _checking(subject: str) -> Iterator[_Finding]:
    """Yield a finding to be completed; what is refused within the block makes it one that is not fine."""
    finding = _Finding(subject)
    try:
        yield finding
    except BenchError as error:
        finding.state, finding.fine = str(error), False


def _inputs(experiment: Experiment) -> str:
    """Decode all input images; returns how many there are, and where."""
    task, rows = experiment.task, prompts_of(experiment, experiment.prompts.count).rows
    inputs = make_inputs(experiment, Task(task.kind, asdict(task)), "cpu", rows)
    name_inputs(inputs, None)
    return f"{inputs.count} of {inputs.source}"


def _state(entry: Required) -> str:
    """Return where the weights are, their size, and what names them."""
    try:
        found: Found = inspect(entry)
    except NotFetchedError as error:
        if entry.manifest is not None or local_path(entry.source) is not None:
            raise
        raise BenchError(f"{error} ({note_of(entry.source)})") from error
    if local_path(entry.source) is None and entry.manifest is None:
        return f"{entry.source} at {found.identity[:12]}"
    return f"{entry.source}, {found.size / 2**20:.1f} MiB, {found.identity}"


def _disk(results: Path) -> _Finding:
    folder = next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())
    if not os.access(folder, os.W_OK):
        return _Finding("results", f"{folder} cannot be written; choose another with results=…", fine=False)
    return _Finding("results", f"{results}, {shutil.disk_usage(folder).free / GIB:.1f} GiB free")
