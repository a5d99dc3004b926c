"""The experiment as typed, checked data; what cannot run is refused here, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.records import BenchError
from bench.request import Claim, Side

_T = TypeVar("_T")
_STRICT = ConfigDict(extra="forbid", frozen=True)


def _listed(value: object) -> object:
    """One value stands for a list of one."""
    return value if isinstance(value, list | tuple) or value is None else [value]


_OneOrMore = BeforeValidator(_listed)
_AnyNumber = BeforeValidator(lambda value: _listed(value) or [])
Steps = Annotated[int, Field(ge=1, le=1000)]
Eta = Annotated[float, Field(ge=0, le=1)]
GuidanceScale = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
ScoreName = Literal["fid", "kid", "clip_score", "attribute_accuracy"]
SCORES: tuple[ScoreName, ...] = ("fid", "kid", "clip_score", "attribute_accuracy")


@dataclass(config=_STRICT)
class AdapterChoice:
    """Where a base model's adapter of some name comes from."""

    source: str
    file: str = "pytorch_lora_weights.safetensors"
    scale: float = 1.0
    revision: str | None = None


@dataclass(config=_STRICT)
class Model:
    """A base model: a directory or hub id with its noise schedule, and the adapters that fit it.

    `mirrors` are other hub ids of the same weights, for a repository that is gone.
    `channels_last` lays out the denoiser's and the VAE's tensors with channels last, which is faster on many devices.
    `cost_s` notes what one image costs the denoiser once, in seconds by kind of device, for `plan` to estimate with.
    """

    source: str
    height: Count
    width: Count
    noise_schedule: dict[str, Any]
    pipeline: str = "StableDiffusionPipeline"
    mirrors: list[str] = Field(default_factory=list)
    revision: str | None = None
    variant: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    channels_last: bool = False
    adapters: dict[str, AdapterChoice] = Field(default_factory=dict)
    cost_s: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)


@dataclass(config=_STRICT)
class Method:
    """A scheduler with its own axes. Lists are axes; `eta` stays empty where the scheduler has none.

    `adapter` names what is laid over the base model: none, one, or several together.
    """

    label: str
    scheduler: dict[str, Any]
    steps: Annotated[list[Steps], _OneOrMore, Field(min_length=1)]
    guidance_scale: Annotated[list[GuidanceScale], _OneOrMore, Field(min_length=1)]
    eta: Annotated[list[Eta], _OneOrMore] = Field(default_factory=list)
    adapter: Annotated[list[str], _AnyNumber] = Field(default_factory=list)
    fused: bool = True
    max_steps: int | None = None
    role: Literal["student", "teacher", "reference"] = "teacher"


@dataclass(config=_STRICT)
class Prompts:
    """The prompts: `world` (the procedural world's captions) or a UTF-8 text file with one prompt a line."""

    source: str = "world"
    count: Count = 512


@dataclass(config=_STRICT)
class Reference:
    """The real images that Fréchet and kernel distances compare with: `world`, or a folder of images."""

    source: str = "world"
    count: Count = 2048


@dataclass(config=_STRICT)
class EvaluatorChoice:
    """The OpenCLIP model that images are scored with; its `name` becomes part of every score's name."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] = "mini"
    source: str = "bench://mini/weights/evaluator"


@dataclass(config=_STRICT)
class Measure:
    """How latency and memory are measured: each in a pass of its own, apart from sampling for quality."""

    latency: bool = True
    repeats: Count = 5
    warmup: Annotated[int, Field(ge=0)] = 1
    batch_size: Count = 1
    memory: bool = True


@dataclass(config=_STRICT)
class SideChoice:
    """One side of a claim. An object that is matched by its cost has no steps."""

    method: str
    steps: Annotated[list[Steps], _OneOrMore] = Field(default_factory=list)
    eta: Eta | None = None
    guidance_scale: GuidanceScale | None = None

    def to_side(self) -> Side:
        """As the frozen data that records are judged with."""
        return Side(self.method, tuple(self.steps), self.eta, self.guidance_scale)


@dataclass(config=_STRICT)
class ClaimChoice:
    """A claim as YAML: what is compared, by which metrics, and what is expected."""

    text: str
    subject: SideChoice
    object: SideChoice
    metrics: Annotated[list[ScoreName], _OneOrMore, Field(min_length=1)]
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


@dataclass(config=_STRICT)
class Experiment:
    """Base models × methods × steps × eta, with what is sampled, measured and scored."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    models: dict[str, Model]
    methods: dict[str, Method]
    results: str
    task: Literal["text_to_image"] = "text_to_image"
    prompts: Prompts = Field(default_factory=Prompts)
    reference: Reference = Field(default_factory=Reference)
    evaluator: EvaluatorChoice = Field(default_factory=EvaluatorChoice)
    measure: Measure = Field(default_factory=Measure)
    scores: Annotated[list[ScoreName], _OneOrMore] = Field(default_factory=lambda: [*SCORES])
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 64
    lanes: Count = 1
    device: str = "auto"
    keep: Literal["all", "grid"] = "all"
    strict: bool = False
    claims: dict[str, ClaimChoice] = Field(default_factory=dict)


def check_settings(kind: type[_T], settings: Mapping[str, Any]) -> _T:
    """Plain settings as typed data; raises BenchError, in one sentence, for the first thing that is wrong."""
    try:
        return TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("missing", "missing_argument"):
            raise BenchError(f"{where} was not given; it has no default, so set it") from error
        raise BenchError(f"{where}={_brief(first['input'])} was given; {_allowed(first)}") from error


def check_experiment(settings: Mapping[str, Any]) -> Experiment:
    """Return the experiment that plain settings describe; raises BenchError naming the first thing that is wrong."""
    experiment = check_settings(Experiment, settings)
    for kind in ("models", "methods"):
        if not getattr(experiment, kind):
            raise BenchError(f"{kind}: none was chosen; name at least one, as in {kind[:-1]}=[{_EXAMPLES[kind]}]")
    for name, method in experiment.methods.items():
        if not isinstance(method.scheduler.get("_target_"), str):
            raise BenchError(
                f"methods.{name}.scheduler: no _target_ was given; name a class, such as diffusers.TCDScheduler"
            )
    for name, claim in experiment.claims.items():
        _check_sides(name, claim)
        if claim.equal == "latency" and not experiment.measure.latency:
            raise BenchError(f"claims.{name}.equal=latency needs measured latencies; set measure.latency=true")
        if claim.expect == "equivalent" and (open_ := [m for m in claim.metrics if not claim.margins.get(m)]):
            raise BenchError(
                f"claims.{name}.margins: none was given for {', '.join(open_)}; equivalence needs one above 0 for "
                "each metric"
            )
        if absent := [metric for metric in claim.metrics if metric not in experiment.scores]:
            raise BenchError(
                f"claims.{name}.metrics={absent} was given, but scores={experiment.scores} leaves that out; add it to "
                "scores, or leave the claim out"
            )
    return experiment


_EXAMPLES = {"models": "mini", "methods": "tcd,dpmpp_2s"}


def _check_sides(name: str, claim: ClaimChoice) -> None:
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


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _allowed(error: Mapping[str, Any]) -> str:
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return "there is no such setting: remove it, or look at --help for its right name"
    if error["type"] == "too_short":
        return "it takes at least one value"
    message = str(error["msg"])
    return message[:1].lower() + message[1:]
