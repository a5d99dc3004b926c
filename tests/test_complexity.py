"""Measures of image complexity: equal to their definitions, and lower for blurred images."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, laplace

from bench.features.pixels import LUMA, bits_per_pixel, complexity, gradient_entropy, high_frequency, sharpness

Pixels = NDArray[np.uint8]
MEASURES = ("sharpness", "bits_per_pixel", "high_frequency", "gradient_entropy")


def noise(height: int = 32, width: int = 40) -> Pixels:
    """An image of independent values."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def wave(cycles_per_pixel: float, amplitude: float, size: int = 64) -> Pixels:
    """A grey cosine from left to right."""
    row = 128 + amplitude * np.cos(2 * np.pi * cycles_per_pixel * np.arange(size))
    return np.repeat(np.tile(row, (size, 1))[..., None], 3, axis=2).round().astype(np.uint8)


@pytest.mark.parametrize("name", MEASURES)
def test_blur_lowers_every_measure_and_a_uniform_image_has_zero(name: str) -> None:
    image = noise()
    blurred = [gaussian_filter(image, (sigma, sigma, 0)) for sigma in (0.7, 1.5)]
    found = complexity(np.stack([image, *blurred, np.full_like(image, 90)]))[name]
    assert found.shape == (4,)
    assert found[0] > 1.03 * found[1] > 1.05 * found[2]
    assert found[3] == pytest.approx(0, abs=1e-4)


def test_images_are_measured_in_independent_pieces() -> None:
    images = np.stack([noise(64, 64) // divisor for divisor in range(1, 40)])
    together, alone = complexity(images), [complexity(image[None]) for image in images]
    for name in MEASURES:
        assert together[name] == pytest.approx([one[name][0] for one in alone], rel=1e-12)


def test_sharpness_is_the_spread_of_the_laplacian() -> None:
    image = noise()
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert sharpness(image[None])[0] == pytest.approx(np.sqrt((laplace(luma)[1:-1, 1:-1] ** 2).mean()), rel=1e-5)


def test_noise_cannot_be_compressed_and_a_ramp_nearly_vanishes() -> None:
    assert bits_per_pixel(noise(256, 256)[None]) == pytest.approx(24, abs=0.05)
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64))[..., None].repeat(3, axis=2).astype(np.uint8)
    assert bits_per_pixel(ramp[None]) < 1


def test_bits_per_pixel_predicts_by_the_median_edge_detector() -> None:
    image = noise(5, 6)[..., :1]
    values = image[..., 0].astype(int)
    residuals = []
    for y in range(1, 5):
        for x in range(1, 6):
            left, up, corner = values[y, x - 1], values[y - 1, x], values[y - 1, x - 1]
            residuals.append((values[y, x] - sorted((left, up, left + up - corner))[1]) % 256)
    shares = np.unique(residuals, return_counts=True)[1] / len(residuals)
    assert bits_per_pixel(image[None]) == pytest.approx(-(shares * np.log2(shares)).sum(), rel=1e-12)


def test_high_frequency_is_the_amplitude_of_high_frequencies() -> None:
    assert high_frequency(wave(0.375, 60)[None]) == pytest.approx(60 / np.sqrt(2), rel=0.02)
    assert high_frequency(wave(0.125, 60)[None]) < 1


def test_gradient_entropy_counts_levels_at_three_scales() -> None:
    columns = np.tile(np.where(np.arange(64) % 32 < 16, 0, 64), (64, 1))[..., None].repeat(3, axis=2).astype(np.uint8)
    shares = [3 / (64 // scale - 1) for scale in (1, 2, 4)]
    expected = np.mean([-(s * np.log2(s) + (1 - s) * np.log2(1 - s)) for s in shares])
    assert gradient_entropy(columns[None]) == pytest.approx(expected, rel=1e-12)
    assert LUMA.sum() == pytest.approx(1)
