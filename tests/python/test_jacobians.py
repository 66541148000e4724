"""Gauss-Newton normal equations from block-sparse Jacobians: the same system as from dense ones, in its own form."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import reference

import arrowschur_native as asn

OFFSETS = np.array([0, 3, 5, 9, 10, 12])


def problem(seed: int, r: int = 14, n: int = 5, d: int = 2, q: int = 3, per_residual: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    indptr, index, values = [0], [], []
    dense = np.zeros((r, q, 12))
    for b in range(r):
        for block in sorted(rng.permutation(5)[:per_residual].tolist()):
            piece = rng.normal(size=(q, OFFSETS[block + 1] - OFFSETS[block]))
            index.append(block)
            values.append(piece.ravel())
            dense[b, :, OFFSETS[block] : OFFSETS[block + 1]] += piece
        indptr.append(len(index))
    blocks = asn.BlockSparseCross(indptr, index, np.concatenate(values), OFFSETS, row_dims=[q] * r)
    rows = np.sort(rng.integers(0, n, r))
    rows[:n] = np.arange(n)
    return {
        "j_t": rng.normal(size=(r, q, d)),
        "dense": dense,
        "blocks": blocks,
        "residual": rng.normal(size=(r, q)),
        "rows": rows,
        "weights": rng.uniform(0.5, 2, r),
    }


def both(p: dict[str, Any], **keywords: Any) -> tuple[asn.ArrowSystem, asn.ArrowSystem]:
    systems = (
        asn.ArrowSystem.from_jacobians(p["j_t"], j_beta, p["residual"], **keywords)
        for j_beta in (p["blocks"], p["dense"])
    )
    sparse, dense = systems
    return sparse, dense


@pytest.mark.parametrize("per_residual", [1, 2, 3])
@pytest.mark.parametrize("weights", ["none", "per block", "per residual"])
def test_block_sparse_jacobians_give_the_same_system(per_residual: int, weights: str) -> None:
    p = problem(1, per_residual=per_residual)
    scale = {"none": None, "per block": p["weights"], "per residual": np.outer(p["weights"], [1.0, 0.5, 2.0])}[weights]
    sparse, dense = both(p, row_index=p["rows"], weights=scale, n=6)
    assert isinstance(sparse.cross, asn.BlockSparseCross)
    form = asn.BlockDiagonalBorder if per_residual == 1 else asn.SparseBlockKroneckerBorder
    assert isinstance(sparse.border, form)
    for a, b in zip(sparse.to_dense(), dense.to_dense(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)
    assert sparse.g_t.shape == dense.g_t.shape == (6, 2)


def test_priors_are_added_and_solved_with() -> None:
    p = problem(2, per_residual=2)
    for h_bb in (0.5 * np.eye(12), np.full(12, 0.5), asn.BandedBorder(np.full((1, 12), 0.5))):
        sparse, dense = both(p, row_index=p["rows"], h_bb=h_bb, h_tt=0.25 * np.eye(2))
        np.testing.assert_allclose(sparse.to_dense()[0], dense.to_dense()[0], rtol=1e-13, atol=1e-13)
        steps = [asn.newton_step(system) for system in (sparse, dense)]
        assert reference.error(steps[0].delta_beta, steps[1].delta_beta) <= 1e-11
        assert reference.error(steps[0].delta_t, steps[1].delta_t) <= 1e-11


def test_one_block_per_row_needs_no_index() -> None:
    p = problem(3)
    sparse, dense = both(p, h_tt=np.eye(2), h_bb=np.ones(12))
    assert sparse.n == 14
    np.testing.assert_allclose(sparse.to_dense()[0], dense.to_dense()[0], rtol=1e-13, atol=1e-13)


def test_single_precision_jacobians_are_promoted() -> None:
    p = problem(4)
    single = p["blocks"]._as_dtype(np.dtype(np.float32), [])
    system = asn.ArrowSystem.from_jacobians(p["j_t"], single, p["residual"], row_index=p["rows"])
    assert system.dtype == np.float64


def test_what_does_not_fit_is_refused_by_name() -> None:
    p = problem(5)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"j_t": p["j_t"][:-1]}, "residual"),
        ({"j_t": p["j_t"][0]}, "j_t"),
        ({"residual": p["residual"][:, :2]}, "residual"),
        ({"row_index": p["rows"][:-1]}, "row_index"),
        ({"row_index": p["rows"] - 1}, "row_index"),
        ({"n": 2}, "row_index"),
        ({"weights": np.ones(3)}, "weights"),
        ({"h_tt": np.eye(3)}, "h_tt"),
        ({"h_tt": np.ones((2, 2, 2)), "n": 6}, "h_tt"),
        ({"h_bb": np.eye(3)}, "h_bb"),
        ({"j_beta": problem(5, r=13)["blocks"]}, "j_beta"),
        ({"j_beta": problem(5, q=2)["blocks"]}, "j_beta"),
        ({"j_beta": np.ones((14, 3))}, "j_beta"),
    ]
    for changes, argument in cases:
        good = {"j_t": p["j_t"], "j_beta": p["blocks"], "residual": p["residual"], "row_index": p["rows"]}
        with pytest.raises(asn.InvalidArgument) as caught:
            asn.ArrowSystem.from_jacobians(**{**good, **changes})
        assert caught.value.argument == argument, changes


def test_a_jacobian_that_is_not_finite_is_found() -> None:
    for part in ("j_t", "residual"):
        p = problem(6)
        p[part].reshape(-1)[3] = np.inf
        with pytest.raises(asn.InvalidArgument):
            asn.ArrowSystem.from_jacobians(p["j_t"], p["blocks"], p["residual"], row_index=p["rows"])
    p = problem(6)
    p["blocks"].values[5] = np.nan
    with pytest.raises(asn.InvalidArgument):
        asn.ArrowSystem.from_jacobians(p["j_t"], p["blocks"], p["residual"], row_index=p["rows"])


def test_what_is_not_finite_is_named_by_its_own_part() -> None:
    p = problem(7)
    p["blocks"].values[5] = np.nan
    with pytest.raises(asn.InvalidArgument, match="finite") as caught:
        asn.ArrowSystem.from_jacobians(p["j_t"], p["blocks"], p["residual"], row_index=p["rows"])
    assert caught.value.argument == "j_beta"
    p = problem(7)
    p["residual"][2, 1] = -np.inf
    with pytest.raises(asn.InvalidArgument, match=r"-inf at \[2, 1\]") as caught:
        asn.ArrowSystem.from_jacobians(p["j_t"], p["blocks"], p["residual"], row_index=p["rows"])
    assert caught.value.argument == "residual"


def test_squares_that_overflow_are_an_error() -> None:
    for part, argument in (("j_t", "j_t"), ("blocks", "j_beta")):
        p = problem(8)
        values = p[part].values if part == "blocks" else p[part].reshape(-1)
        values[4] = 1e200
        with pytest.raises(asn.InvalidArgument, match="float64") as caught:
            asn.ArrowSystem.from_jacobians(p["j_t"], p["blocks"], p["residual"], row_index=p["rows"])
        assert caught.value.argument == argument


def test_a_gradient_given_later_is_still_checked() -> None:
    p = problem(9)
    system = asn.ArrowSystem.from_jacobians(p["j_t"], p["blocks"], p["residual"], row_index=p["rows"])
    assert system.check_finite
    assert system.symmetry == "check"
    with pytest.raises(asn.InvalidArgument):
        system.with_gradient(np.full(system.g_t.shape, np.nan), system.g_beta)


def test_another_linearization_takes_the_pattern_over() -> None:
    for per_residual in (1, 2):
        p, other = problem(11, per_residual=per_residual), problem(12, per_residual=per_residual)
        first = asn.ArrowSystem.from_jacobians(p["j_t"], p["blocks"], p["residual"], row_index=p["rows"], n=6)
        values = np.random.default_rng(13).normal(size=p["blocks"].values.shape)
        blocks = asn.BlockSparseCross(p["blocks"].indptr, p["blocks"].block_index, values, OFFSETS)
        arguments = (other["j_t"], other["residual"])
        anew = asn.ArrowSystem.from_jacobians(
            arguments[0], blocks, arguments[1], weights=p["weights"], row_index=p["rows"], n=6
        )
        for j_beta in (values, blocks):
            like = asn.ArrowSystem.from_jacobians(arguments[0], j_beta, arguments[1], weights=p["weights"], like=first)
            assert np.shares_memory(like.cross.indptr, first.cross.indptr)
            for a, b in zip(like.to_dense(), anew.to_dense(), strict=True):
                np.testing.assert_array_equal(a, b)
            damped = {"ridge_t": 1.0, "ridge_beta": 1.0}
            np.testing.assert_array_equal(
                asn.newton_step(like, **damped).delta_beta, asn.newton_step(anew, **damped).delta_beta
            )
        again = pickle.loads(pickle.dumps(like))
        np.testing.assert_array_equal(again.to_dense()[0], anew.to_dense()[0])


def test_a_pattern_that_does_not_fit_is_refused_by_name() -> None:
    p = problem(14)
    parts = (p["j_t"], p["blocks"].values, p["residual"])
    first = asn.ArrowSystem.from_jacobians(p["j_t"], p["blocks"], p["residual"], row_index=p["rows"])
    dense = asn.ArrowSystem.from_jacobians(p["j_t"], p["dense"], p["residual"], row_index=p["rows"])
    cases: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("like", parts, {"like": dense}),
        ("like", parts, {"like": "no system"}),
        ("row_index", parts, {"like": first, "row_index": p["rows"]}),
        ("n", parts, {"like": first, "n": 5}),
        ("j_beta", (parts[0], parts[1][:-1], parts[2]), {"like": first}),
        ("j_t", (parts[0][:-1], parts[1], parts[2][:-1]), {"like": first}),
    ]
    for argument, positional, keywords in cases:
        with pytest.raises(asn.InvalidArgument) as caught:
            asn.ArrowSystem.from_jacobians(*positional, **keywords)
        assert caught.value.argument == argument
