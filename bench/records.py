"""What everyone may know: cells, records and scores as frozen data, and the errors that a person is meant to read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

SCHEMA_VERSION = 1


class BenchError(Exception):
    """Something a person can mend: what was given, what is allowed, what to do. Ends a verb with exit code 2."""


class CellError(BenchError):
    """A cell's images are not worth scoring (NaN, all black), or its settings contradict what was measured."""


def canonical_json(value: object) -> str:
    """JSON that is equal for equal values: sorted keys, no spaces, shortest floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: object, digits: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:digits]


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA weights laid over a base model.

    `source` is a directory or hub id, `weights` names its content (a hash of its files, or a hub commit).
    """

    name: str
    source: str
    file: str
    weights: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Base:
    """A base model and how it is loaded; everything in it can change an image."""

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


@dataclass(frozen=True, slots=True)
class SchedulerSpec:
    """A scheduler by its dotted class name and every setting, none left to a default of a checkpoint."""

    target: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Which prompts are sampled: where they come from, how many, and a hash of their text."""

    source: str
    count: int
    text_hash: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid: everything that can change its images, and nothing else but names for people.

    `eta` is None for a scheduler that has none. `versions` holds the libraries that compute the images.
    """

    base: Base
    task: str
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

    @property
    def key(self) -> str:
        """The cell's name: 16 hexadecimal digits over everything above except the names given by people."""
        identity = asdict(self)
        del identity["method"]
        del identity["base"]["name"], identity["base"]["source"], identity["prompts"]["source"]
        for adapter in identity["adapters"]:
            del adapter["name"], adapter["source"]
        return content_hash(identity)

    @property
    def pipeline_key(self) -> str:
        """Equal for cells that one loaded pipeline can serve."""
        return content_hash([asdict(self.base), [asdict(a) for a in self.adapters], self.fused, self.device])

    @property
    def label(self) -> str:
        """A short name for people: `mini tcd 4 steps eta 0.3`."""
        eta = "" if self.eta is None else f" eta {self.eta:g}"
        return f"{self.base.name} {self.method} {self.steps} steps{eta}"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        values = dict(data)
        values["base"] = Base(**values["base"])
        values["scheduler"] = SchedulerSpec(**values["scheduler"])
        values["adapters"] = tuple(Adapter(**adapter) for adapter in values["adapters"])
        values["prompts"] = PromptSet(**values["prompts"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Calls:
    """What sampling really did, counted and read back rather than assumed.

    Per batch: `scheduler_steps` counts calls of `scheduler.step`, `unet_calls` forward calls of the denoiser. Per
    image: `unet_evaluations`, which guidance doubles. Over the cell: `unet_samples`, the rows that the denoiser saw.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...] | None
    orders: tuple[int, ...] | None
    scheduler_config: Mapping[str, Any]
    arguments: Mapping[str, Any]
    scheduler_steps: int
    unet_calls: int
    unet_evaluations: int
    unet_samples: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, from JSON."""
        return cls(**to_tuples(data))


@dataclass(frozen=True, slots=True)
class Latency:
    """Raw samples, seconds per call of one batch; parts are measured by module hooks, `device_s` by CUDA events."""

    batch_size: int
    warmup: int
    clock: str
    call_s: tuple[float, ...]
    text_encoder_s: tuple[float, ...]
    denoiser_s: tuple[float, ...]
    vae_s: tuple[float, ...]
    device_s: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Peaks of one call, in bytes; what a machine cannot tell is None, never 0."""

    batch_size: int
    allocated_bytes: int | None
    reserved_bytes: int | None
    process_bytes: int | None
    device_bytes: int | None
    host_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class Turns:
    """Raw latencies of one cell in two installations that took turns: seconds per call of one batch, round by round."""

    cell: str
    batch_size: int
    before_s: tuple[float, ...]
    after_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a cell: how many, their size in pixels, and a hash over the bytes of all of them in order."""

    count: int
    height: int
    width: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that ended a cell."""

    kind: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Record:
    """What a cell produced. `status` is "ok" or "error"; per-image features lie beside the record in the store.

    `sampling_s` is the time spent in pipeline calls for the images, seconds, summed over batches; batches that are
    sampled side by side share it, and a first evaluation that cells have in common is in it once. No latency.
    """

    key: str
    cell: Cell
    status: str
    environment: Mapping[str, Any]
    sampling_s: float
    calls: Calls | None = None
    images: Images | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    failure: Failure | None = None
    schema: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; raises BenchError for another schema version."""
        data = json.loads(text)
        check_schema(data, "a record")
        data["cell"] = Cell.from_dict(data["cell"])
        parts = {"calls": Calls, "images": Images, "latency": Latency, "memory": Memory, "failure": Failure}
        for name, kind in parts.items():
            if data[name] is not None:
                data[name] = kind(**to_tuples(data[name]))
        return cls(**data)

    def reproducible(self) -> dict[str, Any]:
        """The part that an undisturbed run on the same machine repeats exactly: no times, no memory."""
        data = asdict(self)
        for name in ("latency", "memory", "sampling_s", "environment"):
            del data[name]
        return data


@dataclass(frozen=True, slots=True)
class Score:
    """One number about a set of images, or about the difference of two, with its uncertainty.

    `value` is what other tools print (for the Fréchet distance a number that falls as n grows, the same way for all
    tools); `debiased` is the value without its bias, equal to it where there is none, and the 95% `interval` (low,
    high) is around it. `n` counts images. `fallback` is None unless theory gives no interval: then `standard_error`,
    `debiased` and `interval` are None, and it says why and what stands in.
    """

    value: float
    standard_error: float | None
    debiased: float | None
    interval: tuple[float, float] | None
    n: int
    fallback: Fallback | None


@dataclass(frozen=True, slots=True)
class Fallback:
    """What stands in for a score that has no interval: its name, the reason, and its score (None where none can)."""

    name: str
    reason: str
    score: Score | None

    def __str__(self) -> str:
        """For people: `kernel distance instead: 40 images are too few …`."""
        return f"{self.name} instead: {self.reason}" if self.score else f"no interval: {self.reason}"


def check_schema(data: Mapping[str, Any], what: str) -> None:
    """Raise BenchError for what another version of tcd-bench wrote."""
    if data.get("schema") != SCHEMA_VERSION:
        raise BenchError(
            f"{what} has schema version {data.get('schema')!r}; this tcd-bench reads {SCHEMA_VERSION}: "
            "run the experiment again, or read it with the version that wrote it"
        )


def to_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists turned back into the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
