"""Extractors by their files: their kind, identity and preparation of images. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from bench.checkpoints.openclip_files import CONFIG, check_open_clip
from bench.checkpoints.own_code import hash_own, import_own
from bench.checkpoints.sources import name_weights, weights_directory
from bench.experiment.extractors import INCEPTION, ExtractorChoice
from bench.records.cell import content_hash
from bench.records.errors import BenchError

TOWERS = ("clip", "siglip", "dinov2")
"""Networks in the layout of transformers, by the `model_type` of their config.json."""
WITHOUT_TEXT = ("dinov2", "inception", "own")
"""Kinds without a text encoder."""
PREPROCESSOR, TOKENIZER = "preprocessor_config.json", "tokenizer.json"
_FLOAT = {"dtype": "float32, scores in float64"}
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers."""


def find_kind(name: str, choice: ExtractorChoice) -> str:
    """Return the kind of an extractor: `own`, or that of its files; raises BenchError where they are of another."""
    if choice.own is not None or choice.source is None:
        return "own"
    setting = f"extractors.{name}"
    if choice.source == INCEPTION:
        found: tuple[str, ...] = ("inception",)
    else:
        found = kinds_of_files(weights_directory(choice.source))
    if unknown := found[0] not in ("openclip", "inception", *TOWERS):
        raise BenchError(
            f"{setting}.source={choice.source} is a {found[0]} of transformers, which cannot be an extractor; give an "
            f"OpenCLIP model, or one of {', '.join(TOWERS)}"
        )
    if not unknown and choice.kind not in (None, *found):
        raise BenchError(
            f"{setting}.kind={choice.kind} was given, but the files of {choice.source} are those of "
            f"{' or '.join(found)}; omit the kind, or give another source"
        )
    return choice.kind or found[0]


def kinds_of_files(directory: Path) -> tuple[str, ...]:
    """Return what a directory's files can be read as, the default first; `openclip` where nothing says otherwise.

    Besides the known kinds it may be the `model_type` of any network of transformers.
    """
    has_open_clip = (directory / CONFIG).is_file()
    model_type = _read(directory / "config.json").get("model_type")
    if not isinstance(model_type, str) or (has_open_clip and model_type not in TOWERS):
        return ("openclip",)
    return ("openclip", model_type) if has_open_clip else (model_type,)


def name_extractor(name: str, choice: ExtractorChoice) -> str:
    """Return the identity of an extractor's features: its weights and preparation of images, by content.

    Of an own class it is the code and the source. Raises BenchError where files are missing or unfit, or a class cannot
    be imported.
    """
    kind, weights = find_kind(name, choice), name_weights(choice.source) if choice.source else ""
    if choice.own is not None:
        own_class(name, choice.own)
        return content_hash([choice.own, _name_code(choice.own), weights])
    directory = weights_directory(str(choice.source))
    if kind == "openclip":
        check_open_clip(name, directory)
    elif kind in TOWERS:
        check_tower(name, kind, directory)
    return content_hash([weights, describe_preparation(name, choice)])


def own_class(name: str, own: str) -> type[Any]:
    """Return a user's own extractor class; raises BenchError where it cannot be imported, or its objects called."""
    setting = f"extractors.{name}.own={own}"
    found = import_own(own, setting, "my_features.MyExtractor")
    if not isinstance(found, type) or not any("__call__" in base.__dict__ for base in found.__mro__):
        raise BenchError(f"{setting} is not a class whose instances can be called; define __init__ and __call__")
    return found


def _name_code(own: str) -> str:
    """Return the hash of a user's code, or the version of what is installed."""
    if (code := hash_own(own)) is not None:
        return code
    package = own.partition(".")[0]
    return ",".join(f"{name}=={version(name)}" for name in sorted({*packages_distributions().get(package, ())}))


def check_tower(name: str, kind: str, directory: Path) -> None:
    """Refuse a directory in the layout of transformers that lacks what its kind needs besides weights."""
    needed = [PREPROCESSOR, *([TOKENIZER] if kind == "siglip" else [])]
    if lacking := [file for file in needed if not (directory / file).is_file()]:
        raise BenchError(
            f"extractors.{name}.source={directory} holds no {' and no '.join(lacking)}; fetch or copy it as its "
            "repository has it"
        )


def dimensions_of(choice: ExtractorChoice, kind: str) -> int | None:
    """Return the number of an extractor's features, as far as its configuration states it."""
    if kind == "inception":
        return 2048
    places = {"openclip": (CONFIG, "model_cfg.embed_dim"), "clip": ("config.json", "projection_dim")}
    places["dinov2"] = "config.json", "hidden_size"
    if kind not in places:
        return None
    name, path = places[kind]
    said: Any = _read(weights_directory(str(choice.source)) / name)
    for part in path.split("."):
        said = said.get(part) if isinstance(said, dict) else None
    return said if isinstance(said, int) else None


def describe_preparation(name: str, choice: ExtractorChoice) -> Mapping[str, str]:
    """Return how an extractor prepares images, as text: resizer, antialias, crop, size and dtype.

    Scores of different preparations are not compared. Raises BenchError as `find_kind` does.
    """
    kind = find_kind(name, choice)
    if kind == "own":
        return {"resizer": f"{choice.own}'s own"}
    if kind == "inception":
        return {"resizer": "bilinear of TensorFlow 1", "antialias": "no", "crop": "none", "size": "299", **_FLOAT}
    directory = weights_directory(str(choice.source))
    if kind in TOWERS:
        return _describe_processor(kind, _read(directory / PREPROCESSOR))
    said = _read(directory / CONFIG)
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


def _describe_processor(kind: str, said: Mapping[str, Any]) -> Mapping[str, str]:
    size, crops = said.get("size", 224), said.get("do_center_crop", kind != "siglip")
    if isinstance(size, int):
        size = {"height": size, "width": size} if kind == "siglip" else {"shortest_edge": size}
    crop = said.get("crop_size", 224) if crops else size
    crop = crop if isinstance(crop, int) else crop.get("height", crop.get("shortest_edge"))
    shortest = size.get("shortest_edge")
    to = f"to {size.get('height')} × {size.get('width')}" if shortest is None else f"shortest side to {shortest}"
    resampling = _RESAMPLING.get(said.get("resample", 3), "as in its configuration")
    return {
        "resizer": f"{resampling}, {to}" if said.get("do_resize", True) else "none",
        "antialias": "yes",
        "crop": "centre" if crops else "none",
        "size": str(crop),
        **_FLOAT,
    }


def _read(path: Path) -> dict[str, Any]:
    """Return a configuration; empty where there is none that can be read."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}
