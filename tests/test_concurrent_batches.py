"""Concurrent batches: results in order, bounded, and the first error ends them; the device queue measures its time."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sleeping import make_cell

from bench.execute.cell_runner import DeviceQueue, Runner, _CellWork
from bench.execute.feature_extraction import Compute, FeatureSets
from bench.execute.job import resolve_concurrent_batches
from bench.experiment.config import Measure
from bench.generate.sampling import Batch
from bench.parallel import ThreadedCalls, map_images
from bench.records.cell import Cell
from bench.records.errors import StoreError
from bench.records.record import Calls
from bench.store.cell_folder import CellFolder
from bench.store.store import Store
from bench.workers.leases import Lease
from bench.workers.loop import Chunk, WorkerContext


def results_of(work: Callable[[int], Any], items: Iterable[int], threads: int) -> Iterator[Any]:
    """Results of calls in threads, each as soon as it is due."""
    with closing(ThreadedCalls(threads)) as calls:
        for item in items:
            yield from calls.call(work, item)
        yield from calls.rest()


@pytest.mark.parametrize("concurrent_batches", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(concurrent_batches: int) -> None:
    done = [threading.Event() for _ in range(5)]

    def work(item: int) -> int:
        if item % concurrent_batches < concurrent_batches - 1 and item < 4:
            done[item + 1].wait(300)  # of concurrent calls the last one ends first
        done[item].set()
        return item * item

    assert list(results_of(work, range(5), concurrent_batches)) == [0, 1, 4, 9, 16]


def test_calls_run_concurrently_and_share_the_threads() -> None:
    meeting, before = threading.Barrier(2, timeout=300), torch.get_num_threads()

    def work(_: int) -> int:
        meeting.wait()
        return torch.get_num_threads()

    assert list(results_of(work, range(4), 2)) == [max(1, before // 2)] * 4
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [1, 3])
def test_images_are_spread_over_the_threads_of_a_call_and_keep_their_order(threads: int) -> None:
    meeting, before = threading.Barrier(threads, timeout=300), torch.get_num_threads()

    def work(item: int) -> int:
        meeting.wait()
        return item * item

    try:
        torch.set_num_threads(threads)
        assert list(map_images(work, range(6))) == [0, 1, 4, 9, 16, 25]
    finally:
        torch.set_num_threads(before)


def test_concurrent_calls_have_the_threads_for_images_in_common() -> None:
    meeting, before = threading.Barrier(4, timeout=300), torch.get_num_threads()

    def image(item: int) -> str:
        meeting.wait()
        return threading.current_thread().name

    def work(_: int) -> list[str]:
        return list(map_images(image, range(4)))

    try:
        torch.set_num_threads(4)
        (names,) = results_of(work, [0], 2)
    finally:
        torch.set_num_threads(before)
    assert len(set(names)) == 4, "one call has no more than half of torch's threads"


def test_the_first_error_ends_the_iteration_and_drops_items_not_started() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("broken")
        return item

    results = results_of(work, range(100), 2)
    assert next(results) == 0
    with pytest.raises(ValueError, match="broken"):
        list(results)
    assert len(begun) < 10


class Zeros:
    """Samplers of zeros, which record whether every batch had exclusive use of the device."""

    alone = True
    meet = on_device = staticmethod(lambda: None)

    def __init__(self, queue: DeviceQueue) -> None:
        self.queue = queue

    def sampler(self, cell: Cell) -> Any:
        return SimpleNamespace(begin=self.begin)

    def begin(self, start: int) -> Callable[[], Batch]:
        self.alone = self.alone and self.queue._slot.locked()
        self.meet()
        calls = Calls((1.0,), None, None, {}, {}, 1, 1, 1, 4, 1)

        def wait() -> Batch:
            self.on_device()
            return Batch(start, np.zeros((1, 8, 8, 3), np.uint8), calls)

        return wait


def row(images: np.ndarray, start: int, shared: dict[str, Any]) -> Mapping[str, np.ndarray]:
    """Features that are the images' numbers."""
    return {"row": np.arange(start, start + len(images))}


def make_runner(
    folder: Path, one_samples: bool, extract: Compute = row, kind: type[Zeros] = Zeros, concurrent_batches: int = 2
) -> Any:
    """A runner of samplers of zeros, four images per cell, one per batch."""
    queue = DeviceQueue(concurrent_batches, one_samples)
    runner = Runner(
        store=Store(folder),
        prompts=("a",) * 4,
        features=FeatureSets({"rows": extract}),
        measure=Measure(latency=False, memory=False),
        inputs=None,  # type: ignore[arg-type]
        keep="all",
        queue=queue,
        context=WorkerContext(),
        process={},
    )
    runner.pipeline = kind(queue)  # type: ignore[assignment]
    return runner


def sample(runner: Runner, *cells: int, rows: int = 4) -> list[tuple[int, str | None]]:
    """Sample the first rows of cells; returns the number and error of each, in the order of their ends."""
    ended = []
    try:
        for i in cells:
            ended += runner.sample(Chunk(make_cell(i), range(rows), Lease("", "", 0)))
        ended += runner.sample_rest()
    finally:
        runner.release_threads()
    return [(chunk.cell.scheduler.settings["i"], error and str(error)) for chunk, error in ended]


@pytest.mark.parametrize("one_samples", [True, False])
def test_on_a_gpu_one_batch_is_sampled_while_features_of_another_are_computed(
    one_samples: bool, tmp_path: Path
) -> None:
    extracting = threading.Barrier(2, timeout=300)

    def extract(images: np.ndarray, start: int, shared: dict[str, Any]) -> Mapping[str, np.ndarray]:
        extracting.wait()  # for another batch, so that both are extracted at once
        return row(images, start, shared)

    runner = make_runner(tmp_path, one_samples, extract)
    if not one_samples:
        runner.pipeline.meet = threading.Barrier(2, timeout=300).wait
    assert sample(runner, 0) == [(0, None)]
    assert runner.pipeline.alone == one_samples


def test_the_next_cell_begins_while_the_last_batch_of_one_is_sampled(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, one_samples=False)
    runner.pipeline.meet = threading.Barrier(2, timeout=300).wait
    assert sample(runner, *range(4), rows=1) == [(i, None) for i in range(4)]


@pytest.mark.parametrize("concurrent_batches", [1, 2])
def test_a_failing_cell_does_not_affect_concurrent_cells(tmp_path: Path, concurrent_batches: int) -> None:
    class Bad(Zeros):
        tried = 0

        def sampler(self, cell: Cell) -> Any:
            if cell == make_cell(1):
                self.tried += 1
                raise ValueError("not this one")
            return super().sampler(cell)

    runner = make_runner(tmp_path, one_samples=False, kind=Bad, concurrent_batches=concurrent_batches)
    assert sample(runner, 0, 1, 2) == [(0, None), (1, "not this one"), (2, None)]
    assert runner.pipeline.tried <= concurrent_batches
    assert [len(runner.open_chunks(make_cell(i))) for i in range(3)] == [0, 1, 0]


def test_a_cell_fails_with_its_first_bad_batch_whichever_thread_is_faster(tmp_path: Path) -> None:
    class Bad(Zeros):
        def begin(self, start: int) -> Callable[[], Batch]:
            if start > 0:
                raise ValueError(f"image {start}")
            return super().begin(start)

    runner = make_runner(tmp_path, one_samples=False, kind=Bad)
    work = _CellWork(runner, make_cell(0))
    tried = [work.batch(start)[2] for start in (3, 4, 2, 0, 1)]
    assert (tried, sorted(work.failed)) == ([0, 0, 0, 1, 0], [1, 2, 3])
    assert sample(runner, 0) == [(0, "image 1")]


def test_an_error_of_the_store_ends_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(tmp_path, one_samples=False)

    def full(*_: Any) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(CellFolder, "save_batch", full)
    with pytest.raises(StoreError):
        sample(runner, 0, 1, 2)


def test_on_a_gpu_a_batch_is_given_to_the_device_while_it_works_on_another(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, one_samples=True)
    runner.pipeline.on_device = threading.Barrier(2, timeout=300).wait
    assert sample(runner, 0) == [(0, None)]
    assert runner.pipeline.alone, "though they are given one after the other"


def test_a_batch_holds_the_device_from_the_end_of_the_previous_batch() -> None:
    queue = DeviceQueue(2, one_samples=True)
    assert [queue.spent(1.0, 4.0), queue.spent(2.0, 7.0), queue.spent(8.0, 9.0)] == [3.0, 3.0, 1.0]
    assert DeviceQueue(2, one_samples=False).spent(1.0, 4.0) == 1.5


def test_concurrent_batches_of_a_processor_and_of_a_gpu() -> None:
    assert [resolve_concurrent_batches("auto", device) for device in ("cpu", "cuda", "cuda:1")] == [1, 4, 4]
    assert resolve_concurrent_batches(2, "cuda") == 2
