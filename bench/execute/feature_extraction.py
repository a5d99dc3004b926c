"""Feature extraction: an experiment's task inputs, and the sets of features that are computed from its images.

Each extractor, the pixels, and each network of a single score have their own set, which an identity names by the
content of what computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.checkpoints.extractors import TOWERS, WITHOUT_TEXT, find_kind, name_extractor
from bench.checkpoints.manifest import MANIFEST, check_file
from bench.checkpoints.preference_models import name_preference_models, needed_by, requested_preference_models
from bench.checkpoints.required import LPIPS
from bench.checkpoints.sources import name_weights, torch_checkpoints, weights_directory
from bench.experiment.config import Experiment
from bench.experiment.extractors import ExtractorChoice
from bench.experiment.value_types import OF_CAPTIONS
from bench.generate.image_folders import MASKS, list_images
from bench.generate.prompts import Prompts, load_prompts
from bench.generate.reference_images import load_real_images
from bench.generate.task_inputs import PROMPT_IMAGE_SIZE, DepthEstimator, Inputs, name_inputs
from bench.mini import world
from bench.mini.reading import read_depth, read_places
from bench.records.cell import Task, content_hash
from bench.records.errors import BenchError, CellError
from bench.records.reference import LOOKS, SCENES, WORLD
from bench.records.score import split_score
from bench.score.metrics import PIXELS
from bench.store.sealed import Arrays

if TYPE_CHECKING:
    from bench.features.extractor import Extractor
    from bench.features.preferences import PreferenceModel
    from bench.features.tasks import TaskFeatures

PAIRED = ("inpainting", "canny", "depth")
"""Tasks with an input for each prompt."""
STYLE_IMAGES = 256
"""Images that stand for a look of the world."""
_Images = NDArray[np.uint8]
Compute = Callable[[_Images, int, dict[str, Any]], Arrays]
"""A batch's images (n, h, w, 3), the number of its first one, and what extractors share of these images → features by
name, one row per image."""


@dataclass(frozen=True)
class FeatureSets:
    """What computes the features of a run's images, by the identity of each set."""

    by_identity: Mapping[str, Compute]
    together: int = 1
    """Images of one prompt, which are never separated."""

    @property
    def identities(self) -> list[str]:
        """The identities of all sets."""
        return [*self.by_identity]

    def extract(self, images: _Images, start: int, wanted: Iterable[str]) -> dict[str, Arrays]:
        """Return the wanted sets of features of a batch's images, by identity.

        A batch that does not fit into the device's memory is taken in halves; raises CellError where one prompt's
        images do not.
        """
        import torch

        wanted, shared = [*wanted], dict[str, Any]()
        try:
            return {identity: self.by_identity[identity](images, start, shared) for identity in wanted}
        except torch.OutOfMemoryError as error:
            failed = error.with_traceback(None)  # its frames hold the tensors of the call
        shared.clear()
        half = len(images) // 2 // self.together * self.together
        if half == 0:
            raise CellError(
                f"the extractors do not fit into the device's memory with {len(images)} images at a time; use fewer of "
                "them at once (extractor=[…]), and tcd-bench score for the others afterwards"
            ) from failed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        parts = [self.extract(images[:half], start, wanted), self.extract(images[half:], start + half, wanted)]
        return {
            identity: {name: np.concatenate([part[identity][name] for part in parts]) for name in parts[0][identity]}
            for identity in wanted
        }


def prompts_of(experiment: Experiment, count: int) -> Prompts:
    """Return the first `count` prompts of an experiment, one per image; raises BenchError as `load_prompts` does."""
    asked = experiment.prompts
    return load_prompts(
        *(asked.source, count, asked.template, asked.column, asked.quoted),
        seed=experiment.seed if asked.shuffle else None,
        among=paired_inputs(experiment),
        images_per_prompt=asked.images_per_prompt,
    )


def make_inputs(experiment: Experiment, task: Task, device: str, rows: tuple[int, ...] = ()) -> Inputs:
    """Return the inputs of an experiment's task, one per prompt; its base models must have one size.

    `rows` are the prompts' rows in their file, which files of inputs go with.
    """
    model = next(iter(experiment.models.values()))
    size = (PROMPT_IMAGE_SIZE,) * 2 if task.kind == "image_prompt" else (model.height or 0, model.width or 0)
    source, estimator = getattr(experiment.task, "inputs", ""), getattr(experiment.task, "estimator", None)
    count = 1 if task.kind == "image_prompt" else experiment.prompts.count
    if source == SCENES:
        _check_scenes(experiment, size)
    chosen = rows if task.kind in PAIRED else ()
    estimate = _Estimator(estimator, device) if estimator else None
    return Inputs(task, source, count, *size, estimate, chosen, experiment.prompts.images_per_prompt)


def _check_scenes(experiment: Experiment, size: tuple[int, int]) -> None:
    """Refuse scenes as inputs where there are none, or their images and truths have another size."""
    if experiment.prompts.source != WORLD:
        raise BenchError(
            f"task.inputs=scenes are those of the prompts of the world, but prompts.source={experiment.prompts.source} "
            "was given; give prompts.source=world, or other inputs"
        )
    if experiment.task.kind != "image_prompt" and size != (world.IMAGE_SIZE,) * 2:
        raise BenchError(
            f"task.inputs=scenes are 64×64, but the model's size is {size[1]}×{size[0]}; choose a miniature, or other "
            "inputs"
        )


def paired_inputs(experiment: Experiment) -> int | None:
    """Return how many input files go with prompts; None where none do."""
    task = experiment.task
    source = getattr(task, "inputs", WORLD)
    if task.kind not in PAIRED or source in (WORLD, SCENES) or not (folder := Path(source).expanduser()).is_dir():
        return None
    return len(list_images(folder, but=[MASKS]).files)


def name_task_inputs(experiment: Experiment, rows: tuple[int, ...]) -> str | None:
    """Return what names the inputs; raises BenchError where images or the weights of an estimator are missing."""
    estimator = getattr(experiment.task, "estimator", None)
    weights = name_weights(estimator) if estimator and estimator != WORLD else estimator
    task = Task(experiment.task.kind, asdict(experiment.task))
    return name_inputs(make_inputs(experiment, task, "cpu", rows), weights)


def name_features(experiment: Experiment) -> dict[str, str]:
    """Return the identity of each set of features; raises BenchError for missing or unfit weights."""
    if not experiment.scores:
        return {}
    _check_text_encoders(experiment)
    names = {name: name_extractor(name, choice) for name, choice in experiment.extractors.items()}
    own = {name: content_hash([name, weights]) for name, weights in name_preference_models(experiment).items()}
    for score in (score for score in LPIPS if score in experiment.scores):
        own[score] = content_hash([score, check_file(torch_checkpoints() / MANIFEST[score].file, score)])
    return {**names, PIXELS: PIXELS, **own}


def _check_text_encoders(experiment: Experiment) -> None:
    """Refuse scores of captions by extractors whose files, unlike the settings, say that they have no text encoder."""
    for score in experiment.scores:
        short, name = split_score(score)
        if short not in OF_CAPTIONS or name is None:
            continue
        if (kind := find_kind(name, experiment.extractors[name])) in WITHOUT_TEXT:
            raise BenchError(
                f"scores: {score} needs an extractor with a text encoder, which {name} has not: it is a {kind}; omit "
                "the score, or name another extractor after the @"
            )


def load_extractors(experiment: Experiment, device: str) -> dict[str, Extractor]:
    """Load the experiment's extractors; own ones are tried with black images of the experiment's size."""
    extractors = {name: _load_extractor(name, choice, device) for name, choice in experiment.extractors.items()}
    sizes = {(model.height or 64, model.width or 64) for model in experiment.models.values()} or {(64, 64)}
    for name, choice in experiment.extractors.items():
        for size in sizes if choice.own is not None else ():
            extractors[name].image_features(np.zeros((2, *size, 3), np.uint8))
    return extractors


def _load_extractor(name: str, choice: ExtractorChoice, device: str) -> Extractor:
    kind = find_kind(name, choice)
    if choice.own is not None:
        from bench.features.own import load_own_extractor

        return load_own_extractor(name, choice.own, choice.source, device)
    weights = weights_directory(str(choice.source))
    if kind == "inception":
        from bench.features.inception import load_inception

        check_file(weights, "inception")
        return load_inception(name, weights, device)
    if kind in TOWERS:
        from bench.features.towers import load_tower

        return load_tower(name, kind, weights, device)
    from bench.features.openclip import load_open_clip

    return load_open_clip(name, weights, device)


def make_feature_sets(
    experiment: Experiment,
    prompts: Prompts,
    extractors: Mapping[str, Extractor],
    inputs: Inputs,
    identities: Mapping[str, str],
    device: str,
) -> FeatureSets:
    """Return what computes the sets of features of these `identities`, by name; captions are encoded here."""
    from bench.features.tasks import TaskFeatures

    frames = getattr(experiment.task, "frames", 1)
    of_task = TaskFeatures(
        kind=experiment.task.kind,
        given=inputs,
        find_edges=inputs.find_edges,
        estimate_depth=inputs.estimate_depth,
        style=(style := getattr(experiment.task, "style", None)),
        style_images=_images_of(style) if style in LOOKS else None,
        find_places=None if prompts.scenes is None else read_places,
        frames=frames,
        images_per_prompt=inputs.images_per_prompt,
    )
    sets = {name: _of_extractor(extractor, prompts, of_task, frames) for name, extractor in extractors.items()}
    sets[PIXELS] = _of_pixels(of_task, frames)
    for score in requested_preference_models(experiment):
        model = _load_preference_model(score, [part.path() for part in needed_by(experiment, score)], device)
        sets[score] = _of_preferences(score, model, prompts.texts, frames)
    if "background_lpips" in experiment.scores:
        sets["background_lpips"] = lambda images, start, _: of_task.background_lpips(images, start)
    if "pairwise_lpips" in experiment.scores:
        sets["pairwise_lpips"] = lambda images, *_: of_task.pairwise_lpips(images)
    return FeatureSets({identity: sets[name] for name, identity in identities.items()}, inputs.images_per_prompt)


def _images_of(style: str) -> NDArray[np.uint8]:
    """Return images of the world in a look, which stand for it."""
    return next(load_real_images(style, STYLE_IMAGES, STYLE_IMAGES))


def _of_extractor(extractor: Extractor, prompts: Prompts, of_task: TaskFeatures, frames: int) -> Compute:
    from bench.features.extractor import encode_captions, images_to_features

    truths = None if prompts.scenes is None else [tuple(world.counterfactuals(scene)) for scene in prompts.scenes]
    captions = None if extractor.tokenize is None else encode_captions(extractor, prompts.texts, truths)

    def compute(images: _Images, start: int, shared: dict[str, Any]) -> Arrays:
        features = images_to_features(extractor, images, captions, start, frames, shared)
        return {**features, **of_task.of_extractor(extractor, images, start)}

    return compute


def _of_pixels(of_task: TaskFeatures, frames: int) -> Compute:
    from bench.features.pixels import complexity

    def compute(images: _Images, start: int, shared: dict[str, Any]) -> Arrays:
        measured = complexity(images.reshape(len(images) * frames, -1, *images.shape[2:]))
        own = {name: rows.reshape(len(images), frames).mean(axis=1) for name, rows in measured.items()}
        return {**own, **of_task.of_pixels(images, start)}

    return compute


def _of_preferences(score: str, model: PreferenceModel, texts: Sequence[str], frames: int) -> Compute:
    def compute(images: _Images, start: int, shared: dict[str, Any]) -> Arrays:
        middle = images.reshape(len(images), frames, -1, *images.shape[2:])[:, frames // 2]
        return {score: model(middle, texts[start : start + len(images)])}

    return compute


def _load_preference_model(name: str, paths: list[Path], device: str) -> PreferenceModel:
    if name == "image_complexity":
        from bench.features.icnet import load_image_complexity

        return load_image_complexity(paths[0], device)
    if name == "vqa_score":
        from bench.features.question_answering import load_vqa_score

        return load_vqa_score(paths[0], device)
    from bench.features import preferences

    loaders = {
        "hps_v2": preferences.load_hps_v2,
        "pick_score": preferences.load_pick_score,
        "image_reward": preferences.load_image_reward,
        "aesthetic_score": preferences.load_aesthetic_score,
    }
    return loaders[name](*paths, device)  # type: ignore[operator]


class _Estimator:
    """Loads the model at its first use; the same one serves conditions and scores."""

    def __init__(self, source: str, device: str) -> None:
        self._source, self._device = source, device
        self._loaded: DepthEstimator | None = None

    def __call__(self, images: NDArray[np.uint8], size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        if self._loaded is None and self._source == WORLD:
            self._loaded = read_depth
        if self._loaded is None:
            from bench.generate.depth import load_depth_estimator

            self._loaded = load_depth_estimator(self._source, self._device)
        return self._loaded(images, size)
