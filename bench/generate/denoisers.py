"""The parts of a loaded pipeline, whichever their architecture: denoisers, text encoders, VAE.

A denoiser is the network that a pipeline calls in each step: a UNet, or one or several transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import torch

from bench.records.errors import BenchError

DENOISERS = ("unet", "transformer", "transformer_2")
"""Names of denoisers among the components of diffusers' pipelines."""
_TIMESTEPS = ("timestep", "t")
"""Names of the timestep among the parameters of denoisers."""


def denoisers(pipeline: Any) -> Mapping[str, torch.nn.Module]:
    """Return the denoisers of a pipeline by the names of their components; raises BenchError where it has none."""
    found = {name: module for name, module in _modules(pipeline).items() if name in DENOISERS}
    if not found:
        raise BenchError(
            f"{type(pipeline).__name__} has no denoiser that tcd-bench knows ({', '.join(DENOISERS)}); choose a model "
            "with another pipeline"
        )
    return found


def text_encoders(pipeline: Any) -> Mapping[str, torch.nn.Module]:
    """Return the text encoders of a pipeline by the names of their components: text_encoder, text_encoder_2 …"""
    return {name: module for name, module in _modules(pipeline).items() if name.startswith("text_encoder")}


def adaptable(pipeline: Any) -> Mapping[str, torch.nn.Module]:
    """Return the models that a LoRA may change: denoisers and text encoders."""
    return {**denoisers(pipeline), **text_encoders(pipeline)}


def _modules(pipeline: Any) -> dict[str, torch.nn.Module]:
    components = pipeline.components.items()
    return {name: module for name, module in components if isinstance(module, torch.nn.Module)}


def has_unet(pipeline: Any) -> bool:
    """Whether the denoiser is a UNet, whose latents have the shape (n, channels, height, width)."""
    return "unet" in denoisers(pipeline)


def denoiser_inputs(
    denoiser: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split the arguments of a denoiser's call: those that change in each step, and the others by name.

    The first are the noisy latents, which are the first parameter of every denoiser's `forward`, and the timestep.
    """
    names = _parameters(cast("Hashable", type(denoiser)))
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    latents = given.pop(names[0])
    return (latents, *(given.pop(name) for name in _TIMESTEPS if name in given)), given


def rows_of(denoiser: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the number of rows of a denoiser's call: of its noisy latents, a tensor or a list of tensors."""
    (latents, *_), _ = denoiser_inputs(denoiser, args, kwargs)
    return len(latents)


@cache
def _parameters(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]
