"""Many small systems in one call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from . import _core
from ._newton import warn_of_lifts
from ._options import SolveOptions, solve_options
from ._results import NewtonStep, step_from_core
from ._system import ArrowSystem, system_handle

__all__ = ["BatchStep", "solve_batch"]


@dataclass(frozen=True)
class BatchStep:
    """The step of one system of a batch.

    Attributes
    ----------
    step : NewtonStep
        With its certificate.
    log_det_hessian : float
        `log det(H + ridges)`; NaN where the border was solved by iteration, or rows were lifted.
    backend : {'cpu', 'cuda'}
        Where it was solved.
    unproven_path : str
        Empty, but for results of a stand-in for a device in tests: the path that it stood for.
    """

    step: NewtonStep
    log_det_hessian: float
    backend: str = "cpu"
    unproven_path: str = ""


def solve_batch(
    systems: Iterable[ArrowSystem],
    *,
    ridge_t: float = 0.0,
    ridge_beta: float = 0.0,
    device: str | None = None,
    options: SolveOptions | None = None,
) -> list[BatchStep | Exception]:
    """Solve independent systems at the same ridges: a thread per system, or all at once on a device.

    Parameters
    ----------
    systems : iterable of ArrowSystem
        Of any shapes; none is a legal number of them.
    ridge_t, ridge_beta : float, default 0
        Finite, >= 0.
    device : {'auto', 'off', 'required'}, optional
        In place of `options.device`. `'auto'` takes a device for eight systems or more that it can solve, of `sum n (2
        d k + d^2) >= 1e6` together, where it is predicted to be faster; `'required'` solves every system there.
    options : SolveOptions, optional
        For each of the systems; `num_threads` says how many of them are worked on at a time.

    Returns
    -------
    list
        In the order of the systems: a `BatchStep`, on the CPU bit for bit that of `factorize(system).step()`, or the
        exception that this would have raised. A failure stays with its system.

    Raises
    ------
    InvalidArgument
        A ridge is negative or not finite, or an entry is not an ArrowSystem.
    DeviceUnavailableError, DeviceError
        A device is required, and there is none, or it failed.
    UnsupportedConfiguration
        `options.schur_apply` is set: a product belongs to one system. Or a device is required under options that it
        does not carry out (a mode other than `direct`, `precision`, a trust region, row guards by condition).

    Notes
    -----
    On the CPU a thread works on one system at a time, alone. A device takes systems with a dense cross block, rows of
    one size of at most 32 unknowns, and a border of at most 32 without callbacks; under `'auto'` the CPU solves the
    others, those whose rows are to be lifted, and those whose certificate, where it is asked for, misses 1e-12. Under
    `'required'` these are errors of their systems, or come as they are. The certificate is measured on the host.
    Releases the GIL.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> systems = [asn.fixtures.small_fixture(seed).system() for seed in (0x11, 0x22)]
    >>> [round(result.log_det_hessian, 7) for result in asn.solve_batch(systems)]
    [31.0928815, 31.0668484]
    """
    batch = tuple(systems)
    chosen = options if device is None else replace(options or SolveOptions(), device=device)
    handles = tuple(system_handle(system) for system in batch)
    results: list[BatchStep | Exception] = []
    for system, result in zip(
        batch, _core.solve_batch(handles, float(ridge_t), float(ridge_beta), solve_options(chosen)), strict=True
    ):
        if isinstance(result, tuple):
            if result[2].rows_lifted:
                warn_of_lifts(result[2])
            step = step_from_core(result[:3], system.copies, system.single)
            results.append(BatchStep(step=step, log_det_hessian=result[3], backend=result[4], unproven_path=result[5]))
        else:
            results.append(result)
    return results
