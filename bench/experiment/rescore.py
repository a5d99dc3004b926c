"""The settings of `tcd-bench score` as typed, checked data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.value_types import STRICT, AnyNumber, Distinct, ImageCount, PreferenceModelName, ScoreName, Source


@dataclass(config=STRICT)
class OtherEvaluator:
    """An evaluator other than the run's own."""

    name: str | None = None
    """Name of the evaluator, part of the name of each score."""
    source: Source | None = None
    """An OpenCLIP model: a directory or a hub id; the kept images are read again."""


@dataclass(config=STRICT)
class OtherReference:
    """Reference images other than the run's own."""

    source: Source | None = None
    """`world` or a folder of images."""
    count: ImageCount | None = None
    """Number of reference images."""


@dataclass(config=STRICT)
class ScoreChoice:
    """The settings of `tcd-bench score`."""

    results: Source
    """Directory or URL of the run."""
    scores: Annotated[list[ScoreName], AnyNumber, Distinct] = Field(default_factory=list)
    """Scores to add to those that the run has."""
    evaluator: OtherEvaluator = Field(default_factory=OtherEvaluator)
    """An evaluator other than that of the run."""
    reference: OtherReference = Field(default_factory=OtherReference)
    """Reference images other than those of the run."""
    preference_models: dict[PreferenceModelName, Source] = Field(default_factory=dict)
    """Checkpoints of the preference models, by score."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` …"""
