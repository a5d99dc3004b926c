"""The kernel distance equals the reference implementation, and its standard error is the spread over draws."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.score import kernel
from bench.score.estimate import Estimate, paired_difference
from bench.score.frechet import Reference, frechet_estimate, kernel_fallback
from bench.score.groups import Groups
from bench.score.kernel import KernelReference, cmmd_estimate, kernel_estimate
from bench.score.kernel_in_parts import InParts, part_count

Floats = NDArray[np.float64]


def draw(rng: np.random.Generator, n: int, d: int, shift: float = 0.0) -> Floats:
    """Skewed features (n, d)."""
    return shift + rng.exponential(1.0, (n, d))


def test_the_variance_grows_along_the_difference_of_the_means(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    ours, real = draw(rng, 600, 5, shift=0.2) * [3, 2, 1, 0.5, 0.2], draw(rng, 600, 5)
    pairs = np.nonzero(~np.eye(600, dtype=bool))
    monkeypatch.setattr(kernel, "random_pairs", lambda *_: pairs)
    found = kernel_estimate(ours, KernelReference(real, kernel=lambda products, _: products))
    delta, covariance = ours.mean(axis=0) - real.mean(axis=0), np.cov(ours.T)
    first = delta @ covariance @ delta
    assert np.var(found.influence) == pytest.approx(4 * first, rel=0.02)
    assert found.variance_slope == pytest.approx(4 / 600 * (delta @ covariance @ covariance @ delta) / first, rel=0.05)


def test_the_distance_is_the_sum_over_pairs_for_sets_of_different_size() -> None:
    rng = np.random.default_rng(2)
    ours, real = draw(rng, 5, 3, shift=0.3), draw(rng, 8, 3)

    def mean_kernel(pairs: list[tuple[Floats, Floats]]) -> float:
        return float(np.mean([(x @ y / 3 + 1) ** 3 for x, y in pairs]))

    among_ours, among_real = (mean_kernel(list(itertools.combinations(rows, 2))) for rows in (ours, real))
    expected = among_ours + among_real - 2 * mean_kernel(list(itertools.product(ours, real)))
    assert kernel_estimate(ours, KernelReference(real)).value == pytest.approx(expected, rel=1e-9)


def test_the_distance_of_equal_distributions_is_zero_on_average() -> None:
    rng = np.random.default_rng(3)
    values = np.array([kernel_estimate(draw(rng, 30, 4), KernelReference(draw(rng, 30, 4))).value for _ in range(600)])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert values.min() < 0, "an unbiased estimate of zero is at times negative"


def test_the_influence_of_an_image_is_its_contribution_to_the_distance() -> None:
    rng = np.random.default_rng(5)
    n = 200
    ours, real = draw(rng, n, 4, shift=0.3), draw(rng, 100, 4)
    without = np.array([kernel_estimate(np.delete(ours, i, axis=0), KernelReference(real)).value for i in range(n)])
    jackknife = (n - 1) * (without.mean() - without)
    assert kernel_estimate(ours, KernelReference(real)).influence == pytest.approx(jackknife, abs=0.1 * jackknife.std())


def test_the_standard_error_is_the_spread_over_draws() -> None:
    rng = np.random.default_rng(6)
    real = draw(rng, 400, 4)
    draws = [kernel_estimate(draw(rng, 150, 4, shift=0.3), KernelReference(real)) for _ in range(400)]
    spread = np.std([estimate.value for estimate in draws], ddof=1)
    assert np.mean([estimate.standard_error for estimate in draws]) == pytest.approx(spread, rel=0.15)


def test_the_paired_difference_uses_the_similarity_of_two_methods() -> None:
    rng = np.random.default_rng(7)
    real = draw(rng, 400, 4)
    differences, unpaired = [], []
    for _ in range(300):
        ours = draw(rng, 150, 4, shift=0.3)
        theirs = ours + 0.05 * rng.standard_normal(ours.shape)
        pair = kernel_estimate(ours, KernelReference(real)), kernel_estimate(theirs, KernelReference(real))
        differences.append(paired_difference(*pair))
        unpaired.append(np.hypot(pair[0].standard_error, pair[1].standard_error))
    error = np.mean([difference.standard_error for difference in differences])
    assert error == pytest.approx(np.std([difference.value for difference in differences], ddof=1), rel=0.15)
    assert error < 0.25 * np.mean(unpaired)


def test_cmmd_is_the_authors_formula_and_its_unbiased_form() -> None:
    rng = np.random.default_rng(8)
    ours, real = draw(rng, 70, 16, shift=0.3), draw(rng, 90, 16)
    unit, theirs = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (ours, real))

    def kernel(a: Floats, b: Floats) -> Floats:
        found: Floats = np.exp(-(np.linalg.norm(a[:, None] - b[None], axis=-1) ** 2) / (2 * 10**2))
        return found

    own, other, across = kernel(unit, unit), kernel(theirs, theirs), kernel(unit, theirs)
    estimate = cmmd_estimate(ours, KernelReference.of_directions(real))
    assert estimate.value == pytest.approx(1000 * (own.mean() + other.mean() - 2 * across.mean()), rel=1e-9)
    apart = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (own, other)]
    assert estimate.debiased == pytest.approx(1000 * (sum(apart) - 2 * across.mean()), rel=1e-9)
    assert cmmd_estimate(3 * ours, KernelReference.of_directions(real)).value == pytest.approx(estimate.value, rel=1e-9)
    with pytest.raises(ValueError, match="of length 0"):
        cmmd_estimate(np.zeros((60, 16)), KernelReference.of_directions(real))


def test_with_clusters_the_distance_is_over_pairs_of_different_prompts_and_its_error_is_by_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "TILE", 16)
    rng = np.random.default_rng(10)
    labels = rng.integers(0, 25, 90)
    ours, real = draw(rng, 90, 4, shift=0.3) + 0.5 * rng.standard_normal((25, 4))[labels], draw(rng, 60, 4)
    kernels = (ours @ ours.T / 4 + 1) ** 3
    apart = labels[:, None] != labels
    level = kernel_estimate(ours, KernelReference(real)).value - (kernels.sum() - np.trace(kernels)) / (90 * 89)
    found = kernel_estimate(ours, KernelReference(real), groups=Groups.of(labels, 90))
    assert found.value == pytest.approx(kernel_estimate(ours, KernelReference(real)).value, rel=1e-9)
    assert found.debiased == pytest.approx(kernels[apart].mean() + level, rel=1e-9)
    each = kernel_estimate(ours, KernelReference(real))
    single = kernel_estimate(ours, KernelReference(real), groups=Groups(np.arange(90), 90))
    assert single.standard_error == pytest.approx(each.standard_error, rel=1e-9)
    assert single.variance_slope == pytest.approx(each.variance_slope, rel=1e-9)


def test_the_variance_of_pairs_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(12)
    ours, real = draw(rng, 7, 3, shift=0.3), draw(rng, 9, 3)
    kernels = (ours @ ours.T / 3 + 1) ** 3

    def over(places: tuple[int, int, int, int]) -> float:
        a, b, c, d = places
        return float(np.mean([kernels[i[a], i[b]] * kernels[i[c], i[d]] for i in itertools.permutations(range(7), 4)]))

    eta = over((0, 1, 0, 1)) - 2 * over((0, 1, 0, 2)) + over((0, 1, 2, 3))
    found = kernel_estimate(ours, KernelReference(real))
    twice_counted = 4 / (7 * 5) - 2 / (7 * 6)
    assert np.mean(np.square(found.interactions["images"])) == pytest.approx(twice_counted * eta, rel=1e-9)
    across = ((ours @ real.T / 3 + 1) ** 3).mean(axis=1)
    own = (kernels.sum(axis=1) - np.diag(kernels)) / (7 - 2)
    first = float(np.var(2 * (own - across), ddof=1)) / 7
    assert found.whole_variance == pytest.approx(first, rel=1e-9)


@pytest.mark.parametrize("prompts", [None, 60])
def test_near_the_reference_a_distance_has_no_interval_but_a_difference_has_one(prompts: int | None) -> None:
    rng = np.random.default_rng(13)
    real = KernelReference(draw(rng, 400, 4))
    groups = None if prompts is None else Groups.of(np.repeat(np.arange(prompts), 2), 2 * prompts)

    def found(shift: float) -> Estimate:
        return kernel_estimate(draw(rng, 120, 4, shift), real, groups=groups)

    near, far = [found(0.0) for _ in range(30)], [found(0.8) for _ in range(30)]
    withheld = [estimate.caveat for estimate in near if estimate.caveat]
    assert len(withheld) > 15
    assert all("so the distance is too small, or the images too few" in why for why in withheld)
    assert [estimate.caveat for estimate in far] == [None] * 30
    assert all(paired_difference(a, b).caveat is None for a, b in itertools.pairwise(near))


@pytest.mark.parametrize("noise", [False, True])
def test_the_standard_error_of_clusters_is_the_spread_over_draws(noise: bool) -> None:
    rng = np.random.default_rng(11)
    labels = np.repeat(np.arange(50), 4)
    groups = Groups.of(labels, 200)
    fixed, found = KernelReference(draw(rng, 300, 4)), []
    for _ in range(200):
        ours = 0.7 * draw(rng, 200, 4) + 0.7 * draw(rng, 50, 4)[labels] + 0.1
        real = KernelReference(draw(rng, 100, 4)) if noise else fixed
        found.append(kernel_estimate(ours, real, noise, groups))
    spread = np.std([estimate.debiased_value for estimate in found], ddof=1)
    assert np.sqrt(np.mean([estimate.standard_error**2 for estimate in found])) == pytest.approx(spread, rel=0.2)
    assert (
        np.mean([estimate.value - estimate.debiased_value for estimate in found]) > 0.1 * spread
    )  # of pairs within prompts


def test_parts_in_single_precision_give_the_distance_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    ours, real = draw(rng, 1200, 24, shift=0.1), draw(rng, 1300, 24)
    exact, in_parts = kernel_estimate(ours, KernelReference(real)), InParts.of(real)
    for parts, error in ((1, 1e-3), (3, 1.0)):
        monkeypatch.setattr("bench.score.kernel_in_parts.part_count", lambda *_, parts=parts: parts)
        found = in_parts.estimate(ours, frozenset())
        assert found.value == pytest.approx(exact.value, abs=error * exact.standard_error)
        assert found.standard_error == pytest.approx(exact.standard_error, rel=0.2 * error)
        assert found.interval() == pytest.approx(exact.interval(), abs=error * exact.standard_error)
        assert np.corrcoef(found.influence, exact.influence)[0, 1] > 0.85


def test_parts_have_the_standard_error_of_their_values_over_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.score.kernel_in_parts.part_count", lambda *_: 3)
    rng = np.random.default_rng(12)
    in_parts = InParts.of(draw(rng, 180, 4))
    ours = [draw(rng, 180, 4, shift=0.15) for _ in range(150)]
    found = [in_parts.estimate(x, frozenset()) for x in ours]
    error = np.mean([one.standard_error for one in found])
    assert error == pytest.approx(np.std([one.value for one in found]), rel=0.18)
    exact = np.array([kernel_estimate(x, KernelReference(in_parts.whole.features)).value for x in ours])
    apart = np.array([one.value for one in found]) - exact
    assert abs(apart.mean()) < 4 * apart.std() / np.sqrt(150)


@pytest.mark.parametrize(("n", "m", "d"), [(10_000, 10_000, 2048), (50_000, 50_000, 2048), (5_000, 40_000, 1024)])
def test_a_fallback_multiplies_no_more_than_the_distance_it_replaces(n: int, m: int, d: int) -> None:
    of_kernels = (n * n + 2 * n * m) * d / part_count(n, m, d) / 2  # a product in single precision is half of one
    of_covariance_and_coordinates = 4 * n * d * d
    assert of_kernels <= of_covariance_and_coordinates


def test_many_images_of_many_dimensions_fall_back_to_parts_and_pair_with_each_other() -> None:
    rng = np.random.default_rng(13)
    reference = Reference.of(draw(rng, 1100, 512).astype(np.float32))
    ours, theirs = (draw(rng, 1000, 512, shift).astype(np.float32) for shift in (0.05, 0.1))
    assert part_count(1000, 1100, 512) == 2
    distance = frechet_estimate(ours, reference)
    assert distance.caveat is not None
    assert distance.fallback is not None
    assert distance.fallback.value == kernel_fallback(ours, reference).value
    gain = paired_difference(distance.fallback, kernel_fallback(theirs, reference))
    whole = kernel_estimate(ours, reference.kernel), kernel_estimate(theirs, reference.kernel)
    assert gain.value == pytest.approx(whole[0].value - whole[1].value, abs=2 * gain.standard_error)
    few = kernel_fallback(ours[:200], reference)
    assert few.value == kernel_estimate(ours[:200], reference.kernel).value
    overlapping = kernel_fallback(np.asarray(reference.features[:1000]), reference)
    assert "are among the reference images too" in str(overlapping.caveat)
