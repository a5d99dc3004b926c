"""Preference models: networks trained on people's choices, which give a number per image and caption.

Code of a model's repository is never run; the architectures are transformers', weights are read as tensors only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from torchvision.transforms.functional import pad, resize

from bench.features.pretrained import load_pretrained
from bench.records.errors import BenchError

Pixels = NDArray[np.uint8]
PreferenceModel = Callable[[Pixels, Sequence[str]], NDArray[np.float64]]
"""A function of images (n, h, w, 3), uint8, and their n captions → n numbers."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
REWARD_MEAN, REWARD_STD, REWARD_TOKENS = 0.16717362830052426, 1.0333394966054072, 35
"""Mean and deviation of ImageReward over its authors' validation set, which standardise it; its number of tokens."""

HPS_ARCHITECTURE = "ViT-H-14"
"""OpenCLIP's name of the network of HPSv2."""


def load_pick_score(directory: Path, device: str) -> PreferenceModel:
    """PickScore (Kirstain et al. 2023, arXiv 2305.01569): a CLIP's cosine of image and caption times its logit scale.

    The directory holds config.json, safetensors, tokenizer and preprocessor.
    """
    from transformers import AutoTokenizer, CLIPModel

    model = load_pretrained(CLIPModel, directory, f"preference_models.pick_score={directory}", device)
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    prepare = clip_preparation(model.config.vision_config.image_size)

    @torch.inference_mode()
    def score(images: Pixels, captions: Sequence[str]) -> NDArray[np.float64]:
        tokens = tokenizer(list(captions), padding=True, truncation=True, max_length=77, return_tensors="pt")
        output = model(**tokens.to(device), pixel_values=prepare(images).to(device))
        cosines = (output.image_embeds * output.text_embeds).sum(dim=-1)
        return to_numbers(cosines * model.logit_scale.exp())

    return score


def load_aesthetic_score(head: Path, tower: Path, device: str) -> PreferenceModel:
    """LAION's aesthetic score, 1 to 10 (Schuhmann 2022, improved-aesthetic-predictor): a linear head on CLIP ViT-L/14.

    `head` is the head's checkpoint, `tower` the directory of the CLIP. It ignores the caption.
    """
    from transformers import CLIPVisionModelWithProjection

    model = load_pretrained(CLIPVisionModelWithProjection, tower, f"aesthetic_score's tower {tower}", device)
    network = _head(model.config.projection_dim, (1024, 128, 64, 16))
    load_tensors(network, {name.removeprefix("layers."): tensor for name, tensor in read_tensors(head).items()}, head)
    network.to(device)
    prepare = clip_preparation(model.config.image_size)

    @torch.inference_mode()
    def score(images: Pixels, captions: Sequence[str]) -> NDArray[np.float64]:
        embeddings = model(pixel_values=prepare(images).to(device)).image_embeds
        return to_numbers(network(nn.functional.normalize(embeddings, dim=-1))[:, 0])

    return score


def load_image_reward(checkpoint: Path, vocabulary: Path, device: str) -> PreferenceModel:
    """ImageReward (Xu et al. 2023, arXiv 2304.05977): a BLIP whose text encoder attends to the image, and a head on it.

    `checkpoint` is the authors' file, from which the sizes are read; `vocabulary` is that of BERT, uncased.
    """
    from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    tensors = read_tensors(checkpoint)
    vision_tensors = _part(tensors, "blip.visual_encoder.", VISION_NAMES)
    text_tensors = _part(tensors, "blip.text_encoder.", ())
    try:
        patches, width = vision_tensors["embeddings.position_embedding"].shape[1:]
        patch = vision_tensors["embeddings.patch_embedding.weight"].shape[-1]
        words, hidden = text_tensors["embeddings.word_embeddings.weight"].shape
        inner = text_tensors["encoder.layer.0.intermediate.dense.weight"].shape[0]
    except KeyError as error:
        raise BenchError(f"{checkpoint} is not an ImageReward checkpoint: it lacks {error}; fetch it again") from error
    vision_config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=vision_tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_layers(vision_tensors, r"encoder\.layers\.(\d+)\."),
        num_attention_heads=max(1, width // 64),
        image_size=int((patches - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    text_config = BlipTextConfig(
        vocab_size=words,
        hidden_size=hidden,
        encoder_hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=_layers(text_tensors, r"encoder\.layer\.(\d+)\."),
        num_attention_heads=max(1, hidden // 64),
        max_position_embeddings=text_tensors["embeddings.position_embeddings.weight"].shape[0],
    )
    vision, text = BlipVisionModel(vision_config), BlipTextModel(text_config, add_pooling_layer=False)
    head = _head(hidden, (1024, 128, 64, 16))
    load_tensors(vision, vision_tensors, checkpoint)
    load_tensors(text, text_tensors, checkpoint)
    load_tensors(head, _part(tensors, "mlp.layers.", ()), checkpoint)
    for network in (vision, text, head):
        network.to(device).eval()
    tokenizer, prepare = BertTokenizer(str(vocabulary)), clip_preparation(vision_config.image_size)

    @torch.inference_mode()
    def score(images: Pixels, captions: Sequence[str]) -> NDArray[np.float64]:
        seen = vision(pixel_values=prepare(images).to(device)).last_hidden_state
        tokens = tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=REWARD_TOKENS, return_tensors="pt"
        ).to(device)
        read = text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=device),
        ).last_hidden_state[:, 0]
        return (to_numbers(head(read)[:, 0]) - REWARD_MEAN) / REWARD_STD

    return score


def load_hps_v2(checkpoint: Path, device: str) -> PreferenceModel:
    """HPSv2.1 (Wu et al. 2023, arXiv 2306.09341): 100 × cosine of image and caption by a tuned OpenCLIP ViT-H/14.

    The whole image is seen: its longer side is resized (bicubic, antialias), and the rest is black.
    """
    import open_clip

    model = open_clip.create_model(HPS_ARCHITECTURE, precision="fp32", device=device)
    load_tensors(model, read_tensors(checkpoint), checkpoint)
    tokenize, size = open_clip.get_tokenizer(HPS_ARCHITECTURE), model.visual.image_size
    side = size if isinstance(size, int) else max(size)
    normalise = Normalize(CLIP_MEAN, CLIP_STD)

    @torch.inference_mode()
    def score(images: Pixels, captions: Sequence[str]) -> NDArray[np.float64]:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        height, width = (round(length * side / max(pixels.shape[2:])) for length in pixels.shape[2:])
        if pixels.shape[2:] != (height, width):
            pixels = resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
        above, left = (side - height) // 2, (side - width) // 2
        whole = pad(pixels, [left, above, side - width - left, side - height - above])
        image = model.encode_image(normalise(whole).to(device), normalize=True)
        caption = model.encode_text(tokenize(list(captions)).to(device), normalize=True)
        return to_numbers(100 * (image * caption).sum(dim=-1))

    return score


VISION_NAMES = (
    ("^cls_token", "embeddings.class_embedding"),
    ("^pos_embed", "embeddings.position_embedding"),
    (r"^patch_embed\.proj", "embeddings.patch_embedding"),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attn\.", ".self_attn."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
)
"""Renaming of BLIP's own vision tower to transformers' port."""


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors by name, from safetensors or a pickle of tensors only; else raises BenchError."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BenchError(
            f"{path} holds more than tensors, or is damaged, and is not read; convert it to safetensors"
        ) from error
    content = content.get("state_dict", content)
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}


def _part(
    tensors: Mapping[str, torch.Tensor], prefix: str, names: Sequence[tuple[str, str]]
) -> dict[str, torch.Tensor]:
    """Return the tensors under a prefix, renamed."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            own = name.removeprefix(prefix)
            for pattern, replacement in names:
                own = re.sub(pattern, replacement, own)
            found[own] = tensor
    return found


def load_tensors(network: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load a network's tensors; raises BenchError where the checkpoint lacks some, or has different shapes."""
    buffers = {name for name, _ in network.named_buffers()}
    own = network.state_dict()
    lacking = sorted(set(own) - set(tensors) - buffers)
    other = sorted(name for name in set(own) & set(tensors) if own[name].shape != tensors[name].shape)
    if lacking or other:
        raise BenchError(
            f"{path} does not fit its network ({len(lacking)} tensors are missing, {len(other)} have another shape, "
            f"the first {[*lacking, *other][0]}); fetch it again"
        )
    network.load_state_dict({name: tensors[name] for name in own if name in tensors}, strict=False)
    network.eval()


def _head(width: int, widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers with nothing but dropout in between, as in both predictors."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(zip((width, *widths), (*widths, 1), strict=True)):
        layers += [nn.Linear(before, after), *([nn.Dropout(0.2)] if i < len(widths) - 1 else [])]
    return nn.Sequential(*layers)


def _layers(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    return 1 + max(int(found[1]) for name in tensors if (found := re.match(pattern, name)))


def clip_preparation(size: int) -> Callable[[Pixels], torch.Tensor]:
    """Return a function that resizes the shorter side to `size`, bicubic, antialias; centre crop; CLIP's statistics."""
    steps: Any = Compose(
        [Resize(size, InterpolationMode.BICUBIC), CenterCrop(size), ToTensor(), Normalize(CLIP_MEAN, CLIP_STD)]
    )
    return lambda images: torch.stack([steps(Image.fromarray(image)) for image in images])


def to_numbers(values: torch.Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()
