"""Work side by side: results in order, bounded, and the first error ends it."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sleeping import make_cell

from bench.execute.cell_runner import Runner, _attempt, _CellWork
from bench.execute.device_queue import DeviceQueue
from bench.execute.feature_extraction import Extractor
from bench.execute.job import resolve_concurrent_batches
from bench.experiment.config import Measure
from bench.generate.sampling import Batch
from bench.parallel import map_images, map_in_threads
from bench.records.cell import Cell
from bench.records.errors import StoreError
from bench.records.record import Calls
from bench.store.store import Store
from bench.workers.loop import Piece


@pytest.mark.parametrize("concurrent_batches", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(concurrent_batches: int) -> None:
    done = [threading.Event() for _ in range(5)]

    def work(item: int) -> int:
        if item % concurrent_batches < concurrent_batches - 1 and item < 4:
            done[item + 1].wait(300)  # of those that are at it at once the last one ends first
        done[item].set()
        return item * item

    assert list(map_in_threads(work, range(5), concurrent_batches)) == [0, 1, 4, 9, 16]


def test_lanes_really_meet_and_share_the_threads() -> None:
    meeting, before = threading.Barrier(2, timeout=300), torch.get_num_threads()

    def work(_: int) -> int:
        meeting.wait()
        return torch.get_num_threads()

    assert list(map_in_threads(work, range(4), 2)) == [max(1, before // 2)] * 4
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [1, 3])
def test_a_lane_spreads_its_images_over_its_own_threads_and_keeps_their_order(threads: int) -> None:
    meeting, before = threading.Barrier(threads, timeout=300), torch.get_num_threads()

    def work(item: int) -> int:
        meeting.wait()
        return item * item

    try:
        torch.set_num_threads(threads)
        assert list(map_images(work, range(6))) == [0, 1, 4, 9, 16, 25]
    finally:
        torch.set_num_threads(before)


def test_lanes_have_the_threads_for_images_in_common() -> None:
    meeting, before = threading.Barrier(4, timeout=300), torch.get_num_threads()

    def image(item: int) -> str:
        meeting.wait()
        return threading.current_thread().name

    def work(_: int) -> list[str]:
        return list(map_images(image, range(4)))

    try:
        torch.set_num_threads(4)
        (names,) = map_in_threads(work, [0], 2)
    finally:
        torch.set_num_threads(before)
    assert len(set(names)) == 4, "a lane on its own has no more than its half"


def test_the_first_error_ends_it_and_what_has_not_begun_is_left() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("broken")
        return item

    results = map_in_threads(work, range(100), 2)
    assert next(results) == 0
    with pytest.raises(ValueError, match="broken"):
        list(results)
    assert len(begun) < 10


class TakingTurns(Runner):
    """Samples zeros, and knows whether those who asked for them had the turn to themselves."""

    meet = on_device = staticmethod(lambda: None)

    def sampler(self, cell: Cell) -> Any:
        return SimpleNamespace(begin=self.zeros)

    def zeros(self, start: int) -> Callable[[], Batch]:
        self.alone = getattr(self, "alone", True) and self.queue._turn.locked()
        self.meet()
        calls = Calls((1.0,), None, None, {}, {}, 1, 1, 1, 4, 1)

        def wait() -> Batch:
            self.on_device()
            return Batch(start, np.zeros((1, 8, 8, 3), np.uint8), calls)

        return wait


def make_runner(
    folder: Path, extract: Extractor, one_samples: bool, kind: type[TakingTurns] = TakingTurns
) -> TakingTurns:
    return kind(
        store=Store(folder),
        prompts=("a",) * 4,
        extract=extract,
        extractor="none",
        measure=Measure(latency=False, memory=False),
        inputs=None,  # type: ignore[arg-type]
        keep="all",
        queue=DeviceQueue(2, one_samples),
        advance=lambda _: None,
        process={},
    )


@pytest.mark.parametrize("one_samples", [True, False])
def test_on_a_gpu_one_batch_is_sampled_while_another_is_looked_at(one_samples: bool, tmp_path: Path) -> None:
    looking = threading.Barrier(2, timeout=300)

    def extract(images: np.ndarray, start: int) -> Mapping[str, np.ndarray]:
        looking.wait()  # for another lane's look, so both are at it at once
        return {"row": np.arange(start, start + len(images))}

    runner = make_runner(tmp_path, extract, one_samples)
    if not one_samples:
        runner.meet = threading.Barrier(2, timeout=300).wait  # type: ignore[assignment]
    assert list(runner.sample([Piece(make_cell(0), range(4))])) == [None]
    assert runner.alone == one_samples


def test_the_next_cell_begins_while_the_last_batch_of_one_is_at_work(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, lambda images, start: {"row": np.arange(start, start + len(images))}, False)
    runner.meet = threading.Barrier(2, timeout=300).wait  # type: ignore[assignment]
    assert list(runner.sample(Piece(make_cell(i), range(1)) for i in range(4))) == [None] * 4


@pytest.mark.parametrize("concurrent_batches", [1, 2])
def test_what_is_wrong_with_a_cell_is_not_wrong_with_those_beside_it(tmp_path: Path, concurrent_batches: int) -> None:
    class Bad(TakingTurns):
        tried = 0

        def sampler(self, cell: Cell) -> Any:
            if cell == make_cell(1):
                self.tried += 1
                raise ValueError("not this one")
            return super().sampler(cell)

    runner = make_runner(tmp_path, lambda images, _: {"row": np.arange(len(images))}, False, Bad)
    runner.queue = DeviceQueue(concurrent_batches, one_samples=False)
    first, second, third = runner.sample(Piece(make_cell(i), range(4)) for i in range(3))
    assert (first, str(second), third) == (None, "not this one", None)
    assert runner.tried <= concurrent_batches  # type: ignore[attr-defined]
    assert [len(runner.open_chunks(make_cell(i))) for i in range(3)] == [0, 1, 0]


def test_a_cell_fails_with_its_first_bad_batch_whichever_lane_is_faster(tmp_path: Path) -> None:
    class Bad(TakingTurns):
        def zeros(self, start: int) -> Callable[[], Batch]:
            if start > 0:
                raise ValueError(f"image {start}")
            return super().zeros(start)

    work = _CellWork(make_runner(tmp_path, lambda images, _: {"row": np.arange(len(images))}, False, Bad), make_cell(0))
    tried = [_attempt((work, start, False))[1] is not None for start in (3, 4, 2, 0, 1)]
    assert (tried, sorted(work.failed)) == ([False, False, False, True, False], [1, 2, 3])
    assert [str(error) for error in work.runner.sample([Piece(work.cell, range(4))])] == ["image 1"]


def test_trouble_of_the_store_ends_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(tmp_path, lambda images, _: {"row": np.arange(len(images))}, one_samples=False)

    def full(*_: Any) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(runner.store, "save_batch", full)
    with pytest.raises(StoreError):
        list(runner.sample(Piece(make_cell(i), range(4)) for i in range(3)))


def test_on_a_gpu_a_batch_is_asked_for_while_another_is_at_work(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, lambda images, start: {"row": np.arange(start, start + len(images))}, True)
    runner.on_device = threading.Barrier(2, timeout=300).wait  # type: ignore[assignment]
    assert list(runner.sample([Piece(make_cell(0), range(4))])) == [None]
    assert runner.alone, "though they are asked for one after the other"


def test_a_batch_takes_the_device_from_when_the_one_before_it_was_done() -> None:
    queue = DeviceQueue(2, one_samples=True)
    assert [queue.spent(1.0, 4.0), queue.spent(2.0, 7.0), queue.spent(8.0, 9.0)] == [3.0, 3.0, 1.0]
    assert DeviceQueue(2, one_samples=False).spent(1.0, 4.0) == 1.5


def test_the_lanes_of_a_processor_and_of_a_gpu() -> None:
    assert [resolve_concurrent_batches("auto", device) for device in ("cpu", "cuda", "cuda:1")] == [1, 4, 4]
    assert resolve_concurrent_batches(2, "cuda") == 2
