"""Networks of transformers, loaded whole and in float32, without code of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.records.errors import BenchError


def load_pretrained(kind: type[Any], directory: Path, setting: str, device: str) -> Any:
    """Return a network of a directory's safetensors, to be evaluated on a device.

    Raises BenchError, about the `setting`, where they cannot be loaded or lack tensors: transformers would draw these
    at random.
    """
    try:
        model, said = kind.from_pretrained(
            directory, use_safetensors=True, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BenchError(f"{setting} cannot be loaded ({reason}); fetch or copy it again") from error
    if lacking := sorted(said["missing_keys"]):
        raise BenchError(
            f"{setting} lacks {len(lacking)} tensors of a {kind.__name__}, the first {lacking[0]}; give a complete one"
        )
    return model.to(device).eval()
