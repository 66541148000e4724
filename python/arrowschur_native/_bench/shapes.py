"""The reference shapes, the targets that belong to them, and the data they run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import fixtures

__all__ = ["SHAPES", "Shape", "make_system"]

COUPLING = 0.9
SEED = 4


@dataclass(frozen=True)
class Shape:
    """One benchmark: a size, what bounds it, and what was promised.

    Attributes
    ----------
    name : str
    n, d, k : int
        Rows, row size, border width.
    bound : {'flops', 'stream', 'none'}
        What the time is compared with: one SYRK and one POTRF of the same sizes (`'flops'`), or the larger of one SYRK
        and two passes over `h_tb` at the measured bandwidth (`'stream'`). `'none'` has no target of this kind, and is
        compared with SYRK and POTRF for information.
    limit_factor : float or None
        At most this many times the bound.
    peer_factor : float
        At least this many times faster than the fastest dense peer.
    solve : bool
        `factor.solve` is timed too.
    sparse : bool
        SciPy's sparse LU is a peer.
    """

    name: str
    n: int
    d: int
    k: int
    bound: str
    limit_factor: float | None
    peer_factor: float
    solve: bool = False
    sparse: bool = False

    @property
    def total_dim(self) -> int:
        """`T = n d`."""
        return self.n * self.d

    @property
    def cross_bytes(self) -> int:
        """Bytes of `h_tb`."""
        return 8 * self.total_dim * self.k


# A language model's dictionary in two and in eight latent coordinates, a colour subspace with a wide border, thin
# borders (additive models, bundle adjustment with 16 cameras), one group effect, and a system where overheads count.
SHAPES: tuple[Shape, ...] = (
    Shape("qwen", 2000, 2, 2048, "flops", 1.33, 2.2, solve=True),
    Shape("color_arm", 180, 2, 5120, "flops", 1.5, 1.7),
    Shape("llm", 2000, 8, 2048, "flops", 1.33, 2.2, solve=True),
    Shape("thin64", 24576, 1, 64, "stream", 2.0, 4.0),
    Shape("thin256", 40456, 1, 256, "stream", 2.0, 2.5),
    Shape("ba16", 22106, 3, 144, "stream", 2.0, 4.0, sparse=True),
    Shape("group", 2972, 1, 1200, "flops", 1.33, 2.2),
    Shape("small", 200, 2, 64, "none", None, 1.5, sparse=True),
)


def make_system(shape: Shape) -> tuple[Any, Any]:
    """Return a fixture and the validated system that borrows its arrays."""
    fixture = fixtures.coupled_fixture(shape.n, shape.d, shape.k, SEED, COUPLING, "dense")
    return fixture, fixture.system()
