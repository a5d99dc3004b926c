"""Preference models, each a network that scores images, loaded from their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.checkpoints.preference_models import needed_by, requested_preference_models
from bench.experiment.config import Experiment

if TYPE_CHECKING:
    from bench.features.preferences import PreferenceModel


def load_preference_models(experiment: Experiment, device: str) -> Mapping[str, PreferenceModel]:
    """Load every preference model that is requested."""
    return {
        name: load_preference_model(name, [part.path() for part in needed_by(experiment, name)], device)
        for name in requested_preference_models(experiment)
    }


def load_preference_model(name: str, paths: list[Path], device: str) -> PreferenceModel:
    """Load a preference model from its checkpoints, in the order of `needed_by`."""
    if name == "image_complexity":
        from bench.features.icnet import load_image_complexity

        return load_image_complexity(paths[0], device)
    from bench.features import preferences as preferences

    loaders = {
        "pick_score": preferences.load_pick_score,
        "image_reward": preferences.load_image_reward,
        "aesthetic_score": preferences.load_aesthetic_score,
    }
    return loaders[name](*paths, device)  # type: ignore[operator]
