"""Checkpoints of scores that have a dedicated network: their paths and identities. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.checkpoints.manifest import MANIFEST, PREFERENCE_MODELS, check_file
from bench.checkpoints.sources import name_weights, weights_directory
from bench.experiment.config import Experiment
from bench.records.errors import BenchError

ALSO_NEEDED = {"image_reward": "image_reward_tokenizer", "aesthetic_score": "aesthetic_score_tower"}
"""Further weights that a preference model needs besides its checkpoint."""


@dataclass(frozen=True, slots=True)
class Needed:
    """An entry of the manifest that a score needs, and its location: a file, a directory or a hub id."""

    name: str
    source: str

    def path(self) -> Path:
        """Return the file, or the directory of a repository; raises BenchError where it is not available locally."""
        weights = MANIFEST[self.name]
        if "://" in self.source:
            raise BenchError(
                f"scores: {self.name} needs {weights.file}; fetch it with {weights.command()} and give its path, "
                f"as in preference_models.{self.name}=./{weights.file}"
            )
        own = Path(self.source).expanduser()
        if weights.file and (own.is_file() or own.suffix == Path(weights.file).suffix):
            return own
        directory = weights_directory(self.source)
        return directory / weights.file if weights.file else directory

    def identity(self) -> str:
        """Return a file's hash, checked by the manifest, or a repository's name; raises BenchError as `path` does."""
        path = self.path()
        return check_file(path, self.name) if MANIFEST[self.name].file else name_weights(self.source)


def needed_by(experiment: Experiment, name: str) -> list[Needed]:
    """Return the weights of a preference model, its own checkpoint first."""
    source = experiment.preference_models.get(name, MANIFEST[name].source)  # type: ignore[call-overload]
    needed = [Needed(name, source)]
    if also := ALSO_NEEDED.get(name):
        vocabulary = Path(source).parent / "vocab.txt"
        is_local = also == "image_reward_tokenizer" and vocabulary.is_file()
        needed.append(Needed(also, str(vocabulary) if is_local else MANIFEST[also].source))
    return needed


def requested_preference_models(experiment: Experiment) -> list[str]:
    """Return the preference models of the requested scores."""
    return [name for name in PREFERENCE_MODELS if name in experiment.scores]


def name_preference_models(experiment: Experiment) -> Mapping[str, list[str]]:
    """Return the identity of every preference model's weights; raises BenchError for missing or different files."""
    return {
        name: [part.identity() for part in needed_by(experiment, name)]
        for name in requested_preference_models(experiment)
    }
