"""Fréchet distance between feature sets (Heusel et al. 2017, arXiv 1706.08500, eq. 6). numpy only.

‖m − m_r‖² + tr(S) + tr(S_r) − 2 tr((S S_r)^½), the covariances with divisor n − 1, as torchmetrics defines it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean (d,), covariance (d, d) with divisor n − 1, and how many rows they were taken from."""

    mean: Floats
    covariance: Floats
    n: int


def features_to_moments(features: NDArray[np.floating]) -> Moments:
    """Moments of features (n, d), in float64; raises ValueError for fewer than two rows or values not finite."""
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"features of shape {rows.shape} were given; moments need at least 2 rows of features (n, d)")
    if not np.isfinite(rows).all():
        raise ValueError("features hold NaN or infinity; look for broken images")
    return Moments(rows.mean(axis=0), np.cov(rows, rowvar=False).reshape(rows.shape[1], rows.shape[1]), len(rows))


def frechet_distance_of(ours: Moments, reference: Moments) -> float:
    """The squared Fréchet (2-Wasserstein) distance of two Gaussians.

    tr((S S_r)^½) = tr((R S R)^½) with R = S_r^½ is taken from the eigenvalues of a symmetric matrix, so no general
    matrix square root is needed and no imaginary part can appear.
    """
    root = _symmetric_root(reference.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ ours.covariance @ root)
    overlap = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    shift = ours.mean - reference.mean
    return float(shift @ shift + np.trace(ours.covariance) + np.trace(reference.covariance) - 2 * overlap)


def _symmetric_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root
