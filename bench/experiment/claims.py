"""Claims as YAML: the compared cells, the scores, and the expectation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.value_types import STRICT, Distinct, Eta, GuidanceScale, OneOrMore, ScoreName, Steps
from bench.records.run import Claim, Side


@dataclass(config=STRICT)
class SideChoice:
    """One side of a claim. An object that is matched by its cost has no steps."""

    method: str
    """Name of a method."""
    steps: Annotated[list[Steps], OneOrMore] = Field(default_factory=list)
    """Step counts; several are compared pairwise with those of the other side. None for an object that is found by its
    cost."""
    eta: Eta | None = None
    """Value of eta, where the method has several."""
    guidance_scale: GuidanceScale | None = None
    """Guidance scale, where the method has several."""


@dataclass(config=STRICT)
class ClaimChoice:
    """A claim as YAML: what is compared, by which metrics, and what is expected.

    One that is `optional` is left out where the grid lacks what it compares; any other claim is refused there.
    """

    text: str
    """The claim in words, as the report shows it."""
    subject: SideChoice
    """The side that is expected to win."""
    object: SideChoice
    """The side it is compared with."""
    metrics: Annotated[list[ScoreName], OneOrMore, Field(min_length=1), Distinct]
    """Scores that the claim is about; all of them must agree."""
    expect: Literal["better", "not_worse", "equivalent"] = "better"
    """What is expected of the subject."""
    equal: Literal["steps", "evaluations", "latency"] = "steps"
    """What both sides have in common: step counts, or cost. With a cost the object is its costliest cell that costs no
    more than the subject."""
    margins: dict[ScoreName, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Difference that counts, by score and in its unit: a better subject must win by more, one that is not worse may
    lose by less."""
    optional: bool = False
    """Leave the claim out, rather than refuse it, where the grid lacks what it compares."""

    def to_claim(self, name: str) -> Claim:
        """As the frozen data that records are judged with."""
        subject, other = (
            Side(side.method, tuple(side.steps), side.eta, side.guidance_scale) for side in (self.subject, self.object)
        )
        margins = {str(metric): margin for metric, margin in self.margins.items()}
        return Claim(name, self.text, subject, other, tuple(self.metrics), self.expect, margins, self.equal)


def claim_problems(name: str, claim: ClaimChoice) -> Iterator[str]:
    """Step counts that do not say which cells are compared, and margins that equivalence needs."""
    matched = claim.equal != "steps"
    if matched and claim.object.steps:
        yield (
            f"claims.{name}.object.steps={claim.object.steps} was given, but equal={claim.equal} finds the object by "
            "its cost; leave the steps out, or set equal=steps"
        )
    empty = [side for side in ("subject", *([] if matched else ["object"])) if not getattr(claim, side).steps]
    for side in empty:
        yield f"claims.{name}.{side}.steps=[] was given; give at least one step count, as in [2,4]"
    if not matched and not empty and len({len(side.steps) for side in (claim.subject, claim.object)} - {1}) > 1:
        yield (
            f"claims.{name}: {len(claim.subject.steps)} and {len(claim.object.steps)} step counts were given; "
            "they go pairwise, so give as many on either side, or one"
        )
    if claim.expect == "equivalent" and (open_ := [m for m in claim.metrics if not claim.margins.get(m)]):
        yield (
            f"claims.{name}.margins: none was given for {', '.join(open_)}; equivalence needs one above 0 for "
            "each metric"
        )


def what_the_grid_lacks(claim: ClaimChoice, methods: Mapping[str, Any], scores: Sequence[str]) -> Iterator[str]:
    """Of what a claim compares, what no cell of the grid has, each with what there is instead."""
    for side in ("subject", "object"):
        wanted: SideChoice = getattr(claim, side)
        method = methods.get(wanted.method)
        if method is None:
            yield f"{side}.method={wanted.method}: the grid has {', '.join(methods)}"
            continue
        steps = [count for count in method.steps if method.max_steps is None or count <= method.max_steps]
        if absent := [count for count in wanted.steps if count not in steps]:
            yield f"{side}.steps={absent}: {wanted.method} runs {steps}"
        for axis in ("eta", "guidance_scale"):
            value, there = getattr(wanted, axis), getattr(method, axis)
            if value is not None and value not in there:
                yield f"{side}.{axis}={value:g}: {wanted.method} has {there or 'none'}"
            elif value is None and len(there) > 1:
                yield f"{side}.{axis}, which was not given: {wanted.method} has {there}, say which"
    if unscored := [metric for metric in claim.metrics if metric not in scores]:
        yield f"metrics={unscored}: the scores are {[*scores]}"
