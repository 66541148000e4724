"""Every structure and every route on the problem it is for, against the specialists of that field, in one run.

    python bench/real_problems.py [section ...] [--bal FILE ...] [--ratings FILE] [--json FILE] [--budget SECONDS]

bundle     linear-solver part of a Levenberg-Marquardt step from the Jacobians on, against Ceres (pyceres): --bal
mixed      one evaluation of the REML criterion, against SciPy's sparse LU and CHOLMOD (scikit-sparse): --ratings
kronecker  a manifold autoencoder with 524,288 border columns: one step, and its memory
scale      300,000 rows of 28 border columns each: k = 8,192, and k = 16,000
color_arm  low_rank against direct and against the machine, tridiagonal border, also handed in dense
apply      one product S x of the matrix-free route against the memory bandwidth, in float64 and in float32
precond    iterations of every preconditioner on a badly conditioned block-sparse problem

The two real data sets are not part of the repository (examples/README.md says where they come from).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import arrowschur_native as asn
from arrowschur_native._bench.limits import bandwidth, blas_libraries, cpu_name, reading
from arrowschur_native._bench.timing import Contender, Times, race

Row = dict[str, Any]
ROOT = pathlib.Path(__file__).resolve().parents[1]


def module(path: str) -> Any:
    """Import a file of this repository that belongs to no package."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def missing(name: str) -> str | None:
    """Say why an optional peer cannot take part."""
    return None if importlib.util.find_spec(name) else f"{name} is not installed"


def without_pause(contenders: dict[str, Callable[[], float]], budget: float) -> dict[str, Times]:
    """Let the contenders time themselves in turn for about `budget` seconds, without the pauses of `race`."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    start = time.perf_counter()
    while time.perf_counter() - start < budget:
        for name, contender in contenders.items():
            seconds[name].append(contender())
    return {name: Times(tuple(values[1:])) for name, values in seconds.items()}


# ---- bundle adjustment -----------------------------------------------------------------------------------------------


def damping_scales(system: asn.ArrowSystem) -> tuple[np.ndarray, np.ndarray]:
    """Return diag(J'J) of points and cameras, bounded as Ceres bounds it."""
    return np.clip(np.einsum("njj->nj", system.h_tt), 1e-6, 1e32), np.clip(system.border.diagonal(), 1e-6, 1e32)


def bundle(arguments: argparse.Namespace) -> Iterable[Row]:
    ba = module("examples/bundle_adjustment.py")
    damping, threads = 1e-4, asn.get_num_threads()
    for path in arguments.bal or [ba.DATA]:
        problem = ba.read_bal(path)
        pixel, j_camera, j_point = ba.project(
            problem.cameras[problem.camera], problem.points[problem.point], jacobian=True
        )
        residual = pixel - problem.pixel
        offsets, each = np.arange(0, 9 * len(problem.cameras) + 1, 9), np.arange(len(residual) + 1)
        first = asn.ArrowSystem.from_jacobians(
            j_point,
            asn.BlockSparseCross(each, problem.camera, j_camera.ravel(), offsets),
            residual,
            row_index=problem.point,
            n=len(problem.points),
        )
        jacobians = {"camera": j_camera, "point": j_point}

        # As within Levenberg-Marquardt, and as for Ceres: residuals and Jacobians have just been evaluated, without a
        # pause in which threads and caches cool down. Defined and used up within one turn of the loop.
        def evaluate(problem=problem, jacobians=jacobians):
            _, jacobians["camera"], jacobians["point"] = ba.project(
                problem.cameras[problem.camera], problem.points[problem.point], jacobian=True
            )

        # The block structure stands, as Ceres' does after its first iteration.
        def assemble(residual=residual, jacobians=jacobians, first=first):
            return asn.ArrowSystem.from_jacobians(jacobians["point"], jacobians["camera"], residual, like=first)

        def assemble_anew(problem=problem, residual=residual, jacobians=jacobians, each=each, offsets=offsets):
            cross = asn.BlockSparseCross(each, problem.camera, jacobians["camera"].ravel(), offsets)
            return asn.ArrowSystem.from_jacobians(
                jacobians["point"], cross, residual, row_index=problem.point, n=len(problem.points)
            )

        def step(system, scales, options=None):
            return asn.newton_step(
                system, damping_t=damping * scales[0], damping_beta=damping * scales[1], options=options
            )

        def linear_solve(options=None, evaluate=evaluate, assemble=assemble, step=step):
            """Seconds without those for the diagonal of the damping, which Ceres does not count either."""
            evaluate()
            start = time.perf_counter()
            system = assemble()
            assembled = time.perf_counter()
            scale = damping_scales(system)
            scaled = time.perf_counter()
            step(system, scale, options)
            return time.perf_counter() - scaled + assembled - start

        uncertified = asn.SolveOptions(certificate=False)
        contenders = {
            "ours": linear_solve,
            "ours, no certificate": lambda solve=linear_solve, options=uncertified: solve(options),
            "normal equations": Contender(assemble, evaluate).seconds,
            "normal equations, structure made anew": Contender(assemble_anew, evaluate).seconds,
        }
        times = without_pause(contenders, 10 * arguments.budget)
        ours = times["ours"].median
        for name, t in times.items():
            yield {
                "file": pathlib.Path(path).name,
                "solver": name,
                "ms": 1e3 * t.median,
                "ours is faster by": t.median / ours,
            }
        system = assemble()
        account = step(system, damping_scales(system)).diagnostics
        yield {
            "file": pathlib.Path(path).name,
            "solver": f"ours: {account.plan.route}",
            "backward error": account.backward_error,
            **{f"{stage} ms": 1e3 * seconds for stage, seconds in account.seconds.items()},
        }
        reason = missing("pyceres")
        if reason is not None:
            yield {"file": pathlib.Path(path).name, "solver": f"Ceres: skipped, {reason}"}
            continue
        ceres = module("bench/peers/ceres.py")
        for solver in ceres.SOLVERS:
            time.sleep(0.2)
            solved = ceres.solve(
                problem.camera,
                problem.point,
                residual,
                j_camera,
                j_point,
                solver=solver,
                damping=damping,
                threads=threads,
                iterations=12,
            )
            first = ceres.solve(
                problem.camera,
                problem.point,
                residual,
                j_camera,
                j_point,
                solver=solver,
                damping=damping,
                threads=threads,
            )
            yield {
                "file": pathlib.Path(path).name,
                "solver": f"Ceres {solver}",
                "ms": 1e3 * solved.seconds,
                "ours is faster by": solved.seconds / ours,
                "backward error": backward_error(system, damping, first.delta_points, first.delta_cameras.ravel()),
            }


def backward_error(system: asn.ArrowSystem, damping: float, x_t: np.ndarray, x_beta: np.ndarray) -> float:
    """Return |Hx + g|_inf / (|H|_inf |x|_inf + |g|_inf) with the damped H, from products with H alone."""
    scale_t, scale_beta = (damping * scale for scale in damping_scales(system))
    y_t, y_beta = system.apply(x_t, x_beta)
    r_t, r_beta = y_t + scale_t * x_t + system.g_t, y_beta + scale_beta * x_beta + system.g_beta
    # |H|_inf from below, by its diagonal: the error is not underestimated.
    norm = max(scale_t.max() / damping, scale_beta.max() / damping)
    x = max(np.abs(x_t).max(), np.abs(x_beta).max())
    g = max(np.abs(system.g_t).max(), np.abs(system.g_beta).max())
    return float(max(np.abs(r_t).max(), np.abs(r_beta).max()) / (norm * x + g))


# ---- mixed model -----------------------------------------------------------------------------------------------------


def mixed(arguments: argparse.Namespace) -> Iterable[Row]:
    example = module("examples/mixed_model.py")
    ratings = example.simulate() if arguments.ratings is None else example.load(arguments.ratings)
    theta = np.array([0.28, 0.43, 0.1])
    criteria: dict[str, float] = {}
    contenders: dict[str, Callable[[], float]] = {"ours": lambda: ratings.evaluate(theta).reml}
    if missing("scipy") is None:
        import scipy.sparse as sparse
        from scipy.sparse.linalg import splu

        random, fixed, rhs, finish = general_form(ratings, theta)

        def lu() -> float:
            factor = splu(random, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}, diag_pivot_thresh=0.0)
            log_l = float(np.log(np.abs(factor.U.diagonal())).sum())
            return finish(log_l, factor.solve(np.column_stack([fixed, rhs])))

        contenders["SciPy sparse LU"] = lu
        if missing("sksparse") is None:
            from sksparse.cholmod import analyze

            symbolic = analyze(sparse.csc_matrix(random))  # not timed: the pattern does not depend on theta

            def cholmod() -> float:
                factor = symbolic.cholesky(random)
                return finish(factor.logdet(), factor(np.column_stack([fixed, rhs])))

            contenders["CHOLMOD"] = cholmod
        else:
            yield {"solver": "CHOLMOD: skipped, " + str(missing("sksparse"))}
    else:
        yield {"solver": "SciPy: skipped, " + str(missing("scipy"))}
    for name, call in contenders.items():
        criteria[name] = call()
        if not abs(criteria[name] - criteria["ours"]) < 1e-6 * abs(criteria["ours"]):
            raise ArithmeticError(f"{name} returned {criteria[name]}, ours {criteria['ours']}")
    times = race({name: Contender(call) for name, call in contenders.items()}, arguments.budget)
    for name, t in times.items():
        yield {
            "solver": name,
            "ms": 1e3 * t.median,
            "ours is faster by": t.median / times["ours"].median,
            "REML criterion": criteria[name],
        }
    account = ratings.evaluate(theta).step.diagnostics
    yield {
        "solver": f"ours: {account.plan.route}",
        "n": ratings.n,
        "k": ratings.k,
        "backward error": account.backward_error,
    }


def general_form(ratings: Any, theta: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, Callable[..., float]]:
    """Return Z'Z-part, fixed column, right-hand side, and the function that makes the criterion of their solves."""
    import scipy.sparse as sparse

    system = ratings.system(theta)
    n, k = ratings.n, ratings.k
    scale = np.array([*theta, 1.0])[ratings.kind]
    cross = sparse.csr_matrix(
        (theta[0] * ratings.cross * scale[ratings.column], ratings.column, ratings.indptr), (n, k)
    )
    lower = sparse.coo_matrix(
        (ratings.pair * scale[ratings.pair_row] * scale[ratings.pair_col], (ratings.pair_row, ratings.pair_col)), (k, k)
    )
    border = lower + lower.T + sparse.diags(ratings.diagonal * scale**2 + (ratings.kind < 3))
    rows = sparse.diags(theta[0] ** 2 * ratings.student_count + 1.0)
    whole = sparse.bmat([[rows, cross], [cross.T, border]], format="csc")
    random, fixed, corner = whole[:-1, :-1], whole[:-1, -1].toarray().ravel(), float(whole[-1, -1])
    g = np.concatenate([system.g_t.ravel(), system.g_beta])

    def finish(log_l: float, solved: np.ndarray) -> float:
        r2x = corner - fixed @ solved[:, 0]
        beta = (-g[-1] + fixed @ solved[:, 1]) / r2x
        x = -solved[:, 1] - solved[:, 0] * beta
        freedom = ratings.observations - 1
        r2 = ratings.yy + g[:-1] @ x + g[-1] * beta
        return log_l + float(np.log(r2x)) + freedom * (1 + float(np.log(2 * np.pi * r2 / freedom)))

    return sparse.csc_matrix(random), fixed, g[:-1], finish


# ---- Kronecker -------------------------------------------------------------------------------------------------------


def manifold_autoencoder(
    n: int, d: int, p: int, basis: int, groups: int, active: int, seed: int = 0
) -> asn.ArrowSystem:
    """Return tokens with d latent coordinates; each activates groups of basis columns of a decoder of p outputs."""
    rng = np.random.default_rng(seed)
    k = groups * basis * p
    j = rng.normal(size=(n * d, p)) / np.sqrt(p)
    chosen = np.stack([rng.choice(groups, active, replace=False) for _ in range(n)])
    base = ((np.sort(chosen, axis=1)[:, :, None] * basis + np.arange(basis)) * p).ravel()
    phi = rng.normal(size=base.size) / np.sqrt(active * basis)
    cross = asn.KroneckerCross(j, base, phi, np.arange(n + 1) * active * basis, p, k=k)
    blocks = j.reshape(n, d, p)
    h_tt = blocks @ blocks.transpose(0, 2, 1) + 0.5 * np.eye(d)
    # sum_i phi_i phi_i' (x) I_p over the tokens of a group, and a prior
    left = np.zeros((groups, basis, basis))
    weight = phi.reshape(n, active, basis)
    np.add.at(left, np.sort(chosen, axis=1), weight[:, :, :, None] * weight[:, :, None, :])
    factors = [block + 0.5 * np.eye(basis) for block in left]
    return asn.ArrowSystem(h_tt, cross, asn.KroneckerBorder(factors, p), rng.normal(size=(n, d)), rng.normal(size=k))


def kronecker(arguments: argparse.Namespace) -> Iterable[Row]:
    n, d, p = 2000, 2, 2048
    system = manifold_autoencoder(n, d, p, basis=8, groups=32, active=32)
    before = peak_rss()
    start = time.perf_counter()
    step = asn.newton_step(system)
    seconds = time.perf_counter() - start
    account = step.diagnostics
    yield {
        "n": n,
        "d": d,
        "p": p,
        "k": system.k,
        "route": step.route,
        "seconds": seconds,
        "iterations": None if account.pcg is None else account.pcg.iterations,
        "preconditioner": None if account.pcg is None else account.pcg.preconditioner,
        "backward error": account.backward_error,
        "predicted MB": account.plan.peak_bytes / 1e6,
        "peak MB": account.peak_bytes / 1e6,
        "n d p MB": 8e-6 * n * d * p,
        "growth of the process MB": (peak_rss() - before) / 1e6,
    }


def peak_rss() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---- scale -----------------------------------------------------------------------------------------------------------


def scattered(n: int, k: int, active: int, seed: int = 0) -> asn.ArrowSystem:
    """Return n rows of one unknown, each coupled to `active` of k border columns; diagonally dominant, so PD."""
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, k // active, size=(n, active)) + np.arange(active) * (k // active)
    values = rng.uniform(-1, 1, size=(n, active))
    h_tt = (np.abs(values).sum(1) + 0.5)[:, None, None]
    h_bb = np.bincount(columns.ravel(), np.abs(values).ravel(), minlength=k) + 0.5
    cross = asn.BlockSparseCross(np.arange(n + 1) * active, columns.ravel(), values.ravel(), np.arange(k + 1))
    return asn.ArrowSystem(h_tt, cross, h_bb, rng.normal(size=(n, 1)), rng.normal(size=k))


def scale(arguments: argparse.Namespace) -> Iterable[Row]:
    n, active = 300_000, 28
    direct = asn.SolveOptions(mode="direct")
    for k in (8192, 16000):
        system = scattered(n, k, active)
        if k == 16000:
            start = time.perf_counter()
            step = asn.newton_step(system, options=asn.SolveOptions(mode="inexact_pcg"))
            pcg = step.diagnostics.pcg
            yield {
                "k": k,
                "what": "PCG step",
                "seconds": time.perf_counter() - start,
                "iterations": pcg.iterations,
                "relative residual": pcg.final_relative_residual,
                "peak GB": step.diagnostics.peak_bytes / 1e9,
            }
        before, start = peak_rss(), time.perf_counter()
        factor = asn.factorize(system, options=direct)
        factored = time.perf_counter() - start
        log_det = factor.log_det()
        blocks = factor.latent_inverse_blocks()
        total = time.perf_counter() - start
        yield {
            "k": k,
            "what": "factor + log-det + all row inverse blocks",
            "seconds": total,
            "factor seconds": factored,
            "log_det": log_det,
            "mean variance": float(np.mean(blocks)),
            "predicted GB": factor.diagnostics.plan.peak_bytes / 1e9,
            "growth of the process GB": (peak_rss() - before) / 1e9,
            "process GB": peak_rss() / 1e9,
        }
        del factor, blocks


# ---- low rank --------------------------------------------------------------------------------------------------------


def color_arm(arguments: argparse.Namespace) -> Iterable[Row]:
    n, d, k = 180, 2, 5120
    fixture = asn.fixtures.coupled_fixture(n, d, k, 4, 0.9, "dense")
    bands = np.stack([np.full(k, 4.0), np.full(k, -1.0)])
    dense = asn.BandedBorder(bands).to_dense()
    parts = (fixture.h_tt, 0.05 * fixture.h_tb)
    gradient = (fixture.g_t, fixture.g_beta)
    banded = asn.ArrowSystem(*parts, asn.BandedBorder(bands), *gradient)
    handed_dense = asn.ArrowSystem(*parts, dense, *gradient)
    as_given = asn.ArrowSystem(*parts, dense, *gradient, detect_structure=False)
    [library, *_] = blas_libraries(asn.get_num_threads())
    w = np.ascontiguousarray(fixture.h_tb.reshape(n * d, k).T)  # [k, T]
    c = np.empty((n * d, n * d))
    stream = max(bandwidth(asn.get_num_threads()).values())
    direct = asn.SolveOptions(mode="direct")
    times = race(
        {
            "auto, banded border": Contender(lambda: asn.newton_step(banded)),
            "auto, the same handed in dense": Contender(lambda: asn.newton_step(handed_dense)),
            "direct": Contender(lambda: asn.newton_step(as_given, options=direct)),
            "T x T SYRK over k": Contender(lambda: library.syrk(w, c)),
        },
        arguments.budget,
    )
    limit = times["T x T SYRK over k"].median + 4 * w.nbytes / stream
    ours = times["auto, banded border"].median
    for name, t in times.items():
        yield {"what": name, "ms": 1e3 * t.median, "low_rank is faster by": t.median / ours}
    for name, system in (("banded", banded), ("handed in dense", handed_dense), ("no detection", as_given)):
        step = asn.newton_step(system)
        yield {
            "what": f"plan, {name}",
            "route": step.route,
            "structure": "; ".join(step.diagnostics.structure),
            "backward error": step.diagnostics.backward_error,
        }
    start = time.perf_counter()
    for _ in range(20):
        asn.ArrowSystem(*parts, dense, *gradient, detect_structure=False)
    middle = time.perf_counter()
    for _ in range(20):
        asn.ArrowSystem(*parts, dense, *gradient)
    detection = (time.perf_counter() - middle - (middle - start)) / 20
    yield {"what": "time / (SYRK + four passes over W)", "ratio": ours / limit, "target": 2.0}
    yield {"what": "detection / direct step", "ratio": detection / times["direct"].median, "target": 0.02}


# ---- one product -----------------------------------------------------------------------------------------------------


def apply(arguments: argparse.Namespace) -> Iterable[Row]:
    for name, (n, d, k) in {"llm": (2000, 8, 2048), "thin256": (40456, 1, 256)}.items():
        fixture = asn.fixtures.coupled_fixture(n, d, k, 4, 0.9, "dense")
        system = asn.ArrowSystem(fixture.h_tt, fixture.h_tb, np.full(k, 1e3), fixture.g_t, fixture.g_beta)
        factors = {
            storage: asn.factorize(
                system, options=asn.SolveOptions(mode="inexact_pcg", pcg=asn.PcgOptions(storage=storage))
            )
            for storage in ("float64", "float32")
        }
        x = np.random.default_rng(0).normal(size=k)
        products = {s: Contender(lambda f=f, x=x: f.schur_apply(x)) for s, f in factors.items()}
        with reading(asn.get_num_threads()) as (size, methods):  # in turns: the bandwidth of a shared host moves
            times = race({**methods, **products}, arguments.budget, rounds=6)
        stream = max(size / times[method].median for method in methods)
        for storage in products:
            t = times[storage].median
            yield {
                "shape": name,
                "storage": storage,
                "ms": 1e3 * t,
                "GB/s of reading": 1e-9 * stream,
                "of the bandwidth": (8 if storage == "float64" else 4) * n * d * k / t / stream,
                "faster than float64": times["float64"].median / t,
            }


# ---- preconditioners -------------------------------------------------------------------------------------------------


def precond(arguments: argparse.Namespace) -> Iterable[Row]:
    problem = module("bench/problems/ill_conditioned.py").ill_conditioned()
    system = asn.ArrowSystem(
        problem.h_tt,
        asn.BlockSparseCross(problem.indptr, problem.block_index, problem.values.ravel(), problem.block_offsets),
        asn.BlockDiagonalBorder(list(problem.h_bb)),
        problem.g_t.reshape(-1, 3),
        problem.g_beta,
    )
    for name in (
        "diagonal",
        "block",
        "cluster",
        "schwarz",
        "incomplete_cholesky",
        "power_series",
        "nystrom",
        "deflated",
        "ladder",
    ):
        options = asn.SolveOptions(
            mode="inexact_pcg",
            preconditioner=name,
            accept_truncated=True,
            pcg=asn.PcgOptions(max_iterations=20_000, relative_tolerance=1e-10),
        )
        start = time.perf_counter()
        try:
            account = asn.newton_step(system, options=options).diagnostics.pcg
        except asn.ArrowError as error:
            yield {"preconditioner": name, "iterations": f"{type(error).__name__}: {error}"}
            continue
        yield {
            "preconditioner": name,
            "ran": account.preconditioner,
            "iterations": account.iterations,
            "stopped": account.stopping_reason,
            "relative residual": account.final_relative_residual,
            "ms": 1e3 * (time.perf_counter() - start),
        }


SECTIONS = {f.__name__: f for f in (bundle, mixed, kronecker, scale, color_arm, apply, precond)}


def text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--bal", nargs="*", default=[], help="BAL files")
    parser.add_argument("--ratings", help="InstEval as .npz")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds per race")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {', '.join(sorted(unknown))}")
    records: dict[str, Any] = {
        "machine": {"cpu": cpu_name(), "threads": asn.get_num_threads(), "build": asn.build_info()},
        "command": " ".join(["python", "bench/real_problems.py", *arguments.sections]),
        "date": time.strftime("%Y-%m-%d"),
    }
    for name in arguments.sections or SECTIONS:
        print(f"\n{name}")
        records[name] = []
        for row in SECTIONS[name](arguments):
            print("  " + "   ".join(f"{key} {text(value)}" for key, value in row.items()), flush=True)
            records[name].append(row)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(records, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
