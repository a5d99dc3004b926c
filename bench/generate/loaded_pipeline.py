"""A pipeline in memory, and what is kept with it for all cells that it serves."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any

import torch

from bench.generate.denoiser_cache import SharedEvaluations, room_on
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Embeddings, Sampler
from bench.generate.task_inputs import Inputs
from bench.records.cell import Cell


class Loaded:
    """The pipeline of a cell, for every cell with the same `pipeline_key`."""

    def __init__(self, cell: Cell) -> None:
        gc.collect()  # models and what stands before them hold one another, so the last ones may still be there
        self._before = torch.cuda.memory_allocated(cell.device) if cell.device.startswith("cuda") else 0
        self.key, self.pipeline = cell.pipeline_key, load_pipeline(cell)
        self._told = False
        self._embeddings, self._shared = Embeddings(), SharedEvaluations(self.pipeline.unet, room_on(cell.device))

    def sampler(self, cell: Cell, prompts: Sequence[str], inputs: Inputs) -> Sampler:
        """A sampler of a cell that this pipeline serves."""
        if not self._told:
            self._told = True
            if (line := cut_prompts(self.pipeline, prompts)) is not None:
                print(f"{cell.base.name}: {line}", file=sys.stderr)
        return Sampler(self.pipeline, cell, prompts, self._embeddings, self._shared, inputs)

    @property
    def excluded_bytes(self) -> int:
        """What lies on a GPU beside the pipeline and would not with a user who calls it: evaluator, judges, caches."""
        return self._before + self._embeddings.used_bytes + self._shared.used_bytes


def cut_prompts(pipeline: Any, prompts: Sequence[str]) -> str | None:
    """How many prompts are longer than a pipeline's text encoders read, in words; None where none is."""
    tokenizers = [found for name in ("tokenizer", "tokenizer_2") if (found := getattr(pipeline, name, None))]
    if not tokenizers or not prompts:
        return None
    shortest = min(tokenizers, key=lambda tokenizer: tokenizer.model_max_length)
    limit = shortest.model_max_length
    with Embeddings.encoding:  # a tokenizer keeps its padding as a state of its own
        ids = shortest(list(prompts), truncation=False, padding=False).input_ids
    cut = sum(len(tokens) > limit for tokens in ids)
    if not cut:
        return None
    return (
        f"{cut} of {len(prompts)} prompts are longer than the {limit} tokens that the text encoder reads; what is "
        "beyond does not count"
    )
