"""Training data from the procedural world, rendered once and kept in memory as uint8."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from bench.mini import world


@dataclass(frozen=True)
class Captioned:
    """Images, shape (n, 64, 64, 3), uint8, with their scenes and captions, in the order of their seeds."""

    images: NDArray[np.uint8]
    scenes: tuple[world.Scene, ...]
    captions: tuple[str, ...]


def render_split(purpose: world.Purpose, count: int, processes: int = 2) -> Captioned:
    """Render the first `count` images of a purpose, in parallel."""
    seeds = world.split_seeds(purpose, count)
    chunks = [seeds[i : i + 512] for i in range(0, count, 512)]
    with ProcessPoolExecutor(processes) as pool:
        images = np.concatenate(list(pool.map(_render_seeds, chunks)))
    scenes = tuple(chain.from_iterable([world.scene(seed) for seed in chunk] for chunk in chunks))
    return Captioned(images, scenes, tuple(world.caption(scene) for scene in scenes))


def to_pixels(images: NDArray[np.uint8]) -> torch.Tensor:
    """Convert uint8 (n, 64, 64, 3) to float32 (n, 3, 64, 64) in [-1, 1], the input of Stable Diffusion's VAE."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _render_seeds(seeds: range) -> NDArray[np.uint8]:
    return np.stack([world.render(world.scene(seed)) for seed in seeds])
