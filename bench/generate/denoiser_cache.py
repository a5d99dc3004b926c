"""Denoiser evaluations of a batch, cached for the next cells of a loaded pipeline.

Every cell starts from the same latents, and most schedulers at the same timestep, so the denoiser's first input is the
same in many cells; two solvers that differ only in their last step have all inputs in common. An output is reused only
where every input is bitwise equal, so no image can change.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from bench.generate.denoisers import denoiser_inputs


def room_on(device: str) -> int:
    """Return the bytes for evaluations: 5% of the host's memory, at most 1 GiB; 256 MiB of a GPU's."""
    return min(2**30, psutil.virtual_memory().total // 20) if device == "cpu" else 2**28


@dataclass
class _Evaluation:
    """An output of the denoiser with its inputs, and the pipeline calls that produced it."""

    text: int
    inputs: tuple[Any, ...]
    output: Any
    calls: set[object]


@dataclass
class _Call:
    """A pipeline call in progress: the earlier calls with the same inputs so far, and the texts of the whole call.

    A text is everything that a denoiser gets besides latents and timestep. A call has one, or two where the pipeline
    evaluates the same latents with the prompt and without it.
    """

    start: int
    steps: int
    texts: list[tuple[Mapping[str, Any], int]] = field(default_factory=list)
    latents: Any = None
    done: int = 0
    alike: set[object] = field(default_factory=set)
    name: object = field(default_factory=object)


_Place = tuple[int, int, int, int]


class SharedEvaluations:
    """Wraps the denoisers' `forward`. Calls outside `of` pass straight through: timed calls are never shared.

    Half of `limit_bytes` is reserved for first evaluations, which most cells have in common.
    """

    def __init__(self, denoisers: Iterable[torch.nn.Module], limit_bytes: int) -> None:
        self.used = self.used_bytes = 0
        self._limit_bytes = limit_bytes
        self._texts: dict[int, list[Mapping[str, Any]]] = {}
        self._kept: dict[_Place, list[_Evaluation]] = {}
        self._now = threading.local()
        for which, denoiser in enumerate(denoisers):
            self._wrap(which, denoiser)

    def _wrap(self, which: int, denoiser: torch.nn.Module) -> None:
        forward = denoiser.forward

        @functools.wraps(forward)  # pipelines may read its signature
        def evaluate(*args: Any, **kwargs: Any) -> Any:
            return self._evaluate(which, denoiser, forward, args, kwargs)

        denoiser.forward = evaluate

    @contextmanager
    def of(self, start: int, steps: int) -> Iterator[None]:
        """Mark a pipeline call from this thread, for the batch that begins with image `start`."""
        self._now.call = _Call(start, steps)
        try:
            yield
        finally:
            self._now.call = None

    def _evaluate(self, which: int, denoiser: torch.nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        call: _Call | None = getattr(self._now, "call", None)
        if call is None:
            return forward(*args, **kwargs)
        inputs, others = denoiser_inputs(denoiser, args, kwargs)
        text = self._text_of(call, inputs[0], others)
        if text is None:
            self._now.call = None  # for example a ControlNet, whose residuals are new each time
            return forward(*args, **kwargs)
        place = (which, call.start, call.steps if call.done else 0, call.done)
        known = self._find(place, call, text, inputs)
        if known is None:
            output = forward(*args, **kwargs)
            call.alike = set()
            self._keep(place, call, text, inputs, output)
        else:
            output = copy.deepcopy(known.output)  # the caller may modify its copy
            self.used += 1
            call.alike = set(known.calls)
            known.calls.add(call.name)
        call.done += 1
        return output

    def _text_of(self, call: _Call, latents: Any, others: Mapping[str, Any]) -> int | None:
        """Return the number of a call's text, None where it cannot be one; -1 where the cache has no space for it."""
        before, call.latents = call.latents, latents
        for known, number in call.texts:
            if _equal(known, others, same_objects=True):
                return number
        if call.texts and (before is not latents or len(call.texts) == 2):
            return None
        number = self._find_text(call.start, others)
        call.texts.append((others, number))
        return number

    def _find_text(self, start: int, others: Mapping[str, Any]) -> int:
        texts = self._texts.setdefault(start, [])
        for number, known in enumerate(texts):
            if _equal(known, others):
                return number
        if self.used_bytes + (size := bytes_of(others)) > self._limit_bytes:
            return -1
        self.used_bytes += size
        texts.append(copy.deepcopy(others))
        return len(texts) - 1

    def _find(self, place: _Place, call: _Call, text: int, inputs: tuple[Any, ...]) -> _Evaluation | None:
        for known in self._kept.get(place, ()):
            likely = known.text == text and (not call.done or known.calls & call.alike)
            if likely and _equal(known.inputs, inputs):
                return known
        return None

    def _keep(self, place: _Place, call: _Call, text: int, inputs: tuple[Any, ...], output: Any) -> None:
        size = bytes_of(inputs) + bytes_of(output)
        room = self._limit_bytes // (2 if call.done else 1) - self.used_bytes
        if text >= 0 and size <= room:
            self.used_bytes += size
            kept = copy.deepcopy((inputs, output))
            self._kept.setdefault(place, []).append(_Evaluation(text, *kept, {call.name}))


def _equal(ours: Any, theirs: Any, same_objects: bool = False) -> bool:
    """Whether two arguments are equal: tensors bitwise, or as objects; containers entry by entry."""
    if isinstance(ours, torch.Tensor) or isinstance(theirs, torch.Tensor):
        both = isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor)
        return ours is theirs if same_objects else both and _same_bits(ours, theirs)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(
            _equal(value, theirs[name], same_objects) for name, value in ours.items()
        )
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        pairs = zip(ours, theirs, strict=False)
        return len(ours) == len(theirs) and all(_equal(a, b, same_objects) for a, b in pairs)
    return bool(ours == theirs)


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit, so that -0 is not 0 and a NaN is itself."""
    word = _WORDS[ours.itemsize]
    return ours.dtype == theirs.dtype and torch.equal(ours.view(word), theirs.view(word))


def bytes_of(value: Any) -> int:
    """Return the bytes of the tensors in a value: a tensor, or containers of them."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(bytes_of, value.values()))
    return sum(map(bytes_of, value)) if isinstance(value, list | tuple) else 0
