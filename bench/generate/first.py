"""The first evaluation of a batch, kept for the next cells of a loaded pipeline.

Every cell starts from the same latents, and most schedulers at the same timestep, so that the denoiser's first input is
the same in many cells. Its output is used again only where every input is equal bit for bit, so no image can change.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class FirstEvaluations:
    """Stands before a denoiser's `forward`. Calls outside `of` pass straight through: what is timed is never shared."""

    def __init__(self, denoiser: torch.nn.Module, limit_bytes: int = 2**28) -> None:
        self.used = 0
        self._forward, self._room = denoiser.forward, limit_bytes
        self._kept: dict[int, tuple[tuple[Any, ...], Mapping[str, Any], Any]] = {}
        self._now = threading.local()
        denoiser.forward = self._call

    @contextmanager
    def of(self, start: int) -> Iterator[None]:
        """The next call from this thread is the first of the batch that begins with image `start`."""
        self._now.start = start
        try:
            yield
        finally:
            self._now.start = None

    def _call(self, *arguments: Any, **more: Any) -> Any:
        start = getattr(self._now, "start", None)
        self._now.start = None
        if start is None:
            return self._forward(*arguments, **more)
        known = self._kept.get(start)
        if known is not None and _equal(known[0], arguments) and _equal(known[1], more):
            self.used += 1
            return copy.deepcopy(known[2])
        output = self._forward(*arguments, **more)
        size = 0 if known is not None else _size(arguments) + _size(more) + _size(output)
        if size <= self._room:
            self._room -= size
            self._kept[start] = copy.deepcopy((arguments, more, output))  # whatever the caller does with its own
        return output


def _equal(ours: Any, theirs: Any) -> bool:
    """Whether two arguments are the same: tensors bit for bit, containers entry by entry."""
    if isinstance(ours, torch.Tensor) or isinstance(theirs, torch.Tensor):
        both = isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor)
        return both and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(_equal(value, theirs[name]) for name, value in ours.items())
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    return bool(ours == theirs)


def _size(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 0
