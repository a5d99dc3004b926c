"""Features of single tasks: how well an image preserves the task's inputs. One row per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bench.checkpoints.manifest import MANIFEST, check_file
from bench.checkpoints.sources import torch_checkpoints
from bench.features.extractor import Extractor
from bench.records.errors import BenchError

_Pixels = NDArray[np.uint8]
_Rows = Mapping[str, NDArray[Any]]


class Given(Protocol):
    """A task's inputs: images and ControlNet conditions (n, h, w, 3), masks and depths (n, h, w)."""

    @property
    def images(self) -> _Pixels: ...
    @property
    def masks(self) -> NDArray[np.bool_]: ...
    @property
    def conditions(self) -> _Pixels: ...
    @property
    def depths(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class TaskFeatures:
    """Features beyond those of image and caption, by the task's kind.

    `find_edges` and `estimate_depth` are those that made the conditions.
    """

    kind: str
    given: Given
    find_edges: Callable[[_Pixels], NDArray[np.bool_]]
    estimate_depth: Callable[[_Pixels], NDArray[np.float32]] | None = None
    find_places: Callable[[_Pixels], NDArray[np.float64]] | None = None
    """Where things are in each of n images, (n, 2), NaN where there are none; None where no one can say."""
    style: str | None = None
    style_images: _Pixels | None = None
    """Images of a style that has them, in place of its name."""
    frames: int = 1
    images_per_prompt: int = 1
    """How many consecutive images have the same input."""

    def of_pixels(self, images: _Pixels, start: int) -> _Rows:
        """Return features of a cell's images `start` …, uint8 (n, h, w, 3), that need no extractor.

        inpainting: `background_psnr` in dB, outside the mask. canny: `edge_agreement` in [0, 1]. depth: `depth_error`,
        mean absolute, in [0, 1]. animation: `flicker`, in levels of 255, and of films of the world `path_error`, in
        pixels, and `speed`, in pixels per frame.
        """
        rows = self._rows(images, start)
        if self.kind == "inpainting":
            pairs = zip(images, self.given.images[rows], self.given.masks[rows], strict=True)
            return {"background_psnr": np.array([psnr(a[~m], b[~m]) for a, b, m in pairs])}
        if self.kind == "canny":
            wanted = self.given.conditions[rows, ..., 0] > 127
            found = np.stack([self.find_edges(image) for image in images])
            return {"edge_agreement": np.array([edge_agreement(a, b) for a, b in zip(found, wanted, strict=True)])}
        if self.kind == "depth" and self.estimate_depth is not None:
            distance = np.abs(self.estimate_depth(images) - self.given.depths[rows])
            return {"depth_error": distance.mean(axis=(1, 2), dtype=np.float64)}
        if self.kind == "animation":
            scores = {"flicker": np.array([flicker(film) for film in self._films(images)])}
            if self.find_places is not None:
                frames = self._films(images)
                places = self.find_places(frames.reshape(-1, *frames.shape[2:])).reshape(len(images), self.frames, 2)
                paths = np.array([straight_path(path) for path in places])
                scores |= {"path_error": paths[:, 0], "speed": paths[:, 1]}
            return scores
        return {}

    def of_extractor(self, extractor: Extractor, images: _Pixels, start: int) -> _Rows:
        """Return features of the same images by an extractor.

        inpainting: `image_masked` and `real_masked`, embeddings of output and input with all but the mask grey.
        image_prompt: `image_similarity`, text_to_image with a style and a text encoder: `style_similarity`, both
        100 × cosine. animation: `temporal_consistency`, 100 × mean cosine of neighbouring frames.
        """
        rows = self._rows(images, start)
        if self.kind == "inpainting":
            masks, inputs = self.given.masks[rows, ..., None], self.given.images[rows]
            return {
                "image_masked": extractor.image_features(np.where(masks, images, np.uint8(128))),
                "real_masked": extractor.image_features(np.where(masks, inputs, np.uint8(128))),
            }
        if self.kind == "image_prompt":
            prompt = extractor.image_features(self.given.images[:1])
            return {"image_similarity": _similarity(extractor.image_features(images), prompt)}
        if self.kind == "animation":
            frames = self._films(images)
            embeddings = extractor.image_features(frames.reshape(-1, *frames.shape[2:]))
            unit = _unit(embeddings).reshape(len(images), self.frames, -1)
            return {"temporal_consistency": 100 * (unit[:, 1:] * unit[:, :-1]).sum(axis=-1).mean(axis=1)}
        if self.style_images is not None:
            style = _unit(extractor.image_features(self.style_images)).mean(axis=0, keepdims=True)
            return {"style_similarity": _similarity(extractor.image_features(images), style)}
        if self.style is not None and extractor.tokenize is not None:
            style = extractor.text_features([self.style])
            return {"style_similarity": _similarity(extractor.image_features(images), style)}
        return {}

    def background_lpips(self, images: _Pixels, start: int) -> _Rows:
        """Return `background_lpips`, outside the mask of inpainting."""
        rows = self._rows(images, start)
        inputs = self.given.images[rows]
        return {"background_lpips": lpips(np.where(self.given.masks[rows, ..., None], inputs, images), inputs)}

    def pairwise_lpips(self, images: _Pixels) -> _Rows:
        """Return `pairwise_lpips`, the mean distance of each image to the others of its prompt.

        The images are those of whole prompts; of videos the middle frames are compared.
        """
        middle = self._films(images)[:, self.frames // 2]
        k = self.images_per_prompt
        sums = np.zeros(len(middle))
        for step in range(1, k):
            mine = np.flatnonzero(np.arange(len(middle)) % k < k - step)
            apart = lpips(middle[mine], middle[mine + step])
            sums[mine] += apart
            sums[mine + step] += apart
        return {"pairwise_lpips": sums / (k - 1)}

    def _rows(self, images: _Pixels, start: int) -> NDArray[np.intp]:
        """Return the number of the input of each image, (n,)."""
        return np.arange(start, start + len(images)) // self.images_per_prompt

    def _films(self, images: _Pixels) -> _Pixels:
        """Return videos as (n, frames, h, w, 3)."""
        return images.reshape(len(images), self.frames, -1, *images.shape[2:])


def _similarity(embeddings: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    similarity: NDArray[np.float64] = 100 * (_unit(embeddings) @ _unit(other)[0])
    return similarity


def psnr(ours: _Pixels, theirs: _Pixels) -> float:
    """Peak signal-to-noise ratio of 8-bit values, dB; equal values count as a mean squared error of 1/12, 58.9 dB.

    That is the error of rounding to whole levels, below which two 8-bit images cannot be distinguished.
    """
    error = float(np.mean((ours.astype(np.float64) - theirs) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1 / 12)))


def edge_agreement(found: NDArray[np.bool_], wanted: NDArray[np.bool_], share: float = 0.005) -> float:
    """F1 of edge pixels (h, w) that are within `share` of the width of one another; 0 where either image has none.

    The tolerant matching of boundary benchmarks (Martin, Fowlkes, Malik 2004), which allow .0075 of the diagonal,
    without their one-to-one assignment.
    """
    import cv2

    if not found.any() or not wanted.any():
        return 0.0
    reach = max(1, round(share * found.shape[1]))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near_found, near_wanted = (cv2.dilate(edges.astype(np.uint8), disc) > 0 for edges in (found, wanted))
    precision, recall = near_wanted[found].mean(), near_found[wanted].mean()
    return 0.0 if precision + recall == 0 else float(2 * precision * recall / (precision + recall))


def flicker(frames: _Pixels) -> float:
    """Mean absolute second difference in time of frames (f, h, w, 3), levels of 255, halved; 0 for fewer than three.

    A uniform fade gives 0; a value that alternates by d between frames gives d.
    """
    if len(frames) < 3:
        return 0.0
    values = frames.astype(np.float32)
    bend = np.abs(values[2:] - 2 * values[1:-1] + values[:-2]) / 2
    return float(bend.mean(dtype=np.float64))


FURTHEST = 8.0
"""Pixels off its path from which on it does not matter where a thing is; it is there where it is not found."""


def straight_path(places: NDArray[np.float64]) -> tuple[float, float]:
    """How far things are from a straight path on which they move uniformly, and how fast they are on it.

    `places` (f, 2) are those of one frame after another, in pixels, NaN where there is none. The path is the one of
    least squares; the first number is the mean distance from it, at most `FURTHEST`, which also counts for frames
    without a place. With fewer than three places it is `FURTHEST`, and the speed 0.
    """
    time = np.flatnonzero(np.isfinite(places).all(axis=1))
    if len(time) < 3:
        return FURTHEST, 0.0
    design = np.stack([np.ones(len(time)), time], axis=1)
    path = np.linalg.lstsq(design, places[time], rcond=None)[0]
    apart = np.minimum(np.hypot(*(places[time] - design @ path).T), FURTHEST)
    return float((apart.sum() + FURTHEST * (len(places) - len(time))) / len(places)), float(np.hypot(*path[1]))


LPIPS_SIZE = 31
"""Pixels of a side that AlexNet's layers need."""


def lpips(images: _Pixels, inputs: _Pixels) -> NDArray[np.float64]:
    """LPIPS of pairs of images (n, h, w, 3) with AlexNet (arXiv 1801.03924, version 0.1); 0 for equal images.

    Raises BenchError for images with a side under `LPIPS_SIZE` pixels, and where its weights are missing.
    """
    if min(images.shape[1:3]) < LPIPS_SIZE:
        height, width = images.shape[1:3]
        raise BenchError(
            f"LPIPS needs images of at least {LPIPS_SIZE} × {LPIPS_SIZE} pixels; these have {width} × {height}"
        )
    network = _lpips_network()
    pairs = zip(*(torch.from_numpy(a).permute(0, 3, 1, 2).float() / 255 for a in (images, inputs)), strict=True)
    with torch.inference_mode():
        return np.array([float(network(ours[None], theirs[None])) for ours, theirs in pairs])


@cache
def _lpips_network() -> Any:
    weights = torch_checkpoints() / MANIFEST["background_lpips"].file
    check_file(weights, "background_lpips")
    torch.load(weights, weights_only=True)  # torchmetrics would also unpickle code
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=-1, keepdims=True)
