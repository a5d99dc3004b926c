"""Features (n, d) → mean and covariance, in float64, with memory that does not grow with n. numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BLOCK = 1024
"""How many rows are converted to float64 at a time."""


@dataclass(frozen=True)
class Moments:
    """Mean (d,), covariance (d, d) with divisor n − 1, and how many rows they were taken from."""

    mean: Floats
    covariance: Floats
    n: int


def features_to_moments(features: NDArray[np.floating]) -> Moments:
    """Moments of features (n, d), in float64; raises ValueError for fewer than two rows or values not finite."""
    check_features(features)
    n, d = features.shape
    mean, scatter = np.zeros(d), np.zeros((d, d))
    for block in float64_blocks(features):
        mean += block.sum(axis=0) / n
    for block in float64_blocks(features):
        block -= mean
        scatter += block.T @ block
    return Moments(mean, scatter / (n - 1), n)


def check_features(features: NDArray[np.floating], what: str = "features", d: int | None = None) -> None:
    """Raise ValueError unless there are two finite rows or more, of `d` columns where that is given."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"{what} of shape {features.shape} were given; moments need at least 2 rows of features (n, d), one an "
            "image"
        )
    if not all(np.isfinite(features[i : i + BLOCK]).all() for i in range(0, len(features), BLOCK)):
        raise ValueError(f"{what} hold NaN or infinity; look for broken images")
    if d is not None and features.shape[1] != d:
        raise ValueError(
            f"{what} of {features.shape[1]} dimensions were given, the reference has {d}; use one extractor for both"
        )


def float64_blocks(features: NDArray[np.floating]) -> Iterator[Floats]:
    """Copies of up to BLOCK rows in float64, in order."""
    for i in range(0, len(features), BLOCK):
        yield features[i : i + BLOCK].astype(np.float64)
