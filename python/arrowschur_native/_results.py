"""Result objects: frozen, picklable, and printed with aligned fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _core

__all__ = [
    "ConditionEstimate",
    "LogDetParts",
    "NewtonStep",
    "PcgDiagnostics",
    "PivotRange",
    "PlanCandidate",
    "SolveDiagnostics",
    "SolvePlan",
    "SystemGradient",
    "route_counters",
]

Array = NDArray[Any]


# ---- printing -------------------------------------------------------------------------------------------------------
def short(value: Any) -> str:
    """Return a value in the width of a line: arrays by shape, floats with four digits."""
    if isinstance(value, np.ndarray):
        if value.size <= 4 and value.ndim <= 1:
            return "[" + ", ".join(f"{x:.4g}" for x in value.tolist()) + "]"
        return f"array of shape {value.shape}"
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {short(entry)}" for key, entry in value.items()) or "{}"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(short, value)) or "()"
    if isinstance(value, SolvePlan):
        return value.route
    if isinstance(value, PcgDiagnostics):
        return f"{value.stopping_reason} after {value.iterations} iterations ({value.preconditioner})"
    return str(value)


def aligned(title: str, rows: list[tuple[str, Any]]) -> str:
    """Return a title and one right-aligned `name: value` line per field."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:>{width}}: {short(value)}" for name, value in rows)])


class _Printed:
    """A result that prints itself, one aligned line per field."""

    __slots__ = ()

    def _rows(self) -> list[tuple[str, Any]]:
        return [(f.name, getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return aligned(type(self).__name__, self._rows())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values: nested dictionaries, lists, numbers, strings."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, _Printed):
        return value.to_dict()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return value


# ---- plans ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class PlanCandidate(_Printed):
    """A route that could carry out the solve, or could not.

    Attributes
    ----------
    route : str
    seconds : float
        Predicted: upload, build and all solves.
    flops : float
        Of the build.
    peak_bytes : int
        Workspace plus factor.
    up_seconds, build_seconds, solve_seconds : float
        The parts of `seconds`; the last is one solve.
    sparse_schur : bool
        `S` is block-sparse and has a sparse factor.
    materialize : bool
        The cross block is expanded to a dense slab.
    feasible : bool
    why_not : str
        Empty when feasible.
    """

    route: str
    seconds: float
    flops: float
    peak_bytes: int
    up_seconds: float = 0.0
    build_seconds: float = 0.0
    solve_seconds: float = 0.0
    sparse_schur: bool = False
    materialize: bool = False
    feasible: bool = True
    why_not: str = ""


@dataclass(frozen=True, repr=False)
class SolvePlan(_Printed):
    """The route of a solve, and why.

    Attributes
    ----------
    route : str
        `'direct'`, `'sqrt_ba'`, `'low_rank'` or `'inexact_pcg'`.
    reasons : tuple of str
        Why this route, and why not the others, with numbers.
    candidates : tuple of PlanCandidate
    peak_bytes : int
        Workspace plus factor of the chosen route.
    backend : str
        `'cpu'`.
    thin_border : bool
        One fused pass per chunk of rows; the whitened cross block is never stored whole.
    low_rank : bool
        `T < k`: the capacitance form would be smaller than `S`.
    sparse_schur : bool
        `S` is block-sparse and has a sparse Cholesky factor.
    materialize : bool
        The cross block is expanded to a dense slab, because that is cheaper or because it is an operator.
    profile : str
        Name of the machine profile behind the seconds (`policy.MachineProfile`).
    predicted_seconds : float
        Of the chosen route.
    measured_seconds : float or None
        What the solve took; None for a plan that was not carried out.
    """

    route: str
    reasons: tuple[str, ...]
    candidates: tuple[PlanCandidate, ...]
    peak_bytes: int
    backend: str
    thin_border: bool = False
    low_rank: bool = False
    sparse_schur: bool = False
    materialize: bool = False
    profile: str = ""
    predicted_seconds: float = 0.0
    measured_seconds: float | None = None

    def _rows(self) -> list[tuple[str, Any]]:
        rows: list[tuple[str, Any]] = [("route", self.route), ("backend", self.backend)]
        rows += [("because", reason) for reason in self.reasons]
        flags = ("thin_border", "low_rank", "sparse_schur", "materialize", "peak_bytes", "profile")
        rows += [(name, getattr(self, name)) for name in (*flags, "predicted_seconds", "measured_seconds")]
        rows += [
            (
                f"candidate {c.route}",
                f"{c.seconds:.3g} s, {c.flops:.3g} flops, {c.peak_bytes} bytes" if c.feasible else c.why_not,
            )
            for c in self.candidates
        ]
        return rows


def plan_from_fields(values: dict[str, Any]) -> SolvePlan:
    """Make a plan from the dictionary of the core."""
    values["reasons"] = tuple(values["reasons"])
    values["candidates"] = tuple(PlanCandidate(**candidate) for candidate in values["candidates"])
    return SolvePlan(**values)


# ---- steps ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class PcgDiagnostics(_Printed):
    """Account of the conjugate gradients on the border.

    Attributes
    ----------
    iterations, matvec_calls, precond_apply_calls : int
        Over all preconditioners that were tried.
    stopping_reason : str
        `'converged'`, `'max_iter'`, `'trust_region'`, `'indefinite'`, `'stagnation'`, or `'attainable_floor'` (rounding
        allows no smaller residual).
    final_relative_residual : float
        The true `|r - S x| / |r|`, measured at the end; 0 only when `r = 0`.
    residual_gap : float
        Bound on the distance between the true and the recursive residual, relative to `|r|`.
    preconditioner : str
        The tier that produced the step.
    tiers : tuple of str
        What the ladder tried, in order, such as `'block: max_iter after 200'`.
    """

    iterations: int
    matvec_calls: int
    precond_apply_calls: int
    stopping_reason: str
    final_relative_residual: float
    residual_gap: float
    preconditioner: str
    tiers: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class SolveDiagnostics(_Printed):
    """How a step was computed, and how good it is.

    Attributes
    ----------
    plan : SolvePlan
    execution_path : str
        Where the arithmetic ran: `'cpu'`.
    precision : str
    ridge_t, ridge_beta : float
        The ridges that the step was solved with, escalation included.
    backward_error : float
        `|b - Hx|_inf / (|H|_inf |x|_inf + |b|_inf)`, `b = -g`, in float64, for `H` with the *requested* ridges. NaN
        when `certificate=False`.
    backward_error_effective : float
        The same for the operator that was really solved (row lifts and escalation added).
    norm_is_bound : bool
        `|H|_inf` is an upper bound (several border terms overlap): both errors are underestimates.
    refinement_steps, ridge_escalations : int
    mixed_status, fallback_reason : str, str or None
        `'off'` here.
    rows_lifted : int
        Rows with a ridge of their own.
    row_ridge_max : float
        The largest such ridge.
    schur_conditioning : str
        What was done to `S` before it was solved with: `'none'`, `'pd_floor'`, `'unit_deflated'`, `'curvature_ridge'`.
    kappa_rows_max, kappa_schur : float
        Condition estimates that the guards used.
    pcg : PcgDiagnostics or None
        When conjugate gradients ran: `inexact_pcg`, or a step on the boundary of a trust region.
    structure : tuple of str
        Structure that was recognised in dense parts.
    seconds : dict
        Seconds per stage.
    peak_bytes : int
        Workspace and factor bytes held at the peak.
    bytes_h2d, bytes_d2h, launches : int
        Device traffic: 0 here.
    copies : tuple of str
        Conversions: those made when the system was built, such as `'h_tb: Fortran order -> C order'`, and the widening
        of float32 parts.
    """

    plan: SolvePlan
    execution_path: str
    precision: str
    ridge_t: float
    ridge_beta: float
    backward_error: float
    backward_error_effective: float
    norm_is_bound: bool
    refinement_steps: int
    ridge_escalations: int
    rows_lifted: int
    row_ridge_max: float
    kappa_rows_max: float
    kappa_schur: float
    seconds: dict[str, float]
    peak_bytes: int
    schur_conditioning: str = "none"
    pcg: PcgDiagnostics | None = None
    structure: tuple[str, ...] = ()
    mixed_status: str = "off"
    fallback_reason: str | None = None
    bytes_h2d: int = 0
    bytes_d2h: int = 0
    launches: int = 0
    copies: tuple[str, ...] = field(default=())


def diagnostics_from_core(core: _core.SolveDiagnostics, copies: tuple[str, ...], single: bool) -> SolveDiagnostics:
    """Make the frozen account from the core's."""
    values = core.fields()
    if single and values["precision"] != "float32":
        copies = (*copies, "all parts: float32 -> float64, block by block inside the stages")
    values["plan"] = plan_from_fields(values["plan"])
    if values["pcg"] is not None:
        values["pcg"] = PcgDiagnostics(**values["pcg"])
    return SolveDiagnostics(**values, copies=copies)


class NewtonStep:
    """The step `H [delta_t; delta_beta] = -[g_t; g_beta]`, and its certificate.

    Attributes
    ----------
    delta_t : ndarray, shape of `g_t`, float64
    delta_beta : ndarray, shape (k,), float64
    route : str
        The route that ran.
    diagnostics : SolveDiagnostics
        Made on first access.

    Notes
    -----
    Frozen: attributes cannot be set. The arrays own their memory; nothing else refers to it.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> system = asn.fixtures.small_fixture(0x11).system()
    >>> step = asn.newton_step(system)
    >>> step.delta_t.shape, step.delta_beta.shape, step.route
    ((8, 2), (4,), 'direct')
    >>> step.diagnostics.backward_error < 1e-14
    True
    """

    __slots__ = ("_account", "_copies", "_diagnostics", "_single", "delta_beta", "delta_t")
    delta_t: Array
    delta_beta: Array
    _account: _core.SolveDiagnostics | None
    _copies: tuple[str, ...]
    _single: bool
    _diagnostics: SolveDiagnostics | None

    def __init__(self, delta_t: Array, delta_beta: Array, diagnostics: SolveDiagnostics) -> None:
        _fill(self, delta_t, delta_beta, None, (), False, diagnostics)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"NewtonStep is frozen: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"NewtonStep is frozen: cannot delete {name!r}")

    @property
    def route(self) -> str:
        """The route that ran."""
        return self.diagnostics.plan.route if self._account is None else self._account.route

    @property
    def diagnostics(self) -> SolveDiagnostics:
        """How the step was computed."""
        if self._diagnostics is None:
            assert self._account is not None
            object.__setattr__(self, "_diagnostics", diagnostics_from_core(self._account, self._copies, self._single))
        assert self._diagnostics is not None
        return self._diagnostics

    def __repr__(self) -> str:
        d = self.diagnostics
        rows: list[tuple[str, Any]] = [
            ("delta_t", self.delta_t),
            ("delta_beta", self.delta_beta),
            ("route", self.route),
            ("execution_path", d.execution_path),
            ("backward_error", d.backward_error),
        ]
        if d.rows_lifted or d.ridge_escalations:
            rows.append(("backward_error_effective", d.backward_error_effective))
        rows += [("ridge_t", d.ridge_t), ("ridge_beta", d.ridge_beta)]
        if d.ridge_escalations:
            rows.append(("ridge_escalations", d.ridge_escalations))
        if d.rows_lifted:
            rows += [("rows_lifted", d.rows_lifted), ("row_ridge_max", d.row_ridge_max)]
        if d.schur_conditioning != "none":
            rows.append(("schur_conditioning", d.schur_conditioning))
        if d.pcg is not None:
            rows += [
                ("iterations", d.pcg.iterations),
                ("stopping_reason", d.pcg.stopping_reason),
                ("preconditioner", d.pcg.preconditioner),
                ("relative_residual", d.pcg.final_relative_residual),
            ]
        rows += [("structure", line) for line in d.structure]
        rows += [("kappa_schur", d.kappa_schur), ("seconds", sum(d.seconds.values()))]
        return aligned("NewtonStep", rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return NewtonStep, (self.delta_t, self.delta_beta, self.diagnostics)


_set = object.__setattr__


def _fill(
    step: NewtonStep,
    delta_t: Array,
    delta_beta: Array,
    core: _core.SolveDiagnostics | None,
    copies: tuple[str, ...],
    single: bool,
    diagnostics: SolveDiagnostics | None,
) -> None:
    _set(step, "delta_t", delta_t)
    _set(step, "delta_beta", delta_beta)
    _set(step, "_account", core)
    _set(step, "_copies", copies)
    _set(step, "_single", single)
    _set(step, "_diagnostics", diagnostics)


def step_from_core(
    result: tuple[Array, Array, _core.SolveDiagnostics], copies: tuple[str, ...], single: bool
) -> NewtonStep:
    """Wrap what the core returned; the diagnostics stay there until somebody asks."""
    step = NewtonStep.__new__(NewtonStep)
    _fill(step, result[0], result[1], result[2], copies, single, None)
    return step


def route_counters() -> dict[str, int]:
    """Return how many borders this process has factored, by what factored them.

    Returns
    -------
    dict
        `dense` (Cholesky of a dense `S`), `sparse` (Cholesky of a block-sparse `S`), `low_rank`, `inexact_pcg`. The
        difference across a call shows which route really ran.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> before = asn.route_counters()["dense"]
    >>> step = asn.newton_step(asn.fixtures.small_fixture(0x11).system(), options=asn.SolveOptions(mode="direct"))
    >>> asn.route_counters()["dense"] - before
    1
    """
    return _core.route_counters()


# ---- factor results -------------------------------------------------------------------------------------------------
class LogDetParts(NamedTuple):
    """`log det H` in two parts; their sum is the whole."""

    rows: float
    border: float


class PivotRange(NamedTuple):
    """An extreme squared diagonal of the factors: of the rows, of the border, of both. NaN where a part is empty."""

    rows: float
    border: float
    both: float


class ConditionEstimate(NamedTuple):
    """Condition estimates as the guards use them."""

    rows: float
    border: float


@dataclass(frozen=True, repr=False)
class SystemGradient(_Printed):
    """Gradient of a scalar function with respect to every part of a system.

    Each part has the form of the part it belongs to, and satisfies `df = sum(gradient * d_part)` for every admissible
    change of that part's array: symmetric changes of `h_tt` blocks and dense borders; any change of bands, diagonals,
    `h_tb`. (So an off-diagonal band, which stands for two entries of the matrix, has twice the entry of `h_bb`'s dense
    gradient.)

    Attributes
    ----------
    h_tt : ndarray, (n, d, d), or flat blocks for ragged rows
    h_tb : ndarray, shape of the system's `h_tb`, or a `BlockSparseCross` of its pattern
    h_bb : ndarray, (k, k) for a dense border, (k,) for a diagonal one, bands for `BandedBorder`, blocks for
        `BlockDiagonalBorder`, factors for `KroneckerBorder`, `(a, b)` for `KroneckerProductBorder`, blocks for
        `SparseBlockKroneckerBorder`, `(blocks, frames)` for `FramedKroneckerBorder`; a tuple of these, term by term,
        for a sum
    w_t, w_beta : ndarray
        Gradient of the right-hand side, in its shape. Zero for `log_det_vjp`.
    ridge_t, ridge_beta : float
    """

    h_tt: Array
    h_tb: Any
    h_bb: Any
    w_t: Array
    w_beta: Array
    ridge_t: float
    ridge_beta: float
