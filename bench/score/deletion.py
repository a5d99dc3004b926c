"""The trace of a covariance's square root with each row left out, all n of them from one eigendecomposition. numpy.

Leaving out a row changes a covariance by rank one, and tr √(A − α u uᵀ) − tr √A is the integral over t > 0 of
log(1 − α uᵀ (A + t²)⁻¹ u)/π: tr √A = (1/π) ∫ tr A (A + t²)⁻¹ dt by parts, with the matrix determinant lemma. In the
basis of A's eigenvectors the quadratic form is Σ u_k²/(λ_k + t²), one matrix product for all rows and all nodes t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEP = 0.4
"""Step in log t. The integrand is analytic within π/2 of the real line: relative error about exp(−π²/STEP), 2e-11."""


@dataclass(frozen=True)
class Spectrum:
    """The positive eigenvalues (r,) of a covariance, and nodes and weights of the integral for that range."""

    values: Floats
    resolvents: Floats
    """1/(λ + t²) at each eigenvalue and node, (r, nodes)."""
    weights: Floats

    @classmethod
    def of(cls, values: Floats) -> Spectrum:
        """From positive eigenvalues."""
        low, high = 0.005 * np.sqrt(values.min()), 200 * np.sqrt(values.max())
        nodes = np.exp(np.arange(np.log(low), np.log(high) + STEP, STEP))
        weights = STEP * nodes
        # Below the first node the logarithm is constant, above the last it falls like 1/t²: both sums are geometric.
        weights[0] += weights[0] / np.expm1(STEP)
        weights[-1] += weights[-1] / np.expm1(STEP)
        return cls(values, 1 / (values[:, None] + np.square(nodes)), weights / np.pi)

    @property
    def root_trace(self) -> float:
        """tr √A."""
        return float(np.sqrt(self.values).sum())

    def root_trace_without(self, squares: Floats, n: int) -> Floats:
        """tr √ of the covariance with divisor n − 2 of the rows but one, for each of the rows given.

        `squares` (b, r) are the squared coordinates, in the eigenvectors' basis, of rows less the mean over all n.
        """
        weight = n / (n - 1) ** 2
        leverage = np.minimum(weight * (squares @ self.resolvents), 1 - 1e-15)
        change = np.log1p(-leverage) @ self.weights
        without: Floats = np.sqrt((n - 1) / (n - 2)) * (self.root_trace + change)
        return without

    def interactions(self, ours: Floats, theirs: Floats) -> Floats:
        """Second-order influence of pairs of rows (p, r) on mean and −2 tr √A together, by the von Mises expansion.

        2 Σ u_a v_a/√λ_a + Σ_ab w_ab (u_a u_b − δ_ab λ_a) (v_a v_b − δ_ab λ_a), w_ab = 1/(√λ_a √λ_b (√λ_a + √λ_b)): the
        divided differences of λ^(−½)/2 (second derivative of a trace function, Bhatia, Matrix Analysis, V.3).
        """
        roots = np.sqrt(self.values)
        weights = 1 / (np.outer(roots, roots) * np.add.outer(roots, roots))
        products = ours * theirs
        own = (np.square(ours) + np.square(theirs)) @ (0.5 / roots)
        pairs: Floats = 2 * products @ (1 / roots) + np.einsum("pa,pa->p", products @ weights, products)
        return pairs - own + 0.5 * float(roots.sum())
