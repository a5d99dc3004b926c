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
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler
from bench.generate.task_inputs import Inputs
from bench.records.cell import Cell


class Loaded:
    """The pipeline of a cell, for every cell with the same `pipeline_key`."""

    def __init__(self, cell: Cell) -> None:
        gc.collect()  # models and their wrappers reference one another, so the previous ones may still be in memory
        self._before = torch.cuda.memory_allocated(cell.device) if cell.device.startswith("cuda") else 0
        begun = time.perf_counter()
        self.key, self.pipeline = cell.pipeline_key, load_pipeline(cell)
        self.load_s = time.perf_counter() - begun
        self._embeddings = Embeddings()
        self._shared = SharedEvaluations(denoisers(self.pipeline).values(), room_on(cell.device))

    def sampler(self, cell: Cell, prompts: Sequence[str], inputs: Inputs) -> Sampler:
        """Return a sampler of a cell of this pipeline."""
        return Sampler(self.pipeline, cell, prompts, self._embeddings, self._shared, inputs)

    @property
    def excluded_bytes(self) -> int:
        """Bytes on a GPU that a user who calls the pipeline would not have: extractors, preference models, caches."""
        return self._before + self._embeddings.used_bytes + self._shared.used_bytes


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
                if (line := cut_prompts(self._loaded.pipeline, self._prompts)) is not None:
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


def cut_prompts(pipeline: Any, prompts: Sequence[str]) -> str | None:
    """Return a sentence on how many prompts are longer than the text encoders' limit; None where none is."""
    prompts = list(dict.fromkeys(prompts))
    tokenizers = [found for name in ("tokenizer", "tokenizer_2") if (found := getattr(pipeline, name, None))]
    if not tokenizers or not prompts:
        return None
    shortest = min(tokenizers, key=lambda tokenizer: tokenizer.model_max_length)
    limit = shortest.model_max_length
    with Embeddings.encoding:  # a tokenizer stores its padding as state
        ids = shortest(prompts, truncation=False, padding=False).input_ids
    cut = sum(len(tokens) > limit for tokens in ids)
    if not cut:
        return None
    return (
        f"{cut} of {len(prompts)} prompts are longer than the {limit} tokens that the text encoder reads; the rest of "
        "each is ignored"
    )
