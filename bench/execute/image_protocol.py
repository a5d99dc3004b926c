"""The preparation of images for the evaluator, as text: scores of different protocols are not compared."""

from __future__ import annotations

import json
from collections.abc import Mapping

from bench.checkpoints.sources import INCEPTION, is_tower, weights_directory
from bench.experiment.config import Experiment
from bench.generate.image_files import READER
from bench.mini.world import WORLD

_FLOAT = {"dtype": "float32, scores in float64"}


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
