"""Sparse dictionaries: `K` unit directions such that every row is a combination of at most `s` of them.

See Also
--------
SparseDictionary : scikit-learn estimator.
fit_sparse_dictionary : a function in place of it.
SparseDictionaryStream : rows in shards, for a corpus larger than memory.
load : what `SparseDictionary.save` wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _sklearn
from ._estimator import SparseDictionary
from ._files import load
from ._fit import FitInterrupted, SparseDictionaryFit, fit_sparse_dictionary
from ._options import FitOptions
from ._record import Record
from ._rows import UnsupportedDtypeError
from ._sae import TopkAutoencoder
from ._stream import SparseDictionaryStream

if TYPE_CHECKING:
    from ._sklearn import ConvergenceWarning, NotFittedError

__all__ = [
    "ConvergenceWarning",
    "FitInterrupted",
    "FitOptions",
    "NotFittedError",
    "Record",
    "SparseDictionary",
    "SparseDictionaryFit",
    "SparseDictionaryStream",
    "TopkAutoencoder",
    "UnsupportedDtypeError",
    "fit_sparse_dictionary",
    "load",
]


def __getattr__(name: str) -> Any:
    """Find the two classes that are scikit-learn's where that is installed, which is imported only then."""
    if name == "NotFittedError":
        return _sklearn.not_fitted_error()
    if name == "ConvergenceWarning":
        return _sklearn.convergence_warning()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
