"""Systems and borders: what the caller hands over, checked by name and borrowed by the core."""

from __future__ import annotations

import itertools
import os
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arrays import Array, as_array, as_indices, common_dtype, describe, float64_array, plain
from ._errors import InvalidArgument, UnsupportedConfiguration

__all__ = [
    "ArrowSystem",
    "BandedBorder",
    "BlockDiagonalBorder",
    "Border",
    "BorderSum",
    "DenseBorder",
    "DiagonalBorder",
]

_BorderLike = Union["Border", ArrayLike]


# ---- borders --------------------------------------------------------------------------------------------------------
class Border:
    """Base of the border forms: a symmetric `k x k` matrix. Immutable; add forms and arrays with `+`.

    Attributes
    ----------
    k : int
        Width.
    dtype : dtype
        float64 or float32.
    """

    __slots__ = ("_handle", "copies", "dtype", "k")
    # NumPy must leave `array + border` to __radd__.
    __array_ufunc__ = None

    k: int
    dtype: np.dtype[Any]
    copies: tuple[str, ...]
    _handle: _core.Border | None

    def _begin(self, k: int, dtype: np.dtype[Any], copies: Iterable[str] = ()) -> None:
        self.k = k
        self.dtype = dtype
        self.copies = tuple(copies)
        self._handle = None

    def _terms(self) -> tuple[Border, ...]:
        return (self,)

    def _term(self) -> tuple[str, Array, Any]:
        """Return (kind, data, sizes) for the core."""
        raise NotImplementedError

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Border:
        raise NotImplementedError

    def _private_copy(self) -> Border:
        raise NotImplementedError

    def _gradient(self, dense: Array) -> Any:
        """Read the gradient in this form from the gradient of the dense symmetric matrix."""
        raise NotImplementedError

    @property
    def _native(self) -> _core.Border:
        if self._handle is None:
            terms = [term._term() for term in self._terms()]
            self._handle = _core.Border(self.k, self.dtype == np.float32, terms)
        return self._handle

    @property
    def shape(self) -> tuple[int, int]:
        """`(k, k)`."""
        return self.k, self.k

    def matvec(self, x: ArrayLike) -> Array:
        """Return `P x` for `x` of shape (k,) or (k, m), in float64.

        Raises
        ------
        InvalidArgument
            The shape of `x` does not fit.
        """
        vector = float64_array(x, "x")
        if vector.ndim not in (1, 2) or vector.shape[0] != self.k:
            raise InvalidArgument(argument="x", got=describe(vector), expected=f"shape ({self.k},) or ({self.k}, m)")
        return self._native.matvec(vector)

    def diagonal(self) -> Array:
        """Return the diagonal, shape (k,), float64."""
        return self._native.diagonal()

    def to_dense(self) -> Array:
        """Return the full symmetric matrix, shape (k, k), float64."""
        return self._native.to_dense()

    def __add__(self, other: Any) -> Border:
        right = as_border(other, self.k, "border term")
        return BorderSum((*self._terms(), *right._terms()))

    def __radd__(self, other: Any) -> Border:
        left = as_border(other, self.k, "border term")
        return BorderSum((*left._terms(), *self._terms()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, dtype={self.dtype})"


class DenseBorder(Border):
    """A dense symmetric border. Arrays of shape (k, k) become one by themselves.

    Parameters
    ----------
    matrix : (k, k) array_like, float64 or float32

    Raises
    ------
    InvalidArgument
        The matrix is not square.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> asn.DenseBorder(np.eye(2)).matvec([1.0, 2.0])
    array([1., 2.])
    """

    __slots__ = ("matrix",)
    matrix: Array

    def __init__(self, matrix: ArrayLike) -> None:
        array, copies = _one_array(matrix, "matrix")
        if array.ndim != 2 or array.shape[0] != array.shape[1]:
            raise InvalidArgument(argument="matrix", got=describe(array), expected="a square matrix (k, k)")
        self._begin(array.shape[0], array.dtype, copies)
        self.matrix = array

    def _term(self) -> tuple[str, Array, Any]:
        return "dense", self.matrix, None

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Border:
        return DenseBorder(plain(self.matrix, dtype, "h_bb", copies))

    def _private_copy(self) -> Border:
        return DenseBorder(self.matrix.copy())

    def _gradient(self, dense: Array) -> Any:
        return dense

    def __reduce__(self) -> tuple[Any, ...]:
        return DenseBorder, (self.matrix,)


class DiagonalBorder(Border):
    """A diagonal border. Arrays of shape (k,) become one by themselves.

    Parameters
    ----------
    entries : (k,) array_like, float64 or float32

    Raises
    ------
    InvalidArgument
        The entries are not a vector.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.DiagonalBorder([2.0, 3.0]).to_dense()
    array([[2., 0.],
           [0., 3.]])
    """

    __slots__ = ("entries",)
    entries: Array

    def __init__(self, entries: ArrayLike) -> None:
        array, copies = _one_array(entries, "entries")
        if array.ndim != 1:
            raise InvalidArgument(argument="entries", got=describe(array), expected="a vector (k,)")
        self._begin(array.shape[0], array.dtype, copies)
        self.entries = array

    def _term(self) -> tuple[str, Array, Any]:
        return "diagonal", self.entries, None

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Border:
        return DiagonalBorder(plain(self.entries, dtype, "h_bb", copies))

    def _private_copy(self) -> Border:
        return DiagonalBorder(self.entries.copy())

    def _gradient(self, dense: Array) -> Any:
        return np.ascontiguousarray(np.diagonal(dense))

    def __reduce__(self) -> tuple[Any, ...]:
        return DiagonalBorder, (self.entries,)


class BandedBorder(Border):
    """A symmetric banded border in the lower form of `scipy.linalg.solveh_banded(lower=True)`.

    Parameters
    ----------
    bands : (w + 1, k) array_like, float64 or float32
        `bands[j, i] = M[i + j, i]`; entries with `i + j >= k` are ignored (but must be finite).

    Raises
    ------
    InvalidArgument
        The bands are not a matrix of at least one row.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.BandedBorder([[4.0, 4.0, 4.0], [-1.0, -1.0, 0.0]]).to_dense()
    array([[ 4., -1.,  0.],
           [-1.,  4., -1.],
           [ 0., -1.,  4.]])
    """

    __slots__ = ("bands",)
    bands: Array

    def __init__(self, bands: ArrayLike) -> None:
        array, copies = _one_array(bands, "bands")
        if array.ndim != 2 or array.shape[0] < 1:
            raise InvalidArgument(argument="bands", got=describe(array), expected="a matrix (w + 1, k), w >= 0")
        self._begin(array.shape[1], array.dtype, copies)
        self.bands = array

    def _term(self) -> tuple[str, Array, Any]:
        # Sub-diagonals below the last one of the matrix hold no entry.
        used = min(self.bands.shape[0], max(self.k, 1))
        return "banded", self.bands[:used], None

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Border:
        return BandedBorder(plain(self.bands, dtype, "h_bb", copies))

    def _private_copy(self) -> Border:
        return BandedBorder(self.bands.copy())

    def _gradient(self, dense: Array) -> Any:
        out = np.zeros(self.bands.shape)
        for j in range(min(self.bands.shape[0], self.k)):
            # An off-diagonal band entry stands for two entries of the matrix.
            out[j, : self.k - j] = np.diagonal(dense, -j) * (1.0 if j == 0 else 2.0)
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        return BandedBorder, (self.bands,)


class BlockDiagonalBorder(Border):
    """A block-diagonal border.

    Parameters
    ----------
    blocks : sequence of (b_j, b_j) array_like, or (m, b, b) array_like; float64 or float32
        The symmetric diagonal blocks, in order; `k = sum_j b_j`.

    Attributes
    ----------
    blocks : tuple of ndarray
        Views of the stored blocks.
    sizes : tuple of int

    Raises
    ------
    InvalidArgument
        A block is not square.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> asn.BlockDiagonalBorder([np.eye(2), [[5.0]]]).diagonal()
    array([1., 1., 5.])
    """

    __slots__ = ("_data", "_stacked", "sizes")
    sizes: tuple[int, ...]
    _data: Array
    _stacked: bool

    def __init__(self, blocks: ArrayLike | Sequence[ArrayLike]) -> None:
        if isinstance(blocks, np.ndarray):
            array, copies = _one_array(blocks, "blocks")
            if array.ndim != 3 or array.shape[1] != array.shape[2]:
                raise InvalidArgument(argument="blocks", got=describe(array), expected="square blocks (m, b, b)")
            sizes = (array.shape[1],) * array.shape[0]
            data = array.reshape(-1)
        else:
            if not isinstance(blocks, Iterable):
                raise InvalidArgument(argument="blocks", got=describe(blocks), expected="a sequence of square blocks")
            parts = [as_array(block, f"blocks[{j}]") for j, block in enumerate(blocks)]
            for j, part in enumerate(parts):
                if part.ndim != 2 or part.shape[0] != part.shape[1]:
                    raise InvalidArgument(argument=f"blocks[{j}]", got=describe(part), expected="a square block")
            sizes = tuple(part.shape[0] for part in parts)
            data = _stack([part.reshape(-1) for part in parts], common_dtype(parts))
            copies = ["h_bb: blocks -> one buffer"]
        self._begin(sum(sizes), data.dtype, copies)
        self.sizes = sizes
        self._data = data
        self._stacked = isinstance(blocks, np.ndarray)

    @property
    def blocks(self) -> tuple[Array, ...]:
        """Views of the blocks."""
        return _split_blocks(self._data, self.sizes)

    def _term(self) -> tuple[str, Array, Any]:
        return "block_diagonal", self._data, list(self.sizes)

    def _with_data(self, data: Array) -> BlockDiagonalBorder:
        twin = BlockDiagonalBorder.__new__(BlockDiagonalBorder)
        twin._begin(self.k, data.dtype, self.copies)
        twin.sizes, twin._data, twin._stacked = self.sizes, data, self._stacked
        return twin

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Border:
        return self._with_data(plain(self._data, dtype, "h_bb", copies))

    def _private_copy(self) -> Border:
        return self._with_data(self._data.copy())

    def _gradient(self, dense: Array) -> Any:
        edges = np.cumsum((0, *self.sizes)).tolist()
        blocks = [np.ascontiguousarray(dense[a:b, a:b]) for a, b in itertools.pairwise(edges)]
        if self._stacked:
            side = self.sizes[0] if self.sizes else 0
            return np.stack(blocks) if blocks else np.zeros((0, side, side))
        return tuple(blocks)

    def __reduce__(self) -> tuple[Any, ...]:
        blocks: Any = self.blocks
        if self._stacked and self.sizes:
            blocks = self._data.reshape(len(self.sizes), self.sizes[0], self.sizes[0])
        return BlockDiagonalBorder, (blocks,)


class BorderSum(Border):
    """A sum of border forms. Made by `+`.

    Parameters
    ----------
    terms : sequence of Border
        At least one; all of the same width. Mixed dtypes are promoted to float64.

    Raises
    ------
    InvalidArgument
        There is no term, or the widths differ.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> total = asn.BandedBorder([[1.0, 1.0]]) + np.ones((2, 2))
    >>> total.to_dense()
    array([[2., 1.],
           [1., 2.]])
    """

    __slots__ = ("terms",)
    terms: tuple[Border, ...]

    def __init__(self, terms: Sequence[Border]) -> None:
        flat = tuple(inner for term in terms for inner in term._terms())
        if not flat:
            raise InvalidArgument(argument="terms", got="no term", expected="at least one border")
        k = flat[0].k
        for term in flat:
            if term.k != k:
                raise InvalidArgument(argument="terms", got=f"widths {k} and {term.k}", expected="equal widths")
        dtype = np.dtype(np.float32 if all(t.dtype == np.float32 for t in flat) else np.float64)
        copies: list[str] = [note for term in flat for note in term.copies]
        self.terms = tuple(t if t.dtype == dtype else t._as_dtype(dtype, copies) for t in flat)
        self._begin(k, dtype, copies)

    def _terms(self) -> tuple[Border, ...]:
        return self.terms

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Border:
        return BorderSum([term._as_dtype(dtype, copies) for term in self.terms])

    def _private_copy(self) -> Border:
        return BorderSum([term._private_copy() for term in self.terms])

    def _gradient(self, dense: Array) -> Any:
        return tuple(term._gradient(dense) for term in self.terms)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))

    def __reduce__(self) -> tuple[Any, ...]:
        return BorderSum, (self.terms,)


def as_border(value: Any, k: int | None, name: str) -> Border:
    """Return a border object for a border or an array of shape (k, k) or (k,)."""
    if isinstance(value, Border):
        border: Border = value
    else:
        array = as_array(value, name)
        if array.ndim == 2 and array.shape[0] == array.shape[1]:
            border = DenseBorder(array)
        elif array.ndim == 1:
            border = DiagonalBorder(array)
        else:
            raise InvalidArgument(argument=name, got=describe(array), expected="shape (k, k) or (k,), or a border")
    if k is not None and border.k != k:
        raise InvalidArgument(argument=name, got=f"a border of width {border.k}", expected=f"width k = {k}")
    return border


def _one_array(value: Any, name: str) -> tuple[Array, list[str]]:
    copies: list[str] = []
    array = as_array(value, name)
    if not isinstance(value, np.ndarray) and not hasattr(value, "__dlpack__"):
        copies.append(f"h_bb: {type(value).__name__} -> array")
    return plain(array, common_dtype([array]), "h_bb", copies), copies


def _stack(parts: Sequence[Array], dtype: np.dtype[Any]) -> Array:
    if not parts:
        return np.zeros(0, dtype=dtype)
    return np.concatenate(parts).astype(dtype, copy=False)


def _split_blocks(flat: Array, sizes: Iterable[int]) -> tuple[Array, ...]:
    blocks: list[Array] = []
    start = 0
    for size in sizes:
        blocks.append(flat[start : start + size * size].reshape(size, size))
        start += size * size
    return tuple(blocks)


# ---- systems --------------------------------------------------------------------------------------------------------
_FORMAT = "arrowschur_native.ArrowSystem"
_FORMAT_VERSION = 1


class ArrowSystem:
    """A symmetric arrow system: `n` small row blocks that couple only through one shared border.

    .. code-block:: text

        H = [ A_1              B_1 ]     A_i = h_tt[i]   (d_i x d_i)
            [      ...         ... ]     B_i = h_tb[i]   (d_i x k)
            [          A_n     B_n ]     M   = h_bb      (k x k)
            [ B_1' ... B_n'    M   ]     g   = (g_t, g_beta)

    Parameters
    ----------
    h_tt : (n, d, d) array_like; with `row_dims` a flat (sum d_i^2,) buffer; or a sequence of (d_i, d_i) arrays
        Row blocks, symmetric, without ridge.
    h_tb : (n, d, k) or (T, k) array_like
        Cross block, `T = sum_i d_i`.
    h_bb : (k, k) or (k,) array_like, or a border object
        Border block, symmetric: dense, diagonal, `BandedBorder`, `BlockDiagonalBorder`, or a sum of these.
    g_t : (n, d) or (T,) array_like
    g_beta : (k,) array_like
        Gradients.
    row_dims : (n,) array_like of int, optional
        Row sizes `d_i >= 0`, for flat `h_tt`.
    border_blocks : (b + 1,) array_like of int, optional
        Offsets `0 = o_0 <= o_1 <= ... <= o_b = k` of border columns that belong together, or a sequence of sorted,
        disjoint ranges `(start, stop)` that cover `0..k`. Kept for preconditioners; a direct solve does not need it.
    row_penalties, row_low_rank, row_gauge : None
        Couplings between rows; of a later version.
    symmetry : {'check', 'average', 'lower'}, default 'check'
        How blocks that are not exactly symmetric are treated: an error beyond `1e-10 max|X|`, the mean with the
        transpose, or the lower triangle unseen. After the check the lower triangle is the matrix, everywhere.
    check_finite : bool, default True
        Look for NaN and infinity, once.
    detect_structure : bool, default True
        Allow the plan to look for structure in dense parts. This version has no route that would use it.

    Attributes
    ----------
    n, k, total_dim : int
        Number of rows, border width, `T`.
    row_dims, row_offsets : ndarray of int64
        Shapes (n,) and (n + 1,).
    dtype : dtype
        Common dtype of the parts.
    single : bool
        Whether that is float32.
    nbytes : int
        Bytes of the five parts.
    h_tt, h_tb, g_t, g_beta : ndarray
        The parts, as they are used (without a copy when they came in C order).
    cross : ndarray
        The cross block.
    border : Border
        The border block.
    copies : tuple of str
        Conversions that were made.

    Raises
    ------
    InvalidArgument
        A part has the wrong shape, dtype, symmetry, or a NaN; the message names the part and the first index.
    UnsupportedConfiguration
        Couplings between rows; arrays in device memory.
    MemoryBudgetExceeded
        `T k` or `k k` overflows.

    Notes
    -----
    float64 and float32 arrays in C order are borrowed, not copied: do not change them while the system is in use.
    Parts of different dtypes, integers and half precision are converted to float64, once, and `copies` says so. Objects
    with `__dlpack__` on the CPU are accepted where arrays are. Validation is one parallel pass over the data.

    Immutable; may be used from any number of threads. Pickles.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> h_tt = np.array([[[3.0, 0.5], [0.5, 2.0]], [[1.5, -0.25], [-0.25, 4.0]]])
    >>> h_tb = np.array([[[1, -0.5, 0], [0.25, 0, 1]], [[0, 0.5, -1], [1, 0.25, 0]]])
    >>> h_bb = np.array([[6, 0.5, 0], [0.5, 5, -0.5], [0, -0.5, 4]])
    >>> system = asn.ArrowSystem(h_tt, h_tb, h_bb, [[0.5, -1], [-0.25, 0.75]], [1, -0.5, 0.25])
    >>> step = asn.newton_step(system)
    >>> H, g = system.to_dense()
    >>> np.allclose(H @ np.r_[step.delta_t.ravel(), step.delta_beta], -g)
    True
    """

    __slots__ = (
        "_gradients",
        "_handle",
        "border",
        "border_blocks",
        "check_finite",
        "copies",
        "detect_structure",
        "dtype",
        "h_tb",
        "h_tt",
        "k",
        "n",
        "row_dims",
        "row_offsets",
        "single",
        "symmetry",
        "total_dim",
        "uniform_dim",
    )
    n: int
    k: int
    total_dim: int
    uniform_dim: int | None
    row_dims: NDArray[np.int64]
    row_offsets: NDArray[np.int64]
    dtype: np.dtype[Any]
    single: bool
    h_tt: Array
    h_tb: Array
    border: Border
    border_blocks: NDArray[np.int64] | None
    symmetry: str
    check_finite: bool
    detect_structure: bool
    copies: tuple[str, ...]
    _gradients: tuple[Array, Array]
    _handle: _core.System

    def __init__(
        self,
        h_tt: ArrayLike | Sequence[ArrayLike],
        h_tb: ArrayLike,
        h_bb: _BorderLike,
        g_t: ArrayLike,
        g_beta: ArrayLike,
        *,
        row_dims: ArrayLike | None = None,
        border_blocks: ArrayLike | None = None,
        row_penalties: None = None,
        row_low_rank: None = None,
        row_gauge: None = None,
        symmetry: str = "check",
        check_finite: bool = True,
        detect_structure: bool = True,
    ) -> None:
        for name, value in (
            ("row_penalties", row_penalties),
            ("row_low_rank", row_low_rank),
            ("row_gauge", row_gauge),
        ):
            if value is not None:
                raise UnsupportedConfiguration(feature=name, route="this version", hint="leave it None")
        if symmetry not in ("check", "average", "lower"):
            raise InvalidArgument(
                argument="symmetry", got=f"{symmetry!r:.80}", expected="one of 'check', 'average', 'lower'"
            )
        for name, flag in (("check_finite", check_finite), ("detect_structure", detect_structure)):
            if not isinstance(flag, bool):
                raise InvalidArgument(argument=name, got=f"{flag!r:.80}", expected="True or False")

        copies: list[str] = []
        rows = _rows(h_tt, row_dims, copies)
        cross = as_array(h_tb, "h_tb")
        gradient_t = as_array(g_t, "g_t")
        gradient_beta = as_array(g_beta, "g_beta")

        if gradient_beta.ndim != 1:
            raise InvalidArgument(argument="g_beta", got=describe(gradient_beta), expected="a vector (k,)")
        k = gradient_beta.shape[0]
        border = as_border(h_bb, k, "h_bb")
        _check_rows(rows, h_tt, cross, gradient_t, k)
        _check_shape("h_tb", cross, rows.shapes(k))
        _check_shape("g_t", gradient_t, rows.shapes())

        dtype = common_dtype([rows.data, cross, gradient_t, gradient_beta])
        if border.dtype != np.float32:
            dtype = np.dtype(np.float64)
        copies.extend(border.copies)
        if border.dtype != dtype:
            border = border._as_dtype(dtype, copies)

        put = object.__setattr__
        put(self, "n", rows.n)
        put(self, "k", k)
        put(self, "total_dim", rows.total)
        put(self, "uniform_dim", rows.d)
        put(self, "row_dims", rows.dims())
        put(self, "row_offsets", _frozen(np.concatenate(([0], np.cumsum(self.row_dims, dtype=np.int64)))))
        put(self, "dtype", dtype)
        put(self, "single", dtype == np.float32)
        put(self, "h_tt", plain(rows.data, dtype, "h_tt", copies))
        put(self, "h_tb", plain(cross, dtype, "h_tb", copies))
        put(self, "border", border)
        put(self, "border_blocks", _border_blocks(border_blocks, k))
        put(self, "symmetry", symmetry)
        put(self, "check_finite", check_finite)
        put(self, "detect_structure", detect_structure)
        put(
            self,
            "_gradients",
            (plain(gradient_t, dtype, "g_t", copies), plain(gradient_beta, dtype, "g_beta", copies)),
        )
        put(self, "copies", tuple(copies))
        core = _core.System(
            n=rows.n,
            d=rows.d if rows.d is not None else 0,
            k=k,
            row_dims=rows.ragged,
            h_tt=self.h_tt,
            h_tb=self.h_tb,
            border=[term._term() for term in border._terms()],
            g_t=self._gradients[0],
            g_beta=self._gradients[1],
            rows_as_matrix=gradient_t.ndim == 2,
            check_finite=check_finite,
            symmetry=symmetry,
        )
        put(self, "_handle", core)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"ArrowSystem is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"ArrowSystem is immutable: cannot delete {name!r}")

    # ---- parts --------------------------------------------------------------------------------------------------
    @property
    def g_t(self) -> Array:
        """Gradient of the rows, (n, d) or (T,)."""
        return self._gradients[0]

    @property
    def g_beta(self) -> Array:
        """Gradient of the border, (k,)."""
        return self._gradients[1]

    @property
    def cross(self) -> Array:
        """The cross block `h_tb`."""
        return self.h_tb

    @property
    def h_bb(self) -> Any:
        """The border block: an array for dense and diagonal borders, else the border object."""
        if isinstance(self.border, DenseBorder):
            return self.border.matrix
        if isinstance(self.border, DiagonalBorder):
            return self.border.entries
        return self.border

    @property
    def nbytes(self) -> int:
        """Bytes of the five parts."""
        return self._handle.nbytes

    # ---- products ------------------------------------------------------------------------------------------------
    def apply(
        self,
        x_t: ArrayLike,
        x_beta: ArrayLike,
        ridge_t: float = 0.0,
        ridge_beta: float = 0.0,
        *,
        damping_t: ArrayLike | None = None,
        damping_beta: ArrayLike | None = None,
    ) -> tuple[Array, Array]:
        """Return `y = (H + ridges) x`.

        Parameters
        ----------
        x_t : (n, d) or (T,) array_like
        x_beta : (k,) array_like
        ridge_t, ridge_beta : float, default 0
            Finite, >= 0.
        damping_t, damping_beta : array_like, optional
            Diagonals to add, shapes of `x_t` and `x_beta`, >= 0.

        Returns
        -------
        y_t, y_beta : ndarray, float64
            In the shapes of `x_t` and `x_beta`.

        Raises
        ------
        InvalidArgument
            A shape does not fit, or a ridge is negative or not finite.

        Notes
        -----
        One pass over `h_tb` and one over `h_bb`. Releases the GIL.

        Examples
        --------
        >>> import numpy as np, arrowschur_native as asn
        >>> system = asn.fixtures.small_fixture(0x11).system()
        >>> H, _ = system.to_dense()
        >>> y_t, y_beta = system.apply(np.ones((8, 2)), np.ones(4))
        >>> np.allclose(np.r_[y_t.ravel(), y_beta], H @ np.ones(20))
        True
        """
        t = row_vector(self, x_t, "x_t")
        beta = border_vector(self, x_beta, "x_beta")
        return self._handle.apply(t, beta, ridge_t, ridge_beta, *dampings(self, damping_t, damping_beta))

    def to_dense(self) -> tuple[Array, Array]:
        """Return `(H, g)`: the whole symmetric matrix, (T + k, T + k), and the gradient, (T + k,), in float64.

        Notes
        -----
        For small systems and tests: `8 (T + k)^2` bytes.
        """
        return self._handle.to_dense()

    def gradient_norm(self) -> float:
        """Return the 2-norm of `(g_t, g_beta)`."""
        return self._handle.gradient_norm()

    def gradient_dot(self, delta_t: ArrayLike, delta_beta: ArrayLike) -> float:
        """Return `g' x` for a step `x = (delta_t, delta_beta)`.

        Raises
        ------
        InvalidArgument
            A shape does not fit.
        """
        return self._handle.gradient_dot(
            row_vector(self, delta_t, "delta_t"), border_vector(self, delta_beta, "delta_beta")
        )

    def fingerprint(self) -> int:
        """Return a 64-bit content hash of everything but the gradients. Computed on first use, then kept."""
        return self._handle.fingerprint()

    def with_gradient(self, g_t: ArrayLike, g_beta: ArrayLike) -> ArrowSystem:
        """Return a system with other gradients that shares every block.

        Parameters
        ----------
        g_t : (n, d) or (T,) array_like
        g_beta : (k,) array_like
            Converted to the dtype of the system.

        Returns
        -------
        ArrowSystem

        Raises
        ------
        InvalidArgument
            A shape does not fit, or an entry is not finite.

        Examples
        --------
        >>> import numpy as np, arrowschur_native as asn
        >>> system = asn.fixtures.small_fixture(0x11).system()
        >>> other = system.with_gradient(np.zeros((8, 2)), np.ones(4))
        >>> other.h_tb is system.h_tb, other.fingerprint() == system.fingerprint()
        (True, True)
        """
        rows_g = as_array(g_t, "g_t")
        border_g = as_array(g_beta, "g_beta")
        _check_shape("g_t", rows_g, _row_shapes(self))
        _check_shape("g_beta", border_g, [(self.k,)])
        copies = [note for note in self.copies if not note.startswith(("g_t:", "g_beta:"))]
        gradients = plain(rows_g, self.dtype, "g_t", copies), plain(border_g, self.dtype, "g_beta", copies)
        core = self._handle.with_gradient(*gradients, rows_g.ndim == 2, self.check_finite)
        return self._twin(_gradients=gradients, copies=tuple(copies), _handle=core)

    def _twin(self, **changes: Any) -> ArrowSystem:
        twin = ArrowSystem.__new__(ArrowSystem)
        for name in ArrowSystem.__slots__:
            object.__setattr__(twin, name, changes.get(name, getattr(self, name)))
        return twin

    def _private_copy(self) -> ArrowSystem:
        """Return the same system on buffers of its own."""
        # What was checked once need not be checked again: only averaging changes the data.
        return ArrowSystem(
            self.h_tt.copy(),
            self.h_tb.copy(),
            self.border._private_copy(),
            self.g_t.copy(),
            self.g_beta.copy(),
            row_dims=None if self.uniform_dim is not None else self.row_dims,
            border_blocks=self.border_blocks,
            symmetry="average" if self.symmetry == "average" else "lower",
            check_finite=False,
            detect_structure=self.detect_structure,
        )

    # ---- storage -------------------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the system to an `.npz` file, without pickle.

        Parameters
        ----------
        path : path-like
            Written exactly there; no suffix is appended.

        Raises
        ------
        OSError
            The file cannot be written.

        Examples
        --------
        >>> import os, tempfile, arrowschur_native as asn
        >>> system = asn.fixtures.small_fixture(0x11).system()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     system.save(os.path.join(folder, "system.npz"))
        ...     again = asn.ArrowSystem.load(os.path.join(folder, "system.npz"))
        >>> again.fingerprint() == system.fingerprint()
        True
        """
        members: dict[str, Array] = {
            "format": np.array(_FORMAT),
            "version": np.array(_FORMAT_VERSION),
            "h_tt": self.h_tt,
            "h_tb": self.h_tb,
            "g_t": self.g_t,
            "g_beta": self.g_beta,
            "symmetry": np.array(self.symmetry),
            "check_finite": np.array(self.check_finite),
            "detect_structure": np.array(self.detect_structure),
            "border_forms": np.array([term._term()[0] for term in self.border._terms()]),
        }
        if self.uniform_dim is None:
            members["row_dims"] = self.row_dims
        if self.border_blocks is not None:
            members["border_blocks"] = self.border_blocks
        for index, term in enumerate(self.border._terms()):
            _, data, sizes = term._term()
            members[f"border_{index}"] = data
            if sizes is not None:
                members[f"border_{index}_sizes"] = np.array(sizes, dtype=np.int64)
        with open(path, "wb") as file:
            np.savez(file, **members)  # type: ignore[arg-type,unused-ignore]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ArrowSystem:
        """Read a system that `save` wrote. The data are validated again.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        ArrowSystem

        Raises
        ------
        OSError
            The file cannot be read.
        InvalidArgument
            The file is not a saved system, or its content breaks a rule.
        """
        try:
            # Opened here, so that it is closed when NumPy refuses it.
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                members = {name: file[name] for name in file.files}
        except (zipfile.BadZipFile, ValueError, EOFError, AttributeError) as error:
            raise _not_a_system(path, str(error)) from error
        try:
            if str(members["format"]) != _FORMAT:
                raise _not_a_system(path, f"its format is {str(members['format'])!r}")
            if int(members["version"]) > _FORMAT_VERSION:
                raise _not_a_system(path, f"its version {int(members['version'])} is newer than this library")
            terms = [
                _load_term(str(form), members[f"border_{index}"], members.get(f"border_{index}_sizes"))
                for index, form in enumerate(members["border_forms"].tolist())
            ]
            return cls(
                members["h_tt"],
                members["h_tb"],
                terms[0] if len(terms) == 1 else BorderSum(terms),
                members["g_t"],
                members["g_beta"],
                row_dims=members.get("row_dims"),
                border_blocks=members.get("border_blocks"),
                symmetry=str(members["symmetry"]),
                check_finite=bool(members["check_finite"]),
                detect_structure=bool(members["detect_structure"]),
            )
        except (KeyError, TypeError) as error:
            raise _not_a_system(path, f"missing or odd member: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        options = {
            "row_dims": None if self.uniform_dim is not None else self.row_dims,
            "border_blocks": self.border_blocks,
            "symmetry": self.symmetry,
            "check_finite": self.check_finite,
            "detect_structure": self.detect_structure,
        }
        return _rebuild, ((self.h_tt, self.h_tb, self.border, self.g_t, self.g_beta), options, self.copies)

    def __repr__(self) -> str:
        d = self.uniform_dim
        sizes = f"d={d}" if d is not None else f"d={_range_text(self.row_dims)}"
        return (
            f"ArrowSystem(n={self.n}, {sizes}, k={self.k}, T={self.total_dim}, dtype={self.dtype}, "
            f"border={' + '.join(type(t).__name__ for t in self.border._terms())})"
        )

    # ---- normal equations ------------------------------------------------------------------------------------------
    @classmethod
    def from_jacobians(
        cls,
        j_t: ArrayLike,
        j_beta: ArrayLike,
        residual: ArrayLike,
        *,
        weights: ArrayLike | None = None,
        h_bb: _BorderLike | None = None,
        h_tt: ArrayLike | None = None,
        row_index: ArrayLike | None = None,
        n: int | None = None,
    ) -> ArrowSystem:
        """Return the Gauss-Newton normal equations of independent residual blocks.

        With `W = diag(weights)`, block `b` of row `i` adds

        .. code-block:: text

            h_tt[i] += J_t' W J_t     h_tb[i] += J_t' W J_beta     h_bb += J_beta' W J_beta
            g_t[i]  += J_t' W e       g_beta  += J_beta' W e

        Parameters
        ----------
        j_t : (r, q, d) array_like
            Jacobians with respect to the row of each block.
        j_beta : (r, q, k) array_like
            Jacobians with respect to the border.
        residual : (r, q) array_like
        weights : (r,) or (r, q) array_like, optional
            Default 1.
        h_bb : border or array_like, optional
            Prior that is added to the border, in any form of `ArrowSystem`.
        h_tt : (n, d, d) or (d, d) array_like, optional
            Prior that is added to the row blocks.
        row_index : (r,) array_like of int, optional
            Row of each residual block; default: block `b` belongs to row `b`, `n = r`.
        n : int, optional
            Number of rows; default: from `h_tt`, else `max(row_index) + 1`.

        Returns
        -------
        ArrowSystem
            With a gradient of shape (n, d).

        Raises
        ------
        InvalidArgument
            A shape does not fit, an index is out of range, or an entry is not finite.

        Notes
        -----
        `r q (d^2 + d k + k^2)` flops, the last as one symmetric rank-`r q` update. Everything is in float64. A dense
        prior on the border is added to the same matrix; any other form becomes a term of a border sum.

        Examples
        --------
        >>> import numpy as np, arrowschur_native as asn
        >>> rng = np.random.default_rng(0)
        >>> j_t, j_beta, e = rng.normal(size=(5, 4, 2)), rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 4))
        >>> system = asn.ArrowSystem.from_jacobians(j_t, j_beta, e)
        >>> np.allclose(system.g_beta, np.einsum("bqk,bq->k", j_beta, e))
        True
        """
        jacobian_t = float64_array(j_t, "j_t")
        jacobian_beta = float64_array(j_beta, "j_beta")
        errors = float64_array(residual, "residual")
        if jacobian_t.ndim != 3:
            raise InvalidArgument(argument="j_t", got=describe(jacobian_t), expected="shape (r, q, d)")
        r, q, d = jacobian_t.shape
        if jacobian_beta.ndim != 3 or jacobian_beta.shape[:2] != (r, q):
            raise InvalidArgument(argument="j_beta", got=describe(jacobian_beta), expected=f"shape ({r}, {q}, k)")
        _check_shape("residual", errors, [(r, q)])
        k = jacobian_beta.shape[2]
        scale = None
        if weights is not None:
            scale = float64_array(weights, "weights")
            _check_shape("weights", scale, [(r,), (r, q)])
        rows = None if row_index is None else as_indices(row_index, "row_index")
        if rows is not None and rows.shape != (r,):
            raise InvalidArgument(argument="row_index", got=describe(rows), expected=f"shape ({r},)")
        prior = None if h_tt is None else float64_array(h_tt, "h_tt")
        if prior is not None and (prior.ndim not in (2, 3) or prior.shape[-2:] != (d, d)):
            raise InvalidArgument(argument="h_tt", got=describe(prior), expected=f"shape (n, {d}, {d}) or ({d}, {d})")
        count = _row_count(n, r, rows, prior)

        tt, tb, bb, gt, gbeta = _core.normal_equations(jacobian_t, jacobian_beta, errors, scale, rows, count)
        if prior is not None:
            if prior.ndim == 3 and prior.shape[0] != count:
                raise InvalidArgument(argument="h_tt", got=describe(prior), expected=f"shape ({count}, {d}, {d})")
            tt += prior
        border: _BorderLike = bb
        if h_bb is not None:
            extra = as_border(h_bb, k, "h_bb")
            if isinstance(extra, DenseBorder):
                bb += extra.matrix
            else:
                border = DenseBorder(bb) + extra
        return cls(tt, tb, border, gt, gbeta)


def _row_count(n: int | None, r: int, rows: NDArray[np.int64] | None, prior: Array | None) -> int:
    if n is not None:
        if isinstance(n, bool) or not hasattr(n, "__index__") or n < 0:
            raise InvalidArgument(argument="n", got=f"{n!r:.80}", expected="an integer >= 0")
        return int(n)
    if prior is not None and prior.ndim == 3:
        return int(prior.shape[0])
    if rows is None:
        return r
    return int(rows.max()) + 1 if rows.size else 0


def _rebuild(parts: tuple[Any, ...], options: dict[str, Any], copies: tuple[str, ...]) -> ArrowSystem:
    # The conversions that the original needed are part of its story; the rebuilt one needs none.
    return ArrowSystem(*parts, **options)._twin(copies=copies)


def _not_a_system(path: Any, why: str) -> InvalidArgument:
    return InvalidArgument(
        argument="path", got=f"{os.fspath(path)!r} ({why:.120})", expected="a file written by ArrowSystem.save"
    )


def _load_term(form: str, data: Array, sizes: Array | None) -> Border:
    if form == "dense":
        return DenseBorder(data)
    if form == "diagonal":
        return DiagonalBorder(data)
    if form == "banded":
        return BandedBorder(data)
    if form == "block_diagonal" and sizes is not None:
        lengths = as_indices(sizes, "border sizes").tolist()
        if data.ndim != 1 or min(lengths, default=0) < 0 or sum(b * b for b in lengths) != data.size:
            raise TypeError("the block sizes do not fit their data")
        if lengths and min(lengths) == max(lengths):
            return BlockDiagonalBorder(data.reshape(len(lengths), lengths[0], lengths[0]))
        return BlockDiagonalBorder(_split_blocks(data, lengths))
    raise TypeError(f"unknown border form {form!r}")


def _frozen(array: Array) -> Array:
    array.setflags(write=False)
    return array


def _range_text(dims: NDArray[np.int64]) -> str:
    return f"{dims.min()}..{dims.max()}" if dims.size else "()"


# ---- shapes ---------------------------------------------------------------------------------------------------------
class _Rows:
    """The row blocks: sizes, and the data as the core wants them."""

    __slots__ = ("d", "data", "n", "ragged", "total")

    def __init__(self, data: Array, n: int, d: int | None, ragged: NDArray[np.int64] | None) -> None:
        self.data = data
        self.n = n
        self.d = d  # common size, when the rows were not given as ragged
        self.ragged = ragged
        self.total = n * d if d is not None else int(ragged.sum()) if ragged is not None else 0

    def dims(self) -> NDArray[np.int64]:
        if self.ragged is not None:
            return _frozen(self.ragged.copy())
        return _frozen(np.full(self.n, self.d or 0, dtype=np.int64))

    def shapes(self, *tail: int) -> list[tuple[int, ...]]:
        """Shapes that a part with one line per latent coordinate may have."""
        shapes: list[tuple[int, ...]] = []
        d = self.d
        if d is None and self.ragged is not None and self.n and int(self.ragged.min()) == int(self.ragged.max()):
            d = int(self.ragged[0])
        if d is not None:
            shapes.append((self.n, d, *tail))
        shapes.append((self.total, *tail))
        return shapes


def _rows(h_tt: Any, row_dims: Any, copies: list[str]) -> _Rows:
    if isinstance(h_tt, (list, tuple)):
        return _rows_from_sequence(h_tt, row_dims, copies)
    data = as_array(h_tt, "h_tt")
    if row_dims is None:
        if data.ndim != 3 or data.shape[1] != data.shape[2]:
            raise InvalidArgument(
                argument="h_tt",
                got=describe(data),
                expected="shape (n, d, d), or a flat buffer with row_dims, or a sequence of square blocks",
            )
        return _Rows(data, data.shape[0], data.shape[1], None)
    dims = as_indices(row_dims, "row_dims")
    if dims.size and int(dims.min()) < 0:
        raise InvalidArgument(argument="row_dims", got=f"an entry {int(dims.min())}", expected="sizes >= 0")
    if data.ndim == 3:
        if data.shape[0] != dims.size or data.shape[1] != data.shape[2] or bool((dims != data.shape[1]).any()):
            raise InvalidArgument(
                argument="row_dims", got=describe(dims), expected=f"the sizes of h_tt, whose shape is {data.shape}"
            )
        return _Rows(data, data.shape[0], data.shape[1], None)
    entries = sum(size * size for size in dims.tolist())  # Python integers: no overflow
    if data.ndim != 1 or data.size != entries:
        raise InvalidArgument(
            argument="h_tt", got=describe(data), expected=f"a flat buffer of sum d_i^2 = {entries} entries"
        )
    return _Rows(data, int(dims.size), None, dims)


def _rows_from_sequence(blocks: Sequence[Any], row_dims: Any, copies: list[str]) -> _Rows:
    parts = [as_array(block, f"h_tt[{i}]") for i, block in enumerate(blocks)]
    for i, part in enumerate(parts):
        if part.ndim != 2 or part.shape[0] != part.shape[1]:
            raise InvalidArgument(argument=f"h_tt[{i}]", got=describe(part), expected="a square block (d_i, d_i)")
    dims = np.array([part.shape[0] for part in parts], dtype=np.int64)
    if row_dims is not None and not np.array_equal(as_indices(row_dims, "row_dims"), dims):
        raise InvalidArgument(
            argument="row_dims", got=describe(np.asarray(row_dims)), expected="the sizes of the blocks of h_tt"
        )
    copies.append("h_tt: sequence of blocks -> one buffer")
    data = _stack([part.reshape(-1) for part in parts], common_dtype(parts))
    if parts and row_dims is None and int(dims.min()) == int(dims.max()):
        d = int(dims[0])
        return _Rows(data.reshape(len(parts), d, d), len(parts), d, None)
    return _Rows(data, len(parts), None, dims)


def _check_shape(name: str, array: Array, allowed: Sequence[tuple[int, ...]]) -> None:
    if array.shape not in allowed:
        shapes = list(dict.fromkeys(allowed))
        raise InvalidArgument(
            argument=name, got=describe(array), expected="shape " + " or ".join(str(shape) for shape in shapes)
        )


def _check_rows(rows: _Rows, h_tt: Any, cross: Array, gradient_t: Array, k: int) -> None:
    """Blame h_tt where the other two parts agree with each other, but not with it."""
    total = gradient_t.size
    agree = cross.size == total * k and cross.shape[-1:] == (k,) and cross.shape[:-1] in (gradient_t.shape, (total,))
    if agree and total != rows.total and gradient_t.ndim in (1, 2):
        shape = (*gradient_t.shape, gradient_t.shape[1]) if gradient_t.ndim == 2 else None
        expected = f"shape {shape}" if shape is not None else f"blocks of {total} coordinates together"
        got = describe(h_tt) if isinstance(h_tt, np.ndarray) else f"blocks of {rows.total} coordinates together"
        raise InvalidArgument(argument="h_tt", got=got, expected=f"{expected}, as h_tb and g_t say")


def _row_shapes(system: ArrowSystem) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = [(system.total_dim,)]
    d = system.uniform_dim
    dims = system.row_dims
    if d is None and dims.size and int(dims.min()) == int(dims.max()):
        d = int(dims[0])
    if d is not None:
        shapes.insert(0, (system.n, d))
    return shapes


def row_vector(system: ArrowSystem, value: Any, name: str) -> Array:
    """Return a T-vector, given as (n, d) or (T,), in float64."""
    array = float64_array(value, name)
    if array.ndim == 1 and array.shape[0] == system.total_dim:
        return array
    _check_shape(name, array, _row_shapes(system))
    return array


def border_vector(system: ArrowSystem, value: Any, name: str) -> Array:
    """Return a k-vector in float64."""
    array = float64_array(value, name)
    _check_shape(name, array, [(system.k,)])
    return array


def dampings(system: ArrowSystem, damping_t: Any, damping_beta: Any) -> tuple[Array | None, Array | None]:
    """Return the diagonals that are added beside the scalar ridges."""
    return (
        None if damping_t is None else row_vector(system, damping_t, "damping_t"),
        None if damping_beta is None else border_vector(system, damping_beta, "damping_beta"),
    )


def system_handle(system: Any) -> _core.System:
    """Return the core's system, or complain about the argument."""
    if not isinstance(system, ArrowSystem):
        raise InvalidArgument(argument="system", got=f"{type(system).__name__}", expected="an ArrowSystem")
    return system._handle


def _border_blocks(value: Any, k: int) -> NDArray[np.int64] | None:
    """Return block offsets; ranges (start, stop) are accepted too."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.ndim == 2 and array.shape[1] == 2 and array.dtype.kind in "iu":
        if bool((array[1:, 0] != array[:-1, 1]).any()):
            raise InvalidArgument(
                argument="border_blocks", got=describe(array), expected="sorted, disjoint ranges covering 0..k"
            )
        array = np.concatenate((array[:1, 0], array[:, 1]))
    offsets = as_indices(array, "border_blocks")
    good = offsets.size >= 1 and offsets[0] == 0 and offsets[-1] == k and not bool((np.diff(offsets) < 0).any())
    if not good:
        raise InvalidArgument(
            argument="border_blocks", got=describe(value), expected=f"non-decreasing offsets from 0 to k = {k}"
        )
    return _frozen(offsets.copy())
