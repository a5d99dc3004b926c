"""Features that need no network: how sharp an image is, and how much there is in it. numpy only.

Each is a model-free measure of complexity, the paper's word for detail; noise counts as detail to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Of ITU-R BT.601."""
HIGH_FREQUENCY = 0.25
"""Cycles a pixel above which a frequency is high: half of the highest there is."""
SCALES = (1, 2, 4)


def complexity(images: Pixels, each: Callable[..., Iterable[Any]] = map) -> Mapping[str, Floats]:
    """All measures of images (n, h, w, 3), uint8, one row an image, by name; `each` is `map`, or one in threads."""
    measures = (bits_per_pixel, high_frequency, gradient_entropy)
    found = np.array(list(each(lambda image: [measure(image) for measure in measures], images)))
    return {"sharpness": sharpness(images), **{m.__name__: found[:, i] for i, m in enumerate(measures)}}


def sharpness(images: Pixels) -> Floats:
    """Root mean square of the luma's Laplacian, in levels of 255, for images (n, h, w, 3); 0 for an even one.

    The focus measure of Pech-Pacheco et al. (ICPR 2000), as a standard deviation. Blur lowers it, noise raises it.
    """
    luma = images.astype(np.float32) @ LUMA
    middle = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    found: Floats = np.sqrt(((around - 4 * middle) ** 2).mean(axis=(1, 2), dtype=np.float64))
    return found


def bits_per_pixel(image: Pixels) -> float:
    """What a simple lossless coder needs for an image (h, w, 3), bits a pixel over all channels; 0 for an even one.

    The entropy of what is left when each value is predicted from its left, upper and upper left neighbours by the
    median edge detector (LOCO-I of JPEG-LS: Weinberger, Seroussi, Sapiro 2000, IEEE Trans. Image Process. 9:1309,
    eq. 1). No codec's version changes it.
    """
    values = image.astype(np.int16)
    left, up, corner = values[1:, :-1], values[:-1, 1:], values[:-1, :-1]
    predicted = np.clip(left + up - corner, np.minimum(left, up), np.maximum(left, up))
    residuals = (values[1:, 1:] - predicted).astype(np.uint8)
    return sum(_entropy(np.bincount(channel, minlength=256)) for channel in residuals.reshape(-1, image.shape[2]).T)


def high_frequency(image: Pixels) -> float:
    """Root mean square of what the luma of an image (h, w, 3) has above HIGH_FREQUENCY, in levels of 255.

    By Parseval's theorem from the discrete Fourier transform, under a Hann window so that the borders add nothing.
    """
    luma = image.astype(np.float64) @ LUMA.astype(np.float64)
    window, weights = _window_and_weights(*luma.shape)
    power = np.abs(np.fft.rfft2((luma - luma.mean()) * window)) ** 2
    return float(np.sqrt((power * weights).sum()))


@cache
def _window_and_weights(height: int, width: int) -> tuple[Floats, Floats]:
    """A Hann window (h, w), and what each frequency (h, w // 2 + 1) of the half transform weighs in a mean square.

    Low frequencies weigh nothing, and those whose conjugates the half transform leaves out weigh double.
    """
    window = np.outer(*(np.hanning(size + 2)[1:-1] for size in (height, width)))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    weights = np.where((columns == 0) | (columns == 0.5), 1.0, 2.0) * (np.hypot(rows, columns) > HIGH_FREQUENCY)
    return window, weights / (window.size * np.square(window).sum())


def gradient_entropy(image: Pixels) -> float:
    """Entropy of the luma's gradient magnitudes in whole levels, bits, mean over the image at 1, 1/2 and 1/4 its size.

    Scales that leave fewer than 8 pixels on a side are left out. 0 for an even image.
    """
    luma = image.astype(np.float64) @ LUMA.astype(np.float64)
    found = []
    for scale in SCALES:
        height, width = (size // scale for size in luma.shape)
        if min(height, width) >= 8 or scale == 1:
            small = luma[: height * scale, : width * scale].reshape(height, scale, width, scale).mean(axis=(1, 3))
            magnitude = np.hypot(small[1:, :-1] - small[:-1, :-1], small[:-1, 1:] - small[:-1, :-1])
            found.append(_entropy(np.bincount(np.rint(magnitude).astype(int).ravel())))
    return float(np.mean(found))


def _entropy(counts: NDArray[np.int_]) -> float:
    """Shannon entropy of counts, bits."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0
