"""Concurrency helpers: calls in threads, map over images, map in forked processes, and a periodic call.

On a CPU, several batches in threads suit small models better than one call's threads; on a GPU the host works on one
batch while the device computes the next.
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
"""`images`: the pool for images that all threads of one `ThreadedCalls` share."""
_function: Callable[[int], Any] = repr
"""The function that forked processes call: they inherit it, so that its data is not sent to them."""


class ThreadedCalls:
    """Calls in so many threads, each with its share of torch's threads; results come in the order of the calls.

    With one thread the caller's own is used.
    """

    def __init__(self, threads: int) -> None:
        self._threads, self._waiting = threads, deque[Future[Any]]()
        self._pools: list[ThreadPoolExecutor] = []

    def call(self, work: Callable[[Item], _Result], item: Item) -> Iterator[_Result]:
        """Begin `work(item)` and yield the results that are due: all but those of the last `threads` calls.

        Raises the first error of a call, after which `close` is due.
        """
        if self._threads == 1:
            yield work(item)
            return
        if not self._pools:
            self._start()
        self._waiting.append(self._pools[0].submit(work, item))
        if len(self._waiting) > self._threads:
            yield self._waiting.popleft().result()

    def rest(self) -> Iterator[Any]:
        """Yield the results of the calls that are left."""
        while self._waiting:
            yield self._waiting.popleft().result()

    def close(self) -> None:
        """Drop calls that have not started, wait for the others, and end the threads; the next call starts new ones."""
        while self._waiting:
            self._waiting.popleft().cancel()
        while self._pools:
            self._pools.pop(0).shutdown()

    def _start(self) -> None:
        import torch  # not needed where only a plan is made

        available = torch.get_num_threads()

        def begin_thread() -> None:
            torch.set_num_threads(max(1, available // self._threads))
            _shared.images = images

        images = ThreadPoolExecutor(available, "image")
        self._pools = [ThreadPoolExecutor(self._threads, "batch", initializer=begin_thread), images]


def map_images(work: Callable[[Item], _Result], items: Iterable[Item]) -> Iterable[_Result]:
    """Return `work(item)` of each item, in order; in threads, unless torch may use only one in the calling thread.

    Threads of `ThreadedCalls` share one pool for their images, so that the last active thread has all of it.
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
    """Return `function` of each item, in order, computed in forked copies of this process. Results travel by pickle.

    It runs in this process for fewer than `fewest` items, where starting others would take longer than the work; on a
    single processor or without fork; and where torch is loaded, whose threads do not survive a fork.
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


class OneAlone:
    """Work that any number of threads do at once, and work that runs while none of it does.

    A thread that waits to be alone keeps others from beginning.
    """

    def __init__(self) -> None:
        self._door, self._changed, self._inside = threading.Lock(), threading.Condition(), 0

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work beside others; not while a thread is alone, or waits to be."""
        with self._door, self._changed:
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other thread is inside, and keep others out; not from within `beside`."""
        with self._door:
            with self._changed:
                self._changed.wait_for(lambda: not self._inside)
            yield


@contextmanager
def call_periodically(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` in a background thread every `seconds` seconds until the block ends; a running call is waited for."""
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
