"""One cell → one record."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.cell import Cell, PromptSet
from bench.execute.lanes import side_by_side
from bench.execute.looking import Look
from bench.experiment.config import Measure
from bench.generate.first import FirstEvaluations
from bench.generate.inputs import Inputs
from bench.generate.pipelines import load_pipeline
from bench.generate.prompts import hash_texts
from bench.generate.sampling import Embeddings, Sampler
from bench.measure.environment import machine_fingerprint
from bench.measure.latency import Stopwatch, measure_latency
from bench.measure.memory import measure_memory
from bench.records import Calls, CellError, Failure, Images, Latency, Memory, Record
from bench.store import Store, StoredBatch, hash_images

GRID_IMAGES = 8


def is_complete(store: Store, key: str, extractor: str, measure: Measure) -> bool:
    """Whether a cell has a good record with all that is asked for, so that nothing is left to do."""
    record = store.record(key)
    return (
        record is not None
        and record.status == "ok"
        and store.has_features(key, extractor)
        and not (measure.latency and record.latency is None)
        and not (measure.memory and record.memory is None)
    )


@dataclass
class Runner:
    """Runs cells one after another, keeping the last loaded pipeline for the next cell that fits it."""

    store: Store
    prompts: tuple[str, ...]
    look: Look
    extractor: str
    """What `look` computes features with, by content."""
    measure: Measure
    keep: str
    inputs: Inputs
    """The task's input images."""
    lanes: int
    """How many batches are sampled side by side."""
    advance: Callable[[int], object]
    """Called with the number of images that were just finished."""
    process: Mapping[str, Any]
    """What was set for the whole process, for the record's environment."""

    _smaller: dict[str, Record] | None = None
    _loaded: tuple[str, Any, Embeddings, FirstEvaluations] | None = None
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def run(self, cell: Cell) -> Record:
        """Do what a cell's record lacks and commit it; an error becomes the record's failure.

        A good record is added to, never lost: if adding fails, the failure is returned but the record stays.
        """
        before = self.store.record(cell.key)
        good = before if before is not None and before.status == "ok" else None
        threads = {"lanes": self.lanes, **self.process}
        environment = {**machine_fingerprint(cell.device, torch.get_num_threads()), **threads}
        work = _CellWork(self, cell, good)
        try:
            record = work.complete(environment)
        except Exception as error:
            failure = Failure(type(error).__name__, str(error), traceback.format_exc())
            failed = Record(cell.key, cell, "error", environment, work.sampling_s, failure=failure)
            if good is None:
                self.store.commit(failed)
            return failed
        if good is None:
            self.store.commit(record, GRID_IMAGES if self.keep == "grid" else None)
        else:
            self.store.replace(record)
        return record

    def smaller(self, cell: Cell) -> Record | None:
        """The good record of the same cell with the most of its first prompts, whose images serve here too."""
        with self._loading:
            if self._smaller is None:
                good = [record for record in self.store.records() if record.status == "ok" and self._begins(record)]
                good.sort(key=lambda record: record.cell.prompts.count)
                self._smaller = {_without_prompts(record.cell): record for record in good}
        return self._smaller.get(_without_prompts(cell))

    def _begins(self, record: Record) -> bool:
        """Whether a record is about fewer prompts, the first of ours."""
        prompts = record.cell.prompts
        fewer = prompts.count < len(self.prompts)
        return fewer and prompts.text_hash == hash_texts(self.prompts[: prompts.count])

    def sampler(self, cell: Cell) -> Sampler:
        """A sampler of a cell on the loaded pipeline that fits it."""
        with self._loading:
            if self._loaded is None or self._loaded[0] != cell.pipeline_key:
                self._loaded = None  # the old one is freed before the new one is loaded
                pipeline: Any = load_pipeline(cell)
                self._loaded = cell.pipeline_key, pipeline, Embeddings(), FirstEvaluations(pipeline.unet)
            _, pipeline, embeddings, first = self._loaded
        return Sampler(pipeline, cell, self.prompts, embeddings, first, self.inputs)


def _without_prompts(cell: Cell) -> str:
    return replace(cell, prompts=PromptSet("", 0, "")).key


class _CellWork:
    """What is done for one cell; `good` is its record where there is one already."""

    def __init__(self, runner: Runner, cell: Cell, good: Record | None) -> None:
        self.runner, self.cell, self.good = runner, cell, good
        self.sampling_s = 0.0
        self._own = threading.local()

    @property
    def sampler(self) -> Sampler:
        """The sampler of the thread that asks; the first one loads the pipeline."""
        if not hasattr(self._own, "sampler"):
            self._own.sampler = self.runner.sampler(self.cell)
        found: Sampler = self._own.sampler
        return found

    def complete(self, environment: Mapping[str, Any]) -> Record:
        store, key, measure = self.runner.store, self.cell.key, self.runner.measure
        record = self.good
        if record is None or not store.has_features(key, self.runner.extractor):
            images, calls = self._sample()
            if record is not None and record.images != images:
                raise CellError("sampling the cell again gave other images than its record says")
            record = record or Record(key, self.cell, "ok", environment, self.sampling_s, calls, images)
        kin = self.runner.smaller(self.cell)
        if measure.latency and record.latency is None:
            record = replace(record, latency=(kin and kin.latency) or self._latency())
        if measure.memory and record.memory is None:
            record = replace(record, memory=(kin and kin.memory) or self._memory())
        return record

    def _sample(self) -> tuple[Images, Calls]:
        """Images and features of all prompts; the features are saved."""
        hashes: list[str] = []
        rows: list[Mapping[str, NDArray[Any]]] = []
        calls: Calls | None = None
        count = len(self.runner.prompts)
        starts = range(0, count, self.cell.batch_size)
        for batch in side_by_side(self._batch, starts, self.runner.lanes):
            hashes.append(hash_images(batch.images))
            rows.append(batch.features)
            calls = min(calls or batch.calls, batch.calls, key=lambda found: found.batch_size)
            self.sampling_s += batch.sampling_s
            self.runner.advance(len(batch.images))
        if calls is None:
            raise CellError("the cell has no prompts")
        features = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        self.runner.store.save_features(self.cell.key, self.runner.extractor, features)
        combined = hash_images(np.frombuffer("".join(hashes).encode(), np.uint8))
        height = self.cell.base.height * int(self.cell.task.settings.get("frames", 1))
        return Images(count, height, self.cell.base.width, combined), calls

    def _batch(self, start: int) -> StoredBatch:
        """From the store where an earlier run left it, else sampled."""
        store, key = self.runner.store, self.cell.key
        stop = min(start + self.cell.batch_size, len(self.runner.prompts))
        if self.good is None:
            if stored := store.load_batch(key, start):
                return stored
        elif self.good.calls and (kept := store.images(key, range(start, stop))) is not None:
            return StoredBatch(start, kept, self.runner.look(kept, start), self.good.calls, 0.0)
        if (kin := self.runner.smaller(self.cell)) and (taken := self._take(kin, start, stop)):
            return taken
        begin = time.perf_counter()
        batch = self.sampler.sample(start)
        elapsed = (time.perf_counter() - begin) / self.runner.lanes  # lanes share the time
        stored = StoredBatch(start, batch.images, self.runner.look(batch.images, start), batch.calls, elapsed)
        if self.good is None:
            store.save_batch(key, stored)
        return stored

    def _take(self, kin: Record, start: int, stop: int) -> StoredBatch | None:
        """A batch from a smaller cell that was sampled before: its images are the same."""
        runner, count = self.runner, kin.cell.prompts.count
        images = runner.store.images(kin.key, range(start, stop)) if stop <= count else None
        if images is None or kin.calls is None:
            return None
        calls = replace(kin.calls, unet_samples=kin.calls.unet_evaluations * len(runner.prompts))
        if runner.store.has_features(kin.key, runner.extractor):
            known = runner.store.features(kin.key, runner.extractor)
            features: Mapping[str, NDArray[Any]] = {name: rows[start:stop] for name, rows in known.items()}
        else:
            features = runner.look(images, start)
        batch = StoredBatch(start, images, features, calls, kin.sampling_s * (stop - start) / count)
        if self.good is None:
            runner.store.save_batch(self.cell.key, batch)
        return batch

    def _latency(self) -> Latency:
        measure, pipeline = self.runner.measure, self.sampler.pipeline
        rows = range(min(measure.batch_size, len(self.runner.prompts)))
        encoders = [getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
        parts = {
            "text_encoder": [encoder for encoder in encoders if encoder is not None],
            "denoiser": [part for part in (pipeline.unet, getattr(pipeline, "controlnet", None)) if part is not None],
            "vae": [pipeline.vae.encoder, pipeline.vae.decoder],
        }
        stopwatch = Stopwatch.of(torch.device(self.cell.device))
        call = lambda: self.sampler.call(rows)  # noqa: E731
        return measure_latency(call, parts, stopwatch, len(rows), measure.repeats, measure.warmup)

    def _memory(self) -> Memory:
        rows = range(min(self.runner.measure.batch_size, len(self.runner.prompts)))
        return measure_memory(lambda: self.sampler.call(rows), torch.device(self.cell.device), len(rows))
