"""The safetensors file format with NumPy alone: named arrays and a map of strings, no code, nothing to unpickle.

    8 bytes   n, little-endian uint64
    n bytes   JSON: {"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets": [begin, end]}, ...}
    the rest  the arrays, little-endian, C order; offsets count from here, without gaps

Format: Hugging Face, safetensors, README, section Format (version 0.3 and later). The dtypes that NumPy has are read
and written; bfloat16 is read as float32, which is exact.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read", "write"]

Array = NDArray[Any]

_DTYPES: dict[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
# The limit of the reference implementation; a larger number is a file of another kind.
_MAX_HEADER = 100_000_000


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and strings. The file appears whole or not at all: it is written beside its place, then renamed."""
    # Wide entries first: then every array is aligned to its entries, which readers that map the file rely on.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        array = arrays[name]
        begin, end = end, end + array.nbytes
        dtype = _NAMES[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    target = pathlib.Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                array = arrays[name]
                # In the memory of the array where that is possible already.
                plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
                file.write(plain.reshape(-1).view(np.uint8).data)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the strings of a file; ValueError says what is wrong with it."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise ValueError("it has no safetensors header")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ValueError(f"its header is not JSON: {error}") from error
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata is not a map of strings")
        arrays = {name: _read_array(file, 8 + length, size, name, entry) for name, entry in header.items()}
    return arrays, metadata


def _read_array(file: Any, origin: int, size: int, name: str, entry: Any) -> Array:
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its entry {name!r} is odd: {error}") from error
    if not whole:
        raise ValueError(f"its entry {name!r} has a shape or an offset that is no size")
    if kind not in _DTYPES and kind != "BF16":
        raise ValueError(f"its entry {name!r} has dtype {kind!r}, which NumPy has not")
    dtype = np.dtype(_DTYPES.get(kind, "<u2"))
    count = math.prod(shape)
    if begin > end or end - begin != count * dtype.itemsize or origin + end > size:
        raise ValueError(f"its entry {name!r} does not fit its {end - begin} bytes or the file")
    file.seek(origin + begin)
    array: Array = np.fromfile(file, dtype=dtype, count=count).reshape(shape)
    # The upper half of a float32 is the bfloat16.
    return (array.astype("<u4") << 16).view("<f4") if kind == "BF16" else array
