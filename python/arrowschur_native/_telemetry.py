"""What ran where: counters of the work that was issued, and records of stages."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from . import _core
from ._results import _Printed

__all__ = ["StageRecord", "StageWindow", "Telemetry", "process_telemetry", "stage_window"]


@dataclass(frozen=True, repr=False)
class Telemetry(_Printed):
    """Counters of a fit, or of the process. Counted where the work is issued; they influence no result.

    Attributes
    ----------
    h2d_bytes, d2h_bytes : int
        Bytes to and from a device.
    factorizations : int
        Factors made and kept, on the CPU as on a device.
    frame_builds : int
        Device frames.
    handle_creations, kernel_launches, graph_replays, syncs, allocations : int
        Of a device.
    capture_failures : int
        Sequences of device work that could not be captured as a graph and were queued call by call.
    cpu_fallbacks : int
        A device was asked for, and the CPU did the work.
    fallback_reasons : tuple of str
        Distinct reasons, in order of first appearance.
    device_ordinal : int or None
        None: no device was used.
    """

    h2d_bytes: int = 0
    d2h_bytes: int = 0
    factorizations: int = 0
    frame_builds: int = 0
    handle_creations: int = 0
    kernel_launches: int = 0
    graph_replays: int = 0
    syncs: int = 0
    allocations: int = 0
    capture_failures: int = 0
    cpu_fallbacks: int = 0
    fallback_reasons: tuple[str, ...] = ()
    device_ordinal: int | None = None


def process_telemetry() -> Telemetry:
    """Return the sum of the counters over the threads of this process since it started.

    Returns
    -------
    Telemetry

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> before = asn.process_telemetry().factorizations
    >>> workspace = asn.ResidentWorkspace.from_system(asn.fixtures.small_fixture(0x11).system())
    >>> fit = workspace.fit()
    >>> asn.process_telemetry().factorizations - before
    1
    """
    return Telemetry(**_core.process_telemetry())


@dataclass(frozen=True, repr=False)
class StageRecord(_Printed):
    """One stage of a fit.

    Attributes
    ----------
    name : str
    n, d, k : int
        Shape of the system.
    flops, bytes : float
        Of the stage.
    cpu_ms, device_ms : float
        Milliseconds; those of a device come from its events.
    """

    name: str
    n: int
    d: int
    k: int
    flops: float
    bytes: float
    cpu_ms: float
    device_ms: float


class StageWindow:
    """An open window on the stages of this process, made by `stage_window`.

    The process keeps its last 1024 stage records while a window is open. Windows may nest and belong to several
    threads; the ring is emptied when the first one opens.
    """

    def __init__(self) -> None:
        self._handle = _core.StageWindow()

    def __enter__(self) -> StageWindow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._handle.close()

    @property
    def records(self) -> tuple[StageRecord, ...]:
        """What has been recorded, oldest first; after the window has closed, what it had seen."""
        return tuple(StageRecord(**record) for record in self._handle.records())


def stage_window() -> StageWindow:
    """Record the stages of fits while a `with` block runs.

    Returns
    -------
    StageWindow
        A context manager; `records` are there inside and after the block.

    Notes
    -----
    While no window is open a stage costs one relaxed load.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> workspace = asn.ResidentWorkspace.from_system(asn.fixtures.small_fixture(0x11).system())
    >>> with asn.stage_window() as window:
    ...     fit = workspace.fit()
    >>> len(window.records) > 0
    True
    """
    return StageWindow()
