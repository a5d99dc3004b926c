"""Kernel inception distance (Bińkowski et al. 2018, arXiv 1801.01401): unbiased MMD², cubic polynomial kernel. numpy.

k(x, y) = (x·y/d + 1)³. The U-statistic over all pairs is used, not an average over random subsets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.score.estimate import Estimate

Floats = NDArray[np.float64]


def kernel_distance(features: NDArray[np.floating], reference: NDArray[np.floating]) -> Estimate:
    """MMD² of features (n, d) and reference (m, d), and each image's influence on it, the reference held fixed.

    The influence is the Hájek projection of the U-statistic: 2 (mean_j k(x, x_j) − mean_r k(x, r)), centred.
    """
    x, r = np.asarray(features, np.float64), np.asarray(reference, np.float64)
    n, m = len(x), len(r)
    own, cross = _kernel(x, x), _kernel(x, r)
    np.fill_diagonal(own, 0.0)
    to_own, to_reference = own.sum(axis=1) / (n - 1), cross.mean(axis=1)
    among_reference = _mean_off_diagonal(r, m)
    value = float(to_own.mean() + among_reference - 2 * to_reference.mean())
    influence = 2 * (to_own - to_reference)
    return Estimate(value, influence - influence.mean())


def _kernel(a: Floats, b: Floats) -> Floats:
    kernel: Floats = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def _mean_off_diagonal(rows: Floats, count: int) -> float:
    kernel = _kernel(rows, rows)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
