"""A cell of the grid as frozen data, identified by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache, cached_property
from typing import Any, Self


def canonical_json(value: object) -> str:
    """Return JSON that is equal for equal values: sorted keys, no spaces, shortest floats, dataclasses as fields."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=fields_of
    )


LATER = {"later": True}
"""Metadata of a field that was added after results were published: at its default it is in no hash and no file."""


def fields_of(value: Any, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a dataclass's fields by name, unconverted, without LATER fields at their default.

    Raises TypeError for any other value.
    """
    kind: type = type(value)
    found = {name: getattr(value, name) for name in _names_of(kind) if name not in but}
    for name, default in _later_of(kind):
        if found.get(name) == default:
            found.pop(name, None)
    return found


@cache
def _names_of(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _later_of(kind: type) -> tuple[tuple[str, Any], ...]:
    later = [known for known in fields(kind) if "later" in known.metadata]
    made = [(known, known.default_factory) for known in later]
    return tuple((known.name, known.default if make is MISSING else make()) for known, make in made)


def plain(value: Any) -> Any:
    """Return a value as `dataclasses.asdict` would, without LATER fields at their default."""
    if is_dataclass(value):
        return {name: plain(entry) for name, entry in fields_of(value).items()}
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


def content_hash(value: object, digits: int = 16) -> str:
    """Return the first hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:digits]


def plain_number(value: float) -> str:
    """Return the shortest text that is read as the same number: `0.3`, `7`, `1e-05`."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes of torch.compile that record CUDA graphs: each thread would record its own, and a replay overwrites the output
of the one before."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA weights applied to a base model.

    `source` is a directory or hub id, `weights` identifies its content (a hash of its files, or a hub commit).
    """

    name: str
    source: str
    file: str
    weights: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """An additional model of a pipeline: `role` is controlnet, motion_adapter or image_adapter."""

    role: str
    source: str
    weights: str
    subfolder: str | None = None
    file: str | None = None
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """A base model and how it is loaded; every field can change an image.

    `memory_options` are the settings that trade time for memory or the reverse; options with their default value are
    omitted. `noise_schedule` is the checkpoint's; where a deliberate override replaced it, `checkpoint_schedule` holds
    the checkpoint's own. `config` is the directory or hub id that describes a model in a single file; its content is
    part of `weights`. `guidance` is the stated kind of guidance, None where the pipeline decides; `arguments` are
    further arguments of the pipeline's call.
    """

    name: str
    source: str
    weights: str
    pipeline: str
    dtype: str
    height: int
    width: int
    noise_schedule: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    variant: str | None = None
    channels_last: bool = False
    parts: tuple[Part, ...] = ()
    memory_options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_schedule: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    guidance: str | None = field(default=None, metadata=LATER)
    arguments: Mapping[str, Any] = field(default_factory=dict, metadata=LATER)

    @property
    def records_graphs(self) -> bool:
        """Whether its models are compiled to CUDA graphs."""
        return self.memory_options.get("compile") in CUDA_GRAPHS


@dataclass(frozen=True, slots=True)
class Task:
    """The task: its kind, its settings, and a hash of the input images where it has some."""

    kind: str = "text_to_image"
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: str | None = None


@dataclass(frozen=True, slots=True)
class SchedulerSpec:
    """A scheduler by its dotted class name and every setting; no default of a checkpoint is used."""

    target: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The sampled prompts, one per image: their source, the number of images, and a hash of the texts in order."""

    source: str
    count: int
    text_hash: str


@dataclass(frozen=True)
class Cell:
    """One point of the grid: everything that can change its images, and display names.

    `eta` is None for a scheduler without eta. `versions` holds the libraries that compute the images. `noise` is where
    that of stochastic steps is drawn: "host" or "device".
    """

    base: Base
    task: Task
    method: str
    scheduler: SchedulerSpec
    adapters: tuple[Adapter, ...]
    fused: bool
    steps: int
    eta: float | None
    guidance_scale: float
    prompts: PromptSet
    seed: int
    batch_size: int
    device: str
    versions: Mapping[str, str]
    noise: str = field(default="host", metadata=LATER)

    @cached_property
    def key(self) -> str:
        """The cell's identity: 16 hexadecimal digits over all fields except the display names."""
        identity = fields_of(self, but=("method",))
        parts = [fields_of(part, but=("source",)) for part in self.base.parts]
        identity["base"] = {**fields_of(self.base, but=("name", "source", "config")), "parts": parts}
        identity["adapters"] = [fields_of(adapter, but=("name", "source")) for adapter in self.adapters]
        identity["prompts"] = fields_of(self.prompts, but=("source",))
        return content_hash(identity)

    @cached_property
    def pipeline_key(self) -> str:
        """A key that is equal for cells of one loaded pipeline."""
        return content_hash([self.base, self.task, self.adapters, self.fused, self.device])

    @cached_property
    def key_without_prompts(self) -> str:
        """A key that is equal for cells that differ only in their prompts."""
        return replace(self, prompts=PromptSet("", 0, "")).key

    @cached_property
    def place(self) -> str:
        """A key that is equal for cells that differ only in the number of images, and so of inputs."""
        return replace(self, task=replace(self.task, inputs=None)).key_without_prompts

    @property
    def label(self) -> str:
        """A short display name: `mini tcd 4 steps eta 0.3`, `mini ddim 4 steps guidance 3` (guidance 0 is omitted)."""
        eta = "" if self.eta is None else f" eta {plain_number(self.eta)}"
        guidance = f" guidance {plain_number(self.guidance_scale)}" if self.guidance_scale else ""
        cost_only = " (cost only)" if self.cost_only else ""
        noise = "" if self.noise == "host" else f" noise of the {self.noise}"
        return f"{self.base.name} {self.method} {self.steps} steps{eta}{guidance}{noise}{cost_only}"

    @property
    def cost_only(self) -> bool:
        """Whether the weights are random, so that the images have no meaning."""
        return self.base.weights.startswith("random-")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `plain`."""
        values = dict(data)
        parts = tuple(Part(**part) for part in values["base"]["parts"])
        values["base"] = Base(**{**values["base"], "parts": parts})
        values["task"] = Task(**values["task"])
        values["scheduler"] = SchedulerSpec(**values["scheduler"])
        values["adapters"] = tuple(Adapter(**adapter) for adapter in values["adapters"])
        values["prompts"] = PromptSet(**values["prompts"])
        return cls(**values)
