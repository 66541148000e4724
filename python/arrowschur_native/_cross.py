"""Forms of the cross block `h_tb` that are not one dense array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arrays import Array, as_array, as_indices, common_dtype, describe, plain
from ._borders import callback, content_tag
from ._errors import InvalidArgument

__all__ = ["BlockSparseCross", "Cross", "KroneckerCross", "OperatorCross"]

CrossLike = Union["Cross", ArrayLike]
_C = TypeVar("_C", bound="Cross")
_Indices = NDArray[np.int64]


class Cross:
    """Base of the forms of the cross block: the stacked `T x k` matrix of `B_i`. Immutable.

    Attributes
    ----------
    n, k : int
        Number of rows and border width.
    row_dims : ndarray of int64 or None
        Row sizes `d_i`, shape (n,), where they are known: given, or all equal. A system brings its own.
    dtype : dtype
        float64 or float32.
    nbytes : int
        Bytes of the stored data.
    """

    __slots__ = ("_d", "_ragged", "copies", "dtype", "k", "n")
    __array_ufunc__ = None
    # Name of the form, in the core and in files.
    _form: ClassVar[str] = ""

    n: int
    k: int
    dtype: np.dtype[Any]
    copies: tuple[str, ...]
    _d: int | None  # the size of all rows, where they are known to be equal
    _ragged: _Indices | None  # sizes that were given

    def _parameters(self) -> dict[str, Any]:
        """Return everything the form consists of, arrays and numbers."""
        raise NotImplementedError

    def _term(self) -> tuple[str, dict[str, Any]]:
        """Return (form, parameters) for the core."""
        return self._form, self._parameters()

    def _begin_rows(self, n: int, row_dims: Any) -> None:
        self.n, self._d, self._ragged = n, None, None
        if row_dims is None:
            return
        dims = as_indices(row_dims, "row_dims")
        if dims.size != n or (n and int(dims.min()) < 0):
            raise InvalidArgument(argument="row_dims", got=describe(dims), expected=f"{n} sizes >= 0")
        if n and int(dims.min()) == int(dims.max()):
            self._d = int(dims[0])
        self._ragged = dims

    def _rows(self) -> tuple[int, int, _Indices | None]:
        """Return (n, d, row_dims) for the core: one size, or all of them."""
        if self._d is not None or self.n == 0:
            return self.n, self._d or 0, None
        if self._ragged is None:
            raise InvalidArgument(
                argument="row_dims", got="None", expected="the sizes of the rows, which do not follow from the data"
            )
        return self.n, 0, self._ragged

    def _fits_width(self, k: int) -> bool:
        return self.k == k

    def _twin(self: _C, **changes: Any) -> _C:
        twin = object.__new__(type(self))
        for cls in type(self).__mro__:
            for name in getattr(cls, "__slots__", ()):
                setattr(twin, name, changes.get(name, getattr(self, name)))
        return twin

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Cross:
        raise NotImplementedError

    def _private_copy(self) -> Cross:
        raise NotImplementedError

    @property
    def row_dims(self) -> _Indices | None:
        """Row sizes, shape (n,), or None where they are not known."""
        if self._ragged is not None:
            return self._ragged
        if self._d is None and self.n:
            return None
        return np.full(self.n, self._d or 0, dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored data."""
        return sum(int(value.nbytes) for value in self._parameters().values() if isinstance(value, np.ndarray))

    def to_dense(self) -> Array:
        """Return the dense cross block, shape (T, k).

        Raises
        ------
        InvalidArgument
            The row sizes are not known.

        Notes
        -----
        `T k` numbers: for small systems and tests.
        """
        return _core.cross_to_dense(self._term(), *self._rows(), self.k)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n}, k={self.k}, {self._story()}, dtype={self.dtype})"

    def _story(self) -> str:
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        return cross_from_parts, (self._form, self._parameters(), self._ragged)


class BlockSparseCross(Cross):
    """A cross block whose rows touch a few blocks of border columns each: CSR of dense `d_i x b_j` blocks.

    Row `i` has the entries `indptr[i] .. indptr[i + 1]`; entry `e` covers the columns
    `block_offsets[b] .. block_offsets[b + 1]` of border block `b = block_index[e]`.

    Parameters
    ----------
    indptr : (n + 1,) array_like of int
    block_index : (e,) array_like of int
        Border block of each entry. Repeated blocks of a row add.
    values : (sum of d_i b_j,) array_like, float64 or float32
        The blocks one after another, each row-major. Any shape with so many entries: (e, d, b) where all are equal.
    block_offsets : (blocks + 1,) array_like of int
        Offsets `0 = o_0 < ... < o_b = k` of the border blocks.
    row_dims : (n,) array_like of int, optional
        Row sizes; default: all equal, which follows from the number of values. A system brings its own.

    Attributes
    ----------
    indptr, block_index, values, block_offsets : ndarray
        As they are used: borrowed where they came in C order with int64 indices.

    Raises
    ------
    InvalidArgument
        The pattern or the number of values does not fit.

    Notes
    -----
    A row that touches `c_i` columns costs `d_i c_i^2` flops to eliminate, instead of `d_i k^2`.

    Examples
    --------
    Two points of three coordinates, seen by cameras 0 and 2, and by camera 1:

    >>> import numpy as np, arrowschur_native as asn
    >>> cross = asn.BlockSparseCross([0, 2, 3], [0, 2, 1], np.ones((3, 3, 2)), [0, 2, 4, 6])
    >>> cross.to_dense()[[0, 3]]
    array([[1., 1., 0., 0., 1., 1.],
           [0., 0., 1., 1., 0., 0.]])
    """

    __slots__ = ("_pattern", "block_index", "block_offsets", "indptr", "values")
    _form = "block_sparse"
    indptr: _Indices
    block_index: _Indices
    values: Array
    block_offsets: _Indices
    _pattern: _core.LinearizationPattern | None  # of the residual blocks that the core has made it from

    def __init__(
        self,
        indptr: ArrayLike,
        block_index: ArrayLike,
        values: ArrayLike,
        block_offsets: ArrayLike,
        *,
        row_dims: ArrayLike | None = None,
    ) -> None:
        copies: list[str] = []
        self._pattern = None
        self.indptr = _indices(indptr, "indptr", copies)
        self.block_index = _indices(block_index, "block_index", copies)
        self.block_offsets = as_indices(block_offsets, "block_offsets")
        array = as_array(values, "values")
        self.values = plain(array, common_dtype([array]), "h_tb", copies)
        self.values = self.values.reshape(-1)
        self.dtype = self.values.dtype
        self.copies = tuple(copies)
        self._begin_rows(max(self.indptr.size - 1, 0), row_dims)
        self.k = int(self.block_offsets[-1]) if self.block_offsets.size else 0
        size = self.values.size
        if self._ragged is not None:
            needed = _core.block_sparse_entries(self._parameters(), *self._rows())
        else:
            per_line = _core.block_sparse_entries(self._parameters(), self.n, 1, None)
            if per_line and size % per_line == 0:
                self._d = size // per_line
            # Rows of different sizes, as those of a system may be, are counted there.
            needed = size if per_line else 0
        if size != needed:
            raise InvalidArgument(argument="values", got=f"{size} entries", expected=f"{needed} entries")

    @classmethod
    def from_dense(
        cls, h_tb: ArrayLike, block_offsets: ArrayLike, tol: float = 0.0, row_dims: ArrayLike | None = None
    ) -> BlockSparseCross:
        """Return the blocks of a dense cross block that have an entry above `tol`.

        Parameters
        ----------
        h_tb : (n, d, k) array_like, or (T, k) with `row_dims`
        block_offsets : (blocks + 1,) array_like of int
        tol : float, default 0
            Blocks whose entries are all at most this large in absolute value are dropped.
        row_dims : (n,) array_like of int, optional

        Returns
        -------
        BlockSparseCross
            Its values are a copy.

        Raises
        ------
        InvalidArgument
            The shape does not fit, or `tol` is negative.

        Examples
        --------
        >>> import numpy as np, arrowschur_native as asn
        >>> cross = asn.BlockSparseCross.from_dense([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 2.0]]], [0, 2, 3])
        >>> cross.block_index
        array([0, 1])
        """
        dense = as_array(h_tb, "h_tb")
        if isinstance(tol, bool) or not isinstance(tol, (int, float, np.floating)) or not 0 <= tol < np.inf:
            raise InvalidArgument(argument="tol", got=f"{tol!r:.80}", expected="a finite number >= 0")
        offsets = as_indices(block_offsets, "block_offsets")
        dims = None if row_dims is None else as_indices(row_dims, "row_dims")
        if dense.ndim == 3 and dims is None:
            n, d = dense.shape[:2]
        elif dims is not None and dense.ndim in (2, 3):
            n, d = dims.size, 0
        else:
            raise InvalidArgument(
                argument="h_tb", got=describe(dense), expected="shape (n, d, k), or (T, k) with row_dims"
            )
        if offsets.size < 1 or int(offsets[-1]) != dense.shape[-1]:
            raise InvalidArgument(
                argument="block_offsets", got=describe(offsets), expected=f"offsets from 0 to k = {dense.shape[-1]}"
            )
        matrix = plain(dense, common_dtype([dense]), "h_tb", [])
        pattern = _core.block_sparse_from_dense(matrix, offsets, n, d, dims, float(tol))
        if dims is None:
            dims = np.full(n, d, dtype=np.int64)
        indptr, block_index, values = pattern
        return cls(indptr, block_index, values, offsets, row_dims=dims)

    @classmethod
    def _of_pattern(cls, pattern: _core.LinearizationPattern, values: Array) -> BlockSparseCross:
        """Wrap what the core made: nothing to check, nothing to infer."""
        cross = cls.__new__(cls)
        cross.indptr, cross.block_index, cross.block_offsets = _core.indices_of(pattern)
        cross.n, cross._d = pattern.sizes[:2]
        cross.k, cross._ragged = int(cross.block_offsets[-1]), None
        cross.values, cross._pattern = values, pattern
        cross.dtype, cross.copies = values.dtype, ()
        return cross

    def _term(self) -> tuple[str, dict[str, Any]]:
        if self._pattern is None:
            return self._form, self._parameters()
        return self._form, {**self._parameters(), "pattern": self._pattern}

    def _parameters(self) -> dict[str, Any]:
        return {
            "indptr": self.indptr,
            "block_index": self.block_index,
            "values": self.values,
            "block_offsets": self.block_offsets,
        }

    def _with_values(self, values: Array) -> BlockSparseCross:
        return self._twin(values=values, dtype=values.dtype, copies=())

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Cross:
        return self._with_values(plain(self.values, dtype, "h_tb", copies))

    def _private_copy(self) -> Cross:
        return self._twin(
            indptr=self.indptr.copy(),
            block_index=self.block_index.copy(),
            values=self.values.copy(),
            copies=(),
            _pattern=None,
        )

    def _story(self) -> str:
        return f"blocks={max(self.block_offsets.size - 1, 0)}, entries={self.block_index.size}"


class KroneckerCross(Cross):
    r"""A cross block of gather-Kronecker rows: each row is a small Jacobian times a few weighted blocks of columns.

    .. code-block:: text

        B_i x = J_i sum_s phi_s x[base_s : base_s + p]        over the pairs s of row i

    A token with `m` active basis functions per atom and `p` outputs contributes `phi' (x) J_i`.

    Parameters
    ----------
    j : (T, p) or (n, d, p) array_like, float64 or float32
        The Jacobians `J_i`, `d_i x p`, stacked. With `j_ptr` the matrices of each row one after another.
    support_base : (e,) array_like of int
        First column of each pair. The pairs of one row address disjoint columns; equal bases add.
    support_phi : (e,) array_like
        Weights.
    support_ptr : (n + 1,) array_like of int
        Where the pairs of each row begin.
    p : int
        Columns per pair.
    k : int, optional
        Border width; default: that of the system, at least up to the last pair.
    j_ptr : (n + 1,) array_like of int, optional
        Several Jacobians per row: row `i` owns the matrices `j_ptr[i] .. j_ptr[i + 1]`.
    support_j : (e,) array_like of int, optional
        With `j_ptr`: which of the row's Jacobians each pair uses, counted from 0.
    row_dims : (n,) array_like of int, optional
        Row sizes; default: all equal, which follows from `j`. A system brings its own.

    Attributes
    ----------
    j, support_base, support_phi, support_ptr, j_ptr, support_j : ndarray, the last two or None
    p : int

    Raises
    ------
    InvalidArgument
        Sizes do not fit, or a pair lies outside the border.

    Notes
    -----
    Stores `T p` numbers plus the pairs, whatever `k` is.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> cross = asn.KroneckerCross([[1.0, 2.0]], [0, 4], [1.0, 0.5], [0, 2], p=2, k=6)
    >>> cross.to_dense()
    array([[1. , 2. , 0. , 0. , 0.5, 1. ]])
    """

    __slots__ = ("_k_given", "j", "j_ptr", "p", "support_base", "support_j", "support_phi", "support_ptr")
    _form = "kronecker"
    j: Array
    support_base: _Indices
    support_phi: Array
    support_ptr: _Indices
    p: int
    j_ptr: _Indices | None
    support_j: _Indices | None
    _k_given: bool

    def __init__(
        self,
        j: ArrayLike,
        support_base: ArrayLike,
        support_phi: ArrayLike,
        support_ptr: ArrayLike,
        p: int,
        *,
        k: int | None = None,
        j_ptr: ArrayLike | None = None,
        support_j: ArrayLike | None = None,
        row_dims: ArrayLike | None = None,
    ) -> None:
        copies: list[str] = []
        self.p = _width("p", p, 1)
        matrices, phi = as_array(j, "j"), as_array(support_phi, "support_phi")
        if matrices.ndim not in (2, 3) or matrices.shape[-1] != self.p:
            raise InvalidArgument(
                argument="j", got=describe(matrices), expected=f"shape (T, {self.p}) or (n, d, {self.p})"
            )
        self.dtype = common_dtype([matrices, phi])
        self.j = plain(matrices, self.dtype, "h_tb", copies).reshape(-1, self.p)
        self.support_phi = plain(phi, self.dtype, "h_tb", copies)
        self.support_base = _indices(support_base, "support_base", copies)
        self.support_ptr = _indices(support_ptr, "support_ptr", copies)
        if phi.shape != self.support_base.shape:
            raise InvalidArgument(
                argument="support_phi", got=describe(phi), expected=f"shape {self.support_base.shape}, as support_base"
            )
        if (j_ptr is None) != (support_j is None):
            raise InvalidArgument(
                argument="support_j" if support_j is None else "j_ptr",
                got="None",
                expected="j_ptr and support_j together",
            )
        self.j_ptr = None if j_ptr is None else _indices(j_ptr, "j_ptr", copies)
        self.support_j = None if support_j is None else _indices(support_j, "support_j", copies)
        self.copies = tuple(copies)
        self._begin_rows(max(self.support_ptr.size - 1, 0), row_dims)
        reach = int(self.support_base.max()) + self.p if self.support_base.size else 0
        self._k_given = k is not None
        self.k = reach if k is None else _width("k", k, 0)
        lines = self.j.shape[0]
        if self._ragged is not None:
            needed = _core.kronecker_lines(self._parameters(), *self._rows(), self.k)
        else:
            count = _core.kronecker_lines(self._parameters(), self.n, 1, None, self.k)
            if count and lines % count == 0:
                self._d = lines // count
            needed = lines if count else 0
        if lines != needed:
            raise InvalidArgument(argument="j", got=describe(matrices), expected=f"{needed} lines together")

    def _parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "j": self.j,
            "support_base": self.support_base,
            "support_phi": self.support_phi,
            "support_ptr": self.support_ptr,
            "p": self.p,
            "k": self.k,
        }
        if self.j_ptr is not None:
            parameters.update(j_ptr=self.j_ptr, support_j=self.support_j)
        return parameters

    def _fits_width(self, k: int) -> bool:
        return self.k == k if self._k_given else self.k <= k

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Cross:
        j, phi = plain(self.j, dtype, "h_tb", copies), plain(self.support_phi, dtype, "h_tb", [])
        return self._twin(j=j, support_phi=phi, dtype=dtype)

    def _private_copy(self) -> Cross:
        parts = {name: value.copy() for name, value in self._parameters().items() if isinstance(value, np.ndarray)}
        return self._twin(**parts, copies=())

    def _story(self) -> str:
        return f"p={self.p}, pairs={self.support_base.size}"


class OperatorCross(Cross):
    """A cross block known by its products with vectors: the last resort.

    Parameters
    ----------
    forward : callable
        `forward(x_beta) -> B x_beta`: a float64 vector of shape (k,) in, one of shape (T,) out.
    transpose : callable
        `transpose(y_t) -> B' y_t`: (T,) in, (k,) out.
    k : int
    row_dims : (n,) array_like of int
        Row sizes.
    tag : int, optional
        Hash of the content, in `0 .. 2^64 - 1`. Without one nothing is known about the content: the object itself
        stands for it in fingerprints.
    thread_safe : bool, default False
        Whether the callbacks may be called from several threads at once.
    supplement : array_like (n, d, k) or (T, k), or BlockSparseCross, optional
        A part of `B` that is known explicitly: `B` is the operator plus this, everywhere.

    Attributes
    ----------
    supplement : ndarray or BlockSparseCross or None
    tag : int or None
    thread_safe : bool

    Raises
    ------
    InvalidArgument
        A callback is not callable, or the supplement does not fit. At the call that uses the system: a callback
        returned something else than a vector of real numbers of its length.

    Notes
    -----
    What the callbacks raise passes through unchanged. Their arguments are copies. Routes that need the matrix build it
    with `min(T, k)` calls; `inexact_pcg` never does. Systems with such a cross block cannot be saved.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> B = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> asn.OperatorCross(lambda x: B @ x, lambda y: B.T @ y, k=2, row_dims=[1, 1]).to_dense()
    array([[1., 2.],
           [3., 4.]])
    """

    __slots__ = ("_forward", "_transpose", "supplement", "tag", "thread_safe")
    _form = "operator"
    tag: int | None
    thread_safe: bool
    supplement: Array | BlockSparseCross | None
    _forward: Callable[[Array], ArrayLike]
    _transpose: Callable[[Array], ArrayLike]

    def __init__(
        self,
        forward: Callable[[Array], ArrayLike],
        transpose: Callable[[Array], ArrayLike],
        *,
        k: int,
        row_dims: ArrayLike,
        tag: int | None = None,
        thread_safe: bool = False,
        supplement: CrossLike | None = None,
    ) -> None:
        copies: list[str] = []
        self._forward = callback("forward", forward)
        self._transpose = callback("transpose", transpose)
        self.k = _width("k", k, 0)
        self.tag = content_tag(tag)
        if not isinstance(thread_safe, bool):
            raise InvalidArgument(argument="thread_safe", got=f"{thread_safe!r:.80}", expected="True or False")
        self.thread_safe = thread_safe
        dims = as_indices(row_dims, "row_dims")
        self._begin_rows(dims.size, dims)
        total = int(dims.sum())
        if supplement is None:
            self.supplement = None
        elif isinstance(supplement, BlockSparseCross):
            if (supplement.n, supplement.k) != (self.n, self.k):
                raise InvalidArgument(
                    argument="supplement", got=repr(supplement), expected=f"n = {self.n} rows and k = {self.k} columns"
                )
            self.supplement = supplement
            copies.extend(supplement.copies)
        elif isinstance(supplement, Cross):
            raise InvalidArgument(
                argument="supplement", got=repr(supplement), expected="an array or a BlockSparseCross"
            )
        else:
            array = as_array(supplement, "supplement")
            if array.ndim not in (2, 3) or array.shape[-1] != self.k or array.size != total * self.k:
                raise InvalidArgument(
                    argument="supplement", got=describe(array), expected=f"shape ({total}, {self.k}), or (n, d, k)"
                )
            self.supplement = plain(array, common_dtype([array]), "h_tb", copies).reshape(total, self.k)
        # Callbacks speak float64, whatever the dtype of the system.
        self.dtype = np.dtype(np.float64) if self.supplement is None else self.supplement.dtype
        self.copies = tuple(copies)

    def _parameters(self) -> dict[str, Any]:
        explicit = self.supplement._term() if isinstance(self.supplement, Cross) else self.supplement
        return {
            "forward": self._forward,
            "transpose": self._transpose,
            "tag": self.tag,
            "thread_safe": self.thread_safe,
            "supplement": explicit,
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the supplement."""
        return 0 if self.supplement is None else int(self.supplement.nbytes)

    def _with_supplement(self, supplement: Any, dtype: np.dtype[Any]) -> OperatorCross:
        return self._twin(supplement=supplement, dtype=dtype)

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Cross:
        if self.supplement is None:
            return self
        if isinstance(self.supplement, Cross):
            return self._with_supplement(self.supplement._as_dtype(dtype, copies), dtype)
        return self._with_supplement(plain(self.supplement, dtype, "h_tb", copies), dtype)

    def _private_copy(self) -> Cross:
        if self.supplement is None:
            return self
        twin = self.supplement._private_copy() if isinstance(self.supplement, Cross) else self.supplement.copy()
        return self._with_supplement(twin, self.dtype)

    def to_dense(self) -> Array:
        """Return the dense cross block, shape (T, k), in float64.

        Notes
        -----
        `min(T, k)` calls.
        """
        dense: Array = _core.operator_to_dense(self._forward, self._transpose, *self._rows(), self.k)
        if self.supplement is None:
            return dense
        if isinstance(self.supplement, BlockSparseCross):
            pattern = self.supplement._twin(_d=self._d, _ragged=self._ragged)
            dense += pattern.to_dense()
        else:
            dense += self.supplement
        return dense

    def _story(self) -> str:
        extra = "" if self.supplement is None else f", supplement={type(self.supplement).__name__}"
        return f"T={int(self._ragged.sum()) if self._ragged is not None else 0}{extra}"

    def __reduce__(self) -> tuple[Any, ...]:
        keywords = {
            "k": self.k,
            "row_dims": self._ragged,
            "tag": self.tag,
            "thread_safe": self.thread_safe,
            "supplement": self.supplement,
        }
        return _rebuild_operator, ((self._forward, self._transpose), keywords)


def cross_from_parts(form: str, parameters: dict[str, Any], row_dims: Any) -> Cross:
    """Make the cross block that `_term` described. A description that does not fit is a TypeError or a KeyError."""
    if form == "block_sparse":
        return BlockSparseCross(**parameters, row_dims=row_dims)
    if form == "kronecker":
        sizes = {name: int(parameters[name]) for name in ("p", "k")}
        return KroneckerCross(**{**parameters, **sizes}, row_dims=row_dims)
    raise TypeError(f"unknown form {form!r} of the cross block")


def demands_float64(cross: Array | Cross) -> bool:
    """Return whether the data of a cross block demand float64; callbacks demand nothing."""
    if isinstance(cross, OperatorCross) and cross.supplement is None:
        return False
    return cross.dtype != np.float32


def _rebuild_operator(callbacks: tuple[Any, Any], keywords: dict[str, Any]) -> OperatorCross:
    return OperatorCross(*callbacks, **keywords)


def _indices(value: Any, name: str, copies: list[str]) -> _Indices:
    indices = as_indices(value, name)
    if indices is not value and isinstance(value, np.ndarray) and value.size:
        copies.append(f"h_tb: {name} {value.dtype} -> int64")
    return indices


def _width(name: str, value: Any, lowest: int) -> int:
    number = None if isinstance(value, bool) else getattr(value, "__index__", lambda: None)()
    if number is None or not lowest <= number < 2**63:
        raise InvalidArgument(argument=name, got=f"{value!r:.80}", expected=f"an integer >= {lowest}")
    return int(number)
