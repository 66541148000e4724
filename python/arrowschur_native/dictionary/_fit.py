"""One-shot fits: `fit_sparse_dictionary` and what it returns."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._results import _Printed, aligned
from ._options import FitOptions
from ._progress import Progress
from ._record import Record
from ._rows import Rows, as_decoder, rows_of
from ._sklearn import convergence_warning

__all__ = [
    "FitInterrupted",
    "SparseDictionaryFit",
    "fit_from_core",
    "fit_sparse_dictionary",
    "read_only",
    "run",
    "warn_unless_converged",
]

Array = NDArray[Any]


@dataclass(frozen=True, repr=False, eq=False)
class SparseDictionaryFit(_Printed):
    """A trained dictionary. Decoder, indices, codes, counts and explained variance belong to one pass.

    Attributes
    ----------
    decoder : ndarray, (K, P) float32
        Atoms: rows of norm 1, or zero (dormant).
    indices : ndarray, (N, s) uint32, or None
        Atoms of each row by descending correlation, or in the order in which a greedy router chose them; empty slots
        repeat the first index and have code 0. None for streams and with `keep_codes=False`.
    codes : ndarray, (N, s) float32, or None
        Least-squares codes of these atoms.
    mean : ndarray, (P,) float32
        Column means; zeros unless `center`.
    explained_variance, fvu, rss, tss : float
        `1 - rss/tss`, `rss/tss`, sum of squared residuals, sum of squares about the column means.
    l0 : float
        Mean number of codes of a row that are not zero.
    ev_path : ndarray, (n_iter + 1,) float64
        Explained variance of every pass.
    n_iter, best_epoch : int
        Refreshes, and the pass that is returned.
    converged : bool
    stop_reason : {'tolerance', 'plateau', 'callback', 'max_iter', 'interrupted'}
    atom_fires : ndarray, (K,) uint64
        Rows in which an atom has a code.
    alive, dead, dormant : int
        Atoms that fired, that did not, and that are zero.
    n_nonzero_coefs : int
        s, at most K.
    epochs : tuple of Record
        `epoch`, `ev`, `rss`, `l0`, `alive`, `dead`, `revived`, `accepted`, `refresh`, `seconds` of every epoch.
    route : Record
        Counters of routing.
    rows : int
        N, of the pass that is returned.
    exponent : int
        e: rows were packed as `x 2^-e`; 0 unless the data are very large or very small.
    seed_seconds : float
        What seeding took; the epochs have the seconds of the rest.
    options : FitOptions
        Without callback.
    """

    decoder: Array
    indices: Array | None
    codes: Array | None
    mean: Array
    explained_variance: float
    fvu: float
    rss: float
    tss: float
    l0: float
    ev_path: Array
    n_iter: int
    best_epoch: int
    converged: bool
    stop_reason: str
    atom_fires: Array
    alive: int
    dead: int
    dormant: int
    n_nonzero_coefs: int
    epochs: tuple[Record, ...]
    route: Record
    rows: int
    exponent: int
    seed_seconds: float
    options: FitOptions = field(repr=False)

    def _rows(self) -> list[tuple[str, Any]]:
        k, p = self.decoder.shape
        rows: list[tuple[str, Any]] = [
            ("decoder", f"{k} atoms of {p} columns, {self.alive} alive, {self.dead} dead ({self.dormant} dormant)"),
            ("explained_variance", f"{self.explained_variance:.6f} in epoch {self.best_epoch}"),
            ("l0", f"{self.l0:.4g} of at most {self.n_nonzero_coefs} atoms a row"),
            ("stop_reason", self.stop_reason if self.converged else f"{self.stop_reason} (not converged)"),
        ]
        if len(self.ev_path):
            start, end = self.ev_path[[0, -1]].tolist()
            rows.insert(2, ("ev_path", f"{start:.6f} .. {end:.6f} in {self.n_iter} epochs"))
        if self.epochs:
            seconds = {"seed": self.seed_seconds}
            for epoch in self.epochs:
                for name, value in epoch["seconds"].items():
                    seconds[name] = seconds.get(name, 0.0) + value
            steps = ", ".join(f"{name} {value:.3g}" for name, value in seconds.items())
            rows.append(("seconds", f"{sum(seconds.values()):.3g} ({steps})"))
            rows.append(("refresh", self.epochs[-1]["refresh"]["method"]))
        return rows

    def __repr__(self) -> str:
        return aligned(type(self).__name__, self._rows())


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C during a fit, after its first pass.

    Attributes
    ----------
    fit : SparseDictionaryFit
        The best state that was reached, `stop_reason` 'interrupted'.
    """

    def __init__(self, fit: SparseDictionaryFit) -> None:
        super().__init__(
            f"interrupted after {fit.n_iter} epochs; explained variance {fit.explained_variance:.6f} is kept"
        )
        self.fit = fit

    def __reduce__(self) -> tuple[Any, ...]:
        return FitInterrupted, (self.fit,)


def fit_sparse_dictionary(x: Any, **options: Any) -> SparseDictionaryFit:
    """Learn `K` unit directions such that every row is a combination of at most `s` of them.

        min  sum_i |x_i - sum_j C_ij d_(I_ij)|^2 + rho_c sum C_ij^2 + rho_d |D|_F^2

    Alternates routing (which atoms), coding (least squares), the exact decoder of these codes, projection to unit rows,
    and revival of atoms that are not used.

    Parameters
    ----------
    x : array_like, (N, P)
        Real and finite. A float32 or float64 array or memory map whose columns are adjacent is used in place;
        everything else is converted one minibatch at a time.
    **options
        `n_components` (required) and the other fields of `FitOptions`.

    Returns
    -------
    SparseDictionaryFit

    Raises
    ------
    InvalidArgument
        `x` or an option is not what it must be.
    ArrowError
        A code or a decoder is not finite.
    DeviceUnavailableError
        `device='required'` without a device.
    FitInterrupted
        Ctrl-C after the first pass: a KeyboardInterrupt with the best state as `fit`.

    Warns
    -----
    ConvergenceWarning
        `max_iter` was reached first (scikit-learn's class where that is installed).

    See Also
    --------
    SparseDictionary : the same as a scikit-learn estimator.
    SparseDictionaryStream : rows that come in shards.

    Notes
    -----
    An epoch costs `2 N K P` float32 flops of routing and `K^3 / 3 + 2 K^2 P` float64 flops of the refresh, and no
    memory of N x K or N x P entries. The bits of the result do not depend on threads, minibatches or score tiles.
    Releases the GIL.

    References
    ----------
    K. Engan, S. O. Aase, J. H. Husoy, Method of optimal directions for frame design, ICASSP 1999.

    Examples
    --------
    >>> import numpy as np, arrowschur_native as asn
    >>> rng = np.random.default_rng(0)
    >>> atoms = rng.normal(size=(16, 8))
    >>> codes = rng.normal(size=(500, 16)) * (rng.random((500, 16)) < 0.1)
    >>> fit = asn.fit_sparse_dictionary(codes @ atoms, n_components=16, n_nonzero_coefs=4, router="omp", max_iter=100)
    >>> bool(fit.explained_variance > 0.95), fit.decoder.shape
    (True, (16, 8))
    """
    checked = FitOptions(**options)
    fit = run(rows_of(x), checked)
    warn_unless_converged(fit)
    if fit.stop_reason == "interrupted":
        raise FitInterrupted(fit)
    return fit


def run(rows: Rows, options: FitOptions) -> SparseDictionaryFit:
    """Fit; an interrupted fit comes back like any other, with the signal consumed."""
    core = options.core()
    dict_init = None
    if options.dict_init is not None:
        dict_init = as_decoder(options.dict_init, (options.n_components, rows.width))
    with Progress(options) as progress:
        return fit_from_core(_core.dictionary_fit(rows.core, core, dict_init, progress), options)


def warn_unless_converged(fit: SparseDictionaryFit) -> None:
    """Warn, in the name of the caller's caller, about a fit that `max_iter` ended."""
    if fit.stop_reason == "max_iter":
        last = fit.ev_path[-2:]
        warnings.warn(
            f"sparse_dictionary: no convergence in {fit.n_iter} epochs; the last changed the explained variance by "
            f"{last[-1] - last[0]:.1e} (tol {fit.options.tol:g}). Raise max_iter, or tol",
            convergence_warning(),
            stacklevel=3,
        )


def read_only(array: Array) -> Array:
    """Return an array that refuses to be written: models have been made from it."""
    array.flags.writeable = False
    return array


def fit_from_core(fields: Mapping[str, Any], options: FitOptions) -> SparseDictionaryFit:
    """Wrap the core's fields."""
    names = {f.name for f in dataclasses.fields(SparseDictionaryFit)}
    values = {name: value for name, value in fields.items() if name in names}
    for name in ("decoder", "mean"):
        values[name] = read_only(values[name])
    if not values["rows"]:  # a stream: L0 is the number of codes by that of the rows
        values["rows"] = round(float(np.sum(values["atom_fires"])) / values["l0"]) if values["l0"] > 0 else 0
    values["epochs"] = tuple(Record(epoch) for epoch in fields["epochs"])
    values["route"] = Record(fields["route"])
    return SparseDictionaryFit(**values, options=dataclasses.replace(options, callback=None))
