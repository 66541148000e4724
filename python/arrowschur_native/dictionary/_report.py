"""What a dictionary explains, and how often its atoms fire: text and pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import UnsupportedConfiguration
from .._results import _Printed, aligned
from ._estimator import SparseDictionary

__all__ = ["Report"]

Array = NDArray[Any]

_BAR = 40  # characters


@dataclass(frozen=True, repr=False, eq=False)
class Report(_Printed):
    """Figures of a dictionary on some rows, its training rows where none are given.

    Attributes
    ----------
    rows : str
        'training' or 'given'.
    atoms, dead : int
        Atoms, and those that no row uses.
    explained_variance, fvu, l0 : float
    stop_reason : str
        Of the fit.
    ev_path : ndarray
        Of the fit.
    firing_frequency : ndarray, (K,)
        Share of the rows in which an atom has a code.
    """

    rows: str
    atoms: int
    dead: int
    explained_variance: float
    fvu: float
    l0: float
    stop_reason: str
    ev_path: Array
    firing_frequency: Array

    @staticmethod
    def of(model: SparseDictionary, x: Any = None) -> Report:
        """Return the figures of a fitted dictionary: one pass over `x`, or none."""
        fit = model._fitted("report")
        if x is None:
            found: Any = {"explained_variance": fit.explained_variance, "fvu": fit.fvu, "l0": fit.l0}
            frequency = fit.atom_fires / max(1, fit.rows)
        else:
            found = model.metrics(x)
            frequency = found["firing_frequency"]
        return Report(
            rows="training" if x is None else "given",
            atoms=len(frequency),
            dead=int(np.count_nonzero(frequency == 0)),
            **{name: float(found[name]) for name in ("explained_variance", "fvu", "l0")},
            stop_reason=fit.stop_reason,
            ev_path=fit.ev_path,
            firing_frequency=frequency,
        )

    def histogram(self) -> list[tuple[str, int]]:
        """Return the numbers of atoms by firing frequency, in steps of 1, 2, 5 of every decade, dead ones first."""
        live = self.firing_frequency[self.firing_frequency > 0]
        if live.size == 0:
            return [("dead", self.dead)]
        lowest = math.floor(math.log10(live.min()))
        # As texts, so that 0.02 is the edge and not 2 * 0.01.
        names = [f"{m}e{d}" for d in range(lowest, 0) for m in (1, 2, 5)] + ["1e0"]
        counts = np.histogram(live, [float(name) for name in names])[0]
        used = np.flatnonzero(counts)
        edges = [f"{float(name):g}" for name in names]
        bins = [(f"{edges[i]} .. {edges[i + 1]}", int(counts[i])) for i in range(used[0], used[-1] + 1)]
        return [("dead", self.dead), *bins]

    def __repr__(self) -> str:
        rows = [
            ("rows", self.rows),
            ("atoms", f"{self.atoms}, {self.dead} dead"),
            ("explained_variance", f"{self.explained_variance:.6f}"),
            ("l0", self.l0),
            ("stop_reason", self.stop_reason),
        ]
        histogram = self.histogram()
        most = max(count for _, count in histogram) or 1
        bars = [(name, f"{count:>8} {'#' * round(_BAR * count / most)}".rstrip()) for name, count in histogram]
        return aligned("dictionary", rows) + "\n" + aligned("atoms by firing frequency", bars)

    def plot(self, path: str) -> None:
        """Draw explained variance by epoch, and the histogram of firing frequencies.

        Raises
        ------
        UnsupportedConfiguration
            matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise UnsupportedConfiguration(
                feature="plot", route="this environment", hint="install matplotlib (extra 'plot')"
            ) from error
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(np.arange(len(self.ev_path)), self.ev_path, marker=".")
        left.xaxis.get_major_locator().set_params(integer=True)
        left.set(xlabel="epoch", ylabel="explained variance", title="Fit")
        live = self.firing_frequency[self.firing_frequency > 0]
        if live.size:
            low, high = np.log10(live.min()), np.log10(live.max())
            edges = np.logspace(low, max(high, low + 1e-3), 41)
            # The extremes belong to the outer bins, whatever logspace rounded them to.
            right.hist(np.clip(live, edges[0], edges[-1]), bins=edges)
        right.set_xscale("log")
        right.set(xlabel="firing frequency", ylabel="atoms", title=f"{self.atoms} atoms, {self.dead} dead")
        figure.savefig(path, dpi=150)
