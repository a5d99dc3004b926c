"""The trace of a covariance's square root with one row left out, or two, from one eigendecomposition. numpy only.

Leaving out a row changes a covariance by rank one, and tr √(A − α u uᵀ) − tr √A is the integral over t > 0 of
log(1 − α uᵀ (A + t²)⁻¹ u)/π: tr √A = (1/π) ∫ tr A (A + t²)⁻¹ dt by parts, with the matrix determinant lemma. In the
basis of A's eigenvectors the quadratic form is Σ u_k²/(λ_k + t²), one matrix product for all rows and all nodes t.

Leaving out rows i and j changes it by rank two. With g_ij = c_iᵀ (S + τ)⁻¹ c_j, S the scatter, c the centred rows,
ε = 1/(n − 2) and p_i = 1 − (1 + ε) g_ii, the determinant is p_i p_j − 2 ε g_ij − (1 + 2ε) g_ij² − ε² g_ii g_jj. Its
logarithm, averaged over j, is taken to second order in g_ij². Its means need Σ_j g_ij² = c_iᵀ (S + τ)⁻¹ S
(S + τ)⁻¹ c_i alone, known for every row, if g_ij² is in proportion to those of i and of j, and g_ij normal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
STEP = 0.4
"""Step in log t. The integrand is analytic within π/2 of the real line: relative error about exp(−π²/STEP), 2e-11."""


@dataclass(frozen=True)
class Deletions:
    """tr √ without each row in turn (n,), and without it and another one, mean over the others (n,)."""

    one: Floats
    two: Floats


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

    @cached_property
    def _products(self) -> Floats:
        """1/(λ + t²), then λ/(λ + t²)², side by side."""
        return np.hstack([self.resolvents, self.values[:, None] * np.square(self.resolvents)])

    @cached_property
    def _differences(self) -> Floats:
        """1/(√λ_a √λ_b (√λ_a + √λ_b)), (r, r)."""
        roots = np.sqrt(self.values)
        differences: Floats = 1 / (np.outer(roots, roots) * np.add.outer(roots, roots))
        return differences

    def forms(self, squares: Floats, n: int) -> Floats:
        """g_ii, and Σ_j g_ij² over all n rows, at each node side by side, (b, 2 nodes).

        `squares` (b, r) are the squared coordinates, in the eigenvectors' basis, of rows less the mean over all n.
        """
        found: Floats = squares @ self._products / (n - 1)
        return found

    def deletions(self, forms: Floats) -> Deletions:
        """tr √ of the covariance of the rows that are left, from the forms (n, 2 nodes) of all rows."""
        n = len(forms)
        own, others = np.split(forms, 2, axis=1)
        change = np.log1p(-np.minimum(n / (n - 1) * own, 1 - 1e-15)) @ self.weights
        left = np.maximum(1 - (n - 1) / (n - 2) * own, 1e-15)
        others = others - np.square(own)  # the row itself is none of the others
        logs, own, weighed = np.log(left) @ self.weights, own / left, others / left
        epsilon, total = 1 / (n - 2), others.sum(axis=0)
        squared = weighed @ (weighed.sum(axis=0) / total * self.weights)
        # a normal g_ij has a fourth moment of three times its variance, squared
        fourth = np.square(weighed) @ (3 * np.square(weighed).sum(axis=0) / np.square(total) * self.weights)
        crossed = own @ (own.sum(axis=0) * self.weights) - np.square(own) @ self.weights
        lost = (1 + 2 * epsilon) * squared - 2 * epsilon * (own / left) @ self.weights + epsilon**2 * crossed
        changes = logs + (logs.sum() - logs - lost - fourth / 2) / (n - 1)
        return Deletions(
            np.sqrt((n - 1) / (n - 2)) * (self.root_trace + change),
            np.sqrt((n - 1) / (n - 3)) * (self.root_trace + changes),
        )

    def interactions(self, rows: Floats, first: Indices, second: Indices) -> Floats:
        """Second-order influence of pairs (p,) of rows (b, r) on mean and −2 tr √A together: the von Mises expansion.

        2 Σ u_a v_a/√λ_a + Σ_ab w_ab (u_a u_b − δ_ab λ_a) (v_a v_b − δ_ab λ_a), w_ab = 1/(√λ_a √λ_b (√λ_a + √λ_b)): the
        divided differences of λ^(−½)/2 (second derivative of a trace function, Bhatia, Matrix Analysis, V.3).
        """
        roots = np.sqrt(self.values)
        products = rows.take(first, axis=0) * rows.take(second, axis=0)
        own = np.square(rows) @ (0.5 / roots)
        pairs: Floats = 2 * products @ (1 / roots) + np.einsum("pa,pa->p", products @ self._differences, products)
        return pairs - own.take(first) - own.take(second) + 0.5 * float(roots.sum())
