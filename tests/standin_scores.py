"""Substitutes for the networks of scores, with random weights in the layout of the published files, and for COCO."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from standins import commit_of
from test_preference_models import VISION, head_of, published
from transformers import (
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from bench.checkpoints.manifest import MANIFEST
from bench.features.icnet import ICNet
from bench.mini import world
from bench.mini.training.vocabulary import build_tokenizer

SIZE = 32


def build_scores(hub: Path) -> list[str]:
    """Fill a hub cache of `standins.build_hub`; returns the overrides for files that no cache holds."""
    torch.manual_seed(0)
    _pick_score(_snapshot(hub, "yuvalkirstain/PickScore_v1"))
    _tower().save_pretrained(_snapshot(hub, "openai/clip-vit-large-patch14"))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle"]
    (_snapshot(hub, "google-bert/bert-base-uncased") / "vocab.txt").write_text("\n".join(words))
    torch.save(_image_reward(len(words)), _snapshot(hub, "THUDM/ImageReward") / "ImageReward.pt")
    torch.save(_inception(), hub / "hub" / "checkpoints" / MANIFEST["inception"].file)
    head, complexity = hub / MANIFEST["aesthetic_score"].file, hub / MANIFEST["image_complexity"].file
    torch.save(head_of(8, "")[0], head)
    torch.save(ICNet().state_dict(), complexity)
    return [f"preference_models.aesthetic_score={head}", f"preference_models.image_complexity={complexity}"]


def build_coco(directory: Path, captions: Sequence[str]) -> None:
    """Write coco/annotations and coco/val2014 as COCO's own archives unpack, one random image for each caption."""
    annotations, images = directory / "coco" / "annotations", directory / "coco" / "val2014"
    annotations.mkdir(parents=True)
    images.mkdir()
    rng = np.random.default_rng(0)
    rows = [{"image_id": i, "id": i, "caption": caption} for i, caption in enumerate(captions)]
    for row in rows:
        pixels = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"COCO_val2014_{row['image_id']:012d}.jpg")
    (annotations / "captions_val2014.json").write_text(json.dumps({"images": [], "annotations": rows}))


def _snapshot(hub: Path, repository: str) -> Path:
    root, commit = hub / f"models--{repository.replace('/', '--')}", commit_of(repository)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    return snapshot


def _pick_score(directory: Path) -> None:
    tokenizer = build_tokenizer(world.caption(world.scene(seed)) for seed in range(50))
    tokenizer.save_pretrained(directory)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=77, eos_token_id=tokenizer.eos_token_id, **VISION
    )
    vision = CLIPVisionConfig(image_size=SIZE, patch_size=8, **VISION)
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)).save_pretrained(
        directory
    )


def _tower() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=SIZE, patch_size=8, projection_dim=8, **VISION))


def _image_reward(words: int) -> dict[str, torch.Tensor]:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision = BlipVisionModel(BlipVisionConfig(image_size=SIZE, patch_size=8, layer_norm_eps=1e-6, **sizes))
    config = BlipTextConfig(vocab_size=words, encoder_hidden_size=64, max_position_embeddings=40, **sizes)
    text = BlipTextModel(config, add_pooling_layer=False)
    return {
        **{f"blip.visual_encoder.{published(name)}": value for name, value in vision.state_dict().items()},
        **{f"blip.text_encoder.{name}": value for name, value in text.state_dict().items()},
        **head_of(64, "mlp.")[0],
    }


def _inception() -> dict[str, torch.Tensor]:
    """The port's network as it is before its weights are loaded, which it would download."""
    from torch_fidelity import feature_extractor_inceptionv3 as port

    with (
        patch.object(port, "load_state_dict_from_url", lambda *_, **__: {}),
        patch.object(torch.nn.Module, "load_state_dict", lambda *_, **__: None),
    ):
        network = port.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    return network.state_dict()
