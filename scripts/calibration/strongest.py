"""How often a claim about tuned opponents says what is false, and what tuning them costs.

    python scripts/calibration/strongest.py                  # all designs, 2,000 runs each
    python scripts/calibration/strongest.py --designs "equal;clustered" --runs 500

In every run the subject is exactly as good as the best guidance scale of the strongest method, so that neither verdict
may occur in more than 5% of runs: "supported" is false, and "refuted" would be if the subject were a little better.
Values are in standard deviations of an image; `half` is the standard error, on a half, of the difference of two scales.

- `equal`: three guidance scales that are all as good, with independent noise; `quiet subject`: whose own noise is
  small, so that the noise of the choice is all there is; `alike`: scales of a method share 80% of their variance.
- `slightly better`: the other scales are worse by half or one and a half `half`s; `five scales`: by one.
- `methods`: three methods of three scales each, all as good; `one strong`: one as good, two far worse.
- `clustered`: 60 prompts with four images each, which share half of their variance.
- `skewed`: values with the skewness of an exponential distribution.
- `tuned subject`: the subject's scale is chosen as well.
- `looks`: judged at five numbers of images, as `until=decided` does.
- `few images`: so few that a half has no interval, and all images choose and judge.
- `kernel distance`, `Fréchet distance`: of features whose distributions are equal; `…, clustered`: with two images of
  each prompt; `…, at the reference`: that are distributed as the reference images, where pairs of images are all the
  noise there is.

The other columns are of procedures that the tool does not use, on the same draws: `same data` chooses and judges on all
images; `halves alone` supports a claim by what either half chose; `uncorrelated` refutes it without the covariance of
the halves. `power` compares the claim with that against a method that has its best scale alone. Results of single runs
are kept in strongest.csv, so that a stopped calibration goes on. Exits 1 where a verdict of the tool is false in more
than 5% of runs (beyond chance).
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from claims import BOUND, CELL, RUN
from scipy.stats import binom
from simulated_features import Floats, World, make_reference, make_world

from bench.analysis.claims import LEVEL, judge_claims
from bench.analysis.scoring import ScoredCell
from bench.analysis.sequential import OF_WHAT_IS_LEFT
from bench.analysis.strongest import gains_of, join_halves, split_prompts
from bench.records.record import Record
from bench.records.run import BEST, Claim, Side
from bench.score.estimate import Estimate, paired_difference
from bench.score.groups import Groups
from bench.score.metrics import Metric, RealImages, metric_of

Generator = np.random.Generator
FIELDS = ("supported", "refuted", "same data: supported", "same data: refuted", "halves alone", "uncorrelated")
"""What may happen in a run: verdicts of the tool, then of the other procedures."""
IMAGES, LOOKS = 240, (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Drawn:
    """What is drawn of a run: by method the rows of each scale (scales, n) or (scales, n, d); the subject is first."""

    score: str
    methods: list[Floats]
    groups: Groups | None = None
    real: RealImages | None = None

    def estimate(self, rows: Floats, groups: Groups | None) -> Estimate:
        """Return the score of values or features."""
        metric = metric_of(self.score)
        return metric.of({"image": rows, metric.short: rows}, self.real, groups)

    def estimate_parts(self, record: Record, _: Metric, parts: Sequence[Any]) -> list[Estimate]:
        """Return the score of some images: what a run does with stored features."""
        whole = self.methods[int(record.cell.method)][int(record.cell.guidance_scale)]
        labels = None if self.groups is None else self.groups.labels
        return [
            self.estimate(whole[rows], None if labels is None else Groups.of(labels[rows], len(rows))) for rows in parts
        ]

    def first(self, share: float) -> Drawn:
        """Return the first images."""
        count = round(share * self.methods[0].shape[1])
        groups = None if self.groups is None else Groups.of(self.groups.labels[:count], count)
        return replace(self, methods=[rows[:, :count] for rows in self.methods], groups=groups)

    def cells(self) -> list[list[ScoredCell]]:
        """Return the cells of each method, by scale."""
        found = []
        for method, scales in enumerate(self.methods):
            found.append([])
            for scale, rows in enumerate(scales):
                cell = replace(CELL, method=f"{method}", guidance_scale=float(scale))
                estimates = {self.score: self.estimate(rows, self.groups)}
                found[-1].append(ScoredCell(Record(cell.key, cell, "ok", {}, 1.0), estimates, source=self))  # type: ignore[arg-type]
        return found


@dataclass(frozen=True)
class Design:
    """How a run is drawn (from a seed), at which looks it is judged, and how many runs there are at most."""

    draw: Callable[[Generator], Drawn]
    looks: Sequence[float] = (1.0,)
    most: int = 2000


def means(
    rng: Generator,
    gaps: Sequence[Sequence[float]],
    *,
    alike: float = 0.0,
    own: float = 1.0,
    lead: float = 0.0,
    subject_scales: int = 1,
    per_prompt: int = 1,
    skewed: bool = False,
    images: int = IMAGES,
) -> Drawn:
    """Means of methods whose scales are worse than the best by `gaps`, in standard errors on a half (see above).

    `alike` is the share of variance that the scales of a method have in common, `own` the standard deviation of the
    subject's own noise, `lead` by how many standard errors the subject is better than the best scale.
    """

    def noise(scales: int) -> Floats:
        drawn = rng.exponential(1.0, (scales, images)) - 1 if skewed else rng.standard_normal((scales, images))
        if per_prompt > 1:
            by_prompt = rng.standard_normal((scales, images // per_prompt))
            drawn = np.sqrt(0.5) * (drawn + np.repeat(by_prompt, per_prompt, axis=1))
        values: Floats = np.sqrt(1 - alike) * drawn + np.sqrt(alike) * rng.standard_normal(images)
        return values

    half = np.sqrt(2 * (1 - alike) / (images / 2))
    error = np.sqrt((1 + own**2) / images)
    methods = [own * noise(subject_scales) + lead * error]
    methods += [noise(len(row)) - half * np.asarray(row, float)[:, None] for row in gaps]
    groups = Groups.of(np.arange(images) // per_prompt, images) if per_prompt > 1 else None
    return Drawn("sharpness", methods, groups)


@cache
def world_of(same: bool, d: int = 8) -> tuple[World, RealImages]:
    """Return where features come from, and a reference: of the same distribution, or of another."""
    world = make_world("gaussian", d)
    rows = world.draw_one(np.random.default_rng(3), 40 * d) if same else make_reference(world, 40 * d).features
    return world, RealImages(rows)


def distances(
    rng: Generator, score: str, *, scales: int = 3, per_prompt: int = 1, same: bool = False, images: int = IMAGES
) -> Drawn:
    """Features of a subject and of a method's scales that are exchangeable and have most of their rows in common."""
    world, real = world_of(same)
    prompts = np.repeat(np.arange(images // per_prompt), per_prompt)
    captions = world.draw_one(rng, len(prompts) // per_prompt)[prompts]
    shared = 0.6 * captions + 0.6 * world.draw_one(rng, images)
    drawn = [
        (shared + 0.5 * world.draw_one(rng, images)) / np.sqrt(0.97) for _ in range(1 + scales)
    ]  # of variance 1 again
    groups = Groups.of(prompts, images) if per_prompt > 1 else None
    return Drawn(score, [np.array(drawn[:1]), np.array(drawn[1:])], groups, real)


EQUAL = ((0.0, 0.0, 0.0),)
DESIGNS = {
    "equal": Design(partial(means, gaps=EQUAL)),
    "equal, two scales": Design(partial(means, gaps=((0.0, 0.0),))),
    "equal, quiet subject": Design(partial(means, gaps=EQUAL, own=0.1)),
    "equal, alike": Design(partial(means, gaps=EQUAL, alike=0.8)),
    "slightly better by 0.5": Design(partial(means, gaps=((0.0, 0.5, 0.5),))),
    "slightly better by 1.5": Design(partial(means, gaps=((0.0, 1.5, 1.5),))),
    "slightly better, alike": Design(partial(means, gaps=((0.0, 1.0, 1.0),), alike=0.8)),
    "slightly better, quiet subject": Design(partial(means, gaps=((0.0, 1.0, 1.0),), own=0.1)),
    "five scales": Design(partial(means, gaps=((0.0, 1.0, 1.0, 1.0, 1.0),))),
    "methods": Design(partial(means, gaps=EQUAL * 3)),
    "one strong": Design(partial(means, gaps=((0.0, 1.0, 2.0), (20.0, 21.0, 22.0), (20.0, 21.0, 22.0)))),
    "clustered": Design(partial(means, gaps=EQUAL, per_prompt=4)),
    "clustered, slightly better": Design(partial(means, gaps=((0.0, 1.5, 1.5),), per_prompt=4)),
    "skewed": Design(partial(means, gaps=EQUAL, skewed=True)),
    "tuned subject": Design(partial(means, gaps=EQUAL, subject_scales=3)),
    "looks": Design(partial(means, gaps=EQUAL), LOOKS),
    "few images": Design(partial(means, gaps=EQUAL, images=30)),
    "kernel distance": Design(partial(distances, score="kid@mini", images=160)),
    "kernel distance, clustered": Design(partial(distances, score="kid@mini", per_prompt=2, images=208)),
    "kernel distance, at the reference": Design(partial(distances, score="kid@mini", same=True, images=160)),
    "Fréchet distance": Design(partial(distances, score="fid@mini", scales=2, images=404)),
}
OF_POWER = {
    "the best scale alone": ((0.0,),),
    "others far worse": ((0.0, 8.0, 8.0),),
    "others worse by 1.5": ((0.0, 1.5, 1.5),),
    "all equal": EQUAL,
}


Cells = list[list[ScoredCell]]


def verdicts(drawn: Drawn, looks: Sequence[float] = (1.0,), cells: Cells | None = None) -> tuple[bool, bool]:
    """Return whether the tool supports or refutes, at any look; `cells` are those of all images."""
    names = tuple(f"{1 + i}" for i in range(len(drawn.methods) - 1))
    sides = Side("0", (CELL.steps,), None, BEST), Side(names if len(names) > 1 else names[0], (CELL.steps,), None, BEST)
    run = replace(RUN, claims=(Claim("c", "", *sides, (drawn.score,), "better"),))
    found = set()
    for i, share in enumerate(looks):
        own = cells if cells and share == 1 else drawn.first(share).cells()
        flat = [cell for scales in own for cell in scales]
        found.add(judge_claims(replace(run, looks=tuple(looks[: i + 1])), flat)[0].verdict)
    return "supported" in found, "refuted" in found


def others(drawn: Drawn, cells: Cells) -> tuple[bool, ...]:
    """Return what the other procedures would say: see `FIELDS`."""
    sign = 1.0 if metric_of(drawn.score).higher_is_better else -1.0
    rows = split_prompts(drawn.groups, drawn.methods[0].shape[1])
    mine, *all_of_them = cells
    same, halves = [], []
    for yours in all_of_them:
        wholes = [[cell.estimates[drawn.score] for cell in side] for side in (mine, yours)]
        gains = gains_of(metric_of(drawn.score), mine, yours, *wholes)
        subject, other = (side[at] for side, at in zip(wholes, gains.best, strict=True))
        same.append(paired_difference(subject, other).scaled(sign))
        if not gains.halves:
            return ()
        judged = []
        for side in (mine, yours):
            parts = [cell.halves[drawn.score] or () for cell in side]
            first, second = (int(np.argmax([sign * part[half].debiased_value for part in parts])) for half in (0, 1))
            judged.append(join_halves((parts[second][0], parts[first][1]), rows, drawn.groups))
        halves.append(paired_difference(*judged).scaled(sign))
    level = LEVEL * OF_WHAT_IS_LEFT
    return (
        all(gain.p_value("greater") < level for gain in same),
        any(gain.scaled(-1.0).p_value("greater") < level / len(same) for gain in same),
        all(gain.p_value("greater") < level for gain in halves),
        any(gain.scaled(-1.0).p_value("greater") < level / len(halves) for gain in halves),
    )


def run_once(design: Design, seed: int) -> tuple[bool, ...]:
    """Return what happened: see `FIELDS`; the other procedures only where there is one look."""
    drawn = design.draw(np.random.default_rng([seed, 7]))
    cells = drawn.cells()
    return *verdicts(drawn, design.looks, cells), *(others(drawn, cells) if len(design.looks) == 1 else ())


def power(runs: int) -> Iterator[str]:
    """A line for each kind of opponent: runs in which the truth is found when the subject is 3 standard errors off."""
    for alike in (0.0, 0.8):
        for name, gaps in OF_POWER.items():
            share = []
            for lead, wanted in ((3.0, 0), (-3.0, 1)):
                drawn = (means(np.random.default_rng([seed, 8]), gaps, alike=alike, lead=lead) for seed in range(runs))
                share.append(np.mean([verdicts(one)[wanted] for one in drawn]))
            yield f"| {name} | {alike:.0%} | {share[0]:.1%} | {share[1]:.1%} |"


def read(path: Path) -> dict[tuple[str, int], tuple[bool, ...]]:
    """The runs that are there: design and seed → what happened."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {(row[0], int(row[1])): tuple(value == "1" for value in row[2]) for row in csv.reader(file)}


def to_markdown(known: dict[tuple[str, int], tuple[bool, ...]], lines: Sequence[str], command: str) -> Iterator[str]:
    """A line for each design, then the power."""
    yield "# Claims about the strongest opponent, each method at its best guidance scale\n"
    yield f"`{command}`\n"
    yield "Subject and best scale are equally good. Shares of runs with each verdict; at most 5% may have either.\n"
    yield f"| design | runs | {' | '.join(FIELDS[:2])} | | {' | '.join(f'*{field}*' for field in FIELDS[2:])} |"
    yield f"| --- | ---: | ---: | ---: | --- |{' ---: |' * (len(FIELDS) - 2)}"
    for name in DESIGNS:
        found = [said for (which, _), said in known.items() if which == name]
        if not found:
            continue
        shares = []
        for i in range(len(FIELDS)):
            there = [said[i] for said in found if len(said) > i]
            shares.append(f"{np.mean(there):.1%}" if there else "–")
        bad = any(sum(said[i] for said in found) > binom.ppf(0.975, len(found), BOUND) for i in (0, 1))
        mark = "breach" if bad else "holds"
        yield f"| {name} | {len(found)} | {shares[0]} | {shares[1]} | {mark} | {' | '.join(shares[2:])} |"
    if lines:
        yield "\n# Power\n"
        yield "Runs that find that the subject is better, or worse, by 3 standard errors than the best scale.\n"
        yield "| the opponent's scales | variance they share | better: supported | worse: refuted |"
        yield "| --- | ---: | ---: | ---: |"
        yield from lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="of a design")
    parser.add_argument("--designs", default=";".join(DESIGNS), help="separated by semicolons")
    parser.add_argument("--power", type=int, default=1000, help="runs for each power; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=Path("results/calibration"))
    wanted = parser.parse_args()
    path, began = wanted.out / "strongest.csv", time.monotonic()
    known = read(path)
    with path.open("a", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        for name in wanted.designs.split(";"):
            design = DESIGNS[name]
            for seed in range(min(wanted.runs, design.most)):
                if (name, seed) not in known:
                    known[name, seed] = run_once(design, seed)
                    table.writerow((name, seed, "".join(f"{said:d}" for said in known[name, seed])))
            file.flush()
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    lines = [*to_markdown(known, [*power(wanted.power)] if wanted.power else [], "python " + " ".join(sys.argv))]
    (wanted.out / "strongest.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return int(any("| breach |" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
