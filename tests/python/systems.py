"""The systems that the tests solve: plain NumPy parts, made from one documented random stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import arrowschur_native as asn

__all__ = [
    "BARELY",
    "EVID",
    "FORMS",
    "HAND",
    "MIXED",
    "PIVOTS",
    "Parts",
    "Stream",
    "collapse",
    "indefinite_row",
    "ls",
    "ragged",
    "random_parts",
    "rows_of_t89",
    "uniform",
    "wide",
]

Array = NDArray[np.float64]


class Stream:
    """SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) and its draws in [-1, 1)."""

    def __init__(self, seed: int) -> None:
        self._state = np.uint64(seed & (2**64 - 1))

    def words(self, count: int) -> NDArray[np.uint64]:
        with np.errstate(over="ignore"):
            z = self._state + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            if count:
                self._state = z[-1]
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return z ^ (z >> np.uint64(31))

    def draws(self, *shape: int) -> Array:
        count = int(np.prod(shape, dtype=int))
        values = 2.0 * ((self.words(count) >> np.uint64(11)).astype(float) * 2.0**-53) - 1.0
        return values.reshape(shape)


@dataclass(frozen=True)
class Parts:
    """The five parts of a system in plain form. `border` makes the library's form of `h_bb`; default: dense."""

    blocks: tuple[Array, ...]
    h_tb: Array  # (T, k)
    h_bb: Array  # (k, k)
    g_t: Array  # (T,)
    g_beta: Array  # (k,)
    border: Callable[[], Any] | None = None

    @cached_property
    def dims(self) -> NDArray[np.int64]:
        return np.array([block.shape[0] for block in self.blocks], dtype=np.int64)

    @cached_property
    def offsets(self) -> list[int]:
        return [0, *np.cumsum(self.dims).tolist()]

    @property
    def n(self) -> int:
        return len(self.blocks)

    @property
    def k(self) -> int:
        return int(self.g_beta.shape[0])

    @property
    def total(self) -> int:
        return int(self.g_t.shape[0])

    @property
    def d(self) -> int | None:
        """The common row size, or None."""
        sizes = set(self.dims.tolist())
        return sizes.pop() if len(sizes) == 1 else None

    def replace(self, **changes: Any) -> Parts:
        return dataclasses.replace(self, **changes)

    def scaled(self, factor: float) -> Parts:
        """Every part times `factor`, in the dense form."""
        return Parts(
            tuple(factor * block for block in self.blocks),
            factor * self.h_tb,
            factor * self.h_bb,
            factor * self.g_t,
            factor * self.g_beta,
        )

    def rows(self, order: Sequence[int]) -> Parts:
        """The chosen rows, in the given order."""
        pieces = [slice(self.offsets[i], self.offsets[i + 1]) for i in order]
        return self.replace(
            blocks=tuple(self.blocks[i] for i in order),
            h_tb=np.concatenate([self.h_tb[p] for p in pieces]) if pieces else self.h_tb[:0],
            g_t=np.concatenate([self.g_t[p] for p in pieces]) if pieces else self.g_t[:0],
        )

    def columns(self, order: Sequence[int]) -> Parts:
        """The border columns in another order, in the dense form."""
        index = np.asarray(order)
        return self.replace(
            h_tb=self.h_tb[:, index], h_bb=self.h_bb[np.ix_(index, index)], g_beta=self.g_beta[index], border=None
        )

    def stacked(self) -> tuple[Array, Array, Array]:
        """`(h_tt, h_tb, g_t)` of uniform rows: (n, d, d), (n, d, k), (n, d)."""
        d = self.d
        assert d is not None
        return (
            np.stack(self.blocks),
            self.h_tb.reshape(self.n, d, self.k).copy(),
            self.g_t.reshape(self.n, d).copy(),
        )

    def flat_blocks(self) -> Array:
        return np.concatenate([np.zeros(0), *(block.ravel() for block in self.blocks)])

    def system(self, *, ragged: bool | None = None, **options: Any) -> asn.ArrowSystem:
        """The library's system; uniform rows stacked, unless `ragged` asks for a flat buffer."""
        h_bb = self.h_bb if self.border is None else self.border()
        if ragged is None:
            ragged = self.d is None
        if ragged:
            return asn.ArrowSystem(
                self.flat_blocks(), self.h_tb, h_bb, self.g_t, self.g_beta, row_dims=self.dims, **options
            )
        h_tt, h_tb, g_t = self.stacked()
        return asn.ArrowSystem(h_tt, h_tb, h_bb, g_t, self.g_beta, **options)


def uniform(h_tt: ArrayLike, h_tb: ArrayLike, h_bb: ArrayLike, g_t: ArrayLike, g_beta: ArrayLike) -> Parts:
    """Parts from stacked arrays: (n, d, d), (n, d, k), (k, k), (n, d), (k,)."""
    blocks = np.asarray(h_tt, float)
    beta = np.asarray(g_beta, float)
    return Parts(
        tuple(blocks),
        np.asarray(h_tb, float).reshape(blocks.shape[0] * blocks.shape[1], beta.size),
        np.asarray(h_bb, float),
        np.asarray(g_t, float).reshape(-1),
        beta,
    )


# ---- fixtures of the specification ----------------------------------------------------------------------------------
HAND = uniform(
    [[[3, 0.5], [0.5, 2]], [[1.5, -0.25], [-0.25, 4]]],
    [[[1, -0.5, 0], [0.25, 0, 1]], [[0, 0.5, -1], [1, 0.25, 0]]],
    [[6, 0.5, 0], [0.5, 5, -0.5], [0, -0.5, 4]],
    [[0.5, -1], [-0.25, 0.75]],
    [1, -0.5, 0.25],
)

BARELY = uniform(
    [[[1, 1], [1, 1 + 2.0**-46]]],
    [[[1, 0], [0, 1]]],
    [[4, 0.25], [0.25, 5]],
    [[0.125, -0.25]],
    [0.25, -0.125],
)

MIXED = uniform([[[1]], [[0.01]]], [[[1, 0]], [[0, 1]]], [[6, 0], [0, 1]], [[0], [0]], [-10, 0.75])

EVID = uniform(
    [[[1, 0], [0, 2.0**-30]], [[2, 0], [0, 2.0**-29]]],
    [[[0.25, 0.125], [2.0**-19, 2.0**-20]], [[0.25, -0.125], [2.0**-19, 2.0**-18]]],
    [[5, 0.25], [0.25, 4]],
    [[0, 0], [0, 0]],
    [0, 0],
)


def collapse(h_bb: float) -> Parts:
    """`S = (h_bb - 100) I`."""
    return uniform([[[0.01]], [[0.01]]], [[[1, 0]], [[0, 1]]], h_bb * np.eye(2), [[0.25], [-0.125]], [0.5, -0.25])


def _unit_lower(d: int) -> Array:
    return np.eye(d) - np.tril(np.ones((d, d)), -1)


# One row whose pivots are all 1 and whose condition is 4.2e10; uncoupled.
PIVOTS = uniform([_unit_lower(16) @ _unit_lower(16).T], np.zeros((1, 16, 1)), [[1]], np.ones((1, 16)), [1])


def _least_squares(dims: Sequence[int], k: int, stream: Stream) -> Parts:
    blocks, cross, gradients = [], [], []
    h_bb, g_beta = 0.1 * np.eye(k), np.zeros(k)
    for d in dims:
        j, c, e = stream.draws(d + 2, d), stream.draws(d + 2, k), stream.draws(d + 2)
        block = j.T @ j + 0.1 * np.eye(d)
        blocks.append((block + block.T) / 2)
        cross.append(j.T @ c)
        gradients.append(j.T @ e)
        h_bb = h_bb + c.T @ c
        g_beta = g_beta + c.T @ e
    return Parts(tuple(blocks), np.concatenate(cross), (h_bb + h_bb.T) / 2, np.concatenate(gradients), g_beta)


def ls(n: int, d: int, k: int, seed: int) -> Parts:
    """Gauss-Newton rows from one stream: positive definite by construction."""
    return _least_squares([d] * n, k, Stream(seed))


def ragged(seed: int, dims: Sequence[int] = (0, 1, 2, 3, 5, 17, 1, 4), k: int = 11) -> Parts:
    return _least_squares(dims, k, Stream(seed))


def wide(n: int, d: int, k: int, seed: int) -> Parts:
    """More border than rows, with a diagonal border."""
    stream = Stream(seed)
    parts = _least_squares([d] * n, k, stream)
    entries = 1 + np.abs(stream.draws(k))
    return parts.replace(h_tb=0.05 * parts.h_tb, h_bb=np.diag(entries), border=lambda: entries)


def indefinite_row() -> Parts:
    """One uncoupled row `[[1, 2], [2, 1]]` with eigenvalues -1 and 3."""
    return uniform([[[1, 2], [2, 1]]], np.zeros((1, 2, 1)), [[1]], [[1, -0.5]], [0])


def rows_of_t89(last: float) -> Parts:
    """LS(40, 3, 17, 1) with rows 5 and 17 replaced by `Q diag(2, 1, last) Q`, `Q` the reflection of (1, 2, 3)."""
    parts = ls(40, 3, 17, 1)
    v = np.array([1.0, 2.0, 3.0])
    q = np.eye(3) - 2 * np.outer(v, v) / (v @ v)
    block = q @ np.diag([2.0, 1.0, last]) @ q
    block = (block + block.T) / 2
    return parts.replace(blocks=tuple(block if i in (5, 17) else b for i, b in enumerate(parts.blocks)))


# ---- random systems -------------------------------------------------------------------------------------------------
FORMS = ("dense", "diagonal", "banded", "block_diagonal", "banded + diagonal", "dense + block_diagonal", "three terms")


def _border_form(form: str, k: int, rng: np.random.Generator) -> tuple[Array, Callable[[], Any]]:
    """A diagonally dominant border in the given form: its dense matrix, and how to make the library's object."""
    if form == "dense":
        a = rng.uniform(-1, 1, (k, k))
        matrix = (a + a.T) / 2 + (1 + k) * np.eye(k)
        return matrix, lambda: matrix
    if form == "diagonal":
        entries = rng.uniform(1, 3, k)
        return np.diag(entries), lambda: entries
    if form == "banded":
        width = int(rng.integers(0, 4))
        bands = rng.uniform(-0.4, 0.4, (width + 1, k))
        bands[0] = rng.uniform(3, 4, k)
        matrix = np.zeros((k, k))
        for j in range(width + 1):
            for i in range(k - j):
                matrix[i + j, i] = matrix[i, i + j] = bands[j, i]
        return matrix, lambda: asn.BandedBorder(bands)
    if form == "block_diagonal":
        sizes = []
        while sum(sizes) < k:
            sizes.append(int(rng.integers(1, min(5, k - sum(sizes)) + 1)))
        blocks = [_border_form("dense", size, rng)[0] for size in sizes]
        matrix = np.zeros((k, k))
        edge = 0
        for block in blocks:
            matrix[edge : edge + len(block), edge : edge + len(block)] = block
            edge += len(block)
        return matrix, lambda: asn.BlockDiagonalBorder(blocks)
    if form == "banded + diagonal":
        a, make_a = _border_form("banded", k, rng)
        b, make_b = _border_form("diagonal", k, rng)
        return a + b, lambda: make_a() + make_b()
    if form == "dense + block_diagonal":
        a, make_a = _border_form("dense", k, rng)
        b, make_b = _border_form("block_diagonal", k, rng)
        return a + b, lambda: make_a() + make_b()
    if form == "three terms":
        a, make_a = _border_form("banded", k, rng)
        b, make_b = _border_form("block_diagonal", k, rng)
        c, make_c = _border_form("banded", k, rng)
        return a + b + c, lambda: make_a() + make_b() + make_c()
    raise ValueError(form)


def random_parts(dims: Sequence[int], k: int, form: str, seed: int, coupling: float = 0.5) -> Parts:
    """A well-conditioned positive definite system: `|W'W|_2 = coupling * lambda_min(M)`, `0 <= coupling < 1`."""
    rng = np.random.default_rng(seed)
    blocks, whitened = [], [np.zeros((0, k))]
    total = int(sum(dims))
    cross = rng.uniform(-1, 1, (total, k)) * (rng.uniform(size=(total, k)) < 0.7)
    edge = 0
    for d in dims:
        j = rng.uniform(-1, 1, (d + 2, d))
        block = j.T @ j + 0.2 * np.eye(d)
        block = (block + block.T) / 2
        blocks.append(block)
        whitened.append(np.linalg.solve(np.linalg.cholesky(block), cross[edge : edge + d]))
        edge += d
    if k:
        h_bb, border = _border_form(form, k, rng)
        reduced = np.linalg.norm(np.concatenate(whitened), 2) if total else 0.0
        if reduced > 0:
            cross = cross * (np.sqrt(coupling * np.linalg.eigvalsh(h_bb)[0]) / reduced)
    else:
        h_bb, border = np.zeros((0, 0)), lambda: np.zeros((0, 0))
    return Parts(tuple(blocks), cross, h_bb, rng.uniform(-1, 1, total), rng.uniform(-1, 1, k), border)
