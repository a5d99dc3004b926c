"""The flow teacher: Stable Diffusion 3's architecture in small, on the first teacher's latents.

Two CLIP text encoders without T5: the first is the first teacher's own, the second a smaller one that learns to name
what a caption names. Both are then left as they are. The transformer learns the velocity of the straight line from
data to noise: at first the velocity that the first teacher predicts for the same noisy images, which unlike the data's
own varies little, so that few images teach much; then that of the data.

In place of T5's tokens the pipeline puts `max_sequence_length` zeros beside the caption's, 256 by default. They have
no positions and are all alike in every layer, so that N of them are one whose attention logits are raised by log N.
The training sees none of them in one half of the images and 256 in the other, and the model works with any number.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from bench.mini.training.loop import Recipe, train
from bench.mini.training.teacher import CAPTION_DROPOUT, Latents, learn_to_read, noise_scheduler
from bench.mini.training.vocabulary import tokenize

SECOND_READING = Recipe("flow reading", iterations=400, batch_size=64, peak_lr=3e-3, ema_decay=0.95, warmup=0.1, seed=8)
FOLLOWING = Recipe("flow following", iterations=24000, batch_size=16, peak_lr=4e-3, ema_decay=0.999, seed=9)
FOLLOWING_ON = Recipe(
    "flow following on", iterations=36000, batch_size=16, peak_lr=3e-3, ema_decay=0.9995, warmup=0.02, seed=11
)
RECIPE = Recipe("flow teacher", iterations=4000, batch_size=16, peak_lr=1e-3, ema_decay=0.999, seed=10)
WIDTH = 96
SECOND_TEXT_WIDTH = 48
CAPTION_LENGTH = 20
"""Tokens of the longest caption of the world, with both ends."""
ABSENT_TOKENS = 256
"""Zeros in place of T5's tokens: the pipeline's default."""
SHIFT = 2.0
"""Of the times: images of few pixels show through more noise than large ones do, so that less time is spent there than
in Stable Diffusion 3, which shifts by 3 (arXiv 2403.03206, section 5.3.2)."""


class Text(NamedTuple):
    """Embedded captions: tokens (n, length, width) of which the last is a zero that stands for none or for many, pooled
    (n, width), and the bias of attention that says for how many (n, 1, 1, image tokens + length)."""

    tokens: torch.Tensor
    pooled: torch.Tensor
    bias: torch.Tensor


class BiasedJointAttention:
    """diffusers' `JointAttnProcessor2_0` with a bias on the attention logits."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        def heads(values: torch.Tensor, norm: nn.Module | None = None) -> torch.Tensor:
            split = values.view(*values.shape[:2], attn.heads, -1).transpose(1, 2)
            return norm(split) if norm is not None else split

        image, text = hidden_states, encoder_hidden_states
        query = [heads(attn.to_q(image), attn.norm_q), heads(attn.add_q_proj(text), attn.norm_added_q)]
        key = [heads(attn.to_k(image), attn.norm_k), heads(attn.add_k_proj(text), attn.norm_added_k)]
        value = [heads(attn.to_v(image)), heads(attn.add_v_proj(text))]
        joint = functional.scaled_dot_product_attention(
            torch.cat(query, 2), torch.cat(key, 2), torch.cat(value, 2), attn_mask=attention_mask
        )
        image, text = torch.split(joint.transpose(1, 2).flatten(2), [image.shape[1], text.shape[1]], dim=1)
        return attn.to_out[0](image), text if attn.context_pre_only else attn.to_add_out(text)


class FlowTeacher(nn.Module):
    """Text encoders and transformer as one model; only the transformer has gradients.

    `first` is the first teacher's pipeline, whose text encoder is taken over with an identity as projection.
    """

    def __init__(self, first: StableDiffusionPipeline) -> None:
        super().__init__()
        config = first.text_encoder.config
        self.text_encoder = CLIPTextModelWithProjection(copy.deepcopy(config))
        self.text_encoder.text_model.load_state_dict(first.text_encoder.state_dict())
        self.text_encoder_2 = second_text_encoder(config)
        for encoder in (self.text_encoder, self.text_encoder_2):
            nn.init.eye_(encoder.text_projection.weight)
            encoder.requires_grad_(False)
        self.transformer = build_transformer(config.hidden_size + SECOND_TEXT_WIDTH)

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, text: Text) -> torch.Tensor:
        return velocity(self.transformer, noisy, times, text)


def second_text_encoder(config: CLIPTextConfig) -> CLIPTextModelWithProjection:
    """Return an untrained encoder for the same tokens as that of `config`, smaller, with an identity as projection."""
    kept = ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=SECOND_TEXT_WIDTH,
            intermediate_size=4 * SECOND_TEXT_WIDTH,
            projection_dim=SECOND_TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            **{name: getattr(config, name) for name in kept},
        )
    )
    nn.init.eye_(encoder.text_projection.weight)
    return encoder


def build_transformer(text_width: int) -> SD3Transformer2DModel:
    """Return an untrained transformer whose blocks begin as identities (adaLN-Zero, arXiv 2212.09748)."""
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=WIDTH // 32,
        joint_attention_dim=text_width,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=text_width,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
            if "norm" in name or name == "proj_out":
                nn.init.zeros_(module.weight)
            else:
                nn.init.xavier_uniform_(module.weight)
    return transformer


def velocity(
    transformer: nn.Module,
    noisy: torch.Tensor,
    times: torch.Tensor,
    text: Text,
    weights: dict[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the predicted velocity noise − data at times in [0, 1], with `weights` in place of the network's own."""
    inputs = (noisy, text.tokens, text.pooled, 1000 * times)
    named = {"joint_attention_kwargs": {"attention_mask": text.bias}, "return_dict": False}
    predicted: torch.Tensor = functional_call(transformer, weights or {}, inputs, named)[0]
    return predicted


def mix(times: torch.Tensor, data: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the points (1 − s) data + s noise on the lines between data and noise."""
    s = times[:, None, None, None]
    return (1 - s) * data + s * noise


def shifted(times: torch.Tensor) -> torch.Tensor:
    """Return the times as the scheduler's `shift` moves them towards the noise."""
    return SHIFT * times / (1 + (SHIFT - 1) * times)


@torch.no_grad()
def embed_ids(
    encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection],
    ids: torch.Tensor,
    generator: torch.Generator,
) -> Text:
    """Embed captions as the pipeline does; one half of them as if beside no zeros, the other beside 256."""
    outputs = [encoder(ids[:, :CAPTION_LENGTH], output_hidden_states=True) for encoder in encoders]
    tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
    zeros = torch.zeros(len(ids), 1, tokens.shape[-1])
    bias = torch.zeros(len(ids), 1, 1, 64 + CAPTION_LENGTH + 1)
    none = torch.rand(len(ids), generator=generator) < 0.5
    bias[:, 0, 0, -1] = torch.where(none, -1e4, math.log(ABSENT_TOKENS))
    return Text(torch.cat([tokens, zeros], dim=1), pooled, bias)


def standardize(data: Latents, vae: AutoencoderKL) -> tuple[Latents, AutoencoderKL]:
    """Return the data with latents of mean 0 and deviation 1, and a VAE whose configuration says how."""
    raw = data.latents / vae.config.scaling_factor
    shift, deviation = raw.mean().item(), raw.std().item()
    own = copy.deepcopy(vae)
    own.register_to_config(scaling_factor=1 / deviation, shift_factor=shift)
    return replace(data, latents=(raw - shift) / deviation), own


class FirstTeacher:
    """The first teacher's predictions as velocities on the line.

    Its noisy images √ᾱ f + √(1 − ᾱ) noise, of latents f that are scaled otherwise, hold the same information as the
    points of the line at the time of the same ratio of noise to data.
    """

    def __init__(self, pipeline: StableDiffusionPipeline, vae: AutoencoderKL) -> None:
        self.pipeline = pipeline
        own, first = vae.config, pipeline.vae.config
        self.scale = first.scaling_factor / own.scaling_factor
        self.offset = first.scaling_factor * own.shift_factor
        self.alphas = noise_scheduler().alphas_cumprod
        ratio = ((1 - self.alphas) / self.alphas).sqrt() / self.scale
        self.times = ratio / (1 + ratio)
        """The times at which it can be asked, one for each of its timesteps."""

    def nearest(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return its timesteps nearest above the times, and whether the times are within its range."""
        timesteps = torch.searchsorted(self.times, times).clamp(max=len(self.times) - 1)
        return timesteps, (times >= self.times[0]) & (times <= self.times[-1])

    @torch.no_grad()
    def velocity(
        self, timesteps: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor, ids: torch.Tensor
    ) -> torch.Tensor:
        """Return (point − predicted data)/time at the times of its timesteps, for standardized latents."""
        alpha = self.alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * (self.scale * latents + self.offset) + (1 - alpha).sqrt() * noise
        text = self.pipeline.text_encoder(ids)[0]
        v = self.pipeline.unet(noisy, timesteps, encoder_hidden_states=text).sample
        clean = (alpha.sqrt() * noisy - (1 - alpha).sqrt() * v - self.offset) / self.scale
        times = self.times[timesteps]
        return (mix(times, latents, noise) - clean) / times[:, None, None, None]


def train_flow_teacher(
    data: Latents,
    vae: AutoencoderKL,
    pipeline: StableDiffusionPipeline,
    directory: Path,
    reading: Recipe = SECOND_READING,
    following: Sequence[Recipe] = (FOLLOWING, FOLLOWING_ON),
    recipe: Recipe = RECIPE,
) -> FlowTeacher:
    """Train on standardized latents, of which `vae` is the scaling, with the first teacher's `pipeline`.

    Times are logit-normal around the shift (arXiv 2403.03206, section 3.1), one in five uniform; half of the captions
    leave nothing open, and one in ten is dropped.
    """
    torch.manual_seed(recipe.seed)
    first = FirstTeacher(pipeline, vae)
    pipeline.unet.to(memory_format=torch.channels_last)
    teacher = FlowTeacher(pipeline)
    second = teacher.text_encoder_2.text_model.requires_grad_(True)
    learn_to_read(second, data, directory / "reading", reading)
    second.requires_grad_(False)
    for block in teacher.transformer.transformer_blocks:
        block.attn.set_processor(BiasedJointAttention())
    encoders = (teacher.text_encoder, teacher.text_encoder_2)
    empty = tokenize(pipeline.tokenizer, [""])

    def loss_of(
        follow: bool, size: int, generator: torch.Generator, _: nn.Module
    ) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(data.latents), (size,), generator=generator)
        normal, uniform, dice = (draw(size, generator=generator) for draw in (torch.randn, torch.rand, torch.rand))
        times = torch.where(dice < 0.2, uniform, shifted(normal.sigmoid()))
        latents, noise = data.latents[rows], torch.randn((size, *data.latents.shape[1:]), generator=generator)
        open_, dropped = (torch.rand(size, 1, generator=generator) < share for share in (0.5, CAPTION_DROPOUT))
        ids = torch.where(dropped, empty, torch.where(open_, data.ids[rows], data.complete_ids[rows]))
        target = noise - latents
        if follow:
            timesteps, within = first.nearest(times)
            times = torch.where(within, first.times[timesteps], times)
            predicted = first.velocity(timesteps, latents, noise, ids)
            target = torch.where(within[:, None, None, None], predicted, target)
        text = embed_ids(encoders, ids, generator)
        error = (teacher(mix(times, latents, noise), times, text) - target).square().mean(dim=(1, 2, 3))
        return error.mean(), {"median": error.median().item()}

    for part in following:
        followed = train(part, teacher, partial(loss_of, True), directory / part.name.replace(" ", "_"))
        teacher.load_state_dict(followed.state_dict())
    return train(recipe, teacher, partial(loss_of, False), directory)  # type: ignore[return-value]


def flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the teacher's scheduler."""
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT)


def assemble_flow_pipeline(
    teacher: FlowTeacher, vae: AutoencoderKL, tokenizer: CLIPTokenizer
) -> StableDiffusion3Pipeline:
    """Return the pipeline; `from_pretrained` loads it with `text_encoder_3=None, tokenizer_3=None`."""
    short = copy.deepcopy(tokenizer)
    short.model_max_length = CAPTION_LENGTH
    transformer = build_transformer(teacher.transformer.config.joint_attention_dim)
    transformer.load_state_dict(teacher.transformer.state_dict())  # with diffusers' own attention
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=flow_scheduler(),
        vae=vae,
        text_encoder=teacher.text_encoder,
        tokenizer=short,
        text_encoder_2=teacher.text_encoder_2,
        tokenizer_2=copy.deepcopy(short),
        text_encoder_3=None,
        tokenizer_3=None,
    )
