"""The input images of tasks that need some: still lifes of the package's own, or a folder's images.

Everything is uint8 and of the size that is sampled, so that inputs are named by their pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.cell import Task
from bench.mini import world
from bench.mini.shapes import signed_distance
from bench.records import BenchError

Pixels = NDArray[np.uint8]
WORLD = "world"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
CANNY_THRESHOLDS = (100, 200)
"""Those of the TCD guide."""


@dataclass(frozen=True)
class Inputs:
    """The first `count` input images (n, h, w, 3) of a task, and what is made of them.

    `estimate_depth` takes such images and gives their depth (n, h, w), float32 in [0, 1], near is 1; it is called once.
    """

    task: Task
    source: str
    count: int
    height: int
    width: int
    estimate_depth: Callable[[Pixels], NDArray[np.float32]] | None = None

    @cached_property
    def images(self) -> Pixels:
        """The inputs themselves. An image prompt takes the first alone."""
        if self.source == WORLD:
            return np.stack([draw_scene(row, self.height, self.width)[0] for row in range(self.count)])
        return np.stack([_read(path, self.height, self.width) for path in self._files(Path(self.source))])

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """What is to be painted anew, (n, h, w): of a still life its first thing, else a file in masks/ where white."""
        if self.source == WORLD:
            return np.stack([draw_scene(row, self.height, self.width)[1] for row in range(self.count)])
        masks = [_read(path, self.height, self.width) for path in self._files(Path(self.source) / "masks")]
        white: NDArray[np.bool_] = np.stack(masks).mean(axis=-1) >= 128
        return white

    @cached_property
    def conditions(self) -> Pixels:
        """What a ControlNet follows, (n, h, w, 3): white edges on black, or depth as grey, near is white."""
        if self.task.kind == "canny":
            grey = np.stack([canny_edges(image) for image in self.images]).astype(np.uint8) * 255
        else:
            grey = np.round(self.depths * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)

    @cached_property
    def depths(self) -> NDArray[np.float32]:
        """The inputs' depth."""
        if self.estimate_depth is None:
            raise BenchError("task.estimator: none was loaded; depth needs one")
        return self.estimate_depth(self.images)

    def arguments(self, rows: Sequence[int]) -> dict[str, Any]:
        """What a pipeline call takes for these rows beside prompts, latents and generators."""
        task, chosen = self.task, list(rows)
        if task.kind == "inpainting":
            masks = [Image.fromarray(mask.astype(np.uint8) * 255) for mask in self.masks[chosen]]
            images = _to_pil(self.images[chosen])
            return {"image": images, "mask_image": masks, "strength": task.settings["strength"]}
        if task.kind in ("canny", "depth"):
            images = _to_pil(self.conditions[chosen])
            return {"image": images, "controlnet_conditioning_scale": task.settings["conditioning_scale"]}
        if task.kind == "image_prompt":
            return {"ip_adapter_image": _to_pil(self.images[:1])[0]}
        return {"num_frames": task.settings["frames"]} if task.kind == "animation" else {}

    def _files(self, folder: Path) -> list[Path]:
        if not folder.is_dir():
            raise BenchError(f"task.inputs: {folder} is no folder; give {WORLD!r}, or a folder of images")
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if len(files) < self.count:
            raise BenchError(
                f"task.inputs: {folder} holds {len(files)} images and {self.count} are needed, one a prompt; add some, "
                "or set prompts.count to what there is"
            )
        return files[: self.count]


def name_inputs(inputs: Inputs, estimator_weights: str | None) -> str | None:
    """A hash over the pixels of images and masks, and of what tells their depth; None for a task without inputs."""
    kind = inputs.task.kind
    if kind in ("text_to_image", "animation"):
        return None
    digest = hashlib.sha256(str(inputs.images.shape).encode() + inputs.images.tobytes())
    if kind == "inpainting":
        digest.update(inputs.masks.tobytes())
    digest.update((estimator_weights or "").encode())
    return digest.hexdigest()[:16]


def draw_scene(row: int, height: int, width: int) -> tuple[Pixels, NDArray[np.bool_]]:
    """A still life in the world's shapes and colours, (h, w, 3), and where its first thing stands, (h, w).

    The floor grows lighter towards the eye and each thing is shaded like a body, so that edges and depth are there to
    be found. The mask has a margin around the thing.
    """
    truth = world.scene(world.SEEDS["validation"].start + row)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64) + 0.5
    pixel = world.IMAGE_SIZE / min(height, width)
    x = (x - width / 2) * pixel + world.IMAGE_SIZE / 2
    y = (y - height / 2) * pixel + world.IMAGE_SIZE / 2
    floor = np.asarray(world.COLOURS[truth.ground_colour])
    canvas = floor * np.clip(0.55 + 0.4 * y / world.IMAGE_SIZE, 0, 1)[..., None]
    mask = np.zeros((height, width), bool)
    for thing in truth.things:
        distance = signed_distance(thing.shape, x - thing.x, y - thing.y, thing.radius)
        light = np.clip(1 - 0.5 * np.hypot(x - thing.x + 3, y - thing.y + 3) / (2 * thing.radius), 0.3, 1)
        cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]
        canvas = canvas * (1 - cover) + np.asarray(world.COLOURS[thing.colour]) * light[..., None] * cover
        if thing is truth.things[0]:
            mask = np.hypot(x - thing.x, y - thing.y) < 1.15 * thing.radius
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8), mask


def canny_edges(image: Pixels) -> NDArray[np.bool_]:
    """Where an image (h, w, 3) has edges, (h, w), by OpenCV's Canny detector with the guide's thresholds."""
    import cv2

    edges: NDArray[np.bool_] = cv2.Canny(np.ascontiguousarray(image), *CANNY_THRESHOLDS) > 0
    return edges


def _to_pil(images: Pixels) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images]


def _read(path: Path, height: int, width: int) -> Pixels:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow calls a broken PNG a syntax error
        raise BenchError(f"task.inputs: {path} is no image that can be read ({error}); replace it") from error
