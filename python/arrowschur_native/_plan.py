"""Plans: shape in, route out."""

from __future__ import annotations

from typing import Any

from . import _core
from ._errors import InvalidArgument
from ._options import SolveOptions, solve_options
from ._results import SolvePlan, plan_from_fields
from ._system import ArrowSystem

__all__ = ["plan"]


def plan(system_or_shape: Any, *, options: SolveOptions | None = None) -> SolvePlan:
    """Say which route a solve would take, why, and what it would cost.

    Parameters
    ----------
    system_or_shape : ArrowSystem or tuple of int
        A system, or its shape `(n, d, k)`.
    options : SolveOptions, optional

    Returns
    -------
    SolvePlan

    Raises
    ------
    InvalidArgument
        The shape is not three non-negative integers.
    UnsupportedConfiguration
        No route carries what the options ask for; the message says why.
    DeviceUnavailableError
        A device is required, and there is none.
    MemoryBudgetExceeded
        No route fits `options.memory_limit`; the error has the bytes of the cheapest.

    Notes
    -----
    A function of the structure, the options and the machine profile in force (`policy.current_profile`); nothing of the
    solve is computed or allocated. A shape stands for dense parts. The route is the one of the least predicted time for
    `options.expected_solves` solves per factor; within 10 % the exact routes come first.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.plan((2000, 2, 2048)).route
    'direct'
    """
    core_options = solve_options(options)
    if isinstance(system_or_shape, ArrowSystem):
        return plan_from_fields(_core.plan(system_or_shape._handle, 0, 0, 0, 0, core_options))
    n, d, k = _shape(system_or_shape)
    return plan_from_fields(_core.plan(None, n, k, n * d, d if n else 0, core_options))


def _shape(value: Any) -> tuple[int, int, int]:
    try:
        n, d, k = (int(size.__index__()) for size in value)
    except (AttributeError, TypeError, ValueError):
        n = d = k = -1
    if min(n, d, k) < 0 or max(n * d, n * d * k, n * d * d, k * k) >= 2**60:
        raise InvalidArgument(
            argument="system_or_shape",
            got=f"{value!r:.80}",
            expected="an ArrowSystem, or a shape (n, d, k) of integers >= 0 with fewer than 2^60 entries",
        )
    return n, d, k
