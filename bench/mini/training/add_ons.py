"""What the trainings of the add-ons of the XL teacher share: the frozen teacher, and batches of its latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from bench.mini.training.noising import Noised, draw_noise
from bench.mini.training.teacher import CAPTION_DROPOUT
from bench.mini.training.xl_teacher import Encoders, XlCondition, embed_captions


@dataclass(frozen=True)
class LatentImages:
    """LatentImages of one kind: latents (n, 4, 16, 16) and token ids of their captions (n, 24)."""

    latents: torch.Tensor
    ids: torch.Tensor


@dataclass(frozen=True)
class XlBase:
    """The XL teacher, whose weights no add-on changes."""

    encoders: Encoders
    unet: UNet2DConditionModel

    @classmethod
    def of(cls, pipeline: StableDiffusionXLPipeline) -> XlBase:
        pipeline.unet.requires_grad_(False).to(memory_format=torch.channels_last)
        return cls((pipeline.text_encoder, pipeline.text_encoder_2), pipeline.unet)

    def batch(
        self, images: LatentImages, size: int, generator: torch.Generator, dropout: float = CAPTION_DROPOUT
    ) -> tuple[torch.Tensor, Noised, XlCondition]:
        """Draw rows of images, noise them, and embed their captions, of which a share is dropped."""
        rows = torch.randint(len(images.latents), (size,), generator=generator)
        dropped = torch.rand(size, generator=generator) < dropout
        return (
            rows,
            draw_noise(images.latents[rows], generator),
            embed_captions(self.encoders, images.ids[rows], None, dropped),
        )
