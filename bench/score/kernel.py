"""Kernel inception distance (Bińkowski et al. 2018, arXiv 1801.01401): unbiased MMD², cubic polynomial kernel. numpy.

k(x, y) = (x·y/d + 1)³. The U-statistic over all pairs is used, not an average over random subsets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.score.estimate import Estimate

Floats = NDArray[np.float64]


def kernel_distance(
    features: NDArray[np.floating], reference: NDArray[np.floating], among_reference: float | None = None
) -> Estimate:
    """MMD² of features (n, d) and reference (m, d), and each image's influence on it, the reference held fixed.

    The influence is the Hájek projection of the U-statistic: 2 (mean_j k(x, x_j) − mean_r k(x, r)), centred.
    `among_reference` is `mean_kernel(reference)` where it is known already.
    """
    x, r = np.asarray(features, np.float64), np.asarray(reference, np.float64)
    n = len(x)
    if n < 2 or not np.isfinite(x).all():
        raise ValueError(
            f"features of shape {x.shape} were given; a kernel distance needs 2 finite rows (n, d) or more"
        )
    own, cross = _kernel(x, x), _kernel(x, r)
    np.fill_diagonal(own, 0.0)
    to_own, to_reference = own.sum(axis=1) / (n - 1), cross.mean(axis=1)
    among_reference = mean_kernel(r) if among_reference is None else among_reference
    value = float(to_own.mean() + among_reference - 2 * to_reference.mean())
    influence = 2 * (to_own - to_reference)
    return Estimate(value, influence - influence.mean())


def mean_kernel(rows: NDArray[np.floating]) -> float:
    """Mean of the kernel over all pairs of different rows (m, d)."""
    x = np.asarray(rows, np.float64)
    kernel = _kernel(x, x)
    return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))


def _kernel(a: Floats, b: Floats) -> Floats:
    kernel: Floats = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel
