"""A side at its best guidance scale: chosen on one half of the prompts, judged on the other, against every scale."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_cell, make_record, make_run
from numpy.typing import NDArray
from scipy.stats import t

from bench.analysis.claims import LEVEL, Comparison, Judgement, judge_claims
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.analysis.sequential import OF_WHAT_IS_LEFT
from bench.analysis.strongest import Gains, Scale, best_gains, join_halves, mean_of_rows, split_prompts
from bench.execute.plan_summary import lacking_cells
from bench.records.record import Calls, Images, Latency, Record
from bench.records.run import BEST, Claim, Run, Side
from bench.report.comparisons import opponent_in_words
from bench.report.power import power_of_claim
from bench.report.tables import verdict_table
from bench.report.terminal import summarise
from bench.score.estimate import Estimate, mean_estimate, paired_difference
from bench.score.frechet import Reference
from bench.score.groups import Groups
from bench.score.kernel import kernel_estimate
from bench.score.metrics import Metric, metric_of
from bench.store.store import Store

Floats = NDArray[np.float64]
N = 40
FIRST, SECOND = split_prompts(None, N)
SCORE = "sharpness"
"""A mean of which more is better."""


def values(first: float, second: float, noise: float = 1.0) -> Floats:
    """Values of N images with these means on either half, and a standard deviation of `noise` around them."""
    found = np.empty(N)
    for rows, mean in ((FIRST, first), (SECOND, second)):
        found[rows] = mean + noise * np.tile([1.0, -1.0], len(rows) // 2)
    return found


def cell_of(method: str, rows: Floats, guidance: float = 1.0, groups: Groups | None = None, **axes: Any) -> ScoredCell:
    """A cell at 4 steps with a mean of these values."""
    cell = make_cell(len(rows), eta=None, method=method, guidance_scale=guidance, **axes)
    return ScoredCell(make_record(cell), {SCORE: mean_estimate(rows, groups)})


def make_claim(methods: Sequence[str] = ("ddim",), subject: Side | None = None, **changes: Any) -> Claim:
    """TCD beats these methods at their best guidance scale."""
    names = methods[0] if len(methods) == 1 else tuple(methods)
    sides = {"subject": subject or Side("tcd", (4,)), "object": Side(names, (4,), None, BEST)}
    return Claim(**{"name": "c", "text": "TCD wins", "metrics": (SCORE,), "expect": "better", **sides, **changes})


def judge(claim: Claim, *cells: ScoredCell, **more: Any) -> Judgement:
    """The judgement of one claim."""
    (judgement,) = judge_claims(make_run(claims=(claim,), **more), cells)
    return judgement


def the_comparison(claim: Claim, *cells: ScoredCell) -> Comparison:
    """The only comparison."""
    (comparison,) = judge(claim, *cells).comparisons
    return comparison


def test_halves_take_whole_prompts_and_keep_their_images_as_more_follow() -> None:
    first, second = split_prompts(None, 1001)
    assert sorted([*first, *second]) == list(range(1001))
    assert abs(len(first) - len(second)) == 1
    fewer, _ = split_prompts(None, 400)
    assert [row for row in first if row < 400] == [*fewer]
    prompts = np.repeat(np.random.default_rng(0).permutation(50), 3)
    own, other = (set(prompts[rows]) for rows in split_prompts(Groups.of(prompts, 150), 150))
    assert (len(own), len(other), own & other) == (25, 25, set())
    tail = np.concatenate([prompts, [-1, -2]])
    assert set(prompts) & set(tail[split_prompts(Groups.of(tail, 152), 152)[0]]) == own, "whatever labels sort first"


def test_joined_halves_of_a_mean_are_the_mean() -> None:
    rng = np.random.default_rng(0)
    for groups in (None, Groups.of(np.repeat(np.arange(50), 2), 100)):
        whole, rows = mean_estimate(rng.normal(3, 1, 100), groups), split_prompts(groups, 100)
        joined = join_halves([mean_of_rows(whole, own) for own in rows], rows, groups)
        assert joined.value == pytest.approx(whole.value)
        errors = [mean_of_rows(whole, own).standard_error for own in rows]
        assert joined.standard_error == pytest.approx(np.hypot(*errors) / 2), "of independent halves"
        assert (joined.mean_of, joined.caveat) == ("values", None)


def test_halves_of_unequal_size_weigh_by_their_images() -> None:
    rows = np.arange(30), np.arange(30, 40)
    halves = [mean_estimate(np.tile([1.0, 3.0], 15)), mean_estimate(np.tile([6.0, 10.0], 5))]
    joined = join_halves(halves, rows, None)
    assert joined.value == pytest.approx((30 * 2 + 10 * 8) / 40)
    assert joined.influence[:2] / np.sqrt(30 / 29 * 39 / 40) == pytest.approx([-1, 1])
    assert joined.influence[30:32] / np.sqrt(10 / 9 * 39 / 40) == pytest.approx([-2, 2])


def test_the_variances_that_pairs_add_are_those_of_both_halves() -> None:
    half = replace(Estimate(0.0, np.zeros(20)), interactions={"images": np.array([2.0, -2.0])})
    joined = join_halves([half, half], (np.arange(20), np.arange(20, 40)), None)
    assert np.mean(joined.interactions["images"] ** 2) == pytest.approx(2 * 4.0 / 4)


def test_each_half_is_judged_at_the_scale_that_the_other_chose() -> None:
    """On the first half scale 1 is best, on the second scale 5: the one is judged by 6, the other by 4."""
    cells = [cell_of("ddim", values(10, 4), 1.0), cell_of("ddim", values(6, 8), 5.0)]
    comparison = the_comparison(make_claim(), cell_of("tcd", values(9, 9, 0.5)), *cells)
    assert comparison.gain == pytest.approx(9 - (6 + 4) / 2)
    assert comparison.choices == "ddim at its best: guidance 1 by one half of the prompts, 5 by the other"
    assert comparison.object.endswith("guidance 1"), "the first of two that are as good over all images"
    assert comparison.object_value == 7


def test_a_scale_that_both_halves_choose_is_compared_as_if_it_were_alone() -> None:
    best, worse, subject = values(5, 5), values(-9, -9, 3), values(6, 6, 2)
    tuned = the_comparison(
        make_claim(), cell_of("tcd", subject), cell_of("ddim", best, 3.0), cell_of("ddim", worse, 9.0)
    )
    alone = the_comparison(
        make_claim(object=Side("ddim", (4,), None, 3.0)), cell_of("tcd", subject), cell_of("ddim", best, 3.0)
    )
    assert tuned.choices == "ddim at its best: guidance 3 by both halves of the prompts"
    assert (tuned.gain, tuned.p_value) == pytest.approx((alone.gain, alone.p_value))
    assert tuned.error == pytest.approx(alone.error, rel=0.03)
    assert (tuned.object, tuned.verdict) == (alone.object, alone.verdict)
    assert tuned.interval == pytest.approx(alone.interval, rel=0.05)


@pytest.mark.parametrize("scales", [(), (3.0,)])
def test_the_best_of_one_scale_is_that_scale(scales: Sequence[float]) -> None:
    cells = cell_of("tcd", values(6, 6)), cell_of("ddim", values(5, 5, 2), 3.0)
    plain = make_claim(object=Side("ddim", (4,)))
    settings = {"methods": {"ddim": {"guidance_scale": [*scales]}}}
    (tuned,) = judge(make_claim(), *cells, settings=settings).comparisons
    assert replace(tuned, choices="") == the_comparison(plain, *cells)
    assert tuned.choices == "ddim at guidance 3, the only one of the grid"


def test_support_needs_every_scale_and_takes_the_largest_p_value() -> None:
    """Scale 1 is the better one on average, but scale 5, which varies more, is beaten less surely."""
    rng = np.random.default_rng(1)
    subject, sure = values(9, 9, 0.0), values(8, 8, 1.0)
    unsure = 7.9 + rng.normal(0, 4, N)
    cells = [cell_of("ddim", sure, 1.0), cell_of("ddim", unsure, 5.0)]
    comparison = the_comparison(make_claim(), cell_of("tcd", subject), *cells)
    gains = [paired_difference(mean_estimate(subject), mean_estimate(other)) for other in (unsure, sure)]
    each = [gain.p_value("greater") / OF_WHAT_IS_LEFT for gain in gains]
    assert each[1] < 1e-4 < each[0]
    assert comparison.p_value == pytest.approx(each[0])
    assert comparison.adjusted_interval is not None
    assert comparison.adjusted_interval[0] == pytest.approx(gains[0].interval(1 - 2 * OF_WHAT_IS_LEFT * LEVEL)[0])


def test_a_subject_that_beats_what_the_halves_chose_but_not_every_scale_is_not_supported() -> None:
    """Each half chooses the scale that is bad on the other: cross-fitting alone would find the subject far better."""
    cells = [cell_of("ddim", values(10, 0), 1.0), cell_of("ddim", values(0, 10), 5.0)]
    subject = cell_of("tcd", values(5.5, 5.5, 0.5))
    comparison = the_comparison(make_claim(), subject, *cells)
    assert comparison.gain == pytest.approx(5.5)
    assert comparison.verdict == "undecided"
    low, high = comparison.adjusted_interval or (0.0, 0.0)
    assert low < 0 < 0.5 < high


def test_a_refutation_needs_no_correction_for_the_number_of_scales() -> None:
    subject = cell_of("tcd", values(5, 5, 2.0))
    cells = [cell_of("ddim", values(6 - g, 6 - g, 1.0), float(g)) for g in range(5)]
    comparison = the_comparison(make_claim(), subject, *cells)
    difference = values(5, 5, 2.0) - values(6, 6, 1.0)
    gain = mean_estimate(difference)
    assert comparison.verdict == "refuted"
    student = t.sf(1 / gain.standard_error, N - 1) / OF_WHAT_IS_LEFT
    assert student <= comparison.p_value < 3 * student, "scales 1 to 4 are too bad to be chosen"


def test_scales_that_are_as_good_widen_the_interval_of_a_refutation() -> None:
    """By 0.18 times the variance of their difference."""
    rng = np.random.default_rng(0)
    subject, a, b = rng.normal(0, 1, N), rng.normal(0, 1, N), rng.normal(0, 1, N)
    scales = [Scale(g, mean_estimate(x), _halved(x)) for g, x in ((1.0, a), (2.0, b))]
    gains = best_gains([Scale(0.0, mean_estimate(subject), _halved(subject))], scales, 1.0, (FIRST, SECOND))
    chosen = [int(np.mean(b[rows]) > np.mean(a[rows])) for rows in (FIRST, SECOND)]
    other = np.empty(N)
    other[FIRST], other[SECOND] = (a, b)[chosen[1]][FIRST], (a, b)[chosen[0]][SECOND]
    gap = (subject - other)[FIRST], (subject - other)[SECOND]
    plain = sum(np.var(half, ddof=1) / len(half) for half in gap) / 4
    assert gains.shown.standard_error**2 == pytest.approx(plain + 0.18 * np.var(a - b, ddof=1) / N)


def _halved(rows: Floats) -> tuple[Estimate, Estimate]:
    whole = mean_estimate(rows)
    return mean_of_rows(whole, FIRST), mean_of_rows(whole, SECOND)


def test_halves_without_an_interval_leave_the_choice_to_all_images_and_correct_a_refutation_for_it() -> None:
    n, rng = 30, np.random.default_rng(0)
    subject, scales = rng.normal(0, 1, n), [rng.normal(0.3, 1, n), rng.normal(0.2, 1, n), rng.normal(0.1, 1, n)]
    cells = [cell_of("ddim", rows, float(g)) for g, rows in enumerate(scales)]
    comparison = the_comparison(make_claim(), cell_of("tcd", subject), *cells)
    best = int(np.argmax([np.mean(rows) for rows in scales]))
    assert comparison.gain == pytest.approx(float(np.mean(subject - scales[best])))
    assert f"guidance {best} by all images, since a half has no interval" in comparison.choices
    refutes = 3 * min(paired(subject, rows).scaled(-1).p_value("greater") for rows in scales) / OF_WHAT_IS_LEFT
    supports = max(paired(subject, rows).p_value("greater") for rows in scales) / OF_WHAT_IS_LEFT
    assert comparison.p_value == pytest.approx(refutes)
    assert refutes < supports
    turned = the_comparison(
        make_claim(("tcd",), subject=Side("ddim", (4,), None, BEST)), cell_of("tcd", subject), *cells
    )
    assert (turned.gain, turned.p_value) == pytest.approx((-comparison.gain, refutes)), "of a tuned subject a support"
    assert "ddim at its best" in turned.choices


def paired(ours: Floats, theirs: Floats) -> Estimate:
    """The difference of two means."""
    return paired_difference(mean_estimate(ours), mean_estimate(theirs))


def test_a_tuned_subject_is_judged_by_its_choices_for_and_by_all_its_scales_against() -> None:
    cells = [
        cell_of("tcd", values(10, 4), 1.0),
        cell_of("tcd", values(6, 8), 5.0),
        cell_of("ddim", values(3, 3, 0.5), 2.0),
    ]
    claim = make_claim(subject=Side("tcd", (4,), None, BEST))
    comparison = the_comparison(claim, *cells)
    assert comparison.gain == pytest.approx((6 + 4) / 2 - 3)
    assert comparison.choices == "tcd at its best: guidance 1 by one half of the prompts, 5 by the other"
    turned = make_claim(("tcd",), subject=Side("ddim", (4,)))
    against = the_comparison(turned, *cells)
    assert against.gain == pytest.approx(-comparison.gain)
    assert against.p_value == pytest.approx(comparison.p_value), "the same test from the other side"
    assert (comparison.verdict, against.verdict) == ("supported", "refuted")


@pytest.mark.parametrize(
    ("means", "verdict", "strongest"),
    [((5, 6, 7), "supported", "m2"), ((5, 12, 7), "refuted", "m1"), ((5, 9.05, 7), "undecided", "m1")],
)
def test_a_subject_has_to_beat_every_member_and_the_strongest_is_named(
    means: tuple[float, ...], verdict: str, strongest: str
) -> None:
    methods = [f"m{i}" for i in range(len(means))]
    noise = np.random.default_rng(0).normal(0, 1, (6, N))
    cells = [
        cell_of(name, mean - g + noise[2 * i + g] - noise[2 * i + g].mean(), float(g))
        for i, (name, mean) in enumerate(zip(methods, means, strict=True))
        for g in (0, 1)
    ]
    judgement = judge(make_claim(methods), cell_of("tcd", values(9, 9, 0.5)), *cells)
    assert judgement.verdict == verdict
    assert [c.opponent for c in judgement.comparisons] == methods
    assert [c.opponent for c in judgement.comparisons if c.strongest] == [strongest]
    p_values = [c.p_value for c in judgement.comparisons]
    if verdict == "supported":
        assert judgement.p_value == pytest.approx(max(p_values)), "which needs no correction"


def test_a_member_refutes_within_the_correction_of_its_claim() -> None:
    subject = cell_of("tcd", values(9, 9, 0.5))
    strong = values(9.5, 9.5)
    alone = judge(make_claim(("a",)), subject, cell_of("a", strong))
    among = judge(make_claim(("a", "b", "c")), subject, cell_of("a", strong), *(cell_of(m, values(1, 1)) for m in "bc"))
    assert among.p_value == pytest.approx(3 * alone.p_value)


def test_a_subject_of_several_methods_is_compared_method_by_method() -> None:
    claim = Claim("c", "", Side(("a", "b"), (4,)), Side("o", (4,)), (SCORE,), "better")
    cells = [cell_of("a", values(9, 9)), cell_of("b", values(1, 1)), cell_of("o", values(5, 5, 0.5))]
    judgement = judge(claim, *cells)
    assert [(c.subject.split()[1], c.verdict) for c in judgement.comparisons] == [("a", "supported"), ("b", "refuted")]
    assert (judgement.verdict, judgement.comparisons[0].opponent) == ("refuted", "")


def test_equivalence_stays_within_the_margin_on_both_sides() -> None:
    near = [cell_of("ddim", values(5, 5, 0.4), 1.0), cell_of("ddim", values(4, 4, 0.4), 2.0)]
    for mean, verdict in ((5.1, "supported"), (7.5, "refuted"), (2.5, "refuted"), (5.9, "undecided")):
        claim = make_claim(expect="equivalent", margins={SCORE: 1.0})
        assert judge(claim, cell_of("tcd", values(mean, mean, 1.0)), *near).verdict == verdict


@pytest.mark.parametrize("looks", [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize("n", [30, 60])
def test_a_verdict_agrees_with_its_adjusted_interval(looks: tuple[float, ...], n: int) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        rows = rng.normal(0, 1, (5, n)) + rng.normal(0, 0.6, (5, 1))
        cells = [cell_of("tcd", rows[g], float(g)) for g in (0, 1)] + [
            cell_of("ddim", rows[2 + g], float(g)) for g in range(3)
        ]
        claim = make_claim(subject=Side("tcd", (4,), None, BEST))
        for c in judge(claim, *cells, looks=looks).comparisons:
            low, high = c.adjusted_interval or (0.0, 0.0)
            assert low <= c.gain <= high
            assert c.verdict == ("supported" if low > 0 else "refuted" if high < 0 else "undecided")
            seen.add(c.verdict)
    assert seen == {"supported", "refuted", "undecided"}


@dataclass(frozen=True)
class Features:
    """Features of cells by method and guidance scale, as a store keeps them."""

    rows: dict[tuple[str, float], Floats]
    reference: Reference

    def estimate_parts(self, record: Record, metric: Metric, parts: Sequence[NDArray[np.intp]]) -> list[Estimate]:
        """The kernel distance of some images."""
        assert metric.score == "kid@mini"
        rows = self.rows[record.cell.method, record.cell.guidance_scale]
        return [kernel_estimate(rows[own], self.reference.kernel) for own in parts]


def test_a_distance_is_computed_on_each_half_alone() -> None:
    """Without the bias of the half's number of images, and with the half's influences."""
    n, rng = 160, np.random.default_rng(0)
    reference = Reference.of(rng.normal(0, 1, (200, 4)))
    found = {("tcd", 0.0): rng.normal(0, 1, (n, 4))} | {("ddim", g): rng.normal(g / 4, 1, (n, 4)) for g in (1.0, 2.0)}
    source = Features(found, reference)
    cells = []
    for (method, guidance), rows in found.items():
        cell = make_cell(n, eta=None, method=method, guidance_scale=guidance)
        estimates = {"kid@mini": kernel_estimate(rows, reference.kernel)}
        cells.append(ScoredCell(make_record(cell), estimates, source=source))  # type: ignore[arg-type]
    comparison = the_comparison(make_claim(metrics=("kid@mini",)), *cells)
    rows = split_prompts(None, n)
    halves = {key: [kernel_estimate(x[own], reference.kernel) for own in rows] for key, x in found.items()}
    assert all(halves["ddim", 1.0][half].value < halves["ddim", 2.0][half].value for half in (0, 1))
    expected = np.mean([halves["ddim", 1.0][half].value - halves["tcd", 0.0][half].value for half in (0, 1)])
    assert comparison.gain == pytest.approx(float(expected))
    assert comparison.choices == "ddim at its best: guidance 1 by both halves of the prompts"
    assert comparison.object_value == pytest.approx(kernel_estimate(found["ddim", 1.0], reference.kernel).value)
    assert comparison.verdict == "supported"


def test_stored_features_give_the_score_of_some_images(tmp_path: Path) -> None:
    """With the prompts of these images as groups, which is what makes a prompt's images stay together."""
    store, rng = Store(tmp_path / "run"), np.random.default_rng(0)
    cell = make_cell(N, eta=None)
    store.commit(make_record(cell, images=Images(N, 8, 8, "h")))
    features = {"image": rng.normal(size=(N, 4)), "clip_score": rng.normal(30, 1, N)}
    store.cell(cell.key).save_features("e", features)
    store.save_reference("r", rng.normal(size=(100, 4)))
    prompts = tuple(f"prompt {row // 2}" for row in range(N))
    store.save_run(make_run(cells=(cell.key,), prompts=prompts, metrics=("kid@mini", "clip_score@mini")))
    run = ScoredRun.load(store)
    (scored,), rows = run.cells, [np.arange(10, 20), np.arange(30, 40)]
    assert scored.source is not None
    for found, own in zip(
        scored.source.estimate_parts(scored.record, metric_of("clip_score@mini"), rows), rows, strict=True
    ):
        assert found.value == pytest.approx(features["clip_score"][own].mean())
        assert (found.n, found.groups and found.groups.count) == (10, 5)
    (kid, _) = scored.source.estimate_parts(scored.record, metric_of("kid@mini"), rows)
    real = run.cells[0].source.real["mini"]  # type: ignore[union-attr]
    groups = Groups.of(np.arange(10) // 2, 10)
    assert kid.value == pytest.approx(
        kernel_estimate(features["image"][10:20], real.reference.kernel, groups=groups).value
    )


def test_a_score_without_an_interval_is_replaced_at_every_scale() -> None:
    def doubtful(method: str, guidance: float, kernel: float, problem: str | None) -> ScoredCell:
        noise = values(0, 0, kernel)
        fallback = mean_estimate(kernel + noise / 9)
        cell = make_cell(N, eta=None, method=method, guidance_scale=guidance)
        fid = replace(Estimate(5.0, noise), problem=problem, fallback=fallback, fallback_name="kernel distance")
        return ScoredCell(make_record(cell), {"fid@mini": fid})

    cells = doubtful("tcd", 0.0, 1.0, None), doubtful("ddim", 1.0, 9.0, None), doubtful("ddim", 2.0, 7.0, "too few")
    comparison = the_comparison(make_claim(metrics=("fid@mini",)), *cells)
    assert (comparison.compared, comparison.note) == ("kid@mini", "kernel distance instead: too few")
    assert (comparison.gain, comparison.object_value) == pytest.approx((6.0, 7.0))
    with_margin = make_claim(metrics=("fid@mini",), margins={"fid@mini": 0.1})
    assert the_comparison(with_margin, *cells).note == "no interval: too few"


def test_clusters_of_images_are_judged_by_prompt() -> None:
    groups = Groups.of(np.repeat(np.arange(50), 4), 200)
    rng = np.random.default_rng(0)

    def clustered(mean: float) -> Floats:
        return mean + np.repeat(rng.normal(0, 1, 50), 4) + 0.1 * rng.normal(0, 1, 200)

    rows = [clustered(mean) for mean in (0.0, -0.2, -2.0)]
    cells = [cell_of("tcd", rows[0], 0.0, groups), *(cell_of("ddim", rows[g], float(g), groups) for g in (1, 2))]
    comparison = the_comparison(make_claim(), *cells)
    by_prompt = (rows[0] - rows[1]).reshape(50, 4).mean(axis=1)
    assert comparison.prompts == 50
    assert comparison.error == pytest.approx(np.std(by_prompt, ddof=1) / np.sqrt(50), rel=0.1)


def test_a_scale_of_the_grid_that_was_not_run_or_failed_leaves_the_claim_untested() -> None:
    cells = [cell_of("tcd", values(9, 9)), cell_of("ddim", values(5, 5), 1.0)]
    settings = {"methods": {"ddim": {"guidance_scale": [1.0, 3.0]}}}
    judgement = judge(make_claim(), *cells, settings=settings)
    assert (judgement.verdict, judgement.missing) == (
        "not tested",
        ("mini ddim 4 steps, best guidance (not run at guidance 3)",),
    )
    other = cell_of("ddim", values(5, 5), 3.0)
    failed = replace(other, record=replace(other.record, status="error"), estimates={})
    assert judge(make_claim(), *cells, failed).missing == ("mini ddim 4 steps, best guidance (failed at guidance 3)",)
    eta = cell_of("ddim", values(5, 5), 1.0), cell_of("ddim", values(5, 5), 3.0)
    two = [replace(c, record=make_record(replace(c.record.cell, eta=e))) for c in eta for e in (0.0, 1.0)]
    assert "say which eta" in judge(make_claim(), cells[0], *two).missing[0]


def with_cost(cell: ScoredCell, evaluations: int) -> ScoredCell:
    """The cell with so many denoiser evaluations per image."""
    calls = Calls((999.0,), None, None, {}, {}, 1, 1, evaluations, 1, 1)
    return replace(cell, record=replace(cell.record, calls=calls))


def test_at_equal_cost_each_scale_takes_its_costliest_cell_that_is_affordable() -> None:
    """Without guidance, a step is one evaluation; with it, two."""
    subject = with_cost(cell_of("tcd", values(9, 9, 0.5)), 4)
    cells = [
        with_cost(cell_of("ddim", values(float(steps), float(steps)), scale, steps=steps), steps * (1 + (scale > 1)))
        for scale in (1.0, 3.0)
        for steps in (2, 4, 8)
    ]
    claim = make_claim(object=Side("ddim", (), None, BEST), equal="evaluations")
    comparison = the_comparison(claim, subject, *cells)
    assert comparison.object == "mini ddim 4 steps guidance 1", "and at guidance 3 that with 2 steps"
    assert comparison.choices == "ddim at its best: guidance 1 by both halves of the prompts"
    dear = with_cost(cell_of("tcd", values(9, 9)), 1)
    assert "none takes 1 denoiser evaluations or less" in judge(claim, dear, *cells).missing[0]
    settings = {"methods": {"ddim": {"guidance_scale": [1.0, 3.0, 7.0]}}}
    assert "not run at guidance 7" in judge(claim, subject, *cells, settings=settings).missing[0]


def test_at_equal_latency_a_disturbed_scale_leaves_the_claim_untested() -> None:
    def timed(cell: ScoredCell, seconds: float, disturbed: str | None = None) -> ScoredCell:
        latency = Latency(1, 1, "clock", (seconds,), (0.0,), (0.0,), (0.0,))
        return replace(cell, record=replace(cell.record, latency=latency), disturbed=disturbed)

    claim = make_claim(object=Side("ddim", (), None, BEST), equal="latency")
    cells = [timed(cell_of("tcd", values(9, 9, 0.5)), 0.2), timed(cell_of("ddim", values(5, 5), 1.0), 0.1)]
    unsure = timed(cell_of("ddim", values(5, 6), 3.0), 0.2, "load")
    assert judge(claim, *cells, timed(cell_of("ddim", values(5, 6), 3.0), 0.2)).verdict == "supported"
    judgement = judge(claim, *cells, unsure)
    assert (judgement.verdict, "was disturbed: load" in judgement.missing[0]) == ("not tested", True)


def test_scores_of_prompts_are_computed_from_the_features_of_a_half() -> None:
    """Their influences are not the values of images, so that a half's mean does not follow from them."""
    groups = Groups.of(np.repeat(np.arange(100), 2), 200)

    @dataclass
    class Source:
        """Features without any; notes which scores are asked for."""

        asked: list[str] = field(default_factory=list)

        def estimate_parts(self, record: Record, metric: Metric, parts: Sequence[NDArray[np.intp]]) -> list[Estimate]:
            self.asked.append(metric.score)
            raise ValueError

    source = Source()
    for score in (SCORE, "pairwise_distance@mini"):
        cells = [
            ScoredCell(make_record(make_cell(200, eta=None, method=m, guidance_scale=g)), {score: mean}, source=source)  # type: ignore[arg-type]
            for m, g in (("tcd", 0.0), ("ddim", 1.0), ("ddim", 2.0))
            for mean in [mean_estimate(np.random.default_rng(int(g)).normal(0, 1, 200), groups)]
        ]
        halves = "by all images" not in the_comparison(make_claim(metrics=(score,)), *cells).choices
        assert halves == (score == SCORE)
    assert set(source.asked) == {"pairwise_distance@mini"}


def test_a_plan_tells_of_which_scales_the_best_is_taken_and_which_member_lacks_a_cell() -> None:
    from bench.execute.plan_summary import _describe_claim

    cells = [cell_of("tcd", values(1, 1)), *(cell_of("ddim", values(1, 1), g) for g in (1.0, 3.5))]
    planned = [cell.record.cell for cell in cells]
    assert list(_describe_claim(make_claim(), planned))[1:] == [
        "    mini: tcd 4 steps against ddim 4 steps, best guidance of 1, 3.5"
    ]
    assert lacking_cells(make_claim(("ddim", "unipc")), planned) == [
        "mini: unipc 4 steps, best guidance is not in the grid"
    ]


def test_reports_name_the_strongest_member_and_the_chosen_scales() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (2, N))
    cells = [
        cell_of("tcd", values(9, 9, 0.5)),
        *(cell_of("ddim", values(5 + g, 5 + g) + noise[g], float(g)) for g in (0, 1)),
        cell_of("unipc", values(4, 4)),
    ]
    claim = make_claim(("ddim", "unipc"))
    run = make_run(claims=(claim,), metrics=(SCORE,))
    judgement = judge(claim, *cells)
    first, second = judgement.comparisons
    words = "strongest opponent; ddim at its best: guidance 1 by both halves of the prompts"
    assert (opponent_in_words(first), opponent_in_words(second)) == (
        words,
        "unipc at guidance 1, the only one of the grid",
    )
    table = verdict_table(run, [judgement])
    assert words in table.rows[0][-1]
    assert "better than at every scale" in table.note
    assert (
        "at every scale"
        not in verdict_table(run, [replace(judgement, comparisons=(replace(second, choices=""),))]).note
    )
    assert "against ddim +" in summarise(run, cells, [judgement]).to_text()
    line = power_of_claim(judgement, np.array([100.0, 1e6]))
    assert line is not None
    assert line[1] > 0.99


def test_gains_of_one_cell_are_those_of_a_paired_difference() -> None:
    gain = paired(values(6, 6, 2.0), values(5, 5))
    gains = Gains.of_one(gain)
    assert (gains.p_above(0.3), gains.p_below(0.3)) == pytest.approx(
        [gain.scaled(1.0, -0.3).p_value("greater"), gain.scaled(-1.0, 0.3).p_value("greater")]
    )
    assert gains.interval(0.025) == pytest.approx(gain.interval(0.95))


def test_sides_and_claims_are_read_as_they_are_written() -> None:
    claim = make_claim(("ddim", "unipc"))
    run: Run = make_run(claims=(claim, make_claim()))
    assert Run.from_json(run.to_json()).claims == run.claims
    assert '"method": "ddim"' in run.to_json(), "one method is a plain name"
