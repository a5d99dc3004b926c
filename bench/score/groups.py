"""Clusters of images: images of one prompt depend on each other, so prompts are the independent units. numpy only.

A sum of influences within each group is one independent value, and the squared standard error of a score is
G/(G − 1) Σ_g (Σ_{i∈g} ψ_i)²/n² (Liang and Zeger 1986, Biometrika 73:13, CR1 in the words of econometrics).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Floats = NDArray[np.float64]
_Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of each image: `labels` (n,), integers from 0 to `count` − 1, each of which occurs."""

    labels: _Rows
    count: int

    @classmethod
    def of(cls, labels: ArrayLike | Groups | None, n: int) -> Groups | None:
        """Create from any sortable labels (n,); None where every image is its own group.

        Raises ValueError for another number of labels than images.
        """
        if labels is None:
            return None
        given = labels.labels if isinstance(labels, Groups) else np.asarray(labels)
        if given.shape != (n,):
            raise ValueError(
                f"groups of shape {given.shape} were given for {n} images; name the group (the prompt) of each, ({n},)"
            )
        names, numbers = np.unique(given, return_inverse=True)
        return None if len(names) == n else cls(numbers.astype(np.intp), len(names))

    @cached_property
    def sizes(self) -> _Rows:
        """Images in each group, (count,)."""
        return np.bincount(self.labels, minlength=self.count).astype(np.intp)

    @cached_property
    def order(self) -> _Rows:
        """The images sorted by group, (n,)."""
        return np.argsort(self.labels, kind="stable")

    @cached_property
    def starts(self) -> _Rows:
        """The start of each group in `order`, (count,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.intp)

    @cached_property
    def effective(self) -> float:
        """n²/Σ m², m the sizes: the effective number of groups, equal to `count` for groups of equal size."""
        return float(len(self.labels) ** 2 / np.square(self.sizes, dtype=np.float64).sum())

    def tiles(self, rows: int) -> list[tuple[slice, slice]]:
        """Return runs of whole groups with `rows` images or a little more: slices of `order`, and of the groups."""
        ends = self.starts + self.sizes
        found, begun = [], 0
        while begun < self.count:
            last = min(int(np.searchsorted(ends, self.starts[begun] + rows)) + 1, self.count)
            found.append((slice(int(self.starts[begun]), int(ends[last - 1])), slice(begun, last)))
            begun = last
        return found

    def units(self, influence: _Floats) -> _Floats:
        """Return the influence (count,) of each group, scaled so that s²/count is the squared standard error."""
        units: _Floats = np.zeros(self.count)
        np.add.at(units, self.labels, influence * (self.count / len(self.labels)))
        return units

    def spread(self, units: _Floats) -> _Floats:
        """Return influences (n,) of images, equal within a group, with the given `units`."""
        share: _Floats = len(self.labels) / (self.count * self.sizes.astype(np.float64))
        return (units * share)[self.labels]

    def same_as(self, other: Groups | None) -> bool:
        """Whether both group the images in the same way."""
        return other is not None and self.count == other.count and bool(np.array_equal(self.labels, other.labels))


def independent(groups: Groups | None, n: int) -> int:
    """Return the number of independent units, for minima of intervals: images, or the effective number of groups."""
    return n if groups is None else int(groups.effective + 1e-9)


def describe_sample(groups: Groups | None, n: int) -> str:
    """Return a text: "512 images", or "512 images of 32 prompts", with the effective number where sizes differ."""
    if groups is None:
        return f"{n} image{'s' if n != 1 else ''}"
    effective = independent(groups, n)
    unequal = "" if effective == groups.count else f" (as much as {effective}, some have many more images than others)"
    return f"{n} images of {groups.count} prompt{'s' if groups.count != 1 else ''}{unequal}"
