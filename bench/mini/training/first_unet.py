"""Other teachers' UNets begin as the first teacher's, for projected latents and for other text."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel


@torch.no_grad()
def fit_to_first(tokens: torch.Tensor, first: StableDiffusionPipeline, ids: torch.Tensor) -> torch.Tensor:
    """Return the matrix that maps other tokens (n, 24, width) of captions (n, 24) to the first teacher's, (96, width).

    It is fitted by least squares.
    """
    goals = first.text_encoder(ids)[0]
    fit: torch.Tensor = torch.linalg.lstsq(tokens.flatten(0, 1), goals.flatten(0, 1)).solution.T
    return fit


@torch.no_grad()
def begin_as_first(
    unet: UNet2DConditionModel, first: UNet2DConditionModel, axes: torch.Tensor, fit: torch.Tensor
) -> None:
    """Copy the first teacher's weights into a UNet for latents along the `axes` of its own, and text that `fit` maps.

    Of scale and shift in the time embeddings' projections, a UNet without scales keeps the shift.
    """
    own = unet.state_dict()
    for name, value in first.state_dict().items():
        if name == "conv_in.weight":
            own[name].copy_(torch.einsum("ocxy,kc->okxy", value, axes))
        elif name.startswith("conv_out"):
            own[name].copy_(torch.einsum("kc,c...->k...", axes, value))
        elif "attn2.to_k" in name or "attn2.to_v" in name:
            own[name].copy_(value @ fit)
        elif name in own and "time_emb_proj" in name:
            own[name].copy_(value[-len(own[name]) :])
        elif name in own:
            own[name].copy_(value.reshape(own[name].shape))
