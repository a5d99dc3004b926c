"""Mean and covariance of features (n, d), in float64, with memory independent of n. numpy only."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Floats = NDArray[np.float64]
BLOCK = 1024
"""The number of rows converted to float64 at a time."""


@dataclass(frozen=True)
class Moments:
    """Mean (d,), covariance (d, d) with divisor n − 1, and the number of rows."""

    mean: _Floats
    covariance: _Floats
    n: int


def features_to_moments(features: NDArray[np.floating]) -> Moments:
    """Return moments of features (n, d), in float64; raises ValueError for fewer than two rows or values not finite."""
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


def float64_blocks(features: NDArray[np.floating]) -> Iterator[_Floats]:
    """Yield copies of up to BLOCK rows in float64, in order."""
    for i in range(0, len(features), BLOCK):
        yield features[i : i + BLOCK].astype(np.float64)


def as_floats(values: ArrayLike) -> NDArray[np.floating[Any]]:
    """Return float arrays, and tensors on a CPU, without a copy; other numbers as float64."""
    array = np.asarray(values)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def row_keys(features: NDArray[np.floating]) -> list[int]:
    """Return a hash of each row in single precision: equal for equal rows of any precision.

    Of more than 64 columns, 64 or a few more at equal distances are read.
    """
    columns = np.ascontiguousarray(features[:, :: max(features.shape[1] // 64, 1)], np.float32)
    return [hash(row.tobytes()) for row in columns + np.float32(0)]  # -0 is 0


def overlap(ours: Collection[int], theirs: frozenset[int]) -> str | None:
    """Describe why two sets of `row_keys` are not independent: more than 1% of the images are in both; else None."""
    shared = len(theirs.intersection(ours))
    if shared <= max(0.01 * len(ours), 1):
        return None
    return (
        f"{shared} different images of {len(ours)} are among the reference images too (equal features), so the two "
        "sets are not independent"
    )
