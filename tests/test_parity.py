"""Distances equal those of the common libraries, in usual dimensions and numbers of images."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch_fidelity import metric_fid, metric_kid
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

import bench

Floats = NDArray[np.float64]
SHAPES = [
    *((16, 200), (16, 10), (64, 300), (64, 40), (256, 300), (256, 100), (768, 800), (768, 200)),
    *(pytest.param(2048, n, marks=pytest.mark.slow) for n in (200, 2100)),  # takes the others half a minute
]
"""Dimension and number of images, on both sides of one another."""


def draw(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Floats:
    """Correlated, skewed features (n, d)."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(d).standard_normal((d, d)) / np.sqrt(d)
    mixed: Floats = (rng.exponential(1.0, (n, d)) - 1) @ mixing
    return shift + scale * mixed


def given(d: int) -> torch.nn.Module:
    """Replaces an Inception network and returns the given features."""
    extractor = torch.nn.Identity()
    extractor.num_features = d  # type: ignore[assignment]
    return extractor


def sets(d: int, n: int) -> tuple[Floats, Floats]:
    """Generated features, and a few more real ones."""
    return draw(n, d, 1, shift=0.2, scale=1.3), draw(n + 7, d, 2)


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_the_frechet_distance_is_torchmetrics_and_torch_fidelitys(d: int, n: int) -> None:
    ours, real = sets(d, n)
    value = bench.frechet_distance(ours, real).value
    metric = FrechetInceptionDistance(feature=given(d)).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(ours), real=False)
    assert value == pytest.approx(float(metric.compute()), rel=1e-6)
    statistics = [metric_fid.fid_features_to_statistics(torch.from_numpy(features)) for features in (ours, real)]
    expected = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("d", "n"), [(64, 40), (64, 300)])
def test_the_distances_are_clean_fids(d: int, n: int) -> None:
    fid = pytest.importorskip(
        "cleanfid.fid", reason="clean-fid is not a dependency; pip install clean-fid compares with it"
    )
    ours, real = sets(d, n)
    assert bench.frechet_distance(ours, real).value == pytest.approx(fid.fid_from_feats(ours, real), rel=1e-6)
    expected = fid.kernel_distance(ours, real[:n], num_subsets=1, max_subset_size=n)
    assert bench.kernel_distance(ours, real[:n]).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_the_kernel_distance_is_torchmetrics_and_torch_fidelitys_over_one_subset_of_all(d: int, n: int) -> None:
    ours, real = draw(n, d, 1, shift=0.2, scale=1.3), draw(n, d, 2)
    value = bench.kernel_distance(ours, real).value
    tensors = torch.from_numpy(ours), torch.from_numpy(real)
    found = metric_kid.kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=n, verbose=False)
    assert value == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-6)
    assert value == pytest.approx(float(poly_mmd(*reversed(tensors))), rel=1e-6)
