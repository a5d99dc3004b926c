"""A LoRA laid over a pipeline, and proof that the whole of it arrived: every tensor of the file, bit for bit."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from bench.records import BenchError

_MODELS = ("unet", "text_encoder", "text_encoder_2")


def load_lora(pipeline: Any, path: Path, name: str, which: str) -> None:
    """Lay a LoRA file over a pipeline as adapter `name`.

    Raises BenchError, naming `which`, where it does not fit, or any of its tensors did not arrive as it is in the file.
    """
    with overhear("diffusers", "peft") as heard:  # they warn of every part that an adapter leaves alone
        try:
            pipeline.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=name, use_safetensors=True, local_files_only=True
            )
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            reason = " ".join(str(error).split())[:300]
            raise BenchError(f"{which}: it does not fit the model; it was made for another base ({reason})") from error
    if said := [message for message in heard if "unexpected keys" in message or "missing keys" in message]:
        raise BenchError(f"{which}: only a part of it fits, so it was made for another base; {said[0][:300]}")
    layers = list(_layers(pipeline, name))
    if not layers:
        raise BenchError(f"{which}: none of its keys match the model; it was made for another base")
    _check_arrived(path, name, layers, which)


def _layers(pipeline: Any, name: str) -> Iterator[LoraLayer]:
    for role in _MODELS:
        model = getattr(pipeline, role, None)
        if isinstance(model, torch.nn.Module):
            for module in model.modules():
                if isinstance(module, LoraLayer) and name in {**module.lora_A, **module.lora_embedding_A}:
                    yield module


def _check_arrived(path: Path, name: str, layers: list[LoraLayer], which: str) -> None:
    """Compare the file's matrices with the model's as sets with repetition, and the alphas with the scales."""
    found: Counter[tuple[str, str]] = Counter()
    scales: dict[str, set[float]] = {}
    dtypes = set()
    for layer in layers:
        first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
        dtypes.add(first.dtype)
        found.update([_fingerprint(first), _fingerprint(second)])
        scales.setdefault(_fingerprint(first)[1], set()).add(float(layer.scaling[name]))
    missing = []
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
            wanted = _scale(file, key, tensor)
            if wanted is not None and fits[1] in scales and all(abs(s - wanted) > 1e-6 for s in scales[fits[1]]):
                raise BenchError(
                    f"{which}: {key} has alpha / rank = {wanted:g}, but is applied with "
                    f"{min(scales[fits[1]]):g}; give it in a form that diffusers reads right, such as its own"
                )
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise BenchError(
            f"{which}: {len(missing)} of its tensors did not reach the model ({listed}); it was made "
            "for another base, or is in a form that diffusers does not read"
        )
    if left := sum(found.values()):
        raise BenchError(
            f"{which}: {left} matrices of the model's adapter are not in the file; it holds half of a LoRA"
        )


def _fingerprint(tensor: torch.Tensor) -> tuple[str, str]:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return str(flat.dtype), hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()


def _scale(file: Any, key: str, tensor: torch.Tensor) -> float | None:
    """Alpha over rank, where the file states an alpha beside a first matrix."""
    mark = ".lora_down."
    alpha = f"{key.split(mark)[0]}.alpha"
    if mark not in key or alpha not in file.keys():  # noqa: SIM118
        return None
    return float(file.get_tensor(alpha)) / tensor.shape[0]


@contextmanager
def overhear(*names: str) -> Iterator[list[str]]:
    """Keep libraries' warnings to ourselves, as a list."""
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
