"""Gradient solves at a frozen linearization: resident workspaces, the inner loop, outer sequences, and references."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import _core
from ._arrays import Array, as_array, describe, float64_array
from ._borders import Border
from ._errors import InvalidArgument
from ._loop_shapes import ResidentShape
from ._options import SolveOptions, _instance, _integer, _number, _Options, solve_options
from ._results import _Printed
from ._shapes import check_shape, row_shapes
from ._system import ArrowSystem, system_handle
from ._telemetry import Telemetry

__all__ = [
    "DenseReferenceStep",
    "InnerFit",
    "InnerOptions",
    "InnerStep",
    "OuterSequence",
    "ResidentWorkspace",
    "RowBump",
    "examine_rows",
    "newton_step_dense_reference",
    "ridge_bump",
]

logger = logging.getLogger("arrowschur_native")

# The five slabs, in the order of the checks, and what `ArrowSystem` calls them.
_SLABS = {
    "row_hessian": "h_tt",
    "row_cross": "h_tb",
    "row_gradient": "g_t",
    "border_hessian": "h_bb",
    "border_gradient": "g_beta",
}


# ---- options --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class InnerOptions(_Options):
    """Options of the inner loop. Frozen; validated when made; change a copy with `replace`.

    Parameters
    ----------
    max_iterations : int, default 16
        Attempts, >= 1: a failed or rejected one counts.
    convergence_tolerance : float, default 1e-9
        > 0; see `convergence`.
    initial_ridge_t, initial_ridge_beta : float, default 0
        Where the schedule begins, finite, >= 0.
    lm_grow : float, default 4.0
        Factor of the ridges after a failed or rejected attempt, > 1. A ridge of 0 grows to 1e-6.
    lm_shrink : float, default 0.5
        Factor after an accepted step, in (0, 1].
    max_ridge : float, default 1e9
        The loop gives up beyond it, > 0.
    convergence : {'absolute', 'relative'}, default 'absolute'
        `|r| / (1 + |z|) < tolerance`, or `|r| < tolerance |g0|`, which does not depend on units.
    shrink_rule : {'relevant', 'always'}, default 'relevant'
        Shrink a ridge only while it matters beside the curvature (a shrunken ridge costs a factorization), or after
        every accepted step.
    solve : SolveOptions
        Route, threads, memory limits, and `frame_cache_entries`, the number of factors that are kept. Rows are never
        lifted in the loop: that would change the operator. A trust region and `schur_apply` are
        `UnsupportedConfiguration` there.

    Raises
    ------
    InvalidArgument
        A field is out of its range; the message names it.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.InnerOptions(max_iterations=4).replace(lm_grow=10.0).max_iterations
    4
    """

    max_iterations: int = 16
    convergence_tolerance: float = 1e-9
    initial_ridge_t: float = 0.0
    initial_ridge_beta: float = 0.0
    lm_grow: float = 4.0
    lm_shrink: float = 0.5
    max_ridge: float = 1e9
    convergence: str = "absolute"
    shrink_rule: str = "relevant"
    solve: SolveOptions = field(default_factory=SolveOptions)
    _handle: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _integer("max_iterations", self.max_iterations, 1)
        finite = math.isfinite
        for name, rule, expected in (
            ("convergence_tolerance", lambda x: x > 0 and finite(x), "a finite number > 0"),
            ("initial_ridge_t", lambda x: x >= 0 and finite(x), "a finite number >= 0"),
            ("initial_ridge_beta", lambda x: x >= 0 and finite(x), "a finite number >= 0"),
            ("lm_grow", lambda x: x > 1 and finite(x), "a finite number > 1"),
            ("lm_shrink", lambda x: 0 < x <= 1, "in (0, 1]"),
            ("max_ridge", lambda x: x > 0 and finite(x), "a finite number > 0"),
        ):
            _number(name, getattr(self, name), rule, expected)
        _instance("solve", self.solve, SolveOptions)
        core = _core.InnerOptions(
            max_iterations=min(int(self.max_iterations), 2**31 - 1),
            convergence_tolerance=float(self.convergence_tolerance),
            initial_ridge_t=float(self.initial_ridge_t),
            initial_ridge_beta=float(self.initial_ridge_beta),
            lm_grow=float(self.lm_grow),
            lm_shrink=float(self.lm_shrink),
            max_ridge=float(self.max_ridge),
            convergence=self.convergence,
            shrink_rule=self.shrink_rule,
            solve=self.solve._handle,
        )
        object.__setattr__(self, "_handle", core)


_DEFAULT: _core.InnerOptions = InnerOptions()._handle


def inner_options(options: InnerOptions | None) -> _core.InnerOptions:
    """Return the core's options, refusing what this version cannot honour."""
    if options is None:
        return _DEFAULT
    if type(options) is not InnerOptions:
        raise InvalidArgument(argument="options", got=f"{options!r:.80}", expected="InnerOptions, or None")
    solve_options(options.solve)
    core: _core.InnerOptions = options._handle
    return core


# ---- results --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False, eq=False)
class InnerFit(_Printed):
    """Outcome of an inner loop.

    Attributes
    ----------
    t : ndarray, shape of the row gradient, float64
    beta : ndarray, (p,), float64
        The returned point `z`.
    objective : float
        `phi(z)`.
    gradient_norm : float
        `|H z - g0|` at the returned `z`, recomputed from `z`.
    step_gradient_norm : float
        The same at the last linearization that was solved.
    log_det_hessian : float
        `log det(H + ridges)` as last factored; NaN when nothing was.
    iterations, accepted_iterations : int
        Attempts, and those that moved `z`.
    status : {'converged', 'max_iterations', 'ridge_exhausted', 'no_progress'}
    ridge_t, ridge_beta : float
        Where the schedule ended.
    route : str
        Of the last factor: that of a plan on the CPU, `'direct'` or `'dual'` on a device. Empty where nothing was
        accepted, and for the references.
    execution_path : str
        Where the accepted work ran: `'cpu'`, `'gpu-reupload'`, `'gpu-resident-linearization'` or
        `'gpu-resident-full'`. Set after the work, from what ran.
    backend : str
        `'cpu'` or `'cuda'`.
    unproven_path : str
        Empty, but for results of a stand-in for a device in tests: the path that it stood for.
    telemetry : Telemetry
        Counters of this fit.
    """

    t: Array
    beta: Array
    objective: float
    gradient_norm: float
    step_gradient_norm: float
    log_det_hessian: float
    iterations: int
    accepted_iterations: int
    status: str
    ridge_t: float
    ridge_beta: float
    route: str
    execution_path: str
    backend: str
    unproven_path: str
    telemetry: Telemetry

    @property
    def converged(self) -> bool:
        """Whether the loop met its tolerance."""
        return self.status == "converged"

    @property
    def factorizations(self) -> int:
        """Factors that the fit made and kept."""
        return self.telemetry.factorizations

    @property
    def frame_builds(self) -> int:
        """Device frames that the fit built; 0 on the CPU."""
        return self.telemetry.frame_builds

    @property
    def used_device(self) -> bool:
        """Whether the accepted work ran on a device."""
        return self.execution_path != "cpu"

    def _rows(self) -> list[tuple[str, Any]]:
        rows = [(name, value) for name, value in super()._rows() if name != "telemetry"]
        return [*rows, ("factorizations", self.factorizations)]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values: nested dictionaries, lists, numbers, strings."""
        return {**super().to_dict(), "converged": self.converged}


@dataclass(frozen=True, repr=False, eq=False)
class InnerStep(_Printed):
    """One step at the linearization of a workspace, from `z = 0`.

    Attributes
    ----------
    delta_t : ndarray, shape of the row gradient, float64
    delta_beta : ndarray, (p,), float64
        `-(H + ridges)^-1 g0`.
    objective : float
        `phi(0)`.
    gradient_norm : float
        `|g0|`.
    log_det_hessian : float
        `log det(H + ridges)`.
    certificate : float
        Normwise backward error against `H + ridges`.
    route, execution_path, backend, unproven_path : str
        As of `InnerFit`.
    telemetry : Telemetry
        Counters of this call.
    """

    delta_t: Array
    delta_beta: Array
    objective: float
    gradient_norm: float
    log_det_hessian: float
    certificate: float
    route: str
    execution_path: str
    backend: str
    unproven_path: str
    telemetry: Telemetry

    @property
    def used_device(self) -> bool:
        """Whether the step ran on a device."""
        return self.execution_path != "cpu"

    def _rows(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in super()._rows() if name != "telemetry"]


@dataclass(frozen=True, repr=False, eq=False)
class OuterSequence(_Printed):
    """Fits of several base gradients at one linearization.

    Attributes
    ----------
    fits : tuple of InnerFit
        One per gradient, in order.
    frame_builds : int
        Device frames; 0 on the CPU.
    factorizations : int
        Of the whole sequence, whose fits share their factors.
    """

    fits: tuple[InnerFit, ...]
    frame_builds: int
    factorizations: int

    def _rows(self) -> list[tuple[str, Any]]:
        statuses = tuple(fit.status for fit in self.fits)
        return [("fits", statuses), ("frame_builds", self.frame_builds), ("factorizations", self.factorizations)]


class DenseReferenceStep(NamedTuple):
    """Step and log-determinant of one dense Cholesky factorization of the whole matrix."""

    delta_t: Array
    delta_beta: Array
    log_det: float


class RowBump(NamedTuple):
    """What `examine_rows` found.

    `failing_rows` counts the rows without a Cholesky factor; `first_row` is the lowest of them and `first_pivot` the
    position of its failing pivot (both -1 where there is none). Every row factors at `ridge_t + bump`; adding
    `suggested_bump` instead leaves the border room too. The latter is advice, not a guarantee.
    """

    failing_rows: int
    first_row: int
    first_pivot: int
    bump: float
    suggested_bump: float


def fit_from_core(values: dict[str, Any]) -> InnerFit:
    """Make the frozen outcome from the dictionary of the core."""
    return InnerFit(**{**values, "telemetry": _told(values, "fit")})


def step_from_core(values: dict[str, Any]) -> InnerStep:
    """Make the frozen step from the dictionary of the core."""
    return InnerStep(**{**values, "telemetry": _told(values, "inner_iteration")})


# What has been logged: a route and the kind of its trouble, once per process.
_LOGGED: set[tuple[str, str]] = set()


def _told(values: dict[str, Any], route: str) -> Telemetry:
    """Return the counters of a call, and log a device that failed or declined: it is counted every time, told once."""
    telemetry = Telemetry(**values["telemetry"])
    for reason in telemetry.fallback_reasons:
        kind = reason.partition(":")[0]
        if kind in ("device_fault", "device_unavailable") and (route, kind) not in _LOGGED:
            _LOGGED.add((route, kind))
            logger.warning("%s ran on the CPU: %s", route, reason)
    return telemetry


def _sequence(values: tuple[list[dict[str, Any]], int, int]) -> OuterSequence:
    fits, frame_builds, factorizations = values
    return OuterSequence(tuple(map(fit_from_core, fits)), frame_builds, factorizations)


# ---- workspaces -----------------------------------------------------------------------------------------------------
def _part(name: str, value: Any, *shapes: tuple[int, ...]) -> Array:
    """Return a part in the first of the shapes that it may have."""
    array = as_array(value, name)
    check_shape(name, array, shapes)
    return array.reshape(shapes[0])


def _parts_of(slabs: Any) -> dict[str, Any]:
    if isinstance(slabs, Mapping):
        found = {name: slabs[name] for name in _SLABS if name in slabs}
    else:
        found = {name: getattr(slabs, name) for name in _SLABS if hasattr(slabs, name)}
    missing = [name for name in _SLABS if name not in found]
    if missing:
        raise InvalidArgument(
            argument="slabs",
            got=f"{type(slabs).__name__} without {', '.join(missing)}",
            expected=f"an ArrowSystem, or a mapping or object with {', '.join(_SLABS)}",
        )
    return found


def _system_of(shape: ResidentShape, slabs: Any) -> ArrowSystem:
    """Return the system of five slabs, complaining by their names."""
    n, p, d = shape.n, shape.p, shape.d
    given = _parts_of(slabs)
    row_hessian = _part("row_hessian", given["row_hessian"], (n, d, d), (n * d * d,))
    row_cross = _part("row_cross", given["row_cross"], (n, d, p), (n * d, p), (n * d * p,))
    row_gradient = _part("row_gradient", given["row_gradient"], (n, d), (n * d,))
    border: Any = given["border_hessian"]
    if isinstance(border, Border):
        if border.k != p:
            raise InvalidArgument(
                argument="border_hessian", got=f"a border of width {border.k}", expected=f"width p = {p}"
            )
    else:
        flat = as_array(border, "border_hessian")
        # (p,) is a diagonal border, as in ArrowSystem.
        border = flat if flat.shape == (p,) else _part("border_hessian", flat, (p, p), (p * p,))
    border_gradient = _part("border_gradient", given["border_gradient"], (p,))
    try:
        return ArrowSystem(row_hessian, row_cross, border, row_gradient, border_gradient)
    except InvalidArgument as error:
        for slab, part in _SLABS.items():
            if error.argument == part or error.argument.startswith(f"{part}["):
                argument = slab + error.argument[len(part) :]
                raise InvalidArgument(argument=argument, got=error.got, expected=error.expected) from None
        raise


def workspace_handle(workspace: Any, name: str) -> _core.ResidentWorkspace:
    """Return the core's workspace, or complain about the argument."""
    if not isinstance(workspace, ResidentWorkspace):
        raise InvalidArgument(argument=name, got=f"{type(workspace).__name__}", expected="a ResidentWorkspace")
    return workspace._handle


class ResidentWorkspace:
    """A frozen linearization, and the factors that its fits have made.

    With `z = (t, beta)`, `g0 = (row_gradient, border_gradient)` and `H` the arrow matrix without ridges,

    .. code-block:: text

        phi(z) = phi(0) + z'Hz / 2 - g0'z     r(z) = Hz - g0     minimiser  H z* = g0

    Parameters
    ----------
    shape : ResidentShape
    target : (n, p) or (n p,) array_like
        Enters by `phi(0) = |target|^2 / 2` only, evaluated once.
    basis, gates : (n, basis_cols) or (n basis_cols,) array_like
    slabs : ArrowSystem, or mapping or object
        A system, or what has `row_hessian` (n, d, d), `row_cross` (n, d, p), `row_gradient` (n, d),
        `border_hessian` (p, p) or a border object, and `border_gradient` (p,). Flat buffers are accepted too.

    Attributes
    ----------
    shape : ResidentShape
    target, basis, gates : ndarray or None
        None for a workspace made `from_system`.
    objective_at_zero : float
        `phi(0)`.
    device_resident : bool
    device_reason : str
        Why not; empty when it is.
    resident_device_bytes, host_shadow_bytes, frame_upload_bytes : int
        Really held on a device; of all host arrays; of the five slabs.

    Raises
    ------
    InvalidArgument
        A part has the wrong length, checked in the order target, basis, gates, row_hessian, row_cross, row_gradient,
        border_hessian, border_gradient; or an entry is not finite, or a block is not symmetric.

    Notes
    -----
    float64 arrays in C order are borrowed, not copied: do not change them while the workspace is in use.

    A factor is kept for every pair of ridges that was used, up to `SolveOptions.frame_cache_entries` and the memory
    limit. Calls on one workspace wait for each other; distinct workspaces are independent, also where they share a
    border array. A workspace pickles as its parts; factors are made again.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> fixture = asn.fixtures.small_fixture(0xABCD0001)
    >>> shape = asn.ResidentShape(n=8, p=4, basis_cols=2, d=2)
    >>> workspace = asn.ResidentWorkspace(shape, fixture.target, fixture.basis, fixture.gates, fixture.system())
    >>> fit = workspace.fit()
    >>> fit.status, fit.iterations, fit.factorizations, fit.execution_path
    ('converged', 1, 1, 'cpu')
    >>> round(fit.objective, 9)
    -0.557980624
    """

    __slots__ = ("__weakref__", "_handle", "_system", "basis", "gates", "shape", "target")
    shape: ResidentShape
    target: Array | None
    basis: Array | None
    gates: Array | None
    _handle: _core.ResidentWorkspace
    _system: ArrowSystem

    def __init__(self, shape: ResidentShape, target: ArrayLike, basis: ArrayLike, gates: ArrayLike, slabs: Any) -> None:
        if not isinstance(shape, ResidentShape):
            raise InvalidArgument(argument="shape", got=f"{shape!r:.80}", expected="a ResidentShape")
        columns = (shape.n, shape.basis_cols)
        target = float64_array(_part("target", target, (shape.n, shape.p), (shape.target,)), "target")
        basis = float64_array(_part("basis", basis, columns, (shape.basis,)), "basis")
        gates = float64_array(_part("gates", gates, columns, (shape.gates,)), "gates")
        system = slabs if isinstance(slabs, ArrowSystem) else _system_of(shape, slabs)
        sizes = shape.n, shape.p, shape.basis_cols, shape.d
        handle = _core.ResidentWorkspace(*sizes, target, basis, gates, system._handle)
        self._fill(handle, system, shape, target, basis, gates)

    @classmethod
    def from_system(cls, system: ArrowSystem, objective_at_zero: float = 0.0) -> ResidentWorkspace:
        """Return the workspace of a system, without target, basis and gates.

        Parameters
        ----------
        system : ArrowSystem
            With rows of one size. Its gradient is the base gradient `g0`.
        objective_at_zero : float, default 0
            `phi(0)`, finite.

        Returns
        -------
        ResidentWorkspace
            With `basis_cols` 1.

        Raises
        ------
        InvalidArgument
            The rows differ in size, a dimension is 0, or the objective is not finite.

        Examples
        --------
        >>> import arrowschur_native as asn
        >>> system = asn.fixtures.coupled_fixture(8, 2, 4, seed=1, coupling=0.5).system()
        >>> round(asn.ResidentWorkspace.from_system(system).fit().objective, 12)
        -0.834556402323
        """
        handle = _core.ResidentWorkspace.from_system(system_handle(system), objective_at_zero)
        workspace = cls.__new__(cls)
        workspace._fill(handle, system, ResidentShape(*handle.shape), None, None, None)
        return workspace

    def _fill(
        self,
        handle: _core.ResidentWorkspace,
        system: ArrowSystem,
        shape: ResidentShape,
        target: Array | None,
        basis: Array | None,
        gates: Array | None,
    ) -> None:
        put = object.__setattr__
        put(self, "_handle", handle)
        put(self, "_system", system)
        put(self, "shape", shape)
        put(self, "target", target)
        put(self, "basis", basis)
        put(self, "gates", gates)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"ResidentWorkspace is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"ResidentWorkspace is immutable: cannot delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        if self.target is None:
            return ResidentWorkspace.from_system, (self._system, self.objective_at_zero)
        return ResidentWorkspace, (self.shape, self.target, self.basis, self.gates, self._system)

    def __repr__(self) -> str:
        s = self.shape
        return (
            f"ResidentWorkspace(n={s.n}, p={s.p}, basis_cols={s.basis_cols}, d={s.d}, "
            f"objective_at_zero={self.objective_at_zero:.6g})"
        )

    # ---- what it is ------------------------------------------------------------------------------------------------
    def to_system(self) -> ArrowSystem:
        """Return the linearization as a system on the same arrays: nothing is copied."""
        return self._system

    @property
    def objective_at_zero(self) -> float:
        """`phi(0)`."""
        return self._handle.objective_at_zero

    @property
    def device_resident(self) -> bool:
        """Whether the workspace is bound to a device. It is bound on first need."""
        return self._handle.device_resident()

    @property
    def device_reason(self) -> str:
        """Why it is not bound; empty when it is."""
        return self._handle.device_reason()

    @property
    def resident_device_bytes(self) -> int:
        """Bytes really held on a device; 0 when unbound."""
        return self._handle.resident_device_bytes()

    @property
    def host_shadow_bytes(self) -> int:
        """Bytes of all host arrays, target, basis and gates included."""
        return self._handle.host_shadow_bytes

    @property
    def frame_upload_bytes(self) -> int:
        """Bytes of the five slabs."""
        return self._handle.frame_upload_bytes

    def release_factors(self) -> None:
        """Free what fits have left, on a device too; the next fit makes it again."""
        self._handle.release_factors()

    # ---- fits ------------------------------------------------------------------------------------------------------
    def fit(self, options: InnerOptions | None = None, device: str = "auto") -> InnerFit:
        """Minimise `phi` by the trust-region loop: the production form.

        Parameters
        ----------
        options : InnerOptions, optional
        device : {'auto', 'off', 'required'}, default 'auto'
            `auto` leaves it to `options.solve.device`, whose `auto` uses a device where that is predicted to be faster,
            and the CPU where the device declines or fails (counted in `telemetry.cpu_fallbacks`, with the reason).

        Returns
        -------
        InnerFit

        Raises
        ------
        InnerLoopError
            The loop ended without an accepted step and without having converged.
        DeviceUnavailableError
            `required`, and there is no device.
        InvalidArgument, UnsupportedConfiguration, MemoryBudgetExceeded
            As `newton_step`.

        Notes
        -----
        With ridges 0 and a positive definite `H`: one factorization (none when the workspace has kept it), then per
        iterate one solve and one product with `H`. Releases the GIL; Ctrl-C ends it.
        """
        return fit_from_core(self._handle.fit(inner_options(options), device))

    def device_fit(self, options: InnerOptions | None = None) -> InnerFit:
        """Run `fit` on a device, with resident factors.

        Raises
        ------
        DeviceUnavailableError
            There is no device, or the workspace cannot be bound. Never falls back to the CPU.
        UnsupportedConfiguration
            The system lives in callbacks or has a cross block that is not dense; the options ask for another route than
            `direct`, or for float32.
        DeviceError
            The device failed.
        InnerLoopError
            As `fit`.
        """
        return fit_from_core(self._handle.device_fit(inner_options(options)))

    def device_reupload_fit(self, options: InnerOptions | None = None) -> InnerFit:
        """Run `fit` on a device with nothing kept there between solves: the baseline of `device_fit`.

        Raises
        ------
        DeviceUnavailableError, InnerLoopError
            As `device_fit`.
        """
        return fit_from_core(self._handle.device_reupload_fit(inner_options(options)))

    def cpu_reference_fit(self, options: InnerOptions | None = None) -> InnerFit:
        """Run the loop on `newton_step_dense_reference`, never on a device: the oracle of parity tests.

        Raises
        ------
        InnerLoopError
            As `fit`.

        Notes
        -----
        `(T + p)^3 / 3` flops per iterate; nothing is kept.
        """
        return fit_from_core(self._handle.cpu_reference_fit(inner_options(options)))

    # ---- outer sequences -------------------------------------------------------------------------------------------
    def fit_outer_sequence(
        self,
        gradients: Iterable[tuple[ArrayLike, ArrayLike]],
        options: InnerOptions | None = None,
        device: str = "auto",
    ) -> OuterSequence:
        """Fit several base gradients at the unchanged operator.

        Parameters
        ----------
        gradients : iterable of (g_t, g_beta)
            Each (n, d) or (T,) with (p,), in place of the slab gradients.
        options : InnerOptions, optional
        device : {'auto', 'off', 'required'}, default 'auto'

        Returns
        -------
        OuterSequence
            One fit per gradient, each from `z = 0` and the initial ridges. They share their factors: exactly one
            factorization at ridges 0, however many gradients.

        Raises
        ------
        InvalidArgument
            A gradient has the wrong length; raised before any work, naming the entry.
        InnerLoopError, DeviceUnavailableError
            As `fit`.

        Examples
        --------
        >>> import numpy as np, arrowschur_native as asn
        >>> workspace = asn.ResidentWorkspace.from_system(asn.fixtures.small_fixture(0x11).system())
        >>> gradients = [(np.full((8, 2), s), np.ones(4)) for s in (1.0, 2.0, 3.0)]
        >>> outer = workspace.fit_outer_sequence(gradients)
        >>> len(outer.fits), outer.factorizations
        (3, 1)
        """
        pairs = self._gradients(gradients)
        return _sequence(self._handle.fit_outer_sequence(pairs, inner_options(options), device))

    def device_fit_outer_sequence(
        self, gradients: Iterable[tuple[ArrayLike, ArrayLike]], options: InnerOptions | None = None
    ) -> OuterSequence:
        """Run `fit_outer_sequence` on a device, with one frame cache.

        Raises
        ------
        DeviceUnavailableError
            As `device_fit`.
        InvalidArgument, InnerLoopError
            As `fit_outer_sequence`.
        """
        return _sequence(self._handle.device_fit_outer_sequence(self._gradients(gradients), inner_options(options)))

    def cpu_reference_fit_outer_sequence(
        self, gradients: Iterable[tuple[ArrayLike, ArrayLike]], options: InnerOptions | None = None
    ) -> OuterSequence:
        """Run `fit_outer_sequence` with independent dense solves, never on a device.

        Raises
        ------
        InvalidArgument, InnerLoopError
            As `fit_outer_sequence`.
        """
        pairs = self._gradients(gradients)
        return _sequence(self._handle.cpu_reference_fit_outer_sequence(pairs, inner_options(options)))

    def _gradients(self, gradients: Iterable[tuple[ArrayLike, ArrayLike]]) -> tuple[tuple[Array, Array], ...]:
        if not isinstance(gradients, Iterable):
            raise InvalidArgument(argument="gradients", got=describe(gradients), expected="pairs (g_t, g_beta)")
        pairs = []
        for i, entry in enumerate(gradients):
            try:
                g_t, g_beta = entry
            except (TypeError, ValueError):
                raise InvalidArgument(
                    argument=f"gradients[{i}]", got=describe(entry), expected="a pair (g_t, g_beta)"
                ) from None
            rows, border = float64_array(g_t, f"gradients[{i}].g_t"), float64_array(g_beta, f"gradients[{i}].g_beta")
            check_shape(f"gradients[{i}].g_t", rows, row_shapes(self._system))
            check_shape(f"gradients[{i}].g_beta", border, [(self.shape.p,)])
            pairs.append((rows, border))
        return tuple(pairs)

    # ---- single steps ----------------------------------------------------------------------------------------------
    def inner_iteration(self, ridge_t: float = 0.0, ridge_beta: float = 0.0, device: str = "auto") -> InnerStep:
        """Return the step `-(H + ridges)^-1 g0` at `z = 0`: the production form of one iterate.

        Parameters
        ----------
        ridge_t, ridge_beta : float, default 0
            Finite, >= 0.
        device : {'auto', 'off', 'required'}, default 'auto'

        Returns
        -------
        InnerStep

        Raises
        ------
        RowFactorError, SchurFactorError
            The operator at these ridges is not positive definite; rows are not lifted.
        DeviceUnavailableError
            `required`, and there is no device.

        Examples
        --------
        >>> import arrowschur_native as asn
        >>> workspace = asn.ResidentWorkspace.from_system(asn.fixtures.small_fixture(0x11).system())
        >>> step = workspace.inner_iteration(ridge_t=1e-3)
        >>> step.delta_t.shape, step.execution_path, step.certificate < 1e-14
        ((8, 2), 'cpu', True)
        """
        return step_from_core(self._handle.inner_iteration(ridge_t, ridge_beta, device))

    def one_inner_iteration(self, ridge_t: float = 0.0, ridge_beta: float = 0.0) -> InnerStep:
        """Return `inner_iteration` with `device='required'`.

        Raises
        ------
        DeviceUnavailableError
            There is no device.
        RowFactorError, SchurFactorError
            As `inner_iteration`.
        """
        return step_from_core(self._handle.one_inner_iteration(ridge_t, ridge_beta))

    def cpu_reference_step(self, ridge_t: float = 0.0, ridge_beta: float = 0.0) -> InnerStep:
        """Return the same step by `newton_step_dense_reference`, never on a device.

        Raises
        ------
        RowFactorError, SchurFactorError
            As `inner_iteration`.
        """
        return step_from_core(self._handle.cpu_reference_step(ridge_t, ridge_beta))


# ---- references -----------------------------------------------------------------------------------------------------
def newton_step_dense_reference(
    system: ArrowSystem, ridge_t: float = 0.0, ridge_beta: float = 0.0
) -> DenseReferenceStep:
    """Solve for the Newton step with one dense Cholesky factorization of the whole matrix.

    Parameters
    ----------
    system : ArrowSystem
    ridge_t, ridge_beta : float, default 0
        Finite, >= 0.

    Returns
    -------
    DenseReferenceStep
        `delta_t` (shape of `g_t`), `delta_beta` (k,), `log_det`.

    Raises
    ------
    RowFactorError, SchurFactorError
        A pivot of a row, or of the border, is not positive.
    InvalidArgument
        A ridge is negative or not finite.

    Notes
    -----
    The oracle of parity tests: no code in common with the elimination. `8 (T + k)^2` bytes and `(T + k)^3 / 3` flops.
    Releases the GIL.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> system = asn.fixtures.small_fixture(0x11).system()
    >>> dense = asn.newton_step_dense_reference(system)
    >>> np.allclose(dense.delta_beta, asn.newton_step(system).delta_beta, rtol=1e-12, atol=0)
    True
    """
    return DenseReferenceStep(*_core.newton_step_dense_reference(system_handle(system), ridge_t, ridge_beta))


def ridge_bump(block: ArrayLike, ridge_t: float = 0.0) -> float:
    """Return by how much `ridge_t` must grow so that a row block has a Cholesky factor.

    Parameters
    ----------
    block : (d, d) array_like
        Symmetric and finite; both triangles are read.
    ridge_t : float, default 0
        Finite, >= 0.

    Returns
    -------
    float
        Positive: Gershgorin's bound on the deficit of the block, and the rounding of the factorization. Of rounding
        size for a block that is singular but not indefinite.

    Raises
    ------
    InvalidArgument
        The block is not square or not finite, or the ridge is negative or not finite.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> round(asn.ridge_bump([[1.0, 2.0], [2.0, 1.0]]), 12)
    1.0
    """
    array = float64_array(block, "block")
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not np.isfinite(array).all():
        raise InvalidArgument(argument="block", got=describe(array), expected="a finite square matrix (d, d)")
    _number("ridge_t", ridge_t, lambda x: 0 <= x < math.inf, "a finite number >= 0")
    return _core.ridge_bump(array, float(ridge_t))


def examine_rows(system: ArrowSystem, ridge_t: float = 0.0) -> RowBump:
    """Say which rows of a system have no Cholesky factor at `ridge_t`, and what would cure them.

    Parameters
    ----------
    system : ArrowSystem
    ridge_t : float, default 0
        Finite, >= 0.

    Returns
    -------
    RowBump

    Raises
    ------
    InvalidArgument
        The ridge is negative or not finite.

    Notes
    -----
    A row that is repaired by `bump` alone is barely positive definite: its inverse is huge, and its cross block may
    drive the border indefinite. `suggested_bump` counts the cross block too. `sum d_i^3 / 3` flops. Releases the GIL.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.examine_rows(asn.fixtures.small_fixture(0x11).system()).failing_rows
    0
    """
    _number("ridge_t", ridge_t, lambda x: 0 <= x < math.inf, "a finite number >= 0")
    return RowBump(*_core.examine_rows(system_handle(system), float(ridge_t)))
