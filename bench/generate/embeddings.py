"""Prompt embeddings of a loaded pipeline, computed once for all its cells.

A pipeline's own `encode_prompt` is remembered by its arguments. The pipeline calls it as it always does, so that no
table says which of the returned tensors is what: some pipelines return masks, text ids or lists.
"""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from typing import Any

from bench.generate.denoiser_cache import bytes_of


class Embeddings:
    """What `encode_prompt` returned, by its arguments; kept up to `limit_bytes`.

    One thread encodes at a time, across all instances: a tokenizer stores its padding as state.
    """

    encoding = threading.Lock()

    def __init__(self, limit_bytes: int = 2**29) -> None:
        self.used_bytes = 0
        self._kept: dict[Any, Any] = {}
        self._limit_bytes = limit_bytes

    def remembered_by(self, pipeline: Any) -> Any:
        """Return a shallow copy of a pipeline that encodes no prompt twice; the pipeline itself where it has no
        `encode_prompt`."""
        encode = getattr(pipeline, "encode_prompt", None)
        if encode is None:
            return pipeline
        remembering = copy.copy(pipeline)
        bound, signature = encode.__func__.__get__(remembering), inspect.signature(encode)

        @functools.wraps(encode)
        def remembered(*args: Any, **kwargs: Any) -> Any:
            key = _hashable(signature.bind(*args, **kwargs).arguments)
            with self.encoding:
                if key in self._kept:
                    return self._kept[key]
                found = bound(*args, **kwargs)
                size = bytes_of(found)
                if self.used_bytes + size <= self._limit_bytes:
                    self.used_bytes += size
                    self._kept[key] = found
                return found

        remembering.encode_prompt = remembered
        return remembering


def _hashable(value: Any) -> Any:
    """Return a value that is equal for equal arguments of `encode_prompt`; tensors are told apart by identity."""
    if isinstance(value, dict):
        return tuple((name, _hashable(entry)) for name, entry in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
