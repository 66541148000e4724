"""Factor once, solve many."""

# `set` chooses the operator; the name is part of the public interface.
# ruff: noqa: A002

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _core
from ._arrays import Array, as_indices, describe, float64_array
from ._cross import BlockSparseCross
from ._errors import InvalidArgument, MemoryBudgetExceeded
from ._newton import warn_of_lifts
from ._options import SolveOptions, solve_options
from ._results import (
    ConditionEstimate,
    LogDetParts,
    NewtonStep,
    PivotRange,
    SolveDiagnostics,
    SystemGradient,
    diagnostics_from_core,
    step_from_core,
)
from ._shapes import border_vector, dampings, row_vector
from ._system import ArrowSystem, system_handle

__all__ = ["ArrowFactor", "factorize"]

# FACTOR_CROSS_BUDGET: cross-block data that a factor may own.
_CROSS_BUDGET = 256 * 2**20


def factorize(
    system: ArrowSystem,
    *,
    ridge_t: float = 0.0,
    ridge_beta: float = 0.0,
    damping_t: ArrayLike | None = None,
    damping_beta: ArrayLike | None = None,
    options: SolveOptions | None = None,
    copy: bool = False,
) -> ArrowFactor:
    """Factor `H + ridges`, to solve with it many times.

    Parameters
    ----------
    system : ArrowSystem
    ridge_t, ridge_beta : float, default 0
        Finite, >= 0.
    damping_t : (n, d) or (T,) array_like, optional
    damping_beta : (k,) array_like, optional
        Diagonals, >= 0, added beside the ridges.
    options : SolveOptions, optional
    copy : bool, default False
        Keep private copies of the system's parts, so that the caller may change the originals. Allowed up to 256 MiB
        of cross block; otherwise the factor keeps the caller's arrays alive.

    Returns
    -------
    ArrowFactor

    Raises
    ------
    InvalidArgument, RowFactorError, SchurFactorError, UnsupportedConfiguration, DeviceUnavailableError
        As `newton_step`.
    MemoryBudgetExceeded
        Also when `copy=True` and the cross block has more than 256 MiB.

    Notes
    -----
    The route is chosen as by `newton_step`, for `options.expected_solves` solves; `direct` takes
    `sum d_i^3/3 + T k^2 + k^3/3` flops, once. Releases the GIL.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> system = asn.fixtures.small_fixture(0x11).system()
    >>> factor = asn.factorize(system)
    >>> H, _ = system.to_dense()
    >>> bool(np.isclose(factor.log_det(), np.linalg.slogdet(H)[1]))
    True
    """
    handle = system_handle(system)
    if not isinstance(copy, bool):
        raise InvalidArgument(argument="copy", got=f"{copy!r:.80}", expected="True or False")
    if copy:
        needed = int(system.h_tb.nbytes)
        if needed > _CROSS_BUDGET:
            raise MemoryBudgetExceeded(
                bytes_needed=needed, budget=_CROSS_BUDGET, what="a private copy of the cross block"
            )
        system = system._private_copy()
        handle = system._handle
    if damping_t is not None or damping_beta is not None:
        damping_t, damping_beta = dampings(system, damping_t, damping_beta)
    core = _core.factorize(handle, ridge_t, ridge_beta, damping_t, damping_beta, solve_options(options))
    account = core.diagnostics
    if account.rows_lifted:
        warn_of_lifts(account)
    return _wrap(core, system, options, damping_t, damping_beta, account)


def _wrap(
    core: _core.Factor,
    system: ArrowSystem,
    options: SolveOptions | None,
    damping_t: Any,
    damping_beta: Any,
    account: _core.SolveDiagnostics,
) -> ArrowFactor:
    factor = ArrowFactor.__new__(ArrowFactor)
    put = object.__setattr__
    put(factor, "_handle", core)
    put(factor, "system", system)
    put(factor, "options", options if options is not None else SolveOptions())
    # Private, read-only: what is reported must stay what was factored.
    put(factor, "damping_t", _kept(damping_t))
    put(factor, "damping_beta", _kept(damping_beta))
    put(factor, "_account", account)
    put(factor, "_diagnostics", None)
    return factor


def _kept(damping: Any) -> Array | None:
    if damping is None:
        return None
    kept: Array = damping.copy()
    kept.setflags(write=False)
    return kept


def _rebuild(
    system: ArrowSystem, ridges: tuple[float, float], dampings_: tuple[Any, Any], options: SolveOptions
) -> ArrowFactor:
    return factorize(
        system,
        ridge_t=ridges[0],
        ridge_beta=ridges[1],
        damping_t=dampings_[0],
        damping_beta=dampings_[1],
        options=options,
    )


class ArrowFactor:
    """A factorization of `H + ridges`. Made by `factorize`.

    Attributes
    ----------
    system : ArrowSystem
        The system that was factored; kept alive.
    ridge_t, ridge_beta : float
    damping_t, damping_beta : ndarray or None
    options : SolveOptions
    route, execution_path : str
    nbytes : int
        Memory that the factor owns.
    fingerprint : int
        Content hash of the system.
    diagnostics : SolveDiagnostics

    Notes
    -----
    `set='step'` (the default) speaks of the operator with the factor's ridges, row lifts included; `set='evidence'` of
    the operator with ridges 0, factored on first use without lifts or condition guards. The two never mix. Where ridges
    are 0 and no row was lifted they are the same object.

    Immutable; every method releases the GIL and may be called from several threads at once. Right-hand sides are
    `w_t` of shape (n, d) or (T,) with `w_beta` (k,), or, `m` at once, (n, d, m) or (T, m) with (k, m).

    A factor of the route `inexact_pcg` solves by iterating: determinants, blocks of the inverse, draws and pivots are
    `UnsupportedConfiguration` there. `factorize` chooses that route only when it is asked to.

    A factor pickles as its system, ridges and options, and is factored again when it is loaded.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> system = asn.fixtures.small_fixture(0x11).system()
    >>> factor = asn.factorize(system, ridge_t=0.5)
    >>> x_t, x_beta = factor.solve(np.ones((8, 2)), np.ones(4))
    >>> y_t, y_beta = system.apply(x_t, x_beta, ridge_t=0.5)
    >>> np.allclose(y_t, 1) and np.allclose(y_beta, 1)
    True
    """

    __slots__ = ("_account", "_diagnostics", "_handle", "damping_beta", "damping_t", "options", "system")
    system: ArrowSystem
    options: SolveOptions
    damping_t: Array | None
    damping_beta: Array | None
    _handle: _core.Factor
    _account: _core.SolveDiagnostics
    _diagnostics: SolveDiagnostics | None

    def __init__(self) -> None:
        raise TypeError("ArrowFactor is made by factorize(system)")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"ArrowFactor is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"ArrowFactor is immutable: cannot delete {name!r}")

    # ---- what it is ------------------------------------------------------------------------------------------------
    @property
    def ridge_t(self) -> float:
        """Ridge of the rows."""
        return self._handle.ridge_t

    @property
    def ridge_beta(self) -> float:
        """Ridge of the border."""
        return self._handle.ridge_beta

    @property
    def route(self) -> str:
        """The route that ran."""
        return self._handle.route

    @property
    def execution_path(self) -> str:
        """Where the factorization ran."""
        return self.diagnostics.execution_path

    @property
    def nbytes(self) -> int:
        """Bytes that the factor owns."""
        return self._handle.nbytes

    @property
    def fingerprint(self) -> int:
        """Content hash of the system that was factored."""
        return self._handle.fingerprint()

    @property
    def diagnostics(self) -> SolveDiagnostics:
        """Account of the factorization."""
        if self._diagnostics is None:
            told = diagnostics_from_core(self._account, self.system.copies, self.system.single)
            object.__setattr__(self, "_diagnostics", told)
        assert self._diagnostics is not None
        return self._diagnostics

    def matches(self, system: ArrowSystem) -> bool:
        """Return whether `system` has the content that was factored. Gradients do not count.

        Raises
        ------
        InvalidArgument
            `system` is not an ArrowSystem.
        """
        return self._handle.matches(system_handle(system))

    def __repr__(self) -> str:
        return (
            f"ArrowFactor({self.system!r}, ridge_t={self.ridge_t:.6g}, ridge_beta={self.ridge_beta:.6g}, "
            f"route={self.route!r}, nbytes={self.nbytes})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            self.system,
            (self.ridge_t, self.ridge_beta),
            (self.damping_t, self.damping_beta),
            self.options,
        )

    # ---- solves ----------------------------------------------------------------------------------------------------
    def solve(
        self,
        w_t: ArrayLike,
        w_beta: ArrayLike,
        *,
        set: str = "step",
        out: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Return `x = H^-1 w`.

        Parameters
        ----------
        w_t : (n, d) or (T,) array_like; (n, d, m) or (T, m) for `m` right-hand sides
        w_beta : (k,) or (k, m) array_like
            `m` is read from here.
        set : {'step', 'evidence'}, default 'step'
        out : tuple of ndarray, optional
            Where to write: two writable float64 arrays in C order, in the shapes of `w_t` and `w_beta`. They may be
            `w_t` and `w_beta` themselves.

        Returns
        -------
        x_t, x_beta : ndarray, float64
            In the shapes of `w_t` and `w_beta`; `out` when that is given.

        Raises
        ------
        InvalidArgument
            A shape does not fit.
        RowFactorError, SchurFactorError
            The evidence set does not exist.

        Notes
        -----
        `4 T k + 2 k^2` flops per right-hand side, memory-bound for one, a matrix product for many. No allocation in the
        core after the first call of a thread with the same `m`.

        Examples
        --------
        >>> import numpy as np, arrowschur_native as asn
        >>> factor = asn.factorize(asn.fixtures.small_fixture(0x11).system())
        >>> x_t, x_beta = factor.solve(np.ones((8, 2, 3)), np.ones((4, 3)))
        >>> x_t.shape, x_beta.shape
        ((8, 2, 3), (4, 3))
        """
        t, beta = self._pair(w_t, w_beta, "w_t", "w_beta")
        if out is None:
            return self._handle.solve(t, beta, None, None, set)
        out_t, out_beta = _outputs(out, t.shape, beta.shape)
        return self._handle.solve(t, beta, out_t, out_beta, set)

    def step(self, g_t: ArrayLike | None = None, g_beta: ArrayLike | None = None) -> NewtonStep:
        """Return `-H^-1 g` with its certificate; the system's own gradient by default.

        Parameters
        ----------
        g_t : (n, d) or (T,) array_like, optional
        g_beta : (k,) array_like, optional
            A part that is None is the system's.

        Returns
        -------
        NewtonStep
            Without arguments the same bits as `newton_step`.

        Raises
        ------
        InvalidArgument
            A shape does not fit.
        CertificateError
            The step misses `options.certificate_tolerance`.
        """
        if g_t is None and g_beta is None:
            result = self._handle.step(None, None)
        else:
            t = row_vector(self.system, self.system.g_t if g_t is None else g_t, "g_t")
            beta = border_vector(self.system, self.system.g_beta if g_beta is None else g_beta, "g_beta")
            result = self._handle.step(t, beta)
        if result[2].rows_lifted:
            warn_of_lifts(result[2])
        return step_from_core(result, self.system.copies, self.system.single)

    def schur_apply(self, x: ArrayLike, *, set: str = "step") -> Array:
        """Return `S x` for `x` of shape (k,) or (k, m), in float64.

        Raises
        ------
        InvalidArgument
            The shape does not fit.
        """
        return self._handle.schur_apply(self._border_columns(x, "x"), set)

    def border_inverse_apply(self, v: ArrayLike, *, set: str = "step") -> Array:
        """Return `(H^-1)_bb v = S^-1 v` for `v` of shape (k,) or (k, m), in float64.

        Raises
        ------
        InvalidArgument
            The shape does not fit.
        """
        return self._handle.border_inverse_apply(self._border_columns(v, "v"), set)

    def predict(self, delta_beta: ArrayLike, delta_g_t: ArrayLike | None = None) -> Array:
        """Return the implicit-function prediction `delta_t = -A^-1 (B delta_beta + delta_g_t)`, in the evidence set.

        Parameters
        ----------
        delta_beta : (k,) array_like
            Change of the border.
        delta_g_t : (n, d) or (T,) array_like, optional
            Change of the row gradients beyond that; default 0.

        Returns
        -------
        ndarray, shape of `g_t`, float64

        Raises
        ------
        InvalidArgument
            A shape does not fit.

        Notes
        -----
        The rows' stationarity condition has no damping, hence the set with ridges 0.

        Examples
        --------
        >>> import numpy as np, arrowschur_native as asn
        >>> system = asn.fixtures.small_fixture(0x11).system()
        >>> factor = asn.factorize(system, ridge_t=3.0)
        >>> delta = factor.predict(np.ones(4))
        >>> np.allclose(np.einsum("nij,nj->ni", system.h_tt, delta), -system.h_tb @ np.ones(4))
        True
        """
        beta = border_vector(self.system, delta_beta, "delta_beta")
        change = None if delta_g_t is None else row_vector(self.system, delta_g_t, "delta_g_t")
        return self._handle.predict(beta, change)

    def sample(self, m: int, seed: int, *, set: str = "step") -> tuple[Array, Array]:
        """Draw `m` vectors from the normal distribution with mean 0 and covariance `H^-1`.

        Parameters
        ----------
        m : int
            Number of draws, >= 0.
        seed : int
            In `0 .. 2^64 - 1`. The generator is counter-based: same seed, same bits, for any number of threads.
        set : {'step', 'evidence'}, default 'step'

        Returns
        -------
        x_t : ndarray, (n, d, m) or (T, m)
        x_beta : ndarray, (k, m)

        Raises
        ------
        InvalidArgument
            `m` or `seed` is out of its range.

        Examples
        --------
        >>> import arrowschur_native as asn
        >>> factor = asn.factorize(asn.fixtures.small_fixture(0x11).system())
        >>> x_t, x_beta = factor.sample(5, seed=7)
        >>> x_t.shape, x_beta.shape
        ((8, 2, 5), (4, 5))
        """
        return self._handle.sample(_integer("m", m, 2**31), _integer("seed", seed, 2**64), set)

    # ---- determinants and inverse -----------------------------------------------------------------------------------
    def log_det(self, set: str = "step") -> float:
        """Return `log det H` of the set.

        Raises
        ------
        RowFactorError, SchurFactorError
            The evidence set does not exist.
        UnsupportedConfiguration
            A row was lifted: the determinant of the step set would be that of another operator.
        """
        return self._handle.log_det(set)

    def log_det_parts(self, set: str = "step") -> LogDetParts:
        """Return `log det H` as `(rows, border)`: `sum_i log det A_i` and `log det S`."""
        return LogDetParts(*self._handle.log_det_parts(set))

    def border_inverse_block(self, cols: ArrayLike | None = None, *, set: str = "step") -> Array:
        """Return the principal sub-block of `(H^-1)_bb = S^-1` for the given columns; exactly symmetric.

        Parameters
        ----------
        cols : (c,) array_like of int, optional
            Border columns in `0 .. k - 1`; None: all.
        set : {'step', 'evidence'}, default 'step'

        Returns
        -------
        ndarray, (c, c), float64

        Raises
        ------
        InvalidArgument
            A column is out of range.
        """
        return self._handle.border_inverse_block(None if cols is None else as_indices(cols, "cols"), set)

    def border_inverse_diagonal(self, set: str = "step") -> Array:
        """Return the diagonal of `(H^-1)_bb`, (k,)."""
        return self._handle.border_inverse_diagonal(set)

    def latent_inverse_diagonal(self, set: str = "step") -> Array:
        """Return the diagonal of `(H^-1)_tt`, (T,): marginal variances of the latent coordinates.

        Notes
        -----
        `T k^2` flops at matrix-product speed.

        Examples
        --------
        >>> import numpy as np, arrowschur_native as asn
        >>> system = asn.fixtures.small_fixture(0x11).system()
        >>> H, _ = system.to_dense()
        >>> np.allclose(asn.factorize(system).latent_inverse_diagonal(), np.diag(np.linalg.inv(H))[:16])
        True
        """
        return self._handle.latent_inverse_diagonal(set)

    def latent_inverse_block(self, i: int, *, set: str = "step") -> Array:
        """Return block `(i, i)` of `(H^-1)_tt`, (d_i, d_i).

        Raises
        ------
        InvalidArgument
            The row is out of range.
        """
        row = _integer("i", i, self.system.n)
        flat = self._handle.latent_inverse_blocks(np.array([row], dtype=np.int64), set)
        size = int(self.system.row_dims[row])
        return flat.reshape(size, size)

    def latent_inverse_blocks(self, rows: ArrayLike | None = None, *, set: str = "step") -> Array | list[Array]:
        """Return blocks `(i, i)` of `(H^-1)_tt`.

        Parameters
        ----------
        rows : (r,) array_like of int, optional
            None: all.
        set : {'step', 'evidence'}, default 'step'

        Returns
        -------
        ndarray, (r, d, d), or a list of (d_i, d_i) arrays for ragged rows

        Raises
        ------
        InvalidArgument
            A row is out of range.
        """
        chosen = None if rows is None else as_indices(rows, "rows")
        flat = self._handle.latent_inverse_blocks(chosen, set)
        d = self.system.uniform_dim
        if d is not None:
            return flat.reshape(self.system.n if chosen is None else chosen.size, d, d)
        sizes = self.system.row_dims if chosen is None else self.system.row_dims[chosen]
        edges = np.cumsum(np.concatenate(([0], sizes * sizes)))
        pieces = zip(edges[:-1].tolist(), edges[1:].tolist(), sizes.tolist(), strict=True)
        return [flat[a:b].reshape(size, size) for a, b, size in pieces]

    def cross_inverse_block(self, i: int, *, set: str = "step") -> Array:
        """Return block `(i, beta)` of `H^-1`, (d_i, k).

        Raises
        ------
        InvalidArgument
            The row is out of range.
        """
        return self._handle.cross_inverse_block(_integer("i", i, self.system.n), set)

    # ---- derivatives -------------------------------------------------------------------------------------------------
    def vjp(
        self,
        x_t: ArrayLike,
        x_beta: ArrayLike,
        cotangent_t: ArrayLike,
        cotangent_beta: ArrayLike,
        *,
        set: str = "step",
    ) -> SystemGradient:
        """Return the adjoint of `solve`: the gradient of `<cotangent, x>` with respect to every part of the system.

        With `lam = H^-1 cotangent`:

        .. code-block:: text

            w: lam      h_tt[i]: -sym(lam_i x_i')     h_tb[i]: -(lam_i x_b' + x_i lam_b')     h_bb: -sym(lam_b x_b')
            ridge_t: -lam_t' x_t                      ridge_beta: -lam_b' x_b

        Parameters
        ----------
        x_t, x_beta : array_like
            The solution that `solve` returned, for one or `m` right-hand sides.
        cotangent_t, cotangent_beta : array_like
            Gradient of the scalar with respect to it, in the same shapes.
        set : {'step', 'evidence'}, default 'step'

        Returns
        -------
        SystemGradient
            Summed over right-hand sides, except `w_t` and `w_beta`.

        Raises
        ------
        InvalidArgument
            A shape does not fit.

        UnsupportedConfiguration
            The cross block is a `KroneckerCross` or an `OperatorCross`, or the border has an `OperatorBorder`.

        Notes
        -----
        One solve and one outer product; `8 (T k + k^2)` bytes of results. The gradient of a step, `x = -H^-1 g`, with
        respect to `g` is `-w`.

        Examples
        --------
        >>> import numpy as np, arrowschur_native as asn
        >>> factor = asn.factorize(asn.fixtures.small_fixture(0x11).system())
        >>> x = factor.solve(np.ones((8, 2)), np.ones(4))
        >>> gradient = factor.vjp(*x, np.ones((8, 2)), np.zeros(4))    # of x_t.sum()
        >>> gradient.h_tb.shape, gradient.h_bb.shape
        ((8, 2, 4), (4, 4))
        """
        xt, xb = self._pair(x_t, x_beta, "x_t", "x_beta")
        ct, cb = self._pair(cotangent_t, cotangent_beta, "cotangent_t", "cotangent_beta")
        if cb.shape != xb.shape:
            raise InvalidArgument(argument="cotangent_beta", got=describe(cb), expected=f"shape {xb.shape}")
        return self._gradient(self._handle.vjp(xt, xb, ct, cb, set), xt.shape, xb.shape)

    def log_det_vjp(self, set: str = "step") -> SystemGradient:
        """Return the gradient of `log det H` with respect to every part of the system: blocks of `H^-1`.

        Notes
        -----
        `h_tt: (H^-1)_ii`, `h_tb: 2 (H^-1)_ib`, `h_bb: (H^-1)_bb`, ridges: traces. `T k^2` flops.
        """
        return self._gradient(self._handle.log_det_vjp(set), self.system.g_t.shape, (self.system.k,))

    def _gradient(
        self, parts: tuple[Any, ...], row_shape: tuple[int, ...], border_shape: tuple[int, ...]
    ) -> SystemGradient:
        h_tt, h_tb, h_bb, w_t, w_beta, ridge_t, ridge_beta = parts
        system = self.system
        return SystemGradient(
            h_tt=h_tt.reshape(system.h_tt.shape),
            h_tb=self._cross_gradient(h_tb),
            h_bb=system.border._gradient(h_bb.reshape(system.k, system.k), system.symmetry),
            w_t=w_t.reshape(row_shape) if w_t.size else np.zeros(row_shape),
            w_beta=w_beta.reshape(border_shape) if w_beta.size else np.zeros(border_shape),
            ridge_t=ridge_t,
            ridge_beta=ridge_beta,
        )

    def _cross_gradient(self, flat: Array) -> Any:
        cross = self.system.h_tb
        if isinstance(cross, BlockSparseCross):
            return cross._with_values(self.system._handle.block_gradient(cross._parameters(), flat))
        assert isinstance(cross, np.ndarray)  # the core refuses the other forms
        return flat.reshape(cross.shape)

    # ---- quality -----------------------------------------------------------------------------------------------------
    def min_pivot(self, set: str = "step") -> PivotRange:
        """Return the smallest squared diagonal of the factors: `(rows, border, both)`."""
        return PivotRange(*self._handle.min_pivot(set))

    def max_pivot(self, set: str = "step") -> PivotRange:
        """Return the largest squared diagonal of the factors: `(rows, border, both)`."""
        return PivotRange(*self._handle.max_pivot(set))

    def condition_estimate(self, set: str = "step") -> ConditionEstimate:
        """Return the condition estimates that the guards use: `(rows, border)`."""
        return ConditionEstimate(*self._handle.condition_estimate(set))

    def update_ridges(
        self,
        ridge_t: float,
        ridge_beta: float,
        *,
        damping_t: ArrayLike | None = None,
        damping_beta: ArrayLike | None = None,
    ) -> ArrowFactor:
        """Return a factor at other ridges, reusing whatever does not change.

        Parameters
        ----------
        ridge_t, ridge_beta : float
        damping_t, damping_beta : array_like, optional
            As in `factorize`; None is no damping, whatever this factor has.

        Returns
        -------
        ArrowFactor

        Raises
        ------
        InvalidArgument, RowFactorError, SchurFactorError
            As `factorize`.

        Notes
        -----
        With the same row ridges only the border is factored again; with the same ridges nothing is.
        """
        damping_t, damping_beta = dampings(self.system, damping_t, damping_beta)
        core = self._handle.update_ridges(ridge_t, ridge_beta, damping_t, damping_beta)
        account = core.diagnostics
        if account.rows_lifted:
            warn_of_lifts(account)
        return _wrap(core, self.system, self.options, damping_t, damping_beta, account)

    # ---- shapes ------------------------------------------------------------------------------------------------------
    def _border_columns(self, value: Any, name: str) -> Array:
        array = float64_array(value, name)
        if array.ndim not in (1, 2) or array.shape[0] != self.system.k:
            k = self.system.k
            raise InvalidArgument(argument=name, got=describe(array), expected=f"shape ({k},) or ({k}, m)")
        return array

    def _pair(self, rows: Any, border: Any, rows_name: str, border_name: str) -> tuple[Array, Array]:
        """Return a right-hand side in float64; the number of columns is read from the border part."""
        beta = self._border_columns(border, border_name)
        t = float64_array(rows, rows_name)
        tail = beta.shape[1:]
        system = self.system
        if t.shape == (system.total_dim, *tail):
            return t, beta
        d = system.uniform_dim if system.uniform_dim is not None else _constant(system)
        if d is not None and t.shape == (system.n, d, *tail):
            return t, beta
        flat = (system.total_dim, *tail)
        expected = f"shape {flat}" if d is None else f"shape {(system.n, d, *tail)} or {flat}"
        raise InvalidArgument(
            argument=rows_name, got=describe(t), expected=f"{expected}, as {border_name} has shape {beta.shape}"
        )


def _constant(system: ArrowSystem) -> int | None:
    dims = system.row_dims
    return int(dims[0]) if dims.size and int(dims.min()) == int(dims.max()) else None


def _integer(name: str, value: Any, limit: int) -> int:
    number = None if isinstance(value, bool) else getattr(value, "__index__", lambda: None)()
    if number is None or not 0 <= number < limit:
        raise InvalidArgument(argument=name, got=f"{value!r:.80}", expected=f"an integer in 0..{limit - 1}")
    return int(number)


def _outputs(out: Any, rows: tuple[int, ...], border: tuple[int, ...]) -> tuple[Array, Array]:
    if not isinstance(out, tuple) or len(out) != 2:
        raise InvalidArgument(argument="out", got=f"{type(out).__name__}", expected="a tuple of two arrays")
    for array, shape in zip(out, (rows, border), strict=True):
        good = (
            isinstance(array, np.ndarray)
            and array.dtype == np.float64
            and array.shape == shape
            and array.flags.c_contiguous
            and array.flags.aligned
            and array.flags.writeable
        )
        if not good:
            raise InvalidArgument(
                argument="out", got=describe(array), expected=f"a writable float64 array of shape {shape} in C order"
            )
    if np.may_share_memory(out[0], out[1]) and np.shares_memory(out[0], out[1]):
        raise InvalidArgument(argument="out", got="overlapping arrays", expected="two arrays without common memory")
    return out[0], out[1]
