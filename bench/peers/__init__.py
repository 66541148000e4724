"""Peers: other ways to compute the same Newton step, each as fast as its tools allow.

They take the five parts of a system with rows of equal size and return the step, without a certificate. `make_peers`
makes those that fit a shape and whose packages are installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from .parts import Parts, Peer, Step, backward_error

__all__ = ["FUSED_MAX_BORDER", "Parts", "Peer", "Step", "backward_error", "make_peers"]

# Above this width chunks of rows no longer amortise the k x k products that `Fused` adds up.
FUSED_MAX_BORDER = 512


def make_peers(
    n: int,
    d: int,
    k: int,
    *,
    threads: int = 1,
    blas_limit: Callable[[], AbstractContextManager[Any]] | None = None,
) -> list[Peer]:
    """Return the dense peers for a shape: NumPy with SciPy, and PyTorch, each if installed.

    `blas_limit` makes a context in which BLAS runs in one thread; `Fused` needs it when `threads > 1`.
    """
    peers: list[Peer] = []
    if importlib.util.find_spec("scipy") is not None:
        from .dense import Fused, Plain, Stacked

        peers += [Plain(), Stacked(n, d, k, threads)]
        if k <= FUSED_MAX_BORDER and (threads == 1 or blas_limit is not None):
            peers.append(Fused(n, d, k, threads, blas_limit))
    if importlib.util.find_spec("torch") is not None:
        from .torch_cpu import Torch

        peers.append(Torch(threads))
    return peers
