"""Batches side by side, in a few threads.

On a processor they use small models better than one call's threads; on a GPU the host works on one batch while the
device is busy with the next. A lane spreads what it does image by image over its share of the processor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], lanes: int) -> Iterator[Result]:
    """Yield `work(item)` in the items' order, `lanes` at a time, each with its share of the processor's threads.

    The first error ends it: items that are not begun are left, those at work are waited for.
    """
    import torch  # not where only a plan is wanted

    if lanes == 1:
        yield from map(work, items)
        return
    share = max(1, torch.get_num_threads() // lanes)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(lanes, "lane", initializer=torch.set_num_threads, initargs=(share,)) as pool:
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
    """`work(item)` of each, in order, in as many threads as torch may use in the thread that asks."""
    import torch

    threads = torch.get_num_threads()
    if threads == 1:
        return map(work, items)
    with ThreadPoolExecutor(threads, "image") as pool:
        return list(pool.map(work, items))
