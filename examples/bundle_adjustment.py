"""Bundle adjustment: Levenberg-Marquardt in NumPy, the linear algebra by the arrow solver.

    python bundle_adjustment.py [problem.txt | problem.txt.bz2] [auto | direct | inexact_pcg]

Photographs of one scene give pixels; wanted are the 3-D points X and the cameras (w, t, f, k1, k2) that explain them
best. The camera model and the file format are those of the collection "Bundle Adjustment in the Large" (BAL):

    P = R(w) X + t,   p = -(P.x, P.y) / P.z,   pixel = f (1 + k1 |p|^2 + k2 |p|^4) p,   cost = 1/2 sum |pixel - seen|^2.

An observation involves one point and one camera, so the Gauss-Newton matrix J'J is an arrow: the points are the rows
(d = 3), the cameras' 9 numbers each are the border (k = 9 * cameras), H_bb is block-diagonal, and H_tb is block-sparse:
a 3 x 9 block where a camera sees a point. Eliminating the points gives what the field calls the reduced camera system.

Without an argument the script solves the simulated street beside it (see data/make_ba_synthetic.py).

References: S. Agarwal, N. Snavely, S. M. Seitz, R. Szeliski, Bundle Adjustment in the Large, ECCV 2010. B. Triggs,
P. McLauchlan, R. Hartley, A. Fitzgibbon, Bundle Adjustment: A Modern Synthesis, Vision Algorithms 1999, LNCS 1883.
D. W. Marquardt, An algorithm for least-squares estimation of nonlinear parameters, J. SIAM 11(2), 1963.
"""

from __future__ import annotations

import argparse
import bz2
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import factorial
from pathlib import Path

import numpy as np

import arrowschur_native as asn

__all__ = [
    "Iteration",
    "Linearization",
    "Linearizer",
    "Problem",
    "cost",
    "demo",
    "dense_disagreement",
    "levenberg_marquardt",
    "project",
    "read_bal",
    "solve",
    "write_bal",
]

Report = Callable[[str, list[tuple[str, str]]], None]

DATA = Path(__file__).resolve().parent / "data" / "ba_synthetic.txt.bz2"


# ---- problems and files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What was seen, and the current estimate of cameras and points."""

    camera: np.ndarray  # (m,) camera of each observation
    point: np.ndarray  # (m,) point of each observation
    pixel: np.ndarray  # (m, 2)
    cameras: np.ndarray  # (c, 9): angle-axis rotation w, translation t, focal length f, distortion k1, k2
    points: np.ndarray  # (n, 3)


def read_bal(path: str | Path) -> Problem:
    """Read a BAL text file, plain or compressed with bzip2."""
    opener = bz2.open if str(path).endswith(".bz2") else open
    with opener(path, "rt") as file:
        values = np.array(file.read().split(), dtype=np.float64)
    c, n, m = (int(v) for v in values[:3])
    expected = 3 + 4 * m + 9 * c + 3 * n
    if values.size != expected:
        raise ValueError(f"{path}: {values.size} numbers; {c} cameras, {n} points, {m} observations need {expected}")
    seen, unknowns = values[3 : 3 + 4 * m].reshape(m, 4), values[3 + 4 * m :]
    camera, point = seen[:, 0].astype(np.intp), seen[:, 1].astype(np.intp)
    for name, index, size in (("camera", camera, c), ("point", point, n)):
        if m and not 0 <= index.min() <= index.max() < size:
            raise ValueError(f"{path}: {name} indices must lie in 0..{size - 1}, not {index.min()}..{index.max()}")
    return Problem(camera, point, seen[:, 2:].copy(), unknowns[: 9 * c].reshape(c, 9), unknowns[9 * c :].reshape(n, 3))


def write_bal(path: str | Path, problem: Problem, number: str = ".17g", pixel: str = ".17g") -> None:
    """Write a BAL text file, plain or compressed; the default formats reproduce every double exactly."""
    lines = [f"{len(problem.cameras)} {len(problem.points)} {len(problem.pixel)}"]
    lines += [
        f"{c} {j} {x:{pixel}} {y:{pixel}}"
        for c, j, (x, y) in zip(problem.camera, problem.point, problem.pixel, strict=True)
    ]
    lines += [f"{v:{number}}" for v in (*problem.cameras.ravel(), *problem.points.ravel())]
    opener = bz2.open if str(path).endswith(".bz2") else open
    with opener(path, "wt") as file:
        file.write("\n".join(lines) + "\n")


# ---- camera model ----------------------------------------------------------------------------------------------------

# With r = |w|, s = r^2, a = sin(r)/r, b = (1 - cos(r))/s, Rodrigues' formula is
#     R X = cos(r) X + a (w x X) + b (w'X) w,
# and its derivative needs 2 da/ds = (cos(r) - a)/s and 2 db/ds = (a - 2 b)/s. These lose eps/s to cancellation near
# s = 0, where their Taylor series take over; eight terms are exact to rounding up to s = 1/4.
SERIES_BELOW = 0.25
SERIES_A = [2 * j * (-1) ** j / factorial(2 * j + 1) for j in range(8, 0, -1)]
SERIES_B = [2 * j * (-1) ** j / factorial(2 * j + 2) for j in range(8, 0, -1)]


def outer(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return u_i v_i' for stacked vectors."""
    return u[:, :, None] * v[:, None, :]


def cross_matrix(v: np.ndarray) -> np.ndarray:
    """Return the matrices of the vector products with v_i, (m, 3, 3)."""
    x, y, z = v.T
    o = np.zeros_like(x)
    return np.stack([o, -z, y, z, o, -x, -y, x, o], axis=1).reshape(-1, 3, 3)


def project(camera: np.ndarray, point: np.ndarray, jacobian: bool = False) -> tuple[np.ndarray, ...]:
    """Return the pixels (m, 2) of points (m, 3) in cameras (m, 9).

    With `jacobian`, also their derivatives by camera (m, 2, 9) and by point (m, 2, 3). Points behind a camera
    (P.z >= 0) are projected by the same formula, as is the custom with BAL files.
    """
    w, t, f, k1, k2 = camera[:, :3], camera[:, 3:6], camera[:, 6:7], camera[:, 7:8], camera[:, 8:9]
    s = np.sum(w * w, axis=1, keepdims=True)
    r = np.sqrt(s)
    cos, a, b = np.cos(r), np.sinc(r / np.pi), 0.5 * np.sinc(0.5 * r / np.pi) ** 2  # np.sinc(x) = sin(pi x) / (pi x)
    w_cross, w_dot = np.cross(w, point), np.sum(w * point, axis=1, keepdims=True)

    P = cos * point + a * w_cross + b * w_dot * w + t
    p = -P[:, :2] / P[:, 2:]
    q = np.sum(p * p, axis=1, keepdims=True)
    distortion = 1 + q * (k1 + q * k2)
    pixel = f * distortion * p
    if not jacobian:
        return (pixel,)

    # d pixel / d p, then through d p / d P = -[I, p] / P.z.
    d_p = (f * distortion)[:, :, None] * np.eye(2) + outer(f * (2 * k1 + 4 * k2 * q) * p, p)
    d_P = np.concatenate([d_p, d_p @ p[:, :, None]], axis=2) / -P[:, 2:, None]

    # d P / d w and d P / d X = R(w).
    far = s > SERIES_BELOW
    s_far = np.where(far, s, 1.0)
    da = np.where(far, (cos - a) / s_far, np.polyval(SERIES_A, s))
    db = np.where(far, (a - 2 * b) / s_far, np.polyval(SERIES_B, s))
    d_w = outer(da * w_cross + db * w_dot * w - a * point, w) + outer(b * w, point)
    d_w += (b * w_dot)[:, :, None] * np.eye(3) - a[:, :, None] * cross_matrix(point)
    rotation = cos[:, :, None] * np.eye(3) + a[:, :, None] * cross_matrix(w) + outer(b * w, w)

    d_intrinsic = np.stack([distortion * p, f * q * p, f * q * q * p], axis=2)
    return pixel, np.concatenate([d_P @ d_w, d_P, d_intrinsic], axis=2), d_P @ rotation


def cost(problem: Problem) -> float:
    """Return half the sum of squared pixel differences."""
    (pixel,) = project(problem.cameras[problem.camera], problem.points[problem.point])
    return 0.5 * float(np.sum((pixel - problem.pixel) ** 2))


# ---- Gauss-Newton system ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linearization:
    """The arrow system J'J, J'r at one estimate, and diag(J'J), the scale of its damping.

    Damping by the diagonal makes a step independent of the unknowns' units. The floor keeps an unknown that no
    observation determines from moving freely.
    """

    system: asn.ArrowSystem
    scale_t: np.ndarray  # (n, 3)
    scale_beta: np.ndarray  # (9 c,)

    def step(self, damping: float, options: asn.SolveOptions | None = None) -> asn.NewtonStep:
        """Solve (J'J + damping diag(J'J)) step = -J'r."""
        return asn.newton_step(
            self.system,
            damping_t=damping * self.scale_t,
            damping_beta=damping * self.scale_beta,
            options=options,
        )


class Linearizer:
    """Linearizes a problem at changing estimates.

    An observation touches one point and one camera: its Jacobians are 2 x 3 and 2 x 9, and J'J is assembled from them
    without a dense row of 9 c columns. A point that is seen by 4 of 49 cameras has 4 blocks. Who sees what does not
    change: each system takes its pattern over from the one before.
    """

    def __init__(self, problem: Problem) -> None:
        self.each = np.arange(len(problem.pixel) + 1)  # one block of columns per observation
        self.offsets = np.arange(0, 9 * len(problem.cameras) + 1, 9)
        self.system: asn.ArrowSystem | None = None

    def at(self, problem: Problem) -> Linearization:
        """Linearize at the problem's cameras and points."""
        pixel, j_camera, j_point = project(
            problem.cameras[problem.camera], problem.points[problem.point], jacobian=True
        )
        residual = pixel - problem.pixel
        if self.system is None:
            blocks = asn.BlockSparseCross(self.each, problem.camera, j_camera.ravel(), self.offsets)
            system = asn.ArrowSystem.from_jacobians(
                j_point, blocks, residual, row_index=problem.point, n=len(problem.points)
            )
        else:
            system = asn.ArrowSystem.from_jacobians(j_point, j_camera, residual, like=self.system)
        self.system = system
        scale_t, scale_beta = np.einsum("njj->nj", system.h_tt), system.border.diagonal()
        return Linearization(system, np.clip(scale_t, 1e-6, 1e32), np.clip(scale_beta, 1e-6, 1e32))


# ---- Levenberg-Marquardt ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Iteration:
    """One trial step. `gain` is the true decrease of the cost over that of the Gauss-Newton model."""

    cost: float  # after the step if it was accepted, else unchanged
    damping: float
    gain: float
    accepted: bool
    seconds: float
    step: asn.NewtonStep | None  # None when the factorization failed


def levenberg_marquardt(
    problem: Problem,
    *,
    damping: float = 1e-4,
    tolerance: float = 1e-7,
    max_iterations: int = 100,
    options: asn.SolveOptions | None = None,
    progress: Callable[[int, Iteration], None] | None = None,
) -> tuple[Problem, list[Iteration]]:
    """Minimise the cost over cameras and points; stop when an accepted step gains less than `tolerance` of it.

    The gain ratio compares the true decrease with that of the model without damping (`model_reduction`, its default
    form). The damping is divided by 3 after a step with a gain above 1/4, kept after a poorer one, and multiplied by
    2, 4, 8, ... as long as steps are rejected. Two real BAL problems (Ladybug with 49, Trafalgar with 21 cameras) were
    within 2e-5 of their optimum after 20 and 7 steps; division by 10 took 31 and 5, the smooth rule of H. B. Nielsen
    (IMM-REP-1999-05, Technical University of Denmark) 25 and 7. Ladybug has points near infinity and ends in a long
    shallow valley in which most steps have a gain of 0.8: there the damping must keep falling.
    """
    linearizer = Linearizer(problem)
    linear, current, growth = linearizer.at(problem), cost(problem), 2.0
    history: list[Iteration] = []
    while len(history) < max_iterations and damping < 1e16:
        start, used, previous = time.perf_counter(), damping, current
        step: asn.NewtonStep | None
        try:
            step = linear.step(damping, options)
        except np.linalg.LinAlgError:  # numerically singular: a rejected step, and more damping next
            step, trial, value, gain = None, problem, current, -np.inf
        else:
            cameras = problem.cameras + step.delta_beta.reshape(-1, 9)
            trial = replace(problem, cameras=cameras, points=problem.points + step.delta_t)
            value = cost(trial)
            gain = (current - value) / asn.model_reduction(linear.system, step.delta_t, step.delta_beta)

        accepted = bool(gain > 1e-3)  # false for NaN too
        if accepted:
            problem, current, growth = trial, value, 2.0
            damping = damping / 3 if gain > 0.25 else damping
            linear = linearizer.at(problem)
        else:
            damping, growth = damping * growth, 2 * growth
        history.append(Iteration(current, used, float(gain), accepted, time.perf_counter() - start, step))
        if progress is not None:
            progress(len(history), history[-1])
        if accepted and previous - current <= tolerance * current:
            break
    return problem, history


# ---- what the demonstration shows ------------------------------------------------------------------------------------


def dense_disagreement(problem: Problem, points: int = 300, damping: float = 1e-4) -> float:
    """Return the relative difference between the arrow step and numpy.linalg.solve, on the first `points` points.

    Measured in the scaled unknowns sqrt(diag(J'J)) x, in which focal lengths and distortions weigh the same.
    """
    keep = problem.point < points
    part = replace(
        problem,
        camera=problem.camera[keep],
        point=problem.point[keep],
        pixel=problem.pixel[keep],
        points=problem.points[:points],
    )
    linear = Linearizer(part).at(part)
    step = linear.step(damping)
    h, g = linear.system.to_dense()
    scale = np.concatenate([linear.scale_t.ravel(), linear.scale_beta])
    unit = 1 / np.sqrt(scale)
    h = unit[:, None] * h * unit + damping * np.eye(len(g))
    dense = np.linalg.solve(h, -unit * g)
    arrow = np.concatenate([step.delta_t.ravel(), step.delta_beta]) / unit
    return float(np.linalg.norm(arrow - dense) / np.linalg.norm(dense))


def solve(
    path: str | Path, report: Report, name: str, options: asn.SolveOptions | None = None
) -> tuple[Problem, list[Iteration]]:
    """Adjust the problem of a BAL file and report on it."""
    start = read_bal(path)
    m, n, c = len(start.pixel), len(start.points), len(start.cameras)
    rows = [
        ("shape", f"n = {n}, d = 3, k = {9 * c} ({c} cameras, {n} points, {m} observations)"),
        ("initial cost", f"{cost(start):.4f}"),
    ]

    def progress(i: int, it: Iteration) -> None:
        verdict = "" if it.accepted else "  rejected"
        rows.append(
            (
                f"iteration {i}",
                f"cost {it.cost:14.4f}   damping {it.damping:.1e}   gain {it.gain:6.3f}   "
                f"{1e3 * it.seconds:6.1f} ms{verdict}",
            )
        )

    end, history = levenberg_marquardt(start, options=options, progress=progress)
    steps = [it.step for it in history if it.step is not None]
    seconds = {stage: sum(s.diagnostics.seconds[stage] for s in steps) for stage in steps[0].diagnostics.seconds}
    worst = max(s.diagnostics.backward_error for s in steps)
    # The gauge (7 numbers: a similarity of the whole scene) is not determined by the pixels.
    freedom = 2 * m - (3 * n + 9 * c - 7)
    rows += [
        ("route", steps[-1].route),
        ("seconds per stage", "  ".join(f"{stage} {value:.3g}" for stage, value in seconds.items())),
        ("backward error", f"{worst:.1e} (normwise; largest of {len(steps)} steps)"),
        ("dense solve", f"differs by {dense_disagreement(start):.1e} (relative; first step, first 300 points)"),
        ("final cost", f"{history[-1].cost:.4f}"),
        ("noise estimate", f"{np.sqrt(2 * history[-1].cost / freedom):.4f} pixels, from {freedom} degrees of freedom"),
    ]
    report(f"Bundle adjustment: {name}", rows)
    return end, history


def demo(report: Report) -> None:
    """Adjust the simulated street; its pixels were made with a noise of 0.5."""
    solve(DATA, report, "a simulated street (pixel noise 0.5)")


def show(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a block of results."""
    print(title, *(f"  {name:<20}{value}" for name, value in rows), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Adjust cameras and points by Levenberg-Marquardt.")
    parser.add_argument("problem", nargs="?", help="a file of Bundle Adjustment in the Large (default: the street)")
    parser.add_argument(
        "mode", nargs="?", default="auto", help="route of the steps: auto (default), direct, inexact_pcg"
    )
    given = parser.parse_args()
    if given.problem is None:
        demo(show)
    else:
        solve(given.problem, show, Path(given.problem).name, asn.SolveOptions(mode=given.mode))
