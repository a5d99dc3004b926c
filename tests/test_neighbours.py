"""Precision, recall, density and coverage equal their definitions, and the influence of an image is exact."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.gate.quality import exceeds
from bench.score.estimate import paired_difference
from bench.score.groups import Groups
from bench.score.neighbours import (
    Neighbourhood,
    coverage_estimate,
    density_estimate,
    precision_estimate,
    recall_estimate,
)

Floats = NDArray[np.float64]
ESTIMATES = {
    "precision": precision_estimate,
    "recall": recall_estimate,
    "density": density_estimate,
    "coverage": coverage_estimate,
}


def draw(seed: int, n: int, shift: float = 0.0) -> Floats:
    """Features (n, 4)."""
    return shift + np.random.default_rng(seed).standard_normal((n, 4))


def distances(a: Floats, b: Floats) -> Floats:
    """Plain distances, (n, m)."""
    found: Floats = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return found


def plain(ours: Floats, real: Floats) -> dict[str, float]:
    """Compute them from the definitions."""

    def radius(features: Floats, k: int) -> Floats:
        found: Floats = np.sort(distances(features, features), axis=1)[:, k]  # the nearest is the row itself
        return found

    across = distances(ours, real)
    return {
        "precision": float((across <= radius(real, 3)).any(axis=1).mean()),
        "recall": float((across <= radius(ours, 3)[:, None]).any(axis=0).mean()),
        "density": float((across <= radius(real, 5)).sum() / (5 * len(ours))),
        "coverage": float((across <= radius(real, 5)).any(axis=0).mean()),
    }


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize(("n", "m", "shift"), [(40, 60, 0.8), (60, 30, 0.0), (1100, 50, 1.5)])
def test_the_value_is_that_of_the_definition(name: str, n: int, m: int, shift: float) -> None:
    ours, real = draw(1, n, shift), draw(2, m)
    estimate = ESTIMATES[name](ours, Neighbourhood(real))
    assert estimate.value == pytest.approx(plain(ours, real)[name], rel=1e-12)
    assert estimate.n == n


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_influence_of_an_image_is_the_change_when_it_is_left_out(name: str) -> None:
    ours, real = draw(3, 40, 0.8), draw(4, 50)
    without = np.array([plain(np.delete(ours, i, axis=0), real)[name] for i in range(len(ours))])
    expected = (len(ours) - 1) * (without.mean() - without)
    assert np.abs(expected).max() > 0
    assert ESTIMATES[name](ours, Neighbourhood(real)).influence == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_standard_error_is_no_smaller_than_the_spread_over_draws(name: str) -> None:
    real = Neighbourhood(draw(5, 200))
    estimates = [ESTIMATES[name](draw(100 + i, 150, 0.7), real) for i in range(120)]
    error = np.sqrt(np.mean([estimate.standard_error**2 for estimate in estimates]))
    assert 0.85 < error / np.std([estimate.value for estimate in estimates], ddof=1) < 1.8


@pytest.mark.parametrize("name", ESTIMATES)
def test_bad_features_are_refused(name: str) -> None:
    real = Neighbourhood(draw(6, 30))
    with pytest.raises(ValueError, match="NaN or infinity"):
        ESTIMATES[name](np.full((20, 4), np.nan), real)
    with pytest.raises(ValueError, match="of 3 dimensions were given, the reference has 4"):
        ESTIMATES[name](draw(7, 20)[:, :3], real)
    with pytest.raises(ValueError, match="6 images were given; scores of nearest neighbours need more than 6"):
        ESTIMATES[name](draw(8, 6), Neighbourhood(draw(9, 6)))


@pytest.mark.parametrize("name", ["precision", "density", "coverage"])
def test_with_clusters_the_influence_of_a_prompt_is_the_change_without_all_its_images(name: str) -> None:
    labels = np.repeat(np.arange(20), 3)
    ours, real = draw(3, 60, 0.8) + np.repeat(draw(5, 20), 3, axis=0), draw(4, 50)
    groups = Groups.of(labels, 60)
    without = np.array([plain(ours[labels != g], real)[name] for g in range(20)])
    found = ESTIMATES[name](ours, Neighbourhood(real), groups)
    assert groups.units(found.influence) == pytest.approx(19 * (without.mean() - without), abs=1e-9)
    assert found.value == pytest.approx(plain(ours, real)[name])


@pytest.mark.parametrize("name", ["recall", "coverage"])
@pytest.mark.parametrize("per_prompt", [1, 2])
def test_scores_whose_error_is_too_large_have_bounds_but_no_interval(name: str, per_prompt: int) -> None:
    real, groups = Neighbourhood(draw(4, 50)), Groups.of(np.arange(60) // per_prompt, 60)
    near, far = (ESTIMATES[name](draw(3, 60, shift), real, groups) for shift in (0.0, 2.5))
    change = paired_difference(near, far)
    for found in (near, far, change):
        assert found.caveat is not None
        assert found.to_score().interval is None
    bounded = name == "coverage" or per_prompt == 1
    assert (change.problem is None) == bounded
    assert (exceeds(change, 0.1) < 0.3) == bounded


def test_recall_of_clusters_has_no_interval() -> None:
    found = recall_estimate(draw(3, 60), Neighbourhood(draw(4, 50)), Groups.of(np.repeat(np.arange(30), 2), 60))
    assert "images of one prompt are close" in str(found.caveat)
