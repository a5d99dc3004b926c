"""Tables as data, and their forms for files: Markdown, LaTeX, CSV."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from bench.analysis.claims import Comparison, Judgement
from bench.analysis.scoring import ScoredCell
from bench.records.run import Run
from bench.report.comparisons import (
    corrected_gain,
    digits_of,
    experimental_in_words,
    interval_in_words,
    looks_in_words,
    metric_in_words,
    opponent_in_words,
    would_decide,
)
from bench.report.identity import (
    NO_VALUE,
    adapters_in_words,
    of_several_sizes,
    scheduler_in_words,
    task_in_words,
    traits,
)
from bench.report.ties import best_and_tied
from bench.score.estimate import Estimate
from bench.score.metrics import Metric, metric_of


@dataclass(frozen=True, slots=True)
class Table:
    """Text cells under column heads; `numeric` marks the columns that are set flush right.

    `keys` are those of the records that rows are about, empty where rows are about something else. `marks` says of row
    and column that the value is the best one, or may be as good (bench.report.ties).
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    note: str = ""
    keys: tuple[str, ...] = ()
    marks: Mapping[tuple[int, int], str] = field(default_factory=dict)


def score_table(run: Run, cells: Sequence[ScoredCell]) -> Table:
    """Value ± standard error of every metric for every cell; a biased one also without its bias."""
    metrics = [metric_of(score) for score in run.metrics]
    instead = {m.score: other for m in metrics if (other := m.fallback) and other.score not in run.metrics}
    estimates = [e for cell in cells for e in cell.estimates.values()]
    counts = {e.n for e in estimates}
    biased = {short for cell in cells for short, estimate in cell.estimates.items() if estimate.debiased is not None}
    heads: list[str] = []
    for metric in metrics:
        arrow = "↑" if metric.higher_is_better else "↓"
        heads.append(f"{metric.name_over(counts)} {arrow}")
        if metric.score in biased:
            heads.append(f"{metric.short}_{metric.extractor} without bias {arrow}")
    rows, identity = [], Identity(run, cells)
    for cell in cells:
        texts: list[str] = []
        for metric in metrics:
            estimate = cell.estimates.get(metric.score)
            texts += _score(estimate, metric.digits, metric.score in biased, instead.get(metric.score))
        rows.append((*identity.of(cell), *texts))
    samples = " or ".join(dict.fromkeys(estimate.sample for estimate in estimates)) or "images"
    note = f"Value ± standard error over {samples}.{_without_intervals(run, cells)}{_protocols(run)}{_cut(cells)}"
    if of_several_sizes(cells):
        note += " Distances depend on the number of images; marks compare cells by the first images that both have."
    note += experimental_in_words(run.metrics)
    numeric, keys = (*identity.numeric, *[True] * len(heads)), tuple(cell.record.key for cell in cells)
    marks = _marks(metrics, biased, cells, len(identity.heads))
    return Table("scores", "Scores", (*identity.heads, *heads), tuple(rows), numeric, note, keys, marks)


def _marks(
    metrics: Sequence[Metric], biased: Collection[str], cells: Sequence[ScoredCell], column: int
) -> dict[tuple[int, int], str]:
    """Return the marks of the best cells in the columns from `column` on; of a biased score, in that without bias."""
    found: dict[tuple[int, int], str] = {}
    for metric in metrics:
        column += metric.score in biased
        found |= {(row, column): mark for row, mark in best_and_tied(metric, cells).items()}
        column += 1
    return found


def _without_intervals(run: Run, cells: Sequence[ScoredCell]) -> str:
    """Why some scores have no interval, once for each reason."""
    reasons: dict[str, dict[str, None]] = {}
    for short in run.metrics:
        for cell in cells:
            if (estimate := cell.estimates.get(short)) and estimate.caveat:
                reasons.setdefault(estimate.caveat, {})[short] = None
    if len(reasons) > 3:
        names = dict.fromkeys(name for found in reasons.values() for name in found)
        return f" Some cells have no interval of {', '.join(names)}; scores.csv gives the reasons."
    return "".join(f" No interval of {', '.join(names)}: {reason}." for reason, names in reasons.items())


def _cut(cells: Sequence[ScoredCell]) -> str:
    """How many prompts are longer than extractors read."""
    most = {name: max(cell.cut_prompts.get(name, 0) for cell in cells) for cell in cells for name in cell.cut_prompts}
    return "".join(
        f" Of the prompts, {count} are longer than extractor {name} reads: the rest of each is ignored."
        for name, count in most.items()
        if count
    )


def _protocols(run: Run) -> str:
    """The extractors that scores are by, with their reference and preparation of images."""
    used = dict.fromkeys(metric.extractor for score in run.metrics if (metric := metric_of(score)).extractor)
    return "".join(
        f" Extractor {name} ({run.features[name]}), reference {run.references.get(name, 'none')}"
        + "".join(f"; {subject} {value}" for subject, value in run.protocols.get(name, {}).items())
        + "."
        for name in used
    )


def settings_table(run: Run, cells: Sequence[ScoredCell]) -> Table:
    """What was run, a row for each base and method (and for each scale of guidance and further setting)."""
    identity = [trait for trait in traits(run, cells) if trait.head not in ("η", "Steps")]
    rows: dict[tuple[str, ...], dict[str, None]] = {}
    for scored in cells:
        cell = scored.record.cell
        said = (
            *(task_in_words(cell), scheduler_in_words(cell), adapters_in_words(cell) or NO_VALUE, cell.base.dtype),
            *(f"{cell.base.width}×{cell.base.height}", cell.device),
        )
        steps = rows.setdefault((*(trait.of(scored) for trait in identity), *said), {})
        steps[str(cell.steps)] = None
    return Table(
        "settings",
        "What was run",
        (
            *(trait.head for trait in identity),
            *("Task", "Scheduler", "Adapters × scale (weights)", "dtype", "Size", "Device", "Steps"),
        ),
        tuple((*row, ", ".join(steps)) for row, steps in rows.items()),
        (*(trait.numeric for trait in identity), *[False] * 7),
        "Records hold every setting; the noise schedule is the base model's.",
    )


def cost_table(run: Run, cells: Sequence[ScoredCell]) -> Table:
    """Latency of a call and its parts, throughput, and peaks of memory."""
    rows, identity = [], Identity(run, cells)
    for cell in cells:
        latency, memory = cell.record.latency, cell.record.memory
        times = [NO_VALUE] * 7
        if latency:
            p50 = p95 = median(latency.call_s)
            if len(latency.call_s) > 1:
                p95 = quantiles(latency.call_s, n=20, method="inclusive")[-1]
            parts = latency.text_encoder_s, latency.denoiser_s, latency.vae_s
            seconds = [f"{1000 * value:.1f}" for value in (p50, p95, *map(median, parts))]
            waits = NO_VALUE if latency.scheduler_syncs is None else str(latency.scheduler_syncs)
            mark = "*" if cell.disturbed else ""
            times = [*(text + mark for text in seconds), waits, f"{latency.batch_size / p50:.2f}{mark}"]
        peaks = [getattr(memory, name, None) for name in ("allocated_bytes", "device_bytes")]
        mebibytes = [NO_VALUE if peak is None else f"{peak / 2**20:.0f}" for peak in peaks]
        rows.append((*identity.of(cell), cell.record.cell.device, *times, *mebibytes))
    return Table(
        "costs",
        "Latency and memory",
        (
            *identity.heads,
            "Device kind",
            *("call p50 ms", "call p95 ms", "text encoder ms", "denoiser ms", "VAE ms", "scheduler syncs", "images/s"),
            *("GPU allocated MiB", "GPU device MiB"),
        ),
        tuple(rows),
        (*identity.numeric, False, *[True] * 9),
        f"{NO_VALUE} means that the machine cannot tell; on a processor, the memory of a call. Parts are sums over "
        "one call, by module hooks; scheduler syncs count operations of its steps that make the host wait for the GPU."
        + disturbed_in_words(cells),
        tuple(cell.record.key for cell in cells),
    )


def disturbed_in_words(cells: Sequence[ScoredCell]) -> str:
    """What the mark * of latencies means, and which ones have it; empty where none has."""
    found = [f"{cell.label} ({cell.disturbed})" for cell in cells if cell.disturbed]
    if not found:
        return ""
    rest = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return (
        f" * These latencies were disturbed by load and are invalid: {'; '.join(found[:5])}{rest}. They are on no "
        "front and in no claim; run again with measure.again=true on an idle machine to measure them again."
    )


def verdict_table(run: Run, judgements: Sequence[Judgement]) -> Table:
    """One row a comparison, the claim's verdict first."""
    rows: list[tuple[str, ...]] = []
    stops = run.settings.get("until") == "decided"
    for judgement in judgements:
        for c in judgement.comparisons:
            digits = digits_of(c)
            rows.append(
                (
                    *(judgement.claim.text, judgement.verdict, metric_in_words(c)),
                    *(c.subject, f"{c.subject_value:.{digits}f}", c.object, f"{c.object_value:.{digits}f}"),
                    f"{c.gain:+.{digits}f} {interval_in_words(c.interval, digits)}",
                    *([_corrected(run, c, digits)] if stops else []),
                    f"within ±{c.threshold:g}" if c.expect == "equivalent" else f"{c.threshold:+g}",
                    *(interval_in_words(c.adjusted_interval, digits), f"{c.p_value:.2g}"),
                    str(c.n) if c.prompts in (None, c.n) else f"{c.n} of {c.prompts} prompts",
                    *(
                        "; ".join(filter(None, (c.verdict, opponent_in_words(c), would_decide(c), c.note))),
                        judgement.claim.stated or NO_VALUE,
                    ),
                )
            )
        if judgement.missing or not judgement.comparisons:
            lacking = "needs " + (", ".join(judgement.missing) or "cells")
            stated = judgement.claim.stated or NO_VALUE
            rows.append((judgement.claim.text, judgement.verdict, lacking, *[NO_VALUE] * (10 + stops), stated))
    last = None if any(judgement.claim.stated for judgement in judgements) else -1
    return Table(
        "verdicts",
        "Verdicts",
        (
            *("Claim", "Verdict", "Metric", "Subject", "its value", "Object", "its value ", "Gain [95% interval]"),
            *(["corrected for looks"] if stops else []),
            *("must exceed", "adjusted interval", "p (adjusted)", "n", "Comparison", "Published"),
        )[:last],
        tuple(row[:last] for row in rows),
        (False, False, False, False, True, False, True, *[True] * (5 + stops), False, False)[:last],
        "Gain: how much better the subject is, paired over the same prompts and latents; positive is better. Values "
        "and gains are without the bias of a finite number of images. A verdict goes by the adjusted interval and "
        f"p-value, which count all claims of the run.{_choices_in_words(judgements)}{looks_in_words(run)}"
        + (_CORRECTED if stops else "")
        + experimental_in_words(c.metric for judgement in judgements for c in judgement.comparisons),
    )


_CORRECTED = (
    " Sampling ends sooner where a gain looks large. Corrected for looks, a gain is too large as often as too small; "
    "there is none where sampling went on for other claims."
)


def _corrected(run: Run, comparison: Comparison, digits: int) -> str:
    found = corrected_gain(run, comparison)
    return NO_VALUE if found is None else f"{found:+.{digits}f}"


def _choices_in_words(judgements: Sequence[Judgement]) -> str:
    """What numbers mean where guidance scales were chosen; empty where none was."""
    if not any("at its best" in c.choices for judgement in judgements for c in judgement.comparisons):
        return ""
    return (
        " Where a guidance scale was chosen, cells and values are those of the scale that is best over all images, and "
        "the gain is that over the choice of either half of the prompts, judged on the other half. Supported means "
        "better than at every scale."
    )


class Identity:
    """The first columns of tables about cells, which tell them apart."""

    def __init__(self, run: Run, cells: Sequence[ScoredCell]) -> None:
        self._traits = traits(run, cells)
        self.heads = (*(trait.head for trait in self._traits), "Denoiser evaluations")
        self.numeric = (*(trait.numeric for trait in self._traits), True)

    def of(self, scored: ScoredCell) -> tuple[str, ...]:
        """A cell's texts in them; the method's name says that it failed."""
        record, calls = scored.record, scored.record.calls
        texts = [trait.of(scored) for trait in self._traits]
        texts[1] += "" if record.status == "ok" else " (failed)"
        return (*texts, NO_VALUE if calls is None else str(calls.denoiser_evaluations))


def _score(estimate: Estimate | None, digits: int, biased: bool, instead: Metric | None) -> list[str]:
    """Value ± standard error, or for a biased score the value, and the one without bias ± standard error.

    Where there is no interval, the score's fallback is named with its own value, unless it has a column.
    """
    if estimate is None:
        return [NO_VALUE] * (1 + biased)
    missing = "no interval"
    if estimate.caveat and instead and not (other := estimate.or_fallback).caveat:
        missing += f"; {instead.short} {_plus_minus(other.debiased_value, other.standard_error, instead.digits)}"
    if biased and estimate.caveat:
        missing = f"{estimate.debiased_value:.{digits}f} ({missing})"
    error = missing if estimate.caveat else _plus_minus(estimate.debiased_value, estimate.standard_error, digits)
    value = f"{estimate.value:.{digits}f}"
    if biased:
        return [value, error]
    return [f"{value} ({error})" if estimate.caveat else error]


def _plus_minus(value: float, error: float, digits: int) -> str:
    return f"{value:.{digits}f} ± {error:.{digits}f}" if math.isfinite(error) else f"{value:.{digits}f}"
