"""Claims as YAML: which cells are compared, by which scores, and what is expected."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.values import STRICT, Eta, GuidanceScale, OneOrMore, ScoreName, Steps
from bench.records import BenchError
from bench.request import Claim, Side


@dataclass(config=STRICT)
class SideChoice:
    """One side of a claim. An object that is matched by its cost has no steps."""

    method: str
    steps: Annotated[list[Steps], OneOrMore] = Field(default_factory=list)
    eta: Eta | None = None
    guidance_scale: GuidanceScale | None = None

    def to_side(self) -> Side:
        """As the frozen data that records are judged with."""
        return Side(self.method, tuple(self.steps), self.eta, self.guidance_scale)


@dataclass(config=STRICT)
class ClaimChoice:
    """A claim as YAML: what is compared, by which metrics, and what is expected."""

    text: str
    subject: SideChoice
    object: SideChoice
    metrics: Annotated[list[ScoreName], OneOrMore, Field(min_length=1)]
    expect: Literal["better", "not_worse", "equivalent"] = "better"
    equal: Literal["steps", "evaluations", "latency"] = "steps"
    margins: dict[ScoreName, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)

    def to_claim(self, name: str) -> Claim:
        """As the frozen data that records are judged with."""
        sides = self.subject.to_side(), self.object.to_side()
        return Claim(
            name,
            self.text,
            *sides,
            tuple(self.metrics),
            self.expect,
            {str(metric): margin for metric, margin in self.margins.items()},
            self.equal,
        )


def check_sides(name: str, claim: ClaimChoice) -> None:
    """Refuse step counts that do not say which cells are compared."""
    matched = claim.equal != "steps"
    if matched and claim.object.steps:
        raise BenchError(
            f"claims.{name}.object.steps={claim.object.steps} was given, but equal={claim.equal} finds the object by "
            "its cost; leave the steps out, or set equal=steps"
        )
    for side in ("subject",) if matched else ("subject", "object"):
        if not getattr(claim, side).steps:
            raise BenchError(f"claims.{name}.{side}.steps=[] was given; give at least one step count, as in [2,4]")
    if not matched and len({len(side.steps) for side in (claim.subject, claim.object)} - {1}) > 1:
        raise BenchError(
            f"claims.{name}: {len(claim.subject.steps)} and {len(claim.object.steps)} step counts were given; "
            "they go pairwise, so give as many on either side, or one"
        )
