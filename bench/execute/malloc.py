"""Freed memory is kept for the next tensor; the C library would return it to the system each time."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of glibc's mallopt(3)


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large blocks; returns whether it accepted (False on other C libraries).

    By default every tensor beyond 32 MiB is a fresh mapping, whose pages the kernel clears at first touch: a fifth to a
    third of the time of a batch of the miniature. No result changes; resident memory stays at its peak.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    answers = [mallopt(parameter, value) for parameter, value in settings]
    return all(answer == 1 for answer in answers)
