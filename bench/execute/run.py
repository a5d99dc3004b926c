"""A run gives the cells that are left to workers, here or elsewhere, and collects their records."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import TypeVar

from bench.execute.feature_extraction import make_inputs
from bench.execute.job import Job, make_runner, restore_references
from bench.execute.kept_inputs import restore_inputs
from bench.experiment.executors import Local, Ray
from bench.measure.environment import visible_gpus
from bench.printable import printable
from bench.records.cell import Cell
from bench.records.errors import BenchError, Damaged
from bench.records.record import Record
from bench.redact import secret_settings, settings_without_secrets
from bench.store.store import Store, quarantine_corrupt_features, quarantine_corrupt_records
from bench.workers.launch import Launch, new_launch_name
from bench.workers.leases import new_worker_name
from bench.workers.loop import DeviceLost, Stopped
from bench.workers.pool import Executor, WorkerPool
from bench.workers.progress import Bars
from bench.workers.status import ENDED, read_status
from bench.workers.worker import Worker, signals_stop

STATUS_EVERY_S = 1.0
_Result = TypeVar("_Result")


def execute(job: Job, store: Store) -> Iterator[Record]:
    """Do what the store lacks; yield the record of each cell when it has ended, here or in another process.

    Failed cells have one, too. Raises KeyboardInterrupt where the process is asked to stop.
    """
    from bench.execute.cell_runner import is_complete

    quarantine_corrupt_records(store, job.run.cells)
    asked = list(job.run.features.values()), job.experiment.measure
    todo = [cell for cell in job.plan.cells if not is_complete(store, cell.key, *asked)]
    _describe_rest(job, store, todo)
    if not todo:
        restore_references(job, store)
        cell = job.plan.cells[0]
        restore_inputs(store, make_inputs(job.experiment, cell.task, cell.device, job.prompts.rows))
        return
    executor, device, total = job.experiment.executor, todo[0].device, len(todo)
    here = isinstance(executor, Local) and executor.workers == 1 and executor.cell_timeout_s is None
    launch = _make_launch(job, store, todo, here)
    ended: set[str] = set()
    with Bars(todo, launch.images) as bars:
        if not here:
            yield from _oversee(find_executor(job, store, launch, device), store, launch, bars)
            return
        worker = Worker(store=store, launch=launch, common=executor, name=new_worker_name(), device=device, bars=bars)
        try:
            with signals_stop(worker.stop), worker.records(partial(make_runner, job)) as records:
                for record in records:
                    ended.add(record.key)
                    _announce(record, len(ended), total, bars)
                    yield record
        except Stopped as error:
            raise KeyboardInterrupt from error
        except DeviceLost as error:
            print(
                f"The GPU is lost to this process ({error}); {total - len(ended)} cells are left. Run the same command "
                "again, or with executor=local executor.workers=2, which replaces a worker that this happens to.",
                file=sys.stderr,
            )
    for key in launch.cells:
        if key not in ended and (found := store.cell(key).record()) is not None:  # another worker joined the launch
            yield found


def _describe_rest(job: Job, store: Store, todo: Sequence[Cell]) -> None:
    """Print what a run that continues finds done, and what it does again or for the first time."""
    cells = len(job.plan.cells)
    if done := cells - len(todo):
        print(f"{done} of {cells} cells are done already", file=sys.stderr)
        if any(not store.has_reference(reference) for reference in job.run.references.values()):
            print("the reference's features are gone and are computed again", file=sys.stderr)
    records = store.good_records([cell.key for cell in todo])
    features = job.run.features.values()
    if lacking := [record for record in records if store.cell(record.key).missing_features(features)]:
        print(
            f"{len(lacking)} of {cells} cells were sampled before and lack the features that these scores need "
            f"({lacking[0].cell.label} for one); they are computed now",
            file=sys.stderr,
        )


def healed(jobs: Sequence[Job], store: Store, read: Callable[[], _Result]) -> _Result:
    """Return what `read` returns. A stored file that it finds damaged is quarantined and regenerated, each once."""
    seen: set[str] = set()
    while True:
        try:
            return read()
        except Damaged as error:
            if error.name in seen:
                raise
            seen |= {error.name, *(name for job in jobs for name in quarantine_corrupt_features(store, job.run))}
            store.quarantine(error.name, error.why)
            for job in jobs:
                for _ in execute(job, store):
                    pass


def _make_launch(job: Job, store: Store, todo: Sequence[Cell], here: bool) -> Launch:
    """Save a launch of these cells. Raises BenchError for a secret that workers elsewhere would need."""
    settings = asdict(job.experiment)
    if not here and (secret := secret_settings(settings)):
        raise BenchError(
            f"{secret[0]} holds a secret, which workers would read from the store; put it into the environment"
        )
    keys, shown = tuple(cell.key for cell in todo), settings_without_secrets(settings)
    launch = Launch(new_launch_name(), shown, job.run.looks, keys, len(job.prompts.texts), time.time())
    launch.save(store.files)
    return launch


def find_executor(job: Job, store: Store, launch: Launch, device: str) -> Executor:
    """Return the experiment's executor; raises BenchError where it cannot be used."""
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


def _oversee(executor: Executor, store: Store, launch: Launch, bars: Bars) -> Iterator[Record]:
    """Keep workers running until nothing is left; show their progress, and yield each cell's record at its end."""
    total, ended = len(launch.cells), set[str]()
    with closing(WorkerPool(executor, store, launch.name)) as pool:
        while True:
            are_left = pool.reconcile(total)
            status = read_status(store, launch, int(launch.settings["batch_size"]))
            busy = sum(worker.state not in (*ENDED, "waiting") for worker in status.workers)
            bars.show(status.images_of, status.begun)
            bars.ended(total - status.left, busy)
            for key in [*status.done, *(record.key for record in status.failed)]:
                if key not in ended and (record := store.cell(key).record()) is not None:
                    ended.add(key)
                    _announce(record, len(ended), total, bars)
                    yield record
            if not are_left:
                return
            time.sleep(STATUS_EVERY_S)


def _announce(record: Record, number: int, total: int, bars: Bars) -> None:
    bars.ended(number, key=record.key)
    if record.failure:
        bars.say(printable(f"failed: {record.cell.label}: {record.failure.message}"))
    elif not bars.shown:
        bars.say(printable(f"[{number}/{total}] {record.cell.label}: {record.sampling_s:.1f} s"))
