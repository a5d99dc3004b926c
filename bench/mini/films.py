"""Films of the world: things that move on straight paths before a ground that stays, or that come nearer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.mini import world

FRAMES = 8
FASTEST = 2.0
"""Pixels per frame."""
ZOOM = 1.5
"""How much larger things are in the last frame of a zoom than in the first."""


@dataclass(frozen=True)
class Film:
    """Scenes of successive frames, and the motion of their things in pixels per frame."""

    scenes: tuple[world.Scene, ...]
    motion: tuple[float, float]


def film(seed: int, frames: int = FRAMES) -> Film:
    """Return the film that a seed determines: its scene's things move alike, and stay in the image.

    In the middle of the film they are nearest to where the scene has them.
    """
    truth, rng = world.scene(seed), np.random.default_rng((seed, 3))
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, FASTEST)
    middle = (frames - 1) / 2
    step, centre = [], []
    for along, name in ((np.cos(angle), "x"), (np.sin(angle), "y")):
        low = min(getattr(thing, name) - thing.radius for thing in truth.things)
        high = world.IMAGE_SIZE - max(getattr(thing, name) + thing.radius for thing in truth.things)
        reach = min(abs(along) * speed * middle, (low + high) / 2)
        step.append(float(np.sign(along) * reach / middle))
        centre.append(float(np.clip(0.0, reach - low, high - reach)))
    scenes = [
        world.displaced(truth, centre[0] + step[0] * (i - middle), centre[1] + step[1] * (i - middle))
        for i in range(frames)
    ]
    return Film(tuple(scenes), (step[0], step[1]))


def zoom(seed: int, frames: int = FRAMES) -> tuple[world.Scene, ...]:
    """Return the scenes of a zoom towards the centre of the image: things grow, and move away from it."""
    truth, middle = world.scene(seed), world.IMAGE_SIZE / 2
    scenes = []
    for factor in ZOOM ** np.linspace(-0.5, 0.5, frames):
        things = tuple(
            replace(
                thing,
                x=middle + factor * (thing.x - middle),
                y=middle + factor * (thing.y - middle),
                radius=factor * thing.radius,
            )
            for thing in truth.things
        )
        scenes.append(replace(truth, things=things))
    return tuple(scenes)


def render_film(scenes: tuple[world.Scene, ...]) -> NDArray[np.uint8]:
    """Return the frames of a film, (frames, 64, 64, 3), RGB, uint8."""
    return np.stack([world.render(scene) for scene in scenes])
