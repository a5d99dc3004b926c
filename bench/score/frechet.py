"""Fréchet distance between feature sets (Heusel et al. 2017, arXiv 1706.08500, eq. 6). numpy only.

‖m − m_r‖² + tr(S) + tr(S_r) − 2 tr((S S_r)^½), the covariances with divisor n − 1, as torchmetrics defines it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.score.estimate import Estimate

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


@dataclass(frozen=True)
class Reference:
    """What a reference set contributes to every distance from it; computed once."""

    moments: Moments
    root: Floats
    """Symmetric square root R of the covariance."""

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Reference:
        """From features (n, d)."""
        moments = features_to_moments(features)
        return cls(moments, _symmetric_root(moments.covariance))


def frechet_distance(features: NDArray[np.floating], reference: Reference) -> Estimate:
    """The squared Fréchet (2-Wasserstein) distance of the Gaussians that fit features (n, d) and the reference.

    tr((S S_r)^½) = tr((R S R)^½) is taken from the eigenvalues of a symmetric matrix: no general matrix square root, no
    imaginary part. The influence of image x is
    2 (x − m)·(m − m_r) + (x − m)ᵀ (I − T) (x − m) − tr((I − T) S), T = R (R S R)^(−½) R
    (delta method; limit law: Rippl, Munk, Sturm, arXiv 1507.04090), the reference held fixed.
    """
    ours = features_to_moments(features)
    values, vectors = np.linalg.eigh(reference.root @ ours.covariance @ reference.root)
    values = np.clip(values, 0, None)
    shift = ours.mean - reference.moments.mean
    traces = np.trace(ours.covariance) + np.trace(reference.moments.covariance)
    distance = float(shift @ shift + traces - 2 * np.sqrt(values).sum())
    keep = values > values.max() * len(values) * np.finfo(np.float64).eps
    half = (reference.root @ vectors[:, keep]) / values[keep] ** 0.25
    centred = np.asarray(features, np.float64) - ours.mean
    quadratic = np.square(centred).sum(axis=1) - np.square(centred @ half).sum(axis=1)
    influence = 2 * centred @ shift + quadratic
    return Estimate(distance, influence - influence.mean())


def _symmetric_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root
