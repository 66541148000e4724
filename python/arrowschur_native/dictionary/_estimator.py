"""`SparseDictionary`: the trainer as a scikit-learn estimator, and as an autoencoder."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._errors import InvalidArgument
from .._results import aligned
from . import _sklearn
from ._codes import OUTPUTS, as_pair, check_output, from_pair
from ._fit import FitInterrupted, SparseDictionaryFit, read_only, run, warn_unless_converged
from ._options import FitOptions, choice, encoding_options, threads, whole
from ._record import Record
from ._rows import Rows, rows_of
from ._sae import TopkAutoencoder
from ._stream import SparseDictionaryStream, model_of, untold

__all__ = ["SparseDictionary"]

Array = NDArray[Any]

_OF_ESTIMATOR = ("output", "refresh", "window_rows")


class SparseDictionary:
    """Sparse dictionary: every row a combination of at most `s` of `K` unit directions, by least squares.

    A scikit-learn transformer (scikit-learn itself is optional).

    Parameters
    ----------
    n_components, n_nonzero_coefs, router, refine_factor, max_iter, tol, patience, code_ridge, decoder_ridge, \
decoder_ridge_relative, refreshes_per_epoch, center, init, dict_init, batch_size, score_tile, revive, \
revive_min_fires, revive_pool, refresh_memory_bytes, keep, device, n_jobs, callback, keep_codes, positive, verbose, \
random_state
        As `FitOptions`. Stored as they are and checked by `fit`.
    output : {'auto', 'csr', 'pair', 'dense'}, default 'auto'
        What `transform` returns: a SciPy CSR matrix (N, K) float32; `(indices, codes)`, (N, s) each; an array (N, K),
        at most 2^27 entries. 'auto' is 'csr' where SciPy is installed, else 'pair'.
    refresh : {'call', 'epoch'}, default 'call'
        When `partial_fit` refreshes the decoder: in every call, on exponentially forgotten statistics, or in
        `end_epoch`.
    window_rows : int, optional
        Rows after which a row is forgotten: statistics are multiplied by `max(0, 1 - rows / window_rows)` per call.
        Default `ceil(64 K / s)`.

    Attributes
    ----------
    components_ : ndarray, (K, P) float32
        Atoms: rows of norm 1, or 0. Read-only.
    mean_ : ndarray, (P,) float32
        Column means; zeros unless `center`.
    n_components_, n_features_in_, n_iter_, n_nonzero_coefs_ : int
        K; P; refreshes; s, which is at most K.
    explained_variance_, fvu_, l0_, dead_fraction_ : float
        Of the training rows, in the pass that is kept; after `partial_fit`, of the last rows before their refresh.
    ev_path_ : ndarray, (n_iter_ + 1,)
    stop_reason_ : str
        That of the fit, or 'partial_fit'.
    converged_ : bool
    result_ : SparseDictionaryFit
        Everything else.

    See Also
    --------
    fit_sparse_dictionary : a function in place of an estimator.
    SparseDictionaryStream : epochs over shards of rows.

    Notes
    -----
    Ctrl-C during `fit` raises a KeyboardInterrupt after the best state so far has become the fitted one. Read-only use
    from several threads is safe.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    >>> model = asn.SparseDictionary(n_components=16, n_nonzero_coefs=3, max_iter=50, tol=1e-3, output="pair").fit(x)
    >>> indices, codes = model.transform(x)
    >>> back = model.inverse_transform((indices, codes))
    >>> ev = 1 - np.sum((x - back) ** 2) / np.sum((x - x.mean(axis=0)) ** 2)
    >>> bool(abs(ev - model.score(x)) < 1e-6)
    True
    """

    # Set by a fit.
    components_: Array
    mean_: Array
    n_components_: int
    n_features_in_: int
    n_iter_: int
    n_nonzero_coefs_: int
    explained_variance_: float
    fvu_: float
    l0_: float
    dead_fraction_: float
    stop_reason_: str
    converged_: bool
    _result: SparseDictionaryFit
    _model: _core.DictionaryModel
    _stream: SparseDictionaryStream

    def __init__(
        self,
        *,
        n_components: int,
        n_nonzero_coefs: int = 8,
        router: str = "topk",
        refine_factor: int = 4,
        max_iter: int = 30,
        tol: float = 1e-6,
        patience: int = 5,
        code_ridge: float = 1e-6,
        decoder_ridge: float = 1e-6,
        decoder_ridge_relative: bool = False,
        refreshes_per_epoch: int = 1,
        center: bool = False,
        init: str = "auto",
        dict_init: Any = None,
        batch_size: int = 512,
        score_tile: int = 4096,
        revive: bool = True,
        revive_min_fires: int = 1,
        revive_pool: int = 4096,
        refresh_memory_bytes: int = 2**30,
        keep: str = "best",
        device: str = "auto",
        n_jobs: int | None = None,
        callback: Callable[[Any], object] | None = None,
        keep_codes: bool = True,
        positive: bool = False,
        verbose: int = 0,
        random_state: Any = None,
        output: str = "auto",
        refresh: str = "call",
        window_rows: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.n_nonzero_coefs = n_nonzero_coefs
        self.router = router
        self.refine_factor = refine_factor
        self.max_iter = max_iter
        self.tol = tol
        self.patience = patience
        self.code_ridge = code_ridge
        self.decoder_ridge = decoder_ridge
        self.decoder_ridge_relative = decoder_ridge_relative
        self.refreshes_per_epoch = refreshes_per_epoch
        self.center = center
        self.init = init
        self.dict_init = dict_init
        self.batch_size = batch_size
        self.score_tile = score_tile
        self.revive = revive
        self.revive_min_fires = revive_min_fires
        self.revive_pool = revive_pool
        self.refresh_memory_bytes = refresh_memory_bytes
        self.keep = keep
        self.device = device
        self.n_jobs = n_jobs
        self.callback = callback
        self.keep_codes = keep_codes
        self.positive = positive
        self.verbose = verbose
        self.random_state = random_state
        self.output = output
        self.refresh = refresh
        self.window_rows = window_rows

    # ---- training ---------------------------------------------------------------------------------------------------
    def fit(self, X: Any, y: Any = None) -> SparseDictionary:
        """Train on rows.

        Parameters
        ----------
        X : array_like, (N, P)
            As `fit_sparse_dictionary`.
        y : ignored

        Returns
        -------
        SparseDictionary
            This object.

        Raises
        ------
        InvalidArgument, ArrowError, DeviceUnavailableError, FitInterrupted
            As `fit_sparse_dictionary`.
        """
        warn_unless_converged(self._fit(self._options(), rows_of(X)))
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Train on rows and return their codes, in the form that `output` names.

        Parameters
        ----------
        X : array_like, (N, P)
        y : ignored
        """
        options, rows = self._options(), rows_of(X)
        form = check_output(self._output(), rows.count, options.n_components)
        fit = self._fit(options, rows)
        warn_unless_converged(fit)
        if fit.indices is None or fit.codes is None:
            return self.transform(X)
        return from_pair(fit.indices, fit.codes, len(fit.decoder), form)

    def partial_fit(self, X: Any, y: Any = None) -> SparseDictionary:
        """Go on training with more rows; the first call seeds the atoms from its rows, or goes on from `fit`.

        Parameters
        ----------
        X : array_like, (n, P)
            Weighted by their number. With `refresh='call'` the decoder is refreshed at once.
        y : ignored

        Returns
        -------
        SparseDictionary
            This object. Options changed since the first call do not count.
        """
        options = self._options()
        refresh = choice("refresh", self.refresh, ("call", "epoch"))
        window = self._window(options)
        rows = rows_of(X)
        if "_stream" not in vars(self):
            seed = self if "components_" in vars(self) else X
            # What came last counts: rows that drift have no best epoch.
            given = {name: getattr(options, name) for name in _FIT_PARAMETERS} | {"keep": "last"}
            self._stream = SparseDictionaryStream(seed, **given)
        if refresh == "call":
            self._take_step(Record(self._stream._core.step(rows.core, window)))
        else:
            self._stream.partial_fit(X)
            if "components_" not in vars(self):
                self._take(untold(self._stream))
        return self

    def end_epoch(self) -> Record:
        """Refresh after `partial_fit` calls with `refresh='epoch'`; see `SparseDictionaryStream.end_epoch`."""
        if "_stream" not in vars(self):
            raise _sklearn.not_fitted_error()("sparse_dictionary: call partial_fit before end_epoch")
        record = self._stream.end_epoch()
        self._take_step(record)
        return record

    # ---- use --------------------------------------------------------------------------------------------------------
    def transform(self, X: Any, n_nonzero_coefs: int | None = None, router: str | None = None) -> Any:
        """Return the codes of rows, in the form that `output` names.

        Parameters
        ----------
        X : array_like, (N, P)
        n_nonzero_coefs, router : optional
            In place of those of the fit.

        Returns
        -------
        csr_matrix (N, K), or tuple of indices (N, s) uint32 and codes (N, s) float32, or ndarray (N, K)
            On the training rows these are the codes of the fit, bit for bit.
        """
        self._need_fit("transform")
        rows = rows_of(X)
        form = check_output(self._output(), rows.count, self.n_components_)
        s = self.n_nonzero_coefs_ if n_nonzero_coefs is None else whole("n_nonzero_coefs", n_nonzero_coefs, 1)
        encoding = encoding_options(self, s)
        if router is not None:
            encoding["router"] = choice("router", router)
        indices, codes, _ = self._model.encode(rows.core, **encoding)
        return from_pair(indices, codes, self.n_components_, form)

    def inverse_transform(self, Z: Any) -> Array:
        """Return the rows that codes stand for: `sum_j c_ij d_j + mean`, (N, P) float32.

        Parameters
        ----------
        Z : sparse matrix (N, K), or pair of indices and codes (N, w), or array (N, K)
        """
        self._need_fit("inverse_transform")
        indices, codes = as_pair(Z, self.n_components_)
        return self._model.decode(indices, codes, threads("n_jobs", self.n_jobs))

    def score(self, X: Any, y: Any = None) -> float:
        """Return the explained variance of rows, `1 - RSS / TSS`, with the decoder as it is.

        Parameters
        ----------
        X : array_like, (N, P)
        y : ignored
        """
        self._need_fit("score")
        return self._model.score(rows_of(X).core, **encoding_options(self, self.n_nonzero_coefs_))

    def metrics(self, X: Any) -> Record:
        """Return what one pass over rows tells.

        Parameters
        ----------
        X : array_like, (N, P)

        Returns
        -------
        Record
            `mse` (of an entry), `mse_row`, `explained_variance`, `explained_variance_row` (mean over rows), `fvu`,
            `l0`, `l1`, `l2_ratio`, `cosine`, `alive_fraction`, `dead_fraction`, `firing_frequency` (K,).
        """
        self._need_fit("metrics")
        return Record(self._model.metrics(rows_of(X).core, **encoding_options(self, self.n_nonzero_coefs_)))

    encode = transform
    decode = inverse_transform

    @property
    def result_(self) -> SparseDictionaryFit:
        """The fit as `fit_sparse_dictionary` returns it; after `partial_fit`, as `SparseDictionaryStream.finalize`."""
        return self._fitted("result_")

    @property
    def ev_path_(self) -> Array:
        """`result_.ev_path`."""
        return self._fitted("ev_path_").ev_path

    @property
    def W_dec(self) -> Array:
        """`components_`."""
        self._need_fit("W_dec")
        return self.components_

    @property
    def b_dec(self) -> Array:
        """`mean_`."""
        self._need_fit("b_dec")
        return self.mean_

    # ---- files ------------------------------------------------------------------------------------------------------
    def to_sae(self, split_sign: bool = True) -> TopkAutoencoder:
        """Return weights of a rectified TopK autoencoder that chooses the same atoms as the `topk` router.

        `W_dec = [D; -D]`, `W_enc = W_dec'`, `b_enc = 0`, `b_dec = mean_`, `k = s`. Its amplitudes are projections, not
        least-squares codes.

        Parameters
        ----------
        split_sign : bool, default True
            False needs codes that are not negative, which this version does not train.
        """
        self._need_fit("to_sae")
        return TopkAutoencoder.of(self.components_, self.mean_, self.n_nonzero_coefs_, split_sign)

    def export_sae_dir(self, path: str | os.PathLike[str]) -> None:
        """Write `to_sae()` as a folder with `sae_weights.safetensors` and `cfg.json`.

        Parameters
        ----------
        path : path
            Made if need be; `TopkAutoencoder.load` reads it.
        """
        self._need_fit("export_sae_dir")
        self.to_sae().save(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write decoder, mean and firing counts as a safetensors file; `load_dictionary` reads it.

        Parameters
        ----------
        path : path
            The metadata have every option but `dict_init`, `callback` and `random_state`, and the story of the fit.
            Codes are not in it.
        """
        from ._files import save

        save(self, self._fitted("save"), path)

    @classmethod
    def from_fit(cls, fit: SparseDictionaryFit, **parameters: Any) -> SparseDictionary:
        """Return the fitted estimator of a result.

        Parameters
        ----------
        fit : SparseDictionaryFit
        **parameters
            `output`, `refresh`, `window_rows`.
        """
        made = cls(**{name: getattr(fit.options, name) for name in _FIT_PARAMETERS}, **parameters)
        made._take(fit)
        return made

    # ---- scikit-learn -----------------------------------------------------------------------------------------------
    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments.

        Parameters
        ----------
        deep : ignored
        """
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **parameters: Any) -> SparseDictionary:
        """Change arguments of the constructor, which count from the next fit on.

        Raises
        ------
        InvalidArgument
            There is no such argument.
        """
        for name in parameters:
            if name not in _PARAMETERS:
                raise InvalidArgument(
                    f"sparse_dictionary: SparseDictionary has no parameter {name!r}; it has {', '.join(_PARAMETERS)}",
                    argument=name,
                    got=repr(name),
                    expected="a parameter of SparseDictionary",
                )
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return `sparsedictionary0` .. , one for each atom.

        Parameters
        ----------
        input_features : ignored
        """
        self._need_fit("get_feature_names_out")
        return np.asarray([f"sparsedictionary{k}" for k in range(self.n_components_)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        return _sklearn.tags()

    def __sklearn_is_fitted__(self) -> bool:
        return "components_" in vars(self)

    # ---- printing, pickling -----------------------------------------------------------------------------------------
    def __repr__(self) -> str:
        changed = (
            f"{name}={_short(getattr(self, name))}"
            for name, parameter in _PARAMETERS.items()
            if getattr(self, name) is not parameter.default and _short(getattr(self, name)) != _short(parameter.default)
        )
        call = f"{type(self).__name__}({', '.join(changed)})"
        return aligned(call, self.result_._rows()) if "components_" in vars(self) else call

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_model"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "components_" in state:
            self._model = self._stream._core.model() if "_stream" in state else model_of(self._result)

    # ---- helpers ----------------------------------------------------------------------------------------------------
    def _options(self) -> FitOptions:
        return FitOptions(**{name: getattr(self, name) for name in _FIT_PARAMETERS})

    def _fit(self, options: FitOptions, rows: Rows) -> SparseDictionaryFit:
        fit = run(rows, options)
        vars(self).pop("_stream", None)
        self._take(fit)
        if fit.stop_reason == "interrupted":
            raise FitInterrupted(fit)
        return fit

    def _output(self) -> str:
        return str(choice("output", self.output, OUTPUTS))

    def _window(self, options: FitOptions) -> int:
        if self.window_rows is not None:
            return whole("window_rows", self.window_rows, 1)
        return math.ceil(64 * options.n_components / min(options.n_nonzero_coefs, options.n_components))

    def _need_fit(self, method: str) -> None:
        if "components_" not in vars(self):
            raise _sklearn.not_fitted_error()(f"sparse_dictionary: call fit before {method}")

    def _fitted(self, method: str) -> SparseDictionaryFit:
        self._need_fit(method)
        if "_result" not in vars(self):  # the story of many steps is told when it is asked for
            self._result = self._stream.finalize()
        return self._result

    def _take(self, fit: SparseDictionaryFit) -> None:
        self.components_, self.mean_ = fit.decoder, fit.mean
        self.n_components_, self.n_features_in_ = fit.decoder.shape
        self.n_iter_, self.n_nonzero_coefs_ = fit.n_iter, fit.n_nonzero_coefs
        self.explained_variance_, self.fvu_, self.l0_ = fit.explained_variance, fit.fvu, fit.l0
        self.dead_fraction_ = fit.dead / len(fit.decoder)
        self.stop_reason_, self.converged_ = fit.stop_reason, fit.converged
        self._result, self._model = fit, model_of(fit)

    def _take_step(self, record: Record) -> None:
        self._model = self._stream._core.model()
        self.components_, self.mean_ = read_only(self._model.decoder), read_only(self._model.mean)
        self.n_components_, self.n_features_in_ = self.components_.shape
        options = self._stream.options
        self.n_iter_, self.n_nonzero_coefs_ = self._stream.epochs, min(options.n_nonzero_coefs, self.n_components_)
        self.explained_variance_, self.fvu_, self.l0_ = record.ev, 1.0 - record.ev, record.l0
        self.dead_fraction_ = record.dead / self.n_components_
        self.stop_reason_, self.converged_ = "partial_fit", self._stream.converged
        vars(self).pop("_result", None)


def _short(value: Any) -> str:
    return f"array of shape {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.60}"


_PARAMETERS = dict(inspect.signature(SparseDictionary).parameters)
_FIT_PARAMETERS = tuple(name for name in _PARAMETERS if name not in _OF_ESTIMATOR)
