"""Features of published FIDs: the Inception network of 2015 as ported by torch-fidelity, 2048 dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from bench.features.openclip import Evaluator
from bench.records.errors import BenchError


def load_inception(name: str, weights: Path, device: str) -> Evaluator:
    """Return an evaluator that embeds images and has no text encoder; it resizes to 299 pixels as TensorFlow did.

    Raises BenchError without torch-fidelity.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise BenchError(
            "evaluator.source=inception:// needs torch-fidelity; install it with `pip install tcd-bench[inception]`"
        ) from error
    torch.load(weights, weights_only=True)  # torch-fidelity would also unpickle code
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))
    return Evaluator(name, _Tower(network.to(device)), _to_tensor, _no_tokens, torch.device(device))


class _Tower:
    """The network with the interface of an evaluator."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._network(pixels)[0]

    def encode_text(self, tokens: object) -> NoReturn:
        raise BenchError("inception:// has no text encoder; use an OpenCLIP model for scores of captions")


def _to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _no_tokens(texts: Sequence[str]) -> torch.Tensor:
    return torch.empty(len(texts), 0)
