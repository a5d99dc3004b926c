"""The XL teacher: Stable Diffusion XL's architecture in small, on the first teacher's latents.

Two text encoders, whose penultimate layers lie side by side and of which the second also gives the pooled text: the
first teacher's own, and a smaller one that learns to name what a caption names. Both are then left as they are. The
UNet begins as the first teacher's: the maps that read the text are fitted by least squares, and the embedding of pooled
text and sizes learns to be what the first teacher's pooled text is. Then it learns from the first teacher's
predictions, which vary less than the data's own, and, on images that were cropped or drawn at a lower resolution, from
the data: what became of an image is in its time ids (arXiv 2307.01952, section 2.2). That a crop moves things shows in
very noisy images alone, which for some time are all that it sees of cropped ones.

Its latents have four channels, see `bench.mini.training.main_axes`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from bench.mini import world
from bench.mini.training.first_unet import begin_as_first, fit_to_first
from bench.mini.training.flow_teacher import second_text_encoder
from bench.mini.training.loop import Recipe, train
from bench.mini.training.main_axes import CHANNELS, project
from bench.mini.training.noising import draw_noise
from bench.mini.training.teacher import CAPTION_DROPOUT, Latents, learn_to_read, noise_scheduler
from bench.mini.training.vocabulary import tokenize

POOLING = Recipe("xl pooling", iterations=1500, batch_size=256, peak_lr=3e-3, ema_decay=0.98, seed=12)
AS_FIRST = Recipe("xl following", iterations=500, batch_size=32, peak_lr=7e-4, ema_decay=0.99, seed=13)
CROPPING = Recipe("xl cropping", iterations=2000, batch_size=32, peak_lr=1.5e-3, ema_decay=0.995, seed=16)
RECIPE = Recipe("xl teacher", iterations=1000, batch_size=32, peak_lr=5e-4, ema_decay=0.99, seed=17)
CROPPING_FROM = 400
"""The first timestep of the cropped images while the teacher learns where a crop moves things."""
POOLED_CAPTIONS = 4000
CROPPED_SHARE = 0.5
LARGE_CROPPED_SHARE = 0.75
"""Of each batch. The rest is whole and follows the first teacher."""
CROPPED_IMAGES = 4096
CROPPED_FROM = 100_000
"""Index of the first training seed whose image is cropped: the other models never see these."""
LARGEST_CROP = 16
SMALLEST_SIZE = 32
SIZE_WIDTH = 32
"""Of the sinusoids of each of the six time ids."""
WHOLE = (64.0, 64.0, 0.0, 0.0, 64.0, 64.0)
"""The time ids of an image as it is: original size, top and left edge of the crop, size."""
Encoders = tuple[CLIPTextModel, CLIPTextModelWithProjection]


class XlCondition(NamedTuple):
    """What the UNet is told: tokens (n, 24, width), pooled text (n, width), time ids (n, 6)."""

    tokens: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor

    def arguments(self) -> dict[str, Any]:
        """Return the UNet's keyword arguments."""
        added = {"text_embeds": self.pooled, "time_ids": self.time_ids}
        return {"encoder_hidden_states": self.tokens, "added_cond_kwargs": added}


@dataclass(frozen=True)
class Cropped:
    """LatentImages that were cropped or drawn small: latents, token ids and time ids, in the order of their seeds."""

    latents: torch.Tensor
    ids: torch.Tensor
    time_ids: torch.Tensor


class XlTeacher(nn.Module):
    """Text encoders and UNet as one model for projected latents (n, 4, 16, 16); only the UNet has gradients."""

    def __init__(self, first: StableDiffusionPipeline) -> None:
        super().__init__()
        self.text_encoder: CLIPTextModel = copy.deepcopy(first.text_encoder)
        self.text_encoder_2 = second_text_encoder(first.text_encoder.config)
        for encoder in self.encoders:
            encoder.requires_grad_(False)
        width, pooled = first.text_encoder.config.hidden_size, self.text_encoder_2.config.hidden_size
        config = dict(first.unet.config) | {
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "cross_attention_dim": width + pooled,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_WIDTH,
            "projection_class_embeddings_input_dim": pooled + 6 * SIZE_WIDTH,
        }
        self.unet: UNet2DConditionModel = UNet2DConditionModel.from_config(config).to(memory_format=torch.channels_last)

    @property
    def encoders(self) -> Encoders:
        return self.text_encoder, self.text_encoder_2

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, condition: XlCondition) -> torch.Tensor:
        return self.unet(noisy, timesteps, **condition.arguments()).sample


@torch.no_grad()
def embed_captions(
    encoders: Encoders, ids: torch.Tensor, time_ids: torch.Tensor | None = None, dropped: torch.Tensor | None = None
) -> XlCondition:
    """Embed captions as the pipeline does; zeros where `dropped` (n,), as without a prompt; `time_ids` (n, 6)."""
    first, second = (encoder(ids, output_hidden_states=True) for encoder in encoders)
    tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    kept = torch.ones(len(ids), 1) if dropped is None else 1 - dropped.float()[:, None]
    if time_ids is None:
        time_ids = torch.tensor([WHOLE]).expand(len(ids), 6)
    return XlCondition(tokens * kept[..., None], second.text_embeds * kept, time_ids)


def render_cropped(seeds: Sequence[int]) -> tuple[NDArray[np.uint8], list[tuple[float, ...]]]:
    """Return images (n, 64, 64, 3) that were cropped, drawn small and enlarged, or both, and their time ids."""
    images: list[NDArray[np.uint8]] = []
    time_ids: list[tuple[float, ...]] = []
    for seed in seeds:
        rng = np.random.default_rng((seed, 2))
        top, left = (int(edge) for edge in rng.integers(0, LARGEST_CROP, 2, endpoint=True) * (rng.random() < 0.7))
        size = int(rng.integers(SMALLEST_SIZE, world.IMAGE_SIZE, endpoint=True)) if rng.random() < 0.4 else 64
        image = world.render(world.displaced(world.scene(seed), -left, -top))
        if size < world.IMAGE_SIZE:
            small = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
            image = np.asarray(small.resize((world.IMAGE_SIZE,) * 2, Image.Resampling.BILINEAR))
        images.append(image)
        time_ids.append((size, size, top, left, *WHOLE[4:]))
    return np.stack(images), time_ids


def text_fit(encoders: Encoders, first: StableDiffusionPipeline, ids: torch.Tensor) -> torch.Tensor:
    """Return the matrix (96, 144) that maps the tokens of captions (n, 24) to the first teacher's."""
    return fit_to_first(embed_captions(encoders, ids).tokens, first, ids)


def train_xl_teacher(
    data: Latents,
    cropped: Cropped,
    first: StableDiffusionPipeline,
    axes: torch.Tensor,
    directory: Path,
    reading: tuple[Path, Recipe],
    pooling: Recipe = POOLING,
    recipes: tuple[Recipe, Recipe, Recipe] = (AS_FIRST, CROPPING, RECIPE),
) -> XlTeacher:
    """Train with the first teacher's pipeline and latents, projected on `axes`.

    Half of the whole images' captions leave nothing open; one in ten of all is dropped. `reading` is where and how the
    second text encoder learns to read; `recipes` are those of three phases: above all to follow, to crop, and both.
    """
    torch.manual_seed(recipes[0].seed)
    first.unet.to(memory_format=torch.channels_last)
    first.unet.requires_grad_(False)
    teacher = XlTeacher(first)
    second = teacher.text_encoder_2.text_model.requires_grad_(True)
    learn_to_read(second, data, *reading)
    second.requires_grad_(False)
    fit = text_fit(teacher.encoders, first, torch.cat([data.ids[:1000], data.complete_ids[:1000]]))
    begin_as_first(teacher.unet, first.unet, axes, fit)
    learn_pooled_text(teacher, first, data, directory / "pooling", pooling)
    empty = tokenize(first.tokenizer, [""])

    def loss_of(
        share: float, first_timestep: int, size: int, generator: torch.Generator, _: nn.Module
    ) -> tuple[torch.Tensor, dict[str, float]]:
        others = round(share * size)
        rows = torch.randint(len(data.latents), (size - others,), generator=generator)
        other_rows = torch.randint(len(cropped.latents), (others,), generator=generator)
        batch = draw_noise(torch.cat([data.latents[rows], cropped.latents[other_rows]]), generator)
        batch.timesteps[len(rows) :] = first_timestep + batch.timesteps[len(rows) :] * (1000 - first_timestep) // 1000
        open_ = torch.rand(len(rows), 1, generator=generator) < 0.5
        dropped = torch.rand(size, generator=generator) < CAPTION_DROPOUT
        ids = torch.cat([torch.where(open_, data.ids[rows], data.complete_ids[rows]), cropped.ids[other_rows]])
        time_ids = torch.cat([torch.tensor([WHOLE]).expand(len(rows), 6), cropped.time_ids[other_rows]])
        condition = embed_captions(teacher.encoders, ids, time_ids, dropped)
        target, noisy = batch.v, batch.noisy
        with torch.no_grad():
            whole = slice(0, len(rows))
            text = first.text_encoder(torch.where(dropped[whole, None], empty, ids[whole]))[0]
            target[whole] = first.unet(noisy[whole], batch.timesteps[whole], encoder_hidden_states=text).sample
        target = project(axes, target)
        predicted = teacher(project(axes, noisy), batch.timesteps, condition)
        error = (predicted.detach() - target).square().mean(dim=(1, 2, 3))
        loss = batch.loss(predicted, target)
        return loss, {"follows": error[whole].mean().item(), "cropped": error[len(rows) :].mean().item()}

    phases = [(CROPPED_SHARE, 0), (LARGE_CROPPED_SHARE, CROPPING_FROM), (CROPPED_SHARE, 0)]
    for recipe, phase, name in zip(recipes, phases, ("following", "cropping", "."), strict=True):
        averaged = train(recipe, teacher, partial(loss_of, *phase), directory / name)
        teacher.load_state_dict(averaged.state_dict())
    return teacher.eval()


def learn_pooled_text(
    teacher: XlTeacher, first: StableDiffusionPipeline, data: Latents, directory: Path, recipe: Recipe
) -> None:
    """Train the embedding of pooled text and sizes in place to be the first teacher's of the same caption."""
    embedding, sinusoids = teacher.unet.add_embedding, teacher.unet.add_time_proj
    ids = torch.cat([data.ids[:POOLED_CAPTIONS], data.complete_ids[:POOLED_CAPTIONS], tokenize(first.tokenizer, [""])])
    with torch.no_grad():
        pooled = torch.cat([embed_captions(teacher.encoders, part).pooled for part in torch.split(ids, 500)])
        goals = torch.cat([first.unet.add_embedding(first.text_encoder(part)[0]) for part in torch.split(ids, 500)])
    pooled[-1] = 0.0  # as without a prompt

    def loss_of(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(ids), (size,), generator=generator)
        rows[: round(CAPTION_DROPOUT * size)] = len(ids) - 1
        time_ids = torch.tensor([WHOLE]).repeat(size, 1)
        edges = torch.randint(LARGEST_CROP + 1, (size, 2), generator=generator).float()
        time_ids[:, 2:4] = edges * (torch.rand(size, 1, generator=generator) < 0.5)
        sizes = sinusoids(time_ids.flatten()).reshape(size, -1)
        error = (embedding(torch.cat([pooled[rows], sizes], dim=-1)) - goals[rows]).square().mean()
        return error, {"of variance": (error / goals.var()).item()}

    embedding.load_state_dict(train(recipe, embedding, loss_of, directory).state_dict())


def assemble_xl_pipeline(teacher: XlTeacher, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionXLPipeline:
    """Return the pipeline in the form that `StableDiffusionXLPipeline.from_pretrained` loads."""
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=teacher.text_encoder,
        text_encoder_2=teacher.text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=copy.deepcopy(tokenizer),
        unet=teacher.unet,
        scheduler=noise_scheduler(),
        add_watermarker=False,
    )
