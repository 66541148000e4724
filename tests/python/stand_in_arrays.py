"""Arrays of the fake device, made in Python: producers of DLPack and of the CUDA array interface.

They go through the table of the backend, as another library on the same device would through its driver.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

HEADER = Path(__file__).resolve().parents[2] / "cpp" / "src" / "backend" / "device_api.h"


class _HostTable(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("package_roots", ctypes.POINTER(ctypes.c_char_p))]


class Backend:
    """The table of the backend that the library has loaded, by the names of the interface."""

    def __init__(self) -> None:
        library = ctypes.CDLL(os.environ["ARROWSCHUR_CUDA_BACKEND"])
        text = HEADER.read_text()
        version = int(re.search(r"API_VERSION (\d+)u", text).group(1))  # type: ignore[union-attr]
        names = re.findall(r"\(\*(\w+)\)\(", text[text.index("typedef struct ArrowschurDeviceTable") :])
        roots = (ctypes.c_char_p * 1)(None)
        own = ctypes.c_uint32()
        library.arrowschur_device_table.restype = ctypes.c_void_p
        table = library.arrowschur_device_table(ctypes.byref(_HostTable(version, roots)), ctypes.byref(own))
        pointers = (ctypes.c_void_p * (2 + len(names))).from_address(table)
        self.functions = {name: pointers[2 + i] for i, name in enumerate(names)}
        self.calls = library.arrowschur_fake_calls
        self.stream = ctypes.c_void_p()
        self("stream_create", ctypes.byref(self.stream))

    def __call__(self, name: str, *arguments: Any) -> None:
        status = ctypes.CFUNCTYPE(ctypes.c_int)(self.functions[name])(*arguments)
        assert status == 0, (name, status)

    def send(self, values: np.ndarray, offset: int = 0) -> int:
        """Return the address of a copy, `offset` bytes into its memory."""
        memory = ctypes.c_void_p()
        size = ctypes.c_size_t(max(values.nbytes, 8))
        self("allocate", ctypes.byref(memory), ctypes.c_size_t(size.value + offset), self.stream)
        address = (memory.value or 0) + offset
        data = np.ascontiguousarray(values)
        self(
            "copy_to_device", ctypes.c_void_p(address), data.ctypes.data_as(ctypes.c_void_p), size_of(data), self.stream
        )
        self("stream_synchronize", self.stream)
        return address

    def receive(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        out = np.empty(shape)
        self("copy_to_host", out.ctypes.data_as(ctypes.c_void_p), ctypes.c_void_p(address), size_of(out), self.stream)
        self("stream_synchronize", self.stream)
        return out

    def release(self, address: int) -> None:
        self("release", ctypes.c_void_p(address), self.stream)


def size_of(values: np.ndarray) -> ctypes.c_size_t:
    return ctypes.c_size_t(values.nbytes)


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("ordinal", ctypes.c_int32),
        ("dimensions", ctypes.c_int32),
        ("type", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Managed(ctypes.Structure):
    """A DLPack tensor of the first layout."""


_DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(Managed))
Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER)]


class Versioned(ctypes.Structure):
    """A DLPack tensor of the second layout."""


_VERSIONED_DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(Versioned))
Versioned._fields_ = [
    ("major", ctypes.c_uint32),
    ("minor", ctypes.c_uint32),
    ("context", ctypes.c_void_p),
    ("deleter", _VERSIONED_DELETER),
    ("flags", ctypes.c_uint64),
    ("tensor", _Tensor),
]

_capsule_new = ctypes.pythonapi.PyCapsule_New
_capsule_new.restype = ctypes.py_object
_capsule_new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_rename = ctypes.pythonapi.PyCapsule_SetName
_capsule_rename.argtypes = [ctypes.py_object, ctypes.c_char_p]


_exported: list[DlpackArray] = []  # what a consumer holds is alive


class DlpackArray:
    """A producer of DLPack; `versioned`: of the second layout, for those who ask for it."""

    def __init__(
        self,
        backend: Backend,
        values: Any,
        *,
        offset: int = 0,
        kind: int = 2,
        ordinal: int = 0,
        strides: tuple[int, ...] | None = None,
        versioned: bool = False,
        major: int = 1,
    ) -> None:
        self.backend, self.kind, self.ordinal, self.versioned = backend, kind, ordinal, versioned
        self.major = major
        self.values = np.array(values)
        self.address = backend.send(self.values, offset)
        self.streams: list[int] = []
        self.deleted = 0
        sizes = self.values.shape
        self.shape = (ctypes.c_int64 * max(len(sizes), 1))(*sizes)
        self.strides = None if strides is None else (ctypes.c_int64 * len(strides))(*strides)
        self.kept: list[Any] = []

    def tensor(self) -> _Tensor:
        dtype = self.values.dtype
        code = {"f": 2, "i": 0, "u": 1}[dtype.kind]
        strides = None if self.strides is None else ctypes.cast(self.strides, ctypes.POINTER(ctypes.c_int64))
        return _Tensor(
            self.address,
            self.kind,
            self.ordinal,
            self.values.ndim,
            code,
            8 * dtype.itemsize,
            1,
            ctypes.cast(self.shape, ctypes.POINTER(ctypes.c_int64)),
            strides,
            0,
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, self.ordinal

    def _delete(self, _: Any) -> None:
        self.deleted += 1
        _exported.remove(self)

    def __dlpack__(self, *, stream: int | None = None, **more: Any) -> Any:
        if more and not self.versioned:
            raise TypeError("unexpected keyword")
        self.streams.append(-1 if stream is None else stream)
        if self.versioned:
            deleter = _VERSIONED_DELETER(self._delete)
            held: Any = Versioned(self.major, 0, None, deleter, 0, self.tensor())
        else:
            deleter = _DELETER(self._delete)
            held = Managed(self.tensor(), None, deleter)
        self.kept += [held, deleter]
        _exported.append(self)
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        return _capsule_new(ctypes.addressof(held), name, None)


class InterfaceArray:
    """A producer of the CUDA array interface."""

    def __init__(self, backend: Backend, values: Any, *, offset: int = 0, **fields: Any) -> None:
        self.values = np.array(values)
        self.address = backend.send(self.values, offset)
        self.fields = fields

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.values.shape,
            "typestr": self.values.dtype.str,
            "data": (self.address, True),
            "version": 3,
            **self.fields,
        }


_USED = {name: b"used_" + name for name in (b"dltensor", b"dltensor_versioned")}


def consumed(array: Any, *, versioned: bool = False) -> tuple[_Tensor, Any]:
    """Take a DLPack export: its tensor, and the function that gives it back."""
    name = b"dltensor_versioned" if versioned else b"dltensor"
    capsule = array.__dlpack__(stream=2, max_version=(1, 1)) if versioned else array.__dlpack__()
    address = _capsule_pointer(capsule, name)
    used = _USED[name]  # the capsule keeps the pointer to its name
    _capsule_rename(capsule, used)
    held = (Versioned if versioned else Managed).from_address(address)
    return held.tensor, lambda: held.deleter(ctypes.pointer(held))
