"""The stages that train the XL teacher's add-ons, each from images of its own that are rendered once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL, ModelMixin, MotionAdapter, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from bench.mini import world
from bench.mini.training import controlnets, drawings, image_prompts, inpainting, look_training, low_rank, motion
from bench.mini.training.add_ons import LatentImages, XlBase
from bench.mini.training.autoencoder import encode_pixels
from bench.mini.training.loop import Recipe
from bench.mini.training.teacher import Latents
from bench.mini.training.vocabulary import tokenize

CONTROLLED_IMAGES = 8192
MASKED_IMAGES = 4096
PROMPTING_IMAGES = 8192


class Shop(Protocol):
    """What the stages need of the workshop."""

    work: Path

    def tokenizer(self) -> CLIPTokenizer: ...
    def xl_vae(self) -> AutoencoderKL: ...
    def xl_teacher(self) -> StableDiffusionXLPipeline: ...
    def v2_teacher(self) -> StableDiffusionPipeline: ...
    def xl_data(self) -> Latents: ...


class AddOnStages:
    """Each stage writes its result to a separate directory of the workshop."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def xl_ink(self) -> None:
        """Train the fine-tune of another look."""
        if (path := self._open("xl_ink")) is not None:
            images = self._look("ink", "")
            unet = look_training.train_look(self._base(), images, look_training.INK_RANK, path, look_training.INK)
            self._save(unet, path)

    def xl_papercut(self) -> None:
        """Train the style LoRA."""
        if (path := self._open("xl_papercut")) is not None:
            images, rank = self._look("papercut", f" {look_training.TRIGGER}"), look_training.PAPERCUT_RANK
            unet = look_training.train_look(self._base(), images, rank, path, look_training.PAPERCUT)
            weights = low_rank.lora_of(unet)
            StableDiffusionXLPipeline.save_lora_weights(path / "final", weights, safe_serialization=True)

    def xl_inpainting(self) -> None:
        """Train the inpainting UNet."""
        if (path := self._open("xl_inpainting")) is not None:
            self._save(inpainting.train_inpainting(self._base(), *self._masked(), path, inpainting.RECIPE), path)

    def xl_canny(self) -> None:
        """Train the ControlNet for outlines."""
        self._controlnet("canny", controlnets.CANNY_RECIPE)

    def xl_depth(self) -> None:
        """Train the ControlNet for depth."""
        self._controlnet("depth", controlnets.DEPTH_RECIPE)

    def xl_image_prompt(self) -> None:
        """Train the image encoder and the IP-Adapter."""
        if (path := self._open("xl_image_prompt")) is not None:
            data, file = self.shop.xl_data(), self.shop.work / "xl_plain.safetensors"
            if not file.exists():
                pixels = torch.from_numpy(drawings.draw_all("plain", range(PROMPTING_IMAGES)))
                evaluator = self.shop.work / "evaluator" / "final"
                embeddings = image_prompts.evaluator_embeddings(evaluator, self.shop.tokenizer(), pixels)
                save_file({"pixels": pixels, "embeddings": embeddings}, file)
            tensors, count = load_file(file), PROMPTING_IMAGES
            vision = image_prompts.train_vision(
                tensors["pixels"], tensors["embeddings"], path / "seeing", image_prompts.SEEING
            )
            with torch.no_grad():
                parts = [image_prompts.to_vision_pixels(part) for part in torch.split(tensors["pixels"], 256)]
                embeddings = torch.cat([vision(part).image_embeds for part in parts])
            images = LatentImages(data.latents[:count], data.ids[:count])
            unet = image_prompts.train_image_prompts(self._base(), images, embeddings, path, image_prompts.PROMPTING)
            image_prompts.save_image_prompts(unet, vision, path / "final")

    def v2_motion(self) -> None:
        """Train the motion adapter of the second version's teacher."""
        if (path := self._open("v2_motion")) is not None:
            moving = self._films("film", motion.FILMS)
            unet = motion.train_motion(self.shop.v2_teacher(), moving, path, motion.MOVING)
            unet.save_motion_modules(str(path / "float32"))
            adapter = MotionAdapter.from_pretrained(path / "float32")
            adapter.half().save_pretrained(path / "final")

    def v2_zoom(self) -> None:
        """Train the LoRA of the motion adapter that zooms in."""
        if (path := self._open("v2_zoom")) is not None:
            adapter = MotionAdapter.from_pretrained(self.shop.work / "v2_motion" / "float32")
            coming = self._films("zoom", motion.ZOOMS)
            weights = motion.train_motion_lora(self.shop.v2_teacher(), adapter, coming, path, motion.ZOOMING)
            (path / "final").mkdir()
            save_file(weights, path / "final" / "pytorch_lora_weights.safetensors")

    def _films(self, kind: Literal["film", "zoom"], count: int) -> motion.Films:
        """Return films as latents, computed once."""
        file = self.shop.work / f"v2_{kind}.safetensors"
        seeds = range(motion.FILMS_FROM, motion.FILMS_FROM + count)
        if not file.exists():
            frames = drawings.draw_all(kind, seeds)
            latents = encode_pixels(self.shop.xl_vae(), frames.reshape(-1, *frames.shape[2:]))
            captions = [world.caption(world.scene(seed)) for seed in seeds]
            tensors = {
                "latents": latents.reshape(*frames.shape[:2], *latents.shape[1:]),
                "ids": tokenize(self.shop.tokenizer(), captions),
            }
            save_file(tensors, file)
        tensors = load_file(file)
        return motion.Films(tensors["latents"], tensors["ids"])

    def _controlnet(self, kind: drawings.Drawing, recipe: Recipe) -> None:
        if (path := self._open(f"xl_{kind}")) is not None:
            data, file = self.shop.xl_data(), self.shop.work / f"xl_{kind}.safetensors"
            if not file.exists():
                save_file({"conditions": torch.from_numpy(drawings.draw_all(kind, range(CONTROLLED_IMAGES)))}, file)
            conditions, count = load_file(file)["conditions"], CONTROLLED_IMAGES
            images = LatentImages(data.latents[:count], data.ids[:count])
            self._save(controlnets.train_controlnet(self._base(), images, conditions, path, recipe), path)

    def _open(self, name: str) -> Path | None:
        """Return the directory of a stage, None where its result is there already."""
        path = self.shop.work / name
        return None if (path / "final").exists() else path

    def _base(self) -> XlBase:
        return XlBase.of(self.shop.xl_teacher())

    def _save(self, network: ModelMixin, path: Path) -> None:
        original = self.shop.xl_teacher().unet
        kept = [name for name, value in original.state_dict().items() if _has(network, name, value)]
        low_rank.save_changes(network, kept, path / "final")

    def _look(self, look: Literal["ink", "papercut"], suffix: str) -> LatentImages:
        """Return the images of a look, whose captions have a suffix, computed once."""
        file = self.shop.work / f"xl_{look}.safetensors"
        if not file.exists():
            seeds = range(look_training.LOOKS_FROM, look_training.LOOKS_FROM + look_training.LOOK_IMAGES)
            pixels = drawings.draw_all(look, seeds)
            captions = [f"{world.caption(world.scene(seed))}{suffix}" for seed in seeds]
            latents = encode_pixels(self.shop.xl_vae(), pixels)
            save_file({"latents": latents, "ids": tokenize(self.shop.tokenizer(), captions)}, file)
        tensors = load_file(file)
        return LatentImages(tensors["latents"], tensors["ids"])

    def _masked(self) -> tuple[LatentImages, inpainting.Masked]:
        """Return the first images, and the same without what a mask covers, computed once."""
        file, data = self.shop.work / "xl_masked.safetensors", self.shop.xl_data()
        if not file.exists():
            masks = np.stack([inpainting.draw_mask(scene) for scene in data.scenes[:MASKED_IMAGES]])
            latents = encode_pixels(self.shop.xl_vae(), drawings.draw_all("unmasked", range(MASKED_IMAGES)))
            small = inpainting.shrink_masks(torch.from_numpy(masks))
            save_file({"masks": small.contiguous(), "latents": latents}, file)
        tensors = load_file(file)
        images = LatentImages(data.latents[:MASKED_IMAGES], data.ids[:MASKED_IMAGES])
        return images, inpainting.Masked(tensors["masks"], tensors["latents"])


def _has(network: ModelMixin, name: str, value: torch.Tensor) -> bool:
    """Whether a network has a weight of this name and shape, changed or not."""
    own = network.state_dict()
    found = own.get(name, own.get(f"{name.rpartition('.')[0]}.base_layer.{name.rpartition('.')[2]}"))
    return found is not None and found.shape == value.shape
