"""The second version's teacher: Stable Diffusion 2's architecture in small, on the XL teacher's latents.

Its text encoder is the first teacher's without the last layer, as there the penultimate layer is read and the
configuration says so. Its UNet has linear projections, heads of one size in all levels, and neither pooled text nor
scales by the time, so that diffusers can animate it. It begins with the first teacher's weights and follows its
predictions.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from bench.mini.training.distillation import Caption
from bench.mini.training.first_unet import begin_as_first, fit_to_first
from bench.mini.training.loop import Recipe, train
from bench.mini.training.main_axes import CHANNELS, project
from bench.mini.training.noising import draw_noise
from bench.mini.training.teacher import CAPTION_DROPOUT, Latents
from bench.mini.training.vocabulary import tokenize

FOLLOWING_FIRST = Recipe("v2 teacher", iterations=4000, batch_size=32, peak_lr=1.5e-3, ema_decay=0.998, seed=31)
HEAD_SIZE = 8


class V2Teacher(nn.Module):
    """Text encoder and UNet as one model for projected latents (n, 4, 16, 16); only the UNet has gradients."""

    def __init__(self, first: StableDiffusionPipeline) -> None:
        super().__init__()
        config = copy.deepcopy(first.text_encoder.config)
        config.num_hidden_layers -= 1
        self.text_encoder = CLIPTextModel(config)
        self.text_encoder.load_state_dict(first.text_encoder.state_dict(), strict=False)
        self.text_encoder.requires_grad_(False)
        wide = dict(first.unet.config)
        narrow = {
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "use_linear_projection": True,
            "attention_head_dim": [width // HEAD_SIZE for width in wide["block_out_channels"]],
            "addition_embed_type": None,
            "resnet_time_scale_shift": "default",
        }
        self.unet: UNet2DConditionModel = UNet2DConditionModel.from_config(wide | narrow)
        self.unet.to(memory_format=torch.channels_last)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, timesteps, **Caption(self.text_encoder(ids)[0]).arguments()).sample


def train_v2_teacher(
    data: Latents, first: StableDiffusionPipeline, axes: torch.Tensor, directory: Path, recipe: Recipe
) -> V2Teacher:
    """Train with the first teacher's pipeline and latents, projected on `axes`.

    Half of the captions leave nothing open, one in ten is dropped.
    """
    torch.manual_seed(recipe.seed)
    first.unet.requires_grad_(False).to(memory_format=torch.channels_last)
    teacher = V2Teacher(first)
    empty = tokenize(first.tokenizer, [""])
    some = torch.cat([data.ids[:1000], data.complete_ids[:1000]])
    with torch.no_grad():
        fit = fit_to_first(teacher.text_encoder(some)[0], first, some)
        begin_as_first(teacher.unet, first.unet, axes, fit)
        pooled = first.unet.add_embedding(first.text_encoder(some)[0]).mean(dim=0)
        teacher.unet.time_embedding.linear_2.bias.add_(pooled)

    def loss_of(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(data.latents), (size,), generator=generator)
        batch = draw_noise(data.latents[rows], generator)
        open_, dropped = (torch.rand(size, 1, generator=generator) < share for share in (0.5, CAPTION_DROPOUT))
        ids = torch.where(dropped, empty, torch.where(open_, data.ids[rows], data.complete_ids[rows]))
        noisy = batch.noisy
        with torch.no_grad():
            text = Caption(first.text_encoder(ids)[0]).arguments()
            target = project(axes, first.unet(noisy, batch.timesteps, **text).sample)
        predicted = teacher(project(axes, noisy), batch.timesteps, ids)
        return batch.loss(predicted, target), {"follows": (predicted.detach() - target).square().mean().item()}

    return train(recipe, teacher, loss_of, directory)  # type: ignore[return-value]
