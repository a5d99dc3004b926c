"""Extractors in the layout of transformers: CLIP, SigLIP (also SigLIP 2 of fixed resolution) and DINOv2.

Images are prepared as preprocessor_config.json says, by transformers' own processors of Pillow. For Fréchet distances
Stein et al. 2023 (arXiv 2306.04675) recommend the class token of DINOv2 ViT-L/14 in place of Inception.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.checkpoints.extractors import PREPROCESSOR, check_tower
from bench.features.extractor import Extractor
from bench.features.pretrained import load_pretrained
from bench.records.errors import BenchError


def load_tower(name: str, kind: str, directory: Path, device: str) -> Extractor:
    """Return the extractor of a directory with config.json, preprocessor_config.json and safetensors.

    Raises BenchError for a directory that lacks some of its files or tensors. DINOv2 has no text encoder.
    """
    import transformers

    check_tower(name, kind, directory)
    setting = f"extractors.{name}.source={directory}"
    networks, processors = {
        "clip": (transformers.CLIPModel, transformers.CLIPImageProcessorPil),
        "siglip": (transformers.SiglipModel, transformers.SiglipImageProcessorPil),
        "dinov2": (transformers.Dinov2Model, transformers.BitImageProcessorPil),
    }[kind]
    model = load_pretrained(networks, directory, setting, device)
    processor = processors.from_pretrained(directory)

    def preprocess(images: NDArray[np.uint8]) -> torch.Tensor:
        return processor([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        if kind == "dinov2":
            return model(pixel_values=pixels).last_hidden_state[:, 0]
        return model.get_image_features(pixel_values=pixels).pooler_output

    def encode_text(tokens: torch.Tensor) -> torch.Tensor:
        return model.get_text_features(input_ids=tokens).pooler_output

    said = {key: value for key, value in processor.to_dict().items() if not key.endswith(("_type", "_class"))}
    preparation = f"{PREPROCESSOR} {sorted(said.items())}"
    if kind == "dinov2":
        return Extractor(name, encode, preprocess, torch.device(device), preparation)
    tokenize = _tokenizer(setting, kind, directory, model.config.text_config.max_position_embeddings)
    return Extractor(name, encode, preprocess, torch.device(device), preparation, tokenize, encode_text)


def _tokenizer(setting: str, kind: str, directory: Path, length: int) -> Callable[..., torch.Tensor]:
    """Return what makes ids (n, `context_length`) of texts: cut to it, with an end token, and padded.

    SigLIP's captions are canonical, as those that it was trained on: in lower case, of the first version also without
    punctuation. Its tokenizer is read from tokenizer.json alone: the class of the first one needs another library.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    reader: Any = PreTrainedTokenizerFast if kind == "siglip" else AutoTokenizer
    options = {} if kind == "siglip" else {"trust_remote_code": False}
    try:
        tokenizer = reader.from_pretrained(directory, local_files_only=True, **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BenchError(f"{setting}: its tokenizer cannot be loaded ({reason}); fetch or copy it again") from error
    end = tokenizer.eos_token_id
    if end is None or tokenizer("a").input_ids[-1] != end:
        raise BenchError(
            f"{setting}: its tokenizer does not end a caption with the end token, from which a {kind} reads it; fetch "
            "its files again"
        )
    canonical = _canonical_form(directory) if kind == "siglip" else str

    def tokenize(texts: Sequence[str], context_length: int = length) -> torch.Tensor:
        given = [canonical(text) for text in texts]
        options = {"padding": "max_length", "truncation": True, "max_length": context_length}
        return tokenizer(given, return_tensors="pt", **options).input_ids

    return tokenize


def _canonical_form(directory: Path) -> Callable[[str], str]:
    config = directory / "tokenizer_config.json"
    said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    dropped = str.maketrans("", "", string.punctuation) if said.get("tokenizer_class") == "SiglipTokenizer" else {}
    return lambda text: " ".join(text.lower().translate(dropped).split())
