"""Shapes: rows in their three spellings, vectors of calls, border blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._arrays import Array, as_array, as_indices, common_dtype, describe, float64_array
from ._borders import stack
from ._cross import Cross
from ._errors import InvalidArgument

if TYPE_CHECKING:
    from ._system import ArrowSystem

__all__ = [
    "Rows",
    "border_blocks_of",
    "border_vector",
    "check_cross",
    "check_rows",
    "check_shape",
    "dampings",
    "frozen",
    "row_shapes",
    "row_vector",
    "rows_of",
    "uniform_size",
]


def frozen(array: Array) -> Array:
    """Return the array, read-only."""
    array.setflags(write=False)
    return array


class Rows:
    """The row blocks: sizes, and the data as the core wants them."""

    __slots__ = ("d", "data", "n", "ragged", "total")

    def __init__(self, data: Array, n: int, d: int | None, ragged: NDArray[np.int64] | None) -> None:
        self.data = data
        self.n = n
        self.d = d  # common size, when the rows were not given as ragged
        self.ragged = ragged
        self.total = n * d if d is not None else int(ragged.sum()) if ragged is not None else 0

    def dims(self) -> NDArray[np.int64]:
        if self.ragged is not None:
            return frozen(self.ragged.copy())
        return frozen(np.full(self.n, self.d or 0, dtype=np.int64))

    def shapes(self, *tail: int) -> list[tuple[int, ...]]:
        """Shapes that a part with one line per latent coordinate may have."""
        shapes: list[tuple[int, ...]] = []
        d = self.d
        if d is None and self.ragged is not None and self.n and int(self.ragged.min()) == int(self.ragged.max()):
            d = int(self.ragged[0])
        if d is not None:
            shapes.append((self.n, d, *tail))
        shapes.append((self.total, *tail))
        return shapes


def rows_of(h_tt: Any, row_dims: Any, cross: Array | Cross, copies: list[str]) -> Rows:
    """Read the row blocks; the sizes of a flat buffer may come from the cross block."""
    if isinstance(h_tt, (list, tuple)):
        return _rows_from_sequence(h_tt, row_dims, copies)
    data = as_array(h_tt, "h_tt")
    if row_dims is None and data.ndim == 1 and isinstance(cross, Cross):
        row_dims = cross.row_dims
    if row_dims is None:
        if data.ndim != 3 or data.shape[1] != data.shape[2]:
            raise InvalidArgument(
                argument="h_tt",
                got=describe(data),
                expected="shape (n, d, d), or a flat buffer with row_dims, or a sequence of square blocks",
            )
        return Rows(data, data.shape[0], data.shape[1], None)
    dims = as_indices(row_dims, "row_dims")
    if dims.size and int(dims.min()) < 0:
        raise InvalidArgument(argument="row_dims", got=f"an entry {int(dims.min())}", expected="sizes >= 0")
    if data.ndim == 3:
        if data.shape[0] != dims.size or data.shape[1] != data.shape[2] or bool((dims != data.shape[1]).any()):
            raise InvalidArgument(
                argument="row_dims", got=describe(dims), expected=f"the sizes of h_tt, whose shape is {data.shape}"
            )
        return Rows(data, data.shape[0], data.shape[1], None)
    entries = sum(size * size for size in dims.tolist())  # Python integers: no overflow
    if data.ndim != 1 or data.size != entries:
        raise InvalidArgument(
            argument="h_tt", got=describe(data), expected=f"a flat buffer of sum d_i^2 = {entries} entries"
        )
    return Rows(data, int(dims.size), None, dims)


def _rows_from_sequence(blocks: Sequence[Any], row_dims: Any, copies: list[str]) -> Rows:
    parts = [as_array(block, f"h_tt[{i}]") for i, block in enumerate(blocks)]
    for i, part in enumerate(parts):
        if part.ndim != 2 or part.shape[0] != part.shape[1]:
            raise InvalidArgument(argument=f"h_tt[{i}]", got=describe(part), expected="a square block (d_i, d_i)")
    dims = np.array([part.shape[0] for part in parts], dtype=np.int64)
    if row_dims is not None and not np.array_equal(as_indices(row_dims, "row_dims"), dims):
        raise InvalidArgument(
            argument="row_dims", got=describe(np.asarray(row_dims)), expected="the sizes of the blocks of h_tt"
        )
    copies.append("h_tt: sequence of blocks -> one buffer")
    data = stack([part.reshape(-1) for part in parts], common_dtype(parts))
    if parts and row_dims is None and int(dims.min()) == int(dims.max()):
        d = int(dims[0])
        return Rows(data.reshape(len(parts), d, d), len(parts), d, None)
    return Rows(data, len(parts), None, dims)


def check_shape(name: str, array: Array, allowed: Sequence[tuple[int, ...]]) -> None:
    if array.shape not in allowed:
        shapes = list(dict.fromkeys(allowed))
        raise InvalidArgument(
            argument=name, got=describe(array), expected="shape " + " or ".join(str(shape) for shape in shapes)
        )


def check_rows(rows: Rows, h_tt: Any, cross: Array, gradient_t: Array, k: int) -> None:
    """Blame h_tt where the other two parts agree with each other, but not with it."""
    total = gradient_t.size
    agree = cross.size == total * k and cross.shape[-1:] == (k,) and cross.shape[:-1] in (gradient_t.shape, (total,))
    if agree and total != rows.total and gradient_t.ndim in (1, 2):
        shape = (*gradient_t.shape, gradient_t.shape[1]) if gradient_t.ndim == 2 else None
        expected = f"shape {shape}" if shape is not None else f"blocks of {total} coordinates together"
        got = describe(h_tt) if isinstance(h_tt, np.ndarray) else f"blocks of {rows.total} coordinates together"
        raise InvalidArgument(argument="h_tt", got=got, expected=f"{expected}, as h_tb and g_t say")


def check_cross(rows: Rows, cross: Cross, k: int) -> None:
    """Check that a cross block has the rows and the columns of its system."""
    if cross.n != rows.n:
        raise InvalidArgument(argument="h_tb", got=f"a cross block of {cross.n} rows", expected=f"n = {rows.n} rows")
    if not cross._fits_width(k):
        raise InvalidArgument(
            argument="h_tb", got=f"a cross block of {cross.k} columns", expected=f"k = {k} columns, as g_beta says"
        )
    if cross._ragged is not None and not np.array_equal(cross._ragged, rows.dims()):
        raise InvalidArgument(
            argument="h_tb", got="a cross block with other row_dims", expected="the row sizes of h_tt"
        )


def uniform_size(system: ArrowSystem) -> int | None:
    """Return the size of all rows where they are equal."""
    if system.uniform_dim is not None:
        return system.uniform_dim
    dims = system.row_dims
    return int(dims[0]) if dims.size and int(dims.min()) == int(dims.max()) else None


def row_shapes(system: ArrowSystem) -> list[tuple[int, ...]]:
    """Shapes that a vector over the rows may have."""
    d = uniform_size(system)
    flat = (system.total_dim,)
    return [flat] if d is None else [(system.n, d), flat]


def row_vector(system: ArrowSystem, value: Any, name: str) -> Array:
    """Return a T-vector, given as (n, d) or (T,), in float64."""
    array = float64_array(value, name)
    if array.ndim == 1 and array.shape[0] == system.total_dim:
        return array
    check_shape(name, array, row_shapes(system))
    return array


def border_vector(system: ArrowSystem, value: Any, name: str) -> Array:
    """Return a k-vector in float64."""
    array = float64_array(value, name)
    check_shape(name, array, [(system.k,)])
    return array


def dampings(system: ArrowSystem, damping_t: Any, damping_beta: Any) -> tuple[Array | None, Array | None]:
    """Return the diagonals that are added beside the scalar ridges."""
    return (
        None if damping_t is None else row_vector(system, damping_t, "damping_t"),
        None if damping_beta is None else border_vector(system, damping_beta, "damping_beta"),
    )


def border_blocks_of(value: Any, k: int) -> NDArray[np.int64] | None:
    """Return block offsets; ranges (start, stop) are accepted too."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.ndim == 2 and array.shape[1] == 2 and array.dtype.kind in "iu":
        if bool((array[1:, 0] != array[:-1, 1]).any()):
            raise InvalidArgument(
                argument="border_blocks", got=describe(array), expected="sorted, disjoint ranges covering 0..k"
            )
        array = np.concatenate((array[:1, 0], array[:, 1]))
    offsets = as_indices(array, "border_blocks")
    good = offsets.size >= 1 and offsets[0] == 0 and offsets[-1] == k and not bool((np.diff(offsets) <= 0).any())
    if not good:
        raise InvalidArgument(
            argument="border_blocks", got=describe(value), expected=f"ascending offsets from 0 to k = {k}"
        )
    return frozen(offsets.copy())
