"""Bitwise comparison of tensors."""

from __future__ import annotations

import torch

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors of one device agree in dtype, shape and every bit, so that -0 is not 0 and a NaN is itself.

    Strides may differ. Elements have at most 8 bytes.
    """
    if ours.dtype != theirs.dtype:
        return False
    word = _WORDS[ours.itemsize]
    return torch.equal(ours.view(word), theirs.view(word))
