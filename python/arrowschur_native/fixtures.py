"""Deterministic test systems: the same numbers on every platform.

Each function returns a `Fixture`; its `system()` is the `ArrowSystem`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _core
from ._arrays import Array
from ._borders import BandedBorder
from ._errors import InvalidArgument, UnsupportedConfiguration
from ._loop_shapes import ResidentShape, SweepVariant, whole_number
from ._system import ArrowSystem

__all__ = [
    "Fixture",
    "color_arm_fixture",
    "color_arm_variant_matrix",
    "coupled_fixture",
    "qwen_fixture",
    "shape_fixture",
    "small_fixture",
]


@dataclass(frozen=True, repr=False, eq=False)
class Fixture:
    """The parts of a system, and the data of a resident workspace where the fixture defines them.

    Attributes
    ----------
    n, d, k, basis_cols : int
    h_tt, h_tb, g_t, g_beta : ndarray
        Shapes (n, d, d), (n, d, k), (n, d), (k,).
    h_bb : ndarray or BandedBorder
        (k, k), or (k,) for a diagonal border, or the bands of a tridiagonal one.
    target, basis, gates : ndarray or None
        Shapes (n, k), (n, basis_cols), (n, basis_cols).
    """

    n: int
    d: int
    k: int
    basis_cols: int
    h_tt: Array
    h_tb: Array
    h_bb: Any
    g_t: Array
    g_beta: Array
    target: Array | None
    basis: Array | None
    gates: Array | None

    def system(self, **keywords: Any) -> ArrowSystem:
        """Return the system on this object's arrays; keywords go to `ArrowSystem`."""
        return ArrowSystem(self.h_tt, self.h_tb, self.h_bb, self.g_t, self.g_beta, **keywords)

    def __repr__(self) -> str:
        return f"Fixture(n={self.n}, d={self.d}, k={self.k}, basis_cols={self.basis_cols})"


def _fixture(fields: dict[str, Any]) -> Fixture:
    if fields.pop("border") == "tridiagonal":
        fields["h_bb"] = BandedBorder(fields["h_bb"])
    return Fixture(**fields)


def qwen_fixture(*, with_target: bool = True) -> Fixture:
    """Return the smooth reference system n=2000, d=2, k=2048 with a tridiagonal border stored dense.

    Parameters
    ----------
    with_target : bool, default True
        Also make target, basis and gates (33 MB).

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.fixtures.qwen_fixture(with_target=False).h_tt.shape
    (2000, 2, 2)
    """
    return _fixture(_core.qwen_fixture(with_target))


def color_arm_fixture(*, with_target: bool = True) -> Fixture:
    """Return the smooth reference system n=180, d=2, k=5120 with a tridiagonal border stored dense (210 MB).

    Parameters
    ----------
    with_target : bool, default True
        Also make target, basis and gates.
    """
    return _fixture(_core.color_arm_fixture(with_target))


def small_fixture(seed: int) -> Fixture:
    """Return a well conditioned random system n=8, d=2, k=4 with a dense border.

    Parameters
    ----------
    seed : int
        In `0 .. 2^64 - 1`.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> fixture = asn.fixtures.small_fixture(0xABCD0001)
    >>> round(asn.factorize(fixture.system()).log_det(), 9)
    31.152806516
    """
    return _fixture(_core.small_fixture(whole_number("seed", seed, 0, 2**64)))


def shape_fixture(shape: Any, seed: int, *, with_target: bool = True) -> Fixture:
    """Return a smooth system of a given shape with a tridiagonal border stored dense.

    Parameters
    ----------
    shape : tuple of int
        `(n, k, basis_cols, d)`, all >= 1; an object with the attributes `n`, `p` (the border width), `basis_cols`
        and `d` is accepted too.
    seed : int
        In `0 .. 2^64 - 1`. It moves only the target.
    with_target : bool, default True
        Also make target, basis and gates.

    Raises
    ------
    InvalidArgument
        The shape is not four positive integers.
    """
    names = ("n", "p", "basis_cols", "d")
    values = [getattr(shape, name) for name in names] if hasattr(shape, "basis_cols") else shape
    try:
        n, k, basis_cols, d = values
    except (TypeError, ValueError):
        raise InvalidArgument(
            argument="shape", got=f"{shape!r:.80}", expected="four integers (n, k, basis_cols, d)"
        ) from None
    n, k, basis_cols, d = (whole_number("shape", size, 1, 2**31) for size in (n, k, basis_cols, d))
    return _fixture(_core.shape_fixture(n, k, basis_cols, d, whole_number("seed", seed, 0, 2**64), with_target))


def coupled_fixture(n: int, d: int, k: int, seed: int, coupling: float = 0.9, border: str = "dense") -> Fixture:
    """Return a random system whose cross block matters: the fixture for benchmarks.

    Parameters
    ----------
    n, d, k : int
        Rows, row size, border width.
    seed : int
        In `0 .. 2^64 - 1`.
    coupling : float, default 0.9
        In (0, 1): 0 decouples the border, towards 1 the Schur complement becomes singular.
    border : {'dense', 'tridiagonal', 'diagonal'}, default 'dense'

    Raises
    ------
    InvalidArgument
        An argument is out of its range.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> system = asn.fixtures.coupled_fixture(8, 2, 4, seed=1, coupling=0.5).system()
    >>> round(asn.factorize(system).log_det(), 9)
    22.566434313
    """
    if not isinstance(border, str):
        raise InvalidArgument(argument="border", got=f"{border!r:.80}", expected="a string")
    try:
        strength = float(coupling)
    except (TypeError, ValueError):
        strength = -1.0
    if not 0 <= strength < 1:
        raise InvalidArgument(argument="coupling", got=f"{coupling!r:.80}", expected="a number in [0, 1)")
    n, d, k = whole_number("n", n, 0, 2**31), whole_number("d", d, 0, 2**31), whole_number("k", k, 0, 2**31)
    return _fixture(_core.coupled_fixture(n, d, k, whole_number("seed", seed, 0, 2**64), strength, border))


def color_arm_variant_matrix(kind: str = "battery") -> tuple[SweepVariant, ...]:
    """Return the variants of the color_arm shape over which sweeps are measured.

    Parameters
    ----------
    kind : {'battery'}, default 'battery'
        12 variants: for `K` in 1..4, `basis_cols` in 4, 8, 12, with a seed made from both.

    Raises
    ------
    UnsupportedConfiguration
        `kind` is `'full'`, the matrix over topologies, of a later version.
    InvalidArgument
        `kind` is something else.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> variants = asn.fixtures.color_arm_variant_matrix()
    >>> len(variants), hex(variants[0].seed), variants[-1].shape.basis_cols
    (12, '0x1017004000000104', 12)
    """
    if kind == "full":
        raise UnsupportedConfiguration(feature="kind='full'", route="this version", hint="use kind='battery'")
    if kind != "battery":
        raise InvalidArgument(argument="kind", got=f"{kind!r:.80}", expected="'battery'")
    return tuple(SweepVariant(ResidentShape(*shape), seed) for *shape, seed in _core.color_arm_variant_matrix())
