"""Options of a fit: names, defaults and ranges."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .._errors import InvalidArgument, UnsupportedConfiguration

__all__ = ["CHOICES", "FitOptions", "boolean", "choice", "complain", "ridge", "whole"]

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "router": ("topk", "refine", "omp"),
    "init": ("auto", "line", "euclidean", "given", "sample"),
    "keep": ("best", "last"),
    "device": ("auto", "off", "required"),
    "verbose": (0, 1, 2),
    "output": ("auto", "csr", "pair", "dense"),
    "refresh": ("call", "epoch"),
}

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


def whole(name: str, value: Any, lowest: int, highest: int = _LARGEST) -> int:
    """Return an integer, or raise where it is none or out of range."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise complain(name, value, "an integer")
    number = int(value.__index__())
    if lowest <= number <= highest:
        return number
    if highest <= 64:
        raise complain(name, number, f"between {lowest} and {highest}")
    raise complain(name, number, f"at least {lowest}" if number < lowest else f"at most {highest}")


def choice(name: str, value: Any) -> Any:
    """Return one of the few values that an option may have."""
    allowed = CHOICES[name]
    for entry in allowed:
        if isinstance(value, type(entry)) and value == entry:
            return entry
    raise complain(name, value, f"one of {', '.join(map(str, allowed))}")


def ridge(name: str, value: Any) -> float:
    """Return a finite number that is not negative."""
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0.0 <= number < math.inf:
        raise complain(name, value, "finite and non-negative")
    return number


def boolean(name: str, value: Any) -> bool:
    """Return a bool; NumPy's as well, since grids of parameters are often arrays."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise complain(name, value, "True or False")
    return bool(value)


def _threads(name: str, value: Any) -> int | None:
    if value is None or (value == -1 and not isinstance(value, bool)):
        return value
    if not isinstance(value, bool) and hasattr(value, "__index__") and value.__index__() < 1:
        raise complain(name, value, "at least 1, or -1 for all")
    return whole(name, value, 1, 2**31 - 1)


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


_RULES: Mapping[str, Callable[[str, Any], Any]] = {
    "n_components": lambda name, value: whole(name, value, 1, 2**32 - 2),
    "n_nonzero_coefs": lambda name, value: whole(name, value, 1),
    "router": choice,
    "refine_factor": lambda name, value: whole(name, value, 2, 64),
    "max_iter": lambda name, value: whole(name, value, 1),
    "tol": ridge,
    "patience": lambda name, value: whole(name, value, 0),
    "code_ridge": ridge,
    "decoder_ridge": ridge,
    "decoder_ridge_relative": boolean,
    "refreshes_per_epoch": lambda name, value: whole(name, value, 1, 64),
    "center": boolean,
    "init": choice,
    "batch_size": lambda name, value: whole(name, value, 1),
    "score_tile": lambda name, value: whole(name, value, 1),
    "revive": boolean,
    "revive_min_fires": lambda name, value: whole(name, value, 1),
    "revive_pool": lambda name, value: whole(name, value, 1),
    "refresh_memory_bytes": lambda name, value: whole(name, value, 2**20),
    "keep": choice,
    "device": choice,
    "n_jobs": _threads,
    "callback": _callback,
    "keep_codes": boolean,
    "positive": _positive,
    "verbose": choice,
}


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
        for name, rule in _RULES.items():
            # Values in their plain Python types: a NumPy integer becomes an int.
            object.__setattr__(self, name, rule(name, getattr(self, name)))
        if self.dict_init is None and self.init == "given":
            raise complain("dict_init", None, "an array where init is 'given'")
        if self.dict_init is not None:
            if self.init not in ("auto", "given"):
                raise complain("init", self.init, "'given' or 'auto' where dict_init is an array")
            object.__setattr__(self, "init", "given")

    def stored(self) -> dict[str, Any]:
        """Return what a file keeps: everything but arrays, callables and `random_state`."""
        dropped = ("dict_init", "callback", "random_state")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in dropped}
