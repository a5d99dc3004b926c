"""Records and features → scores: every number with one influence per image, so that cells can be compared in pairs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.pace import disturbed
from bench.parallel import map_forked
from bench.records.cell import content_hash
from bench.records.errors import BenchError, StoreError
from bench.records.record import Record
from bench.records.reference import is_statistics
from bench.records.run import Claim, Run
from bench.score.estimate import Estimate
from bench.score.groups import Groups
from bench.score.metrics import Metric, RealImages, metric_of
from bench.store.store import Store

NO_FEATURES = "its features are missing; the same tcd-bench run again computes them"
WORTH_KEEPING = 256
"""Dimensions from which on a reference's factor takes longer to compute than to read."""


@dataclass(frozen=True)
class ScoredCell:
    """A cell's record with its estimates by the name of the score (`fid@mini`, `sharpness`); none for a failed cell.

    `problems` gives, by score, the reason why there is no estimate. `cut_prompts` counts, by extractor, the prompts
    above its limit. `disturbed` is the reason why its latency is invalid, None where it is valid (bench.analysis.pace).
    `source` is the data it was scored from. In a report of several runs, `traits` are the columns in which these runs
    differ, with the cell's text in each, and `setting` says in words which cells it is compared with.
    `halves` keeps the estimates of either half of the prompts by score, once bench.analysis.strongest has needed them
    (None where there are none), `parts` what `first` returned.
    """

    record: Record
    estimates: Mapping[str, Estimate]
    problems: Mapping[str, str] = field(default_factory=dict)
    cut_prompts: Mapping[str, int] = field(default_factory=dict)
    disturbed: str | None = None
    source: StoredFeatures | None = None
    traits: Mapping[str, str] = field(default_factory=dict)
    setting: str = ""
    halves: dict[str, tuple[Estimate, Estimate] | None] = field(default_factory=dict, compare=False, repr=False)
    parts: dict[tuple[int, str], ScoredCell] = field(default_factory=dict, compare=False, repr=False)

    @property
    def prompts(self) -> Hashable:
        """What is equal for cells of the same prompts, of which one may have fewer than the other."""
        return self.record.cell.prompts.text_hash if self.source is None else self.source.run.prompts

    def first(self, images: int, score: str) -> ScoredCell:
        """Return the cell with a score of its first images alone, as when it had no others; raises Damaged."""
        if self.source is None or images >= self.estimates[score].n:
            return self
        if (images, score) not in self.parts:
            source = _FirstImages(self.source.store, self.source.run, self.source.real, self.source, images)
            self.parts[images, score] = replace(self, **source.scores_of(self.record, [score]), source=source)
        return self.parts[images, score]

    @property
    def label(self) -> str:
        """The cell's display name, with its setting where runs of a report differ in it."""
        return ", ".join(filter(None, (self.record.cell.label, self.setting)))

    def fallback(self, score: str) -> Estimate | None:
        """Return the estimate that replaces an invalid interval, alone or in a difference; None where there is none."""
        known = self.estimates[score].fallback
        instead = metric_of(score).fallback
        if known or instead is None or self.source is None or not self.source.has_images(instead):
            return known
        return self.source.estimate(self.record, instead)


@dataclass(frozen=True)
class ScoredRun:
    """A loaded and scored run; cells in the plan's order, without those that have no record.

    Several runs in one report are one as well (bench.report.joint): `joined` are they by their names, `compared` the
    cells that each of its claims compares, by its name, `distinct` the cells without repetition of those that are the
    same in several runs.
    """

    store: Store
    run: Run
    cells: tuple[ScoredCell, ...]
    joined: Mapping[str, ScoredRun] = field(default_factory=dict)
    compared: Mapping[str, Sequence[ScoredCell]] = field(default_factory=dict)
    distinct: tuple[ScoredCell, ...] = ()

    @property
    def images(self) -> tuple[ScoredCell, ...]:
        """The cells, each once."""
        return self.distinct or self.cells

    @property
    def parts(self) -> list[ScoredRun]:
        """The runs that it consists of: itself, or those that were joined."""
        return [*self.joined.values()] or [self]

    def compared_by(self, claim: Claim) -> Sequence[ScoredCell]:
        """Return the cells that a claim of the run is about."""
        return self.compared.get(claim.name, self.cells)

    def home_of(self, cell: ScoredCell) -> tuple[Store, Run]:
        """Return where a cell's pictures are stored, and the run with its prompts."""
        return (self.store, self.run) if cell.source is None else (cell.source.store, cell.source.run)

    @classmethod
    def load(cls, store: Store, run: Run | None = None, known: Sequence[ScoredCell] = ()) -> ScoredRun:
        """Load the run in `store`, or `run`, if it differs from the stored one; `known` are cells scored by it before.

        Raises BenchError where there is no run, Damaged for a damaged record, feature file or run.json.
        """
        run = store.run() if run is None else run
        real = {name: _load_reference(store, run, name) for name in run.references}
        source = StoredFeatures(store, run, real)
        before = {cell.record.key: cell for cell in known}
        more = [key for key in run.cells if key not in before]
        by_key = {**before, **dict(zip(more, map_forked(source.score, more, fewest=500), strict=True))}
        found = [scored for key in run.cells if (scored := by_key[key]) is not None]
        reasons = disturbed([scored.record for scored in found])
        return cls(store, run, tuple(replace(s, source=source, disturbed=reasons.get(s.record.key)) for s in found))


@dataclass(frozen=True)
class StoredFeatures:
    """The features of a run's cells, and of its reference images, from which its scores are computed."""

    store: Store
    run: Run
    real: Mapping[str, RealImages]
    """By extractor."""

    def score(self, key: str) -> ScoredCell | None:
        """Return a cell with all scores of the run; None while it has no record. Raises Damaged."""
        record, run = self.store.cell(key).record(must_be_whole=True), self.run
        if record is None:
            return None
        if record.status != "ok":
            return ScoredCell(record, {})
        scored = ScoredCell(record, **self.scores_of(record, run.metrics))
        for estimate in scored.estimates.values():
            estimate.to_score()  # in a forked process, where there are several; the results are cached
        return scored

    def scores_of(self, record: Record, scores: Sequence[str]) -> dict[str, Any]:
        """Return the fields of a `ScoredCell` that follow from the features of a cell; raises Damaged."""
        metrics = [metric_of(score) for score in scores]
        names = dict.fromkeys(metric.feature_set for metric in metrics)
        features = {name: found for name in names if (found := self.features_of(record, name)) is not None}
        estimates, problems = dict[str, Estimate](), dict[str, str]()
        for metric in metrics:
            try:
                estimates[metric.score] = self._estimate(metric, features.get(metric.feature_set))
            except ValueError as error:
                problems[metric.score] = str(error)
        each = self.run.images_per_prompt
        cut = {name: int(rows["caption_cut"][::each].sum()) for name, rows in features.items() if "caption_cut" in rows}
        return {"estimates": estimates, "problems": problems, "cut_prompts": cut, "halves": {}, "parts": {}}

    def has_images(self, metric: Metric) -> bool:
        """Whether the reference of a score is known by its images and not by statistics alone."""
        real = self.real.get(metric.extractor)
        return real is None or len(real.embeddings) > 0

    def estimate(self, record: Record, metric: Metric) -> Estimate:
        """Return one more score of a finished cell; raises Damaged, and ValueError where it cannot be computed."""
        return self._estimate(metric, self.features_of(record, metric.feature_set))

    def estimate_parts(self, record: Record, metric: Metric, parts: Sequence[NDArray[np.intp]]) -> list[Estimate]:
        """Return a score of some of a cell's images, for each of `parts` (rows of images); raises as `estimate`."""
        features = self.features_of(record, metric.feature_set)
        if features is None:
            raise ValueError(NO_FEATURES)
        groups, found = prompt_groups(self.run, features), []
        for rows in parts:
            labels = None if groups is None else groups.labels[rows]
            own = {name: values[rows] for name, values in features.items()}
            found.append(metric.of(own, self.real.get(metric.extractor), Groups.of(labels, len(rows))))
        return found

    def features_of(self, record: Record, name: str) -> Mapping[str, NDArray[Any]] | None:
        """Return a set of features of a cell; None where it is missing."""
        known = self.run.features.get(name)
        if known is None or not self.store.cell(record.key).has_features(known):
            return None
        return self.store.features_of(record, known)

    def _estimate(self, metric: Metric, features: Mapping[str, NDArray[Any]] | None) -> Estimate:
        if features is None:
            raise ValueError(NO_FEATURES)
        return metric.of(features, self.real.get(metric.extractor), prompt_groups(self.run, features))


@dataclass(frozen=True)
class _FirstImages(StoredFeatures):
    """The features of the first images of each cell."""

    whole: StoredFeatures
    count: int

    def features_of(self, record: Record, name: str) -> Mapping[str, NDArray[Any]] | None:
        """Return a set of features of the first images; None where it is missing."""
        found = self.whole.features_of(record, name)
        return None if found is None else {part: rows[: self.count] for part, rows in found.items()}


def first_of_all(cells: Sequence[ScoredCell], score: str) -> list[Estimate | None]:
    """Return a score of each cell by the first images that all of those have that are scored; None without a score."""
    least = min((cell.estimates[score].n for cell in cells if score in cell.estimates), default=0)
    return [cell.first(least, score).estimates.get(score) if score in cell.estimates else None for cell in cells]


def cost_of(record: Record, kind: str) -> float | None:
    """Return denoiser evaluations per image (`evaluations`), or median seconds (`latency`); None if unknown."""
    if kind == "evaluations":
        return None if record.calls is None else float(record.calls.denoiser_evaluations)
    return None if record.latency is None else median(record.latency.call_s) / record.latency.batch_size


def fingerprint(run: Run, score: str, n: int) -> str:
    """Return a hash over all that a score depends on besides the images; scores are comparable only if it is equal.

    Extractor and weights, preparation of the images, the reference where it is used, and the number of images; of
    scores of the images of each prompt also their number per prompt.
    """
    metric = metric_of(score)
    reference = run.references.get(metric.extractor) if metric.needs_reference else None
    parts = [run.features.get(metric.feature_set), run.protocols.get(metric.extractor), reference, n]
    return content_hash([*parts, run.images_per_prompt] if metric.of_prompts else parts)[:12]


def prompt_groups(run: Run, features: Mapping[str, NDArray[Any]]) -> Groups | None:
    """Return groups of images with equal prompts, in the order of a cell's features; None where all texts differ."""
    n = len(next(iter(features.values())))
    return Groups.of(run.prompts[:n], n) if len(run.prompts) >= n else None


def _load_reference(store: Store, run: Run, extractor: str) -> RealImages:
    """Return the reference images' features, with derived data of distances, which are stored the first time."""
    reference = run.references[extractor]
    embeddings = store.load_reference(reference)
    if embeddings is None:
        advice = "start the same tcd-bench run again, it computes them again and keeps the rest"
        raise BenchError(f"results={store.location} holds no reference features; {advice}")
    parts = store.load_reference_parts(reference)
    asked = run.settings.get("reference", {})
    wanted = len(embeddings) if is_statistics(str(asked.get("source"))) else asked.get("count", len(embeddings))
    if len(embeddings) != wanted:
        raise BenchError(
            f"results={store.location} holds features of {len(embeddings)} reference images where run.json says "
            f"{wanted}; remove reference-{reference}.npz and start the same tcd-bench run again"
        )
    if f"fid@{extractor}" not in run.metrics or embeddings.shape[1] < WORTH_KEEPING:
        return RealImages(embeddings, parts)
    derived = store.load_derived(reference, embeddings)
    real = RealImages(embeddings, {**parts, **(derived or {})})
    if derived is None:
        with suppress(StoreError):  # the run may be read-only
            store.save_derived(reference, embeddings, real.reference.to_parts())
    return real
