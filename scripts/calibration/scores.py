"""Whether the intervals of the scores cover as they say, by simulation: features whose true distances are known.

    python scripts/calibration/scores.py                                        # the whole, hours
    python scripts/calibration/scores.py --repetitions 200 --dimensions 32      # minutes
    python scripts/calibration/scores.py --scores means --repetitions 2000      # minutes
    python scripts/calibration/scores.py --repetitions 0                        # the tables from what is there

Gaussian, heavy-tailed, skewed and mixture features with decaying spectra, at n/d from 1 to 50, against a reference
sample that is held fixed; means of skewed values and of shares near a bound, from 20 images on. The same with several
images of each prompt, which have half of their variance in common. For each: in how many repetitions no interval was
printed, and over the others the coverage of the nominal 95% interval, the mean printed standard error over the
empirical one, and the mean error in standard errors. Where more than half of the repetitions print none, the setting
counts as announced. The truth of yes and no answers is drawn again for each repetition, within 0.15 of the
distance to the nearer bound, since the coverage of whole numbers jumps from one truth to the next.

Repetitions are drawn in chunks, each with its own seed, and kept under `draws/`: a run that was stopped goes on,
and one with more repetitions adds to what is there. Writes coverage.csv and coverage.md.

Whether coverage is between 93% and 97% is tested for all rows that print intervals together: each row against the
bound that it is beyond (binomial), and each setting again with its families pooled, since four rows that are a little
low together say more than each of them alone. Holm's procedure keeps the chance of any false alarm at 5%. A row that is
outside as measured is "within chance" unless its own test or that of its pool rejects: then it is a breach, and the
exit code is 1.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from simulated_features import FAMILIES, Generator, make_reference, make_world, true_distance

from bench.score.diversity import pairwise_distance_estimate, vendi_estimate
from bench.score.estimate import Estimate, mean_estimate, paired_difference
from bench.score.groups import Groups
from bench.score.metrics import METRICS, RealImages

Floats = NDArray[np.float64]
LEVEL, LOWEST, HIGHEST, ANNOUNCED, ALARMS = 0.95, 0.93, 0.97, 0.5, 0.05
CHUNK, CORRELATION = 50, 0.5
MEANS = (
    *("normal", "exponential", "log-normal", "t5", "yes0.8", "yes0.95", "yes0.99"),
    *("three0.9", "four0.95", "five0.98", "one-sided exponential", "one-sided log-normal"),
)
"""Values with their tails, yes-or-no answers by their truth, shares of three to five attributes by theirs, and normal
values of which the second method's are worse in one of three, by a skewed amount."""

DIVERSITY = {"pairwise": pairwise_distance_estimate, "vendi": vendi_estimate}
"""Scores of the images of each prompt together."""
SCORES = ("kid", "cmmd", "precision", "recall", "density", "coverage", "fid")
"""Scores of features and reference images."""


@dataclass(frozen=True)
class Setting:
    """One score at one family, dimension and number of images, so many of each prompt."""

    score: str
    family: str
    d: int
    n: int
    k: int = 1

    @property
    def groups(self) -> Groups | None:
        """The prompt of each image."""
        return Groups.of(np.arange(self.n) // self.k, self.n)

    @property
    def truths(self) -> tuple[float, float] | None:
        """The true value and difference; None where the estimates' own mean stands for it, as they have no bias."""
        if self.score == "means":
            return 0.0, 0.0  # estimates are less their own truth
        if self.score != "fid":
            return None
        world = make_world(self.family, self.d)
        reference = make_reference(world, 20 * self.d)
        ours, theirs = (true_distance(moments, reference) for moments in world.moments())
        return ours, ours - theirs


def clip_scores(features: Floats, captions: Floats) -> Floats:
    """100 × cosine of image and caption, a row each."""
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(captions, axis=1)
    scores: Floats = 100 * (features * captions).sum(axis=1) / lengths
    return scores


def estimate(
    score: str, features: Floats, captions: Floats, real: RealImages, groups: Groups | None = None
) -> Estimate:
    """One score of one method."""
    if score == "clip":
        return mean_estimate(clip_scores(features, captions), groups)
    if score in DIVERSITY:
        return DIVERSITY[score](features, groups)
    return METRICS[score].of({"image": features}, real, groups)


def draw_means(setting: Setting, rng: Generator) -> tuple[Estimate, Estimate]:
    """A mean and a paired difference, each less its truth; the second method's images are new ones in one of three."""
    prompts, shared = setting.n // setting.k, np.repeat(np.arange(setting.n // setting.k), setting.k)
    names = {"yes": 1, "three": 3, "four": 4, "five": 5}
    name = setting.family.rstrip("0123456789.")
    shares, truth, gain = name in names, 0.0, 0.0
    if shares:
        truth = float(setting.family.removeprefix(name))
        truth += rng.uniform(-0.15, 0.15) * (1 - truth)
        right = rng.beta(2 * truth, 2 * (1 - truth), prompts)[shared] if setting.k > 1 else np.full(setting.n, truth)
        of_image = right if name == "yes" else rng.beta(4 * right + 1e-9, 4 * (1 - right) + 1e-9)
        pair = [rng.binomial(names[name], of_image) / names[name] for _ in range(2)]
    else:
        draws: dict[str, Callable[[int], Floats]] = {
            "normal": rng.standard_normal,
            "exponential": lambda size: rng.exponential(1.0, size) - 1,
            "log-normal": lambda size: rng.lognormal(0.0, 1.0, size) - np.exp(0.5),
            "t5": lambda size: rng.standard_t(5, size),
        }
        worse = name.removeprefix("one-sided ") if name.startswith("one-sided") else None
        draw = draws["normal" if worse else setting.family if setting.family == "t5" else name]
        common = draw(prompts)[shared] if setting.k > 1 else 0.0
        pair = [common + draw(setting.n) for _ in range(2)]
        if worse:
            mean = {"exponential": 1.0, "log-normal": float(np.exp(0.5))}[worse]
            change, gain = draws[worse](setting.n) + mean, mean / 3
            if setting.k > 1:
                change += draws[worse](prompts)[shared]
            pair[1] = pair[0] - change
    theirs = np.where(rng.random(setting.n) < 1 / 3, pair[1], pair[0])
    ours = mean_estimate(pair[0], setting.groups, shares=shares)
    difference = paired_difference(ours, mean_estimate(theirs, setting.groups, shares=shares))
    return ours.scaled(1.0, -truth), difference.scaled(1.0, -gain)


def draw_chunk(setting: Setting, chunk: int) -> Floats:
    """(CHUNK, 2, 4): of value and paired difference the best value, low and high of the interval, standard error.

    NaN where a fallback is announced, but for the best value.
    """
    means = setting.score == "means"
    families = list(MEANS if means else FAMILIES)
    seed = [families.index(setting.family), setting.d, setting.n, chunk]
    rng: Generator = np.random.default_rng(seed if setting.k == 1 else [*seed, setting.k])
    rows = np.full((CHUNK, 2, 4), np.nan)
    if not means:
        world = make_world(setting.family, setting.d)
        real = RealImages(make_reference(world, 20 * setting.d).features)
    for row in rows:
        if means:
            found = draw_means(setting, rng)
        else:
            ours, theirs = world.draw(rng, setting.n, setting.k, CORRELATION)
            captions = ours + world.draw_one(rng, setting.n)
            pair = [estimate(setting.score, x, captions, real, setting.groups) for x in (ours, theirs)]
            found = pair[0], paired_difference(*pair)
        for cells, one in zip(row, found, strict=True):
            cells[0] = one.debiased_value
            if one.caveat is None:
                cells[1:] = *one.interval(LEVEL), one.standard_error
    return rows


@dataclass(frozen=True)
class Row:
    """What the repetitions of one quantity came to; `printed` of them had an interval, which `covered` the truth."""

    score: str
    family: str
    d: int
    n: int
    per_prompt: int
    repetitions: int
    printed: int
    covered: int
    width: float
    bias: float
    verdict: str = ""

    @property
    def announced(self) -> float:
        """Share of repetitions without an interval."""
        return 1 - self.printed / self.repetitions

    @property
    def coverage(self) -> float:
        return self.covered / self.printed if self.printed else np.nan

    @property
    def pool(self) -> tuple[str, int, int, int]:
        """The setting, whatever the family."""
        return self.score, self.d, self.n, self.per_prompt


def summarise(setting: Setting, draws: Floats) -> Iterator[Row]:
    """Value and difference of a setting, draws (repetitions, 2, 4)."""
    truths = setting.truths or draws[:, :, 0].mean(axis=0)
    for name, truth, (best, low, high, error) in zip(
        (setting.score, f"{setting.score} difference"), truths, draws.transpose(1, 2, 0), strict=True
    ):
        meant = np.isfinite(error)
        covered, width, bias = int(((low <= truth) & (truth <= high) & meant).sum()), np.nan, np.nan
        if meant.sum() > 1:
            width = float(error[meant].mean() / best.std(ddof=1))
            bias = float((best[meant].mean() - truth) / error[meant].mean())
        yield Row(
            *(name, setting.family, setting.d, setting.n, setting.k, len(draws)),
            *(int(meant.sum()), covered, width, bias),
        )


def outside(printed: int, covered: int) -> float:
    """p-value of the hypothesis that coverage is within bounds."""
    low, high = binom.cdf(covered, printed, LOWEST), binom.sf(covered - 1, printed, HIGHEST)
    return float(min(1.0, low if covered < LEVEL * printed else high))


def judge(rows: list[Row]) -> list[Row]:
    """The rows with verdicts, from one Holm procedure over rows and pools of families."""
    members: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.announced <= ANNOUNCED:
            members[row.pool, row.family] = [row]
            if row.score.split()[0] != "means":  # whose families are different truths, not shapes of the same
                members.setdefault(row.pool, []).append(row)
    found = {key: outside(sum(r.printed for r in own), sum(r.covered for r in own)) for key, own in members.items()}
    rejected: set[tuple[object, ...]] = set()
    for tested, (key, p) in enumerate(sorted(found.items(), key=lambda item: item[1])):
        if p > ALARMS / (len(found) - tested):
            break
        rejected.add(key)

    def verdict(row: Row) -> str:
        if row.announced > ANNOUNCED:
            return "announced"
        if (row.pool, row.family) in rejected or row.pool in rejected:
            return "breach"
        return "holds" if LOWEST <= row.coverage <= HIGHEST else "within chance"

    return [replace(row, verdict=verdict(row)) for row in rows]


def to_markdown(rows: list[Row]) -> str:
    head = "| score | features | d | n | per prompt | repetitions | without | coverage | SE / empirical | bias / SE | |"
    lines = [head, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"]
    for row in rows:
        numbers = "".join(
            f" {'–' if np.isnan(x) else f'{x:{form}}'} |"
            for x, form in ((row.announced, ".0%"), (row.coverage, ".1%"), (row.width, ".2f"), (row.bias, "+.2f"))
        )
        lines.append(
            f"| {row.score} | {row.family} | {row.d} | {row.n} | {row.per_prompt} | {row.repetitions} |{numbers} "
            f"{row.verdict} |"
        )
    return "\n".join(lines) + "\n"


def load(out: Path, setting: Setting) -> list[Row]:
    chunks = [np.load(path) for path in sorted(folder(out, setting).glob("*.npy"))]
    return list(summarise(setting, np.concatenate(chunks))) if chunks else []


def write(out: Path) -> list[Row]:
    """Both tables, from all draws that are there."""
    rows = judge([row for setting in known_settings(out) for row in load(out, setting)])
    with (out / "coverage.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(Row.__dataclass_fields__), lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    (out / "coverage.md").write_text(title(rows) + to_markdown(rows), encoding="utf-8")
    return rows


def title(rows: list[Row]) -> str:
    """What the table says as a whole."""
    printed = [row for row in rows if row.verdict != "announced"]
    broken = [row for row in printed if row.verdict == "breach"]
    inside = sum(row.verdict == "holds" for row in printed)
    expected = sum(
        binom.cdf(np.ceil(LOWEST * row.printed) - 1, row.printed, LEVEL)
        + binom.sf(np.floor(HIGHEST * row.printed), row.printed, LEVEL)
        for row in printed
    )
    withheld = [row for row in rows if row.verdict == "announced" and row.printed]
    wrong = max(((row.printed - row.covered) / row.repetitions for row in withheld), default=0.0)
    pools = {row.pool for row in printed if not row.score.startswith("means")}
    return (
        "# Coverage of the nominal 95% intervals\n\n"
        f"{len(rows)} scores and differences, {len(printed)} of them with an interval in half of the repetitions or "
        f"more. Of these, {inside} cover between 93% and 97% as measured; {len(printed) - inside} are outside, where "
        f"{expected:.0f} would be by chance if all covered 95% exactly. Each row, and each of {len(pools)} settings "
        "with its families pooled, was tested against the bound that it is beyond, with Holm's procedure for all "
        f"together: {len(broken)} rows are outside by more than chance.\n\n"
        f"In {len(rows) - len(printed)} rows most repetitions print no interval (`without`). Those that are printed "
        "there are of the largest estimates and may cover less than they say; an interval that is printed and wrong is "
        f"rare all the same: at most {wrong:.1%} of the repetitions of a row.\n\n"
    )


def known_settings(out: Path) -> list[Setting]:
    """The settings that have draws."""
    found = []
    for path in (out / "draws").iterdir():
        score, rest = path.name.split("-", 1)
        family, d, n, k = rest.rsplit("-", 3)
        found.append(Setting(score, family, int(d[1:]), int(n[1:]), int(k[1:])))
    return sorted(found, key=lambda s: (s.k, s.d, s.n, s.score, [*FAMILIES, *MEANS].index(s.family)))


def folder(out: Path, setting: Setting) -> Path:
    return out / "draws" / f"{setting.score}-{setting.family}-d{setting.d}-n{setting.n}-k{setting.k}"


def add_chunks(out: Path, setting: Setting, repetitions: int) -> None:
    """Draw what is lacking."""
    folder(out, setting).mkdir(parents=True, exist_ok=True)
    for chunk in range(-(-repetitions // CHUNK)):
        path = folder(out, setting) / f"{chunk:04d}.npy"
        if not path.exists():
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, draw_chunk(setting, chunk))
            partial.replace(path)


def listed(kind: Callable[[str], object]) -> Callable[[str], list[object]]:
    return lambda text: [kind(part) for part in text.split(",")]


def all_settings(options: argparse.Namespace) -> Iterator[Setting]:
    """The requested scores, cheap ones first."""
    clusters = [(prompts * k, k) for prompts in options.prompts for k in options.per_prompt]
    if "means" in options.scores:
        sizes = [(n, 1) for n in (20, 32, 50, 64, 100, 200, 512)]
        yield from (Setting("means", family, 1, n, k) for n, k in [*sizes, *clusters] for family in MEANS)
    for score in options.scores:
        if score == "means":
            continue
        for d in options.dimensions:
            sizes = [(round(ratio * d), 1) for ratio in options.ratios]
            for n, k in [*([] if score in DIVERSITY else sizes), *(clusters if d <= 64 else [])]:
                if n <= options.most:
                    yield from (Setting(score, family, d, n, k) for family in options.families)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--scores", type=listed(str), default=["means", "clip", *DIVERSITY, *SCORES])
    parser.add_argument("--dimensions", type=listed(int), default=[16, 64, 192])
    parser.add_argument("--ratios", type=listed(float), default=[1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0])
    parser.add_argument("--families", type=listed(str), default=list(FAMILIES))
    parser.add_argument("--prompts", type=listed(int), default=[32, 64, 256], help="prompts with several images each")
    parser.add_argument("--per-prompt", type=listed(int), default=[4, 16])
    parser.add_argument("--most", type=int, default=10_000, help="images; settings with more are left out")
    parser.add_argument("--out", type=Path, default=Path("results/calibration"))
    parser.add_argument("--only-draw", action="store_true", help="leave the tables as they are")
    options = parser.parse_args()
    settings = list(all_settings(options))
    options.out.mkdir(parents=True, exist_ok=True)
    for setting in settings:
        add_chunks(options.out, setting, options.repetitions)
        print(*to_markdown(judge(load(options.out, setting))).splitlines()[2:], sep="\n", flush=True)
    if options.only_draw:
        return 0
    rows = write(options.out)
    return 1 if any(row.verdict == "breach" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
