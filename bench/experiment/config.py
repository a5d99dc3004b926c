"""The experiment as typed, checked data; what cannot run is refused here, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.records import BenchError

_STRICT = ConfigDict(extra="forbid", frozen=True)
Steps = Annotated[int, Field(ge=1, le=1000)]
Eta = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
ScoreName = Literal["fid", "kid", "clip_score", "attribute_accuracy"]
SCORES: tuple[ScoreName, ...] = ("fid", "kid", "clip_score", "attribute_accuracy")


@dataclass(config=_STRICT)
class AdapterChoice:
    """Where a base model's adapter of some name comes from."""

    source: str
    file: str = "pytorch_lora_weights.safetensors"
    scale: float = 1.0


@dataclass(config=_STRICT)
class Model:
    """A base model: a directory or hub id with its noise schedule, and the adapters that fit it.

    `original_steps` bounds the step count of distilled methods: the grid of timesteps they were trained on.
    """

    source: str
    height: Count
    width: Count
    noise_schedule: dict[str, Any]
    pipeline: str = "StableDiffusionPipeline"
    revision: str | None = None
    variant: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    adapters: dict[str, AdapterChoice] = Field(default_factory=dict)


@dataclass(config=_STRICT)
class Method:
    """A scheduler with its own axes. Lists are axes; `eta` stays empty where the scheduler has none."""

    label: str
    scheduler: dict[str, Any]
    steps: list[Steps]
    guidance_scale: list[Annotated[float, Field(ge=0)]]
    eta: list[Eta] = Field(default_factory=list)
    adapter: str | None = None
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
    """The real images that Fréchet and kernel distances compare with."""

    source: Literal["world"] = "world"
    count: Count = 2048


@dataclass(config=_STRICT)
class Measure:
    """How latency and memory are measured: each in a pass of its own, apart from sampling for quality."""

    latency: bool = True
    repeats: Count = 5
    warmup: Annotated[int, Field(ge=0)] = 1
    batch_size: Count = 1
    memory: bool = True


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
    evaluator: str = "mini"
    measure: Measure = Field(default_factory=Measure)
    scores: list[ScoreName] = Field(default_factory=lambda: [*SCORES])
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 64
    device: str = "auto"
    keep: Literal["all", "grid"] = "all"


def check_experiment(settings: Mapping[str, Any]) -> Experiment:
    """Return the experiment that plain settings describe; raises BenchError naming the first thing that is wrong."""
    try:
        experiment = TypeAdapter(Experiment).validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BenchError(f"{where}: {first['input']!r} was given; {_allowed(first)}") from error
    for kind in ("models", "methods"):
        if not getattr(experiment, kind):
            raise BenchError(f"{kind}: none was chosen; name at least one, as in {kind[:-1]}=[{_EXAMPLES[kind]}]")
    for name, method in experiment.methods.items():
        for axis in ("steps", "guidance_scale"):
            if not getattr(method, axis):
                raise BenchError(f"methods.{name}.{axis}: an empty list was given; it takes at least one value")
    return experiment


_EXAMPLES = {"models": "mini", "methods": "tcd,dpmpp_2s"}


def _allowed(error: Mapping[str, Any]) -> str:
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return "there is no such setting: remove it, or look at --help for its right name"
    message = str(error["msg"])
    return message[:1].lower() + message[1:]
