"""Scores as plain data: a number with its uncertainty, or the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """One number about a set of images, or about the difference of two, with its uncertainty.

    `value` is what other tools print (for the Fréchet distance a number that falls as n grows, the same way for all
    tools); `debiased` is the value without its bias, equal to it where there is none, and the 95% `interval` (low,
    high) is around it. `n` counts images, `groups` the prompts that they are of, which are the independent units
    (None where each image has one of its own). `reference_bias` is what the reference set's own size adds to a
    Fréchet distance, where its noise is counted: `debiased` is without it then, and with it elsewhere. `fallback`
    is None unless theory gives no interval: then `standard_error`, `debiased` and `interval` are None, and it says
    why and what stands in.
    """

    value: float
    standard_error: float | None
    debiased: float | None
    interval: tuple[float, float] | None
    n: int
    fallback: Fallback | None
    groups: int | None = None
    reference_bias: float | None = None

    @property
    def sample(self) -> str:
        """What it was taken from: "512 images", or "512 images of 32 prompts"."""
        return f"{self.n} images" + ("" if self.groups is None else f" of {self.groups} prompts")


@dataclass(frozen=True, slots=True)
class Fallback:
    """What stands in for a score that has no interval: its name, the reason, and its score (None where none can)."""

    name: str
    reason: str
    score: Score | None

    def __str__(self) -> str:
        """For people: `kernel distance instead: 40 images are too few …`."""
        return f"{self.name} instead: {self.reason}" if self.score else f"no interval: {self.reason}"
