"""The work on a cell: from its images to its record."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.execute.device_lock import beside_others_on
from bench.execute.feature_extraction import FeatureSets
from bench.execute.kept_inputs import SHOWN, has_inputs, keep_inputs
from bench.execute.measuring import lacks_latency, lacks_memory, measured
from bench.experiment.config import Measure
from bench.generate.loaded_pipeline import CurrentPipeline
from bench.generate.prompts import hash_texts
from bench.generate.sampling import Sampler
from bench.generate.task_inputs import Inputs
from bench.generate.trajectory import trace_latents
from bench.measure.environment import machine_fingerprint
from bench.parallel import OneAlone, ThreadedCalls, map_images
from bench.pictures import batch_images, hash_all, hash_image, hash_images, kept_images, to_png
from bench.records.cell import Cell
from bench.records.errors import Damaged, StoreError
from bench.records.record import Failure, Images, Record
from bench.redact import without_secrets
from bench.store.cell_folder import GOOD, LATENTS, StoredBatch, batch_identity
from bench.store.sealed import Arrays
from bench.store.store import Store
from bench.workers.loop import Chunk, Ended, Work, WorkerContext


def is_complete(store: Store, key: str, features: Iterable[str], measure: Measure) -> bool:
    """Whether a cell has a good record with all that is requested, so that nothing is left to do.

    `features` are the identities of the sets of features.
    """
    folder = store.cell(key)
    record = folder.record()
    return (
        record is not None
        and record.status == "ok"
        and not folder.missing_features(features)
        and not store.missing_images(record)
        and not lacks_latency(record, measure)
        and not lacks_memory(record, measure)
    )


class DeviceQueue:
    """The queue of concurrent batches at a device, and how much of the device's time each batch took.

    Where one samples at a time, features of a batch are computed and its images saved while the next one samples.
    """

    def __init__(self, concurrent_batches: int, one_samples: bool) -> None:
        self.concurrent_batches, self._one_samples = concurrent_batches, one_samples
        self._slot, self._clock = threading.Lock(), threading.Lock()
        self._busy_until = 0.0

    def slot(self) -> AbstractContextManager[object]:
        """The right to give the device a batch; the next one is given while the device still works on it."""
        return self._slot if self._one_samples else nullcontext()

    def spent(self, begun: float, done: float) -> float:
        """Seconds that a batch took of the device: since the batch before it was done, or its share of all batches."""
        if not self._one_samples:
            return (done - begun) / self.concurrent_batches
        with self._clock:
            begun, self._busy_until = max(begun, self._busy_until), max(done, self._busy_until)
        return max(0.0, done - begun)


@dataclass
class Runner(Work):
    """Does what cells need, keeping the last loaded pipeline for the next cell that fits it."""

    store: Store
    prompts: tuple[str, ...]
    features: FeatureSets
    measure: Measure
    keep: str
    inputs: Inputs
    """The task's input images."""
    queue: DeviceQueue
    """The number of concurrent batches, and how they share the device."""
    context: WorkerContext
    process: Mapping[str, Any]
    """Settings of the whole process, for the record's environment."""
    name_first_inputs: Callable[[int], str | None] = lambda _: None
    """What the task's input images of so many first images are called."""
    chunk_images: int = 1024
    """The size, in images, of the chunks that several workers may share."""
    keep_latents: int = 0
    """The number of first images whose latents are kept."""

    _smaller: dict[str, Record] | None = None
    _finding: threading.Lock = field(default_factory=threading.Lock)
    _verified: set[tuple[str, int]] = field(default_factory=set)
    """Batches of this process, whose images need not be checked again."""

    def __post_init__(self) -> None:
        self.pipeline = CurrentPipeline(self.prompts, self.inputs)
        self.extracting = OneAlone()
        self._calls = ThreadedCalls(self.queue.concurrent_batches)

    @property
    def _kept(self) -> int | None:
        """How many first images of a cell are kept; None where all are."""
        return SHOWN * self.inputs.images_per_prompt if self.keep == "grid" else None

    def is_complete(self, cell: Cell) -> bool:
        return is_complete(self.store, cell.key, self.features.identities, self.measure)

    def open_chunks(self, cell: Cell) -> list[range]:
        """Return the rows of its chunks, of whole batches, that are not in the store yet."""
        work = _CellWork(self, cell)
        if work.good is not None and not work.wanted:
            return []
        size, count = max(1, round(self.chunk_images / cell.batch_size)) * cell.batch_size, len(self.prompts)
        chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
        done = work.folder.batch_starts(work.batches)
        return [rows for rows in chunks if not done.issuperset(rows[:: cell.batch_size])]

    def rows_done(self, cell: Cell, rows: range) -> int:
        work = _CellWork(self, cell)
        return len(work.folder.batch_starts(work.batches).intersection(rows))

    def sample(self, chunk: Chunk) -> Ended:
        work = _CellWork(self, chunk.cell, chunk)
        for start in chunk.rows[:: chunk.cell.batch_size]:
            for done in self._calls.call(work.batch, start):
                yield from self._note(*done)

    def sample_rest(self) -> Ended:
        for done in self._calls.rest():
            yield from self._note(*done)

    def release_threads(self) -> None:
        self._calls.close()

    def _note(self, work: _CellWork, start: int, images: int) -> Ended:
        """Note that images of a batch were saved, 0 where it failed; yields its chunk after the last batch."""
        cell, chunk = work.cell, work.chunk
        if images:
            self._verified.add((cell.key, start))
            self.context.progress(cell, images)
        if chunk is not None and start + cell.batch_size >= chunk.rows.stop:
            yield chunk, work.failed[min(work.failed)] if work.failed else None  # not the one that failed first
        self.context.check_stop()

    def finish(self, cell: Cell) -> Record | None:
        """See `Work`. A good record is added to, never lost."""
        work = _CellWork(self, cell)
        folder, record = work.folder, work.good
        if record is None or work.wanted:
            batches = self._gather(work)
            if batches is None:
                return None
            images, features = _join(cell, batches, self._kept)
            if record is not None and record.images_hash != images.sha256:
                why = "its images cannot be reproduced exactly; the cell is sampled again"
                self.store.quarantine(f"cells/{cell.key}/{GOOD}", why)
                return None
            for identity, found in features.items():
                folder.save_features(identity, found, images.sha256)
            calls = min((batch.calls for batch in batches), key=lambda found: found.batch_size)
            spent = sum(batch.sampling_s for batch in batches)
            record = record or Record(cell.key, cell, "ok", self._environment(cell), spent, calls, images)
        if work.good is not None:
            record = self._restore_images(work, record)
        if not has_inputs(self.store, self.inputs):
            keep_inputs(self.store, self.inputs)
        donor, prompts = self.donor_of(cell), len(self.prompts)
        record = measured(record, self.measure, prompts, self.pipeline, donor)
        self._keep_latents(work, record)
        if work.good is None:
            self.store.commit(record, self._kept)
        else:
            folder.replace(record)
            folder.clear_traces()
            if record.images is not None and record.images.hashes:
                folder.drop_images(len(record.images.hashes))
        return record

    def _keep_latents(self, work: _CellWork, record: Record) -> None:
        """Sample the first images once more to keep the trajectory of their latents, where that is requested."""
        rows = range(min(self.keep_latents, len(self.prompts)))
        if rows and not work.folder.has_features(LATENTS):
            with self.beside_others(record.cell):
                found = trace_latents(self.pipeline.sampler(record.cell), rows)
            work.folder.save_features(LATENTS, found, record.images_hash)

    def _restore_images(self, work: _CellWork, record: Record) -> Record:
        """Sample missing kept images again; those that differ now are abandoned, and the record has no hash of them."""
        rows, images = set(self.store.missing_images(record)), record.images
        if not rows or images is None:
            return record
        label, size, hashes = record.cell.label, record.cell.batch_size, list(images.hashes)
        print(f"{label}: {len(rows)} kept images are missing and are sampled again", file=sys.stderr)
        for start in sorted({row // size * size for row in rows}):
            with self.beside_others(record.cell):
                batch = work.sampler.sample(start)
            for row, image in enumerate(batch.images, start):
                if row in rows and hash_image(image) == hashes[row]:
                    self.store.cell(record.key).save_image(row, to_png(image))
                elif row in rows:
                    hashes[row] = ""
        if lost := hashes.count(""):
            print(f"{label}: {lost} kept images differ when they are sampled here, and stay missing", file=sys.stderr)
        return replace(record, images=replace(images, hashes=tuple(hashes)))

    def fail(self, cell: Cell, error: Exception) -> Record:
        """See `Work`. A good record stays; the failure is returned all the same."""
        trace = "".join(traceback.format_exception(error))
        failure = Failure(type(error).__name__, without_secrets(str(error)), without_secrets(trace))
        record = Record(cell.key, cell, "error", self._environment(cell), 0.0, failure=failure)
        before = self.store.cell(cell.key).record()
        if before is None or before.status != "ok":
            self.store.commit(record)
        return record

    def lost_device(self, device: str) -> str | None:
        """See `Work`: an error such as an illegal access leaves a process's CUDA context unusable for ever."""
        try:
            if device != "cpu":
                torch.cuda.synchronize(device)
        except RuntimeError as error:  # of which PyTorch's own error of an accelerator is a kind
            return str(error).splitlines()[0]
        return None

    def _environment(self, cell: Cell) -> Mapping[str, Any]:
        return {
            **machine_fingerprint(cell.device, torch.get_num_threads()),
            "concurrent_batches": self.queue.concurrent_batches,
            **self.process,
        }

    def _gather(self, work: _CellWork) -> list[StoredBatch] | None:
        """All batches of a cell; None where one is missing or damaged, which is then dropped."""
        batches, cell, folder = [], work.cell, work.folder
        for start in range(0, len(self.prompts), cell.batch_size):
            batch = folder.load_batch(work.batches, start)
            verified = (cell.key, start) in self._verified or work.good is not None
            if batch is None or not (verified or batch_images(folder, batch) is not None):
                folder.drop_batch(work.batches, start)
                self._verified.discard((cell.key, start))
                if batch is not None:
                    print(f"{cell.label}: images from {start} on are damaged and are sampled again", file=sys.stderr)
                return None
            batches.append(batch)
        return batches

    def donor_of(self, cell: Cell) -> Record | None:
        """The good record of the same cell with the most of its first prompts, whose images are the same here."""
        with self._finding:
            if self._smaller is None:
                good = [record for record in self.store.good_records() if self._begins(record)]
                good.sort(key=lambda record: record.cell.prompts.count)
                self._smaller = {record.cell.place: record for record in good}
        return self._smaller.get(cell.place)

    def _begins(self, record: Record) -> bool:
        """Whether a record is about fewer prompts, the first of ours, with the same inputs."""
        prompts = record.cell.prompts
        if prompts.count >= len(self.prompts) or prompts.text_hash != hash_texts(self.prompts[: prompts.count]):
            return False
        return record.cell.task.inputs is None or record.cell.task.inputs == self.name_first_inputs(prompts.count)

    def beside_others(self, cell: Cell) -> AbstractContextManager[None]:
        """The right to sample while nothing is measured on the device, where this run measures anything itself."""
        measures = self.measure.latency or (self.measure.memory and cell.device != "cpu")  # see lacks_memory
        return beside_others_on(cell.device) if measures else nullcontext()


class _CellWork:
    """The work on one cell; `good` is its record where there is one, `failed` the errors of batches.

    `wanted` are the identities of the sets of features that it lacks: all of them while it has no good record.
    `batches` is the identity of batches that have these.
    """

    def __init__(self, runner: Runner, cell: Cell, chunk: Chunk | None = None) -> None:
        self.runner, self.cell, self.chunk = runner, cell, chunk
        self.folder = runner.store.cell(cell.key)
        record = self.folder.record()
        self.good = record if record is not None and record.status == "ok" else None
        self.wanted = runner.features.identities
        if self.good is not None:
            self.wanted = self.folder.missing_features(self.wanted)
        self.batches = batch_identity(self.wanted)
        self.failed: dict[int, Exception] = {}
        self._own = threading.local()
        self._known: dict[str, Arrays] | None = None

    @property
    def sampler(self) -> Sampler:
        """The sampler of the calling thread; the first one loads the pipeline."""
        if not hasattr(self._own, "sampler"):
            self._own.sampler = self.runner.pipeline.sampler(self.cell)
            if self.runner.queue.concurrent_batches > 1:
                self._own.sampler.alone = self.runner.extracting.alone
        found: Sampler = self._own.sampler
        return found

    def batch(self, start: int) -> tuple[_CellWork, int, int]:
        """Bring a batch into the store where it is not yet; returns this, `start`, and the number of its images.

        That is 0 where it fails, and where a batch before it has failed, since nothing is tried after that one.
        """
        runner, cell, folder = self.runner, self.cell, self.folder
        try:
            if any(at < start for at in list(self.failed)):
                return self, start, 0
            stored = folder.load_batch(self.batches, start)
            known = (cell.key, start) in runner._verified or self.good
            if stored and (known or batch_images(folder, stored) is not None):
                return self, start, stored.count
            stop = min(start + cell.batch_size, len(runner.prompts))
            kept = self._from_kept_images(start, stop) or self._from_other_features(start)
            if (found := kept or self._from_donor(start, stop)) is not None:
                batch, images = found
            else:
                with runner.beside_others(cell):
                    sampler = self.sampler  # what loading takes is not sampling
                    with runner.queue.slot():
                        begun = time.perf_counter()
                        wait = sampler.begin(start)
                    sampled = wait()
                    spent = runner.queue.spent(begun, time.perf_counter())
                    features, images = self._extract(sampled.images, start), sampled.images
                batch = StoredBatch(start, features, sampled.calls, spent, hash_images(images))
            folder.save_batch(batch, () if kept else map_images(to_png, images))
        except StoreError:
            raise
        except Exception as error:
            self.failed[start] = error
            return self, start, 0
        return self, start, batch.count

    def _from_kept_images(self, start: int, stop: int) -> tuple[StoredBatch, NDArray[np.uint8]] | None:
        """A batch of a finished cell whose images were kept: features are computed from them."""
        if self.good is None or self.good.calls is None:
            return None
        store = self.runner.store
        images = store.unless_damaged(partial(kept_images, store, self.good, range(start, stop)))
        if images is None:
            return None
        return StoredBatch(start, self._extract(images, start), self.good.calls, 0.0, hash_images(images)), images

    def _from_other_features(self, start: int) -> tuple[StoredBatch, NDArray[np.uint8]] | None:
        """A batch of an unfinished cell that was finished with other features: only the missing ones are computed."""
        for batch in self.folder.other_batches(self.batches, start):
            if (images := batch_images(self.folder, batch)) is not None:
                return replace(batch, features=self._extract(images, start, batch.features)), images
        return None

    def _from_donor(self, start: int, stop: int) -> tuple[StoredBatch, NDArray[np.uint8]] | None:
        """A batch of a cell with fewer prompts that was sampled before: its images are the same."""
        runner, donor = self.runner, self.runner.donor_of(self.cell)
        if donor is None or donor.calls is None or stop > (count := donor.cell.prompts.count):
            return None
        images = runner.store.unless_damaged(partial(kept_images, runner.store, donor, range(start, stop)))
        if images is None:
            return None
        calls = replace(donor.calls, denoiser_samples=donor.calls.denoiser_evaluations * len(runner.prompts))
        known = {
            identity: {name: rows[start:stop] for name, rows in found.items()}
            for identity, found in self._known_of(donor).items()
        }
        features = self._extract(images, start, known)
        spent = donor.sampling_s * (stop - start) / count
        return StoredBatch(start, features, calls, spent, hash_images(images)), images

    def _known_of(self, donor: Record) -> Mapping[str, Arrays]:
        """The features of a smaller cell by identity, read once, without damaged ones."""
        if self._known is None:
            store = self.runner.store
            missing = store.cell(donor.key).missing_features(self.wanted)
            self._known = {}
            for identity in self.wanted:
                with suppress(Damaged):  # reported where that cell itself is read
                    if identity not in missing:
                        self._known[identity] = store.features_of(donor, identity)
        return self._known

    def _extract(
        self, images: NDArray[np.uint8], start: int, known: Mapping[str, Arrays] | None = None
    ) -> dict[str, Arrays]:
        """The wanted features of a batch, of which those that are `known` are not computed."""
        known = known or {}
        with self.runner.extracting.beside():
            found = self.runner.features.extract(images, start, [name for name in self.wanted if name not in known])
        return {name: found[name] if name in found else known[name] for name in self.wanted}


def _join(cell: Cell, batches: Sequence[StoredBatch], kept: int | None) -> tuple[Images, dict[str, Arrays]]:
    """Return a description of a cell's images, of which the first `kept` stay, and their features, rows in order."""
    features: dict[str, Arrays] = {
        identity: {name: np.concatenate([batch.features[identity][name] for batch in batches]) for name in arrays}
        for identity, arrays in batches[0].features.items()
    }
    hashes = [known for batch in batches for known in batch.hashes]
    height = cell.base.height * int(cell.task.settings.get("frames", 1))
    return Images(len(hashes), height, cell.base.width, hash_all(hashes), tuple(hashes[:kept])), features
