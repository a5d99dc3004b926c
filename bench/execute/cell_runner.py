"""One cell → one record."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.execute.device_lock import beside_others_on
from bench.execute.device_queue import DeviceQueue
from bench.execute.feature_extraction import Extractor
from bench.execute.kept_inputs import SHOWN, has_inputs, keep_inputs
from bench.execute.measuring import lacks_latency, lacks_memory, measured
from bench.experiment.config import Measure
from bench.generate.loaded_pipeline import Loaded
from bench.generate.prompts import hash_texts
from bench.generate.sampling import Batch, Sampler
from bench.generate.task_inputs import Inputs
from bench.measure.environment import machine_fingerprint
from bench.parallel import map_images, map_in_threads
from bench.records.cell import Cell
from bench.records.errors import Damaged, StoreError
from bench.records.record import Failure, Images, Record
from bench.redact import without_secrets
from bench.store.png import hash_all, hash_image, hash_images
from bench.store.store import GOOD, Features, Store, StoredBatch
from bench.workers.loop import Piece

CHUNK_IMAGES = 1024


def is_complete(store: Store, key: str, extractor: str, measure: Measure) -> bool:
    """Whether a cell has a good record with all that is asked for, so that nothing is left to do."""
    record = store.record(key)
    return (
        record is not None
        and record.status == "ok"
        and store.has_features(key, extractor)
        and not store.missing_images(record)
        and not lacks_latency(record, measure)
        and not lacks_memory(record, measure)
    )


@dataclass
class Runner:
    """Does what cells need, keeping the last loaded pipeline for the next cell that fits it."""

    store: Store
    prompts: tuple[str, ...]
    extract: Extractor
    extractor: str
    """What `extract` computes features with, by content."""
    measure: Measure
    keep: str
    inputs: Inputs
    """The task's input images."""
    queue: DeviceQueue
    """How many batches are at work at once, and how they share the device."""
    advance: Callable[[int], object]
    """Called with the number of images that were just finished."""
    process: Mapping[str, Any]
    """What was set for the whole process, for the record's environment."""
    chunk_images: int = CHUNK_IMAGES
    """Into how large pieces cells are cut that several workers may share, in images."""
    check: Callable[[], object] = lambda: None
    """Called between batches; may raise to end the work."""

    _smaller: dict[str, Record] | None = None
    _loaded: Loaded | None = None
    _loading: threading.Lock = field(default_factory=threading.Lock)
    _verified: set[tuple[str, int]] = field(default_factory=set)
    """Batches of this process, whose images need no second look."""

    def is_complete(self, cell: Cell) -> bool:
        """See `bench.workers.loop.Work`."""
        return is_complete(self.store, cell.key, self.extractor, self.measure)

    def chunks(self, cell: Cell) -> list[range]:
        """The cell's images in pieces, whole batches each."""
        size = max(1, round(self.chunk_images / cell.batch_size)) * cell.batch_size
        count = len(self.prompts)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def open_chunks(self, cell: Cell) -> list[range]:
        """See `bench.workers.loop.Work`."""
        if self.store.has_features(cell.key, self.extractor):
            return []
        done = self.store.batch_starts(cell.key, self.extractor)
        return [
            chunk for chunk in self.chunks(cell) if not done.issuperset(range(chunk.start, chunk.stop, cell.batch_size))
        ]

    def progress(self, cell: Cell, chunk: range) -> int:
        """See `bench.workers.loop.Work`."""
        return len(self.store.batch_starts(cell.key, self.extractor).intersection(chunk))

    def sample(self, pieces: Iterable[Piece]) -> Generator[Exception | None]:
        """See `bench.workers.loop.Work`."""

        def batches() -> Iterator[tuple[_CellWork, int, bool]]:
            for cell, chunk in pieces:
                work, starts = _CellWork(self, cell), range(chunk.start, chunk.stop, cell.batch_size)
                yield from ((work, start, start == starts[-1]) for start in starts)

        for work, batch, is_last in map_in_threads(_attempt, batches(), self.queue.concurrent_batches):
            if batch is not None:
                self._verified.add((work.cell.key, batch.start))
                self.advance(batch.count)
            if is_last:
                yield work.failed[min(work.failed)] if work.failed else None  # whichever lane was the faster one
            self.check()

    def finish(self, cell: Cell) -> Record | None:
        """See `bench.workers.loop.Work`. A good record is added to, never lost."""
        work = _CellWork(self, cell)
        record = work.good
        if not self.store.has_features(cell.key, self.extractor):
            batches = self._gather(cell, work.good is None)
            if batches is None:
                return None
            images, features = _join(cell, batches, SHOWN if self.keep == "grid" else None)
            if record is not None and record.images_hash != images.sha256:
                why = "its images cannot be made again as they were; the cell is"
                self.store.quarantine(f"cells/{cell.key}/{GOOD}", why)
                return None
            self.store.save_features(cell.key, self.extractor, features, images.sha256)
            calls = min((batch.calls for batch in batches), key=lambda found: found.batch_size)
            spent = sum(batch.sampling_s for batch in batches)
            record = record or Record(cell.key, cell, "ok", self._environment(cell), spent, calls, images)
        if record is None:
            self.store.drop_features(cell.key, self.extractor)  # of a record that was lost
            return None
        if work.good is not None:
            record = self._mend_images(work, record)
        if not has_inputs(self.store, self.inputs):
            keep_inputs(self.store, self.inputs)
        donor, prompts = self.donor_of(cell), len(self.prompts)
        record = measured(record, self.measure, prompts, lambda: work.sampler, self.excluded_bytes, donor)
        if work.good is None:
            self.store.commit(record, SHOWN if self.keep == "grid" else None)
        else:
            self.store.replace(record)
            self.store.clear_traces(cell.key)
            if record.images is not None and record.images.hashes:
                self.store.drop_images(cell.key, len(record.images.hashes))
        return record

    def _mend_images(self, work: _CellWork, record: Record) -> Record:
        """Sample kept images again that are gone; those that come out otherwise are given up, which the record says."""
        rows, images = set(self.store.missing_images(record)), record.images
        if not rows or images is None:
            return record
        label, size, hashes = record.cell.label, record.cell.batch_size, list(images.hashes)
        print(f"{label}: {len(rows)} kept images are gone and are sampled again", file=sys.stderr)
        for start in sorted({row // size * size for row in rows}):
            with work.beside_others():
                batch, _ = work.sample(start)
            for row, image in enumerate(batch.images, start):
                if row in rows and hash_image(image) == hashes[row]:
                    self.store.save_image(record.key, row, image)
                elif row in rows:
                    hashes[row] = ""
        if lost := hashes.count(""):
            print(f"{label}: {lost} kept images come out otherwise here and stay away", file=sys.stderr)
        return replace(record, images=replace(images, hashes=tuple(hashes)))

    def fail(self, cell: Cell, error: Exception) -> Record:
        """See `bench.workers.loop.Work`. A good record stays; the failure is returned all the same."""
        trace = "".join(traceback.format_exception(error))
        failure = Failure(type(error).__name__, without_secrets(str(error)), without_secrets(trace))
        record = Record(cell.key, cell, "error", self._environment(cell), 0.0, failure=failure)
        before = self.store.record(cell.key)
        if before is None or before.status != "ok":
            self.store.commit(record)
        return record

    def _environment(self, cell: Cell) -> Mapping[str, Any]:
        return {
            **machine_fingerprint(cell.device, torch.get_num_threads()),
            "concurrent_batches": self.queue.concurrent_batches,
            **self.process,
        }

    def _gather(self, cell: Cell, with_images: bool) -> list[StoredBatch] | None:
        """All batches of a cell; None where one is missing or is not as it was saved, which is then forgotten."""
        batches = []
        for start in range(0, len(self.prompts), cell.batch_size):
            batch = self.store.load_batch(cell.key, self.extractor, start)
            trusted = (cell.key, start) in self._verified or not with_images
            if batch is None or not (trusted or self.store.is_whole(cell.key, batch)):
                self.store.drop_batch(cell.key, self.extractor, start)
                self._verified.discard((cell.key, start))
                if batch is not None:
                    print(f"{cell.label}: images from {start} on are damaged and are made again", file=sys.stderr)
                return None
            batches.append(batch)
        return batches

    def donor_of(self, cell: Cell) -> Record | None:
        """The good record of the same cell with the most of its first prompts, whose images serve here too."""
        with self._loading:
            if self._smaller is None:
                good = [record for record in self.store.records() if record.status == "ok" and self._begins(record)]
                good.sort(key=lambda record: record.cell.prompts.count)
                self._smaller = {record.cell.key_without_prompts: record for record in good}
        return self._smaller.get(cell.key_without_prompts)

    def _begins(self, record: Record) -> bool:
        """Whether a record is about fewer prompts, the first of ours."""
        prompts = record.cell.prompts
        fewer = prompts.count < len(self.prompts)
        return fewer and prompts.text_hash == hash_texts(self.prompts[: prompts.count])

    def excluded_bytes(self) -> int:
        """See `Loaded`; 0 where nothing is loaded."""
        return self._loaded.excluded_bytes if self._loaded else 0

    def sampler(self, cell: Cell) -> Sampler:
        """A sampler of a cell on the loaded pipeline that fits it."""
        with self._loading:
            if self._loaded is None or self._loaded.key != cell.pipeline_key:
                self._loaded = None  # the old one is freed before the new one is loaded
                self._loaded = Loaded(cell)
            return self._loaded.sampler(cell, self.prompts, self.inputs)


class _CellWork:
    """What is done for one cell; `good` is its record where there is one, `failed` what was wrong with batches."""

    def __init__(self, runner: Runner, cell: Cell) -> None:
        record = runner.store.record(cell.key)
        self.runner, self.cell = runner, cell
        self.good = record if record is not None and record.status == "ok" else None
        self.failed: dict[int, Exception] = {}
        self._own = threading.local()
        self._known: Features | None = None

    @property
    def sampler(self) -> Sampler:
        """The sampler of the thread that asks; the first one loads the pipeline."""
        if not hasattr(self._own, "sampler"):
            self._own.sampler = self.runner.sampler(self.cell)
        found: Sampler = self._own.sampler
        return found

    def batch(self, start: int) -> StoredBatch:
        """From the store where an earlier run left it, else sampled, and in the store then."""
        runner, key = self.runner, self.cell.key
        stored = runner.store.load_batch(key, runner.extractor, start)
        if stored and ((key, start) in runner._verified or self.good or runner.store.is_whole(key, stored)):
            return stored
        stop = min(start + self.cell.batch_size, len(runner.prompts))
        donor = runner.donor_of(self.cell)
        kept = self._from_kept_images(start, stop)
        batch, images = kept or (donor and self._from_donor(donor, start, stop)) or self._sample_batch(start)
        runner.store.save_batch(key, runner.extractor, batch, None if kept else images, map_images)
        return batch

    def _from_kept_images(self, start: int, stop: int) -> tuple[StoredBatch, NDArray[np.uint8]] | None:
        """A batch of a finished cell whose images were kept: features are computed from them."""
        if self.good is None or self.good.calls is None:
            return None
        images = self._intact_images(self.good, range(start, stop))
        if images is None:
            return None
        return StoredBatch(start, self.runner.extract(images, start), self.good.calls, 0.0, hash_images(images)), images

    def _intact_images(self, record: Record, rows: range) -> NDArray[np.uint8] | None:
        """Kept images; one that is damaged is set aside, and there are none then."""
        try:
            return self.runner.store.kept_images(record, rows)
        except Damaged as error:
            self.runner.store.quarantine(error.name, error.why)
            return None

    def beside_others(self) -> AbstractContextManager[None]:
        """The right to sample while nobody measures on the device, where this run measures anything itself."""
        asked = self.runner.measure
        measures = asked.latency or (asked.memory and self.cell.device != "cpu")  # see lacks_memory
        return beside_others_on(self.cell.device) if measures else nullcontext()

    def sample(self, start: int) -> tuple[Batch, float]:
        """A batch as the pipeline gives it, and how long that took in seconds. The caller has the device."""
        sampler = self.sampler  # what loading takes is not sampling
        with self.runner.queue.slot():
            begun = time.perf_counter()
            asked = sampler.begin(start)
        batch = asked()
        return batch, self.runner.queue.spent(begun, time.perf_counter())

    def _sample_batch(self, start: int) -> tuple[StoredBatch, NDArray[np.uint8]]:
        with self.beside_others():
            batch, elapsed = self.sample(start)
            features = self.runner.extract(batch.images, start)
        return StoredBatch(start, features, batch.calls, elapsed, hash_images(batch.images)), batch.images

    def _from_donor(self, donor: Record, start: int, stop: int) -> tuple[StoredBatch, NDArray[np.uint8]] | None:
        """A batch from a smaller cell that was sampled before: its images are the same."""
        runner, count = self.runner, donor.cell.prompts.count
        images = self._intact_images(donor, range(start, stop)) if stop <= count else None
        if images is None or donor.calls is None:
            return None
        calls = replace(donor.calls, denoiser_samples=donor.calls.denoiser_evaluations * len(runner.prompts))
        known = self._known_of(donor)
        features = {name: rows[start:stop] for name, rows in known.items()} if known else runner.extract(images, start)
        spent = donor.sampling_s * (stop - start) / count
        return StoredBatch(start, features, calls, spent, hash_images(images)), images

    def _known_of(self, donor: Record) -> Features:
        """The features of a smaller cell, read once; empty where there are none, or damaged ones."""
        if self._known is None:
            store, extractor = self.runner.store, self.runner.extractor
            self._known = {}
            with suppress(Damaged):  # who reads that cell for its own sake says it
                if store.has_features(donor.key, extractor):
                    self._known = store.features_of(donor, extractor)
        return self._known


def _attempt(asked: tuple[_CellWork, int, bool]) -> tuple[_CellWork, StoredBatch | None, bool]:
    """A batch, or None with the error in the cell's work; none is tried that comes after one with an error."""
    work, start, is_last = asked
    try:
        return work, None if any(at < start for at in list(work.failed)) else work.batch(start), is_last
    except StoreError:
        raise
    except Exception as error:
        work.failed[start] = error
        return work, None, is_last


def _join(cell: Cell, batches: Sequence[StoredBatch], kept: int | None) -> tuple[Images, dict[str, NDArray[Any]]]:
    """What a cell's images are, the first `kept` of which stay, and their features, all rows in order."""
    features = {name: np.concatenate([batch.features[name] for batch in batches]) for name in batches[0].features}
    hashes = [known for batch in batches for known in batch.hashes]
    height = cell.base.height * int(cell.task.settings.get("frames", 1))
    return Images(len(hashes), height, cell.base.width, hash_all(hashes), tuple(hashes[:kept])), features
