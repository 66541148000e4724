"""What keeping factors and multiplexing buy: python bench/loops.py [warm] [outer] [sweep] [--seconds S] [--json FILE]

Each section compares inside one run, in turns, as `python -m arrowschur_native bench` does:

warm   one gradient on a kept factor, against a fresh `newton_step` with the same gradient: on color_arm by the direct
       route with its border taken as dense, and on qwen
outer  a sequence of three gradients at ridges 0 against three fresh steps, and its number of factorizations
sweep  twelve fits at once against one after another, one thread and one BLAS thread per fit in both: the color_arm
       battery (one shared border), and twelve coupled systems
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from suite import Row, show

import arrowschur_native as asn
from arrowschur_native._bench.limits import cpu_name
from arrowschur_native._bench.timing import Contender, race

SYSTEMS: dict[str, Callable[[], asn.ArrowSystem]] = {
    # With its tridiagonal border recognised, low_rank would run.
    "color_arm": lambda: asn.fixtures.color_arm_fixture(with_target=False).system(detect_structure=False),
    "qwen": lambda: asn.fixtures.qwen_fixture(with_target=False).system(),
}


def gradient(system: asn.ArrowSystem, s: int) -> tuple[np.ndarray, np.ndarray]:
    i, j = np.arange(system.total_dim), np.arange(system.k)
    return np.sin(0.001 * (i + s)).reshape(system.g_t.shape), np.cos(0.0007 * (j + 7 * s))


def warm(budget: float) -> Iterable[Row]:
    for name, make in SYSTEMS.items():
        system = make()
        g_t, g_beta = gradient(system, 0)
        aimed = system.with_gradient(g_t, g_beta)
        workspace = asn.ResidentWorkspace.from_system(aimed)
        fit, step = workspace.fit(), asn.newton_step(aimed)
        difference = float(np.linalg.norm(fit.beta + step.delta_beta) / np.linalg.norm(step.delta_beta))
        assert difference < 1e-11, difference
        times = race(
            {
                "newton_step": Contender(lambda aimed=aimed: asn.newton_step(aimed)),
                "step on the kept factor": Contender(lambda w=workspace: w.inner_iteration()),
                "fit on the kept factor": Contender(lambda w=workspace: w.fit()),
            },
            budget,
        )
        for what, t in times.items():
            yield {
                "shape": name,
                "route": step.route,
                "what": what,
                "ms": 1e3 * t.median,
                "faster than newton_step": times["newton_step"].median / t.median,
            }


def outer(budget: float) -> Iterable[Row]:
    for name, make in SYSTEMS.items():
        system = make()
        gradients = [gradient(system, s) for s in range(3)]
        workspace = asn.ResidentWorkspace.from_system(system)
        sequence = workspace.fit_outer_sequence(gradients)

        def steps(system=system, gradients=gradients) -> None:
            for g_t, g_beta in gradients:
                asn.newton_step(system.with_gradient(g_t, g_beta))

        times = race(
            {
                "three steps": Contender(steps),
                "sequence": Contender(
                    lambda w=workspace, g=gradients: w.fit_outer_sequence(g), prepare=workspace.release_factors
                ),
            },
            budget,
        )
        yield {
            "shape": name,
            "factorizations": sequence.factorizations,
            "sequence ms": 1e3 * times["sequence"].median,
            "three steps ms": 1e3 * times["three steps"].median,
            "faster by": times["three steps"].median / times["sequence"].median,
        }


def sweep(budget: float) -> Iterable[Row]:
    variants = asn.fixtures.color_arm_variant_matrix()
    sets = {
        "color_arm battery": lambda: asn.build_sweep_workspaces(variants),
        "coupled, n=300 d=2 k=700": lambda: [
            asn.ResidentWorkspace.from_system(asn.fixtures.coupled_fixture(300, 2, 700, v.seed).system())
            for v in variants
        ],
    }
    for name, build in sets.items():
        workspaces = build()
        route = asn.plan(workspaces[0].to_system()).route

        times = race(
            {
                "multiplexed": Contender(lambda w=workspaces: asn.run_fits_multiplexed(w)),
                "sequential": Contender(lambda w=workspaces: asn.run_fits_sequential(w)),
            },
            budget,
        )
        one = asn.run_fits_multiplexed(workspaces)
        other = asn.run_fits_sequential(workspaces)
        equal = all(
            a.t.tobytes() == b.t.tobytes() and a.beta.tobytes() == b.beta.tobytes()
            for a, b in zip(one, other, strict=True)
        )
        yield {
            "fits": name,
            "route": route,
            "workers": min(asn.get_num_threads(), len(workspaces)),
            "sequential fits/s": len(workspaces) / times["sequential"].median,
            "multiplexed fits/s": len(workspaces) / times["multiplexed"].median,
            "ratio": times["sequential"].median / times["multiplexed"].median,
            # Of the shortest runs: what a neighbour on the machine disturbs least.
            "ratio of best": times["sequential"].best / times["multiplexed"].best,
            "same bits": equal,
        }


SECTIONS: dict[str, Callable[[float], Iterable[Row]]] = {"warm": warm, "outer": outer, "sweep": sweep}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timed turns per comparison")
    parser.add_argument("--json", type=pathlib.Path, help="write everything there")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")

    print(f"{cpu_name()}, {asn.get_num_threads()} threads")
    results: dict[str, Any] = {}
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
