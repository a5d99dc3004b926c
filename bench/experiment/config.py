"""The experiment as typed, checked data; what cannot run is refused here, before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.experiment.claims import ClaimChoice, claim_problems, what_the_grid_lacks
from bench.experiment.executors import Executor, Local
from bench.experiment.refusals import explain_validation, in_one_message, written
from bench.experiment.tasks import Task, TextToImage, task_problems
from bench.experiment.trackers import TrackerChoice
from bench.experiment.values import (
    SCORES,
    STRICT,
    AnyNumber,
    Count,
    Distinct,
    Eta,
    GuidanceScale,
    Images,
    JudgeName,
    Lanes,
    OneOrMore,
    ScoreName,
    Seed,
    Source,
    Steps,
)
from bench.records import BenchError

MOST_PIXELS = 8192
"""Of a side of an image; no base model of today makes larger ones in one piece."""

_T = TypeVar("_T")


@dataclass(config=STRICT)
class AdapterChoice:
    """A LoRA for a base model: a file, or a directory or hub id with the name of a `file` in it.

    Without a name it is pytorch_lora_weights.safetensors, or else the only .safetensors there.
    """

    source: Source
    file: str | None = None
    scale: float = 1.0
    revision: str | None = None


@dataclass(config=STRICT)
class PartChoice:
    """A model beside the base: a directory or hub id; `file` is for one that is a single file."""

    source: Source
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
    """A base model: a directory, hub id or single file, and the adapters that fit it. Only `source` is needed.

    What is left out is what the checkpoint says: `pipeline`, `height` and `width`, `noise_schedule`. A noise schedule
    that is given is an assertion: one that differs from the checkpoint's is refused, unless `noise_schedule_override`
    says that the weights are meant to be sampled otherwise than they were trained. `guidance_scale` is that of methods
    which set none of their own; without it the pipeline's default in diffusers. `config` describes a single file: a
    directory or hub id of the same architecture with its model_index.json, configurations and tokenizers.

    `mirrors` are other hub ids of the same weights, for a repository that is gone.
    `channels_last` lays out the denoiser's and the VAE's tensors with channels last, which is faster on many devices.
    `architecture` says what `weights=architecture` builds in its place. `cost_s` notes what one image costs the
    denoiser once, in seconds by kind of device, for `plan` to estimate with.
    """

    source: Source
    height: Count | None = None
    width: Count | None = None
    noise_schedule: dict[str, Any] = Field(default_factory=dict)
    noise_schedule_override: bool = False
    pipeline: str | None = None
    guidance_scale: GuidanceScale | None = None
    config: Source | None = None
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

    `adapter` names what is laid over the base model: none, one, or several together. `guidance_scale` left empty is the
    model's own.
    """

    label: str
    scheduler: dict[str, Any]
    steps: Annotated[list[Steps], OneOrMore, Field(min_length=1), Distinct]
    guidance_scale: Annotated[list[GuidanceScale], AnyNumber, Distinct] = Field(default_factory=list)
    eta: Annotated[list[Eta], OneOrMore, Distinct] = Field(default_factory=list)
    adapter: Annotated[list[str], AnyNumber, Distinct] = Field(default_factory=list)
    fused: bool = True
    max_steps: int | None = None
    role: Literal["student", "teacher", "reference"] = "teacher"


@dataclass(config=STRICT)
class Prompts:
    """The prompts: `world` (the procedural world's captions) or a file in UTF-8.

    A .txt holds one prompt per line; of a .csv, .tsv, .jsonl, .json or .parquet `column` names the column, which is
    prompt, caption or text by default. `quoted` says whether fields may be quoted: by default in a .csv they may, in a
    .tsv quotation marks belong to the prompt. Each prompt is put into `template` in place of its {}.
    With `shuffle` the prompts of a file are taken in an order that the experiment's seed decides, not from its top.
    """

    source: Source = "world"
    count: Images = 512
    shuffle: bool = True
    template: Annotated[str, Field(pattern=r"\{\}")] = "{}"
    column: str | None = None
    quoted: bool | None = None


@dataclass(config=STRICT)
class Reference:
    """The real images that Fréchet and kernel distances compare with: `world`, or a folder of images."""

    source: Source = "world"
    count: Images = 2048


@dataclass(config=STRICT)
class EvaluatorChoice:
    """The OpenCLIP model that images are scored with; its `name` becomes part of every score's name."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] = "mini"
    source: Source = "bench://mini/weights/evaluator"


@dataclass(config=STRICT)
class Measure:
    """How latency and memory are measured, apart from sampling for quality."""

    latency: bool = True
    repeats: Count = 5
    again: bool = False
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
    results: Annotated[Source, Field(min_length=1)]
    task: Task = Field(default_factory=lambda: TextToImage("text_to_image"))
    prompts: Prompts = Field(default_factory=Prompts)
    reference: Reference = Field(default_factory=Reference)
    evaluator: EvaluatorChoice = Field(default_factory=EvaluatorChoice)
    judges: dict[JudgeName, Source] = Field(default_factory=dict)
    measure: Measure = Field(default_factory=Measure)
    scores: Annotated[list[ScoreName], OneOrMore, Distinct] = Field(default_factory=lambda: [*SCORES])
    seed: Seed = 0
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
    """Plain settings as typed data; raises BenchError with a sentence for each that is wrong."""
    failed: ValidationError | None = None
    try:
        checked = TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        failed = error
    if problems := explain_validation(failed, (kind,), settings):
        raise BenchError(in_one_message(problems)) from failed
    return checked


def check_experiment(settings: Mapping[str, Any]) -> Experiment:
    """Return the experiment that plain settings describe; raises BenchError with a sentence for each fault.

    Claims that are optional and compare what the grid lacks are left out, which is said on stderr.
    """
    experiment = check_settings(Experiment, settings)
    kept, left_out, problems = _fitting_claims(experiment)
    experiment = replace(experiment, claims=kept)
    problems = [*_problems(experiment), *(problems if experiment.methods else ())]
    if problems:
        raise BenchError(in_one_message(problems))
    if left_out:
        count = len(left_out) + len(kept)
        print(f"{len(left_out)} of {count} claims compare what is not run: {'; '.join(left_out)}", file=sys.stderr)
    return experiment


def _problems(experiment: Experiment) -> Iterator[str]:
    for kind in ("models", "methods"):
        if not getattr(experiment, kind):
            yield f"{kind}: none was chosen; name at least one, as in {kind[:-1]}=[{_EXAMPLES[kind]}]"
    labels: dict[str, str] = {}
    for name, method in experiment.methods.items():
        if not isinstance(method.scheduler.get("_target_"), str):
            yield f"methods.{name}.scheduler: no _target_ was given; name a class, such as diffusers.TCDScheduler"
        if method.label.startswith("_") or not method.label.strip() or not method.label.isprintable():
            yield (
                f"methods.{name}.label={written(method.label)} was given; plots leave out what begins with _ or shows "
                "nothing, give another label"
            )
        if (other := labels.setdefault(method.label, name)) != name:
            yield (
                f"methods.{name}.label={method.label} was given, and {other} has the same; give each a label of its own"
            )
    for name, model in experiment.models.items():
        for side in ("height", "width"):
            if (pixels := getattr(model, side)) and (pixels % 8 or pixels > MOST_PIXELS):
                yield (
                    f"models.{name}.{side}={pixels} was given; latents are an eighth as large, so give a multiple of "
                    f"8, up to {MOST_PIXELS}, as {min(max(8, round(pixels / 8) * 8), MOST_PIXELS)}"
                )
    if experiment.until == "decided" and not experiment.claims:
        yield "until=decided was given and no claim to decide; choose some, as in claim=[tcd_few_steps]"
    if experiment.weights == "architecture":
        yield from _check_architecture(experiment)
    if experiment.evaluator.source == "inception://" and (read := set(experiment.scores) & _OF_CAPTIONS):
        yield (
            f"evaluator.source=inception:// was given with scores={written(sorted(read))}, which need captions; leave "
            "them out, or take an OpenCLIP model"
        )
    yield from task_problems(experiment.task, {**experiment.models}, [*experiment.scores])


def _fitting_claims(experiment: Experiment) -> tuple[dict[str, ClaimChoice], list[str], list[str]]:
    """The claims that the grid can answer, those left out with the reason, and what is wrong with the others."""
    kept: dict[str, ClaimChoice] = {}
    left_out, problems = list[str](), list[str]()
    for name, claim in experiment.claims.items():
        if found := [*claim_problems(name, claim)]:
            problems += found
            continue
        lacks = [*what_the_grid_lacks(claim, experiment.methods, experiment.scores)]
        if claim.equal == "latency" and not experiment.measure.latency:
            lacks.append("equal=latency: measure.latency is false")
        if not lacks:
            kept[name] = claim
        elif claim.optional:
            left_out.append(f"{name} ({lacks[0]})")
        else:
            problems.append(f"claims.{name}.{', '.join(lacks)}; change the claim or the grid, or leave the claim out")
    return kept, left_out, problems


def _check_architecture(experiment: Experiment) -> Iterator[str]:
    if experiment.scores:
        yield (
            f"weights=architecture was given with scores={written(experiment.scores)}; random weights tell costs and "
            "nothing else, so set scores=[] and claim=[]"
        )
    if experiment.task.kind != "text_to_image":
        yield f"weights=architecture builds text-to-image pipelines, not task={experiment.task.kind}"
    for name, model in experiment.models.items():
        if model.architecture is None:
            yield f"models.{name}.architecture was not given; weights=architecture needs sd15, sd21 or sdxl"


_OF_CAPTIONS = {"clip_score", "attribute_accuracy", "style_similarity"}
_EXAMPLES = {"models": "mini", "methods": "tcd,dpmpp_2s"}
