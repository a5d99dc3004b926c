"""Train every model of the miniature from scratch: `python -m bench.mini.training [--stages …] [--work …]`.

A stage whose result is in the work directory is not repeated; an interrupted stage resumes from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from bench.mini import world
from bench.mini.training import (
    autoencoder,
    distillation,
    evaluator,
    flow_distillation,
    flow_teacher,
    main_axes,
    row_export,
    teacher,
    v2_teacher,
    vocabulary,
    xl_distillation,
    xl_teacher,
)
from bench.mini.training.add_on_stages import AddOnStages
from bench.mini.training.data import render_split
from bench.mini.training.teacher import Latents

STAGES = ("tokenizer", "vae", "evaluator", "teacher", "tcd", "lcm", "export", "flow_teacher", "flow_tcd", "flow_export",
          "xl_teacher", "xl_tcd", "xl_inpainting", "xl_canny", "xl_depth", "xl_papercut", "xl_ink",
          "xl_image_prompt", "xl_lcm", "v2_teacher", "v2_tcd", "v2_motion", "v2_zoom", "xl_export")  # fmt: skip
V2_TCD = replace(distillation.RECIPES["tcd"], name="v2 tcd", iterations=800, seed=32)
TRAIN_IMAGES = 64_000
EVALUATOR_IMAGES = 60_000


class Workshop:
    """The stages, each of which writes its result to a separate directory."""

    def __init__(self, work: Path, destination: Path) -> None:
        self.work, self.destination = work, destination

    def tokenizer(self) -> CLIPTokenizer:
        path = self.work / "tokenizer"
        if not path.exists():
            captions = (world.caption(world.scene(seed)) for seed in world.split_seeds("train", 3000))
            vocabulary.build_tokenizer(captions).save_pretrained(path)
        return CLIPTokenizer.from_pretrained(path)

    def vae(self) -> AutoencoderKL:
        path = self.work / "vae" / "final"
        if not path.exists():
            autoencoder.train_vae(render_split("train", 24_000), path.parent).save_pretrained(path)
        return AutoencoderKL.from_pretrained(path)

    def evaluator(self) -> None:
        path = self.work / "evaluator" / "final"
        if not path.exists():
            tokenizer = self.tokenizer()
            model = evaluator.train_evaluator(render_split("evaluator", EVALUATOR_IMAGES), tokenizer, path.parent)
            evaluator.save_evaluator(model, tokenizer, path)

    def latents(self) -> teacher.Latents:
        """Return the training images as latents, computed once, and their captions' tokens."""
        path = self.work / "latents.safetensors"
        scenes = [world.scene(seed) for seed in world.split_seeds("train", TRAIN_IMAGES)]
        if not path.exists():
            latents = autoencoder.encode_images(self.vae(), render_split("train", TRAIN_IMAGES))
            captions = [world.caption(scene) for scene in scenes]
            complete = [world.caption(world.complete(scene)) for scene in scenes]
            ids, complete_ids = (vocabulary.tokenize(self.tokenizer(), texts) for texts in (captions, complete))
            save_file({"latents": latents.half().contiguous(), "ids": ids, "complete_ids": complete_ids}, path)
        tensors = load_file(path)
        return teacher.Latents(tensors["latents"].float(), tensors["ids"], tensors["complete_ids"], scenes)

    def teacher(self) -> StableDiffusionPipeline:
        path = self.work / "teacher" / "final"
        if not path.exists():
            model = teacher.train_teacher(self.latents(), self.tokenizer(), path.parent)
            parts = model.text_encoder, model.unet, self.vae(), self.tokenizer()
            teacher.assemble_pipeline(*parts).save_pretrained(path)
        return StableDiffusionPipeline.from_pretrained(path, dtype=torch.float32)

    def adapter(self, kind: distillation.Kind) -> None:
        path = self.work / kind / "final"
        if not path.exists():
            weights = distillation.distill(kind, self.teacher(), self.latents(), path.parent)
            halves = {name: tensor.half() for name, tensor in weights.items()}
            StableDiffusionPipeline.save_lora_weights(path, unet_lora_layers=halves, safe_serialization=True)

    tcd, lcm = partialmethod(adapter, "tcd"), partialmethod(adapter, "lcm")

    def export(self) -> None:
        """Copy the finished models into the package, weights as float16."""
        pipeline = self.teacher().to(dtype=torch.float16)
        pipeline.save_pretrained(self.destination / "teacher")
        for name, folder in (("tcd", "tcd-lora"), ("lcm", "lcm-lora"), ("evaluator", "evaluator")):
            shutil.copytree(self.work / name / "final", self.destination / folder, dirs_exist_ok=True)

    def flow_teacher(self) -> StableDiffusion3Pipeline:
        path = self.work / "flow_teacher" / "final"
        if not path.exists():
            data, vae = flow_teacher.standardize(self.latents(), self.vae())
            model = flow_teacher.train_flow_teacher(data, vae, self.teacher(), path.parent)
            flow_teacher.assemble_flow_pipeline(model, vae, self.tokenizer()).save_pretrained(path)
        return StableDiffusion3Pipeline.from_pretrained(
            path, dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
        )

    def flow_tcd(self) -> None:
        path = self.work / "flow_tcd" / "final"
        if not path.exists():
            data, _ = flow_teacher.standardize(self.latents(), self.vae())
            weights = flow_distillation.distill_flow(self.flow_teacher(), data, path.parent)
            halves = {name: tensor.half() for name, tensor in weights.items()}
            StableDiffusion3Pipeline.save_lora_weights(path, transformer_lora_layers=halves, safe_serialization=True)

    def cropped(self) -> xl_teacher.Cropped:
        """Return the images that were cropped or drawn small as latents, computed once."""
        path = self.work / "cropped.safetensors"
        if not path.exists():
            seeds = range(xl_teacher.CROPPED_FROM, xl_teacher.CROPPED_FROM + xl_teacher.CROPPED_IMAGES)
            images, time_ids = xl_teacher.render_cropped(seeds)
            latents = autoencoder.encode_pixels(self.vae(), images)
            ids = vocabulary.tokenize(self.tokenizer(), [world.caption(world.scene(seed)) for seed in seeds])
            save_file(
                {"latents": latents.half().contiguous(), "ids": ids, "time_ids": torch.tensor(time_ids).float()}, path
            )
        tensors = load_file(path)
        return xl_teacher.Cropped(tensors["latents"].float(), tensors["ids"], tensors["time_ids"])

    def axes(self) -> torch.Tensor:
        """Return the directions of the latents that the XL models use, computed once."""
        path = self.work / "axes.safetensors"
        if not path.exists():
            latents = self.latents().latents
            save_file({"axes": main_axes.main_axes(latents), "mean": latents.mean(dim=(0, 2, 3))}, path)
        return load_file(path)["axes"]

    def xl_vae(self) -> AutoencoderKL:
        axes = self.axes()
        return main_axes.narrow_vae(self.vae(), axes, load_file(self.work / "axes.safetensors")["mean"])

    def xl_teacher(self) -> StableDiffusionXLPipeline:
        path = self.work / "xl_teacher" / "final"
        if not path.exists():
            data, cropped = self.latents(), self.cropped()
            reading = (self.work / "flow_teacher" / "reading", flow_teacher.SECOND_READING)
            model = xl_teacher.train_xl_teacher(data, cropped, self.teacher(), self.axes(), path.parent, reading)
            xl_teacher.assemble_xl_pipeline(model, self.xl_vae(), self.tokenizer()).save_pretrained(path)
        return StableDiffusionXLPipeline.from_pretrained(path, dtype=torch.float32)

    def xl_data(self) -> Latents:
        """Return the training images as the XL models' latents."""
        data = self.latents()
        return replace(data, latents=main_axes.project(self.axes(), data.latents))

    def v2_teacher(self) -> StableDiffusionPipeline:
        path = self.work / "v2_teacher" / "final"
        if not path.exists():
            recipe = v2_teacher.FOLLOWING_FIRST
            model = v2_teacher.train_v2_teacher(self.latents(), self.teacher(), self.axes(), path.parent, recipe)
            parts = model.text_encoder, model.unet, self.xl_vae(), self.tokenizer()
            teacher.assemble_pipeline(*parts).save_pretrained(path)
        return StableDiffusionPipeline.from_pretrained(path, dtype=torch.float32)

    def v2_tcd(self) -> None:
        path = self.work / "v2_tcd" / "final"
        if not path.exists():
            weights = distillation.distill("tcd", self.v2_teacher(), self.xl_data(), path.parent, V2_TCD)
            halves = {name: tensor.half() for name, tensor in weights.items()}
            StableDiffusionPipeline.save_lora_weights(path, unet_lora_layers=halves, safe_serialization=True)

    def xl_adapter(self, kind: distillation.Kind) -> None:
        path = self.work / f"xl_{kind}" / "final"
        if not path.exists():
            first = self.work / kind / "final" / "pytorch_lora_weights.safetensors"
            weights = xl_distillation.distill_xl(
                kind, self.xl_teacher(), self.xl_data(), self.teacher(), first, path.parent
            )
            halves = {name: tensor.half() for name, tensor in weights.items()}
            StableDiffusionXLPipeline.save_lora_weights(path, unet_lora_layers=halves, safe_serialization=True)

    xl_tcd, xl_lcm = partialmethod(xl_adapter, "tcd"), partialmethod(xl_adapter, "lcm")

    def xl_export(self) -> None:
        """Copy the finished XL models into the package."""
        row_export.export_teacher(self.xl_teacher(), self.destination)
        if (self.work / "v2_teacher" / "final").exists():
            row_export.export_second(self.v2_teacher(), self.destination)
        row_export.export_add_ons(self.work, self.destination)

    def flow_export(self) -> None:
        """Copy the finished flow models into the package, the teacher's weights in half precision."""
        row_export.export_flow(self.flow_teacher(), self.destination)
        shutil.copytree(self.work / "flow_tcd" / "final", self.destination / "flow-tcd-lora", dirs_exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/train_mini", description=__doc__)
    package = Path(__file__).parents[1]
    parser.add_argument("--work", type=Path, default=Path(".work"), help="checkpoints and logs (default: .work)")
    parser.add_argument("--destination", type=Path, default=package / "weights", help="directory of the models")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    arguments = parser.parse_args()
    workshop = Workshop(arguments.work, arguments.destination)
    add_ons = AddOnStages(workshop)
    for stage in arguments.stages:
        start = time.monotonic()
        getattr(workshop if hasattr(workshop, stage) else add_ons, stage)()
        arguments.work.mkdir(parents=True, exist_ok=True)
        with (arguments.work / "stages.jsonl").open("a") as log:
            log.write(json.dumps({"stage": stage, "seconds": round(time.monotonic() - start, 1)}) + "\n")


if __name__ == "__main__":
    main()
