"""What a peer is given and what it returns."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Parts", "Peer", "Step", "backward_error"]

Array = NDArray[np.float64]
Step = tuple[Array, Array]


class Parts(NamedTuple):
    """The five parts of an arrow system with rows of equal size, ridges included: float64, C order."""

    h_tt: Array  # (n, d, d)
    h_tb: Array  # (n, d, k)
    h_bb: Array  # (k, k)
    g_t: Array  # (n, d)
    g_beta: Array  # (k,)


class Peer(Protocol):
    """Solves `H [delta_t; delta_beta] = -[g_t; g_beta]`; returns `(n, d)` and `(k,)`."""

    name: str

    def __call__(self, parts: Parts) -> Step: ...


def backward_error(parts: Parts, step: Step) -> float:
    """Return the normwise backward error of a step, in the infinity norm."""
    h_tt, h_tb, h_bb, g_t, g_beta = parts
    delta_t, delta_beta = step
    r_t = np.einsum("nij,nj->ni", h_tt, delta_t) + h_tb @ delta_beta + g_t
    r_beta = np.einsum("nik,ni->k", h_tb, delta_t) + h_bb @ delta_beta + g_beta
    rows = (np.abs(h_tt).sum(axis=2) + np.abs(h_tb).sum(axis=2)).max(initial=0.0)
    border = (np.abs(h_tb).sum(axis=(0, 1)) + np.abs(h_bb).sum(axis=1)).max(initial=0.0)
    residual = max(_max(r_t), _max(r_beta))
    scale = max(rows, border) * max(_max(delta_t), _max(delta_beta)) + max(_max(g_t), _max(g_beta))
    return float(residual / scale) if scale > 0.0 else float(residual)


def _max(x: NDArray[Any]) -> float:
    return float(np.abs(x).max(initial=0.0))
