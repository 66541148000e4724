"""Ceres' linear solvers on one linearization of a bundle adjustment, through the PyPI package pyceres.

Ceres gets the problem as linear residual blocks r + J_c dc + J_p dp, so that every iteration of its Levenberg-Marquardt
solves the same system, and reports the time in its linear solver: for the Schur solvers that is forming the normal
equations from the Jacobians, eliminating the points, the reduced camera system and back-substitution. Its Jacobian
evaluation (Python callbacks here) is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyceres

__all__ = ["SOLVERS", "LinearSolve", "solve"]

SOLVERS = ("DENSE_SCHUR", "SPARSE_SCHUR", "ITERATIVE_SCHUR")


class _Block(pyceres.CostFunction):
    def __init__(self, residual: np.ndarray, j_camera: np.ndarray, j_point: np.ndarray) -> None:
        super().__init__()
        self.set_num_residuals(2)
        self.set_parameter_block_sizes([9, 3])
        self.residual, self.j_camera, self.j_point = residual, j_camera, j_point
        self.flat = (j_camera.ravel(), j_point.ravel())

    def Evaluate(self, parameters, residuals, jacobians):
        residuals[:] = self.residual + self.j_camera @ parameters[0] + self.j_point @ parameters[1]
        if jacobians is not None:
            for out, values in zip(jacobians, self.flat, strict=True):
                if out is not None:
                    out[:] = values
        return True


@dataclass(frozen=True)
class LinearSolve:
    """Seconds per linear solve, and the first step."""

    seconds: float
    solves: int
    delta_cameras: np.ndarray  # (c, 9)
    delta_points: np.ndarray  # (n, 3)
    report: str


def solve(
    camera: np.ndarray,
    point: np.ndarray,
    residual: np.ndarray,
    j_camera: np.ndarray,
    j_point: np.ndarray,
    *,
    solver: str,
    damping: float,
    threads: int,
    iterations: int = 1,
) -> LinearSolve:
    """Run `iterations` steps of Levenberg-Marquardt from zero on the linear problem."""
    cameras = [np.zeros(9) for _ in range(int(camera.max()) + 1)]
    points = [np.zeros(3) for _ in range(int(point.max()) + 1)]
    problem = pyceres.Problem()
    blocks = [_Block(*parts) for parts in zip(residual, j_camera, j_point, strict=True)]
    for block, c, p in zip(blocks, camera, point, strict=True):
        problem.add_residual_block(block, None, [cameras[c], points[p]])
    options = pyceres.SolverOptions()
    options.linear_solver_type = getattr(pyceres.LinearSolverType, solver)
    options.preconditioner_type = pyceres.PreconditionerType.SCHUR_JACOBI
    options.initial_trust_region_radius = 1.0 / damping
    options.min_lm_diagonal, options.max_lm_diagonal = 1e-6, 1e32
    options.jacobi_scaling = False  # damping by diag(J'J), as ours
    options.max_num_iterations = iterations
    options.function_tolerance = options.gradient_tolerance = options.parameter_tolerance = 0.0
    options.num_threads = threads
    options.minimizer_progress_to_stdout = False
    options.logging_type = pyceres.LoggingType.SILENT
    summary = pyceres.SolverSummary()
    pyceres.solve(options, problem, summary)
    return LinearSolve(
        summary.linear_solver_time_in_seconds / max(summary.num_linear_solves, 1),
        summary.num_linear_solves,
        np.array(cameras),
        np.array(points),
        summary.FullReport(),
    )
