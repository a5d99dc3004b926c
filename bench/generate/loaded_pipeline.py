"""A loaded pipeline and the caches shared by all cells that use it."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch

from bench.generate.denoiser_cache import SharedEvaluations, room_on
from bench.generate.denoisers import denoisers
from bench.generate.embeddings import Embeddings
from bench.generate.pipeline_calls import call_defaults, pipeline_class_of
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler
from bench.generate.task_inputs import Inputs
from bench.records.cell import Cell


class Loaded:
    """The pipeline of a cell, for every cell with the same `pipeline_key`."""

    def __init__(self, cell: Cell) -> None:
        gc.collect()  # models and their wrappers reference one another, so the previous ones may still be in memory
        self._device, before = cell.device, _allocated_on(cell.device)
        begun = time.perf_counter()
        self.key, self.pipeline = cell.pipeline_key, load_pipeline(cell)
        self.load_s = time.perf_counter() - begun
        self._weights = _allocated_on(cell.device) - before
        self._embeddings = Embeddings()
        self._shared = SharedEvaluations(denoisers(self.pipeline).values(), room_on(cell.device))

    def sampler(self, cell: Cell, prompts: Sequence[str], inputs: Inputs) -> Sampler:
        """Return a sampler of a cell of this pipeline."""
        return Sampler(self.pipeline, cell, prompts, self._embeddings, self._shared, inputs)

    @property
    def excluded_bytes(self) -> int:
        """Bytes on a GPU at present that are not the pipeline's weights: extractors, a depth estimator, caches, and
        the workspaces of matrix products, of which every thread that has sampled keeps one."""
        return max(0, _allocated_on(self._device) - self._weights)


def _allocated_on(device: str) -> int:
    """Return the bytes of tensors on a GPU; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else 0


class CurrentPipeline:
    """Keeps the pipeline of the last cell for the next ones that it serves; may be used from several threads."""

    def __init__(self, prompts: Sequence[str], inputs: Inputs) -> None:
        self._prompts, self._inputs = prompts, inputs
        self._loaded: Loaded | None = None
        self._loading = threading.Lock()

    def sampler(self, cell: Cell) -> Sampler:
        """Return a sampler of a cell; loads the cell's pipeline where it is not the current one."""
        with self._loading:
            if self._loaded is None or self._loaded.key != cell.pipeline_key:
                self._loaded = None  # the old one is freed before the new one is loaded
                self._loaded = Loaded(cell)
                if (line := cut_prompts(self._loaded.pipeline, self._prompts, _max_length(cell))) is not None:
                    print(f"{cell.base.name}: {line}", file=sys.stderr)
            return self._loaded.sampler(cell, self._prompts, self._inputs)

    @property
    def load_s(self) -> float | None:
        """Seconds that loading the current pipeline took; None where nothing is loaded."""
        return self._loaded.load_s if self._loaded else None

    @property
    def excluded_bytes(self) -> int:
        """See `Loaded`; 0 where nothing is loaded."""
        return self._loaded.excluded_bytes if self._loaded else 0


def _max_length(cell: Cell) -> int | None:
    """Return the tokens that a cell's pipeline reads besides CLIP's; None where it has no such argument."""
    stated = {**call_defaults(pipeline_class_of(cell.base.pipeline)), **cell.base.arguments}
    return stated.get("max_sequence_length")


def _limit_of(tokenizer: Any, max_length: int | None) -> int:
    own = int(tokenizer.model_max_length)
    return own if max_length is None or type(tokenizer).__name__.startswith("CLIP") else min(own, max_length)


def cut_prompts(pipeline: Any, prompts: Sequence[str], max_length: int | None = None) -> str | None:
    """Return a sentence on how many prompts are longer than every text encoder reads; None where none is.

    `max_length` is the pipeline's max_sequence_length, which limits text encoders other than CLIP's.
    """
    prompts = list(dict.fromkeys(prompts))
    limits = {
        id(tokenizer): (tokenizer, _limit_of(tokenizer, max_length))
        for name, tokenizer in vars(pipeline).items()
        if name.startswith("tokenizer") and hasattr(tokenizer, "model_max_length")
    }
    if not limits or not prompts:
        return None
    longest, limit = max(limits.values(), key=lambda entry: entry[1])
    with Embeddings.encoding:  # a tokenizer stores its padding as state
        ids = longest(prompts, truncation=False, padding=False).input_ids
    cut = sum(len(tokens) > limit for tokens in ids)
    if not cut:
        return None
    return (
        f"{cut} of {len(prompts)} prompts are longer than the {limit} tokens that the text encoder reads; the rest of "
        "each is ignored"
    )
