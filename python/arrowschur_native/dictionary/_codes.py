"""Codes as pairs, CSR matrices and dense arrays."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import InvalidArgument, UnsupportedConfiguration
from ._options import complain
from ._sklearn import has_scipy, is_sparse

__all__ = ["as_pair", "check_output", "from_pair"]

Array = NDArray[Any]

OUTPUTS = ("auto", "csr", "pair", "dense")
_MOST_DENSE_ENTRIES = 2**27


def check_output(output: str, rows: int, atoms: int) -> str:
    """Return the form that codes will have, or raise before any work."""
    if output == "auto":
        return "csr" if has_scipy() else "pair"
    if output == "csr" and not has_scipy():
        raise UnsupportedConfiguration(
            "sparse_dictionary: output='csr' needs SciPy (extra 'sklearn'); use output='pair'",
            feature="output='csr'",
            route="this environment",
            hint="use output='pair'",
        )
    if output == "dense" and rows * atoms > _MOST_DENSE_ENTRIES:
        needed = rows * atoms * np.dtype(np.float32).itemsize
        raise InvalidArgument(
            f"sparse_dictionary: dense output would need {needed} bytes; use output='csr'",
            argument="output",
            got="'dense'",
            expected=f"'csr' above {_MOST_DENSE_ENTRIES} entries",
        )
    return output


def from_pair(indices: Array, codes: Array, atoms: int, form: str) -> Any:
    """Return codes in one of the forms."""
    if form == "pair":
        return indices, codes
    rows, slots = indices.shape
    if form == "dense":
        dense = np.zeros((rows, atoms), dtype=np.float32)
        # Empty slots repeat the first index, so the first slot is written last.
        for slot in reversed(range(slots)):
            dense[np.arange(rows), indices[:, slot]] = codes[:, slot]
        return dense
    sparse = importlib.import_module("scipy.sparse")
    kept = codes != 0.0
    counts = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(kept.sum(axis=1), out=counts[1:])
    matrix = sparse.csr_matrix((codes[kept], indices[kept].astype(np.int64), counts), shape=(rows, atoms))
    matrix.sort_indices()
    return matrix


def as_pair(value: Any, atoms: int) -> tuple[Array, Array]:
    """Return indices (N, w) uint32 and codes (N, w) float32 of codes in any of the forms."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and np.ndim(value[0]) == 2:
        return _checked_pair(np.asarray(value[0]), np.asarray(value[1]), atoms)
    if is_sparse(value):
        matrix = value.tocsr()
        _check_width(matrix.shape[1], atoms)
        return _padded(matrix.indptr, matrix.indices, matrix.data)
    dense = np.asarray(value)
    if dense.ndim != 2 or dense.dtype.kind not in "biuf":
        raise complain(
            "Z", f"{dense.dtype} of shape {dense.shape}", "a CSR matrix, a pair (indices, codes) or a 2-D array"
        )
    _check_width(dense.shape[1], atoms)
    rows, columns = np.nonzero(dense)
    indptr = np.searchsorted(rows, np.arange(dense.shape[0] + 1))
    return _padded(indptr, columns, dense[rows, columns])


def _check_width(width: int, atoms: int) -> None:
    if width != atoms:
        raise complain("Z", f"{width} columns", f"codes of {atoms} atoms")


def _checked_pair(indices: Array, codes: Array, atoms: int) -> tuple[Array, Array]:
    if indices.dtype.kind not in "iu" or codes.dtype.kind not in "biuf":
        raise complain("Z", f"({indices.dtype}, {codes.dtype})", "a pair of integer indices and real codes")
    if indices.shape != codes.shape:
        raise complain("Z", f"shapes {indices.shape} and {codes.shape}", "a pair of equal shapes")
    if indices.dtype != np.uint32:
        # Before the conversion wraps them round; of uint32 the core sees every one.
        wrong = np.flatnonzero((indices < 0) | (indices >= atoms))
        if wrong.size:
            row = int(wrong[0]) // indices.shape[1]
            index = indices.ravel()[wrong[0]]
            raise InvalidArgument(
                f"sparse_dictionary: atom index {index} at row {row} is not below {atoms}",
                argument="Z",
                got=f"index {index}",
                expected=f"indices below {atoms}",
            )
    return np.ascontiguousarray(indices, dtype=np.uint32), np.ascontiguousarray(codes, dtype=np.float32)


def _padded(indptr: Array, columns: Array, values: Array) -> tuple[Array, Array]:
    counts = np.diff(indptr)
    rows, width = len(counts), max(1, int(counts.max(initial=0)))
    indices, codes = np.zeros((rows, width), dtype=np.uint32), np.zeros((rows, width), dtype=np.float32)
    row = np.repeat(np.arange(rows), counts)
    slot = np.arange(len(columns)) - np.repeat(indptr[:-1], counts)
    indices[row, slot], codes[row, slot] = columns, values
    return indices, codes
