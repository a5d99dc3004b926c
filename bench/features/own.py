"""Extractors by a user's own class: images → features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.checkpoints.extractors import own_class
from bench.checkpoints.sources import weights_directory
from bench.features.extractor import Extractor
from bench.records.errors import BenchError


def load_own_extractor(name: str, own: str, source: str | None, device: str) -> Extractor:
    """Return the extractor by a class of dotted path `own`, made as `Class(source, device)`; which gets a path or "".

    Raises BenchError where it cannot be imported or made. Its features are checked whenever it is called.
    """
    setting = f"extractors.{name}.own={own}"
    path = str(weights_directory(source)) if source else ""
    kind = own_class(name, own)
    try:
        network = kind(path, device)
    except Exception as error:
        raise BenchError(f"{setting}: {kind.__name__}({path!r}, {device!r}) {_failed(error)}") from error
    return Extractor(name, _Checked(setting, network).encode, torch.from_numpy, torch.device("cpu"))


@dataclass
class _Checked:
    """The network of a user, whose features are refused where they cannot be used."""

    setting: str
    network: Callable[[Any], Any]
    width: int | None = None

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images uint8 (n, h, w, 3) → features (n, d)."""
        try:
            given = self.network(images.numpy())
            found = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given)
        except Exception as error:
            raise BenchError(
                f"{self.setting} {_failed(error)}; it is called with images, uint8 (n, h, w, 3)"
            ) from error
        fits = found.ndim == 2 and len(found) == len(images) and found.shape[1] > 0
        if not fits or not np.issubdtype(found.dtype, np.floating) or self.width not in (None, found.shape[1]):
            before = "" if self.width is None else f", and {self.width} features each before"
            raise BenchError(
                f"{self.setting} returned an array of shape {found.shape} and type {found.dtype} for {len(images)} "
                f"images{before}; return a float array (n, d) with one row per image, and always the same d"
            )
        if not np.isfinite(found).all():
            raise BenchError(f"{self.setting} returned values that are not finite; return finite features")
        self.width = found.shape[1]
        return torch.from_numpy(np.ascontiguousarray(found, np.float32))


def _failed(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
