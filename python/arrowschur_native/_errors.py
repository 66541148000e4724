"""The exception hierarchy: one class per cause, each with its facts as attributes."""

# The names are those of the C++ classes.
# ruff: noqa: N818

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

__all__ = [
    "ArrowError",
    "CertificateError",
    "CorrectionError",
    "DeviceError",
    "DeviceUnavailableError",
    "InnerLoopError",
    "InvalidArgument",
    "MemoryBudgetExceeded",
    "NegativeCurvature",
    "PcgError",
    "RowFactorError",
    "RowIllConditioned",
    "SchurFactorError",
    "UnsupportedConfiguration",
]


class ArrowError(Exception):
    """Base of every error that this library raises on purpose.

    Parameters
    ----------
    message : str, optional
        The sentence to show. Composed from the facts when absent.
    **facts
        The attributes of the class (listed with each subclass). A missing fact is None.

    Attributes
    ----------
    cured_by_ridge : bool
        True when a larger ridge can cure the failure; `newton_step_escalated` retries exactly then.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> try:
    ...     asn.SolveOptions(mode="fast")
    ... except asn.ArrowError as error:
    ...     error.argument, error.cured_by_ridge
    ('mode', False)
    """

    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str | None = None, **facts: Any) -> None:
        unknown = sorted(set(facts) - set(self.fields))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(map(repr, unknown))}")
        for name in self.fields:
            setattr(self, name, facts.get(name))
        super().__init__(self._compose() if message is None else message)

    def _compose(self) -> str:
        facts = ", ".join(f"{name} = {getattr(self, name)!r}" for name in self.fields)
        return f"{type(self).__name__}: {facts}" if facts else type(self).__name__

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of this error as a dictionary."""
        return {name: getattr(self, name) for name in self.fields}

    @property
    def cured_by_ridge(self) -> bool:
        """Whether a larger ridge can cure the failure."""
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.facts)


def _rebuild(cls: type[ArrowError], message: str, facts: Mapping[str, Any]) -> ArrowError:
    return cls(message, **facts)


class InvalidArgument(ArrowError, ValueError):
    """An argument is not what it must be.

    Attributes
    ----------
    argument : str
        Name of the argument or option.
    got, expected : str
        What it was, and what it must be.
    """

    fields = ("argument", "got", "expected")
    argument: str
    got: str
    expected: str

    def _compose(self) -> str:
        return f"{self.argument} is {self.got}, but must be {self.expected}"


class UnsupportedConfiguration(ArrowError, ValueError):
    """A legal request that this route or build cannot carry out. Never retried with a larger ridge.

    Attributes
    ----------
    feature, route, hint : str
        What was asked for, which route refused it, and what to do instead.
    """

    fields = ("feature", "route", "hint")
    feature: str
    route: str
    hint: str

    def _compose(self) -> str:
        return f"{self.feature} is not supported by {self.route}: {self.hint}"


class MemoryBudgetExceeded(ArrowError, MemoryError):
    """The work needs more memory than it may use; raised before anything is allocated.

    Attributes
    ----------
    bytes_needed, budget : int
        Bytes.
    what : str
        What the bytes are for.
    """

    fields = ("bytes_needed", "budget", "what")
    bytes_needed: int
    budget: int
    what: str

    def _compose(self) -> str:
        return f"{self.what} needs {self.bytes_needed} bytes, but only {self.budget} are allowed"


class RowFactorError(ArrowError, np.linalg.LinAlgError):
    """A row block `A_i = H_tt[i] + ridge_t I` is not positive definite and could not be lifted.

    Attributes
    ----------
    row : int
        The lowest failing row.
    pivot_index : int
        Position of the pivot inside the row block.
    pivot : float
        The pivot that was not positive.
    base_ridge, last_ridge : float
        The `ridge_t` that was asked for, and the last row ridge that was tried.
    suggested_ridge : float
        Advice for the next `ridge_t`; it counts the coupling of the row to the border.
    """

    fields: ClassVar[tuple[str, ...]] = (
        "row",
        "pivot_index",
        "pivot",
        "base_ridge",
        "last_ridge",
        "suggested_ridge",
    )
    row: int
    pivot_index: int
    pivot: float
    base_ridge: float
    last_ridge: float
    suggested_ridge: float

    @property
    def cured_by_ridge(self) -> bool:
        """True: a larger `ridge_t` makes every row positive definite."""
        return True


class RowIllConditioned(RowFactorError):
    """The row block has a factor, but its condition estimate misses the guard.

    Attributes
    ----------
    kappa_estimate : float
        The estimate that missed the guard.
    min_pivot : float
        Smallest squared diagonal of the factor.
    """

    fields = (*RowFactorError.fields, "kappa_estimate", "min_pivot")
    kappa_estimate: float
    min_pivot: float


class SchurFactorError(ArrowError, np.linalg.LinAlgError):
    """The Schur complement `S = M - sum_i B_i' A_i^-1 B_i` has no trustworthy factor.

    Attributes
    ----------
    kind : {'non_pd', 'ill_conditioned', 'non_finite', 'capacitance'}
        What went wrong.
    pivot_index : int
        Border column of the failing pivot, or -1.
    kappa_estimate : float
        Condition estimate of `S`, or NaN.
    suggested_ridge : float
        Advice for the next `ridge_beta`.
    """

    fields = ("kind", "pivot_index", "kappa_estimate", "suggested_ridge")
    kind: str
    pivot_index: int
    kappa_estimate: float
    suggested_ridge: float

    @property
    def cured_by_ridge(self) -> bool:
        """True, except for a singular capacitance matrix."""
        return self.kind != "capacitance"


class PcgError(ArrowError, np.linalg.LinAlgError):
    """The conjugate gradient iteration on the border gave no usable step.

    Attributes
    ----------
    kind : {'jacobi_diagonal', 'stagnation', 'budget', 'not_pd'}
        What went wrong.
    diagnostics : dict
        `iterations`, `relative_residual` and `preconditioner` of the last attempt; `index` and `value` of the diagonal
        entry that was not positive (kind `jacobi_diagonal`, else -1 and 0); `suggested_ridge`, advice for the next
        `ridge_beta`, NaN where there is none.
    """

    fields: ClassVar[tuple[str, ...]] = ("kind", "diagnostics")
    kind: str
    diagnostics: Any

    @property
    def cured_by_ridge(self) -> bool:
        """True: a larger `ridge_beta` improves the condition of `S`."""
        return True


class NegativeCurvature(PcgError):
    """The iteration met a direction `p` with `p' S p <= 0`.

    Attributes
    ----------
    curvature, direction_norm_sq : float
        `p' S p` and `p' p`.
    direction : ndarray or None
        `p`, where it was kept.
    """

    fields = (*PcgError.fields, "curvature", "direction_norm_sq", "direction")
    curvature: float
    direction_norm_sq: float
    direction: Any


class CertificateError(ArrowError, np.linalg.LinAlgError):
    """The step would miss `certificate_tolerance`, after refinement too.

    Attributes
    ----------
    backward_error, tolerance : float
        What was reached, and what was asked for.
    """

    fields = ("backward_error", "tolerance")
    backward_error: float
    tolerance: float

    @property
    def cured_by_ridge(self) -> bool:
        """True: a better conditioned operator has a smaller backward error."""
        return True


class CorrectionError(ArrowError, RuntimeError):
    """The proximal correction found no acceptable step.

    Attributes
    ----------
    attempts : int
        Attempts made.
    last_reason : str
        Why the last one was rejected.
    """

    fields = ("attempts", "last_reason")
    attempts: int
    last_reason: str


class InnerLoopError(ArrowError, RuntimeError):
    """An inner loop ended without an accepted step, and without having converged.

    Attributes
    ----------
    status : {'max_iterations', 'ridge_exhausted', 'no_progress'}
        How it ended.
    iterations : int
        Attempts made.
    rho : float
        Gain ratio of the last attempt; NaN when no step was computed.
    ridges_t, ridges_beta : tuple of float
        The schedule, `iterations + 1` entries: the ridges of the first attempt, and what they became after each.
    last_failure : str
        Text of the last numerical failure; empty when steps were computed and rejected.
    """

    fields = ("status", "iterations", "rho", "ridges_t", "ridges_beta", "last_failure")
    status: str
    iterations: int
    rho: float
    ridges_t: tuple[float, ...]
    ridges_beta: tuple[float, ...]
    last_failure: str


class DeviceError(ArrowError, RuntimeError):
    """A device call failed.

    Attributes
    ----------
    stage, code : str
        The stage that failed, and the error code of the driver or library.
    """

    fields: ClassVar[tuple[str, ...]] = ("stage", "code")
    stage: str
    code: str


class DeviceUnavailableError(DeviceError):
    """`device='required'`, but there is no device that this build can use.

    Attributes
    ----------
    reason : str
        Why not.
    """

    fields = (*DeviceError.fields, "reason")
    reason: str

    def _compose(self) -> str:
        return f"no device: {self.reason}"
