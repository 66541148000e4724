"""Many fits at once: multiplexed over threads, with the bits of the sequential run."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import _core, fixtures
from ._errors import ArrowError, InvalidArgument
from ._inner_loop import InnerFit, InnerOptions, ResidentWorkspace, fit_from_core, inner_options, workspace_handle
from ._loop_shapes import SweepVariant, whole_number
from ._results import _Printed

__all__ = [
    "SweepResult",
    "SweepThroughput",
    "build_sweep_workspaces",
    "check_sweep_parity",
    "run_fits_multiplexed",
    "run_fits_sequential",
    "run_variant_sweep",
    "run_workspace_sweep",
]

Progress = Callable[[int, int], object]


@dataclass(frozen=True, repr=False)
class SweepThroughput(_Printed):
    """How fast a sweep went.

    Attributes
    ----------
    fits, succeeded : int
    wall_seconds : float
        Of the fits; building workspaces is not part of it.
    """

    fits: int
    succeeded: int
    wall_seconds: float

    @property
    def fits_per_second(self) -> float:
        """`fits / max(wall_seconds, 1e-9)`."""
        return self.fits / max(self.wall_seconds, 1e-9)

    def _rows(self) -> list[tuple[str, Any]]:
        return [*super()._rows(), ("fits_per_second", self.fits_per_second)]


@dataclass(frozen=True, repr=False, eq=False)
class SweepResult(_Printed):
    """Results of a sweep, in the order of its input. Has a length, and iterates over the results.

    Attributes
    ----------
    results : tuple of InnerFit or Exception
        The exception of a fit that failed stands in its place.
    throughput : SweepThroughput
    build_seconds : float or None
        What building the workspaces took, where the sweep built them.
    """

    results: tuple[InnerFit | Exception, ...]
    throughput: SweepThroughput
    build_seconds: float | None = None

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[InnerFit | Exception]:
        return iter(self.results)

    def __getitem__(self, index: int) -> InnerFit | Exception:
        return self.results[index]

    def _rows(self) -> list[tuple[str, Any]]:
        rows = [(f"fit {i}", _outcome(result)) for i, result in enumerate(self.results)]
        return [*rows, *self.throughput._rows(), ("build_seconds", self.build_seconds)]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; a failed fit as its error and message."""
        results = [
            r.to_dict() if isinstance(r, InnerFit) else {"error": type(r).__name__, "message": str(r)}
            for r in self.results
        ]
        throughput = {**self.throughput.to_dict(), "fits_per_second": self.throughput.fits_per_second}
        return {"results": results, "throughput": throughput, "build_seconds": self.build_seconds}


def _outcome(result: InnerFit | Exception) -> str:
    if isinstance(result, InnerFit):
        return f"{result.status} after {result.iterations} iterations, objective {result.objective:.9g}"
    return f"{type(result).__name__}: {result}"


# ---- running --------------------------------------------------------------------------------------------------------
def run_fits_multiplexed(
    workspaces: Iterable[ResidentWorkspace],
    options: InnerOptions | None = None,
    runner: str = "fit",
    max_concurrent: int | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Fit independent workspaces, several at a time.

    Parameters
    ----------
    workspaces : iterable of ResidentWorkspace
        Distinct; they may share a border array.
    options : InnerOptions, optional
        Of every fit. Each runs with one thread, so that its bits do not depend on who else runs.
    runner : {'fit', 'device', 'cpu_reference'}, default 'fit'
        `ResidentWorkspace.fit`, `device_fit` or `cpu_reference_fit`.
    max_concurrent : int, optional
        Fits at a time, >= 1; None: as many as cores, fits and memory allow.
    progress : callable, optional
        Called as `progress(finished, total)` on the calling thread after each fit. What it raises ends the sweep.

    Returns
    -------
    SweepResult
        In input order. A fit that fails disturbs no other: its exception stands in its place.

    Raises
    ------
    InvalidArgument
        A workspace is given twice, or an argument is out of its range.

    Notes
    -----
    The results have the bits of `run_fits_sequential`. Releases the GIL; Ctrl-C ends it.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> systems = [asn.fixtures.small_fixture(seed).system() for seed in (0x11, 0x22, 0x33)]
    >>> sweep = asn.run_fits_multiplexed([asn.ResidentWorkspace.from_system(s) for s in systems])
    >>> [round(fit.objective, 6) for fit in sweep]
    [-0.872967, -0.669084, -0.802155]
    """
    return _run(workspaces, options, runner, max_concurrent, progress, multiplexed=True)


def run_fits_sequential(
    workspaces: Iterable[ResidentWorkspace],
    options: InnerOptions | None = None,
    runner: str = "fit",
    progress: Progress | None = None,
) -> SweepResult:
    """Fit independent workspaces one after another, each with one thread: the reference of `run_fits_multiplexed`.

    Parameters
    ----------
    workspaces, options, runner, progress
        As `run_fits_multiplexed`.

    Returns
    -------
    SweepResult

    Raises
    ------
    InvalidArgument
        As `run_fits_multiplexed`.
    """
    return _run(workspaces, options, runner, None, progress, multiplexed=False)


def _run(
    workspaces: Iterable[ResidentWorkspace],
    options: InnerOptions | None,
    runner: str,
    max_concurrent: int | None,
    progress: Progress | None,
    *,
    multiplexed: bool,
    build_seconds: float | None = None,
) -> SweepResult:
    if not isinstance(workspaces, Iterable):
        raise InvalidArgument(argument="workspaces", got=f"{workspaces!r:.80}", expected="ResidentWorkspace objects")
    kept = tuple(workspaces)  # alive until the core is done
    handles = tuple(workspace_handle(workspace, f"workspaces[{i}]") for i, workspace in enumerate(kept))
    at_once = 0 if max_concurrent is None else whole_number("max_concurrent", max_concurrent, 1, 2**63)
    if progress is not None and not callable(progress):
        raise InvalidArgument(argument="progress", got=f"{progress!r:.80}", expected="a callable, or None")
    results, fits, succeeded, seconds = _core.run_fits(
        handles, inner_options(options), runner, at_once, progress, multiplexed
    )
    outcomes = tuple(fit_from_core(result) if isinstance(result, dict) else result for result in results)
    return SweepResult(outcomes, SweepThroughput(fits, succeeded, seconds), build_seconds)


# ---- sweeps ---------------------------------------------------------------------------------------------------------
def _checked(variants: Iterable[SweepVariant]) -> tuple[SweepVariant, ...]:
    if not isinstance(variants, Iterable):
        raise InvalidArgument(argument="variants", got=f"{variants!r:.80}", expected="SweepVariant objects")
    checked = tuple(variants)
    for i, variant in enumerate(checked):
        if not isinstance(variant, SweepVariant):
            raise InvalidArgument(argument=f"variants[{i}]", got=f"{variant!r:.80}", expected="a SweepVariant")
    return checked


def build_sweep_workspaces(variants: Iterable[SweepVariant]) -> list[ResidentWorkspace]:
    """Return the workspace of `fixtures.shape_fixture` for each variant.

    Parameters
    ----------
    variants : iterable of SweepVariant

    Returns
    -------
    list of ResidentWorkspace
        In order. Variants of equal `p` share one border array.

    Raises
    ------
    InvalidArgument
        An entry is not a SweepVariant.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> shape = asn.ResidentShape(n=10, p=6, basis_cols=2, d=2)
    >>> one, two = asn.build_sweep_workspaces([asn.SweepVariant(shape, 1), asn.SweepVariant(shape, 2)])
    >>> np.shares_memory(one.to_system().h_bb, two.to_system().h_bb)
    True
    """
    borders: dict[int, Any] = {}
    workspaces = []
    for variant in _checked(variants):
        shape = variant.shape
        fixture = fixtures.shape_fixture(shape, variant.seed)
        assert fixture.target is not None
        assert fixture.basis is not None
        assert fixture.gates is not None
        slabs = {
            "row_hessian": fixture.h_tt,
            "row_cross": fixture.h_tb,
            "row_gradient": fixture.g_t,
            "border_hessian": borders.setdefault(shape.p, fixture.h_bb),
            "border_gradient": fixture.g_beta,
        }
        workspaces.append(ResidentWorkspace(shape, fixture.target, fixture.basis, fixture.gates, slabs))
    return workspaces


def run_variant_sweep(
    variants: Iterable[SweepVariant],
    options: InnerOptions | None = None,
    *,
    runner: str = "fit",
    max_concurrent: int | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Build the workspaces of some variants and fit them, several at a time.

    Parameters
    ----------
    variants : iterable of SweepVariant
        `fixtures.color_arm_variant_matrix()`, say.
    options, runner, max_concurrent, progress
        As `run_fits_multiplexed`.

    Returns
    -------
    SweepResult
        `build_seconds` is what building took; `throughput` does not count it.

    Raises
    ------
    InvalidArgument
        An entry is not a SweepVariant, or as `run_fits_multiplexed`.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> shape = asn.ResidentShape(n=10, p=6, basis_cols=2, d=2)
    >>> sweep = asn.run_variant_sweep([asn.SweepVariant(shape, seed) for seed in range(4)])
    >>> sweep.throughput.succeeded
    4
    """
    begin = time.perf_counter()
    workspaces = build_sweep_workspaces(variants)
    build_seconds = time.perf_counter() - begin
    return _run(workspaces, options, runner, max_concurrent, progress, multiplexed=True, build_seconds=build_seconds)


def run_workspace_sweep(
    workspaces: Iterable[ResidentWorkspace],
    options: InnerOptions | None = None,
    *,
    runner: str = "fit",
    max_concurrent: int | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Fit workspaces that the caller has assembled, several at a time.

    Parameters
    ----------
    workspaces, options, runner, max_concurrent, progress
        As `run_fits_multiplexed`.

    Returns
    -------
    SweepResult

    Raises
    ------
    InvalidArgument
        As `run_fits_multiplexed`.
    """
    return run_fits_multiplexed(workspaces, options, runner, max_concurrent, progress)


def check_sweep_parity(
    variants: Iterable[SweepVariant],
    options: InnerOptions | None,
    multiplexed: SweepResult | Sequence[InnerFit | Exception],
    *,
    runner: str = "fit",
) -> SweepThroughput:
    """Run a sweep again, sequentially, and compare every bit.

    Parameters
    ----------
    variants : iterable of SweepVariant
    options : InnerOptions or None
    multiplexed : SweepResult, or its results
        What `run_variant_sweep` returned for the same variants and options.
    runner : {'fit', 'device', 'cpu_reference'}, default 'fit'
        The runner of that sweep.

    Returns
    -------
    SweepThroughput
        Of the sequential run.

    Raises
    ------
    InvalidArgument
        The numbers of fits differ.
    ArrowError
        `t`, `beta` or the objective of a fit differ in a bit, or only one of the two runs succeeded. Two errors agree.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> shape = asn.ResidentShape(n=10, p=6, basis_cols=2, d=2)
    >>> variants = [asn.SweepVariant(shape, seed) for seed in range(4)]
    >>> asn.check_sweep_parity(variants, None, asn.run_variant_sweep(variants)).succeeded
    4
    """
    checked = _checked(variants)
    found = tuple(multiplexed)
    if len(found) != len(checked):
        raise InvalidArgument(
            argument="multiplexed", got=f"{len(found)} results", expected=f"{len(checked)}, one per variant"
        )
    sequential = _run(build_sweep_workspaces(checked), options, runner, None, None, multiplexed=False)
    compare_runs(found, sequential.results)
    return sequential.throughput


def compare_runs(multiplexed: Sequence[InnerFit | Exception], sequential: Sequence[InnerFit | Exception]) -> None:
    """Raise ArrowError for the first fit whose bits differ between the two runs."""
    for i, (one, other) in enumerate(zip(multiplexed, sequential, strict=True)):
        if isinstance(one, InnerFit) and isinstance(other, InnerFit):
            if _bits(one) != _bits(other):
                raise ArrowError(f"fit {i} differs between the multiplexed and the sequential run")
        elif isinstance(one, InnerFit) or isinstance(other, InnerFit):
            failed, error = ("sequential", other) if isinstance(one, InnerFit) else ("multiplexed", one)
            raise ArrowError(f"fit {i} failed in the {failed} run only: {type(error).__name__}: {error}")


def _bits(fit: InnerFit) -> tuple[bytes, bytes, bytes]:
    return fit.t.tobytes(), fit.beta.tobytes(), struct.pack("<d", fit.objective)
