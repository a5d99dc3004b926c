"""Experiment trackers and their settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.value_types import STRICT, Source


@dataclass(config=STRICT)
class TensorBoard:
    """Event files of TensorBoard, one of its runs per run."""

    kind: Literal["tensorboard"] = "tensorboard"
    directory: Source = "tensorboard"
    """Directory of the event files."""


@dataclass(config=STRICT)
class MLflow:
    """A run in MLflow."""

    kind: Literal["mlflow"] = "mlflow"
    tracking_uri: Source | None = None
    """A server or a directory; by default MLflow's environment variables decide."""
    experiment: str = "tcd-bench"
    """Name of the experiment in MLflow."""


@dataclass(config=STRICT)
class WeightsAndBiases:
    """A run in Weights & Biases."""

    kind: Literal["wandb"] = "wandb"
    project: str = "tcd-bench"
    """Name of the project."""
    entity: str | None = None
    """User or team."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes to disk only."""
    directory: Source | None = None
    """Directory of offline runs."""


TrackerChoice = Annotated[TensorBoard | MLflow | WeightsAndBiases, Field(discriminator="kind")]
