"""Input rows: whatever the caller has, handed to the core in place or one minibatch at a time, never copied whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import _device_memory, describe, is_device_array
from .._errors import InvalidArgument
from ._options import complain
from ._sklearn import is_sparse

__all__ = ["Rows", "UnsupportedDtypeError", "as_decoder", "rows_of"]

Array = NDArray[Any]

# Kinds and sizes whose values float32 holds exactly; what is left goes by way of float64.
_EXACT_IN_FLOAT32 = ("b1", "i1", "i2", "u1", "u2", "f2", "f4")


class UnsupportedDtypeError(InvalidArgument, TypeError):
    """An array of something that is not a number."""


@dataclass(frozen=True)
class Rows:
    """Rows as the core sees them."""

    core: _core.DictionaryRows
    count: int
    width: int


def rows_of(value: Any, *, empty: bool = False) -> Rows:
    """Return the core's view of rows; `empty` allows none at all.

    A float32 or float64 array whose columns are adjacent is borrowed, so that of a memory map only the pages that are
    read are touched. Every other layout and dtype is converted into the core's buffer when a minibatch is due.
    """
    array = _as_matrix(value)
    count, width = array.shape
    if count == 0 and not empty:
        raise _too_few(array, "sample")
    if width == 0:
        raise _too_few(array, "feature")
    size = array.dtype.itemsize
    row_stride, column_stride = array.strides
    rows_follow = row_stride > 0 and row_stride % size == 0 and (column_stride == size or width == 1)
    plain = array.dtype in (np.float32, np.float64) and array.dtype.isnative and array.flags.aligned
    if plain and (array.flags.c_contiguous or rows_follow):
        return Rows(_core.DictionaryRows(array, count, width, str(array.dtype), None), count, width)
    exact = array.dtype.name == "bfloat16" or array.dtype.str[1:] in _EXACT_IN_FLOAT32

    def read(first: int, out: Array) -> None:
        block = array[first : first + len(out)]
        # An infinity is the core's to name; a TypeError or ValueError of an object array is NumPy's own.
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(out, block.astype(np.float64) if block.dtype.hasobject else block, casting="unsafe")

    dtype = "float32" if exact else "float64"
    return Rows(_core.DictionaryRows(None, count, width, dtype, read), count, width)


def as_decoder(value: Any, shape: tuple[int, int]) -> Array:
    """Return `dict_init` in double precision and C order."""
    array = _as_array(value, "dict_init")
    if array.shape != shape:
        raise InvalidArgument(
            f"sparse_dictionary: dict_init must have shape {shape}, got {array.shape}",
            argument="dict_init",
            got=str(array.shape),
            expected=f"shape {shape}",
        )
    return np.require(array, dtype=np.float64, requirements=["C", "A"])


def _as_matrix(value: Any) -> Array:
    array = _as_array(value, "X")
    if array.ndim != 2:
        raise InvalidArgument(
            f"sparse_dictionary: X must be a 2-D array, got {array.ndim} dimension(s). "
            "Reshape your data to (rows, columns)",
            argument="X",
            got=f"{array.ndim} dimension(s)",
            expected="a 2-D array",
        )
    return array


def _as_array(value: Any, name: str) -> Array:
    if is_sparse(value):
        raise InvalidArgument(
            f"sparse_dictionary: sparse {name} is not supported, pass a dense array",
            argument=name,
            got=type(value).__name__,
            expected="a dense array",
        )
    if isinstance(value, np.ma.MaskedArray):
        raise complain(name, "a masked array", "a plain array")
    if is_device_array(value):
        raise _device_memory(name)
    array = np.asarray(value)
    if array.dtype.kind == "c" and name != "X":
        raise complain(name, array.dtype, "an array of real numbers")
    if array.dtype.kind == "c":
        raise InvalidArgument(
            f"sparse_dictionary: Complex data not supported, got dtype {array.dtype}",
            argument=name,
            got=f"dtype {array.dtype}",
            expected="real numbers",
        )
    if array.dtype.kind not in "biufO" and array.dtype.name != "bfloat16":
        raise UnsupportedDtypeError(
            f"sparse_dictionary: {name} has unsupported dtype {array.dtype}",
            argument=name,
            got=describe(array),
            expected="an array of real numbers",
        )
    return array


def _too_few(array: Array, what: str) -> InvalidArgument:
    return InvalidArgument(
        f"sparse_dictionary: X has 0 {what}(s) (shape={array.shape}) while a minimum of 1 is required.",
        argument="X",
        got=f"shape {array.shape}",
        expected=f"at least one {what}",
    )
