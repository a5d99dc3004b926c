"""Diversity of the images of one prompt, as a mean over prompts. numpy only.

The value of each prompt is computed from its images alone, so that prompts are the independent units, and the
interval is that of a mean of their values (`bench.score.estimate`). Prompts count equally, however many images they
have. Intervals cover new prompts and new noise together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.score.estimate import FEWEST, ROUNDING, Estimate
from bench.score.groups import Groups, describe_sample

_Floats = NDArray[np.float64]
_AT_ONCE = 4096
"""Images whose features are compared at once, so that little memory is needed."""


def pairwise_distance_estimate(features: NDArray[Any], groups: Groups | None) -> Estimate:
    """Return the mean distance 1 − cosine between the features (n, d) of two images of the same prompt, 0 to 2.

    The mean over all pairs of a prompt has no bias, however many images there are. Raises ValueError where a prompt has
    fewer than two images, or for features without a direction.
    """
    of = _several(groups, len(features))
    values = np.empty(of.count)
    for prompts, cosines in _cosines(features, of):
        k = cosines.shape[1]
        pairs = cosines.sum(axis=(1, 2)) - np.trace(cosines, axis1=1, axis2=2)
        values[prompts] = np.maximum(1 - pairs / (k * (k - 1)), 0.0)  # below zero by rounding alone
    return _spread(values, of, features.dtype, 2.0)


def vendi_estimate(features: NDArray[Any], groups: Groups | None) -> Estimate:
    """Return the mean Vendi score of the images of a prompt: how many different ones they amount to, 1 to k.

    exp(−Σ λ log λ) over the eigenvalues λ of K/k, with K the cosines of the features (n, d) of a prompt's k images
    (Friedman and Dieng 2023, arXiv 2210.02410, definition 1). It grows with k, so that only values at the same number
    of images per prompt can be compared. Raises ValueError as `pairwise_distance_estimate`.
    """
    of = _several(groups, len(features))
    values = np.empty(of.count)
    for prompts, cosines in _cosines(features, of):
        shares = np.clip(np.linalg.eigvalsh(cosines / cosines.shape[1]), 0.0, None)
        logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        values[prompts] = np.exp(-(shares * logarithms).sum(axis=1))
    return _spread(values, of, features.dtype, float(of.sizes.max()))


def mean_of_prompts(values: NDArray[Any], groups: Groups | None) -> Estimate:
    """Return the mean over prompts of the mean of a per-image number (n,), of which each prompt counts equally.

    Raises ValueError where a prompt has fewer than two images, or for values that are not finite.
    """
    of = _several(groups, len(values))
    rows = np.asarray(values, np.float64)
    return _spread(np.bincount(of.labels, rows, of.count) / of.sizes, of, values.dtype, float(np.abs(rows).max()))


def _cosines(features: NDArray[Any], groups: Groups) -> Iterator[tuple[NDArray[np.intp], _Floats]]:
    """Yield the numbers of m prompts with k images each, and the cosines (m, k, k) of their images."""
    for size in np.unique(groups.sizes):
        alike = np.flatnonzero(groups.sizes == size)
        for prompts in np.array_split(alike, 1 + len(alike) * int(size) // _AT_ONCE):
            rows = groups.order[groups.starts[prompts, None] + np.arange(size)]
            wide = np.asarray(features[rows], np.float64)
            lengths = np.linalg.norm(wide, axis=2, keepdims=True)
            if not np.isfinite(lengths).all() or not lengths.all():
                raise ValueError("some features have no direction (zero, NaN or infinite); diversity is by cosines")
            units = wide / lengths
            yield prompts, units @ units.swapaxes(1, 2)


def _several(groups: Groups | None, n: int) -> Groups:
    """Return the groups of images; raises ValueError where one has a single image."""
    single = n if groups is None else int((groups.sizes < 2).sum())
    if groups is None or single:
        of = n if groups is None else groups.count
        raise ValueError(
            f"{single} of {of} prompts have a single image, and diversity is among the images of a prompt; sample two "
            "or more of each (prompts.images_per_prompt)"
        )
    return groups


def _spread(values: _Floats, groups: Groups, kind: np.dtype[Any], largest: float) -> Estimate:
    """Return the mean of one value per prompt, as an estimate with an influence per image."""
    mean, exact = float(values.mean()), kind if kind in (np.float16, np.float32) else np.float64
    few = (
        f"{describe_sample(groups, len(groups.labels))} are too few for an interval: it takes {FEWEST} prompts or more"
    )
    return Estimate(
        mean,
        groups.spread(values - mean),
        groups=groups,
        resolution=ROUNDING * float(np.finfo(exact).eps) * largest,
        mean_of="values",
        problem=few if groups.count < FEWEST else None,
    )
