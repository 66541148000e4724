"""The command line: `info`, `demo`, `solve`, `plan`, `sweep`, `fit-dictionary`, `encode`, `report`, `bench`.

Exit status: 0 on success, 1 on a numerical failure (its data are printed), 2 on bad usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from . import fixtures
from ._errors import ArrowError, InvalidArgument, UnsupportedConfiguration
from ._inner_loop import InnerFit
from ._loop_shapes import ResidentShape, SweepVariant
from ._newton import newton_step, newton_step_escalated
from ._options import SolveOptions
from ._plan import plan
from ._results import NewtonStep, aligned
from ._sweep import SweepResult, build_sweep_workspaces, compare_runs, run_fits_sequential, run_variant_sweep
from ._system import ArrowSystem
from ._threads import build_info, device_info, get_num_threads
from .dictionary._cli import add_commands as add_dictionary_commands

__all__ = ["main"]

_SUCCESS, _FAILURE, _USAGE, _INTERRUPTED = 0, 1, 2, 130

_DEMOS = ("sleepstudy", "bundle_adjustment", "linear_autoencoder")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default `sys.argv[1:]`.

    Returns
    -------
    int
        0 on success, 1 on a numerical failure, 2 on bad usage.

    Examples
    --------
    >>> from arrowschur_native._cli import main
    >>> main(["plan", "--n", "10", "--d", "2", "--k", "3", "--json"])    # doctest: +ELLIPSIS
    {...
    0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The benchmarks have options of their own.
    if arguments[:1] == ["bench"]:
        return _bench(arguments[1:])
    parser = _parser()
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit as end:  # argparse has printed help or a complaint
        return end.code if isinstance(end.code, int) else _USAGE
    try:
        run: Callable[[argparse.Namespace], int] = parsed.run
        return run(parsed)
    except ArrowError as error:
        return _report(error, bool(parsed.json))
    except OSError as error:
        print(f"arrowschur: {error}", file=sys.stderr)
        return _USAGE
    except KeyboardInterrupt:
        print("arrowschur: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="arrowschur", description="Solve arrow systems; train sparse dictionaries.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("solve options")
    group.add_argument("--mode", help="auto, direct or sqrt_ba")
    group.add_argument("--device", help="auto, off or required")
    group.add_argument("--precision", help="float64 or float32")
    group.add_argument("--guards", help="relative or absolute")
    group.add_argument("--row-lift", help="indefinite, guard or never")
    group.add_argument("--certificate-tolerance", type=float, metavar="TOL", help="fail when the step misses it")
    group.add_argument("--memory-limit", type=int, metavar="BYTES", help="workspace and results")
    group.add_argument("--num-threads", type=int, metavar="N")

    command = commands.add_parser("info", parents=[as_json], help="what was built and what is in use")
    command.set_defaults(run=_info)

    command = commands.add_parser("demo", parents=[as_json], help="solve the bundled real problems")
    command.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(_DEMOS)}; default: all")
    command.set_defaults(run=_demo)

    command = commands.add_parser("plan", parents=[as_json, options], help="route and cost of a shape")
    command.add_argument("--n", type=int, required=True, help="row blocks")
    command.add_argument("--d", type=int, required=True, help="size of a row block")
    command.add_argument("--k", type=int, required=True, help="border width")
    command.set_defaults(run=_plan)

    command = commands.add_parser(
        "solve", parents=[as_json, options], help="one Newton step of a system written by ArrowSystem.save"
    )
    command.add_argument("system", help="input, .npz")
    command.add_argument("-o", "--output", help="where to write delta_t, delta_beta and the certificate, .npz")
    command.add_argument("--ridge-t", type=float, default=0.0, metavar="RIDGE", help="of the rows")
    command.add_argument("--ridge-beta", type=float, default=0.0, metavar="RIDGE", help="of the border")
    command.add_argument("--escalate", action="store_true", help="raise the ridges until the solve succeeds")
    command.set_defaults(run=_solve)

    command = commands.add_parser("sweep", help="fit many systems of a reference shape, several at a time")
    command.add_argument(
        "--shape", default="color_arm", help="qwen, color_arm (the default), or four sizes n,p,basis_cols,d"
    )
    command.add_argument("--seeds", type=_seed, nargs="+", default=[1, 2, 3, 4], metavar="SEED", help="one fit each")
    command.add_argument(
        "--battery", action="store_true", help="the 12 color_arm variants, in place of shape and seeds"
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="fits at a time; default: what cores and memory allow"
    )
    command.add_argument("--sequential", action="store_true", help="only one after another, nothing to compare with")
    command.add_argument("--parity", action="store_true", help="fail unless both runs agree in every bit")
    command.add_argument("--json", metavar="FILE", help="write the results there too")
    command.set_defaults(run=_sweep)

    add_dictionary_commands(commands, as_json)
    commands.add_parser("bench", add_help=False, help="this machine's limits, the reference shapes, ratios to peers")
    return parser


# ---- commands -------------------------------------------------------------------------------------------------------
def _info(parsed: argparse.Namespace) -> int:
    facts: dict[str, Any] = {**build_info(), "num_threads": get_num_threads()}
    device = device_info()
    if parsed.json:
        _print_json({**facts, "device": device, "numpy": np.__version__, "python": sys.version.split()[0]})
    else:
        found = [f"{fact['name']} ({device['backend']})" for fact in device["devices"]]
        rows = [*facts.items(), ("device", ", ".join(found) or device["reason"]), ("numpy", np.__version__)]
        print(aligned("arrowschur_native", [*rows, ("python", sys.version.split()[0])]))
    return _SUCCESS


def _plan(parsed: argparse.Namespace) -> int:
    chosen = plan((parsed.n, parsed.d, parsed.k), options=_options(parsed))
    if parsed.json:
        _print_json(chosen.to_dict())
    else:
        print(chosen)
    return _SUCCESS


def _solve(parsed: argparse.Namespace) -> int:
    options = _options(parsed)
    system = ArrowSystem.load(parsed.system)
    solve = newton_step_escalated if parsed.escalate else newton_step
    start = time.perf_counter()
    step = solve(system, ridge_t=parsed.ridge_t, ridge_beta=parsed.ridge_beta, options=options)
    seconds = time.perf_counter() - start
    if parsed.output is not None:
        _write(parsed.output, step)
    if parsed.json:
        _print_json(
            {
                "system": {"n": system.n, "k": system.k, "total_dim": system.total_dim, "dtype": str(system.dtype)},
                "route": step.route,
                "seconds": seconds,
                "output": parsed.output,
                "diagnostics": step.diagnostics.to_dict(),
            }
        )
    else:
        print(system)
        print(step)
    return _SUCCESS


def _write(path: str, step: NewtonStep) -> None:
    d = step.diagnostics
    with open(path, "wb") as file:
        np.savez(
            file,
            delta_t=step.delta_t,
            delta_beta=step.delta_beta,
            route=np.array(step.route),
            ridge_t=np.array(d.ridge_t),
            ridge_beta=np.array(d.ridge_beta),
            backward_error=np.array(d.backward_error),
            backward_error_effective=np.array(d.backward_error_effective),
            rows_lifted=np.array(d.rows_lifted),
        )


def _seed(text: str) -> int:
    return int(text, 0)


def _variants(parsed: argparse.Namespace) -> tuple[SweepVariant, ...]:
    if parsed.battery:
        return fixtures.color_arm_variant_matrix()
    named = {"qwen": ResidentShape.qwen, "color_arm": ResidentShape.color_arm}
    if parsed.shape in named:
        shape = named[parsed.shape]()
    else:
        try:
            n, p, basis_cols, d = (int(size) for size in parsed.shape.split(","))
        except ValueError:
            raise InvalidArgument(
                argument="shape", got=repr(parsed.shape), expected="qwen, color_arm, or four sizes n,p,basis_cols,d"
            ) from None
        shape = ResidentShape(n, p, basis_cols, d)
    return tuple(SweepVariant(shape, seed) for seed in parsed.seeds)


def _sweep(parsed: argparse.Namespace) -> int:
    if parsed.sequential and (parsed.parity or parsed.workers is not None):
        raise InvalidArgument(
            argument="sequential", got="given with --parity or --workers", expected="given without them"
        )
    variants = _variants(parsed)
    runs: dict[str, SweepResult] = {}
    if not parsed.sequential:
        runs["multiplexed"] = run_variant_sweep(variants, max_concurrent=parsed.workers)
    # New workspaces: those of the first run have kept their factors.
    runs["sequential"] = run_fits_sequential(build_sweep_workspaces(variants))

    first = next(iter(runs.values()))
    table = [("fit", "n", "p", "basis_cols", "seed", "status", "iterations", "objective", "path")]
    for i, (variant, result) in enumerate(zip(variants, first, strict=True)):
        shape = variant.shape
        outcome = (
            (result.status, str(result.iterations), f"{result.objective:.12g}", result.execution_path)
            if isinstance(result, InnerFit)
            else (type(result).__name__, "", "", str(result))
        )
        table.append((str(i), str(shape.n), str(shape.p), str(shape.basis_cols), hex(variant.seed), *outcome))
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in table), strict=True)]
    for row in table:
        print(*(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1], sep="  ")
    rows: list[tuple[str, Any]] = [] if first.build_seconds is None else [("building, s", first.build_seconds)]
    for name, run in runs.items():
        t = run.throughput
        rows.append((name, f"{t.succeeded} of {t.fits} in {t.wall_seconds:.4g} s, {t.fits_per_second:.4g} fits/s"))
    if not parsed.sequential:
        ratio = runs["multiplexed"].throughput.fits_per_second / runs["sequential"].throughput.fits_per_second
        rows.append(("ratio", ratio))
    if parsed.parity:
        compare_runs(runs["multiplexed"].results, runs["sequential"].results)
        rows.append(("parity", "every bit"))
    print(aligned("throughput", rows))

    if parsed.json is not None:
        record = {
            "variants": [{**dataclasses.asdict(v.shape), "seed": v.seed} for v in variants],
            "fits": [
                {key: value for key, value in entry.items() if key not in ("t", "beta")}
                for entry in first.to_dict()["results"]
            ],
            "build_seconds": first.build_seconds,
            "parity": True if parsed.parity else None,
            **{name: run.to_dict()["throughput"] for name, run in runs.items()},
        }
        pathlib.Path(parsed.json).write_text(json.dumps(_finite(record), indent=2) + "\n", encoding="utf-8")
    return _SUCCESS if all(run.throughput.succeeded == len(variants) for run in runs.values()) else _FAILURE


def _demo(parsed: argparse.Namespace) -> int:
    names = parsed.names or list(_DEMOS)
    for name in names:
        if name not in _DEMOS:
            raise InvalidArgument(argument="name", got=repr(name), expected=f"one of {', '.join(_DEMOS)}")
    folder = _examples_folder()
    collected: list[dict[str, Any]] = []

    def report(title: str, rows: list[tuple[str, str]]) -> None:
        if parsed.json:
            collected.append({"title": title, "rows": [[name, text] for name, text in rows]})
            return
        width = max((len(name) for name, _ in rows), default=0)
        print(title, *(f"  {name:<{width}}  {text}" for name, text in rows), "", sep="\n", flush=True)

    status = _SUCCESS
    for name in names:
        try:
            _load_example(folder, name).demo(report)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            print(f"arrowschur: demo {name} needs {package}: pip install {package}", file=sys.stderr)
            status = _USAGE
    if parsed.json:
        _print_json(collected)
    return status


def _bench(arguments: list[str]) -> int:
    try:
        module = importlib.import_module("arrowschur_native._bench")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        print(f"arrowschur: bench needs {package}: pip install {package}", file=sys.stderr)
        return _USAGE
    try:
        status = module.main(arguments)
    except SystemExit as end:  # its own argparse
        return end.code if isinstance(end.code, int) else _USAGE
    except KeyboardInterrupt:
        print("arrowschur: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return _SUCCESS if status is None else int(status)


# ---- helpers --------------------------------------------------------------------------------------------------------
def _options(parsed: argparse.Namespace) -> SolveOptions:
    given = {
        name: getattr(parsed, name)
        for name in (
            "mode",
            "device",
            "precision",
            "guards",
            "row_lift",
            "certificate_tolerance",
            "memory_limit",
            "num_threads",
        )
        if getattr(parsed, name) is not None
    }
    return SolveOptions(**given)


def _examples_folder() -> pathlib.Path:
    package = pathlib.Path(__file__).resolve().parent
    # In a source checkout at the top of the tree; else installed with the package.
    for folder in (package / "_examples", package.parents[1] / "examples"):
        if (folder / f"{_DEMOS[0]}.py").is_file():
            return folder
    raise FileNotFoundError(f"no examples below {package}: is the package installed?")


def _load_example(folder: pathlib.Path, name: str) -> ModuleType:
    full_name = f"arrowschur_native._examples.{name}"
    spec = importlib.util.spec_from_file_location(full_name, folder / f"{name}.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[full_name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _report(error: ArrowError, as_json: bool) -> int:
    name = type(error).__name__
    if as_json:
        text = json.dumps({"error": name, "message": str(error), **_finite(error.facts)}, default=str)
        print(text, file=sys.stderr)
    else:
        print(f"arrowschur: {name}: {error}", file=sys.stderr)
        for field, value in error.facts.items():
            print(f"  {field}: {value}", file=sys.stderr)
    return _USAGE if isinstance(error, (InvalidArgument, UnsupportedConfiguration)) else _FAILURE


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=2))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
