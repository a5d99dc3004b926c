"""The plan of an experiment: every cell of the grid, ordered so that each pipeline is loaded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from math import gcd
from typing import Any

from bench.experiment.config import Experiment
from bench.experiment.memory_options import MemoryOptions
from bench.records.cell import Adapter, Base, Cell, Part, PromptSet, SchedulerSpec, Task
from bench.records.noise_schedule import misfit
from bench.records.quantization import quantizer_version

_NOT_OF_IMAGES = ("kind", "inputs", "estimator", "style")
"""Settings of a task that do not affect its images: recorded elsewhere, or used by scores alone."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A combination that is left out of the grid, and the reason."""

    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The cells in the order in which they run, and the combinations left out of the grid."""

    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Facts from outside the configuration by which cells are identified by content."""

    device: str
    versions: Mapping[str, str]
    weights: Mapping[str, str]
    """Content hash or commit by the setting that names the weights, as in `models.mini.adapters.tcd`."""
    prompts: PromptSet
    inputs: str | None = None
    """The identity of the task's input images."""
    overridden: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By model, the checkpoint's own noise schedule where a deliberate override replaced it."""
    code: Mapping[str, str] = field(default_factory=dict)
    """Content hash of the user's own code by scheduler class."""


def plan_experiment(experiment: Experiment, surroundings: Surroundings) -> Plan:
    """Expand the grid; cells of one pipeline are consecutive, duplicate cells are planned once."""
    cells: dict[str, Cell] = {}
    left_out: list[LeftOut] = []
    for method_name, method in experiment.methods.items():
        if method.models and not {*method.models} & {*experiment.models}:
            reason = f"it samples {', '.join(method.models)}, of which the run has none"
            left_out.append(LeftOut(method_name, reason))
    for (model_name, model), (method_name, method) in product(experiment.models.items(), experiment.methods.items()):
        if method.models and model_name not in method.models:
            continue
        if lacking := [name for name in method.adapter if name not in model.adapters]:
            reason = f"{model_name} has no adapter named {', '.join(lacking)}"
            left_out.append(LeftOut(f"{model_name} {method_name}", reason))
            continue
        if unfit := misfit(method.scheduler, model.noise_schedule):
            left_out.append(LeftOut(f"{model_name} {method_name}", unfit))
            continue
        for cell in _cells_of(experiment, surroundings, model_name, method_name):
            if method.max_steps is not None and cell.steps > method.max_steps:
                reason = (
                    f"{cell.steps} steps do not fit the {method.max_steps}-step grid that the adapter was distilled "
                    f"on; give at most {method.max_steps}"
                )
                left_out.append(LeftOut(cell.label, reason))
            elif same := cells.get(cell.key):
                left_out.append(LeftOut(cell.label, f"the same cell as {same.label}, which is run once"))
            else:
                cells[cell.key] = cell
    order = {key: i for i, key in enumerate(dict.fromkeys(cell.pipeline_key for cell in cells.values()))}
    return Plan(tuple(sorted(cells.values(), key=lambda cell: order[cell.pipeline_key])), tuple(left_out))


def counts_of_looks(experiment: Experiment) -> tuple[int, ...]:
    """Return the numbers of prompts at which claims are judged: all, or evenly spaced in whole batches up to all."""
    planned, size = experiment.prompts.count, experiment.batch_size
    batch = size // gcd(size, experiment.prompts.images_per_prompt)  # whole batches of whole prompts
    if experiment.until == "count":
        return (planned,)
    even = (planned * (i + 1) / experiment.looks for i in range(experiment.looks))
    return tuple(sorted({min(planned, max(1, round(count / batch)) * batch) for count in even} | {planned}))


def _cells_of(experiment: Experiment, surroundings: Surroundings, model_name: str, method_name: str) -> Iterator[Cell]:
    model, method = experiment.models[model_name], experiment.methods[method_name]
    setting, weights = f"models.{model_name}", surroundings.weights
    base = Base(
        name=model_name,
        source=model.source,
        weights=weights[setting],
        pipeline=model.pipeline or "",
        dtype=model.dtype,
        height=model.height or 0,
        width=model.width or 0,
        noise_schedule=model.noise_schedule,
        revision=model.revision,
        variant=model.variant,
        channels_last=model.channels_last,
        parts=tuple(
            Part(role, part.source, weights[f"{setting}.parts.{role}"], part.subfolder, part.file, part.variant)
            for role, part in sorted(model.parts.items())
        ),
        memory_options={
            name: value
            for name, value in asdict(model.memory_options).items()
            if value != getattr(MemoryOptions(), name)
        },
        checkpoint_schedule=surroundings.overridden.get(model_name, {}),
        config=model.config,
        guidance=model.guidance,
        arguments=model.arguments,
    )
    chosen = {name: value for name, value in asdict(experiment.task).items() if name not in _NOT_OF_IMAGES}
    task = Task(experiment.task.kind, chosen, surroundings.inputs)
    adapters = tuple(
        Adapter(name, choice.source, choice.file or "", weights[f"{setting}.adapters.{name}"], choice.scale)
        for name in method.adapter
        for choice in [model.adapters[name]]
    )
    quantization = model.memory_options.quantization
    library = {} if quantization == "none" else quantizer_version(f"{setting}.memory_options", quantization)
    settings = dict(method.scheduler)
    scheduler = SchedulerSpec(target=settings.pop("_target_"), settings={**model.noise_schedule, **settings})
    own = {target.partition(".")[0]: surroundings.code[target] for target in {scheduler.target} & {*surroundings.code}}
    etas: list[float | None] = [*method.eta] or [None]
    scales = method.guidance_scale or [model.guidance_scale or 0.0]
    for steps, eta, guidance in product(method.steps, etas, scales):
        yield Cell(
            base=base,
            task=task,
            method=method_name,
            scheduler=scheduler,
            adapters=adapters,
            fused=method.fused and bool(adapters),
            steps=steps,
            eta=eta,
            guidance_scale=guidance,
            prompts=surroundings.prompts,
            seed=experiment.seed,
            batch_size=experiment.batch_size,
            device=surroundings.device,
            versions={**surroundings.versions, **library, **own},
            noise=experiment.noise if surroundings.device.startswith("cuda") else "host",
        )
