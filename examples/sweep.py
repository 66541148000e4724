"""Twelve independent fits at once: the bits of the sequential run, and throughput against workers.

    python sweep.py [--plot FILE]

A study fits the same model to many replicas: seeds, folds, candidate hyperparameters. The fits do not depend on each
other, so they share nothing but the cores. `run_fits_multiplexed` gives each fit one thread and runs several at a time;
what a fit returns does not depend on how many, to the last bit, so a result can be reproduced alone on a laptop.

The replicas here are twelve strongly coupled systems (300 rows of size 2, a border of 700 columns, where leaving out
the coupling would change the answer by tens of per cent), with the seeds of the color_arm battery. Each is fitted from
z = 0 with ridges of 1e-2, as a driver would that does not trust its first linearization, so that a fit takes several
steps and more than one factorization.

The plot needs matplotlib: pip install 'arrowschur_native[plot]'.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import arrowschur_native as asn

__all__ = ["demo", "measure", "plot", "workspaces"]

Report = Callable[[str, list[tuple[str, str]]], None]

OPTIONS = asn.InnerOptions(initial_ridge_t=1e-2, initial_ridge_beta=1e-2, shrink_rule="always")
ROUNDS = 3


def workspaces(n: int = 300, d: int = 2, k: int = 700) -> list[asn.ResidentWorkspace]:
    """Return the workspaces of the twelve replicas."""
    seeds = [variant.seed for variant in asn.fixtures.color_arm_variant_matrix()]
    return [asn.ResidentWorkspace.from_system(asn.fixtures.coupled_fixture(n, d, k, seed).system()) for seed in seeds]


def measure(fits: Sequence[asn.ResidentWorkspace], counts: Sequence[int]) -> dict[int, asn.SweepResult]:
    """Return, for each number of workers, the fastest of a few runs, taken in turns: a sweep keeps no factors."""
    best: dict[int, asn.SweepResult] = {}
    for _ in range(ROUNDS):
        for workers in counts:
            sweep = asn.run_fits_multiplexed(fits, OPTIONS, max_concurrent=workers)
            if workers not in best or sweep.throughput.wall_seconds < best[workers].throughput.wall_seconds:
                best[workers] = sweep
    return best


def plot(runs: dict[int, asn.SweepResult], path: str | Path) -> None:
    """Save throughput against the number of workers. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = list(runs)
    rates = [run.throughput.fits_per_second for run in runs.values()]
    proportion = [rates[0] * count / counts[0] for count in counts]
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xlabel="workers", ylabel="fits per second", ylim=(0, 1.1 * max(rates + proportion)), xticks=counts
    )
    axes.plot(counts, proportion, "--", color="0.6", label="in proportion")
    axes.plot(counts, rates, "o-", label="measured")
    axes.legend()
    figure.savefig(path, dpi=150)


def demo(report: Report, path: str | Path | None = None) -> None:
    """Fit the replicas, compare with the sequential run bit by bit, and measure throughput."""
    fits = workspaces()
    shape = fits[0].shape
    most = min(asn.get_num_threads(), len(fits))
    counts = sorted({1, most} | {2**p for p in range(1, 8) if 2**p < most})
    runs = measure(fits, counts)
    sequential = asn.run_fits_sequential(fits, OPTIONS)

    rows = [
        ("shape", f"n = {shape.n}, d = {shape.d}, k = {shape.p}; {len(fits)} fits"),
        ("", f"{'status':<12}{'iterations':>10}{'factorizations':>16}{'objective':>16}{'|gradient|':>12}  path"),
    ]
    for i, fit in enumerate(runs[most]):
        assert isinstance(fit, asn.InnerFit), fit
        rows.append(
            (
                f"fit {i}",
                f"{fit.status:<12}{fit.iterations:>10}{fit.factorizations:>16}{fit.objective:>16.8f}"
                f"{fit.gradient_norm:>12.1e}  {fit.execution_path}",
            )
        )
    differing = [
        i
        for run in runs.values()
        for i, (one, other) in enumerate(zip(run, sequential, strict=True))
        if one.t.tobytes() != other.t.tobytes() or one.beta.tobytes() != other.beta.tobytes()
    ]
    rows.append(("bits", "every run equals the sequential one" if not differing else f"fits {differing} differ"))
    rows.append(("one after another", f"{sequential.throughput.fits_per_second:.1f} fits per second"))
    for workers, run in runs.items():
        rows.append((f"{workers} worker(s)", f"{run.throughput.fits_per_second:.1f} fits per second"))
    if path is not None:
        try:
            plot(runs, path)
        except ImportError as error:
            rows.append(("plot", f"none ({error}): pip install matplotlib"))
        else:
            rows.append(("plot", str(path)))
    report("Sweep: twelve coupled systems", rows)


def show(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a block of results."""
    print(title, *(f"  {name:<20}{value}" for name, value in rows), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fit twelve systems at once.")
    parser.add_argument("--plot", default="sweep.png", metavar="FILE", help="where to save the plot (sweep.png)")
    demo(show, parser.parse_args().plot)
