"""Loaded pipelines: a base model with its adapters, ready to sample. Only safetensors are read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from bench.generate.weights import local_path
from bench.records import Adapter, Base, BenchError, Cell

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_pipeline(cell: Cell) -> DiffusionPipeline:
    """Load the pipeline that a cell needs onto its device, adapters applied, and fused where the cell says so."""
    diffusers.logging.disable_progress_bar()  # a run draws its own
    transformers.logging.disable_progress_bar()
    pipeline = _load_base(cell.base)
    for adapter in cell.adapters:
        _load_adapter(pipeline, adapter)
    if cell.adapters:
        pipeline.set_adapters([a.name for a in cell.adapters], [a.scale for a in cell.adapters])
    if cell.fused:
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    if cell.base.channels_last:
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(cell.device)


def _load_base(base: Base) -> DiffusionPipeline:
    pipeline_class: Any = getattr(diffusers, base.pipeline, None)
    if pipeline_class is None:
        raise BenchError(f"models.{base.name}.pipeline={base.pipeline}: diffusers has no such pipeline")
    path = local_path(base.source)
    options: dict[str, Any] = {"dtype": DTYPES[base.dtype], "use_safetensors": True, "local_files_only": True}
    if path is None:
        options |= {"revision": base.weights, "variant": base.variant}
    pipeline: DiffusionPipeline = pipeline_class.from_pretrained(str(path or base.source), **options)
    for name, expected in base.noise_schedule.items():
        found = pipeline.scheduler.config.get(name)
        if found != expected:
            raise BenchError(
                f"models.{base.name}.noise_schedule.{name}={expected!r}, but the checkpoint says {found!r}; "
                "set it to the checkpoint's value"
            )
    return pipeline


def _load_adapter(pipeline: Any, adapter: Adapter) -> None:
    path = local_path(adapter.source)
    options: dict[str, Any] = {"revision": adapter.weights} if path is None else {}
    options |= {"weight_name": adapter.file, "adapter_name": adapter.name, "local_files_only": True}
    with _quiet("diffusers.loaders"):  # it warns of every part that an adapter leaves alone
        pipeline.load_lora_weights(str(path or adapter.source), use_safetensors=True, **options)
    if adapter.name not in {name for names in pipeline.get_list_adapters().values() for name in names}:
        raise BenchError(
            f"adapter {adapter.name} ({adapter.source}): none of its keys match the model; it was made for another base"
        )


@contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
