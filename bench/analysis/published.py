"""Published numbers compared with measured ones, with every difference in protocol named, and a verdict.

A number is comparable where nothing that is stated differs and where what its score depends on most is stated: eta, and
for scores by an extractor that extractor. Fréchet and kernel distances also need the same number of images. Both
numbers are estimates, each over other prompts, so that the error of their difference is that of ours times
sqrt(1 + n / m) for n of our images and m of theirs. A comparable number is

- "reproduced" within 1.96 of these errors, the rounding of what was published, and the spread of one protocol,
- "not comparable" beyond that, but within the spread between tools, where that is known: such differences were seen for
  the same model,
- "different" elsewhere.

Spreads are data with their sources: results/published/spread.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt
from pathlib import Path

from bench.analysis.scoring import ScoredCell, cost_of
from bench.records.cell import plain_number
from bench.records.run import Run
from bench.records.score import split_score
from bench.score.estimate import Estimate
from bench.score.metrics import Metric, metric_of

TEXTS = ("model", "method", "metric", "prompts", "extractor", "source", "trust", "note")
SECONDS = "seconds_per_image"
SPREADS = "spread.csv"
SCALED = {
    "image_reward_x100": ("image_reward", 100.0),
    "pick_score_by_100": ("pick_score", 0.01),
    "clip_similarity": ("clip_score", 0.01),
}
"""Scores that were published with a factor: the score, and the factor."""


@dataclass(frozen=True, slots=True)
class Published:
    """One published number. `trust` is "primary" where the method's own authors published it, else "secondary".

    Eta, guidance scale and side of the images in pixels are None where the source does not state them.
    """

    model: str
    method: str
    steps: int
    metric: str
    value: float
    images: int | None
    prompts: str
    extractor: str
    source: str
    trust: str
    note: str
    eta: float | None = None
    guidance: float | None = None
    pixels: int | None = None
    rounding: float = 0.0
    """Half a unit of the last published digit."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How far numbers of a score lay apart for the same model: in one protocol, and between tools, with the sources.

    As shares of the published number where they are `relative`, else in the unit of the score.
    """

    one_protocol: float
    between_tools: float
    relative: bool
    source: str

    def of(self, number: float, factor: float) -> tuple[float, float]:
        """Return both at a published number, in its unit, which is `factor` times the score's."""
        scale = abs(number) if self.relative else factor
        return self.one_protocol * scale, self.between_tools * scale


@dataclass(frozen=True, slots=True)
class Beside:
    """A published number and the cell that measured the same quantity; `differences` are those of the protocol.

    `verdict` is "reproduced", "different" or "not comparable", which `reason` explains. `measured` is None for seconds
    per image, of which `seconds` is the median.
    """

    published: Published
    cell: ScoredCell
    measured: Estimate | None
    seconds: float | None
    verdict: str
    reason: str
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Difference:
    """A difference of protocols; `forbids` says that numbers cannot be compared across it."""

    text: str
    forbids: bool = False


def load_published() -> list[Published]:
    """Every number in results/published, file by file."""
    kinds = {"images": int, "eta": float, "guidance": float, "pixels": int}
    found = []
    for name in sorted({path.name for path in _folder().glob("*.csv")} - {SPREADS}):
        for row in _rows(name):
            stated = {name: kind(row[name]) if row[name] else None for name, kind in kinds.items()}
            digits = len(row["value"].partition(".")[2])
            needed = {"steps": int(row["steps"]), "value": float(row["value"]), "rounding": 0.5 / 10**digits}
            found.append(Published(**{name: row[name] for name in TEXTS}, **needed, **stated))  # type: ignore[arg-type]
    return found


@cache
def load_spreads() -> dict[str, Spread]:
    """Known spreads by score."""
    return {
        row["metric"]: Spread(
            float(row["one_protocol"]), float(row["between_tools"]), row["relative"] == "yes", row["source"]
        )
        for row in _rows(SPREADS)
    }


def _folder() -> Path:
    """Return the folder of the installed package, or that of the repository."""
    package = Path(__file__).parents[1]
    installed = package / "published"
    return installed if installed.is_dir() else package.parent / "results" / "published"


def _rows(name: str) -> list[dict[str, str]]:
    with (_folder() / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def set_beside(run: Run, cells: Sequence[ScoredCell], published: Sequence[Published]) -> list[Beside]:
    """Return every published number that a cell of the run measured too: same model, method, steps and score.

    Eta and guidance scale must be equal where they are stated; otherwise the differences mention them.
    """
    found = []
    for number in published:
        for cell in cells:
            own = cell.record.cell
            if (own.base.name, own.method, own.steps) != (number.model, number.method, number.steps) or own.cost_only:
                continue
            if number.eta not in (None, own.eta) or number.guidance not in (None, own.guidance_scale):
                continue
            score, factor = SCALED.get(number.metric, (number.metric, 1.0))
            name = _fitting(score, number, cell)
            measured = cell.estimates[name].scaled(factor) if name else None
            seconds = cost_of(cell.record, "latency") if number.metric == SECONDS else None
            if measured is not None or seconds is not None:
                differences = list(_differences(run, cell, number, measured, name))
                verdict, reason = _judge(number, measured, score, factor, differences)
                told = tuple(difference.text for difference in differences)
                found.append(Beside(number, cell, measured, seconds, verdict, reason, told))
    return found


def _judge(
    number: Published, measured: Estimate | None, score: str, factor: float, differences: Sequence[_Difference]
) -> tuple[str, str]:
    """Return the verdict and its reason."""
    if forbidding := [difference.text for difference in differences if difference.forbids]:
        return "not comparable", "; ".join(forbidding)
    if measured is None or measured.caveat:
        return "not comparable", f"no interval: {measured.caveat}" if measured else "times of two machines"
    theirs = number.images or measured.n
    error = 1.96 * measured.standard_error * sqrt(1 + measured.n / theirs) + number.rounding
    known = load_spreads().get(score)
    within, between = known.of(number.value, factor) if known else (0.0, 0.0)
    apart = abs(measured.value - number.value)
    spread = f"{error:.3g} of both samples and rounding" + (f", {within:.3g} of one protocol" if within else "")
    if apart <= error + within:
        return "reproduced", f"{apart:.3g} apart, within {spread}"
    if known and apart <= error + between:
        return "not comparable", f"{apart:.3g} apart, as far as tools differ for one model ({known.source})"
    return "different", f"{apart:.3g} apart, beyond {spread}" + (f", {between:.3g} between tools" if between else "")


def _fitting(short: str, number: Published, cell: ScoredCell) -> str | None:
    """Return the name of a cell's score that was published: by the same extractor if it has one, or its first."""
    names = [name for name in cell.estimates if split_score(name)[0] == short]
    return next((n for n in names if _plain(split_score(n)[1] or "") == _plain(number.extractor)), (*names, None)[0])


def _differences(
    run: Run, scored: ScoredCell, number: Published, measured: Estimate | None, score: str | None
) -> Iterator[_Difference]:
    cell = scored.record.cell
    if measured is None or score is None:
        if scored.disturbed:
            yield _Difference(f"our latency was disturbed: {scored.disturbed}", forbids=True)
        hardware = number.note.rpartition("; ")[2] or "hardware not stated"
        yield _Difference(f"on {_machine(scored)}; theirs on {hardware}", forbids=True)
    else:
        yield from _differences_of_scores(run, number, measured, metric_of(score))
    if number.guidance is None:
        yield _Difference(f"guidance {plain_number(cell.guidance_scale)}; theirs not stated")
    if number.eta is None and cell.eta is not None:
        yield _Difference(f"η {plain_number(cell.eta)}; theirs not stated", forbids=True)
    if {cell.base.height, cell.base.width} != {number.pixels}:
        theirs = "not stated" if number.pixels is None else f"{number.pixels}×{number.pixels}"
        ours = f"{cell.base.height}×{cell.base.width} pixels"
        yield _Difference(f"{ours}; theirs {theirs}", forbids=number.pixels is not None)
    yield _Difference(f"in {cell.base.dtype}")


def _differences_of_scores(run: Run, number: Published, measured: Estimate, metric: Metric) -> Iterator[_Difference]:
    """Differences in images, extractor, prompts and reference."""
    if number.images != measured.n:
        theirs = f"{number.images:,}" if number.images else "not stated"
        yield _Difference(f"{measured.n:,} images; theirs {theirs}", forbids=metric.needs_reference)
    extractor = metric.network or metric.extractor
    if _plain(number.extractor) != _plain(extractor) and (number.extractor or not metric.network):
        yield _Difference(f"extractor {extractor}; theirs {number.extractor or 'not stated'}", forbids=True)
    if protocol := run.protocols.get(metric.extractor):
        yield _Difference("prepared by " + ", ".join(f"{name} {value}" for name, value in protocol.items()))
    source = str(run.settings["prompts"]["source"])
    if not number.prompts or any(_plain(word) not in _plain(source) for word in number.prompts.split()):
        theirs = number.prompts or "not stated"
        yield _Difference(f"prompts {source}; theirs {theirs}", forbids=bool(number.prompts))
    if metric.needs_reference:
        reference = run.settings["reference"]
        yield _Difference(f"reference {reference['count']:,} images of {reference['source']}; theirs not stated")


def _machine(scored: ScoredCell) -> str:
    environment = scored.record.environment
    gpus = environment.get("gpus") or ()
    return str(gpus[0].get("name")) if gpus else str(environment.get("processor", "this machine"))


def _plain(text: str) -> str:
    """Return letters and digits only, to compare names."""
    return "".join(letter for letter in text.lower() if letter.isalnum())
