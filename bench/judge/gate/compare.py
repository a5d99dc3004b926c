"""Two runs → every outcome of the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.judge.gate.cells import Pair, Side, pair_cells
from bench.judge.gate.cost import compare_costs
from bench.judge.gate.images import compare_images
from bench.judge.gate.outcome import Outcome
from bench.judge.gate.quality import compare_quality
from bench.request import CostLimits, Limit, Movement


def compare_runs(
    baseline: Side, candidate: Side, images: Movement, quality: Mapping[str, Limit], cost: CostLimits
) -> tuple[Sequence[Pair], tuple[Outcome, ...]]:
    """The pairs of cells that were compared, and the outcomes of all levels within their limits."""
    pairs, outcomes = pair_cells(baseline, candidate)
    return pairs, (
        *outcomes,
        *compare_images(pairs, baseline, candidate, images),
        *compare_quality(pairs, quality),
        *compare_costs(pairs, cost),
    )
