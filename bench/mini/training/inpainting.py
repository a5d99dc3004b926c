"""An inpainting UNet of the XL teacher: it also sees the mask and the latents of the image without what is masked."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from bench.mini import truth, world
from bench.mini.training import low_rank
from bench.mini.training.add_ons import LatentImages, XlBase
from bench.mini.training.loop import Recipe, train
from bench.mini.training.main_axes import CHANNELS

RECIPE = Recipe("inpainting", iterations=500, batch_size=32, peak_lr=1e-3, ema_decay=0.99, seed=23)
INPAINTING_RANK = 24


@dataclass(frozen=True)
class Masked:
    """Masks (n, 1, 16, 16) in the latents' size, 1 where to paint, and latents of the images without what is masked."""

    masks: torch.Tensor
    latents: torch.Tensor


def draw_mask(scene: world.Scene) -> NDArray[np.bool_]:
    """Return a mask of a scene, (64, 64): around one of its things, or in one of four scenes a random rectangle."""
    rng = np.random.default_rng((scene.seed, 4))
    if rng.random() < 0.75:
        return truth.mask(scene, int(rng.integers(len(scene.things))))
    mask = np.zeros((world.IMAGE_SIZE, world.IMAGE_SIZE), bool)
    height, width = rng.integers(16, 40, 2)
    top, left = rng.integers(0, world.IMAGE_SIZE - height), rng.integers(0, world.IMAGE_SIZE - width)
    mask[top : top + height, left : left + width] = True
    return mask


def shrink_masks(masks: torch.Tensor) -> torch.Tensor:
    """Return masks (n, 64, 64) in the latents' size as the pipeline does, (n, 1, 16, 16)."""
    return functional.interpolate(masks[:, None].float(), size=(16, 16))


def widen(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a copy of the UNet that also takes a mask and latents, and so far ignores them."""
    wide = copy.deepcopy(unet)
    first = wide.conv_in
    wide.conv_in = nn.Conv2d(2 * CHANNELS + 1, first.out_channels, first.kernel_size, padding=first.padding)
    with torch.no_grad():
        wide.conv_in.weight.zero_()
        wide.conv_in.weight[:, :CHANNELS] = first.weight
        wide.conv_in.bias.copy_(first.bias)
    wide.register_to_config(in_channels=2 * CHANNELS + 1)
    return wide.to(memory_format=torch.channels_last)


def train_inpainting(
    base: XlBase, images: LatentImages, masked: Masked, directory: Path, recipe: Recipe
) -> UNet2DConditionModel:
    """Return the UNet for inpainting, trained on images with their masks."""
    torch.manual_seed(recipe.seed)
    unet = widen(base.unet)
    low_rank.begin(unet, INPAINTING_RANK, whole=["conv_in"])

    def loss_of(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows, batch, condition = base.batch(images, size, generator)
        seen = torch.cat([batch.noisy, masked.masks[rows], masked.latents[rows]], dim=1)
        inputs = (seen, batch.timesteps)
        loss = batch.loss(functional_call(unet, low_rank.merged(unet), inputs, condition.arguments()).sample)
        return loss, {}

    averaged: UNet2DConditionModel = train(recipe, unet, loss_of, directory)
    return averaged
