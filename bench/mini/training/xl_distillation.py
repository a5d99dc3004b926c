"""The XL teacher's TCD-LoRA and LCM-LoRA, distilled as the first teacher's are and begun from those."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

from bench.mini.training.distillation import Condition, Kind, distill_unet
from bench.mini.training.loop import Recipe
from bench.mini.training.teacher import Latents
from bench.mini.training.xl_teacher import embed_captions, text_fit

XL_RECIPES: dict[Kind, Recipe] = {
    "tcd": Recipe("xl tcd", iterations=250, batch_size=32, peak_lr=4e-4, ema_decay=0.99, seed=14),
    "lcm": Recipe("xl lcm", iterations=500, batch_size=32, peak_lr=2e-4, ema_decay=0.95, seed=15),
}
XL_RANK = 16


def distill_xl(
    kind: Kind,
    pipeline: StableDiffusionXLPipeline,
    data: Latents,
    first: StableDiffusionPipeline,
    first_adapter: Path,
    directory: Path,
    recipe: Recipe | None = None,
) -> dict[str, torch.Tensor]:
    """Return the adapter's averaged weights under PEFT's names, for projected latents in `data`.

    `first_adapter` is the file of the first teacher's adapter.
    """
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)

    def condition_of(rows: torch.Tensor) -> tuple[Condition, Condition]:
        given = embed_captions(encoders, data.ids[rows])
        return given, embed_captions(encoders, data.ids[rows], dropped=torch.ones(len(rows), dtype=torch.bool))

    fit = text_fit(encoders, first, torch.cat([data.ids[:1000], data.complete_ids[:1000]]))
    begin = begin_as_first_adapter(load_file(first_adapter), fit)
    return distill_unet(
        kind, pipeline.unet, data.latents, condition_of, directory, recipe or XL_RECIPES[kind], XL_RANK, begin
    )


def begin_as_first_adapter(first: dict[str, torch.Tensor], fit: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the first teacher's adapter for the XL teacher's layers, at this adapter's rank."""
    begin: dict[str, torch.Tensor] = {}
    for name, down in first.items():
        if "lora_A" not in name:
            continue
        up, down = first[name.replace("lora_A", "lora_B")].float(), down.float()
        if "attn2.to_k" in name or "attn2.to_v" in name:
            down = down @ fit
        layer = name.removeprefix("unet.")
        if layer.split(".lora_A")[0].endswith(("proj_in", "proj_out")):
            up, down = up.flatten(1), down.flatten(1)  # linear here
        lower = truncate(up, down, XL_RANK)
        begin[layer.replace("lora_A", "lora_B")], begin[layer] = lower
    return begin


def truncate(up: torch.Tensor, down: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest product of a lower rank: up (out, rank, …), down (rank, in, …), of equal weight."""
    left, sizes, right = torch.linalg.svd(up.flatten(1) @ down.flatten(1), full_matrices=False)
    rank, root = min(rank, len(sizes)), sizes[:rank].sqrt()
    fewer_up, fewer_down = left[:, :rank] * root, root[:, None] * right[:rank]
    return fewer_up.reshape(-1, rank, *up.shape[2:]), fewer_down.reshape(rank, *down.shape[1:])
