"""One step, its escalation, and model reductions."""

from __future__ import annotations

import logging
from typing import Any

from numpy.typing import ArrayLike

from . import _core
from ._arrays import Array, describe, float64_array
from ._errors import InvalidArgument
from ._options import EscalationOptions, SolveOptions, escalation_options, solve_options
from ._results import NewtonStep, step_from_core
from ._shapes import border_vector, dampings, row_vector
from ._system import ArrowSystem, system_handle

__all__ = ["model_reduction", "newton_step", "newton_step_escalated", "solve_reduced"]

logger = logging.getLogger("arrowschur_native")
logger.addHandler(logging.NullHandler())


def warn_of_lifts(account: _core.SolveDiagnostics) -> None:
    """Log that rows were solved with ridges of their own: the step does not solve the requested system."""
    logger.warning(
        "%d row(s) were not positive definite and were solved with ridges of their own, up to %.6g; "
        "backward_error speaks of the requested system, backward_error_effective of the one solved",
        account.rows_lifted,
        account.row_ridge_max,
    )


def newton_step(
    system: ArrowSystem,
    *,
    ridge_t: float = 0.0,
    ridge_beta: float = 0.0,
    damping_t: ArrayLike | None = None,
    damping_beta: ArrayLike | None = None,
    options: SolveOptions | None = None,
) -> NewtonStep:
    r"""Solve `(H + ridges) [delta_t; delta_beta] = -[g_t; g_beta]`.

    With `A_i = L_i L_i'`, `W_i = L_i^-1 B_i`, `u_i = L_i^-1 g_i`:

    .. code-block:: text

        S = M - sum_i W_i' W_i        r = -g_beta + sum_i W_i' u_i
        S delta_beta = r              delta_t_i = -L_i^-T (u_i + W_i delta_beta)

    Parameters
    ----------
    system : ArrowSystem
    ridge_t, ridge_beta : float, default 0
        Added to the diagonals of the rows and of the border. Finite, >= 0.
    damping_t : (n, d) or (T,) array_like, optional
    damping_beta : (k,) array_like, optional
        Diagonals, >= 0, added beside the ridges (Marquardt scaling).
    options : SolveOptions, optional

    Returns
    -------
    NewtonStep
        `delta_t` in the shape of `g_t`, `delta_beta` (k,), both float64, with their certificate.

    Raises
    ------
    InvalidArgument
        A ridge is negative or not finite, or a damping has the wrong shape.
    RowFactorError
        A row is not positive definite and may not be, or could not be, lifted.
    SchurFactorError
        `S` is not positive definite, or not to be trusted.
    PcgError, NegativeCurvature
        Conjugate gradients on the border gave no step.
    CertificateError
        The step misses `options.certificate_tolerance`.
    UnsupportedConfiguration, DeviceUnavailableError, MemoryBudgetExceeded
        The options cannot be honoured.

    See Also
    --------
    newton_step_escalated : raises the ridges until the solve succeeds.
    factorize : factor once, solve many.

    Notes
    -----
    The route is the cheapest for the shape and the structure (`plan`), or the one of `options.mode`: `direct` takes
    `sum d_i^3/3 + T k^2 + k^3/3` flops for dense cross blocks and less where rows touch few columns; `low_rank`
    `T^2 k + T^3/3` and `T` solves with the border; `inexact_pcg` a few passes over the whitened cross block per
    iteration. Releases the GIL, uses `options.num_threads` threads; the result does not depend on their number. Ctrl-C
    ends a long call with KeyboardInterrupt and leaves every object valid.

    A row that is not positive definite is solved with a ridge of its own (`options.row_lift`); the step is then a
    descent direction, but not the solution of the requested system: `diagnostics.backward_error` says so, and a warning
    is logged under `arrowschur_native`.

    References
    ----------
    .. [1] D. C. Brown, "A solution to the general problem of multiple station analytical stereotriangulation",
       RCA-MTP Data Reduction Technical Report 43, 1958.
    .. [2] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., SIAM, 2002, sections 7.1 and 10.1.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> system = asn.fixtures.coupled_fixture(8, 2, 4, seed=1, coupling=0.5).system()
    >>> step = asn.newton_step(system, ridge_t=0.1)
    >>> H, g = system.to_dense()
    >>> H[range(16), range(16)] += 0.1
    >>> np.allclose(H @ np.r_[step.delta_t.ravel(), step.delta_beta], -g)
    True
    """
    handle = system_handle(system)
    if damping_t is not None or damping_beta is not None:
        damping_t, damping_beta = dampings(system, damping_t, damping_beta)
    result = _core.newton_step(handle, ridge_t, ridge_beta, damping_t, damping_beta, solve_options(options))
    if result[2].rows_lifted:
        warn_of_lifts(result[2])
    return step_from_core(result, system.copies, system.single)


def newton_step_escalated(
    system: ArrowSystem,
    *,
    ridge_t: float = 0.0,
    ridge_beta: float = 0.0,
    damping_t: ArrayLike | None = None,
    damping_beta: ArrayLike | None = None,
    options: SolveOptions | None = None,
    escalation: EscalationOptions | None = None,
) -> NewtonStep:
    """Solve as `newton_step`, raising the ridges as long as the failure is one that a ridge can cure.

    Parameters
    ----------
    system : ArrowSystem
    ridge_t, ridge_beta : float, default 0
        Where to start.
    damping_t, damping_beta : array_like, optional
        As in `newton_step`; they are not raised.
    options : SolveOptions, optional
    escalation : EscalationOptions, optional

    Returns
    -------
    NewtonStep
        Its diagnostics carry the final ridges and `ridge_escalations`.

    Raises
    ------
    RowFactorError, SchurFactorError, CertificateError
        The last error, when the attempts are used up.
    InvalidArgument, UnsupportedConfiguration, MemoryBudgetExceeded
        At once: no ridge cures them.

    Notes
    -----
    Rows and border are raised separately, each only after a failure of its own. Row factors and `S` are kept between
    attempts, so that a border failure costs one more border factorization.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> h_tt, h_tb = np.full((2, 1, 1), 0.01), np.eye(2)[:, None, :]
    >>> system = asn.ArrowSystem(h_tt, h_tb, np.eye(2), [0.25, -0.125], [0.5, -0.25])      # S = -99 I
    >>> step = asn.newton_step_escalated(system)
    >>> step.diagnostics.ridge_escalations > 0
    True
    >>> bool(system.gradient_dot(step.delta_t, step.delta_beta) < 0)
    True
    """
    handle = system_handle(system)
    if damping_t is not None or damping_beta is not None:
        damping_t, damping_beta = dampings(system, damping_t, damping_beta)
    result = _core.newton_step_escalated(
        handle, ridge_t, ridge_beta, damping_t, damping_beta, solve_options(options), escalation_options(escalation)
    )
    if result[2].rows_lifted:
        warn_of_lifts(result[2])
    return step_from_core(result, system.copies, system.single)


def model_reduction(
    system: ArrowSystem,
    delta_t: ArrayLike,
    delta_beta: ArrayLike,
    *,
    ridge_t: float = 0.0,
    ridge_beta: float = 0.0,
    damping_t: ArrayLike | None = None,
    damping_beta: ArrayLike | None = None,
    damped: bool = False,
) -> float:
    """Return the reduction of `m(x) = g'x + x'Hx/2` that a step predicts (positive is good).

    .. code-block:: text

        damped:  -(g'x + x'(H + ridges)x / 2)
        bare:    damped + (ridge_t |delta_t|^2 + ridge_beta |delta_beta|^2 + damping terms) / 2

    Parameters
    ----------
    system : ArrowSystem
    delta_t : (n, d) or (T,) array_like
    delta_beta : (k,) array_like
    ridge_t, ridge_beta : float, default 0
    damping_t, damping_beta : array_like, optional
        The ridges and dampings of the step.
    damped : bool, default False
        False for a gain ratio against the true objective; True for a test on the damped model.

    Returns
    -------
    float

    Raises
    ------
    InvalidArgument
        A shape does not fit, or a ridge is negative or not finite.

    Notes
    -----
    One product with `H`. At the exact damped step the damped reduction is `-g'x/2`.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> system = asn.fixtures.small_fixture(0x11).system()
    >>> step = asn.newton_step(system)
    >>> reduction = asn.model_reduction(system, step.delta_t, step.delta_beta)
    >>> abs(reduction + 0.5 * system.gradient_dot(step.delta_t, step.delta_beta)) < 1e-12
    True
    """
    handle = system_handle(system)
    if not isinstance(damped, bool):
        raise InvalidArgument(argument="damped", got=f"{damped!r:.80}", expected="True or False")
    t = row_vector(system, delta_t, "delta_t")
    beta = border_vector(system, delta_beta, "delta_beta")
    return _core.model_reduction(
        handle, t, beta, ridge_t, ridge_beta, *dampings(system, damping_t, damping_beta), damped
    )


def solve_reduced(
    schur: ArrayLike,
    rhs: ArrayLike,
    *,
    options: SolveOptions | None = None,
    escalation: EscalationOptions | None = None,
) -> NewtonStep:
    """Solve `S x = rhs` for a border system that was accumulated elsewhere.

    Parameters
    ----------
    schur : (k, k) array_like
        Symmetrised in a copy; not modified.
    rhs : (k,) array_like
    options : SolveOptions, optional
    escalation : EscalationOptions, optional
        How the diagonal of `S` is raised when it is not positive definite.

    Returns
    -------
    NewtonStep
        `delta_beta` is the solution; `delta_t` is empty.

    Raises
    ------
    InvalidArgument
        A shape does not fit, or an entry is not finite.
    SchurFactorError, CertificateError
        The escalation is used up.

    Notes
    -----
    `k^3/3` flops per attempt.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> np.round(asn.solve_reduced([[4.0, 1.0], [1.0, 3.0]], [1.0, 2.0]).delta_beta * 11, 12)
    array([1., 7.])
    """
    s: Array = float64_array(schur, "schur")
    r: Array = float64_array(rhs, "rhs")
    if r.ndim != 1:
        raise InvalidArgument(argument="rhs", got=describe(r), expected="a vector (k,)")
    if s.shape != (r.shape[0], r.shape[0]):
        raise InvalidArgument(argument="schur", got=describe(s), expected=f"shape ({r.shape[0]}, {r.shape[0]})")
    result: tuple[Any, Any, Any] = _core.solve_reduced(s, r, solve_options(options), escalation_options(escalation))
    return step_from_core(result, (), False)
