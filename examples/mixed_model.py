"""A mixed model with crossed effects: students rate lecturers, one arrow factorization per evaluation.

    python mixed_model.py [ratings.npz]

Model, in the notation of the R package lme4: y ~ 1 + (1 | student) + (1 | lecturer) + (1 | dept_service), that is

    y = X beta + Z_1 b_1 + Z_2 b_2 + Z_3 b_3 + e,    b_j ~ N(0, theta_j^2 s^2 I),    e ~ N(0, s^2 I).

The file holds integer arrays `y`, `student`, `lecturer` and `dept_service` (codes from 0), as the data set InstEval
of lme4 has them: 73,421 ratings, 2,972 students, 1,128 lecturers, 28 combinations of department and service. Without a
file the script simulates ratings of that kind.

With spherical effects u_j, b_j = theta_j u_j, the estimates at a given theta minimise the penalised sum of squares

    r^2(theta) = min over u, beta of  |y - X beta - sum_j theta_j Z_j u_j|^2 + sum_j |u_j|^2,

whose normal equations H x = -g are an arrow: the students are the rows (d = 1), everything else is the border. A
student met some 30 of 1,157 border columns: the cross block is block-sparse, and so is the border. With L the Cholesky
factor of the random part of H, and R^2 the Schur complement of the fixed effects in H,

    log|H| = log|L|^2 + log|R|^2,      (H^-1)_ff = R^-2  (the block of the fixed effects),
    ML(theta)   = log|L|^2 + N (1 + log(2 pi r^2 / N)),
    REML(theta) = log|H| + (N - p) (1 + log(2 pi r^2 / (N - p))),

both minus twice the profiled log-likelihood. Only the scales theta_j change between evaluations: the counts behind
Z_i'Z_j are made once.

References: D. Bates, M. Maechler, B. Bolker, S. Walker, Fitting Linear Mixed-Effects Models Using lme4, J. Statistical
Software 67(1), 2015, section 3.4 (equations 34 and 41).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import arrowschur_native as asn

__all__ = ["Evaluation", "Ratings", "demo", "fit", "load", "simulate"]

Report = Callable[[str, list[tuple[str, str]]], None]


@dataclass(frozen=True)
class Evaluation:
    """What one factorization at a given theta yields."""

    reml: float  # REML criterion
    ml: float  # ML deviance
    sigma: float  # residual standard deviation (REML)
    beta: np.ndarray  # (1,) fixed effects
    system: asn.ArrowSystem
    step: asn.NewtonStep


class Ratings:
    """The counts of a three-way crossed model; students are the rows.

    Border columns: the lecturers, the combinations of department and service, the intercept.
    """

    def __init__(self, y: np.ndarray, student: np.ndarray, lecturer: np.ndarray, dept_service: np.ndarray) -> None:
        y, student, lecturer = y.astype(np.float64), student.astype(np.int64), lecturer.astype(np.int64)
        dept_service = dept_service.astype(np.int64)
        n, lecturers, depts = (int(code.max()) + 1 for code in (student, lecturer, dept_service))
        self.n, self.k, self.observations = n, lecturers + depts + 1, len(y)
        self.sizes = (n, lecturers, depts)
        # Which theta scales a border column: 1 lecturer, 2 department; 3 stands for the intercept, which has none.
        self.kind = np.repeat([1, 2, 3], [lecturers, depts, 1])

        # ---- cross block: how often a student met a column ----
        columns = np.stack([lecturer, lecturers + dept_service, np.full(len(y), self.k - 1)], axis=1)
        pair = (student[:, None].astype(np.int64) * self.k + columns).ravel()
        pair, count = np.unique(pair, return_counts=True)
        self.column = pair % self.k
        self.indptr = np.searchsorted(pair // self.k, np.arange(n + 1))
        self.cross = count.astype(np.float64)
        self.offsets = np.arange(self.k + 1)
        self.student_count = np.bincount(student, minlength=n).astype(np.float64)

        # ---- border: how often two columns met, below the diagonal ----
        i, j = np.array([(1, 0), (2, 0), (2, 1)]).T
        pair, count = np.unique((columns[:, i] * self.k + columns[:, j]).ravel(), return_counts=True)
        self.pair_row, self.pair_col, self.pair = pair // self.k, pair % self.k, count.astype(np.float64)
        self.diagonal = np.bincount(columns.ravel(), minlength=self.k).astype(np.float64)

        # ---- right-hand side ----
        self.student_y = np.bincount(student, y, minlength=n)
        self.border_y = np.bincount(columns.ravel(), np.repeat(y, 3), minlength=self.k)
        self.yy = float(y @ y)

    def system(self, theta: np.ndarray) -> asn.ArrowSystem:
        """Return the penalised normal equations at theta = (student, lecturer, dept_service)."""
        scale = np.array([theta[0], theta[1], theta[2], 1.0])
        border = scale[self.kind]
        h_tb = asn.BlockSparseCross(self.indptr, self.column, theta[0] * self.cross * border[self.column], self.offsets)
        diagonal = self.diagonal * border**2 + (self.kind < 3)
        coupling = asn.SparseBlockKroneckerBorder.from_triplets(
            self.pair_row, self.pair_col, self.pair * border[self.pair_row] * border[self.pair_col], self.k
        )
        return asn.ArrowSystem(
            (theta[0] ** 2 * self.student_count + 1.0)[:, None, None],
            h_tb,
            asn.DiagonalBorder(diagonal) + coupling,
            -theta[0] * self.student_y,
            -border * self.border_y,
        )

    def evaluate(self, theta: np.ndarray, options: asn.SolveOptions | None = None) -> Evaluation:
        """Return both criteria and the estimates at theta."""
        system = self.system(np.abs(theta))
        factor = asn.factorize(system, options=options)
        step = factor.step()
        r2 = self.yy + system.gradient_dot(step.delta_t, step.delta_beta)  # y'y - x'H x, and g = -H x
        log_h = factor.log_det()
        log_fixed = -np.log(factor.border_inverse_block([self.k - 1])[0, 0])
        freedom = self.observations - 1
        ml = log_h - log_fixed + self.observations * (1 + np.log(2 * np.pi * r2 / self.observations))
        reml = log_h + freedom * (1 + np.log(2 * np.pi * r2 / freedom))
        return Evaluation(reml, ml, float(np.sqrt(r2 / freedom)), step.delta_beta[-1:], system, step)


def fit(ratings: Ratings, criterion: str, start: np.ndarray) -> tuple[np.ndarray, Evaluation, int]:
    """Minimise `criterion` ('reml' or 'ml') over theta; return theta, the evaluation there and the number of them."""
    from scipy.optimize import minimize

    found = minimize(
        lambda theta: getattr(ratings.evaluate(theta), criterion),
        start,
        method="Nelder-Mead",
        options={"xatol": 1e-5, "fatol": 1e-7, "initial_simplex": start + np.vstack([np.zeros(3), 0.05 * np.eye(3)])},
    )
    theta = np.abs(found.x)
    return theta, ratings.evaluate(theta), found.nfev


def load(path: str | Path) -> Ratings:
    """Read a file of ratings."""
    with np.load(path, allow_pickle=False) as file:
        return Ratings(*(file[name] for name in ("y", "student", "lecturer", "dept_service")))


def simulate(seed: int = 1, observations: int = 20_000) -> Ratings:
    """Return simulated ratings: theta = (0.25, 0.4, 0.1), s = 1.2."""
    rng = np.random.default_rng(seed)
    sizes = (900, 400, 28)
    effects = [1.2 * t * rng.normal(size=size) for t, size in zip((0.25, 0.4, 0.1), sizes, strict=True)]
    student = rng.integers(sizes[0], size=observations)
    lecturer = rng.integers(sizes[1], size=observations)
    dept = (lecturer % 14) * 2 + rng.integers(2, size=observations)
    for code, size in zip((student, lecturer, dept), sizes, strict=True):
        code[:size] = np.arange(size)  # every level occurs
    mean = 3.2 + sum(effect[code] for effect, code in zip(effects, (student, lecturer, dept), strict=True))
    y = mean + 1.2 * rng.normal(size=observations)
    return Ratings(y, student, lecturer, dept)


def demo(report: Report, path: str | None = None) -> None:
    """Fit by REML and by ML; without SciPy, evaluate at a fixed theta."""
    ratings = simulate() if path is None else load(path)
    theta = np.array([0.28, 0.43, 0.1])
    rows = [
        (
            "shape",
            f"n = {ratings.n} students, k = {ratings.k}, {ratings.observations} ratings, "
            f"{len(ratings.cross)} entries in the cross block",
        )
    ]
    start = time.perf_counter()
    evaluations = 0
    for criterion in ("reml", "ml"):
        try:
            theta, at, count = fit(ratings, criterion, theta)
        except ImportError as error:
            at, count = ratings.evaluate(theta), 1
            rows.append(("optimiser", f"none ({error}): evaluated at a fixed theta; pip install scipy to search"))
        evaluations += count
        value = getattr(at, criterion)
        s = at.sigma
        rows.append(
            (
                criterion.upper(),
                f"log-likelihood {-value / 2:.4f}, theta ({', '.join(f'{t:.5f}' for t in theta)}), residual sd {s:.4f}",
            )
        )
    seconds = time.perf_counter() - start
    diagnostics = at.step.diagnostics
    rows += [
        ("evaluations", f"{evaluations} in {seconds:.2f} s, {1e3 * seconds / evaluations:.1f} ms each"),
        ("route", f"{at.step.route}: {diagnostics.plan.reasons[0]}"),
        ("backward error", f"{diagnostics.backward_error:.1e}"),
    ]
    report("Mixed model: y ~ 1 + (1 | student) + (1 | lecturer) + (1 | dept_service)", rows)


def show(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a block of results."""
    print(title, *(f"  {name:<20}{value}" for name, value in rows), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fit a crossed mixed model by REML and ML.")
    parser.add_argument("ratings", nargs="?", help="an .npz file as described above (default: simulated ratings)")
    demo(show, parser.parse_args().ratings)
