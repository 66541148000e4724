"""Gauss-Newton normal equations: arguments checked by name, formed by the core."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arrays import Array, as_indices, describe, float64_array
from ._borders import Border, DenseBorder, as_border, border_from_parts
from ._cross import BlockSparseCross, Cross
from ._errors import InvalidArgument
from ._shapes import check_shape

__all__ = ["normal_equations"]


def normal_equations(
    j_t: Any,
    j_beta: Any,
    residual: Any,
    *,
    weights: Any,
    h_bb: Any,
    h_tt: Any,
    row_index: Any,
    n: Any,
    like: Any,
) -> tuple[Array, Array | Cross, Border, Array, Array]:
    """Return the five parts of the system; see `ArrowSystem.from_jacobians`."""
    jacobian_t = float64_array(j_t, "j_t")
    if jacobian_t.ndim != 3:
        raise InvalidArgument(argument="j_t", got=describe(jacobian_t), expected="shape (r, q, d)")
    r, q, d = jacobian_t.shape
    errors = float64_array(residual, "residual")
    check_shape("residual", errors, [(r, q)])
    scale = None
    if weights is not None:
        scale = float64_array(weights, "weights")
        check_shape("weights", scale, [(r,), (r, q)])
    prior = None if h_tt is None else float64_array(h_tt, "h_tt")
    if prior is not None and (prior.ndim not in (2, 3) or prior.shape[-2:] != (d, d)):
        raise InvalidArgument(argument="h_tt", got=describe(prior), expected=f"shape (n, {d}, {d}) or ({d}, {d})")

    border: Border
    cross: Array | Cross
    if like is not None:
        pattern = _pattern_of(like, row_index, n)
        if pattern.sizes[1:] != (d, r, q):
            before = "({1}, {2}, {0})".format(*pattern.sizes[1:])
            raise InvalidArgument(argument="j_t", got=describe(jacobian_t), expected=f"shape {before}, as of `like`")
        values = float64_array(j_beta.values if isinstance(j_beta, BlockSparseCross) else j_beta, "j_beta")
        tt, blocks, term, gt, gbeta, _ = _core.normal_equations_on(
            pattern, jacobian_t, values.reshape(-1), errors, scale
        )
        cross = like.h_tb._with_values(blocks)
        border = border_from_parts(*term)
    else:
        rows = None if row_index is None else as_indices(row_index, "row_index")
        if rows is not None and rows.shape != (r,):
            raise InvalidArgument(argument="row_index", got=describe(rows), expected=f"shape ({r},)")
        count = _row_count(n, r, rows, prior)
        if isinstance(j_beta, BlockSparseCross):
            given = _residual_blocks(j_beta, r, q)
            tt, blocks, term, gt, gbeta, pattern = _core.normal_equations_sparse(
                jacobian_t, given._parameters(), errors, scale, rows, count
            )
            cross = BlockSparseCross._of_pattern(pattern, blocks)
            border = border_from_parts(*term)
        else:
            jacobian_beta = float64_array(j_beta, "j_beta")
            if jacobian_beta.ndim != 3 or jacobian_beta.shape[:2] != (r, q):
                raise InvalidArgument(
                    argument="j_beta",
                    got=describe(jacobian_beta),
                    expected=f"shape ({r}, {q}, k), or a BlockSparseCross",
                )
            tt, cross, bb, gt, gbeta = _core.normal_equations(jacobian_t, jacobian_beta, errors, scale, rows, count)
            border = DenseBorder(bb)
    if prior is not None:
        if prior.ndim == 3 and prior.shape[0] != tt.shape[0]:
            raise InvalidArgument(argument="h_tt", got=describe(prior), expected=f"shape {tt.shape}")
        tt += prior
    if h_bb is not None:
        extra = as_border(h_bb, gbeta.shape[0], "h_bb")
        if isinstance(extra, DenseBorder) and isinstance(border, DenseBorder):
            matrix = border.matrix
            matrix += extra.matrix
        else:
            border = border + extra
    return tt, cross, border, gt, gbeta


def _pattern_of(like: Any, row_index: Any, n: Any) -> _core.LinearizationPattern:
    for name, value in (("row_index", row_index), ("n", n)):
        if value is not None:
            raise InvalidArgument(argument=name, got="a value next to `like`", expected="None: `like` has the rows")
    pattern: _core.LinearizationPattern | None = getattr(getattr(like, "h_tb", None), "_pattern", None)
    if pattern is None:
        raise InvalidArgument(
            argument="like",
            got=f"{like!r:.80}",
            expected="an ArrowSystem that from_jacobians has made with a BlockSparseCross",
        )
    return pattern


def _residual_blocks(j_beta: BlockSparseCross, r: int, q: int) -> BlockSparseCross:
    """Check that each row of the cross object is one residual block of `q` lines."""
    if j_beta.n != r or (j_beta._d if j_beta._d is not None else q) != q:
        raise InvalidArgument(
            argument="j_beta",
            got=f"{j_beta!r} with rows of size {j_beta._d}",
            expected=f"r = {r} rows of q = {q} lines, one per residual block",
        )
    if j_beta.dtype == np.float64:
        return j_beta
    return j_beta._with_values(j_beta.values.astype(np.float64))


def _row_count(n: Any, r: int, rows: NDArray[np.int64] | None, prior: Array | None) -> int:
    if n is not None:
        if isinstance(n, bool) or not hasattr(n, "__index__") or n < 0:
            raise InvalidArgument(argument="n", got=f"{n!r:.80}", expected="an integer >= 0")
        return int(n)
    if prior is not None and prior.ndim == 3:
        return int(prior.shape[0])
    if rows is None:
        return r
    return int(rows.max()) + 1 if rows.size else 0
