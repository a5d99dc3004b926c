"""Records and features → scores: every number with one influence per image, so that cells can be compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

from numpy.typing import NDArray

from bench.analysis.pace import disturbed
from bench.parallel import map_forked
from bench.records.cell import content_hash
from bench.records.errors import BenchError, StoreError
from bench.records.record import Record
from bench.records.run import Run
from bench.score.estimate import Estimate
from bench.score.groups import Groups
from bench.score.metrics import METRICS, RealImages
from bench.store.store import Store

NO_FEATURES = "its features are not there; the same tcd-bench run again computes them"
WORTH_KEEPING = 256
"""Dimensions from which on a reference's factor takes longer to compute than to read."""


@dataclass(frozen=True)
class ScoredCell:
    """A cell's record with its estimates by short metric name (`fid`, `clip_score` …); none for a failed cell.

    `problems` says, by metric, why there is no estimate. `cut_prompts` counts those longer than the evaluator reads.
    `disturbed` says why its latency does not stand, None where it does (bench.analysis.pace).
    """

    record: Record
    estimates: Mapping[str, Estimate]
    problems: Mapping[str, str] = field(default_factory=dict)
    cut_prompts: int = 0
    disturbed: str | None = None


def cost_of(record: Record, kind: str) -> float | None:
    """Denoiser evaluations per image (`evaluations`), or median measured seconds (`latency`); None where unknown."""
    if kind == "evaluations":
        return None if record.calls is None else float(record.calls.denoiser_evaluations)
    return None if record.latency is None else median(record.latency.call_s) / record.latency.batch_size


def fingerprint(run: Run, short: str, n: int) -> str:
    """A hash over all that a score's number depends on besides the images; scores of other ones are not comparable.

    Extractor and weights, how images are made ready for them, the reference where it counts, and how many images.
    """
    metric = METRICS[short]
    return content_hash([run.extractor, run.protocol, run.reference if metric.needs_reference else None, n])[:12]


def score_run(store: Store, run: Run) -> list[ScoredCell]:
    """Score every recorded cell of a run, in the plan's order; cells without a record are not in the list."""
    real = None if run.reference is None else _load_reference(store, run, run.reference)
    found = map_forked(partial(_score_key, store, run, real), run.cells, fewest=500)
    known = [scored for scored in found if scored is not None]
    reasons = disturbed([scored.record for scored in known])
    marked = [replace(s, disturbed=reasons[s.record.key]) if s.record.key in reasons else s for s in known]
    return [_with_fallbacks(store, run, real, scored) for scored in marked]


def _load_reference(store: Store, run: Run, reference: str) -> RealImages:
    """The real images' features, with what distances need of them, which is written beside them the first time."""
    embeddings = store.load_reference(reference)
    if embeddings is None:
        raise BenchError(
            f"results={store.location} holds no reference features; start the same tcd-bench run again, it computes "
            "them again and keeps the rest"
        )
    wanted = run.settings.get("reference", {}).get("count", len(embeddings))
    if len(embeddings) != wanted:
        raise BenchError(
            f"results={store.location} holds features of {len(embeddings)} reference images where run.json says "
            f"{wanted}; remove reference-{reference}.npz and start the same tcd-bench run again"
        )
    if "fid" not in run.metrics or embeddings.shape[1] < WORTH_KEEPING:
        return RealImages(run.evaluator, embeddings)
    derived = store.load_derived(reference, embeddings)
    real = RealImages(run.evaluator, embeddings, derived)
    if derived is None:
        with suppress(StoreError):  # somebody else's run may be read only
            store.save_derived(reference, embeddings, real.reference.to_parts())
    return real


def _score_key(store: Store, run: Run, real: RealImages | None, key: str) -> ScoredCell | None:
    record = store.whole_record(key)
    if record is None:
        return None
    scored = _score(store, run, record, real)
    for estimate in scored.estimates.values():
        estimate.to_score()  # what that works out goes along
    return scored


def _with_fallbacks(store: Store, run: Run, real: RealImages | None, scored: ScoredCell) -> ScoredCell:
    """With what stands in for estimates of another process, which could not be sent."""

    def found_again(short: str) -> Estimate:
        features = store.features_of(scored.record, run.extractor)
        again = METRICS[short].of(features, real, prompt_groups(run, features))
        return again.fallback() if again.fallback else again

    for short, estimate in scored.estimates.items():
        if estimate.fallback is None and estimate.fallback_name:
            object.__setattr__(estimate, "fallback", partial(found_again, short))
    return scored


def prompt_groups(run: Run, features: Mapping[str, NDArray[Any]]) -> Groups | None:
    """Which images have prompts of equal text, in the order of a cell's features; None where all texts differ."""
    n = len(next(iter(features.values())))
    return Groups.of(run.prompts[:n], n) if len(run.prompts) >= n else None


def _score(store: Store, run: Run, record: Record, real: RealImages | None) -> ScoredCell:
    if record.status != "ok":
        return ScoredCell(record, {})
    if not store.has_features(record.key, run.extractor):
        return ScoredCell(record, {}, dict.fromkeys(run.metrics, NO_FEATURES))
    features = store.features_of(record, run.extractor)
    estimates, problems, groups = {}, {}, prompt_groups(run, features)
    for short in run.metrics:
        try:
            estimates[short] = METRICS[short].of(features, real, groups)
        except ValueError as error:
            problems[short] = str(error)
    cut = int(features["caption_cut"].sum()) if "caption_cut" in features else 0
    return ScoredCell(record, estimates, problems, cut)
