"""Independent answers: nothing here calls the library.

Three oracles, each slower and better than the last: float64 LAPACK through NumPy; Cholesky in long double (64 bits of
mantissa on x86-64); exact rational arithmetic for systems of a few unknowns, whose entries are binary fractions and
therefore known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from systems import Parts

__all__ = [
    "EPS",
    "Elimination",
    "backward_error",
    "cholesky_long",
    "dense",
    "direct",
    "error",
    "exact_inverse",
    "exact_log_det",
    "exact_solve",
    "inverse",
    "log_det",
    "norm_inf",
    "relative_row_ridges",
    "solve",
    "step",
    "step_indefinite",
]

Array = NDArray[np.float64]
EPS = 2.0**-52


class Elimination(NamedTuple):
    """What elimination leaves, from the literal arithmetic of `direct`."""

    schur: Array
    rhs: Array
    delta_t: Array
    delta_beta: Array
    log_det: float


# ---- the matrix -----------------------------------------------------------------------------------------------------
def dense(
    parts: Parts,
    ridge_t: float = 0.0,
    ridge_beta: float = 0.0,
    damping_t: ArrayLike | None = None,
    damping_beta: ArrayLike | None = None,
    row_ridges: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Return `(H + ridges, g)`. `row_ridges` replaces `ridge_t` row by row."""
    t, k = parts.total, parts.k
    h = np.zeros((t + k, t + k))
    for block, a, b in zip(parts.blocks, parts.offsets[:-1], parts.offsets[1:], strict=True):
        h[a:b, a:b] = block
    h[:t, t:] = parts.h_tb
    h[t:, :t] = parts.h_tb.T
    h[t:, t:] = parts.h_bb
    added_t = np.full(t, ridge_t) if row_ridges is None else np.repeat(np.asarray(row_ridges, float), parts.dims)
    if damping_t is not None:
        added_t = added_t + np.asarray(damping_t, float).reshape(t)
    added_beta = np.full(k, ridge_beta)
    if damping_beta is not None:
        added_beta = added_beta + np.asarray(damping_beta, float)
    h[np.arange(t + k), np.arange(t + k)] += np.concatenate((added_t, added_beta))
    return h, np.concatenate((parts.g_t, parts.g_beta))


def norm_inf(h: Array) -> float:
    return float(np.abs(h).sum(axis=1).max(initial=0.0))


def backward_error(h: Array, x: Array, b: Array) -> float:
    """Normwise backward error of `H x = b`, the residual in long double."""
    wide = h.astype(np.longdouble) @ x.astype(np.longdouble)
    residual = float(np.abs(b - wide).max(initial=0.0))
    scale = norm_inf(h) * float(np.abs(x).max(initial=0.0)) + float(np.abs(b).max(initial=0.0))
    return residual / scale if scale > 0 else residual


def error(x: ArrayLike, y: ArrayLike) -> float:
    """Relative distance in the 2-norm (absolute when `y` is 0)."""
    a, b = np.ravel(np.asarray(x, float)), np.ravel(np.asarray(y, float))
    assert a.shape == b.shape, (a.shape, b.shape)
    scale = float(np.linalg.norm(b))
    distance = float(np.linalg.norm(a - b))
    return distance / scale if scale > 0 else distance


# ---- long double ----------------------------------------------------------------------------------------------------
def cholesky_long(h: ArrayLike) -> NDArray[np.longdouble]:
    """Lower Cholesky factor in long double; `LinAlgError` when a pivot is not positive."""
    a = np.array(h, dtype=np.longdouble)
    n = a.shape[0]
    for j in range(n):
        if not a[j, j] > 0:
            raise np.linalg.LinAlgError(f"pivot {j} is {a[j, j]}")
        a[j, j] = np.sqrt(a[j, j])
        a[j + 1 :, j] /= a[j, j]
        a[j + 1 :, j + 1 :] -= np.outer(a[j + 1 :, j], a[j + 1 :, j])
    return np.tril(a)


def log_det(h: ArrayLike) -> float:
    return float(2 * np.log(np.diagonal(cholesky_long(h))).sum())


def solve(h: ArrayLike, b: ArrayLike) -> Array:
    """Solve a positive definite system: float64 factors, refined with residuals in long double."""
    matrix, rhs = np.asarray(h, float), np.asarray(b, float)
    if matrix.shape[0] == 0:
        return np.zeros(rhs.shape)
    factor = scipy.linalg.cho_factor(matrix, lower=True)
    wide_matrix, wide_rhs = matrix.astype(np.longdouble), rhs.astype(np.longdouble)
    x = np.zeros(rhs.shape, dtype=np.longdouble)
    residual = rhs
    for sweep in range(3):  # each gains 11 digits at condition 1e5
        x = x + scipy.linalg.cho_solve(factor, residual)
        if sweep < 2:
            residual = (wide_rhs - wide_matrix @ x).astype(float)
    return x.astype(float)


def inverse(h: ArrayLike) -> Array:
    matrix = np.asarray(h, float)
    return solve(matrix, np.eye(matrix.shape[0]))


def step(parts: Parts, **ridges: Any) -> Array:
    """The whole Newton step `(delta_t, delta_beta)` as one vector."""
    h, g = dense(parts, **ridges)
    return solve(h, -g)


# ---- exact ----------------------------------------------------------------------------------------------------------
def _fractions(matrix: ArrayLike) -> list[list[Fraction]]:
    return [[Fraction(float(x)) for x in row] for row in np.asarray(matrix, float)]


def _eliminate(a: list[list[Fraction]], columns: int) -> list[Fraction]:
    """Gauss-Jordan on the leading square of `[H | right-hand sides]`; returns the pivots."""
    pivots = []
    for j in range(columns):
        pivot = a[j][j]
        if pivot <= 0:
            raise np.linalg.LinAlgError(f"pivot {j} is {float(pivot)}")
        pivots.append(pivot)
        a[j] = [x / pivot for x in a[j]]
        for i in range(columns):
            if i != j and a[i][j] != 0:
                factor = a[i][j]
                a[i] = [x - factor * y for x, y in zip(a[i], a[j], strict=True)]
    return pivots


def exact_solve(h: ArrayLike, b: ArrayLike) -> Array:
    """The correctly rounded solution of a positive definite system of a few unknowns."""
    matrix = _fractions(h)
    rhs = [Fraction(float(x)) for x in np.asarray(b, float)]
    a = [[*row, x] for row, x in zip(matrix, rhs, strict=True)]
    _eliminate(a, len(a))
    return np.array([float(row[-1]) for row in a])


def exact_inverse(h: ArrayLike) -> Array:
    matrix = _fractions(h)
    n = len(matrix)
    a = [row + [Fraction(int(i == j)) for j in range(n)] for i, row in enumerate(matrix)]
    _eliminate(a, n)
    return np.array([[float(x) for x in row[n:]] for row in a])


def exact_log_det(h: ArrayLike) -> float:
    pivots = _eliminate(_fractions(h), len(np.asarray(h)))
    return math.fsum(math.log(pivot) for pivot in pivots)


# ---- elimination, row by row ----------------------------------------------------------------------------------------
def direct(parts: Parts, ridge_t: float = 0.0, ridge_beta: float = 0.0) -> Elimination:
    """The `direct` arithmetic to the letter: per row `Z_i = A_i^-1 B_i`, `S -= B_i' Z_i`, `r += B_i' A_i^-1 g_i`."""
    k = parts.k
    schur = parts.h_bb + ridge_beta * np.eye(k)
    rhs = -parts.g_beta.copy()
    half_log_det = 0.0
    factors = []
    for block, a, b in zip(parts.blocks, parts.offsets[:-1], parts.offsets[1:], strict=True):
        if a == b:
            factors.append(None)
            continue
        factor = scipy.linalg.cho_factor(block + ridge_t * np.eye(b - a), lower=True)
        cross = parts.h_tb[a:b]
        schur = schur - cross.T @ scipy.linalg.cho_solve(factor, cross)
        rhs = rhs + cross.T @ scipy.linalg.cho_solve(factor, parts.g_t[a:b])
        half_log_det += float(np.log(np.diagonal(factor[0])).sum())
        factors.append(factor)
    schur = (schur + schur.T) / 2
    delta_beta = np.zeros(0)
    if k:
        factor = scipy.linalg.cho_factor(schur, lower=True)
        delta_beta = scipy.linalg.cho_solve(factor, rhs)
        half_log_det += float(np.log(np.diagonal(factor[0])).sum())
    delta_t = np.zeros(parts.total)
    for factor, a, b in zip(factors, parts.offsets[:-1], parts.offsets[1:], strict=True):
        if factor is not None:
            delta_t[a:b] = -scipy.linalg.cho_solve(factor, parts.g_t[a:b] + parts.h_tb[a:b] @ delta_beta)
    return Elimination(schur, rhs, delta_t, delta_beta, 2 * half_log_det)


def relative_row_ridges(parts: Parts, rows: Sequence[int], ridge_t: float = 0.0) -> Array:
    """The one-shift lift of `guards='relative'` for the given failing rows; `ridge_t` for all others."""
    ridges = np.full(parts.n, ridge_t)
    border = np.diagonal(parts.h_bb)
    for i in rows:
        block = parts.blocks[i]
        d = block.shape[0]
        deficit = max(0.0, -float(np.linalg.eigvalsh(block + ridge_t * np.eye(d))[0]))
        margin = 16 * d * (norm_inf(block) + 2 * deficit) * 2.0**-26
        cross = parts.h_tb[parts.offsets[i] : parts.offsets[i + 1]]
        used = border > 0
        coupling = 2 * len(rows) * float(((cross[:, used] ** 2).sum(axis=0) / border[used]).sum())
        ridges[i] = ridge_t + 2 * deficit + max(margin, coupling)
    return ridges


def step_indefinite(parts: Parts, ridge_t: float, ridge_beta: float, **dampings: Any) -> Array:
    """The step of a small system that may be indefinite, by LU with long double residuals."""
    h, g = dense(parts, ridge_t, ridge_beta, **dampings)
    x = np.linalg.solve(h, -g).astype(np.longdouble)
    for _ in range(4):
        residual = (-g - h.astype(np.longdouble) @ x).astype(float)
        x = x + np.linalg.solve(h, residual)
    return x.astype(float)
