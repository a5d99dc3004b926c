"""The concurrency helpers: map in threads, map over images, map in forked processes, and a periodic call.

On a processor, small models use several batches in threads better than one call's threads; on a GPU the host works on
one batch while the device is busy with the next.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
_Result = TypeVar("_Result")

_shared = threading.local()
"""`images`: the pool for images that the threads of one `map_in_threads` have in common."""
_function: Callable[[int], Any] = repr
"""What forked processes call: they inherit it, so that nothing it holds is sent to them."""


def map_in_threads(work: Callable[[Item], _Result], items: Iterable[Item], threads: int) -> Iterator[_Result]:
    """Yield `work(item)` in the items' order, computed by so many threads, each with its share of torch's threads.

    The first error ends it: items that have not started are dropped, running ones are waited for.
    """
    import torch  # not where only a plan is wanted

    if threads == 1:
        yield from map(work, items)
        return
    available = torch.get_num_threads()
    waiting: deque[Future[_Result]] = deque()

    def begin_thread() -> None:
        torch.set_num_threads(max(1, available // threads))
        _shared.images = images

    with (
        ThreadPoolExecutor(available, "image") as images,
        ThreadPoolExecutor(threads, "batch", initializer=begin_thread) as pool,
    ):
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def map_images(work: Callable[[Item], _Result], items: Iterable[Item]) -> Iterable[_Result]:
    """`work(item)` of each, in order; in threads, unless torch may use only one in the calling thread.

    Threads of `map_in_threads` share one pool for their images, so that the last one at work has all of it.
    """
    import torch

    threads = torch.get_num_threads()
    if threads == 1:
        return map(work, items)
    if shared := getattr(_shared, "images", None):
        return list(shared.map(work, items))
    with ThreadPoolExecutor(threads, "image") as pool:
        return list(pool.map(work, items))


def map_forked(function: Callable[[Item], _Result], given: Sequence[Item], fewest: int) -> list[_Result]:
    """`function` of each, in order, in forked copies of this process. Results travel by pickle.

    In this process for fewer than `fewest`, where starting others would take longer than the work; where there is one
    processor or no fork; and where torch is loaded, whose threads do not survive a fork.
    """
    global _function
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if len(given) < fewest or processes < 2 or "torch" in sys.modules:
        return [function(one) for one in given]
    _function = lambda index: function(given[index])  # noqa: E731
    try:
        with multiprocessing.get_context("fork").Pool(processes, threadpool_limits, (1,)) as pool:
            return pool.map(_call, range(len(given)), chunksize=max(1, fewest // 10))
    finally:
        _function = repr


def _call(index: int) -> Any:
    return _function(index)


@contextmanager
def call_periodically(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` in a background thread every so many seconds until the block ends; a running call is waited for."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds):
            act()

    thread = threading.Thread(target=run, name="periodic", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
