"""The settings of `tcd-bench score` as typed, checked data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.values import STRICT, AnyNumber, Distinct, Images, JudgeName, ScoreName, Source


@dataclass(config=STRICT)
class OtherEvaluator:
    """Another evaluator than the run's own."""

    name: str | None = None
    source: Source | None = None


@dataclass(config=STRICT)
class OtherReference:
    """Other real images than the run's own."""

    source: Source | None = None
    count: Images | None = None


@dataclass(config=STRICT)
class ScoreChoice:
    """Everything that `tcd-bench score` takes."""

    results: Source
    scores: Annotated[list[ScoreName], AnyNumber, Distinct] = Field(default_factory=list)
    evaluator: OtherEvaluator = Field(default_factory=OtherEvaluator)
    reference: OtherReference = Field(default_factory=OtherReference)
    judges: dict[JudgeName, Source] = Field(default_factory=dict)
    device: str = "auto"
