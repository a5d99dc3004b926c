"""Scores as a pandas data frame, for further analysis and for scores.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.scoring import ScoredCell, ScoredRun, fingerprint
from bench.records.run import Run
from bench.report.identity import adapters_in_words, scheduler_in_words, task_in_words
from bench.score.metrics import metric_of
from bench.store.store import Store

COLUMNS = {
    "key": ("str", "hash that names the cell; its folder below cells/"),
    "status": ("str", "ok, or error for a failed cell"),
    "base": ("str", "base model"),
    "method": ("str", "method"),
    "eta": ("Float64", "eta; missing where the scheduler has none"),
    "steps": ("Int64", "requested step count"),
    "guidance_scale": ("Float64", "guidance scale"),
    "task": ("str", "task with its settings"),
    "adapters": ("str", "adapters with weight and hash, fused or not"),
    "scheduler": ("str", "class and settings of the scheduler"),
    "dtype": ("str", "precision of the weights"),
    "height": ("Int64", "pixels"),
    "width": ("Int64", "pixels"),
    "device": ("str", "kind of device"),
    "scheduler_steps": ("Int64", "calls of scheduler.step per batch, counted"),
    "denoiser_evaluations": ("Int64", "denoiser evaluations per image (NFE), counted; guidance doubles them"),
    "denoiser_samples": ("Int64", "rows that the denoiser processed over the whole cell"),
    "score": ("str", "score with extractor and number of images, as in fid_mini_n512; missing without scores"),
    "value": ("Float64", "value as other tools print it"),
    "standard_error": ("Float64", "standard error; missing where there is no interval"),
    "debiased": ("Float64", "value without its bias"),
    "ci_low": ("Float64", "lower end of the 95% interval around `debiased`"),
    "ci_high": ("Float64", "upper end of the 95% interval"),
    "n": ("Int64", "number of images"),
    "prompts": ("Int64", "number of different prompts, the independent units"),
    "higher_is_better": ("boolean", "direction of the score"),
    "extractor": ("str", "hash of what computed the features"),
    "reference": ("str", "hash of the reference images; missing where no score needs them"),
    "protocol": ("str", "hash of everything that the value depends on; only equal ones are comparable"),
    "fallback": ("str", "why there is no interval, and what replaces it"),
    "experimental": ("boolean", "whether the score's numbers were not yet seen on the published weights"),
}
"""Column → dtype and meaning; what is not known is missing, never 0."""


def load_scores(results: Path | str) -> pd.DataFrame:
    """Scores of a run as a pandas data frame: one row per cell and score, with 95% intervals, unrounded.

    `results` is the directory or URL of the run. A cell without scores has one row as well. Raises BenchError where
    there is no run.
    """
    scored = ScoredRun.load(Store(results, writable=False))
    return scores_to_frame(scored.run, scored.cells)


def joined_scores_to_frame(scored: ScoredRun) -> pd.DataFrame:
    """As `scores_to_frame`; of several runs the rows of each, and before all other columns `run`, which names it."""
    if not scored.joined:
        return scores_to_frame(scored.run, scored.cells)
    frames = {name: scores_to_frame(part.run, part.cells) for name, part in scored.joined.items()}
    return pd.concat(frames, names=["run"]).reset_index("run").astype({"run": "str"}).reset_index(drop=True)


def scores_to_frame(run: Run, cells: Sequence[ScoredCell]) -> pd.DataFrame:
    """One row per cell and metric with the 95% interval, unrounded; a cell without scores has one row as well."""
    rows = [row for scored in cells for row in _rows(run, scored)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({name: dtype for name, (dtype, _) in COLUMNS.items()})


def _rows(run: Run, scored: ScoredCell) -> Sequence[Mapping[str, Any]]:
    cell, calls = scored.record.cell, scored.record.calls
    identity = {
        "key": cell.key,
        "status": scored.record.status,
        "base": cell.base.name,
        "method": cell.method,
        "eta": cell.eta,
        "steps": cell.steps,
        "guidance_scale": cell.guidance_scale,
        "task": task_in_words(cell),
        "adapters": adapters_in_words(cell),
        "scheduler": scheduler_in_words(cell),
        "dtype": cell.base.dtype,
        "height": cell.base.height,
        "width": cell.base.width,
        "device": cell.device,
        "scheduler_steps": calls.scheduler_steps if calls else None,
        "denoiser_evaluations": calls.denoiser_evaluations if calls else None,
        "denoiser_samples": calls.denoiser_samples if calls else None,
    }
    rows: list[Mapping[str, Any]] = []
    for name, estimate in scored.estimates.items():
        metric, score = metric_of(name), estimate.to_score()
        low, high = score.interval or (None, None)
        rows.append(
            {
                **identity,
                "score": metric.name(estimate.n),
                "value": float(estimate.value),
                "standard_error": score.standard_error,
                "debiased": score.debiased,
                "ci_low": low,
                "ci_high": high,
                "n": estimate.n,
                "prompts": score.groups or estimate.n,
                "extractor": run.features[metric.feature_set],
                "reference": run.references.get(metric.extractor) if metric.needs_reference else None,
                "protocol": fingerprint(run, name, estimate.n),
                "higher_is_better": metric.higher_is_better,
                "fallback": str(score.fallback) if score.fallback else None,
                "experimental": metric.experimental,
            }
        )
    return rows or [identity]
