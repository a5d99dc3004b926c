"""How many images a verdict costs: paired and looked at on the way, against a fixed number and an unpaired bootstrap.

    .venv/bin/python scripts/benchmarks/verdicts.py [--results results/reference/mini] [--out results/performance]

For each comparison of a finished run's claims, taking the measured gain as the true one: `ours` is the mean number of
images until it is decided, judged at five looks (`until=decided`) by the paired standard error. `theirs` is the number
that has to be fixed beforehand for the difference of two bootstrap standard errors, each cell's images drawn by itself,
as papers do that print an error bar. Both at the one-sided level that the run's other claims leave the comparison and
with the same chance of a verdict (90%), so that only the design differs; scripts/calibration/claims.py checks the
levels. Seconds are images of both cells times what an image took. Writes verdicts.csv, verdicts.md and verdicts.json;
exits with 1 where a claim, by its hardest comparison, takes more than a fifth of the images.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ratios import save_benchmark
from scipy.special import ndtri

from bench.analysis.claims import LEVEL, judge_claims
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.analysis.sequential import nominal_level, path_of
from bench.records.run import Run
from bench.score.metrics import RealImages, metric_of
from bench.store.store import Store

ROOT = Path(__file__).parents[2]
LOOKS, CHANCE, SHARE = (0.2, 0.4, 0.6, 0.8, 1.0), 0.9, 1 / 5
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """What one comparison costs; NaN where the theory gives no interval."""

    claim: str
    comparison: str
    gain: float
    paired_error: float
    unpaired_error: float
    ours: float
    theirs: float
    ratio: float
    ours_s: float
    theirs_s: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "reference" / "mini")
    parser.add_argument("--repetitions", type=int, default=400, help="of the bootstrap")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance")
    options = parser.parse_args()
    rows = list(compare(ScoredRun.load(Store(options.results, writable=False)), options.repetitions))
    hardest = {
        claim: max((row for row in rows if row.claim == claim), key=attrgetter("ours"))
        for claim in {r.claim for r in rows}
    }
    text = "\n".join(to_markdown(rows, hardest)) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "verdicts.md").write_text(text, encoding="utf-8")
    with (options.out / "verdicts.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(Row.__dataclass_fields__), lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    save_benchmark(options.out / "verdicts.json", {row.claim: [row.ratio] for row in hardest.values()}, {}, exact=True)
    print(text)
    return 1 if any(row.ratio > SHARE for row in hardest.values()) else 0


def compare(scored: ScoredRun, repetitions: int) -> Iterator[Row]:
    """A row for each comparison that has an interval."""
    by_label = {cell.record.cell.label: cell for cell in scored.cells}
    judgements = judge_claims(scored.run, scored.cells)
    bootstrap = Bootstrap(scored.store, scored.run, repetitions)
    for claim, found in [(judgement.claim.text, found) for judgement in judgements for found in judgement.comparisons]:
        effect = found.effect
        if effect is None or found.note or effect.excess == 0:
            continue
        distance, paired = abs(effect.excess), effect.error
        mean_share, inflation = expected_share(found.level)
        sides = [by_label[found.subject], by_label[found.object]]
        unpaired = math.hypot(*(bootstrap.error(side, found.metric) for side in sides))
        needed = -float(ndtri(found.level)) + float(ndtri(CHANCE))
        at_once = [found.n * (needed * error / distance) ** 2 for error in (paired, unpaired)]
        ours = at_once[0] * inflation * mean_share
        seconds = sum(side.record.sampling_s / found.n for side in sides)
        where = f"{found.subject} / {found.object}, {found.metric}"
        numbers = ours, at_once[1], ours / at_once[1], ours * seconds, at_once[1] * seconds
        yield Row(claim, where, found.gain, paired, unpaired, *numbers)


@cache
def expected_share(level: float, paths: int = 200_000) -> tuple[float, float]:
    """Of a design with looks that has the wanted chance of a verdict: mean share of its images, and how many more it
    plans than a test with one look. By simulated Brownian paths."""
    history = [(round(1000 * share), 1000) for share in LOOKS]
    bounds = np.array([-ndtri(nominal_level(level, path_of(history[: i + 1]))) for i in range(len(LOOKS))])
    steps = np.sqrt(np.diff([0.0, *LOOKS]))
    noise = np.cumsum(np.random.default_rng(0).standard_normal((paths, len(LOOKS))) * steps, axis=1)
    shares = np.array(LOOKS)
    drift = -float(ndtri(level)) + float(ndtri(CHANCE))
    inflation = 1.0
    while True:
        z = (noise + drift * math.sqrt(inflation) * shares) / np.sqrt(shares)
        crossed = z > bounds
        if crossed.any(axis=1).mean() >= CHANCE:
            ended = np.where(crossed.any(axis=1), shares[crossed.argmax(axis=1)], 1.0)
            return float(ended.mean()), inflation
        inflation += 0.005


class Bootstrap:
    """Standard errors of a cell's score by resampling its images, at the run's own number of images."""

    def __init__(self, store: Store, run: Run, repetitions: int) -> None:
        self._store, self._run, self._repetitions = store, run, repetitions
        found = {name: store.load_reference(reference) for name, reference in run.references.items()}
        self._real = {name: RealImages(embeddings) for name, embeddings in found.items() if embeddings is not None}
        self._known: dict[tuple[str, str], float] = {}

    def error(self, cell: ScoredCell, metric: str) -> float:
        """The standard deviation of the score as other tools print it, over the draws."""
        key = cell.record.key, metric
        if key not in self._known:
            own = metric_of(metric)
            features = self._store.cell(cell.record.key).features(self._run.features[own.feature_set])
            rng = np.random.default_rng(0)
            count = len(next(iter(features.values())))
            values = []
            for _ in range(self._repetitions):
                rows = rng.integers(count, size=count)
                drawn = {name: array[rows] for name, array in features.items()}
                values.append(own.of(drawn, self._real.get(own.extractor)).value)
            self._known[key] = float(np.std(values, ddof=1))
        return self._known[key]


def to_markdown(rows: Sequence[Row], hardest: dict[str, Row]) -> Iterator[str]:
    yield "# Images per cell until a verdict\n"
    yield f"Level {LEVEL} over all claims, {CHANCE:.0%} chance of a verdict, the measured gains taken as true.\n"
    yield "| claim, by its hardest comparison | ours | theirs | ours / theirs | seconds, ours | theirs |"
    yield "|---|---:|---:|---:|---:|---:|"
    for claim, row in sorted(hardest.items()):
        yield f"| {claim} | {_numbers(row)} |"
    ratios = sorted(row.ratio for row in rows)
    yield f"\nOver all {len(rows)} comparisons the ratio is {ratios[0]:.3f} to {ratios[-1]:.3f}, "
    yield f"{ratios[len(ratios) // 2]:.3f} in the middle.\n"
    yield "| comparison | ours | theirs | ours / theirs | seconds, ours | theirs |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in rows:
        yield f"| {row.comparison} | {_numbers(row)} |"


def _numbers(row: Row) -> str:
    return f"{row.ours:,.0f} | {row.theirs:,.0f} | {row.ratio:.3f} | {row.ours_s:,.1f} | {row.theirs_s:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
