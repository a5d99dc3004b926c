"""The VAE: 64×64×3 pixels to 16×16×8 latents. It limits the quality of all other models, so it is trained first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch.nn import functional

from bench.mini.training.data import Captioned, to_pixels
from bench.mini.training.loop import Recipe, train

RECIPE = Recipe("vae", iterations=3500, batch_size=24, peak_lr=2e-3, ema_decay=0.998, threads=2)
KL_WEIGHT = 2e-4
LATENT_STD = 0.5


def build_vae() -> AutoencoderKL:
    """Return an untrained VAE; small at full resolution, where most of the decoding time is spent."""
    return AutoencoderKL(
        block_out_channels=(16, 24, 48),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=8,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=64,
        mid_block_add_attention=False,
    )


def train_vae(data: Captioned, directory: Path, recipe: Recipe = RECIPE) -> AutoencoderKL:
    """Train on reconstruction (L1, and L1 of image gradients for crisp edges) and return the averaged model.

    The returned model's `scaling_factor` makes the latents' standard deviation `LATENT_STD`. It is below one because
    such smooth images show through Stable Diffusion's last timestep: at one, the noisiest latents of the teacher's
    training still reveal the composition, and it can ignore the caption (remedy: arXiv 2301.10972, section 3.2).
    """
    torch.manual_seed(recipe.seed)
    vae = build_vae().to(memory_format=torch.channels_last)

    def loss_of(size: int, generator: torch.Generator, _: torch.nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(data.images), (size,), generator=generator)
        pixels = to_pixels(data.images[rows.numpy()]).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        output = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        pixel_loss = functional.l1_loss(output, pixels)
        edge_loss = sum(functional.l1_loss(output.diff(dim=dim), pixels.diff(dim=dim)) for dim in (2, 3))
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        loss = pixel_loss + functional.mse_loss(output, pixels) + 0.5 * edge_loss + KL_WEIGHT * kl
        return loss, {"l1": pixel_loss.item(), "kl": kl.item()}

    averaged: AutoencoderKL = train(recipe, vae, loss_of, directory)
    with torch.inference_mode():
        deviation = float(averaged.encode(to_pixels(data.images[:2048])).latent_dist.mean.std())
    averaged.register_to_config(scaling_factor=LATENT_STD / deviation)
    return averaged


def encode_images(vae: AutoencoderKL, data: Captioned) -> torch.Tensor:
    """Return scaled posterior means, shape (n, 8, 16, 16), float32."""
    return encode_pixels(vae, data.images)


@torch.inference_mode()
def encode_pixels(vae: AutoencoderKL, images: NDArray[np.uint8]) -> torch.Tensor:
    """Return scaled posterior means of images (n, 64, 64, 3), shape (n, channels, 16, 16), float32."""
    batches = (to_pixels(images[i : i + 32]) for i in range(0, len(images), 32))
    latents: torch.Tensor = torch.cat([vae.encode(pixels).latent_dist.mean for pixels in batches])
    latents *= vae.config.scaling_factor
    return latents.contiguous()
