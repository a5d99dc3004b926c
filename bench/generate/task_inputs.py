"""Input images of tasks that need them: the package's still lifes, the prompts' own scenes, or a folder's images.

Everything is uint8 and of one size, and inputs are identified by their pixels. A folder may have subfolders; its images
are paired with the prompts in the order of their paths. Masks are in its subfolder masks/, each named like its image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.generate.image_files import read_image, read_mask
from bench.generate.image_folders import MASKS, hash_files, list_images, pair_masks, say_once
from bench.mini import truth, world
from bench.mini.reading import read_outlines
from bench.mini.shapes import signed_distance
from bench.records.cell import Task
from bench.records.errors import BenchError, check_path
from bench.records.reference import SCENES, WORLD

_Pixels = NDArray[np.uint8]
CANNY_THRESHOLDS = (100, 200)
"""The thresholds of the TCD guide."""
PROMPT_IMAGE_SIZE = 512
"""The height and width of an image prompt in the guide, independent of the sampled size."""


class DepthEstimator(Protocol):
    """A function: images (n, h, w, 3) → depth (n, h, w), or of `size` (height, width); float32 in [0, 1], near is 1."""

    def __call__(self, images: _Pixels, size: tuple[int, int] | None = None) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Inputs:
    """The first `count` input images (n, h, w, 3) of a task, or the `rows` of a folder, and derived images.

    One per prompt, which serves all `images_per_prompt` images of it.

    Files are read as in `bench.generate.image_files` and resized bicubically, as in the TCD guide.
    """

    task: Task
    source: str
    count: int
    height: int
    width: int
    estimate_depth: DepthEstimator | None = None
    rows: tuple[int, ...] = ()
    images_per_prompt: int = 1

    @cached_property
    def images(self) -> _Pixels:
        """The input images, in the sampled size. An image prompt uses only the first."""
        return np.stack([self._resize(self.original(row)[0]) for row in range(self.count)])

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """The area to repaint, (n, h, w): a scene's first object, or the light area of a file in masks/.

        Grey levels from 128 on are light, as in diffusers.
        """
        return np.stack([_is_light(self._resize(self.original(row)[1])) for row in range(self.count)])

    @cached_property
    def conditions(self) -> _Pixels:
        """The condition of a ControlNet, (n, h, w, 3): white edges on black, or depth as grey, near is white.

        Of scenes it is the truth: outlines of the things alone, and their depth.
        """
        if self._finished:
            return self.images
        if self.task.kind == "canny":
            grey = np.stack([self._edges(row) for row in range(self.count)]).astype(np.uint8) * 255
        else:
            grey = (self.depths * 255).astype(np.uint8)  # truncated, as in the guide
        return np.repeat(grey[..., None], 3, axis=-1)

    @cached_property
    def depths(self) -> NDArray[np.float32]:
        """The depth of the inputs, estimated at their own sizes; of finished depth images their grey levels."""
        if self._finished:
            return np.stack([_grey(image).astype(np.float32) / np.float32(255) for image in self.images])
        if self.source == SCENES:
            return np.stack([truth.depth(_prompted(row)) for row in range(self.count)])
        if self.estimate_depth is None:
            raise BenchError("task.estimator: none was loaded; task depth needs one")
        size = (self.height, self.width)
        return np.concatenate([self.estimate_depth(self.original(row)[0][None], size) for row in range(self.count)])

    def shown(self, row: int) -> dict[str, _Pixels]:
        """Return the inputs of an image for display, (h, w, 3) each: `image`, and `mask` or `control` where used."""
        if self._finished:
            return {"control": self._resize(self.original(row)[0])}
        original, mask = self.original(row)
        found = {"image": self._resize(original)}
        if self.task.kind == "inpainting":
            found["mask"] = _three(_is_light(self._resize(mask)) * np.uint8(255))
        if self.task.kind == "canny":
            found["control"] = _three(self._edges(row) * np.uint8(255))
        if self.task.kind == "depth" and self.source == SCENES:
            found["control"] = _three((self.depths[row] * 255).astype(np.uint8))
        elif self.task.kind == "depth" and self.estimate_depth is not None:
            depth = self.estimate_depth(original[None], (self.height, self.width))[0]
            found["control"] = _three((depth * 255).astype(np.uint8))
        return found

    def original(self, row: int) -> tuple[_Pixels, _Pixels]:
        """Return an input in its own size, cropped to the aspect ratio, and its mask (black for a task without masks).

        Raises BenchError for files that cannot be read or do not fit.
        """
        if self.source == WORLD:
            image, where = draw_scene(row, self.height, self.width)
            return image, _three(where * np.uint8(255))
        if self.source == SCENES:
            scene = _prompted(row)
            return world.render(scene), _three(truth.mask(scene) * np.uint8(255))
        folder = Path(self.source).expanduser()
        name, mask_name = self._files[self.rows[row] if self.rows else row]
        image = read_image(folder / name)
        box = self._box(folder / name, *image.shape[:2])
        if mask_name is None:
            return image[box], np.zeros_like(image[box])
        mask = read_mask(folder / MASKS / mask_name)
        if mask.shape != image.shape:
            sizes = " and ".join(f"{array.shape[1]}×{array.shape[0]}" for array in (image, mask))
            raise BenchError(
                f"task.inputs: {folder / name} and its mask {MASKS}/{mask_name} have {sizes} pixels; give the mask the "
                "size of the image"
            )
        light = _is_light(self._resize(mask[box]))
        if light.all() or not light.any():
            extent = "everywhere" if light.any() else "nowhere"
            raise BenchError(
                f"task.inputs: the mask {folder / MASKS / mask_name} is light {extent}; "
                "make it light (grey levels 128 to 255) where the image is to be repainted, and dark elsewhere"
            )
        return image[box], mask[box]

    def hash_files(self) -> dict[str, bytes]:
        """Return the SHA-256 of the bytes of each used file, by its path below the folder; empty without one."""
        if self.source in (WORLD, SCENES):
            return {}
        pairs = [self._files[self.rows[row] if self.rows else row] for row in range(self.count)]
        names = [name for name, _ in pairs] + [f"{MASKS}/{mask}" for _, mask in pairs if mask is not None]
        return hash_files(Path(self.source).expanduser(), names)

    def arguments(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return the arguments of a pipeline call for these images besides prompts, latents and generators."""
        task, chosen = self.task, [row // self.images_per_prompt for row in rows]
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

    @property
    def _finished(self) -> bool:
        return bool(self.task.settings.get("inputs_are") == "control_images")

    @cached_property
    def _files(self) -> list[tuple[str, str | None]]:
        """Return the first images, and their masks, relative to the folder and to its masks/."""
        folder = Path(self.source).expanduser()
        masked = self.task.kind == "inpainting"
        for place in (folder, *([folder / MASKS] if masked else [])):
            check_path(f"task.inputs={place}", place, "folder", f"give {WORLD!r}, {SCENES!r}, or a folder of images")
        found = list_images(folder, but=[MASKS])
        needed = max(self.rows, default=self.count - 1) + 1
        if len(found.files) < needed:
            raise BenchError(
                f"task.inputs: {folder} holds {found} but {needed} are needed, one per prompt; add some, or set "
                "prompts.count to that number"
            )
        if found.left_out.keys() - ({MASKS} if masked else ()):
            say_once(f"task.inputs={self.source} holds {found}")
        if not masked:
            return [(name, None) for name in found.files[:needed]]
        pairs: list[tuple[str, str | None]] = [*pair_masks(found.files, list_images(folder / MASKS).files)]
        return pairs[:needed]

    @property
    def find_edges(self) -> Callable[[_Pixels], NDArray[np.bool_]]:
        """What finds in an image (h, w, 3) the edges, (h, w), that conditions are to be compared with."""
        return read_outlines if self.source == SCENES else canny_edges

    def _edges(self, row: int) -> NDArray[np.bool_]:
        """Return the edges of an input, (h, w): those detected, or of a scene its outlines."""
        return truth.outlines(_prompted(row)) if self.source == SCENES else canny_edges(self.images[row])

    def _box(self, path: Path, height: int, width: int) -> tuple[slice, slice]:
        """Return the part of an image that is used, by `fit`."""
        fit = self.task.settings.get("fit", "exact")
        high, wide = height, width
        if fit == "crop":
            wide = min(width, max(1, round(height * self.width / self.height)))
            high = min(height, max(1, round(width * self.height / self.width)))
        elif fit == "exact" and abs(width * self.height - self.width * height) >= max(width, height):
            raise BenchError(
                f"task.inputs: {path} has {width}×{height} pixels, not the required aspect ratio {self.width}×"
                f"{self.height}; crop it, or set task.fit to crop (about the centre) or stretch"
            )
        top, left = (height - high) // 2, (width - wide) // 2
        return slice(top, top + high), slice(left, left + wide)

    def _resize(self, image: _Pixels) -> _Pixels:
        return np.asarray(Image.fromarray(image).resize((self.width, self.height), Image.Resampling.BICUBIC))


def name_inputs(inputs: Inputs, estimator_weights: str | None) -> str | None:
    """Return a hash over images, masks and the depth estimator; None for a task without inputs.

    Raises BenchError for inputs that cannot be used.
    """
    kind = inputs.task.kind
    if kind in ("text_to_image", "animation"):
        return None
    digest = hashlib.sha256(str((inputs.count, inputs.height, inputs.width)).encode())
    if inputs.source == SCENES and kind in ("canny", "depth"):
        digest.update(inputs.conditions.tobytes())
    failed: dict[str, None] = {}
    for row in range(inputs.count):
        try:
            image, mask = inputs.original(row)
        except BenchError as error:
            failed.setdefault(str(error))
            continue
        digest.update(str(image.shape).encode() + image.tobytes())
        if kind == "inpainting":
            digest.update(mask.tobytes())
    if failed:
        more = (
            f" ({len(failed) - 1} more of the {inputs.count} inputs cannot be used either)" if len(failed) > 1 else ""
        )
        raise BenchError(next(iter(failed)) + more)
    digest.update((estimator_weights or "").encode())
    return digest.hexdigest()[:16]


def draw_scene(row: int, height: int, width: int) -> tuple[_Pixels, NDArray[np.bool_]]:
    """Draw a still life in the world's shapes and colours, (h, w, 3), and the place of its first object, (h, w).

    The floor brightens towards the viewer and each object is shaded like a solid, so that edges and depth can be
    detected. The mask has a margin around the object.
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


def _prompted(row: int) -> world.Scene:
    """Return the scene of a prompt of the world."""
    return world.scene(world.SEEDS["prompts"].start + row)


def canny_edges(image: _Pixels) -> NDArray[np.bool_]:
    """Return the edges of an image (h, w, 3), (h, w), by OpenCV's Canny detector with the guide's thresholds."""
    import cv2

    return cv2.Canny(np.ascontiguousarray(image), *CANNY_THRESHOLDS) > 0


def _three(grey: NDArray[np.uint8]) -> _Pixels:
    """Return a grey image (h, w) as (h, w, 3)."""
    return np.repeat(grey[..., None], 3, axis=-1)


def _to_pil(images: _Pixels) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images]


def _is_light(mask: _Pixels) -> NDArray[np.bool_]:
    """Return the area that diffusers repaints, (h, w)."""
    return _grey(mask) >= 128


def _grey(image: _Pixels) -> _Pixels:
    """Return luma (h, w), as Pillow and diffusers compute it."""
    return np.asarray(Image.fromarray(image).convert("L"))
