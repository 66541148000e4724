"""Training on shards of rows: a corpus larger than memory."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._errors import InvalidArgument
from .._results import aligned
from . import _safetensors
from ._fit import SparseDictionaryFit, fit_from_core, warn_unless_converged
from ._options import FitOptions, complain
from ._progress import Progress
from ._record import Record
from ._rows import as_decoder, rows_of
from ._sklearn import not_fitted_error

if TYPE_CHECKING:
    from ._estimator import SparseDictionary

__all__ = ["SparseDictionaryStream", "fitted", "model_of", "untold"]

_FORMAT = "arrowschur.dictionary.stream/1"


class SparseDictionaryStream:
    """Trains a sparse dictionary on shards; its memory does not depend on the number of rows.

    Parameters
    ----------
    seed : array_like (N0, P), or SparseDictionary, or SparseDictionaryFit
        Rows that seed the atoms, and with `center` fix the mean; they are not counted as training rows. Or a fitted
        dictionary, whose decoder and mean the stream continues from; `n_components` may then be left out.
    **options
        The fields of `FitOptions`; `refreshes_per_epoch` must be 1.

    Raises
    ------
    InvalidArgument
        As `fit_sparse_dictionary`; a seed whose number of atoms is not `n_components`.

    Notes
    -----
    How the rows are cut into shards changes no bit of the result. Not thread-safe. Ctrl-C leaves a stream usable: the
    rows of the minibatches that were done are counted (`rows_in_epoch`).

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> x = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    >>> stream = asn.SparseDictionaryStream(x[:200], n_components=12, n_nonzero_coefs=2)
    >>> for epoch in range(3):
    ...     for shard in np.array_split(x, 4):
    ...         report = stream.partial_fit(shard)
    ...     record = stream.end_epoch()
    >>> stream.finalize().decoder.shape
    (12, 8)
    """

    def __init__(self, seed: SparseDictionary | SparseDictionaryFit | Any, **options: Any) -> None:
        fit = fitted(seed)
        if fit is None:
            self._options = FitOptions(**options)
            rows, dict_init = rows_of(seed), None
            if self._options.dict_init is not None:
                dict_init = as_decoder(self._options.dict_init, (self._options.n_components, rows.width))
            self._core = _core.DictionaryStream(rows.core, self._options.core(), dict_init)
            return
        atoms = len(fit.decoder)
        self._options = FitOptions(**{"n_components": atoms, **options, "init": "auto", "dict_init": None})
        if self._options.n_components != atoms:
            raise InvalidArgument(
                f"sparse_dictionary: seed has {atoms} atoms, n_components is {self._options.n_components}",
                argument="seed",
                got=f"{atoms} atoms",
                expected=f"{self._options.n_components} atoms",
            )
        self._core = _core.DictionaryStream(model_of(fit), self._options.core(), None)

    @property
    def options(self) -> FitOptions:
        """The options."""
        return self._options

    @property
    def epochs(self) -> int:
        """Closed epochs."""
        return self._core.epochs

    @property
    def rows_in_epoch(self) -> int:
        """Rows of the open epoch."""
        return self._core.rows_in_epoch

    @property
    def converged(self) -> bool:
        """Whether the stopping rule is met."""
        return self._core.converged

    def partial_fit(self, shard: Any) -> Record:
        """Route, code and accumulate some rows.

        Parameters
        ----------
        shard : array_like, (n, P)
            May be empty.

        Returns
        -------
        Record
            `rows`, `rss` (of these rows), `alive` (atoms that have fired in this epoch).

        Raises
        ------
        InvalidArgument
            Not rows of this width, or a value beyond the range that the seed fixed.
        """
        return Record(self._core.partial_fit(rows_of(shard, empty=True).core))

    def end_epoch(self) -> Record:
        """Refresh, project and revive; the record is that of the pass that ends here.

        Raises
        ------
        InvalidArgument
            No rows were given.
        """
        return Record(self._core.end_epoch())

    def fit_shards(self, factory: Callable[[], Iterable[Any]]) -> SparseDictionaryFit:
        """Run epochs until the stopping rule is met, or `max_iter` of them.

        Parameters
        ----------
        factory : callable
            Returns a fresh iterable of shards for each epoch: the same rows in the same order.

        Returns
        -------
        SparseDictionaryFit
            As `finalize`.

        Warns
        -----
        ConvergenceWarning
            `max_iter` was reached first.
        """
        if not callable(factory):
            raise complain("factory", factory, "a callable that returns shards")
        with Progress(self._options) as progress:
            for _ in range(self._options.max_iter):
                for shard in factory():
                    self.partial_fit(shard)
                if progress(self.end_epoch()) is False:
                    return dataclasses.replace(self.finalize(), stop_reason="callback")
                if self.converged:
                    break
        fit = self.finalize()
        warn_unless_converged(fit)
        return fit

    def finalize(self) -> SparseDictionaryFit:
        """Return the decoder and the story of the closed epochs; the stream goes on.

        Raises
        ------
        NotFittedError
            No epoch was closed.
        """
        if self.epochs == 0:
            raise not_fitted_error()("sparse_dictionary: call end_epoch before finalize")
        return fit_from_core(self._core.finalize(), self._options)

    # ---- state ------------------------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the complete state; a resumed run has the bits of an uninterrupted one.

        Parameters
        ----------
        path : path
            A safetensors file. Callback and `random_state` are not in it.
        """
        state = np.frombuffer(self._core.save(), dtype=np.uint8)
        metadata = {"format": _FORMAT, "options": json.dumps(self._options.stored())}
        _safetensors.write(path, {"state": state}, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SparseDictionaryStream:
        """Read what `save` wrote.

        Raises
        ------
        InvalidArgument
            The file is something else.
        """
        try:
            arrays, metadata = _safetensors.read(path)
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}")
            options = {**json.loads(metadata["options"]), "init": "auto"}
            return _revive(arrays["state"].tobytes(), FitOptions(**options))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument(
                f"sparse_dictionary: {os.fspath(path)!r} is no stream that save wrote: {error}",
                argument="path",
                got=repr(os.fspath(path)),
                expected="a file written by SparseDictionaryStream.save",
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (self._core.save(), self._options)

    def __repr__(self) -> str:
        o = self._options
        return aligned(
            type(self).__name__,
            [
                ("atoms", f"{o.n_components}, at most {o.n_nonzero_coefs} a row"),
                ("router", o.router),
                ("epochs", f"{self.epochs} closed, {self.rows_in_epoch} rows in the open one"),
                ("converged", self.converged),
            ],
        )


def _revive(state: bytes, options: FitOptions) -> SparseDictionaryStream:
    stream = SparseDictionaryStream.__new__(SparseDictionaryStream)
    stream._options = dataclasses.replace(options)
    stream._core = _core.DictionaryStream.load(state)
    return stream


def untold(stream: SparseDictionaryStream) -> SparseDictionaryFit:
    """Return the fit of a stream whose first epoch is not closed: a decoder, and nothing known about it."""
    model, options = stream._core.model(), stream.options
    atoms = options.n_components
    unknown = dict.fromkeys(("explained_variance", "fvu", "rss", "tss", "l0"), math.nan)
    fields: dict[str, Any] = {
        **unknown,
        "decoder": model.decoder,
        "mean": model.mean,
        "exponent": model.exponent,
        "indices": None,
        "codes": None,
        "ev_path": np.zeros(0),
        "n_iter": 0,
        "best_epoch": 0,
        "converged": False,
        "stop_reason": "partial_fit",
        "atom_fires": np.zeros(atoms, dtype=np.uint64),
        "alive": 0,
        "dead": atoms,
        "dormant": int(np.count_nonzero(~model.decoder.any(axis=1))),
        "n_nonzero_coefs": min(options.n_nonzero_coefs, atoms),
        "epochs": [],
        "route": {},
        "rows": 0,
        "seed_seconds": 0.0,
    }
    return fit_from_core(fields, options)


def model_of(fit: SparseDictionaryFit) -> _core.DictionaryModel:
    """Return the frozen decoder of a fit."""
    return _core.DictionaryModel(fit.decoder, fit.mean, fit.exponent)


def fitted(value: Any) -> SparseDictionaryFit | None:
    """Return the fit in a dictionary, or None where the value is none."""
    if isinstance(value, SparseDictionaryFit):
        return value
    from ._estimator import SparseDictionary

    return value._fitted("SparseDictionaryStream") if isinstance(value, SparseDictionary) else None
