"""Extractors: networks that embed images, and some of them captions; and the features that scores need of both.

Features are stored per image, so that a new score, claim or reference needs no new images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bench.records.errors import BenchError

_Array = NDArray[Any]
Counterfactuals = Sequence[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Extractor:
    """A network on a device that embeds images, and captions where it has a text encoder.

    `encode` takes what `preprocess` makes of images uint8 (n, h, w, 3) and gives (n, d). `preparation` describes what
    `preprocess` does: extractors with equal ones share its result. `tokenize` and `encode_text` are None without a text
    encoder.
    """

    name: str
    encode: Callable[[Any], torch.Tensor]
    preprocess: Callable[[NDArray[np.uint8]], Any]
    device: torch.device
    preparation: str = ""
    tokenize: Callable[..., Any] | None = None
    encode_text: Callable[[Any], torch.Tensor] | None = None

    @torch.inference_mode()
    def image_features(self, images: NDArray[np.uint8], shared: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """Return embeddings (n, d), float32, not normalised, of images uint8 (n, h, w, 3).

        `shared` keeps the prepared images for other extractors that are given the same images.
        """
        prepared = None if shared is None else shared.get(self.preparation)
        if prepared is None:
            prepared = self.preprocess(images)
            if shared is not None and self.preparation:
                shared[self.preparation] = prepared
        features: NDArray[np.float32] = self.encode(prepared.to(self.device)).float().cpu().numpy()
        return features

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str], batch_size: int = 512) -> NDArray[np.float32]:
        """Return embeddings (n, d), float32, not normalised, of captions; raises BenchError without a text encoder."""
        if self.tokenize is None or self.encode_text is None:
            raise BenchError(f"extractor {self.name} has no text encoder; choose another one for scores of captions")
        batches = [list(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
        encoded = [self.encode_text(self.tokenize(batch).to(self.device)).float().cpu() for batch in batches]
        features: NDArray[np.float32] = torch.cat(encoded).numpy()
        return features


@dataclass(frozen=True)
class CaptionFeatures:
    """A prompt set as encoded by an extractor; encoded once, used for every cell.

    `own` (n, d) are the captions, `cut` (n,) marks those longer than the extractor's limit. For prompt i and its j-th
    named attribute, `wrong[i][j]` (k, d) are the captions in which only that attribute is changed, and `kinds[i][j]`
    names the attribute.
    """

    own: NDArray[np.float32]
    cut: NDArray[np.bool_]
    wrong: tuple[tuple[NDArray[np.float32], ...], ...] | None
    kinds: tuple[tuple[str, ...], ...] | None


def encode_captions(
    extractor: Extractor, texts: Sequence[str], counterfactuals: Sequence[Counterfactuals] | None
) -> CaptionFeatures:
    """Encode captions, and their counterfactual captions where the ground truth is known; normalised to unit length."""
    own, cut = _unit(extractor.text_features(texts)), find_cut(extractor, texts)
    if counterfactuals is None:
        return CaptionFeatures(own, cut, None, None)
    everything = sorted(set(chain.from_iterable(captions for entry in counterfactuals for _, captions in entry)))
    encoded = _unit(extractor.text_features(everything))
    index = {text: i for i, text in enumerate(everything)}
    wrong = tuple(
        tuple(encoded[[index[text] for text in captions]] for _, captions in entry) for entry in counterfactuals
    )
    kinds = tuple(tuple(name for name, _ in entry) for entry in counterfactuals)
    return CaptionFeatures(own, cut, wrong, kinds)


def find_cut(extractor: Extractor, texts: Sequence[str]) -> NDArray[np.bool_]:
    """Return which texts (n,) have more tokens than the extractor keeps; their last kept token is the end token.

    They have tokens beyond its limit, or others within it than with a wide limit: where the end token is also the
    padding, it alone is beyond.
    """
    tokenize: Any = extractor.tokenize
    kept = tokenize(list(texts))
    length = kept.shape[1]
    long = tokenize(list(texts), context_length=8 * length)
    padding = tokenize([""], context_length=8 * length)[0, -1]
    cut: NDArray[np.bool_] = ((long[:, length:] != padding).any(dim=1) | (long[:, :length] != kept).any(dim=1)).numpy()
    return cut


def images_to_features(
    extractor: Extractor,
    images: NDArray[np.uint8],
    captions: CaptionFeatures | None,
    start: int,
    frames: int = 1,
    shared: dict[str, Any] | None = None,
) -> Mapping[str, _Array]:
    """Return features of images `start` … of a cell, one row per image; a video's `frames` are stacked vertically.

    `image` (d,) is the embedding, for a video that of its middle frame; `clip_score` 100 × cosine of image and caption,
    for a video the mean over its frames, and `caption_cut`, whether the caption is too long, both only with captions;
    and where the ground truth is known, `attributes_named` and `attributes_right`: the number of attributes that the
    caption names, and of those for which the image is nearer to the caption than to every caption with that one
    attribute changed. `shared` is that of `Extractor.image_features`.
    """
    rows = range(start, start + len(images))
    stills = images.reshape(len(images) * frames, -1, *images.shape[2:])
    embeddings = extractor.image_features(stills, shared).reshape(len(images), frames, -1)
    middle = embeddings[:, frames // 2]
    features: dict[str, _Array] = {"image": middle}
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
    unit: NDArray[np.float32] = functional.normalize(torch.from_numpy(vectors), dim=-1).numpy()
    return unit
