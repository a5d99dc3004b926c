"""Eigenvectors of a large symmetric matrix, and products with a triangular one, by LAPACK and BLAS.

numpy's `eigh` solves the tridiagonal problem by divide and conquer, which multiplies matrices of full size; here its
eigenvectors come from relatively robust representations (Dhillon and Parlett 2004, Linear Algebra Appl. 387:1), in time
proportional to the square of the size, so that the whole takes little longer than eigenvalues alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


def eigenvectors(matrix: _Floats) -> tuple[_Floats, _Floats]:
    """Return eigenvalues (d,), ascending, and eigenvectors (d, d) of a symmetric matrix (d, d), d ≥ 3.

    The matrix may be overwritten. Eigenvalues are those of `numpy.linalg.eigvalsh` but for its order of rounding.
    """
    from scipy.linalg import eigh_tridiagonal, lapack  # slow to import, and few need it

    size = len(matrix)
    work = int(lapack.dsytrd_lwork(size, lower=1)[0])
    reduced, diagonal, beside, scales, info = lapack.dsytrd(matrix.T, lower=1, lwork=work, overwrite_a=1)
    _check(info)
    values: _Floats = eigh_tridiagonal(diagonal, beside, eigvals_only=True, lapack_driver="sterf")
    vectors: _Floats = np.asfortranarray(eigh_tridiagonal(diagonal, beside, lapack_driver="stemr")[1])
    reflectors = np.asfortranarray(reduced[1:, :-1])
    rows = np.asfortranarray(vectors[1:])
    turned, _, info = lapack.dormqr("L", "N", reflectors, scales, rows, 64 * size, overwrite_c=1)
    _check(info)
    vectors[1:] = turned
    return values, vectors


def _check(info: int) -> None:
    if info:
        raise np.linalg.LinAlgError(f"LAPACK refused its argument {-info}")


def is_lower_triangular(matrix: _Floats) -> bool:
    """Whether a matrix is square and zero above its diagonal."""
    rows, columns = matrix.shape
    return rows == columns and not matrix[0, 1:].any() and not np.triu(matrix, 1).any()


def lower_times(lower: _Floats, matrix: _Floats) -> _Floats:
    """Return L M for a lower triangular L (d, d); half the work of a general product."""
    from scipy.linalg import blas

    trmm: Any = blas.dtrmm
    product: _Floats = trmm(1.0, lower.T, matrix, side=0, lower=0, trans_a=1)
    return product


def between_lower(lower: _Floats, symmetric: _Floats) -> _Floats:
    """Return Lᵀ S L for a lower triangular L and a symmetric S, both (d, d)."""
    from scipy.linalg import blas

    trmm: Any = blas.dtrmm
    left = trmm(1.0, lower.T, symmetric.T, side=0, lower=0, trans_a=0)
    product: _Floats = trmm(1.0, lower.T, left, side=1, lower=0, trans_a=1, overwrite_b=1)
    return product
