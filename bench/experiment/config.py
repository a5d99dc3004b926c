"""The experiment as typed, checked data; experiments that cannot run are refused here, before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.experiment.claims import ClaimChoice, claim_problems, claims_of_models, what_the_grid_lacks
from bench.experiment.executors import ExecutorChoice, Local
from bench.experiment.extractors import MINI, ExtractorChoice, name_score
from bench.experiment.hydra_errors import explain_validation, in_one_message, written
from bench.experiment.memory_options import MemoryOptions, graph_problems, quantization_problems
from bench.experiment.tasks import TaskChoice, TextToImage, task_problems
from bench.experiment.trackers import TrackerChoice
from bench.experiment.value_types import (
    MOST_IMAGES,
    OF_PROMPTS,
    SCORES,
    STRICT,
    AnyNumber,
    ArgumentValue,
    ConcurrentBatches,
    Count,
    Distinct,
    Eta,
    ExtractorName,
    GuidanceScale,
    ImageCount,
    OneOrMore,
    PreferenceModelName,
    ScoreName,
    Seed,
    Source,
    Steps,
)
from bench.records.errors import BenchError
from bench.records.score import split_score

ROWS_FOLDER = "rows"
REFUSED_ROWS = "refused_rows"
"""The name, among the settings of a report of rows, of those that were refused, each with the reason."""
"""The folder of the directories of an experiment's rows, in its own."""
MOST_PIXELS = 8192
"""Of a side of an image; current base models do not generate larger images in one piece."""

_T = TypeVar("_T")
Architecture = Literal["sd15", "sd21", "sdxl", "sd35_medium", "flux1_schnell", "flux1_dev", "sana", "sana_sprint"]
"""Pipelines that can be built at full size with random weights."""


@dataclass(config=STRICT)
class AdapterChoice:
    """A LoRA for a base model."""

    source: Source
    """A .safetensors file, a directory or a hub id."""
    file: str | None = None
    """The file's name within a directory or repository; by default `pytorch_lora_weights.safetensors`, or else the only
    .safetensors file there."""
    scale: float = 1.0
    """Weight of the adapter."""
    revision: str | None = None
    """Branch, tag or commit of a hub repository."""


@dataclass(config=STRICT)
class PartChoice:
    """A further model that a task needs: ControlNet, motion adapter or IP-Adapter."""

    source: Source
    """A directory or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub repository."""
    variant: str | None = None
    """Variant of the weight files, such as `fp16`."""
    subfolder: str | None = None
    """Folder within the directory or repository."""
    file: str | None = None
    """Name of the weight file, for a part that is a single file (IP-Adapter)."""


@dataclass(config=STRICT)
class Model:
    """A base model and the adapters that fit it. Only `source` is needed.

    Pipeline class, height, width and noise schedule are read from the checkpoint. A setting that contradicts it is
    refused.
    """

    source: Source
    """A directory as `save_pretrained` writes it, a hub id, or a single .safetensors file together with `config`."""
    height: Count | None = None
    """Height of the images in pixels, a multiple of 8; by default the checkpoint's own."""
    width: Count | None = None
    """Width of the images in pixels, a multiple of 8; by default the checkpoint's own."""
    noise_schedule: dict[str, Any] = Field(default_factory=dict)
    """The noise schedule that the checkpoint is expected to have, in the names of diffusers' scheduler configurations
    (`beta_schedule`, `prediction_type` …). One that differs from the checkpoint's is refused."""
    noise_schedule_override: bool = False
    """Sample with `noise_schedule` although the weights were trained with another; every output says so."""
    pipeline: str | None = None
    """Name of the pipeline class in diffusers; by default the one that the checkpoint names."""
    guidance_scale: GuidanceScale | None = None
    """Guidance scale of methods that set none; by default the pipeline's own in diffusers."""
    guidance: Literal["classifier_free", "true_cfg", "embedded", "none"] | None = None
    """How the pipeline guides: each image is evaluated with and without its prompt (`classifier_free`, or `true_cfg`,
    where the scale is the argument `true_cfg_scale` and `arguments.negative_prompt` takes effect), the network has the
    scale as an input (`embedded`), or not at all (`none`). By default read from the pipeline's call."""
    arguments: dict[str, ArgumentValue] = Field(default_factory=dict)
    """Further arguments of the pipeline's call by diffusers' names, such as `max_sequence_length` and
    `negative_prompt`."""
    config: Source | None = None
    """Directory or hub id of the same architecture; a single file takes configurations and tokenizers from there."""
    mirrors: list[Source] = Field(default_factory=list)
    """Other hub ids of the same weights, used when the repository is gone."""
    revision: str | None = None
    """Branch, tag or commit of a hub repository; `strict=true` demands a commit."""
    variant: str | None = None
    """Variant of the weight files, such as `fp16`."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of weights and latents."""
    channels_last: bool = False
    """Memory layout of the denoiser and the VAE; faster on many devices."""
    adapters: dict[str, AdapterChoice] = Field(default_factory=dict)
    """Adapters that fit this model, by the name that `methods.<name>.adapter` uses."""
    parts: dict[Literal["controlnet", "motion_adapter", "image_adapter"], PartChoice] = Field(default_factory=dict)
    """Further models that the task needs."""
    memory_options: MemoryOptions = Field(default_factory=MemoryOptions)
    """Settings that trade time for memory or the reverse; each is part of the identity of a cell."""
    architecture: Architecture | None = None
    """Architecture that `weights=random` builds in place of the checkpoint."""
    cost_s: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Seconds per image and denoiser evaluation, by kind of device; used by `plan` to estimate the duration."""


@dataclass(config=STRICT)
class Method:
    """A scheduler with its own axes. Each value of a list makes separate cells."""

    label: str
    """Name in tables and plots; each method needs a different one."""
    scheduler: dict[str, Any]
    """The scheduler's class as `_target_`, and the arguments of its constructor. The noise schedule is not among them:
    it belongs to the model."""
    steps: Annotated[list[Steps], OneOrMore, Field(min_length=1), Distinct]
    """Step counts. An axis: each value makes separate cells."""
    guidance_scale: Annotated[list[GuidanceScale], AnyNumber, Distinct] = Field(default_factory=list)
    """Guidance scales, an axis; empty: the model's `guidance_scale`."""
    eta: Annotated[list[Eta], OneOrMore, Distinct] = Field(default_factory=list)
    """Values of eta, an axis; empty for a scheduler without eta."""
    adapter: Annotated[list[str], AnyNumber, Distinct] = Field(default_factory=list)
    """Adapters of the model that are loaded together; none, one or several names."""
    fused: bool = True
    """Fuse the adapters into the base weights before sampling."""
    max_steps: int | None = None
    """Larger step counts are left out, with the reason."""
    models: Annotated[list[str], AnyNumber, Distinct] = Field(default_factory=list)
    """Base models that it samples, of those of the run; by default all of these."""


@dataclass(config=STRICT)
class PromptsChoice:
    """The prompts: captions of the miniature's world, or those of a file."""

    source: Source = "world"
    """`world` (captions of the miniature's world), a file in UTF-8 (.txt with one prompt per line, .csv, .tsv, .jsonl,
    .json, .parquet, or COCO captions), or `dataset://owner/name/file` in the local hub cache."""
    count: ImageCount = 512
    """Number of prompts; each cell has `images_per_prompt` images of each."""
    images_per_prompt: Count = 1
    """Images of each prompt, each from noise of its own. Scores of diversity need 2 or more."""
    shuffle: bool = True
    """Take the prompts of a file in an order that `seed` decides; `false` takes them from the top."""
    template: Annotated[str, Field(pattern=r"\{\}")] = "{}"
    """Text in which each prompt replaces the `{}`."""
    column: str | None = None
    """Column of a file that has columns; by default the one named prompt, caption or text."""
    quoted: bool | None = None
    """Whether fields of a table may be quoted; by default they may in a .csv, while in a .tsv quotation marks belong to
    the prompt."""


@dataclass(config=STRICT)
class _Reference:
    """The real images that Fréchet and kernel distances compare with."""

    source: Source = "world"
    """`world` (images of the miniature's world), a folder of images, or an .npz with their statistics (`mu`, `sigma`),
    which give `fid` alone."""
    count: ImageCount = 2048
    """Number of reference images; without meaning for statistics."""


@dataclass(config=STRICT)
class Measure:
    """How latency and memory are measured, apart from sampling for quality."""

    latency: bool = True
    """Measure latency."""
    repeats: Count = 5
    """Timed calls per cell; every sample is stored."""
    again: bool = False
    """Measure again the latencies that load disturbed in an earlier run."""
    warmup: Annotated[int, Field(ge=0)] = 1
    """Untimed calls before, at the step count that is measured."""
    batch_size: Count = 1
    """Images per timed call."""
    memory: bool = True
    """Measure peak memory; on GPUs only."""


@dataclass(config=STRICT)
class Experiment:
    """Base models × methods × steps × eta, with what is sampled, measured and scored."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the experiment; by default also of its results directory."""
    models: dict[str, Model]
    """Base models by name; `model=[…]` chooses the files of conf/model that are put here."""
    methods: dict[str, Method]
    """Methods by name; `method=[…]` chooses the files of conf/method that are put here."""
    results: Annotated[Source, Field(min_length=1)]
    """Directory or URL (s3://…) of the results."""
    task: TaskChoice = Field(default_factory=lambda: TextToImage("text_to_image"))
    """What is asked of the model; `task=…` chooses a file of conf/task."""
    prompts: PromptsChoice = Field(default_factory=PromptsChoice)
    """The prompts."""
    reference: _Reference = Field(default_factory=_Reference)
    """The real images that distances compare with."""
    extractors: dict[ExtractorName, ExtractorChoice] = Field(default_factory=lambda: {"mini": ExtractorChoice(MINI)})
    """Networks by whose features images are scored, by name; `extractor=[…]` chooses the files of conf/extractor that
    are put here. The name is part of the name of each score, as in `fid@mini` and `fid_mini_n512`."""
    preference_models: dict[PreferenceModelName, Source] = Field(default_factory=dict)
    """Checkpoints of the preference models, by score: a file or a directory. By default the local hub cache is
    searched."""
    measure: Measure = Field(default_factory=Measure)
    """How latency and memory are measured."""
    scores: Annotated[list[ScoreName], OneOrMore, Distinct] = Field(default_factory=lambda: [*SCORES])
    """The scores, as in `fid@mini`; without `@` by the first extractor that can give it. Empty: none."""
    seed: Seed = 0
    """Seed of initial latents, noise and prompt order; each image has its own generator."""
    noise: Literal["host", "device"] = "host"
    """Where the noise of stochastic steps is drawn: on the `host`, which gives the same images on every machine, or on
    the GPU (`device`), as most scripts do, which saves a copy in each step and changes the images."""
    batch_size: Count = 64
    """Images per batch when sampling for quality."""
    concurrent_batches: ConcurrentBatches = "auto"
    """Batches that are processed concurrently: a processor samples them in parallel, a GPU one after the other while
    earlier ones are scored and saved. `auto`: 1 on a processor, 4 on a GPU; 1 where CUDA graphs are recorded."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` …; `auto` takes the GPU where there is one."""
    keep: Literal["all", "grid"] = "all"
    """Images kept on disk: all, or the first 8 of each cell (`grid`)."""
    keep_latents: Annotated[int, Field(ge=0, le=64)] = 0
    """Number of first images of each cell that are sampled once more to keep their latents at each step, which the
    gate compares."""
    strict: bool = False
    """Refuse hub ids whose revision is not pinned to a commit."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` builds the models with random weights, to measure costs only; needs `scores=[]`."""
    until: Literal["count", "decided"] = "count"
    """`decided` samples only what open claims need, and ends the run as soon as all are decided."""
    looks: Annotated[int, Field(ge=2, le=20)] = 5
    """Number of image counts at which `until=decided` judges the claims."""
    claims: dict[str, ClaimChoice] = Field(default_factory=dict)
    """Claims by name; `claim=[…]` chooses the files of conf/claim that are put here."""
    rows: Annotated[list[str], AnyNumber, Distinct] = Field(default_factory=list)
    """Further experiments, by the names of their files, that are run before it with the same overrides, each in a
    directory below `results`. An experiment of rows alone, without models, is one report of them all, which judges its
    claims as well."""
    row_overrides: Annotated[list[str], AnyNumber] = Field(default_factory=list)
    """Overrides for every row, written as on the command line, which has the last word: `prompts.count=64`."""
    executor: ExecutorChoice = Field(default_factory=Local)
    """Where cells run; `executor=…` chooses a file of conf/executor."""
    trackers: dict[str, TrackerChoice] = Field(default_factory=dict)
    """Experiment trackers; `tracker=[…]` chooses files of conf/tracker."""


def check_settings(kind: type[_T], settings: Mapping[str, Any]) -> _T:
    """Return plain settings as typed data; raises BenchError with a sentence for each fault."""
    failed: ValidationError | None = None
    try:
        checked = TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        failed = error
    if problems := explain_validation(failed, (kind,), settings):
        raise BenchError(in_one_message(problems)) from failed
    return checked


def check_experiment(settings: Mapping[str, Any]) -> Experiment:
    """Return the experiment of plain settings; raises BenchError with a sentence for each fault.

    Optional claims that compare cells missing from the grid are left out, which is reported on stderr.
    """
    experiment = name_scores(check_settings(Experiment, settings))
    kept, left_out, problems = _fitting_claims(experiment)
    experiment = replace(experiment, claims=kept)
    problems = [*_problems(experiment), *(problems if experiment.methods else ())]
    if problems:
        raise BenchError(in_one_message(problems))
    if left_out:
        count = len(left_out) + len(kept)
        print(
            f"{len(left_out)} of {count} claims compare cells not in the grid: {'; '.join(left_out)}", file=sys.stderr
        )
    return experiment


def name_scores(experiment: Experiment) -> Experiment:
    """Return the experiment with the extractor in the name of every score; raises BenchError where none can give it.

    Claims take the first requested score of a name without an extractor.
    """
    scores, problems = list[str](), list[str]()
    for score in experiment.scores:
        try:
            scores.append(name_score(score, experiment.extractors))
        except BenchError as error:
            problems.append(str(error))
    if twice := [score for i, score in enumerate(scores) if score in scores[:i]]:
        problems.append(f"scores: {twice[0]} occurs twice, with its extractor and without; give it once")
    if problems:
        raise BenchError(in_one_message(problems))
    first = {split_score(score)[0]: score for score in reversed(scores)}
    claims = {
        name: replace(
            claim,
            metrics=list(dict.fromkeys(first.get(score, score) for score in claim.metrics)),
            margins={first.get(score, score): margin for score, margin in claim.margins.items()},
        )
        for name, claim in experiment.claims.items()
    }
    return replace(experiment, scores=scores, claims=claims)


def _problems(experiment: Experiment) -> Iterator[str]:
    for kind in ("models", "methods"):
        if not getattr(experiment, kind):
            yield f"{kind}: none was chosen; choose at least one, as in {kind[:-1]}=[{_EXAMPLES[kind]}]"
    labels: dict[str, str] = {}
    for name, method in experiment.methods.items():
        if not isinstance(method.scheduler.get("_target_"), str):
            yield f"methods.{name}.scheduler: no _target_ was given; give a class, such as diffusers.TCDScheduler"
        if method.label.startswith("_") or not method.label.strip() or not method.label.isprintable():
            yield (
                f"methods.{name}.label={written(method.label)} was given; plots omit labels that begin with _ or are "
                "invisible, give another label"
            )
        if (other := labels.setdefault(method.label, name)) != name:
            yield (f"methods.{name}.label={method.label} was given, but {other} has the same label; give each its own")
    for name, model in experiment.models.items():
        for side in ("height", "width"):
            if (pixels := getattr(model, side)) and (pixels % 8 or pixels > MOST_PIXELS):
                yield (
                    f"models.{name}.{side}={pixels} was given; latents are an eighth as large, so give a multiple of "
                    f"8, up to {MOST_PIXELS}, as {min(max(8, round(pixels / 8) * 8), MOST_PIXELS)}"
                )
    if experiment.until == "decided" and not experiment.claims:
        yield "until=decided was given without a claim to decide; choose some, as in claim=[tcd_few_steps]"
    if experiment.weights == "random":
        yield from _check_architecture(experiment)
    yield from task_problems(experiment.task, {**experiment.models}, [*experiment.scores])
    yield from quantization_problems(experiment.models, experiment.methods, experiment.weights)
    yield from graph_problems(experiment.models, experiment.concurrent_batches)
    yield from _images_per_prompt_problems(experiment)


def _images_per_prompt_problems(experiment: Experiment) -> Iterator[str]:
    count, each = experiment.prompts.count, experiment.prompts.images_per_prompt
    given = f"prompts.images_per_prompt={each}"
    if each > 1 and count * each > MOST_IMAGES:
        yield (
            f"prompts.count={count} with {given} makes {count * each:,} images per cell; give at most {MOST_IMAGES:,}"
        )
    of_prompts = [score for score in experiment.scores if split_score(score)[0] in OF_PROMPTS]
    if of_prompts and each == 1:
        yield (
            f"scores: {of_prompts[0]} is about the images of one prompt, and {given} was given; give 2 or more, as in "
            "prompts.images_per_prompt=8, or omit the score"
        )
    elif "pairwise_lpips" in experiment.scores and experiment.batch_size % each:
        yield (
            f"batch_size={experiment.batch_size} was given; pairwise_lpips compares the images of a prompt within a "
            f"batch, so give a multiple of {given}, as {-(-experiment.batch_size // each) * each}"
        )


def _fitting_claims(experiment: Experiment) -> tuple[dict[str, ClaimChoice], list[str], list[str]]:
    """Return the claims that the grid can answer, those left out with the reason, and the problems of the rest."""
    kept: dict[str, ClaimChoice] = {}
    problems = list[str]()
    claims, left_out = claims_of_models(experiment.claims, experiment.models, experiment.methods)
    for name, claim in claims.items():
        if found := [*claim_problems(name, claim)]:
            problems += found
            continue
        lacks = [*what_the_grid_lacks(claim, experiment.models, experiment.methods, experiment.scores)]
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
            f"weights=random was given with scores={written(experiment.scores)}; random weights only measure costs, so "
            "set scores=[] and claim=[]"
        )
    if experiment.task.kind != "text_to_image":
        yield f"weights=random builds text-to-image pipelines, not task={experiment.task.kind}"
    known = ", ".join(get_args(Architecture))
    for name, model in experiment.models.items():
        if model.architecture is None:
            yield f"models.{name}.architecture was not given; weights=random needs one of {known}"


_EXAMPLES = {"models": "mini", "methods": "tcd,dpmpp_2s"}
