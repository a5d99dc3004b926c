"""Scores as a pandas data frame, for a person's own analysis and for scores.csv."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from bench.judge.scores import ScoredCell, fingerprint, score_run
from bench.report.identity import adapters_in_words, scheduler_in_words, task_in_words
from bench.request import Run
from bench.score.metrics import METRICS
from bench.store import Store

COLUMNS = {
    **dict.fromkeys(("key", "status", "base", "method"), "str"),
    **{"eta": "Float64", "steps": "Int64", "guidance_scale": "Float64"},
    **dict.fromkeys(("task", "adapters", "scheduler", "dtype"), "str"),
    **dict.fromkeys(("height", "width"), "Int64"),
    "device": "str",
    **dict.fromkeys(("scheduler_steps", "unet_evaluations", "unet_samples"), "Int64"),
    "score": "str",
    **dict.fromkeys(("value", "standard_error", "debiased", "ci_low", "ci_high"), "Float64"),
    **{
        "n": "Int64",
        "prompts": "Int64",
        "higher_is_better": "boolean",
        "extractor": "str",
        "reference": "str",
        "protocol": "str",
        "fallback": "str",
    },
}
"""Column → dtype; what is not known is missing, never 0."""


def load_scores(results: Path | str) -> pd.DataFrame:
    """The scores of a run's directory, as `scores_to_frame` gives them; raises BenchError where there is no run."""
    store = Store(results, writable=False)
    run = store.run()
    return scores_to_frame(run, score_run(store, run))


def scores_to_frame(run: Run, cells: Sequence[ScoredCell]) -> pd.DataFrame:
    """One row a cell and metric with the 95% interval, numbers unrounded; a cell without scores has one row as well."""
    protocol = cache(partial(fingerprint, run))
    rows = [row for scored in cells for row in _rows(run, scored, protocol)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _rows(run: Run, scored: ScoredCell, protocol: Callable[[str, int], str]) -> Sequence[Mapping[str, Any]]:
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
        "unet_evaluations": calls.unet_evaluations if calls else None,
        "unet_samples": calls.unet_samples if calls else None,
        "extractor": run.extractor,
        "reference": run.reference,
    }
    rows: list[Mapping[str, Any]] = []
    for short, estimate in scored.estimates.items():
        score = estimate.to_score()
        low, high = score.interval or (None, None)
        rows.append(
            {
                **identity,
                "score": METRICS[short].name(run.evaluator, estimate.n),
                "value": float(estimate.value),
                "standard_error": score.standard_error,
                "debiased": score.debiased,
                "ci_low": low,
                "ci_high": high,
                "n": estimate.n,
                "prompts": score.groups or estimate.n,
                "protocol": protocol(short, estimate.n),
                "higher_is_better": METRICS[short].higher_is_better,
                "fallback": str(score.fallback) if score.fallback else None,
            }
        )
    return rows or [identity]
