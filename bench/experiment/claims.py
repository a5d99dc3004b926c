"""Claims as YAML: the compared cells, the scores, and the expectation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.experiment.value_types import (
    STRICT,
    WITHOUT_INTERVAL,
    AnyNumber,
    Distinct,
    Eta,
    GuidanceOrBest,
    OneOrMore,
    ScoreName,
    Steps,
)
from bench.records.run import BEST, Claim, Side
from bench.records.score import split_score


@dataclass(config=STRICT)
class SideChoice:
    """One side of a claim. An object that is matched by its cost has no steps."""

    method: Annotated[list[str], OneOrMore, Field(min_length=1), Distinct]
    """Name of a method. Of several, the subject has to beat each (or each has to beat the object)."""
    steps: Annotated[list[Steps], OneOrMore] = Field(default_factory=list)
    """Step counts; several are compared pairwise with those of the other side. None for an object that is found by its
    cost."""
    eta: Eta | None = None
    """Value of eta, where the method has several."""
    guidance_scale: GuidanceOrBest | None = None
    """Guidance scale, where the method has several; `best`: of each method and for each score the best one of the grid,
    chosen on one half of the prompts and judged on the other, both ways."""
    model: str | None = None
    """Name of the base model, where the two sides are of different models; given on both sides or on none."""

    def to_side(self) -> Side:
        """As frozen data; one method is a plain name."""
        method = self.method[0] if len(self.method) == 1 else tuple(self.method)
        return Side(method, tuple(self.steps), self.eta, self.guidance_scale, self.model)


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
    models: Annotated[list[str], AnyNumber, Distinct] = Field(default_factory=list)
    """Base models that the claim is about, by default all of the run. It holds if it does for each of them."""
    each_model: bool = False
    """Make it a separate claim for each of these models, named after both; one is left out, with the reason, for a
    model without an adapter that a side needs."""
    source: str | None = None
    """Who states it: a paper with its table, a guide; for display."""
    published: str | None = None
    """What was published about it, in numbers or in words; for display."""
    optional: bool = False
    """Leave the claim out, rather than refuse it, where the grid lacks what it compares."""

    def to_claim(self, name: str) -> Claim:
        """As the frozen data that records are judged with."""
        subject, other = self.subject.to_side(), self.object.to_side()
        margins = {str(metric): margin for metric, margin in self.margins.items()}
        compared = subject, other, tuple(self.metrics), self.expect, margins, self.equal, tuple(self.models)
        return Claim(name, self.text, *compared, self.source or "", self.published or "")


def claim_problems(name: str, claim: ClaimChoice) -> Iterator[str]:
    """Sides that do not say which cells are compared, and margins that equivalence needs."""
    matched = claim.equal != "steps"
    sides_models = [side.model for side in (claim.subject, claim.object) if side.model is not None]
    if len(sides_models) == 1:
        yield f"claims.{name}: one side has model={sides_models[0]}, the other none; give a model on both, or on none"
    elif sides_models and (claim.models or claim.each_model):
        yield f"claims.{name}.models and each_model do not go with sides that name their models; omit them"
    if matched and claim.subject.guidance_scale == BEST:
        yield (
            f"claims.{name}.subject.guidance_scale=best was given, but equal={claim.equal} needs one cost of the "
            "subject; give the number, or set equal=steps"
        )
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
    if vague := [metric for metric in claim.metrics if split_score(metric)[0] in WITHOUT_INTERVAL]:
        yield (
            f"claims.{name}.metrics={' and '.join(vague)} was given, but such a score has no interval, so that it "
            "decides no claim; name it in scores alone, and claim precision or density instead"
        )
    if claim.expect == "equivalent" and (open_ := [m for m in claim.metrics if not claim.margins.get(m)]):
        yield (
            f"claims.{name}.margins: none was given for {', '.join(open_)}; equivalence needs one above 0 for "
            "each metric"
        )


def claims_of_models(
    claims: Mapping[str, ClaimChoice], models: Mapping[str, Any], methods: Mapping[str, Any]
) -> tuple[dict[str, ClaimChoice], list[str]]:
    """Return the claims, with one for each model where `each_model` says so, and those left out with the reason."""
    found, left_out = dict[str, ClaimChoice](), list[str]()
    for name, claim in claims.items():
        if not claim.each_model:
            found[name] = claim
            continue
        for model in claim.models or models:
            own = replace(claim, text=f"{claim.text}, on {model}", models=[model], each_model=False)
            if lacking := [*_absent_adapters(own, models, methods)]:
                left_out.append(f"{name}_{model} ({lacking[0]})")
            else:
                found[f"{name}_{model}"] = own
    return found, left_out


def _absent_adapters(claim: ClaimChoice, models: Mapping[str, Any], methods: Mapping[str, Any]) -> Iterator[str]:
    """Of a claim about named models, the methods that one of them has no adapter for, or that do not run on it."""
    methods_of = (*claim.subject.method, *claim.object.method)
    sides = [(side.model, method) for side in (claim.subject, claim.object) for method in side.method if side.model]
    for model, method in (*product(claim.models, methods_of), *sides):
        if model not in models or method not in methods:
            continue
        if methods[method].models and model not in methods[method].models:
            yield f"{method} does not run on {model}"
        needed = methods[method].adapter
        if absent := [name for name in needed if name not in models[model].adapters]:
            yield f"{model} has no adapter named {', '.join(absent)}"


def what_the_grid_lacks(
    claim: ClaimChoice, models: Mapping[str, Any], methods: Mapping[str, Any], scores: Sequence[str]
) -> Iterator[str]:
    """Of what a claim compares, what no cell of the grid has, each with what there is instead."""
    if unknown := [model for model in claim.models if model not in models]:
        yield f"models={unknown}: the grid has {', '.join(models)}"
    for name in ("subject", "object"):
        if (wanted := getattr(claim, name).model) is not None and wanted not in models:
            yield f"{name}.model={wanted}: the grid has {', '.join(models)}"
    yield from _absent_adapters(claim, models, methods)
    for name in ("subject", "object"):
        side: SideChoice = getattr(claim, name)
        for wanted in side.method:
            if wanted in methods:
                yield from _absent_values(name, side, wanted, methods[wanted])
            else:
                yield f"{name}.method={wanted}: the grid has {', '.join(methods)}"
    if unscored := [metric for metric in claim.metrics if metric not in scores]:
        yield f"metrics={unscored}: the scores are {[*scores]}"


def _absent_values(name: str, side: SideChoice, wanted: str, method: Any) -> Iterator[str]:
    steps = [count for count in method.steps if method.max_steps is None or count <= method.max_steps]
    if absent := [count for count in side.steps if count not in steps]:
        yield f"{name}.steps={absent}: {wanted} runs {steps}"
    for axis in ("eta", "guidance_scale"):
        value, there = getattr(side, axis), getattr(method, axis)
        if value is not None and value not in (BEST, *there):
            yield f"{name}.{axis}={value:g}: {wanted} has {there or 'none'}"
        elif value is None and len(there) > 1:
            say = "say which, or best" if axis == "guidance_scale" else "say which"
            yield f"{name}.{axis}, which was not given: {wanted} has {there}, {say}"
