"""Extractors by their files: their kind, identity and preparation of images. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench.checkpoints.openclip_files import CONFIG, check_open_clip
from bench.checkpoints.sources import name_weights, weights_directory
from bench.experiment.extractors import INCEPTION, ExtractorChoice
from bench.records.cell import content_hash
from bench.records.errors import BenchError

_FLOAT = {"dtype": "float32, scores in float64"}


def find_kind(name: str, choice: ExtractorChoice) -> str:
    """Return the kind of an extractor by its files; raises BenchError where they are missing or of another kind."""
    found = "inception" if choice.source == INCEPTION else kind_of_files(weights_directory(choice.source))
    if choice.kind not in (None, found):
        raise BenchError(
            f"extractors.{name}.kind={choice.kind} was given, but the files of {choice.source} are those of {found}; "
            "omit the kind, or give another source"
        )
    return found


def kind_of_files(directory: Path) -> str:
    """Return `dinov2` for the layout of transformers, else `openclip`."""
    config = directory / "config.json"
    if not (directory / CONFIG).is_file() and config.is_file():
        try:
            model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError):
            model_type = None
        if model_type == "dinov2":
            return "dinov2"
    return "openclip"


def name_extractor(name: str, choice: ExtractorChoice) -> str:
    """Return the identity of an extractor's features: its weights and preparation of images, by content.

    Raises BenchError where its files are missing or not those of its kind.
    """
    if find_kind(name, choice) == "openclip":
        check_open_clip(name, weights_directory(choice.source))
    return content_hash([name_weights(choice.source), describe_preparation(name, choice)])


def describe_preparation(name: str, choice: ExtractorChoice) -> Mapping[str, str]:
    """Return how an extractor prepares images, as text: resizer, antialias, crop, size and dtype.

    Scores of different preparations are not compared. Raises BenchError as `find_kind` does.
    """
    kind = find_kind(name, choice)
    if kind == "inception":
        return {"resizer": "bilinear of TensorFlow 1", "antialias": "no", "crop": "none", "size": "299", **_FLOAT}
    if kind == "dinov2":
        return {"resizer": "bicubic to 256", "antialias": "yes", "crop": "centre", "size": "224", **_FLOAT}
    config = weights_directory(choice.source) / CONFIG
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
