"""Embeddings by a vision transformer without captions: DINOv2, for Fréchet distances as in Stein et al. 2023.

They (arXiv 2306.04675) recommend the class token of DINOv2 ViT-L/14 in place of Inception.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from bench.features.extractor import Extractor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZED, SIZE = 256, 224


def load_dinov2(name: str, directory: Path, device: str) -> Extractor:
    """Return an extractor that embeds images (the class token) and has no text encoder.

    The shorter side is resized to 256 pixels, bicubic with antialias; centre crop 224; ImageNet's mean and deviation.
    """
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(directory, use_safetensors=True).to(device).eval()
    steps: Any = Compose(
        [Resize(RESIZED, InterpolationMode.BICUBIC), CenterCrop(SIZE), ToTensor(), Normalize(MEAN, STD)]
    )

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = model(pixel_values=pixels).last_hidden_state[:, 0]
        return tokens

    def preprocess(images: NDArray[np.uint8]) -> torch.Tensor:
        return torch.stack([steps(Image.fromarray(image)) for image in images])

    return Extractor(name, encode, preprocess, torch.device(device), str(steps))
