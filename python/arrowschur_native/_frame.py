"""Frames: factors that stay on a device between solves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from . import _core
from ._arrays import Array, describe, float64_array
from ._device_arrays import DeviceArray, DeviceSystem, is_device_array
from ._errors import InvalidArgument, UnsupportedConfiguration
from ._options import PcgOptions, _boolean, _instance, _integer
from ._results import PcgDiagnostics, _Printed
from ._shapes import border_vector, row_shapes, row_vector
from ._system import ArrowSystem, system_handle
from ._telemetry import Telemetry

__all__ = [
    "ArrowFrame",
    "BaseArrowFrame",
    "FrameCandidate",
    "FrameFactors",
    "FramePlan",
    "FrameStep",
    "newton_step_reupload",
]


@dataclass(frozen=True, repr=False)
class FrameCandidate(_Printed):
    """A route that the factors of a frame could take, or could not.

    Attributes
    ----------
    route : {'direct', 'dual', 'inexact_pcg'}
    up_seconds, build_seconds, solve_seconds : float
        Predicted; the last is one solve.
    seconds : float
        Predicted: upload, build and `expected_solves` solves.
    peak_bytes : int
        On the device, blocks included; 0 where the route does not exist.
    why_not : str
        Empty where it was possible.
    """

    route: str
    up_seconds: float
    build_seconds: float
    solve_seconds: float
    seconds: float
    peak_bytes: int
    why_not: str


@dataclass(frozen=True, repr=False)
class FramePlan(_Printed):
    """The route of a frame's factors, and what it was chosen from.

    Attributes
    ----------
    route : {'direct', 'dual', 'inexact_pcg'}
        What factors take, unless the dual route is left (`FrameStep.route`, `FrameFactors.route`).
    expected_solves : int
        Solves per factor that the prediction counts.
    candidates : tuple of FrameCandidate
    profile : str
        Of the device.
    """

    route: str
    expected_solves: int
    candidates: tuple[FrameCandidate, ...]
    profile: str


def _plan(values: dict[str, Any]) -> FramePlan:
    candidates = tuple(FrameCandidate(**candidate) for candidate in values["candidates"])
    return FramePlan(**{**values, "candidates": candidates})


@dataclass(frozen=True, repr=False, eq=False)
class FrameStep(_Printed):
    """A step that a device has computed.

    Attributes
    ----------
    delta_t : ndarray or DeviceArray, shape of the row gradient, float64
    delta_beta : ndarray or DeviceArray, (k,), float64
        `-(H + ridges)^-1 g`; on the device where the gradient was, unless `output='host'`.
    log_det_hessian : float
        `log det(H + ridges)`; NaN on the route `'inexact_pcg'`.
    ridge_t, ridge_beta : float
    route : {'direct', 'dual', 'inexact_pcg'}
        Of the factors: `'direct'` where the dual route of the plan was left.
    pcg : PcgDiagnostics or None
        Of the route `'inexact_pcg'`. `final_relative_residual` is the true one, `residual_gap` its distance from that
        of the recurrence; `matvec_calls` are those of the iteration.
    certificate : float
        Normwise backward error; NaN unless it was asked for.
    execution_path : str
        `'gpu-resident-linearization'` or `'gpu-reupload'`.
    backend : str
        `'cuda'`.
    unproven_path : str
        Empty, but for results of a stand-in for a device in tests, whose `execution_path` is `'cpu'`: the path that it
        stood for.
    telemetry : Telemetry
        Counters of this call.
    """

    delta_t: Array | DeviceArray
    delta_beta: Array | DeviceArray
    log_det_hessian: float
    ridge_t: float
    ridge_beta: float
    certificate: float
    execution_path: str
    backend: str
    unproven_path: str
    route: str
    pcg: PcgDiagnostics | None
    telemetry: Telemetry

    @property
    def used_device(self) -> bool:
        """Whether the step ran on a device."""
        return self.execution_path != "cpu"


def _output(output: Any) -> str:
    if output not in ("auto", "host"):
        raise InvalidArgument(argument="output", got=f"{output!r:.40}", expected="'auto' or 'host'")
    return str(output)


def _placed(array: Any, output: str) -> Array | DeviceArray:
    """Make a result of the core's: NumPy's as it is, a device's shared or copied."""
    if not isinstance(array, _core.DeviceArray):
        return array  # type: ignore[no-any-return]
    return array.copy_to_host() if output == "host" else DeviceArray._of(array)


def _step(values: dict[str, Any], output: str = "auto") -> FrameStep:
    pcg = None if values["pcg"] is None else PcgDiagnostics(**values["pcg"])
    arrays = {name: _placed(values[name], output) for name in ("delta_t", "delta_beta")}
    return FrameStep(**{**values, **arrays, "pcg": pcg, "telemetry": Telemetry(**values["telemetry"])})


def _on_device(first: Any, second: Any, names: tuple[str, str]) -> bool:
    """Return whether both arguments are arrays of a device; one of each kind is refused."""
    there = is_device_array(first), is_device_array(second)
    if there[0] != there[1] and first is not None and second is not None:
        name = names[0] if there[1] else names[1]
        raise InvalidArgument(
            argument=name, got="an array of the host", expected="both on the device, or both on the host"
        )
    return all(there)


def _frame_options(
    *,
    route: Any,
    storage: Any = "float64",
    expected_solves: Any = 8,
    border_inverse: Any,
    device_memory_limit: Any,
    cache_entries: Any = 4,
    pcg: Any,
    accept_truncated: Any,
) -> _core.FrameOptions:
    if storage != "float64":
        raise UnsupportedConfiguration(feature=f"storage={storage!r:.40}", route="a frame", hint="use 'float64'")
    _integer("expected_solves", expected_solves, 1)
    _integer("device_memory_limit", device_memory_limit, 0, optional=True)
    _integer("cache_entries", cache_entries, 0)
    _boolean("accept_truncated", accept_truncated)
    chosen = PcgOptions() if pcg is None else pcg
    _instance("pcg", chosen, PcgOptions)
    return _core.FrameOptions(
        route=route,
        expected_solves=int(expected_solves),
        border_inverse=border_inverse,
        device_memory_limit=None if device_memory_limit is None else int(device_memory_limit),
        cache_entries=int(cache_entries),
        pcg=chosen._handle,
        accept_truncated=accept_truncated,
    )


def _gradient(system: ArrowSystem | DeviceSystem, g_t: Any, g_beta: Any) -> tuple[Any, Any]:
    """Return the gradient as the core takes it: none, NumPy arrays, or arrays of a device as they are."""
    if (g_t is None) != (g_beta is None):
        missing = "g_t" if g_t is None else "g_beta"
        raise InvalidArgument(argument=missing, got="None", expected="both gradients, or neither")
    if g_t is None:
        return None, None
    if _on_device(g_t, g_beta, ("g_t", "g_beta")):
        return g_t, g_beta
    if isinstance(system, DeviceSystem):
        return _vector(g_t, "g_t", _shapes_of(system)), _vector(g_beta, "g_beta", [(system.k,)])
    return row_vector(system, g_t, "g_t"), border_vector(system, g_beta, "g_beta")


def _shapes_of(system: ArrowSystem | DeviceSystem) -> list[tuple[int, ...]]:
    if isinstance(system, DeviceSystem):
        return [(system.n, system.d), (system.n * system.d,)]
    return row_shapes(system)


def _vector(value: Any, name: str, shapes: list[tuple[int, ...]]) -> Array:
    array = float64_array(value, name)
    if array.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise InvalidArgument(argument=name, got=describe(array), expected=f"shape {expected}")
    return array


class ArrowFrame:
    """The factors of `H + ridges` at one pair of ridges, on a device. Made by `build`.

    .. code-block:: text

        A_i = L_i L_i'     W_i = L_i^-1 B_i     S = M - W'W = L_S L_S'

    `L`, `W` and `L_S` stay on the device. A step sends `T + k` numbers, gets as many back, and factors nothing. On the
    dual route, for a diagonal or banded `M` and `T < k`, they are `L`, `W`, `V = M^-1 W'` and the factors of `M` and of
    `C = I - W V`: no `k x k` matrix is formed.

    Attributes
    ----------
    system : ArrowSystem or DeviceSystem
        What it was built from.
    ridge_t, ridge_beta : float
    log_det_hessian : float
        `log det(H + ridges)`; NaN on the route `'inexact_pcg'`.
    route : {'direct', 'dual', 'inexact_pcg'}
        Of its factors.
    plan : FramePlan
        What the route was chosen from.
    device_bytes : int
        Held on the device.
    telemetry : Telemetry
        Counters since it was built, the build included.

    Notes
    -----
    There is no frame without a device: `build` raises `DeviceUnavailableError`. Calls on one frame wait for each other;
    distinct frames run at the same time. Rows are never lifted. Every method releases the GIL. Equal inputs give equal
    bits, and those of `newton_step_reupload`.
    """

    __slots__ = ("_handle", "system")
    system: ArrowSystem | DeviceSystem
    _handle: _core.ArrowFrame

    def __init__(self) -> None:
        raise TypeError("ArrowFrame is made by ArrowFrame.build(system)")

    @classmethod
    def build(
        cls,
        system: ArrowSystem | DeviceSystem,
        ridge_t: float = 0.0,
        ridge_beta: float = 0.0,
        *,
        route: str = "auto",
        storage: str = "float64",
        expected_solves: int = 8,
        border_inverse: str = "blocks",
        device_memory_limit: int | None = None,
        pcg: PcgOptions | None = None,
        accept_truncated: bool = False,
    ) -> ArrowFrame:
        """Upload a system once, or take one that is on the device already, and factor it there.

        Parameters
        ----------
        system : ArrowSystem or DeviceSystem
            With a dense cross block, a border without callbacks, and rows of at most 32 unknowns. Diagonal, banded and
            block-diagonal borders travel in their own form.
        ridge_t, ridge_beta : float, default 0
            Finite, >= 0.
        route : {'auto', 'direct', 'dual', 'inexact_pcg'}, default 'auto'
            `'auto'`: direct or dual, whichever is predicted to be faster over `expected_solves` solves, within the
            memory; the dual route is left where `M` or `C` has no factor. `'dual'`: that or an error. `'inexact_pcg'`:
            conjugate gradients on `S`, preconditioned by its diagonal, with nothing of order `k x k`.
        storage : {'float64'}, default 'float64'
        expected_solves : int, default 8
            What `route='auto'` and `border_inverse='auto'` weigh, >= 1.
        border_inverse : {'blocks', 'full', 'auto'}, default 'blocks'
            Invert the diagonal blocks of `L_S`, or all of it: `k^3 / 3` flops more per build for solves without a chain
            of dependent blocks. `'auto'`: all of it where `expected_solves` are predicted to pay for that. The rounding
            of the two differs.
        device_memory_limit : int, optional
            Bytes; None: what is free, at most half of the device.
        pcg : PcgOptions, optional
            Of the route `'inexact_pcg'`: `max_iterations`, and `relative_tolerance`, 1e-4 by default.
        accept_truncated : bool, default False
            Hand out a step whose iterations were used up, marked `stopping_reason='max_iter'`; otherwise it is a
            `PcgError`.

        Returns
        -------
        ArrowFrame

        Raises
        ------
        DeviceUnavailableError
            There is no device, or not enough memory on it.
        UnsupportedConfiguration
            The system has no dense form that a device takes, or not the route that was asked for.
        RowFactorError, SchurFactorError
            The operator is not positive definite. The `suggested_ridge` of a row counts its coupling to the border.
        DeviceError
            The device failed.
        """
        options = _frame_options(
            route=route,
            storage=storage,
            expected_solves=expected_solves,
            border_inverse=border_inverse,
            device_memory_limit=device_memory_limit,
            pcg=pcg,
            accept_truncated=accept_truncated,
        )
        frame = cls.__new__(cls)
        if isinstance(system, DeviceSystem):
            core = _core.ArrowFrame.adopt(system._handle, ridge_t, ridge_beta, options)
        else:
            core = _core.ArrowFrame.build(system_handle(system), ridge_t, ridge_beta, options)
        object.__setattr__(frame, "_handle", core)
        object.__setattr__(frame, "system", system)
        return frame

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"ArrowFrame is immutable: cannot set {name!r}")

    def __repr__(self) -> str:
        return f"ArrowFrame({self.system!r}, ridge_t={self.ridge_t:.6g}, ridge_beta={self.ridge_beta:.6g})"

    @property
    def ridge_t(self) -> float:
        """Ridge of the rows."""
        return self._handle.ridge_t

    @property
    def ridge_beta(self) -> float:
        """Ridge of the border."""
        return self._handle.ridge_beta

    @property
    def log_det_hessian(self) -> float:
        """`log det(H + ridges)`."""
        return self._handle.log_det_hessian

    @property
    def route(self) -> str:
        """Route of its factors."""
        return self._handle.route

    @property
    def plan(self) -> FramePlan:
        """What the route was chosen from."""
        return _plan(self._handle.plan)

    @property
    def device_bytes(self) -> int:
        """Bytes on the device."""
        return self._handle.device_bytes

    @property
    def telemetry(self) -> Telemetry:
        """Counters since it was built."""
        return Telemetry(**self._handle.telemetry())

    def matches_ridge(self, ridge_t: float, ridge_beta: float) -> bool:
        """Return whether these are exactly the ridges of the frame. NaN matches nothing."""
        return self._handle.matches_ridge(float(ridge_t), float(ridge_beta))

    def step(
        self,
        g_t: ArrayLike | None = None,
        g_beta: ArrayLike | None = None,
        *,
        certificate: bool = False,
        output: str = "auto",
    ) -> FrameStep:
        """Return `-(H + ridges)^-1 g`; the gradient of the system by default.

        Parameters
        ----------
        g_t : (n, d) or (T,) array_like, or array of the device, optional
        g_beta : (k,) array_like, or array of the device, optional
        certificate : bool, default False
            Measure the normwise backward error on the device.
        output : {'auto', 'host'}, default 'auto'
            The step of a gradient on the device stays there as two `DeviceArray`; `'host'` copies it.

        Returns
        -------
        FrameStep

        Raises
        ------
        InvalidArgument
            A shape does not fit, or an entry is not finite.
        PcgError
            The iteration of the route `'inexact_pcg'` has not converged, or `S` is not positive definite.
        DeviceError
            The device failed.
        """
        _boolean("certificate", certificate)
        place = _output(output)
        gradient = _gradient(self.system, g_t, g_beta)
        call = self._handle.step_there if is_device_array(gradient[0]) else self._handle.step
        return _step(call(*gradient, certificate), place)

    def solve(
        self, w_t: ArrayLike, w_beta: ArrayLike, *, output: str = "auto"
    ) -> tuple[Array | DeviceArray, Array | DeviceArray]:
        """Return `x = (H + ridges)^-1 w`.

        Parameters
        ----------
        w_t : (n, d) or (T,) array_like; (n, d, m) or (T, m) for `m` right-hand sides
        w_beta : (k,) or (k, m) array_like
            `m` is read from here. One right-hand side may be two arrays of the device.
        output : {'auto', 'host'}, default 'auto'
            As of `step`.

        Returns
        -------
        x_t, x_beta : ndarray or DeviceArray, float64
            In the shapes of `w_t` and `w_beta`.

        Raises
        ------
        InvalidArgument
            A shape does not fit, or an entry is not finite.
        PcgError
            As `step`.
        DeviceError
            The device failed.
        """
        place = _output(output)
        if _on_device(w_t, w_beta, ("w_t", "w_beta")):
            there = self._handle.solve_there(w_t, w_beta)
            return _placed(there[0], place), _placed(there[1], place)
        beta = float64_array(w_beta, "w_beta")
        k = self.system.k
        if beta.shape[:1] != (k,) or beta.ndim > 2:
            raise InvalidArgument(argument="w_beta", got=describe(beta), expected=f"shape ({k},) or ({k}, m)")
        rows = float64_array(w_t, "w_t")
        allowed = [(*shape, *beta.shape[1:]) for shape in _shapes_of(self.system)]
        if rows.shape not in allowed:
            shapes = " or ".join(map(str, allowed))
            raise InvalidArgument(
                argument="w_t", got=describe(rows), expected=f"shape {shapes}, as w_beta has shape {beta.shape}"
            )
        return self._handle.solve(rows, beta)


class FrameFactors:
    """Factors of a `BaseArrowFrame` at one pair of ridges; made by its `factor_at`.

    Attributes
    ----------
    ridge_t, ridge_beta : float
    route : {'direct', 'dual', 'inexact_pcg'}
    log_det_hessian : float
        `log det(H + ridges)`; NaN on the route `'inexact_pcg'`.

    Notes
    -----
    They live on the device, belong to the frame that made them, and are of no use after its `refresh`.
    """

    __slots__ = ("_handle",)
    _handle: _core.FrameFactors

    def __init__(self) -> None:
        raise TypeError("FrameFactors is made by BaseArrowFrame.factor_at(ridge_t, ridge_beta)")

    @property
    def ridge_t(self) -> float:
        """Ridge of the rows."""
        return self._handle.ridge_t

    @property
    def ridge_beta(self) -> float:
        """Ridge of the border."""
        return self._handle.ridge_beta

    @property
    def route(self) -> str:
        """How the border is solved."""
        return self._handle.route

    @property
    def log_det_hessian(self) -> float:
        """`log det(H + ridges)`."""
        return self._handle.log_det_hessian

    def __repr__(self) -> str:
        return f"FrameFactors(ridge_t={self.ridge_t:.6g}, ridge_beta={self.ridge_beta:.6g})"


class BaseArrowFrame:
    """The blocks of a system on a device, without ridges, for a ladder of them.

    The blocks are uploaded once. Factors are made from them on the device, as often as wanted, with the bits of an
    `ArrowFrame` at the same ridges. A move of `ridge_beta` alone factors the border only; on the dual route it makes
    `V` and `C` again from the rows that are there.

    Parameters
    ----------
    system : ArrowSystem or DeviceSystem
        As for `ArrowFrame.build`.
    route, expected_solves, border_inverse, device_memory_limit, pcg, accept_truncated
        As for `ArrowFrame.build`.
    cache_entries : int, default 4
        Factors that the frame keeps by itself, one per pair of ridges.

    Attributes
    ----------
    system : ArrowSystem or DeviceSystem
        What it holds the numbers of.
    plan : FramePlan
        What the route was chosen from.
    device_bytes : int
    telemetry : Telemetry
        Counters since it was built.

    Raises
    ------
    DeviceUnavailableError, UnsupportedConfiguration, DeviceError
        As `ArrowFrame.build`.
    """

    __slots__ = ("_handle", "_system")
    _handle: _core.BaseArrowFrame
    _system: ArrowSystem | DeviceSystem

    def __init__(
        self,
        system: ArrowSystem | DeviceSystem,
        *,
        route: str = "auto",
        expected_solves: int = 8,
        border_inverse: str = "blocks",
        device_memory_limit: int | None = None,
        cache_entries: int = 4,
        pcg: PcgOptions | None = None,
        accept_truncated: bool = False,
    ) -> None:
        options = _frame_options(
            route=route,
            expected_solves=expected_solves,
            border_inverse=border_inverse,
            device_memory_limit=device_memory_limit,
            cache_entries=cache_entries,
            pcg=pcg,
            accept_truncated=accept_truncated,
        )
        if isinstance(system, DeviceSystem):
            self._handle = _core.BaseArrowFrame.adopt(system._handle, options)
        else:
            self._handle = _core.BaseArrowFrame.build(system_handle(system), options)
        self._system = system

    @property
    def system(self) -> ArrowSystem | DeviceSystem:
        """The system whose numbers it holds."""
        return self._system

    @property
    def plan(self) -> FramePlan:
        """What the route was chosen from."""
        return _plan(self._handle.plan)

    @property
    def device_bytes(self) -> int:
        """Bytes on the device, kept factors included."""
        return self._handle.device_bytes()

    @property
    def telemetry(self) -> Telemetry:
        """Counters since it was built."""
        return Telemetry(**self._handle.telemetry())

    def __repr__(self) -> str:
        return f"BaseArrowFrame({self._system!r})"

    def factor_at(self, ridge_t: float = 0.0, ridge_beta: float = 0.0) -> FrameFactors:
        """Return the factors at these ridges, made from the blocks on the device; nothing is uploaded.

        Raises
        ------
        RowFactorError, SchurFactorError
            The operator at these ridges is not positive definite.
        DeviceUnavailableError
            Not enough memory on the device.
        InvalidArgument, DeviceError
        """
        factors = FrameFactors.__new__(FrameFactors)
        factors._handle = self._handle.factor_at(ridge_t, ridge_beta)
        return factors

    def solve_with(
        self,
        factors: FrameFactors,
        g_t: ArrayLike | None = None,
        g_beta: ArrayLike | None = None,
        *,
        certificate: bool = False,
        output: str = "auto",
    ) -> FrameStep:
        """Return `-(H + ridges)^-1 g` at the ridges of the factors; the gradient of the system by default.

        Raises
        ------
        InvalidArgument
            A shape does not fit, an entry is not finite, or the factors are of another frame or of before a `refresh`.
        DeviceError
        """
        if not isinstance(factors, FrameFactors):
            raise InvalidArgument(argument="factors", got=f"{factors!r:.80}", expected="FrameFactors of this frame")
        _boolean("certificate", certificate)
        place = _output(output)
        gradient = _gradient(self._system, g_t, g_beta)
        call = self._handle.solve_with_there if is_device_array(gradient[0]) else self._handle.solve_with
        return _step(call(factors._handle, *gradient, certificate), place)

    def refactor_and_solve(
        self,
        ridge_t: float = 0.0,
        ridge_beta: float = 0.0,
        g_t: ArrayLike | None = None,
        g_beta: ArrayLike | None = None,
        *,
        certificate: bool = False,
        output: str = "auto",
    ) -> FrameStep:
        """Return the step at these ridges: `factor_at` and `solve_with` in one call.

        Raises
        ------
        InvalidArgument, RowFactorError, SchurFactorError, DeviceUnavailableError, DeviceError
            As those two.
        """
        _boolean("certificate", certificate)
        place = _output(output)
        gradient = _gradient(self._system, g_t, g_beta)
        there = is_device_array(gradient[0])
        call = self._handle.refactor_and_solve_there if there else self._handle.refactor_and_solve
        return _step(call(ridge_t, ridge_beta, *gradient, certificate), place)

    def refresh(self, system: ArrowSystem | DeviceSystem) -> None:
        """Replace the numbers by those of another system of the same shape. No factor survives.

        A frame of a `DeviceSystem` takes another one, whose arrays it reads from then on.

        Raises
        ------
        InvalidArgument
            A shape, the form of the border or the place (host, device) differs: the frame is left as it was.
        UnsupportedConfiguration, DeviceError
        """
        if isinstance(system, DeviceSystem):
            self._handle.refresh_there(system._handle)
        else:
            self._handle.refresh(system_handle(system))
        self._system = system


def newton_step_reupload(
    system: ArrowSystem,
    *,
    ridge_t: float = 0.0,
    ridge_beta: float = 0.0,
    certificate: bool = False,
    route: str = "auto",
    border_inverse: str = "blocks",
    device_memory_limit: int | None = None,
    pcg: PcgOptions | None = None,
    accept_truncated: bool = False,
) -> FrameStep:
    """Solve for one Newton step on a device and keep nothing there: upload, factors, one solve.

    Parameters
    ----------
    system : ArrowSystem
        As for `ArrowFrame.build`.
    ridge_t, ridge_beta : float, default 0
        Finite, >= 0.
    certificate : bool, default False
        Measure the normwise backward error on the device.
    route, border_inverse, device_memory_limit, pcg, accept_truncated
        As for `ArrowFrame.build`.

    Returns
    -------
    FrameStep
        With the bits of `ArrowFrame.build(system, ridge_t, ridge_beta).step()` on the same route.

    Raises
    ------
    DeviceUnavailableError, UnsupportedConfiguration, RowFactorError, SchurFactorError, DeviceError, InvalidArgument
        As `ArrowFrame.build`. Rows are not lifted.

    Notes
    -----
    What keeping the factors saves is what this pays: every call moves the whole system.
    """
    _boolean("certificate", certificate)
    options = _frame_options(
        route=route,
        border_inverse=border_inverse,
        device_memory_limit=device_memory_limit,
        pcg=pcg,
        accept_truncated=accept_truncated,
    )
    return _step(_core.newton_step_reupload(system_handle(system), ridge_t, ridge_beta, certificate, options))
