"""The shapes of the embedded world, as signed distances to their outlines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")


def signed_distance(shape: str, u: NDArray[np.float64], v: NDArray[np.float64], r: float) -> NDArray[np.float64]:
    """Return the distance in pixels to the outline, negative inside; the shape is within a circle of radius r."""
    d: NDArray[np.float64]
    if shape == "circle":
        d = np.hypot(u, v) - r
    elif shape == "ring":
        d = np.abs(np.hypot(u, v) - 0.72 * r) - 0.28 * r
    elif shape == "square":
        d = np.maximum(np.abs(u), np.abs(v)) - 0.8 * r
    elif shape == "triangle":
        d = np.maximum(np.abs(u) * 0.866 - v * 0.5 - 0.5 * r, v - 0.55 * r)
    elif shape == "cross":
        d = np.minimum(np.maximum(np.abs(u) - r, np.abs(v) - 0.3 * r), np.maximum(np.abs(u) - 0.3 * r, np.abs(v) - r))
    elif shape == "star":
        d = _star_distance(u, v, r)
    else:
        raise ValueError(f"{shape!r} is not a shape of this world; choose one of {', '.join(SHAPES)}")
    return d


def _star_distance(u: NDArray[np.float64], v: NDArray[np.float64], r: float) -> NDArray[np.float64]:
    """Distance to a five-pointed star: fold the plane into one tenth, then the distance to one edge."""
    sector = np.pi / 5
    angle = np.arctan2(u, -v)
    folded = np.abs((angle + sector) % (2 * sector) - sector)
    length = np.hypot(u, v)
    px, py = length * np.cos(folded), length * np.sin(folded)
    tip = np.array([r, 0.0])
    notch = 0.42 * r * np.array([np.cos(sector), np.sin(sector)])
    edge = notch - tip
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (px - tip[0]) * normal[0] + (py - tip[1]) * normal[1]


def rotate(
    x: NDArray[np.float64], y: NDArray[np.float64], angle: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coordinates rotated by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x


def wave(phase: NDArray[np.float64], sharpness: float) -> NDArray[np.float64]:
    """Return stripes between 0 and 1 with soft edges."""
    return np.clip(0.5 + sharpness * np.sin(phase), 0, 1)
