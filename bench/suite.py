"""Measurements beyond the reference shapes: python bench/suite.py [threads] [precision] [sizes] [factor] [--json FILE]

Each section compares inside one run, in turns, as `python -m arrowschur_native bench` does:

threads    `newton_step` with 1, 2, 4, ... threads: speed-up over one
precision  `precision='float32'` against the default, on the same data
sizes      `newton_step` over row sizes and border widths, against one SYRK and one POTRF of the same sizes: where the
           thin-border pass takes over from the stacked product, and what a row size costs
factor     the primitives of a factor, against the step that made it
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import arrowschur_native as asn
from arrowschur_native._bench.limits import blas_libraries, cpu_name
from arrowschur_native._bench.timing import Contender, race

# (n, d, k): a thin, a middle and a wide border with similar work per row.
SHAPES = {"thin": (24576, 1, 64), "middle": (8000, 2, 512), "wide": (2000, 2, 2048)}
ROW_SIZES = (1, 2, 3, 4, 8, 16, 24)
BORDERS = (16, 64, 144, 256, 384, 512, 768, 1024)

Row = dict[str, Any]


def system_of(n: int, d: int, k: int) -> tuple[Any, asn.ArrowSystem]:
    fixture = asn.fixtures.coupled_fixture(n, d, k, 4, 0.9, "dense")
    return fixture, fixture.system()


def threads(budget: float) -> Iterable[Row]:
    most = asn.get_num_threads()
    counts = sorted({1, most} | {2**p for p in range(1, 10) if 2**p < most})
    for name, shape in SHAPES.items():
        _, system = system_of(*shape)
        options = {count: asn.SolveOptions(num_threads=count) for count in counts}
        times = race(
            {
                str(count): Contender(lambda s=system, o=o: asn.newton_step(s, options=o))
                for count, o in options.items()
            },
            budget,
        )
        for count, t in times.items():
            yield {"shape": name, "threads": count, "ms": 1e3 * t.median, "speed-up": times["1"].median / t.median}


def precision(budget: float) -> Iterable[Row]:
    for name, shape in SHAPES.items():
        _, system = system_of(*shape)
        kinds = {kind: asn.SolveOptions(precision=kind) for kind in ("float64", "float32")}
        times = race(
            {kind: Contender(lambda s=system, o=o: asn.newton_step(s, options=o)) for kind, o in kinds.items()}, budget
        )
        for kind, t in times.items():
            account = asn.newton_step(system, options=kinds[kind]).diagnostics
            yield {
                "shape": name,
                "precision": kind,
                "ms": 1e3 * t.median,
                "speed-up": times["float64"].median / t.median,
                "backward error": account.backward_error,
                "refinements": account.refinement_steps,
            }


def sizes(budget: float) -> Iterable[Row]:
    [library, *_] = blas_libraries(asn.get_num_threads())
    grid = [(16000 // d, d, 256) for d in ROW_SIZES] + [(16000, 1, k) for k in BORDERS]
    for n, d, k in grid:
        fixture, system = system_of(n, d, k)
        w, s = fixture.h_tb.reshape(n * d, k), np.empty((k, k))
        times = race(
            {
                "ours": Contender(lambda system=system: asn.newton_step(system)),
                "syrk": Contender(lambda w=w, s=s: library.syrk(w, s)),
                "potrf": Contender(lambda s=s: library.potrf(s), prepare=lambda s=s, m=fixture.h_bb: np.copyto(s, m)),
            },
            budget / 4,
        )
        limit = times["syrk"].median + times["potrf"].median
        yield {
            "n": n,
            "d": d,
            "k": k,
            "thin pass": asn.plan(system).thin_border,
            "ms": 1e3 * times["ours"].median,
            "SYRK+POTRF ms": 1e3 * limit,
            "ratio": times["ours"].median / limit,
        }


def factor(budget: float) -> Iterable[Row]:
    n, d, k = SHAPES["wide"]
    _, system = system_of(n, d, k)
    made = asn.factorize(system)
    rng = np.random.default_rng(0)
    w_t, w_beta = rng.random(n * d), rng.random(k)
    many_t, many_beta = rng.random((n * d, 64)), rng.random((k, 64))
    x_t, x_beta = made.solve(w_t, w_beta)
    work: dict[str, Callable[[], object]] = {
        "newton_step": lambda: asn.newton_step(system),
        "factorize": lambda: asn.factorize(system),
        "update_ridges, border only": lambda: made.update_ridges(made.ridge_t, 1e-3),
        "solve": lambda: made.solve(w_t, w_beta),
        "solve, 64 right-hand sides": lambda: made.solve(many_t, many_beta),
        "log_det": made.log_det,
        "latent_inverse_diagonal": made.latent_inverse_diagonal,
        "latent_inverse_blocks": made.latent_inverse_blocks,
        "border_inverse_diagonal": made.border_inverse_diagonal,
        "sample, 8 draws": lambda: made.sample(8, 1),
        "vjp": lambda: made.vjp(x_t, x_beta, w_t, w_beta),
    }
    times = race({name: Contender(run) for name, run in work.items()}, budget)
    for name, t in times.items():
        yield {"primitive": name, "ms": 1e3 * t.median, "of newton_step": t.median / times["newton_step"].median}


SECTIONS: dict[str, Callable[[float], Iterable[Row]]] = {
    "threads": threads,
    "precision": precision,
    "sizes": sizes,
    "factor": factor,
}


def show(rows: list[Row]) -> None:
    lines = [list(rows[0]), *([f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timed turns per comparison")
    parser.add_argument("--json", type=pathlib.Path, help="write everything there")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")

    print(f"{cpu_name()}, {asn.get_num_threads()} threads")
    results = {}
    for name in arguments.sections or SECTIONS:
        print(f"\n{name}")
        results[name] = list(SECTIONS[name](arguments.seconds))
        show(results[name])
    if arguments.json is not None:
        record = {"cpu": cpu_name(), "build": asn.build_info(), "command": " ".join(sys.argv), "sections": results}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
