"""The boundary: whatever the caller hands over becomes an aligned NumPy array in C order, once, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import InvalidArgument, UnsupportedConfiguration

__all__ = ["Array", "as_array", "as_indices", "common_dtype", "describe", "float64_array", "plain"]

Array = NDArray[Any]

# DLDeviceType of the DLPack standard: the host's memory, pageable and pinned for CUDA.
_DLPACK_HOST = (1, 3)


def describe(value: Any) -> str:
    """Say what a value is, for error messages."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, dtype {value.dtype}"
    return f"{type(value).__name__} {value!r:.60}"


def is_device_array(value: Any) -> bool:
    """Return whether `value` says that its memory is not the host's."""
    if isinstance(value, np.ndarray):
        return False
    # Asked first: an array that must not be exported has a device all the same, while its interface may raise.
    if hasattr(value, "__dlpack_device__"):
        return value.__dlpack_device__()[0] not in _DLPACK_HOST
    return hasattr(value, "__cuda_array_interface__")


def as_array(value: Any, name: str) -> Array:
    """Return `value` as a real numeric NumPy array, without copying where NumPy can avoid it."""
    if type(value) is np.ndarray:
        array = value
    elif isinstance(value, np.ma.MaskedArray):
        raise InvalidArgument(argument=name, got="a masked array", expected="a plain array without masked entries")
    elif is_device_array(value):
        raise _device_memory(name)
    elif hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
        try:
            array = np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidArgument(
                argument=name, got=f"a DLPack producer that refused ({error})", expected="host memory"
            ) from error
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InvalidArgument(
                argument=name, got=f"{type(value).__name__} ({error})", expected="an array"
            ) from error
    if array.dtype.kind not in "fiub":
        raise InvalidArgument(argument=name, got=describe(array), expected="an array of real numbers")
    return array


def _device_memory(name: str) -> UnsupportedConfiguration:
    return UnsupportedConfiguration(
        feature=f"{name} in device memory",
        route="an argument that is read on the host",
        hint="frames take DeviceSystem and gradients on the device; elsewhere copy the array to the host first",
    )


def common_dtype(arrays: Sequence[Array]) -> np.dtype[Any]:
    """Return float32 when every array is float32, else float64."""
    single = bool(arrays) and all(a.dtype == np.float32 for a in arrays)
    return np.dtype(np.float32 if single else np.float64)


def plain(array: Array, dtype: np.dtype[Any], name: str, copies: list[str]) -> Array:
    """Return `array` in the given dtype, in C order and aligned. Any copy is recorded in `copies`."""
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned:
        return array
    if array.dtype != dtype:
        copies.append(f"{name}: {array.dtype} -> {dtype}")
    elif flags.f_contiguous:
        copies.append(f"{name}: Fortran order -> C order")
    elif not flags.c_contiguous:
        copies.append(f"{name}: strided -> C order")
    else:
        copies.append(f"{name}: unaligned -> aligned")
    return np.require(array, dtype=dtype, requirements=["C", "A"])


def float64_array(value: Any, name: str) -> Array:
    """Return a float64 array in C order; for arguments of single calls, whose copies are not worth a record."""
    if type(value) is np.ndarray and value.dtype == np.float64:
        array: Array = value
    else:
        array = as_array(value, name)
    flags = array.flags
    if array.dtype == np.float64 and flags.c_contiguous and flags.aligned:
        return array
    return np.require(array, dtype=np.float64, requirements=["C", "A"])


def as_indices(value: Any, name: str) -> NDArray[np.int64]:
    """Return a one-dimensional int64 array in C order; anything that is not an integer is refused."""
    array = np.asarray(value)
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidArgument(argument=name, got=describe(value), expected="a one-dimensional sequence of integers")
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise InvalidArgument(argument=name, got=describe(value), expected="integers below 2^63")
    return np.require(array, dtype=np.int64, requirements=["C", "A"])
