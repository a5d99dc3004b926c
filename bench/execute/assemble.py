"""From an experiment to everything that running it needs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.experiment.config import Experiment
from bench.experiment.plan import Plan, Surroundings, plan_experiment
from bench.generate.prompts import Prompts, load_prompts
from bench.generate.weights import local_path, name_weights
from bench.measure.environment import library_versions, nvidia_devices
from bench.mini import world
from bench.records import BenchError, Record
from bench.store import Store


@dataclass(frozen=True)
class Job:
    """A planned experiment with its prompts; no torch was needed to make it."""

    experiment: Experiment
    prompts: Prompts
    plan: Plan


def prepare(experiment: Experiment) -> Job:
    """Plan an experiment: read its prompts, name its weights, resolve its device. Loads no model."""
    prompts = load_prompts(experiment.prompts.source, experiment.prompts.count)
    if "attribute_accuracy" in experiment.scores and prompts.scenes is None:
        raise BenchError(
            "scores: attribute_accuracy needs prompts whose truth is known; use prompts.source=world, or leave it out"
        )
    weights = {}
    for model in experiment.models.values():
        weights[model.source] = name_weights(model.source, model.revision)
        wanted = {method.adapter for method in experiment.methods.values()}
        for name, adapter in model.adapters.items():
            if name in wanted:
                weights[adapter.source] = name_weights(adapter.source)
    surroundings = Surroundings(resolve_device(experiment.device), library_versions(), weights, prompts.identity)
    return Job(experiment, prompts, plan_experiment(experiment, surroundings))


def resolve_device(wanted: str) -> str:
    """`auto` is CUDA where a GPU is seen, else the CPU."""
    if wanted == "auto":
        return "cuda" if nvidia_devices() else "cpu"
    if wanted.partition(":")[0] not in ("cpu", "cuda"):
        raise BenchError(f"device={wanted} was given; choose auto, cpu, cuda or cuda:<index>")
    if wanted.startswith("cuda") and not nvidia_devices():
        raise BenchError(f"device={wanted} was asked for, but no NVIDIA GPU is seen; use device=cpu or device=auto")
    return wanted


def execute(job: Job, store: Store) -> list[Record]:
    """Run the cells that have no good record yet and return the records of all of them, in the plan's order."""
    cells = job.plan.cells
    done = {cell.key for cell in cells if (record := store.record(cell.key)) and record.status == "ok"}
    todo = [cell for cell in cells if cell.key not in done]
    if todo:
        _run(job, store, todo, len(done))
    return [record for cell in cells if (record := store.record(cell.key))]


def _run(job: Job, store: Store, todo: list, done: int) -> None:  # type: ignore[type-arg]
    from bench.execute.local import run_locally
    from bench.execute.runner import Runner
    from bench.score.features import encode_captions, load_evaluator

    experiment, device = job.experiment, job.plan.cells[0].device
    directory = local_path(experiment.evaluator)
    if directory is None:
        raise BenchError(f"evaluator={experiment.evaluator}: give the directory of an OpenCLIP model")
    evaluator = load_evaluator(directory.name, directory, device)
    truths = job.prompts.scenes
    counterfactuals = None if truths is None else [tuple(world.counterfactuals(scene)) for scene in truths]
    captions = encode_captions(evaluator, job.prompts.texts, counterfactuals)
    _save_reference(store, evaluator, experiment)
    total = len(job.plan.cells)
    with tqdm(
        total=len(todo) * len(job.prompts.texts), unit="image", disable=not sys.stderr.isatty(), smoothing=0.1
    ) as bar:
        runner = Runner(
            store, job.prompts.texts, evaluator, captions, experiment.measure, experiment.keep, lambda n: bar.update(n)
        )
        for i, record in enumerate(run_locally(runner, todo), done + 1):
            bar.set_description(f"{i}/{total} cells")
            if record.failure:
                tqdm.write(f"failed: {record.cell.label}: {record.failure.message}", file=sys.stderr)
            elif bar.disable:
                print(f"[{i}/{total}] {record.cell.label}: {record.sampling_s:.1f} s", file=sys.stderr)


def _save_reference(store: Store, evaluator: object, experiment: Experiment) -> None:
    path = store.directory / "reference.npz"
    if path.exists():
        return
    seeds = world.split_seeds("reference", experiment.reference.count)
    rows = []
    for i in range(0, len(seeds), 128):
        images = np.stack([world.render(world.scene(seed)) for seed in seeds[i : i + 128]])
        rows.append(evaluator.image_features(images))  # type: ignore[attr-defined]
    np.savez(path, image=np.concatenate(rows))


__all__ = ["Job", "Path", "execute", "prepare", "resolve_device"]
