"""What a resident workspace is made of, in numbers: shapes, and the variants of a sweep."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ._errors import InvalidArgument

__all__ = ["ResidentShape", "SweepVariant"]


def whole_number(name: str, value: Any, lowest: int, limit: int) -> int:
    """Return an integer in `lowest .. limit - 1`, or complain."""
    number = None if isinstance(value, bool) else getattr(value, "__index__", lambda: None)()
    if number is None or not lowest <= number < limit:
        rule = f">= {lowest}" if limit >= 2**63 else f"in {lowest}..{limit - 1}"
        raise InvalidArgument(argument=name, got=f"{value!r:.80}", expected=f"an integer {rule}")
    return int(number)


@dataclass(frozen=True)
class ResidentShape:
    """Shape of a resident workspace.

    Parameters
    ----------
    n : int
        Rows.
    p : int
        Border width, which is the width of the target.
    basis_cols : int
        Basis functions per row.
    d : int
        Size of a row. All are >= 1.

    Attributes
    ----------
    target, basis, gates, row_hessian, row_cross, row_gradient, border_hessian : int
        Numbers of entries: `n p`, `n basis_cols`, `n basis_cols`, `n d d`, `n d p`, `n d`, `p p`.

    Raises
    ------
    InvalidArgument
        A size is not an integer >= 1, or an array of this shape would have 2^63 entries or more.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> shape = asn.ResidentShape.qwen()
    >>> shape
    ResidentShape(n=2000, p=2048, basis_cols=8, d=2)
    >>> shape.row_cross
    8192000
    """

    n: int
    p: int
    basis_cols: int
    d: int

    def __post_init__(self) -> None:
        for name in ("n", "p", "basis_cols", "d"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1, 2**63))
        for name in ("target", "basis", "row_hessian", "row_cross", "border_hessian"):
            if getattr(self, name) >= 2**63:
                raise InvalidArgument(argument="shape", got=repr(self), expected=f"fewer than 2^63 entries in {name}")

    @classmethod
    def qwen(cls) -> ResidentShape:
        """Return n=2000, p=2048, basis_cols=8, d=2."""
        return cls(2000, 2048, 8, 2)

    @classmethod
    def color_arm(cls) -> ResidentShape:
        """Return n=180, p=5120, basis_cols=9, d=2."""
        return cls(180, 5120, 9, 2)

    @property
    def target(self) -> int:
        """Entries of the target, `n p`."""
        return self.n * self.p

    @property
    def basis(self) -> int:
        """Entries of the basis, `n basis_cols`."""
        return self.n * self.basis_cols

    @property
    def gates(self) -> int:
        """Entries of the gates, `n basis_cols`."""
        return self.n * self.basis_cols

    @property
    def row_hessian(self) -> int:
        """Entries of the row blocks, `n d d`."""
        return self.n * self.d * self.d

    @property
    def row_cross(self) -> int:
        """Entries of the cross block, `n d p`."""
        return self.n * self.d * self.p

    @property
    def row_gradient(self) -> int:
        """Entries of the row gradient, `n d`."""
        return self.n * self.d

    @property
    def border_hessian(self) -> int:
        """Entries of a dense border, `p p`."""
        return self.p * self.p

    def replace(self, **changes: Any) -> ResidentShape:
        """Return a copy with the given sizes changed; the result is validated like a new object."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class SweepVariant:
    """One fit of a sweep: the shape and the seed of its fixture.

    Parameters
    ----------
    shape : ResidentShape
    seed : int
        In `0 .. 2^64 - 1`.

    Raises
    ------
    InvalidArgument
        `shape` is not a ResidentShape, or `seed` is out of its range.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.SweepVariant(asn.ResidentShape(10, 6, 2, 2), seed=1).shape.p
    6
    """

    shape: ResidentShape
    seed: int

    def __post_init__(self) -> None:
        if not isinstance(self.shape, ResidentShape):
            raise InvalidArgument(argument="shape", got=f"{self.shape!r:.80}", expected="a ResidentShape")
        object.__setattr__(self, "seed", whole_number("seed", self.seed, 0, 2**64))

    def replace(self, **changes: Any) -> SweepVariant:
        """Return a copy with the given fields changed; the result is validated like a new object."""
        return dataclasses.replace(self, **changes)
