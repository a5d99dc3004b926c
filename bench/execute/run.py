"""The run itself: what is left to do is given to workers, here or elsewhere, and their records are collected."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar

from tqdm import tqdm

from bench.execute.feature_extraction import make_inputs
from bench.execute.job import Job, make_runner, restore_reference
from bench.execute.kept_inputs import restore_inputs
from bench.experiment.executors import Local, Ray
from bench.measure.environment import visible_gpus
from bench.printable import printable
from bench.records.cell import Cell
from bench.records.errors import BenchError, Damaged
from bench.records.record import Record
from bench.redact import secret_settings, settings_without_secrets
from bench.store.integrity import quarantine_corrupt_features, quarantine_corrupt_records
from bench.store.store import Store
from bench.workers.launch import Launch, new_launch_name
from bench.workers.leases import new_worker_name
from bench.workers.loop import Stopped
from bench.workers.pool import Executor, WorkerPool
from bench.workers.status import ENDED, read_status
from bench.workers.worker import Worker, signals_stop

LOOK_EVERY_S = 1.0
_Result = TypeVar("_Result")


def execute(job: Job, store: Store, tell: Callable[[Record], object] = lambda _: None) -> list[Record]:
    """Do what the store lacks and return a record for every cell, in the plan's order; `tell` of each that ends."""
    quarantine_corrupt_records(store, job.run.cells)
    todo = [cell for cell in job.plan.cells if not _is_complete(job, store, cell)]
    done = len(job.plan.cells) - len(todo)
    if done:
        print(f"{done} of {len(job.plan.cells)} cells are done already", file=sys.stderr)
        if job.run.reference is not None and not store.has_reference(job.run.reference):
            print("the reference's features are gone and are computed again", file=sys.stderr)
    without = [
        r for cell in todo if (r := store.record(cell.key)) and r.status == "ok" and not _is_scored(job, store, r)
    ]
    if without:
        print(
            f"{len(without)} of {len(job.plan.cells)} cells were sampled before and lack the features that these "
            f"scores need ({without[0].cell.label} for one); they are computed now",
            file=sys.stderr,
        )
    if not todo:
        restore_reference(job, store)
        cell = job.plan.cells[0]
        restore_inputs(store, make_inputs(job.experiment, cell.task, cell.device, job.prompts.rows))
    fresh = {record.key: record for record in _do(job, store, todo, tell)} if todo else {}
    records = [fresh.get(cell.key) or store.record(cell.key) for cell in job.plan.cells]
    return [record for record in records if record is not None]


def healed(job: Job, store: Store, read: Callable[[], _Result]) -> _Result:
    """What `read` returns. A stored file that turns out damaged there is set aside and made again, each once."""
    seen: set[str] = set()
    while True:
        try:
            return read()
        except Damaged as error:
            if error.name in seen:
                raise
            seen |= {error.name, *quarantine_corrupt_features(store, job.run)}
            store.quarantine(error.name, error.why)
            execute(job, store)


def _is_complete(job: Job, store: Store, cell: Cell) -> bool:
    from bench.execute.cell_runner import is_complete

    return is_complete(store, cell.key, job.run.extractor, job.experiment.measure)


def _is_scored(job: Job, store: Store, record: Record) -> bool:
    return store.has_features(record.key, job.run.extractor)


def _do(job: Job, store: Store, todo: Sequence[Cell], tell: Callable[[Record], object]) -> Iterator[Record]:
    """Yield the records that were ended in this process; others lie in the store."""
    keys = tuple(cell.key for cell in todo)
    settings = asdict(job.experiment)
    executor = job.experiment.executor
    here = isinstance(executor, Local) and executor.workers == 1 and executor.cell_timeout_s is None
    if not here and (secret := secret_settings(settings)):
        raise BenchError(
            f"{secret[0]} holds a secret, which workers would read from the store; put it into the environment"
        )
    launch = Launch(
        new_launch_name(), settings_without_secrets(settings), job.run.looks, keys, len(job.prompts.texts), time.time()
    )
    launch.save(store.files)
    if here:
        for record in _do_here(job, store, launch, todo[0].device):
            tell(record)
            yield record
    else:
        _oversee(find_executor(job, store, launch, todo[0].device), job, store, launch, tell)


def find_executor(job: Job, store: Store, launch: Launch, device: str) -> Executor:
    """Where the executor's workers are; raises BenchError where there is no such place."""
    executor = job.experiment.executor
    if isinstance(executor, Local):
        from bench.workers.local import ThisMachine

        gpus = visible_gpus() if device == "cuda" else []
        return ThisMachine(store.location, launch.name, executor.workers, gpus)
    if isinstance(executor, Ray):
        from bench.workers.ray import RayCluster

        return RayCluster(store.location, launch.name, executor, device)
    from bench.workers.slurm import JobArray

    return JobArray(store.location, launch.name, executor)


def _do_here(job: Job, store: Store, launch: Launch, device: str) -> Iterator[Record]:
    """Be the only worker of this launch."""
    stop = threading.Event()
    worker = Worker(store, launch, job.experiment.executor, new_worker_name(), device, stop)
    total = len(launch.cells)
    with signals_stop(stop), _progress(total * launch.images) as bar:
        bar.set_description(f"0/{total} cells")
        work = worker.work_through(lambda *asked: make_runner(job, *asked), bar.update)
        try:
            for i, record in enumerate(work, 1):
                bar.set_description(f"{i}/{total} cells")
                _announce(record, i, total, quiet=not bar.disable)
                yield record
        except Stopped as error:
            raise KeyboardInterrupt from error


def _oversee(executor: Executor, job: Job, store: Store, launch: Launch, tell: Callable[[Record], object]) -> None:
    """Keep workers at work until nothing is left; show how far they are, and failures at once."""
    batch_size, total = job.experiment.batch_size, len(launch.cells)
    seen: set[str] = set()
    with contextlib.closing(WorkerPool(executor, store, launch.name)) as pool, _progress(total * launch.images) as bar:
        while True:
            at_work = pool.reconcile(total)
            status = read_status(store, launch, batch_size)
            bar.n = status.images
            busy = sum(worker.state not in (*ENDED, "waiting") for worker in status.workers)
            bar.set_description(f"{total - status.left}/{total} cells, {busy} workers")
            ended = [*status.done, *(record.key for record in status.failed)]
            for key in ended:
                record = store.record(key) if key not in seen else None
                if record is not None:
                    seen.add(key)
                    _announce(record, len(seen), total, quiet=not bar.disable)
                    tell(record)
            if not at_work:
                return
            time.sleep(LOOK_EVERY_S)


def _progress(images: int) -> tqdm[None]:
    return tqdm(total=images, unit=" images", disable=not sys.stderr.isatty(), smoothing=0.05)


def _announce(record: Record, number: int, total: int, quiet: bool) -> None:
    if record.failure:
        tqdm.write(printable(f"failed: {record.cell.label}: {record.failure.message}"), file=sys.stderr)
    elif not quiet:
        print(f"[{number}/{total}] {record.cell.label}: {record.sampling_s:.1f} s", file=sys.stderr, flush=True)
