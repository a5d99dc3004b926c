"""Features of published FIDs: the Inception network of 2015 as ported by torch-fidelity, 2048 dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.features.extractor import Extractor
from bench.records.errors import BenchError


def load_inception(name: str, weights: Path, device: str) -> Extractor:
    """Return an extractor that embeds images and has no text encoder; it resizes to 299 pixels as TensorFlow did.

    Raises BenchError without torch-fidelity.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise BenchError(
            f"extractors.{name}.source=inception:// needs torch-fidelity; install it with "
            "`pip install tcd-bench[inception]`"
        ) from error
    torch.load(weights, weights_only=True)  # torch-fidelity would also unpickle code
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))
    network.to(device)
    return Extractor(name, lambda pixels: network(pixels)[0], _to_tensor, torch.device(device), "uint8")


def _to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)
