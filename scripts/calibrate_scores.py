"""Whether the intervals of the scores cover as they say, by simulation: features whose true distances are known.

    .venv/bin/python scripts/calibrate_scores.py --repetitions 1000 --dimensions 16,64,192     # the whole, hours
    .venv/bin/python scripts/calibrate_scores.py --repetitions 200 --dimensions 32             # minutes

Gaussian, heavy-tailed (Student, 9 degrees of freedom), skewed (exponential) and mixture features with decaying spectra,
at n/d from 1 to 50, against a reference sample that is held fixed. For each: in how many repetitions a fallback was
announced, and over the others the coverage of the nominal 95% interval, the mean printed standard error over the
empirical one, and the mean error in standard errors. `extrapolated` is Chong and Forsyth's (arXiv 1911.07023) line in
1/n. At last, runs of claims that are all truly null. Writes a Markdown table; exits 1 where a row without fallback
breaks the bounds (coverage under 93% less three standard errors of the simulation; over 97% and over 15% too wide
likewise).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.cell import Base, Cell, PromptSet, SchedulerSpec
from bench.judge.claims import judge_claims
from bench.judge.scores import ScoredCell
from bench.records import Record
from bench.request import Claim, Run, Side
from bench.score.estimate import Estimate, mean_estimate, paired_difference
from bench.score.frechet import Reference, bare_distance, frechet_estimate
from bench.score.kernel import kernel_estimate

Floats = NDArray[np.float64]
Generator = np.random.Generator
LEVEL, LOWEST, HIGHEST, WIDEST = 0.95, 0.93, 0.97, 1.15
STANDARD: dict[str, Callable[[Generator, int, int], Floats]] = {
    "gaussian": lambda rng, n, d: rng.standard_normal((n, d)),
    "heavy-tailed": lambda rng, n, d: rng.standard_normal((n, d)) * np.sqrt(7 / rng.chisquare(9, (n, 1))),
    "skewed": lambda rng, n, d: rng.exponential(1.0, (n, d)) - 1,
    "mixture": lambda rng, n, d: (
        rng.standard_normal((n, d)) * SCALES[(own := rng.integers(0, 4, n))][:, None] + centres(d)[own]
    ),
}
"""Rows (n, d) of mean 0 and covariance I, but for the mixture, whose components differ in mean and scale."""
SCALES = np.array([0.5, 0.8, 1.0, 1.4])


def centres(d: int) -> Floats:
    """Means (4, d) of the mixture's components, with mean zero."""
    drawn = 0.7 * np.random.default_rng(d).standard_normal((4, d))
    return drawn - drawn.mean(axis=0)


@dataclass(frozen=True)
class World:
    """A method's features: standard rows times `mixing`; a second, similar method's: those by `change`, and noise."""

    family: str
    d: int
    mixing: Floats
    change: Floats
    noise: float

    def draw(self, rng: Generator, n: int) -> tuple[Floats, Floats]:
        """Paired features (n, d) of the two methods."""
        ours = STANDARD[self.family](rng, n, self.d) @ self.mixing
        return ours, ours @ self.change + self.noise * rng.standard_normal((n, self.d)) + 0.02

    def moments(self) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """True mean and covariance of either method."""
        between = centres(self.d).T @ centres(self.d) / 4 + np.mean(SCALES**2) * np.eye(self.d)
        covariance = self.mixing.T @ (between if self.family == "mixture" else np.eye(self.d)) @ self.mixing
        theirs = self.change.T @ covariance @ self.change + self.noise**2 * np.eye(self.d)
        return (np.zeros(self.d), covariance), (np.full(self.d, 0.02), theirs)


def make_world(family: str, d: int, decay: float = 3.0) -> World:
    """Standard deviations fall by exp(−decay) from the first principal axis to the last."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    mixing = np.exp(-decay * np.linspace(0, 1, d))[:, None] * axes
    change = np.eye(d) + 0.15 * rng.standard_normal((d, d)) / np.sqrt(d)
    return World(family, d, mixing, change, 0.05 * float(np.sqrt(np.mean(mixing**2) * d)))


def make_reference(world: World, m: int) -> Reference:
    """Real images: the same kind of features, each principal axis stretched by another factor, and shifted."""
    rng = np.random.default_rng(2)
    stretch = np.exp(0.15 * rng.standard_normal(world.d))
    rows = STANDARD[world.family](rng, m, world.d) * stretch @ world.mixing
    return Reference.of(rows + 0.15 * np.sqrt(np.mean(world.mixing**2)) * rng.standard_normal(world.d))


def true_distance(moments: tuple[Floats, Floats], reference: Reference) -> float:
    """Fréchet distance of true moments from the reference's."""
    mean, covariance = moments
    shift, factor = mean - reference.moments.mean, reference.factor
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(factor.T @ covariance @ factor), 0, None))
    return float(shift @ shift + np.trace(covariance) + np.trace(reference.moments.covariance) - 2 * roots.sum())


def extrapolated(features: Floats, reference: Reference, rng: Generator) -> float:
    """Where a line through the distances of subsets in 1/n meets 1/n = 0 (arXiv 1911.07023, section 4)."""
    sizes = np.linspace(len(features) / 2, len(features), 8).astype(int)
    values = [bare_distance(features[rng.permutation(len(features))[:size]], reference) for size in sizes]
    return float(np.polyfit(1 / sizes, values, 1)[1])


@dataclass(frozen=True)
class Row:
    """What the repetitions of one quantity came to."""

    family: str
    d: int
    n: int
    quantity: str
    repetitions: int
    announced: float
    coverage: float
    width: float
    bias: float

    @property
    def sound(self) -> bool:
        """Within the bounds, three standard errors of the simulation allowed."""
        runs = self.repetitions * (1 - self.announced)
        if runs < 20:
            return True
        slack = 3 * np.sqrt(LEVEL * (1 - LEVEL) / runs)
        too_wide = self.coverage > HIGHEST and self.width > WIDEST + 3 / np.sqrt(2 * runs)
        return bool(self.coverage >= LOWEST - slack and not too_wide)


def summarise(family: str, d: int, n: int, quantity: str, estimates: list[Estimate], truth: float | None) -> Row:
    """Coverage of the truth; where it has no closed form, of the mean of all (for what is unbiased by construction)."""
    meant = [estimate for estimate in estimates if estimate.doubt is None]
    announced = 1 - len(meant) / len(estimates)
    if len(meant) < 2:
        return Row(family, d, n, quantity, len(estimates), announced, np.nan, np.nan, np.nan)
    best = np.array([estimate.best for estimate in meant])
    error = np.array([estimate.standard_error for estimate in meant])
    truth = float(best.mean()) if truth is None else truth
    covered = float(np.mean([low <= truth <= high for low, high in (estimate.interval() for estimate in meant)]))
    width = float(np.sqrt(np.mean(error**2)) / best.std(ddof=1))
    return Row(
        family, d, n, quantity, len(estimates), announced, covered, width, float((best.mean() - truth) / error.mean())
    )


def calibrate(family: str, d: int, ratio: float, repetitions: int, compare: bool) -> Iterator[Row]:
    """All quantities at one family, dimension and n/d."""
    n, world = round(ratio * d), make_world(family, d)
    reference = make_reference(world, 20 * d)
    ours_true, theirs_true = (true_distance(moments, reference) for moments in world.moments())
    rng = np.random.default_rng([d, n])
    found: dict[str, list[Estimate]] = {}
    lines = []
    direction = np.random.default_rng(3).standard_normal(d)
    for _ in range(repetitions):
        ours, theirs = world.draw(rng, n)
        pairs = {
            "FID": tuple(frechet_estimate(features, reference) for features in (ours, theirs)),
            "KID": tuple(kernel_estimate(features, reference.kernel) for features in (ours, theirs)),
            "mean": tuple(mean_estimate(np.tanh(features @ direction)) for features in (ours, theirs)),
        }
        for name, (a, b) in pairs.items():
            found.setdefault(name, []).append(a)
            found.setdefault(f"{name} difference", []).append(paired_difference(a, b))
        if compare:
            lines.append(extrapolated(ours, reference, rng))
    truths = {"FID": ours_true, "FID difference": ours_true - theirs_true}
    for name, estimates in found.items():
        yield summarise(family, d, n, name, estimates, truths.get(name))
    if compare:
        errors = np.array(lines) - ours_true
        own = float(np.mean([estimate.standard_error for estimate in found["FID"]]))
        yield Row(
            family, d, n, "FID extrapolated", repetitions, 0.0, np.nan, own / errors.std(ddof=1), errors.mean() / own
        )


def false_verdicts(runs: int, n: int = 200, d: int = 16) -> float:
    """Share of runs with a verdict although both methods' features are exchangeable, so that nothing differs."""
    rng, world = np.random.default_rng(4), make_world("skewed", d)
    reference = make_reference(world, 40 * d)
    base = Base("x", "", "", "", "float32", 64, 64)
    cell = Cell(base, "t", "a", SchedulerSpec("x"), (), False, 2, None, 1.0, PromptSet("p", n, "t"), 0, 4, "cpu", {})
    metrics = ("fid", "kid", "clip_score")
    claims = tuple(Claim(f"{s}", "", Side("a", (s,)), Side("b", (s,)), metrics, "better") for s in (2, 4, 8))
    run = Run("x", {}, (), (), (), {}, metrics, claims, "mini", "e", "r")
    false = 0
    for _ in range(runs):
        cells = []
        for steps in (2, 4, 8):
            shared = world.draw(rng, n)[0]
            for method in ("a", "b"):
                features = 0.8 * shared + 0.6 * world.draw(rng, n)[0]
                own = replace(cell, method=method, steps=steps)
                estimates = {
                    "fid": frechet_estimate(features, reference),
                    "kid": kernel_estimate(features, reference.kernel),
                    "clip_score": mean_estimate(features[:, 0]),
                }
                cells.append(ScoredCell(Record(own.key, own, "ok", {}, 1.0), estimates))
        verdicts = {c.verdict for judgement in judge_claims(run, cells) for c in judgement.comparisons}
        false += bool(verdicts - {"undecided"})
    return false / runs


def to_markdown(rows: list[Row]) -> str:
    """One line a row; breaches are marked."""
    head = "| features | d | n/d | quantity | fallback | coverage | SE / empirical | bias / SE | |"
    lines = [head, "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | --- |"]
    for row in rows:
        numbers = "".join(
            f" {'–' if np.isnan(x) else f'{x:{form}}'} |"
            for x, form in ((row.announced, ".0%"), (row.coverage, ".1%"), (row.width, ".2f"), (row.bias, "+.2f"))
        )
        mark = "" if row.sound else "breach"
        lines.append(f"| {row.family} | {row.d} | {row.n / row.d:g} | {row.quantity} |{numbers} {mark} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--dimensions", default="16,64,192")
    parser.add_argument("--ratios", default="1,2,3,5,10,20,50")
    parser.add_argument("--families", default=",".join(STANDARD))
    parser.add_argument("--claims", type=int, help="runs of null claims, as many as repetitions unless given")
    parser.add_argument("--compare", action="store_true", help="Chong and Forsyth's extrapolation beside, slow")
    parser.add_argument("--out", type=Path, default=Path("results/calibration.md"))
    options = parser.parse_args()
    rows: list[Row] = []
    for family in options.families.split(","):
        for d in map(int, options.dimensions.split(",")):
            for ratio in map(float, options.ratios.split(",")):
                fresh = list(calibrate(family, d, ratio, options.repetitions, options.compare))
                print(*to_markdown(fresh).splitlines()[2:], sep="\n", flush=True)
                rows += fresh
    runs = options.repetitions if options.claims is None else options.claims
    note = ""
    if runs:
        share = false_verdicts(runs)
        note = f"\nRuns of nine null comparisons with a false verdict: {share:.1%} of {runs}.\n"
        print(note)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    title = f"# Calibration of the scores, {options.repetitions} repetitions\n\n"
    options.out.write_text(title + to_markdown(rows) + note, encoding="utf-8")
    return 0 if all(row.sound for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
