"""Quantised weights: denoisers and large text encoders are quantised by a library while they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers

from bench.generate.denoisers import DENOISERS


def quantization_of(option: str, components: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Return diffusers' configuration for loading a pipeline with quantised weights.

    `components` is the pipeline's model_index.json: the library and the class of each component. Quantised are the
    denoisers, and the text encoders but CLIP's, which are small.
    """
    mapping = {}
    for name, entry in components.items():
        kind = str(entry[1]) if isinstance(entry, list | tuple) and len(entry) == 2 else ""
        if name in DENOISERS and kind:
            mapping[name] = _config(option, dtype, diffusers)
        elif name.startswith("text_encoder") and kind and not kind.startswith(("CLIP", "None")):
            mapping[name] = _config(option, dtype, transformers)
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)


def _config(option: str, dtype: torch.dtype, library: Any) -> Any:
    """Return a library's own configuration; torchao and quanto are named differently in diffusers and transformers."""
    if option == "bitsandbytes_4bit":
        return library.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if option == "bitsandbytes_8bit":
        return library.BitsAndBytesConfig(load_in_8bit=True)
    if option == "torchao_int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return library.TorchAoConfig(Int8WeightOnlyConfig())
    return library.QuantoConfig(**{"weights_dtype" if library is diffusers else "weights": "int8"})
