"""Newton steps of arrow systems with NumPy and SciPy alone, as fast as we could make them.

All of them eliminate the rows the way the library does: with `A_i = L_i L_i'`, the whitened cross block
`W_i = L_i^-1 B_i` and `u_i = L_i^-1 g_i`,

    S = M - W'W,    S delta_beta = W'u - g_beta,    delta_t = -L^-T (u + W delta_beta).

`W` is kept as one C-ordered `(T, k)` matrix, which the Fortran routines read as its `(k, T)` transpose without a copy;
the lower triangle of a C-ordered `S` is their upper one. No peer computes a certificate.

`Plain`    a page that one writes in an afternoon: NumPy's batched routines, SciPy's `dsyrk` and `dpotrf`.
`Stacked`  the same plan with preallocated memory, an unrolled row factorization and threads for the row work.
`Fused`    for thin borders: chunks of rows that stay in cache are whitened and reduced by a pool of threads.

What was tried and lost (2-core Zen 5, SciPy 1.17, NumPy 2.4): forward substitution over strided slabs instead of a
batched `matmul` with `L^-1` (slower for d >= 2 at every chunk size, faster for d = 1, where it is kept);
`scipy.linalg.blas.dsyrk` inside threads (it holds the GIL; `numpy.matmul(W.T, W)` calls `dsyrk` too and releases it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from scipy.linalg import blas, lapack

from .parts import Array, Parts, Step

__all__ = ["Fused", "Plain", "Stacked", "inverse_row_factors"]

# Bytes of W in a chunk of `Fused`: smaller chunks pay for Python and for adding k x k products (thin256: 47 ms with
# 512 KiB, 37 ms with 2 MiB), larger ones leave the cache.
CHUNK_BYTES = 1 << 21
# Rows of S copied at a time; only the part up to the diagonal is touched.
COPY_ROWS = 128


def inverse_row_factors(h_tt: Array) -> Array:
    """Return `L_i^-1` for `A_i = L_i L_i'`, shape `(n, d, d)`; NaN in a row that is not positive definite.

    The loops run over the entries of one block, each operation over all rows at once: 2 ms less than
    `numpy.linalg.cholesky` and `numpy.linalg.inv` take for 2000 blocks of size 8.
    """
    n, d, _ = h_tt.shape
    if d == 1:
        return 1.0 / np.sqrt(h_tt)
    a = np.ascontiguousarray(h_tt.transpose(1, 2, 0))  # entry first: contiguous in the row index
    low = [[a[i, j] for j in range(i + 1)] for i in range(d)]
    inverse = np.zeros((n, d, d))
    out: list[list[Any]] = [[None] * d for _ in range(d)]
    for j in range(d):
        pivot = low[j][j]
        for p in range(j):
            pivot = pivot - low[j][p] * low[j][p]
        r = 1.0 / np.sqrt(pivot)
        out[j][j] = r
        inverse[:, j, j] = r
        for i in range(j + 1, d):
            entry = low[i][j]
            for p in range(j):
                entry = entry - low[i][p] * low[j][p]
            low[i][j] = entry * r
    for j in range(d):
        for i in range(j + 1, d):
            entry = low[i][j] * out[j][j]
            for p in range(j + 1, i):
                entry = entry + low[i][p] * out[p][j]
            out[i][j] = entry * -out[i][i]
            inverse[:, i, j] = out[i][j]
    return inverse


def _apply(factors: Array, x: Array, *, transpose: bool = False) -> Array:
    """Return `L_i^-1 x_i`, or `L_i^-T x_i`, for all rows; `x` is `(n, d)`."""
    if factors.shape[1] == 1:
        return factors[:, :, 0] * x
    return np.einsum("nji,nj->ni" if transpose else "nij,nj->ni", factors, x)


def _solve_border(s: Array, rhs: Array) -> Array:
    """Solve with the upper triangle of a Fortran-ordered `s`, which is overwritten."""
    factor, info = lapack.dpotrf(s, lower=0, clean=0, overwrite_a=1)
    if info != 0:
        raise np.linalg.LinAlgError(f"dpotrf: info = {info}")
    x, info = lapack.dpotrs(factor, rhs, lower=0)
    if info != 0:
        raise np.linalg.LinAlgError(f"dpotrs: info = {info}")
    return x


def _ranges(count: int, parts: int) -> list[tuple[int, int]]:
    """Cut `range(count)` into `parts` contiguous pieces of nearly equal length."""
    return [(count * p // parts, count * (p + 1) // parts) for p in range(parts)]


class Plain:
    """Batched Cholesky, whitening by a batched product, `dsyrk`, `dpotrf`: clear code, fresh arrays in every call."""

    name = "plain"

    def __call__(self, parts: Parts) -> Step:
        h_tt, h_tb, h_bb, g_t, g_beta = parts
        n, d, k = h_tb.shape
        inverse = np.linalg.inv(np.linalg.cholesky(h_tt))
        w = np.matmul(inverse, h_tb).reshape(n * d, k).T
        u = np.matmul(inverse, g_t[:, :, None]).ravel()
        s = blas.dsyrk(-1.0, w, beta=1.0, c=h_bb.T)  # h_bb is symmetric: its transpose is it, in Fortran order
        delta_beta = _solve_border(s, blas.dgemv(1.0, w, u) - g_beta)
        z = u + blas.dgemv(1.0, w, delta_beta, trans=1)
        delta_t = -np.matmul(inverse.transpose(0, 2, 1), z.reshape(n, d, 1))[:, :, 0]
        return delta_t, delta_beta


class _Threads:
    """A thread pool that is not used when there is only one thread; works as `map` over a few pieces."""

    def __init__(self, threads: int) -> None:
        self.count = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def each(self, function: Callable[[tuple[int, int]], Any], pieces: list[tuple[int, int]]) -> list[Any]:
        return list(map(function, pieces) if self._pool is None else self._pool.map(function, pieces))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


class Stacked:
    """Row work in threads on preallocated memory, one `dsyrk` on the stacked whitened matrix, `dpotrf` in place."""

    name = "stacked"

    def __init__(self, n: int, d: int, k: int, threads: int = 1) -> None:
        # Below half a million entries, handing work to a thread costs more than it saves.
        self._threads = _Threads(threads if n * d * k >= 1 << 19 else 1)
        self._w = np.empty((n, d, k))
        self._s = np.empty((k, k))

    def close(self) -> None:
        """End the threads."""
        self._threads.close()

    def __call__(self, parts: Parts) -> Step:
        h_tt, h_tb, h_bb, g_t, g_beta = parts
        n, d, k = h_tb.shape
        w, s = self._w, self._s
        inverse = inverse_row_factors(h_tt)

        def prepare(piece: tuple[int, int]) -> None:
            a, b = piece[0] * n // k, piece[1] * n // k
            if d == 1:
                np.multiply(h_tb[a:b], inverse[a:b], out=w[a:b])
            else:
                np.matmul(inverse[a:b], h_tb[a:b], out=w[a:b])
            _copy_lower(h_bb, s, *piece)

        pieces = _ranges(k, self._threads.count)
        self._threads.each(prepare, pieces)
        u = _apply(inverse, g_t)

        stacked = w.reshape(n * d, k).T
        schur = blas.dsyrk(-1.0, stacked, beta=1.0, c=s.T, overwrite_c=1)
        delta_beta = _solve_border(schur, blas.dgemv(-1.0, stacked, u.ravel(), beta=1.0, y=g_beta) * -1.0)
        z = blas.dgemv(-1.0, stacked, delta_beta, beta=-1.0, y=u.ravel(), trans=1)
        return _apply(inverse, z.reshape(n, d), transpose=True), delta_beta


def _copy_lower(source: Array, target: Array, first: int, last: int) -> None:
    """Copy rows `first` to `last` of a C-ordered symmetric matrix, the part up to (a little beyond) the diagonal."""
    for a in range(first, last, COPY_ROWS):
        b = min(a + COPY_ROWS, last)
        target[a:b, :b] = source[a:b, :b]


class Fused:
    """For thin borders: each thread whitens and reduces chunks of rows in its cache; `W` is never stored.

    NumPy's product `W.T @ W` is a `dsyrk` that fills both triangles, and releases the GIL. BLAS is held to one thread
    meanwhile when `blas_limit` (a function that makes such a context) is given.
    """

    name = "fused"

    def __init__(
        self,
        n: int,
        d: int,
        k: int,
        threads: int = 1,
        blas_limit: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self._threads = _Threads(threads)
        self._limit = blas_limit if blas_limit is not None else nullcontext
        self._rows = max(1, min(n, CHUNK_BYTES // (8 * d * k)))
        self._scratch = [
            (np.empty((self._rows, d, k)), np.empty((k, k)), np.empty((k, k)), np.empty(k)) for _ in range(threads)
        ]

    def close(self) -> None:
        """End the threads."""
        self._threads.close()

    def _chunks(self, a: int, b: int) -> Iterator[tuple[int, int]]:
        for start in range(a, b, self._rows):
            yield start, min(start + self._rows, b)

    def __call__(self, parts: Parts) -> Step:
        h_tt, h_tb, h_bb, g_t, g_beta = parts
        n, d, k = h_tb.shape
        ranges = _ranges(n, self._threads.count)
        delta_t = np.empty((n, d))

        def reduce(piece: tuple[int, int]) -> tuple[Array, Array, Array]:
            whitened, product, gram, rhs = self._scratch[ranges.index(piece)]
            gram[:] = 0.0
            rhs[:] = 0.0
            inverse = inverse_row_factors(h_tt[piece[0] : piece[1]])
            for a, b in self._chunks(*piece):
                w = whitened[: b - a]
                part = inverse[a - piece[0] : b - piece[0]]
                if d == 1:
                    np.multiply(h_tb[a:b], part, out=w)
                else:
                    np.matmul(part, h_tb[a:b], out=w)
                w = w.reshape((b - a) * d, k)
                np.matmul(w.T, w, out=product)
                gram += product
                rhs += _apply(part, g_t[a:b]).ravel() @ w
            return inverse, gram, rhs

        def expand(work: tuple[tuple[int, int], Array, Array]) -> None:
            (a, b), inverse, delta_beta = work
            y = (h_tb[a:b].reshape((b - a) * d, k) @ delta_beta).reshape(b - a, d)
            y += g_t[a:b]
            np.negative(_apply(inverse, _apply(inverse, y), transpose=True), out=delta_t[a:b])

        with self._limit():
            results = self._threads.each(reduce, ranges)
            s = h_bb - results[0][1]
            rhs = results[0][2] - g_beta
            for _, gram, w_u in results[1:]:
                s -= gram
                rhs += w_u
            delta_beta = _solve_border(s.T, rhs)
            work: Any = [(piece, result[0], delta_beta) for piece, result in zip(ranges, results, strict=True)]
            self._threads.each(expand, work)
        return delta_t, delta_beta
