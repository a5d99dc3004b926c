"""Requirements of an OpenCLIP directory, checked before anything is loaded from it. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.records.errors import BenchError

CONFIG = "open_clip_config.json"


def check_open_clip(name: str, directory: Path) -> None:
    """Refuse an extractor's directory that is not an OpenCLIP model of safetensors, or requires running its own code.

    Raises BenchError. A model's `tokenizer_kwargs` are passed to transformers unchanged, `trust_remote_code` included.
    """
    setting = f"extractors.{name}.source={directory}"
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
        asked = {name for name, value in _settings(config) if name == "trust_remote_code" and value}
        config["text_cfg"].items(), config["vision_cfg"]["image_size"]
    except OSError as error:
        raise BenchError(
            f"{setting} has no {CONFIG} ({error.strerror}); give the directory of an OpenCLIP model"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BenchError(f"{setting}: its {CONFIG} is not that of an OpenCLIP model") from error
    if asked:
        raise BenchError(
            f"{setting}: its {CONFIG} requires trust_remote_code, to run code that comes with the "
            "model, which is never done; use a model that does not need it"
        )
    if not any(directory.glob("*.safetensors")):
        raise BenchError(
            f"{setting} holds no .safetensors; its weights are not read from other files, which may "
            "run code; convert them to open_clip_model.safetensors"
        )


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all names at any depth, with their values."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            yield from _settings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _settings(inner)
