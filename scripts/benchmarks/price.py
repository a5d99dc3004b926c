"""The price of a verdict: seconds until a claim is decided, against the plain script at a fixed number of images.

    .venv/bin/python scripts/benchmarks/price.py [--results results/reference/mini] [--out results/performance]

For each claim that a finished run of the miniature decided, taking its measured gains as the true ones. `by hand`: the
plain script on the claim's cells, with as many images, fixed beforehand, as two-sided tests of unpaired differences
need (the standard errors that a bootstrap of each cell gives). `ours`: the same cells sampled here, judged at five
looks (`until=decided`) by paired one-sided tests. Both keep the error of all claims of the run together at 5%, with the
same share for each claim, and both are planned for a chance of a verdict of 90%: only the price differs.

Seconds are those of whole_job.json, where both sides took turns on the default run (`fast`: without latencies, which
the other side does not measure). They are divided over its cells in proportion to the run's own seconds of sampling;
for the plain script, which shares no evaluations between cells, in proportion to what these would be without sharing.
The start (imports, real images) is that of breakdown.json, for both sides.

Claims are simulated as sums of normal noise with the measured correlations of their comparisons. Error rates come from
comparisons at their threshold (scripts/calibration/claims.py judges whole runs of such). A table shows what each saving
does alone, what the price would be without it, and what would come from savings of the whole run: sampling only what
open claims need, and claims in the order of their price. Writes price.json and price.md; exits with 1 where the median
ratio of the price is above 0.15, or an error rate above what is promised.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from ratios import save_benchmark
from scipy.special import ndtri

from bench.analysis.claims import LEVEL, Comparison, judge_claims
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.analysis.sequential import nominal_level, path_of
from bench.score.estimate import Estimate
from bench.store.store import Store

ROOT = Path(__file__).parents[2]
SHARES, CHANCE, MOST, PATHS = (0.2, 0.4, 0.6, 0.8, 1.0), 0.9, 0.15, 5_000
MORE_SHARES = tuple((i + 1) / 20 for i in range(20))
TRIALS, IMAGES = 400_000, 512
UNSHARED = ("dpmpp_2s", "ddim", "teacher")
"""Methods whose cells share no evaluations with others."""
TWENTY = "twenty looks in place of five"
SAVINGS = ("pairing", "looks", "one-sided tests", "seconds per image")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """The noise of a claim's comparisons, of one image: standard deviations (k,) and their correlations (k, k)."""

    deviations: Floats
    correlations: Floats

    def chance(self, excess: Floats, images: Floats, bounds: Floats) -> Floats:
        """Return the share of runs in which all comparisons are beyond a look's bound for the first time, by look."""
        rng, k = np.random.default_rng(0), len(excess)
        root = np.linalg.cholesky(self.correlations + 1e-9 * np.eye(k))
        noise = rng.standard_normal((PATHS, len(images), k)) @ root.T
        sums = np.cumsum(noise * np.sqrt(np.diff(images, prepend=0))[:, None], axis=1)
        z = sums / np.sqrt(images)[:, None] + excess / self.deviations * np.sqrt(images)[:, None]
        crossed = (z > bounds[:, None]).all(axis=2)
        first = crossed & (np.cumsum(crossed, axis=1) == 1)
        return np.asarray(first.mean(axis=0), np.float64)


@dataclass(frozen=True, eq=False)
class Asked:
    """A decided claim: how far its gains (k,) are on the side of the verdict, either design, and its cells' labels."""

    text: str
    excess: Floats
    paired: Design
    unpaired: Design
    cells: tuple[str, ...]
    share: float
    """The one-sided level of the claim, of all looks together."""

    @cache  # noqa: B019  # a handful of claims
    def plan(self, on: tuple[str, ...]) -> tuple[float, float, float]:
        """Return images planned per cell for the wanted chance, the mean number sampled, and the chance of an error."""
        design = self.paired if "pairing" in on else self.unpaired
        level = self.share if "one-sided tests" in on else self.share / 2
        shares = np.array(MORE_SHARES if "twenty looks" in on else SHARES if "looks" in on else (1.0,))
        bounds = bounds_of(level, tuple(shares))
        low, high = 1.0, 1e7
        while high / low > 1.002:
            images = float(np.sqrt(low * high))
            enough = design.chance(self.excess, images * shares, bounds).sum() >= CHANCE
            low, high = (low, images) if enough else (images, high)
        ended = design.chance(self.excess, high * shares, bounds)
        mean = high * (float(ended @ shares) + (1 - float(ended.sum())))
        return high, mean, false_verdicts(tuple(shares), tuple(bounds))


@cache
def false_verdicts(shares: tuple[float, ...], bounds: tuple[float, ...]) -> float:
    """The chance that a comparison at its threshold is beyond a bound at some look; of a claim of several, the most."""
    steps = np.sqrt(np.diff(shares, prepend=0.0))
    noise = np.random.default_rng(1).standard_normal((TRIALS, len(shares))) * steps
    return float((np.cumsum(noise, axis=1) / np.sqrt(shares) > bounds).any(axis=1).mean())


@cache
def bounds_of(level: float, shares: tuple[float, ...]) -> Floats:
    """Bounds of the statistic at each look; a fixed number of images has no share of the error left for more."""
    if len(shares) == 1:
        return np.array([-float(ndtri(level))])
    history = [(round(1000 * share), 1000) for share in shares]
    return np.array([-float(ndtri(nominal_level(level, path_of(history[: i + 1])))) for i in range(len(shares))])


def measured_seconds(scored: ScoredRun, folder: Path) -> dict[str, dict[str, float]]:
    """By side the seconds of one image of each cell, by the cell's label, and of the `start`."""
    job, parts = (
        json.loads((folder / name).read_text(encoding="utf-8"))["seconds"]
        for name in ("whole_job.json", "breakdown.json")
    )
    start = parts["imports"] + parts["real images"]
    cells = {cell.label: cell.record for cell in scored.cells}
    evaluations = {label: record.calls.denoiser_evaluations for label, record in cells.items() if record.calls}
    alone = [label for label, record in cells.items() if record.cell.method in UNSHARED]
    slope, same = np.polyfit([evaluations[label] for label in alone], [cells[label].sampling_s for label in alone], 1)
    weights = {
        "ours": {label: record.sampling_s for label, record in cells.items()},
        "plain": {label: float(slope * count + same) for label, count in evaluations.items()},
    }
    found = {}
    for side, of_cells in weights.items():
        left = median(job["fast" if side == "ours" else side]) - start
        scale = left / sum(of_cells.values()) / IMAGES
        found[side] = {"start": start, **{label: scale * weight for label, weight in of_cells.items()}}
    return found


def decided_claims(scored: ScoredRun) -> Iterator[Asked]:
    """The claims that the run decided."""
    by_label = {cell.label: cell for cell in scored.cells}
    judgements = judge_claims(scored.run, scored.cells)
    share = LEVEL / sum(bool(judgement.comparisons) for judgement in judgements)
    for judgement in judgements:
        found = [c for c in judgement.comparisons if c.effect is not None]
        if judgement.verdict == "refuted":  # one comparison is enough, and has to share the level with the others
            found, share_of = [min(found, key=lambda c: c.p_value)], share / len(found)
        elif judgement.verdict == "supported":
            share_of = share
        else:
            continue
        sides = [(by_label[c.subject], by_label[c.object]) for c in found]
        estimates = [tuple(estimate_of(cell, c) for cell in pair) for c, pair in zip(found, sides, strict=True)]
        excess = np.array([abs(c.effect.excess) for c in found if c.effect])
        paired = np.array([(c.error or 0.0) * np.sqrt(c.n) for c in found])
        unpaired = np.array([np.hypot(*(e.standard_error for e in both)) for both in estimates])
        unpaired *= np.sqrt([c.n for c in found])
        gains = np.array([a.influence - b.influence for a, b in estimates])
        cells = dict.fromkeys(cell.label for cell in chain(*sides))
        yield Asked(
            judgement.claim.text,
            excess,
            Design(paired, np.atleast_2d(np.corrcoef(gains))),
            Design(unpaired, apart(sides, estimates)),
            tuple(cells),
            share_of,
        )


def estimate_of(cell: ScoredCell, comparison: Comparison) -> Estimate:
    """What of a cell was compared."""
    instead = comparison.compared == comparison.metric or cell.estimates.get(comparison.compared)
    found = cell.estimates[comparison.metric] if instead is True else instead or cell.fallback(comparison.metric)
    if found is None:
        raise SystemExit(f"{cell.label} has no {comparison.compared}")
    return found


def apart(sides: Sequence[tuple[ScoredCell, ScoredCell]], estimates: Sequence[tuple[Estimate, ...]]) -> Floats:
    """Correlations of differences of cells whose images were drawn each by themselves."""
    k = len(sides)
    found = np.zeros((k, k))
    for i in range(k):
        for j in range(k):
            for a, x in enumerate(sides[i]):
                for b, y in enumerate(sides[j]):
                    if x is y:
                        product = float(np.mean(estimates[i][a].influence * estimates[j][b].influence))
                        found[i, j] += product if a == b else -product
    scale = np.sqrt(np.diag(found))
    return np.asarray(found / np.outer(scale, scale), np.float64)


def price(
    asked: Asked, on: tuple[str, ...], seconds: Mapping[str, Mapping[str, float]], with_start: bool = True
) -> float:
    """Seconds until the claim is decided, with these savings."""
    used = seconds["ours" if "seconds per image" in on else "plain"]
    per_image = sum(used[name] for name in asked.cells)
    return used["start"] * with_start + asked.plan(on)[1] * per_image


def whole_run(claims: Sequence[Asked], looks_at: Sequence[float], seconds: Mapping[str, float]) -> dict[str, float]:
    """Mean seconds until a claim is decided, in a run of all of them at these numbers of images: by order of work.

    The look at which a claim is decided is the first with an even chance of it.
    """
    needed = {}
    bounds = {asked.text: bounds_of(asked.share, SHARES) for asked in claims}
    for asked in claims:
        so_far = np.cumsum(asked.paired.chance(asked.excess, np.array(looks_at), bounds[asked.text]))
        needed[asked.text] = int(np.argmax(so_far >= 0.5)) if so_far[-1] >= 0.5 else len(looks_at)
    everything = [name for name in seconds if name != "start"]

    def elapsed(only_open: bool, ordered: bool) -> float:
        ends: dict[str, float] = {}
        now, before = seconds["start"], 0.0
        for look, images in enumerate(looks_at):
            open_ = [asked for asked in claims if needed[asked.text] >= look]
            if ordered:
                open_ = sorted(open_, key=lambda asked: sum(seconds[name] for name in asked.cells))
            wanted = [*dict.fromkeys(chain(*(asked.cells for asked in open_)))]
            queue = wanted if only_open else [*wanted, *(name for name in everything if name not in wanted)]
            if not ordered and not only_open:
                queue = everything
            done: set[str] = set()
            for name in queue:
                now += (images - before) * seconds[name]
                done.add(name)
                if ordered:  # a claim is judged as soon as its cells are there
                    for asked in open_:
                        if needed[asked.text] == look and asked.text not in ends and done >= {*asked.cells}:
                            ends[asked.text] = now
            for asked in open_:
                if needed[asked.text] == look:
                    ends.setdefault(asked.text, now)
            before = images
        return float(np.mean([ends.get(asked.text, now) for asked in claims]))

    return {
        "as it is": elapsed(False, False),
        "only cells that open claims need": elapsed(True, False),
        "claims in the order of their price, judged when their cells are there": elapsed(False, True),
        "both": elapsed(True, True),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "reference" / "mini")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance")
    options = parser.parse_args()
    scored = ScoredRun.load(Store(options.results, writable=False))
    seconds = measured_seconds(scored, ROOT / "results" / "performance")
    claims = list(decided_claims(scored))
    planned = len(scored.run.prompts)
    rows = {asked.text: (price(asked, SAVINGS, seconds), price(asked, (), seconds)) for asked in claims}
    ratios = {text: ours / by_hand for text, (ours, by_hand) in rows.items()}
    errors = {side: sum(asked.plan(on)[2] for asked in claims) for side, on in (("ours", SAVINGS), ("by hand", ()))}
    savings = {
        saving: [
            median(price(asked, on, seconds) / rows[asked.text][1] for asked in claims)
            for on in ((saving,), tuple(other for other in SAVINGS if other != saving))
        ]
        for saving in SAVINGS
    }
    more = ("twenty looks", *SAVINGS)
    savings[TWENTY] = [
        median(price(asked, on, seconds) / rows[asked.text][1] for asked in claims) for on in (more[:1], more)
    ]
    bare = {asked.text: price(asked, SAVINGS, seconds, False) / price(asked, (), seconds, False) for asked in claims}
    of_run = whole_run(claims, [share * planned for share in SHARES], seconds["ours"])
    promised = sum(asked.share for asked in claims)
    lines = to_markdown(claims, rows, bare, savings, of_run, errors, promised, planned)
    (options.out / "price.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = {
        "seconds": {text: {"ours": a, "by hand": b} for text, (a, b) in rows.items()},
        "savings": {saving: {"alone": alone, "without": without} for saving, (alone, without) in savings.items()},
        "without_start": bare,
        "run": of_run,
        "false_verdicts": errors,
        "promised": promised,
    }
    save_benchmark(options.out / "price.json", {text: [ratio] for text, ratio in ratios.items()}, found, exact=True)
    print((options.out / "price.md").read_text(encoding="utf-8"))
    chance = 3 * np.sqrt(promised * len(claims) / TRIALS)
    return 1 if median(ratios.values()) > MOST or max(errors.values()) > promised + chance else 0


def to_markdown(
    claims: Sequence[Asked],
    rows: Mapping[str, tuple[float, float]],
    bare: Mapping[str, float],
    savings: Mapping[str, Sequence[float]],
    of_run: Mapping[str, float],
    errors: Mapping[str, float],
    promised: float,
    planned: int,
) -> Iterator[str]:
    """The tables."""
    yield "# The price of a verdict\n"
    yield (
        "Seconds on two cores until a claim is decided, by `scripts/benchmarks/price.py`: with the "
        "start of either side (imports, models, reference images), planned for a chance of 90%, the measured gains "
        "taken as true, images per cell in brackets.\n"
    )
    yield "| claim | ours | by hand | ours / by hand | without start |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for asked in claims:
        ours, by_hand = rows[asked.text]
        images = [f"{asked.plan(on)[1]:,.0f}" for on in (SAVINGS, ())]
        numbers = f"{ours:,.0f} ({images[0]}) | {by_hand:,.0f} ({images[1]}) | {ours / by_hand:.3f}"
        yield f"| {asked.text} | {numbers} | {bare[asked.text]:.3f} |"
    with_start = median(ours / by_hand for ours, by_hand in rows.values())
    yield f"\nMedian ratio: {with_start:.3f}, without start {median(bare.values()):.3f}; aimed at: {MOST}.\n"
    yield (
        f"False verdicts where each claim has a comparison at its threshold, all claims together at most "
        f"{errors['ours']:.2%} of runs, by hand {errors['by hand']:.2%}; promised for these claims: {promised:.2%}.\n"
    )
    yield "| saving | median ratio with it alone | with all but it |"
    yield "| --- | ---: | ---: |"
    for saving in SAVINGS:
        yield f"| {saving} | {savings[saving][0]:.3f} | {savings[saving][1]:.3f} |"
    alone, together = savings[TWENTY]
    yield f"\nWith {TWENTY}: alone {alone:.3f}, with all other savings {together:.3f}."
    yield f"\nOne run for all of these claims, {planned} images planned, five looks:\n"
    yield "| | mean seconds until a claim is decided |"
    yield "| --- | ---: |"
    for name, found in of_run.items():
        yield f"| {name} | {found:,.0f} |"


if __name__ == "__main__":
    sys.exit(main())
