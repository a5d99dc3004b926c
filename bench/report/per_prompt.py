"""Details of a verdict: the difference per prompt, and the pairs of images with the largest differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.analysis.claims import Comparison, Judgement
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.records.score import split_score
from bench.report.comparisons import digits_of, interval_in_words, metric_in_words
from bench.report.embedded_images import Picture
from bench.score.metrics import metric_of

PER_SIDE = 3
WIDTH, HEIGHT = 640, 96


@dataclass(frozen=True)
class _Pair:
    """One prompt with both images; `gain` is the advantage of the subject's image."""

    prompt: str
    gain: float
    subject: Picture
    object: Picture


@dataclass(frozen=True)
class Difference:
    """A claim's first comparison prompt by prompt.

    `curve` are the points of a polyline, gains in growing order in a box of WIDTH × HEIGHT, `zero` where 0 is in it.
    """

    claim: str
    subject: str
    object: str
    metric: str
    share: float
    gains: tuple[_Pair, ...]
    losses: tuple[_Pair, ...]
    curve: str
    zero: float
    frames: int
    verdict: str


def prompt_differences(scored: ScoredRun, judgements: Sequence[Judgement]) -> list[Difference]:
    """One for each claim whose first comparison has images of its largest differences."""
    found = []
    for judgement in judgements:
        by_label = {cell.label: cell for cell in scored.compared_by(judgement.claim)}
        for comparison in judgement.comparisons[:1]:
            mine, yours = by_label[comparison.subject], by_label[comparison.object]
            if entry := _difference(scored, judgement.claim.text, comparison, mine, yours):
                found.append(entry)
    return found


def _difference(
    scored: ScoredRun, claim: str, comparison: Comparison, mine: ScoredCell, yours: ScoredCell
) -> Difference | None:
    metric = next(
        (m for m in mine.estimates if split_score(m)[0] == "clip_score" and m in yours.estimates),
        comparison.metric,
    )
    ours, theirs = mine.estimates[metric], yours.estimates[metric]
    if metric == comparison.metric != comparison.compared:
        ours, theirs = mine.fallback(metric) or ours, yours.fallback(metric) or theirs
        metric = comparison.compared
    sign = 1.0 if metric_of(metric).higher_is_better else -1.0
    gains = sign * (ours.value + ours.influence - theirs.value - theirs.influence)
    order = np.argsort(gains)

    def pair(row: int) -> _Pair:
        pictures = (Picture(scored.home_of(cell)[0], cell.record, row) for cell in (mine, yours))
        return _Pair(scored.home_of(mine)[1].prompts[row], float(gains[row]), *pictures)

    largest, smallest = (
        tuple(p for p in map(pair, rows.tolist()) if p.subject.exists() and p.object.exists())
        for rows in (order[::-1][:PER_SIDE], order[:PER_SIDE])
    )
    if not largest and not smallest:
        return None
    low, high = min(0.0, float(gains.min())), max(0.0, float(gains.max()))
    span = (high - low) or 1.0
    sorted_gains = gains[order]
    points = zip(np.linspace(0, WIDTH, len(gains)), HEIGHT * (high - sorted_gains) / span, strict=True)
    return Difference(
        claim=claim,
        subject=comparison.subject,
        object=comparison.object,
        metric=metric_of(metric).name(len(gains)),
        share=float(np.mean(gains > 0)),
        gains=largest,
        losses=smallest,
        curve=" ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        zero=HEIGHT * high / span,
        verdict=_verdict(comparison),
        frames=int(mine.record.cell.task.settings.get("frames", 1)),
    )


def _verdict(c: Comparison) -> str:
    digits, adjusted = digits_of(c), "" if c.adjusted_interval is None else ", adjusted interval"
    interval = interval_in_words(c.adjusted_interval, digits)
    return f"{c.verdict} by {metric_in_words(c)}: gain {c.gain:+.{digits}f}{adjusted} {interval}"
