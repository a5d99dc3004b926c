"""The request as frozen data: a run with its claims and everything a report needs, and the limits of a gate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, Self

from bench.records.cell import LATER, Cell, plain, plain_number
from bench.records.record import SCHEMA_VERSION, check_schema, to_tuples

BEST = "best"
"""In place of a guidance scale: the one of the grid that is best for the score."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a claim: the cells it selects. None marks a value that the method does not vary.

    Several methods are members that are compared one by one. The guidance scale may be `BEST`. `model` is the base
    model where a claim compares two of them.
    """

    method: str | tuple[str, ...]
    steps: tuple[int, ...]
    eta: float | None = None
    guidance_scale: float | str | None = None
    model: str | None = field(default=None, metadata=LATER)

    @property
    def tuned(self) -> bool:
        """Whether its guidance scale is to be chosen."""
        return self.guidance_scale == BEST

    @property
    def members(self) -> tuple[Side, ...]:
        """One side for each method."""
        methods = (self.method,) if isinstance(self.method, str) else self.method
        return tuple(replace(self, method=method) for method in methods)

    def fits(self, cell: Cell) -> bool:
        """Whether a cell has this method (or one of these), eta and guidance scale, at any step count."""
        return (
            cell.method in ((self.method,) if isinstance(self.method, str) else self.method)
            and self.model in (None, cell.base.name)
            and self.eta in (None, cell.eta)
            and self.guidance_scale in (None, BEST, cell.guidance_scale)
        )

    def label(self, steps: int | None) -> str:
        """Return a display name: `tcd 4 steps eta 0.3`, `ddim 4 steps, best guidance`."""
        methods = self.method if isinstance(self.method, str) else " or ".join(self.method)
        eta = "" if self.eta is None else f" eta {plain_number(self.eta)}"
        scale = ", best guidance" if self.tuned else ""
        if isinstance(self.guidance_scale, float | int):
            scale = f" guidance {plain_number(self.guidance_scale)}"
        return f"{methods}{'' if steps is None else f' {steps} steps'}{eta}{scale}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement about records. The subject is expected to be "better" than the object, "not_worse" or "equivalent".

    `equal` names what the two sides have in common. "steps": step counts are compared pairwise (one count is compared
    with every count of the other side). "evaluations" or "latency": the object has no step counts; it is taken at the
    costliest cell that costs no more than the subject's, in denoiser evaluations or in measured seconds per image.
    `margins` maps a metric to the smallest relevant difference, in the metric's unit: a better subject must win by
    more, a not-worse subject may lose by less, an equivalent subject may do neither by more. Of several methods on a
    side each has to hold. A guidance scale that is `BEST` is chosen by method, step count and metric. `models` are the
    base models that it is about, all of the run where none is named; sides that name their models compare these two.
    `source` is who states it, and `published` the numbers that were published about it, both for display.
    """

    name: str
    text: str
    subject: Side
    object: Side
    metrics: tuple[str, ...]
    expect: str
    margins: Mapping[str, float] = field(default_factory=dict)
    equal: str = "steps"
    models: tuple[str, ...] = ()
    source: str = ""
    published: str = ""

    @property
    def stated(self) -> str:
        """What was published, and where; empty where neither is known."""
        return "; ".join(filter(None, (self.published, self.source)))

    @property
    def between_models(self) -> str:
        """The two base models that the sides name; empty where both sides are of one model."""
        sides = (self.subject.model, self.object.model)
        return " and ".join(dict.fromkeys(filter(None, sides)))

    def steps(self) -> list[tuple[int, int | None]]:
        """Return the compared step counts, subject's and object's; None where the object is found by its cost."""
        mine, yours = self.subject.steps, self.object.steps
        if self.equal != "steps":
            return [(count, None) for count in mine]
        return [(mine[0] if a is None else a, yours[0] if b is None else b) for a, b in zip_longest(mine, yours)]

    def may_compare(self, cell: Cell) -> bool:
        """Whether the claim may be about a cell, which its costs decide where the object is found by them."""
        sides = (side for pair in self.steps() for side in zip((self.subject, self.object), pair, strict=True))
        return (not self.models or cell.base.name in self.models) and any(
            side.fits(cell) and steps in (None, cell.steps) for side, steps in sides
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `plain`, from JSON."""
        values = to_tuples(data)
        return cls(**{**values, **{side: Side(**to_tuples(values[side])) for side in ("subject", "object")}})


@dataclass(frozen=True, slots=True)
class Run:
    """The request: all that a report needs besides the records.

    `cells` are keys in the plan's order; `left_out` holds label and reason of each combination that makes no sense.
    `prompts` are those of the images of a cell, one per image; where a prompt has several images they are consecutive.
    A cell that no open claim needed may have fewer images, of the first of these prompts.
    `metrics` are the names of the scores, as in `fid@mini`. `features` identifies what computes each set of features,
    by content: extractors by their names, `pixels`, and the networks of single scores. `real_images` identifies the
    reference images (None where no metric needs them), `references` their features, by extractor. `protocols` describes
    how each extractor prepares images: resizer, antialias, crop, size, dtype. `looks` are the shares of the planned
    images at which claims were judged so far, this run's own last; a single look at everything unless the run continues
    until its claims are decided. `earlier_looks` are those at earlier plans in the same directory, in order of time:
    the number of images, and the number planned.
    """

    name: str
    settings: Mapping[str, Any]
    cells: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    prompts: tuple[str, ...]
    labels: Mapping[str, str]
    metrics: tuple[str, ...]
    claims: tuple[Claim, ...]
    features: Mapping[str, str]
    real_images: str | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    protocols: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    looks: tuple[float, ...] = (1.0,)
    earlier_looks: tuple[tuple[int, int], ...] = ()
    schema: int = SCHEMA_VERSION

    @property
    def images_per_prompt(self) -> int:
        """How many consecutive images have the same prompt."""
        return int(self.settings.get("prompts", {}).get("images_per_prompt", 1))

    @property
    def sample(self) -> str:
        """The images of a cell in words: "512 images", or "512 images of 64 prompts"."""
        images, prompts = len(self.prompts), len(set(self.prompts))
        of_prompts = "" if prompts == images else f" of {prompts:,} prompt{'s' if prompts != 1 else ''}"
        return f"{images:,} image{'s' if images != 1 else ''}{of_prompts}"

    def history(self, images: int) -> tuple[tuple[int, int], ...]:
        """Return all looks in order of time up to the one at a number of images per cell, of this run by default last.

        Where cells have different numbers of images, what is judged at fewer has not been looked at with more; but all
        looks at fewer count, made or not (see `bench.analysis.sequential`).
        """
        planned = round(len(self.prompts) / self.looks[-1])
        own = [(count, planned) for share in self.looks if (count := round(share * planned)) <= images]
        if not own or own[-1][0] != images:  # not a look of this run
            planned = round(images / self.looks[-1])
            own = [(round(share * planned), planned) for share in self.looks]
        return (*self.earlier_looks, *own)

    def to_json(self) -> str:
        """Return indented JSON, which is readable as text."""
        return json.dumps(plain(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the output of `to_json`; raises BenchError for another schema version."""
        data = to_tuples(json.loads(text))
        check_schema(data, "run.json")
        data["left_out"] = tuple((label, reason) for label, reason in data["left_out"])
        data["earlier_looks"] = tuple((images, planned) for images, planned in data.get("earlier_looks", ()))
        data["claims"] = tuple(Claim.from_dict(claim) for claim in data["claims"])
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Limit:
    """How much worse a number may be before it counts: by more than both a share of the old value and an amount."""

    relative: float
    """As a share of the old value."""
    absolute: float
    """In the unit of the value."""

    def of(self, before: float) -> float:
        """Return the tolerated loss, in the number's own unit."""
        return max(self.relative * abs(before), self.absolute)


@dataclass(frozen=True, slots=True)
class Movement:
    """How far an image may move, and what share of a cell's images may move farther."""

    displacement: float
    """How far an image may move; 1 is the distance to the image of another prompt."""
    share: float
    """Share of the images of a cell that may move farther."""


@dataclass(frozen=True, slots=True)
class CostLimits:
    """Limits of seconds per image in two runs, of seconds and joules per image of two interleaved sides, of bytes."""

    latency: Limit
    """Seconds per image, of two separate runs."""
    latency_interleaved: Limit
    """Seconds per image, of two sides that are timed interleaved."""
    memory: Limit
    """Bytes."""
    energy: Limit = Limit(0.05, 0.0)
    """Joules per image, of two sides that are timed interleaved on a GPU."""
