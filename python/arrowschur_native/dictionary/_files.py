"""Dictionaries in safetensors files."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import ArrowError, InvalidArgument
from . import _safetensors
from ._estimator import SparseDictionary
from ._fit import SparseDictionaryFit, read_only
from ._options import FitOptions
from ._record import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["load", "save"]

_FORMAT = "arrowschur.dictionary/1"
_ARRAYS = {"decoder": (np.float32, 2), "mean": (np.float32, 1), "atom_fires": (np.uint64, 1)}
# Fields of the fit, as JSON texts under their own names; the exponent is `e`.
_FIELDS = (
    "explained_variance",
    "fvu",
    "rss",
    "tss",
    "l0",
    "n_iter",
    "best_epoch",
    "converged",
    "stop_reason",
    "alive",
    "dead",
    "dormant",
    "rows",
    "seed_seconds",
)


def save(model: SparseDictionary, fit: SparseDictionaryFit, path: str | os.PathLike[str]) -> None:
    """Write a dictionary; see `SparseDictionary.save`."""
    options = fit.options.stored()
    options |= {"output": model.output, "refresh": model.refresh, "window_rows": model.window_rows}
    story = {name: getattr(fit, name) for name in _FIELDS}
    story |= {"e": fit.exponent, "ev_path": fit.ev_path.tolist(), "effective_n_nonzero_coefs": fit.n_nonzero_coefs}
    metadata = {name: json.dumps(value) for name, value in {**options, **story}.items()}
    _safetensors.write(path, {name: getattr(fit, name) for name in _ARRAYS}, {"format": _FORMAT, **metadata})


def load(path: str | os.PathLike[str]) -> SparseDictionary:
    """Read a dictionary that `SparseDictionary.save` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    SparseDictionary
        Fitted; its `transform` has the bits of the one that was saved.

    Raises
    ------
    InvalidArgument
        The file is something else, or an array has the wrong shape or dtype, an entry that is not finite, or an atom
        whose norm is neither 1 (within 1e-5) nor 0.

    Examples
    --------
    >>> import numpy as np, tempfile, os, arrowschur_native as asn
    >>> x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    >>> model = asn.SparseDictionary(n_components=8, n_nonzero_coefs=2, max_iter=99, tol=1e-2).fit(x)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(os.path.join(folder, "dictionary.safetensors"))
    ...     same = asn.load_dictionary(os.path.join(folder, "dictionary.safetensors"))
    >>> bool(np.array_equal(same.components_, model.components_)), same.score(x) == model.score(x)
    (True, True)
    """
    try:
        arrays, metadata = _safetensors.read(path)
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}")
        story = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
        _check(arrays)
        names = FitOptions.__dataclass_fields__
        options = FitOptions(**{name: story[name] for name in names if name in story} | {"init": "auto"})
        fields: dict[str, Any] = {name: arrays[name] for name in _ARRAYS} | {name: story[name] for name in _FIELDS}
        fit = SparseDictionaryFit(
            **fields,
            indices=None,
            codes=None,
            ev_path=np.asarray(story["ev_path"], dtype=np.float64),
            n_nonzero_coefs=int(story["effective_n_nonzero_coefs"]),
            epochs=(),
            route=Record({}),
            exponent=int(story["e"]),
            options=options,
        )
        read_only(fit.decoder), read_only(fit.mean)
        own = {name: story[name] for name in ("output", "refresh", "window_rows")}
        return SparseDictionary.from_fit(fit, **own).set_params(init=story["init"])
    except (ArrowError, KeyError, TypeError, ValueError) as error:
        reason = str(error).removeprefix("sparse_dictionary: ")
        raise InvalidArgument(
            f"sparse_dictionary: {os.fspath(path)!r} holds no dictionary: {reason}",
            argument="path",
            got=repr(os.fspath(path)),
            expected="a file written by SparseDictionary.save",
        ) from error


def _check(arrays: dict[str, NDArray[Any]]) -> None:
    for name, (dtype, dimensions) in _ARRAYS.items():
        array = arrays[name]
        if array.dtype != dtype or array.ndim != dimensions:
            raise ValueError(f"{name} has dtype {array.dtype} and shape {array.shape}")
    k, p = arrays["decoder"].shape
    if arrays["mean"].shape != (p,) or arrays["atom_fires"].shape != (k,):
        raise ValueError(f"mean {arrays['mean'].shape} or atom_fires {arrays['atom_fires'].shape} for {k} atoms of {p}")
