"""Row blocks: guards, lifts, evidence mode."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import reference
import systems
from systems import BARELY, PIVOTS, Parts, indefinite_row, rows_of_t89, uniform
from test_newton import whole

import arrowschur_native as asn

EVIDENCE = asn.SolveOptions(tolerate_ill_conditioning=True)


def policy(guards: str, row_lift: str = "indefinite") -> asn.SolveOptions:
    return asn.SolveOptions(guards=guards, row_lift=row_lift)


def row_alone(block: np.ndarray) -> Parts:
    """One row block without a border."""
    d = block.shape[0]
    return uniform([block], np.zeros((1, d, 0)), np.zeros((0, 0)), [np.ones(d)], np.zeros(0))


def row_ridges_of(parts: Parts, step: asn.NewtonStep, rows: list[int]) -> list[float]:
    """The ridge that each row was solved with, from its equation `(H_i + ridge I) dt + B db = -g`."""
    ridges = []
    for i in rows:
        piece = slice(parts.offsets[i], parts.offsets[i + 1])
        dt = step.delta_t.ravel()[piece]
        rest = -(parts.g_t[piece] + parts.h_tb[piece] @ step.delta_beta) - parts.blocks[i] @ dt
        ridges.append(float(rest @ dt / (dt @ dt)))
    return ridges


# ---- T05: a block that is barely positive definite ------------------------------------------------------------------
def test_t05_barely_is_lifted_four_times_by_the_absolute_ladder() -> None:
    step = asn.newton_step(row_alone(BARELY.blocks[0]).system(), options=policy("absolute", "guard"))
    assert step.diagnostics.rows_lifted == 1
    assert step.diagnostics.row_ridge_max == pytest.approx(1e-7, rel=1e-12)
    assert step.diagnostics.kappa_rows_max <= 2.0**25


def test_t05_barely_is_shifted_once_by_the_relative_guard() -> None:
    step = asn.newton_step(row_alone(BARELY.blocks[0]).system(), options=policy("relative", "guard"))
    assert step.diagnostics.rows_lifted == 1
    assert step.diagnostics.row_ridge_max == pytest.approx(9.54e-7, rel=1e-3)
    assert step.diagnostics.kappa_rows_max <= 2.0**26


@pytest.mark.parametrize("guards", ["absolute", "relative"])
def test_t05_barely_is_kept_in_evidence_mode(guards: str) -> None:
    options = EVIDENCE.replace(guards=guards, row_lift="guard")
    factor = asn.factorize(row_alone(BARELY.blocks[0]).system(), options=options)
    # The factor is [[1, 0], [1, 2^-23]]: its determinant and pivots are known exactly.
    assert factor.diagnostics.rows_lifted == 0
    assert factor.log_det() == pytest.approx(-46 * np.log(2), rel=1e-12)
    assert factor.min_pivot().rows == 2.0**-46
    assert factor.max_pivot().rows == 1.0


def test_barely_is_positive_definite_and_not_lifted_by_default() -> None:
    step = asn.newton_step(row_alone(BARELY.blocks[0]).system())
    assert step.diagnostics.rows_lifted == 0
    assert step.diagnostics.kappa_rows_max > 2.0**45
    np.testing.assert_allclose(BARELY.blocks[0] @ step.delta_t[0], [-1, -1], atol=1e-15)


@pytest.mark.parametrize("guards", ["absolute", "relative"])
def test_barely_is_positive_definite_and_kept_when_lifts_are_forbidden(guards: str) -> None:
    step = asn.newton_step(row_alone(BARELY.blocks[0]).system(), options=policy(guards, "never"))
    assert step.diagnostics.rows_lifted == 0
    np.testing.assert_allclose(BARELY.blocks[0] @ step.delta_t[0], [-1, -1], atol=1e-15)


def test_the_absolute_policy_lifts_rows_that_miss_the_guard_by_default() -> None:
    """It reproduces the reference behaviour, whose ladder does not tell the two reasons apart."""
    system = row_alone(BARELY.blocks[0]).system()
    one, other = (asn.newton_step(system, options=policy("absolute", lift)) for lift in ("indefinite", "guard"))
    assert one.diagnostics.rows_lifted == 1
    assert np.array_equal(whole(one), whole(other))


def test_a_row_that_no_finite_shift_makes_safe_is_ill_conditioned() -> None:
    # Positive definite with condition 2^41, and so large that the norm behind the shift overflows.
    large = np.full((2, 2), 1.5e308) * np.array([[1, 1 - 2.0**-40], [1 - 2.0**-40, 1]])
    with pytest.raises(asn.RowIllConditioned) as caught:
        asn.newton_step(row_alone(large).system(), options=policy("relative", "guard"))
    assert caught.value.row == 0
    assert caught.value.kappa_estimate > 2.0**40
    assert caught.value.cured_by_ridge


# ---- T06: a tiny 1 x 1 block ----------------------------------------------------------------------------------------
def test_t06_tiny_row_is_lifted_by_the_absolute_guard() -> None:
    factor = asn.factorize(row_alone(np.array([[1e-20]])).system(), options=policy("absolute", "guard"))
    assert factor.diagnostics.row_ridge_max == pytest.approx(1e-7, rel=1e-12)
    assert factor.min_pivot().rows >= 2.0**-26


@pytest.mark.parametrize("row_lift", ["indefinite", "guard", "never"])
def test_t06_tiny_row_is_fine_for_the_relative_guard(row_lift: str) -> None:
    factor = asn.factorize(row_alone(np.array([[1e-20]])).system(), options=policy("relative", row_lift))
    assert factor.diagnostics.rows_lifted == 0
    assert factor.min_pivot().rows == pytest.approx(1e-20, abs=1e-30)


def test_t06_tiny_row_in_evidence_mode() -> None:
    factor = asn.factorize(row_alone(np.array([[1e-20]])).system(), options=EVIDENCE.replace(guards="absolute"))
    assert factor.min_pivot().rows == pytest.approx(1e-20, abs=1e-30)


# ---- T07, T08: an indefinite row ------------------------------------------------------------------------------------
def test_t07_indefinite_row_beyond_the_absolute_cap() -> None:
    system = indefinite_row().system()
    with pytest.raises(asn.RowFactorError) as caught:
        asn.newton_step(system, options=policy("absolute"))
    error = caught.value
    assert (error.row, error.pivot_index, error.pivot) == (0, 1, -3.0)
    assert error.base_ridge == 0.0
    assert error.last_ridge == pytest.approx(1.0)
    assert error.suggested_ridge > 1
    assert error.cured_by_ridge

    step = asn.newton_step(system, ridge_t=error.suggested_ridge, options=policy("absolute"))
    assert step.diagnostics.rows_lifted == 0
    assert step.diagnostics.backward_error < 1e-14


def test_t07_indefinite_row_is_shifted_by_twice_its_deficit() -> None:
    step = asn.newton_step(indefinite_row().system())
    assert step.diagnostics.rows_lifted == 1
    assert step.diagnostics.row_ridge_max == pytest.approx(2.0000024, abs=1e-6)


@pytest.mark.parametrize("guards", ["absolute", "relative"])
def test_t07_indefinite_row_in_evidence_mode(guards: str) -> None:
    with pytest.raises(asn.RowFactorError) as caught:
        asn.factorize(indefinite_row().system(), options=EVIDENCE.replace(guards=guards))
    assert caught.value.row == 0
    assert not isinstance(caught.value, asn.RowIllConditioned)


@pytest.mark.parametrize("guards", ["absolute", "relative"])
def test_indefinite_row_is_an_error_when_lifts_are_forbidden(guards: str) -> None:
    system = indefinite_row().system()
    with pytest.raises(asn.RowFactorError) as caught:
        asn.newton_step(system, options=policy(guards, "never"))
    assert caught.value.row == 0
    step = asn.newton_step(system, ridge_t=caught.value.suggested_ridge, options=policy(guards, "never"))
    assert step.diagnostics.backward_error < 1e-14


@pytest.mark.parametrize(("guards", "ridge", "requested"), [("absolute", 10.0, 0.78), ("relative", 2.0000024, 0.47)])
def test_t08_lifted_row_reports_both_backward_errors(guards: str, ridge: float, requested: float) -> None:
    step = asn.newton_step(indefinite_row().system(), ridge_t=1e-8, options=policy(guards))
    d = step.diagnostics
    assert d.rows_lifted == 1
    assert d.row_ridge_max == pytest.approx(ridge, rel=1e-7)
    assert d.backward_error == pytest.approx(requested, abs=0.005)
    assert d.backward_error_effective <= 1e-14
    assert d.ridge_t == 1e-8


def test_a_lift_is_logged_once_per_call_as_a_warning(log: pytest.LogCaptureFixture) -> None:
    system = rows_of_t89(-0.3).system()
    asn.newton_step(system)
    warnings = [record for record in log.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].name == "arrowschur_native"
    assert "2 row" in warnings[0].getMessage()


def test_a_healthy_solve_logs_no_warning(log: pytest.LogCaptureFixture) -> None:
    asn.newton_step(systems.HAND.system())
    assert [record for record in log.records if record.levelno >= logging.WARNING] == []


# ---- T09: which row is reported -------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", range(1, 9))
@pytest.mark.parametrize("ragged", [False, True])
def test_t09_the_lowest_failing_row_is_reported(threads: int, ragged: bool) -> None:
    parts = systems.ls(3000, 2, 3, 7)
    blocks = list(parts.blocks)
    for row in (1777, 2950):
        blocks[row] = np.array([[1.0, 2.0], [2.0, 1.0]])
    parts = parts.replace(blocks=tuple(blocks))
    if ragged:  # the failing rows lie in different buckets
        extra = uniform([[[-1.0]]], np.zeros((1, 1, 3)), np.eye(3), [[0.0]], np.zeros(3))
        parts = parts.replace(
            blocks=(*parts.blocks[:2000], *extra.blocks, *parts.blocks[2000:]),
            h_tb=np.concatenate((parts.h_tb[:4000], extra.h_tb, parts.h_tb[4000:])),
            g_t=np.concatenate((parts.g_t[:4000], extra.g_t, parts.g_t[4000:])),
        )
        assert set(parts.dims.tolist()) == {1, 2}
    with pytest.raises(asn.RowFactorError) as caught:
        asn.factorize(parts.system(), options=EVIDENCE.replace(num_threads=threads))
    assert caught.value.row == 1777
    assert caught.value.pivot_index == 1


# ---- T11 (relative): a lift that counts the coupling ----------------------------------------------------------------
def test_t11_relative_lift_keeps_the_border_positive_definite() -> None:
    options = policy("relative", "guard")
    step = asn.newton_step(BARELY.system(), options=options)
    assert step.diagnostics.rows_lifted == 1
    assert step.diagnostics.row_ridge_max == pytest.approx(0.9, abs=1e-12)
    schur = asn.factorize(BARELY.system(), options=options).schur_apply(np.eye(2))
    assert np.linalg.eigvalsh(schur).min() > 0


# ---- T81, T89 -------------------------------------------------------------------------------------------------------
def test_t81_unit_pivots_do_not_hide_the_condition() -> None:
    step = asn.newton_step(PIVOTS.system(), options=policy("relative", "guard"))
    assert step.diagnostics.rows_lifted == 1
    assert step.diagnostics.kappa_rows_max <= 2.0**26
    kept = asn.newton_step(PIVOTS.system())
    assert kept.diagnostics.rows_lifted == 0
    assert kept.diagnostics.kappa_rows_max == pytest.approx(8.7e9, rel=0.05)


def test_t81_bad_scaling_is_not_bad_condition() -> None:
    block = np.array([[1.0, 1000.0], [1000.0, 1000001.0]])
    for row_lift in ("indefinite", "guard", "never"):
        step = asn.newton_step(row_alone(block).system(), options=policy("relative", row_lift))
        assert step.diagnostics.rows_lifted == 0
        assert step.diagnostics.kappa_rows_max == pytest.approx(4.0e6, rel=0.05)


@pytest.mark.parametrize("d", [33, 40])
def test_the_condition_of_large_rows_is_estimated_too(d: int) -> None:
    lower = np.eye(d) - np.tril(np.ones((d, d)), -1)
    parts = row_alone(lower @ lower.T)
    assert asn.newton_step(parts.system()).diagnostics.kappa_rows_max > 1e12
    assert asn.newton_step(parts.system(), options=policy("relative", "guard")).diagnostics.rows_lifted == 1


@pytest.mark.parametrize(
    ("last", "ridges"), [(-0.3, (1.66337, 1.74372)), (0.0, (1.06337, 1.14372)), (1e-9, (1.06337, 1.14372))]
)
def test_t89_flat_and_indefinite_rows_leave_the_border_alone(last: float, ridges: tuple[float, float]) -> None:
    parts = rows_of_t89(last)
    options = policy("relative", "guard")

    step = asn.newton_step(parts.system(), options=options)

    assert step.diagnostics.ridge_escalations == 0
    assert step.diagnostics.rows_lifted == 2
    np.testing.assert_allclose(row_ridges_of(parts, step, [5, 17]), ridges, atol=1e-5)
    assert step.diagnostics.row_ridge_max == pytest.approx(ridges[1], abs=1e-5)
    schur = asn.factorize(parts.system(), options=options).schur_apply(np.eye(17))
    assert np.linalg.eigvalsh(schur).min() > 14
    assert parts.system().gradient_dot(step.delta_t, step.delta_beta) < 0
    others = parts.rows([i for i in range(40) if i not in (5, 17)])
    alone = asn.newton_step(others.system())
    assert reference.error(step.delta_beta, alone.delta_beta) < 0.3


def test_lifted_step_equals_the_dense_step_at_the_rows_own_ridges() -> None:
    parts = rows_of_t89(-0.3)
    ridges = reference.relative_row_ridges(parts, [5, 17], 0.125)
    step = asn.newton_step(parts.system(), ridge_t=0.125)
    assert reference.error(whole(step), reference.step(parts, row_ridges=ridges)) <= 1e-11


def test_the_lift_is_continuous_in_the_ridge() -> None:
    """26.8: the ladder jumped by a factor of ten when the base ridge moved."""
    system = indefinite_row().system()
    lifts = [asn.newton_step(system, ridge_t=r).diagnostics.row_ridge_max for r in np.linspace(0, 0.5, 11)]
    assert np.all(np.abs(np.diff(lifts)) < 0.06)


def test_a_good_row_is_untouched_by_the_lift_of_another() -> None:
    """Rows without coupling: the bits of the good row do not depend on the bad one."""
    good = systems.ls(1, 3, 1, 4).blocks[0]
    h_tb, g_t = np.zeros((2, 3, 1)), np.array([[1.0, 2.0, 3.0], [0.5, 0.25, 1.0]])
    healthy = uniform([good, good], h_tb, [[1.0]], g_t, [1.0])
    ill = uniform([good, np.diag([1.0, 1.0, -1.0])], h_tb, [[1.0]], g_t, [1.0])
    one, other = asn.newton_step(healthy.system()), asn.newton_step(ill.system())
    assert other.diagnostics.rows_lifted == 1
    assert np.array_equal(one.delta_t[0], other.delta_t[0])


def test_random_symmetric_rows_pass_their_guard_after_one_shift() -> None:
    rng = np.random.default_rng(5)
    for d in (1, 2, 3, 5, 8, 16):
        q = np.linalg.qr(rng.normal(size=(60, d, d)))[0]
        spectra = rng.choice([-1.0, 1.0], (60, d)) * 10 ** rng.uniform(-9, 6, (60, d))
        blocks = np.einsum("nij,nj,nkj->nik", q, spectra, q)
        blocks = (blocks + blocks.transpose(0, 2, 1)) / 2
        for block in blocks:
            step = asn.newton_step(row_alone(block).system(), options=policy("relative", "guard"))
            ridge = step.diagnostics.row_ridge_max
            if step.diagnostics.rows_lifted:
                expected = reference.relative_row_ridges(row_alone(block), [0])[0]
                assert ridge == pytest.approx(expected, rel=1e-6)
            assert step.diagnostics.kappa_rows_max <= 2.0**26


# ---- zero rows (decision 2) -----------------------------------------------------------------------------------------
def test_a_zero_row_takes_its_scale_from_the_system() -> None:
    parts = systems.ls(5, 2, 3, 4)
    blocks = (*parts.blocks[:4], np.zeros((2, 2)))
    h_tb = parts.h_tb.copy()
    h_tb[8:] = 0.0
    system = parts.replace(blocks=blocks, h_tb=h_tb).system()

    step = asn.newton_step(system)

    assert step.diagnostics.rows_lifted == 1
    assert 0 < step.diagnostics.row_ridge_max < 1e-3
    assert np.isfinite(whole(step)).all()


def test_a_zero_row_in_a_zero_system_is_an_error_at_once() -> None:
    parts = uniform(np.zeros((1, 2, 2)), np.zeros((1, 2, 1)), [[0.0]], [[1.0, 1.0]], [1.0])
    with pytest.raises(asn.RowFactorError) as caught:
        asn.newton_step(parts.system())
    assert caught.value.row == 0


def test_a_zero_row_with_coupling_is_lifted_by_the_coupling() -> None:
    parts = systems.ls(5, 2, 3, 4)
    parts = parts.replace(blocks=(*parts.blocks[:4], np.zeros((2, 2))))
    step = asn.newton_step(parts.system())
    assert step.diagnostics.row_ridge_max == pytest.approx(reference.relative_row_ridges(parts, [4])[4], rel=1e-9)
    assert step.diagnostics.backward_error_effective < 1e-14


# ---- lifted factors -------------------------------------------------------------------------------------------------
def test_log_det_of_a_lifted_step_set_is_refused() -> None:
    factor = asn.factorize(rows_of_t89(-0.3).system())
    with pytest.raises(asn.UnsupportedConfiguration):
        factor.log_det()
    with pytest.raises(asn.UnsupportedConfiguration):
        factor.log_det_parts()


def test_evidence_set_of_an_indefinite_system_is_an_error_and_the_step_set_stays_usable() -> None:
    parts = rows_of_t89(-0.3)
    factor = asn.factorize(parts.system())
    with pytest.raises(asn.RowFactorError) as caught:
        factor.log_det(set="evidence")
    assert caught.value.row == 5
    h, g = reference.dense(parts, row_ridges=reference.relative_row_ridges(parts, [5, 17]))
    x_t, x_beta = factor.solve(parts.g_t.reshape(40, 3), parts.g_beta)
    assert reference.error(np.concatenate((x_t.ravel(), x_beta)), reference.solve(h, g)) <= 1e-11


def test_row_condition_is_reported_by_the_factor() -> None:
    block = np.array([[1.0, 1000.0], [1000.0, 1000001.0]])
    factor = asn.factorize(row_alone(block).system())
    scale = np.sqrt(np.diagonal(block))
    equilibrated = block / np.outer(scale, scale)
    expected = np.linalg.norm(equilibrated, 1) * np.linalg.norm(np.linalg.inv(equilibrated), 1)
    assert factor.condition_estimate().rows == pytest.approx(expected, rel=1e-6)
