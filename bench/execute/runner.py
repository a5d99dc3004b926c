"""One cell → one record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.experiment.config import Measure
from bench.generate.pipelines import load_pipeline
from bench.generate.sampling import Sampler
from bench.measure.environment import machine_fingerprint
from bench.measure.latency import Stopwatch, measure_latency
from bench.measure.memory import measure_memory
from bench.records import Calls, Cell, Failure, Images, Latency, Memory, Record
from bench.score.features import CaptionFeatures, Evaluator, images_to_features
from bench.store import Store, StoredBatch, hash_images

GRID_IMAGES = 16


@dataclass
class Runner:
    """Runs cells one after another, keeping the last loaded pipeline for the next cell that fits it."""

    store: Store
    prompts: tuple[str, ...]
    evaluator: Evaluator
    captions: CaptionFeatures
    measure: Measure
    keep: str
    advance: Callable[[int], None]
    """Called with the number of images that were just finished."""

    _loaded: tuple[str, Any] | None = None

    def run(self, cell: Cell) -> Record:
        """Sample, describe and measure a cell and commit its record; an error becomes the record's failure."""
        start = time.perf_counter()
        environment = machine_fingerprint(cell.device, torch.get_num_threads())
        features: Mapping[str, NDArray[Any]] | None = None
        try:
            sampler = Sampler(self._pipeline(cell), cell, self.prompts)
            features, images, calls = self._sample(cell, sampler)
            sampling_s = time.perf_counter() - start
            latency, memory = self._measure(sampler)
            record = Record(cell.key, cell, "ok", environment, sampling_s, calls, images, latency, memory)
        except Exception as error:
            failure = Failure(type(error).__name__, str(error), traceback.format_exc())
            record = Record(cell.key, cell, "error", environment, time.perf_counter() - start, failure=failure)
        self.store.commit(record, features, GRID_IMAGES if self.keep == "grid" else None)
        return record

    def _pipeline(self, cell: Cell) -> Any:
        if self._loaded is None or self._loaded[0] != cell.pipeline_key:
            self._loaded = None  # the old one is freed before the new one is loaded
            self._loaded = cell.pipeline_key, load_pipeline(cell)
        return self._loaded[1]

    def _sample(self, cell: Cell, sampler: Sampler) -> tuple[Mapping[str, NDArray[Any]], Images, Calls]:
        hashes: list[str] = []
        rows: list[Mapping[str, NDArray[Any]]] = []
        calls: Calls | None = None
        for start in sampler.starts():
            batch = self.store.load_batch(cell.key, start) or self._sample_batch(cell, sampler, start)
            hashes.append(hash_images(batch.images))
            rows.append(batch.features)
            calls = calls or batch.calls
            self.advance(len(batch.images))
        if calls is None:
            raise ValueError("the cell has no prompts")
        features = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        combined = hash_images(np.frombuffer("".join(hashes).encode(), np.uint8))
        height, width = cell.base.height, cell.base.width
        return features, Images(len(self.prompts), height, width, combined), calls

    def _sample_batch(self, cell: Cell, sampler: Sampler, start: int) -> StoredBatch:
        batch = sampler.sample(start)
        features = images_to_features(self.evaluator, batch.images, self.captions, start)
        stored = StoredBatch(start, batch.images, features, batch.calls)
        self.store.save_batch(cell.key, stored)
        return stored

    def _measure(self, sampler: Sampler) -> tuple[Latency | None, Memory | None]:
        rows = range(min(self.measure.batch_size, len(self.prompts)))
        pipeline, device = sampler.pipeline, torch.device(sampler.cell.device)
        parts = {"text_encoder": pipeline.text_encoder, "denoiser": pipeline.unet, "vae": pipeline.vae.decoder}
        latency = memory = None
        if self.measure.latency:
            stopwatch = Stopwatch.of(device)
            latency = measure_latency(
                lambda: sampler.call(rows), parts, stopwatch, len(rows), self.measure.repeats, self.measure.warmup
            )
        if self.measure.memory:
            memory = measure_memory(lambda: sampler.call(rows), device, len(rows))
        return latency, memory
