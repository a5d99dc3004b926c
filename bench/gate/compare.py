"""Two runs → every outcome of the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.scoring import ScoredRun
from bench.gate.completeness import REMEDY, DamagedRunError, read_whole
from bench.gate.cost import compare_costs
from bench.gate.images import compare_images
from bench.gate.latents import compare_latents
from bench.gate.outcome import Outcome
from bench.gate.pairing import Pair, pair_cells
from bench.gate.quality import compare_quality
from bench.gate.similarity import compare_pixels
from bench.records.run import CostLimits, Limit, Movement
from bench.store.store import Store


@dataclass(frozen=True)
class _Comparison:
    """The outcomes, and the pairs whose images the report shows; without runs and pairs for an incomplete run."""

    outcomes: tuple[Outcome, ...]
    pairs: Sequence[Pair] = ()
    runs: tuple[ScoredRun, ScoredRun] | None = None


def compare_stores(
    baseline: Store,
    candidate: Store,
    images: Movement,
    quality: Mapping[str, Limit],
    cost: CostLimits,
    latents: Movement,
) -> _Comparison:
    """Compare two runs. Where a file of either is missing or damaged nothing is, and each such file is an outcome.

    A part of a run could pass where the whole does not, and a lost cell would look like a new one.
    """
    runs, outcomes = list[ScoredRun](), list[Outcome]()
    for store in (baseline, candidate):
        try:
            runs.append(ScoredRun.load(store, read_whole(store)))
        except DamagedRunError as error:
            outcomes += [
                Outcome("cells", error.location, name, "missing", note=f"{why}; {REMEDY}")
                for name, why in error.damage.items()
            ]
    if outcomes:
        return _Comparison(tuple(outcomes))
    before, after = runs
    pairs, unpaired = pair_cells(before, after)
    found = (
        *compare_latents(pairs, before, after, latents),
        *compare_images(pairs, before, after, images),
        *compare_pixels(pairs, before, after),
        *compare_quality(pairs, quality),
        *compare_costs(pairs, cost),
    )
    return _Comparison((*unpaired, *found), pairs, (before, after))
