"""Loaded pipelines: a base model with its parts and adapters, ready to sample.

Safetensors are preferred. Where a repository has only .bin files, diffusers and transformers read them with
`weights_only=True`: tensors, and no code.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import ControlNetModel, DiffusionPipeline, MotionAdapter

from bench.checkpoints.headers import read_json
from bench.checkpoints.sources import ARCHITECTURE, LORA, local_path, weights_directory
from bench.generate.denoisers import denoisers
from bench.generate.lora import load_lora, overhear, why_not_loaded
from bench.generate.pipeline_calls import pipeline_class_of
from bench.generate.quantized import quantization_of
from bench.generate.quiet import quiet_libraries
from bench.generate.random_weights import add_lora, build_pipeline
from bench.generate.single_file import load_single_file
from bench.records.cell import Adapter, Base, Cell, Part
from bench.records.errors import BenchError
from bench.records.noise_schedule import differences, schedule_of

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_PART_CLASSES = {"controlnet": ControlNetModel, "motion_adapter": MotionAdapter}


def load_pipeline(cell: Cell) -> DiffusionPipeline:
    """Load the pipeline that a cell needs onto its device, adapters applied, and fused where the cell says so.

    Raises BenchError for parts and adapters that do not fit the base model.
    """
    diffusers.logging.disable_progress_bar()  # a run shows its own
    transformers.logging.disable_progress_bar()
    quiet_libraries(afresh=True)
    pipeline = _load_base(cell.base, cell.device)
    if not cell.base.memory_options.get("offload"):
        pipeline.to(cell.device)  # adapters are fused on the device, where matrix products are fast in half precision
    for part in cell.base.parts:
        if part.role == "image_adapter":
            _load_image_adapter(pipeline, part, cell.task.settings["scale"])
    for adapter in cell.adapters:
        _load_adapter(pipeline, adapter)
    if cell.adapters:
        pipeline.set_adapters([a.name for a in cell.adapters], [a.scale for a in cell.adapters])
    if cell.fused:
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    pipeline.set_progress_bar_config(disable=True)
    return _place(pipeline, cell)


def _load_base(base: Base, device: str) -> Any:
    pipeline_class = pipeline_class_of(base.pipeline)
    if pipeline_class is None:
        raise BenchError(f"models.{base.name}.pipeline={base.pipeline}: diffusers has no such pipeline")
    if base.source.startswith(ARCHITECTURE):
        name = base.source.removeprefix(ARCHITECTURE)
        return build_pipeline(name, pipeline_class, DTYPES[base.dtype], device)
    parts = {part.role: _load_part(part, base) for part in base.parts if part.role in _PART_CLASSES}
    root = weights_directory(base.source, _revision(base.source, base.weights))
    with _whole(f"models.{base.name}"):
        if root.is_file():
            config = weights_directory(str(base.config))
            pipeline: Any = load_single_file(pipeline_class, root, config, DTYPES[base.dtype], parts)
        else:
            options = {**_options(base.variant), **_absent(root, pipeline_class)}
            if quantization := base.memory_options.get("quantization"):
                index = pipeline_class.load_config(str(root), local_files_only=True)
                options["quantization_config"] = quantization_of(quantization, index, DTYPES[base.dtype])
            pipeline = pipeline_class.from_pretrained(str(root), **options, dtype=DTYPES[base.dtype], **parts)
    if "controlnet" in parts:
        _check_family(base, parts["controlnet"], pipeline.unet)
    own = schedule_of(
        {**pipeline.scheduler.config, "_class_name": type(pipeline.scheduler).__name__}, f"models.{base.name}"
    )
    stated = base.checkpoint_schedule or base.noise_schedule
    for name in differences(stated, own):
        raise BenchError(
            f"models.{base.name}.noise_schedule.{name}={stated[name]!r}, but the checkpoint states {own.get(name)!r}; "
            "omit the setting"
        )
    return pipeline


def _load_part(part: Part, base: Base) -> Any:
    options = _options(part.variant) | ({"subfolder": part.subfolder} if part.subfolder else {})
    loader: Any = _PART_CLASSES[part.role]
    root = weights_directory(part.source, _revision(part.source, part.weights))
    with _whole(f"models.{base.name}.parts.{part.role}"):
        return loader.from_pretrained(str(root), **options, dtype=DTYPES[base.dtype])


def _check_family(base: Base, controlnet: Any, unet: Any) -> None:
    for name in ("cross_attention_dim", "block_out_channels", "addition_embed_type"):
        ours, theirs = unet.config.get(name), controlnet.config.get(name)
        if ours != theirs:
            raise BenchError(
                f"models.{base.name}.parts.controlnet: it was made for another family of models (its {name} is "
                f"{theirs}, the base model's {ours}); choose one made for this base"
            )


def _load_image_adapter(pipeline: Any, part: Part, scale: float) -> None:
    root = weights_directory(part.source, _revision(part.source, part.weights))
    try:
        pipeline.load_ip_adapter(
            str(root), subfolder=part.subfolder or "", weight_name=part.file, local_files_only=True
        )
    except (RuntimeError, ValueError) as error:
        raise why_not_loaded(f"image adapter {part.source} {part.file}", error) from error
    pipeline.set_ip_adapter_scale(scale)


def _load_adapter(pipeline: Any, adapter: Adapter) -> None:
    if adapter.source == LORA:
        add_lora(pipeline, adapter.name)
        return
    root = weights_directory(adapter.source, _revision(adapter.source, adapter.weights))
    path = root if root.is_file() else root / adapter.file
    load_lora(pipeline, path, adapter.name, f"adapter {adapter.name} ({adapter.source})")


def _place(pipeline: Any, cell: Cell) -> DiffusionPipeline:
    """Return the pipeline on its device, with its memory_options applied."""
    memory_options, name = cell.base.memory_options, f"models.{cell.base.name}.memory_options"
    if cell.base.channels_last:
        for module in (*denoisers(pipeline).values(), pipeline.vae):
            module.to(memory_format=torch.channels_last)
    if memory_options.get("vae_upcast"):
        _use_vae_in_float32(pipeline)
    if memory_options.get("vae_slicing"):
        pipeline.vae.enable_slicing()
    if memory_options.get("vae_tiling"):
        pipeline.vae.enable_tiling()
    if backend := memory_options.get("attention"):
        try:
            for denoiser in list[Any](denoisers(pipeline).values()):
                denoiser.set_attention_backend(backend)
        except (ValueError, RuntimeError, ImportError) as error:
            raise BenchError(f"{name}.attention={backend} cannot be used here: {error}") from error
    offload, mode = memory_options.get("offload"), memory_options.get("compile")
    if offload and not cell.device.startswith("cuda"):
        raise BenchError(f"{name}.offload={offload} was given but the device is {cell.device}; it needs a GPU")
    if offload in ("sequential", "group") and mode:
        raise BenchError(f"{name}: offload={offload} moves each layer separately and cannot be compiled; choose one")
    if mode:  # before offloading, whose hooks restore the forward they found
        for module in (*denoisers(pipeline).values(), pipeline.vae.decoder):
            module.forward = _compiled(module.forward, mode, cell.base.records_graphs)
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=cell.device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=cell.device)
    elif offload == "group":
        pipeline.enable_group_offload(torch.device(cell.device), offload_type="leaf_level", use_stream=True)
    else:
        pipeline = pipeline.to(cell.device)
    return pipeline


def _compiled(forward: Any, mode: str, graphs: bool) -> Callable[..., Any]:
    """Return a compiled function; the output of a CUDA graph is copied, since the next replay overwrites it."""
    compiled: Callable[..., Any] = torch.compile(forward, mode=mode)
    if not graphs:
        return compiled

    @functools.wraps(forward)
    def copied(*arguments: Any, **options: Any) -> Any:
        return copy.deepcopy(compiled(*arguments, **options))

    return copied


def _use_vae_in_float32(pipeline: Any) -> None:
    """Decode in float32, cast once; SDXL's pipelines would otherwise cast their VAE in each call, there and back.

    SDXL's VAE overflows in float16 when it encodes, too.
    """
    vae = pipeline.vae
    if "force_upcast" in vae.config and hasattr(pipeline, "upcast_vae"):
        vae.register_to_config(force_upcast=False)
        vae.float()
        vae.encode = _given_float32(vae.encode)
    else:
        vae.decoder.float()
        if getattr(vae, "post_quant_conv", None) is not None:
            vae.post_quant_conv.float()
    vae.decode = _given_float32(vae.decode)


def _given_float32(method: Any) -> Callable[..., Any]:
    return lambda values, *arguments, **options: method(values.float(), *arguments, **options)


def _options(variant: str | None) -> dict[str, Any]:
    return {"local_files_only": True, **({"variant": variant} if variant else {})}


def _absent(root: Path, pipeline_class: Any) -> dict[str, None]:
    """Return the models that a checkpoint states not to have, such as T5: diffusers loads the others only if told so.

    Those that it takes as optional need not be named.
    """
    index = read_json(root / "model_index.json")
    optional = getattr(pipeline_class, "_optional_components", [])
    return {name: None for name, entry in index.items() if entry == [None, None] and name not in optional}


def _revision(source: str, weights: str) -> str | None:
    """Return the commit of weights of the hub; None for a directory."""
    return None if local_path(source) is not None else weights


@contextmanager
def _whole(place: str) -> Iterator[None]:
    """Refuse a model with weights missing from its files, or unused; the libraries only warn."""
    with overhear("diffusers", "transformers") as heard:
        yield
    if said := [message for message in heard if any(mark in message for mark in _PARTLY)]:
        raise BenchError(f"{place}: its files do not fit its configuration; {' '.join(said[0].split())[:400]}")


_PARTLY = ("newly initialized", "not initialized", "not used when initializing", "MISSING", "UNEXPECTED")
