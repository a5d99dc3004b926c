"""A task's inputs and what is looked at for it, from the experiment; a depth estimator is loaded when first used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.cell import Task
from bench.experiment.config import Experiment
from bench.generate.inputs import Inputs, canny_edges, name_inputs
from bench.generate.weights import name_weights

if TYPE_CHECKING:
    from bench.score.features import Evaluator
    from bench.score.features_of_tasks import TaskFeatures

_Depth = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def make_inputs(experiment: Experiment, task: Task, device: str) -> Inputs:
    """The inputs of an experiment's task, one a prompt; its base models must have one size."""
    model = next(iter(experiment.models.values()))
    source, estimator = getattr(experiment.task, "inputs", ""), getattr(experiment.task, "estimator", None)
    count = 1 if task.kind == "image_prompt" else experiment.prompts.count
    return Inputs(task, source, count, model.height, model.width, _Estimator(estimator, device) if estimator else None)


def name_task_inputs(experiment: Experiment) -> str | None:
    """What the inputs are named by; raises BenchError where images or the weights of a judge are missing."""
    estimator = getattr(experiment.task, "estimator", None)
    weights = name_weights(estimator) if estimator else None
    if "background_lpips" in experiment.scores:
        from bench.score.features_of_tasks import lpips_weights

        lpips_weights()
    return name_inputs(make_inputs(experiment, Task(experiment.task.kind), "cpu"), weights)


def make_task_features(experiment: Experiment, evaluator: Evaluator, inputs: Inputs) -> TaskFeatures:
    """What is looked at beside image and caption."""
    from bench.score.features_of_tasks import TaskFeatures

    return TaskFeatures(
        kind=experiment.task.kind,
        scores=experiment.scores,
        evaluator=evaluator,
        given=inputs,
        find_edges=canny_edges,
        estimate_depth=inputs.estimate_depth,
        style=getattr(experiment.task, "style", None),
        frames=getattr(experiment.task, "frames", 1),
    )


class _Estimator:
    """Loads the model when it is first asked; the same one serves conditions and scores."""

    def __init__(self, source: str, device: str) -> None:
        self._source, self._device = source, device
        self._loaded: _Depth | None = None

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._loaded is None:
            from bench.generate.depth import load_depth_estimator

            self._loaded = load_depth_estimator(self._source, self._device)
        return self._loaded(images)
