"""The command line of the benchmark: what to run, the tables, and the files in `bench/results`."""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

from .. import build_info, get_num_threads, set_num_threads
from .limits import cpu_name, last_level_cache
from .run import Record, measure_machine, run_overhead, run_shape, run_solve
from .shapes import SHAPES

__all__ = ["main", "markdown", "tables"]

# Seconds of timed turns per shape; set-up and the choice of the fastest peer come on top.
QUICK_SECONDS = 3.0
FULL_SECONDS = 20.0
EXTRAS = ("solve", "overhead")

_BUILD_FACTS = ("blas", "blas_kernels", "instruction_set", "compiler", "threads")
# Variables that change what is measured: threads, kernels and block sizes of a BLAS.
_SETTINGS = ("OPENBLAS_", "OMP_", "MKL_", "GOTO_", "BLIS_", "ARROWSCHUR_")

# A header and the lines below it, all text.
Table = tuple[list[str], list[list[str]]]


# ---- numbers in the width of a column -------------------------------------------------------------------------------
def _ms(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.2f}x"


def _target(record: Record, name: str) -> str:
    for target in record["targets"]:
        if target["name"] == name:
            return f"{'<=' if target['at_most'] else '>='} {target['target']:g} {'pass' if target['met'] else 'MISS'}"
    return "-"


def _value(record: Record, name: str) -> str:
    return next((_ratio(target["value"]) for target in record["targets"] if target["name"] == name), "-")


def _median(record: Record, name: str) -> float:
    return float(record["seconds"][name]["median"])


# ---- tables ---------------------------------------------------------------------------------------------------------
def tables(results: Record) -> list[tuple[str, Table]]:
    """Return the titled tables of a run."""
    out = []
    if results["shapes"]:
        out += [
            ("newton_step against this machine", _limit_table(results["shapes"])),
            ("newton_step against peers", _peer_table(results["shapes"])),
            ("where the time goes, ms (medians)", _stage_table(results["shapes"])),
        ]
    if results["solves"]:
        out.append(("factor.solve", _solve_table(results["solves"])))
    if results["overhead"]:
        out.append(("newton_step with n = d = k = 1", _overhead_table(results["overhead"])))
    return out


def _limit_table(shapes: list[Record]) -> Table:
    header = ["shape", "n", "d", "k", "ms", "min", "SYRK", "POTRF", "BLAS", "2 passes", "limit", "of limit",
              "time/limit", "target"]  # fmt: skip
    rows = []
    for r in shapes:
        time_ = _median(r, "ours")
        rows.append(
            [
                r["name"],
                *(str(r[size]) for size in "ndk"),
                _ms(time_),
                _ms(r["seconds"]["ours"]["min"]),
                _ms(_median(r, "syrk")),
                _ms(_median(r, "potrf")),
                "/".join(dict.fromkeys(name.split()[0] for name in r["blas"].values())),
                _ms(r["two_passes_seconds"]),
                _ms(r["limit_seconds"]),
                f"{100 * r['limit_seconds'] / time_:.0f} %",
                _ratio(time_ / r["limit_seconds"]),
                _target(r, "limit"),
            ]
        )
    return header, rows


def _peer_table(shapes: list[Record]) -> Table:
    header = ["shape", "ms", "fastest peer", "ms", "its SYRK+POTRF", "peer/ours", "target", "others: ms (ratio)"]
    rows = []
    for r in shapes:
        fastest = r["fastest_peer"]
        own = [_median(r, f"scipy {kind}") for kind in ("syrk", "potrf") if f"scipy {kind}" in r["seconds"]]
        others = [f"{name} {_ms(_median(r, name))} ({_ratio(x)})" for name, x in r["ratios"].items() if name != fastest]
        rows.append(
            [
                r["name"],
                _ms(_median(r, "ours")),
                fastest or "none installed",
                _ms(_median(r, fastest)) if fastest else "-",
                _ms(sum(own)) if own else "-",
                _value(r, "peer"),
                _target(r, "peer"),
                ", ".join(others) or "-",
            ]
        )
    return header, rows


def _stage_table(shapes: list[Record]) -> Table:
    stages = list(dict.fromkeys(stage for r in shapes for stage in r["stages"]))
    rows = [
        [
            r["name"],
            *(_ms(r["stages"].get(stage, 0.0)) for stage in stages),
            _ms(sum(r["stages"].values())),
            f"{r['backward_error']:.1e}",
        ]
        for r in shapes
    ]
    return ["shape", *stages, "sum", "backward error"], rows


def _solve_table(solves: list[Record]) -> Table:
    header = ["shape", "1 rhs ms", "limit", "time/limit", "target", "64 rhs ms", "64/1", "target"]
    rows = [
        [
            r["name"],
            _ms(_median(r, "one")),
            _ms(r["limit_seconds"]),
            _value(r, "limit"),
            _target(r, "limit"),
            _ms(_median(r, "many")),
            _value(r, "many"),
            _target(r, "many"),
        ]
        for r in solves
    ]
    return header, rows


def _overhead_table(record: Record) -> Table:
    ours, peer = (1e6 * _median(record, name) for name in ("ours", "cholesky"))
    return (
        ["newton_step us", "numpy.linalg.cholesky us", "ratio", "target"],
        [[f"{ours:.2f}", f"{peer:.2f}", _value(record, "overhead"), _target(record, "overhead")]],
    )


def _text(table: Table) -> str:
    header, rows = table
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(line, widths, strict=True)] for line in [header, *rows])
    ]
    return "\n".join(line.rstrip() for line in lines)


def _machine_lines(results: Record) -> list[str]:
    machine, versions = results["machine"], results["versions"]
    gemm = ", ".join(
        f"{name} [{machine['blas_kernels'][name]}] {rate:.0f} GF/s" for name, rate in machine["gemm_gflops"].items()
    )
    streams = ", ".join(f"{name} {rate:.1f}" for name, rate in machine["bandwidth_gb_per_s"].items())
    # A load average decays over minutes: a build that has just ended still counts for a while.
    busy = results["load_average"] > 0.5 * results["cpus"]
    settings = " ".join(f"{name}={value}" for name, value in results["environment"].items())
    return [
        f"CPU: {results['cpu']}, {results['cpus']} CPUs, last level cache {results['cache_bytes'] >> 20} MiB; "
        f"{machine['threads']} threads; load average at the start {results['load_average']:.2f}",
        "versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        "environment: " + (settings or "no settings of a BLAS or of OpenMP"),
        "library: " + ", ".join(f"{key} {results['build'].get(key, '?')}" for key in _BUILD_FACTS),
        f"GEMM 2048: {gemm}",
        f"memory, read, GB/s: {streams}",
        *(
            [f"BUSY: a load of {results['load_average']:.1f} before the run; no ratio below can be relied on"]
            if busy
            else []
        ),
    ]


def _missed(results: Record) -> list[str]:
    records = [*results["shapes"], *results["solves"], *([results["overhead"]] if results["overhead"] else [])]
    return [
        f"{r['name']}: {t['name']} {t['value']:.2f}, promised at {'most' if t['at_most'] else 'least'} {t['target']:g}"
        for r in records
        for t in r["targets"]
        if not t["met"]
    ]


def markdown(results: Record) -> str:
    """Return the run as a page: machine, versions, command, tables, missed targets."""
    lines = [f"# {results['date']}, {results['cpu']}", "", f"`{results['command']}`", ""]
    lines += [f"- {line}" for line in _machine_lines(results)]
    for title, (header, rows) in tables(results):
        lines += ["", f"## {title[:1].upper()}{title[1:]}", ""]
        for line in (header, ["---"] * len(header), *rows):
            lines.append("| " + " | ".join(line) + " |")
    missed = _missed(results)
    lines += ["", "## Targets missed", "", *([f"- {line}" for line in missed] or ["None."]), ""]
    return "\n".join(lines)


# ---- a run ----------------------------------------------------------------------------------------------------------
def _versions() -> dict[str, str]:
    out = {"python": platform.python_version()}
    for name in ("arrowschur_native", "numpy", "scipy", "torch", "threadpoolctl"):
        if name == "arrowschur_native":
            out[name] = build_info()["version"]
        elif importlib.util.find_spec(name) is not None:
            out[name] = importlib.metadata.version(name)
    return out


def _collect(arguments: argparse.Namespace, progress: Any) -> Record:
    # Before the limits are measured: they would be part of the load.
    load = os.getloadavg()[0]
    threads = get_num_threads()
    progress("limits of this machine")
    machine = measure_machine(threads)
    budget = arguments.seconds or (FULL_SECONDS if arguments.full else QUICK_SECONDS)
    chosen = set(arguments.shape or [])
    shapes = [shape for shape in SHAPES if not chosen or shape.name in chosen]
    results: Record = {
        "date": datetime.date.today().isoformat(),
        "command": "python -m arrowschur_native bench " + " ".join(arguments.given),
        "cpu": cpu_name(),
        "cpus": os.cpu_count() or 1,
        "cache_bytes": last_level_cache(),
        "load_average": load,
        "versions": _versions(),
        "build": build_info(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_SETTINGS)},
        "machine": machine.to_dict(),
        "shapes": [],
        "solves": [],
        "overhead": None,
    }
    for shape in shapes:
        progress(shape.name)
        results["shapes"].append(run_shape(shape, machine, budget))
    if not chosen or "solve" in chosen:
        for shape in SHAPES:
            if shape.solve:
                progress(f"{shape.name} solve")
                results["solves"].append(run_solve(shape, machine, budget / 2))
    if not chosen or "overhead" in chosen:
        progress("call overhead")
        results["overhead"] = run_overhead(min(budget, 2.0))
    return results


def _save(results: Record, folder: pathlib.Path) -> Iterable[pathlib.Path]:
    folder.mkdir(parents=True, exist_ok=True)
    cpu = re.sub(r"[^a-z0-9]+", "-", results["cpu"].lower()).strip("-")
    stem = folder / f"{results['date']}-{cpu}"
    for suffix, text in ((".json", json.dumps(results, indent=1, allow_nan=False) + "\n"), (".md", markdown(results))):
        path = stem.with_name(stem.name + suffix)
        path.write_text(text, encoding="utf-8")
        yield path


def _results_folder() -> pathlib.Path:
    """Return `bench/results` of the source tree in or around the working directory, else of the working directory."""
    here = pathlib.Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "bench" / "results").is_dir() and (folder / "pyproject.toml").is_file():
            return folder / "bench" / "results"
    return here / "bench" / "results"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m arrowschur_native bench",
        description="Measure this machine's limits, then newton_step on the reference shapes, next to those limits and "
        "to peers in the same run. Figures of different runs do not compare.",
    )
    names = [*(shape.name for shape in SHAPES), *EXTRAS]
    parser.add_argument("--shape", action="append", choices=names, help="only this one (may be repeated)")
    parser.add_argument(
        "--full", action="store_true", help=f"{FULL_SECONDS:g} s per shape instead of {QUICK_SECONDS:g}"
    )
    parser.add_argument("--seconds", type=float, help="seconds of timed turns per shape")
    parser.add_argument("--threads", type=int, help="threads of the library, of BLAS and of the peers")
    parser.add_argument("--json", action="store_true", help="print everything measured as JSON instead of tables")
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-<cpu>.json and .md")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when it ran, whether or not targets were met, since a machine may be busy."""
    arguments = _parser().parse_args(argv)
    arguments.given = list(sys.argv[2:] if argv is None else argv)
    if arguments.threads is not None:
        if arguments.threads < 1:
            _parser().error(f"--threads is {arguments.threads}; it must be at least 1")
        set_num_threads(arguments.threads)
    if arguments.seconds is not None and not arguments.seconds > 0:
        _parser().error(f"--seconds is {arguments.seconds}; it must be positive")
    if importlib.util.find_spec("scipy") is None or importlib.util.find_spec("threadpoolctl") is None:
        print("bench: without SciPy and threadpoolctl some peers are missing: pip install scipy threadpoolctl",
              file=sys.stderr)  # fmt: skip

    start = time.perf_counter()
    quiet = not sys.stderr.isatty()

    def progress(what: str) -> None:
        if not quiet:
            print(f"\r\033[K{time.perf_counter() - start:5.0f} s  {what}", end="", file=sys.stderr, flush=True)

    with _threads_of_numpy_and_scipy(arguments.threads):
        results = _collect(arguments, progress)
    if not quiet:
        print("\r\033[K", end="", file=sys.stderr)

    if arguments.json:
        print(json.dumps(results, indent=1, allow_nan=False))
    else:
        print("\n".join(_machine_lines(results)))
        for title, table in tables(results):
            print(f"\n{title}\n{_text(table)}")
        missed = _missed(results)
        print("\n" + ("\n".join(["missed:", *(f"  {line}" for line in missed)]) if missed else "all targets met"))
        print(f"{time.perf_counter() - start:.0f} s")
    if arguments.save:
        for path in _save(results, _results_folder()):
            print(path, file=sys.stderr)
    return 0


def _threads_of_numpy_and_scipy(threads: int | None) -> Any:
    """Return a context in which the peers' BLAS runs in as many threads as the library, where that was asked for."""
    if threads is None or importlib.util.find_spec("threadpoolctl") is None:
        return nullcontext()
    if importlib.util.find_spec("scipy") is not None:
        importlib.import_module("scipy.linalg")
    return importlib.import_module("threadpoolctl").threadpool_limits(threads, user_api="blas")
