"""The commands `fit-dictionary`, `encode` and `report`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import InvalidArgument
from .._results import aligned
from . import _sklearn
from ._estimator import SparseDictionary
from ._files import load
from ._fit import FitInterrupted
from ._report import Report

__all__ = ["add_commands"]

Array = NDArray[Any]

_SUCCESS, _INTERRUPTED = 0, 130


def add_commands(commands: Any, as_json: argparse.ArgumentParser) -> None:
    """Add the three commands to a parser."""
    rows = argparse.ArgumentParser(add_help=False)
    rows.add_argument("--array", metavar="NAME", help="of an .npz file with several arrays")
    work = argparse.ArgumentParser(add_help=False)
    work.add_argument("--batch-size", type=int, metavar="ROWS", help="of a minibatch; changes no result")
    work.add_argument("--device", help="auto, off or required")
    work.add_argument("-j", "--n-jobs", type=int, metavar="N", help="threads; -1: all processors")

    command = commands.add_parser(
        "fit-dictionary", parents=[as_json, rows, work], help="train a sparse dictionary on the rows of a file"
    )
    command.add_argument("x", help="input, .npy (memory-mapped) or .npz")
    command.add_argument("-k", "--n-components", type=int, required=True, metavar="K", help="atoms")
    command.add_argument("-s", "--n-nonzero-coefs", type=int, metavar="S", help="atoms a row may use; default 8")
    command.add_argument("-o", "--output-file", required=True, metavar="FILE", help="where to write, .safetensors")
    command.add_argument("--router", help="topk, refine or omp")
    command.add_argument("--refine-factor", type=int, metavar="F", help="shortlist of refine")
    command.add_argument("--max-iter", type=int, metavar="N", help="most refreshes")
    command.add_argument("--tol", type=float, help="change of the explained variance at the end")
    command.add_argument("--patience", type=int, metavar="N", help="epochs without gain; 0: no such end")
    command.add_argument("--code-ridge", type=float, metavar="RIDGE")
    command.add_argument("--decoder-ridge", type=float, metavar="RIDGE")
    command.add_argument("--decoder-ridge-relative", action="store_true", default=None)
    command.add_argument("--refreshes-per-epoch", type=int, metavar="M")
    command.add_argument("--center", action="store_true", default=None, help="subtract the column means")
    command.add_argument("--init", help="auto, line, euclidean or sample")
    command.add_argument("--keep", help="best or last")
    command.add_argument("-q", "--quiet", action="store_true", help="no line for each epoch")
    command.add_argument("-v", "--verbose", action="store_true", help="the seconds of each step too")
    command.set_defaults(run=_fit)

    command = commands.add_parser(
        "encode", parents=[as_json, rows, work], help="codes of rows by a dictionary that fit-dictionary wrote"
    )
    command.add_argument("dictionary", help="input, .safetensors")
    command.add_argument("x", help="input, .npy (memory-mapped) or .npz")
    command.add_argument(
        "-o", "--output-file", required=True, metavar="FILE", help="where to write indices and codes, .npz"
    )
    command.add_argument("--csr", action="store_true", help="write a matrix that scipy.sparse.load_npz reads")
    command.add_argument("-s", "--n-nonzero-coefs", type=int, metavar="S", help="in place of that of the fit")
    command.add_argument("--router", help="in place of that of the fit")
    command.set_defaults(run=_encode)

    command = commands.add_parser(
        "report", parents=[as_json, rows, work], help="explained variance, L0, dead atoms, how often atoms fire"
    )
    command.add_argument("dictionary", help="input, .safetensors")
    command.add_argument("x", nargs="?", help="rows, .npy or .npz; without them the figures of the training rows")
    command.add_argument("--plot", metavar="FILE", help="draw the curve of the fit and the histogram (extra 'plot')")
    command.set_defaults(run=_report)


# ---- commands -------------------------------------------------------------------------------------------------------
def _fit(parsed: argparse.Namespace) -> int:
    names = (
        "n_components",
        "n_nonzero_coefs",
        "router",
        "refine_factor",
        "max_iter",
        "tol",
        "patience",
        "code_ridge",
        "decoder_ridge",
        "decoder_ridge_relative",
        "refreshes_per_epoch",
        "center",
        "init",
        "keep",
    )
    x = _rows(parsed.x, parsed.array)
    model = SparseDictionary(**_given(parsed, names), keep_codes=False)
    if not (parsed.quiet or parsed.json):
        model.verbose = 2 if parsed.verbose else 1
    interrupted = False
    with _no_convergence_warning():
        try:
            model.fit(x)
        except FitInterrupted:
            interrupted = True
    model.save(parsed.output_file)
    if parsed.json:
        _print_json({**Report.of(model).to_dict(), "output_file": parsed.output_file})
    else:
        print(model)
        print(f"written to {parsed.output_file}" + (" (interrupted: the best state so far)" if interrupted else ""))
    return _INTERRUPTED if interrupted else _SUCCESS


def _encode(parsed: argparse.Namespace) -> int:
    model = load(parsed.dictionary).set_params(output="csr" if parsed.csr else "pair", **_given(parsed, ()))
    x = _rows(parsed.x, parsed.array)
    codes = model.transform(x, n_nonzero_coefs=parsed.n_nonzero_coefs, router=parsed.router)
    with open(parsed.output_file, "wb") as file:
        if parsed.csr:
            from scipy import sparse

            sparse.save_npz(file, codes)
        else:
            np.savez(file, indices=codes[0], codes=codes[1])
    nonzero = int(codes.nnz if parsed.csr else np.count_nonzero(codes[1]))
    facts = {"rows": len(x), "atoms": model.n_components_, "codes": nonzero, "output_file": parsed.output_file}
    if parsed.json:
        _print_json(facts)
    else:
        print(aligned("encoded", list(facts.items())))
    return _SUCCESS


def _report(parsed: argparse.Namespace) -> int:
    model = load(parsed.dictionary).set_params(**_given(parsed, ()))
    report = Report.of(model, None if parsed.x is None else _rows(parsed.x, parsed.array))
    if parsed.plot is not None:
        report.plot(parsed.plot)
    if parsed.json:
        _print_json(report.to_dict())
    else:
        print(report)
    return _SUCCESS


# ---- helpers --------------------------------------------------------------------------------------------------------
def _given(parsed: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    everywhere = ("batch_size", "device", "n_jobs")
    return {name: getattr(parsed, name) for name in (*names, *everywhere) if getattr(parsed, name) is not None}


def _rows(path: str, name: str | None) -> Any:
    """Return the rows of a file; those of an .npy file stay on disk until they are due."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise _no_rows(path, str(error)) from error
    if isinstance(found, np.ndarray):
        return found
    with found as file:
        names = [name] if name is not None else [key for key in file.files if file[key].ndim == 2]
        if len(names) != 1 or names[0] not in file.files:
            raise _no_rows(path, f"it has the arrays {', '.join(file.files)}; name one with --array")
        return file[names[0]]


def _no_rows(path: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"sparse_dictionary: no rows in {os.fspath(path)!r}: {why:.200}",
        argument="x",
        got=repr(path),
        expected="an .npy file, or an .npz file and the name of an array in it",
    )


@contextlib.contextmanager
def _no_convergence_warning() -> Iterator[None]:
    """Silence the warning: the stop reason is printed anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _sklearn.convergence_warning())
        yield


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    print()
