"""Scores that a network of its own gives, loaded from where their checkpoints lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.checkpoints.preference_models import asked_judges, needed_by
from bench.experiment.config import Experiment

if TYPE_CHECKING:
    from bench.features.preferences import Judge


def load_judges(experiment: Experiment, device: str) -> Mapping[str, Judge]:
    """Every judge that is asked for, loaded."""
    return {
        name: load_judge(name, [part.path() for part in needed_by(experiment, name)], device)
        for name in asked_judges(experiment)
    }


def load_judge(name: str, paths: list[Path], device: str) -> Judge:
    """A judge from what it reads, in the order of `needed_by`."""
    if name == "image_complexity":
        from bench.features.icnet import load_image_complexity

        return load_image_complexity(paths[0], device)
    from bench.features import preferences as preferences

    loaders = {
        "pick_score": preferences.load_pick_score,
        "image_reward": preferences.load_image_reward,
        "aesthetic_score": preferences.load_aesthetic_score,
    }
    return loaders[name](*paths, device)  # type: ignore[operator,no-any-return]
