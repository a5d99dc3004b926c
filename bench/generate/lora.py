"""A LoRA applied to a pipeline, with a check that every tensor of the file arrived bitwise."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import gcd, isclose
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from bench.checkpoints.files import first_few
from bench.checkpoints.lora import MatrixPair, stated_pairs
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
    """Compare the file's pairs of matrices with those of the model, each with its factor.

    Loaders of some forms multiply alpha / rank into the matrices, or split the rows of B among the parts of a joint
    layer: such pairs must be the file's up to a factor, and the product of all factors the stated one.
    """
    left: dict[Any, list[LoraLayer]] = {}
    for layer in layers:
        left.setdefault((_fingerprint(_first(layer, name)), _fingerprint(_second(layer, name))), []).append(layer)
    dtypes = {_first(layer, name).dtype for layer in layers}
    pairs, changed = stated_pairs(path), list[MatrixPair]()
    with safe_open(path, framework="pt") as file:
        for pair in pairs:
            marks = None
            if pair.first is not None and pair.second is not None:
                first, second = file.get_tensor(pair.first), file.get_tensor(pair.second)
                tried = [(_fingerprint(first.to(dtype)), _fingerprint(second.to(dtype))) for dtype in dtypes]
                marks = next((found for found in tried if left.get(found)), None)
            if marks is None:
                changed.append(pair)
                continue
            nearest = min(left[marks], key=lambda layer, pair=pair: abs(layer.scaling[name] - pair.scale))  # type: ignore[misc]
            _check_scale(str(pair.first), pair.scale, nearest.scaling[name], 1e-6, which)
            left[marks].remove(nearest)
        rest = [layer for some in left.values() for layer in some]
        by_signs: dict[Any, list[LoraLayer]] = {}
        for layer in rest if changed else ():
            by_signs.setdefault(_signs(_first(layer, name)), []).append(layer)
        missing = [key for key in file.keys() if not key.endswith(".alpha")]  # noqa: SIM118
        for pair in pairs:
            taken = _take_changed(file, pair, name, by_signs, which) if pair in changed else []
            rest = [layer for layer in rest if not any(layer is one for one in taken)]
            if taken or pair not in changed:
                missing = [key for key in missing if key not in (pair.first, pair.second)]
        marks_left = {_fingerprint(side(layer, name)) for layer in rest for side in (_first, _second)}
        missing = [
            key
            for key in missing
            if not any(_fingerprint(file.get_tensor(key).to(dtype)) in marks_left for dtype in dtypes)
        ]
    if missing:
        raise BenchError(
            f"{which}: {len(missing)} of its tensors did not reach the model ({first_few(missing)}); it was made "
            "for another base, or is in a form that diffusers does not read"
        )
    if rest:
        raise BenchError(
            f"{which}: {2 * len(rest)} matrices of the model's adapter are not in the file; it holds half of a LoRA"
        )


def _take_changed(
    file: Any, pair: MatrixPair, name: str, by_signs: dict[Any, list[LoraLayer]], which: str
) -> list[LoraLayer]:
    """Return the layers that hold a file's pair up to factors, and forget them; empty where there are none."""
    if pair.first is None or pair.second is None:
        return []
    first, second = file.get_tensor(pair.first), file.get_tensor(pair.second)
    alike = by_signs.get(_signs(first), [])
    taken: list[LoraLayer] = []
    rows = 0
    for layer in alike:
        own, factor = _second(layer, name), _factor(first, _first(layer, name))
        starts = range(0, len(second) - len(own) + 1, gcd(len(second), len(own)))
        parts = (_factor(second[start : start + len(own)], own) for start in starts)
        other = next((found for found in parts if found is not None), None)
        if factor is None or other is None or rows + len(own) > len(second):
            continue
        if second.any():
            _check_scale(pair.first, pair.scale, factor * other * layer.scaling[name], 1e-2, which)
        taken.append(layer)
        rows += len(own)
    if rows != len(second):
        return []
    alike[:] = [layer for layer in alike if not any(layer is one for one in taken)]
    return taken


def _signs(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return shape and first signs of a matrix, which a positive factor does not change."""
    return tuple(tensor.shape), bytes(tensor.detach().flatten()[:256].sign().to("cpu", torch.int8).numpy())


def _factor(stated: torch.Tensor, found: torch.Tensor) -> float | None:
    """Return the positive factor between two matrices that are the same but for it and its rounding; None for others.

    The factor 1 rounds nothing: they then are the same in the type of `found`.
    """
    if _signs(stated) != _signs(found):
        return None
    found = found.detach().cpu()
    if torch.equal(stated.to(found.dtype), found):
        return 1.0
    one, other = stated.double(), found.double()
    factor = float(other.norm() / one.norm()) if one.any() else 1.0
    precisions = [torch.finfo(stated.dtype), torch.finfo(found.dtype)]
    rounding = max(precision.eps for precision in precisions)  # at most half of it for each of two roundings
    smallest = max(precision.tiny * precision.eps for precision in precisions)
    fits = torch.allclose(other, factor * one, rtol=rounding, atol=smallest)
    return factor if fits and not isclose(factor, 1.0, rel_tol=1e-3) else None


def _check_scale(key: str, stated: float, applied: float, tolerance: float, which: str) -> None:
    if not isclose(applied, stated, rel_tol=tolerance):
        raise BenchError(
            f"{which}: {key} has alpha / rank = {stated:g}, but is applied with {applied:.4g}; convert it to a form "
            "that diffusers reads correctly, such as its own"
        )


def _first(layer: LoraLayer, name: str) -> torch.Tensor:
    return layer.lora_A[name].weight


def _second(layer: LoraLayer, name: str) -> torch.Tensor:
    return layer.lora_B[name].weight


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
