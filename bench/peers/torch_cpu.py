"""PyTorch on the CPU: batched Cholesky, triangular solves, one product, Cholesky of the Schur complement."""

from __future__ import annotations

import torch

from .parts import Parts, Step

__all__ = ["Torch"]


class Torch:
    """The step with `torch.linalg`. PyTorch has no `syrk`: the product forms both triangles."""

    name = "torch"

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def __call__(self, parts: Parts) -> Step:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            h_tt, h_tb, h_bb, g_t, g_beta = (torch.from_numpy(part) for part in parts)
            n, d, k = h_tb.shape
            factor = torch.linalg.cholesky(h_tt)
            w = torch.linalg.solve_triangular(factor, h_tb, upper=False).reshape(n * d, k)
            u = torch.linalg.solve_triangular(factor, g_t[:, :, None], upper=False).reshape(n * d)
            schur = torch.addmm(h_bb, w.T, w, alpha=-1.0)
            rhs = torch.addmv(g_beta, w.T, u, beta=-1.0)
            delta_beta = torch.cholesky_solve(rhs[:, None], torch.linalg.cholesky(schur))[:, 0]
            z = torch.addmv(u, w, delta_beta).reshape(n, d, 1)
            delta_t = -torch.linalg.solve_triangular(factor.mT, z, upper=True)[:, :, 0]
            return delta_t.numpy(), delta_beta.numpy()
