"""The experiment as typed, checked data; what cannot run is refused here, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.experiment.claims import ClaimChoice, check_sides
from bench.experiment.executors import Executor, Local
from bench.experiment.tasks import Task, TextToImage, check_task
from bench.experiment.trackers import TrackerChoice
from bench.experiment.values import (
    SCORES,
    STRICT,
    AnyNumber,
    Count,
    Eta,
    GuidanceScale,
    JudgeName,
    Lanes,
    OneOrMore,
    ScoreName,
    Steps,
)
from bench.records import BenchError

_T = TypeVar("_T")


@dataclass(config=STRICT)
class AdapterChoice:
    """Where a base model's adapter of some name comes from."""

    source: str
    file: str = "pytorch_lora_weights.safetensors"
    scale: float = 1.0
    revision: str | None = None


@dataclass(config=STRICT)
class PartChoice:
    """Where a model beside the base comes from; `file` is for one that is a single file."""

    source: str
    revision: str | None = None
    variant: str | None = None
    subfolder: str | None = None
    file: str | None = None


@dataclass(config=STRICT)
class Levers:
    """What trades time for memory or the reverse; each is part of a cell's identity.

    `offload` keeps on a GPU only the model that works ("model") or layer ("sequential"). `vae_slicing` decodes image by
    image, `vae_tiling` tile by tile, `vae_upcast` in float32 (SDXL's own VAE overflows in float16). `compile` compiles
    the denoiser and the VAE's decoder. `attention` names one of diffusers' attention backends.
    """

    offload: Literal["none", "model", "sequential"] = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False
    vae_upcast: bool = False
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = "none"
    attention: str | None = None


@dataclass(config=STRICT)
class Model:
    """A base model: a directory or hub id with its noise schedule, and the adapters that fit it.

    `mirrors` are other hub ids of the same weights, for a repository that is gone.
    `channels_last` lays out the denoiser's and the VAE's tensors with channels last, which is faster on many devices.
    `architecture` says what `weights=architecture` builds in its place. `cost_s` notes what one image costs the
    denoiser once, in seconds by kind of device, for `plan` to estimate with.
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
    parts: dict[Literal["controlnet", "motion_adapter", "image_adapter"], PartChoice] = Field(default_factory=dict)
    levers: Levers = Field(default_factory=Levers)
    architecture: Literal["sd15", "sd21", "sdxl"] | None = None
    cost_s: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)


@dataclass(config=STRICT)
class Method:
    """A scheduler with its own axes. Lists are axes; `eta` stays empty where the scheduler has none.

    `adapter` names what is laid over the base model: none, one, or several together.
    """

    label: str
    scheduler: dict[str, Any]
    steps: Annotated[list[Steps], OneOrMore, Field(min_length=1)]
    guidance_scale: Annotated[list[GuidanceScale], OneOrMore, Field(min_length=1)]
    eta: Annotated[list[Eta], OneOrMore] = Field(default_factory=list)
    adapter: Annotated[list[str], AnyNumber] = Field(default_factory=list)
    fused: bool = True
    max_steps: int | None = None
    role: Literal["student", "teacher", "reference"] = "teacher"


@dataclass(config=STRICT)
class Prompts:
    """The prompts: `world` (the procedural world's captions) or a file in UTF-8.

    A .txt holds one prompt per line; of a .csv, .tsv, .jsonl, .json or .parquet `column` names the column, which is
    prompt, caption or text by default. `quoted` says whether fields may be quoted: by default in a .csv they may, in a
    .tsv quotation marks belong to the prompt. Each prompt is put into `template` in place of its {}.
    """

    source: str = "world"
    count: Count = 512
    template: Annotated[str, Field(pattern=r"\{\}")] = "{}"
    column: str | None = None
    quoted: bool | None = None


@dataclass(config=STRICT)
class Reference:
    """The real images that Fréchet and kernel distances compare with: `world`, or a folder of images."""

    source: str = "world"
    count: Count = 2048


@dataclass(config=STRICT)
class EvaluatorChoice:
    """The OpenCLIP model that images are scored with; its `name` becomes part of every score's name."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] = "mini"
    source: str = "bench://mini/weights/evaluator"


@dataclass(config=STRICT)
class Measure:
    """How latency and memory are measured, apart from sampling for quality."""

    latency: bool = True
    repeats: Count = 5
    warmup: Annotated[int, Field(ge=0)] = 1
    batch_size: Count = 1
    memory: bool = True


@dataclass(config=STRICT)
class Experiment:
    """Base models × methods × steps × eta, with what is sampled, measured and scored.

    `judges` maps a score that a network of its own gives to where its checkpoint lies, unless in the local hub cache.
    With until=decided the claims are judged at up to `looks` numbers of images, and the run ends when all are decided.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    models: dict[str, Model]
    methods: dict[str, Method]
    results: Annotated[str, Field(min_length=1)]
    task: Task = Field(default_factory=lambda: TextToImage("text_to_image"))
    prompts: Prompts = Field(default_factory=Prompts)
    reference: Reference = Field(default_factory=Reference)
    evaluator: EvaluatorChoice = Field(default_factory=EvaluatorChoice)
    judges: dict[JudgeName, str] = Field(default_factory=dict)
    measure: Measure = Field(default_factory=Measure)
    scores: Annotated[list[ScoreName], OneOrMore] = Field(default_factory=lambda: [*SCORES])
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 64
    lanes: Lanes = "auto"
    device: str = "auto"
    keep: Literal["all", "grid"] = "all"
    strict: bool = False
    weights: Literal["checkpoint", "architecture"] = "checkpoint"
    until: Literal["count", "decided"] = "count"
    looks: Annotated[int, Field(ge=2, le=20)] = 5
    claims: dict[str, ClaimChoice] = Field(default_factory=dict)
    executor: Executor = Field(default_factory=Local)
    trackers: dict[str, TrackerChoice] = Field(default_factory=dict)


def check_settings(kind: type[_T], settings: Mapping[str, Any]) -> _T:
    """Plain settings as typed data; raises BenchError, in one sentence, for the first thing that is wrong."""
    try:
        return TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        if place[0] in ("task", "executor", "trackers"):
            tag = 2 if place[0] == "trackers" else 1
            del place[tag : tag + 1]  # the kind, which is no setting
        where = ".".join(place)
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
    if experiment.until == "decided" and not experiment.claims:
        raise BenchError("until=decided was given and no claim to decide; choose some, as in claim=[tcd_few_steps]")
    if experiment.weights == "architecture":
        _check_architecture(experiment)
    if experiment.evaluator.source == "inception://" and (read := set(experiment.scores) & _OF_CAPTIONS):
        raise BenchError(
            f"evaluator.source=inception:// was given with scores={sorted(read)}, which need captions; leave them out, "
            "or take an OpenCLIP model"
        )
    check_task(experiment.task, {**experiment.models}, [*experiment.scores])
    for name, claim in experiment.claims.items():
        check_sides(name, claim)
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


def _check_architecture(experiment: Experiment) -> None:
    if experiment.scores:
        raise BenchError(
            f"weights=architecture was given with scores={experiment.scores}; random weights tell costs and nothing "
            "else, so set scores=[] and claim=[]"
        )
    if experiment.task.kind != "text_to_image":
        raise BenchError(f"weights=architecture builds text-to-image pipelines, not task={experiment.task.kind}")
    for name, model in experiment.models.items():
        if model.architecture is None:
            raise BenchError(f"models.{name}.architecture was not given; weights=architecture needs sd15, sd21 or sdxl")


_OF_CAPTIONS = {"clip_score", "attribute_accuracy", "style_similarity"}
_EXAMPLES = {"models": "mini", "methods": "tcd,dpmpp_2s"}


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
