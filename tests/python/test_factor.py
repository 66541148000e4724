"""The factor: many right-hand sides, determinants, blocks of the inverse, samples, adjoints, reuse."""

from __future__ import annotations

import gc
import pickle
import time
from typing import Any

import numpy as np
import pytest
import reference
import systems
from systems import HAND, Parts
from test_newton import whole

import arrowschur_native as asn

RAGGED = systems.ragged(9)
LS40 = systems.ls(40, 3, 17, 1)
LS64 = systems.ls(64, 4, 200, 4)
NAMED = pytest.mark.parametrize("parts", [HAND, RAGGED, LS40], ids=["hand", "ragged", "ls"])
RIDGES = {"ridge_t": 0.5, "ridge_beta": 0.25}


def columns(parts: Parts, m: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(parts.total, m)), rng.normal(size=(parts.k, m))


# ---- solves ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("m", [1, 2, 3, 7, 8, 33, 64])
@pytest.mark.parametrize("parts", [LS40, RAGGED, LS64], ids=["ls40", "ragged", "ls64"])
def test_t14_many_right_hand_sides(parts: Parts, m: int) -> None:
    factor = asn.factorize(parts.system(), **RIDGES)
    w_t, w_beta = columns(parts, m)

    x_t, x_beta = factor.solve(w_t, w_beta)

    h, _ = reference.dense(parts, **RIDGES)
    expected = reference.solve(h, np.concatenate((w_t, w_beta)))
    assert reference.error(np.concatenate((x_t, x_beta)), expected) <= 1e-11
    for j in range(m):
        one_t, one_beta = factor.solve(w_t[:, j].copy(), w_beta[:, j].copy())
        assert reference.error(x_t[:, j], one_t) <= 1e-13
        assert reference.error(x_beta[:, j], one_beta) <= 1e-13


@pytest.mark.parametrize("ridges", [{}, RIDGES])
@pytest.mark.parametrize("shape", [(40, 3, 17, 1), (300, 2, 64, 3), (64, 4, 200, 4), (100, 2, 600, 4)])
def test_t14_step_of_the_factor_has_the_bits_of_newton_step(
    shape: tuple[int, int, int, int], ridges: dict[str, float]
) -> None:
    parts = systems.random_parts([shape[1]] * shape[0], shape[2], "dense", shape[3])
    system = parts.system()
    step, again = asn.newton_step(system, **ridges), asn.factorize(system, **ridges).step()
    assert np.array_equal(whole(step), whole(again))
    assert again.diagnostics.backward_error == step.diagnostics.backward_error
    assert again.route == step.route


@NAMED
def test_step_for_another_gradient_has_the_bits_of_a_system_with_that_gradient(parts: Parts) -> None:
    system = parts.system()
    g_t, g_beta = (part[:, 0].copy() for part in columns(parts, 1))
    g_t = g_t.reshape(system.g_t.shape)
    factor = asn.factorize(system)
    fresh = asn.newton_step(system.with_gradient(g_t, g_beta))
    assert np.array_equal(whole(factor.step(g_t, g_beta)), whole(fresh))
    # A part that is not given is the system's own.
    half = asn.newton_step(system.with_gradient(g_t, parts.g_beta))
    assert np.array_equal(whole(factor.step(g_t=g_t)), whole(half))


def test_solve_reads_the_number_of_right_hand_sides_from_the_border_part() -> None:
    factor = asn.factorize(HAND.system())
    for shapes in (
        ((2, 2), (3,)),
        ((4,), (3,)),
        ((2, 2, 5), (3, 5)),
        ((4, 5), (3, 5)),
        ((4, 1), (3, 1)),
        ((4, 0), (3, 0)),
    ):
        x_t, x_beta = factor.solve(np.ones(shapes[0]), np.ones(shapes[1]))
        assert (x_t.shape, x_beta.shape) == shapes
    for shapes in (
        ((2, 2), (3, 2)),
        ((4, 2), (3,)),
        ((2, 2, 5), (3, 4)),
        ((5,), (3,)),
        ((4,), (4,)),
        ((4,), (3, 1, 1)),
    ):
        with pytest.raises(asn.InvalidArgument):
            factor.solve(np.ones(shapes[0]), np.ones(shapes[1]))


def test_solve_of_n_2_d_2_tells_many_columns_from_one() -> None:
    """`w_t` (2, 2) may be one (n, d) right-hand side or T = 2 with m = 2: `w_beta` decides."""
    parts = systems.ls(2, 1, 3, 5)
    factor = asn.factorize(parts.system())
    h, _ = reference.dense(parts)
    w_t, w_beta = columns(parts, 2)
    x_t, x_beta = factor.solve(w_t, w_beta)
    expected = reference.solve(h, np.concatenate((w_t, w_beta)))
    assert reference.error(np.concatenate((x_t, x_beta)), expected) <= 1e-12


@pytest.mark.parametrize("m", [None, 1, 5])
def test_solve_writes_into_out(m: int | None) -> None:
    factor = asn.factorize(LS40.system())
    w_t, w_beta = columns(LS40, m or 1)
    if m is None:
        w_t, w_beta = w_t[:, 0].copy(), w_beta[:, 0].copy()
    plain = factor.solve(w_t, w_beta)

    out = np.empty_like(w_t), np.empty_like(w_beta)
    x = factor.solve(w_t, w_beta, out=out)
    assert x[0] is out[0]
    assert x[1] is out[1]
    assert np.array_equal(out[0], plain[0])
    assert np.array_equal(out[1], plain[1])

    factor.solve(w_t, w_beta, out=(w_t, w_beta))  # in place
    assert np.array_equal(w_t, plain[0])
    assert np.array_equal(w_beta, plain[1])


def test_bad_out_arrays_are_refused() -> None:
    factor = asn.factorize(HAND.system())
    w_t, w_beta = np.ones(4), np.ones(3)
    frozen = np.empty(4)
    frozen.setflags(write=False)
    for out in (
        (np.empty(5), np.empty(3)),
        (np.empty(4, np.float32), np.empty(3)),
        (np.empty(8)[::2], np.empty(3)),
        (frozen, np.empty(3)),
        (np.empty(4),),
        [np.empty(4), np.empty(3)],
        (np.empty((2, 2)), np.empty(3)),
    ):
        with pytest.raises(asn.InvalidArgument):
            factor.solve(w_t, w_beta, out=out)  # type: ignore[arg-type]


@NAMED
def test_i8_solve_inverts_apply(parts: Parts) -> None:
    system = parts.system()
    x_t, x_beta = (part[:, 0].copy() for part in columns(parts, 1))
    y_t, y_beta = system.apply(x_t.reshape(system.g_t.shape), x_beta, **RIDGES)
    z_t, z_beta = asn.factorize(system, **RIDGES).solve(y_t, y_beta)
    assert reference.error(z_t, x_t) <= 1e-11
    assert reference.error(z_beta, x_beta) <= 1e-11


# ---- determinants and the border block ------------------------------------------------------------------------------
@pytest.mark.parametrize("ridges", [{}, RIDGES])
@pytest.mark.parametrize("parts", [HAND, RAGGED, LS40, LS64], ids=["hand", "ragged", "ls40", "ls64"])
def test_t15_log_det_and_its_parts(parts: Parts, ridges: dict[str, float]) -> None:
    factor = asn.factorize(parts.system(), **ridges)
    h, _ = reference.dense(parts, **ridges)
    rows = sum(reference.log_det(block + ridges.get("ridge_t", 0.0) * np.eye(len(block))) for block in parts.blocks)
    assert factor.log_det() == pytest.approx(reference.log_det(h), rel=1e-11)
    got = factor.log_det_parts()
    assert got.rows == pytest.approx(rows, rel=1e-11)
    assert got.rows + got.border == pytest.approx(factor.log_det(), rel=1e-14)
    assert np.isclose(factor.log_det(), np.linalg.slogdet(h)[1], rtol=1e-11)


@pytest.mark.parametrize("parts", [HAND, LS40, LS64], ids=["hand", "ls40", "ls64"])
def test_t15_border_block_of_the_inverse(parts: Parts) -> None:
    factor = asn.factorize(parts.system(), **RIDGES)
    h, _ = reference.dense(parts, **RIDGES)
    expected = reference.inverse(h)[parts.total :, parts.total :]

    full = factor.border_inverse_block()
    assert reference.error(full, expected) <= 1e-11
    assert np.array_equal(full, full.T)

    cols = np.arange(1, parts.k)
    some = factor.border_inverse_block(cols)
    assert reference.error(some, expected[1:, 1:]) <= 1e-11
    assert np.array_equal(some, some.T)

    shuffled = cols[::-2]
    assert reference.error(factor.border_inverse_block(shuffled), expected[np.ix_(shuffled, shuffled)]) <= 1e-11
    assert factor.border_inverse_block([]).shape == (0, 0)
    for bad in ([-1], [0, parts.k], [2**40]):
        with pytest.raises(asn.InvalidArgument):
            factor.border_inverse_block(bad)


@pytest.mark.parametrize("parts", [HAND, RAGGED, LS64], ids=["hand", "ragged", "ls64"])
def test_border_products_and_diagonal(parts: Parts) -> None:
    factor = asn.factorize(parts.system(), **RIDGES)
    h, _ = reference.dense(parts, **RIDGES)
    inverse = reference.inverse(h)[parts.total :, parts.total :]
    schur = np.linalg.inv(inverse)
    v = np.random.default_rng(2).normal(size=(parts.k, 5))

    assert reference.error(factor.border_inverse_apply(v), inverse @ v) <= 1e-11
    assert reference.error(factor.border_inverse_apply(v[:, 0].copy()), inverse @ v[:, 0]) <= 1e-11
    assert reference.error(factor.schur_apply(v), schur @ v) <= 1e-11
    assert reference.error(factor.schur_apply(factor.border_inverse_apply(v)), v) <= 1e-11
    assert reference.error(factor.border_inverse_diagonal(), np.diagonal(inverse)) <= 1e-11


# ---- marginals ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ridges", [{}, RIDGES])
@pytest.mark.parametrize("parts", [HAND, RAGGED, LS64], ids=["hand", "ragged", "ls64"])
def test_t16_latent_marginals(parts: Parts, ridges: dict[str, float]) -> None:
    factor = asn.factorize(parts.system(), **ridges)
    inverse = reference.inverse(reference.dense(parts, **ridges)[0])

    diagonal = factor.latent_inverse_diagonal()
    np.testing.assert_allclose(diagonal, np.diagonal(inverse)[: parts.total], rtol=1e-10)

    blocks = factor.latent_inverse_blocks()
    assert len(blocks) == parts.n
    for i, (a, b) in enumerate(zip(parts.offsets[:-1], parts.offsets[1:], strict=True)):
        expected = inverse[a:b, a:b]
        assert blocks[i].shape == expected.shape
        if b > a:
            assert reference.error(blocks[i], expected) <= 1e-10
        assert np.array_equal(blocks[i], blocks[i].T)
        one = factor.latent_inverse_block(i)
        assert one.shape == expected.shape
        assert b == a or reference.error(one, expected) <= 1e-10

    chosen = [parts.n - 1, 0, 1]
    for got, i in zip(factor.latent_inverse_blocks(chosen), chosen, strict=True):
        np.testing.assert_allclose(got, blocks[i], rtol=1e-12)
    for bad in (-1, parts.n):
        with pytest.raises(asn.InvalidArgument):
            factor.latent_inverse_block(bad)
        with pytest.raises(asn.InvalidArgument):
            factor.latent_inverse_blocks([0, bad])


@pytest.mark.parametrize("parts", [HAND, RAGGED, LS40], ids=["hand", "ragged", "ls40"])
def test_cross_blocks_of_the_inverse(parts: Parts) -> None:
    factor = asn.factorize(parts.system(), **RIDGES)
    inverse = reference.inverse(reference.dense(parts, **RIDGES)[0])
    for i, (a, b) in enumerate(zip(parts.offsets[:-1], parts.offsets[1:], strict=True)):
        block = factor.cross_inverse_block(i)
        assert block.shape == (b - a, parts.k)
        assert b == a or reference.error(block, inverse[a:b, parts.total :]) <= 1e-11
    for bad in (-1, parts.n, 2**40):
        with pytest.raises(asn.InvalidArgument):
            factor.cross_inverse_block(bad)


# ---- samples --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ridges", [{}, RIDGES])
def test_t16_samples_have_the_covariance_of_the_inverse(ridges: dict[str, float]) -> None:
    m = 100_000
    factor = asn.factorize(HAND.system(), **ridges)
    x_t, x_beta = factor.sample(m, 11)
    assert (x_t.shape, x_beta.shape) == ((2, 2, m), (3, m))

    draws = np.concatenate((x_t.reshape(4, m), x_beta))
    covariance = reference.exact_inverse(reference.dense(HAND, **ridges)[0])
    variances = np.diagonal(covariance)
    standard_error = np.sqrt((np.outer(variances, variances) + covariance**2) / m)
    assert (np.abs(draws @ draws.T / m - covariance) <= 5 * standard_error).all()
    assert (np.abs(draws.mean(axis=1)) <= 5 * np.sqrt(variances / m)).all()
    # Normal, not merely of the right variance: the fourth moment is three times the squared variance.
    kurtosis = (draws**4).mean(axis=1) / variances**2
    assert (np.abs(kurtosis - 3) <= 5 * np.sqrt(96 / m)).all()
    # Different coordinates and neighbouring draws come from different numbers.
    white = np.linalg.solve(np.linalg.cholesky(covariance), draws)
    lagged = white[:, 1:] @ white[:, :-1].T / (m - 1)
    assert (np.abs(lagged) <= 5 / np.sqrt(m)).all()


@pytest.mark.parametrize("parts", [HAND, RAGGED, LS64], ids=["hand", "ragged", "ls64"])
def test_samples_depend_on_the_seed_only(parts: Parts) -> None:
    factor = asn.factorize(parts.system())
    one, same, other = factor.sample(3, 7), factor.sample(3, 7), factor.sample(3, 8)
    assert np.array_equal(one[0], same[0])
    assert np.array_equal(one[1], same[1])
    assert not np.array_equal(one[1], other[1])
    for threads in (1, 2, 3):
        asn.set_num_threads(threads)
        again = asn.factorize(parts.system()).sample(3, 7)
        assert np.array_equal(one[0], again[0])
        assert np.array_equal(one[1], again[1])


def test_sample_arguments() -> None:
    factor = asn.factorize(HAND.system())
    x_t, x_beta = factor.sample(0, 1)
    assert (x_t.shape, x_beta.shape) == ((2, 2, 0), (3, 0))
    assert all(np.isfinite(part).all() for part in factor.sample(2, 2**64 - 1))
    for m, seed in ((-1, 1), (1.5, 1), (2, -1), (2, 2**64), (2, 0.5)):
        with pytest.raises(asn.InvalidArgument):
            factor.sample(m, seed)  # type: ignore[arg-type]


# ---- two coherent sets ----------------------------------------------------------------------------------------------
@NAMED
def test_t17_step_and_evidence_sets_are_never_mixed(parts: Parts) -> None:
    factor = asn.factorize(parts.system(), **RIDGES)
    w_t, w_beta = columns(parts, 3)
    v = w_beta
    delta_beta = parts.g_beta
    for name, ridges in (("step", RIDGES), ("evidence", {})):
        h, _ = reference.dense(parts, **ridges)
        inverse = reference.inverse(h)
        t = parts.total
        x_t, x_beta = factor.solve(w_t, w_beta, set=name)
        assert reference.error(np.concatenate((x_t, x_beta)), inverse @ np.concatenate((w_t, w_beta))) <= 1e-11
        assert factor.log_det(set=name) == pytest.approx(reference.log_det(h), rel=1e-11)
        assert sum(factor.log_det_parts(set=name)) == pytest.approx(reference.log_det(h), rel=1e-11)
        assert reference.error(factor.latent_inverse_diagonal(set=name), np.diagonal(inverse)[:t]) <= 1e-11
        first = next(i for i in range(parts.n) if parts.dims[i])
        a, b = parts.offsets[first], parts.offsets[first + 1]
        assert reference.error(factor.latent_inverse_block(first, set=name), inverse[a:b, a:b]) <= 1e-11
        assert reference.error(factor.latent_inverse_blocks([first], set=name)[0], inverse[a:b, a:b]) <= 1e-11
        assert reference.error(factor.cross_inverse_block(first, set=name), inverse[a:b, t:]) <= 1e-11
        assert reference.error(factor.border_inverse_block(set=name), inverse[t:, t:]) <= 1e-11
        assert reference.error(factor.border_inverse_diagonal(set=name), np.diagonal(inverse)[t:]) <= 1e-11
        assert reference.error(factor.border_inverse_apply(v, set=name), inverse[t:, t:] @ v) <= 1e-11
        assert reference.error(factor.schur_apply(v, set=name), np.linalg.solve(inverse[t:, t:], v)) <= 1e-11
        gradient = factor.log_det_vjp(set=name)
        assert reference.error(gradient.h_bb, inverse[t:, t:]) <= 1e-11
        assert gradient.ridge_t == pytest.approx(np.trace(inverse[:t, :t]), rel=1e-11)
    # The stationarity condition of the rows has no damping.
    expected = -np.concatenate(
        [
            np.linalg.solve(block, parts.h_tb[a:b] @ delta_beta)
            for block, a, b in zip(parts.blocks, parts.offsets[:-1], parts.offsets[1:], strict=True)
        ]
    )
    assert reference.error(factor.predict(delta_beta), expected) <= 1e-11


def test_sets_coincide_without_ridges() -> None:
    factor = asn.factorize(LS40.system())
    assert factor.log_det(set="step") == factor.log_det(set="evidence")
    assert np.array_equal(factor.latent_inverse_diagonal(), factor.latent_inverse_diagonal(set="evidence"))


def test_unknown_set_is_refused_by_every_primitive() -> None:
    factor = asn.factorize(HAND.system())
    calls: list[Any] = [
        lambda: factor.solve(np.ones(4), np.ones(3), set="damped"),
        lambda: factor.log_det(set="damped"),
        lambda: factor.log_det_parts(set="damped"),
        lambda: factor.latent_inverse_diagonal(set=None),  # type: ignore[arg-type]
        lambda: factor.latent_inverse_block(0, set=""),
        lambda: factor.sample(1, 1, set="Step"),
        lambda: factor.log_det_vjp(set=1),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(asn.InvalidArgument, match="set"):
            call()


def test_samples_of_the_evidence_set() -> None:
    damped, bare = asn.factorize(HAND.system(), **RIDGES), asn.factorize(HAND.system())
    for one, other in zip(damped.sample(4, 3, set="evidence"), bare.sample(4, 3), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


# ---- adjoints -------------------------------------------------------------------------------------------------------
def perturbed(parts: Parts, direction: Parts, h: float) -> Parts:
    return parts.replace(
        blocks=tuple(b + h * e for b, e in zip(parts.blocks, direction.blocks, strict=True)),
        h_tb=parts.h_tb + h * direction.h_tb,
        h_bb=parts.h_bb + h * direction.h_bb,
        g_t=parts.g_t + h * direction.g_t,
        g_beta=parts.g_beta + h * direction.g_beta,
    )


def a_direction(parts: Parts, seed: int = 5) -> Parts:
    rng = np.random.default_rng(seed)

    def symmetric(n: int) -> np.ndarray:
        e = rng.normal(size=(n, n))
        return (e + e.T) / 2

    return parts.replace(
        blocks=tuple(symmetric(len(block)) for block in parts.blocks),
        h_tb=rng.normal(size=parts.h_tb.shape),
        h_bb=symmetric(parts.k),
        g_t=rng.normal(size=parts.total),
        g_beta=rng.normal(size=parts.k),
    )


def pairing(gradient: asn.SystemGradient, direction: Parts, *, rhs: bool) -> float:
    """`sum(gradient * direction)` over the parts; the right-hand side is `(g_t, g_beta)` of the direction."""
    total = (
        np.ravel(gradient.h_tt) @ direction.flat_blocks()
        + np.ravel(gradient.h_tb) @ direction.h_tb.ravel()
        + np.ravel(gradient.h_bb) @ direction.h_bb.ravel()
    )
    if rhs:
        total += np.ravel(gradient.w_t) @ direction.g_t + gradient.w_beta @ direction.g_beta
    return float(total)


@pytest.mark.parametrize("parts", [HAND, RAGGED], ids=["hand", "ragged"])
def test_t18_vjp_against_central_differences(parts: Parts) -> None:
    direction = a_direction(parts)
    c_t, c_beta = (part[:, 0].copy() for part in columns(parts, 1, seed=8))
    w_t, w_beta = parts.g_t, parts.g_beta

    def value(h: float, ridges: tuple[float, float] = (0.5, 0.25)) -> float:
        moved = perturbed(parts, direction, h)
        factor = asn.factorize(moved.system(ragged=True), ridge_t=ridges[0], ridge_beta=ridges[1])
        x_t, x_beta = factor.solve(moved.g_t, moved.g_beta)
        return float(c_t @ x_t + c_beta @ x_beta)

    factor = asn.factorize(parts.system(ragged=True), **RIDGES)
    x_t, x_beta = factor.solve(w_t, w_beta)
    gradient = factor.vjp(x_t, x_beta, c_t, c_beta)

    step = 1e-4
    difference = (value(step) - value(-step)) / (2 * step)
    assert pairing(gradient, direction, rhs=True) == pytest.approx(difference, rel=1e-6, abs=1e-7)
    difference = (value(0, (0.5 + step, 0.25)) - value(0, (0.5 - step, 0.25))) / (2 * step)
    assert gradient.ridge_t == pytest.approx(difference, rel=1e-7, abs=1e-8)
    difference = (value(0, (0.5, 0.25 + step)) - value(0, (0.5, 0.25 - step))) / (2 * step)
    assert gradient.ridge_beta == pytest.approx(difference, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("parts", [HAND, RAGGED, LS64], ids=["hand", "ragged", "ls64"])
def test_t18_vjp_against_dense_formulas(parts: Parts, m: int) -> None:
    h, _ = reference.dense(parts, **RIDGES)
    t = parts.total
    w, c = np.concatenate(columns(parts, m, 1)), np.concatenate(columns(parts, m, 2))
    x, lam = reference.solve(h, w), reference.solve(h, c)
    dense = -(lam @ x.T + x @ lam.T) / 2
    factor = asn.factorize(parts.system(), **RIDGES)

    gradient = factor.vjp(x[:t], x[t:], c[:t], c[t:])

    assert reference.error(gradient.w_t, lam[:t]) <= 1e-11
    assert reference.error(gradient.w_beta, lam[t:]) <= 1e-11
    flat = np.concatenate([dense[a:b, a:b].ravel() for a, b in zip(parts.offsets[:-1], parts.offsets[1:], strict=True)])
    assert reference.error(gradient.h_tt, flat) <= 1e-11
    assert reference.error(gradient.h_tb, 2 * dense[:t, t:]) <= 1e-11
    assert reference.error(gradient.h_bb, dense[t:, t:]) <= 1e-11
    assert gradient.ridge_t == pytest.approx(-np.sum(lam[:t] * x[:t]), rel=1e-11)
    assert gradient.ridge_beta == pytest.approx(-np.sum(lam[t:] * x[t:]), rel=1e-11)
    assert gradient.h_tt.shape == parts.system().h_tt.shape
    assert gradient.h_tb.shape == parts.system().h_tb.shape


@pytest.mark.parametrize("parts", [HAND, RAGGED, LS64], ids=["hand", "ragged", "ls64"])
def test_t18_log_det_vjp_against_dense_formulas(parts: Parts) -> None:
    inverse = reference.inverse(reference.dense(parts, **RIDGES)[0])
    t = parts.total

    gradient = asn.factorize(parts.system(), **RIDGES).log_det_vjp()

    flat = np.concatenate(
        [inverse[a:b, a:b].ravel() for a, b in zip(parts.offsets[:-1], parts.offsets[1:], strict=True)]
    )
    assert reference.error(gradient.h_tt, flat) <= 1e-11
    assert reference.error(gradient.h_tb, 2 * inverse[:t, t:]) <= 1e-11
    assert reference.error(gradient.h_bb, inverse[t:, t:]) <= 1e-11
    assert gradient.ridge_t == pytest.approx(np.trace(inverse[:t, :t]), rel=1e-11)
    assert gradient.ridge_beta == pytest.approx(np.trace(inverse[t:, t:]), rel=1e-11)


@pytest.mark.parametrize("parts", [HAND, RAGGED], ids=["hand", "ragged"])
def test_t18_log_det_vjp_against_central_differences(parts: Parts) -> None:
    direction = a_direction(parts)
    step = 1e-5
    difference = (
        asn.factorize(perturbed(parts, direction, step).system()).log_det()
        - asn.factorize(perturbed(parts, direction, -step).system()).log_det()
    ) / (2 * step)
    gradient = asn.factorize(parts.system()).log_det_vjp()
    assert pairing(gradient, direction, rhs=False) == pytest.approx(difference, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("form", systems.FORMS)
def test_gradients_have_the_form_of_the_border(form: str) -> None:
    """`df = sum(gradient * d_part)` for the arrays that the border is made of."""
    parts = systems.random_parts([2, 3, 1], 7, form, 4)
    system = parts.system()
    gradient = asn.factorize(system).log_det_vjp()
    dense = reference.inverse(reference.dense(parts)[0])[parts.total :, parts.total :]
    terms = system.border.terms if isinstance(system.border, asn.BorderSum) else (system.border,)
    parts_of_gradient = gradient.h_bb if isinstance(system.border, asn.BorderSum) else (gradient.h_bb,)
    assert len(terms) == len(parts_of_gradient)
    for term, part in zip(terms, parts_of_gradient, strict=True):
        if isinstance(term, asn.DenseBorder):
            assert reference.error(part, dense) <= 1e-11
        elif isinstance(term, asn.DiagonalBorder):
            assert reference.error(part, np.diagonal(dense)) <= 1e-11
        elif isinstance(term, asn.BandedBorder):
            assert part.shape == term.bands.shape
            for j in range(min(len(part), 7)):
                expected = np.diagonal(dense, -j) * (1 if j == 0 else 2)
                np.testing.assert_allclose(part[j, : 7 - j], expected, rtol=1e-10)
        else:
            edge = 0
            for size, block in zip(term.sizes, part, strict=True):
                assert reference.error(block, dense[edge : edge + size, edge : edge + size]) <= 1e-11
                edge += size


def test_t18_pivots_of_diagonal_systems() -> None:
    rows, border = np.array([3.0, 0.5, 2.0, 7.0]), np.array([0.25, 9.0, 1.0])
    system = asn.ArrowSystem(rows.reshape(4, 1, 1), np.zeros((4, 1, 3)), border, np.zeros((4, 1)), np.zeros(3))
    factor = asn.factorize(system)
    assert factor.min_pivot() == pytest.approx((0.5, 0.25, 0.25), rel=1e-14)
    assert factor.max_pivot() == pytest.approx((7.0, 9.0, 9.0), rel=1e-14)
    damped = asn.factorize(system, ridge_t=1.0, ridge_beta=2.0)
    assert damped.min_pivot() == pytest.approx((1.5, 2.25, 1.5), rel=1e-14)
    assert damped.min_pivot(set="evidence") == pytest.approx((0.5, 0.25, 0.25), rel=1e-14)
    assert damped.max_pivot(set="evidence") == pytest.approx((7.0, 9.0, 9.0), rel=1e-14)


# ---- prediction -----------------------------------------------------------------------------------------------------
@NAMED
def test_t68_predict_follows_the_stationary_point(parts: Parts) -> None:
    """At fixed beta the rows minimise a quadratic; after a shift of 1e-3 they are solved again."""
    rng = np.random.default_rng(4)
    beta, shift = rng.normal(size=parts.k), 1e-3 * rng.normal(size=parts.k)

    def stationary(at: np.ndarray) -> np.ndarray:
        pieces = zip(parts.blocks, parts.offsets[:-1], parts.offsets[1:], strict=True)
        return np.concatenate([np.linalg.solve(h, -(parts.g_t[a:b] + parts.h_tb[a:b] @ at)) for h, a, b in pieces])

    predicted = asn.factorize(parts.system(), **RIDGES).predict(shift)
    np.testing.assert_allclose(np.ravel(predicted), stationary(beta + shift) - stationary(beta), atol=1e-12)


def test_predict_with_a_change_of_the_row_gradient() -> None:
    rng = np.random.default_rng(4)
    delta_beta, delta_g = rng.normal(size=17), rng.normal(size=(40, 3))
    predicted = asn.factorize(LS40.system(), ridge_t=3.0).predict(delta_beta, delta_g)
    expected = -np.linalg.solve(
        np.stack(LS40.blocks), (delta_g + LS40.h_tb.reshape(40, 3, 17) @ delta_beta)[..., None]
    )[..., 0]
    assert predicted.shape == (40, 3)
    assert reference.error(predicted, expected) <= 1e-12


# ---- reuse ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", [(0.0, 0.0), (0.5, 0.25), (0.5, 2.0), (1.5, 0.25)])
@NAMED
def test_update_ridges_equals_a_fresh_factor(parts: Parts, target: tuple[float, float]) -> None:
    system = parts.system()
    factor = asn.factorize(system, **RIDGES)
    before = factor.log_det()

    updated = factor.update_ridges(*target)

    fresh = asn.factorize(system, ridge_t=target[0], ridge_beta=target[1])
    assert (updated.ridge_t, updated.ridge_beta) == target
    assert np.array_equal(whole(updated.step()), whole(fresh.step()))
    assert updated.log_det() == fresh.log_det()
    assert factor.log_det() == before


def test_update_ridges_reports_failures_and_leaves_the_factor_usable() -> None:
    system = systems.collapse(1.0).system()
    factor = asn.factorize(system, ridge_beta=200.0)
    log_det = factor.log_det()
    with pytest.raises(asn.SchurFactorError):
        factor.update_ridges(0.0, 0.0)
    with pytest.raises(asn.InvalidArgument):
        factor.update_ridges(-1.0, 0.0)
    assert factor.log_det() == log_det


def test_update_ridges_with_damping() -> None:
    damping = np.linspace(0.1, 1, 17)
    updated = asn.factorize(LS40.system()).update_ridges(0.5, 0.25, damping_beta=damping)
    expected = reference.step(LS40, ridge_t=0.5, ridge_beta=0.25, damping_beta=damping)
    assert reference.error(whole(updated.step()), expected) <= 1e-11


# ---- fingerprints ---------------------------------------------------------------------------------------------------
def test_t66_fingerprint_sees_every_entry_of_the_operator() -> None:
    parts = systems.ragged(9)
    base = parts.system().fingerprint()
    rng = np.random.default_rng(0)
    changed = []
    for row in (1, 5, 7):
        blocks = [block.copy() for block in parts.blocks]
        blocks[row][0, 0] = np.nextafter(blocks[row][0, 0], 9)
        changed.append(parts.replace(blocks=tuple(blocks)))
    for _ in range(5):
        h_tb = parts.h_tb.copy()
        entry = tuple(int(rng.integers(size)) for size in h_tb.shape)
        h_tb[entry] = np.nextafter(h_tb[entry], 9)
        changed.append(parts.replace(h_tb=h_tb))
    h_bb = parts.h_bb.copy()
    h_bb[4, 2] = h_bb[2, 4] = np.nextafter(h_bb[4, 2], 9)
    changed.append(parts.replace(h_bb=h_bb))
    prints = [other.system().fingerprint() for other in changed]
    assert base not in prints
    assert len(set(prints)) == len(prints)


def test_t66_fingerprint_ignores_gradients_and_rebuilds() -> None:
    parts = systems.ragged(9)
    system = parts.system()
    assert parts.replace(g_t=parts.g_t + 1, g_beta=parts.g_beta * 2).system().fingerprint() == system.fingerprint()
    assert system.with_gradient(parts.g_t + 1, parts.g_beta).fingerprint() == system.fingerprint()
    assert systems.ragged(9).system().fingerprint() == system.fingerprint()
    assert 0 <= system.fingerprint() < 2**64


def test_t66_fingerprint_sees_shapes_and_border_entries() -> None:
    zeros = {"h_bb": np.eye(6), "g_beta": np.zeros(6)}
    shapes = [(6, 1), (3, 2), (2, 3), (1, 6)]
    prints = {
        asn.ArrowSystem(
            np.ones((n, d, d)) + np.eye(d), np.zeros((n, d, 6)), zeros["h_bb"], np.zeros((n, d)), zeros["g_beta"]
        ).fingerprint()
        for n, d in shapes
    }
    assert len(prints) == 4
    for form in systems.FORMS:
        one = systems.random_parts([2], 9, form, 1).system().fingerprint()
        assert one == systems.random_parts([2], 9, form, 1).system().fingerprint()
        assert one != systems.random_parts([2], 9, form, 2).system().fingerprint()


def test_t66_factor_matches_systems_by_content() -> None:
    system = LS40.system()
    factor = asn.factorize(system)
    assert factor.fingerprint == system.fingerprint()
    assert factor.matches(system)
    assert factor.matches(LS40.system())
    assert factor.matches(system.with_gradient(np.zeros((40, 3)), np.ones(17)))
    assert not factor.matches(HAND.system())
    assert not factor.matches(LS40.replace(h_bb=LS40.h_bb + 1e-9 * np.eye(17)).system())


def test_fingerprints_are_kept() -> None:
    """26.22: lazy and cached. The second question is answered without a pass over the data."""
    system = asn.fixtures.coupled_fixture(4000, 4, 256, seed=1, coupling=0.5, border="dense").system()
    start = time.perf_counter()
    first = system.fingerprint()
    middle = time.perf_counter()
    assert all(system.fingerprint() == first for _ in range(10))
    assert time.perf_counter() - middle < max(middle - start, 1e-3)


# ---- ownership ------------------------------------------------------------------------------------------------------
def test_a_factor_with_copies_is_independent_of_the_callers_arrays() -> None:
    h_tt, h_tb, g_t = LS40.stacked()
    h_bb, g_beta = LS40.h_bb.copy(), LS40.g_beta.copy()
    system = asn.ArrowSystem(h_tt, h_tb, h_bb, g_t, g_beta)
    expected = asn.newton_step(system)
    factor = asn.factorize(system, copy=True)
    w_t, w_beta = columns(LS40, 1)
    x_t, x_beta = factor.solve(w_t, w_beta)

    for array in (h_tt, h_tb, h_bb, g_t, g_beta):
        array[...] = np.nan

    assert np.array_equal(whole(factor.step()), whole(expected))
    again = factor.solve(w_t, w_beta)
    assert np.array_equal(again[0], x_t)
    assert np.array_equal(again[1], x_beta)


def test_copies_beyond_the_budget_are_refused() -> None:
    n, k = 2**13, 2**12 + 1  # just above 256 MiB of cross block, all zeros: pages that are never touched
    system = asn.ArrowSystem(
        np.ones((n, 1, 1)), np.zeros((n, 1, k)), np.ones(k), np.zeros((n, 1)), np.zeros(k), check_finite=False
    )
    with pytest.raises(asn.MemoryBudgetExceeded) as caught:
        asn.factorize(system, copy=True)
    assert caught.value.bytes_needed == 8 * n * k
    assert caught.value.budget == 256 * 2**20


def test_a_factor_keeps_its_arrays_alive() -> None:
    factor = asn.factorize(systems.ls(40, 3, 17, 1).system(), **RIDGES)
    gc.collect()
    assert reference.error(whole(factor.step()), reference.step(LS40, **RIDGES)) <= 1e-11


def test_factors_pickle() -> None:
    factor = asn.factorize(RAGGED.system(), **RIDGES)
    again = pickle.loads(pickle.dumps(factor))
    assert np.array_equal(whole(again.step()), whole(factor.step()))
    assert again.log_det() == factor.log_det()
    assert again.fingerprint == factor.fingerprint


def test_factor_reports_what_it_is() -> None:
    factor = asn.factorize(LS40.system(), **RIDGES)
    assert (factor.ridge_t, factor.ridge_beta) == (0.5, 0.25)
    assert factor.route == "direct"
    assert factor.execution_path == "cpu"
    # The border factor, at least.
    assert factor.nbytes >= 8 * 17 * 17
    assert factor.diagnostics.rows_lifted == 0
