"""What this machine has, what an experiment needs, what is missing and how to get it. Loads no model."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench.cell import Task
from bench.execute.assemble import find_real_images, find_source, prepare, resolve_device
from bench.execute.hub_notes import note_of
from bench.execute.judges import asked_judges, needed_by
from bench.execute.looking import make_inputs
from bench.experiment.config import Experiment
from bench.generate.inputs import name_inputs
from bench.generate.weights import local_path, name_weights
from bench.measure.environment import library_versions, nvidia_devices
from bench.records import BenchError

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `fine` is False for what stands in the experiment's way."""

    subject: str
    state: str
    fine: bool = True

    def __str__(self) -> str:
        return f"{'ok' if self.fine else 'MISSING':<8} {self.subject:<24} {self.state}"


def examine(experiment: Experiment) -> list[Finding]:
    """All findings, machine first."""
    return [*_machine(), *_libraries(), *_needs(experiment)]


def _machine() -> Iterator[Finding]:
    version = sys.version_info[:2]
    yield Finding("Python", platform.python_version(), (3, 11) <= version < (3, 14))
    yield Finding("processor", f"{os.cpu_count()} cores, {psutil.virtual_memory().available / GIB:.1f} GiB free memory")
    gpus = nvidia_devices()
    for gpu in gpus:
        yield Finding("GPU", f"{gpu['name']}, {gpu['memory_bytes'] / GIB:.0f} GiB, driver {gpu['driver']}")
    if not gpus:
        yield Finding("GPU", "none seen; the miniature runs on the processor")
        return
    import torch

    usable = torch.cuda.is_available()
    yield Finding(
        "PyTorch on the GPU",
        f"CUDA {torch.version.cuda}" if usable else "this build of torch cannot use the GPU; update the driver",
        usable,
    )


def _libraries() -> Iterator[Finding]:
    for name, version in library_versions().items():
        there = version != "missing"
        yield Finding(name, version if there else "not installed; run ./scripts/set-up", there)


def _needs(experiment: Experiment) -> Iterator[Finding]:
    yield _checked("device", lambda: resolve_device(experiment.device))
    models = {} if experiment.weights == "architecture" else experiment.models
    if not models:
        yield Finding("weights", "random ones, for costs alone; nothing to fetch")
    for name, model in models.items():
        found = find_source(model)
        yield _checked(f"model {name}", lambda found=found, model=model: _weights(found, model.revision))  # type: ignore[misc]
        for role, part in model.parts.items():
            yield _checked(
                f"{role} {name}",
                lambda part=part: _weights(part.source, part.revision),  # type: ignore[misc]
            )
        for adapter, choice in model.adapters.items():
            if any(adapter in method.adapter for method in experiment.methods.values()):
                yield _checked(
                    f"adapter {name} {adapter}",
                    lambda choice=choice: _weights(choice.source, choice.revision),  # type: ignore[misc]
                )
    if estimator := getattr(experiment.task, "estimator", None):
        yield _checked("depth estimator", lambda: _weights(estimator))
    if "background_lpips" in experiment.scores:
        from bench.score.features_of_tasks import lpips_weights

        yield _checked("LPIPS", lambda: str(lpips_weights()))
    for judge in asked_judges(experiment):
        yield _checked(
            judge,
            lambda judge=judge: ", ".join(f"{n.source} ({n.identity()})" for n in needed_by(experiment, judge)),  # type: ignore[misc]
        )
    if experiment.scores:
        yield _checked(f"evaluator {experiment.evaluator.name}", lambda: _weights(experiment.evaluator.source))
    yield _checked("reference images", lambda: _reference(experiment))
    if hasattr(experiment.task, "inputs"):
        yield _checked("task inputs", lambda: _inputs(experiment))
    yield _checked("prompts and plan", lambda: f"{len(prepare(experiment).plan.cells)} cells")
    yield _disk(Path(experiment.results))


def _reference(experiment: Experiment) -> str:
    """Which real images there are, all of which were decoded."""
    if find_real_images(experiment) is None:
        return "none are needed"
    return f"{experiment.reference.count} of {experiment.reference.source}"


def _inputs(experiment: Experiment) -> str:
    """Which input images there are, all of which were decoded."""
    task = experiment.task
    inputs = make_inputs(experiment, Task(task.kind, asdict(task)), "cpu")
    name_inputs(inputs, None)
    return f"{inputs.count} of {inputs.source}"


def _weights(source: str, revision: str | None = None) -> str:
    """Where the weights lie, how large they are, and what they are named by."""
    path = local_path(source)
    try:
        identity = name_weights(source, revision)
    except BenchError as error:
        if path is not None:
            raise
        note = note_of(source)
        command = f"hf download {source} {note.only}".rstrip() + (f" --revision {revision}" if revision else "")
        raise BenchError(f"{source} is not in the local hub cache ({note}); fetch it: {command}") from error
    if path is None:
        return f"{source} at {identity[:12]}"
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return f"{source}, {size / 2**20:.1f} MiB, {identity}"


def _checked(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, look())
    except BenchError as error:
        return Finding(subject, str(error), fine=False)


def _disk(results: Path) -> Finding:
    place = next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK):
        return Finding("results", f"{place} cannot be written; choose another with results=…", fine=False)
    return Finding("results", f"{results}, {shutil.disk_usage(place).free / GIB:.1f} GiB free")
