"""Features by an OpenCLIP encoder: embeddings of images and captions, and the attributes that an image gets right.

Features are stored per image, so that a new score, claim or reference needs no new images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from torchvision.transforms import Normalize
from transformers import dynamic_module_utils

from bench.checkpoints.openclip_files import check_open_clip
from bench.features.pixels import complexity
from bench.records.errors import BenchError

_Array = NDArray[Any]
Counterfactuals = Sequence[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Evaluator:
    """An encoder on a device. `preprocess` takes uint8 (n, h, w, 3) and gives the input of the image tower.

    `encode_text` and `tokenize` are None of networks that embed images alone.
    """

    name: str
    encode_image: Callable[[torch.Tensor], torch.Tensor]
    preprocess: Callable[[NDArray[np.uint8]], torch.Tensor]
    device: torch.device
    encode_text: Callable[[torch.Tensor], torch.Tensor] | None = None
    tokenize: Callable[..., torch.Tensor] | None = None

    @torch.inference_mode()
    def image_features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return embeddings (n, d), float32, not normalised, of images uint8 (n, h, w, 3)."""
        pixels = self.preprocess(images).to(self.device)
        return self.encode_image(pixels).float().cpu().numpy()

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str], batch_size: int = 512) -> NDArray[np.float32]:
        """Return embeddings (n, d), float32, not normalised, of captions; raises BenchError without a text encoder."""
        if self.encode_text is None or self.tokenize is None:
            raise BenchError(f"{self.name} has no text encoder; use an OpenCLIP model for scores of captions")
        batches = [list(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
        encoded = [self.encode_text(self.tokenize(batch).to(self.device)).float().cpu() for batch in batches]
        return torch.cat(encoded).numpy()


def load_evaluator(name: str, directory: Path, device: str) -> Evaluator:
    """Load the OpenCLIP model of a directory (`open_clip_config.json`, safetensors), in float32.

    No code from the model is executed. Raises BenchError for a model that cannot be loaded this way.
    """
    check_open_clip(directory)
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # else transformers asks on the terminal whether to run foreign code
    source = f"local-dir:{directory}"
    try:
        model, _, transform = open_clip.create_model_and_transforms(source, device=device, precision="fp32")
        tokenize = open_clip.get_tokenizer(source)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BenchError(
            f"evaluator.source={directory} cannot be loaded ({reason}); give an OpenCLIP model of safetensors that "
            "needs no custom code"
        ) from error
    model.eval()
    normalise = Normalize(model.visual.image_mean, model.visual.image_std)
    size = model.visual.image_size
    size = (size, size) if isinstance(size, int) else tuple(size)

    def preprocess(images: NDArray[np.uint8]) -> torch.Tensor:
        if images.shape[1:3] == size:  # nothing to resize: the same numbers in one operation
            return normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
        return torch.stack([transform(Image.fromarray(image)) for image in images])

    return Evaluator(name, model.encode_image, preprocess, torch.device(device), model.encode_text, tokenize)


@dataclass(frozen=True)
class CaptionFeatures:
    """A prompt set as encoded by an evaluator; encoded once, used for every cell.

    `own` (n, d) are the captions, `cut` (n,) marks those longer than the evaluator's limit. For prompt i and its j-th
    named attribute, `wrong[i][j]` (k, d) are the captions in which only that attribute is changed, and `kinds[i][j]`
    names the attribute.
    """

    own: NDArray[np.float32]
    cut: NDArray[np.bool_]
    wrong: tuple[tuple[NDArray[np.float32], ...], ...] | None
    kinds: tuple[tuple[str, ...], ...] | None


def encode_captions(
    evaluator: Evaluator, texts: Sequence[str], counterfactuals: Sequence[Counterfactuals] | None
) -> CaptionFeatures:
    """Encode captions, and their counterfactual captions where the ground truth is known; normalised to unit length."""
    own, cut = _unit(evaluator.text_features(texts)), find_cut(evaluator, texts)
    if counterfactuals is None:
        return CaptionFeatures(own, cut, None, None)
    everything = sorted(set(chain.from_iterable(captions for entry in counterfactuals for _, captions in entry)))
    encoded = _unit(evaluator.text_features(everything))
    index = {text: i for i, text in enumerate(everything)}
    wrong = tuple(
        tuple(encoded[[index[text] for text in captions]] for _, captions in entry) for entry in counterfactuals
    )
    kinds = tuple(tuple(name for name, _ in entry) for entry in counterfactuals)
    return CaptionFeatures(own, cut, wrong, kinds)


def find_cut(evaluator: Evaluator, texts: Sequence[str]) -> NDArray[np.bool_]:
    """Return which texts (n,) have more tokens than the evaluator keeps; their last kept token is the end token."""
    tokenize: Any = evaluator.tokenize
    length = tokenize([""]).shape[1]
    long = tokenize(list(texts), context_length=8 * length)
    padding = tokenize([""], context_length=8 * length)[0, -1]
    return (long[:, length:] != padding).any(dim=1).numpy()


def images_to_features(
    evaluator: Evaluator,
    images: NDArray[np.uint8],
    captions: CaptionFeatures | None,
    start: int,
    frames: int = 1,
) -> Mapping[str, _Array]:
    """Return features of images `start` … of a cell, one row per image; a video's `frames` are stacked vertically.

    `image` (d,) is the embedding, for a video that of its middle frame; `clip_score` 100 × cosine of image and caption,
    for a video the mean over its frames, and `caption_cut`, whether the caption is too long, both only with captions;
    the measures of `complexity`; and where the ground truth is known, `attributes_named` and `attributes_right`: the
    number of attributes that the caption names, and of those for which the image is nearer to the caption than to every
    caption with that one attribute changed.
    """
    rows = range(start, start + len(images))
    stills = images.reshape(len(images) * frames, -1, *images.shape[2:])
    embeddings = evaluator.image_features(stills).reshape(len(images), frames, -1)
    middle = embeddings[:, frames // 2]
    measured = complexity(stills)
    of_pixels = {name: rows.reshape(len(images), frames).mean(axis=1) for name, rows in measured.items()}
    features: dict[str, _Array] = {"image": middle, **of_pixels}
    if captions is None:
        return features
    similarities = np.einsum("nfd,nd->nf", _unit(embeddings), captions.own[rows.start : rows.stop])
    features["clip_score"] = 100 * similarities.mean(axis=1)
    features["caption_cut"] = captions.cut[rows.start : rows.stop]
    unit = _unit(middle)
    if captions.wrong is not None:
        features["attributes_named"] = np.array([len(captions.wrong[row]) for row in rows], np.int32)
        right = [_count_right(unit[i], captions.own[row], captions.wrong[row]) for i, row in enumerate(rows)]
        features["attributes_right"] = np.array(right, np.int32)
    return features


def _count_right(image: _Array, own: _Array, wrong: Sequence[_Array]) -> int:
    similarity = float(image @ own)
    return sum(bool(similarity > (candidates @ image).max()) for candidates in wrong)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return functional.normalize(torch.from_numpy(vectors), dim=-1).numpy()
