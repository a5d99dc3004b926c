"""From an experiment to everything that running it needs, and the run itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from bench.cell import Cell, content_hash
from bench.execute.allocator import keep_freed_memory
from bench.execute.looking import Look, look_away, make_evaluator, make_inputs, make_look, name_task_inputs
from bench.experiment.config import Experiment, Model
from bench.experiment.plan import Plan, Surroundings, plan_experiment
from bench.experiment.tasks import TASK_SCORES
from bench.generate.prompts import Prompts, load_prompts
from bench.generate.real_images import load_real_images, name_real_images
from bench.generate.weights import ARCHITECTURE, LORA, is_at_hand, name_weights
from bench.measure.environment import library_versions, nvidia_devices
from bench.records import BenchError, Record
from bench.request import Run
from bench.score.metrics import METRICS
from bench.store import Store

if TYPE_CHECKING:
    from bench.score.features import Evaluator

IMAGE_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy")


@dataclass(frozen=True)
class Job:
    """A planned experiment; nothing was loaded to make it."""

    experiment: Experiment
    prompts: Prompts
    plan: Plan
    run: Run


def prepare(experiment: Experiment, looks: tuple[float, ...] = (1.0,)) -> Job:
    """Plan an experiment: read its prompts, name its weights, try its schedulers, resolve its device.

    Raises BenchError for whatever cannot run; loads no model.
    """
    models = {name: _resolve(name, model, experiment.weights) for name, model in experiment.models.items()}
    experiment = replace(experiment, models=models)
    asked = experiment.prompts
    prompts = load_prompts(asked.source, asked.count, asked.template, asked.column)
    if "attribute_accuracy" in experiment.scores and prompts.scenes is None:
        raise BenchError(
            "scores: attribute_accuracy needs prompts whose truth is known; use prompts.source=world, or leave it out"
        )
    device = resolve_device(experiment.device)
    weights = _name_all_weights(experiment)
    extractor = _name_extractor(experiment)
    versions = {name: version for name, version in library_versions().items() if name in IMAGE_LIBRARIES}
    plan = plan_experiment(
        experiment, Surroundings(device, versions, weights, prompts.identity, name_task_inputs(experiment))
    )
    _try_schedulers(plan.cells)
    if not plan.cells:
        reasons = "; ".join(f"{entry.label}: {entry.reason}" for entry in plan.left_out)
        raise BenchError(f"no cell is left to run ({reasons})")
    run = Run(
        name=experiment.name,
        settings=asdict(experiment),
        cells=tuple(cell.key for cell in plan.cells),
        left_out=tuple((entry.label, entry.reason) for entry in plan.left_out),
        prompts=prompts.texts,
        labels={name: method.label for name, method in experiment.methods.items()},
        metrics=tuple(experiment.scores),
        claims=tuple(claim.to_claim(name) for name, claim in experiment.claims.items()),
        evaluator=experiment.evaluator.name,
        extractor=extractor,
        reference=_name_reference(experiment, extractor),
        looks=looks,
    )
    return Job(experiment, prompts, plan, run)


def open_store(job: Job) -> Store:
    """The run's directory, with what is asked for written into it; raises BenchError where it cannot be written."""
    store = Store(Path(job.experiment.results))
    store.save_run(job.run)
    return store


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
    """Do what the store lacks and return a record for every cell, in the plan's order."""
    from bench.execute.runner import is_complete

    measure, extractor = job.experiment.measure, job.run.extractor
    todo = [cell for cell in job.plan.cells if not is_complete(store, cell.key, extractor, measure)]
    done = len(job.plan.cells) - len(todo)
    if done:
        print(f"{done} of {len(job.plan.cells)} cells are done already", file=sys.stderr)
    fresh = {record.key: record for record in _run_cells(job, store, todo)} if todo else {}
    records = [fresh.get(cell.key) or store.record(cell.key) for cell in job.plan.cells]
    found = [record for record in records if record is not None]
    store.write_text("records.jsonl", "".join(record.to_json() + "\n" for record in found))
    return found


def _run_cells(job: Job, store: Store, todo: list[Cell]) -> list[Record]:
    kept = keep_freed_memory()
    from bench.execute.local import run_locally
    from bench.execute.runner import Runner

    experiment, texts = job.experiment, job.prompts.texts
    inputs = make_inputs(experiment, todo[0].task, todo[0].device)
    look: Look = look_away
    if experiment.scores:
        evaluator = make_evaluator(experiment, todo[0].device)
        look = make_look(experiment, job.prompts, evaluator, inputs)
        _make_reference(job, store, evaluator)
    records = []
    with tqdm(total=len(todo) * len(texts), unit=" images", disable=not sys.stderr.isatty(), smoothing=0.05) as bar:
        runner = Runner(
            store=store,
            prompts=texts,
            look=look,
            extractor=job.run.extractor,
            measure=experiment.measure,
            inputs=inputs,
            keep=experiment.keep,
            lanes=experiment.lanes if todo[0].device == "cpu" else 1,
            advance=bar.update,
            process={"freed_memory_kept": kept},
        )
        bar.set_description(f"cell 1/{len(todo)}")
        for i, record in enumerate(run_locally(runner, todo), 1):
            records.append(record)
            bar.set_description(f"cell {min(i + 1, len(todo))}/{len(todo)}")
            _announce(record, i, len(todo), quiet=not bar.disable)
    return records


def _announce(record: Record, number: int, total: int, quiet: bool) -> None:
    if record.failure:
        tqdm.write(f"failed: {record.cell.label}: {record.failure.message}", file=sys.stderr)
    elif not quiet:
        print(f"[{number}/{total}] {record.cell.label}: {record.sampling_s:.1f} s", file=sys.stderr, flush=True)


def _name_extractor(experiment: Experiment) -> str:
    """What computes the features, by content: the evaluator, and what a task's own scores depend on."""
    if not experiment.scores:
        return "none"
    identity: list[object] = [experiment.evaluator.name, name_weights(experiment.evaluator.source)]
    if own := sorted(set(experiment.scores) & TASK_SCORES):
        identity += [own, getattr(experiment.task, "style", None)]
    return content_hash(identity)


def _name_reference(experiment: Experiment, extractor: str) -> str | None:
    if not any(METRICS[score].needs_reference for score in experiment.scores):
        return None
    return content_hash([extractor, name_real_images(experiment.reference.source, experiment.reference.count)])


def _make_reference(job: Job, store: Store, evaluator: Evaluator) -> None:
    if job.run.reference is None or store.load_reference(job.run.reference) is not None:
        return
    source, count = job.experiment.reference.source, job.experiment.reference.count
    features = [evaluator.image_features(images) for images in load_real_images(source, count)]
    store.save_reference(job.run.reference, np.concatenate(features))


def find_source(model: Model) -> str:
    """Where a base model's weights are: its source, or the first mirror that is at hand where the source is not."""
    for source in (model.source, *model.mirrors):
        try:
            name_weights(source, model.revision if source == model.source else None)
        except BenchError:
            continue
        return source
    return model.source


def _resolve(name: str, model: Model, weights: str) -> Model:
    """The model at the source where it was found; a mirror is said aloud, and stands in the record.

    With weights=architecture it has random weights, as have its adapters.
    """
    if weights == "architecture":
        adapters = {key: replace(a, source=LORA, revision=None) for key, a in model.adapters.items()}
        source = f"{ARCHITECTURE}{model.architecture}"
        return replace(model, source=source, revision=None, variant=None, adapters=adapters)
    found = find_source(model)
    if found == model.source:
        return model
    print(f"models.{name}: {model.source} is not at hand; its mirror {found} is used", file=sys.stderr)
    return replace(model, source=found, revision=None)


def _name_all_weights(experiment: Experiment) -> Mapping[str, str]:
    weights = {}
    wanted = {name for method in experiment.methods.values() for name in method.adapter}
    for name, model in experiment.models.items():
        chosen = {f"models.{name}.adapters.{a}": choice for a, choice in model.adapters.items() if a in wanted}
        for place, source, revision in (
            (f"models.{name}", model.source, model.revision),
            *((f"models.{name}.parts.{role}", part.source, part.revision) for role, part in model.parts.items()),
            *((place, choice.source, choice.revision) for place, choice in chosen.items()),
        ):
            weights[source] = name_weights(source, revision)
            if experiment.strict and not is_at_hand(source) and revision != weights[source]:
                raise BenchError(
                    f"{place}.revision={revision} was given and strict=true wants a commit; {source} is at hand as "
                    f"{weights[source]}, so set {place}.revision to it, or strict=false"
                )
    return weights


def _try_schedulers(cells: tuple[Cell, ...]) -> None:
    """Make each scheduler once and set its timesteps, so that wrong settings are refused before anything is loaded."""
    from bench.generate.schedulers import try_scheduler

    for label, scheduler, steps, eta in {
        content_hash([asdict(cell.scheduler), cell.steps, cell.eta is None]): (
            cell.method,
            cell.scheduler,
            cell.steps,
            cell.eta,
        )
        for cell in cells
    }.values():
        try:
            try_scheduler(scheduler, steps, eta)
        except BenchError as error:
            raise BenchError(f"methods.{label}: {error}") from error
