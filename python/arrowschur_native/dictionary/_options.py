"""Options of a fit: names, defaults and kinds. The core knows their ranges."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import _core
from .._errors import InvalidArgument, UnsupportedConfiguration

__all__ = ["FitOptions", "boolean", "choice", "complain", "encoding_options", "number", "threads", "whole"]

_LARGEST = 2**63 - 1


# ---- rules ----------------------------------------------------------------------------------------------------------
def complain(argument: str, got: Any, expected: str) -> InvalidArgument:
    """Return the error of an argument that is not what it must be."""
    shown = f"{got!r:.80}" if isinstance(got, str) else f"{got!s:.80}"
    separator = ";" if expected.startswith("one of") else ","
    return InvalidArgument(
        f"sparse_dictionary: {argument} must be {expected}{separator} got {shown}",
        argument=argument,
        got=shown,
        expected=expected,
    )


def whole(name: str, value: Any, lowest: int = -_LARGEST) -> int:
    """Return an integer as Python's own; NumPy's are taken too, floats and bools are not."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise complain(name, value, "an integer")
    number = int(value.__index__())
    if number < lowest:
        raise complain(name, number, f"at least {lowest}")
    if abs(number) > _LARGEST:
        raise complain(name, number, f"at {'most' if number > 0 else 'least'} {_LARGEST if number > 0 else lowest}")
    return number


def number(name: str, value: Any) -> float:
    """Return a real number."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise complain(name, value, "finite and non-negative") from None


def boolean(name: str, value: Any) -> bool:
    """Return a bool; NumPy's as well, since grids of parameters are often arrays."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise complain(name, value, "True or False")
    return bool(value)


def choice(name: str, value: Any, allowed: tuple[Any, ...] = ()) -> Any:
    """Return one of the few values that an option may have; without `allowed`, any text, which the core checks."""
    for entry in allowed:
        if isinstance(value, type(entry)) and value == entry:
            return entry
    if allowed or not isinstance(value, str):
        raise complain(name, value, f"one of {', '.join(map(str, allowed or _CHOICES[name]))}")
    return str(value)


def threads(name: str, value: Any) -> int | None:
    """Return the number of threads of `n_jobs`: None is the library's setting, -1 every processor."""
    if value is None:
        return None
    count = whole(name, value)
    if count == -1:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if count < 1:
        raise complain(name, count, "at least 1, or -1 for all")
    return count


def _callback(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise complain(name, value, "callable, or None")
    return value


def _positive(name: str, value: Any) -> bool:
    if boolean(name, value):
        raise UnsupportedConfiguration(
            "sparse_dictionary: positive=True is not available",
            feature="positive=True",
            route="this version",
            hint="leave it False",
        )
    return False


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "router": ("topk", "refine", "omp"),
    "init": ("auto", "line", "euclidean", "given", "sample"),
    "keep": ("best", "last"),
    "device": ("auto", "off", "required"),
}
_KINDS: Mapping[str, Callable[[str, Any], Any]] = {
    "n_components": whole,
    "n_nonzero_coefs": whole,
    "router": choice,
    "refine_factor": whole,
    "max_iter": whole,
    "tol": number,
    "patience": whole,
    "code_ridge": number,
    "decoder_ridge": number,
    "decoder_ridge_relative": boolean,
    "refreshes_per_epoch": whole,
    "center": boolean,
    "init": choice,
    "batch_size": whole,
    "score_tile": whole,
    "revive": boolean,
    "revive_min_fires": whole,
    "revive_pool": whole,
    "refresh_memory_bytes": whole,
    "keep": choice,
    "device": choice,
    "keep_codes": boolean,
}
_ENCODING = ("router", "refine_factor", "code_ridge", "batch_size", "score_tile", "device")


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The options of `fit_sparse_dictionary` and `SparseDictionaryStream`, checked when made.

    Attributes
    ----------
    n_components : int
        K, the number of atoms, 1 .. 2^32 - 2.
    n_nonzero_coefs : int, default 8
        s, the most atoms a row may use; more than K means K.
    router : {'topk', 'refine', 'omp'}, default 'topk'
        How the atoms of a row are chosen: the s largest correlations; greedily among the `refine_factor * s` largest;
        greedily among all (orthogonal matching pursuit).
    refine_factor : int, default 4
        2 .. 64.
    max_iter : int, default 30
        Most refreshes of the decoder.
    tol : float, default 1e-6
        Change of the explained variance at which a fit is converged.
    patience : int, default 5
        Epochs without gain after which it stops; 0: never for that reason.
    code_ridge, decoder_ridge : float, default 1e-6
        rho_c (dimensionless) and rho_d (units of the data, squared).
    decoder_ridge_relative : bool, default False
        Multiply rho_d by the mean diagonal of the normal equations: fits that do not depend on units.
    refreshes_per_epoch : int, default 1
        1 .. 64; one for streams.
    center : bool, default False
        Subtract the column means.
    init : {'auto', 'line', 'euclidean', 'given', 'sample'}, default 'auto'
        The seed: farthest lines, of all rows or of a sample; farthest points; `dict_init`.
    dict_init : (K, P) array_like, optional
        With 'given', or 'auto'.
    batch_size, score_tile : int, default 512, 4096
        Rows and atoms of the working set.
    revive : bool, default True
        Point atoms that did not fire `revive_min_fires` (default 1) times at the rows that are explained worst, of
        `revive_pool` (default 4096) that are remembered.
    refresh_memory_bytes : int, default 2^30
        Largest dense matrix of the refresh; beyond it the matrix is sparse. At least 2^20.
    keep : {'best', 'last'}, default 'best'
        Which epoch is returned.
    device : {'auto', 'off', 'required'}, default 'auto'
        Where rows are routed.
    n_jobs : int, optional
        Threads; None: the library's setting, -1: all processors.
    callback : callable, optional
        Called with the `EpochRecord` of every pass; returning False ends the fit.
    keep_codes : bool, default True
        Keep `indices` and `codes` in the result.
    positive : bool, default False
        Reserved.
    verbose : {0, 1, 2}, default 0
        0 silent; 1 a line for each epoch on `sys.stdout`, and in a terminal a progress bar below (extra `cli`);
        2 with the seconds of each step.
    random_state : any, optional
        Accepted and ignored: nothing here is random.

    Raises
    ------
    InvalidArgument
        A value is out of its range; the message names option and value.
    UnsupportedConfiguration
        `positive=True`.
    """

    n_components: int
    n_nonzero_coefs: int = 8
    router: str = "topk"
    refine_factor: int = 4
    max_iter: int = 30
    tol: float = 1e-6
    patience: int = 5
    code_ridge: float = 1e-6
    decoder_ridge: float = 1e-6
    decoder_ridge_relative: bool = False
    refreshes_per_epoch: int = 1
    center: bool = False
    init: str = "auto"
    dict_init: Any = None
    batch_size: int = 512
    score_tile: int = 4096
    revive: bool = True
    revive_min_fires: int = 1
    revive_pool: int = 4096
    refresh_memory_bytes: int = 2**30
    keep: str = "best"
    device: str = "auto"
    n_jobs: int | None = None
    callback: Callable[[Any], object] | None = None
    keep_codes: bool = True
    positive: bool = False
    verbose: int = 0
    random_state: Any = None

    def __post_init__(self) -> None:
        plain = {name: kind(name, getattr(self, name)) for name, kind in _KINDS.items()}
        _callback("callback", self.callback)
        _positive("positive", self.positive)
        plain["verbose"] = choice("verbose", int(self.verbose) if self.verbose is True else self.verbose, (0, 1, 2))
        if self.dict_init is None and plain["init"] == "given":
            raise complain("dict_init", None, "an array where init is 'given'")
        if self.dict_init is not None and plain["init"] not in ("auto", "given"):
            raise complain("init", plain["init"], "'auto' or 'given' where dict_init is an array")
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        self.core()  # checks the ranges

    def core(self) -> _core.DictionaryOptions:
        """Return the core's options."""
        values = {name: getattr(self, name) for name in _KINDS}
        if self.dict_init is not None:
            values["init"] = "given"
        return _core.DictionaryOptions(**values, num_threads=threads("n_jobs", self.n_jobs))

    def stored(self) -> dict[str, Any]:
        """Return what a file keeps: everything but arrays, callables and `random_state`."""
        dropped = ("dict_init", "callback", "random_state")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in dropped}


def encoding_options(holder: Any, n_nonzero_coefs: int) -> dict[str, Any]:
    """Return the keyword arguments of the core's `encode` from the attributes of an estimator."""
    values = {name: _KINDS[name](name, getattr(holder, name)) for name in _ENCODING}
    return {**values, "n_nonzero_coefs": n_nonzero_coefs, "num_threads": threads("n_jobs", holder.n_jobs)}
