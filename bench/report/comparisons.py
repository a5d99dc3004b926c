"""A comparison in words: its sides, the interval of its verdict, and the number of images that would decide it."""

from __future__ import annotations

from collections.abc import Iterable

from bench.analysis.claims import Comparison, Judgement
from bench.analysis.power import CHANCES
from bench.analysis.sequential import median_unbiased, path_of
from bench.records.run import Run
from bench.score.metrics import metric_of

MOSTLY_DIFFERENT = 0.95
"""The share of images with distinct prompts from which on repeated prompts are not mentioned."""


def decisive(judgement: Judgement) -> Comparison | None:
    """Return the comparison that decides: the strongest refutation, or else the weakest support."""
    choose = min if judgement.verdict == "refuted" else max
    wanted = [c for c in judgement.comparisons if judgement.verdict != "refuted" or c.verdict == "refuted"]
    return choose(wanted or judgement.comparisons, key=lambda c: c.p_value, default=None)


def gain_in_words(comparison: Comparison) -> str:
    """Return gain and adjusted interval, by which the verdict goes: `+3.13 [+2.21, +4.05]`."""
    digits = digits_of(comparison)
    interval = interval_in_words(comparison.adjusted_interval or comparison.interval, digits)
    return f"{comparison.gain:+.{digits}f} {interval}"


def corrected_gain(run: Run, comparison: Comparison) -> float | None:
    """Return the gain without the bias of sampling until a claim is decided, which ends sooner where it looks large.

    None where the run went to a fixed number of images, for equivalence, where there is no interval, and where the
    comparison went on being sampled for other claims.
    """
    effect = comparison.effect
    if run.settings.get("until") != "decided" or effect is None or effect.equivalence or not effect.error > 0:
        return None
    path = path_of(run.history(comparison.n))
    found = median_unbiased(effect.excess / effect.error, path, comparison.level)
    return None if found is None else comparison.threshold + found * effect.error


def threshold_in_words(comparison: Comparison) -> str:
    """Return what the gain must do: `within ±0.5`, `+0.3`; empty where it must only exceed 0."""
    if comparison.expect == "equivalent":
        return f"within ±{comparison.threshold:g}"
    return f"{comparison.threshold:+g}" if comparison.threshold else ""


def metric_in_words(comparison: Comparison) -> str:
    """Return the metric of the numbers: `fid@mini`, or `kid@mini (for fid@mini)` where that is its fallback."""
    name = comparison.compared or comparison.metric
    return name if name == comparison.metric else f"{name} (for {comparison.metric})"


def digits_of(comparison: Comparison) -> int:
    """Decimals of values and gains."""
    return metric_of(comparison.compared or comparison.metric).digits


def interval_in_words(interval: tuple[float, float] | None, digits: int) -> str:
    """`[-0.25, +5.25]`, or that there is none."""
    return "no interval" if interval is None else f"[{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]"


def opponent_in_words(comparison: Comparison) -> str:
    """Return whether this is the strongest of several opponents, and which guidance scales were chosen; may be empty.

    `strongest opponent; dpmpp_2m at its best: guidance 3 by both halves of the prompts`
    """
    strongest = "strongest opponent" if comparison.strongest else ""
    return "; ".join(filter(None, (strongest, comparison.choices)))


def would_decide(comparison: Comparison) -> str:
    """Return the number of images that would decide an undecided comparison; empty where there is no such number."""
    if comparison.images_needed is None:
        return ""
    counts = [f"{_rounded(images)} images{_of_prompts(comparison, images)}" for images in comparison.images_needed]
    chances = [f"{count} (chance {chance:.0%})" for count, chance in zip(counts, CHANCES, strict=True)]
    return f"about {' or '.join(chances)} would decide if this gain is the true one"


def _of_prompts(comparison: Comparison, images: int) -> str:
    """Return the number of their prompts, where more than a few prompts have several images."""
    if comparison.prompts is None or comparison.prompts > MOSTLY_DIFFERENT * comparison.n:
        return ""
    return f" of {_rounded(images * comparison.prompts / comparison.n)} prompts"


def looks_in_words(run: Run) -> str:
    """Return the number of this run's look at its claims; empty for a single look."""
    looks = len(set(run.history(len(run.prompts))))
    if looks == 1:
        return ""
    return (
        f" This is look {looks} at these claims in this directory; p-values and adjusted intervals count all of them."
    )


def _rounded(count: float) -> str:
    return f"{float(f'{count:.3g}'):,.0f}"


def experimental_in_words(scores: Iterable[str]) -> str:
    """Return which of the scores are experimental, as a sentence after a space; empty where none is."""
    names = [score for score in dict.fromkeys(scores) if metric_of(score).experimental]
    if not names:
        return ""
    verb, whose = ("is", "its") if len(names) == 1 else ("are", "their")
    return f" {', '.join(names)} {verb} experimental: {whose} numbers were not yet seen on the published weights."
