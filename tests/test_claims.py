"""Verdicts are those of paired tests adjusted by Holm's method, and true null claims rarely get one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from factories import make_cell, make_record, make_run
from scipy.special import ndtr, ndtri
from scipy.stats import binom, t

from bench.analysis.claims import BEYOND_DOUBT, LEVEL, Comparison, Judgement, holm, judge_claims
from bench.analysis.scoring import ScoredCell
from bench.analysis.sequential import OF_WHAT_IS_LEFT, nominal_level, path_of
from bench.records.cell import content_hash
from bench.records.record import Calls, Latency
from bench.records.run import Claim, Side
from bench.score.estimate import Estimate
from bench.score.groups import Groups
from bench.store.interim_looks import define

N = 100
NOISE = np.tile([1.0, -1.0], N // 2)
UNIT = Estimate(0.0, NOISE).standard_error
STUDENT = t(N - 1)
CELL = make_cell(N, eta=None)
FLAT = np.zeros(N)


def scored(method: str, estimates: Mapping[str, Estimate], model: str = "mini", **axes: Any) -> ScoredCell:
    """A cell with its estimates."""
    cell = replace(CELL, method=method, base=replace(CELL.base, name=model), **axes)
    return ScoredCell(make_record(cell), estimates)


def ours(z: float, metric: str = "clip_score@mini", **axes: Any) -> ScoredCell:
    """The subject, whose value is `z` standard errors above that of `theirs`."""
    return scored("tcd", {metric: Estimate(20.0 + z * UNIT, NOISE)}, **axes)


def theirs(metric: str = "clip_score@mini", **axes: Any) -> ScoredCell:
    """The object, without its own noise."""
    return scored("dpmpp_2s", {metric: Estimate(20.0, FLAT)}, **axes)


def make_claim(metrics: Sequence[str] = ("clip_score@mini",), **changes: Any) -> Claim:
    """TCD at 4 steps is better than the teacher at 4 steps."""
    sides = {"subject": Side("tcd", (4,)), "object": Side("dpmpp_2s", (4,))}
    return Claim(**{"name": "c", "text": "TCD wins", "metrics": tuple(metrics), "expect": "better", **sides, **changes})


def judge(claims: Claim | Sequence[Claim], *cells: ScoredCell, **more: Any) -> list[Judgement]:
    """Judge claims over cells."""
    claims = (claims,) if isinstance(claims, Claim) else tuple(claims)
    return judge_claims(make_run(claims=claims, **more), cells)


def adjusted(tail: float, times: int = 1) -> float:
    """A one-sided p-value of a first look, corrected for `tests` tests."""
    return min(1.0, times * tail / OF_WHAT_IS_LEFT)


def the_comparison(claim: Claim, *cells: ScoredCell) -> Comparison:
    """The only item."""
    (judgement,) = judge(claim, *cells)
    (comparison,) = judgement.comparisons
    return comparison


def test_the_price_of_a_claim_counts_the_sampling_of_each_cell_once() -> None:
    cells = [ours(9.0), ours(9.0, steps=2), theirs(guidance_scale=3.0), theirs(guidance_scale=3.0, steps=8)]
    claim = make_claim(subject=Side("tcd", (2, 4)))
    (judgement,) = judge(claim, *cells)
    assert len(judgement.comparisons) == 2
    assert judgement.sampling_s == pytest.approx(sum(cell.record.sampling_s for cell in cells[:3]))


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.5, 0.001, 0.6], [1.0, 0.003, 1.0]),
        ([0.04], [0.04]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([], []),
    ],
)
def test_holm_agrees_with_a_calculation_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted, rel=1e-12)


def rejected(p_values: Sequence[Fraction], level: Fraction) -> set[int]:
    """Holm's procedure in his words: from the smallest on, reject while p ≤ level / number left."""
    out: set[int] = set()
    for i in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        if p_values[i] * (len(p_values) - len(out)) > level:
            break
        out.add(i)
    return out


def test_an_adjusted_p_value_is_the_smallest_level_at_which_holm_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        p_values = [Fraction(int(p), 64) for p in rng.integers(0, 65, rng.integers(1, 7))]
        levels = sorted({p * k for p in p_values for k in range(1, len(p_values) + 1)} | {Fraction(1)})
        smallest = [
            min((level for level in levels if i in rejected(p_values, level)), default=Fraction(1))
            for i in range(len(p_values))
        ]
        assert holm([float(p) for p in p_values]) == [float(min(level, Fraction(1))) for level in smallest]


@pytest.mark.parametrize(
    ("z", "verdict"),
    [(3.0, "supported"), (1.7, "undecided"), (0.0, "undecided"), (-1.7, "undecided"), (-3.0, "refuted")],
)
def test_a_difference_is_decided_when_it_is_larger_than_chance_makes_it(z: float, verdict: str) -> None:
    (judgement,) = judge(make_claim(), ours(z), theirs())
    assert judgement.verdict == verdict
    assert [comparison.verdict for comparison in judgement.comparisons] == [verdict]


@pytest.mark.parametrize(
    ("metric", "z"),
    [("fid@mini", -3.0), ("kid@mini", -3.0), ("clip_score@mini", 3.0), ("attribute_accuracy@mini", 3.0)],
)
def test_better_means_smaller_for_distances_and_larger_for_scores(metric: str, z: float) -> None:
    better = the_comparison(make_claim([metric]), ours(z, metric), theirs(metric))
    worse = the_comparison(make_claim([metric]), ours(-z, metric), theirs(metric))
    assert (better.verdict, worse.verdict) == ("supported", "refuted")
    assert better.gain == pytest.approx(3 * UNIT)
    assert worse.gain == pytest.approx(-3 * UNIT)
    assert better.subject_value == pytest.approx(20 + z * UNIT)
    assert better.object_value == 20


def test_a_comparison_says_what_was_compared_with_both_its_intervals() -> None:
    comparison = the_comparison(make_claim(["fid@mini"]), ours(-1.0, "fid@mini"), theirs("fid@mini"))
    half = STUDENT.ppf(0.975) * UNIT
    assert comparison.interval == pytest.approx((UNIT - half, UNIT + half))
    assert comparison.p_value == pytest.approx(adjusted(STUDENT.sf(1.0)))
    wide = STUDENT.isf(OF_WHAT_IS_LEFT * LEVEL) * UNIT
    assert comparison.adjusted_interval == pytest.approx((UNIT - wide, UNIT + wide))
    assert comparison.error == pytest.approx(UNIT)
    assert (comparison.model, comparison.metric, comparison.n) == ("mini", "fid@mini", N)
    assert (comparison.subject, comparison.object) == ("mini tcd 4 steps", "mini dpmpp_2s 4 steps")


def test_noise_that_both_sides_share_does_not_count() -> None:
    loud = np.random.default_rng(0).normal(0, 1000, N)
    subject = scored("tcd", {"clip_score@mini": Estimate(20 + 3 * UNIT, loud + NOISE)})
    comparison = the_comparison(make_claim(), subject, scored("dpmpp_2s", {"clip_score@mini": Estimate(20.0, loud)}))
    assert comparison.verdict == "supported"
    assert comparison.p_value == pytest.approx(adjusted(STUDENT.sf(3.0)))


@pytest.mark.parametrize(
    ("expect", "z", "verdict"),
    [
        ("better", 8.0, "supported"),
        ("better", 5.5, "undecided"),
        ("better", 3.5, "undecided"),
        ("better", 3.0, "refuted"),
        ("not_worse", 0.0, "supported"),
        ("not_worse", -2.0, "supported"),
        ("not_worse", -4.5, "undecided"),
        ("not_worse", -8.0, "refuted"),
    ],
)
@pytest.mark.parametrize("metric", ["clip_score@mini", "fid@mini"])
def test_a_margin_must_be_exceeded_to_be_better_and_kept_to_be_not_worse(
    metric: str, expect: str, z: float, verdict: str
) -> None:
    claim = make_claim([metric], expect=expect, margins={metric: 5 * UNIT})
    comparison = the_comparison(claim, ours(-z if metric == "fid@mini" else z, metric), theirs(metric))
    assert comparison.verdict == verdict
    assert comparison.threshold == pytest.approx(5 * UNIT if expect == "better" else -5 * UNIT)


def test_the_margin_of_one_metric_is_not_that_of_another() -> None:
    claim = make_claim(["clip_score@mini", "attribute_accuracy@mini"], margins={"clip_score@mini": 100.0})
    both = {"clip_score@mini": Estimate(9.0, NOISE), "attribute_accuracy@mini": Estimate(9.0, NOISE)}
    none = {metric: Estimate(0.0, FLAT) for metric in both}
    (judgement,) = judge(claim, scored("tcd", both), scored("dpmpp_2s", none))
    assert [comparison.verdict for comparison in judgement.comparisons] == ["refuted", "supported"]


@pytest.mark.parametrize(
    ("zs", "verdict"),
    [
        ((9.0, 9.0), "supported"),
        ((9.0, 0.0), "undecided"),
        ((0.0, 0.0), "undecided"),
        ((9.0, -9.0), "refuted"),
        ((0.0, -9.0), "refuted"),
    ],
)
def test_a_claim_holds_if_all_comparisons_do_and_falls_with_any(zs: tuple[float, float], verdict: str) -> None:
    claim, cells = at_step_counts(*zs)
    assert judge(claim, *cells)[0].verdict == verdict


def test_p_values_are_adjusted_over_all_claims_of_the_run() -> None:
    claims = [make_claim(name="a"), *(make_claim(name=f"{s}", object=Side("dpmpp_2s", (s,))) for s in (8, 16))]
    cells = ours(2.0), theirs(), theirs(steps=8), theirs(steps=16)
    alone = the_comparison(claims[0], *cells)
    together = judge(claims, *cells)
    assert alone.verdict == "supported"
    assert alone.p_value == pytest.approx(adjusted(STUDENT.sf(2.0)))
    for judgement in together:
        assert judgement.verdict == "undecided"
        assert judgement.p_value == judgement.comparisons[0].p_value == pytest.approx(adjusted(STUDENT.sf(2.0), 3))


def at_step_counts(*zs: float, **changes: Any) -> tuple[Claim, list[ScoredCell]]:
    """A claim over several step counts, and its cells, with the subject so many standard errors ahead at each."""
    steps = tuple(range(1, len(zs) + 1))
    cells = [cell for z, s in zip(zs, steps, strict=True) for cell in (ours(z, steps=s), theirs(steps=s))]
    return make_claim(subject=Side("tcd", steps), object=Side("dpmpp_2s", steps), **changes), cells


def test_support_takes_the_largest_p_value_as_it_is_and_refutation_the_smallest_times_their_number() -> None:
    claim, cells = at_step_counts(2.5, 1.9, 2.2)
    (judgement,) = judge(claim, *cells)
    assert judgement.verdict == "supported"
    assert judgement.p_value == pytest.approx(adjusted(STUDENT.sf(1.9)))
    assert [c.verdict for c in judgement.comparisons] == ["supported"] * 3
    for z, verdict in ((-1.9, "undecided"), (-2.4, "refuted")):
        claim, cells = at_step_counts(9.0, 0.5, z)
        (judgement,) = judge(claim, *cells)
        assert judgement.verdict == judgement.comparisons[-1].verdict == verdict
        assert judgement.p_value == pytest.approx(adjusted(STUDENT.sf(-z), 3))
        assert [c.verdict for c in judgement.comparisons[:2]] == ["supported", "undecided"]


@pytest.mark.parametrize("first", [4.2, 6.0])
def test_a_claim_passes_its_share_of_the_level_on_only_where_it_is_certain(first: float) -> None:
    claims = [make_claim(name=f"{s}", subject=Side("tcd", (s,)), object=Side("dpmpp_2s", (s,))) for s in (2, 4)]
    cells = [ours(first, steps=2), theirs(steps=2), ours(1.9, steps=4), theirs(steps=4)]
    decided, other = judge(claims, *cells)
    beyond = STUDENT.sf(first) / OF_WHAT_IS_LEFT < BEYOND_DOUBT
    assert beyond == (first == 6.0)
    assert decided.verdict == "supported"
    assert decided.p_value == pytest.approx(adjusted(STUDENT.sf(first), 2))
    assert other.p_value == pytest.approx(adjusted(STUDENT.sf(1.9), 1 if beyond else 2))
    assert other.verdict == ("supported" if beyond else "undecided")


@pytest.mark.parametrize("expect", ["better", "not_worse", "equivalent"])
@pytest.mark.parametrize("looks", [(1.0,), (0.25, 0.5, 1.0)])
def test_a_verdict_agrees_with_its_adjusted_interval(expect: str, looks: tuple[float, ...]) -> None:
    margin = 3 * UNIT
    rng = np.random.default_rng(0)
    for _ in range(100):
        claim, cells = at_step_counts(*rng.uniform(-9, 9, 2), expect=expect, margins={"clip_score@mini": margin})
        for comparison in judge([claim, make_claim()], *cells, looks=looks)[0].comparisons:
            low, high = comparison.adjusted_interval
            if expect == "equivalent":
                inside, outside = -margin < low and high < margin, low > margin or high < -margin
            else:
                inside, outside = low > comparison.threshold, high < comparison.threshold
            assert comparison.verdict == ("supported" if inside else "refuted" if outside else "undecided")
            assert (comparison.p_value < LEVEL) == (inside or outside)


def test_each_claim_keeps_its_own_comparisons() -> None:
    claims = [make_claim(name="wins"), make_claim(["fid@mini"], name="loses"), make_claim(["kid@mini"], name="nothing")]
    cells = ours(9.0), ours(9.0, "fid@mini", steps=4), theirs(), theirs("fid@mini")
    merged = scored("tcd", {**cells[0].estimates, **cells[1].estimates})
    other = scored("dpmpp_2s", {**cells[2].estimates, **cells[3].estimates})
    assert [(j.claim.name, j.verdict) for j in judge(claims, merged, other)] == [
        ("wins", "supported"),
        ("loses", "refuted"),
        ("nothing", "not tested"),
    ]


@pytest.mark.parametrize(
    ("subject", "other", "pairs"),
    [
        ((2, 4), (8, 16), [(2, 8), (4, 16)]),
        ((4,), (2, 8), [(4, 2), (4, 8)]),
        ((2, 8), (4,), [(2, 4), (8, 4)]),
        ((4,), (4,), [(4, 4)]),
    ],
)
def test_step_counts_go_pairwise_or_one_with_all(
    subject: tuple[int, ...], other: tuple[int, ...], pairs: list[tuple[int, int]]
) -> None:
    cells = [cell for steps in (2, 4, 8, 16) for cell in (ours(steps, steps=steps), theirs(steps=steps))]
    (judgement,) = judge(make_claim(subject=Side("tcd", subject), object=Side("dpmpp_2s", other)), *cells)
    assert [(c.subject, c.object) for c in judgement.comparisons] == [
        (f"mini tcd {a} steps", f"mini dpmpp_2s {b} steps") for a, b in pairs
    ]
    assert [c.gain for c in judgement.comparisons] == pytest.approx([a * UNIT for a, _ in pairs])


def test_every_base_model_is_compared_with_itself() -> None:
    cells = ours(9.0), theirs(), ours(-9.0, model="other"), theirs(model="other")
    (judgement,) = judge(make_claim(), *cells)
    assert [(c.model, c.verdict) for c in judgement.comparisons] == [("mini", "supported"), ("other", "refuted")]
    assert judgement.verdict == "refuted"


def test_a_side_picks_its_cell_by_eta_and_guidance_scale() -> None:
    cells = [ours(z, eta=eta, guidance_scale=scale) for z, eta, scale in ((1, 0.0, 1.0), (2, 0.3, 1.0), (3, 0.3, 2.0))]
    claim = make_claim(subject=Side("tcd", (4,), 0.3, 2.0))
    assert the_comparison(claim, *cells, theirs()).gain == pytest.approx(3 * UNIT)


def test_an_eta_of_zero_is_not_a_missing_eta() -> None:
    cells = ours(1, eta=0.0), ours(2, eta=0.3)
    assert the_comparison(make_claim(subject=Side("tcd", (4,), 0.0)), *cells, theirs()).gain == pytest.approx(UNIT)


def test_a_claim_that_does_not_say_which_of_two_cells_it_means_is_not_tested() -> None:
    (judgement,) = judge(make_claim(), ours(9.0, eta=0.0), ours(9.0, eta=0.3), theirs())
    assert (judgement.verdict, judgement.comparisons) == ("not tested", ())
    assert judgement.missing == ("mini tcd 4 steps (2 cells fit, say which eta or guidance scale)",)


def test_a_claim_about_missing_cells_is_not_tested_and_names_them() -> None:
    claim = make_claim(subject=Side("tcd", (4,), 0.3))
    (judgement,) = judge(claim, theirs(steps=8))
    assert (judgement.verdict, judgement.comparisons) == ("not tested", ())
    assert judgement.missing == ("mini tcd 4 steps eta 0.3 (not run)", "mini dpmpp_2s 4 steps (not run)")


def test_a_failed_cell_counts_as_missing() -> None:
    (judgement,) = judge(make_claim(), scored("tcd", {}), theirs())
    assert (judgement.verdict, judgement.missing) == ("not tested", ("clip_score@mini of mini tcd 4 steps",))


@pytest.mark.parametrize(("z", "verdict"), [(9.0, "undecided"), (-9.0, "refuted")])
def test_a_claim_that_lacks_a_cell_can_be_refuted_but_not_supported(z: float, verdict: str) -> None:
    claim = make_claim(subject=Side("tcd", (2, 4)), object=Side("dpmpp_2s", (2, 4)))
    (judgement,) = judge(claim, ours(z), theirs(), theirs(steps=2))
    assert judgement.verdict == verdict
    assert judgement.missing == ("mini tcd 2 steps (not run)",)


def test_a_claim_that_lacks_a_metric_is_not_supported_and_reports_it() -> None:
    claim = make_claim(["clip_score@mini", "attribute_accuracy@mini"])
    (judgement,) = judge(claim, ours(9.0), theirs())
    assert judgement.verdict == "undecided"
    assert any("attribute_accuracy@mini" in lacking for lacking in judgement.missing)


def test_a_run_without_claims_or_cells_has_no_verdicts() -> None:
    assert judge([], ours(1.0)) == []
    assert [judgement.verdict for judgement in judge(make_claim())] == ["not tested"]


def chance_of_a_verdict(claims: Sequence[Claim], comparison: Comparison, images: int, looks: Sequence[int]) -> float:
    """Return the share of simulated runs in which the last claim's comparison is decided at the last look only."""
    rng = np.random.default_rng(images)
    decided, runs = 0, 2000
    excess = comparison.gain - comparison.threshold
    level = nominal_level(LEVEL / len(claims), path_of([(n, n) for n in (*looks, images)]))
    for _ in range(runs):
        error = comparison.error * np.sqrt(comparison.n / images)
        z = (excess + error * rng.normal()) / error
        decided += ndtr(-abs(z)) < level and z * excess > 0
    return decided / runs


@pytest.mark.parametrize("z", [1.0, -0.7])
def test_an_undecided_comparison_reports_how_many_images_would_decide_it_with_which_probability(z: float) -> None:
    claims = [make_claim(name="a"), make_claim(name="b", metrics=("kid@mini",))]
    subject = scored("tcd", {**ours(z).estimates, **ours(0.1, "kid@mini").estimates})
    other = scored("dpmpp_2s", {**theirs().estimates, **theirs("kid@mini").estimates})
    comparison = judge(claims, subject, other)[0].comparisons[0]
    for images, chance in zip(comparison.images_needed, (0.5, 0.8), strict=True):
        assert chance_of_a_verdict(claims, comparison, images, [N]) == pytest.approx(chance, abs=0.03)


def test_images_of_one_prompt_are_reported_as_a_group() -> None:
    groups = Groups.of(np.arange(N) // 4, N)
    subject, other = (
        Estimate(value, noise, groups=groups) for value, noise in ((20 + UNIT, np.sort(NOISE)), (20.0, FLAT))
    )
    comparison = the_comparison(
        make_claim(), scored("tcd", {"clip_score@mini": subject}), scored("dpmpp_2s", {"clip_score@mini": other})
    )
    assert (comparison.n, comparison.prompts) == (N, N // 4)
    assert comparison.error == pytest.approx(2 * UNIT, rel=0.02), "four equal images say as much as one"
    assert the_comparison(make_claim(), ours(1.0), theirs()).prompts is None


def test_images_needed_of_a_closed_form() -> None:
    """Far apart, the next look shares nothing with the previous one, and spends its own share."""
    comparison = the_comparison(make_claim(), ours(0.05), theirs())
    bound = -ndtri(LEVEL * OF_WHAT_IS_LEFT * (1 - OF_WHAT_IS_LEFT))
    half, most = (N * ((bound + ndtri(chance)) / 0.05) ** 2 for chance in (0.5, 0.8))
    assert comparison.images_needed == pytest.approx((half, most), rel=0.02)


def test_a_decided_comparison_needs_no_more_images_and_no_number_of_them_decides_a_tie() -> None:
    assert the_comparison(make_claim(), ours(3.0), theirs()).images_needed is None
    assert the_comparison(make_claim(), ours(0.0), theirs()).images_needed is None


def simulated_verdicts(
    rng: np.random.Generator, means: Sequence[Sequence[float]], correlation: float, images: int = 400
) -> list[Judgement]:
    """A run with one claim for each row of `means`, true gains in standard errors; noise is shared by `correlation`."""
    claims, cells = [], []
    shared = rng.normal(size=images)
    for i, row in enumerate(means):
        steps = tuple(100 * i + k for k in range(1, len(row) + 1))
        claims.append(make_claim(name=f"{i}", subject=Side("tcd", steps), object=Side("dpmpp_2s", steps)))
        for mean, s in zip(row, steps, strict=True):
            noise = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * rng.normal(size=images)
            values = mean / np.sqrt(images) + noise
            estimate = Estimate(float(values.mean()), values - values.mean())
            cells += [scored("tcd", {"clip_score@mini": estimate}, steps=s)]
            cells += [scored("dpmpp_2s", {"clip_score@mini": Estimate(0.0, np.zeros(images))}, steps=s)]
    return judge(claims, *cells)


@pytest.mark.parametrize(
    ("means", "correlation"),
    [
        ([[0.0]], 0.0),
        ([[0.0]] * 6, 0.0),
        ([[0.325], [0.0]], 1.0),
        ([[9.0], [9.0], [0.0]], 0.5),
        ([[0.0, 9.0], [9.0, 0.0, 9.0]], 0.0),
    ],
    ids=["one", "six", "alike", "two obvious", "one of several"],
)
def test_gains_at_their_thresholds_get_a_false_verdict_in_at_most_5_percent_of_runs(
    means: list[list[float]], correlation: float
) -> None:
    runs, rng = 300, np.random.default_rng(0)
    false = 0
    for _ in range(runs):
        verdicts = [judgement.verdict for judgement in simulated_verdicts(rng, means, correlation)]
        truths = ["supported" if min(row) > 0 else "refuted" for row in means]
        false += any(verdict not in (truth, "undecided") for verdict, truth in zip(verdicts, truths, strict=True))
    assert false <= binom.ppf(0.99, runs, 0.05)
    assert false > binom.ppf(0.001, runs, 0.02)


def test_a_distance_without_an_interval_is_decided_by_its_fallback_and_reports_it() -> None:
    def doubtful(method: str, kernel: float) -> ScoredCell:
        fallback = Estimate(kernel, NOISE * kernel)  # of 9 against 1
        return scored(method, {"fid@mini": replace(
            Estimate(5.0, NOISE), problem="too few images", fallback=fallback, fallback_name="kernel distance"
        )})  # fmt: skip

    comparison = the_comparison(make_claim(["fid@mini"]), doubtful("tcd", 1.0), doubtful("dpmpp_2s", 9.0))
    assert comparison.verdict == "supported"
    assert comparison.gain == 8.0
    assert comparison.note == "kernel distance instead: too few images"
    assert (comparison.metric, comparison.compared) == ("fid@mini", "kid@mini")
    assert (comparison.subject_value, comparison.object_value) == (1.0, 9.0)
    with_margin = make_claim(["fid@mini"], margins={"fid@mini": 0.5})
    comparison = the_comparison(with_margin, doubtful("tcd", 1.0), doubtful("dpmpp_2s", 9.0))
    assert comparison.verdict == "undecided"
    assert comparison.note == "no interval: too few images"
    assert (comparison.interval, comparison.adjusted_interval, comparison.error) == (None, None, None)
    assert (comparison.subject_value, comparison.object_value) == (5.0, 5.0)


@pytest.mark.parametrize(
    ("z", "verdict"), [(0.0, "supported"), (2.9, "undecided"), (5.9, "undecided"), (7.0, "refuted")]
)
def test_equivalence_is_supported_inside_the_margin_and_refuted_beyond_it(z: float, verdict: str) -> None:
    claim = make_claim(expect="equivalent", margins={"clip_score@mini": 4 * UNIT})
    for sign in (1, -1):
        assert the_comparison(claim, ours(sign * z), theirs()).verdict == verdict


def test_a_margin_that_noise_may_cross_makes_nothing_equivalent() -> None:
    claim = make_claim(expect="equivalent", margins={"clip_score@mini": 1.5 * UNIT})
    comparison = the_comparison(claim, ours(0.0), theirs())
    assert comparison.verdict == "undecided"
    assert comparison.p_value == pytest.approx(adjusted(STUDENT.sf(1.5), 2)), "by both ways not to be equivalent"


def with_cost(cell: ScoredCell, evaluations: int, seconds: float) -> ScoredCell:
    """Return the cell with a cost per image."""
    calls = Calls((999.0,), None, None, {}, {}, 1, 1, evaluations, 1, 1)
    latency = Latency(1, 1, "clock", (seconds,), (0.0,), (0.0,), (0.0,))
    return replace(cell, record=replace(cell.record, calls=calls, latency=latency))


def test_an_object_of_equal_cost_is_the_costliest_that_costs_no_more() -> None:
    subject = with_cost(ours(5.0), 4, 0.20)
    objects = [with_cost(theirs(steps=steps), 2 * steps, 0.1 * steps) for steps in (1, 2, 3)]
    by_evaluations = make_claim(object=Side("dpmpp_2s", ()), equal="evaluations")
    assert the_comparison(by_evaluations, subject, *objects).object.endswith("2 steps")
    by_latency = make_claim(object=Side("dpmpp_2s", ()), equal="latency")
    assert the_comparison(by_latency, subject, *objects).object.endswith("2 steps")
    slightly_slower = [objects[0], with_cost(theirs(steps=2), 4, 0.219), objects[2]]
    assert the_comparison(by_latency, subject, *slightly_slower).object.endswith("2 steps"), "within the leeway"
    (judgement,) = judge(by_evaluations, with_cost(ours(5.0), 1, 0.2), *objects)
    assert judgement.verdict == "not tested"
    assert judgement.missing == ("mini dpmpp_2s (none takes 1 denoiser evaluations or less)",)
    (judgement,) = judge(by_latency, ours(5.0), *objects)
    assert "not known" in judgement.missing[0]


def test_a_claim_about_some_models_is_judged_by_those_and_one_about_all_by_all_of_the_run() -> None:
    won, lost = (ours(9, model="sd15"), theirs(model="sd15")), (ours(-9, model="sdxl"), theirs(model="sdxl"))
    about = {name: make_claim(name=name, models=(name,)) for name in ("sd15", "sdxl", "sd21")}
    found = judge([*about.values(), make_claim()], *won, *lost)
    assert [judgement.verdict for judgement in found] == ["supported", "refuted", "not tested", "refuted"]
    assert [len(judgement.comparisons) for judgement in found] == [1, 1, 0, 2]
    assert found[2].missing == ("sd21 tcd 4 steps (not run)", "sd21 dpmpp_2s 4 steps (not run)")


def test_a_claim_about_all_models_waits_for_a_model_without_any_cell() -> None:
    models = {"settings": {"models": {"sd15": {}, "sd21": {}}}}
    reason = "sd21 has no adapter named lcm"
    (judged,) = judge(
        make_claim(), ours(9, model="sd15"), theirs(model="sd15"), **models, left_out=(("sd21 tcd", reason),)
    )
    assert judged.verdict == "undecided"
    assert judged.missing[0] == f"sd21 tcd 4 steps ({reason})"


def test_what_was_published_about_a_claim_is_not_part_of_its_definition() -> None:
    claim = make_claim()
    assert define(replace(claim, text="other", source="a paper", published="1 against 2")) == define(claim)
    assert define(replace(claim, models=("sd15",))) != define(claim)


BETWEEN = make_claim(subject=Side("tcd", (4,), model="turbo"), object=Side("dpmpp_2s", (4,), model="base"))


@pytest.mark.parametrize(("z", "verdict"), [(3.0, "supported"), (-3.0, "refuted")])
def test_sides_that_name_their_models_compare_these_two(z: float, verdict: str) -> None:
    decoys = (ours(-z, model="base"), theirs(model="turbo"), ours(-z, model="third"), theirs(model="third"))
    (judgement,) = judge(BETWEEN, *decoys, ours(z, model="turbo"), theirs(model="base"))
    assert judgement.verdict == verdict
    (comparison,) = judgement.comparisons
    assert (comparison.model, comparison.subject, comparison.object) == (
        *("turbo and base", "turbo tcd 4 steps", "base dpmpp_2s 4 steps"),
    )
    assert not judgement.missing


def test_a_missing_side_is_named_with_its_model() -> None:
    (judgement,) = judge(BETWEEN, ours(1.0, model="base"), theirs(model="base"), settings={"models": ["turbo", "base"]})
    assert judgement.verdict == "not tested"
    assert judgement.missing == ("turbo tcd 4 steps (not run)",)


def test_models_of_sides_leave_the_definition_of_other_claims_as_it_was() -> None:
    before = asdict(make_claim(text=""))
    for side in ("subject", "object"):
        del before[side]["model"]
    assert define(make_claim()) == content_hash(before)
    assert define(BETWEEN) != define(make_claim())
