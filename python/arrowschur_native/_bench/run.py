"""Run the shapes: ours, the peers and the machine's own routines in turn."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import ArrowSystem, factorize, newton_step
from . import load_peers
from .limits import Blas, bandwidth, blas_libraries, gemm_rate
from .shapes import Shape, make_system
from .timing import Contender, Times, once, race

__all__ = ["Machine", "Target", "measure_machine", "run_overhead", "run_shape", "run_solve"]

Record = dict[str, Any]

# A peer that returned another step would not be a peer: largest entry of the difference over largest entry of the step.
AGREEMENT = 1e-9
# Peers that come within this factor of the fastest in a trial take part in the race.
CLOSE = 1.25
# Slower contenders are timed once, not in turns.
SLOW_SECONDS = 1.0
RIGHT_HAND_SIDES = 64


@dataclass(frozen=True)
class Target:
    """A promise about a ratio, and what was measured."""

    name: str
    value: float
    bound: float
    at_most: bool

    @property
    def met(self) -> bool:
        """Whether the measured ratio keeps the promise."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def to_dict(self) -> Record:
        """Return the fields and `met`."""
        return {
            "name": self.name,
            "value": self.value,
            "target": self.bound,
            "at_most": self.at_most,
            "met": self.met,
        }


@dataclass(frozen=True)
class Machine:
    """What was measured of the machine before the shapes."""

    threads: int
    libraries: list[Blas]
    gemm: dict[str, float]  # flops per second by library
    streams: dict[str, float]  # bytes per second by method
    blas_limit: Callable[[], AbstractContextManager[Any]] | None = field(repr=False, default=None)

    @property
    def bandwidth(self) -> float:
        """Bytes per second of the fastest method."""
        return max(self.streams.values())

    def to_dict(self) -> Record:
        """Return the figures with their units in the names."""
        return {
            "threads": self.threads,
            "gemm_gflops": {name: rate / 1e9 for name, rate in self.gemm.items()},
            "blas_kernels": {library.name: library.kernels for library in self.libraries},
            "bandwidth_gb_per_s": {name: rate / 1e9 for name, rate in self.streams.items()},
        }


def measure_machine(threads: int) -> Machine:
    """Open the BLAS libraries and measure GEMM and memory."""
    libraries = blas_libraries(threads)
    return Machine(
        threads, libraries, {library.name: gemm_rate(library) for library in libraries}, bandwidth(threads), _limiter()
    )


def _limiter() -> Callable[[], AbstractContextManager[Any]] | None:
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    controller: Any = importlib.import_module("threadpoolctl").ThreadpoolController()
    return lambda: controller.limit(limits=1, user_api="blas")


# ---- one shape ------------------------------------------------------------------------------------------------------
def run_shape(shape: Shape, machine: Machine, budget: float) -> Record:
    """Time `newton_step`, the fastest peers, SYRK and POTRF in turns; return everything as plain values."""
    fixture, system = make_system(shape)
    peers = load_peers()
    parts = peers.Parts(fixture.h_tt, fixture.h_tb, fixture.h_bb, fixture.g_t, fixture.g_beta)
    step = newton_step(system)
    ours = Contender(lambda: newton_step(system))

    # ---- which peer, which BLAS ----
    dense = {
        peer.name: peer
        for peer in peers.make_peers(shape.n, shape.d, shape.k, threads=machine.threads, blas_limit=machine.blas_limit)
    }
    agreement = {name: _difference(step, peer(parts)) for name, peer in dense.items()}
    trials = {name: once(_peer(peer, parts)) for name, peer in dense.items()}
    # A page of plain code and PyTorch are of interest even when they are not among the fastest.
    kept = [name for name in dense if trials[name] <= CLOSE * min(trials.values()) or name in ("plain", "torch")]
    for name in set(dense) - set(kept):
        _close(dense.pop(name))

    slow: dict[str, Times] = {}
    if shape.sparse and dense:
        for ordering in ("natural", "colamd"):
            peer = _sparse_peer(parts, ordering)
            agreement[peer.name] = _difference(step, peer(parts))
            seconds = once(_peer(peer, parts))
            if seconds > SLOW_SECONDS:
                slow[peer.name] = Times((seconds,))
            else:
                dense[peer.name] = peer
    for name, difference in agreement.items():
        if not difference <= AGREEMENT:
            raise ArithmeticError(f"{shape.name}: peer {name} returned another step, off by {difference:.1e}")

    w, s = parts.h_tb.reshape(shape.total_dim, shape.k), np.empty((shape.k, shape.k))
    routines = {library.name: _routines(library, w, s, parts.h_bb) for library in machine.libraries}
    best = {kind: min(routines, key=lambda name: once(routines[name][kind])) for kind in ("syrk", "potrf")}

    # ---- in turns ----
    contenders = {"ours": ours, "syrk": routines[best["syrk"]]["syrk"], "potrf": routines[best["potrf"]]["potrf"]}
    if "scipy" in routines:
        contenders.update({f"scipy {kind}": contender for kind, contender in routines["scipy"].items()})
    contenders.update({name: _peer(peer, parts) for name, peer in dense.items()})
    times = {**race(contenders, budget), **slow}
    for peer in dense.values():
        _close(peer)

    # ---- what it means ----
    time = times["ours"].median
    arithmetic = times["syrk"].median + times["potrf"].median
    passes = 2 * shape.cross_bytes / machine.bandwidth
    limit = max(times["syrk"].median, passes) if shape.bound == "stream" else arithmetic
    targets = []
    if shape.limit_factor is not None:
        targets.append(Target("limit", time / limit, shape.limit_factor, at_most=True))
    fastest = min(kept, key=lambda name: times[name].median, default=None)
    if fastest is not None:
        targets.append(Target("peer", times[fastest].median / time, shape.peer_factor, at_most=False))
    return {
        "name": shape.name,
        "n": shape.n,
        "d": shape.d,
        "k": shape.k,
        "bound": shape.bound,
        "seconds": {name: t.to_dict() for name, t in times.items()},
        "trial_seconds": trials,
        "blas": best,
        "syrk_gflops": shape.total_dim * shape.k**2 / times["syrk"].median / 1e9,
        "potrf_gflops": shape.k**3 / 3 / times["potrf"].median / 1e9,
        "two_passes_seconds": passes,
        "limit_seconds": limit,
        "fastest_peer": fastest,
        "ratios": {name: t.median / time for name, t in times.items() if name in kept or name.startswith("splu")},
        "agreement": agreement,
        "targets": [target.to_dict() for target in targets],
        **_account(system),
    }


def _account(system: ArrowSystem) -> Record:
    """Return the seconds per stage (medians of a few steps) and what the certificate said."""
    steps = [newton_step(system).diagnostics for _ in range(5)]
    return {
        "stages": {stage: float(np.median([s.seconds[stage] for s in steps])) for stage in steps[0].seconds},
        "backward_error": steps[-1].backward_error,
        "refinement_steps": steps[-1].refinement_steps,
        "route": steps[-1].plan.route,
        "thin_border": steps[-1].plan.thin_border,
        "peak_bytes": steps[-1].peak_bytes,
    }


def _peer(peer: Any, parts: Any) -> Contender:
    return Contender(lambda: peer(parts))


def _close(peer: Any) -> None:
    if hasattr(peer, "close"):
        peer.close()


def _sparse_peer(parts: Any, ordering: str) -> Any:
    load_peers()
    module = importlib.import_module(f"{__package__}.peers.sparse")
    return module.SparseLU(parts, ordering)


def _routines(library: Blas, w: Any, s: Any, matrix: Any) -> dict[str, Contender]:
    return {
        "syrk": Contender(lambda: library.syrk(w, s)),
        "potrf": Contender(lambda: library.potrf(s), prepare=lambda: np.copyto(s, matrix)),
    }


def _difference(step: Any, other: tuple[Any, Any]) -> float:
    scale = max(float(np.abs(part).max()) for part in (step.delta_t, step.delta_beta))
    pairs = ((step.delta_t, other[0]), (step.delta_beta, other[1]))
    return max(float(np.abs(a - b).max()) for a, b in pairs) / scale


# ---- many right-hand sides, and none worth speaking of --------------------------------------------------------------
def run_solve(shape: Shape, machine: Machine, budget: float) -> Record:
    """Time `factor.solve` for one and for 64 right-hand sides."""
    _, system = make_system(shape)
    factor = factorize(system)
    rng = np.random.default_rng(0)
    many = RIGHT_HAND_SIDES
    w_t, w_beta = rng.random((shape.total_dim, many)), rng.random((shape.k, many))
    one_t, one_beta = w_t[:, 0].copy(), w_beta[:, 0].copy()
    times = race(
        {
            "one": Contender(lambda: factor.solve(one_t, one_beta)),
            "many": Contender(lambda: factor.solve(w_t, w_beta)),
        },
        budget,
    )
    limit = (16.0 * shape.total_dim * shape.k + 8.0 * shape.k**2) / machine.bandwidth
    one, many_seconds = times["one"].median, times["many"].median
    targets = (Target("limit", one / limit, 1.5, at_most=True), Target("many", many_seconds / one, 8.0, at_most=True))
    return {
        "name": f"{shape.name} solve",
        "seconds": {name: t.to_dict() for name, t in times.items()},
        "right_hand_sides": many,
        "limit_seconds": limit,
        "factor_bytes": factor.nbytes,
        "targets": [target.to_dict() for target in targets],
    }


def run_overhead(budget: float) -> Record:
    """Time `newton_step` for n = d = k = 1 against `numpy.linalg.cholesky` of a 1 x 1 matrix."""
    system = ArrowSystem(np.full((1, 1, 1), 2.0), np.ones((1, 1, 1)), np.full((1, 1), 2.0), np.ones((1, 1)), np.ones(1))
    matrix = np.full((1, 1), 2.0)
    times = race(
        {"ours": Contender(lambda: newton_step(system)), "cholesky": Contender(lambda: np.linalg.cholesky(matrix))},
        budget,
        rounds=10,
    )
    ratio = times["ours"].median / times["cholesky"].median
    assert math.isfinite(ratio)
    return {
        "name": "call overhead",
        "seconds": {name: t.to_dict() for name, t in times.items()},
        "targets": [Target("overhead", ratio, 15.0, at_most=True).to_dict()],
    }
