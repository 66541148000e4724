"""Solver for arrow systems: many small row blocks that couple only through one shared border.

See Also
--------
ArrowSystem : the system.
newton_step : one solve, with a certificate.
factorize : factor once, solve many.
"""

from __future__ import annotations

from . import _threads, fixtures, policy
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
from ._kronecker import FramedKroneckerBorder, KroneckerBorder, KroneckerProductBorder, SparseBlockKroneckerBorder
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
from ._system import ArrowSystem
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

__all__ = [
    "ArrowError",
    "ArrowFactor",
    "ArrowSystem",
    "BandedBorder",
    "BlockDiagonalBorder",
    "BlockSparseCross",
    "Border",
    "BorderSum",
    "CertificateError",
    "ConditionEstimate",
    "CorrectionError",
    "DenseBorder",
    "DeviceError",
    "DeviceUnavailableError",
    "DiagonalBorder",
    "EscalationOptions",
    "FramedKroneckerBorder",
    "InnerLoopError",
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
    "PcgDiagnostics",
    "PcgError",
    "PcgOptions",
    "PivotRange",
    "PlanCandidate",
    "ProximalOptions",
    "RowFactorError",
    "RowIllConditioned",
    "SchurFactorError",
    "SolveDiagnostics",
    "SolveOptions",
    "SolvePlan",
    "SparseBlockKroneckerBorder",
    "SystemGradient",
    "TrustRegionOptions",
    "UnsupportedConfiguration",
    "__version__",
    "build_info",
    "clear_workspaces",
    "device_info",
    "factorize",
    "fixtures",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "model_reduction",
    "newton_step",
    "newton_step_escalated",
    "plan",
    "policy",
    "route_counters",
    "set_num_threads",
    "solve_reduced",
    "workspace_cache_bytes",
]

# What the process should know from the first import on: who receives Ctrl-C, and who asks for thread counts.
_threads._watch_main_thread()
_threads._register_threadpoolctl()
