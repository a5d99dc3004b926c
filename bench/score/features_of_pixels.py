"""Features that need no network: how sharp an image is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Of ITU-R BT.601."""


def sharpness(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Root mean square of the luma's Laplacian, in levels of 255, for images (n, h, w, 3); 0 for an even one.

    The focus measure of Pech-Pacheco et al. (ICPR 2000), as a standard deviation. Blur lowers it, noise raises it.
    """
    luma = images.astype(np.float32) @ LUMA
    middle = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    found: NDArray[np.float64] = np.sqrt(((around - 4 * middle) ** 2).mean(axis=(1, 2), dtype=np.float64))
    return found
