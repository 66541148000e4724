"""A sparse dictionary of the hidden states of a language model.

    python sparse_dictionary.py [--plot dictionary.png] [--export FOLDER]

Data: 1,500 activations x_i of width P = 384, one a token, from block 3 of the sentence encoder all-MiniLM-L6-v2. Wanted
are K = 128 directions d_k such that every x_i - mean is a combination of at most s = 8 of them,

    x_i ~ mean + sum_j c_ij d_(k_ij),    |d_k| = 1.

A code is s pairs (which direction, how much). Principal components of the same width spend s numbers a row too, but on
the same s directions for every row. 300 rows are kept out of training, and all figures on them are compared:

- EV, the explained variance 1 - sum |x - x^|^2 / sum |x - mean x|^2, at equal L0 (numbers a row that are not zero);
- the routers of this library: the s largest correlations (topk), and orthogonal matching pursuit (omp);
- principal components, by numpy.linalg.svd;
- MiniBatchDictionaryLearning of scikit-learn, ten passes, with its OMP encoder, where scikit-learn is installed.

The dictionary is then exported as a TopK sparse autoencoder, read back, and asked for the same atoms.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import arrowschur_native as asn

__all__ = ["demo", "load"]

Report = Callable[[str, list[tuple[str, str]]], None]

DATA = Path(__file__).resolve().parent / "data" / "activations_layer3.npz"
HELD_OUT = 300  # rows
ATOMS, WIDTH = 128, 8  # K, s


@dataclass(frozen=True)
class Outcome:
    """What one method explains, of the rows it saw and of those it did not."""

    name: str
    seconds: float
    train: float
    held_out: float

    def text(self) -> str:
        """Return one line."""
        return f"EV {self.held_out:.4f} held out, {self.train:.4f} in training, {self.seconds:.2f} s"


def load(path: str | Path = DATA) -> tuple[np.ndarray, np.ndarray]:
    """Return the activations to train on and those to judge by, float16 as they are stored."""
    with np.load(path, allow_pickle=False) as file:
        x = file["activations"]
    return x[:-HELD_OUT], x[-HELD_OUT:]


def explained(x: np.ndarray, approximation: np.ndarray) -> float:
    """Return the explained variance of an approximation."""
    x = x.astype(np.float64)
    return 1 - float(np.sum((x - approximation) ** 2) / np.sum((x - x.mean(axis=0)) ** 2))


def train_dictionary(train: np.ndarray, router: str, segments: int) -> tuple[asn.SparseDictionary, float]:
    """Fit a dictionary; return it and the seconds it took."""
    model = asn.SparseDictionary(
        n_components=ATOMS,
        n_nonzero_coefs=WIDTH,
        router=router,
        refreshes_per_epoch=segments,
        center=True,
        output="pair",
        max_iter=30,
        tol=1e-4,
    )
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", asn.dictionary.ConvergenceWarning)  # the stop reason is reported
        model.fit(train)
    return model, time.perf_counter() - begin


def principal_components(train: np.ndarray, width: int) -> Callable[[np.ndarray], float]:
    """Return the explained variance of the first principal components, as a function of rows."""
    mean = train.astype(np.float64).mean(axis=0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:width]
    return lambda x: explained(x, (x - mean) @ directions.T @ directions + mean)


def scikit_learn(train: np.ndarray, held_out: np.ndarray) -> Outcome:
    """Train scikit-learn's online dictionary; ImportError without scikit-learn."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    mean = train.astype(np.float64).mean(axis=0)
    peer = MiniBatchDictionaryLearning(
        n_components=ATOMS,
        batch_size=256,
        max_iter=10,
        fit_algorithm="cd",
        transform_algorithm="omp",
        transform_n_nonzero_coefs=WIDTH,
        random_state=0,
    )
    begin = time.perf_counter()
    peer.fit(train - mean)
    seconds = time.perf_counter() - begin

    def score(x: np.ndarray) -> float:
        return explained(x, peer.transform(x - mean) @ peer.components_ + mean)

    return Outcome("scikit-learn", seconds, score(train), score(held_out))


def same_atoms(model: asn.SparseDictionary, folder: Path, x: np.ndarray) -> tuple[int, asn.dictionary.TopkAutoencoder]:
    """Write an autoencoder, read it back, and count the rows for which it keeps the atoms of the topk router."""
    model.export_sae_dir(folder)
    sae = asn.dictionary.TopkAutoencoder.load(folder)
    activations = np.maximum((x.astype(np.float64) - sae.b_dec) @ sae.W_enc + sae.b_enc, 0)
    kept = np.argsort(-activations, axis=1, kind="stable")[:, : sae.k] % ATOMS
    indices, _ = model.transform(x, router="topk")
    return int(np.sum(np.all(np.sort(kept, axis=1) == np.sort(indices, axis=1), axis=1))), sae


def plot(models: dict[str, asn.SparseDictionary], held_out: np.ndarray, train: np.ndarray, path: str | Path) -> None:
    """Draw the fits, explained variance against L0, and how often atoms fire."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    widths = [1, 2, 4, 8, 16, 32]
    for router, model in models.items():
        left.plot(model.ev_path_, marker=".", label=router)
        scores = [
            explained(held_out, model.inverse_transform(model.transform(held_out, n_nonzero_coefs=s))) for s in widths
        ]
        middle.plot(widths, scores, marker="o", label=f"dictionary, {router}")
        frequency = model.result_.atom_fires / len(train)
        right.hist(np.log10(frequency[frequency > 0]), bins=25, alpha=0.6, label=f"{router}, {model.result_.dead} dead")
    components = [principal_components(train, s)(held_out) for s in widths]
    middle.plot(widths, components, "--", marker="o", color="0.5", label="principal components")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="epoch", ylabel="explained variance", title="Fit")
    middle.set(xlabel="numbers a row", ylabel="explained variance", title="Held out", xscale="log")
    middle.set_xticks(widths, widths)
    middle.minorticks_off()
    right.set(xlabel="log10 of the firing frequency", ylabel="atoms", title=f"{ATOMS} atoms")
    for axes in (left, middle, right):
        axes.legend()
    figure.savefig(path, dpi=150)


def demo(report: Report, picture: str | Path | None = None, folder: str | Path | None = None) -> None:
    """Train, compare on held-out rows, export and read back."""
    train, held_out = load()
    topk, topk_seconds = train_dictionary(train, "topk", 1)
    omp, omp_seconds = train_dictionary(train, "omp", 4)
    begin = time.perf_counter()
    components = principal_components(train, WIDTH)
    pca_seconds = time.perf_counter() - begin
    outcomes = [
        Outcome("dictionary, topk", topk_seconds, topk.score(train), topk.score(held_out)),
        Outcome("dictionary, omp", omp_seconds, omp.score(train), omp.score(held_out)),
        Outcome("principal components", pca_seconds, components(train), components(held_out)),
    ]
    rows = [
        ("shape", f"N = {len(train)}, P = {train.shape[1]}, K = {ATOMS}, s = {WIDTH}; {len(held_out)} rows held out"),
        ("stop", f"topk: {topk.stop_reason_} after {topk.n_iter_} epochs; omp: {omp.stop_reason_} after {omp.n_iter_}"),
        ("L0, dead atoms", f"topk: {topk.l0_:.2f}, {topk.result_.dead}; omp: {omp.l0_:.2f}, {omp.result_.dead}"),
    ]
    try:
        outcomes.append(scikit_learn(train, held_out))
    except ImportError as error:
        rows.append(("scikit-learn", f"none ({error}): pip install scikit-learn"))
    rows += [(outcome.name, outcome.text()) for outcome in outcomes]

    with tempfile.TemporaryDirectory() as scratch:
        equal, sae = same_atoms(topk, Path(folder or scratch), held_out)
        rows.append(
            ("autoencoder", f"W_dec {sae.W_dec.shape} read back; the same atoms in {equal} of {len(held_out)} rows")
        )
    if folder is not None:
        rows.append(("exported to", str(folder)))
    if picture is not None:
        try:
            plot({"topk": topk, "omp": omp}, held_out, train, picture)
        except ImportError as error:
            rows.append(("plot", f"none ({error}): pip install matplotlib"))
        else:
            rows.append(("plot", str(picture)))
    report("Sparse dictionary of transformer activations", rows)


def show(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a block of results."""
    print(title, *(f"  {name:<22}{value}" for name, value in rows), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a sparse dictionary on transformer activations.")
    parser.add_argument("--plot", default="dictionary.png", metavar="FILE", help="where to save it (dictionary.png)")
    parser.add_argument("--export", metavar="FOLDER", help="where to keep the exported autoencoder")
    parsed = parser.parse_args()
    demo(show, parsed.plot, parsed.export)
