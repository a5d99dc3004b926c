"""Batches side by side, in a few threads.

On a processor they use small models better than one call's threads; on a GPU the host works on one batch while the
device is busy with the next. What a lane does image by image is spread over threads that all lanes have in common, so
that the last one has all of them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_lane = threading.local()
"""`images`: the threads that this lane and those beside it have in common."""


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], lanes: int) -> Iterator[Result]:
    """Yield `work(item)` in the items' order, `lanes` at a time, each with its share of the processor's threads.

    The first error ends it: items that are not begun are left, those at work are waited for.
    """
    import torch  # not where only a plan is wanted

    if lanes == 1:
        yield from map(work, items)
        return
    threads = torch.get_num_threads()
    waiting: deque[Future[Result]] = deque()

    def begin_lane() -> None:
        torch.set_num_threads(max(1, threads // lanes))
        _lane.images = images

    with (
        ThreadPoolExecutor(threads, "image") as images,
        ThreadPoolExecutor(lanes, "lane", initializer=begin_lane) as pool,
    ):
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > lanes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def spread(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterable[Result]:
    """`work(item)` of each, in order; in threads unless torch may use only one in the thread that asks."""
    import torch

    threads = torch.get_num_threads()
    if threads == 1:
        return map(work, items)
    if shared := getattr(_lane, "images", None):
        return list(shared.map(work, items))
    with ThreadPoolExecutor(threads, "image") as pool:
        return list(pool.map(work, items))


class Turns:
    """Lanes' turns at a device, and how much of its time each batch took.

    Where one samples at a time, a lane looks at its images and saves them while the next one samples.
    """

    def __init__(self, lanes: int, one_samples: bool) -> None:
        self.lanes, self._one_samples = lanes, one_samples
        self._turn, self._clock = threading.Lock(), threading.Lock()
        self._busy_until = 0.0

    def turn(self) -> AbstractContextManager[object]:
        """A lane's turn to ask the device for a batch; the next one asks while the device is still at work on it."""
        return self._turn if self._one_samples else nullcontext()

    def spent(self, begun: float, done: float) -> float:
        """Seconds that a batch took of the device: of its time since the batch before was done, or a lane's share."""
        if not self._one_samples:
            return (done - begun) / self.lanes
        with self._clock:
            begun, self._busy_until = max(begun, self._busy_until), max(done, self._busy_until)
        return max(0.0, done - begun)
