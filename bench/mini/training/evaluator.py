"""The evaluator: an OpenCLIP dual encoder trained on seeds that the generator never saw.

First the image tower alone learns to name what it sees (`attribute_labels`, by linear heads that are discarded
afterwards), then both towers are trained contrastively. Besides the other captions of the batch, each image is compared
with its own wrong captions, in which one attribute is changed, so that the encoder learns to distinguish what the
score measures; and the same linear heads must read from a caption what it names, which teaches the text tower which
attribute belongs to which thing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import CLIPTokenizer

from bench.mini import world
from bench.mini.training.attributes import AttributeHeads, attribute_labels, named_labels
from bench.mini.training.data import Captioned
from bench.mini.training.loop import Recipe, train
from bench.mini.training.vocabulary import tokenize

SIGHT = Recipe("sight", iterations=1500, batch_size=64, peak_lr=3e-3, ema_decay=0.998, weight_decay=0.05,
               seed=5)  # fmt: skip
RECIPE = Recipe("evaluator", iterations=3000, batch_size=64, peak_lr=1.5e-3, ema_decay=0.998, weight_decay=0.05,
                seed=1)  # fmt: skip
WRONG_CAPTIONS = 4
EMBED_DIM = 64
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def evaluator_config(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """Return OpenCLIP's model configuration: a small ResNet tower with attention pooling, a small text transformer."""
    return {
        "embed_dim": EMBED_DIM,
        "vision_cfg": {"image_size": world.IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 24},
        "text_cfg": {
            "context_length": tokenizer.model_max_length,
            "vocab_size": len(tokenizer),
            "hf_tokenizer_name": "tokenizer",
            "width": 96,
            "heads": 4,
            "layers": 3,
        },
    }


def build_evaluator(tokenizer: CLIPTokenizer) -> open_clip.CLIP:
    """Return an untrained evaluator."""
    config = evaluator_config(tokenizer)
    text = {key: value for key, value in config["text_cfg"].items() if key != "hf_tokenizer_name"}
    return open_clip.CLIP(config["embed_dim"], config["vision_cfg"], text)


def train_evaluator(
    data: Captioned,
    tokenizer: CLIPTokenizer,
    directory: Path,
    sight_recipe: Recipe = SIGHT,
    recipe: Recipe = RECIPE,
) -> open_clip.CLIP:
    """Train on pairs of image and caption; returns the averaged model, its image embeddings scaled to unit variance."""
    torch.manual_seed(recipe.seed)
    clip = build_evaluator(tokenizer).to(memory_format=torch.channels_last)
    heads = AttributeHeads(EMBED_DIM)
    model = nn.ModuleDict({"clip": clip, "heads": heads})
    labels, named = attribute_labels(data.scenes), named_labels(data.scenes)

    def embed(rows: Sequence[int]) -> torch.Tensor:
        return clip.encode_image(to_evaluator_pixels(data.images[rows]))

    def seeing(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(data.images), (size,), generator=generator).tolist()
        loss, accuracy = heads.naming_loss(embed(rows), labels[rows])
        return loss, {"named": accuracy}

    def matching(size: int, generator: torch.Generator, _: nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
        rows = torch.randint(len(data.images), (size,), generator=generator).tolist()
        embeddings = embed(rows)
        images = functional.normalize(embeddings, dim=-1)
        dice = random.Random(int(torch.randint(2**31, (), generator=generator)))  # noqa: S311
        texts = [data.captions[row] for row in rows]
        for row in rows:
            texts += _wrong_captions(data.scenes[row], dice)
        text_embeddings = clip.encode_text(tokenize(tokenizer, texts))
        encoded = functional.normalize(text_embeddings, dim=-1)
        own, wrong = encoded[: len(rows)], encoded[len(rows) :]
        scale = clip.logit_scale.exp().clamp(max=100)
        similarity = scale * images @ own.T
        hard = scale * torch.einsum("nd,nkd->nk", images, wrong.reshape(len(rows), WRONG_CAPTIONS, -1))
        target = torch.arange(len(rows))
        by_image = functional.cross_entropy(similarity + _same_text(texts[: len(rows)]), target)
        by_text = functional.cross_entropy(similarity.T + _same_text(texts[: len(rows)]), target)
        truth = torch.cat([similarity.diagonal()[:, None], hard], dim=1)
        by_attribute = functional.cross_entropy(truth, torch.zeros(len(rows), dtype=torch.long))
        right = (truth.argmax(1) == 0).float().mean().item()
        naming, accuracy = heads.naming_loss(embeddings, labels[rows])
        reading, understood = heads.naming_loss(text_embeddings[: len(rows)], named[rows])
        loss = 0.5 * (by_image + by_text) + by_attribute + naming + reading
        return loss, {"right": right, "clip": by_image.item(), "named": accuracy, "read": understood}

    seen = train(sight_recipe, model, seeing, directory / "sight")
    model.load_state_dict(seen.state_dict())
    averaged = train(recipe, model, matching, directory)
    averaged_clip: open_clip.CLIP = averaged.clip
    scale_embeddings(averaged_clip, data)
    return averaged_clip


@torch.no_grad()
def scale_embeddings(clip: open_clip.CLIP, data: Captioned, count: int = 2048) -> None:
    """Scale the image tower's last layer so that an embedding's coordinates have a variance of one on average.

    Cosines do not change, and Fréchet distances have a readable magnitude.
    """
    clip.eval()
    batches = [to_evaluator_pixels(data.images[i : i + 64]) for i in range(0, min(count, len(data.images)), 64)]
    deviation = torch.cat([clip.encode_image(batch) for batch in batches]).var(dim=0).mean().sqrt()
    for parameter in clip.visual.attnpool.c_proj.parameters():
        parameter /= deviation


def to_evaluator_pixels(images: torch.Tensor | object) -> torch.Tensor:
    """Convert uint8 (n, 64, 64, 3) to float32 (n, 3, 64, 64), normalised as in `open_clip_config.json`."""
    pixels = torch.as_tensor(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return pixels.contiguous(memory_format=torch.channels_last)


def save_evaluator(model: open_clip.CLIP, tokenizer: CLIPTokenizer, directory: Path) -> None:
    """Write the directory that `open_clip.create_model_and_transforms("local-dir:…")` loads; weights as float16."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": evaluator_config(tokenizer), "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (directory / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(tensors, directory / "open_clip_model.safetensors")
    tokenizer.save_pretrained(directory)  # open_clip reads it from there


def _wrong_captions(truth: world.Scene, dice: random.Random) -> list[str]:
    choices = [captions for _, captions in world.counterfactuals(truth)]
    return [dice.choice(dice.choice(choices)) for _ in range(WRONG_CAPTIONS)]


def _same_text(texts: list[str]) -> torch.Tensor:
    """Return -inf where another image of the batch has the same caption, so that it does not count as wrong."""
    index = {text: i for i, text in enumerate(texts)}
    ids = torch.tensor([index[text] for text in texts])
    same = (ids[:, None] == ids[None, :]) & ~torch.eye(len(texts), dtype=torch.bool)
    return torch.zeros(len(texts), len(texts)).masked_fill(same, -torch.inf)
