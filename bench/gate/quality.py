"""Scores before and after, in pairs over the same prompts, each with a verdict that has an error bar.

A metric regressed when its loss exceeds the limit beyond chance, improved when its gain does, and is unchanged when it
is shown to lie within the limit on either side (two one-sided tests, Schuirmann 1987); else it is undecided. The
one-sided p-values of regressions are adjusted over all comparisons (Holm 1979), and those of improvements likewise, so
that no more than 5% of gates call something a regression whose loss is within its limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.analysis.claims import LEVEL, holm
from bench.gate.outcome import Outcome, verdict_of
from bench.gate.pairing import Pair
from bench.records.run import Limit
from bench.records.score import split_score
from bench.score.estimate import Estimate, paired_difference
from bench.score.metrics import metric_of


def compare_quality(pairs: Sequence[Pair], limits: Mapping[str, Limit]) -> list[Outcome]:
    """One outcome for every score that has a limit and every pair of cells of which either was scored by it.

    The limits of `fid` hold for every extractor.
    """
    scored = {
        name: limit
        for pair in pairs
        for cell in (pair.before, pair.after)
        for name in (*cell.estimates, *cell.problems)
        if (limit := limits.get(split_score(name)[0]))
    }
    compared = [
        (pair, metric, paired_difference(pair.after.estimates[metric], pair.before.estimates[metric]))
        for pair in pairs
        for metric in scored
        if metric in pair.after.estimates and metric in pair.before.estimates
    ]
    allowed = [scored[metric].of(pair.before.estimates[metric].debiased_value) for pair, metric, _ in compared]
    gains = [change.scaled(1.0 if metric_of(metric).higher_is_better else -1.0) for _, metric, change in compared]
    losses = [gain.scaled(-1.0) for gain in gains]
    worse, better = holm(list(map(exceeds, losses, allowed))), holm(list(map(exceeds, gains, allowed)))
    outcomes = [lacks for pair in pairs for metric in scored if (lacks := _lacking(pair, metric))]
    for i, (pair, metric, change) in enumerate(compared):
        within = max(exceeds(gains[i], -allowed[i]), exceeds(losses[i], -allowed[i]))
        verdict = "equal" if pair.images_equal else verdict_of(worse[i], better[i], within, LEVEL)
        outcomes.append(_outcome(pair, metric, change, allowed[i], verdict))
    return outcomes


def _lacking(pair: Pair, metric: str) -> Outcome | None:
    """The outcome of a requested score of which a run has no value; None where both have one or neither was scored.

    What the baseline alone has a value of is missing: it cannot be shown that it did not get worse.
    """
    old, new = pair.before, pair.after
    if not any(metric in known for known in (old.estimates, old.problems, new.estimates, new.problems)):
        return None
    reasons = [
        f"the {name} has no value ({cell.problems.get(metric, 'it was run without this score')})"
        for name, cell in (("baseline", old), ("candidate", new))
        if metric not in cell.estimates
    ]
    if not reasons:
        return None
    verdict = "missing" if metric in old.estimates else "undecided" if metric in old.problems else "new"
    return Outcome("quality", pair.label, metric, verdict, note="; ".join(reasons))


def exceeds(gain: Estimate, limit: float) -> float:
    """p-value of the hypothesis that the true gain is not above a limit.

    Where the normal interval does not hold, by Cantelli's inequality, which holds for any distribution:
    P(X − μ ≥ k) ≤ σ²/(σ² + k²), with the whole variance, nothing taken off for interactions. Where all units gain the
    same, by the sign test: were a gain above the limit no likelier than one below, all of n would be with 2⁻ⁿ.
    """
    if gain.problem is not None:
        return 1.0
    if gain.is_constant:
        units = gain.n if gain.groups is None else len(gain.groups.sizes)
        return 0.5**units if gain.debiased_value > limit else 1.0
    if gain.caveat is None:
        return gain.scaled(1.0, -limit).p_value("greater")
    excess = gain.debiased_value - limit
    return gain.whole_variance / (gain.whole_variance + excess**2) if excess > 0 else 1.0


def _outcome(pair: Pair, metric: str, change: Estimate, limit: float, verdict: str) -> Outcome:
    notes = [] if pair.same_noise else ["other initial latents: paired by prompt only"]
    if pair.images_equal:
        notes.append("the images are equal")
    elif change.caveat:
        notes.append(f"no normal interval: {change.caveat}")
    interval = change.interval(1 - LEVEL) if change.caveat is None else None
    if verdict == "undecided" and interval and (min(interval) > limit or max(interval) < -limit):
        notes.append("undecided because all comparisons are counted (Holm); the interval is of this one alone")
    before, after = (cell.estimates[metric].debiased_value for cell in (pair.before, pair.after))
    return Outcome("quality", pair.label, metric, verdict, before, after, interval, limit, "; ".join(notes))
