"""What is known of a scene's image, pixel by pixel: outlines, depth and masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.mini import world

NEAR, FAR = 1.0, 0.4
"""Depth of the largest and of the smallest thing."""


def outlines(truth: world.Scene) -> NDArray[np.bool_]:
    """Return where the outlines of the things are, (64, 64): one pixel wide, whatever their fills and the ground."""
    return np.any([np.abs(distance) < 0.6 for distance, _ in world.layers(truth).things], axis=0)


def depth(truth: world.Scene) -> NDArray[np.float32]:
    """Return the depth of a scene, (64, 64), near is 1: the ground is at 0, and what is larger is nearer."""
    found = np.zeros((world.IMAGE_SIZE, world.IMAGE_SIZE), np.float32)
    for (distance, _), thing in zip(world.layers(truth).things, truth.things, strict=True):
        found[distance < 0] = depth_of_radius(thing.radius)
    return found


def depth_of_radius(radius: float) -> float:
    """Return the depth of a thing, in [0.4, 1], linear in its radius."""
    smallest, largest = world.SIZES["small"][0], world.SIZES["large"][1]
    return FAR + (NEAR - FAR) * (radius - smallest) / (largest - smallest)


def mask(truth: world.Scene, index: int = 0) -> NDArray[np.bool_]:
    """Return the place of a thing with a margin of three pixels around its circle, (64, 64)."""
    y, x = np.mgrid[0 : world.IMAGE_SIZE, 0 : world.IMAGE_SIZE] + 0.5
    thing = truth.things[index]
    return np.hypot(x - thing.x, y - thing.y) < thing.radius + 3
