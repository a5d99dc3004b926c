"""Features without a network: sharpness and complexity of an image. Needs numpy only.

Each is a model-free measure of complexity, the paper's word for detail; all of them count noise as detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.parallel import map_images

_Pixels = NDArray[np.uint8]
_Floats = NDArray[np.float64]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""The luma weights of ITU-R BT.601."""
HIGH_FREQUENCY = 0.25
"""Cycles per pixel above which a frequency is high: half of the highest frequency."""
HALVINGS = 2
"""The number of halvings of an image for the entropy of its gradients."""
MEASURED_PIXELS = 2**16
"""Pixels measured at once: several small images or one large image, so that all stays in a processor's cache."""


def complexity(images: _Pixels) -> Mapping[str, _Floats]:
    """Return all measures of images (n, h, w, 3), uint8, one row per image, by name."""
    size = max(1, MEASURED_PIXELS // (images.shape[1] * images.shape[2]))
    groups = [images[start : start + size] for start in range(0, len(images), size)]
    measures = (sharpness, bits_per_pixel, high_frequency, gradient_entropy)
    found = np.concatenate(list(map_images(lambda group: [measure(group) for measure in measures], groups)), axis=1)
    return {measure.__name__: rows for measure, rows in zip(measures, found, strict=True)}


def sharpness(images: _Pixels) -> _Floats:
    """Root mean square of the luma's Laplacian, in levels of 255, for images (n, h, w, 3); 0 for a uniform image.

    The focus measure of Pech-Pacheco et al. (ICPR 2000), as a standard deviation. Blur lowers it, noise raises it.
    """
    luma = images.astype(np.float32) @ LUMA
    middle = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return np.sqrt(((around - 4 * middle) ** 2).mean(axis=(1, 2), dtype=np.float64))


def bits_per_pixel(images: _Pixels) -> _Floats:
    """Bits per pixel, over all channels, that a simple lossless coder needs for images (n, h, w, 3); 0 if uniform.

    The entropy of the residuals when each value is predicted from its left, upper and upper left neighbours by the
    median edge detector (LOCO-I of JPEG-LS: Weinberger, Seroussi, Sapiro 2000, IEEE Trans. Image Process. 9:1309,
    eq. 1). It does not depend on the version of a codec.
    """
    values = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.int16)
    left, up, corner = values[..., 1:, :-1], values[..., :-1, 1:], values[..., :-1, :-1]
    predicted = np.clip(left + up - corner, np.minimum(left, up), np.maximum(left, up))
    residuals = (values[..., 1:, 1:] - predicted).astype(np.uint8)
    by_channel = _entropies(residuals.reshape(-1, *residuals.shape[2:]), 256)
    return by_channel.reshape(len(images), -1).sum(axis=1)


def high_frequency(images: _Pixels) -> _Floats:
    """Root mean square of the luma of images (n, h, w, 3) above HIGH_FREQUENCY, in levels of 255.

    Computed by Parseval's theorem from the discrete Fourier transform, under a Hann window so that borders add nothing.
    """
    luma = _luma(images)
    window, weights = _window_and_weights(*luma.shape[1:])
    waves = np.fft.rfft2((luma - luma.mean(axis=(1, 2), keepdims=True)) * window)
    return np.sqrt(((waves.real**2 + waves.imag**2) * weights).sum(axis=(1, 2)))


@cache
def _window_and_weights(height: int, width: int) -> tuple[_Floats, _Floats]:
    """Return a Hann window (h, w), and the weights (h, w // 2 + 1) of the half transform in a mean square.

    Low frequencies have weight 0; those whose conjugates the half transform omits count twice.
    """
    window = np.outer(*(np.hanning(size + 2)[1:-1] for size in (height, width)))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    weights = np.where((columns == 0) | (columns == 0.5), 1.0, 2.0) * (np.hypot(rows, columns) > HIGH_FREQUENCY)
    return window, weights / (window.size * np.square(window).sum())


def gradient_entropy(images: _Pixels) -> _Floats:
    """Entropy of the luma's gradient magnitudes in whole levels, bits, for images (n, h, w, 3); 0 for a uniform image.

    The mean over an image at 1, 1/2 and 1/4 of its size; sizes below 8 pixels per side are skipped.
    """
    luma = _luma(images)
    found = [_gradient_entropies(luma)]
    for _ in range(HALVINGS):
        height, width = (size // 2 * 2 for size in luma.shape[1:])
        if min(height, width) < 16:
            break
        rows = luma[:, :height:2] + luma[:, 1:height:2]
        luma = (rows[:, :, :width:2] + rows[:, :, 1:width:2]) / 4
        found.append(_gradient_entropies(luma))
    return np.mean(found, axis=0)


def _gradient_entropies(luma: _Floats) -> _Floats:
    corner = luma[:, :-1, :-1]
    magnitudes = np.sqrt((luma[:, 1:, :-1] - corner) ** 2 + (luma[:, :-1, 1:] - corner) ** 2)
    return _entropies(np.rint(magnitudes), 362)


def _luma(images: _Pixels) -> _Floats:
    return images.astype(np.float64) @ LUMA.astype(np.float64)


def _entropies(values: NDArray[Any], levels: int) -> _Floats:
    """Shannon entropies (n,) of whole numbers (n, …) from 0 to below `levels`, bits."""
    own = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1)) * levels + values.astype(np.intp)
    counts = np.bincount(own.ravel(), minlength=len(values) * levels).reshape(len(values), levels)
    shares = counts / counts.sum(axis=1, keepdims=True)
    return -(shares * np.log2(shares, out=np.zeros_like(shares), where=shares > 0)).sum(axis=1) + 0.0
