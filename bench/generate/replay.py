"""A module's operations on inputs of one shape, recorded once and replayed without Python.

One call of a small UNet is some 700 operations; the interpreter between them takes a tenth of the call and more, and
other threads wait for it meanwhile. A replay does the same arithmetic in the same order (see
`bench.generate.recording` for what it leaves out).

Trusted is only what was seen: the first replays are compared with the module's own output, bit for bit, and where one
differs the module is called as ever.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from bench.cell import Cell
from bench.generate.bits import same_bits
from bench.generate.recording import Recording

RECORD_AFTER = 16
"""Calls with inputs of one shape; recording and checking take as long as four of them."""
WORTH_S = 1.0
"""A call that takes longer has little of its time outside its operations."""
COMPARED = 3
"""Replays; the executor settles on a plan in the first two."""
KINDS = 64
"""Shapes that are counted, so that a module whose inputs never repeat fills no memory."""

_now = threading.local()


@contextmanager
def replaying() -> Iterator[None]:
    """Calls from this thread may be replays. Outside, as where latency is measured, they are the module's own."""
    _now.replaying = True
    try:
        yield
    finally:
        _now.replaying = False


@dataclass
class _Kind:
    """Inputs of one shape: how often they came, the fastest call, and what is replayed for them."""

    calls: int = 0
    fastest_s: float = float("inf")
    replay: Recording | None = None
    outputs: TreeSpec | None = None
    compared: int = 0
    hopeless: bool = False


class Replayed:
    """Stands before a module's `forward`; the module's weights must stay as they are, and need no gradient any more."""

    def __init__(self, module: torch.nn.Module) -> None:
        # Shapes count as constants, which they are here. Not for a while: lanes would restore each other's filters.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", "`torch.jit.trace` is deprecated")
        self.module, self.replays = module, 0
        self._forward = module.requires_grad_(False).forward
        self._kinds: dict[Hashable, _Kind] = {}
        kernels = [weight for weight in module.parameters() if weight.dim() == 4 and weight[0, 0].numel() > 1]
        self._channels_last = all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
        module.forward = self._call

    def _call(self, *inputs: Any, **more: Any) -> Any:
        if not getattr(_now, "replaying", False):
            return self._forward(*inputs, **more)
        leaves, structure = tree_flatten((inputs, more))
        kind = self._kind_of(leaves, structure)
        if kind is None or kind.hopeless:
            return self._forward(*inputs, **more)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if kind.replay and kind.outputs and kind.compared >= COMPARED:
            self.replays += 1
            return tree_unflatten(list(kind.replay(*tensors)), kind.outputs)
        begun = time.perf_counter()
        output = self._forward(*inputs, **more)
        if kind.replay:
            if not _same(kind.replay(*tensors), tree_flatten(output)[0]):
                kind.hopeless = True  # for good, whatever another lane finds meanwhile
            kind.compared += 1
        else:
            kind.fastest_s = min(kind.fastest_s, time.perf_counter() - begun)
            kind.calls = calls = kind.calls + 1  # lanes may count past one another, but not past a number
            if calls == RECORD_AFTER:
                self._record(kind, leaves, structure)
        return output

    def _kind_of(self, leaves: Sequence[Any], structure: TreeSpec) -> _Kind | None:
        key = structure, *map(_describe, leaves)
        try:
            known = self._kinds.get(key)
        except TypeError:  # something that cannot be hashed is among them
            return None
        if known is None and len(self._kinds) < KINDS:
            known = self._kinds.setdefault(key, _Kind())
        return known

    def _record(self, kind: _Kind, leaves: Sequence[Any], structure: TreeSpec) -> None:
        """Record what the module does; it is hopeless where that is more than operations on tensors."""

        def only_tensors(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            given = iter(tensors)
            filled = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
            inputs, more = tree_unflatten(filled, structure)
            found, kind.outputs = tree_flatten(self._forward(*inputs, **more))
            return tuple(found)

        if kind.fastest_s > WORTH_S:
            kind.hopeless = True
            return
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        # What pipelines give by name, the text before all, is the same in all steps of a call.
        by_name = sum(isinstance(leaf, torch.Tensor) for leaf in tree_flatten(tree_unflatten(leaves, structure)[1])[0])
        lasting = range(len(tensors) - by_name, len(tensors))
        try:
            replay = Recording(only_tensors, tensors, lasting, self._channels_last)
        except (AttributeError, RuntimeError, TypeError, ValueError):  # no tracer any more among them
            kind.hopeless = True
        else:
            kind.replay = replay


def replay_models(pipeline: Any, cell: Cell) -> None:
    """Let a loaded pipeline's denoiser and decoder be replayed, where it samples on a processor and is not compiled."""
    if cell.device == "cpu" and not cell.base.levers.get("compile"):
        Replayed(pipeline.unet)
        Replayed(pipeline.vae.decoder)


def _describe(leaf: Any) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    return type(leaf), leaf


def _same(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(
        a.stride() == b.stride() and same_bits(a, b) for a, b in zip(ours, theirs, strict=True)
    )
