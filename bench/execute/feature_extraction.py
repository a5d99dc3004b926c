"""Feature extraction: an experiment's task inputs, and the features that are computed from its images.

Scores of images that were prepared for the evaluator by different protocols are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.checkpoints.manifest import check_file
from bench.checkpoints.preference_models import needed_by, requested_preference_models
from bench.checkpoints.sources import INCEPTION, is_tower, name_weights, weights_directory
from bench.experiment.config import Experiment
from bench.generate.image_files import READER
from bench.generate.image_folders import MASKS, list_images
from bench.generate.prompts import Prompts, load_prompts
from bench.generate.task_inputs import PROMPT_IMAGE_SIZE, DepthEstimator, Inputs, canny_edges, name_inputs
from bench.mini import world
from bench.mini.world import WORLD
from bench.records.cell import Task

if TYPE_CHECKING:
    from bench.features.openclip import Evaluator
    from bench.features.preferences import PreferenceModel

PAIRED = ("inpainting", "canny", "depth")
"""Tasks with an input for each prompt."""
_FLOAT = {"dtype": "float32, scores in float64"}
Extractor = Callable[[NDArray[np.uint8], int], Mapping[str, NDArray[Any]]]
"""A batch's images (n, h, w, 3) and the number of its first one → features by name, one row per image."""


def prompts_of(experiment: Experiment, count: int) -> Prompts:
    """Return the first `count` prompts of an experiment; raises BenchError as `load_prompts` does."""
    asked = experiment.prompts
    return load_prompts(
        *(asked.source, count, asked.template, asked.column, asked.quoted),
        seed=experiment.seed if asked.shuffle else None,
        among=paired_inputs(experiment),
    )


def make_inputs(experiment: Experiment, task: Task, device: str, rows: tuple[int, ...] = ()) -> Inputs:
    """Return the inputs of an experiment's task, one per prompt; its base models must have one size.

    `rows` are the prompts' rows in their file, which files of inputs go with.
    """
    model = next(iter(experiment.models.values()))
    size = (PROMPT_IMAGE_SIZE,) * 2 if task.kind == "image_prompt" else (model.height or 0, model.width or 0)
    source, estimator = getattr(experiment.task, "inputs", ""), getattr(experiment.task, "estimator", None)
    count = 1 if task.kind == "image_prompt" else experiment.prompts.count
    chosen = rows if task.kind in PAIRED else ()
    return Inputs(task, source, count, *size, _Estimator(estimator, device) if estimator else None, chosen)


def paired_inputs(experiment: Experiment) -> int | None:
    """Return how many input files go with prompts; None where none do."""
    task = experiment.task
    source = getattr(task, "inputs", WORLD)
    if task.kind not in PAIRED or source == WORLD or not (folder := Path(source).expanduser()).is_dir():
        return None
    return len(list_images(folder, but=[MASKS]).files)


def name_task_inputs(experiment: Experiment, rows: tuple[int, ...]) -> str | None:
    """Return what names the inputs; raises BenchError where images or the weights of an estimator are missing."""
    estimator = getattr(experiment.task, "estimator", None)
    weights = name_weights(estimator) if estimator else None
    task = Task(experiment.task.kind, asdict(experiment.task))
    return name_inputs(make_inputs(experiment, task, "cpu", rows), weights)


def make_evaluator(experiment: Experiment, device: str) -> Evaluator:
    """Load the experiment's evaluator."""
    name, source = experiment.evaluator.name, experiment.evaluator.source
    if source == INCEPTION:
        from bench.features.inception import load_inception

        weights = weights_directory(source)
        check_file(weights, "inception")
        return load_inception(name, weights, device)
    directory = weights_directory(source)
    if is_tower(directory):
        from bench.features.dinov2 import load_tower

        return load_tower(name, directory, device)
    from bench.features.openclip import load_evaluator

    return load_evaluator(name, directory, device)


def make_extractor(experiment: Experiment, prompts: Prompts, evaluator: Evaluator, inputs: Inputs) -> Extractor:
    """Return what computes embeddings, agreement with captions and the task's features; captions are encoded here."""
    from bench.features.openclip import encode_captions, images_to_features
    from bench.features.tasks import TaskFeatures

    truths = None if prompts.scenes is None else [tuple(world.counterfactuals(scene)) for scene in prompts.scenes]
    source = experiment.evaluator.source
    blind = source == INCEPTION or is_tower(weights_directory(source))
    captions = None if blind else encode_captions(evaluator, prompts.texts, truths)
    frames = getattr(experiment.task, "frames", 1)
    of_task = TaskFeatures(
        kind=experiment.task.kind,
        scores=experiment.scores,
        evaluator=evaluator,
        given=inputs,
        find_edges=canny_edges,
        estimate_depth=inputs.estimate_depth,
        style=getattr(experiment.task, "style", None),
        frames=frames,
    )
    preference_models = {
        name: _load_preference_model(name, [part.path() for part in needed_by(experiment, name)], evaluator.device)
        for name in requested_preference_models(experiment)
    }

    def extract(images: NDArray[np.uint8], start: int) -> Mapping[str, NDArray[Any]]:
        middle = images.reshape(len(images), frames, -1, *images.shape[2:])[:, frames // 2]
        texts = prompts.texts[start : start + len(images)]
        preferred = {score: model(middle, texts) for score, model in preference_models.items()}
        features = images_to_features(evaluator, images, captions, start, frames)
        return {**features, **of_task.of(images, start), **preferred}

    return extract


def _load_preference_model(name: str, paths: list[Path], device: object) -> PreferenceModel:
    if name == "image_complexity":
        from bench.features.icnet import load_image_complexity

        return load_image_complexity(paths[0], str(device))
    from bench.features import preferences

    loaders = {
        "pick_score": preferences.load_pick_score,
        "image_reward": preferences.load_image_reward,
        "aesthetic_score": preferences.load_aesthetic_score,
    }
    return loaders[name](*paths, str(device))  # type: ignore[operator]


def no_features(images: NDArray[np.uint8], start: int) -> Mapping[str, NDArray[Any]]:
    """Return the images' numbers, one row per image, for a run that measures costs only."""
    return {"row": np.arange(start, start + len(images))}


def describe_pictures(experiment: Experiment) -> Mapping[str, str]:
    """Return how a folder's reference images are read; empty for the procedural world's."""
    return {} if experiment.reference.source == WORLD else {"pictures": READER}


def describe_protocol(experiment: Experiment) -> Mapping[str, str]:
    """Resizer, antialias, crop, size and dtype; raises BenchError where the evaluator's weights are missing."""
    source = experiment.evaluator.source
    if source == INCEPTION:
        return {"resizer": "bilinear of TensorFlow 1", "antialias": "no", "crop": "none", "size": "299", **_FLOAT}
    directory = weights_directory(source)
    if is_tower(directory):
        return {"resizer": "bicubic to 256", "antialias": "yes", "crop": "centre", "size": "224", **_FLOAT}
    config = directory / "open_clip_config.json"
    said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    preprocessing = said.get("preprocess_cfg", {})
    size = said.get("model_cfg", {}).get("vision_cfg", {}).get("image_size", "as in its configuration")
    mode = preprocessing.get("resize_mode") or "shortest"
    return {
        "resizer": f"{preprocessing.get('interpolation') or 'bicubic'}, {mode} side",
        "antialias": "yes",
        "crop": "centre" if mode == "shortest" else "none",
        "size": str(size),
        **_FLOAT,
    }


class _Estimator:
    """Loads the model at its first use; the same one serves conditions and scores."""

    def __init__(self, source: str, device: str) -> None:
        self._source, self._device = source, device
        self._loaded: DepthEstimator | None = None

    def __call__(self, images: NDArray[np.uint8], size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        if self._loaded is None:
            from bench.generate.depth import load_depth_estimator

            self._loaded = load_depth_estimator(self._source, self._device)
        return self._loaded(images, size)
