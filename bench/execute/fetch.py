"""The weights that an experiment needs, fetched from the hub or from their publishers into the local caches."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.execute.hub_notes import note_of
from bench.execute.judges import asked_judges, needed_by
from bench.experiment.config import Experiment
from bench.generate.weights import INCEPTION, is_at_hand, name_weights, torch_checkpoints
from bench.records import BenchError
from bench.score.manifest import MANIFEST, Weights, check_file


@dataclass(frozen=True, slots=True)
class Repository:
    """A hub repository that an experiment reads."""

    subject: str
    source: str
    revision: str | None = None
    patterns: tuple[str, ...] = ()


def repositories(experiment: Experiment) -> Iterator[Repository]:
    """The hub repositories behind models, parts, adapters, evaluator and judges; none that is a directory here."""
    found = []
    wanted = {name for method in experiment.methods.values() for name in method.adapter}
    for name, model in {} if experiment.weights == "architecture" else experiment.models.items():
        found.append(Repository(f"model {name}", model.source, model.revision))
        found += [Repository(f"{role} {name}", part.source, part.revision) for role, part in model.parts.items()]
        adapters = {key: choice for key, choice in model.adapters.items() if key in wanted}
        for key, choice in adapters.items():
            found.append(Repository(f"adapter {name} {key}", choice.source, choice.revision, (choice.file,)))
    if estimator := getattr(experiment.task, "estimator", None):
        found.append(Repository("depth estimator", estimator))
    if experiment.scores and experiment.evaluator.source != INCEPTION:
        found.append(Repository(f"evaluator {experiment.evaluator.name}", experiment.evaluator.source))
    for judge in asked_judges(experiment):
        for part in needed_by(experiment, judge):
            if "://" not in part.source and not Path(part.source).exists():
                weights = MANIFEST[part.name]
                found.append(Repository(part.name, part.source, patterns=(weights.file,) if weights.file else ()))
    yield from (entry for entry in found if not is_at_hand(entry.source))


def files(experiment: Experiment) -> Iterator[tuple[str, Weights]]:
    """The single files behind scores, by their names in the manifest."""
    if experiment.scores and experiment.evaluator.source == INCEPTION:
        yield "inception", MANIFEST["inception"]
    if "background_lpips" in experiment.scores:
        yield "background_lpips", MANIFEST["background_lpips"]


def fetch_needs(experiment: Experiment) -> Iterator[tuple[str, str, bool]]:
    """Fetch one after another what is not there; yields subject, what came of it, and whether it is there now."""
    for entry in repositories(experiment):
        yield entry.subject, *_outcome(lambda entry=entry: _fetch_repository(entry))  # type: ignore[misc]
    for name, weights in files(experiment):
        yield name, *_outcome(lambda name=name, weights=weights: _fetch_file(name, weights))  # type: ignore[misc]
    for judge in asked_judges(experiment):
        own = needed_by(experiment, judge)[0]
        if "://" in own.source:
            yield judge, *_outcome(lambda own=own: str(own.path()))  # type: ignore[misc]


def _outcome(fetch: Callable[[], str]) -> tuple[str, bool]:
    try:
        return fetch(), True
    except (BenchError, OSError, RuntimeError) as error:  # the hub's errors are of the second kind, hashes of the third
        return " ".join(str(error).split()), False


def _fetch_repository(entry: Repository) -> str:
    """Raises BenchError or OSError where it cannot be had."""
    try:
        return f"{entry.source} at {name_weights(entry.source, entry.revision)[:12]}, there already"
    except BenchError:
        from huggingface_hub import snapshot_download

        patterns = entry.patterns or tuple(shlex.split(note_of(entry.source).only)[1:])
        path = snapshot_download(
            entry.source, revision=entry.revision, allow_patterns=list(patterns) or None, ignore_patterns=PICKLES
        )
        return f"{entry.source}, fetched into {path}"


def _fetch_file(name: str, weights: Weights) -> str:
    path = torch_checkpoints() / weights.file
    if path.is_file():
        return f"{path}, hash {check_file(path, name)}, there already"
    from torch.hub import download_url_to_file

    path.parent.mkdir(parents=True, exist_ok=True)
    download_url_to_file(weights.source, str(path), hash_prefix=weights.sha256, progress=False)
    return f"{path}, fetched, hash {check_file(path, name)}"


PICKLES = ["*.bin", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.pkl"]
"""Never fetched: what is not read, or could hold code. ImageReward's own .pt is read as tensors alone."""
