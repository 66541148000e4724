"""Sparse dictionaries: python bench/sparse_dictionary.py [epoch] [encode] [quality] [peers] [real] [--json FILE]

Each section compares inside one run:

epoch    one epoch of `topk` at three shapes, by step, against the bound of its arithmetic at the GEMM rates of this
         machine; the seed likewise; memory on top of the data
encode   `transform` with `topk` and with `omp`
quality  explained variance after some epochs and seconds: `topk`, `refine`, `omp` in segments
peers    one epoch of scikit-learn's MiniBatchDictionaryLearning on the smallest shape, and the same explained variance
         and time of ours
real     held-out rows of activations (--activations FILE.npz): explained variance against L0, beside PCA of the same
         width of code and scikit-learn's learner within a budget of seconds

The figures of a busy machine say little: minima over several runs are printed beside medians, and the load average.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from suite import Row, show

import arrowschur_native as asn
from arrowschur_native._bench.limits import BundledBlas, blas_libraries, cpu_name, gemm_rate

Array = NDArray[Any]

# N, P, K, s, and seconds that an epoch may take where a GEMM runs at 470 (float32) and 210 (float64) GF/s.
SHAPES = {
    "S1": (4096, 64, 256, 4, 0.003),
    "S2": (16384, 128, 1024, 8, 0.040),
    "S3": (20000, 384, 4096, 16, 0.70),
}
# An epoch takes at most this many times its bound.
FACTORS = {"S1": 8.0, "S2": 3.0, "S3": 3.0}
# Explained variance after so many epochs: router, options, epochs, EV, seconds (on an idle machine of the rates above).
QUALITY: dict[str, list[tuple[str, dict[str, Any], int, float, float | None]]] = {
    "S1": [
        ("topk", {}, 10, 0.87, 0.06),
        ("refine", {}, 10, 0.92, None),
        ("omp", {"refreshes_per_epoch": 8}, 8, 0.955, 0.12),
    ],
    "S2": [
        ("topk", {}, 10, 0.85, 0.6),
        ("refine", {}, 10, 0.91, None),
        ("omp", {"refreshes_per_epoch": 8}, 5, 0.92, 0.9),
        ("omp", {"refreshes_per_epoch": 8}, 10, 0.955, 1.6),
    ],
    "S3": [
        ("topk", {}, 5, 0.67, 5.0),
        ("topk", {}, 10, 0.78, 8.5),
        ("omp", {"refreshes_per_epoch": 4}, 1, 0.675, 6.0),
    ],
}


def planted(n: int, p: int, k: int, s: int, noise: float = 0.05, seed: int = 7) -> Array:
    """Rows of s planted atoms each with weights of at least a half, and noise."""
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((k, p))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    x = noise * rng.standard_normal((n, p))
    for _ in range(s):
        weight = (0.5 + np.abs(rng.standard_normal(n))) * rng.choice([-1.0, 1.0], n)
        x += weight[:, None] * atoms[rng.integers(0, k, n)]
    return np.asarray(x, np.float32)


def sgemm_rate(size: int = 2048) -> float:
    """Flops per second of a float32 product: that of the bundled BLAS with threads, or NumPy's."""
    rng = np.random.default_rng(0)
    a, b = rng.random((size, size), np.float32), rng.random((size, size), np.float32)
    c = np.empty((size, size), np.float32)
    library = next((x for x in blas_libraries(asn.get_num_threads()) if isinstance(x, BundledBlas)), None)

    def run() -> None:
        if library is None:
            np.matmul(a, b, out=c)
            return
        m, one, zero = (ctypes.byref(ctypes.c_int(size)), ctypes.c_float(1.0), ctypes.c_float(0.0))
        at = [ctypes.c_void_p(v.ctypes.data) for v in (a, b, c)]
        library._library.scipy_sgemm_(
            b"N", b"N", m, m, m, ctypes.byref(one), at[0], m, at[1], m, ctypes.byref(zero), at[2], m
        )

    times = []
    for _ in range(8):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(times)


def rates() -> tuple[float, float]:
    """Flops per second of GEMM in float32 and float64, all threads."""
    return sgemm_rate(), max(gemm_rate(b) for b in blas_libraries(asn.get_num_threads()))


def bound(n: int, p: int, k: int, s: int, f32: float, f64: float) -> float:
    """Seconds of the arithmetic of one epoch at these rates: route, codes, accumulation, refresh."""
    route = 2.0 * n * k * p
    rest = n * p * (s * s + 3 * s) + 2.0 * n * s * p + n * s * (s + 1) + k**3 / 3 + 2.0 * k * k * p
    return route / f32 + rest / f64


def epoch(repeats: int) -> Iterable[Row]:
    for name, (n, p, k, s, target) in SHAPES.items():
        x = planted(n, p, k, s)
        epochs: list[dict[str, float]] = []
        seeds: list[float] = []
        f32, f64 = rates()  # beside what they bound
        for _ in range(repeats):
            result = asn.fit_sparse_dictionary(
                x, n_components=k, n_nonzero_coefs=s, max_iter=3, tol=0.0, patience=0, keep="last"
            )
            epochs += [e["seconds"] for e in result.epochs]
            seeds.append(result.seed_seconds)
        totals = [sum(e.values()) for e in epochs]
        at_most = bound(n, p, k, s, f32, f64)
        best = min(range(len(totals)), key=totals.__getitem__)
        yield {
            "shape": name,
            "GF/s f32": f32 * 1e-9,
            "GF/s f64": f64 * 1e-9,
            **{f"{step} ms": 1e3 * epochs[best][step] for step in ("route", "codes", "accumulate", "refresh")},
            "epoch ms": 1e3 * min(totals),
            "median ms": 1e3 * statistics.median(totals),
            "target ms": 1e3 * target,
            "bound ms": 1e3 * at_most,
            "epoch/bound": min(totals) / at_most,
            "may be": FACTORS[name],
            "seed ms": 1e3 * min(seeds),
        }


def encode(repeats: int) -> Iterable[Row]:
    for name, (n, p, k, s, _) in SHAPES.items():
        x = planted(n, p, k, s)
        estimator = asn.SparseDictionary(n_components=k, n_nonzero_coefs=s, max_iter=1, output="pair").fit(x)
        row: Row = {"shape": name}
        for router in ("topk", "omp"):
            estimator.set_params(router=router)
            times = []
            for _ in range(repeats if router == "topk" or name != "S3" else 1):
                start = time.perf_counter()
                estimator.transform(x)
                times.append(time.perf_counter() - start)
            row[f"{router} ms"] = 1e3 * min(times)
        yield row


def quality(repeats: int) -> Iterable[Row]:
    for name, cases in QUALITY.items():
        n, p, k, s, _ = SHAPES[name]
        x = planted(n, p, k, s)
        asn.fit_sparse_dictionary(x, n_components=k, n_nonzero_coefs=s, max_iter=1, keep="last")  # threads, memory
        for router, options, epochs, want, seconds in cases:
            start = time.perf_counter()
            result = asn.fit_sparse_dictionary(
                x,
                n_components=k,
                n_nonzero_coefs=s,
                router=router,
                max_iter=epochs,
                tol=0.0,
                patience=0,
                **options,
            )
            yield {
                "shape": name,
                "router": router,
                "refreshes": epochs * options.get("refreshes_per_epoch", 1),
                "EV": result.explained_variance,
                "wanted EV": want,
                "s": time.perf_counter() - start,
                "wanted s": "" if seconds is None else seconds,
            }


def explained(x: Array, fitted: Array) -> float:
    x = x.astype(np.float64)
    return float(1.0 - ((x - fitted) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum())


def scikit_learn(train: Array, test: Array, k: int, s: int) -> tuple[float, float]:
    """Explained variance on `test` and seconds of one epoch of the mini-batch learner, coded by OMP with s atoms."""
    from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode

    learner = MiniBatchDictionaryLearning(
        n_components=k, batch_size=256, max_iter=1, fit_algorithm="lars", alpha=1.0, random_state=0
    )
    start = time.perf_counter()
    learner.fit(train)
    seconds = time.perf_counter() - start
    codes = sparse_encode(test, learner.components_, algorithm="omp", n_nonzero_coefs=s)
    return explained(test, codes @ learner.components_), seconds


def peers(repeats: int) -> Iterable[Row]:
    if importlib.util.find_spec("spams") is None:
        print("SPAMS is not installed: left out")
    if importlib.util.find_spec("sklearn") is None:
        print("scikit-learn is not installed: nothing to compare with")
        return
    n, p, k, s, _ = SHAPES["S1"]
    x = planted(n, p, k, s)
    ev, seconds = scikit_learn(x.astype(np.float64), x.astype(np.float64), k, s)
    yield {"shape": "S1", "learner": "scikit-learn, one epoch, coded by OMP", "EV": ev, "s": seconds}
    for router, options in (("topk", {}), ("omp", {"refreshes_per_epoch": 8})):
        start = time.perf_counter()
        ours = asn.fit_sparse_dictionary(
            x, n_components=k, n_nonzero_coefs=s, router=router, max_iter=10, tol=0.0, **options
        )
        yield {
            "shape": "S1",
            "learner": f"{router}, {ours.n_iter} epochs",
            "EV": ours.explained_variance,
            "s": time.perf_counter() - start,
        }


def real(path: pathlib.Path | None) -> Iterable[Row]:
    if path is None:
        print("no --activations: left out")
        return
    x = np.asarray(np.load(path)["activations"], np.float32)
    train, test = x[:-2000], x[-2000:]
    mean = train.astype(np.float64).mean(axis=0)
    _, _, v = np.linalg.svd(train - mean, full_matrices=False)
    for k, s in ((1536, 16), (6144, 32)):
        pca = mean + (test - mean) @ v[:s].T @ v[:s]
        yield {"learner": f"PCA, rank {s}", "K": s, "L0": float(s), "EV held out": explained(test, pca), "s": 0.0}
        for router, options in (("topk", {}), ("refine", {}), ("omp", {"refreshes_per_epoch": 4})):
            estimator = asn.SparseDictionary(
                n_components=k, n_nonzero_coefs=s, router=router, center=True, max_iter=5, output="pair", **options
            )
            start = time.perf_counter()
            estimator.fit(train)
            seconds = time.perf_counter() - start
            report = estimator.metrics(test)
            yield {
                "learner": router,
                "K": k,
                "L0": report["l0"],
                "EV held out": report["explained_variance"],
                "s": seconds,
            }
    if importlib.util.find_spec("sklearn") is None:
        print("scikit-learn is not installed: left out")
        return
    # A quarter of the atoms: at K = 1536 the peer takes minutes per epoch.
    ev, seconds = scikit_learn(train[:4000].astype(np.float64) - mean, test.astype(np.float64) - mean, 384, 16)
    yield {"learner": "scikit-learn, 4000 rows", "K": 384, "L0": 16.0, "EV held out": ev, "s": seconds}


SECTIONS: dict[str, Callable[[Any], Iterable[Row]]] = {
    "epoch": epoch,
    "encode": encode,
    "quality": quality,
    "peers": peers,
    "real": real,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the minimum and the median are shown")
    parser.add_argument("--activations", type=pathlib.Path, help=".npz with an array `activations` for `real`")
    parser.add_argument("--json", type=pathlib.Path, help="write everything there")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")

    warnings.filterwarnings("ignore", message="sparse_dictionary: no convergence")  # epochs are counted here
    load = os.getloadavg()[0]
    print(f"{cpu_name()}, {asn.get_num_threads()} threads, load average {load:.1f}")
    results: dict[str, Any] = {}
    for name in arguments.sections or SECTIONS:
        print(f"\n{name}")
        argument: Any = arguments.activations if name == "real" else arguments.repeats
        results[name] = list(SECTIONS[name](argument))
        if results[name]:
            show(results[name])
    if arguments.json is not None:
        record = {
            "cpu": cpu_name(),
            "build": asn.build_info(),
            "load": load,
            "command": " ".join(sys.argv),
            "sections": results,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
