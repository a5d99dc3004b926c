"""Features whose true distances are known: what the calibrations draw from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.score.frechet import Reference

Floats = NDArray[np.float64]
Generator = np.random.Generator
SCALES = np.array([0.5, 0.8, 1.0, 1.4])
FAMILIES: dict[str, Callable[[Generator, int, int], Floats]] = {
    "gaussian": lambda rng, n, d: rng.standard_normal((n, d)),
    "heavy-tailed": lambda rng, n, d: rng.standard_normal((n, d)) * np.sqrt(7 / rng.chisquare(9, (n, 1))),
    "skewed": lambda rng, n, d: rng.exponential(1.0, (n, d)) - 1,
    "mixture": lambda rng, n, d: (
        rng.standard_normal((n, d)) * SCALES[(own := rng.integers(0, 4, n))][:, None] + centres(d)[own]
    ),
}
"""Rows (n, d) of mean 0 and covariance I, but for the mixture, whose components differ in mean and scale. The heavy
tails are those of Student's t with 9 degrees of freedom."""


def centres(d: int) -> Floats:
    """Means (4, d) of the mixture's components, with mean zero."""
    drawn = 0.7 * np.random.default_rng(d).standard_normal((4, d))
    return drawn - drawn.mean(axis=0)


@dataclass(frozen=True)
class World:
    """A method's features: standard rows times `mixing`; a second, similar method's: those by `change`, and noise."""

    family: str
    d: int
    mixing: Floats
    change: Floats
    noise: float

    def draw(self, rng: Generator, n: int, per_prompt: int = 1, correlation: float = 0.0) -> tuple[Floats, Floats]:
        """Paired features (n, d) of the two methods; `per_prompt` rows after one another share part of their variance.

        That share is `correlation`; moments are the same whatever it is.
        """
        ours = self.draw_one(rng, n)
        if per_prompt > 1:
            shared = np.repeat(self.draw_one(rng, n // per_prompt), per_prompt, axis=0)
            ours = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * ours
        return ours, ours @ self.change + self.noise * rng.standard_normal((n, self.d)) + 0.02

    def draw_one(self, rng: Generator, n: int) -> Floats:
        """Features (n, d) of the first method alone."""
        return FAMILIES[self.family](rng, n, self.d) @ self.mixing

    def moments(self) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """True mean and covariance of either method."""
        between = centres(self.d).T @ centres(self.d) / 4 + np.mean(SCALES**2) * np.eye(self.d)
        covariance = self.mixing.T @ (between if self.family == "mixture" else np.eye(self.d)) @ self.mixing
        theirs = self.change.T @ covariance @ self.change + self.noise**2 * np.eye(self.d)
        return (np.zeros(self.d), covariance), (np.full(self.d, 0.02), theirs)


def make_world(family: str, d: int, decay: float = 3.0) -> World:
    """Standard deviations fall by exp(−decay) from the first principal axis to the last."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    mixing = np.exp(-decay * np.linspace(0, 1, d))[:, None] * axes
    change = np.eye(d) + 0.15 * rng.standard_normal((d, d)) / np.sqrt(d)
    return World(family, d, mixing, change, 0.05 * float(np.sqrt(np.mean(mixing**2) * d)))


def make_reference(world: World, m: int) -> Reference:
    """Real images: the same kind of features, each principal axis stretched by another factor, and shifted."""
    rng = np.random.default_rng(2)
    stretch = np.exp(0.15 * rng.standard_normal(world.d))
    rows = FAMILIES[world.family](rng, m, world.d) * stretch @ world.mixing
    return Reference.of(rows + 0.15 * np.sqrt(np.mean(world.mixing**2)) * rng.standard_normal(world.d))


def true_distance(moments: tuple[Floats, Floats], reference: Reference) -> float:
    """Fréchet distance of true moments from the reference's."""
    mean, covariance = moments
    shift, factor = mean - reference.moments.mean, reference.factor
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(factor.T @ covariance @ factor), 0, None))
    return float(shift @ shift + np.trace(covariance) + np.trace(reference.moments.covariance) - 2 * roots.sum())
