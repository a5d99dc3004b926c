"""Noisy latents and their weights: what every training on Stable Diffusion's noise schedule has in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.mini.training.teacher import SNR_LIMIT, noise_scheduler


@dataclass(frozen=True)
class Noised:
    """A batch of images or films at random timesteps (n,): clean, noise and noisy latents (n, …, 16, 16)."""

    clean: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor

    @property
    def noisy(self) -> torch.Tensor:
        return mix_noise(self.timesteps, self.clean, self.noise)

    @property
    def v(self) -> torch.Tensor:
        """v = √ᾱ noise − √(1 − ᾱ) latents (arXiv 2202.00512)."""
        return mix_noise(self.timesteps, self.noise, -self.clean)

    def loss(self, predicted: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """Mean squared error of a predicted v, weighted as for the first teacher; `target` in place of the data's v."""
        error = (predicted - (self.v if target is None else target)).square().flatten(1).mean(dim=1)
        return (LOSS_WEIGHTS[self.timesteps] * error).mean()


def draw_noise(clean: torch.Tensor, generator: torch.Generator) -> Noised:
    """Draw timesteps and noise for clean latents."""
    timesteps = torch.randint(len(ALPHAS), clean.shape[:1], generator=generator)
    return Noised(clean, torch.randn(clean.shape, generator=generator), timesteps)


def mix_noise(timesteps: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return √ᾱ clean + √(1 − ᾱ) noise."""
    alpha = ALPHAS[timesteps].reshape(-1, *[1] * (clean.dim() - 1))
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def _weights(alphas: torch.Tensor) -> torch.Tensor:
    snr = alphas / (1 - alphas)
    return (snr.clamp(max=SNR_LIMIT) + 1) / (snr + 1)


ALPHAS = noise_scheduler().alphas_cumprod
LOSS_WEIGHTS = _weights(ALPHAS)
