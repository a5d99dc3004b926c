"""TCD-LoRA of the flow teacher: trajectory consistency distillation on the line x_s = (1 − s) data + s noise.

As in TCD (arXiv 2402.19159, algorithm 1), one guided step of the teacher leads from a time t to the next time of a
grid, and the student must reach the same point at a random earlier time s from either end. On the line the predicted
data x_t − t v and the predicted noise x_t + (1 − t) v make the jump x_t + (s − t) v, a step of Euler's method: with
`FlowMatchEulerDiscreteScheduler` the student is sampled without new noise (η = 0), with `stochastic_sampling` it jumps
to the data and takes new noise (η = 1).
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn

from bench.mini.training.distillation import GUIDANCE_SCALE, HUBER, RANK, merge_adapter
from bench.mini.training.flow_teacher import BiasedJointAttention, Text, embed_ids, mix, shifted, velocity
from bench.mini.training.loop import Recipe, train
from bench.mini.training.teacher import Latents
from bench.mini.training.vocabulary import tokenize

RECIPE = Recipe("flow tcd", iterations=1500, batch_size=32, peak_lr=8e-4, ema_decay=0.995, seed=11)
NAME = "tcd"
TEACHER_STEPS = 50
FLOW_TARGETS = [
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "norm1.linear", "proj_out"),
]


def distill_flow(
    pipeline: StableDiffusion3Pipeline, data: Latents, directory: Path, recipe: Recipe = RECIPE
) -> dict[str, torch.Tensor]:
    """Return the adapter's averaged weights under PEFT's names (without the "transformer." prefix).

    `data` has latents as the pipeline's VAE scales them.
    """
    torch.manual_seed(recipe.seed)
    student: SD3Transformer2DModel = pipeline.transformer
    for block in student.transformer_blocks:
        block.attn.set_processor(BiasedJointAttention())
    student.requires_grad_(False)
    student.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=FLOW_TARGETS), adapter_name=NAME)
    student.disable_adapters()
    for name, parameter in student.named_parameters():
        parameter.requires_grad_("lora_" in name)
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    empty = embed_ids(encoders, tokenize(pipeline.tokenizer, [""]), torch.Generator())

    def loss_of(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(data.latents), (size,), generator=generator)
        start = torch.randint(1, TEACHER_STEPS + 1, rows.shape, generator=generator)
        t, before = shifted(start / TEACHER_STEPS), shifted((start - 1) / TEACHER_STEPS)
        s = shifted(torch.rand(rows.shape, generator=generator) * (start - 1) / TEACHER_STEPS)
        noise = torch.randn((size, *data.latents.shape[1:]), generator=generator)
        text = embed_ids(encoders, data.ids[rows], generator)
        noisy = mix(t, data.latents[rows], noise)
        merged = merge_adapter(student, NAME)
        with torch.no_grad():
            point = _jump(noisy, t, before, _guided_velocity(student, noisy, t, text, empty))
            target = _jump(point, before, s, velocity(student, point, before, text, merged))
        reached = _jump(noisy, t, s, velocity(student, noisy, t, text, merged))
        error = (reached - target).square().mean(dim=(1, 2, 3))
        loss = ((error + HUBER**2).sqrt() - HUBER).mean()
        return loss, {"error": error.mean().item()}

    averaged = train(recipe, student, loss_of, directory)
    weights: dict[str, torch.Tensor] = get_peft_model_state_dict(averaged, adapter_name=NAME)
    student.delete_adapters(NAME)
    return weights


def _guided_velocity(
    teacher: SD3Transformer2DModel, noisy: torch.Tensor, times: torch.Tensor, text: Text, empty: Text
) -> torch.Tensor:
    """Return the teacher's guided velocity; the student is the teacher while its adapter is not merged."""
    unnamed = Text(empty.tokens.expand_as(text.tokens), empty.pooled.expand_as(text.pooled), text.bias)
    both = Text(*(torch.cat(pair) for pair in zip(text, unnamed, strict=True)))
    conditional, unconditional = velocity(teacher, noisy.repeat(2, 1, 1, 1), times.repeat(2), both).chunk(2)
    return unconditional + GUIDANCE_SCALE * (conditional - unconditional)


def _jump(point: torch.Tensor, t: torch.Tensor, s: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the point at time s on the line that leads through `point` at time t with velocity v."""
    return point + (s - t)[:, None, None, None] * v
