"""Dispatch: where a piece of work runs, by which route, and how a throughput claim may be stated.

Everything here is a function of sizes, a policy record and a machine profile; no device is needed. `DispatchPolicy`
holds the thresholds, `MachineProfile` the constants of the time model by which `plan` chooses a route.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._errors import InvalidArgument

__all__ = [
    "DEVICE_LOOP_MIN_P",
    "MATVEC_OFFLOAD_FLOPS_MIN",
    "MATVEC_OFFLOAD_MIN_CG_ITERS",
    "MIN_CALIBRATABLE_FUSED_KERNEL_N",
    "MIN_CALIBRATABLE_GEMM_FLOPS",
    "MIN_CALIBRATABLE_POTRF_P",
    "MIN_CALIBRATABLE_ROW_KERNEL_N",
    "MULTI_DEVICE_BATCH_FLOOR",
    "REFINEMENT_MAX_STEPS",
    "REFINEMENT_MIN_P",
    "REFINEMENT_TOL",
    "THIN_CURVE_MATVEC_OFFLOAD_FLOPS_MIN",
    "THROUGHPUT_TARGET_ROWS_PER_SEC",
    "BorderSolvePlan",
    "Decision",
    "DispatchPolicy",
    "Eligibility",
    "EncodeDeploymentDecision",
    "EncodeQuality",
    "FullEncodeThroughput",
    "InnerLoopAdmission",
    "MachineProfile",
    "Measurement",
    "OuterLoopAdmission",
    "ProbeCounters",
    "Refinement",
    "RouteCost",
    "RouteTable",
    "ThroughputVerdict",
    "admissible_under_any_policy",
    "admission_work_lower_bound",
    "border_plan",
    "calibrate",
    "crossover",
    "current_policy",
    "current_profile",
    "decide",
    "device_mode",
    "encode_quality",
    "flops",
    "probe_counters",
    "reduced_schur_apply_flops",
    "reduced_schur_matvec_should_offload",
    "refine",
    "refinement_can_succeed",
    "route_table",
    "set_profile",
    "should_probe",
]

# Constants of the specification; the values are those of the core.
_constants = _core.policy_constants()
REFINEMENT_MIN_P: int = _constants["REFINEMENT_MIN_P"]
REFINEMENT_MAX_STEPS: int = _constants["REFINEMENT_MAX_STEPS"]
REFINEMENT_TOL: float = _constants["REFINEMENT_TOL"]
DEVICE_LOOP_MIN_P: int = _constants["DEVICE_LOOP_MIN_P"]
MATVEC_OFFLOAD_FLOPS_MIN: int = _constants["MATVEC_OFFLOAD_FLOPS_MIN"]
THIN_CURVE_MATVEC_OFFLOAD_FLOPS_MIN: int = _constants["THIN_CURVE_MATVEC_OFFLOAD_FLOPS_MIN"]
MATVEC_OFFLOAD_MIN_CG_ITERS: int = _constants["MATVEC_OFFLOAD_MIN_CG_ITERS"]
THROUGHPUT_TARGET_ROWS_PER_SEC: float = _constants["THROUGHPUT_TARGET_ROWS_PER_SEC"]
MIN_CALIBRATABLE_GEMM_FLOPS: int = _constants["MIN_CALIBRATABLE_GEMM_FLOPS"]
MIN_CALIBRATABLE_POTRF_P: int = _constants["MIN_CALIBRATABLE_POTRF_P"]
MIN_CALIBRATABLE_ROW_KERNEL_N: int = _constants["MIN_CALIBRATABLE_ROW_KERNEL_N"]
MIN_CALIBRATABLE_FUSED_KERNEL_N: int = _constants["MIN_CALIBRATABLE_FUSED_KERNEL_N"]
MULTI_DEVICE_BATCH_FLOOR: int = _constants["MULTI_DEVICE_BATCH_FLOOR"]

_LARGEST = 2**63


# ---- arguments ------------------------------------------------------------------------------------------------------
def _complain(name: str, value: Any, expected: str) -> InvalidArgument:
    return InvalidArgument(argument=name, got=f"{value!r:.80}", expected=expected)


def _size(name: str, value: Any) -> int:
    if not isinstance(value, (bool, np.bool_)):
        try:
            size = int(value.__index__())
        except (AttributeError, TypeError):
            size = -1
        if 0 <= size <= _LARGEST:
            return size
    raise _complain(name, value, "an integer in [0, 2^63]")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _complain(name, value, "True or False")
    return bool(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, str)):
        raise _complain(name, value, "a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise _complain(name, value, "a number") from None


def _positive(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0 < number < math.inf:
        raise _complain(name, value, "a finite number > 0")
    return number


def _json(values: Mapping[str, Any]) -> str:
    """JSON as the core reads it: infinity, which JSON lacks, as a number that overflows."""
    entries = []
    for name, value in values.items():
        text = "1e999" if isinstance(value, float) and value == math.inf else json.dumps(value)
        entries.append(f"{json.dumps(name)}: {text}")
    return "{" + ", ".join(entries) + "}"


def _mapping(name: str, values: Any, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise _complain(name, values, "a dictionary")
    for key in values:
        if key not in known:
            raise _complain(name, key, f"no fields but {', '.join(known)}")
    for key in known:
        if key not in values:
            raise InvalidArgument(argument=key, got="no such entry", expected=f"an entry of the {name}")
    return dict(values)


# ---- the record -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchPolicy:
    """Thresholds by which work is sent to a device. A value: comparable, picklable, convertible to JSON.

    Parameters
    ----------
    xtwx_flops_min : int, default 100_000_000
        Floor of weighted Gram products, in flops.
    gemm_min_flops : int, default 100_000_000
        Floor of matrix products.
    potrf_min_p : int, default 512
        Narrowest Cholesky factor.
    small_dense_batched_potrf_max_p, small_dense_batched_potrf_min_batch : int, default 32, 8
        Widest matrix and smallest batch of a batched small Cholesky factor.
    mixed_precision : {'off', 'refinement', 'never'}, default 'refinement'
        Whether a low-precision factor that was asked for is permitted. 'off' is "not wanted by default", 'never'
        "somebody decided so".
    route_rule : {'cost', 'width_cut'}, default 'cost'
        How `plan` chooses under ``mode='auto'``: by predicted time, or `inexact_pcg` for k > 2000 and else `direct`.

    Raises
    ------
    InvalidArgument
        A field is out of its range; the message names it.

    Notes
    -----
    The defaults are cautious: what a build without a device and a failed calibration see. Equality with a floor admits.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> policy = asn.policy.DispatchPolicy(route_rule="width_cut")
    >>> policy.dense_hessian_work_target_is_gpu(12, 2048)
    True
    >>> asn.policy.DispatchPolicy.from_dict(policy.to_dict()) == policy
    True
    """

    xtwx_flops_min: int = 100_000_000
    gemm_min_flops: int = 100_000_000
    potrf_min_p: int = 512
    small_dense_batched_potrf_max_p: int = 32
    small_dense_batched_potrf_min_batch: int = 8
    mixed_precision: str = "refinement"
    route_rule: str = "cost"
    _handle: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in _POLICY_SIZES:
            object.__setattr__(self, name, _size(name, getattr(self, name)))
        for name in ("mixed_precision", "route_rule"):
            if not isinstance(getattr(self, name), str):
                raise _complain(name, getattr(self, name), "a string")
        object.__setattr__(self, "_handle", _core.DispatchPolicy(json=self._text()))

    def _text(self) -> str:
        # Sizes beyond 2^53 travel as text: a number of JSON is a float64.
        return _json({name: str(v) if isinstance(v, int) and v > 2**53 else v for name, v in self.to_dict().items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return _policy_from_dict, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for `json.dump`."""
        return {name: getattr(self, name) for name in _POLICY_FIELDS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DispatchPolicy:
        """Return the record of a dictionary that `to_dict` made; every field is required."""
        return cls(**_mapping("policy", values, _POLICY_FIELDS))

    def replace(self, **changes: Any) -> DispatchPolicy:
        """Return a copy with the given fields changed."""
        return dataclasses.replace(self, **changes)

    def calibrated(self, measurements: Sequence[Measurement]) -> DispatchPolicy:
        """Return the record with the thresholds that measurements give.

        Parameters
        ----------
        measurements : sequence of Measurement
            `'gemm'` (three sizes) sets `gemm_min_flops`, `'xtwx'` (two) `xtwx_flops_min`, `'potrf'` (one)
            `potrf_min_p`.

        Returns
        -------
        DispatchPolicy
            No threshold falls below its calibration floor; what was not measured keeps its value.
        """
        points = [(m.operation, list(m.sizes), m.cpu_seconds, m.gpu_seconds) for m in measurements]
        return self.from_dict(_policy_values(_core.policy_calibrated(self._text(), points)))

    # ---- predicates ----
    @property
    def dense_reduction_flops_min(self) -> int:
        """The smaller of `xtwx_flops_min` and `gemm_min_flops`."""
        return int(self._handle.dense_reduction_flops_min())

    def dense_gemv_target_is_gpu(self, n: int, p: int, resident: bool) -> bool:
        """Whether a product with an n x p matrix goes to the device: it is there, or 2 n p reaches the floor."""
        return bool(self._handle.dense_gemv_target_is_gpu(_size("n", n), _size("p", p), _flag("resident", resident)))

    def xtwx_target_is_gpu(self, n: int, p: int, materialized: bool) -> bool:
        """Whether a weighted Gram product of an n x p design goes to the device."""
        return bool(self._handle.xtwx_target_is_gpu(_size("n", n), _size("p", p), _flag("materialized", materialized)))

    def xtwy_target_is_gpu(self, n: int, px: int, q: int, materialized: bool) -> bool:
        """Whether a weighted cross product of n x px and n x q designs goes to the device."""
        sizes = _size("n", n), _size("px", px), _size("q", q)
        return bool(self._handle.xtwy_target_is_gpu(*sizes, _flag("materialized", materialized)))

    def potrf_target_is_gpu(self, p: int, h_resident: bool) -> bool:
        """Whether a lone p x p Cholesky factor goes to the device: never when the matrix has to be uploaded for it."""
        return bool(self._handle.potrf_target_is_gpu(_size("p", p), _flag("h_resident", h_resident)))

    def dense_hessian_work_target_is_gpu(self, n: int, p: int) -> bool:
        """Whether the Gram work of n rows and p columns is enough for a device-resident loop."""
        return bool(self._handle.dense_hessian_work_target_is_gpu(_size("n", n), _size("p", p)))

    def iterative_refinement_should_attempt(self, p: int, precision: str = "mixed") -> bool:
        """Whether a low-precision factor of a p x p matrix is attempted.

        Parameters
        ----------
        p : int
        precision : {'float64', 'mixed', 'float32'}, default 'mixed'
            What the caller asked for: without 'mixed' no record leads to an attempt.
        """
        if precision not in ("float64", "mixed", "float32"):
            raise _complain("precision", precision, "one of 'float64', 'mixed', 'float32'")
        permitted = bool(self._handle.iterative_refinement_should_attempt(_size("p", p)))
        return permitted and precision == "mixed"

    def reduced_schur_matvec_should_offload(self, n: int, k: int, d: int, cg_iters: int) -> bool:
        """Whether the product with the reduced border matrix goes to the device."""
        return reduced_schur_matvec_should_offload(n, k, d, cg_iters)

    def border_plan(self, *, n: int, k: int, d: int, cg_iters: int) -> BorderSolvePlan:
        """Return `border_plan` under this record."""
        sizes = _size("n", n), _size("k", k), _size("d", d), _size("cg_iters", cg_iters)
        return BorderSolvePlan(**self._handle.border_plan(*sizes))

    def admits(self, operation: str, *sizes: int) -> bool:
        """Whether an operation goes to the device.

        Parameters
        ----------
        operation : str
            `'gemm'` (m, n, k), `'batched_gemm'` (batch, m, n, k), `'gemv'` (m, k), `'potrf'` (p, batch),
            `'small_batched_potrf'` (p, batch), `'trsm'` (m, n), `'xtwx'` (n, p), `'xtwy'` (n, px, q),
            `'joint_hessian_2x2'` (n, pa, pb).
        *sizes : int
        """
        return bool(self._handle.admits(operation, _sizes(operation, sizes)))

    def should_use_gpu_inner_loop(self, admission: InnerLoopAdmission) -> bool:
        """Whether an inner fitting loop stays on the device: a device, a family with a kernel, and enough work."""
        return bool(self._handle.should_use_gpu_inner_loop(*admission._values()))

    def should_run_outer_on_device(self, admission: OuterLoopAdmission) -> bool:
        """Whether an outer loop does: as the inner one, and at least two smoothing parameters."""
        return bool(self._handle.should_run_outer_on_device(*admission._values()))


_POLICY_FIELDS = tuple(f.name for f in dataclasses.fields(DispatchPolicy) if f.init)
_POLICY_SIZES = _POLICY_FIELDS[:5]


def _policy_from_dict(values: dict[str, Any]) -> DispatchPolicy:
    return DispatchPolicy(**values)


def _policy_values(text: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(text)
    return {name: int(values[name]) if name in _POLICY_SIZES else values[name] for name in _POLICY_FIELDS}


def current_policy() -> DispatchPolicy:
    """Return the record in force: the default, or that of the calibration record.

    Returns
    -------
    DispatchPolicy
    """
    return DispatchPolicy(**_policy_values(_core.DispatchPolicy.in_force()))


class Measurement(NamedTuple):
    """One operation timed on both sides: `operation`, its sizes, `cpu_seconds` and `gpu_seconds`."""

    operation: str
    sizes: tuple[int, ...]
    cpu_seconds: float
    gpu_seconds: float


def crossover(points: Sequence[tuple[int, float, float]], default: int) -> int:
    """Return the size from which on a device wins.

    Parameters
    ----------
    points : sequence of (size, cpu_seconds, gpu_seconds)
        Ascending sizes. The device wins a size when it takes at most 0.95 of the CPU's time.
    default : int

    Returns
    -------
    int
        The first size from which it wins every one; `max(default, 2 * largest)` when it loses the largest.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.policy.crossover([(64, 1.0, 0.5), (128, 1.0, 2.0), (256, 4.0, 1.0)], 512)
    256
    """
    checked = [(_size("points", size), float(cpu), float(gpu)) for size, cpu, gpu in points]
    return int(_core.policy_crossover(checked, _size("default", default)))


# ---- counts and gates -----------------------------------------------------------------------------------------------
_OPERATIONS: dict[str, int] = _core.policy_operations()


def _sizes(operation: Any, sizes: tuple[Any, ...]) -> list[int]:
    if operation not in _OPERATIONS:
        raise _complain("operation", operation, "one of " + ", ".join(map(repr, _OPERATIONS)))
    if len(sizes) != _OPERATIONS[operation]:
        raise _complain("sizes", sizes, f"{_OPERATIONS[operation]} sizes for {operation}")
    return [_size("sizes", size) for size in sizes]


def flops(operation: str, *sizes: int) -> int:
    """Return the flop estimate of an operation, saturating at 2^128 - 1; names and sizes as in `DispatchPolicy.admits`.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.policy.flops("gemm", 64, 64, 64)
    524288
    """
    return int(_core.policy_flops(operation, _sizes(operation, sizes)))


def admissible_under_any_policy(operation: str, *sizes: int) -> bool:
    """Return False when no policy that a calibration can reach admits the operation.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.policy.admissible_under_any_policy("potrf", 64, 1), asn.policy.admissible_under_any_policy("potrf", 63, 1)
    (True, False)
    """
    return bool(_core.policy_admissible_under_any_policy(operation, _sizes(operation, sizes)))


def admission_work_lower_bound(n: int, k: int, d: int) -> int:
    """Return `n (2 d k + d^2)`: a dispatch threshold that counts half of a product, never a measure of speed."""
    return int(_core.policy_admission_work_lower_bound(_size("n", n), _size("k", k), _size("d", d)))


def reduced_schur_apply_flops(n: int, k: int, d: int) -> int:
    """Return the flops of one product with the reduced border matrix, `n (4 d k + d^2)`."""
    return int(_core.policy_reduced_schur_apply_flops(_size("n", n), _size("k", k), _size("d", d)))


def reduced_schur_matvec_should_offload(n: int, k: int, d: int, cg_iters: int) -> bool:
    """Whether `cg_iters` products with the reduced border matrix are worth a device."""
    sizes = _size("n", n), _size("k", k), _size("d", d), _size("cg_iters", cg_iters)
    return bool(_core.policy_reduced_schur_matvec_should_offload(*sizes))


# ---- the published cost model ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class BorderSolvePlan:
    """Flop counts of the two published strategies. A diagnostic: the route of a solve is chosen by time (`plan`).

    Attributes
    ----------
    n, k, d, cg_iters : int
        As given; `cg_iters` at least 1.
    data_fit_rank : int
        `min(n d, k)`: the data can inform no more border directions.
    dense_border_rank_deficient : bool
        `n d < k`.
    assembly_flops, border_cholesky_flops, dense_direct_flops, reduced_iterative_flops : int
        Only their ratio means anything.
    recommended : str
        `'dense_direct'` or `'reduced_iterative'`.
    device_favorable : bool
    """

    n: int
    k: int
    d: int
    cg_iters: int
    data_fit_rank: int
    dense_border_rank_deficient: bool
    assembly_flops: int
    border_cholesky_flops: int
    dense_direct_flops: int
    reduced_iterative_flops: int
    recommended: str
    device_favorable: bool


def border_plan(*, n: int, k: int, d: int, cg_iters: int, policy: DispatchPolicy | None = None) -> BorderSolvePlan:
    """Compare the flops of a dense factor of the border with those of an iteration on it.

    Parameters
    ----------
    n, k, d : int
        Row blocks, border width, row size.
    cg_iters : int
        Iterations that a solve is expected or allowed to make.
    policy : DispatchPolicy, optional
        The default record when None.

    Returns
    -------
    BorderSolvePlan

    Raises
    ------
    InvalidArgument
        A size is no integer in [0, 2^63].

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> plan = asn.policy.border_plan(n=180, k=15_360, d=2, cg_iters=30)
    >>> plan.recommended, plan.data_fit_rank, plan.dense_border_rank_deficient
    ('reduced_iterative', 360, True)
    """
    return _policy_or_default(policy).border_plan(n=n, k=k, d=d, cg_iters=cg_iters)


def _policy_or_default(policy: Any) -> DispatchPolicy:
    if policy is None:
        return DispatchPolicy()
    if not isinstance(policy, DispatchPolicy):
        raise _complain("policy", policy, "a DispatchPolicy, or None")
    return policy


# ---- mixed precision ------------------------------------------------------------------------------------------------
class Refinement(NamedTuple):
    """What came of a low-precision factor: `x`, `accepted`, `steps`, relative `residual` and `tolerance`, `message`."""

    x: NDArray[np.float64]
    accepted: bool
    steps: int
    residual: float
    tolerance: float
    message: str


def refine(
    a: ArrayLike, b: ArrayLike, correct: Callable[[NDArray[np.float64]], ArrayLike], *, max_steps: int | None = None
) -> Refinement:
    """Decide whether a low-precision solve of `A x = b` is accepted.

    `x = correct(b)`, then at most `max_steps` corrections `x += correct(b - A x)`, with residuals in float64. Accepted
    when ``|r| <= max(1e-12 |b|, gamma (|A|_F |x| + |b|))``, the second being the rounding of the residual itself;
    refused when a correction does not reduce the residual, when a number is not finite, or when the steps are used up.

    Parameters
    ----------
    a : array_like, (p, p)
    b : array_like, (p,)
    correct : callable
        `e = correct(r)`, an approximate `A^-1 r`.
    max_steps : int, optional
        `REFINEMENT_MAX_STEPS` when None.

    Returns
    -------
    Refinement

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> a = np.diag([1.0, 2.0])
    >>> asn.policy.refine(a, np.ones(2), lambda r: r / np.diag(a) * (1 - 1e-7)).accepted
    True
    """
    matrix = np.ascontiguousarray(a, dtype=np.float64)
    right = np.ascontiguousarray(b, dtype=np.float64)
    if right.ndim != 1 or matrix.shape != (right.size, right.size):
        raise _complain("a", np.shape(a), f"a matrix of shape ({right.size}, {right.size})")
    if not callable(correct):
        raise _complain("correct", correct, "a function of a residual")
    steps = REFINEMENT_MAX_STEPS if max_steps is None else min(_size("max_steps", max_steps), 2**31 - 1)
    return Refinement(*_core.policy_refine(matrix, right, correct, steps))


def refinement_can_succeed(kappa: float, steps: int | None = None) -> bool:
    """Whether a fixed float32 factor can reach 1e-12 at this condition: `(kappa 2^-24)^(steps + 1) <= 1e-12`.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.policy.refinement_can_succeed(1.6e4), asn.policy.refinement_can_succeed(1e5)
    (True, False)
    """
    number = REFINEMENT_MAX_STEPS if steps is None else min(_size("steps", steps), 2**31 - 2)
    return bool(_core.policy_refinement_can_succeed(_number("kappa", kappa), number))


# ---- fitting loops --------------------------------------------------------------------------------------------------
_FAMILIES = (
    "bernoulli_logit",
    "bernoulli_probit",
    "bernoulli_cloglog",
    "poisson_log",
    "gaussian_identity",
    "gamma_log",
)


def _check_loop(family: Any, curvature: Any) -> None:
    if family is not None and family not in _FAMILIES:
        raise _complain("family", family, "None, or one of " + ", ".join(map(repr, _FAMILIES)))
    if curvature not in ("fisher", "observed"):
        raise _complain("curvature", curvature, "'fisher' or 'observed'")


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerLoopAdmission:
    """What is known of an inner fitting loop before anything is allocated.

    Parameters
    ----------
    n, p : int
        Rows and columns of the design.
    family : str or None
        `'bernoulli_logit'`, `'bernoulli_probit'`, `'bernoulli_cloglog'`, `'poisson_log'`, `'gaussian_identity'` or
        `'gamma_log'`; None for a family without a device kernel.
    curvature : {'fisher', 'observed'}, default 'fisher'
    gpu_available : bool, default False
    """

    n: int
    p: int
    family: str | None
    curvature: str = "fisher"
    gpu_available: bool = False

    def __post_init__(self) -> None:
        _size("n", self.n)
        _size("p", self.p)
        _check_loop(self.family, self.curvature)
        _flag("gpu_available", self.gpu_available)

    def _values(self) -> tuple[Any, ...]:
        return int(self.n), int(self.p), self.family, self.curvature, bool(self.gpu_available)


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterLoopAdmission:
    """What is known of an outer loop over smoothing parameters: as `InnerLoopAdmission`, and their number `num_rho`."""

    n: int
    p: int
    num_rho: int
    family: str | None
    curvature: str = "fisher"
    gpu_available: bool = False

    def __post_init__(self) -> None:
        _size("n", self.n)
        _size("p", self.p)
        _size("num_rho", self.num_rho)
        _check_loop(self.family, self.curvature)
        _flag("gpu_available", self.gpu_available)

    def _values(self) -> tuple[Any, ...]:
        return int(self.n), int(self.p), int(self.num_rho), self.family, self.curvature, bool(self.gpu_available)


# ---- throughput claims ----------------------------------------------------------------------------------------------
class _Sealed:
    """A value that only its class methods make. Compared, hashed and printed by what it was made from."""

    __slots__ = ("_made_from",)
    _made_from: tuple[str, tuple[Any, ...]]

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} has no constructor of its own: use its class methods")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: cannot set {name!r}")

    def __repr__(self) -> str:
        method, arguments = self._made_from
        return f"{type(self).__name__}.{method}({', '.join(map(repr, arguments))})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return repr(self) == repr(other)  # exact, and NaN is itself

    def __hash__(self) -> int:
        return hash(repr(self))

    def __reduce__(self) -> tuple[Any, ...]:
        method, arguments = self._made_from
        return getattr(type(self), method), arguments


def _sealed(cls: type, values: Mapping[str, Any]) -> Any:
    made: Any = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


class ThroughputVerdict(_Sealed):
    """Whether a rate meets a target; made by `from_measurement` only.

    Attributes
    ----------
    measured_rows_per_sec, target_rows_per_sec : float
    fraction_of_target : float
        0.0 for a rate that is not finite and positive.
    meets_target : bool

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.policy.ThroughputVerdict.from_measurement(50_000.0).fraction_of_target
    0.5
    """

    __slots__ = ("fraction_of_target", "measured_rows_per_sec", "meets_target", "target_rows_per_sec")
    measured_rows_per_sec: float
    target_rows_per_sec: float
    fraction_of_target: float
    meets_target: bool

    @classmethod
    def from_measurement(cls, rate: float, target: float = THROUGHPUT_TARGET_ROWS_PER_SEC) -> ThroughputVerdict:
        """Judge a measured rate (rows per second).

        Raises
        ------
        InvalidArgument
            The target is not finite and positive.
        """
        measured, wanted = _number("rate", rate), _positive("target", target)
        fraction, meets = _core.policy_verdict(measured, wanted)
        verdict: ThroughputVerdict = _sealed(
            cls,
            {
                "measured_rows_per_sec": measured,
                "target_rows_per_sec": wanted,
                "fraction_of_target": fraction,
                "meets_target": meets,
                "_made_from": ("from_measurement", (measured, wanted)),
            },
        )
        return verdict


class EncodeDeploymentDecision(_Sealed):
    """Whether a device encode is fast enough to do without a surrogate. No constructor takes a CPU rate.

    Attributes
    ----------
    state : str
        `'met'`, `'unmet'` or `'undetermined'`.
    measured_rows_per_sec, target_rows_per_sec : float or None
        Of `met` and `unmet`.
    reason : str or None
        Of `undetermined`: `'no_device'`, `'no_device_encode_kernel'`, `'device_not_engaged'`.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> decision = asn.policy.EncodeDeploymentDecision.blocked("no_device")
    >>> decision.is_undetermined(), decision.surrogate_unneeded(), decision.surrogate_justified()
    (True, False, False)
    """

    __slots__ = ("measured_rows_per_sec", "reason", "state", "target_rows_per_sec")
    state: str
    measured_rows_per_sec: float | None
    target_rows_per_sec: float | None
    reason: str | None

    @classmethod
    def _make(cls, values: tuple[Any, ...], method: str, arguments: tuple[Any, ...]) -> EncodeDeploymentDecision:
        names = ("state", "measured_rows_per_sec", "target_rows_per_sec", "reason")
        made: EncodeDeploymentDecision = _sealed(
            cls, {**dict(zip(names, values, strict=True)), "_made_from": (method, arguments)}
        )
        return made

    @classmethod
    def from_device_measurement(
        cls, engaged: bool, rate: float, target: float = THROUGHPUT_TARGET_ROWS_PER_SEC
    ) -> EncodeDeploymentDecision:
        """Decide by a full encode on a device; not engaged, or an unusable rate, decides nothing."""
        arguments = _flag("engaged", engaged), _number("rate", rate), _positive("target", target)
        values = _core.policy_decision_from_device_measurement(*arguments)
        if values[3] is not None:  # undetermined
            return cls.blocked(values[3])
        return cls._make(values, "from_device_measurement", arguments)

    @classmethod
    def blocked(cls, reason: str) -> EncodeDeploymentDecision:
        """Return the undetermined decision for a reason."""
        return cls._make(_core.policy_decision_blocked(str(reason)), "blocked", (str(reason),))

    def surrogate_unneeded(self) -> bool:
        """Return True for `met` only."""
        return self.state == "met"

    def surrogate_justified(self) -> bool:
        """Return True for `unmet` only."""
        return self.state == "unmet"

    def is_undetermined(self) -> bool:
        """Return True for `undetermined` only."""
        return self.state == "undetermined"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeQuality:
    """How good an encode was; a rate without it means nothing.

    Attributes
    ----------
    certified : int
        Rows with a certificate.
    fallback_rate, flag_agreement : float
        Share of rows without one; share of rows whose flag is that of the reference.
    coordinate_error, reconstruction_error : float
        Largest differences from the reference.
    explained_variance : float
        Columns centred by their own means.
    """

    certified: int
    fallback_rate: float
    flag_agreement: float
    coordinate_error: float
    reconstruction_error: float
    explained_variance: float


def encode_quality(
    certified: ArrayLike,
    reference_certified: ArrayLike,
    coordinates: ArrayLike,
    reference_coordinates: ArrayLike,
    reconstruction: ArrayLike,
    reference_reconstruction: ArrayLike,
) -> EncodeQuality:
    """Compare an encode with its per-row reference.

    Parameters
    ----------
    certified, reference_certified : array_like of bool, (n,)
    coordinates, reference_coordinates : array_like, (n, c)
    reconstruction, reference_reconstruction : array_like, (n, m)

    Returns
    -------
    EncodeQuality
    """
    flags = [np.ascontiguousarray(x, dtype=np.bool_).ravel() for x in (certified, reference_certified)]
    matrices = []
    pairs = {
        "coordinates": (coordinates, reference_coordinates),
        "reconstruction": (reconstruction, reference_reconstruction),
    }
    if flags[0].shape != flags[1].shape:
        raise _complain("reference_certified", flags[1].shape, f"the shape of certified, {flags[0].shape}")
    for name, (given, reference) in pairs.items():
        ours = np.ascontiguousarray(given, dtype=np.float64)
        theirs = np.ascontiguousarray(reference, dtype=np.float64)
        if ours.shape[:1] != flags[0].shape:
            raise _complain(name, ours.shape, f"{flags[0].size} rows")
        if ours.shape != theirs.shape:
            raise _complain(f"reference_{name}", theirs.shape, f"the shape of {name}, {ours.shape}")
        matrices += [ours, theirs]
    return EncodeQuality(**_core.policy_encode_quality(*flags, *matrices))


@dataclass(frozen=True, slots=True, kw_only=True)
class FullEncodeThroughput:
    """Rate of a whole encode, together with its quality.

    Parameters
    ----------
    n_rows : int
    seconds : float
    device_engaged : bool
    quality : EncodeQuality or None

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.policy.FullEncodeThroughput(n_rows=8000, seconds=0.1, device_engaged=True).rows_per_sec
    80000.0
    """

    n_rows: int
    seconds: float
    device_engaged: bool
    quality: EncodeQuality | None = None

    def __post_init__(self) -> None:
        _size("n_rows", self.n_rows)
        _number("seconds", self.seconds)
        _flag("device_engaged", self.device_engaged)
        if self.quality is not None and not isinstance(self.quality, EncodeQuality):
            raise _complain("quality", self.quality, "an EncodeQuality, or None")

    @property
    def rows_per_sec(self) -> float:
        """Rows per second; 0.0 for a time that is not positive."""
        rate = _core.policy_full_encode_rate(int(self.n_rows), float(self.seconds), bool(self.device_engaged))
        return float(rate)


# ---- modes and decisions --------------------------------------------------------------------------------------------
_ELIGIBILITIES = ("backend_not_compiled", "capability_missing", "below_threshold", "measured_slower", "eligible")


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Whether a kernel could take a call.

    Parameters
    ----------
    kind : {'backend_not_compiled', 'capability_missing', 'below_threshold', 'measured_slower', 'eligible'}
    what : str, optional
        What is missing.
    """

    kind: str
    what: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _ELIGIBILITIES:
            raise _complain("kind", self.kind, "one of " + ", ".join(map(repr, _ELIGIBILITIES)))
        if not isinstance(self.what, str):
            raise _complain("what", self.what, "a string")


class Decision(NamedTuple):
    """Whether the device is used, and the reason code."""

    use_device: bool
    reason: str


def decide(
    mode: str, eligibility: str | Eligibility, runtime_available: bool | str | Callable[[], bool | str]
) -> Decision:
    """Decide where a call runs.

    Parameters
    ----------
    mode : {'auto', 'off', 'required'}
    eligibility : Eligibility or str
        A kind of `Eligibility`.
    runtime_available : bool, str or callable
        True: there is a device. False, or a string with the reason: there is none. A callable is asked at most once,
        and only when everything before it admits the device; what it raises (a fault) passes through.

    Returns
    -------
    Decision

    Raises
    ------
    DeviceUnavailableError
        The device is required and cannot be used; the error carries the reason code.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.policy.decide("auto", "eligible", False)
    Decision(use_device=False, reason='runtime_unavailable')
    """
    if isinstance(eligibility, str):
        eligibility = Eligibility(eligibility)
    elif not isinstance(eligibility, Eligibility):
        raise _complain("eligibility", eligibility, "an Eligibility, or the name of one")
    return Decision(*_core.policy_decide(mode, eligibility.kind, eligibility.what, runtime_available))


def device_mode(mode: str = "auto") -> str:
    """Return the mode of a call: its own, or for 'auto' that of `ARROWSCHUR_DEVICE`, which is read once.

    Parameters
    ----------
    mode : {'auto', 'off', 'required'}, default 'auto'
        Case and surrounding blanks do not matter.

    Returns
    -------
    str

    Raises
    ------
    InvalidArgument
        The mode, or the variable, is none of the three.
    """
    return str(_core.policy_device_mode(mode))


def should_probe(call_ns: int, process_ns: int) -> bool:
    """Whether 'auto' asks for a device: the call is predicted over 20 ms on the CPU, or the process over 1 s.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.policy.should_probe(20_000_000, 0), asn.policy.should_probe(20_000_001, 0)
    (False, True)
    """
    return bool(_core.policy_should_probe(_size("call_ns", call_ns), _size("process_ns", process_ns)))


class ProbeCounters(NamedTuple):
    """How often this process asked for a device, and the predicted CPU nanoseconds of its plans so far."""

    availability_requests: int
    process_ns: int


def probe_counters() -> ProbeCounters:
    """Return the counters of this process.

    Returns
    -------
    ProbeCounters
    """
    return ProbeCounters(*_core.policy_probe_counters())


# ---- machine profiles and route times -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class MachineProfile:
    """The machine as the time model sees it. Rates are those of float64.

    Parameters
    ----------
    name : str
        Shown by `plan` and `diagnostics.plan`.
    mem_bw : float
        Memory bandwidth, bytes per second.
    rate_vec, rate_mat : float
        Flops per second of row-wise work, and of matrix products of large size.
    half_reduce, half_factor : float
        Width at which a symmetric update, and a Cholesky factor, reach half of `rate_mat`.
    link_bw : float, default inf
        Bytes per second to the device; a CPU has no such link.
    t_launch, t_sync : float, default 0.0
        Seconds.
    panel, t_panel : float, default 256.0, 0.0
        Columns per panel of a factor, and seconds for each.

    Raises
    ------
    InvalidArgument
        A constant is not positive; the message names it.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> profile = asn.policy.MachineProfile.reference()
    >>> profile.mem_bw
    4800000000000.0
    >>> asn.policy.MachineProfile.from_dict(profile.to_dict()) == profile
    True
    """

    name: str
    mem_bw: float
    rate_vec: float
    rate_mat: float
    half_reduce: float
    half_factor: float
    link_bw: float = math.inf
    t_launch: float = 0.0
    t_sync: float = 0.0
    panel: float = 256.0
    t_panel: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise _complain("name", self.name, "a string")
        for name in _PROFILE_FIELDS[1:]:
            number = _number(name, getattr(self, name))
            if math.isnan(number):
                raise _complain(name, number, "a number > 0")
            object.__setattr__(self, name, number)
        _core.policy_check_profile(self._text())

    def _text(self) -> str:
        return _json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return {name: getattr(self, name) for name in _PROFILE_FIELDS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MachineProfile:
        """Return the profile of a dictionary that `to_dict` made; every field is required."""
        return cls(**_mapping("profile", values, _PROFILE_FIELDS))

    @classmethod
    def reference(cls) -> MachineProfile:
        """Return the profile `'reference'`: a device without a record, and tests."""
        return _profile(_core.policy_profile("reference"))

    @classmethod
    def built_in(cls) -> MachineProfile:
        """Return the CPU profile that is used without a record."""
        return _profile(_core.policy_profile("built-in"))

    def replace(self, **changes: Any) -> MachineProfile:
        """Return a copy with the given fields changed."""
        return dataclasses.replace(self, **changes)


_PROFILE_FIELDS = tuple(f.name for f in dataclasses.fields(MachineProfile))


def _profile(text: str) -> MachineProfile:
    return MachineProfile(**json.loads(text))


def current_profile() -> MachineProfile:
    """Return the profile in force; the first call fixes it, as the first plan does.

    Returns
    -------
    MachineProfile
    """
    return _profile(_core.policy_profile("in_force"))


def set_profile(profile: MachineProfile) -> None:
    """Put a profile in force for this process; nothing is stored.

    Parameters
    ----------
    profile : MachineProfile
    """
    if not isinstance(profile, MachineProfile):
        raise _complain("profile", profile, "a MachineProfile")
    _core.policy_set_profile(profile._text())


def calibrate() -> MachineProfile:
    """Measure this machine, store the record in the user's cache, and put it in force.

    Returns
    -------
    MachineProfile

    Notes
    -----
    Takes a fraction of a second. The record lies below `$XDG_CACHE_HOME` (or `~/.cache`) in
    `arrowschur_native/policy`, in a file that belongs to this CPU, thread count, BLAS and library version; a cache that
    cannot be written is no error. Later processes read it unless `SolveOptions.calibrate` is `'off'`.

    This call looks for a device. Where there is one, the thresholds of the policy are measured on both machines
    (transfers included) and kept in a record of its own, which belongs to the device and its driver too; where it
    fails, the defaults stand and the reason is logged once.
    """
    return _profile(_core.policy_calibrate())


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteCost:
    """Predicted seconds of one route.

    Attributes
    ----------
    route : str
    up_seconds, build_seconds, solve_seconds : float
        Upload, build, and one solve.
    seconds : float
        Their sum, for all solves.
    flops : float
        Of the build.
    feasible : bool
    why_not : str
        Empty when feasible.
    """

    route: str
    up_seconds: float
    build_seconds: float
    solve_seconds: float
    seconds: float
    flops: float
    feasible: bool
    why_not: str


@dataclass(frozen=True, slots=True)
class RouteTable:
    """The candidates for a shape, in the order of preference; prints as a table.

    Attributes
    ----------
    candidates : tuple of RouteCost
    chosen : str
        The least predicted time; within 10 % the first.
    profile : str
        Name of the machine profile.
    """

    candidates: tuple[RouteCost, ...]
    chosen: str
    profile: str

    def __iter__(self) -> Iterator[RouteCost]:
        return iter(self.candidates)

    def __getitem__(self, route: str) -> RouteCost:
        for candidate in self.candidates:
            if candidate.route == route:
                return candidate
        raise KeyError(route)

    def __str__(self) -> str:
        lines = [f"{'route':<12} {'up':>9} {'build':>9} {'solve':>9} {'total':>9}   profile {self.profile}, in ms"]
        for c in self.candidates:
            times = " ".join(f"{1e3 * x:9.4g}" for x in (c.up_seconds, c.build_seconds, c.solve_seconds, c.seconds))
            note = "   chosen" if c.route == self.chosen else f"   not: {c.why_not}" if c.why_not else ""
            lines.append(f"{c.route:<12} {times}{note}")
        return "\n".join(lines)


def route_table(
    *,
    n: int,
    d: int,
    k: int,
    border: str = "dense",
    solves: int = 1,
    cg_iters: int = 8,
    profile: MachineProfile | str | None = None,
) -> RouteTable:
    """Predict the time of each route for a dense cross block.

    Parameters
    ----------
    n, d, k : int
    border : {'dense', 'diagonal', 'tridiagonal'}, default 'dense'
        How the border is stored.
    solves : int, default 1
        Solves per factor.
    cg_iters : int, default 8
        Iterations per solve of `inexact_pcg`.
    profile : MachineProfile, 'reference' or 'built-in', optional
        The profile in force when None.

    Returns
    -------
    RouteTable

    Raises
    ------
    InvalidArgument
        A size is no integer in [0, 2^63], or a name is unknown.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> table = asn.policy.route_table(n=180, d=2, k=5120, border="tridiagonal", solves=24, cg_iters=30,
    ...                                profile="reference")
    >>> table.chosen
    'low_rank'
    >>> print(table)                                                            # doctest: +ELLIPSIS
    route               up     build     solve     total   profile reference, in ms
    direct ...
    """
    if border not in ("dense", "diagonal", "tridiagonal"):
        raise _complain("border", border, "one of 'dense', 'diagonal', 'tridiagonal'")
    if profile is None:
        used = current_profile()
    elif isinstance(profile, MachineProfile):
        used = profile
    elif isinstance(profile, str):
        used = _profile(_core.policy_profile(profile))
    else:
        raise _complain("profile", profile, "a MachineProfile, 'reference', 'built-in', or None")
    arguments = (
        _size("n", n),
        _size("d", d),
        _size("k", k),
        border,
        float(_size("solves", solves)),
        float(_size("cg_iters", cg_iters)),
        used._text(),
    )
    names = [f.name for f in dataclasses.fields(RouteCost)]
    candidates = tuple(RouteCost(**{name: row[name] for name in names}) for row in _core.policy_route_table(*arguments))
    return RouteTable(candidates, candidates[_core.policy_choose(*arguments)].route, used.name)
