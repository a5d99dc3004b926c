"""How often a run errs whose claims stop one by one: cells that no open claim needs get no more images.

    python scripts/calibration/stopping.py            # 1,000 runs of each design, judged as `until=decided` judges them

Claims compare cells of one grid, so that what one claim finds decides how many images the cells of another one have.
Each run is drawn so that the truth of each claim is known, and counts when at some round a claim is supported that is
false, or refuted that is true. Means of cells are in standard errors of a mean at the planned number of images:

- `at the threshold`: all pairs of four equal cells, and two claims of two comparisons each.
- `some far`: equal cells among those that are far from them: claims that are decided at once share their cells with
  claims at the threshold, and go on being judged as these get more images.
- `near`: gains of three to eight standard errors of a difference, which stop at different looks.
- `beyond doubt`: as many claims as possible hand on their share of the level.

`images` is what was sampled, as a share of what all cells get until the last claim is decided. A second table is about
the gain of one comparison that is sampled until it is decided: as measured, and corrected by
`bench.analysis.sequential.median_unbiased`, with the coverage of its adjusted interval. A gain that is not corrected,
since it most likely would have been decided before, counts as measured.

Writes stopping.md; exits with 1 where more than 5% of the runs of a design (beyond chance) have a false verdict, or
where a corrected gain is too large in more than 52% or less than 48% of runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from claims import CELL, RUN, Floats, is_false
from scipy.special import ndtri
from scipy.stats import binom

from bench.analysis.claims import judge_claims
from bench.analysis.scoring import ScoredCell
from bench.analysis.sequential import median_unbiased, nominal_level, path_of
from bench.records.record import Record
from bench.records.run import Claim, Side
from bench.score.estimate import mean_estimate

SCORE, IMAGES, SHARES, BOUND = "clip_score", 400, (0.2, 0.4, 0.6, 0.8, 1.0), 0.05
COUNTS = [round(share * IMAGES) for share in SHARES]
PLAN = replace(RUN, prompts=("",) * IMAGES)


@dataclass(frozen=True)
class SimulatedCell(ScoredCell):
    """A cell by the values of its images."""

    values: Floats | None = None

    def first(self, images: int, score: str) -> ScoredCell:
        """Return the cell with its first images alone."""
        return self if self.values is None else replace(self, estimates={score: mean_estimate(self.values[:images])})


@dataclass(frozen=True)
class Design:
    """Means of cells in standard errors, and the claims: pairs of cells of which the first is said to be better."""

    means: Sequence[float]
    claims: Sequence[Sequence[tuple[int, int]]]

    @property
    def gains(self) -> list[list[float]]:
        """The true gains of each claim."""
        return [[self.means[a] - self.means[b] for a, b in pairs] for pairs in self.claims]


PAIRS = [[pair] for pair in combinations(range(4), 2)]
DESIGNS = {
    "at the threshold": Design((0,) * 4, [*PAIRS, [(0, 1), (2, 1)], [(3, 2), (1, 0)]]),
    "some far": Design(
        (0, 0, 9, 9, 0, -9),
        [*([pair] for pair in ((0, 1), (2, 0), (2, 3), (2, 4), (1, 4), (0, 5))), [(1, 5), (4, 5)], [(3, 2), (3, 0)]],
    ),
    "near": Design((0, 4, 8, 12, 12), [*([(a, b)] for a, b in ((1, 0), (2, 0), (3, 1), (3, 4))), [(2, 1), (3, 2)]]),
    "beyond doubt": Design(
        (0, 0, 20, 20, -20), [[pair] for pair in ((2, 0), (2, 1), (3, 0), (3, 1), (0, 4), (1, 4), (0, 1), (2, 3))]
    ),
}


def run(design: Design, seed: int) -> tuple[bool, float]:
    """Whether a run errs at some round, and its images as a share of those of a run of all cells."""
    rng = np.random.default_rng([seed, 7])
    values = rng.standard_normal((IMAGES, len(design.means))) + np.array(design.means) / np.sqrt(IMAGES)
    claims = tuple(
        Claim(f"{i}", "", Side("a", tuple(a for a, _ in own)), Side("a", tuple(b for _, b in own)), (SCORE,), "better")
        for i, own in enumerate(design.claims)
    )
    of_steps = [replace(CELL, method="a", steps=i) for i in range(len(design.means))]
    records = [Record(cell.key, cell, "ok", {}, 1.0) for cell in of_steps]
    sizes = dict.fromkeys((record.key for record in records), COUNTS[0])
    wrong = False
    while True:
        cells = [
            SimulatedCell(record, {SCORE: mean_estimate(column[: sizes[record.key]])}, values=column)
            for record, column in zip(records, values.T, strict=True)
        ]
        most = max(sizes.values())
        looked = tuple(share for share, count in zip(SHARES, COUNTS, strict=True) if count <= most)
        judgements = judge_claims(replace(PLAN, prompts=PLAN.prompts[:most], claims=claims, looks=looked), cells)
        wrong = wrong or is_false(design.gains, judgements)
        before = dict(sizes)
        for comparison in (c for j in judgements if j.verdict == "undecided" for c in j.comparisons if not c.settled):
            for key in comparison.keys:
                more = next((count for count in COUNTS if count > comparison.n), IMAGES)
                sizes[key] = max(sizes[key], more)
        if sizes == before:
            return wrong, sum(sizes.values()) / (len(sizes) * most)


def after_stopping(error: float, gains: Sequence[float], runs: int) -> Iterator[tuple[str, float]]:
    """Yield a line for each true gain, and the share of runs whose corrected gain is too large.

    Gains are in standard errors at all images; tests of both sides have this error each.
    """
    shares = np.array(SHARES)
    paths = [path_of([(count, IMAGES) for count in COUNTS[: i + 1]]) for i in range(len(COUNTS))]
    bounds = -ndtri([nominal_level(error, path) for path in paths])
    grid = np.linspace(-6, 10, 49)
    corrected = [[z if (found := median_unbiased(z, path, error)) is None else found for z in grid] for path in paths]
    for gain in gains:
        steps = np.random.default_rng(8).standard_normal((runs, len(shares))) * np.sqrt(np.diff(shares, prepend=0))
        z = (steps.cumsum(axis=1) + gain * shares) / np.sqrt(shares)
        crossed = np.abs(z) > bounds
        last = np.where(crossed.any(axis=1), crossed.argmax(axis=1), len(shares) - 1)
        ended, share = z[np.arange(runs), last], shares[last]
        found = np.choose(last, [np.interp(ended, grid, own) for own in corrected]) / np.sqrt(share)
        as_measured = ended / np.sqrt(share)
        covered = np.mean(np.abs(ended - gain * np.sqrt(share)) <= bounds[last])
        above = [float(np.mean(values > gain)) for values in (as_measured, found)]
        bias = [float(values.mean() - gain) for values in (as_measured, found)]
        yield (
            (
                f"| {error:.2%} | {gain:g} | {share.mean():.0%} | {above[0]:.1%} | {above[1]:.1%} | {bias[0]:+.2f} | "
                f"{bias[1]:+.2f} | {covered:.1%} |"
            ),
            above[1],
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="of each design")
    parser.add_argument("--out", type=Path, default=Path("results/calibration"))
    options = parser.parse_args()
    lines = [
        "# Runs whose claims stop one by one\n",
        f"`{' '.join(['scripts/calibration/stopping.py', *sys.argv[1:]])}`\n",
        "Five looks at 400 images; a design holds where its rate is not above 5% by more than chance (binomial, "
        "one-sided 2.5%). Images are a share of those of a run that samples all cells until no claim is open.\n",
        "| design | runs | with a false verdict | images | |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for name, design in DESIGNS.items():
        found = [run(design, seed) for seed in range(options.runs)]
        wrong = sum(false for false, _ in found)
        holds = "breach" if wrong > binom.ppf(0.975, options.runs, BOUND) else "holds"
        images = np.mean([share for _, share in found])
        lines.append(f"| {name} | {options.runs} | {wrong / options.runs:.1%} | {images:.0%} | {holds} |")
        print(lines[-1], flush=True)
    lines += [
        "\n# Gains of comparisons that are sampled until they are decided\n",
        "Five looks. Gains and biases in standard errors at all images, 100,000 runs; the error is that of the test of "
        "either side, and the chance that the true gain is beyond that end of the adjusted interval.\n",
        "| error | true gain | images | too large as measured | corrected | bias as measured | corrected | covered |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    after = [found for error in (0.05, 0.05 / 6) for found in after_stopping(error, (0, 1, 2, 3, 4, 5), 100_000)]
    lines += [line for line, _ in after]
    off = any(abs(share - 0.5) > 0.02 for _, share in after)
    (options.out / "stopping.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if off or "| breach |" in "".join(lines) else 0


if __name__ == "__main__":
    sys.exit(main())
