"""The embedded world: an endless, procedural source of captioned 64×64 images with known ground truth.

A seed determines a scene (its exact attributes), the scene's caption in plain English and its image. A caption
leaves some attributes open, as human captions do; `Scene.named` lists those it states. The module needs only numpy,
so that prompts and ground truth can be read without torch.

Seed ranges are disjoint by purpose (`SEEDS`): what one model was trained on, no other model or score has seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.mini.shapes import SHAPES, rotate, signed_distance, wave

IMAGE_SIZE = 64

Purpose = Literal["train", "evaluator", "reference", "prompts", "validation"]
SEEDS: dict[Purpose, range] = {
    "train": range(0, 10_000_000),
    "evaluator": range(10_000_000, 20_000_000),
    "reference": range(20_000_000, 30_000_000),
    "prompts": range(30_000_000, 40_000_000),
    "validation": range(40_000_000, 50_000_000),
}

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.13, 0.14),
    "yellow": (0.96, 0.90, 0.16),
    "green": (0.13, 0.62, 0.20),
    "blue": (0.12, 0.28, 0.88),
    "white": (0.96, 0.96, 0.96),
    "black": (0.06, 0.06, 0.07),
}
SIZES: dict[str, tuple[float, float]] = {"small": (8.5, 10.0), "large": (13.5, 15.5)}
FILLS = ("plain", "striped")
GROUNDS = ("plain", "striped", "checkered", "speckled")
POSITIONS: dict[str, tuple[float, float]] = {
    "in the centre": (0.5, 0.5),
    "at the left": (0.22, 0.5),
    "at the right": (0.78, 0.5),
    "at the top": (0.5, 0.22),
    "at the bottom": (0.5, 0.78),
}
RELATIONS: dict[str, tuple[float, float]] = {
    "left of": (-1.0, 0.0),
    "right of": (1.0, 0.0),
    "above": (0.0, -1.0),
    "below": (0.0, 1.0),
}

ATTRIBUTE_VALUES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "fill": FILLS,
    "position": tuple(POSITIONS),
    "relation": tuple(RELATIONS),
    "ground_colour": tuple(COLOURS),
    "ground": GROUNDS,
}
"""Every kind of attribute with its possible values."""

_NAMING_PROBABILITY = {"colour": 0.85, "size": 0.5, "fill": 0.5, "position": 0.6, "relation": 0.7}
_GROUND_NAMING_PROBABILITY = {"ground_colour": 0.65, "ground": 0.55}


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape: its attributes, and its place in pixels (x to the right, y down)."""

    shape: str
    colour: str
    size: str
    fill: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """The ground truth of one image.

    `things` has one or two entries; `position` holds for one thing, `relation` (of the first to the second) for two.
    `named` lists the attributes that the caption states, as `kind` or `kind.index` ("colour.0", "ground").
    """

    seed: int
    things: tuple[Thing, ...]
    position: str | None
    relation: str | None
    ground_colour: str
    ground: str
    named: tuple[str, ...]


def scene(seed: int) -> Scene:
    """Return the scene that `seed` determines."""
    rng = np.random.default_rng(seed)
    count = 1 + int(rng.random() < 0.5)
    colours = rng.choice(len(COLOURS), size=count + 1, replace=False)
    palette = [tuple(COLOURS)[i] for i in colours]
    sizes = [str(rng.choice(tuple(SIZES))) for _ in range(count)]
    radii = [float(rng.uniform(*SIZES[size])) for size in sizes]
    position = relation = None
    if count == 1:
        position = str(rng.choice(tuple(POSITIONS)))
        centres = [_near(rng, np.asarray(POSITIONS[position]) * IMAGE_SIZE, radii[0])]
    else:
        relation = str(rng.choice(tuple(RELATIONS)))
        centres = _side_by_side(rng, relation, radii)
    shapes = [str(rng.choice(SHAPES)) for _ in range(count)]
    fills = [str(rng.choice(FILLS)) for _ in range(count)]
    things = tuple(
        Thing(shape, colour, size, fill, float(centre[0]), float(centre[1]), radius)
        for shape, colour, size, fill, centre, radius in zip(
            shapes, palette, sizes, fills, centres, radii, strict=False
        )
    )
    ground = str(rng.choice(GROUNDS))
    return Scene(seed, things, position, relation, palette[-1], ground, _choose_named(rng, count))


def caption(truth: Scene) -> str:
    """Return the caption of a scene: every attribute in `truth.named`, and no other, is stated."""
    named = set(truth.named)
    phrases = [_thing_phrase(thing, i, named) for i, thing in enumerate(truth.things)]
    if len(phrases) == 2:
        text = f"{phrases[0]} {truth.relation if 'relation' in named else 'and'} {phrases[1]}"
    else:
        text = phrases[0] + (f" {truth.position}" if "position" in named else "")
    words = [truth.ground_colour if "ground_colour" in named else "", truth.ground if "ground" in named else ""]
    adjectives = " ".join(word for word in words if word)
    return f"{text} on {_article(adjectives)} {adjectives} background" if adjectives else text


def complete(truth: Scene) -> Scene:
    """Return the same scene with a caption that leaves nothing open."""
    kinds = ("shape", "colour", "size", "fill")
    of_things = [f"{kind}.{i}" for i in range(len(truth.things)) for kind in kinds]
    whole = "position" if len(truth.things) == 1 else "relation"
    return replace(truth, named=(*of_things, whole, *_GROUND_NAMING_PROBABILITY))


def displaced(truth: Scene, right: float, down: float) -> Scene:
    """Return the scene with its things moved by pixels; they may leave the image, as when it is cropped."""
    things = tuple(replace(thing, x=thing.x + right, y=thing.y + down) for thing in truth.things)
    return replace(truth, things=things)


def counterfactuals(truth: Scene) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield, for each named attribute, the captions in which only that attribute has a different value."""
    for name in truth.named:
        kind, _, index = name.partition(".")
        own = getattr(truth.things[int(index)], kind) if index else getattr(truth, kind)
        others = [value for value in ATTRIBUTE_VALUES[kind] if value != own]
        yield name, tuple(caption(_with_attribute(truth, name, value)) for value in others)


class Layers(NamedTuple):
    """What an image is made of: the ground (64, 64, 3), of each thing the signed distance to its outline in pixels
    (64, 64) and its paint (64, 64, 3), and noise to add (64, 64, 3); colours in [0, 1]."""

    ground: NDArray[np.float64]
    things: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    noise: NDArray[np.float64]


def render(truth: Scene) -> NDArray[np.uint8]:
    """Return the image of a scene, shape (64, 64, 3), RGB, uint8; edges are anti-aliased by signed distances."""
    ground, things, noise = layers(truth)
    canvas = ground
    for distance, paint in things:
        canvas = over(canvas, paint, distance)
    return to_uint8(canvas + noise)


def layers(truth: Scene, colours: dict[str, tuple[float, float, float]] = COLOURS) -> Layers:
    """Return what the image of a scene is made of, with other colours under the same names if given."""
    rng = np.random.default_rng((truth.seed, 1))
    y, x = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE].astype(np.float64) + 0.5
    ground = _paint_ground(rng, truth, x, y, colours)
    things = []
    for thing in truth.things:
        angle = rng.uniform(-0.17, 0.17)
        u, v = rotate(x - thing.x, y - thing.y, angle)
        things.append((signed_distance(thing.shape, u, v, thing.radius), _paint_fill(rng, thing, v, colours)))
    return Layers(ground, tuple(things), rng.normal(0, 0.012, ground.shape))


def over(
    canvas: NDArray[np.float64], paint: NDArray[np.float64], distance: NDArray[np.float64], opacity: float = 1.0
) -> NDArray[np.float64]:
    """Return the canvas (h, w, 3) with paint where the distance (h, w) to an outline is negative."""
    cover = opacity * np.clip(0.5 - distance, 0, 1)[..., None]
    return canvas * (1 - cover) + paint * cover


def to_uint8(canvas: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return colours in [0, 1] as levels of 255."""
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def split_seeds(purpose: Purpose, count: int) -> range:
    """Return the first `count` seeds of a purpose; raises ValueError when the range holds fewer."""
    seeds = SEEDS[purpose]
    if not 0 < count <= len(seeds):
        raise ValueError(f"{count} {purpose} seeds were requested; choose between 1 and {len(seeds)}")
    return seeds[:count]


def _near(rng: np.random.Generator, centre: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    moved = centre + rng.uniform(-4, 4, 2)
    return np.clip(moved, radius + 1, IMAGE_SIZE - radius - 1)


def _side_by_side(rng: np.random.Generator, relation: str, radii: list[float]) -> list[NDArray[np.float64]]:
    """Centres of two things that do not overlap and have an unambiguous relation (one axis dominates)."""
    towards = np.asarray(RELATIONS[relation])
    gap = sum(radii) + rng.uniform(2, 8)
    gap = min(gap, IMAGE_SIZE - 2 - sum(radii))
    across = np.abs(towards[::-1]) * rng.uniform(-0.3, 0.3) * gap
    offset = towards * gap + across
    middle = IMAGE_SIZE / 2 + rng.uniform(-6, 6, 2)
    pair = [middle + offset / 2, middle - offset / 2]
    shift = np.zeros(2)
    for axis in range(2):
        low = max(radii[i] + 1 - pair[i][axis] for i in range(2))
        high = min(IMAGE_SIZE - 1 - radii[i] - pair[i][axis] for i in range(2))
        shift[axis] = np.clip(0.0, low, high) if low <= high else (low + high) / 2
    return [centre + shift for centre in pair]


def _choose_named(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    named: list[str] = []
    for i in range(count):
        named.append(f"shape.{i}")
        named += [f"{kind}.{i}" for kind in ("colour", "size", "fill") if rng.random() < _NAMING_PROBABILITY[kind]]
    whole = "position" if count == 1 else "relation"
    if rng.random() < _NAMING_PROBABILITY[whole]:
        named.append(whole)
    named += [kind for kind, probability in _GROUND_NAMING_PROBABILITY.items() if rng.random() < probability]
    return tuple(named)


def _thing_phrase(thing: Thing, index: int, named: set[str]) -> str:
    words = [getattr(thing, kind) for kind in ("size", "fill", "colour") if f"{kind}.{index}" in named]
    words.append(thing.shape)
    return f"{_article(words[0])} {' '.join(words)}"


def _article(word: str) -> str:
    return "an" if word[:1] in "aeiou" else "a"


def _with_attribute(truth: Scene, name: str, value: str) -> Scene:
    kind, _, index = name.partition(".")
    if not index:
        return replace(truth, **{kind: value})  # type: ignore[arg-type]
    things = list(truth.things)
    things[int(index)] = replace(things[int(index)], **{kind: value})  # type: ignore[arg-type]
    return replace(truth, things=tuple(things))


def _tint(rng: np.random.Generator, colour: tuple[float, float, float]) -> NDArray[np.float64]:
    return np.clip(np.asarray(colour) + rng.uniform(-0.04, 0.04, 3), 0, 1)


def shade(base: NDArray[np.float64], amount: float) -> NDArray[np.float64]:
    """Return a darker shade of a light colour, a lighter shade of a dark colour."""
    target = 0.0 if base.mean() > 0.25 else 1.0
    return base + (target - base) * amount


def _paint_ground(
    rng: np.random.Generator,
    truth: Scene,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    colours: dict[str, tuple[float, float, float]],
) -> NDArray[np.float64]:
    base = _tint(rng, colours[truth.ground_colour])
    other = shade(base, 0.22)
    turned = rng.uniform(-0.15, 0.15)
    if truth.ground == "striped":
        turned += rng.choice((-np.pi / 4, np.pi / 4))
    u, v = rotate(x, y, turned)
    pitch = rng.uniform(9, 11)
    start = rng.uniform(0, pitch, 2)
    if truth.ground == "striped":
        mix = wave(2 * np.pi * (u + start[0]) / pitch, 2.0)
    elif truth.ground == "checkered":
        product = np.sin(np.pi * (u + start[0]) / (0.6 * pitch)) * np.sin(np.pi * (v + start[1]) / (0.6 * pitch))
        mix = np.clip(0.5 + 3.0 * product, 0, 1)
    elif truth.ground == "speckled":
        mix = _specks(rng, x, y)
    else:
        mix = np.zeros_like(u)
    slope = (np.cos(rng.uniform(0, 2 * np.pi)) * (x - 32) + np.sin(rng.uniform(0, 2 * np.pi)) * (y - 32)) / 64
    return base + (other - base) * mix[..., None] + 0.04 * slope[..., None]


def _specks(rng: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return about a hundred specks of one to two pixels on a jittered lattice."""
    cell = 6.0
    lattice = np.arange(-1, IMAGE_SIZE / cell + 1) * cell
    cx, cy = np.meshgrid(lattice, lattice)
    cx = cx + rng.uniform(0, cell, cx.shape)
    cy = cy + rng.uniform(0, cell, cy.shape)
    radius = rng.uniform(0.8, 1.7, cx.shape)
    around = np.arange(-2, 3)  # no speck reaches further
    columns, rows = np.broadcast_arrays(
        cx.ravel().astype(int)[:, None, None] + around, cy.ravel().astype(int)[:, None, None] + around[:, None]
    )
    inside = (columns >= 0) & (columns < IMAGE_SIZE) & (rows >= 0) & (rows < IMAGE_SIZE)
    own, pixels = np.nonzero(inside)[0], (rows[inside], columns[inside])
    distance = np.hypot(x[pixels] - cx.ravel()[own], y[pixels] - cy.ravel()[own]) - radius.ravel()[own]
    mix = np.zeros_like(x)
    np.maximum.at(mix, pixels, np.clip(0.5 - distance, 0, 1))
    return mix


def _paint_fill(
    rng: np.random.Generator, thing: Thing, v: NDArray[np.float64], colours: dict[str, tuple[float, float, float]]
) -> NDArray[np.float64]:
    base = _tint(rng, colours[thing.colour])
    other = shade(base, 0.55)
    mix = wave(2 * np.pi * v / rng.uniform(6.5, 7.5), 1.2) if thing.fill == "striped" else np.zeros_like(v)
    return base + (other - base) * mix[..., None]
