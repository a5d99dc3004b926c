"""Extractors from OpenCLIP models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import Normalize
from transformers import dynamic_module_utils

from bench.checkpoints.openclip_files import check_open_clip
from bench.features.extractor import Extractor
from bench.records.errors import BenchError


def load_open_clip(name: str, directory: Path, device: str) -> Extractor:
    """Load the OpenCLIP model of a directory (`open_clip_config.json`, safetensors), in float32.

    No code from the model is executed. Raises BenchError for a model that cannot be loaded this way.
    """
    check_open_clip(name, directory)
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # else transformers asks on the terminal whether to run foreign code
    source = f"local-dir:{directory}"
    try:
        model, _, transform = open_clip.create_model_and_transforms(source, device=device, precision="fp32")
        tokenize = open_clip.get_tokenizer(source)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BenchError(
            f"extractors.{name}.source={directory} cannot be loaded ({reason}); give an OpenCLIP model of safetensors "
            "that needs no custom code"
        ) from error
    model.eval()
    normalise = Normalize(model.visual.image_mean, model.visual.image_std)
    size = model.visual.image_size
    size = (size, size) if isinstance(size, int) else tuple(size)

    def preprocess(images: NDArray[np.uint8]) -> torch.Tensor:
        if images.shape[1:3] == size:  # nothing to resize: the same numbers in one operation
            return normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
        return torch.stack([transform(Image.fromarray(image)) for image in images])

    preparation = f"{transform} {size}"
    return Extractor(
        name, model.encode_image, preprocess, torch.device(device), preparation, tokenize, model.encode_text
    )
