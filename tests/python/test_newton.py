"""One step: known answers, agreement with dense algebra, the certificate, model reductions."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import systems
from systems import HAND, Parts
from test_reference import GOLDEN_HAND, HAND_RIDGES

import arrowschur_native as asn

DENSE_ROUTES = ("auto", "direct", "sqrt_ba")
GUARDS = ("relative", "absolute")


def whole(step: asn.NewtonStep) -> np.ndarray:
    """The step as one vector."""
    return np.concatenate((step.delta_t.ravel(), step.delta_beta))


# ---- known answer ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("guards", GUARDS)
@pytest.mark.parametrize("mode", DENSE_ROUTES)
@pytest.mark.parametrize("column", [0, 1])
def test_t01_hand_every_route(column: int, mode: str, guards: str) -> None:
    system = HAND.system()
    ridge_t, ridge_beta = HAND_RIDGES[column]
    options = asn.SolveOptions(mode=mode, guards=guards)

    step = asn.newton_step(system, ridge_t=ridge_t, ridge_beta=ridge_beta, options=options)
    factor = asn.factorize(system, ridge_t=ridge_t, ridge_beta=ridge_beta, options=options)

    np.testing.assert_allclose(step.delta_t.ravel(), GOLDEN_HAND["delta_t"][column], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(step.delta_beta, GOLDEN_HAND["delta_beta"][column], rtol=1e-13)
    slope = system.gradient_dot(step.delta_t, step.delta_beta)
    assert slope == pytest.approx(GOLDEN_HAND["slope"][column], rel=1e-13)
    assert factor.log_det() == pytest.approx(GOLDEN_HAND["log_det"][column], rel=1e-13)
    np.testing.assert_allclose(factor.latent_inverse_diagonal(), GOLDEN_HAND["latent_diagonal"][column], rtol=1e-12)
    np.testing.assert_allclose(factor.schur_apply([1.0, 0.0, 0.0]), GOLDEN_HAND["schur_0"][column], rtol=1e-8)
    np.testing.assert_allclose(factor.schur_apply(step.delta_beta), GOLDEN_HAND["r"][column], rtol=1e-8)
    assert step.route == {"auto": "direct"}.get(mode, mode)
    assert step.diagnostics.rows_lifted == 0
    assert step.diagnostics.ridge_escalations == 0


def test_sqrt_ba_and_direct_give_the_same_bits() -> None:
    system = systems.ls(64, 4, 200, 4).system()
    one = asn.newton_step(system, options=asn.SolveOptions(mode="direct"))
    other = asn.newton_step(system, options=asn.SolveOptions(mode="sqrt_ba"))
    assert (one.route, other.route) == ("direct", "sqrt_ba")
    assert np.array_equal(whole(one), whole(other))


# ---- other route ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("guards", GUARDS)
@pytest.mark.parametrize("mode", ["direct", "sqrt_ba"])
@pytest.mark.parametrize("shape", [(40, 3, 17, 1), (300, 2, 64, 3), (64, 4, 200, 4)])
def test_t02_ls_against_dense(shape: tuple[int, int, int, int], mode: str, guards: str) -> None:
    parts = systems.ls(*shape)

    step = asn.newton_step(parts.system(), options=asn.SolveOptions(mode=mode, guards=guards))

    assert reference.error(whole(step), reference.step(parts)) <= 1e-11
    assert step.diagnostics.backward_error <= 1e-14
    assert step.diagnostics.rows_lifted == 0


@pytest.mark.parametrize("shape", [(40, 3, 17, 1), (64, 4, 200, 4)])
def test_schur_complement_agrees_with_the_literal_direct_arithmetic(shape: tuple[int, int, int, int]) -> None:
    parts = systems.ls(*shape)
    literal = reference.direct(parts, 0.25, 0.5)

    factor = asn.factorize(parts.system(), ridge_t=0.25, ridge_beta=0.5)
    schur = factor.schur_apply(np.eye(parts.k))

    assert np.abs(schur - literal.schur).max() <= 1e-12 * np.abs(literal.schur).max()
    assert factor.log_det() == pytest.approx(literal.log_det, rel=1e-12)


@pytest.mark.parametrize("ridges", [(0.0, 0.0), (0.5, 0.25)])
def test_t03_ragged_against_dense(ridges: tuple[float, float]) -> None:
    parts = systems.ragged(9)

    step = asn.newton_step(parts.system(), ridge_t=ridges[0], ridge_beta=ridges[1])

    assert reference.error(whole(step), reference.step(parts, ridge_t=ridges[0], ridge_beta=ridges[1])) <= 1e-11
    assert step.delta_t.shape == (parts.total,)


@pytest.mark.parametrize(
    "shape", [(40, 3, 17, 1), (300, 2, 64, 3), (64, 4, 200, 4), (5, 17, 9, 2), (3, 40, 9, 2), (700, 6, 96, 5)]
)
def test_t03_uniform_given_as_ragged_has_the_same_bits(shape: tuple[int, int, int, int]) -> None:
    parts = systems.ls(*shape)
    stacked, flat = parts.system(), parts.system(ragged=True)

    one, other = asn.newton_step(stacked, ridge_t=0.125), asn.newton_step(flat, ridge_t=0.125)

    assert np.array_equal(whole(one), whole(other))
    assert one.delta_t.shape == (shape[0], shape[1])
    assert other.delta_t.shape == (parts.total,)


def test_ragged_rows_given_as_blocks_have_the_bits_of_the_flat_buffer() -> None:
    parts = systems.ragged(9)
    blocks = asn.ArrowSystem(list(parts.blocks), parts.h_tb, parts.h_bb, parts.g_t, parts.g_beta)
    assert blocks.row_dims.tolist() == parts.dims.tolist()
    assert blocks.row_offsets.tolist() == parts.offsets
    assert np.array_equal(whole(asn.newton_step(blocks)), whole(asn.newton_step(parts.system())))


# Sizes on both sides of every switch in the implementation: specialised and dynamic row kernels (16), rows through BLAS
# (32), panels of border columns (24, 48), thin and wide borders (512), a second chunk of rows.
@pytest.mark.parametrize(
    ("n", "d", "k"),
    [
        *((9, d, 7) for d in range(1, 18)),
        (4, 31, 5), (4, 32, 5), (4, 33, 5), (2, 70, 5),
        *((20, 2, k) for k in (1, 2, 7, 8, 9, 23, 24, 25, 47, 48, 49, 191, 192, 193)),
        (130, 2, 511), (130, 2, 512), (130, 2, 513), (400, 3, 600),
        (255, 1, 33), (256, 1, 33), (257, 1, 33), (3000, 1, 129), (900, 3, 144),
    ],
)  # fmt: skip
def test_every_kernel_size_against_dense(n: int, d: int, k: int) -> None:
    parts = systems.random_parts([d] * n, k, "dense", n + 100 * d + k, coupling=0.7)

    step = asn.newton_step(parts.system(), ridge_t=0.0625, ridge_beta=0.03125)

    expected = reference.step(parts, ridge_t=0.0625, ridge_beta=0.03125)
    assert reference.error(step.delta_t, expected[: parts.total]) <= 1e-11
    assert reference.error(step.delta_beta, expected[parts.total :]) <= 1e-11
    assert step.diagnostics.backward_error <= 1e-14


@pytest.mark.parametrize("form", systems.FORMS)
@pytest.mark.parametrize("k", [1, 13, 40])
def test_every_border_form_against_dense(form: str, k: int) -> None:
    parts = systems.random_parts([2, 0, 3, 3, 1, 5], k, form, 17 + k)
    system = parts.system()

    step = asn.newton_step(system, ridge_beta=0.5)

    assert reference.error(whole(step), reference.step(parts, ridge_beta=0.5)) <= 1e-12
    np.testing.assert_allclose(system.border.to_dense(), parts.h_bb, atol=1e-15)
    np.testing.assert_allclose(system.border.diagonal(), np.diagonal(parts.h_bb), atol=1e-15)
    np.testing.assert_allclose(system.border.matvec(np.eye(k)), parts.h_bb, atol=1e-15)
    np.testing.assert_allclose(system.to_dense()[0], reference.dense(parts)[0], atol=1e-15)


@pytest.mark.parametrize("form", systems.FORMS)
def test_apply_against_dense(form: str) -> None:
    parts = systems.random_parts([2, 0, 3, 3, 1, 5], 13, form, 5)
    rng = np.random.default_rng(0)
    x_t, x_beta = rng.normal(size=parts.total), rng.normal(size=parts.k)
    damping_t, damping_beta = rng.uniform(size=parts.total), rng.uniform(size=parts.k)
    ridges = {"ridge_t": 0.5, "ridge_beta": 0.25, "damping_t": damping_t, "damping_beta": damping_beta}

    y_t, y_beta = parts.system().apply(x_t, x_beta, **ridges)

    h, _ = reference.dense(parts, **ridges)
    np.testing.assert_allclose(np.concatenate((y_t, y_beta)), h @ np.concatenate((x_t, x_beta)), rtol=0, atol=1e-13)


# ---- certificate ----------------------------------------------------------------------------------------------------
def certificate(parts: Parts, step: asn.NewtonStep, **ridges: object) -> float:
    """The backward error of a returned step, from `system.apply` and the norm of the dense matrix."""
    system = parts.system()
    y_t, y_beta = system.apply(step.delta_t, step.delta_beta, **ridges)  # type: ignore[arg-type]
    h, g = reference.dense(parts, **ridges)  # type: ignore[arg-type]
    residual = np.abs(np.concatenate((y_t.ravel(), y_beta)) + g).max(initial=0.0)
    scale = reference.norm_inf(h) * np.abs(whole(step)).max(initial=0.0) + np.abs(g).max(initial=0.0)
    return float(residual / scale) if scale > 0 else float(residual)


def agree(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-3 * max(one, other) or max(one, other) < 1e-16


@pytest.mark.parametrize("ridges", [(0.0, 0.0), (0.5, 0.25)])
@pytest.mark.parametrize("parts", [HAND, systems.ls(40, 3, 17, 1), systems.ragged(9)], ids=["hand", "ls", "ragged"])
def test_t32_certificate_of_an_accurate_step(parts: Parts, ridges: tuple[float, float]) -> None:
    step = asn.newton_step(parts.system(), ridge_t=ridges[0], ridge_beta=ridges[1])
    measured = certificate(parts, step, ridge_t=ridges[0], ridge_beta=ridges[1])
    # Both are sums of rounding errors here, made in different orders.
    assert max(step.diagnostics.backward_error, measured) < 1e-15
    assert step.diagnostics.backward_error_effective == step.diagnostics.backward_error


@pytest.mark.parametrize("parts", [HAND, systems.ls(40, 3, 17, 1), systems.ragged(9)], ids=["hand", "ls", "ragged"])
def test_t32_certificate_of_an_inexact_step(parts: Parts) -> None:
    step = asn.newton_step(parts.system(), options=asn.SolveOptions(precision="float32"))
    assert step.diagnostics.backward_error > 1e-10
    assert agree(step.diagnostics.backward_error, certificate(parts, step))


def test_t32_certificate_of_a_lifted_step() -> None:
    parts = systems.rows_of_t89(-0.3)
    step = asn.newton_step(parts.system())
    assert step.diagnostics.rows_lifted == 2
    assert agree(step.diagnostics.backward_error, certificate(parts, step))
    assert step.diagnostics.backward_error > 1e-4
    ridges = reference.relative_row_ridges(parts, [5, 17])
    h, g = reference.dense(parts, row_ridges=ridges)
    assert reference.backward_error(h, whole(step), -g) < 1e-14
    assert step.diagnostics.backward_error_effective < 1e-14


@pytest.mark.parametrize("guards", GUARDS)
def test_t32_certificate_of_an_escalated_step(guards: str) -> None:
    parts = systems.collapse(1.0)
    step = asn.newton_step_escalated(parts.system(), options=asn.SolveOptions(guards=guards))
    d = step.diagnostics
    assert d.ridge_escalations > 0
    assert agree(d.backward_error, certificate(parts, step))
    assert d.backward_error > 1e-3
    effective = certificate(parts, step, ridge_t=d.ridge_t, ridge_beta=d.ridge_beta)
    assert max(d.backward_error_effective, effective) < 1e-15


@pytest.mark.parametrize("parts", [HAND, systems.ls(40, 3, 17, 1)], ids=["hand", "ls"])
def test_t32_unreachable_tolerance_is_a_certificate_error(parts: Parts) -> None:
    with pytest.raises(asn.CertificateError) as caught:
        asn.newton_step(parts.system(), options=asn.SolveOptions(certificate_tolerance=1e-20))
    assert caught.value.tolerance == 1e-20
    assert 1e-20 < caught.value.backward_error < 1e-14
    assert caught.value.cured_by_ridge


def test_t32_a_reachable_tolerance_is_no_error() -> None:
    step = asn.newton_step(HAND.system(), options=asn.SolveOptions(certificate_tolerance=1e-14))
    assert step.diagnostics.backward_error <= 1e-14


def test_certificate_off_measures_nothing_and_changes_nothing() -> None:
    system = systems.ls(40, 3, 17, 1).system()
    on, off = asn.newton_step(system), asn.newton_step(system, options=asn.SolveOptions(certificate=False))
    assert np.isnan(off.diagnostics.backward_error)
    assert np.array_equal(whole(on), whole(off))


def test_norm_of_overlapping_border_terms_is_a_bound_and_says_so() -> None:
    parts = systems.random_parts([2, 3], 9, "dense + block_diagonal", 4)
    step = asn.newton_step(parts.system(), options=asn.SolveOptions(precision="float32"))
    assert step.diagnostics.norm_is_bound
    assert step.diagnostics.backward_error <= certificate(parts, step) * (1 + 1e-3)
    one = systems.random_parts([2, 3], 9, "banded + diagonal", 4)
    assert not asn.newton_step(one.system()).diagnostics.norm_is_bound


# ---- row residuals --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("parts", [HAND, systems.ls(40, 3, 17, 1), systems.ragged(9)], ids=["hand", "ls", "ragged"])
def test_row_residuals_are_at_roundoff(parts: Parts) -> None:
    step = asn.newton_step(parts.system(), ridge_t=0.125)
    delta_t = step.delta_t.ravel()
    for i, (a, b) in enumerate(zip(parts.offsets[:-1], parts.offsets[1:], strict=True)):
        block, cross = parts.blocks[i] + 0.125 * np.eye(b - a), parts.h_tb[a:b]
        residual = block @ delta_t[a:b] + cross @ step.delta_beta + parts.g_t[a:b]
        bound = (
            np.linalg.norm(block) * np.linalg.norm(delta_t[a:b])
            + np.linalg.norm(cross) * np.linalg.norm(step.delta_beta)
            + np.linalg.norm(parts.g_t[a:b])
        )
        assert np.linalg.norm(residual) <= 16 * max(b - a, 1) * reference.EPS * bound


def test_predict_at_any_border_step_has_row_residuals_at_roundoff() -> None:
    parts = systems.ls(40, 3, 17, 1)
    delta_beta = np.linspace(-2, 3, 17)
    delta_t = asn.factorize(parts.system()).predict(delta_beta, parts.g_t)
    residual = np.einsum("nij,nj->ni", np.stack(parts.blocks), delta_t).ravel() + parts.h_tb @ delta_beta + parts.g_t
    assert np.abs(residual).max() < 1e-13


# ---- model reductions -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("column", [0, 1])
def test_t29_model_reductions_of_hand(column: int) -> None:
    system = HAND.system()
    ridge_t, ridge_beta = HAND_RIDGES[column]
    step = asn.newton_step(system, ridge_t=ridge_t, ridge_beta=ridge_beta)

    damped, bare = (
        asn.model_reduction(
            system, step.delta_t, step.delta_beta, ridge_t=ridge_t, ridge_beta=ridge_beta, damped=damped
        )
        for damped in (True, False)
    )

    assert damped == pytest.approx(GOLDEN_HAND["damped"][column], rel=1e-13)
    assert bare == pytest.approx(GOLDEN_HAND["bare"][column], rel=1e-13)
    assert damped == pytest.approx(-0.5 * system.gradient_dot(step.delta_t, step.delta_beta), rel=1e-13)


def test_t29_bare_reduction_is_the_decrease_of_the_quadratic() -> None:
    parts = systems.ls(40, 3, 17, 1)
    h, g = reference.dense(parts)
    x = np.random.default_rng(3).normal(size=parts.total + parts.k)

    bare = asn.model_reduction(
        parts.system(), x[: parts.total].reshape(40, 3), x[parts.total :], ridge_t=0.5, ridge_beta=0.25
    )

    assert bare == pytest.approx(-(g @ x + x @ h @ x / 2), rel=1e-9)


def test_reductions_with_diagonal_damping() -> None:
    parts = systems.ls(40, 3, 17, 1)
    rng = np.random.default_rng(3)
    ridges = {
        "ridge_t": 0.5,
        "ridge_beta": 0.25,
        "damping_t": rng.uniform(size=120),
        "damping_beta": rng.uniform(size=17),
    }
    step = asn.newton_step(parts.system(), **ridges)
    x = whole(step)
    bare_h, g = reference.dense(parts)
    h, _ = reference.dense(parts, **ridges)

    damped = asn.model_reduction(parts.system(), step.delta_t, step.delta_beta, **ridges, damped=True)
    bare = asn.model_reduction(parts.system(), step.delta_t, step.delta_beta, **ridges)

    assert damped == pytest.approx(-(g @ x + x @ h @ x / 2), rel=1e-12)
    assert bare == pytest.approx(-(g @ x + x @ bare_h @ x / 2), rel=1e-12)


# ---- gradients ------------------------------------------------------------------------------------------------------
def test_gradient_norm_and_dot() -> None:
    parts = systems.ragged(9)
    system = parts.system()
    g = np.concatenate((parts.g_t, parts.g_beta))
    x = np.random.default_rng(0).normal(size=g.size)
    assert system.gradient_norm() == pytest.approx(np.linalg.norm(g), rel=1e-14)
    assert system.gradient_dot(x[: parts.total], x[parts.total :]) == pytest.approx(g @ x, rel=1e-12)


def test_with_gradient_shares_every_block() -> None:
    parts = systems.ls(40, 3, 17, 1)
    rng = np.random.default_rng(0)
    g_t, g_beta = rng.normal(size=(40, 3)), rng.normal(size=17)
    system = parts.system()

    other = system.with_gradient(g_t, g_beta)

    assert other.h_tb is system.h_tb
    assert other.h_tt is system.h_tt
    expected = reference.step(parts.replace(g_t=g_t.ravel(), g_beta=g_beta))
    assert reference.error(whole(asn.newton_step(other)), expected) <= 1e-11


# ---- float32 --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("parts", [HAND, systems.ls(64, 4, 200, 4), systems.ragged(9)], ids=["hand", "ls", "ragged"])
def test_float32_arithmetic_is_certified_in_float64(parts: Parts) -> None:
    step = asn.newton_step(parts.system(), options=asn.SolveOptions(precision="float32"))
    error = reference.error(whole(step), reference.step(parts))
    assert step.diagnostics.precision == "float32"
    assert step.delta_t.dtype == step.delta_beta.dtype == np.float64
    assert 1e-10 < error < 1e-3
    assert step.diagnostics.backward_error <= 64 * 2.0**-24


def test_float32_inputs_are_solved_in_float64_arithmetic() -> None:
    parts = systems.ls(40, 3, 17, 1)
    h_tt, h_tb, g_t = (part.astype(np.float32) for part in parts.stacked())
    h_bb, g_beta = parts.h_bb.astype(np.float32), parts.g_beta.astype(np.float32)
    system = asn.ArrowSystem(h_tt, h_tb, h_bb, g_t, g_beta)
    rounded = systems.uniform(h_tt, h_tb, h_bb, g_t, g_beta)

    step = asn.newton_step(system)

    assert system.dtype == np.float32
    assert step.delta_t.dtype == np.float64
    assert reference.error(whole(step), reference.step(rounded)) <= 1e-11
    assert step.diagnostics.backward_error <= 1e-14


def test_float32_inputs_and_float32_arithmetic() -> None:
    parts = systems.ls(300, 2, 64, 3)
    h_tt, h_tb, g_t = (part.astype(np.float32) for part in parts.stacked())
    h_bb, g_beta = parts.h_bb.astype(np.float32), parts.g_beta.astype(np.float32)
    rounded = systems.uniform(h_tt, h_tb, h_bb, g_t, g_beta)

    step = asn.newton_step(
        asn.ArrowSystem(h_tt, h_tb, h_bb, g_t, g_beta), options=asn.SolveOptions(precision="float32")
    )

    assert reference.error(whole(step), reference.step(rounded)) < 1e-3
    assert step.diagnostics.backward_error <= 64 * 2.0**-24
    assert agree(step.diagnostics.backward_error, certificate(rounded, step))


# ---- Gauss-Newton ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weights", ["none", "per block", "per residual"])
def test_from_jacobians_forms_the_normal_equations(weights: str) -> None:
    rng = np.random.default_rng(1)
    n, r, q, d, k = 6, 20, 4, 2, 5
    j_t, j_beta, e = rng.normal(size=(r, q, d)), rng.normal(size=(r, q, k)), rng.normal(size=(r, q))
    rows = rng.integers(0, n, r)
    rows[:n] = np.arange(n)
    given = {"none": None, "per block": rng.uniform(1, 2, r), "per residual": rng.uniform(1, 2, (r, q))}[weights]
    w = np.ones((r, q)) if given is None else np.broadcast_to(given.reshape(r, -1), (r, q))
    prior_t, prior_beta = np.eye(d), np.eye(k)

    system = asn.ArrowSystem.from_jacobians(
        j_t, j_beta, e, weights=given, row_index=rows, n=n, h_tt=prior_t, h_bb=prior_beta
    )

    whole_j = np.zeros((r * q, n * d + k))
    for b in range(r):
        whole_j[b * q : (b + 1) * q, rows[b] * d : (rows[b] + 1) * d] = j_t[b]
        whole_j[b * q : (b + 1) * q, n * d :] = j_beta[b]
    h, g = system.to_dense()
    np.testing.assert_allclose(h, whole_j.T @ (w.reshape(-1, 1) * whole_j) + np.eye(n * d + k), atol=1e-12)
    np.testing.assert_allclose(g, whole_j.T @ (w.ravel() * e.ravel()), atol=1e-12)


def test_from_jacobians_keeps_a_structured_prior_as_a_term() -> None:
    rng = np.random.default_rng(1)
    j_t, j_beta, e = rng.normal(size=(7, 4, 2)), rng.normal(size=(7, 4, 3)), rng.normal(size=(7, 4))
    bands = np.array([[4.0, 4.0, 4.0], [-1.0, -1.0, 0.0]])

    system = asn.ArrowSystem.from_jacobians(j_t, j_beta, e, h_bb=asn.BandedBorder(bands))

    expected = np.einsum("bqk,bql->kl", j_beta, j_beta) + asn.BandedBorder(bands).to_dense()
    np.testing.assert_allclose(system.border.to_dense(), expected, atol=1e-13)
    assert isinstance(system.border, asn.BorderSum)


# ---- reduced systems ------------------------------------------------------------------------------------------------
def test_solve_reduced_solves_and_escalates_the_diagonal_only() -> None:
    literal = reference.direct(systems.ls(40, 3, 17, 1))
    step = asn.solve_reduced(literal.schur, literal.rhs)
    assert reference.error(step.delta_beta, literal.delta_beta) <= 1e-11
    assert step.delta_t.shape == (0,)

    schur = np.diag([5.0, -99.0])
    kept = schur.copy()
    lifted = asn.solve_reduced(schur, np.array([10.0, 1.0]))
    d = lifted.diagnostics
    assert d.ridge_escalations >= 1
    np.testing.assert_allclose((schur + d.ridge_beta * np.eye(2)) @ lifted.delta_beta, [10.0, 1.0], rtol=1e-12)
    assert np.array_equal(schur, kept)


def test_solve_reduced_symmetrises_in_a_copy() -> None:
    schur = np.array([[4.0, 1.5], [0.5, 3.0]])
    step = asn.solve_reduced(schur, [1.0, 2.0])
    np.testing.assert_allclose(step.delta_beta, np.linalg.solve([[4.0, 1.0], [1.0, 3.0]], [1.0, 2.0]), rtol=1e-14)
