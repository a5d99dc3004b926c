"""Estimates: means, intervals, p-values and paired differences are those of the textbook."""

import numpy as np
import pytest
from scipy import stats

from bench.score.estimate import Estimate, mean_estimate, paired_difference

VALUES = np.array([1.0, 2.0, 4.0, 9.0])


def test_the_mean_has_the_textbook_standard_error() -> None:
    estimate = mean_estimate(VALUES)
    assert estimate.value == 4.0
    assert estimate.n == 4
    assert estimate.standard_error == pytest.approx(stats.sem(VALUES), rel=1e-12)


def test_the_influence_of_an_image_is_its_distance_from_the_mean() -> None:
    assert mean_estimate(VALUES).influence.tolist() == [-3.0, -2.0, 0.0, 5.0]


def test_half_precision_values_are_averaged_in_double_precision() -> None:
    neighbours = np.array([1.0, 1.0 + 2.0**-10], np.float16)
    assert mean_estimate(neighbours).value == 1.0 + 2.0**-11


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_interval_is_the_normal_one_at_the_level_asked_for(level: float) -> None:
    estimate = mean_estimate(VALUES)
    expected = stats.norm.interval(level, loc=4.0, scale=stats.sem(VALUES))
    assert estimate.interval(level) == pytest.approx(expected, rel=1e-12)


def test_the_interval_is_at_95_percent_unless_told_otherwise() -> None:
    estimate = mean_estimate(VALUES)
    assert estimate.interval() == estimate.interval(0.95)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_p_value_is_the_two_sided_one_of_the_normal_distribution(sign: float) -> None:
    estimate = mean_estimate(sign * VALUES)
    statistic = 4.0 / stats.sem(VALUES)
    assert estimate.p_value() == pytest.approx(2 * (1 - stats.norm.cdf(statistic)), rel=1e-9)


def test_the_p_value_and_the_interval_agree_on_what_is_significant() -> None:
    influence = np.array([-1.0, 1.0, -1.0, 1.0])
    error = Estimate(0.0, influence).standard_error
    assert Estimate(1.97 * error, influence).p_value() < 0.05 < Estimate(1.95 * error, influence).p_value()
    assert Estimate(1.97 * error, influence).interval()[0] > 0 > Estimate(1.95 * error, influence).interval()[0]


def test_images_that_all_say_the_same_leave_no_doubt() -> None:
    same = np.zeros(3)
    assert Estimate(0.0, same).p_value() == 1.0
    assert Estimate(0.5, same).p_value() == 0.0


def test_a_paired_difference_is_the_mean_of_the_differences() -> None:
    theirs = np.array([0.5, 2.5, 3.0, 9.5])
    difference = paired_difference(mean_estimate(VALUES), mean_estimate(theirs))
    direct = mean_estimate(VALUES - theirs)
    assert difference.value == pytest.approx(direct.value, rel=1e-12)
    assert difference.standard_error == pytest.approx(direct.standard_error, rel=1e-12)
    assert difference.p_value() == pytest.approx(direct.p_value(), rel=1e-12)


def test_a_cell_against_itself_differs_by_nothing() -> None:
    difference = paired_difference(mean_estimate(VALUES), mean_estimate(VALUES))
    assert difference.value == 0.0
    assert difference.standard_error == 0.0
    assert difference.p_value() == 1.0


def test_unequal_numbers_of_images_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="4 and 3 images cannot be paired; sample the same prompts"):
        paired_difference(mean_estimate(VALUES), mean_estimate(VALUES[:3]))


def test_a_95_percent_interval_covers_the_truth_in_95_percent_of_draws() -> None:
    rng = np.random.default_rng(0)
    intervals = [mean_estimate(rng.exponential(2.0, 200)).interval() for _ in range(1000)]
    covered = np.mean([low < 2.0 < high for low, high in intervals])
    assert 0.92 < covered < 0.97
