"""The depth of an image of the world, read from its colours alone: what is not ground, and how large it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.mini import truth, world

FEWEST_PIXELS = 12
"""Pixels of a thing; less is taken for the ground's texture."""
_GROUND_SHADE = 0.32
"""How far the ground's texture goes towards its other shade, with noise and tint; the stripes of things go further."""
_NEAR_COLOUR = 0.16


def read_depth(images: NDArray[np.uint8], size: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """Return the depth of images (n, h, w, 3), (n, h, w) or of `size`, as `truth.depth` gives it of their scenes.

    The ground is the colour, with its shades, of most pixels. What else is connected is a thing, whose radius is the
    largest distance from its middle: of triangles and squares, a little more than the scene's.
    """
    import cv2

    found = np.zeros(images.shape[:3], np.float32)
    for image, depth in zip(images, found, strict=True):
        things = (~_ground(image.astype(np.float64) / 255)).astype(np.uint8)
        count, labels = cv2.connectedComponents(cv2.morphologyEx(things, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)))
        for label in range(1, count):
            rows, columns = np.nonzero(labels == label)
            if len(rows) >= FEWEST_PIXELS:
                middle = [(places.min() + places.max()) / 2 for places in (rows, columns)]
                radius = np.hypot(rows - middle[0], columns - middle[1]).max() * world.IMAGE_SIZE / image.shape[1]
                inside = (labels == label) & (things > 0)
                depth[inside] = np.clip(truth.depth_of_radius(radius), truth.FAR, truth.NEAR)
    if size is None or size == images.shape[1:3]:
        return found
    return np.stack([cv2.resize(depth, size[::-1], interpolation=cv2.INTER_NEAREST) for depth in found])


def _ground(image: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where the ground is, (h, w): pixels near the line from its colour to its other shade."""
    best = np.zeros(image.shape[:2], bool)
    for colour in map(np.asarray, world.COLOURS.values()):
        end = world.shade(colour, _GROUND_SHADE)
        along = np.clip(((image - colour) @ (end - colour)) / ((end - colour) @ (end - colour)), 0, 1)
        near = np.linalg.norm(image - (colour + along[..., None] * (end - colour)), axis=-1) < _NEAR_COLOUR
        if near.sum() > best.sum():
            best = near
    return best


def read_places(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the middle of the things in each image (n, h, w, 3), (n, 2) as x and y in pixels; NaN where there is none.

    Pixels are those of the world's images, whatever the size of these.
    """
    places = np.full((len(images), 2), np.nan)
    for place, depth in zip(places, read_depth(images), strict=True):
        if (depth > 0).any():
            rows, columns = np.nonzero(depth)
            place[:] = np.array([columns.mean(), rows.mean()]) * world.IMAGE_SIZE / images.shape[2]
    return places


def read_outlines(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the outlines of an image's things, (h, w), as `truth.outlines` gives them of its scene."""
    import cv2

    things = (read_depth(image[None])[0] > 0).astype(np.uint8)
    inner = cv2.erode(things, np.ones((3, 3), np.uint8), borderValue=1)
    return things > inner
