"""A linear mixed model by restricted maximum likelihood, one arrow factorization per evaluation.

    python sleepstudy.py

The optimiser is SciPy's; without SciPy the demonstration evaluates the criterion at the published optimum.

Data: reaction times of 18 subjects on 10 days of sleep restriction (Belenky et al., J. Sleep Research 12, 2003). Model,
in the notation of the R package lme4: reaction ~ 1 + days + (1 + days | subject), that is

    y_i = X_i beta + Z_i b_i + e_i,    b_i ~ N(0, s^2 L L'),    e_i ~ N(0, s^2 I),    i = 1..18,

with X_i = Z_i = [1, days] and a lower triangular relative factor L(theta) = [[theta0, 0], [theta1, theta2]].

With spherical effects u_i, b_i = L u_i, the estimates at a given theta minimise the penalised sum of squares

    r^2(theta) = min over u, beta of  sum_i |y_i - Z_i L u_i - X_i beta|^2 + |u_i|^2,

whose normal equations are an arrow system: subjects are the rows (d = 2), the fixed effects the border (k = 2),

    A_i = L'Z_i'Z_i L + I,   B_i = L'Z_i'X_i,   M = X'X,   g_i = -L'Z_i'y_i,   g_beta = -X'y.

This form stays well behaved when a variance is zero (L singular), where A_i = I. Its factorization gives everything the
restricted likelihood needs. With the marginal covariance s^2 V, V_i = I + Z_i L L'Z_i', the determinant lemma says
log|A_i| = log|V_i|, and the Schur complement is S = X'X - sum_i B_i'A_i^-1 B_i = X'V^-1 X. So the two parts of log|H|
are log|V| and log|X'V^-1 X|, and with N = 180 observations, p = 2 fixed effects and s^2 = r^2 / (N - p) profiled out,
minus twice the restricted log-likelihood is

    criterion(theta) = log|V| + log|X'V^-1 X| + (N - p) (1 + log(2 pi r^2 / (N - p))).

Its gradient costs no further solve: that of log|H| is tr(H^-1 dH) = sum of the blocks of H^-1 (`log_det_vjp`) against
dA_i and dB_i, and that of r^2 is the partial derivative at fixed u and beta, because these minimise it.

The published digits are lme4's, whose derivative-free optimiser stops 1e-5 from the optimum in theta: the criterion is
flat to 1e-9 there, and the standard deviation of the intercept differs in the fourth decimal (24.7407, here 24.7405).

References: D. Bates, M. Maechler, B. Bolker, S. Walker, Fitting Linear Mixed-Effects Models Using lme4, J. Statistical
Software 67(1), 2015 (section 3 derives the criterion, equation 42). H. D. Patterson, R. Thompson, Recovery of
inter-block information when block sizes are unequal, Biometrika 58(3), 1971.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import arrowschur_native as asn

__all__ = ["Evaluation", "MixedModel", "demo", "load"]

Report = Callable[[str, list[tuple[str, str]]], None]

DATA = Path(__file__).resolve().parent / "data" / "sleepstudy.csv"

# Where lme4 1.1 stops.
PUBLISHED_THETA = np.array([0.96674, 0.01517, 0.23091])

# d L / d theta_j
TANGENTS = np.array([[[1.0, 0], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 1]]])


@dataclass(frozen=True)
class Evaluation:
    """What one factorization at a given theta yields."""

    criterion: float  # profiled REML criterion
    gradient: np.ndarray  # (3,) of the criterion
    sigma: float  # residual standard deviation
    beta: np.ndarray  # (2,) fixed effects
    beta_sd: np.ndarray  # (2,) their standard errors
    effects: np.ndarray  # (18, 2) subject effects b_i, the conditional means
    covariance: np.ndarray  # (2, 2) of the subject effects: s^2 L L'
    system: asn.ArrowSystem
    step: asn.NewtonStep


class MixedModel:
    """reaction ~ 1 + days + (1 + days | subject), for subjects with equally many observations."""

    def __init__(self, subject: np.ndarray, days: np.ndarray, reaction: np.ndarray) -> None:
        order = np.argsort(subject, kind="stable")
        n = len(np.unique(subject))
        self.z = np.stack([np.ones(len(days)), days], axis=1)[order].reshape(n, -1, 2)  # (n, m, 2), also X
        self.y = reaction[order].reshape(n, -1)  # (n, m)
        z_t = self.z.transpose(0, 2, 1)
        self.zz, self.zy = z_t @ self.z, (z_t @ self.y[:, :, None])[:, :, 0]

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Return criterion, gradient and estimates at theta."""
        root = np.tensordot(theta, TANGENTS, axes=1)  # L
        cross = root.T @ self.zz  # L'Z_i'Z_i, (n, 2, 2)
        system = asn.ArrowSystem(cross @ root + np.eye(2), cross, self.zz.sum(0), -self.zy @ root, -self.zy.sum(0))
        factor = asn.factorize(system)
        step = factor.step()
        u, beta = step.delta_t, step.delta_beta

        effects = u @ root.T
        residual = self.y - self.z @ beta - (self.z @ effects[:, :, None])[:, :, 0]
        r2 = np.sum(residual**2) + np.sum(u**2)
        freedom = self.y.size - beta.size
        log_v, log_xvx = factor.log_det_parts()
        criterion = log_v + log_xvx + freedom * (1 + np.log(2 * np.pi * r2 / freedom))

        inverse = factor.log_det_vjp()
        z_residual = np.einsum("nmi,nm->ni", self.z, residual)
        gradient = np.empty(3)
        for j, tangent in enumerate(TANGENTS):
            d_cross = tangent.T @ self.zz  # dB_i; dA_i = dB_i L + (dB_i L)'
            d_log_det = 2 * np.sum(inverse.h_tt * (d_cross @ root)) + np.sum(inverse.h_tb * d_cross)
            d_r2 = -2 * np.sum(z_residual * (u @ tangent.T))
            gradient[j] = d_log_det + freedom * d_r2 / r2

        s2 = r2 / freedom
        beta_sd = np.sqrt(s2 * np.diagonal(factor.border_inverse_block()))
        return Evaluation(
            float(criterion), gradient, float(np.sqrt(s2)), beta, beta_sd, effects, s2 * root @ root.T, system, step
        )

    def fit(self) -> tuple[np.ndarray, Evaluation, int]:
        """Minimise the criterion over theta0, theta2 >= 0.

        Returns theta, the evaluation there, and the number of evaluations on the way. Needs SciPy.
        """
        from scipy.optimize import minimize

        def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
            at = self.evaluate(theta)
            return at.criterion, at.gradient

        bounds = [(0, None), (None, None), (0, None)]
        options = {"ftol": 1e-15, "gtol": 1e-7}
        found = minimize(objective, [1.0, 0.0, 1.0], jac=True, bounds=bounds, method="L-BFGS-B", options=options)
        return found.x, self.evaluate(found.x), found.nfev

    def dense_criterion(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return criterion and beta from the marginal covariance V of all observations, without the arrow form."""
        root = np.tensordot(theta, TANGENTS, axes=1)
        n, m = self.y.shape
        v = np.eye(n * m)
        for i, z in enumerate(self.z @ root):
            v[i * m : (i + 1) * m, i * m : (i + 1) * m] += z @ z.T
        x, y = self.z.reshape(-1, 2), self.y.ravel()
        vx = np.linalg.solve(v, x)
        xvx = x.T @ vx
        beta = np.linalg.solve(xvx, vx.T @ y)
        residual = y - x @ beta
        freedom = y.size - beta.size
        s2 = residual @ np.linalg.solve(v, residual) / freedom
        return np.linalg.slogdet(v)[1] + np.linalg.slogdet(xvx)[1] + freedom * (1 + np.log(2 * np.pi * s2)), beta


def load(path: str | Path = DATA) -> MixedModel:
    """Return the model of the sleepstudy data: columns subject, days, reaction (ms)."""
    return MixedModel(*np.loadtxt(path, delimiter=",", skiprows=1, unpack=True))


def demo(report: Report) -> None:
    """Fit the model and compare with the published estimates."""
    model = load()
    start = time.perf_counter()
    try:
        theta, fit, evaluations = model.fit()
    except ImportError as error:
        theta, fit = PUBLISHED_THETA, model.evaluate(PUBLISHED_THETA)
        optimiser = f"none ({error}): evaluated at the published theta; pip install scipy to search for it"
    else:
        optimiser = (
            f"{evaluations} factorizations, {time.perf_counter() - start:.3f} s, "
            f"|gradient| {np.linalg.norm(fit.gradient):.1e}"
        )

    h, g = fit.system.to_dense()
    dense = np.linalg.solve(h, -g)
    arrow = np.concatenate([fit.step.delta_t.ravel(), fit.step.delta_beta])
    criterion, beta = model.dense_criterion(theta)
    sd = np.sqrt(np.diagonal(fit.covariance))
    diagnostics = fit.step.diagnostics
    report(
        "Mixed model: reaction ~ 1 + days + (1 + days | subject), sleepstudy",
        [
            ("shape", f"n = {len(model.y)}, d = 2, k = 2 ({model.y.size} observations)"),
            ("route", fit.step.route),
            ("seconds per stage", "  ".join(f"{stage} {value:.3g}" for stage, value in diagnostics.seconds.items())),
            ("backward error", f"{diagnostics.backward_error:.1e}"),
            (
                "dense solve",
                f"step differs by {np.linalg.norm(arrow - dense) / np.linalg.norm(dense):.1e} (relative); "
                f"marginal model: criterion by {abs(criterion - fit.criterion):.1e}, fixed effects by "
                f"{np.max(np.abs(beta - fit.beta)):.1e}",
            ),
            ("optimiser", optimiser),
            ("theta", "(" + ", ".join(f"{t:.5f}" for t in theta) + ")"),
            ("", "estimate      published (lme4)"),
            ("REML criterion", f"{fit.criterion:<14.4f}1743.628"),
            ("sd intercept", f"{sd[0]:<14.4f}24.741"),
            ("sd days", f"{sd[1]:<14.4f}5.922"),
            ("correlation", f"{fit.covariance[0, 1] / (sd[0] * sd[1]):<14.4f}0.066"),
            ("sd residual", f"{fit.sigma:<14.4f}25.592"),
            ("intercept", f"{fit.beta[0]:<14.4f}251.405       standard error {fit.beta_sd[0]:.3f}"),
            ("days", f"{fit.beta[1]:<14.4f}10.467        standard error {fit.beta_sd[1]:.3f}"),
        ],
    )


def show(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a block of results."""
    print(title, *(f"  {name:<20}{value}" for name, value in rows), sep="\n")


if __name__ == "__main__":
    demo(show)
