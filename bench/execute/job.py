"""A job: an experiment with everything that running it needs."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.checkpoints.extractors import describe_preparation
from bench.checkpoints.own_code import hash_own
from bench.checkpoints.sources import ARCHITECTURE, LORA, weights_directory
from bench.checkpoints.survey import NOT_FETCHED, CheckpointSurvey, settle_models, survey_checkpoints
from bench.execute.feature_extraction import (
    FeatureSets,
    load_extractors,
    make_feature_sets,
    make_inputs,
    name_features,
    name_task_inputs,
    prompts_of,
)
from bench.execute.malloc import keep_freed_memory
from bench.execute.reference_statistics import check_extractor, check_statistics, save_statistics
from bench.experiment.config import Experiment, Model, check_experiment
from bench.experiment.plan import Plan, Surroundings, plan_experiment
from bench.experiment.tasks import task_problems
from bench.experiment.value_types import OF_WORLD
from bench.gc_pause import collector_paused
from bench.generate.image_files import READER
from bench.generate.prompts import Prompts
from bench.generate.reference_images import (
    check_real_images,
    load_real_images,
    name_real_images,
    real_image_files,
    shrunk,
)
from bench.measure.environment import cuda_devices, library_versions
from bench.pictures import save_pictures
from bench.records.cell import Cell, content_hash
from bench.records.errors import BenchError
from bench.records.reference import LOOKS, is_statistics
from bench.records.run import Run
from bench.records.score import split_score
from bench.redact import settings_without_secrets, without_secrets
from bench.score.metrics import metric_of
from bench.store.store import Store
from bench.workers.launch import Launch
from bench.workers.loop import WorkerContext

if TYPE_CHECKING:
    from bench.execute.cell_runner import Runner
    from bench.features.extractor import Extractor

_SHOWN = 6
"""The number of reference images kept for the report."""
IMAGE_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy")


@dataclass(frozen=True)
class Job:
    """A planned experiment; nothing was loaded to make it."""

    experiment: Experiment
    prompts: Prompts
    plan: Plan
    run: Run
    absent: tuple[str, ...] = ()
    """Weights that are not fetched yet, described; the cells' identities are then provisional."""
    evaluations: Mapping[str, int] = field(default_factory=dict)
    """Denoiser evaluations that an image of each cell takes, by the cell's key, once its scheduler was tried."""


@collector_paused()
def prepare(experiment: Experiment, looks: tuple[float, ...] = (1.0,), decode: bool = True) -> Job:
    """Plan an experiment and try its schedulers; raises BenchError for what cannot run.

    Loads the libraries that running it takes, but no model. `decode` is that of `plan_job`.
    """
    job = plan_job(experiment, looks, decode)
    job = replace(job, evaluations=try_schedulers(job.plan.cells))
    scored = experiment.scores and experiment.extractors
    for module in ("bench.execute.cell_runner", *(["bench.features.openclip"] if scored else [])):
        import_module(module)
    return job


def plan_job(
    experiment: Experiment, looks: tuple[float, ...] = (1.0,), decode: bool = True, weights_needed: bool = True
) -> Job:
    """Plan an experiment: read its prompts, inspect its weights, resolve its device. Raises and loads as `prepare`.

    The schedulers' settings are not tried yet. `decode` reads every reference image to see that it can be read; a
    worker need not do that again. With `weights_needed` false weights that can still be fetched may be absent.
    """
    experiment = resolve_sources(experiment)
    real_images, prompts, device, seen = _look(experiment, decode, weights_needed)
    unknown = [short for score in experiment.scores if (short := split_score(score)[0]) in OF_WORLD]
    if prompts.scenes is None and unknown:
        raise BenchError(
            f"scores: {unknown[0]} needs prompts whose truth is known; use prompts.source=world, or leave it out"
        )
    settled = settle_models(experiment, seen)
    experiment = settled.experiment
    for line in settled.told:
        print(line, file=sys.stderr)
    if problems := list(task_problems(experiment.task, {**experiment.models}, [*experiment.scores])):
        raise BenchError("; ".join(problems))
    whole = not seen.faults
    features = name_features(experiment) if whole else dict.fromkeys(experiment.extractors, NOT_FETCHED)
    inputs = name_task_inputs(experiment, prompts.rows) if whole else NOT_FETCHED
    targets = {str(method.scheduler["_target_"]) for method in experiment.methods.values()}
    code = {target: digest for target in targets if (digest := hash_own(target)) is not None}
    surroundings = Surroundings(
        device, _versions(), settled.weights, prompts.identity, inputs, settled.overridden, code
    )
    plan = plan_experiment(experiment, surroundings)
    if not plan.cells:
        reasons = "; ".join(f"{entry.label}: {entry.reason}" for entry in plan.left_out)
        raise BenchError(f"no cell is left to run ({reasons})")
    run = Run(
        name=experiment.name,
        settings=settings_without_secrets(asdict(experiment)),
        cells=tuple(cell.key for cell in plan.cells),
        left_out=tuple((entry.label, entry.reason) for entry in plan.left_out),
        prompts=prompts.texts,
        labels={name: without_secrets(method.label) for name, method in experiment.methods.items()},
        metrics=tuple(experiment.scores),
        claims=tuple(
            replace(
                claim := choice.to_claim(name),
                text=without_secrets(claim.text),
                source=without_secrets(claim.source),
                published=without_secrets(claim.published),
            )
            for name, choice in experiment.claims.items()
        ),
        features=features,
        real_images=real_images,
        references=name_references(experiment, features, real_images) if whole else {},
        protocols=describe_protocols(experiment) if whole else {},
        looks=looks,
    )
    return Job(experiment, prompts, plan, run, tuple(seen.absent()))


def _look(
    experiment: Experiment, decode: bool, weights_needed: bool
) -> tuple[str | None, Prompts, str, CheckpointSurvey]:
    """Return the name of real images, prompts, device and weights; raises BenchError that names all that is missing."""
    problems: list[str] = []
    real_images = prompts = device = None
    with _noting(problems):
        real_images = find_real_images(experiment, decode)
    with _noting(problems):
        prompts = prompts_of(experiment, experiment.prompts.count)
    with _noting(problems):
        device = resolve_device(experiment.device, experiment.executor.kind == "local")
    seen = survey_checkpoints(experiment)
    with _noting(problems):
        seen.check(tolerate_absent=not weights_needed)
    if problems or prompts is None or device is None:
        raise BenchError("; ".join(problems))
    return real_images, prompts, device, seen


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Note the message of a BenchError, which ends the block."""
    try:
        yield
    except BenchError as error:
        problems.append(str(error))


def _versions() -> Mapping[str, str]:
    return {name: version for name, version in library_versions().items() if name in IMAGE_LIBRARIES}


def resolve_device(wanted: str, here: bool = True) -> str:
    """`auto` is CUDA where torch can use a GPU, else the CPU; `here` says whether it must be on this machine."""
    if wanted == "auto":
        return "cuda" if cuda_devices() else "cpu"
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", wanted)
    if found is None:
        raise BenchError(f"device={wanted} was given; choose auto, cpu, cuda or cuda:<index>")
    if here and wanted != "cpu" and (count := cuda_devices()) <= int(found[1] or 0):
        seen = f"{count} GPUs, numbered from 0" if count else "no GPU (see tcd-bench doctor)"
        raise BenchError(f"device={wanted} was given, but torch can use {seen}; use device=cpu or device=auto")
    return wanted


def resolve_concurrent_batches(wanted: int | Literal["auto"], device: str, graphs: bool = False) -> int:
    """Return how many batches run at once; `auto` is 1 on a CPU, and 4 on a GPU, which one of them uses at a time.

    With CUDA graphs it is 1: another thread would record its own.
    """
    return wanted if wanted != "auto" else 1 if device == "cpu" or graphs else 4


def load_job(launch: Launch) -> Job:
    """Return the job of a launch as planned on this machine; raises BenchError where its cells differ here.

    Weights, prompts and library versions name a cell, so a worker whose installation differs cannot take part.
    """
    job = prepare(check_experiment({**launch.settings}), launch.looks, decode=False)
    if differing := set(launch.cells) - set(job.run.cells):
        raise BenchError(
            f"{len(differing)} of {len(launch.cells)} cells of this launch differ on {platform.node()}: its models or "
            "library versions are not the same; give all machines the same models and the same versions of "
            f"{', '.join(IMAGE_LIBRARIES)} (here: {', '.join(f'{k} {v}' for k, v in sorted(_versions().items()))})"
        )
    return job


def make_runner_for(launch: Launch, store: Store, context: WorkerContext) -> tuple[Runner, list[Cell]]:
    """Return the runner of a launch's cells, and the cells; the store has the reference's features then."""
    return make_runner(load_job(launch), launch, store, context)


def make_runner(job: Job, launch: Launch, store: Store, context: WorkerContext) -> tuple[Runner, list[Cell]]:
    """As `make_runner_for`, where the job is available."""
    kept = keep_freed_memory()
    from bench.execute.cell_runner import DeviceQueue, Runner

    experiment = job.experiment
    planned = {cell.key: cell for cell in job.plan.cells}
    cells = [planned[key] for key in launch.cells]
    device = cells[0].device
    inputs = make_inputs(experiment, cells[0].task, device, job.prompts.rows)
    features = FeatureSets({})
    if experiment.scores:
        extractors = load_extractors(experiment, device)
        features = make_feature_sets(experiment, job.prompts, extractors, inputs, job.run.features, device)
        make_references(experiment, job.run, store, extractors)

    graphs = any(cell.base.records_graphs for cell in cells)
    runner = Runner(
        store=store,
        prompts=job.prompts.texts,
        features=features,
        measure=experiment.measure,
        inputs=inputs,
        keep=experiment.keep,
        keep_latents=experiment.keep_latents,
        queue=DeviceQueue(
            resolve_concurrent_batches(experiment.concurrent_batches, device, graphs), one_samples=device != "cpu"
        ),
        context=context,
        process={"freed_memory_kept": kept, "launch": launch.name},
        name_first_inputs=cache(partial(name_first_inputs, job)),
        chunk_images=experiment.executor.chunk_images,
    )
    return runner, cells


def name_first_inputs(job: Job, images: int) -> str | None:
    """Return what names the task's inputs in a run of so many first images of this one."""
    prompts = job.experiment.prompts
    fewer = replace(prompts, count=images // prompts.images_per_prompt)
    return name_task_inputs(replace(job.experiment, prompts=fewer), job.prompts.rows[: fewer.count])


def find_real_images(experiment: Experiment, decode: bool = True) -> str | None:
    """Return the name of the real images; None where no score needs them. Raises BenchError for unusable ones."""
    if not any(metric_of(score).needs_reference for score in experiment.scores):
        return None
    source, count = experiment.reference.source, experiment.reference.count
    name = name_real_images(source, count)
    if is_statistics(source):
        check_statistics(experiment)
    elif decode:
        check_real_images(source, count, name)
    return name


def name_references(experiment: Experiment, features: Mapping[str, str], real_images: str | None) -> Mapping[str, str]:
    """Return the identity of the real images' features, by the extractors of scores that need them."""
    metrics = [metric_of(score) for score in experiment.scores]
    needed = dict.fromkeys(metric.extractor for metric in metrics if metric.needs_reference)
    if needed and is_statistics(experiment.reference.source):
        check_extractor(experiment, features, [*needed])
    return {name: content_hash([features[name], real_images]) for name in needed}


def describe_protocols(experiment: Experiment) -> Mapping[str, Mapping[str, str]]:
    """Return, by extractor, how images are prepared, and how a folder's real images are read."""
    if not experiment.scores:
        return {}
    source = experiment.reference.source
    pictures = {} if source in LOOKS or is_statistics(source) else {"pictures": READER}
    return {name: {**describe_preparation(name, own), **pictures} for name, own in experiment.extractors.items()}


def restore_references(job: Job, store: Store) -> None:
    """Compute the features of a finished run's reference images again where they are missing."""
    if any(not store.has_reference(reference) for reference in job.run.references.values()):
        extractors = load_extractors(job.experiment, job.plan.cells[0].device)
        make_references(job.experiment, job.run, store, extractors)


def has_whole_reference(store: Store, reference: str) -> bool:
    """Whether nothing is left to compute of the reference; damaged features are quarantined."""
    return store.unless_damaged(partial(store.load_reference, reference)) is not None


def make_references(experiment: Experiment, run: Run, store: Store, extractors: Mapping[str, Extractor]) -> None:
    """Write the reference images' features that are needed and missing into the store; the images are read once."""
    lacking = {name: identity for name, identity in run.references.items() if not has_whole_reference(store, identity)}
    if not lacking:
        return
    source, count = experiment.reference.source, experiment.reference.count
    if is_statistics(source):
        save_statistics(experiment, store, lacking, extractors)
        return
    features: dict[str, list[NDArray[np.float32]]] = {name: [] for name in lacking}
    sizes, first = set(), list[NDArray[np.uint8]]()
    for images in load_real_images(source, count):
        first += [*images[: _SHOWN - len(first)]]
        shared: dict[str, Any] = {}
        for name, rows in features.items():
            rows.append(extractors[name].image_features(images, shared))
        sizes.add(images.shape[1:3])
    own = {(model.height, model.width) for model in experiment.models.values()}
    if others := sorted(sizes - own):
        seen, wanted = (" or ".join(f"{h}×{w}" for h, w in some) for some in (others[:2], sorted(own)))
        print(
            f"reference.source={source} holds images of {seen} pixels{' and more' if len(others) > 2 else ''}, not the "
            f"models' {wanted}; both are resized for the extractors, which alters distances",
            file=sys.stderr,
        )
    names = [f"image {i + 1}" for i in range(count)] if source in LOOKS else real_image_files(source, count)[1]
    shown = {name: shrunk(image) for name, image in zip(names, first, strict=False)}
    save_pictures(store.files, "reference", str(run.real_images), shown)
    for name, identity in lacking.items():
        store.save_reference(identity, np.concatenate(features[name]))


def resolve_sources(experiment: Experiment) -> Experiment:
    """Return the experiment with each model at the source where it was found; a mirror is reported and recorded.

    With weights=random models have random weights, as have their adapters.
    """
    random = experiment.weights == "random"
    models = {name: _random_weights(m) if random else _at_hand(name, m) for name, m in experiment.models.items()}
    return replace(experiment, models=models)


def _random_weights(model: Model) -> Model:
    adapters = {key: replace(a, source=LORA, file=None, revision=None) for key, a in model.adapters.items()}
    source = f"{ARCHITECTURE}{model.architecture}"
    return replace(model, source=source, config=None, revision=None, variant=None, adapters=adapters)


def _at_hand(name: str, model: Model) -> Model:
    """Return the model at its source, or else at the first mirror that is available locally."""
    for source in (model.source, *model.mirrors):
        with suppress(BenchError):
            weights_directory(source, model.revision if source == model.source else None)
            if source == model.source:
                return model
            print(
                f"models.{name}: {model.source} is not available locally; its mirror {source} is used", file=sys.stderr
            )
            return replace(model, source=source, revision=None)
    return model


def try_schedulers(cells: tuple[Cell, ...]) -> Mapping[str, int]:
    """Make each scheduler and set its timesteps, before anything is loaded; raises BenchError for wrong settings.

    Returns the denoiser evaluations that an image of each cell will take, by the cell's key.
    """
    from bench.generate.guidance import check_arguments
    from bench.generate.noise import refuse_shared_noise
    from bench.generate.schedulers import expected_evaluations, try_scheduler

    tried: dict[tuple[int, int, int, bool], Any] = {}
    evaluations = {}
    noises = set[tuple[int, int, float | None]]()
    for cell in cells:
        check_arguments(cell)
        which = id(cell.base), id(cell.scheduler), cell.steps, cell.eta is None
        noise = id(cell.base), id(cell.scheduler), cell.eta
        if which not in tried:
            try:
                tried[which] = try_scheduler(cell.scheduler, cell.steps, cell.eta, cell.base)
                if noise not in noises:
                    refuse_shared_noise(cell)
                    noises.add(noise)
            except BenchError as error:
                joint = "." if str(error).startswith("scheduler") else ": "
                raise BenchError(f"methods.{cell.method}{joint}{error}") from error
        evaluations[cell.key] = expected_evaluations(cell, tried[which])
        if not evaluations[cell.key]:
            raise BenchError(
                f"methods.{cell.method}.steps: {cell.steps} steps leave none at task.strength="
                f"{cell.task.settings['strength']}; take more steps or a larger strength"
            )
    return evaluations
