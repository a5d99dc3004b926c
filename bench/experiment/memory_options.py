"""Settings of a model that trade time for memory or the reverse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from bench.experiment.value_types import STRICT
from bench.records.cell import CUDA_GRAPHS


@dataclass(config=STRICT)
class MemoryOptions:
    """Settings that trade time for memory or the reverse; each is part of a cell's identity."""

    offload: Literal["none", "model", "group", "sequential"] = "none"
    """Keep on the GPU only the model (`model`) or the layer (`sequential`) that is at work; `group` moves layers too,
    and copies the next ones while one is at work."""
    quantization: Literal["none", "bitsandbytes_4bit", "bitsandbytes_8bit", "torchao_int8", "quanto_int8"] = "none"
    """Quantise the weights of denoisers and large text encoders while they are loaded, by the library that is named."""
    vae_slicing: bool = False
    """Decode one image at a time."""
    vae_tiling: bool = False
    """Decode in tiles."""
    vae_upcast: bool = False
    """Decode in float32; SDXL's own VAE overflows in float16. It is cast once, while SDXL's pipelines cast it in each
    call, there and back, where the checkpoint asks for it."""
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = "none"
    """Compile the denoiser and the VAE's decoder, in one of torch.compile's modes. `reduce-overhead` and
    `max-autotune` record CUDA graphs, which serve one batch at a time."""
    attention: str | None = None
    """One of diffusers' attention backends, by name."""


def graph_problems(models: Mapping[str, Any], concurrent_batches: int | str) -> Iterator[str]:
    """Yield a sentence for each model whose CUDA graphs several batches would use at once."""
    for name, model in models.items():
        mode = model.memory_options.compile
        if mode in CUDA_GRAPHS and concurrent_batches not in (1, "auto"):
            yield (
                f"concurrent_batches={concurrent_batches} was given, but models.{name}.memory_options.compile={mode} "
                "records CUDA graphs, which serve one batch at a time; use concurrent_batches=1, or compile=default"
            )


def quantization_problems(models: Mapping[str, Any], methods: Mapping[str, Any], weights: str) -> Iterator[str]:
    """Yield a sentence for each model whose weights cannot be quantised as it is used."""
    fused = [name for name, method in methods.items() if method.fused and method.adapter]
    for name, model in models.items():
        option = model.memory_options.quantization
        given = f"models.{name}.memory_options.quantization={option}"
        if option == "none":
            continue
        if weights == "random":
            yield f"{given} was given, but weights=random builds models that are not quantised; omit it"
        if model.config is not None:
            yield f"{given} was given, but a single file is not quantised; give the directory of a model, or omit it"
        if fused:
            yield (
                f"{given} was given, but methods.{fused[0]}.fused=true merges its adapter into the weights, which "
                f"would be rounded again; set methods.{fused[0]}.fused=false"
            )
