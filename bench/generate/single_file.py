"""A pipeline from one .safetensors file and the configuration of its architecture; works offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file

from bench.checkpoints.headers import layout_of, read_header, read_json
from bench.records.errors import BenchError


def load_single_file(pipeline_class: Any, path: Path, config: Path, dtype: torch.dtype, parts: dict[str, Any]) -> Any:
    """Return the pipeline, with configurations, tokenizers and scheduler from the directory `config`.

    Raises BenchError where the file's tensors do not match that configuration.
    """
    try:
        if layout_of(read_header(path)) == "parts":
            return _from_parts(pipeline_class, path, config, dtype, parts)
        pipeline = pipeline_class.from_single_file(
            str(path), config=str(config), local_files_only=True, dtype=dtype, **parts
        )
    except (RuntimeError, ValueError, KeyError, OSError, NotImplementedError) as error:
        raise _misfit(path, config, " ".join(str(error).split())[:300]) from error
    for name, model in pipeline.components.items():
        if isinstance(model, torch.nn.Module) and any(tensor.is_meta for tensor in model.parameters()):
            raise _misfit(path, config, f"the {name} lacks weights")
    return pipeline


def _from_parts(pipeline_class: Any, path: Path, config: Path, dtype: torch.dtype, parts: dict[str, Any]) -> Any:
    """Load a file whose tensors have the names of save_pretrained, each prefixed with its part and a dot."""
    tensors = load_file(path)
    models = {}
    for name, value in read_json(config / "model_index.json").items():
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
        if not own or not isinstance(value, list):
            continue
        library, kind = value
        if library == "diffusers":
            model_class: Any = getattr(diffusers, kind)
            model = model_class.from_config(model_class.load_config(str(config), subfolder=name))
        else:
            model_class = getattr(transformers, kind)
            model = model_class(model_class.config_class.from_pretrained(str(config), subfolder=name))
            if not hasattr(model, "text_model"):  # transformers before 5.6 had one more level
                own = {key.removeprefix("text_model."): tensor for key, tensor in own.items()}
        model.load_state_dict(own)
        models[name] = model.to(dtype).eval()
    return pipeline_class.from_pretrained(str(config), local_files_only=True, **models, **parts)


def _misfit(path: Path, config: Path, reason: str) -> BenchError:
    return BenchError(f"{path} does not fit the configuration {config} ({reason}); give that of its architecture")
