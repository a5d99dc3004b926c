"""The rows' models, from the work directory into the package, as differences where they are derived from others.

Their weights are in 8 bits, which costs no measurable quality (see the model card).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import numpy as arrays
from safetensors.torch import load_file, save_file

from bench.checkpoints.derived import CHANGES, INDEX, pack
from bench.mini.training.controlnets import LEFT_OUT

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
TEXT_FILE = "model.safetensors"
COPIES = {
    "xl_tcd": "xl-tcd-lora",
    "xl_lcm": "xl-lcm-lora",
    "xl_papercut": "xl-papercut-lora",
    "xl_image_prompt": "xl-image-prompt",
    "v2_tcd": "v2-tcd-lora",
    "v2_motion": "v2-motion",
    "v2_zoom": "v2-zoom-lora",
}
UNETS = {"xl_inpainting": "xl-inpainting", "xl_ink": "xl-ink"}
CONTROLNETS = {"xl_canny": "xl-canny", "xl_depth": "xl-depth"}
"""Stages and the directories of what they made."""


def export_flow(pipeline: StableDiffusion3Pipeline, destination: Path) -> None:
    """Write the flow teacher in half precision, without what it shares with the first one in `destination`/teacher."""
    path = _save(pipeline, destination / "flow-teacher")
    copied = {"tokenizer": "teacher/tokenizer", "tokenizer_2": "teacher/tokenizer"}
    for name in copied:  # the configuration is its own: captions are shorter
        (path / name / "tokenizer.json").unlink()
    encoder = f"text_encoder/{TEXT_FILE}"
    changed = {name: f"teacher/{name}" for name in (f"vae/{WEIGHTS_FILE}", encoder)}
    prefixes = {encoder: "text_model."}  # by which names begin where the encoder is part of one with a projection
    for name, original in changed.items():
        _keep_changes(path / name, destination / original, prefixes.get(name, ""))
    _write_index(path, copied, changed, prefixes=prefixes)


def export_teacher(pipeline: StableDiffusionXLPipeline, destination: Path) -> None:
    """Write the XL teacher in half precision, without what it shares with the first one in `destination`/teacher."""
    path = _save(pipeline, destination / "xl")
    _keep_changes(path / "vae" / WEIGHTS_FILE, destination / "teacher" / "vae" / WEIGHTS_FILE)
    copied = {"text_encoder": "teacher/text_encoder"}
    for name in ("tokenizer", "tokenizer_2"):
        copied[name] = "teacher/tokenizer"
    for name in copied:
        shutil.rmtree(path / name)
    _write_index(path, copied, {f"vae/{WEIGHTS_FILE}": f"teacher/vae/{WEIGHTS_FILE}"} | _pack(path))


def export_second(pipeline: StableDiffusionPipeline, destination: Path) -> None:
    """Write the second version's teacher in half precision, without what it shares with the other two."""
    path = _save(pipeline, destination / "v2")
    copied = {"vae": "xl/vae", "tokenizer": "teacher/tokenizer"}
    for name in copied:
        shutil.rmtree(path / name)
    (path / "text_encoder" / TEXT_FILE).unlink()
    save_file({}, path / "text_encoder" / f"{TEXT_FILE}{CHANGES}")
    last = f"encoder.layers.{pipeline.text_encoder.config.num_hidden_layers}."
    _write_index(path, copied, {f"text_encoder/{TEXT_FILE}": f"teacher/text_encoder/{TEXT_FILE}"} | _pack(path), [last])


def export_add_ons(work: Path, destination: Path) -> None:
    """Copy what was trained of adapters and add-ons; what was not is left out."""
    for stage, name in COPIES.items():
        if (made := work / stage / "final").exists():
            path = _copy(made, destination / name)
            _write_index(path, {}, _pack(path))
    for stage, name in UNETS.items():
        if (made := work / stage / "final").exists():
            path = _copy(made, destination / name, "unet")
            _write_index(path, {"": "xl"}, {f"unet/{WEIGHTS_FILE}": f"xl/unet/{WEIGHTS_FILE}"} | _pack(path))
    for stage, name in CONTROLNETS.items():
        if (made := work / stage / "final").exists():
            path = _copy(made, destination / name)
            _write_index(path, {}, {WEIGHTS_FILE: f"xl/unet/{WEIGHTS_FILE}"} | _pack(path), LEFT_OUT)


def _copy(made: Path, path: Path, part: str = "") -> Path:
    """Copy what a stage made in place of what was there; returns the path."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(made, path / part)
    _forget_where_it_was(path)
    return path


def _pack(path: Path) -> dict[str, str]:
    """Store all weights below a path in 8 bits; returns, for the index, those without an original."""
    for file in path.rglob(f"*{CHANGES}"):
        arrays.save_file(pack(arrays.load_file(file)), file)
    whole = [file for file in path.rglob("*.safetensors") if not file.name.endswith(CHANGES)]
    for file in whole:
        arrays.save_file(pack(arrays.load_file(file)), file.with_name(f"{file.name}{CHANGES}"))
        file.unlink()
    return {file.relative_to(path).as_posix(): "" for file in sorted(whole)}


def _save(pipeline: DiffusionPipeline, path: Path) -> Path:
    """Write a pipeline in half precision in place of what was there; returns the path."""
    shutil.rmtree(path, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(path)
    _forget_where_it_was(path)
    return path


def _keep_changes(file: Path, original: Path, prefix: str = "") -> None:
    """Replace a file of weights by those of its tensors that the original, with a prefix to its names, lacks."""
    known = {f"{prefix}{name}": value for name, value in load_file(original).items()}
    changes = {name: value for name, value in load_file(file).items() if not _equal(value, known.get(name))}
    save_file(changes, file.with_name(f"{file.name}{CHANGES}"))
    file.unlink()


def _equal(ours: torch.Tensor, theirs: torch.Tensor | None) -> bool:
    return theirs is not None and torch.equal(ours, theirs)


def _write_index(
    path: Path,
    copied: dict[str, str],
    changed: dict[str, str],
    without: Sequence[str] = (),
    prefixes: Mapping[str, str] | None = None,
) -> None:
    index = {"copied": copied, "changed": changed, "without": list(without), "prefixes": prefixes or {}}
    (path / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def _forget_where_it_was(path: Path) -> None:
    """Remove from configurations the directory that a model was loaded from."""
    for file in path.rglob("*.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
