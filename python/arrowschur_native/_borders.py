"""Border forms: symmetric `k x k` matrices with the structure that the solver can use."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar, Union

import numpy as np
from numpy.typing import ArrayLike

from . import _core
from ._arrays import Array, as_array, common_dtype, describe, float64_array, plain
from ._errors import InvalidArgument, UnsupportedConfiguration

__all__ = [
    "BandedBorder",
    "BlockDiagonalBorder",
    "Border",
    "BorderSum",
    "DenseBorder",
    "DiagonalBorder",
    "OperatorBorder",
]

BorderLike = Union["Border", ArrayLike]
_B = TypeVar("_B", bound="Border")


class Border:
    """Base of the border forms: a symmetric `k x k` matrix. Immutable; add forms and arrays with `+`.

    Attributes
    ----------
    k : int
        Width.
    dtype : dtype
        float64 or float32.
    nbytes : int
        Bytes of the stored data.
    """

    __slots__ = ("_data", "_handle", "copies", "dtype", "k")
    # NumPy must leave `array + border` to __radd__.
    __array_ufunc__ = None
    # Name of the form, in the core and in files.
    _form: ClassVar[str] = ""
    _known: ClassVar[dict[str, type[Border]]] = {}

    k: int
    dtype: np.dtype[Any]
    copies: tuple[str, ...]
    _data: Array
    _handle: _core.Border | None

    def __init_subclass__(cls) -> None:
        if cls._form:
            Border._known[cls._form] = cls

    def _begin(self, k: int, data: Array, copies: Iterable[str] = ()) -> None:
        self.k = k
        self.dtype = data.dtype
        self.copies = tuple(copies)
        self._data = data
        self._handle = None

    def _terms(self) -> tuple[Border, ...]:
        return (self,)

    def _parameters(self) -> dict[str, Any]:
        """Return what the form has beside its data: integers and tables of integers."""
        return {}

    def _term(self) -> tuple[str, Array, dict[str, Any]]:
        """Return (form, data, parameters) for the core."""
        return self._form, self._data, self._parameters()

    @classmethod
    def _from_parts(cls, data: Array, parameters: dict[str, Any]) -> Border:
        """Make the border that `_term` described. A description that does not fit is a TypeError or a KeyError."""
        return cls(data)  # type: ignore[call-arg]

    def _with_data(self: _B, data: Array) -> _B:
        twin = object.__new__(type(self))
        for cls in type(self).__mro__:
            for name in getattr(cls, "__slots__", ()):
                setattr(twin, name, getattr(self, name))
        twin._data, twin.dtype, twin._handle = data, data.dtype, None
        return twin

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Border:
        return self._with_data(plain(self._data, dtype, "h_bb", copies))

    def _private_copy(self) -> Border:
        return self._with_data(self._data.copy())

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        """Read the gradient in this form from the gradient of the dense symmetric matrix.

        `symmetry` is that of the system: which matrix an array stands for that is not exactly symmetric.
        """
        raise NotImplementedError

    @property
    def _native(self) -> _core.Border:
        if self._handle is None:
            self._handle = _core.Border(self.k, self.dtype == np.float32, [term._term() for term in self._terms()])
        return self._handle

    @property
    def shape(self) -> tuple[int, int]:
        """`(k, k)`."""
        return self.k, self.k

    @property
    def nbytes(self) -> int:
        """Bytes of the stored data."""
        return int(self._data.nbytes)

    def matvec(self, x: ArrayLike) -> Array:
        """Return `P x` for `x` of shape (k,) or (k, m), in float64.

        Raises
        ------
        InvalidArgument
            The shape of `x` does not fit.
        """
        vector = float64_array(x, "x")
        if vector.ndim not in (1, 2) or vector.shape[0] != self.k:
            raise InvalidArgument(argument="x", got=describe(vector), expected=f"shape ({self.k},) or ({self.k}, m)")
        return self._native.matvec(vector)

    def diagonal(self) -> Array:
        """Return the diagonal, shape (k,), float64."""
        return self._native.diagonal()

    def to_dense(self) -> Array:
        """Return the full symmetric matrix, shape (k, k), float64."""
        return self._native.to_dense()

    def __add__(self, other: Any) -> Border:
        right = as_border(other, self.k, "border term")
        return BorderSum((*self._terms(), *right._terms()))

    def __radd__(self, other: Any) -> Border:
        left = as_border(other, self.k, "border term")
        return BorderSum((*left._terms(), *self._terms()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, dtype={self.dtype})"


class DenseBorder(Border):
    """A dense symmetric border. Arrays of shape (k, k) become one by themselves.

    Parameters
    ----------
    matrix : (k, k) array_like, float64 or float32

    Raises
    ------
    InvalidArgument
        The matrix is not square.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> asn.DenseBorder(np.eye(2)).matvec([1.0, 2.0])
    array([1., 2.])
    """

    __slots__ = ()
    _form = "dense"

    def __init__(self, matrix: ArrayLike) -> None:
        array, copies = one_array(matrix, "matrix")
        if array.ndim != 2 or array.shape[0] != array.shape[1]:
            raise InvalidArgument(argument="matrix", got=describe(array), expected="a square matrix (k, k)")
        self._begin(array.shape[0], array, copies)

    @property
    def matrix(self) -> Array:
        """The matrix."""
        return self._data

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        return dense

    def __reduce__(self) -> tuple[Any, ...]:
        return DenseBorder, (self.matrix,)


class DiagonalBorder(Border):
    """A diagonal border. Arrays of shape (k,) become one by themselves.

    Parameters
    ----------
    entries : (k,) array_like, float64 or float32

    Raises
    ------
    InvalidArgument
        The entries are not a vector.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.DiagonalBorder([2.0, 3.0]).to_dense()
    array([[2., 0.],
           [0., 3.]])
    """

    __slots__ = ()
    _form = "diagonal"

    def __init__(self, entries: ArrayLike) -> None:
        array, copies = one_array(entries, "entries")
        if array.ndim != 1:
            raise InvalidArgument(argument="entries", got=describe(array), expected="a vector (k,)")
        self._begin(array.shape[0], array, copies)

    @property
    def entries(self) -> Array:
        """The diagonal, as it was given."""
        return self._data

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        return np.ascontiguousarray(np.diagonal(dense))

    def __reduce__(self) -> tuple[Any, ...]:
        return DiagonalBorder, (self.entries,)


class BandedBorder(Border):
    """A symmetric banded border in the lower form of `scipy.linalg.solveh_banded(lower=True)`.

    Parameters
    ----------
    bands : (w + 1, k) array_like, float64 or float32
        `bands[j, i] = M[i + j, i]`; entries with `i + j >= k` are ignored (but must be finite).

    Raises
    ------
    InvalidArgument
        The bands are not a matrix of at least one row.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.BandedBorder([[4.0, 4.0, 4.0], [-1.0, -1.0, 0.0]]).to_dense()
    array([[ 4., -1.,  0.],
           [-1.,  4., -1.],
           [ 0., -1.,  4.]])
    """

    __slots__ = ()
    _form = "banded"

    def __init__(self, bands: ArrayLike) -> None:
        array, copies = one_array(bands, "bands")
        if array.ndim != 2 or array.shape[0] < 1:
            raise InvalidArgument(argument="bands", got=describe(array), expected="a matrix (w + 1, k), w >= 0")
        self._begin(array.shape[1], array, copies)

    @property
    def bands(self) -> Array:
        """The bands, diagonal first."""
        return self._data

    def _term(self) -> tuple[str, Array, dict[str, Any]]:
        # Sub-diagonals below the last one of the matrix hold no entry.
        used = min(self.bands.shape[0], max(self.k, 1))
        return self._form, self.bands[:used], {}

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        out = np.zeros(self.bands.shape)
        for j in range(min(self.bands.shape[0], self.k)):
            # An off-diagonal band entry stands for two entries of the matrix.
            out[j, : self.k - j] = np.diagonal(dense, -j) * (1.0 if j == 0 else 2.0)
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        return BandedBorder, (self.bands,)


class SquareBlocks(Border):
    """What the forms of square symmetric blocks along the diagonal share."""

    __slots__ = ("_stacked", "sizes")
    sizes: tuple[int, ...]
    _stacked: bool

    def _begin_blocks(self, blocks: Any, name: str, repeat: int) -> None:
        self._stacked = isinstance(blocks, np.ndarray)
        if self._stacked:
            array, copies = one_array(blocks, name)
            if array.ndim != 3 or array.shape[1] != array.shape[2]:
                raise InvalidArgument(argument=name, got=describe(array), expected="square blocks (m, b, b)")
            self.sizes = (array.shape[1],) * array.shape[0]
            data = array.reshape(-1)
        else:
            if not isinstance(blocks, Iterable):
                raise InvalidArgument(argument=name, got=describe(blocks), expected="a sequence of square blocks")
            parts = [as_array(block, f"{name}[{j}]") for j, block in enumerate(blocks)]
            for j, part in enumerate(parts):
                if part.ndim != 2 or part.shape[0] != part.shape[1]:
                    raise InvalidArgument(argument=f"{name}[{j}]", got=describe(part), expected="a square block")
            self.sizes = tuple(part.shape[0] for part in parts)
            data, copies = one_buffer(parts)
        self._begin(sum(self.sizes) * repeat, data, copies)

    def _split(self) -> tuple[Array, ...]:
        return split_blocks(self._data, [(size, size) for size in self.sizes])

    def _whole(self) -> Any:
        """Return the blocks as the constructor takes them."""
        if self._stacked and self.sizes:
            return self._data.reshape(len(self.sizes), self.sizes[0], self.sizes[0])
        return self._split()

    def _as_given(self, blocks: list[Array]) -> Any:
        if self._stacked:
            side = self.sizes[0] if self.sizes else 0
            return np.stack(blocks) if blocks else np.zeros((0, side, side))
        return tuple(blocks)

    def _parameters(self) -> dict[str, Any]:
        return {"sizes": list(self.sizes)}

    @classmethod
    def _from_parts(cls, data: Array, parameters: dict[str, Any]) -> Border:
        sizes = np.asarray(parameters["sizes"]).tolist()
        shapes = [(size, size) for size in sizes]
        require_entries(data, shapes)
        blocks: Any = split_blocks(data, shapes)
        if sizes and min(sizes) == max(sizes):
            blocks = data.reshape(len(sizes), sizes[0], sizes[0])
        rest = {name: int(value) for name, value in parameters.items() if name != "sizes"}
        return cls(blocks, **rest)  # type: ignore[call-arg]


class BlockDiagonalBorder(SquareBlocks):
    """A block-diagonal border.

    Parameters
    ----------
    blocks : sequence of (b_j, b_j) array_like, or (m, b, b) array_like; float64 or float32
        The symmetric diagonal blocks, in order; `k = sum_j b_j`.

    Attributes
    ----------
    blocks : tuple of ndarray
        Views of the stored blocks.
    sizes : tuple of int

    Raises
    ------
    InvalidArgument
        A block is not square.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> asn.BlockDiagonalBorder([np.eye(2), [[5.0]]]).diagonal()
    array([1., 1., 5.])
    """

    __slots__ = ()
    _form = "block_diagonal"

    def __init__(self, blocks: ArrayLike | Sequence[ArrayLike]) -> None:
        self._begin_blocks(blocks, "blocks", 1)

    @property
    def blocks(self) -> tuple[Array, ...]:
        """Views of the blocks."""
        return self._split()

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        edges = itertools.pairwise(itertools.accumulate(self.sizes, initial=0))
        return self._as_given([np.ascontiguousarray(dense[a:b, a:b]) for a, b in edges])

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockDiagonalBorder, (self._whole(),)


class OperatorBorder(Border):
    """A border known by its product with a vector, and its diagonal.

    Parameters
    ----------
    matvec : callable
        `matvec(x) -> P x`: a float64 vector of shape (k,) in, one of the same shape out. `P` must be symmetric.
    diagonal : (k,) array_like
    tag : int, optional
        Hash of the content, in `0 .. 2^64 - 1`. Without one nothing is known about the content: the object itself
        stands for it in fingerprints.
    thread_safe : bool, default False
        Whether `matvec` may be called from several threads at once.

    Attributes
    ----------
    tag : int or None
    thread_safe : bool

    Raises
    ------
    InvalidArgument
        `matvec` is not callable, or the diagonal is not a vector. At the call that uses the border: `matvec` returned
        something else than a vector of `k` real numbers.

    Notes
    -----
    What `matvec` raises passes through unchanged. Its argument is a copy. A dense form costs `k` calls; systems with
    such a border cannot be saved.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> border = asn.OperatorBorder(lambda x: 2.0 * x, np.full(3, 2.0)) + np.eye(3)
    >>> border.matvec([1.0, 2.0, 3.0])
    array([3., 6., 9.])
    """

    __slots__ = ("_matvec", "tag", "thread_safe")
    _form = "operator"
    tag: int | None
    thread_safe: bool
    _matvec: Callable[[Array], ArrayLike]

    def __init__(
        self,
        matvec: Callable[[Array], ArrayLike],
        diagonal: ArrayLike,
        tag: int | None = None,
        thread_safe: bool = False,
    ) -> None:
        self._matvec = callback("matvec", matvec)
        self.tag = content_tag(tag)
        self.thread_safe = flag("thread_safe", thread_safe)
        array = float64_array(diagonal, "diagonal")
        if array.ndim != 1:
            raise InvalidArgument(argument="diagonal", got=describe(array), expected="a vector (k,)")
        self._begin(array.shape[0], array)

    def _parameters(self) -> dict[str, Any]:
        return {"matvec": self._matvec, "tag": self.tag, "thread_safe": self.thread_safe}

    # A callback speaks float64, whatever the dtype of the system.
    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Border:
        return self

    @classmethod
    def _from_parts(cls, data: Array, parameters: dict[str, Any]) -> Border:
        raise TypeError("a callback is no data")

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        raise UnsupportedConfiguration(
            feature="the gradient of an OperatorBorder", route="vjp", hint="use a border form with data"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return OperatorBorder, (self._matvec, self._data, self.tag, self.thread_safe)


class BorderSum(Border):
    """A sum of border forms. Made by `+`.

    Parameters
    ----------
    terms : sequence of Border
        At least one; all of the same width. Mixed dtypes are promoted to float64.

    Raises
    ------
    InvalidArgument
        There is no term, or the widths differ.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> total = asn.BandedBorder([[1.0, 1.0]]) + np.ones((2, 2))
    >>> total.to_dense()
    array([[2., 1.],
           [1., 2.]])
    """

    __slots__ = ("terms",)
    terms: tuple[Border, ...]

    def __init__(self, terms: Sequence[Border]) -> None:
        flat = tuple(inner for term in terms for inner in term._terms())
        if not flat:
            raise InvalidArgument(argument="terms", got="no term", expected="at least one border")
        k = flat[0].k
        for term in flat:
            if term.k != k:
                raise InvalidArgument(argument="terms", got=f"widths {k} and {term.k}", expected="equal widths")
        dtype = common_dtype([term._data for term in flat if not isinstance(term, OperatorBorder)])
        copies: list[str] = [note for term in flat for note in term.copies]
        self.terms = tuple(t if t.dtype == dtype else t._as_dtype(dtype, copies) for t in flat)
        self._begin(k, np.zeros(0, dtype=dtype), copies)

    def _terms(self) -> tuple[Border, ...]:
        return self.terms

    @property
    def nbytes(self) -> int:
        """Bytes of the stored data of all terms."""
        return sum(term.nbytes for term in self.terms)

    def _as_dtype(self, dtype: np.dtype[Any], copies: list[str]) -> Border:
        return BorderSum([term._as_dtype(dtype, copies) for term in self.terms])

    def _private_copy(self) -> Border:
        return BorderSum([term._private_copy() for term in self.terms])

    def _gradient(self, dense: Array, symmetry: str) -> Any:
        return tuple(term._gradient(dense, symmetry) for term in self.terms)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))

    def __reduce__(self) -> tuple[Any, ...]:
        return BorderSum, (self.terms,)


# ---- conversions ----------------------------------------------------------------------------------------------------
def as_border(value: Any, k: int | None, name: str) -> Border:
    """Return a border object for a border or an array of shape (k, k) or (k,)."""
    if isinstance(value, Border):
        border: Border = value
    else:
        array = as_array(value, name)
        if array.ndim == 2 and array.shape[0] == array.shape[1]:
            border = DenseBorder(array)
        elif array.ndim == 1:
            border = DiagonalBorder(array)
        else:
            raise InvalidArgument(argument=name, got=describe(array), expected="shape (k, k) or (k,), or a border")
    if k is not None and border.k != k:
        raise InvalidArgument(argument=name, got=f"a border of width {border.k}", expected=f"width k = {k}")
    return border


def has_float64(border: Border) -> bool:
    """Return whether the data of a border demand float64; callbacks demand nothing."""
    return any(term.dtype != np.float32 for term in border._terms() if not isinstance(term, OperatorBorder))


def border_from_parts(form: str, data: Array, parameters: dict[str, Any]) -> Border:
    """Make the border that `_term` described. A description that does not fit is a TypeError or a KeyError."""
    if form not in Border._known:
        raise TypeError(f"unknown border form {form!r}")
    return Border._known[form]._from_parts(data, parameters)


def callback(name: str, value: Any) -> Any:
    """Return a callable, or complain."""
    if not callable(value):
        raise InvalidArgument(argument=name, got=describe(value), expected="a callable")
    return value


def content_tag(value: Any) -> int | None:
    """Return a content hash, or complain."""
    return None if value is None else size_of("tag", value, 0, 2**64)


def size_of(name: str, value: Any, lowest: int, limit: int = 2**63) -> int:
    number = None if isinstance(value, bool) else getattr(value, "__index__", lambda: None)()
    if number is None or not lowest <= number < limit:
        raise InvalidArgument(argument=name, got=f"{value!r:.80}", expected=f"an integer >= {lowest}")
    return int(number)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(argument=name, got=f"{value!r:.80}", expected="True or False")
    return value


def one_array(value: Any, name: str) -> tuple[Array, list[str]]:
    copies: list[str] = []
    array = as_array(value, name)
    if not isinstance(value, np.ndarray) and not hasattr(value, "__dlpack__"):
        copies.append(f"h_bb: {type(value).__name__} -> array")
    return plain(array, common_dtype([array]), "h_bb", copies), copies


def one_buffer(parts: Sequence[Array]) -> tuple[Array, list[str]]:
    return stack([part.reshape(-1) for part in parts], common_dtype(parts)), ["h_bb: blocks -> one buffer"]


def stack(parts: Sequence[Array], dtype: np.dtype[Any]) -> Array:
    """Return flat arrays one after another."""
    if not parts:
        return np.zeros(0, dtype=dtype)
    return np.concatenate(parts).astype(dtype, copy=False)


def split_blocks(flat: Array, shapes: Iterable[tuple[int, int]]) -> tuple[Array, ...]:
    blocks: list[Array] = []
    start = 0
    for rows, cols in shapes:
        blocks.append(flat[start : start + rows * cols].reshape(rows, cols))
        start += rows * cols
    return tuple(blocks)


def require_entries(data: Array, shapes: list[tuple[int, int]]) -> None:
    if data.ndim != 1 or any(min(shape) < 0 for shape in shapes) or sum(r * c for r, c in shapes) != data.size:
        raise TypeError("the block sizes do not fit their data")
