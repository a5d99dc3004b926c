"""How often a run whose claims are all truly null comes to a verdict all the same, judged as a run is judged.

    .venv/bin/python scripts/calibrate_claims.py                       # 1,000 runs a design
    .venv/bin/python scripts/calibrate_claims.py --runs 200 --designs count

Two methods' features are exchangeable, so that whatever is said about them is false. Each run has nine comparisons:
Fréchet distance, kernel distance and CLIP score at three step counts. `count` judges once; `decided` at five looks, as
`until=decided` does, and counts a verdict at any of them; `naive` looks as often and forgets that it did, to show what
the simulation can see. Runs are kept one by one in claims.csv, each with a seed of its own, so that a stopped
calibration goes on. Exits 1 where more than 5% of the runs of a design (`naive` excepted) have a verdict.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from calibrate_scores import clip_scores
from simulated_features import FAMILIES, Floats, World, make_reference, make_world

from bench.cell import Base, Cell, PromptSet, SchedulerSpec
from bench.judge.claims import judge_claims
from bench.judge.scores import ScoredCell
from bench.records import Record
from bench.request import Claim, Run, Side
from bench.score.estimate import mean_estimate
from bench.score.frechet import Reference, frechet_estimate
from bench.score.kernel import kernel_estimate

DESIGNS = {"count": 1, "decided": 5, "naive": 5}
"""How often each looks."""
STEPS, METRICS = (2, 4, 8), ("fid", "kid", "clip_score")
CELL = Cell(
    Base("x", "", "", "", "float32", 64, 64),
    *("t", "a", SchedulerSpec("x"), (), False, 2, None, 1.0, PromptSet("p", 1, "t"), 0, 4, "cpu", {}),
)
CLAIMS = tuple(Claim(f"{s}", "", Side("a", (s,)), Side("b", (s,)), METRICS, "better") for s in STEPS)
RUN = Run("x", {}, (), (), (), {}, METRICS, CLAIMS, "mini", "e", "r")
BOUND = 0.05


def draw_run(world: World, rng: np.random.Generator, n: int) -> dict[tuple[int, str], tuple[Floats, Floats]]:
    """Features and captions (n, d) of each step count and method; the methods share most of what they show."""
    drawn = {}
    captions = world.draw_one(rng, n)
    for steps in STEPS:
        shared = 0.6 * captions + 0.6 * world.draw_one(rng, n)
        for method in ("a", "b"):
            drawn[steps, method] = shared + 0.5 * world.draw_one(rng, n), captions
    return drawn


def score(features: Floats, captions: Floats, steps: int, method: str, reference: Reference) -> ScoredCell:
    """A cell with its three estimates."""
    cell = replace(CELL, method=method, steps=steps)
    estimates = {
        "fid": frechet_estimate(features, reference),
        "kid": kernel_estimate(features, reference.kernel),
        "clip_score": mean_estimate(clip_scores(features, captions)),
    }
    return ScoredCell(Record(cell.key, cell, "ok", {}, 1.0), estimates)


def verdicts(design: str, world: World, reference: Reference, n: int, seed: int) -> int:
    """How many comparisons come to a verdict at some look."""
    drawn = draw_run(world, np.random.default_rng([seed, n]), n)
    looks = DESIGNS[design]
    counts = [n * (i + 1) // looks for i in range(looks)]
    decided: set[tuple[str, str]] = set()
    for i, count in enumerate(counts):
        cells = [
            score(features[:count], captions[:count], *which, reference)
            for which, (features, captions) in drawn.items()
        ]
        shares = (1.0,) if design == "naive" else tuple(seen / n for seen in counts[: i + 1])
        decided |= {
            (judgement.claim.name, comparison.metric)
            for judgement in judge_claims(replace(RUN, looks=shares), cells)
            for comparison in judgement.comparisons
            if comparison.verdict != "undecided"
        }
    return len(decided)


def read(path: Path) -> dict[tuple[str, str, int, int, int], int]:
    """The runs that are there: design, family, d, n and seed → verdicts."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {
            (row["design"], row["family"], *(int(row[name]) for name in ("d", "n", "seed"))): int(row["verdicts"])
            for row in csv.DictReader(file)
        }


def to_markdown(known: dict[tuple[str, str, int, int, int], int]) -> Iterator[str]:
    """A line for each design, family, d and n."""
    yield "# Runs of nine true null comparisons that come to a verdict\n"
    yield "| design | features | d | n | runs | with a verdict | |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | --- |"
    for where in dict.fromkeys(key[:4] for key in known):
        found = [count > 0 for key, count in known.items() if key[:4] == where]
        share = float(np.mean(found))
        mark = "for comparison" if where[0] == "naive" else "holds" if share <= BOUND else "breach"
        yield f"| {' | '.join(map(str, where))} | {len(found)} | {share:.1%} | {mark} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--designs", default=",".join(DESIGNS))
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--dimension", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("results/calibration"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path, d, n = options.out / "claims.csv", options.dimension, options.images
    known = read(path)
    if not known:
        path.write_text("design,family,d,n,seed,verdicts\n", encoding="utf-8")
    with path.open("a", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        for family in options.families.split(","):
            world = make_world(family, d)
            reference = make_reference(world, 40 * d)
            for design in options.designs.split(","):
                for seed in range(options.runs):
                    key = design, family, d, n, seed
                    if key not in known:
                        known[key] = verdicts(design, world, reference, n, seed)
                        table.writerow((*key, known[key]))
                        file.flush()
    text = "\n".join(to_markdown(known)) + "\n"
    (options.out / "claims.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if "| breach |" in text else 0


if __name__ == "__main__":
    sys.exit(main())
