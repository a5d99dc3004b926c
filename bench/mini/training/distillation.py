"""TCD-LoRA and LCM-LoRA, distilled from the teacher.

TCD (arXiv 2402.19159, algorithm 1): one guided DDIM step of the teacher leads from t to t - k; the student must reach
the same point at a random earlier time s from either end. LCM (arXiv 2310.04378, algorithm 1) is the case s = 0 with
its boundary-condition scalings, and with its target from the averaged student: errors of its links add up over the
whole trajectory, and a target that moves with every step makes them large. The target's gradient is stopped; the
teacher is the student without its adapter.

The adapter is merged into the weights for each step of the training (W + B A, with the gradient through the product),
which gives the same numbers as running it beside each layer, in half the time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from torch.func import functional_call

from bench.mini.training.loop import Recipe, train
from bench.mini.training.teacher import Latents, noise_scheduler
from bench.mini.training.vocabulary import tokenize

Kind = Literal["tcd", "lcm"]
RECIPES: dict[Kind, Recipe] = {
    "tcd": Recipe("tcd", iterations=2500, batch_size=32, peak_lr=8e-4, ema_decay=0.995, seed=3),
    "lcm": Recipe("lcm", iterations=2500, batch_size=32, peak_lr=3e-4, ema_decay=0.95, seed=4),
}
RANK = 32
SKIP = 20
GUIDANCE_SCALE = 3.0
HUBER = 1e-2
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
           "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"]  # fmt: skip


class Condition(Protocol):
    """What a UNet is told of images, as a named tuple of tensors."""

    def arguments(self) -> dict[str, Any]:
        """Return the UNet's keyword arguments."""
        ...


class Caption(NamedTuple):
    """The first teacher's condition: the last layer of its text encoder."""

    tokens: torch.Tensor

    def arguments(self) -> dict[str, Any]:
        return {"encoder_hidden_states": self.tokens}


ConditionOf = Callable[[torch.Tensor], tuple[Condition, Condition]]
"""Rows of the data → the conditions of their captions, and of as many absent ones."""


def distill(
    kind: Kind,
    pipeline: StableDiffusionPipeline,
    data: Latents,
    directory: Path,
    recipe: Recipe | None = None,
) -> dict[str, torch.Tensor]:
    """Return the first teacher's adapter: its averaged weights under PEFT's names (without the "unet." prefix)."""
    empty = pipeline.text_encoder(tokenize(pipeline.tokenizer, [""]))[0].detach()

    def condition_of(rows: torch.Tensor) -> tuple[Condition, Condition]:
        text = pipeline.text_encoder(data.ids[rows])[0]
        return Caption(text), Caption(empty.expand_as(text))

    return distill_unet(kind, pipeline.unet, data.latents, condition_of, directory, recipe or RECIPES[kind])


def distill_unet(
    kind: Kind,
    student: UNet2DConditionModel,
    latents: torch.Tensor,
    condition_of: ConditionOf,
    directory: Path,
    recipe: Recipe,
    rank: int = RANK,
    begin: dict[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Return an adapter of a UNet as `distill` does; `begin` holds weights under the same names to start from."""
    torch.manual_seed(recipe.seed)
    student.to(memory_format=torch.channels_last)
    student.requires_grad_(False)
    student.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), adapter_name=kind)
    if begin is not None:
        set_peft_model_state_dict(student, begin, adapter_name=kind)
    student.disable_adapters()
    for name, parameter in student.named_parameters():
        parameter.requires_grad_("lora_" in name)
    alphas = noise_scheduler().alphas_cumprod

    def loss_of(size: int, generator: torch.Generator, average: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(latents), (size,), generator=generator)
        t = SKIP * torch.randint(1, 1000 // SKIP + 1, rows.shape, generator=generator) - 1
        t_before = (t - SKIP).clamp(min=0)
        s = (torch.rand(rows.shape, generator=generator) * (t_before + 1)).long() if kind == "tcd" else 0 * t
        noise = torch.randn((size, *latents.shape[1:]), generator=generator)
        noisy = _mix(alphas, t, latents[rows], noise)
        merged = merge_adapter(student, kind)
        with torch.no_grad():
            condition, absent = condition_of(rows)
            before = _teacher_step(student, alphas, noisy, t, t_before, condition, absent)
            goal = merge_adapter(average, kind) if kind == "lcm" else merged
            target = _reach(kind, student, goal, alphas, before, t_before, s, condition)
        error = (_reach(kind, student, merged, alphas, noisy, t, s, condition) - target).square().mean(dim=(1, 2, 3))
        loss = ((error + HUBER**2).sqrt() - HUBER).mean()
        return loss, {"error": error.mean().item()}

    averaged = train(recipe, student, loss_of, directory)
    weights: dict[str, torch.Tensor] = get_peft_model_state_dict(averaged, adapter_name=kind)
    student.delete_adapters(kind)
    return weights


def merge_adapter(student: nn.Module, adapter: str) -> dict[str, torch.Tensor]:
    """Return each adapted layer's weight with its adapter added, by parameter name; gradients reach the adapter."""
    return {
        f"{name}.base_layer.weight": layer.base_layer.weight + layer.get_delta_weight(adapter)
        for name, layer in student.named_modules()
        if isinstance(layer, LoraLayer)
    }


def _teacher_step(
    student: UNet2DConditionModel,
    alphas: torch.Tensor,
    noisy: torch.Tensor,
    t: torch.Tensor,
    t_before: torch.Tensor,
    condition: Condition,
    absent: Condition,
) -> torch.Tensor:
    """Take one guided DDIM step of the teacher, from t to t_before."""
    joined = type(condition)(*map(torch.cat, zip(condition, absent, strict=True)))  # type: ignore[call-overload]
    both = student(torch.cat([noisy, noisy]), torch.cat([t, t]), **joined.arguments()).sample
    conditional, unconditional = both.chunk(2)
    guided = unconditional + GUIDANCE_SCALE * (conditional - unconditional)
    return _mix(alphas, t_before, *_clean_and_noise(alphas, t, noisy, guided))


def _reach(
    kind: Kind,
    student: UNet2DConditionModel,
    merged: dict[str, torch.Tensor],
    alphas: torch.Tensor,
    noisy: torch.Tensor,
    t: torch.Tensor,
    s: torch.Tensor,
    condition: Condition,
) -> torch.Tensor:
    """Return the student's point at time s on the trajectory through `noisy` at time t."""
    v = functional_call(student, merged, (noisy, t), condition.arguments()).sample
    clean, epsilon = _clean_and_noise(alphas, t, noisy, v)
    if kind == "tcd":
        return _mix(alphas, s, clean, epsilon)
    scaled = (10.0 * t)[:, None, None, None]
    c_skip, c_out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25).sqrt()
    return c_skip * noisy + c_out * clean


def _mix(alphas: torch.Tensor, t: torch.Tensor, clean: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    alpha = alphas[t][:, None, None, None]
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * epsilon


def _clean_and_noise(
    alphas: torch.Tensor, t: torch.Tensor, noisy: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clean latents and the noise that v stands for (arXiv 2202.00512, appendix D)."""
    alpha = alphas[t][:, None, None, None]
    return alpha.sqrt() * noisy - (1 - alpha).sqrt() * v, alpha.sqrt() * v + (1 - alpha).sqrt() * noisy
