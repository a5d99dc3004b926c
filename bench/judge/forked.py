"""A pure function of many things, in forked copies of this process where that is safe and worth it."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")
_function: Callable[[int], Any] = repr
"""What the copies call: they have it from this process, so that nothing it holds is sent to them."""


def map_forked(function: Callable[[_Given], _Found], given: Sequence[_Given], fewest: int) -> list[_Found]:
    """What the function makes of each, in order. Results travel by pickle.

    In this process for fewer than `fewest`, as starting others would be the greater part of it; where there is one
    processor or no fork; and where torch is loaded, whose threads do not live through it.
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
