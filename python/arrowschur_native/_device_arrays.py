"""Arrays in the memory of a device: systems that are there already, and what frames leave there."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core
from ._arrays import Array, is_device_array
from ._errors import InvalidArgument
from ._options import _integer

__all__ = ["DeviceArray", "DeviceSystem", "is_device_array"]


class DeviceArray:
    """A float64 array in the memory of a device, in C order; made by frames whose inputs are there.

    Other libraries take it without a copy: `cupy.from_dlpack(x)`, `torch.from_dlpack(x)`, or anything that knows
    `__cuda_array_interface__`.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    ordinal : int
        Of the device.

    Notes
    -----
    It is complete: whoever reads it needs to wait for no stream. Its memory is given back after the last of its
    holders, exported tensors among them, in the order of its frame's work and after what is queued on the legacy
    default stream at that time. Work on other streams that reads it must have been waited for by then.
    """

    __slots__ = ("_handle",)
    _handle: _core.DeviceArray

    def __init__(self) -> None:
        raise TypeError("DeviceArray is made by frames")

    @classmethod
    def _of(cls, handle: _core.DeviceArray) -> DeviceArray:
        array = cls.__new__(cls)
        array._handle = handle
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its axes."""
        return self._handle.shape

    @property
    def dtype(self) -> np.dtype[np.float64]:
        """Type of its entries."""
        return np.dtype(np.float64)

    @property
    def ordinal(self) -> int:
        """Ordinal of the device."""
        return self._handle.ordinal

    def copy_to_host(self) -> Array:
        """Return its entries as a NumPy array.

        Raises
        ------
        DeviceError
            The device failed.
        """
        return self._handle.copy_to_host()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self._handle.interface

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.ordinal  # a CUDA device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a DLPack capsule that shares the memory. Complete arrays need no `stream`."""
        if stream is not None and (not isinstance(stream, int) or stream == 0 or stream < -1):
            raise InvalidArgument(argument="stream", got=f"{stream!r:.40}", expected="None, -1, 1, 2 or a stream")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"the array is on device {self.__dlpack_device__()}, not on {tuple(dl_device)}")
        if copy:
            raise BufferError("the array is shared, not copied: use copy_to_host()")
        return self._handle.dlpack(max_version is not None and tuple(max_version) >= (1, 0))

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, ordinal={self.ordinal})"


class DeviceSystem:
    """A system whose blocks are in the memory of a device already, for frames.

    Frames read the arrays in place and never write to them; they must stay as they are for as long as a frame uses
    them. What is not aligned to 256 bytes is copied once, on the device.

    Parameters
    ----------
    h_tt : (n, d, d) array of a device
    h_tb : (n, d, k) or (n d, k) array of a device
    h_bb : (k, k) array of a device; (k,) for a diagonal; (bandwidth + 1, k) with a `bandwidth`
        Bands as of `BandedBorder`.
    g_t : (n, d) or (n d,) array of a device
    g_beta : (k,) array of a device
    bandwidth : int, optional
        `h_bb` is stored by bands.

    Attributes
    ----------
    n, d, k : int

    Raises
    ------
    InvalidArgument
        An array is not on the device, not float64, not C-contiguous, or of another shape; the error says which.
    DeviceUnavailableError
        There is no device.

    Notes
    -----
    An array of a device is any object with `__dlpack__` and `__dlpack_device__`, or with `__cuda_array_interface__`.
    What its producer has queued is waited for on the device, by the rules of these protocols. Entries are not checked:
    of `h_tt` and `h_bb` the lower triangle is the matrix, and what is not finite ends in a `RowFactorError` or
    `SchurFactorError`.
    """

    __slots__ = ("_handle",)
    _handle: _core.DeviceParts

    def __init__(self, h_tt: Any, h_tb: Any, h_bb: Any, g_t: Any, g_beta: Any, *, bandwidth: int | None = None) -> None:
        _integer("bandwidth", bandwidth, 0, optional=True)
        self._handle = _core.DeviceParts(h_tt, h_tb, h_bb, g_t, g_beta, None if bandwidth is None else int(bandwidth))

    @property
    def n(self) -> int:
        """Number of rows."""
        return self._handle.n

    @property
    def d(self) -> int:
        """Size of a row."""
        return self._handle.d

    @property
    def k(self) -> int:
        """Width of the border."""
        return self._handle.k

    def __repr__(self) -> str:
        return f"DeviceSystem(n={self.n}, d={self.d}, k={self.k})"
