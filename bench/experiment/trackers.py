"""Trackers that a run may be told to: what each needs to know, and nothing else of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.values import STRICT


@dataclass(config=STRICT)
class TensorBoard:
    """Event files in `directory`, one run of TensorBoard a run of ours."""

    kind: Literal["tensorboard"] = "tensorboard"
    directory: str = "tensorboard"


@dataclass(config=STRICT)
class MLflow:
    """A run of `experiment` at `tracking_uri`, a server or a directory; null asks the environment."""

    kind: Literal["mlflow"] = "mlflow"
    tracking_uri: str | None = None
    experiment: str = "tcd-bench"


@dataclass(config=STRICT)
class WeightsAndBiases:
    """A run of `project`; mode=offline keeps it on disk, in `directory`."""

    kind: Literal["wandb"] = "wandb"
    project: str = "tcd-bench"
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"
    directory: str | None = None


TrackerChoice = Annotated[TensorBoard | MLflow | WeightsAndBiases, Field(discriminator="kind")]
