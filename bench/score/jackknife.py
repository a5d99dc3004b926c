"""The trace of a covariance's square root without one or two rows, from one eigendecomposition. numpy only.

Leaving out a row changes a covariance by rank one, and tr √(A − α u uᵀ) − tr √A is the integral over t > 0 of
log(1 − α uᵀ (A + t²)⁻¹ u)/π: tr √A = (1/π) ∫ tr A (A + t²)⁻¹ dt by parts, with the matrix determinant lemma. In the
basis of A's eigenvectors the quadratic form is Σ u_k²/(λ_k + t²), one matrix product for all rows and all nodes t.

Leaving out rows i and j changes it by rank two. With g_ij = c_iᵀ (S + τ)⁻¹ c_j, S the scatter, c the centred rows,
ε = 1/(n − 2) and p_i = 1 − (1 + ε) g_ii, the determinant is p_i p_j − 2 ε g_ij − (1 + 2ε) g_ij² − ε² g_ii g_jj. Its
logarithm, averaged over j, is taken to second order in g_ij². Its means need Σ_j g_ij² = c_iᵀ (S + τ)⁻¹ S
(S + τ)⁻¹ c_i alone, known for every row, if g_ij² is in proportion to those of i and of j, and g_ij normal.

Groups of rows are left out in the same way: g_ii becomes the k × k matrix G of inner products within a group, 1 − g_ii
the determinant of 1 − G, and g_ij² the trace of K X K' Xᵀ, K = (1 − G)⁻¹, X the inner products of the two groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.score.groups import Groups

_Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
_GROUPS = 96
"""The number of groups that represent all in the variance from pairs of groups."""
STEP = 0.4
"""Step in log t. The integrand is analytic within π/2 of the real line: relative error about exp(−π²/STEP), 2e-11."""


@dataclass(frozen=True)
class Deletions:
    """tr √ without each row in turn (n,), and without it and another row, mean over the others (n,)."""

    one: _Floats
    two: _Floats


@dataclass(frozen=True)
class Spectrum:
    """The positive eigenvalues (r,) of a covariance, and nodes and weights of the integral for that range."""

    values: _Floats
    resolvents: _Floats
    """1/(λ + t²) at each eigenvalue and node, (r, nodes)."""
    weights: _Floats

    @classmethod
    def of(cls, values: _Floats) -> Spectrum:
        """Create from positive eigenvalues."""
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
    def _products(self) -> _Floats:
        """1/(λ + t²), then λ/(λ + t²)², side by side."""
        return np.hstack([self.resolvents, self.values[:, None] * np.square(self.resolvents)])

    @cached_property
    def _differences(self) -> _Floats:
        """1/(√λ_a √λ_b (√λ_a + √λ_b)), (r, r)."""
        roots = np.sqrt(self.values)
        return 1 / (np.outer(roots, roots) * np.add.outer(roots, roots))

    def forms(self, squares: _Floats, n: int) -> _Floats:
        """g_ii, and Σ_j g_ij² over all n rows, at each node side by side, (b, 2 nodes).

        `squares` (b, r) are the squared coordinates, in the eigenvectors' basis, of rows less the mean over all n.
        """
        return squares @ self._products / (n - 1)

    def with_totals(self, forms: _Floats) -> _Floats:
        """Return the forms of all rows with their exact sums, where these are not exact by themselves."""
        return forms

    def deletions(self, forms: _Floats) -> Deletions:
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

    def interactions(self, rows: _Floats, first: Indices, second: Indices) -> _Floats:
        """Second-order influence of pairs (p,) of rows (b, r) on mean and −2 tr √A together: the von Mises expansion.

        2 Σ u_a v_a/√λ_a + Σ_ab w_ab (u_a u_b − δ_ab λ_a) (v_a v_b − δ_ab λ_a), w_ab = 1/(√λ_a √λ_b (√λ_a + √λ_b)): the
        divided differences of λ^(−½)/2 (second derivative of a trace function, Bhatia, Matrix Analysis, V.3).
        """
        roots = np.sqrt(self.values)
        products = rows.take(first, axis=0) * rows.take(second, axis=0)
        own = np.square(rows) @ (0.5 / roots)
        pairs: _Floats = 2 * products @ (1 / roots) + np.einsum("pa,pa->p", products @ self._differences, products)
        return pairs - own.take(first) - own.take(second) + 0.5 * float(roots.sum())

    def group_deletions(self, rows: _Floats, groups: Groups) -> Deletions:
        """Return the same (count,) without each group of rows (n, r), sorted by group, and without it and another.

        Of two groups, X Xᵀ summed over the others is known, and K' is taken to be in proportion to their mean.
        """
        n, count, sizes = len(rows), groups.count, groups.sizes
        found = [self._of_group(rows[at : at + k], n) for at, k in zip(groups.starts, sizes, strict=True)]
        change, own, crossing, weighed, others, shape = (np.array(part) for part in zip(*found, strict=True))
        left = n - sizes - (n - sizes) / (count - 1)  # rows that are left without another group of mean size too
        total, weights = others.sum(axis=0), self.weights
        reach, mean_shape = weighed.sum(axis=0) / total, shape.mean(axis=0)  # reach: K' over 1
        # normal X have a mean trace of (X Xᵀ)² of that of X Xᵀ, squared, times the sum of both shapes and their product
        fourth = np.square(weighed) * (np.square(weighed).sum(axis=0) / np.square(total))
        fourth = fourth * (shape + mean_shape + shape * mean_shape) / 2
        pairs = (weighed * reach + fourth) @ weights / (count - 1)
        logs = own @ weights
        # what the mean's move adds: log(1 − ε y), y = Σ (1 − Γ)⁻¹ − 1 over both groups' inner products Γ
        moved, crossed, turned = np.moveaxis(crossing, 1, 0)
        alone = moved + turned * reach / (count - 1)
        both = alone + (alone.sum(axis=0) - alone) / (count - 1) - 2 * crossed / (count - 1)
        mean = np.log(np.maximum(1 - both / left[:, None], 1e-15)) @ weights
        changes = logs + (logs.sum() - logs) / (count - 1) - pairs + mean
        return Deletions(
            np.sqrt((n - 1) / (n - sizes - 1)) * (self.root_trace + change @ weights),
            np.sqrt((n - 1) / (left - 1)) * (self.root_trace + changes),
        )

    def _of_group(self, rows: _Floats, n: int) -> tuple[_Floats, ...]:
        """Terms of a group of rows (k, r), at each node: the effect of its deletion, log det(1 − G), and pair terms."""
        k = len(rows)
        forms = np.empty((k, k, 2 * len(self.weights)))
        for i in range(k):
            forms[i] = (rows[i] * rows) @ self._products / (n - 1)
        inner, outer = np.moveaxis(forms, 2, 0)[: len(self.weights)], np.moveaxis(forms, 2, 0)[len(self.weights) :]
        values, vectors = np.linalg.eigh(inner)
        values = np.minimum(values, 1 - 1e-12)
        kept = 1 / (1 - values)
        ones = np.square(vectors.sum(axis=1))  # (1ᵀ v)²
        own = np.log1p(-values).sum(axis=1)
        moved, crossed = (ones * (kept - 1)).sum(axis=1), (ones * values * np.square(kept)).sum(axis=1)
        change = own + np.log(np.maximum(1 - moved / (n - k), 1e-15))
        others = outer - inner @ inner
        direction = (vectors @ (kept * vectors.sum(axis=1))[:, :, None])[:, :, 0]  # K 1
        reached = np.einsum("ti,tij,tj->t", direction, others, direction)
        root = vectors * np.sqrt(kept)[:, None, :]
        turned = np.swapaxes(root, 1, 2) @ others @ root
        weighed = np.trace(turned, axis1=1, axis2=2)
        shape = np.square(turned).sum(axis=(1, 2)) / np.maximum(np.square(weighed), 1e-300)
        return change, own, np.array([moved, crossed, reached]), weighed, np.trace(others, axis1=1, axis2=2), shape

    def group_interactions(self, rows: _Floats, groups: Groups) -> _Floats:
        """As `interactions`, summed over the rows of two groups, for all pairs of up to _GROUPS groups drawn at random.

        Rows (n, r) are sorted by group.
        """
        roots, count = np.sqrt(self.values), groups.count
        chosen = np.sort(np.random.default_rng(count).permutation(count)[:_GROUPS])
        parts = [rows[groups.starts[g] : groups.starts[g] + groups.sizes[g]] for g in chosen]
        sizes = groups.sizes[chosen].astype(np.float64)
        sums = np.array([part.sum(axis=0) for part in parts])
        table = 2 * (sums / roots) @ sums.T
        for a in range(len(roots)):  # Σ_b w_ab M_ab M'_ab, M the scatter of a group
            scatter = np.array([part[:, a] @ part for part in parts])
            table += (scatter * self._differences[a]) @ scatter.T
        own = np.array([float((np.square(part) @ (0.5 / roots)).sum()) for part in parts])
        table -= np.outer(own, sizes) + np.outer(sizes, own)
        table += 0.5 * float(roots.sum()) * np.outer(sizes, sizes)
        return table[np.triu_indices(len(chosen), 1)]


class Whitened(Spectrum):
    """The same of coordinates over √λ, in single precision: all that is added is then near 1 or below."""

    @cached_property
    def _shares(self) -> _Floats:
        """λ/(λ + t²), then its square, side by side."""
        own = self.values[:, None] * self.resolvents
        return np.hstack([own, np.square(own)])

    @cached_property
    def _single_shares(self) -> NDArray[np.float32]:
        return self._shares.astype(np.float32)

    @cached_property
    def _means(self) -> NDArray[np.float32]:
        """√λ_a √λ_b/(√λ_a + √λ_b), (r, r), over the largest √λ."""
        roots = np.sqrt(self.values / self.values.max())
        return (np.outer(roots, roots) / np.add.outer(roots, roots)).astype(np.float32)

    def forms(self, squares: NDArray[np.floating], n: int) -> _Floats:
        """As of a `Spectrum`."""
        return (squares @ self._single_shares).astype(np.float64) / (n - 1)

    def with_totals(self, forms: _Floats) -> _Floats:
        """Return the forms with sums over all rows that follow from the eigenvalues: each direction has variance λ."""
        return forms * (self._shares.sum(axis=0) / forms.sum(axis=0))

    def interactions(self, rows: NDArray[np.floating], first: Indices, second: Indices) -> _Floats:
        """As of a `Spectrum`."""
        roots, largest = np.sqrt(self.values), float(np.sqrt(self.values.max()))
        products = rows.take(first, axis=0) * rows.take(second, axis=0)
        own = np.square(rows).astype(np.float64) @ (0.5 * roots)
        twice = np.einsum("pa,pa->p", products @ self._means, products, dtype=np.float64)
        pairs: _Floats = 2 * products.astype(np.float64) @ roots + largest * twice
        return pairs - own.take(first) - own.take(second) + 0.5 * float(roots.sum())
