"""ControlNets of the XL teacher: for the outlines of things, and for their depth.

They begin as the teacher's encoder, from which they differ by a low rank, and say nothing at first: the layers that
lead to the teacher are zero (arXiv 2302.05543).
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import ControlNetModel
from torch import nn
from torch.func import functional_call

from bench.mini.training import low_rank
from bench.mini.training.add_ons import LatentImages, XlBase
from bench.mini.training.loop import Recipe, train

CANNY_RECIPE = Recipe("canny", iterations=600, batch_size=32, peak_lr=1.5e-3, ema_decay=0.99, seed=24)
DEPTH_RECIPE = Recipe("depth", iterations=600, batch_size=32, peak_lr=1.5e-3, ema_decay=0.99, seed=25)
CONTROL_RANK = 16
EMBEDDING_CHANNELS = (8, 16, 32)
"""Of the embedding of the condition, which is halved twice to the latents' size."""
LEFT_OUT = ("up_blocks", "conv_norm_out", "conv_out")
"""Of the teacher's UNet."""


def train_controlnet(
    base: XlBase, images: LatentImages, conditions: torch.Tensor, directory: Path, recipe: Recipe
) -> ControlNetModel:
    """Return a ControlNet for conditions (n, 64, 64), uint8, of the images, trained without touching the teacher."""
    torch.manual_seed(recipe.seed)
    network = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=EMBEDDING_CHANNELS)
    network.to(memory_format=torch.channels_last)
    low_rank.begin(network, CONTROL_RANK, whole=["controlnet_"])

    def loss_of(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows, batch, condition = base.batch(images, size, generator)
        shown = (conditions[rows, None].float() / 255).expand(-1, 3, -1, -1)
        given = condition.arguments() | {"controlnet_cond": shown, "return_dict": False}
        inputs = (batch.noisy, batch.timesteps)
        down, middle = functional_call(network, low_rank.merged(network), inputs, given)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return batch.loss(base.unet(*inputs, **condition.arguments(), **residuals).sample), {}

    averaged: ControlNetModel = train(recipe, network, loss_of, directory)
    return averaged
