"""One Gauss-Newton step of a linear autoencoder on the hidden states of a language model.

    python linear_autoencoder.py

Data: 1,500 activations x_i of width p = 384, one a token, from block 3 of the sentence encoder all-MiniLM-L6-v2,
centred. Wanted are a decoder D (p x 2) and codes t_i (2) with

    x_i ~ D t_i,    f(t, D) = 1/2 sum_i |D t_i - x_i|^2.

Every residual involves the codes of one token and the whole decoder, so the Gauss-Newton matrix is an arrow: tokens are
the rows (d = 2), the border is vec(D), row by row (k = 2 p = 768). With r_i = D t_i - x_i its parts are

    A_i = D'D,      B_i[a, (q, c)] = D[q, a] t_i[c],      M = I_p (x) sum_i t_i t_i'  (block-diagonal),
    g_i = D'r_i,    g_beta = vec(sum_i r_i t_i').

(The full second derivative has r_i[q] added to B_i[a, (q, a)]; Gauss-Newton leaves it out, which keeps H positive
semidefinite.) Every row touches the whole border, as in nonlinear autoencoders, and the system is singular: D -> D G,
t -> G^-1 t changes nothing for any invertible G (2 x 2). Ridges of 1e-3 of the mean diagonal of each block make it
definite and select a short step.

The best value of f is known: it is half the sum of the squared singular values of x after the first two (C. Eckart,
G. Young, The approximation of one matrix by another of lower rank, Psychometrika 1(3), 1936).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import arrowschur_native as asn

__all__ = ["Model", "demo", "load", "start", "system_at"]

Report = Callable[[str, list[tuple[str, str]]], None]

DATA = Path(__file__).resolve().parent / "data" / "activations_layer3.npz"
CODES = 2  # d


@dataclass(frozen=True)
class Model:
    """Codes and decoder."""

    codes: np.ndarray  # (n, 2)
    decoder: np.ndarray  # (p, 2)

    def residual(self, x: np.ndarray) -> np.ndarray:
        """Return D t_i - x_i, (n, p)."""
        return self.codes @ self.decoder.T - x

    def objective(self, x: np.ndarray) -> float:
        """Return half the sum of squares."""
        return 0.5 * float(np.sum(self.residual(x) ** 2))

    def moved(self, step: asn.NewtonStep) -> Model:
        """Return the model after a full step."""
        return Model(self.codes + step.delta_t, self.decoder + step.delta_beta.reshape(self.decoder.shape))


def load(path: str | Path = DATA) -> np.ndarray:
    """Return the activations in double precision, centred, (n, p)."""
    with np.load(path, allow_pickle=False) as file:
        x = file["activations"].astype(np.float64)
    return x - x.mean(axis=0)


def start(x: np.ndarray, seed: int = 0) -> Model:
    """Make an untrained autoencoder: the decoder and the encoder E, t_i = E'x_i, are independent random matrices.

    (With E = D, or with the best codes for D, the step would hardly move the codes, and the objective, which for fixed
    codes is quadratic in the decoder, would follow the prediction exactly.)
    """
    decoder, encoder = np.random.default_rng(seed).standard_normal((2, x.shape[1], CODES))
    return Model(x @ (encoder / np.linalg.norm(encoder, axis=0)), decoder / np.linalg.norm(decoder, axis=0))


def system_at(x: np.ndarray, model: Model) -> asn.ArrowSystem:
    """Form the Gauss-Newton system at a model."""
    (n, p), t, decoder = x.shape, model.codes, model.decoder
    residual = model.residual(x)
    h_tt = np.tile(decoder.T @ decoder, (n, 1, 1))
    h_tb = np.einsum("qa,nc->naqc", decoder, t).reshape(n, CODES, p * CODES)
    h_bb = asn.BlockDiagonalBorder([t.T @ t] * p)
    return asn.ArrowSystem(h_tt, h_tb, h_bb, residual @ decoder, (residual.T @ t).ravel())


def ridges(model: Model) -> dict[str, Any]:
    """Return the keyword arguments `ridge_t`, `ridge_beta`: 1e-3 of the mean diagonal of A_i and of M."""
    row, border = np.sum(model.decoder**2) / CODES, np.sum(model.codes**2) / CODES
    return {"ridge_t": 1e-3 * float(row), "ridge_beta": 1e-3 * float(border)}


def dense_step(system: asn.ArrowSystem, ridge_t: float, ridge_beta: float) -> np.ndarray:
    """Solve for the same step with the whole matrix, by numpy.linalg.solve."""
    h, g = system.to_dense()
    h[np.diag_indices_from(h)] += np.where(np.arange(len(g)) < system.total_dim, ridge_t, ridge_beta)
    return np.linalg.solve(h, -g)


def demo(report: Report) -> None:
    """Make one step from a random start; report predicted and true decrease, and the best value of any model."""
    x = load()
    before = start(x)
    form = time.perf_counter()
    system = system_at(x, before)
    formed = time.perf_counter() - form
    step = asn.newton_step(system, **ridges(before))
    after = before.moved(step)

    predicted = asn.model_reduction(system, step.delta_t, step.delta_beta, **ridges(before))
    f0, f1 = before.objective(x), after.objective(x)
    best = 0.5 * float(np.sum(np.linalg.svd(x, compute_uv=False)[CODES:] ** 2))
    total = 0.5 * float(np.sum(x**2))

    # The whole matrix has 3,768 lines; a cut of 300 tokens keeps the comparison short.
    part_x, part = x[:300], Model(before.codes[:300], before.decoder)
    part_system = system_at(part_x, part)
    part_step = asn.newton_step(part_system, **ridges(part))
    arrow = np.concatenate([part_step.delta_t.ravel(), part_step.delta_beta])
    dense = dense_step(part_system, **ridges(part))

    diagnostics = step.diagnostics
    report(
        "Linear autoencoder: one Gauss-Newton step on transformer activations",
        [
            ("shape", f"n = {len(x)}, d = {CODES}, k = {system.k} ({len(x)} tokens of width {x.shape[1]})"),
            ("route", step.route),
            (
                "seconds per stage",
                "  ".join(f"{stage} {value:.3g}" for stage, value in diagnostics.seconds.items())
                + f"  (forming the blocks {formed:.3g})",
            ),
            ("backward error", f"{diagnostics.backward_error:.1e}"),
            (
                "dense solve",
                f"differs by {np.linalg.norm(arrow - dense) / np.linalg.norm(dense):.1e} (relative; first 300 tokens)",
            ),
            ("objective", f"{f0:.2f} before, {f1:.2f} after, {best:.2f} at best (singular values)"),
            ("predicted decrease", f"{predicted:.4f}"),
            (
                "true decrease",
                f"{f0 - f1:.4f} ({(f0 - f1) / predicted:.3f} of it: the model leaves out the product of the "
                "codes' and the decoder's step)",
            ),
            (
                "variance explained",
                f"{1 - f0 / total:.4f} before, {1 - f1 / total:.4f} after, {1 - best / total:.4f} at best",
            ),
        ],
    )


def show(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a block of results."""
    print(title, *(f"  {name:<20}{value}" for name, value in rows), sep="\n")


if __name__ == "__main__":
    demo(show)
