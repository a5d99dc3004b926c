"""The Fréchet distance equals the reference implementations, and its standard error is the spread over draws."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm

import bench
from bench.score import frechet
from bench.score.eigen import between_lower, eigenvectors, is_lower_triangular, lower_times
from bench.score.estimate import paired_difference
from bench.score.frechet import Reference, bare_distance, frechet_estimate
from bench.score.groups import Groups
from bench.score.jackknife import Spectrum, Whitened
from bench.score.kernel import kernel_estimate
from bench.score.moments import features_to_moments

Floats = NDArray[np.float64]
SHAPES = [(16, 200), (16, 10), (64, 300), (64, 40), (256, 300), (256, 100)]
"""Dimension and number of images: more images than dimensions, and fewer (a covariance of deficient rank)."""


def draw(rng: np.random.Generator, n: int, d: int, shift: float = 0.0, scale: float = 1.0) -> Floats:
    """Correlated, skewed features (n, d)."""
    mixing = np.random.default_rng(d).standard_normal((d, d)) / np.sqrt(d)
    skewed = rng.exponential(1.0, (n, d)) - 1
    mixed: Floats = skewed @ mixing + 0.3 * rng.standard_normal((n, d))
    return shift + scale * mixed


def test_the_distance_of_known_gaussians_is_the_closed_form() -> None:
    cube = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    variance = 8 / 7
    ours, real = cube * [3.0, 1.0, 2.0] + [1.0, 0.0, -2.0], cube * [1.0, 1.0, 0.5]
    expected = 1 + 4 + variance * ((3 - 1) ** 2 + (2 - 0.5) ** 2)
    assert frechet_estimate(ours, Reference.of(real)).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_a_set_has_no_distance_from_itself(d: int, n: int) -> None:
    features = draw(np.random.default_rng(3), n, d)
    assert abs(frechet_estimate(features, Reference.of(features)).value) < 1e-5


@pytest.mark.parametrize(
    "estimate", [frechet_estimate, lambda rows, real: kernel_estimate(rows, real.kernel)], ids=["fréchet", "kernel"]
)
def test_single_precision_features_lose_nothing_more(estimate: Any) -> None:
    rng = np.random.default_rng(4)
    ours, real = (draw(rng, 200, 16, shift=50.0).astype(np.float32) for _ in range(2))
    exact = estimate(ours.astype(np.float64), Reference.of(real.astype(np.float64)))
    assert estimate(ours, Reference.of(real)).value == exact.value


def test_stored_parts_of_a_reference_are_reused_without_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(23)
    ours, real = draw(rng, 200, 16, scale=1.3), draw(rng, 300, 16)
    first = Reference.of(real)
    estimate = frechet_estimate(ours, first)
    again = Reference.of(real, first.to_parts())
    monkeypatch.setattr(Reference, "moments", property(lambda _: pytest.fail("the reference was computed again")))
    other = frechet_estimate(ours, again)
    assert (other.value, other.debiased_value, other.standard_error) == (
        estimate.value,
        estimate.debiased_value,
        estimate.standard_error,
    )


def test_features_of_one_dimension_are_allowed() -> None:
    ours, real = np.array([[0.0], [2.0]]), np.array([[5.0], [9.0]])
    assert frechet_estimate(ours, Reference.of(real)).value == pytest.approx(36 + (np.sqrt(8) - np.sqrt(2)) ** 2)


def plain_distance(ours: Floats, real: Floats) -> float:
    """From the definition, by a general matrix square root."""
    shift = ours.mean(axis=0) - real.mean(axis=0)
    first, second = np.cov(ours, rowvar=False), np.cov(real, rowvar=False)
    return float(shift @ shift + np.trace(first + second - 2 * sqrtm(first @ second).real))


@pytest.mark.parametrize("tails", [False, True])
def test_the_debiased_distance_and_its_influences_are_those_of_leaving_out_one_image_and_two(tails: bool) -> None:
    rng = np.random.default_rng(22)
    n, d = 80, 30
    ours, real = draw(rng, n, d, shift=0.2, scale=1.1), draw(rng, 400, d)
    if tails:
        ours *= np.sqrt(7 / rng.chisquare(9, (n, 1)))
    reference = Reference.of(real)
    value = bare_distance(ours, reference)
    one = np.array([bare_distance(np.delete(ours, i, axis=0), reference) for i in range(n)])
    two = np.zeros((n, n))
    for i, j in itertools.combinations(range(n), 2):
        two[i, j] = two[j, i] = bare_distance(np.delete(ours, [i, j], axis=0), reference)
    others = two.sum(axis=1) / (n - 1)
    second = (n**2 * value - 2 * (n - 1) ** 2 * one.mean() + (n - 2) ** 2 * others.mean()) / 2
    first, first_without = n * value - (n - 1) * one.mean(), (n - 1) * one - (n - 2) * others
    pseudo = n * first - (n - 1) * first_without
    estimate = frechet_estimate(ours, reference)
    error = estimate.standard_error
    assert tails or abs(estimate.correction) > 0.15 * error
    assert estimate.debiased == pytest.approx(second, abs=0.05 * error)
    assert estimate.debiased - estimate.correction == pytest.approx(first, rel=1e-6)
    assert (estimate.influence - pseudo).std() < 0.15 * pseudo.std()
    assert estimate.influence.std() == pytest.approx(pseudo.std(), rel=0.05)
    assert (n * one).std() > 1.08 * pseudo.std()  # those of the plain value are others


def test_with_many_images_the_influence_is_the_one_of_the_limit_law() -> None:
    rng = np.random.default_rng(5)
    ours, real = draw(rng, 4000, 3, shift=0.3, scale=1.2), draw(rng, 200, 3)
    first, second = np.cov(ours, rowvar=False), np.cov(real, rowvar=False)
    root = sqrtm(second).real
    kept = np.eye(3) - root @ np.linalg.inv(sqrtm(root @ first @ root).real) @ root
    centred, shift = ours - ours.mean(axis=0), ours.mean(axis=0) - real.mean(axis=0)
    expected = 2 * centred @ shift + np.einsum("ij,jk,ik->i", centred, kept, centred) - np.trace(kept @ first)
    found = frechet_estimate(ours, Reference.of(real)).influence
    assert (found - expected).std() < 0.02 * expected.std()


def test_the_traces_without_one_row_are_those_of_the_covariance_without_it_whatever_its_condition() -> None:
    rng = np.random.default_rng(15)
    n, d = 40, 20
    rows = rng.standard_normal((n, d)) * np.geomspace(1e-4, 10, d)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
    spectrum = Spectrum.of(values)
    found = spectrum.deletions(spectrum.forms(np.square((rows - rows.mean(axis=0)) @ vectors), n)).one
    for i in (0, 7, 39):
        covariance = np.cov(np.delete(rows, i, axis=0), rowvar=False)
        assert found[i] == pytest.approx(np.sqrt(np.linalg.eigvalsh(covariance)).sum(), rel=1e-7)


def test_interactions_of_pairs_are_second_differences_of_the_distance() -> None:
    rng = np.random.default_rng(16)
    n, d = 4000, 4
    rows = rng.standard_normal((n, d)) * [1.0, 2.0, 0.5, 1.5]

    def value(weights: Floats) -> float:
        weights = weights / weights.sum()
        mean = weights @ rows
        centred = rows - mean
        covariance = (centred * weights[:, None]).T @ centred
        return float(mean @ mean + np.trace(covariance) - 2 * np.sqrt(np.linalg.eigvalsh(covariance)).sum())

    mean, covariance = rows.mean(axis=0), np.cov(rows, rowvar=False, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    coordinates = (rows - mean) @ vectors
    found = Spectrum.of(values).interactions(coordinates, np.array([0]), np.array([1]))[0]
    step = 0.5
    grid = {}
    for a in (-step, step):
        for b in (-step, step):
            weights = np.ones(n)
            weights[0] += a
            weights[1] += b
            grid[a, b] = value(weights)
    mixed = (grid[step, step] - grid[step, -step] - grid[-step, step] + grid[-step, -step]) / (2 * step) ** 2
    linear = (value(np.eye(1, n, 0)[0] * step + 1) - value(1 - np.eye(1, n, 0)[0] * step)) / (2 * step) * n
    other = (value(np.eye(1, n, 1)[0] * step + 1) - value(1 - np.eye(1, n, 1)[0] * step)) / (2 * step) * n
    assert mixed * n**2 + linear + other == pytest.approx(found, rel=0.02, abs=0.02)


@pytest.mark.parametrize(("d", "ratio"), [(50, 4), (32, 8)])
def test_the_debiased_distance_is_that_of_endless_images_and_its_interval_covers_it(d: int, ratio: int) -> None:
    rng = np.random.default_rng(14)
    reference = Reference.of(draw(rng, 4000, d))
    endless = frechet_estimate(draw(rng, 40000, d, shift=0.2, scale=1.3), reference).debiased_value
    estimates = [frechet_estimate(draw(rng, ratio * d, d, shift=0.2, scale=1.3), reference) for _ in range(200)]
    error = np.mean([estimate.standard_error for estimate in estimates])
    assert np.mean([estimate.value for estimate in estimates]) > endless + error
    assert abs(np.mean([estimate.debiased_value for estimate in estimates]) - endless) < 0.3 * error
    covered = np.mean([low < endless < high for low, high in (estimate.interval() for estimate in estimates)])
    assert 0.91 < covered < 0.99
    assert sum(estimate.caveat is not None for estimate in estimates) < 20


def test_the_references_own_noise_widens_the_interval_and_its_bias_is_removed() -> None:
    rng = np.random.default_rng(17)
    d, n, m = 8, 300, 200
    truth = frechet_estimate(draw(rng, 40000, d, scale=1.4), Reference.of(draw(rng, 40000, d))).debiased_value
    estimates = [
        frechet_estimate(draw(rng, n, d, scale=1.4), Reference.of(draw(rng, m, d)), reference_noise=True)
        for _ in range(150)
    ]
    fixed = frechet_estimate(draw(rng, n, d, scale=1.4), Reference.of(draw(rng, m, d)))
    error = np.mean([estimate.standard_error for estimate in estimates])
    values = np.array([estimate.debiased_value for estimate in estimates])
    assert error == pytest.approx(values.std(), rel=0.2)
    assert abs(values.mean() - truth) < 0.4 * error
    assert error > 1.15 * fixed.standard_error


def test_too_few_images_for_their_dimension_have_no_interval_and_the_kernel_distance_is_the_fallback() -> None:
    rng = np.random.default_rng(18)
    reference = Reference.of(draw(rng, 400, 16))
    few = frechet_estimate(draw(rng, 24, 16), reference)
    assert few.caveat == "24 images are too few for a covariance of rank 16: it takes more than 36"
    assert few.or_fallback.value == kernel_estimate(
        draw(np.random.default_rng(18), 424, 16)[400:], reference.kernel
    ).value or (few.or_fallback.exact)
    many = draw(rng, 200, 16, scale=1.4)
    assert frechet_estimate(many, reference).caveat is None
    assert (
        frechet_estimate(many[1:], reference).caveat == "199 images are too few for an interval: it takes 200 or more"
    )


def test_a_covariance_that_lacks_a_dimension_of_the_references_has_no_interval() -> None:
    rng = np.random.default_rng(19)
    reference = Reference.of(draw(rng, 400, 8))
    flat = draw(rng, 200, 8)
    flat[:, 3] = 1.0
    said = str(frechet_estimate(flat, reference).caveat)
    assert said.startswith(
        "the images do not vary in 1 of the 8 dimensions in which the reference images do; check for"
    )


def test_a_dimension_that_is_constant_on_both_sides_does_no_harm() -> None:
    rng = np.random.default_rng(20)
    ours, real = draw(rng, 200, 8, scale=1.4), draw(rng, 400, 8)
    whole = frechet_estimate(ours, Reference.of(real))
    padded = frechet_estimate(np.pad(ours, ((0, 0), (0, 2))), Reference.of(np.pad(real, ((0, 0), (0, 2)))))
    assert padded.caveat is None
    assert (padded.value, padded.debiased_value) == pytest.approx((whole.value, whole.debiased_value), rel=1e-9)
    assert padded.standard_error == pytest.approx(whole.standard_error, rel=1e-9)


def test_images_like_the_reference_itself_have_no_interval() -> None:
    rng = np.random.default_rng(21)
    reference = Reference.of(draw(rng, 30000, 64))
    doubts = [frechet_estimate(draw(rng, 640, 64), reference).caveat for _ in range(20)]
    assert sum(caveat is not None and "pairs of images make" in caveat for caveat in doubts) >= 14


def test_the_standard_error_is_the_spread_over_draws() -> None:
    rng = np.random.default_rng(6)
    reference = Reference.of(draw(rng, 2000, 4))
    draws = [frechet_estimate(draw(rng, 250, 4, shift=0.3, scale=1.2), reference) for _ in range(400)]
    spread = np.std([estimate.value for estimate in draws], ddof=1)
    assert np.mean([estimate.standard_error for estimate in draws]) == pytest.approx(spread, rel=0.15)


def test_the_paired_difference_uses_the_similarity_of_two_methods() -> None:
    rng = np.random.default_rng(7)
    reference = Reference.of(draw(rng, 2000, 4))
    differences, unpaired = [], []
    for _ in range(400):
        ours = draw(rng, 250, 4, shift=0.3, scale=1.2)
        theirs = ours + 0.05 + 0.05 * rng.standard_normal(ours.shape)
        pair = frechet_estimate(ours, reference), frechet_estimate(theirs, reference)
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
        frechet_estimate(features, reference)
    with pytest.raises(ValueError, match="NaN or infinity; look for broken images"):
        Reference.of(features)


def test_with_clusters_prompts_are_left_out_one_and_two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "_FEWEST", 50)
    rng = np.random.default_rng(24)
    count, each, d = 60, 5, 20
    labels = np.repeat(np.arange(count), each)
    ours = draw(rng, count * each, d) + draw(rng, count, d)[labels]
    reference = Reference.of(draw(rng, 400, d))
    value = bare_distance(ours, reference)
    one = np.array([bare_distance(ours[labels != g], reference) for g in range(count)])
    two = np.zeros((count, count))
    for g, h in itertools.combinations(range(count), 2):
        two[g, h] = two[h, g] = bare_distance(ours[(labels != g) & (labels != h)], reference)
    others = two.sum(axis=1) / (count - 1)
    second = (count**2 * value - 2 * (count - 1) ** 2 * one.mean() + (count - 2) ** 2 * others.mean()) / 2
    groups = Groups.of(labels, len(labels))
    estimate = frechet_estimate(ours, reference, groups=groups)
    error = estimate.standard_error
    assert value - second > 0.15 * error
    assert estimate.value == pytest.approx(value)
    assert estimate.debiased == pytest.approx(second, abs=0.02 * error)
    assert estimate.debiased_value - estimate.correction == pytest.approx(
        count * value - (count - 1) * one.mean(), rel=1e-6
    )
    pseudo = -(count - 1) * ((count - 1) * one - (count - 2) * others)
    assert (groups.units(estimate.influence) - pseudo + pseudo.mean()).std() < 0.05 * pseudo.std()


def test_groups_of_one_image_are_left_out_as_images_are() -> None:
    rng = np.random.default_rng(25)
    ours, reference = draw(rng, 240, 12, scale=1.3), Reference.of(draw(rng, 300, 12))
    moments, each = features_to_moments(ours), frechet_estimate(ours, reference)
    alone = frechet._leave_out(ours, moments, reference, Groups(np.arange(240), 240))
    assert not isinstance(alone, int)
    assert alone.debiased_value == pytest.approx(each.debiased_value, abs=0.002 * each.standard_error)
    assert alone.standard_error == pytest.approx(each.standard_error, rel=0.02)
    assert np.corrcoef(alone.influence, each.influence)[0, 1] > 0.9999


def test_the_interval_of_clusters_covers_and_few_prompts_have_none() -> None:
    rng = np.random.default_rng(26)
    count, each, d = 200, 3, 16
    labels = np.repeat(np.arange(count), each)
    labels[:80] = np.repeat(np.arange(40), 2)
    groups, reference = Groups.of(labels, len(labels)), Reference.of(draw(rng, 2000, d))
    endless = frechet_estimate(np.sqrt(2) * draw(rng, 100_000, d), reference).debiased_value
    found = [
        frechet_estimate(draw(rng, len(labels), d) + draw(rng, count, d)[labels], reference, groups=groups)
        for _ in range(60)
    ]
    values, errors = np.array([(e.debiased_value, e.standard_error) for e in found]).T
    assert abs(values.mean() - endless) < 0.5 * errors.mean()
    assert errors.mean() == pytest.approx(values.std(), rel=0.3)
    rows = np.arange(512)
    few = frechet_estimate(draw(rng, 512, 4), Reference.of(draw(rng, 400, 4)), groups=Groups.of(rows // 16, 512))
    assert few.caveat == "512 images of 32 prompts are too few for an interval: it takes 200 prompts or more"


@pytest.mark.parametrize("alike", [0.9, 0.5])
def test_the_paired_difference_of_close_generators_near_the_reference_has_an_interval_that_covers(alike: float) -> None:
    rng = np.random.default_rng(27)
    d, n = 16, 320
    stretch = np.exp(0.05 * rng.standard_normal(d))
    reference = Reference.of(draw(rng, 4000, d) * stretch)
    large = draw(rng, 200_000, d)
    truth = frechet_estimate(large, reference).debiased_value - frechet_estimate(large + 0.05, reference).debiased_value
    found, doubted = [], 0
    for _ in range(150):
        ours = draw(rng, n, d)
        theirs = alike * ours + np.sqrt(1 - alike**2) * draw(rng, n, d) + 0.05
        pair = frechet_estimate(ours, reference), frechet_estimate(theirs, reference)
        doubted += pair[0].caveat is not None
        found.append(paired_difference(*pair))
    assert doubted > 10, "the values alone are too close to the reference"
    assert np.mean([estimate.caveat is not None for estimate in found]) < 0.05
    assert 0.9 < np.mean([low < truth < high for low, high in (estimate.interval() for estimate in found)]) < 0.99


def test_a_set_against_itself_or_with_many_of_its_images_has_no_interval() -> None:
    rng = np.random.default_rng(28)
    real, other = draw(rng, 400, 8), draw(rng, 400, 8, scale=2.0)
    same = bench.kernel_distance(real.astype(np.float32), real)
    assert same.interval is None
    assert "400 different images of 400 are among the reference images too" in str(same.fallback)
    assert bench.frechet_distance(real, real).interval is None
    mixed = np.concatenate([other[:390], real[:10]])
    assert "10 different images of 400" in str(bench.kernel_distance(mixed, real).fallback)
    assert bench.kernel_distance(np.concatenate([other[:398], real[:2]]), real).interval is not None


def test_equal_images_require_more_distinct_images() -> None:
    rng = np.random.default_rng(29)
    real, ours = draw(rng, 3000, 64), draw(rng, 250, 64, scale=1.3)
    twice = np.concatenate([ours[:200], ours[:50]])
    assert bench.frechet_distance(ours, real).interval is not None
    said = str(bench.frechet_distance(twice, real).fallback)
    assert "50 of 250 images are equal to another; an interval then needs more than 264 distinct images" in said


def test_a_reference_accepts_the_inputs_of_the_distances() -> None:
    rows = draw(np.random.default_rng(30), 300, 8)
    expected = Reference.of(rows).mean
    for given in (torch.tensor(rows), rows.tolist()):
        assert Reference.of(given).mean == pytest.approx(expected)
    whole = np.rint(10 * rows).astype(int)
    assert bench.frechet_distance(rows, Reference.of(whole)).value > 0
    assert bench.frechet_distance(rows, np.ones((300, 8))).fallback is not None


def test_the_contribution_of_the_references_own_size_is_reported_and_removed() -> None:
    rng = np.random.default_rng(31)
    ours, real = draw(rng, 400, 8, scale=1.3), draw(rng, 300, 8)
    fixed, both = (bench.frechet_distance(ours, real, reference_noise=noise) for noise in (False, True))
    assert fixed.reference_bias is None
    assert both.debiased == pytest.approx(fixed.debiased - both.reference_bias)
    assert both.reference_bias > 0


def test_methods_that_differ_by_rounding_alone_have_no_verdict() -> None:
    rng = np.random.default_rng(32)
    ours, reference = draw(rng, 400, 8, scale=1.3), Reference.of(draw(rng, 400, 8))
    for estimate in (frechet_estimate, lambda rows, real: kernel_estimate(rows, real.kernel)):
        pair = estimate(ours, reference), estimate(ours * (1 + 2e-16 * rng.standard_normal(ours.shape)), reference)
        difference = paired_difference(*pair)
        assert difference.p_value() == 1.0
        assert difference.caveat is not None


@pytest.mark.parametrize("kept", ["triangular", "general"])
@pytest.mark.parametrize(("decay", "most_loss"), [(0.0, 1e-3), (3.0, 1e-3), (7.0, 1e-3), (3.0, 1e-7)])
def test_many_dimensions_take_a_faster_way_to_the_same_estimate(
    monkeypatch: pytest.MonkeyPatch, kept: str, decay: float, most_loss: float
) -> None:
    rng = np.random.default_rng(31)
    n, d = 400, 24
    spectrum = np.exp(-decay * np.linspace(0, 1, d))
    ours, real = draw(rng, n, d, shift=0.1, scale=1.2) * spectrum, draw(rng, 600, d) * spectrum
    usual = Reference.of(real)
    expected, seen = frechet_estimate(ours, usual), list[int]()
    monkeypatch.setattr(frechet, "MANY_DIMENSIONS", 16)
    monkeypatch.setattr(frechet, "MOST_LOSS", most_loss)
    reference = Reference.of(real, usual.to_parts() if kept == "general" else None)
    assert reference.is_triangular is (kept == "triangular")
    forms = Whitened.forms
    monkeypatch.setattr(Whitened, "forms", lambda *given: seen.append(1) or forms(*given))
    found = frechet_estimate(ours, reference)
    assert bool(seen) is (most_loss == 1e-3), "where images cancel too much, double precision is kept"
    assert found.plug_in == pytest.approx(expected.plug_in, rel=1e-8)
    assert found.debiased_value == pytest.approx(expected.debiased_value, rel=1e-6)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-5)
    assert found.interval() == pytest.approx(expected.interval(), rel=1e-5)
    near = 1e-3 * expected.influence.std()
    np.testing.assert_allclose(found.influence, expected.influence, rtol=0, atol=near)
    pairs = expected.interactions["images"]
    np.testing.assert_allclose(found.interactions["images"], pairs, rtol=0, atol=1e-3 * pairs.std())


def test_sums_over_all_rows_in_single_precision_are_those_of_the_eigenvalues() -> None:
    rng = np.random.default_rng(32)
    rows = rng.standard_normal((500, 8)) * np.geomspace(0.01, 3, 8)
    rows -= rows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
    exact, single = Spectrum.of(values), Whitened.of(values)
    theirs = exact.forms(np.square(rows @ vectors), 500)
    white = (rows @ (vectors / np.sqrt(values))).astype(np.float32)
    ours = single.forms(np.square(white * np.float32(1.001)), 500)  # a common error of all
    np.testing.assert_allclose(single.with_totals(ours), theirs, rtol=1e-5)
    np.testing.assert_allclose(single.with_totals(ours).sum(axis=0), theirs.sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("d", [3, 40])
@pytest.mark.parametrize("kind", ["spread", "equal"])
def test_eigenvectors_of_a_symmetric_matrix(d: int, kind: str) -> None:
    rng = np.random.default_rng(33)
    turned = np.linalg.qr(rng.standard_normal((d, d)))[0]
    spectrum = np.geomspace(1e-6, 5, d) if kind == "spread" else np.ones(d)
    matrix = (turned * spectrum) @ turned.T
    values, vectors = eigenvectors(matrix.copy())
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), rtol=0, atol=1e-14)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(d), atol=1e-12)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-13)


def test_products_with_a_triangular_matrix() -> None:
    rng = np.random.default_rng(34)
    lower, other = np.tril(rng.standard_normal((6, 6))), rng.standard_normal((6, 6))
    assert is_lower_triangular(lower)
    assert not any(map(is_lower_triangular, (other, lower.T, lower[:, :4])))
    np.testing.assert_allclose(lower_times(lower, other), lower @ other)
    symmetric = other @ other.T
    np.testing.assert_allclose(between_lower(lower, symmetric), lower.T @ symmetric @ lower)
    np.testing.assert_array_equal(symmetric, other @ other.T)
