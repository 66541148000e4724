"""Border forms with Kronecker structure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import Array, as_array, as_indices, describe
from ._borders import (
    Border,
    SquareBlocks,
    border_from_parts,
    flag,
    one_array,
    one_buffer,
    require_entries,
    size_of,
    split_blocks,
)
from ._errors import InvalidArgument

__all__ = [
    "FramedKroneckerBorder",
    "KroneckerBorder",
    "KroneckerProductBorder",
    "SparseBlockKroneckerBorder",
]


class KroneckerBorder(SquareBlocks):
    """A block-diagonal border of Kronecker products with the identity, `S_j (x) I_p`.

    Inside a block the column `mu p + c` belongs to basis function `mu` and output `c`: a smoothness penalty `S_j` on
    the basis functions of an atom, the same for each of its `p` outputs.

    Parameters
    ----------
    factors : sequence of (b_j, b_j) array_like, or (m, b, b) array_like; float64 or float32
        The symmetric factors `S_j`, in order; `k = p sum_j b_j`.
    p : int
        Size of the identity, >= 1.

    Attributes
    ----------
    factors : tuple of ndarray
        Views of the stored factors.
    sizes : tuple of int
        Their sizes.
    p : int

    Raises
    ------
    InvalidArgument
        A factor is not square, or `p` is not positive.

    Notes
    -----
    A product costs `2 p sum b_j^2` flops. `S_j + ridge I` is factored in place of the `p b_j` columns.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.KroneckerBorder([[[2.0, 1.0], [1.0, 2.0]]], p=2).to_dense()
    array([[2., 0., 1., 0.],
           [0., 2., 0., 1.],
           [1., 0., 2., 0.],
           [0., 1., 0., 2.]])
    """

    __slots__ = ("p",)
    _form = "kronecker"
    p: int

    def __init__(self, factors: ArrayLike | Sequence[ArrayLike], p: int) -> None:
        self.p = size_of("p", p, 1)
        self._begin_blocks(factors, "factors", self.p)

    @property
    def factors(self) -> tuple[Array, ...]:
        """Views of the factors."""
        return self._split()

    def _parameters(self) -> dict[str, Any]:
        return {"sizes": list(self.sizes), "p": self.p}

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        edges = itertools.pairwise(itertools.accumulate(self.sizes, initial=0))
        p = self.p
        return self._as_given([_trace_of_right(dense[a * p : b * p, a * p : b * p], b - a, b - a, p) for a, b in edges])

    def __reduce__(self) -> tuple[Any, ...]:
        return KroneckerBorder, (self._whole(), self.p)


class KroneckerProductBorder(Border):
    """A Kronecker product `a (x) b` of two symmetric matrices, at some columns of the border.

    Column `offset + i_a pb + i_b` belongs to index `i_a` of `a` and `i_b` of `b`.

    Parameters
    ----------
    a : (pa, pa) array_like
    b : (pb, pb) array_like
        float64 or float32, symmetric.
    offset : int, default 0
        First column.
    k : int, optional
        Width of the border; default: `offset + pa pb`.

    Attributes
    ----------
    a, b : ndarray
    offset : int

    Raises
    ------
    InvalidArgument
        A factor is not square, or the product does not fit in `k` columns.

    Notes
    -----
    Applied as two small products, `b X a` on the vector seen as a matrix: `2 pa pb (pa + pb)` flops.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> asn.KroneckerProductBorder([[2.0, 1.0], [1.0, 3.0]], np.eye(2), offset=1).diagonal()
    array([0., 2., 2., 3., 3.])
    """

    __slots__ = ("_pa", "_pb", "offset")
    _form = "kronecker_product"
    offset: int
    _pa: int
    _pb: int

    def __init__(self, a: ArrayLike, b: ArrayLike, offset: int = 0, k: int | None = None) -> None:
        parts = [as_array(a, "a"), as_array(b, "b")]
        for name, part in zip("ab", parts, strict=True):
            if part.ndim != 2 or part.shape[0] != part.shape[1]:
                raise InvalidArgument(argument=name, got=describe(part), expected="a square matrix")
        self._pa, self._pb = (part.shape[0] for part in parts)
        self.offset = size_of("offset", offset, 0)
        end = self.offset + self._pa * self._pb
        width = end if k is None else size_of("k", k, 0)
        if width < end:
            raise InvalidArgument(argument="k", got=str(width), expected=f"at least offset + pa pb = {end}")
        self._begin(width, *one_buffer(parts))

    @property
    def a(self) -> Array:
        """The left factor."""
        return self._data[: self._pa**2].reshape(self._pa, self._pa)

    @property
    def b(self) -> Array:
        """The right factor."""
        return self._data[self._pa**2 :].reshape(self._pb, self._pb)

    def _parameters(self) -> dict[str, Any]:
        return {"pa": self._pa, "pb": self._pb, "offset": self.offset, "k": self.k}

    @classmethod
    def _from_parts(cls, data: Array, parameters: dict[str, Any]) -> Border:
        pa, pb, offset, k = (int(parameters[name]) for name in ("pa", "pb", "offset", "k"))
        require_entries(data, [(pa, pa), (pb, pb)])
        a, b = split_blocks(data, [(pa, pa), (pb, pb)])
        return cls(a, b, offset, k)

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        end = self.offset + self._pa * self._pb
        inner = dense[self.offset : end, self.offset : end].reshape(self._pa, self._pb, self._pa, self._pb)
        a, b = _symmetric(self.a, symmetry), _symmetric(self.b, symmetry)
        return np.einsum("icjd,cd->ij", inner, b), np.einsum("icjd,ij->cd", inner, a)

    def __reduce__(self) -> tuple[Any, ...]:
        return KroneckerProductBorder, (self.a, self.b, self.offset, self.k)


class SparseBlockKroneckerBorder(Border):
    """`A (x) I_p` with a sparse symmetric left factor `A`, given by its non-zero blocks.

    Parameters
    ----------
    blocks : sequence of (row_off, col_off, (r, c) array_like)
        Blocks of `A` in left-factor coordinates. Repeated blocks add. Blocks with equal offsets are diagonal ones and
        must be symmetric; others must not touch the diagonal.
    p : int
        Size of the identity, >= 1.
    left_dim : int, optional
        Size of `A`; default: up to where the blocks reach. `k = p left_dim`.
    mirror : bool, default True
        Each block off the diagonal stands for its transpose on the other side too. False: the blocks are `A`, entry by
        entry, both sides of the diagonal.

    Attributes
    ----------
    blocks : tuple of (int, int, ndarray)
    p, left_dim : int
    mirror : bool

    Raises
    ------
    InvalidArgument
        A block is no matrix, or reaches beyond `left_dim`.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> border = asn.SparseBlockKroneckerBorder([(0, 0, [[2.0]]), (1, 1, [[3.0]]), (1, 0, [[-1.0]])], p=1)
    >>> border.to_dense()
    array([[ 2., -1.],
           [-1.,  3.]])
    """

    __slots__ = ("_table", "left_dim", "mirror", "p")
    _form = "sparse_kronecker"
    p: int
    left_dim: int
    mirror: bool
    _table: Array

    def __init__(
        self,
        blocks: Sequence[tuple[int, int, ArrayLike]],
        p: int,
        *,
        left_dim: int | None = None,
        mirror: bool = True,
    ) -> None:
        places, parts = _placed(blocks, ("row_off", "col_off"))
        lines = [(row, col, *part.shape) for (row, col), part in zip(places, parts, strict=True)]
        self._fill(np.array(lines, dtype=np.int64).reshape(-1, 4), p, left_dim, mirror, *one_buffer(parts))

    def _fill(
        self, lines: Array, p: int, left_dim: int | None, mirror: bool, data: Array, copies: Iterable[str]
    ) -> None:
        self.p = size_of("p", p, 1)
        self.mirror = flag("mirror", mirror)
        reach = int((lines[:, :2] + lines[:, 2:]).max()) if lines.size else 0
        self.left_dim = reach if left_dim is None else size_of("left_dim", left_dim, 0)
        if self.left_dim < reach:
            raise InvalidArgument(argument="left_dim", got=str(self.left_dim), expected=f"at least {reach}")
        self._table = lines
        self._begin(self.left_dim * self.p, data, copies)

    @classmethod
    def from_triplets(
        cls, row: ArrayLike, col: ArrayLike, values: ArrayLike, k: int, p: int = 1, *, mirror: bool = True
    ) -> SparseBlockKroneckerBorder:
        """Return the border whose left factor is a sparse matrix in coordinate form: blocks of one entry each.

        Parameters
        ----------
        row, col : (m,) array_like of int
            Left-factor coordinates of the entries.
        values : (m,) array_like, float64 or float32
            Borrowed where they come in C order.
        k : int
            Width of the border, a multiple of `p`.
        p : int, default 1
            Size of the identity.
        mirror : bool, default True
            The entries are those of one triangle.

        Returns
        -------
        SparseBlockKroneckerBorder

        Raises
        ------
        InvalidArgument
            Lengths differ, or a coordinate is out of range.

        Notes
        -----
        No Python object per entry.

        Examples
        --------
        >>> import arrowschur_native as asn
        >>> border = asn.SparseBlockKroneckerBorder.from_triplets([0, 1, 1], [0, 0, 1], [2.0, -1.0, 3.0], k=2)
        >>> border.to_dense()
        array([[ 2., -1.],
               [-1.,  3.]])
        """
        data, copies = one_array(values, "values")
        lines = np.ones((data.size, 4), dtype=np.int64)
        for column, (name, given) in enumerate((("row", row), ("col", col))):
            places = as_indices(given, name)
            if data.ndim != 1 or places.shape != data.shape:
                raise InvalidArgument(argument=name, got=describe(places), expected=f"shape {data.shape}, as values")
            if places.size and int(places.min()) < 0:
                raise InvalidArgument(argument=name, got=f"an entry {int(places.min())}", expected="coordinates >= 0")
            lines[:, column] = places
        identity, width = size_of("p", p, 1), size_of("k", k, 0)
        if width % identity:
            raise InvalidArgument(argument="k", got=str(width), expected=f"a multiple of p = {identity}")
        border = cls.__new__(cls)
        border._fill(lines, identity, width // identity, mirror, data, copies)
        return border

    @property
    def blocks(self) -> tuple[tuple[int, int, Array], ...]:
        """Offsets and views of the blocks."""
        lines = self._table.tolist()
        views = split_blocks(self._data, [(rows, cols) for _, _, rows, cols in lines])
        return tuple((row, col, view) for (row, col, _, _), view in zip(lines, views, strict=True))

    def _parameters(self) -> dict[str, Any]:
        return {"blocks": self._table.reshape(-1), "p": self.p, "left_dim": self.left_dim, "mirror": self.mirror}

    @classmethod
    def _from_parts(cls, data: Array, parameters: dict[str, Any]) -> Border:
        lines = parameters["blocks"].reshape(-1, 4)
        if bool((lines < 0).any()) or data.ndim != 1 or int((lines[:, 2] * lines[:, 3]).sum()) != data.size:
            raise TypeError("the block sizes do not fit their data")
        border = cls.__new__(cls)
        border._fill(lines, int(parameters["p"]), int(parameters["left_dim"]), bool(parameters["mirror"]), data, ())
        return border

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        p, out = self.p, []
        for row, col, rows, cols in self._table.tolist():
            inner = dense[row * p : (row + rows) * p, col * p : (col + cols) * p]
            out.append(_trace_of_right(inner, rows, cols, p) * (2.0 if self.mirror and row != col else 1.0))
        return tuple(out)

    def __reduce__(self) -> tuple[Any, ...]:
        return border_from_parts, self._term()


class FramedKroneckerBorder(Border):
    """Blocks `G_ab (x) (U_a' U_b)`: groups of basis functions whose outputs live in frames of their own.

    Group `a` has `m_a` basis functions and a frame `U_a`, `p x r_a`; its columns start at the sum of `m_b r_b` over the
    groups before it, and column `l r_a + c` of the group belongs to basis function `l` and direction `c` of the frame.

    Parameters
    ----------
    basis_sizes : sequence of int
        `m_a`.
    frames : sequence of ((p, r_a) array_like or None)
        None stands for `I_p` (`r_a = p`).
    blocks : sequence of (a, b, (m_a, m_b) array_like)
        `G_ab`. Repeated blocks add; `G_aa` must be symmetric.
    p : int
        Outputs, >= 1.
    mirror : bool, default True
        Each block with `a != b` stands for its transpose on the other side too.

    Attributes
    ----------
    basis_sizes, widths : tuple of int
        `m_a` and `r_a`.
    frames : tuple of (ndarray or None)
    blocks : tuple of (int, int, ndarray)
    p : int
    mirror : bool

    Raises
    ------
    InvalidArgument
        Sizes do not fit.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> frame = np.array([[1.0], [1.0]])
    >>> border = asn.FramedKroneckerBorder([1, 1], [frame, None], [(0, 0, [[2.0]]), (1, 1, [[5.0]])], p=2)
    >>> border.diagonal()
    array([4., 5., 5.])
    """

    __slots__ = ("_framed", "_pairs", "basis_sizes", "mirror", "p", "widths")
    _form = "framed_kronecker"
    p: int
    mirror: bool
    basis_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    _framed: tuple[bool, ...]
    _pairs: Array

    def __init__(
        self,
        basis_sizes: Sequence[int],
        frames: Sequence[ArrayLike | None],
        blocks: Sequence[tuple[int, int, ArrayLike]],
        p: int,
        *,
        mirror: bool = True,
    ) -> None:
        self.p = size_of("p", p, 1)
        self.mirror = flag("mirror", mirror)
        self.basis_sizes = tuple(size_of(f"basis_sizes[{a}]", size, 0) for a, size in enumerate(basis_sizes))
        given = [None if frame is None else as_array(frame, f"frames[{a}]") for a, frame in enumerate(frames)]
        if len(given) != len(self.basis_sizes):
            raise InvalidArgument(
                argument="frames", got=f"{len(given)} frames", expected=f"{len(self.basis_sizes)}, one per group"
            )
        for a, frame in enumerate(given):
            if frame is not None and (frame.ndim != 2 or frame.shape[0] != self.p):
                raise InvalidArgument(argument=f"frames[{a}]", got=describe(frame), expected=f"shape ({self.p}, r_a)")
        self._framed = tuple(frame is not None for frame in given)
        self.widths = tuple(self.p if frame is None else frame.shape[1] for frame in given)
        places, parts = _placed(blocks, ("a", "b"))
        for index, ((a, b), part) in enumerate(zip(places, parts, strict=True)):
            count = len(self.basis_sizes)
            if max(a, b) >= count:
                raise InvalidArgument(
                    argument=f"blocks[{index}]", got=f"groups {a} and {b}", expected=f"groups below {count}"
                )
            shape = (self.basis_sizes[a], self.basis_sizes[b])
            if part.shape != shape:
                raise InvalidArgument(argument=f"blocks[{index}]", got=describe(part), expected=f"shape {shape}")
        self._pairs = np.array(places, dtype=np.int64).reshape(-1, 2)
        k = sum(m * r for m, r in zip(self.basis_sizes, self.widths, strict=True))
        self._begin(k, *one_buffer([*parts, *(frame for frame in given if frame is not None)]))

    def _views(self) -> tuple[tuple[Array, ...], tuple[Array | None, ...]]:
        m = self.basis_sizes
        shapes = [(m[a], m[b]) for a, b in self._pairs.tolist()]
        shapes += [(self.p, r) for r, framed in zip(self.widths, self._framed, strict=True) if framed]
        views = split_blocks(self._data, shapes)
        rest = iter(views[len(self._pairs) :])
        return views[: len(self._pairs)], tuple(next(rest) if framed else None for framed in self._framed)

    @property
    def frames(self) -> tuple[Array | None, ...]:
        """Views of the frames; None where a frame is the identity."""
        return self._views()[1]

    @property
    def blocks(self) -> tuple[tuple[int, int, Array], ...]:
        """Groups and views of the blocks."""
        return tuple((a, b, view) for (a, b), view in zip(self._pairs.tolist(), self._views()[0], strict=True))

    def _parameters(self) -> dict[str, Any]:
        groups = np.array([self.basis_sizes, self.widths, self._framed], dtype=np.int64).T.reshape(-1)
        return {
            "groups": np.ascontiguousarray(groups),
            "blocks": self._pairs.reshape(-1),
            "p": self.p,
            "mirror": self.mirror,
        }

    @classmethod
    def _from_parts(cls, data: Array, parameters: dict[str, Any]) -> Border:
        p, groups = int(parameters["p"]), parameters["groups"].reshape(-1, 3).tolist()
        pairs = parameters["blocks"].reshape(-1, 2).tolist()
        if pairs and not 0 <= min(map(min, pairs)) <= max(map(max, pairs)) < len(groups):
            raise TypeError("a block of a group that does not exist")
        shapes = [(groups[a][0], groups[b][0]) for a, b in pairs] + [(p, r) for _, r, framed in groups if framed]
        require_entries(data, shapes)
        views = split_blocks(data, shapes)
        rest = iter(views[len(pairs) :])
        return cls(
            [basis for basis, _, _ in groups],
            [next(rest) if framed else None for _, _, framed in groups],
            [(a, b, view) for (a, b), view in zip(pairs, views[: len(pairs)], strict=True)],
            p,
            mirror=bool(parameters["mirror"]),
        )

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        # dW_ab = <dP, G_ab>, dU_a = U_b dW_ab', dU_b = U_a dW_ab for W_ab = U_a' U_b.
        m, r = self.basis_sizes, self.widths
        start = list(itertools.accumulate((x * y for x, y in zip(m, r, strict=True)), initial=0))
        frames = [np.eye(self.p) if frame is None else frame for frame in self.frames]
        of_frames = [np.zeros((self.p, width)) for width in r]
        of_blocks: list[Array] = []
        for a, b, block in self.blocks:
            inner = dense[start[a] : start[a + 1], start[b] : start[b + 1]].reshape(m[a], r[a], m[b], r[b])
            times = 2.0 if self.mirror and a != b else 1.0
            matrix = _symmetric(block, symmetry) if a == b else block
            of_blocks.append(times * np.einsum("lcme,ce->lm", inner, frames[a].T @ frames[b]))
            of_product = times * np.einsum("lcme,lm->ce", inner, matrix)
            of_frames[a] += frames[b] @ of_product.T
            of_frames[b] += frames[a] @ of_product
        kept = [g if framed else None for g, framed in zip(of_frames, self._framed, strict=True)]
        return tuple(of_blocks), tuple(kept)

    def __reduce__(self) -> tuple[Any, ...]:
        return border_from_parts, self._term()


# ---- parts ----------------------------------------------------------------------------------------------------------
def _placed(blocks: Any, names: tuple[str, str]) -> tuple[list[tuple[int, int]], list[Array]]:
    """Return the two integers and the matrix of each block."""
    if not isinstance(blocks, Iterable):
        raise InvalidArgument(argument="blocks", got=describe(blocks), expected="a sequence of blocks")
    places: list[tuple[int, int]] = []
    parts: list[Array] = []
    for index, block in enumerate(blocks):
        try:
            first, second, matrix = block
        except (TypeError, ValueError) as error:
            raise InvalidArgument(
                argument=f"blocks[{index}]", got=describe(block), expected=f"({names[0]}, {names[1]}, matrix)"
            ) from error
        part = as_array(matrix, f"blocks[{index}]")
        if part.ndim != 2:
            raise InvalidArgument(argument=f"blocks[{index}]", got=describe(part), expected="a matrix")
        places.append((size_of(f"blocks[{index}]", first, 0), size_of(f"blocks[{index}]", second, 0)))
        parts.append(part)
    return places, parts


def _symmetric(matrix: Array, symmetry: str) -> Array:
    """Return the symmetric matrix that an array stands for."""
    if symmetry == "average":
        mean: Array = 0.5 * (matrix + matrix.T)
        return mean
    whole: Array = np.tril(matrix) + np.tril(matrix, -1).T
    return whole


def _trace_of_right(dense: Array, rows: int, cols: int, p: int) -> Array:
    """Return `sum_c D[r p + c, s p + c]`: the gradient of `A` for `A (x) I_p`."""
    trace: Array = np.einsum("rcsc->rs", dense.reshape(rows, p, cols, p))
    return trace
