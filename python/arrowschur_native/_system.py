"""Systems: what the caller hands over, checked by name and borrowed by the core."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _jacobians, _storage
from ._arrays import Array, as_array, common_dtype, describe, plain
from ._borders import Border, BorderLike, DenseBorder, DiagonalBorder, as_border, has_float64
from ._cross import BlockSparseCross, Cross, CrossLike, demands_float64
from ._errors import InvalidArgument, UnsupportedConfiguration
from ._shapes import (
    border_blocks_of,
    border_vector,
    check_cross,
    check_rows,
    check_shape,
    dampings,
    frozen,
    row_shapes,
    row_vector,
    rows_of,
)

__all__ = ["ArrowSystem", "system_handle"]


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
    h_tb : (n, d, k) or (T, k) array_like, or a cross object
        Cross block, `T = sum_i d_i`: dense, `BlockSparseCross`, `KroneckerCross` or `OperatorCross`.
    h_bb : (k, k) or (k,) array_like, or a border object
        Border block, symmetric: dense, diagonal, `BandedBorder`, `BlockDiagonalBorder`, `KroneckerBorder`,
        `KroneckerProductBorder`, `SparseBlockKroneckerBorder`, `FramedKroneckerBorder`, `OperatorBorder`, or a sum of
        these.
    g_t : (n, d) or (T,) array_like
    g_beta : (k,) array_like
        Gradients.
    row_dims : (n,) array_like of int, optional
        Row sizes `d_i >= 0`, for flat `h_tt`; default there: those of the cross object.
    border_blocks : (b + 1,) array_like of int, optional
        Offsets `0 = o_0 < o_1 < ... < o_b = k` of border columns that belong together, or a sequence of sorted,
        disjoint ranges `(start, stop)` that cover `0..k`. Used by block preconditioners and by the recognition of
        structure. A `BlockSparseCross` brings its own.
    row_penalties, row_low_rank, row_gauge : None
        Couplings between rows; of a later version.
    symmetry : {'check', 'average', 'lower'}, default 'check'
        How blocks that are not exactly symmetric are treated: an error beyond `1e-10 max|X|`, the mean with the
        transpose, or the lower triangle unseen. After the check the lower triangle is the matrix, everywhere.
    check_finite : bool, default True
        Look for NaN and infinity, once.
    detect_structure : bool, default True
        Look for structure in dense parts, inside the validation pass: a diagonal, banded or block-diagonal border, a
        cross block with many exact zeros. What was recognised is used and named by `detected`.

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
    h_tt, h_tb, h_bb, g_t, g_beta : ndarray, or cross and border objects
        The parts, as they are used (without a copy when they came in C order).
    cross : ndarray or cross object
        The cross block.
    border : Border
        The border block as an object.
    detected : tuple of str
        Structure that was recognised, one line each.
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
        "_dims",
        "_gradients",
        "_handle",
        "_offsets",
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
        "single",
        "symmetry",
        "total_dim",
        "uniform_dim",
    )
    n: int
    k: int
    total_dim: int
    uniform_dim: int | None
    dtype: np.dtype[Any]
    single: bool
    h_tt: Array
    h_tb: Array | Cross
    border: Border
    border_blocks: NDArray[np.int64] | None
    symmetry: str
    check_finite: bool
    detect_structure: bool
    copies: tuple[str, ...]
    _dims: NDArray[np.int64] | None
    _offsets: NDArray[np.int64] | None
    _gradients: tuple[Array, Array]
    _handle: _core.System

    def __init__(
        self,
        h_tt: ArrayLike | Sequence[ArrayLike],
        h_tb: CrossLike,
        h_bb: BorderLike,
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
        cross: Any = h_tb if isinstance(h_tb, Cross) else as_array(h_tb, "h_tb")
        rows = rows_of(h_tt, row_dims, cross, copies)
        gradient_t = as_array(g_t, "g_t")
        gradient_beta = as_array(g_beta, "g_beta")

        if gradient_beta.ndim != 1:
            raise InvalidArgument(argument="g_beta", got=describe(gradient_beta), expected="a vector (k,)")
        k = gradient_beta.shape[0]
        border = as_border(h_bb, k, "h_bb")
        if isinstance(cross, Cross):
            check_cross(rows, cross, k)
        else:
            check_rows(rows, h_tt, cross, gradient_t, k)
            check_shape("h_tb", cross, rows.shapes(k))
        check_shape("g_t", gradient_t, rows.shapes())

        dtype = common_dtype([rows.data, gradient_t, gradient_beta])
        if demands_float64(cross) or has_float64(border):
            dtype = np.dtype(np.float64)
        copies.extend(border.copies)
        if border.dtype != dtype:
            border = border._as_dtype(dtype, copies)
        if isinstance(cross, Cross):
            copies.extend(cross.copies)
            if cross.dtype != dtype:
                cross = cross._as_dtype(dtype, copies)
        else:
            cross = plain(cross, dtype, "h_tb", copies)

        put = object.__setattr__
        put(self, "n", rows.n)
        put(self, "k", k)
        put(self, "total_dim", rows.total)
        put(self, "uniform_dim", rows.d)
        put(self, "_dims", None if rows.ragged is None else rows.dims())
        put(self, "_offsets", None)
        put(self, "dtype", dtype)
        put(self, "single", dtype == np.float32)
        put(self, "h_tt", plain(rows.data, dtype, "h_tt", copies))
        put(self, "h_tb", cross)
        put(self, "border", border)
        put(self, "border_blocks", border_blocks_of(border_blocks, k))
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
            cross=cross._term() if isinstance(cross, Cross) else cross,
            border_blocks=self.border_blocks,
            border=[term._term() for term in border._terms()],
            g_t=self._gradients[0],
            g_beta=self._gradients[1],
            rows_as_matrix=gradient_t.ndim == 2,
            check_finite=check_finite,
            symmetry=symmetry,
            detect_structure=detect_structure,
        )
        put(self, "_handle", core)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"ArrowSystem is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"ArrowSystem is immutable: cannot delete {name!r}")

    # ---- parts --------------------------------------------------------------------------------------------------
    @property
    def row_dims(self) -> NDArray[np.int64]:
        """Row sizes, (n,)."""
        if self._dims is None:
            object.__setattr__(self, "_dims", frozen(np.full(self.n, self.uniform_dim or 0, dtype=np.int64)))
        assert self._dims is not None
        return self._dims

    @property
    def row_offsets(self) -> NDArray[np.int64]:
        """Where each row begins in a flat T-vector, (n + 1,)."""
        if self._offsets is None:
            offsets = np.concatenate(([0], np.cumsum(self.row_dims, dtype=np.int64)))
            object.__setattr__(self, "_offsets", frozen(offsets))
        assert self._offsets is not None
        return self._offsets

    @property
    def g_t(self) -> Array:
        """Gradient of the rows, (n, d) or (T,)."""
        return self._gradients[0]

    @property
    def g_beta(self) -> Array:
        """Gradient of the border, (k,)."""
        return self._gradients[1]

    @property
    def cross(self) -> Array | Cross:
        """The cross block `h_tb`."""
        return self.h_tb

    @property
    def detected(self) -> tuple[str, ...]:
        """Structure that was recognised in dense parts, one line each."""
        return self._handle.detected

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
        check_shape("g_t", rows_g, row_shapes(self))
        check_shape("g_beta", border_g, [(self.k,)])
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
            self.h_tb._private_copy() if isinstance(self.h_tb, Cross) else self.h_tb.copy(),
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
        UnsupportedConfiguration
            The cross block or a border term is a callback.

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
        _storage.save(self, path)

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
        parts, options = _storage.load(path)
        return cls(*parts, **options)

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
            f"cross={'dense' if isinstance(self.h_tb, np.ndarray) else type(self.h_tb).__name__}, "
            f"border={' + '.join(type(t).__name__ for t in self.border._terms())})"
        )

    # ---- normal equations ------------------------------------------------------------------------------------------
    @classmethod
    def from_jacobians(
        cls,
        j_t: ArrayLike,
        j_beta: ArrayLike | BlockSparseCross,
        residual: ArrayLike,
        *,
        weights: ArrayLike | None = None,
        h_bb: BorderLike | None = None,
        h_tt: ArrayLike | None = None,
        row_index: ArrayLike | None = None,
        n: int | None = None,
        like: ArrowSystem | None = None,
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
        j_beta : (r, q, k) array_like, or BlockSparseCross
            Jacobians with respect to the border. Where each residual block touches few blocks of columns: a cross
            object with one row of `q` lines per residual block.
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
        like : ArrowSystem, optional
            An earlier system of the same residual blocks, made here with a `BlockSparseCross`: another linearization.
            Its rows and blocks are taken over, and what this and the solver have derived from them is not derived
            again. `j_beta` is then the values of that cross object, in its order and any shape; `row_index` and `n`
            stay None.

        Returns
        -------
        ArrowSystem
            With a gradient of shape (n, d). A block-sparse `j_beta` gives a `BlockSparseCross`, and a border that is a
            `BlockDiagonalBorder` when no residual block touches two blocks, else a `SparseBlockKroneckerBorder`.

        Raises
        ------
        InvalidArgument
            A shape does not fit, an index is out of range, or an entry is not finite.

        Notes
        -----
        `r q (d^2 + d k + k^2)` flops, the last as one symmetric rank-`r q` update; for a block-sparse `j_beta` with the
        columns that a residual block touches in place of `k`, and nothing of size `n d k` or `k^2` is formed.
        Everything is in float64. A dense prior on a dense border is added to the same matrix; any other form becomes a
        term of a border sum.

        Examples
        --------
        >>> import numpy as np, arrowschur_native as asn
        >>> rng = np.random.default_rng(0)
        >>> j_t, j_beta, e = rng.normal(size=(5, 4, 2)), rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 4))
        >>> system = asn.ArrowSystem.from_jacobians(j_t, j_beta, e)
        >>> np.allclose(system.g_beta, np.einsum("bqk,bq->k", j_beta, e))
        True

        Five observations of two points by three cameras, linearized twice:

        >>> point, camera = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 2])
        >>> cross = asn.BlockSparseCross(np.arange(6), camera, j_beta, [0, 3, 6, 9])
        >>> first = asn.ArrowSystem.from_jacobians(j_t, cross, e, row_index=point)
        >>> second = asn.ArrowSystem.from_jacobians(2 * j_t, 2 * j_beta, e, like=first)
        >>> np.allclose(second.h_tt, 4 * first.h_tt)
        True
        """
        parts = _jacobians.normal_equations(
            j_t, j_beta, residual, weights=weights, h_bb=h_bb, h_tt=h_tt, row_index=row_index, n=n, like=like
        )
        if not isinstance(parts[1], BlockSparseCross) or h_bb is not None or h_tt is not None:
            return cls(*parts)
        # Sums that the core has just found finite, and made exactly symmetric.
        made = cls(*parts, symmetry="lower", check_finite=False)
        return made._twin(symmetry="check", check_finite=True)


def system_handle(system: Any) -> _core.System:
    """Return the core's system, or complain about the argument."""
    if not isinstance(system, ArrowSystem):
        raise InvalidArgument(argument="system", got=f"{type(system).__name__}", expected="an ArrowSystem")
    return system._handle


def _rebuild(parts: tuple[Any, ...], options: dict[str, Any], copies: tuple[str, ...]) -> ArrowSystem:
    # The conversions that the original needed are part of its story; the rebuilt one needs none.
    return ArrowSystem(*parts, **options)._twin(copies=copies)


def _range_text(dims: NDArray[np.int64]) -> str:
    return f"{dims.min()}..{dims.max()}" if dims.size else "()"
