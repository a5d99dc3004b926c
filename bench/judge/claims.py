"""Claims → verdicts, by paired differences over the same prompts and latents.

Each claim becomes one comparison for every base model, metric and pair of cells. p-values are adjusted over all
comparisons of the run (Holm 1979, step-down), so that a run of true null claims yields a false verdict in at most 5% of
cases. A comparison is decided when its adjusted two-sided p-value is below 0.05; a claim is supported when all of its
comparisons are, refuted when any is refuted, undecided otherwise. Equivalence is supported by two one-sided tests
(Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657) and refuted by a difference beyond the margin. Where a run looked
more than once, p-values are those of all its looks together (see `bench.judge.looks`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from scipy.special import ndtri

from bench.judge.looks import overall_p_value
from bench.judge.scores import ScoredCell, cost_of
from bench.request import Claim, Run, Side
from bench.score.estimate import Estimate, paired_difference
from bench.score.metrics import METRICS

LEVEL = 0.05
LATENCY_LEEWAY = 0.1
"""By what share a cell may take longer than another and still count as equally fast."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Subject against object by one metric; positive `gain` means that the subject is better.

    `threshold` is what the gain must exceed (for equivalence: what it must stay within, on either side), `interval` its
    95% interval (not adjusted), `p_value` adjusted by Holm.
    Values, gain and interval are without bias. `note` says why there is no interval and what stands in for the metric.
    `images_needed` estimates how many images would decide an undecided comparison.
    """

    model: str
    metric: str
    subject: str
    object: str
    subject_value: float
    object_value: float
    gain: float
    interval: tuple[float, float]
    threshold: float
    n: int
    p_value: float
    expect: str = "better"
    note: str | None = None
    verdict: str = "undecided"
    images_needed: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim with its verdict; `missing` says which cells it needs and does not find."""

    claim: Claim
    verdict: str
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...]


def judge_claims(run: Run, cells: Sequence[ScoredCell]) -> list[Judgement]:
    """Judge all claims of a run."""
    compared = [(claim, *_compare(claim, cells)) for claim in run.claims]
    everything = [comparison for _, found, _ in compared for comparison in found]
    overall = [replace(c, p_value=overall_p_value(c.p_value, run.looks)) for c in everything]
    adjusted = iter(_decide(overall))
    judgements = []
    for claim, found, missing in compared:
        decided = tuple(next(adjusted) for _ in found)
        judgements.append(Judgement(claim, _verdict(decided, missing), decided, missing))
    return judgements


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = largest
    return adjusted


def _verdict(comparisons: Sequence[Comparison], missing: Sequence[str]) -> str:
    verdicts = {comparison.verdict for comparison in comparisons}
    if "refuted" in verdicts:
        return "refuted"
    if not comparisons:
        return "not tested"
    return "supported" if verdicts == {"supported"} and not missing else "undecided"


def _compare(claim: Claim, cells: Sequence[ScoredCell]) -> tuple[list[Comparison], tuple[str, ...]]:
    found: list[Comparison] = []
    missing: list[str] = []
    for model in dict.fromkeys(cell.record.cell.base.name for cell in cells):
        for mine, yours in _pairs(claim):
            ours = _find(cells, model, *mine)
            if yours is not None:
                theirs = _find(cells, model, *yours)
            elif isinstance(ours, str):
                theirs = ours
            else:
                theirs = _find_within(cells, model, claim, ours)
            for side, cell in ((mine, ours), (yours or (claim.object, None), theirs)):
                if isinstance(cell, str):
                    missing.append(f"{model} {_side_label(*side)} ({cell})")
            if isinstance(ours, str) or isinstance(theirs, str):
                continue
            for metric in claim.metrics:
                lacking = [cell for cell in (ours, theirs) if metric not in cell.estimates]
                missing += [f"{metric} of {cell.record.cell.label}" for cell in lacking]
                if not lacking:
                    found.append(_comparison(claim, metric, model, ours, theirs))
    return found, tuple(dict.fromkeys(missing))


def _pairs(claim: Claim) -> list[tuple[tuple[Side, int], tuple[Side, int] | None]]:
    """Sides at their step counts; None for an object that is to be found by its cost."""
    subject, other = claim.subject, claim.object
    if claim.equal != "steps":
        return [((subject, steps), None) for steps in subject.steps]
    counts = zip_longest(subject.steps, other.steps)
    return [
        ((subject, subject.steps[0] if a is None else a), (other, other.steps[0] if b is None else b))
        for a, b in counts
    ]


def _find_within(cells: Sequence[ScoredCell], model: str, claim: Claim, ours: ScoredCell) -> ScoredCell | str:
    """The object's costliest cell that costs no more than the subject's, or why there is none."""
    budget = cost_of(ours.record, claim.equal)
    unit = "UNet evaluations" if claim.equal == "evaluations" else "seconds an image"
    if budget is None:
        return f"the {unit} of {ours.record.cell.label} are not known"
    allowed = budget * (1.0 if claim.equal == "evaluations" else 1 + LATENCY_LEEWAY)
    counts = {cell.record.cell.steps for cell in cells if cell.record.cell.method == claim.object.method}
    affordable = []
    for steps in sorted(counts):
        found = _find(cells, model, claim.object, steps)
        if not isinstance(found, str) and (needed := cost_of(found.record, claim.equal)) and needed <= allowed:
            affordable.append((needed, steps, found))
    return max(affordable, key=lambda entry: entry[:2])[2] if affordable else f"none takes {budget:.3g} {unit} or less"


def _find(cells: Sequence[ScoredCell], model: str, side: Side, steps: int) -> ScoredCell | str:
    """The one cell that a side means, or why there is none."""
    matches = [
        scored
        for scored in cells
        if (cell := scored.record.cell).base.name == model
        and cell.method == side.method
        and cell.steps == steps
        and side.eta in (None, cell.eta)
        and side.guidance_scale in (None, cell.guidance_scale)
    ]
    if len(matches) > 1:
        return f"{len(matches)} cells fit, say which eta or guidance scale"
    if not matches:
        return "not run"
    return matches[0] if matches[0].record.status == "ok" else "failed"


def _comparison(claim: Claim, metric: str, model: str, mine: ScoredCell, yours: ScoredCell) -> Comparison:
    margin = claim.margins.get(metric, 0.0)
    threshold = -margin if claim.expect == "not_worse" else margin
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    difference = paired_difference(mine.estimates[metric], yours.estimates[metric])
    gain, note = difference.scaled(sign), None
    if gain.doubt:
        stands_in = gain.stand_in is not None and not margin  # a margin is in the metric's own unit
        note = f"{gain.stand_in_name} instead: {gain.doubt}" if stands_in else f"no interval: {gain.doubt}"
        gain = gain.meant if stands_in else gain
    return Comparison(
        model=model,
        metric=metric,
        subject=mine.record.cell.label,
        object=yours.record.cell.label,
        subject_value=mine.estimates[metric].best,
        object_value=yours.estimates[metric].best,
        gain=gain.best,
        interval=gain.interval(1 - LEVEL) if gain.doubt is None else (-math.inf, math.inf),
        threshold=threshold,
        n=gain.n,
        p_value=_p_value(gain, claim.expect, threshold) if gain.doubt is None else 1.0,
        expect=claim.expect,
        note=note,
    )


def _p_value(gain: Estimate, expect: str, threshold: float) -> float:
    """Two-sided, of the hypothesis that the gain is at the threshold, or for equivalence at one of its two ends."""
    if expect != "equivalent":
        return gain.scaled(1.0, -threshold).p_value()
    within = max(gain.scaled(sign, threshold).p_value("greater") for sign in (1.0, -1.0))
    beyond = min(gain.scaled(sign, -threshold).p_value("greater") for sign in (1.0, -1.0))
    return min(1.0, 2 * min(within, beyond))


def _decide(comparisons: Sequence[Comparison]) -> list[Comparison]:
    adjusted = holm([comparison.p_value for comparison in comparisons])
    return [_with_verdict(comparison, p) for comparison, p in zip(comparisons, adjusted, strict=True)]


def _with_verdict(comparison: Comparison, p_value: float) -> Comparison:
    within = comparison.threshold - abs(comparison.gain)
    excess = within if comparison.expect == "equivalent" else comparison.gain - comparison.threshold
    if p_value < LEVEL:
        return replace(comparison, p_value=p_value, verdict="supported" if excess > 0 else "refuted")
    factor = float(ndtri(1 - p_value / 2) / ndtri(1 - LEVEL / 2)) if p_value < 1 else 0.0
    needed = math.ceil(comparison.n / factor**2) if factor > 1e-3 else None
    return replace(comparison, p_value=p_value, images_needed=needed)


def _side_label(side: Side, steps: int | None) -> str:
    eta = "" if side.eta is None else f" eta {side.eta:g}"
    return f"{side.method}{'' if steps is None else f' {steps} steps'}{eta}"
