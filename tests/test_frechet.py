"""The Fréchet distance equals the reference implementations, and its standard error is the spread over draws."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from bench.score.estimate import paired_difference
from bench.score.frechet import Reference, features_to_moments, frechet_distance

Floats = NDArray[np.float64]
SHAPES = [(16, 200), (16, 10), (64, 300), (64, 40)]
"""Dimension and number of images: more images than dimensions, and fewer (a covariance of deficient rank)."""


def draw(rng: np.random.Generator, n: int, d: int, shift: float = 0.0, scale: float = 1.0) -> Floats:
    """Correlated, skewed features (n, d)."""
    mixing = np.random.default_rng(d).standard_normal((d, d)) / np.sqrt(d)
    skewed = rng.exponential(1.0, (n, d)) - 1
    mixed: Floats = skewed @ mixing + 0.3 * rng.standard_normal((n, d))
    return shift + scale * mixed


class Features(torch.nn.Module):
    """Stands for an Inception network: hands on the features that it is given."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.num_features = d

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_the_distance_is_that_of_torchmetrics(d: int, n: int) -> None:
    rng = np.random.default_rng(1)
    ours, real = draw(rng, n, d, shift=0.2, scale=1.3), draw(rng, n + 7, d)
    metric = FrechetInceptionDistance(feature=Features(d)).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(ours), real=False)
    assert frechet_distance(ours, Reference.of(real)).value == pytest.approx(float(metric.compute()), rel=1e-6)


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_the_distance_is_that_of_torch_fidelity(d: int, n: int) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    rng = np.random.default_rng(2)
    ours, real = draw(rng, n, d, shift=0.2, scale=1.3), draw(rng, n + 7, d)
    statistics = [fidelity.fid_features_to_statistics(torch.from_numpy(features)) for features in (ours, real)]
    expected = fidelity.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(ours, Reference.of(real)).value == pytest.approx(expected, rel=1e-6)


def test_the_distance_of_known_gaussians_is_the_closed_form() -> None:
    cube = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    variance = 8 / 7
    ours, real = cube * [3.0, 1.0, 2.0] + [1.0, 0.0, -2.0], cube * [1.0, 1.0, 0.5]
    expected = 1 + 4 + variance * ((3 - 1) ** 2 + (2 - 0.5) ** 2)
    assert frechet_distance(ours, Reference.of(real)).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_a_set_has_no_distance_from_itself(d: int, n: int) -> None:
    features = draw(np.random.default_rng(3), n, d)
    assert abs(frechet_distance(features, Reference.of(features)).value) < 1e-5


def test_single_precision_features_lose_nothing_more() -> None:
    rng = np.random.default_rng(4)
    ours, real = (draw(rng, 200, 16, shift=50.0).astype(np.float32) for _ in range(2))
    exact = frechet_distance(ours.astype(np.float64), Reference.of(real.astype(np.float64)))
    assert frechet_distance(ours, Reference.of(real)).value == exact.value


def test_features_of_one_dimension_are_allowed() -> None:
    ours, real = np.array([[0.0], [2.0]]), np.array([[5.0], [9.0]])
    assert frechet_distance(ours, Reference.of(real)).value == pytest.approx(36 + (np.sqrt(8) - np.sqrt(2)) ** 2)


def test_the_influence_of_an_image_is_the_derivative_by_its_weight() -> None:
    rng = np.random.default_rng(5)
    ours, real = draw(rng, 100, 3, shift=0.3, scale=1.2), draw(rng, 200, 3)

    def distance(weight: float, image: Floats) -> float:
        """Between the real images and a mixture of ours with one image, from the definition."""
        offset, covariance = image - ours.mean(axis=0), np.cov(ours, rowvar=False)
        mean = ours.mean(axis=0) + weight * offset - real.mean(axis=0)
        mixed = (1 - weight) * covariance + weight * (1 - weight) * np.outer(offset, offset)
        other = np.cov(real, rowvar=False)
        return float(mean @ mean + np.trace(mixed + other - 2 * sqrtm(mixed @ other).real))

    slopes = np.array([(distance(1e-5, image) - distance(-1e-5, image)) / 2e-5 for image in ours])
    assert frechet_distance(ours, Reference.of(real)).influence == pytest.approx(slopes - slopes.mean(), abs=1e-4)


def test_the_standard_error_is_the_spread_over_draws() -> None:
    rng = np.random.default_rng(6)
    reference = Reference.of(draw(rng, 2000, 4))
    draws = [frechet_distance(draw(rng, 250, 4, shift=0.3, scale=1.2), reference) for _ in range(400)]
    spread = np.std([estimate.value for estimate in draws], ddof=1)
    assert np.mean([estimate.standard_error for estimate in draws]) == pytest.approx(spread, rel=0.15)


def test_the_paired_difference_knows_how_alike_two_methods_are() -> None:
    rng = np.random.default_rng(7)
    reference = Reference.of(draw(rng, 2000, 4))
    differences, unpaired = [], []
    for _ in range(400):
        ours = draw(rng, 250, 4, shift=0.3, scale=1.2)
        theirs = ours + 0.05 + 0.05 * rng.standard_normal(ours.shape)
        pair = frechet_distance(ours, reference), frechet_distance(theirs, reference)
        differences.append(paired_difference(*pair))
        unpaired.append(np.hypot(pair[0].standard_error, pair[1].standard_error))
    error = np.mean([difference.standard_error for difference in differences])
    assert error == pytest.approx(np.std([difference.value for difference in differences], ddof=1), rel=0.15)
    assert error < 0.25 * np.mean(unpaired)


def test_moments_are_the_mean_and_the_unbiased_covariance() -> None:
    moments = features_to_moments(np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]], np.float32))
    assert moments.n == 3
    assert moments.mean.tolist() == [2.0, 2.0]
    assert moments.covariance == pytest.approx(np.array([[4.0, 3.0], [3.0, 3.0]]))
    assert moments.covariance.dtype == np.float64


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(broken: float) -> None:
    features = draw(np.random.default_rng(8), 20, 4)
    reference = Reference.of(features)
    features[3, 2] = broken
    with pytest.raises(ValueError, match="NaN or infinity; look for broken images"):
        frechet_distance(features, reference)
    with pytest.raises(ValueError, match="NaN or infinity; look for broken images"):
        Reference.of(features)


@pytest.mark.parametrize("shape", [(1, 4), (0, 4), (4,)])
def test_too_few_rows_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="moments need at least 2 rows"):
        features_to_moments(np.zeros(shape))
