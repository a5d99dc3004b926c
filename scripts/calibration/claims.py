"""How often a run says of some claim what is false, judged as a run is judged, and whether "images needed" are enough.

    python scripts/calibration/claims.py                       # all designs, 1,000 to 8,000 runs each
    python scripts/calibration/claims.py --designs growing,forgetful --runs 500

Every run is drawn so that the truth of each claim is known; a run counts when a claim is supported that is false, or
refuted that is true. Gains are in standard errors at the full number of images:

- `at the threshold`: six claims with one to three gains each, all 0, which is where a false verdict is likeliest.
- `correlated`: the same, all gains with the same noise by one half.
- `alike`: two claims whose noise is the same, one of which holds by a little: what Holm's procedure cannot stand.
- `mixed`: gains at the threshold among claims and comparisons that are far from theirs.
- `many`: 40 claims at the threshold.
- `clustered`: 32 prompts with 16 images each; `independent` takes the images for independent ones.
- `decided`: judged at five looks, as `until=decided` does, any of which may err; `naive` forgets that it looked, where
  there is one claim.
- `shuffled`: a file of prompts sorted by topic, gains of ±0.2 standard deviations by topic and 0 over the file, taken
  in the order of a seed and judged at five looks; `sorted` takes the file from its top.
- `growing`: 512 images, then 1,024, 2,048 and 4,096 in one directory; `forgetful` judges each as if it were the first.
- `features` and `features decided`: Fréchet distance, kernel distance and CLIP score of two methods whose features are
  exchangeable; one is said to be better than the other, and the other than the one.

Designs in italics show what happens without what the tool does. `images needed`: the numbers that an undecided
comparison names, and in how many runs, which go on to that number, it is decided. Results of single runs are kept in
claims.csv, each with its own seed, so that a stopped calibration goes on. Exits 1 where more than 5% of the runs
of a design (beyond chance) have a false verdict.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom
from scores import clip_scores
from simulated_features import FAMILIES, Floats, World, make_reference, make_world

from bench.analysis.claims import Judgement, judge_claims
from bench.analysis.power import CHANCES
from bench.analysis.scoring import ScoredCell
from bench.generate.prompts import shuffled
from bench.records.cell import Base, Cell, PromptSet, SchedulerSpec
from bench.records.record import Record
from bench.records.run import Claim, Run, Side
from bench.score.estimate import Estimate, mean_estimate
from bench.score.frechet import Reference, frechet_estimate
from bench.score.groups import Groups
from bench.score.kernel import kernel_estimate

Generator = np.random.Generator
CELL = Cell(
    Base("x", "", "", "", "float32", 64, 64),
    *("t", "a", SchedulerSpec("x"), (), False, 2, None, 1.0, PromptSet("p", 1, "t"), 0, 4, "cpu", {}),
)
RUN = Run("x", {}, (), (), (), {}, (), (), "mini", "e", "r")
THRESHOLD = ((0.0,), (0.0,), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
MIXED = ((9.0,), (9.0,), (-9.0,), (0.0, 9.0), (9.0, 0.0, 9.0), (0.5,), (0.0,), (2.0, 0.0))
IMAGES, TOPICS, DOUBLED = 400, 8, (512, 1024, 2048, 4096)
BOUND = 0.05


def scored(method: str, steps: int, estimates: dict[str, Estimate]) -> ScoredCell:
    """A cell with estimates."""
    cell = replace(CELL, method=method, steps=steps)
    return ScoredCell(Record(cell.key, cell, "ok", {}, 1.0), estimates)


@cache
def claims_of(gains: Sequence[Sequence[float]]) -> tuple[Claim, ...]:
    """A claim for each row, with a step count for each gain."""
    steps = [tuple(10 * i + k for k in range(len(row))) for i, row in enumerate(gains)]
    return tuple(
        Claim(f"{i}", "", Side("a", own), Side("b", own), ("clip_score",), "better") for i, own in enumerate(steps)
    )


def judge(
    gains: Sequence[Sequence[float]], values: Floats, groups: Groups | None = None, **looks: Any
) -> list[Judgement]:
    """Judge the claims by differences (n, comparisons) of paired scores."""
    claims, cells = claims_of(tuple(gains)), []
    nothing = mean_estimate(np.zeros(len(values)), groups)
    steps = [s for claim in claims for s in claim.subject.steps]
    for s, column in zip(steps, values.T, strict=True):
        cells.append(scored("a", s, {"clip_score": mean_estimate(column, groups)}))
        cells.append(scored("b", s, {"clip_score": nothing}))
    return judge_claims(replace(RUN, claims=claims, **looks), cells)


def is_false(gains: Sequence[Sequence[float]], judgements: Sequence[Judgement]) -> bool:
    """Whether a claim has the verdict that is not the truth."""
    truths = ["supported" if min(row) > 0 else "refuted" for row in gains]
    return any(j.verdict not in (truth, "undecided") for j, truth in zip(judgements, truths, strict=True))


def draw(rng: Generator, gains: Sequence[Sequence[float]], n: int, correlation: float) -> Floats:
    """Differences (n, comparisons) with those gains in standard errors."""
    means = np.concatenate([np.asarray(row) for row in gains]) / np.sqrt(n)
    own = rng.standard_normal((n, len(means)))
    shared: Floats = rng.standard_normal((n, 1))
    values: Floats = means + np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    return values


def once(gains: Sequence[Sequence[float]], correlation: float = 0.0) -> Callable[[int], bool]:
    """Judged at all images."""
    return lambda seed: is_false(
        gains, judge(gains, draw(np.random.default_rng([seed, 1]), gains, IMAGES, correlation))
    )


def clustered(known: bool) -> Callable[[int], bool]:
    """Images of one prompt share half of their variance."""

    def run(seed: int) -> bool:
        rng = np.random.default_rng([seed, 2])
        prompts = np.repeat(np.arange(32), 16)
        rows = sum(len(row) for row in THRESHOLD)
        values = (rng.standard_normal((32, rows))[prompts] + rng.standard_normal((512, rows))) / np.sqrt(2)
        groups = Groups.of(prompts, 512) if known else None
        return is_false(THRESHOLD, judge(THRESHOLD, values, groups))

    return run


def looked(gains: Sequence[Sequence[float]], remembers: bool) -> Callable[[int], bool]:
    """Judged at five looks."""

    def run(seed: int) -> bool:
        values = draw(np.random.default_rng([seed, 3]), gains, IMAGES, 0.0)
        return at_looks(gains, values, remembers)

    return run


def at_looks(gains: Sequence[Sequence[float]], values: Floats, remembers: bool = True) -> bool:
    """Whether one of five looks errs; the last one that is had is that at which nothing is open."""
    shares = (0.2, 0.4, 0.6, 0.8, 1.0)
    for i in range(len(shares)):
        looks = shares[: i + 1] if remembers else (1.0,)
        found = judge(gains, values[: round(shares[i] * len(values))], looks=looks)
        if is_false(gains, found):
            return True
        if all(judgement.verdict != "undecided" for judgement in found):
            return False
    return False


def topics(order: bool) -> Callable[[int], bool]:
    """A file of 4,000 prompts sorted by topic, of which 400 are taken."""
    gains = ((0.0,),)

    def run(seed: int) -> bool:
        rng = np.random.default_rng([seed, 4])
        effect = np.repeat(0.2 * rng.permutation(np.repeat([1.0, -1.0], TOPICS // 2)), 4000 // TOPICS)
        rows = list(shuffled(len(effect), seed if order else None)[:IMAGES])
        return at_looks(gains, (effect[rows] + rng.standard_normal(IMAGES))[:, None])

    return run


def grown(remembers: bool) -> Callable[[int], bool]:
    """More images, again and again, whatever was found."""
    gains = ((0.0,),)

    def run(seed: int) -> bool:
        values = draw(np.random.default_rng([seed, 5]), gains, DOUBLED[-1], 0.0)
        for i, count in enumerate(DOUBLED):
            earlier = tuple((had, had) for had in DOUBLED[:i]) if remembers else ()
            if is_false(gains, judge(gains, values[:count], earlier_looks=earlier)):
                return True
        return False

    return run


@cache
def world_of(family: str, d: int = 16) -> tuple[World, Reference]:
    """Where features come from, and a reference."""
    world = make_world(family, d)
    return world, make_reference(world, 40 * d)


def features(family: str, shares: Sequence[float]) -> Callable[[int], bool]:
    """Two methods with exchangeable features that share most of what they show."""
    metrics = "fid", "kid", "clip_score"
    claims = tuple(
        Claim(f"{a} {metric}", "", Side(a, (1,)), Side(b, (1,)), (metric,), "better")
        for a, b in ("ab", "ba")
        for metric in metrics
    )

    def run(seed: int) -> bool:
        world, reference = world_of(family)
        rng = np.random.default_rng([seed, IMAGES])
        captions = world.draw_one(rng, IMAGES)
        shared = 0.6 * captions + 0.6 * world.draw_one(rng, IMAGES)
        drawn = {method: shared + 0.5 * world.draw_one(rng, IMAGES) for method in "ab"}
        for i, share in enumerate(shares):
            n = round(share * IMAGES)
            cells = []
            for method, rows in drawn.items():
                distances = frechet_estimate(rows[:n], reference), kernel_estimate(rows[:n], reference.kernel)
                score = mean_estimate(clip_scores(rows[:n], captions[:n]))
                cells.append(scored(method, 1, dict(zip(metrics, (*distances, score), strict=True))))
            found = judge_claims(replace(RUN, claims=claims, looks=tuple(shares[: i + 1])), cells)
            if any(judgement.verdict == "supported" for judgement in found):
                return True
        return False

    return run


@dataclass(frozen=True)
class Design:
    """How a run is drawn and judged: seed → whether it says what is false. `warns` shows what the tool does not do."""

    run: Callable[[int], bool]
    most: int = 2000
    warns: bool = False


DESIGNS = {
    "at the threshold": Design(once(THRESHOLD)),
    "correlated": Design(once(THRESHOLD, 0.5)),
    "alike": Design(once(((0.325,), (0.0,)), 1.0)),
    "mixed": Design(once(MIXED)),
    "mixed, correlated": Design(once(MIXED, 0.5)),
    "many": Design(once(((0.0,),) * 40), 1000),
    "clustered": Design(clustered(known=True)),
    "independent": Design(clustered(known=False), 1000, warns=True),
    "decided": Design(looked(THRESHOLD, remembers=True), 1000),
    "decided, mixed": Design(looked(MIXED, remembers=True), 1000),
    "decided, one claim": Design(looked(((0.0,),), remembers=True)),
    "naive": Design(looked(((0.0,),), remembers=False), warns=True),
    "shuffled": Design(topics(order=True)),
    "sorted": Design(topics(order=False), 1000, warns=True),
    "growing": Design(grown(remembers=True), 8000),
    "forgetful": Design(grown(remembers=False), warns=True),
    **{f"features, {family}": Design(features(family, (1.0,)), 1000) for family in FAMILIES},
    **{f"features decided, {f}": Design(features(f, (0.2, 0.4, 0.6, 0.8, 1.0)), 1000) for f in ("gaussian", "skewed")},
}


def images_needed(z: float, groups: int | None, runs: int) -> Iterator[str]:
    """A line for each chance: the number that is named, and how many runs that go on to it are decided there."""
    gains, n = ((z,), (0.0,), (0.0,)), 512
    size = n // groups if groups else 1

    def labels(count: int) -> Groups | None:
        return Groups.of(np.arange(count) // size, count)

    def noise(rng: Generator, count: int) -> Floats:
        return np.repeat(rng.standard_normal((-(-count // size), 3)), size, axis=0)[:count] + rng.standard_normal(
            (count, 3)
        )

    true = np.sqrt(1 / (groups or n) + 1 / n)
    mean = np.array([z * true, 0.0, 0.0])
    raw = noise(np.random.default_rng(0), n)
    as_measured = (raw - raw.mean(axis=0)) * true / mean_estimate(raw[:, 0], labels(n)).standard_error + mean
    (pilot,) = judge(gains, as_measured, labels(n))[0].comparisons
    for chance, needed in zip(CHANCES, pilot.images_needed or (), strict=True):
        count = -(-needed // size) * size
        hits = 0
        for seed in range(runs):
            values = noise(np.random.default_rng([seed, 6]), count) + mean
            hits += judge(gains, values, labels(count), earlier_looks=((n, n),))[0].verdict == "supported"
        of = f" of {groups} prompts" if groups else ""
        yield f"| {z:g} | {n}{of} | {needed:,} | {chance:.0%} | {hits / runs:.1%} |"


def read(path: Path) -> dict[tuple[str, int], bool]:
    """The runs that are there: design and seed → whether it said what is false."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["design"], int(row["seed"])): row["false"] == "1" for row in csv.DictReader(file)}


def to_markdown(known: dict[tuple[str, int], bool], needed: Sequence[str], command: str) -> Iterator[str]:
    """A line for each design, then what was needed."""
    yield "# Runs with a false verdict\n"
    yield f"`{command}`\n"
    yield "A design holds where its rate is not above 5% by more than chance (binomial, one-sided 2.5%).\n"
    yield "| design | runs | with a false verdict | 95% interval | |"
    yield "| --- | ---: | ---: | --- | --- |"
    for name, design in DESIGNS.items():
        found = [false for (which, _), false in known.items() if which == name]
        if found:
            share, n = float(np.mean(found)), len(found)
            low, high = _wilson(sum(found), n)
            bad = sum(found) > binom.ppf(0.975, n, BOUND)
            mark = "for comparison" if design.warns else "breach" if bad else "holds"
            shown = f"*{name}*" if design.warns else name
            yield f"| {shown} | {n} | {share:.1%} | {low:.1%} to {high:.1%} | {mark} |"
    if needed:
        yield "\n# Images needed\n"
        yield "| gain, in standard errors | images there are | images named | chance named | runs decided there |"
        yield "| ---: | ---: | ---: | ---: | ---: |"
        yield from needed


def _wilson(hits: int, n: int) -> tuple[float, float]:
    share, z2 = hits / n, 1.96**2
    middle, half = share + z2 / 2 / n, np.sqrt(z2 * (share * (1 - share) + z2 / 4 / n) / n)
    return float((middle - half) / (1 + z2 / n)), float((middle + half) / (1 + z2 / n))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="of a design, at most; each has its own number")
    parser.add_argument("--designs", default=";".join(DESIGNS), help="separated by semicolons")
    parser.add_argument("--needed", type=int, default=1000, help="runs for each number of images; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=Path("results/calibration"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "claims.csv"
    known = read(path)
    if not known:
        path.write_text("design,seed,false\n", encoding="utf-8")
    with path.open("a", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        for name in options.designs.split(";"):
            begun = time.perf_counter()
            for seed in range(min(options.runs, DESIGNS[name].most)):
                if (name, seed) not in known:
                    known[name, seed] = DESIGNS[name].run(seed)
                    table.writerow((name, seed, int(known[name, seed])))
            file.flush()
            print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    settings = ((1.0, None), (1.8, None), (1.5, 64)) if options.needed else ()
    needed = [line for z, groups in settings for line in images_needed(z, groups, options.needed)]
    text = "\n".join(to_markdown(known, needed, " ".join(["scripts/calibration/claims.py", *sys.argv[1:]]))) + "\n"
    (options.out / "claims.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if "| breach |" in text else 0


if __name__ == "__main__":
    sys.exit(main())
