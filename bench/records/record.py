"""Records of the results of cells: frozen data that is written as JSON and read back equal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from bench.records.cell import LATER, Cell, plain
from bench.records.errors import BenchError, Corrupt

SCHEMA_VERSION = 6


@dataclass(frozen=True, slots=True)
class Calls:
    """Actual call counts of sampling, counted rather than assumed.

    Per batch: `scheduler_steps` counts calls of `scheduler.step`, `denoiser_calls` forward calls of the denoiser. Per
    image: `denoiser_evaluations`, which guidance doubles. Over the cell: `denoiser_samples`, the input rows of the
    denoiser. `batch_size` is below the cell's where memory did not suffice.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...] | None
    orders: tuple[int, ...] | None
    scheduler_config: Mapping[str, Any]
    arguments: Mapping[str, Any]
    scheduler_steps: int
    denoiser_calls: int
    denoiser_evaluations: int
    denoiser_samples: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Raw samples, seconds per call of one batch; parts are measured by module hooks, `device_s` by CUDA events.

    `workload_s` tracks the machine's speed at each call: seconds of a fixed piece of work before and after it; empty
    where that was not timed. `scheduler_syncs` is how often the scheduler's steps make the host wait for the device in
    one call; None where the host never waits. `warmup_s` are the calls before those that count: the first one chooses
    kernels, and compiles where memory_options.compile is set.
    """

    batch_size: int
    warmup: int
    clock: str
    call_s: tuple[float, ...]
    text_encoder_s: tuple[float, ...]
    denoiser_s: tuple[float, ...]
    vae_s: tuple[float, ...]
    device_s: tuple[float, ...] | None = None
    workload_s: tuple[float, ...] = ()
    scheduler_syncs: int | None = None
    warmup_s: tuple[float, ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True, slots=True)
class Memory:
    """Peaks of one call on a GPU, in bytes; values that the machine cannot report are None, never 0.

    On a CPU the memory of a call is unknown: the resident set of the process includes what earlier cells left there.
    `excluded_bytes` were used on the GPU by extractors and caches, and are subtracted from the GPU's peaks.
    """

    batch_size: int
    allocated_bytes: int | None
    reserved_bytes: int | None
    process_bytes: int | None
    device_bytes: int | None
    excluded_bytes: int = 0


@dataclass(frozen=True, slots=True)
class InterleavedLatency:
    """Raw latencies of one cell in two interleaved installations: seconds per call of one batch, by session.

    `before_first_s` and `after_first_s` are the first calls of each session's processes, with what is compiled or tuned
    then; `before_j` and `after_j` the joules of each round of calls, per call, by session. Empty where not measured.
    """

    cell: str
    batch_size: int
    before_s: tuple[tuple[float, ...], ...]
    after_s: tuple[tuple[float, ...], ...]
    before_first_s: tuple[float, ...] = ()
    after_first_s: tuple[float, ...] = ()
    before_j: tuple[tuple[float, ...], ...] = ()
    after_j: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a cell: their number, their size in pixels, and a hash over the pixels of all of them in order.

    `hashes` are those of the kept images, the first rows; empty where a picture could not be regenerated.
    """

    count: int
    height: int
    width: int
    sha256: str
    hashes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that ended a cell."""

    kind: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Record:
    """The result of a cell. `status` is "ok" or "error"; per-image features are stored in a separate file.

    `sampling_s` is the time spent in pipeline calls for the images, seconds, summed over batches; concurrent batches
    share it, and evaluations shared by several cells count once. It is not a latency. `load_s` is the time that loading
    the pipeline took whose latency was measured, which serves other cells too.
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
    load_s: float | None = field(default=None, metadata=LATER)

    @property
    def images_hash(self) -> str:
        """The hash over all images, to which features are bound; empty where there are no images."""
        return "" if self.images is None else self.images.sha256

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(plain(self), sort_keys=True, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the output of `to_json`; raises BenchError for another schema version, Corrupt for anything else."""
        try:
            data = json.loads(text)
            check_schema(data, "a record")
            data["cell"] = Cell.from_dict(data["cell"])
            parts = {"calls": Calls, "images": Images, "latency": Latency, "memory": Memory, "failure": Failure}
            for name, kind in parts.items():
                if data[name] is not None:
                    data[name] = kind(**to_tuples(data[name]))
            return cls(**data)
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            raise Corrupt("it is not a record") from error

    def reproducible(self) -> dict[str, Any]:
        """Return the part that an undisturbed run on the same machine repeats exactly: no times, no memory."""
        data = plain(self)
        for name in ("latency", "memory", "sampling_s", "environment", "load_s"):
            data.pop(name, None)
        return data


def check_schema(data: Mapping[str, Any], what: str, version: int = SCHEMA_VERSION) -> None:
    """Raise BenchError for data written by an incompatible version of tcd-bench."""
    if data.get("schema") != version:
        raise BenchError(
            f"{what} has schema version {data.get('schema')!r}; this tcd-bench reads {version}: "
            "run the experiment again in another directory (results=…), or read it with the version that wrote it"
        )


def to_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON data with lists converted back to tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
