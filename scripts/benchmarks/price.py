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
comparisons at their threshold (scripts/calibration/claims.py and stopping.py judge whole runs of such). A table shows
what each saving does alone and what the price would be without it. A second part simulates one run of all of these
claims (price_of_run.py), with and without what saves in such a run: to sample only what open claims need, and cheap
claims first. Writes price.json and price.md; exits with 1 where the median ratio of the price of a claim by itself is
above 0.15, or an error rate above what is promised.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from price_of_run import MANNERS, Compared, Manner, Simulation, by_hand
from ratios import save_benchmark
from scipy.special import ndtri

from bench.analysis.claims import LEVEL, Comparison, judge_claims
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.analysis.sequential import nominal_level, path_of
from bench.score.estimate import Estimate
from bench.score.metrics import metric_of
from bench.store.store import Store

ROOT = Path(__file__).parents[2]
SHARES, CHANCE, MOST, PATHS = (0.2, 0.4, 0.6, 0.8, 1.0), 0.9, 0.15, 5_000
RUNS = 300
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


def comparisons_of(scored: ScoredRun) -> dict[str, list[Compared]]:
    """All comparisons of the claims that the run decided, by the claim's text."""
    by_label = {cell.label: cell for cell in scored.cells}
    by_key = {cell.record.key: cell.label for cell in scored.cells}
    found: dict[str, list[Compared]] = {}
    for judgement in judge_claims(scored.run, scored.cells):
        for c in judgement.comparisons if judgement.verdict in ("supported", "refuted") else ():
            ours, theirs = (estimate_of(by_label[label], c).influence for label in (c.subject, c.object))
            gains = (ours - theirs) * (1 if metric_of(c.compared).higher_is_better else -1)
            effect, cells = c.effect, tuple(by_key[key] for key in c.keys)
            if effect is not None:
                one = Compared(gains, effect.excess, effect.error * float(np.sqrt(c.n)), cells)
                found.setdefault(judgement.claim.text, []).append(one)
    return found


def price_of_run(
    scored: ScoredRun, claims: Sequence[Asked], seconds: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """One run of all these claims, planned for the one that needs the most images: seconds by manner and claim."""
    again = json.loads((ROOT / "results" / "performance" / "breakdown.json").read_text())["seconds"]["loading models"]
    compared, level = (
        comparisons_of(scored),
        LEVEL / sum(bool(j.comparisons) for j in judge_claims(scored.run, scored.cells)),
    )
    ours, plain = seconds["ours"], seconds["plain"]
    simulation = Simulation(compared, ours, ours["start"], again, level, bounds_of)
    planned = -(-round(max(asked.plan(SAVINGS)[0] for asked in claims)) // 64) * 64
    needed = {asked.text: (asked.plan(())[0], simulation.cells_of(asked.text)) for asked in claims}
    most = max(images for images, _ in needed.values())
    every = dict.fromkeys(cell for _, cells in needed.values() for cell in cells)
    hand = dict(by_hand(needed, plain, plain["start"]))
    fixed = dict(by_hand({text: (most, cells) for text, (_, cells) in needed.items()}, plain, plain["start"]))
    script = plain["start"] + most * sum(plain[cell] for cell in every)
    rows = {}
    for name, (manner, looks) in {
        **{name: (manner, len(SHARES)) for name, manner in MANNERS.items()},
        **{f"as built, {looks} looks": (Manner(), looks) for looks in (10, 20)},
    }.items():
        ends, decided = simulation.mean_seconds(manner, planned, looks, RUNS)
        rows[name] = {
            "mean": float(np.mean([*ends.values()])),
            "last": max(ends.values()),
            "decided": decided,
            "of one script": median(ends[text] / script for text in ends),
            "of one script, cheap cells first": median(ends[text] / fixed[text] for text in ends),
            "of own scripts": median(ends[text] / hand[text] for text in ends),
            "of own scripts, last": max(ends.values()) / max(hand.values()),
        }
    return {"planned": planned, "fixed": most, "script": script, "last by hand": max(hand.values()), "manners": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "reference" / "mini")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "performance")
    options = parser.parse_args()
    scored = ScoredRun.load(Store(options.results, writable=False))
    seconds = measured_seconds(scored, ROOT / "results" / "performance")
    claims = list(decided_claims(scored))
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
    of_run = price_of_run(scored, claims, seconds)
    promised = sum(asked.share for asked in claims)
    lines = to_markdown(claims, rows, bare, savings, of_run, errors, promised)
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
    of_run: Mapping[str, Any],
    errors: Mapping[str, float],
    promised: float,
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
    yield "\n## One run of all of these claims\n"
    yield (
        f"Planned for {of_run['planned']:,} images per cell, which decide each claim with a chance of 90%, at five "
        f"looks; means of {RUNS} simulated runs, with the start once and what each further round takes to begin. By "
        "hand, either one script with one number of images for all cells, the least that decides all claims "
        f"({of_run['fixed']:,.0f}; {of_run['script']:,.0f} s, all verdicts at its end), or a script for each claim "
        "with the number of images that it needs, the cheapest claim first, each cell sampled once, as only somebody "
        f"who knows all gains could plan it (last verdict after {of_run['last by hand']:,.0f} s). Ratios are "
        "medians over claims, of the last verdict in brackets.\n"
    )
    yield "| run | mean s | last verdict, s | decided | of one script | the same, cheap cells first | of own scripts |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, found in of_run["manners"].items():
        yield (
            f"| {name} | {found['mean']:,.0f} | {found['last']:,.0f} | {found['decided']:.0%} | "
            f"{found['of one script']:.3f} | {found['of one script, cheap cells first']:.3f} | "
            f"{found['of own scripts']:.3f} ({found['of own scripts, last']:.3f}) |"
        )


if __name__ == "__main__":
    sys.exit(main())
