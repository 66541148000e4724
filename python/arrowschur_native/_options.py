"""Options: frozen dataclasses, validated when made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from . import _core
from ._errors import InvalidArgument, UnsupportedConfiguration

__all__ = [
    "EscalationOptions",
    "MixedOptions",
    "PcgOptions",
    "ProximalOptions",
    "SolveOptions",
    "TrustRegionOptions",
]

_T = TypeVar("_T", bound="_Options")


class _Options:
    """What the option classes share: `replace`, and pickling through the constructor, so that rules are checked."""

    __slots__ = ()

    def replace(self: _T, **changes: Any) -> _T:
        """Return a copy with the given fields changed; the result is validated like a new object."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def __reduce__(self) -> tuple[Any, ...]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}  # type: ignore[arg-type]
        return _rebuild, (type(self), values)


def _rebuild(cls: type[_T], values: dict[str, Any]) -> _T:
    return cls(**values)


# ---- rules ----------------------------------------------------------------------------------------------------------
def _complain(name: str, value: Any, expected: str) -> InvalidArgument:
    return InvalidArgument(argument=name, got=f"{value!r:.80}", expected=expected)


def _boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _complain(name, value, "True or False")


def _number(name: str, value: Any, rule: Callable[[float], bool], expected: str, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    try:
        good = not isinstance(value, (bool, str)) and rule(float(value))
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise _complain(name, value, expected + (", or None" if optional else ""))


def _integer(name: str, value: Any, lowest: int, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    try:
        good = not isinstance(value, (bool, float, str)) and value.__index__() >= lowest
    except (AttributeError, TypeError):
        good = False
    if not good or value.__index__() >= 2**63:
        raise _complain(name, value, f"an integer >= {lowest}" + (", or None" if optional else ""))


def _instance(name: str, value: Any, cls: type) -> None:
    if not isinstance(value, cls):
        raise _complain(name, value, f"a {cls.__name__}")


# ---- groups ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class PcgOptions(_Options):
    """Conjugate gradients on the border (route `inexact_pcg`).

    Parameters
    ----------
    max_iterations : int, default 200
        Iteration budget per preconditioner tier, >= 0.
    relative_tolerance : float or None, default None
        In [0, 1). None: 1e-4 when the caller asked for `inexact_pcg`; under `auto`, whatever meets the certificate.
    storage : {'float64', 'float32'}, default 'float64'
        How the whitened cross block is kept. float32 halves the bytes that an iteration reads, and rounds its operator;
        the certificate speaks of the original system all the same.

    Raises
    ------
    InvalidArgument
        A field is out of its range.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.PcgOptions(max_iterations=50)
    PcgOptions(max_iterations=50, relative_tolerance=None, storage='float64')
    """

    max_iterations: int = 200
    relative_tolerance: float | None = None
    storage: str = "float64"
    _handle: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _integer("max_iterations", self.max_iterations, 0)
        _number("relative_tolerance", self.relative_tolerance, lambda x: 0 <= x < 1, "in [0, 1)", optional=True)
        core = _core.PcgOptions(
            max_iterations=int(self.max_iterations),
            relative_tolerance=None if self.relative_tolerance is None else float(self.relative_tolerance),
            storage=self.storage,
        )
        object.__setattr__(self, "_handle", core)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRegionOptions(_Options):
    """Bound on the length of the border step.

    Where the unbounded step is too long, or `S` is not positive definite, the step minimises the quadratic model inside
    the ball by truncated conjugate gradients and ends on its boundary.

    Parameters
    ----------
    radius : float or None, default None
        Bound on the 2-norm of `delta_beta`, > 0. None and inf mean no bound.
    relative_tolerance : float, default 1e-4
        Tolerance of the truncated iteration, in [0, 1).
    max_iterations : int, default 200
        Its budget, >= 0.

    Raises
    ------
    InvalidArgument
        A field is out of its range.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.TrustRegionOptions().radius is None
    True
    """

    radius: float | None = None
    relative_tolerance: float = 1e-4
    max_iterations: int = 200
    _handle: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _number("radius", self.radius, lambda x: x > 0, "a number > 0", optional=True)
        _number("relative_tolerance", self.relative_tolerance, lambda x: 0 <= x < 1, "in [0, 1)")
        _integer("max_iterations", self.max_iterations, 0)
        core = _core.TrustRegionOptions(
            radius=None if self.radius is None else float(self.radius),
            relative_tolerance=float(self.relative_tolerance),
            max_iterations=int(self.max_iterations),
        )
        object.__setattr__(self, "_handle", core)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedOptions(_Options):
    """Mixed precision with a certificate (`precision='mixed'`, of a later version).

    Parameters
    ----------
    max_refinement_steps : int, default 6
        >= 0.
    tolerance : float, default 1e-11
        Normwise backward error to reach, > 0.
    kappa_margin : float, default 0.5
        Gate `kappa * 2^-24 < kappa_margin`, in (0, 1].

    Raises
    ------
    InvalidArgument
        A field is out of its range.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.MixedOptions().tolerance
    1e-11
    """

    max_refinement_steps: int = 6
    tolerance: float = 1e-11
    kappa_margin: float = 0.5

    def __post_init__(self) -> None:
        _integer("max_refinement_steps", self.max_refinement_steps, 0)
        _number("tolerance", self.tolerance, lambda x: 0 < x < math.inf, "a finite number > 0")
        _number("kappa_margin", self.kappa_margin, lambda x: 0 < x <= 1, "in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationOptions(_Options):
    """How `newton_step_escalated` raises the ridges.

    Parameters
    ----------
    initial_ridge : float, default 1e-8
        First ridge, > 0; under `guards='relative'` a factor of `max|h_tt|`.
    ridge_growth : float, default 10.0
        Factor from one attempt to the next, > 1.
    max_escalations : int, default 22
        Attempts after the first, >= 0.

    Raises
    ------
    InvalidArgument
        A field is out of its range.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.EscalationOptions(max_escalations=3).max_escalations
    3
    """

    initial_ridge: float = 1e-8
    ridge_growth: float = 10.0
    max_escalations: int = 22
    _handle: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _number("initial_ridge", self.initial_ridge, lambda x: 0 < x < math.inf, "a finite number > 0")
        _number("ridge_growth", self.ridge_growth, lambda x: 1 < x < math.inf, "a finite number > 1")
        _integer("max_escalations", self.max_escalations, 0)
        core = _core.EscalationOptions(
            initial_ridge=float(self.initial_ridge),
            ridge_growth=float(self.ridge_growth),
            max_escalations=min(int(self.max_escalations), 2**31 - 1),
        )
        object.__setattr__(self, "_handle", core)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProximalOptions(_Options):
    """Proximal correction of a step for a non-convex objective (of a later version).

    Parameters
    ----------
    initial_ridge : float, default 1e-8
        First proximal ridge, >= 0.
    ridge_growth : float, default 10.0
        Finite, > 1.
    max_attempts : int, default 22
        >= 1.
    armijo_c1 : float, default 1e-4
        Sufficient decrease, in (0, 1).
    gradient_tolerance : float, default 1e-10
        Absolute, 2-norm of the gradient, >= 0.
    convergence_objective_rel_tol : float, default 8e-12
        Resolution of the objective, >= 0.

    Raises
    ------
    InvalidArgument
        A field is out of its range.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.ProximalOptions().max_attempts
    22
    """

    initial_ridge: float = 1e-8
    ridge_growth: float = 10.0
    max_attempts: int = 22
    armijo_c1: float = 1e-4
    gradient_tolerance: float = 1e-10
    convergence_objective_rel_tol: float = 8e-12

    def __post_init__(self) -> None:
        _number("initial_ridge", self.initial_ridge, lambda x: 0 <= x < math.inf, "a finite number >= 0")
        _number("ridge_growth", self.ridge_growth, lambda x: 1 < x < math.inf, "a finite number > 1")
        _integer("max_attempts", self.max_attempts, 1)
        _number("armijo_c1", self.armijo_c1, lambda x: 0 < x < 1, "in (0, 1)")
        _number("gradient_tolerance", self.gradient_tolerance, lambda x: x >= 0, "a number >= 0")
        _number("convergence_objective_rel_tol", self.convergence_objective_rel_tol, lambda x: x >= 0, "a number >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveOptions(_Options):
    """Options of a solve. Frozen; validated when made; change a copy with `replace`.

    Parameters
    ----------
    mode : {'auto', 'direct', 'sqrt_ba', 'low_rank', 'inexact_pcg'}, default 'auto'
        Requested route. `auto` takes the cheapest that can do it (`plan` says which, and why). `direct` and `sqrt_ba`
        form and factor the Schur complement (the same arithmetic under two names), `low_rank` works with the `T x T`
        capacitance matrix, `inexact_pcg` iterates on the border without forming `S`.
    device : {'auto', 'off', 'required'}, default 'auto'
        Where to run. `required` is an error without a device, never a silent CPU run.
    precision : {'float64', 'mixed', 'float32'}, default 'float64'
        Arithmetic of the stages. The certificate is always measured in float64.
    certificate : bool, default True
        Measure the normwise backward error of every returned step.
    certificate_tolerance : float or None, default None
        > 0: a step that misses it raises `CertificateError`. None: report only.
    guards : {'relative', 'absolute'}, default 'relative'
        Threshold policy. `relative` is scale-free; `absolute` reproduces the published constants.
    row_lift : {'indefinite', 'guard', 'never'}, default 'indefinite'
        Which rows may get a ridge of their own: those that are not positive definite; those that miss the condition
        guard too; none, so that a row that is not positive definite is an error. ``guards='absolute'`` always lifts
        rows that miss its guard, unless lifts are forbidden.
    tolerate_ill_conditioning : bool, default False
        Evidence mode: no condition guards and no row lifts, for log-determinants and inverse traces.
    pcg : PcgOptions
        Iteration budget, tolerance and storage of `inexact_pcg`.
    trust_region : TrustRegionOptions
        Bound on the border step.
    mixed : MixedOptions
    streaming_chunk_size : int or None, default None
        Rows per chunk, >= 1; 0 means None. Later version.
    schur_pd_floor : float or None, default None
        In (0, 1): `inexact_pcg` lifts directions of curvature below this fraction of the largest one, so that a
        collapsed border still gives a step; `diagnostics.schur_conditioning` says so.
    schur_apply : callable or None, default None
        `schur_apply(x) -> S x`, vectors of shape (k,), in place of the library's product in `inexact_pcg`. `S` is the
        complement at the requested ridges.
    preconditioner : str, default 'ladder'
        Preconditioner of `inexact_pcg`: 'ladder' (the cheapest that converges, climbing as tiers run out of budget),
        'none', 'diagonal', 'block', 'cluster', 'schwarz', 'incomplete_cholesky', 'power_series', 'nystrom' or
        'deflated'.
    accept_truncated : bool, default False
        Hand out a step whose iteration ran out of budget, marked.
    memory_limit : int or None, default None
        Bytes of workspace and results, >= 0.
    device_memory_limit : int or None, default None
        Bytes that a call may hold on a device, >= 0; None: what is free there, at most half of all there is.
    frame_cache_entries : int, default 4
        Factors (on a device: frames) that a resident workspace keeps, one per pair of ridges, >= 0.
    calibrate : {'off', 'cache', 'measure'}, default 'cache'
        Where the rates of the cost model come from: built-in values, a profile of this machine that is measured once
        and cached, or a new measurement.
    num_threads : int or None, default None
        >= 1; None: the setting of `set_num_threads`.
    policy : policy.DispatchPolicy or None, default None
        Where work runs; None: the policy in force.
    expected_solves : int, default 1
        Solves per factor, >= 1: the cost model weighs the factorization against them.

    Raises
    ------
    InvalidArgument
        A field is out of its range; the message names it.

    Notes
    -----
    A value that this version knows but cannot honour (marked "later version" above, and `precision='mixed'`) is
    accepted here and is `UnsupportedConfiguration` at the call that would have to honour it. Parameters of a route that
    does not run, such as `pcg` on the direct route, have no effect. Options with a `schur_apply` pickle where the
    callable does.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> options = asn.SolveOptions(certificate_tolerance=1e-12)
    >>> options.replace(num_threads=2).certificate_tolerance
    1e-12
    """

    mode: str = "auto"
    device: str = "auto"
    precision: str = "float64"
    certificate: bool = True
    certificate_tolerance: float | None = None
    guards: str = "relative"
    row_lift: str = "indefinite"
    tolerate_ill_conditioning: bool = False
    pcg: PcgOptions = PcgOptions()
    trust_region: TrustRegionOptions = TrustRegionOptions()
    mixed: MixedOptions = MixedOptions()
    streaming_chunk_size: int | None = None
    schur_pd_floor: float | None = None
    schur_apply: Callable[[Any], Any] | None = None
    preconditioner: str = "ladder"
    accept_truncated: bool = False
    memory_limit: int | None = None
    device_memory_limit: int | None = None
    frame_cache_entries: int = 4
    calibrate: str = "cache"
    num_threads: int | None = None
    policy: Any = None
    expected_solves: int = 1
    _handle: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _boolean("certificate", self.certificate)
        _number("certificate_tolerance", self.certificate_tolerance, lambda x: x > 0, "a number > 0", optional=True)
        _boolean("tolerate_ill_conditioning", self.tolerate_ill_conditioning)
        _instance("pcg", self.pcg, PcgOptions)
        _instance("trust_region", self.trust_region, TrustRegionOptions)
        _instance("mixed", self.mixed, MixedOptions)
        _integer("streaming_chunk_size", self.streaming_chunk_size, 0, optional=True)
        _number("schur_pd_floor", self.schur_pd_floor, lambda x: 0 < x < 1, "in (0, 1)", optional=True)
        if self.schur_apply is not None and not callable(self.schur_apply):
            raise _complain("schur_apply", self.schur_apply, "a callable, or None")
        if self.policy is not None and not isinstance(getattr(self.policy, "_handle", None), _core.DispatchPolicy):
            raise _complain("policy", self.policy, "a policy.DispatchPolicy, or None")
        _boolean("accept_truncated", self.accept_truncated)
        _integer("memory_limit", self.memory_limit, 0, optional=True)
        _integer("device_memory_limit", self.device_memory_limit, 0, optional=True)
        _integer("frame_cache_entries", self.frame_cache_entries, 0)
        _integer("num_threads", self.num_threads, 1, optional=True)
        _integer("expected_solves", self.expected_solves, 1)
        # The remaining fields are checked by the core, which has the same rules for its C++ users.
        core = _core.SolveOptions(
            mode=self.mode,
            device=self.device,
            precision=self.precision,
            certificate=self.certificate,
            certificate_tolerance=None if self.certificate_tolerance is None else float(self.certificate_tolerance),
            guards=self.guards,
            row_lift=self.row_lift,
            tolerate_ill_conditioning=self.tolerate_ill_conditioning,
            pcg=self.pcg._handle,
            trust_region=self.trust_region._handle,
            preconditioner=self.preconditioner,
            accept_truncated=self.accept_truncated,
            schur_pd_floor=None if self.schur_pd_floor is None else float(self.schur_pd_floor),
            schur_apply=self.schur_apply,
            calibrate=self.calibrate,
            policy=None if self.policy is None else self.policy._handle,
            expected_solves=int(self.expected_solves),
            memory_limit=None if self.memory_limit is None else int(self.memory_limit),
            device_memory_limit=None if self.device_memory_limit is None else int(self.device_memory_limit),
            frame_cache_entries=int(self.frame_cache_entries),
            num_threads=None if self.num_threads is None else min(int(self.num_threads), 2**31 - 1),
        )
        object.__setattr__(self, "_handle", core)


def solve_options(options: SolveOptions | None) -> _core.SolveOptions:
    """Return the core's options, refusing what this version cannot honour."""
    if options is None:
        return DEFAULT_CORE
    if type(options) is not SolveOptions:
        raise InvalidArgument(argument="options", got=f"{options!r:.80}", expected="SolveOptions, or None")
    # Modes, precisions and devices are refused by the plan; chunks never reach it.
    if options.streaming_chunk_size:
        raise UnsupportedConfiguration(
            feature="streaming_chunk_size", route="this version", hint="leave it None: the system is solved in memory"
        )
    core: _core.SolveOptions = options._handle
    return core


def escalation_options(escalation: EscalationOptions | None) -> _core.EscalationOptions:
    """Return the core's escalation options."""
    if escalation is None:
        return DEFAULT_ESCALATION
    if type(escalation) is not EscalationOptions:
        raise InvalidArgument(argument="escalation", got=f"{escalation!r:.80}", expected="EscalationOptions, or None")
    core: _core.EscalationOptions = escalation._handle
    return core


DEFAULT_CORE: _core.SolveOptions = SolveOptions()._handle
DEFAULT_ESCALATION: _core.EscalationOptions = EscalationOptions()._handle
