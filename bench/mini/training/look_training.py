"""Other looks of the XL teacher's images: a fine-tune, and a LoRA that a word in the caption calls for."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.func import functional_call

from bench.mini.training import low_rank
from bench.mini.training.add_ons import LatentImages, XlBase
from bench.mini.training.loop import Recipe, train

INK = Recipe("ink", iterations=400, batch_size=32, peak_lr=1e-3, ema_decay=0.99, seed=21)
INK_RANK = 16
PAPERCUT = Recipe("papercut", iterations=300, batch_size=32, peak_lr=1e-3, ema_decay=0.99, seed=22)
PAPERCUT_RANK = 8
TRIGGER = "cut"
"""At the end of a caption; with its three tokens the longest caption still fits."""
LOOK_IMAGES = 4096
LOOKS_FROM = 200_000
"""Index of the first training seed of the looks' images."""


def train_look(base: XlBase, images: LatentImages, rank: int, directory: Path, recipe: Recipe) -> UNet2DConditionModel:
    """Return a copy of the teacher's UNet with differences of a rank that draw like the images."""
    torch.manual_seed(recipe.seed)
    unet: UNet2DConditionModel = copy.deepcopy(base.unet)
    low_rank.begin(unet, rank)

    def loss_of(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        batch, condition = base.batch(images, size, generator)[1:]
        inputs = (batch.noisy, batch.timesteps)
        loss = batch.loss(functional_call(unet, low_rank.merged(unet), inputs, condition.arguments()).sample)
        return loss, {}

    averaged: UNet2DConditionModel = train(recipe, unet, loss_of, directory)
    return averaged
