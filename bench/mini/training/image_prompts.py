"""An IP-Adapter of the XL teacher (arXiv 2308.06721), and the image encoder that it reads.

diffusers loads a CLIP vision transformer as encoder. A small one learns to give the embeddings of the evaluator's image
tower, which is a ResNet and cannot be loaded as one. The adapter then learns layers that read four tokens of such an
embedding beside the text.
"""

from __future__ import annotations

import copy
from pathlib import Path

import open_clip
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from bench.mini import world
from bench.mini.training.add_ons import LatentImages, XlBase
from bench.mini.training.evaluator import EMBED_DIM, build_evaluator, to_evaluator_pixels
from bench.mini.training.loop import Recipe, train
from bench.mini.training.teacher import CAPTION_DROPOUT

SEEING = Recipe("seeing", iterations=2000, batch_size=64, peak_lr=2e-3, ema_decay=0.995, seed=26)
PROMPTING = Recipe("image prompt", iterations=500, batch_size=32, peak_lr=1e-3, ema_decay=0.99, seed=27)
TEXT_DROPOUT = 0.4
"""Of captions, so that there is something for the image to say."""
PROMPT_TOKENS = 4
VISION_WIDTH = 64


def build_vision() -> CLIPVisionModelWithProjection:
    """Return an untrained image encoder."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=3 * VISION_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=world.IMAGE_SIZE,
            patch_size=8,
            projection_dim=EMBED_DIM,
        )
    )


def to_vision_pixels(images: torch.Tensor) -> torch.Tensor:
    """Convert uint8 (n, 64, 64, 3) to float32 (n, 3, 64, 64) as the pipelines' feature extractor does."""
    processor = CLIPImageProcessor(size=world.IMAGE_SIZE, crop_size=world.IMAGE_SIZE)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


@torch.no_grad()
def evaluator_embeddings(evaluator: Path, tokenizer: CLIPTokenizer, images: torch.Tensor) -> torch.Tensor:
    """Return the embeddings of images (n, 64, 64, 3), uint8, by the evaluator's image tower, (n, 64)."""
    clip: open_clip.CLIP = build_evaluator(tokenizer)
    clip.load_state_dict(load_file(evaluator / "open_clip_model.safetensors"))
    clip.float().eval()
    return torch.cat([clip.encode_image(to_evaluator_pixels(part)) for part in torch.split(images, 64)])


def train_vision(
    images: torch.Tensor, embeddings: torch.Tensor, directory: Path, recipe: Recipe
) -> CLIPVisionModelWithProjection:
    """Return an encoder whose embeddings of images are those given."""
    torch.manual_seed(recipe.seed)
    vision = build_vision()

    def loss_of(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(images), (size,), generator=generator)
        found, goal = vision(to_vision_pixels(images[rows])).image_embeds, embeddings[rows]
        cosine = functional.cosine_similarity(found, goal).mean()
        return functional.mse_loss(found, goal) + 1 - cosine, {"cosine": cosine.item()}

    averaged: CLIPVisionModelWithProjection = train(recipe, vision, loss_of, directory)
    return averaged


def with_image_prompts(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a copy of the UNet that reads image prompts, and so far makes nothing of them."""
    reading = copy.deepcopy(unet)
    layers: dict[str, torch.Tensor] = {}
    for number, name in enumerate(reading.attn_processors):
        if "attn2" in name:
            attention = reading.get_submodule(name.removesuffix(".processor"))
            layers[f"{number}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
            layers[f"{number}.to_v_ip.weight"] = torch.zeros_like(attention.to_v.weight)
    width = reading.config.cross_attention_dim
    projection = {
        "proj.weight": torch.randn(PROMPT_TOKENS * width, EMBED_DIM) / EMBED_DIM**0.5,
        "proj.bias": torch.zeros(PROMPT_TOKENS * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    state = {"image_proj": projection, "ip_adapter": layers}
    reading._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    return reading


def adapter_of(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """Return the adapter in the form of its authors' files, in half precision."""
    found = {}
    for name, value in unet.encoder_hid_proj.image_projection_layers[0].state_dict().items():
        found[f"image_proj.{name.replace('image_embeds', 'proj')}"] = value
    for number, (_, processor) in enumerate(unet.attn_processors.items()):
        for side in ("k", "v"):
            if hasattr(processor, f"to_{side}_ip"):
                found[f"ip_adapter.{number}.to_{side}_ip.weight"] = getattr(processor, f"to_{side}_ip")[0].weight
    return {name: value.detach().half().contiguous() for name, value in found.items()}


def train_image_prompts(
    base: XlBase, images: LatentImages, embeddings: torch.Tensor, directory: Path, recipe: Recipe
) -> UNet2DConditionModel:
    """Return the teacher's UNet with an adapter that draws images like those of the embeddings (n, 64)."""
    torch.manual_seed(recipe.seed)
    unet = with_image_prompts(base.unet)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("_ip." in name or name.startswith("encoder_hid_proj"))

    def loss_of(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows, batch, condition = base.batch(images, size, generator, dropout=TEXT_DROPOUT)
        shown = torch.rand(size, 1, generator=generator) >= CAPTION_DROPOUT
        arguments = condition.arguments()
        arguments["added_cond_kwargs"]["image_embeds"] = [(embeddings[rows] * shown)[:, None]]
        return batch.loss(unet(batch.noisy, batch.timesteps, **arguments).sample), {}

    averaged: UNet2DConditionModel = train(recipe, unet, loss_of, directory)
    return averaged


def save_image_prompts(unet: UNet2DConditionModel, vision: CLIPVisionModelWithProjection, directory: Path) -> None:
    """Write the adapter and its image encoder as `load_ip_adapter` finds them."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(adapter_of(unet), directory / "ip_adapter.safetensors")
    copy.deepcopy(vision).half().save_pretrained(directory / "image_encoder")
