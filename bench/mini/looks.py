"""Other looks of the world: the same scenes in another palette with outlines, and as cut paper."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.mini import world

LookName = Literal["plain", "ink", "papercut"]

INK_COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.71, 0.26, 0.22),
    "yellow": (0.87, 0.74, 0.36),
    "green": (0.33, 0.52, 0.36),
    "blue": (0.28, 0.38, 0.63),
    "white": (0.93, 0.89, 0.80),
    "black": (0.20, 0.18, 0.22),
}
"""Muted, each nearer to the world's colour of its name than to any other."""
_INK = np.asarray((0.08, 0.06, 0.10))
_PAPER = np.asarray((0.98, 0.97, 0.94))
_LINE = 1.0
_RIM = 1.6
_SHADOW = 0.45


def render_look(truth: world.Scene, look: LookName) -> NDArray[np.uint8]:
    """Return the image of a scene in a look, shape (64, 64, 3), RGB, uint8.

    ink: muted colours, and things with a dark outline of two pixels. papercut: things have a rim of white paper and
    cast a soft shadow to the lower right, on the ground alone.
    """
    if look == "plain":
        return world.render(truth)
    ground, things, noise = world.layers(truth, INK_COLOURS if look == "ink" else world.COLOURS)
    canvas = ground
    if look == "papercut":
        for distance, _ in things:
            shadow = np.pad(distance, ((3, 0), (2, 0)), mode="edge")[:-3, :-2]
            canvas = world.over(canvas, np.zeros(3), (shadow - _RIM) / 3, _SHADOW)
    for distance, paint in things:
        if look == "ink":
            canvas = world.over(canvas, _INK, distance - _LINE)
            canvas = world.over(canvas, paint, distance + _LINE)
        else:
            canvas = world.over(canvas, _PAPER, distance - _RIM)
            canvas = world.over(canvas, paint, distance)
    return world.to_uint8(canvas + noise)
