"""Repeated looks cost what the theory says, by simulation and by published boundaries."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import make_run
from scipy.special import ndtr, ndtri

from bench.analysis.sequential import (
    OF_WHAT_IS_LEFT,
    LookSizes,
    median_unbiased,
    nominal_level,
    overall_p_value,
    path_of,
)
from bench.records.run import Claim, Side
from bench.store.interim_looks import note_looks, with_looks
from bench.store.store import Store

FIVE = [(n, 500) for n in (100, 200, 300, 400, 500)]
DOUBLED = [(n, n) for n in (512, 1024, 2048, 4096)]


def test_a_plan_judged_once_leaves_a_fifth_for_unplanned_images() -> None:
    path = path_of([(512, 512)])
    assert path == ((512.0, OF_WHAT_IS_LEFT),)
    assert overall_p_value(0.03, path) == pytest.approx(0.0375)
    assert nominal_level(0.05, path) == pytest.approx(0.04)


def test_a_first_look_spends_the_square_of_its_share() -> None:
    path = path_of([(200, 500)])
    assert nominal_level(0.05, path) == pytest.approx(0.8 * 0.05 * 0.16, rel=1e-9)
    assert overall_p_value(0.0064, path) == pytest.approx(0.05, rel=1e-3)


def test_the_last_of_two_looks_is_that_of_a_double_integral() -> None:
    """P(Z2 > c, Z1 < b) by quadrature on another grid."""
    first = -float(ndtri(0.8 * 0.05 * 0.25))
    z = np.linspace(-12, first, 40_001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    def crossing(c: float) -> float:
        return float(np.trapezoid(density * ndtr((np.sqrt(0.5) * z - c) / np.sqrt(0.5)), z))

    level = nominal_level(0.05, path_of([(50, 100), (100, 100)]))
    assert crossing(-float(ndtri(level))) == pytest.approx(0.8 * 0.05 * 0.75, rel=1e-5)


@pytest.mark.parametrize(
    ("history", "spent"),
    [
        (FIVE, 0.8),
        ([(10, 100), (100, 100)], 0.8),
        (DOUBLED, 1 - 0.2**4),
        ([(100, 500), (200, 500), (1000, 1000)], 0.128 + 0.8 * 0.872),
        ([*FIVE, (600, 1000), (1000, 1000)], 0.96),
        ([(512, 512), (256, 256), (1024, 1024)], 1 - 0.2**3),
    ],
    ids=["planned", "early", "doubled", "plan changed", "grown in looks", "fewer"],
)
def test_a_true_hypothesis_is_rejected_at_some_look_as_often_as_allowed(history: list[LookSizes], spent: float) -> None:
    counts = np.array([images for images, _ in history], float)
    order = np.argsort(counts)
    rng = np.random.default_rng(0)
    increments = rng.normal(size=(200_000, len(history))) * np.sqrt(np.diff([0.0, *counts[order]]))
    z = np.empty_like(increments)
    z[:, order] = increments.cumsum(axis=1) / np.sqrt(counts[order])
    levels = [nominal_level(0.05, path_of(history[: k + 1])) for k in range(len(history))]
    found = (ndtr(-z) < levels).any(axis=1).mean()
    in_order = bool((np.diff(counts) > 0).all())
    assert found == pytest.approx(0.05 * spent, abs=0.0015) if in_order else found < 0.05 * spent
    if in_order:
        assert (ndtr(-z) < 0.05).any(axis=1).mean() > 0.06, "peeking without a plan is not free"


def test_a_look_at_as_many_images_as_before_is_the_same_look() -> None:
    assert path_of([(512, 512), (512, 512)]) == path_of([(512, 512)])
    assert path_of([*DOUBLED, (1024, 4096)]) == path_of(DOUBLED[:2])
    assert path_of([(600, 500)]) == ((600.0, pytest.approx(0.8)),), "more than planned spend no more"
    assert path_of([*DOUBLED[:1], (300, 1000), (500, 1000), (700, 1000), (300, 1000)]) == (
        (300.0, pytest.approx(0.16)),
    )


@pytest.mark.parametrize("history", [FIVE[:3], DOUBLED[:2], DOUBLED])
def test_the_overall_p_value_undoes_the_level(history: Sequence[LookSizes]) -> None:
    path = path_of(history)
    for error in (1e-6, 0.001, 0.05, 0.3):
        assert overall_p_value(nominal_level(error, path), path) == pytest.approx(error, rel=0.02)
    assert overall_p_value(1.0, path) == 1.0
    assert overall_p_value(1e-40, path) == pytest.approx(1e-40 / path[-1][1], rel=1e-6, abs=0)


def test_a_corrected_effect_is_too_large_as_often_as_too_small() -> None:
    """Two looks, the second at twice the images: results in the order of the look at which they end."""
    error, effect = 0.05, 2.5
    paths = path_of([(50, 100)]), path_of([(50, 100), (100, 100)])
    first, second = (-float(ndtri(nominal_level(error, path))) for path in paths)
    rng = np.random.default_rng(0)
    half = rng.normal(size=200_000) * np.sqrt(0.5) + effect / 2
    whole = half + rng.normal(size=half.size) * np.sqrt(0.5) + effect / 2
    ended = np.abs(half) / np.sqrt(0.5) > first
    grid = np.linspace(-3, 3.8, 35)
    corrected = np.interp(whole, grid, [median_unbiased(z, paths[1], error) for z in grid])
    found = np.where(ended, half / 0.5, corrected)
    assert (np.where(ended, half / 0.5, whole) > effect).mean() > 0.54, "as measured it is too large more often"
    assert (found > effect).mean() == pytest.approx(0.5, abs=0.01)
    assert median_unbiased(3.0, paths[0], error) == 3.0, "nothing was looked at before"
    assert median_unbiased(second + 4, paths[1], error) is None, "it was decided before"
    assert median_unbiased(0.0, paths[1], error) == pytest.approx(0.0, abs=1e-5)


def test_a_directory_records_the_image_counts_of_its_looks(tmp_path: Path) -> None:
    claim, other = (Claim(name, "", Side("a", (1,)), Side("b", (1,)), ("kid@mini",), "better") for name in "cd")
    store = Store(tmp_path)
    run = make_run(claims=(claim,))

    def look(count: int, share: float) -> tuple[tuple[int, int], ...]:
        found = with_looks(store, replace(run, prompts=("p",) * count, looks=(share,)))
        note_looks(store, found, [(claim, count) for claim in found.claims])
        return found.history(count)

    assert look(64, 1.0) == look(64, 1.0) == ((64, 64),), "the same look"
    assert look(128, 1.0) == ((64, 64), (128, 128))
    assert look(200, 0.5) == ((64, 64), (128, 128), (200, 400))
    assert look(400, 1.0) == ((64, 64), (128, 128), (200, 400), (400, 400))
    assert look(400, 1.0) == ((64, 64), (128, 128), (200, 400), (400, 400)), "repeated, it counts once"
    assert with_looks(store, replace(run, prompts=("p",) * 200, looks=(0.5,))).looks == (0.5,), "no later look"
    asked = replace(run, prompts=("p",) * 800, claims=(other,))
    assert with_looks(store, asked).history(800) == ((800, 800),), "another claim was not looked at"
    assert look(300, 1.0)[-2:] == ((400, 400), (300, 300)), "in the order of time"
    assert look(500, 1.0)[-3:] == ((400, 400), (300, 300), (500, 500)), "in the order of time"
