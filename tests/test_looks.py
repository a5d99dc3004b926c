"""Looking more than once costs what the theory says, by simulation and by published boundaries."""

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from bench.judge.looks import nominal_level, overall_p_value


def test_one_look_at_everything_changes_nothing() -> None:
    assert overall_p_value(0.03, (1.0,)) == 0.03
    assert nominal_level(0.05, (1.0,)) == pytest.approx(0.05, rel=1e-9)


def test_a_first_look_spends_the_square_of_its_share() -> None:
    assert nominal_level(0.05, (0.4,)) == pytest.approx(0.05 * 0.16, rel=1e-9)
    assert overall_p_value(0.008, (0.4,)) == pytest.approx(0.05, rel=1e-3)


def test_the_last_of_two_looks_is_that_of_a_double_integral() -> None:
    """P(|Z2| > c, |Z1| < b) by quadrature on another grid."""
    first = -float(ndtri(0.05 * 0.25 / 2))
    z = np.linspace(-first, first, 20_001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    def crossing(c: float) -> float:
        rest = np.sqrt(0.5)
        tails = ndtr((-c - np.sqrt(0.5) * z) / rest) + ndtr((np.sqrt(0.5) * z - c) / rest)
        return float(np.trapezoid(density * tails, z))

    level = nominal_level(0.05, (0.5, 1.0))
    assert crossing(-float(ndtri(level / 2))) == pytest.approx(0.05 * 0.75, rel=1e-5)


@pytest.mark.parametrize("looks", [(0.2, 0.4, 0.6, 0.8, 1.0), (0.1, 1.0), (0.5, 0.75, 1.0)])
def test_a_true_hypothesis_is_rejected_at_some_look_as_often_as_allowed(looks: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    increments = rng.normal(size=(200_000, len(looks))) * np.sqrt(np.diff([0.0, *looks]))
    z = increments.cumsum(axis=1) / np.sqrt(looks)
    p = 2 * ndtr(-np.abs(z))
    levels = [nominal_level(0.05, looks[: k + 1]) for k in range(len(looks))]
    assert (p < levels).any(axis=1).mean() == pytest.approx(0.05, abs=0.0015)
    naive = (p < 0.05).any(axis=1).mean()
    assert naive > 0.07, "peeking without a plan is not free"


def test_the_overall_p_value_undoes_the_level() -> None:
    looks = (0.25, 0.5, 0.75)
    for error in (1e-6, 0.001, 0.05, 0.3):
        assert overall_p_value(nominal_level(error, looks), looks) == pytest.approx(error, rel=0.02)
    assert overall_p_value(1.0, looks) == 1.0
    assert overall_p_value(1e-40, looks) == pytest.approx(1e-40 / (0.75**2 - 0.5**2))
