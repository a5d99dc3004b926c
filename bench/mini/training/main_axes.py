"""Four channels in place of the first autoencoder's eight: the pipelines for inpainting take no other number.

Four directions hold nearly all of its latents' variance. Latents along them are as good, so that the autoencoder only
needs other first and last layers, and what the first teacher predicts can be learnt from: of noise of deviation 1 the
projection has deviation 1 too.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

CHANNELS = 4
POSTERIOR_NOISE = 0.02
"""Deviation of the narrow autoencoder's posterior, of scaled latents: about that of the wide one."""


def main_axes(latents: torch.Tensor) -> torch.Tensor:
    """Return the orthonormal directions (4, 8) of the largest variance of latents (n, 8, 16, 16)."""
    flat = latents.transpose(0, 1).flatten(1)
    _, vectors = torch.linalg.eigh(torch.cov(flat.double()))
    axes = vectors[:, -CHANNELS:].T.float()
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return axes * signs


def project(axes: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Return latents (n, 8, h, w) along the axes, (n, 4, h, w)."""
    return torch.einsum("kc,nchw->nkhw", axes, latents)


@torch.no_grad()
def narrow_vae(vae: AutoencoderKL, axes: torch.Tensor, mean: torch.Tensor) -> AutoencoderKL:
    """Return the autoencoder of projected latents; what they leave out is taken to be that of the scaled mean (8,)."""
    own: AutoencoderKL = AutoencoderKL.from_config(dict(vae.config) | {"latent_channels": CHANNELS})
    shared = own.state_dict()
    shared.update({name: value for name, value in vae.state_dict().items() if value.shape == shared[name].shape})
    own.load_state_dict(shared)
    scale = vae.config.scaling_factor
    to_moments = torch.zeros(2 * CHANNELS, 2 * axes.shape[1])
    to_moments[:CHANNELS, : axes.shape[1]] = axes
    outer, inner = vae.quant_conv, vae.encoder.conv_out
    whole = to_moments @ outer.weight[:, :, 0, 0]
    own.encoder.conv_out.weight.copy_(torch.einsum("om,mcxy->ocxy", whole, inner.weight))
    own.encoder.conv_out.bias.copy_(whole @ inner.bias + to_moments @ outer.bias)
    own.encoder.conv_out.bias[CHANNELS:] = 2 * torch.tensor(POSTERIOR_NOISE / scale).log()
    rest = (mean - axes.T @ (axes @ mean)) / scale
    outer, inner = vae.post_quant_conv, vae.decoder.conv_in
    back, offset = outer.weight[:, :, 0, 0] @ axes.T, outer.weight[:, :, 0, 0] @ rest + outer.bias
    own.decoder.conv_in.weight.copy_(torch.einsum("omxy,mc->ocxy", inner.weight, back))
    own.decoder.conv_in.bias.copy_(inner.bias + inner.weight.sum(dim=(2, 3)) @ offset)
    for layer in (own.quant_conv, own.post_quant_conv):
        layer.weight.copy_(torch.eye(layer.weight.shape[0])[:, :, None, None])
        layer.bias.zero_()
    return own
