"""Solver for arrow systems: many small row blocks that couple only through one shared border.

See Also
--------
ArrowSystem : the system.
newton_step : one solve, with a certificate.
factorize : factor once, solve many.
ResidentWorkspace : loops and sequences of gradients at a frozen linearization.
SparseDictionary : sparse dictionaries of large sets of rows.
"""

from __future__ import annotations

from . import _threads, dictionary, fixtures, policy
from ._batch import BatchStep, solve_batch
from ._borders import (
    BandedBorder,
    BlockDiagonalBorder,
    Border,
    BorderSum,
    DenseBorder,
    DiagonalBorder,
    OperatorBorder,
)
from ._core import __version__
from ._cross import BlockSparseCross, KroneckerCross, OperatorCross
from ._device_arrays import DeviceArray, DeviceSystem
from ._errors import (
    ArrowError,
    CertificateError,
    CorrectionError,
    DeviceError,
    DeviceUnavailableError,
    InnerLoopError,
    InvalidArgument,
    MemoryBudgetExceeded,
    NegativeCurvature,
    PcgError,
    RowFactorError,
    RowIllConditioned,
    SchurFactorError,
    UnsupportedConfiguration,
)
from ._factor import ArrowFactor, factorize
from ._frame import (
    ArrowFrame,
    BaseArrowFrame,
    FrameCandidate,
    FrameFactors,
    FramePlan,
    FrameStep,
    newton_step_reupload,
)
from ._inner_loop import (
    DenseReferenceStep,
    InnerFit,
    InnerOptions,
    InnerStep,
    OuterSequence,
    ResidentWorkspace,
    RowBump,
    examine_rows,
    newton_step_dense_reference,
    ridge_bump,
)
from ._kronecker import FramedKroneckerBorder, KroneckerBorder, KroneckerProductBorder, SparseBlockKroneckerBorder
from ._loop_shapes import ResidentShape, SweepVariant
from ._newton import model_reduction, newton_step, newton_step_escalated, solve_reduced
from ._options import (
    EscalationOptions,
    MixedOptions,
    PcgOptions,
    ProximalOptions,
    SolveOptions,
    TrustRegionOptions,
)
from ._plan import plan
from ._results import (
    ConditionEstimate,
    LogDetParts,
    NewtonStep,
    PcgDiagnostics,
    PivotRange,
    PlanCandidate,
    SolveDiagnostics,
    SolvePlan,
    SystemGradient,
    route_counters,
)
from ._sweep import (
    SweepResult,
    SweepThroughput,
    build_sweep_workspaces,
    check_sweep_parity,
    run_fits_multiplexed,
    run_fits_sequential,
    run_variant_sweep,
    run_workspace_sweep,
)
from ._system import ArrowSystem
from ._telemetry import StageRecord, StageWindow, Telemetry, process_telemetry, stage_window
from ._threads import (
    build_info,
    clear_workspaces,
    device_info,
    get_cmake_dir,
    get_include,
    get_num_threads,
    set_num_threads,
    workspace_cache_bytes,
)
from .dictionary import SparseDictionary, SparseDictionaryFit, SparseDictionaryStream, fit_sparse_dictionary
from .dictionary import load as load_dictionary

__all__ = [
    "ArrowError",
    "ArrowFactor",
    "ArrowFrame",
    "ArrowSystem",
    "BandedBorder",
    "BaseArrowFrame",
    "BatchStep",
    "BlockDiagonalBorder",
    "BlockSparseCross",
    "Border",
    "BorderSum",
    "CertificateError",
    "ConditionEstimate",
    "CorrectionError",
    "DenseBorder",
    "DenseReferenceStep",
    "DeviceArray",
    "DeviceError",
    "DeviceSystem",
    "DeviceUnavailableError",
    "DiagonalBorder",
    "EscalationOptions",
    "FrameCandidate",
    "FrameFactors",
    "FramePlan",
    "FrameStep",
    "FramedKroneckerBorder",
    "InnerFit",
    "InnerLoopError",
    "InnerOptions",
    "InnerStep",
    "InvalidArgument",
    "KroneckerBorder",
    "KroneckerCross",
    "KroneckerProductBorder",
    "LogDetParts",
    "MemoryBudgetExceeded",
    "MixedOptions",
    "NegativeCurvature",
    "NewtonStep",
    "OperatorBorder",
    "OperatorCross",
    "OuterSequence",
    "PcgDiagnostics",
    "PcgError",
    "PcgOptions",
    "PivotRange",
    "PlanCandidate",
    "ProximalOptions",
    "ResidentShape",
    "ResidentWorkspace",
    "RowBump",
    "RowFactorError",
    "RowIllConditioned",
    "SchurFactorError",
    "SolveDiagnostics",
    "SolveOptions",
    "SolvePlan",
    "SparseBlockKroneckerBorder",
    "SparseDictionary",
    "SparseDictionaryFit",
    "SparseDictionaryStream",
    "StageRecord",
    "StageWindow",
    "SweepResult",
    "SweepThroughput",
    "SweepVariant",
    "SystemGradient",
    "Telemetry",
    "TrustRegionOptions",
    "UnsupportedConfiguration",
    "__version__",
    "build_info",
    "build_sweep_workspaces",
    "check_sweep_parity",
    "clear_workspaces",
    "device_info",
    "dictionary",
    "examine_rows",
    "factorize",
    "fit_sparse_dictionary",
    "fixtures",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "load_dictionary",
    "model_reduction",
    "newton_step",
    "newton_step_dense_reference",
    "newton_step_escalated",
    "newton_step_reupload",
    "plan",
    "policy",
    "process_telemetry",
    "ridge_bump",
    "route_counters",
    "run_fits_multiplexed",
    "run_fits_sequential",
    "run_variant_sweep",
    "run_workspace_sweep",
    "set_num_threads",
    "solve_batch",
    "solve_reduced",
    "stage_window",
    "workspace_cache_bytes",
]

# What the process should know from the first import on: who receives Ctrl-C, and who asks for thread counts.
_threads._watch_main_thread()
_threads._register_threadpoolctl()
