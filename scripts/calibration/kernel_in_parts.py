"""Whether intervals of kernel distances from parts of the images cover as those from all pairs do, by simulation.

    .venv/bin/python scripts/calibration/kernel_in_parts.py [--repetitions 400] [--out results/calibration]

Features of the worlds of scripts/calibration/scores.py, a fixed reference, and a method's distance and its difference
from another method's, from all pairs and from 2, 4 and 8 parts. Parts are taken from 512 dimensions on; few dimensions
with parts that are as few images per direction are the harder case, and quick. The truth is the mean over all pairs of
all repetitions, which has no bias. Writes kernel_in_parts.md; exits with 1 where a coverage is outside 93% to 97% by
more than chance (binomial, Holm's procedure for all together) among rows that print most of their intervals.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from scipy.stats import binom
from simulated_features import FAMILIES, make_reference, make_world

from bench.analysis.claims import holm
from bench.score.estimate import Estimate, paired_difference
from bench.score.kernel import kernel_estimate
from bench.score.kernel_in_parts import InParts

PARTS = (1, 2, 4, 8)
LOWEST, HIGHEST = 0.93, 0.97
Table = dict[tuple[int, str], list[Estimate]]


def draw(family: str, d: int, n: int, repetitions: int) -> Table:
    """Estimates by number of parts (1: all pairs) and quantity."""
    world = make_world(family, d)
    reference = make_reference(world, 20 * d)
    in_parts, found = InParts.of(reference.features), Table()
    for seed in range(repetitions):
        pair = world.draw(np.random.default_rng([list(FAMILIES).index(family), d, n, seed]), n)
        for parts in PARTS:
            with mock.patch("bench.score.kernel_in_parts.part_count", lambda *_, parts=parts: parts):
                ours, theirs = (
                    kernel_estimate(x, reference.kernel) if parts == 1 else in_parts.estimate(x, frozenset())
                    for x in pair
                )
            found.setdefault((parts, "distance"), []).append(ours)
            found.setdefault((parts, "difference"), []).append(paired_difference(ours, theirs))
    return found


def rows_of(family: str, d: int, n: int, repetitions: int) -> Iterator[tuple[str, float, int, int]]:
    """Lines of the table, each with a p-value and how many intervals were printed, of how many."""
    table = draw(family, d, n, repetitions)
    for (parts, quantity), estimates in table.items():
        truth = float(np.mean([one.debiased_value for one in table[1, quantity]]))
        values = np.array([one.debiased_value for one in estimates])
        printed = [one for one in estimates if one.caveat is None]
        covered = sum(low <= truth <= high for low, high in (one.interval() for one in printed))
        error = np.mean([one.standard_error for one in printed]) / values.std() if printed else np.nan
        bias = (values.mean() - truth) / values.std()
        low, high = binom.cdf(covered, len(printed), LOWEST), binom.sf(covered - 1, len(printed), HIGHEST)
        coverage = covered / len(printed) if printed else np.nan
        numbers = f"{1 - len(printed) / repetitions:.0%} | {coverage:.1%} | {error:.2f} | {bias:+.2f}"
        spread = values.std() / np.std([one.debiased_value for one in table[1, quantity]])
        text = f"| {family} | {d} | {n} | {quantity} | {parts} | {numbers} | {spread:.2f} |"
        yield text, float(min(1.0, 2 * min(low, high))), len(printed), repetitions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--sizes", nargs="+", default=["16:800"], help="dimension:images")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "calibration")
    options = parser.parse_args()
    lines: list[str] = []
    tested: list[float] = []
    for size in options.sizes:
        d, n = map(int, size.split(":"))
        for family in FAMILIES:
            for text, p, printed, of in rows_of(family, d, n, options.repetitions):
                print(text, flush=True)
                lines.append(text)
                if 2 * printed >= of:
                    tested.append(p)
    breaches = sum(p < 0.05 for p in holm(tested))
    head = (
        "# Kernel distances from parts of the images\n\n"
        f"{options.repetitions} repetitions of `scripts/calibration/kernel_in_parts.py`; 1 part is all pairs. Of "
        f"{len(tested)} rows that print most of their intervals {breaches} cover less than 93% or more than 97% by "
        "more than chance.\n\n"
        "| features | d | n | | parts | without | coverage | SE / empirical | bias / SE | empirical / all pairs |\n"
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    (options.out / "kernel_in_parts.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
