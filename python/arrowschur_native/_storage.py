"""Systems in `.npz` files, without pickle."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import Array
from ._borders import BorderSum, OperatorBorder, border_from_parts
from ._cross import Cross, OperatorCross, cross_from_parts
from ._errors import InvalidArgument, UnsupportedConfiguration

if TYPE_CHECKING:
    from ._system import ArrowSystem

__all__ = ["load", "save"]

_FORMAT = "arrowschur_native.ArrowSystem"
# 1: dense cross blocks and four border forms. 2: every form but callbacks.
_FORMAT_VERSION = 2


def save(system: ArrowSystem, path: str | os.PathLike[str]) -> None:
    """Write a system; see `ArrowSystem.save`."""
    terms = system.border._terms()
    for part in (system.h_tb, *terms):
        if isinstance(part, (OperatorBorder, OperatorCross)):
            raise UnsupportedConfiguration(
                feature=type(part).__name__, route="ArrowSystem.save", hint="a file cannot hold callbacks"
            )
    members: dict[str, Array] = {
        "format": np.array(_FORMAT),
        "version": np.array(_FORMAT_VERSION),
        "h_tt": system.h_tt,
        "g_t": system.g_t,
        "g_beta": system.g_beta,
        "symmetry": np.array(system.symmetry),
        "check_finite": np.array(system.check_finite),
        "detect_structure": np.array(system.detect_structure),
        "border_forms": np.array([term._form for term in terms]),
    }
    if isinstance(system.h_tb, Cross):
        form, parameters = system.h_tb._term()
        members["cross"] = np.array(form)
        members.update({f"cross_{name}": np.asarray(value) for name, value in parameters.items()})
    else:
        members["h_tb"] = system.h_tb
    if system.uniform_dim is None:
        members["row_dims"] = system.row_dims
    if system.border_blocks is not None:
        members["border_blocks"] = system.border_blocks
    for index, term in enumerate(terms):
        _, data, parameters = term._term()
        members[f"border_{index}"] = data
        members.update(
            {f"border_{index}_{name}": np.asarray(value, dtype=np.int64) for name, value in parameters.items()}
        )
    with open(path, "wb") as file:
        np.savez(file, **members)  # type: ignore[arg-type,unused-ignore]


def load(path: str | os.PathLike[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of the system that `save` wrote."""
    try:
        # Opened here, so that it is closed when NumPy refuses it.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            members = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError) as error:
        raise _not_a_system(path, str(error)) from error
    try:
        if str(members["format"]) != _FORMAT:
            raise _not_a_system(path, f"its format is {str(members['format'])!r}")
        if int(members["version"]) > _FORMAT_VERSION:
            raise _not_a_system(path, f"its version {int(members['version'])} is newer than this library")
        row_dims = members.get("row_dims")
        terms = [
            border_from_parts(str(form), members[f"border_{index}"], _with_prefix(members, f"border_{index}_"))
            for index, form in enumerate(members["border_forms"].tolist())
        ]
        cross: Any = members.get("h_tb")
        if cross is None:
            cross = cross_from_parts(str(members["cross"]), _with_prefix(members, "cross_"), row_dims)
        options = {
            "row_dims": row_dims,
            "border_blocks": members.get("border_blocks"),
            "symmetry": str(members["symmetry"]),
            "check_finite": bool(members["check_finite"]),
            "detect_structure": bool(members["detect_structure"]),
        }
        border = terms[0] if len(terms) == 1 else BorderSum(terms)
        return (members["h_tt"], cross, border, members["g_t"], members["g_beta"]), options
    except (KeyError, TypeError) as error:
        raise _not_a_system(path, f"missing or odd member: {error}") from error


def _with_prefix(members: dict[str, Array], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in members.items() if name.startswith(prefix)}


def _not_a_system(path: Any, why: str) -> InvalidArgument:
    return InvalidArgument(
        argument="path", got=f"{os.fspath(path)!r} ({why:.120})", expected="a file written by ArrowSystem.save"
    )
