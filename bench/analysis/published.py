"""Published numbers compared with measured ones, with every difference in protocol named."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.analysis.scoring import ScoredCell, cost_of
from bench.records.cell import plain_number
from bench.records.run import Run
from bench.records.score import split_score
from bench.score.estimate import Estimate
from bench.score.metrics import metric_of

TEXTS = ("model", "method", "metric", "prompts", "extractor", "source", "trust", "note")
SECONDS = "seconds_per_image"
SCALED = {"image_reward_x100": ("image_reward", 100.0), "pick_score_by_100": ("pick_score", 0.01)}
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


@dataclass(frozen=True, slots=True)
class Beside:
    """A published number and the cell that measured the same quantity; `differences` are those of the protocol.

    `measured` is None for seconds per image, of which `seconds` is the median.
    """

    published: Published
    cell: ScoredCell
    measured: Estimate | None
    seconds: float | None
    differences: tuple[str, ...]


def load_published() -> list[Published]:
    """Every number in results/published, file by file."""
    package = Path(__file__).parents[1]
    folder = next(
        (path for path in (package / "published", package.parent / "results" / "published") if path.is_dir()), None
    )
    kinds = {"images": int, "eta": float, "guidance": float, "pixels": int}
    found = []
    for path in sorted(folder.glob("*.csv")) if folder else ():
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                stated = {name: kind(row[name]) if row[name] else None for name, kind in kinds.items()}
                needed = {"steps": int(row["steps"]), "value": float(row["value"])}
                found.append(Published(**{name: row[name] for name in TEXTS}, **needed, **stated))  # type: ignore[arg-type]
    return found


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
                differences = tuple(_differences(run, cell, number, measured, name))
                found.append(Beside(number, cell, measured, seconds, differences))
    return found


def _fitting(short: str, number: Published, cell: ScoredCell) -> str | None:
    """Return the name of a cell's score that was published: by the same extractor if it has one, or its first."""
    names = [name for name in cell.estimates if split_score(name)[0] == short]
    return next((n for n in names if _plain(split_score(n)[1] or "") == _plain(number.extractor)), (*names, None)[0])


def _differences(
    run: Run, scored: ScoredCell, number: Published, measured: Estimate | None, score: str | None
) -> Iterator[str]:
    cell = scored.record.cell
    if measured is None or score is None:
        if scored.disturbed:
            yield f"our latency was disturbed: {scored.disturbed}"
        yield f"on {_machine(scored)}; theirs on {number.note.rpartition('; ')[2] or 'hardware not stated'}"
    else:
        if number.images != measured.n:
            yield f"{measured.n:,} images; theirs {f'{number.images:,}' if number.images else 'not stated'}"
        metric = metric_of(score)
        extractor = metric.network or metric.extractor
        if _plain(number.extractor) != _plain(extractor):
            yield f"extractor {extractor}; theirs {number.extractor or 'not stated'}"
        if protocol := run.protocols.get(metric.extractor):
            yield "prepared by " + ", ".join(f"{name} {value}" for name, value in protocol.items())
        source = str(run.settings["prompts"]["source"])
        if _plain(number.prompts) not in _plain(source):
            yield f"prompts {source}; theirs {number.prompts or 'not stated'}"
    if number.guidance is None:
        yield f"guidance {plain_number(cell.guidance_scale)}; theirs not stated"
    if number.eta is None and cell.eta is not None:
        yield f"η {plain_number(cell.eta)}; theirs not stated"
    if {cell.base.height, cell.base.width} != {number.pixels}:
        theirs = "not stated" if number.pixels is None else f"{number.pixels}×{number.pixels}"
        yield f"{cell.base.height}×{cell.base.width} pixels; theirs {theirs}"
    yield f"in {cell.base.dtype}"


def _machine(scored: ScoredCell) -> str:
    environment = scored.record.environment
    gpus = environment.get("gpus") or ()
    return str(gpus[0].get("name")) if gpus else str(environment.get("processor", "this machine"))


def _plain(text: str) -> str:
    """Return letters and digits only, to compare names."""
    return "".join(letter for letter in text.lower() if letter.isalnum())
