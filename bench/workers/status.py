"""The progress of a launch, read from its store, for the progress bar and for `tcd-bench status` on any machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.printable import printable
from bench.records.record import Record
from bench.store.cell_folder import FAILED, GOOD
from bench.store.store import Store
from bench.workers.launch import Launch, WorkerState

ENDED = ("stopped", "done")
SILENT_S = 60.0
"""Age in seconds from which on a worker's state is shown as silent."""


@dataclass(frozen=True)
class LaunchStatus:
    """Cells done, failed and begun, by key; the images of each; the states of the workers."""

    launch: Launch
    done: tuple[str, ...]
    failed: tuple[Record, ...]
    begun: tuple[str, ...]
    images_of: Mapping[str, int]
    """By cell, those that are in the store."""
    workers: tuple[WorkerState, ...]

    @property
    def images(self) -> int:
        """The number of images in the store."""
        return sum(self.images_of.values())

    @property
    def left(self) -> int:
        """The number of cells that are neither done nor failed."""
        return len(self.launch.cells) - len(self.done) - len(self.failed)

    @property
    def total_images(self) -> int:
        """The number of images that were to be done at the start of the launch."""
        return len(self.launch.cells) * self.launch.images

    def alive(self, now: float) -> list[WorkerState]:
        """Return the workers that have not ended and were heard of in the last `SILENT_S`."""
        return [worker for worker in self.workers if worker.state not in ENDED and now - worker.said < SILENT_S]

    def left_s(self, now: float) -> float | None:
        """Return the time left in seconds at the pace so far; None while no image was made."""
        made, spent = sum(worker.images for worker in self.workers), now - self.launch.began
        return None if not made or spent <= 0 else (self.total_images - self.images) * spent / made


def read_status(store: Store, launch: Launch, batch_size: int) -> LaunchStatus:
    """Read the store once: one listing, and the failures."""
    names: dict[str, set[str]] = {key: set() for key in launch.cells}
    batches: dict[str, int] = dict.fromkeys(launch.cells, 0)
    for name in store.files.tree("cells"):
        _, key, *rest = name.split("/")
        if key in names:
            names[key].add(rest[0])
            batches[key] += rest[0].startswith("batches-")
    done = tuple(key for key, found in names.items() if GOOD in found)
    failures = [store.cell(key).record() for key, found in names.items() if FAILED in found and GOOD not in found]
    failed = tuple(f for f in failures if f is not None and f.environment.get("launch") == launch.name)
    most = launch.images
    images = {key: most if GOOD in names[key] else min(most, batches[key] * batch_size) for key in launch.cells}
    begun = tuple(key for key, found in names.items() if batches[key] and GOOD not in found)
    workers = tuple(WorkerState.all_of(store.files, launch.name))
    return LaunchStatus(launch, done, failed, begun, images, workers)


def describe(status: LaunchStatus, now: float | None = None) -> str:
    """Return the status as text: progress, time left, progress of each worker, failures."""
    now = time.time() if now is None else now
    launch = status.launch
    lines = [
        f"{launch.settings.get('name', 'run')}: {len(status.done)} of {len(launch.cells)} cells done, "
        f"{len(status.begun)} begun, {len(status.failed)} failed; "
        f"{status.images:,} of {status.total_images:,} images{_per_cell(launch)}",
        f"begun {duration(now - launch.began)} ago{_rest(status, now)}",
    ]
    if status.workers:
        lines += ["", *_table(_worker_rows(status.workers, now))]
    if status.failed:
        lines += ["", "failed:"]
        lines += [f"  {r.cell.label}: {r.failure.message if r.failure else ''}" for r in status.failed]
    return printable("\n".join(lines))


def _per_cell(launch: Launch) -> str:
    """Return the images of a cell where a prompt has several; empty elsewhere."""
    each = int(launch.settings.get("prompts", {}).get("images_per_prompt", 1))
    prompts = launch.images // each
    return (
        "" if each == 1 else f", {launch.images:,} images of {prompts:,} prompt{'s' if prompts != 1 else ''} per cell"
    )


def _rest(status: LaunchStatus, now: float) -> str:
    if not status.left:
        return ", finished"
    if not status.alive(now):
        return ", no worker is running; start the same command again"
    seconds = status.left_s(now)
    return "" if seconds is None else f", about {duration(seconds)} left"


def _worker_rows(workers: Iterable[WorkerState], now: float) -> Iterable[Sequence[str]]:
    yield "worker", "host", "device", "state", "for", "images", "cell"
    for worker in sorted(workers, key=lambda w: w.worker):
        silent = worker.state not in ENDED and now - worker.said > SILENT_S
        state = f"silent for {duration(now - worker.said)}" if silent else worker.state
        yield (
            worker.worker,
            worker.host,
            worker.device,
            state,
            duration(max(0.0, now - worker.since)),
            f"{worker.images:,}",
            worker.cell or "",
        )


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def duration(seconds: float) -> str:
    """Return seconds in words: `45 s`, `12 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
