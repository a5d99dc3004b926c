"""A LoRA applied to a pipeline, with a check that every tensor of the file arrived bitwise."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import isclose
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from bench.checkpoints.files import first_few
from bench.checkpoints.lora import stated_scales
from bench.generate.denoisers import adaptable
from bench.records.errors import BenchError


def load_lora(pipeline: Any, path: Path, name: str, which: str) -> None:
    """Apply a LoRA file to a pipeline as adapter `name`.

    Raises BenchError, naming `which`, where it does not fit, or any of its tensors was changed or not loaded.
    """
    with overhear("diffusers", "peft") as heard:  # they warn of every part that an adapter does not change
        try:
            pipeline.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=name, use_safetensors=True, local_files_only=True
            )
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise why_not_loaded(which, error) from error
    if said := [message for message in heard if "unexpected keys" in message or "missing keys" in message]:
        raise BenchError(f"{which}: only a part of it fits, so it was made for another base; {said[0][:300]}")
    layers = list(_layers(pipeline, name))
    if not layers:
        raise BenchError(f"{which}: none of its keys match the model; it was made for another base")
    _check_arrived(path, name, layers, which)


def why_not_loaded(which: str, error: Exception) -> BenchError:
    """Return the refusal of weights that a library did not load: another base where shapes or keys show it."""
    reason = " ".join(str(error).split())[:300]
    if isinstance(error, KeyError) or _MISFIT.search(reason):
        return BenchError(f"{which}: it does not fit the model; it was made for another base ({reason})")
    return BenchError(f"{which}: it could not be loaded ({type(error).__name__}: {reason})")


_MISFIT = re.compile(r"size mismatch|shapes?\b|keys?\b|modules .* not found in the base model", re.IGNORECASE)


def _layers(pipeline: Any, name: str) -> Iterator[LoraLayer]:
    for model in adaptable(pipeline).values():
        for module in model.modules():
            if isinstance(module, LoraLayer) and name in {**module.lora_A, **module.lora_embedding_A}:
                yield module


def _check_arrived(path: Path, name: str, layers: list[LoraLayer], which: str) -> None:
    """Compare the file's matrices with the model's as sets with repetition, each first matrix with its scale."""
    found: Counter[tuple[str, str]] = Counter()
    applied: dict[tuple[str, str], list[float]] = {}
    dtypes = set()
    for layer in layers:
        first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
        dtypes.add(first.dtype)
        found.update([_fingerprint(first), _fingerprint(second)])
        applied.setdefault(_fingerprint(first), []).append(float(layer.scaling[name]))
    missing = []
    stated = stated_scales(path)
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118
            if key.endswith(".alpha"):
                continue
            tensor = file.get_tensor(key)
            fits = next((mark for dtype in dtypes if found[mark := _fingerprint(tensor.to(dtype))] > 0), None)
            if fits is None:
                missing.append(key)
                continue
            found[fits] -= 1
            if key not in stated:
                continue
            scales = applied[fits]
            nearest = min(scales, key=lambda scale: abs(scale - stated[key]))
            if not isclose(nearest, stated[key], rel_tol=1e-6):
                raise BenchError(
                    f"{which}: {key} has alpha / rank = {stated[key]:g}, but is applied with {nearest:g}; convert it "
                    "to a form that diffusers reads correctly, such as its own"
                )
            scales.remove(nearest)
    if missing:
        raise BenchError(
            f"{which}: {len(missing)} of its tensors did not reach the model ({first_few(missing)}); it was made "
            "for another base, or is in a form that diffusers does not read"
        )
    if left := sum(found.values()):
        raise BenchError(
            f"{which}: {left} matrices of the model's adapter are not in the file; it holds half of a LoRA"
        )


def _fingerprint(tensor: torch.Tensor) -> tuple[str, str]:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return str(flat.dtype), hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()


@contextmanager
def overhear(*names: str) -> Iterator[list[str]]:
    """Collect libraries' warnings in a list instead of printing them."""
    heard: list[str] = []
    before = []
    for name in names:
        logger = logging.getLogger(name)
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
        before.append((logger, logger.handlers[:], logger.level))
        logger.handlers[:] = [handler]
        logger.setLevel(logging.WARNING)
    try:
        yield heard
    finally:
        for logger, handlers, level in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)
