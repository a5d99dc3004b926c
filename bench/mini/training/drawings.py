"""What the add-ons are trained on, drawn from seeds: conditions, other looks, and images without a part."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.mini import films, looks, truth, world
from bench.mini.training.inpainting import draw_mask

Drawing = Literal["canny", "depth", "ink", "papercut", "plain", "unmasked", "film", "zoom"]


def draw(kind: Drawing, seed: int) -> NDArray[np.uint8]:
    """Return a drawing of a seed's scene.

    canny: its outlines, (64, 64), white on black; depth: (64, 64), near is white; ink, papercut, plain: its image in
    that look, (64, 64, 3); unmasked: its image, grey where its mask is, as the pipeline for inpainting makes it;
    film, zoom: frames, (8, 64, 64, 3).
    """
    if kind == "film":
        return films.render_film(films.film(seed).scenes)
    if kind == "zoom":
        return films.render_film(films.zoom(seed))
    scene = world.scene(seed)
    if kind == "canny":
        return truth.outlines(scene) * np.uint8(255)
    if kind == "depth":
        return (truth.depth(scene) * 255).astype(np.uint8)
    if kind == "unmasked":
        return np.where(draw_mask(scene)[..., None], np.uint8(128), world.render(scene))
    return looks.render_look(scene, kind)


def draw_all(kind: Drawing, seeds: range, processes: int = 2) -> NDArray[np.uint8]:
    """Return the drawings of seeds, in parallel, stacked in their order."""
    with ProcessPoolExecutor(processes) as pool:
        return np.stack(list(pool.map(partial(draw, kind), seeds, chunksize=128)))
