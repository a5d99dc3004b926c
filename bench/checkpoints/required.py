"""The list of checkpoints that an experiment needs, used for naming, by the doctor and for fetching."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bench.checkpoints.preference_models import needed_by, requested_preference_models
from bench.checkpoints.sources import ARCHITECTURE
from bench.experiment.config import Experiment, Model
from bench.experiment.extractors import INCEPTION
from bench.records.reference import WORLD

_Kind = Literal[
    "pipeline",
    "config",
    "controlnet",
    "motion_adapter",
    "image_adapter",
    "lora",
    "depth_estimator",
    "extractor",
    "file",
]
LPIPS = ("background_lpips", "pairwise_lpips")
"""Scores by LPIPS."""
PUBLISHED_LORA = "pytorch_lora_weights.safetensors"
"""The file name under which diffusers saves a LoRA, and under which most are published."""


@dataclass(frozen=True, slots=True)
class Required:
    """A checkpoint: the setting that names it, its display name, and its location.

    `file` is set for a single file of a directory or repository. `manifest` names the entry of a score's own network in
    `bench.checkpoints.manifest`.
    """

    setting: str
    subject: str
    kind: _Kind
    source: str
    revision: str | None = None
    variant: str | None = None
    subfolder: str | None = None
    file: str | None = None
    manifest: str | None = None


def required(experiment: Experiment) -> list[Required]:
    """Return every checkpoint that the experiment reads, models first; nothing is looked up."""
    used = {name for method in experiment.methods.values() for name in method.adapter}
    found = [entry for name, model in experiment.models.items() for entry in _of_model(name, model, used)]
    if (estimator := getattr(experiment.task, "estimator", None)) not in (None, WORLD):
        found.append(Required("task.estimator", "depth estimator", "depth_estimator", estimator))
    for name, own in experiment.extractors.items() if experiment.scores else ():
        setting, subject = f"extractors.{name}", f"extractor {name}"
        if own.source is None or own.own is not None:
            continue  # its source is read by the user's code alone
        if own.source == INCEPTION:
            found.append(Required(setting, subject, "file", INCEPTION, manifest="inception"))
        else:
            found.append(Required(setting, subject, "extractor", own.source))
    if of_lpips := [score for score in experiment.scores if score in LPIPS]:
        found.append(Required("scores", "LPIPS", "file", "lpips://", manifest=of_lpips[0]))
    for name in requested_preference_models(experiment):
        for part in needed_by(experiment, name):
            found.append(Required(f"preference_models.{part.name}", part.name, "file", part.source, manifest=part.name))
    return found


def _of_model(name: str, model: Model, used: set[str]) -> Iterator[Required]:
    setting = f"models.{name}"
    yield Required(setting, f"model {name}", "pipeline", model.source, model.revision, model.variant)
    if model.config is not None:
        yield Required(f"{setting}.config", f"configuration {name}", "config", model.config)
    for role, part in sorted(model.parts.items()):
        where = part.source, part.revision, part.variant, part.subfolder, part.file
        yield Required(f"{setting}.parts.{role}", f"{role} {name}", role, *where)
    for key, choice in model.adapters.items():
        if key in used:
            subject, source = f"adapter {name} {key}", choice.source
            yield Required(f"{setting}.adapters.{key}", subject, "lora", source, choice.revision, file=choice.file)


def is_random(entry: Required) -> bool:
    """Whether its weights are drawn at random, so that nothing is read."""
    return entry.source.startswith(ARCHITECTURE)
