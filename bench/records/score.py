"""Scores as plain data: a number with its uncertainty, or the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass


def split_score(name: str) -> tuple[str, str | None]:
    """Return the parts of a score's name: `fid@mini` → ("fid", "mini"), `sharpness` → ("sharpness", None)."""
    short, found, extractor = name.partition("@")
    return short, extractor if found else None


@dataclass(frozen=True, slots=True)
class Score:
    """One number about a set of images, or about the difference of two sets, with its uncertainty.

    `value` is the number that other tools print (a Fréchet distance falls as n grows, in the same way in all tools);
    `debiased` is the value without its bias, equal to it where there is none, and the 95% `interval` (low, high) is
    around it. `n` counts images, `groups` the prompts that they belong to, which are the independent units (None where
    each image has its own prompt). `reference_bias` is the contribution of the reference set's own size to a
    Fréchet distance, where its noise is counted: `debiased` then excludes it, and elsewhere includes it. `fallback` is
    None unless theory gives no interval: then `standard_error`, `debiased` and `interval` are None, and it holds the
    reason and the substitute.
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
        """The size of the sample: "512 images", or "512 images of 32 prompts"."""
        return f"{self.n} images" + ("" if self.groups is None else f" of {self.groups} prompts")


@dataclass(frozen=True, slots=True)
class Fallback:
    """The substitute for a score without an interval: its name, the reason, and its score (None if not available)."""

    name: str
    reason: str
    score: Score | None

    def __str__(self) -> str:
        """Return a display text: `kernel distance instead: 40 images are too few …`."""
        return f"{self.name} instead: {self.reason}" if self.score else f"no interval: {self.reason}"
