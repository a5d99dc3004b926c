"""Estimates: means, intervals, p-values and paired differences are those of the textbook."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import bench
from bench.analysis.scoring import prompt_groups
from bench.score.estimate import Estimate, mean_estimate, paired_difference, unpaired_difference
from bench.score.groups import Groups

VALUES = np.array([1.0, 2.0, 4.0, 9.0])


def test_the_mean_has_the_textbook_standard_error_and_the_distances_from_it_as_influences() -> None:
    estimate = mean_estimate(VALUES)
    assert estimate.value == 4.0
    assert estimate.n == 4
    assert estimate.influence.tolist() == [-3.0, -2.0, 0.0, 5.0]
    assert estimate.standard_error == pytest.approx(stats.sem(VALUES), rel=1e-12)


def test_half_precision_values_are_averaged_in_double_precision() -> None:
    neighbours = np.array([1.0, 1.0 + 2.0**-10], np.float16)
    assert mean_estimate(neighbours).value == 1.0 + 2.0**-11


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_interval_is_students_at_the_requested_level(level: float) -> None:
    estimate = Estimate(4.0, VALUES - 4.0)
    expected = stats.t.interval(level, 3, loc=4.0, scale=stats.sem(VALUES))
    assert estimate.interval(level) == pytest.approx(expected, rel=1e-12)
    assert (estimate.interval() == estimate.interval(level)) == (level == 0.95), "the default"


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_p_value_is_the_two_sided_one_of_students_test(sign: float) -> None:
    estimate = mean_estimate(sign * VALUES)
    expected = stats.ttest_1samp(sign * VALUES, 0.0).pvalue
    assert estimate.p_value() == pytest.approx(expected, rel=1e-9)
    assert mean_estimate(VALUES).p_value("greater") == pytest.approx(expected / 2, rel=1e-9)


def test_the_p_value_and_the_interval_agree_on_what_is_significant() -> None:
    influence = np.array([-1.0, 1.0, -1.0, 1.0])
    error, bound = Estimate(0.0, influence).standard_error, stats.t.ppf(0.975, 3)
    more, less = (Estimate(factor * bound * error, influence) for factor in (1.01, 0.99))
    assert more.p_value() < 0.05 < less.p_value()
    assert more.interval()[0] > 0 > less.interval()[0]


def test_heavy_tails_leave_fewer_degrees_of_freedom() -> None:
    rng = np.random.default_rng(1)
    normal = [Estimate(0.0, rng.standard_normal(200)).degrees_of_freedom for _ in range(50)]
    heavy = [Estimate(0.0, rng.standard_t(4, 200)).degrees_of_freedom for _ in range(50)]
    assert 150 < np.mean(normal) <= 199
    assert np.mean(heavy) < 100


def test_two_sets_have_the_degrees_of_freedom_of_welch() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = np.sign(rng.standard_normal(40)) * 3.0, np.sign(rng.standard_normal(15)) + 0.1
    difference = unpaired_difference(mean_estimate(ours), mean_estimate(theirs))
    assert difference.p_value() == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue, rel=1e-9)


def test_the_interval_of_a_squared_distance_holds_values_near_by_their_own_standard_errors() -> None:
    rng = np.random.default_rng(3)
    influence = rng.standard_normal(400)
    plain, squared = Estimate(2.0, influence), Estimate(2.0, influence, plug_in=2.5)
    variance_slope, quantile = plain.whole_variance / 2.5, stats.t.ppf(0.975, plain.degrees_of_freedom)
    for end in squared.interval():
        assert (end - 2.0) ** 2 == pytest.approx(quantile**2 * (plain.standard_error**2 + variance_slope * (end - 2.0)))
    low, high = squared.interval()
    assert high - 2.0 > 2.0 - low
    assert squared.scaled(-2.0, 1.0).interval() == pytest.approx((1 - 2 * high, 1 - 2 * low))
    assert paired_difference(squared, squared.scaled(0.5)).plug_in is None


@pytest.mark.parametrize("root", [2.0, 0.6])
def test_the_interval_of_a_square_is_the_square_of_the_interval_of_its_root(root: float) -> None:
    noise = 0.3 * np.random.default_rng(3).standard_normal(400)
    error = np.std(noise, ddof=1) / 20
    pairs = {"images": np.array([np.sqrt(2) * error**2])}
    square = Estimate(root**2 - error**2, 2 * root * noise, variance_slope=4 * error**2, interactions=pairs, exact=True)
    reach = stats.t.ppf(0.975, square.degrees_of_freedom) * error
    assert square.interval() == pytest.approx(((root - reach) ** 2, (root + reach) ** 2), rel=1e-3)
    low, high = square.interval()
    assert square.scaled(-2.0, 1.0).interval() == pytest.approx((1 - 2 * high, 1 - 2 * low))
    assert paired_difference(square, square.scaled(0.5)).variance_slope is None
    many = replace(square, variance_slope=1e-9).interval()
    assert many == pytest.approx(replace(square, variance_slope=0.0).interval(), rel=1e-6)


@pytest.mark.parametrize("directions", [1, 3, 30])
@pytest.mark.parametrize("length", [0.0, 2.0, 8.0])
def test_the_interval_of_a_squared_length_covers_in_any_number_of_directions(directions: int, length: float) -> None:
    rng, covered = np.random.default_rng(12), []
    shape = np.sign(rng.standard_normal(400))
    shape -= shape.mean()
    for _ in range(400):
        squared = float(np.sum((np.append(length, np.zeros(directions - 1)) + rng.standard_normal(directions)) ** 2))
        square = Estimate(
            squared - directions,
            shape * np.sqrt(4 * squared * 399) / np.sqrt(np.mean(shape**2)) / 1.0,
            variance_slope=4.0,
            interactions={"images": np.array([np.sqrt(2 * directions)])},
            exact=True,
        )
        low, high = square.interval()
        covered.append(low <= length**2 + 1e-9 and length**2 <= high)
    assert 0.92 < np.mean(covered) < (0.995 if length == 0 else 0.98)


def test_identical_values_carry_no_information_about_other_images() -> None:
    same = np.zeros(30)
    assert Estimate(0.0, same).p_value() == 1.0
    assert Estimate(0.5, same).p_value() == 1.0
    assert Estimate(0.5, same).caveat == "all of 30 images have the same value, which says nothing about others"
    values = np.random.default_rng(4).uniform(20, 30, 64)
    rounded = paired_difference(mean_estimate(values), mean_estimate(values + 1e-15))
    assert rounded.caveat is not None
    assert rounded.p_value() == 1.0
    single = values.astype(np.float32)
    shifted = paired_difference(mean_estimate(single), mean_estimate(np.nextafter(single, np.float32(99))))
    assert shifted.p_value() == 1.0
    assert paired_difference(mean_estimate(values), mean_estimate(values + np.linspace(0, 1e-9, 64))).p_value() < 1e-6


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


Draw = Callable[[np.random.Generator, int], np.ndarray]


def attributes(rng: np.random.Generator, n: int) -> np.ndarray:
    """Shares (n,) of four attributes that are right; the true share is 95%."""
    found: np.ndarray = rng.binomial(4, rng.beta(3.8, 0.2, n)) / 4
    return found


@pytest.mark.parametrize("n", [20, 50, 200])
@pytest.mark.parametrize(
    ("draw", "truth", "shares"),
    [
        (lambda rng, n: rng.exponential(2.0, n), 2.0, False),
        (lambda rng, n: -rng.gamma(0.5, 1.0, n), -0.5, False),
        (lambda rng, n: rng.lognormal(0.0, 1.0, n), np.exp(0.5), False),
        (attributes, 0.95, True),
        (lambda rng, n: (rng.random(n) < 0.8).astype(float), 0.8, True),
        (lambda rng, n: (rng.random(n) < 0.95).astype(float), 0.95, True),
    ],
)
def test_a_95_percent_interval_covers_the_truth_in_95_percent_of_draws_or_is_not_given(
    draw: Draw, truth: float, shares: bool, n: int
) -> None:
    rng = np.random.default_rng(10)
    found = [mean_estimate(draw(rng, n), shares=shares) for _ in range(1500)]
    intervals = [estimate.interval() for estimate in found if estimate.caveat is None]
    covered = np.array([low < truth < high for low, high in intervals])
    if len(covered) > 750:
        assert 0.92 < covered.mean() < 0.98
    assert (~covered).sum() < 0.08 * len(found)
    assert not shares or all(0 <= low < high <= 1 for low, high in intervals)


def test_the_interval_of_a_share_is_wilsons() -> None:
    answers = np.repeat([1.0, 0.0], [54, 10])
    score = bench.mean_score(answers, shares=True)
    z, share, n = stats.t.ppf(0.975, 63), 54 / 64, 63  # the error has divisor n − 1
    ends = [(share + z**2 / (2 * n) + s * z * np.sqrt(share * (1 - share) / n + (z / 2 / n) ** 2)) for s in (-1, 1)]
    assert score.interval == pytest.approx([end / (1 + z**2 / n) for end in ends])
    assert mean_estimate(answers, shares=True).scaled(-2.0, 1.0).interval() == pytest.approx(
        sorted(1 - 2 * end for end in score.interval or ())
    )
    with pytest.raises(ValueError, match="from -1 to 1 were given; shares are from 0 to 1"):
        bench.mean_score(answers * 2 - 1, shares=True)


@pytest.mark.parametrize("shares", [True, False])
def test_values_that_are_nearly_all_the_same_have_no_interval(shares: bool) -> None:
    perfect, nearly = np.ones(200), np.repeat([1.0, 0.0], [196, 4])
    assert bench.mean_score(perfect, shares=shares).interval is None
    said = str(bench.mean_score(nearly, shares=shares).fallback)
    assert said == "no interval: 4 of 200 images differ from all others; an interval needs 5 images"
    close = bench.mean_difference(perfect, nearly)
    assert close.interval is None
    assert bench.mean_difference(perfect, np.repeat([1.0, 0.0], [190, 10])).interval is not None


@pytest.mark.parametrize(("count", "apart"), [(32, 10), (32, 17), (49, 24), (50, 24), (20, 10), (20, 9)])
def test_mostly_equal_pairs_of_few_images_have_no_interval_unless_they_are_shares(count: int, apart: int) -> None:
    ours = np.random.default_rng(14).random(count)
    theirs = ours + np.append(np.linspace(0.1, 0.2, apart), np.zeros(count - apart))
    found = bench.mean_difference(ours, theirs)
    assert (found.interval is not None) == (count >= 50 or 2 * apart >= count)
    if found.interval is None:
        assert f"most of {count} images are equal in both; an interval then needs 50" in str(found.fallback)
    assert bench.mean_difference(ours / 2, theirs / 2, shares=True).interval is not None


def test_near_ties_of_shares_give_false_verdicts_in_five_percent_at_most() -> None:
    rng, wrong = np.random.default_rng(11), 0
    for _ in range(2000):
        change = rng.choice([-1.0, 0.0, 1.0], 100, p=[0.03, 0.94, 0.03])
        score = paired_difference(mean_estimate(change), mean_estimate(np.zeros(100)))
        wrong += score.caveat is None and score.p_value() < 0.05
    assert wrong < 0.05 * 2000


def draw_clusters(
    rng: np.random.Generator, prompts: int, images: int, correlation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values (prompts × images,) of mean 0 and variance 1, and the prompt of each."""
    labels = np.repeat(np.arange(prompts), images)
    shared, own = rng.standard_normal(prompts)[labels], rng.standard_normal(len(labels))
    return np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own, labels


def test_the_squared_error_of_clusters_is_that_of_the_sums_by_prompt() -> None:
    values, labels = draw_clusters(np.random.default_rng(5), 30, 4, 0.5)
    labels[:5] = 7
    found, sums = mean_estimate(values, Groups.of(labels, 120)), []
    for prompt in np.unique(labels):
        sums.append((values - values.mean())[labels == prompt].sum())
    count = len(sums)
    assert found.standard_error**2 == pytest.approx(count / (count - 1) * np.square(sums).sum() / 120**2, rel=1e-12)
    assert found.degrees_of_freedom <= count - 1
    assert found.sample.startswith(f"120 images of {count} prompts")


def test_prompts_that_all_differ_change_no_bit() -> None:
    values = np.random.default_rng(6).standard_normal(64)
    names = [f"prompt {i}" for i in range(64)]
    assert bench.mean_score(values, groups=names) == bench.mean_score(values)
    assert bench.mean_score(values).groups is None


def test_32_prompts_with_16_images_each_are_not_512_images() -> None:
    rng = np.random.default_rng(7)
    drawn = [draw_clusters(rng, 32, 16, 0.6) for _ in range(400)]
    spread = np.std([values.mean() for values, _ in drawn])
    before = np.mean([bench.mean_score(values).standard_error for values, _ in drawn])
    scores = [bench.mean_score(values, labels) for values, labels in drawn]
    assert 2.4 < spread / before < 3.9
    assert np.mean([score.standard_error for score in scores]) == pytest.approx(spread, rel=0.1)
    assert 0.92 < np.mean([score.interval[0] < 0 < score.interval[1] for score in scores]) < 0.98  # type: ignore[index]
    assert scores[0].sample == "512 images of 32 prompts"


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_with_fixed_prompts_the_error_is_that_of_new_noise(correlation: float) -> None:
    rng = np.random.default_rng(8)
    labels = np.repeat(np.arange(24), rng.integers(2, 5, 24))
    levels = np.sqrt(correlation) * rng.standard_normal(24)[labels]
    drawn = [levels + np.sqrt(1 - correlation) * rng.standard_normal(len(labels)) for _ in range(400)]
    scores = [bench.mean_score(values, labels, fixed_prompts=True) for values in drawn]
    errors, spread = [score.standard_error for score in scores], np.std([values.mean() for values in drawn])
    assert np.mean(errors) == pytest.approx(spread, rel=0.1)  # type: ignore[arg-type]
    covered = np.mean([score.interval[0] < levels.mean() < score.interval[1] for score in scores])  # type: ignore[index]
    assert 0.92 < covered < 0.98
    assert scores[0].groups == 24


def test_fixed_prompts_need_two_images_of_each() -> None:
    with pytest.raises(ValueError, match="needs 2 or more of each prompt"):
        bench.mean_score(np.arange(30.0), [*range(28), 28, 28], fixed_prompts=True)


def test_a_prompt_with_most_of_the_images_counts_as_few() -> None:
    labels = np.concatenate([np.zeros(300, int), np.arange(1, 40)])
    score = bench.mean_score(np.random.default_rng(9).standard_normal(339), labels)
    assert score.interval is None
    assert "339 images of 40 prompts (as much as 1, some have many more" in str(score.fallback)


def test_images_of_prompts_with_equal_text_are_one_group_in_a_run() -> None:
    features = {"image": np.zeros((4, 2)), "clip_score": np.zeros(4)}
    run = SimpleNamespace(prompts=("a cat", "a dog", "a cat", "a hen", "a dog"))
    groups = prompt_groups(run, features)  # type: ignore[arg-type]
    assert groups.labels.tolist() == [0, 1, 0, 2]
    assert prompt_groups(SimpleNamespace(prompts=("a", "b", "c", "d", "a")), features) is None  # type: ignore[arg-type]


def test_groups_have_one_label_per_image_and_are_equal_in_a_pair() -> None:
    with pytest.raises(ValueError, match=r"groups of shape \(3,\) were given for 4 images"):
        bench.mean_score(VALUES, [1, 2, 3])
    ours, theirs = (mean_estimate(VALUES, Groups.of(labels, 4)) for labels in ([0, 0, 1, 2], [0, 1, 1, 2]))
    with pytest.raises(ValueError, match="give both the same groups"):
        paired_difference(ours, theirs)
    apart = bench.mean_difference(np.arange(40.0), np.arange(44.0), paired=False, groups_b=np.repeat(np.arange(22), 2))
    assert apart.interval is not None


def draw_difference(rng: np.random.Generator, change: Callable[[int], np.ndarray], count: int) -> Estimate:
    """The paired difference of two methods whose images differ in one of three, by `change` less its mean."""
    ours = rng.standard_normal(count)
    theirs = np.where(rng.random(count) < 1 / 3, ours - change(count), ours)
    return paired_difference(mean_estimate(ours), mean_estimate(theirs))


@pytest.mark.parametrize("count", [50, 100])
@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("kind", ["both sides", "one side"])
def test_sparse_skewed_and_heavy_tailed_differences_are_covered(kind: str, side: float, count: int) -> None:
    """Student's interval alone covers 89% of one-sided changes, Hall's 88% of those on both sides."""
    rng = np.random.default_rng(3)
    covered, wrong = [], 0
    for _ in range(2000):
        if kind == "both sides":
            truth, change = 0.0, lambda n: side * (rng.exponential(1, n) - rng.exponential(1, n))
        else:
            truth, change = side / 3, lambda n: side * rng.exponential(1, n)
        difference = draw_difference(rng, change, count)
        if difference.caveat is not None:
            continue
        low, high = difference.interval()
        covered.append(low <= truth <= high)
        wrong += difference.scaled(1.0, -truth).p_value("greater") < 0.025
    assert 0.945 <= np.mean(covered) <= 0.985
    assert wrong <= 0.032 * len(covered)


VALUES_OF_ALL_KINDS = {
    "values": lambda rng, n: mean_estimate(rng.lognormal(0, 1, n)),
    "differences": lambda rng, n: draw_difference(rng, lambda size: rng.exponential(1, size), n),
    "unpaired": lambda rng, n: unpaired_difference(
        mean_estimate(rng.exponential(1, n)), mean_estimate(rng.exponential(2, 2 * n))
    ),
    "shares": lambda rng, n: mean_estimate((rng.random(n) < 0.7).astype(float), shares=True),
    "percentages wrong": lambda rng, n: mean_estimate((rng.random(n) < 0.7).astype(float), shares=True).scaled(
        -100.0, 100.0
    ),
}


@pytest.mark.parametrize("kind", VALUES_OF_ALL_KINDS)
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_tests_reject_values_outside_intervals(kind: str, level: float) -> None:
    estimate = VALUES_OF_ALL_KINDS[kind](np.random.default_rng(11), 60)
    for end, towards in zip(estimate.interval(level), (1.0, -1.0), strict=True):
        assert estimate.scaled(1.0, -end).p_value() == pytest.approx(1 - level, rel=1e-6)
        assert estimate.scaled(towards, -towards * end).p_value("greater") == pytest.approx((1 - level) / 2, rel=1e-6)


def test_an_impossible_share_is_rejected() -> None:
    share = mean_estimate(np.repeat([1.0, 0.0], [50, 10]), shares=True)
    assert share.scaled(1.0, -1.1).p_value("greater") == 1.0
    assert share.scaled(-1.0, 1.1).p_value("greater") == 0.0
