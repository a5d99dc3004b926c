"""Claims → verdicts, by paired differences over the same prompts and latents.

Each claim becomes one comparison for every base model that it is about, metric and pair of cells. A comparison asks on
which side of its threshold the true gain lies, and tests both answers one-sided: that the gain is not above it, whose
rejection supports, and that it is, whose rejection refutes. One of the two is true, so that one test at a level errs no
more often than the level says, and p-values need no doubling (Finner and Strassburger 2002, Ann. Statist. 30:1194).
Equivalence is supported by two one-sided tests (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657) and refuted by a
gain beyond the margin on either side.

A claim is supported when the largest of its comparisons' p-values is small enough, which needs no correction
(intersection–union test: Berger 1982, Technometrics 24:295), and refuted when the smallest one is, times how many there
are (Bonferroni). A run judges its claims at 5% together. Each of m claims gets 5%/m of that. Holm's procedure (1979,
Scand. J. Statist. 6:65) would hand the share of every decided claim on to the others; for one-sided pairs that is too
much, since a claim that was decided rightly may, near its threshold, as well have been decided wrongly (Shaffer 1980,
Ann. Statist. 8:1342): two claims that say nearly the same come to a false verdict in up to 6.1% of runs. So a claim
hands on its share only where its p-value is below `BEYOND_DOUBT`. Such a claim is, but for a chance of that size, far
from its threshold, and what it hands on it does not need: by a union bound the error stays at 5% (and m × that chance)
however claims depend on each other. scripts/calibration/claims.py simulates it.

Each of several methods on a side makes its own comparisons, so that a subject has to beat the strongest of them.
Guidance scales that are chosen are judged by bench.analysis.strongest.

A comparison within a claim that is not supported counts as decided by the same correction as a refutation. Where a run
looked more than once, p-values are those of all its looks together (see `bench.analysis.sequential`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from bench.analysis.power import Effect, images_needed
from bench.analysis.scoring import ScoredCell, ScoredRun, cost_of
from bench.analysis.sequential import LookSizes, nominal_level, overall_p_value, path_of
from bench.analysis.strongest import Gains, gains_of
from bench.records.cell import plain_number
from bench.records.run import Claim, Run, Side
from bench.score.metrics import metric_of
from bench.store.interim_looks import note_looks

LEVEL = 0.05
BEYOND_DOUBT = 1e-5
"""The p-value below which a claim passes its share of the level on to the others."""
LATENCY_LEEWAY = 0.1
"""The relative difference in time up to which cells count as equally fast."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Subject against object by one metric; positive `gain` means that the subject is better.

    `threshold` is what the gain must exceed (for equivalence: what it must stay within, on either side). `interval` is
    its 95% interval, not adjusted; `adjusted_interval` and `p_value` are those that the verdict goes by: an undecided
    comparison's adjusted interval holds a threshold, a decided one's does not. `error` is the standard
    error of the gain over `n` images of `prompts` different prompts, `level` the one-sided level of a verdict in the
    direction of the gain, over all looks. Values, gain and interval are without bias, and of the metric `compared`,
    which replaces `metric` where that has no interval; `note` says why. `images_needed` are the numbers of images
    that would decide an undecided comparison with the chances `bench.analysis.power.CHANCES`. Intervals and error are
    None where there is no interval.

    Where guidance scales are chosen, subject and object are the cells that are best over all images, and `choices` says
    which scales either half chose. `opponent` is the object's method where the claim has several, `strongest` that the
    gain over it is the smallest. `keys` are those of the compared cells. `settled` says that the comparison supports
    its claim well enough, whatever the others do.
    """

    model: str
    metric: str
    subject: str
    object: str
    subject_value: float
    object_value: float
    gain: float
    interval: tuple[float, float] | None
    threshold: float
    n: int
    p_value: float = 1.0
    expect: str = "better"
    note: str | None = None
    verdict: str = "undecided"
    images_needed: tuple[int, ...] | None = None
    adjusted_interval: tuple[float, float] | None = None
    error: float | None = None
    level: float = LEVEL
    prompts: int | None = None
    compared: str = ""
    choices: str = ""
    opponent: str = ""
    strongest: bool = False
    keys: tuple[str, ...] = ()
    settled: bool = False

    @property
    def effect(self) -> Effect | None:
        """The input of `images_needed`; None where there is no interval."""
        if self.error is None:
            return None
        return Effect(self.gain, self.error, self.n, self.threshold, self.expect == "equivalent")


@dataclass(frozen=True, slots=True)
class Missing:
    """The reason why there is no cell to compare; `too_costly` where all there are cost too much."""

    reason: str
    too_costly: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim with its verdict and adjusted p-value; `missing` names the cells that it needs and that are not found.

    `sampling_s` is its price so far: the seconds that sampling of the cells that it compares took, each once.
    """

    claim: Claim
    verdict: str
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...]
    p_value: float = 1.0
    sampling_s: float = 0.0


@dataclass(frozen=True)
class _Tested:
    """A comparison of cells with the p-values of both answers, over all looks; `gains` is None where none is tested."""

    comparison: Comparison
    gains: Gains | None
    cells: tuple[ScoredCell, ...] = ()
    history: tuple[LookSizes, ...] = ()
    supports: float = 1.0
    refutes: float = 1.0


@dataclass(frozen=True)
class _Tried:
    """A claim with its tests, and the p-value of each verdict before correction for other claims."""

    claim: Claim
    tests: tuple[_Tested, ...]
    missing: tuple[str, ...]

    @property
    def corrections(self) -> int:
        """The factor by which a refutation is corrected: equivalence can fail in two ways."""
        return len(self.tests) * (2 if self.claim.expect == "equivalent" else 1)

    @property
    def supports(self) -> float:
        return max((test.supports for test in self.tests), default=1.0) if not self.missing else 1.0

    @property
    def refutes(self) -> float:
        return min(1.0, self.corrections * min((test.refutes for test in self.tests), default=1.0))


def judge_run(scored: ScoredRun) -> list[Judgement]:
    """Judge all claims of a stored run, and record in its store that they were judged."""
    # In a report of several runs, those that do not make a claim are not missing from it.
    models = () if scored.joined else scored.run.settings.get("models", ())
    judgements = _judge_all(scored.run, [(claim, scored.compared_by(claim)) for claim in scored.run.claims], models)
    if not scored.joined:  # a report of several runs does not look at more images than theirs
        judged = ((judgement.claim, c.n) for judgement in judgements for c in judgement.comparisons)
        note_looks(scored.store, scored.run, judged)
    return judgements


def judge_claims(run: Run, cells: Sequence[ScoredCell], others: int = 0) -> list[Judgement]:
    """Judge all claims of a run, which share the level with so many others that are open."""
    return _judge_all(run, [(claim, cells) for claim in run.claims], run.settings.get("models", ()), others)


def _judge_all(
    run: Run, asked: Sequence[tuple[Claim, Sequence[ScoredCell]]], models: Iterable[str], others: int = 0
) -> list[Judgement]:
    """Judge claims together, each about its own cells; `models` are those of a claim that names none."""
    compared = [(claim, *_compare(claim, run, cells, models)) for claim, cells in asked]
    tried = [_Tried(claim, tuple(_test(t, claim, run) for t in found), missing) for claim, found, missing in compared]
    open_ = [bool(t.tests) and min(t.supports, t.refutes) >= BEYOND_DOUBT for t in tried]
    return [_judge(t, 1 + others + sum(open_) - is_open) for t, is_open in zip(tried, open_, strict=True)]


def _test(tested: _Tested, claim: Claim, run: Run) -> _Tested:
    gains, threshold, history = tested.gains, tested.comparison.threshold, run.history(tested.comparison.n)
    tested = replace(tested, history=history)
    if gains is None:
        return tested
    supports, refutes = gains.p_above(threshold), gains.p_below(threshold)
    if claim.expect == "equivalent":
        supports = max(gains.p_above(-threshold), gains.p_below(threshold))
        refutes = min(gains.p_above(threshold), gains.p_below(-threshold))
    path = path_of(history)
    return replace(tested, supports=overall_p_value(supports, path), refutes=overall_p_value(refutes, path))


def _judge(tried: _Tried, claims: int) -> Judgement:
    """Return the verdict when the level is shared with so many claims, including this one."""
    if not tried.tests:
        return Judgement(tried.claim, "not tested", (), tried.missing)
    p_value = min(1.0, claims * min(tried.supports, tried.refutes))
    verdict = "undecided"
    if p_value < LEVEL:
        verdict = "refuted" if tried.refutes < tried.supports else "supported"
    shared = claims * (1 if verdict == "supported" else tried.corrections)
    decided = tuple(_decide(test, shared, claims) for test in tried.tests)
    seconds: dict[str, float] = {}
    for test in tried.tests:
        for cell in test.cells:
            images = cell.record.images
            share = min(1.0, test.comparison.n / images.count) if images else 1.0  # other claims may need more
            seconds[cell.record.key] = max(seconds.get(cell.record.key, 0.0), share * cell.record.sampling_s)
    return Judgement(tried.claim, verdict, decided, tried.missing, p_value, sum(seconds.values()))


def _decide(test: _Tested, shared: int, claims: int) -> Comparison:
    """Return the comparison with its verdict; `shared` is the factor of correction of its p-values."""
    effect, gains = test.comparison.effect, test.gains
    if gains is None or effect is None:
        return test.comparison
    p_value = min(1.0, shared * min(test.supports, test.refutes))
    nominal = nominal_level(LEVEL / shared, path_of(test.history))
    enough_for_its_claim = claims * test.supports < LEVEL
    level = LEVEL / (claims if effect.excess > 0 and not enough_for_its_claim else shared)
    known = replace(test.comparison, p_value=p_value, level=level, settled=enough_for_its_claim)
    adjusted = replace(known, adjusted_interval=gains.interval(nominal))
    if p_value < LEVEL:
        return replace(adjusted, verdict="supported" if test.supports < test.refutes else "refuted")
    return replace(adjusted, images_needed=images_needed(effect, level, test.history))


def holm(p_values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Return Holm's adjusted p-values, in the given order; weights are shares of the level."""
    shares = weights or [1.0] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i] / shares[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        left = sum(shares[j] for j in order[rank:])
        largest = max(largest, min(1.0, p_values[i] * left / shares[i]))
        adjusted[i] = largest
    return adjusted


def _compare(
    claim: Claim, run: Run, cells: Sequence[ScoredCell], all_models: Iterable[str]
) -> tuple[list[_Tested], tuple[str, ...]]:
    found: list[_Tested] = []
    missing: list[str] = []
    groups: dict[tuple[str, str], list[ScoredCell]] = {}
    between = claim.between_models
    for cell in cells:
        base = cell.record.cell.base.name
        if base in ((claim.subject.model, claim.object.model) if between else claim.models or (base,)):
            groups.setdefault((between or base, cell.setting), []).append(cell)
    for model in (between,) if between else claim.models or all_models:
        if model not in {name for name, _ in groups}:
            groups[model, ""] = []
    left_out = dict(run.left_out)
    for (model, setting), own in groups.items():
        for (mine, yours), subject in product(claim.steps(), claim.subject.members):
            against: list[_Tested] = []
            ours = _find(own, subject, mine, run)
            for other in claim.object.members:
                theirs = ours if isinstance(ours, Missing) else _find_object(own, claim, other, yours, ours, run)
                if isinstance(ours, Missing) and yours is not None:
                    theirs = _find(own, other, yours, run)
                for side, steps, there in ((subject, mine, ours), (other, yours, theirs)):
                    if isinstance(there, Missing):
                        label = f"{side.model or model} {side.label(steps)}"
                        reason = left_out.get(f"{side.model or model} {side.method}") or left_out.get(label)
                        reason = reason or there.reason
                        missing.append(f"{', '.join(filter(None, (label, setting)))} ({reason})")
                if isinstance(ours, Missing) or isinstance(theirs, Missing):
                    continue
                for metric in claim.metrics:
                    sides = [_with_as_many(metric, side, (*ours, *theirs)) for side in (ours, theirs)]
                    lacking = [cell for side in sides for cell in side if metric not in cell.estimates]
                    missing += [f"{metric} of {cell.label}" for cell in lacking]
                    if not lacking:
                        against.append(_comparison(claim, metric, model, *sides))
            found += _with_strongest(against) if len(claim.object.members) > 1 else against
    return found, tuple(dict.fromkeys(missing))


def _with_as_many(metric: str, side: Sequence[ScoredCell], cells: Sequence[ScoredCell]) -> Sequence[ScoredCell]:
    """Return a side by the first images that all compared cells have."""
    counts = {cell.estimates[metric].n for cell in cells if metric in cell.estimates}
    if len(counts) < 2:
        return side
    return [cell.first(min(counts), metric) if metric in cell.estimates else cell for cell in side]


def _with_strongest(tests: Sequence[_Tested]) -> list[_Tested]:
    """Return a subject's tests against several methods, of which the one with the smallest gain is the strongest."""
    least: dict[str, float] = {}
    for test in tests:
        compared = test.comparison.compared
        least[compared] = min(test.comparison.gain, least.get(compared, test.comparison.gain))
    return [
        replace(test, comparison=replace(c, strongest=c.gain == least[c.compared]))
        for test in tests
        for c in [test.comparison]
    ]


def _find_object(
    cells: Sequence[ScoredCell],
    claim: Claim,
    side: Side,
    steps: int | None,
    ours: Sequence[ScoredCell],
    run: Run,
) -> Sequence[ScoredCell] | Missing:
    """Return the object's cells at a step count, or where that is None, those of the subject's cost."""
    if steps is not None:
        return _find(cells, side, steps, run)
    if not side.tuned:
        return _find_within(cells, claim, side, ours[0], run)
    scales = {cell.record.cell.guidance_scale for cell in cells if side.fits(cell.record.cell)}
    if absent := _absent_scale(scales, side, run):
        return absent
    found = [_find_within(cells, claim, replace(side, guidance_scale=scale), ours[0], run) for scale in sorted(scales)]
    affordable = [cell for one in found if not isinstance(one, Missing) for cell in one]
    unsure = [one for one in found if isinstance(one, Missing) and not one.too_costly]
    return unsure[0] if unsure else affordable or found[0]


def _find_within(
    cells: Sequence[ScoredCell], claim: Claim, side: Side, ours: ScoredCell, run: Run
) -> Sequence[ScoredCell] | Missing:
    """Return a side's costliest cell that costs no more than the subject's, or why there is none."""
    if claim.equal == "latency" and ours.disturbed:
        return _disturbed(ours)
    budget = cost_of(ours.record, claim.equal)
    unit = "denoiser evaluations" if claim.equal == "evaluations" else "seconds per image"
    if budget is None:
        return Missing(f"the {unit} of {ours.label} are not known")
    allowed = budget * (1.0 if claim.equal == "evaluations" else 1 + LATENCY_LEEWAY)
    counts = {cell.record.cell.steps for cell in cells if cell.record.cell.method == side.method}
    affordable, unsure = [], []
    for steps in sorted(counts):
        fitting = _find(cells, side, steps, run)
        if isinstance(fitting, Missing):
            continue
        (found,) = fitting
        if claim.equal == "latency" and found.disturbed:
            unsure.append((steps, found))
        elif (needed := cost_of(found.record, claim.equal)) and needed <= allowed:
            affordable.append((needed, steps, found))
    costliest = max(affordable, key=lambda entry: entry[:2], default=None)
    if beyond := [found for steps, found in unsure if costliest is None or steps > costliest[1]]:
        return _disturbed(beyond[0])
    return [costliest[2]] if costliest else Missing(f"none takes {budget:.3g} {unit} or less", too_costly=True)


def _disturbed(scored: ScoredCell) -> Missing:
    return Missing(f"the latency of {scored.label} was disturbed: {scored.disturbed}; measure it again")


def _find(cells: Sequence[ScoredCell], side: Side, steps: int, run: Run) -> Sequence[ScoredCell] | Missing:
    """Return the one cell that a side of a claim selects, or one for each guidance scale, or why there is none."""
    matches = [s for s in cells if s.record.cell.steps == steps and side.fits(s.record.cell)]
    if side.tuned:
        return _at_all_scales(matches, side, run)
    if len(matches) > 1:
        return Missing(f"{len(matches)} cells fit, say which eta or guidance scale")
    if not matches:
        return Missing("not run")
    return matches if matches[0].record.status == "ok" else Missing("failed")


def _at_all_scales(matches: Sequence[ScoredCell], side: Side, run: Run) -> Sequence[ScoredCell] | Missing:
    """Return a side's cells by guidance scale, ascending, if each scale of the grid has one."""
    by_scale = {cell.record.cell.guidance_scale: cell for cell in matches}
    if len(by_scale) < len(matches):
        return Missing(f"{len(matches)} cells fit at {len(by_scale)} guidance scales, say which eta")
    if absent := _absent_scale(by_scale, side, run):
        return absent
    if failed := [scale for scale, cell in sorted(by_scale.items()) if cell.record.status != "ok"]:
        return Missing(f"failed at guidance {plain_number(failed[0])}")
    return [cell for _, cell in sorted(by_scale.items())]


def _absent_scale(scales: Collection[float], side: Side, run: Run) -> Missing | None:
    """Return what is missing where there are not all guidance scales of the grid."""
    planned = run.settings.get("methods", {}).get(side.method, {}).get("guidance_scale") or ()
    absent = [scale for scale in planned if scale not in scales]
    if scales and absent:
        return Missing(f"not run at guidance {plain_number(absent[0])}")
    return None if scales else Missing("not run")


def _only_scale(claim: Claim, mine: ScoredCell, yours: ScoredCell) -> str:
    """Describe sides that were to be tuned and have one guidance scale in the grid; empty where there is none."""
    sides = (claim.subject, mine.record.cell), (claim.object, yours.record.cell)
    only = [f"{cell.method} at guidance {plain_number(cell.guidance_scale)}" for side, cell in sides if side.tuned]
    return f"{' and '.join(only)}, the only one of the grid" if only else ""


def _comparison(
    claim: Claim, metric: str, model: str, ours: Sequence[ScoredCell], theirs: Sequence[ScoredCell]
) -> _Tested:
    """Return a comparison before it is known with how many other claims it shares the level."""
    margin = claim.margins.get(metric, 0.0)
    compared, note = metric_of(metric), None
    scores = [[cell.estimates[metric] for cell in side] for side in (ours, theirs)]
    gains = gains_of(compared, ours, theirs, *scores)
    if gains.caveat and compared.fallback and not margin:  # a margin is in the metric's unit
        instead = compared.fallback.score  # what has a column is what is compared
        shown = all(instead in cell.estimates for side in (ours, theirs) for cell in side)
        fallbacks = [
            [found for cell in side if (found := cell.estimates[instead] if shown else cell.fallback(metric))]
            for side in (ours, theirs)
        ]
        if list(map(len, fallbacks)) == [len(ours), len(theirs)]:
            note = f"{gains.shown.fallback_name} instead: {gains.caveat}"
            compared, scores = compared.fallback, fallbacks
            gains = gains_of(compared, ours, theirs, *scores)
    if problem := gains.caveat:
        note = f"no interval: {problem}"
    mine, yours = (side[at] for side, at in zip((ours, theirs), gains.best, strict=True))
    our_value, their_value = (side[at].debiased_value for side, at in zip(scores, gains.best, strict=True))
    gain = gains.shown
    comparison = Comparison(
        model=model,
        metric=metric,
        subject=mine.label,
        object=yours.label,
        subject_value=our_value,
        object_value=their_value,
        gain=gain.debiased_value,
        interval=None if problem else gains.interval(LEVEL / 2),
        threshold=0.0 - margin if claim.expect == "not_worse" else margin,
        n=gain.n,
        expect=claim.expect,
        note=note,
        error=None if problem else gain.standard_error,
        compared=compared.score,
        prompts=None if gain.groups is None else gain.groups.count,
        choices=gains.choices(mine.record.cell.method, yours.record.cell.method) or _only_scale(claim, mine, yours),
        opponent=yours.record.cell.method if len(claim.object.members) > 1 else "",
        keys=tuple(cell.record.key for cell in (*ours, *theirs)),
    )
    return _Tested(comparison, None if problem else gains, (*ours, *theirs))
