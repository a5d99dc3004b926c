"""The teacher: Stable Diffusion's architecture in small.

As there, the text encoder can read before the UNet learns to draw: linear heads that are discarded afterwards must
name from a caption what it names. Then both are trained together on latents, at first only on very noisy ones, whose
composition only the caption reveals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench.mini import world
from bench.mini.training.attributes import AttributeHeads, named_labels
from bench.mini.training.loop import Recipe, train
from bench.mini.training.vocabulary import tokenize

READING = Recipe("reading", iterations=400, batch_size=128, peak_lr=2e-3, ema_decay=0.95, warmup=0.1, seed=6)
COMPOSING = Recipe("composing", iterations=2000, batch_size=64, peak_lr=2e-3, ema_decay=0.998, seed=7, threads=2)
RECIPE = Recipe("teacher", iterations=13000, batch_size=64, peak_lr=1.5e-3, ema_decay=0.9993, seed=2, threads=2)
COMPOSING_FROM = 500
TEXT_WIDTH = 96
CAPTION_DROPOUT = 0.1
SNR_LIMIT = 5.0


@dataclass(frozen=True)
class Latents:
    """Training images as scaled latents (n, 8, 16, 16), with the tokens of their captions, (n, context length).

    `complete_ids` are the tokens of captions that leave nothing open.
    """

    latents: torch.Tensor
    ids: torch.Tensor
    complete_ids: torch.Tensor
    scenes: Sequence[world.Scene]


class Teacher(nn.Module):
    """Text encoder and UNet as one model: token ids, noisy latents and timesteps → v (arXiv 2202.00512).

    Besides cross-attention at the lowest resolution, the pooled text is added to the time embedding, as in SDXL, and so
    reaches every resolution.
    """

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                projection_dim=TEXT_WIDTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=8,
            out_channels=8,
            layers_per_block=1,
            block_out_channels=(24, 40, 72),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=4,  # diffusers' name for the number of heads
            cross_attention_dim=TEXT_WIDTH,
            resnet_time_scale_shift="scale_shift",
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
        ).to(memory_format=torch.channels_last)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        text = self.text_encoder(ids)[0]
        return self.unet(noisy, timesteps, encoder_hidden_states=text).sample


def noise_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's noise schedule, with v as the prediction, as in its version 2."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def learn_to_read(text_encoder: CLIPTextModel, data: Latents, directory: Path, recipe: Recipe) -> None:
    """Train the text encoder in place to name from a caption's tokens what the caption names."""
    heads, labels = AttributeHeads(text_encoder.config.hidden_size), named_labels(data.scenes)
    reader = nn.ModuleDict({"text_encoder": text_encoder, "heads": heads})
    complete_labels = named_labels([world.complete(scene) for scene in data.scenes])

    def loss_of(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(data.ids), (size // 2,), generator=generator)
        ids = torch.cat([data.ids[rows], data.complete_ids[rows]])
        targets = torch.cat([labels[rows], complete_labels[rows]])
        loss, accuracy = heads.naming_loss(text_encoder(ids).pooler_output, targets)
        return loss, {"named": accuracy}

    reader.load_state_dict(train(recipe, reader, loss_of, directory).state_dict())


def train_teacher(
    data: Latents,
    tokenizer: CLIPTokenizer,
    directory: Path,
    reading: Recipe = READING,
    composing: Recipe = COMPOSING,
    recipe: Recipe = RECIPE,
) -> Teacher:
    """Train to predict v = √ᾱ noise − √(1 − ᾱ) latents; one caption in ten is dropped.

    The weight is (min(SNR, 5) + 1) / (SNR + 1): one for noisy latents, where composition is decided, and less for
    nearly clean ones, as in arXiv 2303.09556. Half of the captions leave nothing open.
    """
    torch.manual_seed(recipe.seed)
    teacher = Teacher(tokenizer)
    learn_to_read(teacher.text_encoder, data, directory / "reading", reading)
    alphas = noise_scheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    weight = (snr.clamp(max=SNR_LIMIT) + 1) / (snr + 1)
    empty = tokenize(tokenizer, [""])

    def loss_of(
        first_timestep: int, size: int, generator: torch.Generator, _: nn.Module
    ) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(data.latents), (size,), generator=generator)
        timesteps = torch.randint(first_timestep, 1000, rows.shape, generator=generator)
        noise = torch.randn((size, *data.latents.shape[1:]), generator=generator)
        alpha = alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * data.latents[rows] + (1 - alpha).sqrt() * noise
        dice = torch.rand(size, 1, generator=generator)
        ids = torch.where(dice < 0.5, data.ids[rows], data.complete_ids[rows])
        tokens = torch.where(torch.rand(size, 1, generator=generator) < CAPTION_DROPOUT, empty, ids)
        v = alpha.sqrt() * noise - (1 - alpha).sqrt() * data.latents[rows]
        error = (teacher(noisy, timesteps, tokens) - v).square().mean(dim=(1, 2, 3))
        return (weight[timesteps] * error).mean(), {"mse": error.mean().item()}

    composed = train(composing, teacher, partial(loss_of, COMPOSING_FROM), directory / "composing")
    teacher.load_state_dict(composed.state_dict())
    return train(recipe, teacher, partial(loss_of, 0), directory)  # type: ignore[return-value]


def assemble_pipeline(
    text_encoder: CLIPTextModel, unet: UNet2DConditionModel, vae: AutoencoderKL, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """Return the pipeline in the form that `StableDiffusionPipeline.from_pretrained` loads."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
