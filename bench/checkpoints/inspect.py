"""Inspection of checkpoints without loading them: all files to be read exist, are complete, and of the right kind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.checkpoints.extractors import PREPROCESSOR, TOWERS, kinds_of_files
from bench.checkpoints.facts import ARCHITECTURES, CHAT, FLOW_PIPELINES, Facts, multiple_of, size_of
from bench.checkpoints.files import components_of, single_file, wanted_files, weights_in
from bench.checkpoints.headers import check_payload, is_denoiser, layout_of, read_header, read_json
from bench.checkpoints.lora import lora_faults
from bench.checkpoints.manifest import MANIFEST, check_file
from bench.checkpoints.openclip_files import CONFIG
from bench.checkpoints.preference_models import Needed
from bench.checkpoints.required import Required
from bench.checkpoints.sources import (
    NotFetchedError,
    local_path,
    name_files,
    name_weights,
    torch_checkpoints,
    weights_directory,
)
from bench.experiment.extractors import INCEPTION
from bench.records.errors import BenchError
from bench.records.noise_schedule import schedule_of


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that was found: its path, its identity, and its name if it is a single file.

    `variant` is that of its files, and `pickled` is true when some are .bin files.
    """

    entry: Required
    root: Path
    identity: str
    size: int
    file: str | None = None
    facts: Facts | None = None
    variant: str | None = None
    pickled: bool = False


def inspect(entry: Required) -> Found:
    """Inspect a checkpoint; raises BenchError that lists all faults.

    NotFetchedError where the hub's cache lacks it or some of its files, which fetching again fixes.
    """
    if entry.manifest is not None:
        return _inspect_manifest(entry)
    try:
        root = weights_directory(entry.source, entry.revision)
    except NotFetchedError:
        raise
    except BenchError as error:
        raise BenchError(f"{entry.setting}.source={error}") from error
    if root.is_file():
        return _inspect_single_file(entry, root)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())
    faults: list[str] = []
    file = facts = None
    parts = None
    if entry.kind in ("pipeline", "config"):
        with suppress(BenchError):  # reported below
            parts = components_of(read_json(root / "model_index.json"))
    try:
        files = [root / name for name in wanted_files(entry, names, parts)]
    except BenchError as error:
        raise _of_kind(entry, [str(error)]) from error
    for path in files:
        faults += _faults_of(path)
    if entry.kind in ("lora", "image_adapter"):
        file = single_file(entry, names)
        if entry.kind == "lora" and not faults:
            faults += lora_faults(root / file)
    variant, pickled = None, False
    for folder, base in _expected(entry, root, faults):
        found, which = weights_in(folder, names, entry.variant)
        variant = which or variant
        pickled = pickled or any(name.endswith(".bin") for name in found)
        if pickled and entry.kind == "extractor":
            found = []
        if not found:
            faults.append(_no_weights(root / folder, base, names, folder))
        faults += [f"{path} is missing; its index names it" for path in _missing_shards(root / folder, which)]
    if entry.kind in ("pipeline", "config") and not faults:
        facts = _facts(root, variant, faults)
    if faults:
        raise _of_kind(entry, faults)
    if entry.kind in ("lora", "config") and local_path(entry.source) is not None:
        identity = name_files(files, root)  # further files change nothing
    else:
        identity = name_weights(entry.source, entry.revision)
    if file is not None and entry.subfolder:
        file = file.removeprefix(f"{entry.subfolder}/")
    return Found(entry, root, identity, sum(path.stat().st_size for path in files), file, facts, variant, pickled)


def _of_kind(entry: Required, faults: list[str]) -> BenchError:
    said = "; ".join(dict.fromkeys(faults))
    if local_path(entry.source) is None:
        return NotFetchedError(
            f"{entry.source} is incomplete in the local hub cache ({said}); fetch it with `tcd-bench fetch`"
        )
    return BenchError(said)


def _expected(entry: Required, root: Path, faults: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the folders that must hold a model's weights, each with the base name of its weights files.

    Required configuration files are checked at the same time.
    """
    if entry.kind in ("pipeline", "config"):
        yield from _components(entry, root, faults)
    elif entry.kind == "image_adapter":
        folder = f"{entry.subfolder or ''}/image_encoder".lstrip("/")
        faults += _faults_of(root / folder / "config.json")
        yield folder, "model"
    elif entry.kind in ("controlnet", "motion_adapter", "depth_estimator"):
        folder = entry.subfolder or "."
        faults += _faults_of(root / folder / "config.json")
        yield folder, "model" if entry.kind == "depth_estimator" else "diffusion_pytorch_model"
    elif entry.kind == "extractor":
        kind = kinds_of_files(root)[0]
        for name in (CONFIG,) if kind == "openclip" else (PREPROCESSOR,) if kind in TOWERS else ():
            faults += _faults_of(root / name)
        yield ".", "open_clip_model" if kind == "openclip" else "model"


def _components(entry: Required, root: Path, faults: list[str]) -> Iterator[tuple[str, str]]:
    try:
        index = read_json(root / "model_index.json")
    except BenchError as error:
        faults.append(str(error))
        return
    for name, (library, kind) in components_of(index).items():
        folder = root / name
        if kind.endswith("Scheduler"):
            faults += _faults_of(folder / "scheduler_config.json")
        elif "Tokenizer" in kind:
            faults += _tokenizer_faults(folder, str(index.get("_class_name")))
        elif kind.endswith(("Extractor", "Processor")):
            faults += _faults_of(folder / "preprocessor_config.json")
        else:
            faults += _faults_of(folder / "config.json")
            if entry.kind == "pipeline":
                yield name, "diffusion_pytorch_model" if library == "diffusers" else "model"


def _tokenizer_faults(folder: Path, pipeline: str) -> list[str]:
    names = {path.name for path in folder.glob("*")}
    whole = {"tokenizer.json", "vocab.txt"} & names or {"vocab.json", "merges.txt"} <= names
    if not whole and not any(name.endswith(".model") for name in names):
        return [f"{folder} does not hold a tokenizer; copy the model as save_pretrained writes it"]
    if pipeline in CHAT and "chat_template.jinja" not in names:
        with suppress(BenchError):
            if "chat_template" in read_json(folder / "tokenizer_config.json"):
                return []
        return [f"{folder} does not hold chat_template.jinja, which {pipeline} needs; fetch or copy it again"]
    return []


def _faults_of(path: Path) -> list[str]:
    try:
        if path.suffix == ".safetensors":
            read_header(path)
        elif path.suffix == ".json" and not path.name.endswith("vocab.json"):
            _check_json(path)
        else:
            check_payload(path)
    except BenchError as error:
        return [str(error)]
    return []


def _check_json(path: Path) -> None:
    if path.name.endswith("config.json") or ".index" in path.name or path.name == "model_index.json":
        read_json(path)
        return
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{path} cannot be read as JSON; fetch or copy it again") from error


def _no_weights(folder: Path, base: str, names: Sequence[str], inside: str) -> str:
    prefix = "" if inside == "." else f"{inside}/"
    others = [name for name in names if name.startswith(prefix) and name.endswith((".bin", ".ckpt", ".safetensors"))]
    if others:
        return f"{folder} holds {', '.join(others[:3])} but not {base}.safetensors; convert or fetch it"
    return f"{folder} does not hold {base}.safetensors; fetch or copy the weights again"


def _missing_shards(folder: Path, variant: str | None) -> Iterator[Path]:
    """Yield the files that an index lists and that do not exist; a model of a single file has no index."""
    infix = f".{variant}" if variant else ""
    if any((folder / f"{stem}{infix}.safetensors").exists() for stem in ("diffusion_pytorch_model", "model")):
        return
    for index in sorted(folder.glob(f"*.safetensors.index{infix}.json")):
        with suppress(BenchError):  # reported already
            names = sorted({*read_json(index).get("weight_map", {}).values()})
            yield from (folder / name for name in names if not (folder / name).exists())


def _facts(root: Path, variant: str | None, faults: list[str]) -> Facts | None:
    index = read_json(root / "model_index.json")
    pipeline = str(index.get("_class_name"))
    role = "transformer" if pipeline in FLOW_PIPELINES else "unet"
    if pipeline not in ARCHITECTURES or not (root / role).is_dir():
        has = f" and holds no {role}" if pipeline in ARCHITECTURES else ""
        known = ", ".join(dict.fromkeys(ARCHITECTURES.values()))
        faults.append(f"{root} was made for {pipeline}{has}; choose a model of {known}")
        return None
    try:
        denoiser, vae = read_json(root / role / "config.json"), read_json(root / "vae" / "config.json")
        path = root / "scheduler" / "scheduler_config.json"
        config = read_json(path)
        config.setdefault("_class_name", (index.get("scheduler") or [None, None])[1])
        denoiser.setdefault("_class_name", (index.get(role) or [None, None])[1])
        height, width = size_of(denoiser, vae)
        return Facts(
            pipeline=pipeline,
            height=height,
            width=width,
            noise_schedule=schedule_of(config, str(path)),
            inpaints=role == "unet" and denoiser.get("in_channels") == 2 * vae.get("latent_channels", 4) + 1,
            variant=variant,
            multiple=multiple_of(pipeline, vae),
        )
    except BenchError as error:
        faults.append(str(error))
        return None


def _inspect_single_file(entry: Required, path: Path) -> Found:
    """Inspect a source that is a file: a LoRA, an IP-Adapter, or a whole pipeline."""
    if entry.kind not in ("lora", "pipeline"):
        raise BenchError(
            f"{entry.setting}.source={entry.source} is a file; give the directory that the model was saved into"
        )
    if path.suffix != ".safetensors":
        raise BenchError(f"{entry.setting}.source={entry.source}: only .safetensors files are read; convert it")
    header = read_header(path)
    if entry.kind == "lora":
        if faults := lora_faults(path):
            raise BenchError("; ".join(faults))
    elif layout_of(header) is None:
        if is_denoiser(header):
            raise BenchError(
                f"{entry.setting}.source={entry.source} is a single file of a transformer, which is not read; give the "
                "directory or hub id of the whole pipeline, with its text encoders and VAE"
            )
        raise BenchError(
            f"{entry.setting}.source={entry.source} is not a complete model: it needs denoiser, VAE and text encoder, "
            "in the original layout (model.diffusion_model.*, first_stage_model.*) or parts by name (unet.*, vae.*)"
        )
    return Found(entry, path, name_files([path], path.parent), path.stat().st_size, path.name)


def _inspect_manifest(entry: Required) -> Found:
    """Inspect a network of a score, by its entry in the manifest."""
    name = str(entry.manifest)
    weights = MANIFEST[name]
    if entry.source == INCEPTION or entry.source == "lpips://":
        path = torch_checkpoints() / weights.file
        if not path.is_file():
            raise NotFetchedError(f"{path} is missing; fetch it with `tcd-bench fetch`, or {weights.command(path)}")
        check_payload(path)
        return Found(entry, path, check_file(path, name), path.stat().st_size, path.name)
    needed = Needed(name, entry.source)
    path = needed.path()
    if not path.exists():
        raise (NotFetchedError if local_path(entry.source) is None else BenchError)(
            f"{path} is missing, and {name} needs it; fetch it with {weights.command()}"
        )
    if path.is_file():
        check_payload(path)
        return Found(entry, path, needed.identity(), path.stat().st_size, path.name)
    faults = [fault for file in sorted(path.glob("*.safetensors")) for fault in _faults_of(file)]
    faults += [f"{shard} is missing; its index names it" for shard in _missing_shards(path, None)]
    if not any(path.glob("*.safetensors")):
        faults.append(f"{path} holds no .safetensors file")
    if faults:
        raise _of_kind(entry, faults)
    return Found(entry, path, needed.identity(), sum(f.stat().st_size for f in path.rglob("*") if f.is_file()))
