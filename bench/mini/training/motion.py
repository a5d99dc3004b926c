"""A motion adapter of the second version's teacher (AnimateDiff, arXiv 2307.04725), and a LoRA of it that zooms in.

Both are trained on films of the world, without touching the teacher: the adapter on things that move on straight paths,
the LoRA, on the adapter's attention alone, on things that come nearer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import MotionAdapter, StableDiffusionPipeline, UNetMotionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn

from bench.mini.training.loop import Recipe, train
from bench.mini.training.noising import draw_noise
from bench.mini.training.teacher import CAPTION_DROPOUT
from bench.mini.training.vocabulary import tokenize

MOVING = Recipe("motion", iterations=1200, batch_size=4, peak_lr=1e-3, ema_decay=0.995, seed=33)
ZOOMING = Recipe("zoom in", iterations=300, batch_size=4, peak_lr=1e-3, ema_decay=0.98, seed=34)
ZOOM_RANK = 8
FILMS = 1024
ZOOMS = 512
FILMS_FROM = 300_000
"""Index of the first training seed of the films."""


@dataclass(frozen=True)
class Films:
    """Films as latents, (n, frames, 4, 16, 16), and token ids of their captions, (n, 24)."""

    latents: torch.Tensor
    ids: torch.Tensor


def animated(pipeline: StableDiffusionPipeline, adapter: MotionAdapter | None = None) -> UNetMotionModel:
    """Return the teacher's UNet with a motion adapter; with a new one, frames do not yet know of one another."""
    unet = pipeline.unet
    if adapter is None:
        adapter = MotionAdapter(
            block_out_channels=unet.config.block_out_channels,
            motion_layers_per_block=unet.config.layers_per_block,
            motion_num_attention_heads=4,
            motion_norm_num_groups=unet.config.norm_num_groups,
            motion_max_seq_length=24,
        )
        for name, parameter in adapter.named_parameters():
            if "proj_out" in name:
                nn.init.zeros_(parameter)
    return UNetMotionModel.from_unet2d(unet, adapter)


def train_motion(pipeline: StableDiffusionPipeline, films: Films, directory: Path, recipe: Recipe) -> UNetMotionModel:
    """Return the teacher's UNet with a motion adapter trained on films."""
    torch.manual_seed(recipe.seed)
    unet = animated(pipeline)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("motion_modules" in name)
    return _train(pipeline, unet, films, directory, recipe)


def train_motion_lora(
    pipeline: StableDiffusionPipeline, adapter: MotionAdapter, films: Films, directory: Path, recipe: Recipe
) -> dict[str, torch.Tensor]:
    """Return a LoRA of the motion adapter, in half precision, under the names of a pipeline's files."""
    torch.manual_seed(recipe.seed)
    unet = animated(pipeline, adapter)
    unet.requires_grad_(False)
    targets = r".*motion_modules.*\.(to_q|to_k|to_v|to_out\.0)"
    unet.add_adapter(LoraConfig(r=ZOOM_RANK, lora_alpha=ZOOM_RANK, target_modules=targets), adapter_name="zoom_in")
    averaged = _train(pipeline, unet, films, directory, recipe)
    weights = get_peft_model_state_dict(averaged, adapter_name="zoom_in")
    return {f"unet.{name}": value.half().contiguous() for name, value in weights.items()}


def _train(
    pipeline: StableDiffusionPipeline, unet: UNetMotionModel, films: Films, directory: Path, recipe: Recipe
) -> UNetMotionModel:
    """Train what has gradients; all frames of a film are at one timestep."""
    empty, frames = tokenize(pipeline.tokenizer, [""]), films.latents.shape[1]

    def loss_of(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(films.latents), (size,), generator=generator)
        batch = draw_noise(films.latents[rows], generator)
        dropped = torch.rand(size, 1, generator=generator) < CAPTION_DROPOUT
        with torch.no_grad():
            text = pipeline.text_encoder(torch.where(dropped, empty, films.ids[rows]))[0]
        text = text.repeat_interleave(frames, dim=0)
        noisy = batch.noisy.transpose(1, 2)
        predicted = unet(noisy, batch.timesteps, encoder_hidden_states=text).sample.transpose(1, 2)
        return batch.loss(predicted), {}

    averaged: UNetMotionModel = train(recipe, unet, loss_of, directory)
    return averaged
