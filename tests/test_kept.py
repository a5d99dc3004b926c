"""The share of a gain that is kept elsewhere, and its interval."""

import numpy as np
import pytest

from bench.analysis.kept import kept_share
from bench.score.estimate import Estimate, mean_estimate, paired_difference


def gain(values: np.ndarray) -> Estimate:
    """Return a gain over a side that is zero for every other image, so that not all differences are alike."""
    zero = np.arange(len(values)) % 2.0
    return paired_difference(mean_estimate(values + zero), mean_estimate(zero))


def test_the_interval_of_the_kept_share_covers_the_true_one() -> None:
    rng, covered, sims = np.random.default_rng(0), 0, 64
    for _ in range(sims):
        common, own, other = rng.normal(size=(3, 128))
        kept = kept_share(gain(0.7 + common + own), gain(1.0 + common + other))
        assert kept is not None
        covered += kept.interval[0] <= 0.7 <= kept.interval[1]
    assert 0.88 * sims <= covered


def test_a_gain_keeps_all_of_itself_and_half_of_twice() -> None:
    values = np.random.default_rng(1).normal(1, 1, 128)
    half = kept_share(gain(values / 2 + np.random.default_rng(2).normal(0, 1e-3, 128)), gain(values))
    assert half is not None
    assert half.share == pytest.approx(0.5, abs=1e-3)
    assert half.interval == pytest.approx((0.5, 0.5), abs=1e-3)
    nothing = kept_share(gain(values - values.mean()), gain(values))
    assert nothing is not None
    assert nothing.share == pytest.approx(0, abs=1e-9)
    assert nothing.interval[0] < -0.05 < 0.05 < nothing.interval[1]


def test_there_is_no_share_of_what_may_be_no_gain() -> None:
    values = np.random.default_rng(1).normal(0, 1, 128)
    assert kept_share(gain(1 + values), gain(values - values.mean() + 0.05)) is None
    assert kept_share(gain(1 + values), gain(values - 1)) is None
