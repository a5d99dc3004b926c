"""Conversion of a pipeline's output to uint8 on the host, without waiting for the device until the result is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.records.errors import CellError

PixelArray = NDArray[np.uint8]


def quantise(images: torch.Tensor, rows: Sequence[int]) -> Callable[[], PixelArray]:
    """Floats in [0, 1], (n, 3, h, w) → uint8 (n, h, w, 3), rounded as diffusers does when it saves a PNG.

    The work is queued on the device at once; the returned function waits for the device and gives the images, or raises
    CellError for NaN, infinity or all-black images, named by `rows`.
    """
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    pixels = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    arrays = start_transfer(pixels, finite, pixels.flatten(1).any(dim=1))

    def wait() -> PixelArray:
        array: PixelArray
        array, finite, lit = arrays()
        if not finite.all():
            raise CellError(
                f"image {rows[int(np.flatnonzero(~finite)[0])]} holds NaN or infinity; a VAE that overflows in "
                "float16, as SDXL's does, needs memory_options.vae_upcast=true"
            )
        if not lit.all():
            raise CellError(f"image {rows[int(np.flatnonzero(~lit)[0])]} is all black")
        return array

    return wait


def start_transfer(*tensors: torch.Tensor) -> Callable[[], list[NDArray[Any]]]:
    """Start to copy tensors to the host; the returned function waits for the copies and gives them as arrays."""
    device = tensors[0].device
    if device.type != "cuda":
        return lambda: [tensor.cpu().numpy() for tensor in tensors]
    on_host = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for mine, theirs in zip(on_host, tensors, strict=True):
        mine.copy_(theirs, non_blocking=True)
    copied: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(device))

    def wait() -> list[NDArray[Any]]:
        copied.synchronize()
        return [tensor.numpy() for tensor in on_host]

    return wait
