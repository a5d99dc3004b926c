"""Details of a verdict: the difference per prompt, and the images of the prompts with the largest differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from bench.analysis.claims import Comparison, Judgement
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.records.score import split_score
from bench.report.embedded_images import Picture
from bench.score.metrics import metric_of

PER_SIDE = 3
MOST_SHOWN = 4
"""Images of a prompt that are shown."""
CURVE_WIDTH, CURVE_HEIGHT = 640, 96


@dataclass(frozen=True)
class PromptPair:
    """One prompt with the images of both sides; `gain` is the advantage of the subject's."""

    prompt: str
    gain: float
    subject: tuple[Picture, ...]
    object: tuple[Picture, ...]


@dataclass(frozen=True)
class Difference:
    """One comparison of a claim prompt by prompt.

    `gains` and `losses` are of the prompts whose images were kept, `kept` of `prompts`. `curve` are the points of a
    polyline, gains of all prompts in growing order in a box of CURVE_WIDTH × CURVE_HEIGHT, `zero` where 0 is in it.
    """

    subject: str
    object: str
    metric: str
    share: float
    gains: tuple[PromptPair, ...]
    losses: tuple[PromptPair, ...]
    kept: int
    prompts: int
    curve: str
    zero: float
    frames: int
    of_prompts: Sequence[float]
    """The gain of each prompt, in their order."""


def prompt_differences(scored: ScoredRun, judgements: Sequence[Judgement]) -> dict[str, Difference]:
    """Return by claim its first comparison, or first with a strongest opponent, where images of it were kept."""
    found = {}
    for judgement in judgements:
        by_label = {cell.label: cell for cell in scored.compared_by(judgement.claim)}
        for comparison in [*(c for c in judgement.comparisons if c.strongest), *judgement.comparisons][:1]:
            mine, yours = by_label[comparison.subject], by_label[comparison.object]
            if entry := _difference(scored, comparison, mine, yours):
                found[judgement.claim.name] = entry
    return found


def _difference(scored: ScoredRun, comparison: Comparison, mine: ScoredCell, yours: ScoredCell) -> Difference | None:
    metric = next(
        (m for m in mine.estimates if split_score(m)[0] == "clip_score" and m in yours.estimates),
        comparison.metric,
    )
    if metric_of(comparison.metric).of_prompts:
        metric = comparison.metric
    mine, yours = mine.first(comparison.n, metric), yours.first(comparison.n, metric)
    ours, theirs = mine.estimates[metric], yours.estimates[metric]
    if metric == comparison.metric != comparison.compared:
        ours, theirs = mine.fallback(metric) or ours, yours.fallback(metric) or theirs
        metric = comparison.compared
    sign = 1.0 if metric_of(metric).higher_is_better else -1.0
    run = scored.home_of(mine)[1]
    each = run.images_per_prompt
    of_images = sign * (ours.value + ours.influence - theirs.value - theirs.influence)
    gains = of_images.reshape(-1, each).mean(axis=1)
    order = np.argsort(gains, kind="stable")

    def pair(prompt: int) -> PromptPair:
        rows = range(prompt * each, prompt * each + min(each, MOST_SHOWN))
        pictures = (tuple(Picture(scored.home_of(cell)[0], cell.record, row) for row in rows) for cell in (mine, yours))
        return PromptPair(run.prompts[rows[0]], float(gains[prompt]), *pictures)

    found = map(pair, order.tolist())
    pairs = [one for one in found if all(picture.was_kept() for picture in (*one.subject, *one.object))]
    largest = _whole(entry for entry in reversed(pairs) if entry.gain > 0)
    smallest = _whole(entry for entry in pairs if entry.gain < 0)
    if not largest and not smallest:
        return None
    low, high = min(0.0, float(gains.min())), max(0.0, float(gains.max()))
    span = (high - low) or 1.0
    sorted_gains = gains[order]
    points = zip(np.linspace(0, CURVE_WIDTH, len(gains)), CURVE_HEIGHT * (high - sorted_gains) / span, strict=True)
    return Difference(
        subject=comparison.subject,
        object=comparison.object,
        metric=metric_of(metric).name(ours.n),
        share=float(np.mean(gains > 0)),
        gains=largest,
        losses=smallest,
        kept=len(pairs),
        prompts=len(gains),
        curve=" ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        zero=CURVE_HEIGHT * high / span,
        frames=int(mine.record.cell.task.settings.get("frames", 1)),
        of_prompts=gains.tolist(),
    )


def _whole(pairs: Iterable[PromptPair]) -> tuple[PromptPair, ...]:
    """Return the first pairs whose files are there."""
    there = (pair for pair in pairs if all(picture.exists() for picture in (*pair.subject, *pair.object)))
    return tuple(islice(there, PER_SIDE))
