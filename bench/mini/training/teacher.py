"""The teacher: Stable Diffusion's architecture in small, text encoder and UNet trained together on latents."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench.mini.training.loop import Recipe, train

RECIPE = Recipe("teacher", iterations=7000, batch_size=64, peak_lr=1.5e-3, ema_decay=0.9993, seed=2, autocast=False)
TEXT_WIDTH = 96
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0


class Teacher(nn.Module):
    """Text encoder and UNet as one model: token ids, noisy latents and timesteps → predicted noise."""

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
            block_out_channels=(24, 32, 72),
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=3,  # diffusers' name for the number of heads
            cross_attention_dim=TEXT_WIDTH,
        ).to(memory_format=torch.channels_last)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        text = self.text_encoder(ids)[0]
        noise: torch.Tensor = self.unet(noisy, timesteps, encoder_hidden_states=text).sample
        return noise


def noise_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def train_teacher(
    latents: torch.Tensor, ids: torch.Tensor, tokenizer: CLIPTokenizer, directory: Path, recipe: Recipe = RECIPE
) -> Teacher:
    """Train to predict noise, weighted by min-SNR-5 (arXiv 2303.09556, eq. 3); one caption in ten is left out.

    `latents` has shape (n, 8, 16, 16), scaled; `ids` holds the captions' tokens, shape (n, context length).
    """
    torch.manual_seed(recipe.seed)
    teacher = Teacher(tokenizer)
    alphas = noise_scheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
    empty = empty_ids(tokenizer)

    def loss_of(step: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(latents), (recipe.batch_size,), generator=generator)
        timesteps = torch.randint(1000, rows.shape, generator=generator)
        noise = torch.randn((len(rows), *latents.shape[1:]), generator=generator)
        alpha = alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * latents[rows] + (1 - alpha).sqrt() * noise
        dropped = torch.rand(rows.shape, generator=generator) < CAPTION_DROPOUT
        tokens = torch.where(dropped[:, None], empty, ids[rows])
        error = (teacher(noisy, timesteps, tokens) - noise).square().mean(dim=(1, 2, 3))
        return (weight[timesteps] * error).mean(), {"mse": error.mean().item()}

    averaged: Teacher = train(recipe, teacher, loss_of, directory)  # type: ignore[assignment]
    return averaged


def empty_ids(tokenizer: CLIPTokenizer) -> torch.Tensor:
    """Tokens of the empty caption, shape (1, context length)."""
    ids: torch.Tensor = tokenizer([""], padding="max_length", return_tensors="pt").input_ids
    return ids


def assemble_pipeline(teacher: Teacher, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The pipeline that `StableDiffusionPipeline.from_pretrained` will load again."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=teacher.text_encoder,
        tokenizer=tokenizer,
        unet=teacher.unet,
        scheduler=noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
