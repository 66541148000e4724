"""The Schur complement: its guard, its errors, equilibration, escalation."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import systems
from systems import BARELY, EVID, Parts, collapse
from test_newton import whole

import arrowschur_native as asn

GUARDS = ("relative", "absolute")
EVIDENCE = asn.SolveOptions(tolerate_ill_conditioning=True)


def border_only(h_bb: np.ndarray, g_beta: np.ndarray) -> Parts:
    k = len(g_beta)
    return Parts((), np.zeros((0, k)), np.asarray(h_bb, float), np.zeros(0), np.asarray(g_beta, float))


def border_system(h_bb: np.ndarray, g_beta: np.ndarray) -> asn.ArrowSystem:
    k = len(g_beta)
    return asn.ArrowSystem(np.zeros((0, 1, 1)), np.zeros((0, 1, k)), h_bb, np.zeros((0, 1)), g_beta)


# ---- T10: a collapsed border ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("guards", GUARDS)
@pytest.mark.parametrize("mode", ["direct", "sqrt_ba"])
def test_t10_collapsed_border_is_reported_with_a_ridge_that_cures_it(guards: str, mode: str) -> None:
    system = collapse(1.0).system()
    options = asn.SolveOptions(guards=guards, mode=mode)
    with pytest.raises(asn.SchurFactorError) as caught:
        asn.newton_step(system, options=options)
    error = caught.value
    assert (error.kind, error.pivot_index) == ("non_pd", 0)
    assert error.cured_by_ridge

    step = asn.newton_step(system, ridge_beta=error.suggested_ridge, options=options)
    assert np.isfinite(whole(step)).all()
    assert step.diagnostics.ridge_beta == error.suggested_ridge


def test_suggested_border_ridges_are_those_of_the_policies() -> None:
    suggested = {}
    for guards in GUARDS:
        with pytest.raises(asn.SchurFactorError) as caught:
            asn.newton_step(collapse(1.0).system(), options=asn.SolveOptions(guards=guards))
        suggested[guards] = caught.value.suggested_ridge
    # Gershgorin's deficit 99 and a margin at rounding level; twice the most negative eigenvalue and a margin.
    assert suggested["absolute"] == pytest.approx(99.0, rel=1e-5)
    assert suggested["absolute"] > 99.0
    assert suggested["relative"] == pytest.approx(198.000001, abs=1e-5)


def test_pivot_index_is_the_failing_column() -> None:
    h_bb = np.diag([3.0, 2.0, 1.0, -1.0, 2.0])
    with pytest.raises(asn.SchurFactorError) as caught:
        asn.newton_step(border_system(h_bb, np.ones(5)))
    assert (caught.value.kind, caught.value.pivot_index) == ("non_pd", 3)


@pytest.mark.parametrize("column", [0, 5, 130, 299])
def test_pivot_index_inside_a_wide_border(column: int) -> None:
    matrix = systems.random_parts([1], 300, "dense", 1).h_bb.copy()
    matrix[column, column] = -1.0
    with pytest.raises(asn.SchurFactorError) as caught:
        asn.newton_step(border_system(matrix, np.ones(300)))
    assert caught.value.pivot_index == column
    step = asn.newton_step(border_system(matrix, np.ones(300)), ridge_beta=caught.value.suggested_ridge)
    assert np.isfinite(whole(step)).all()


def test_indefinite_evidence_system_gives_no_determinant() -> None:
    """T53: cross entries 2^-19.. become .125 to .25, so that H is indefinite."""
    h_tb = EVID.h_tb.copy()
    h_tb[[1, 3]] = [[0.25, 0.125], [0.25, 0.125]]
    with pytest.raises(asn.SchurFactorError) as caught:
        asn.factorize(EVID.replace(h_tb=h_tb).system(), options=EVIDENCE)
    assert caught.value.kind == "non_pd"


def test_evid_log_determinant_in_evidence_mode() -> None:
    """T52 without deflations."""
    for options in (EVIDENCE, EVIDENCE.replace(guards="absolute", row_lift="guard")):
        factor = asn.factorize(EVID.system(), options=options)
        assert factor.log_det() == pytest.approx(-37.2377057534873598, abs=1e-9)
    lifted = asn.factorize(EVID.system(), options=asn.SolveOptions(guards="absolute", row_lift="guard"))
    assert lifted.diagnostics.rows_lifted == 2
    assert lifted.diagnostics.row_ridge_max == pytest.approx(2e-7, rel=1e-12)
    with pytest.raises(asn.UnsupportedConfiguration):
        lifted.log_det()
    assert lifted.log_det(set="evidence") == pytest.approx(-37.2377057534873598, abs=1e-9)


# ---- guard ----------------------------------------------------------------------------------------------------------
def test_absolute_guard_refuses_a_large_pivot_ratio() -> None:
    h_bb = np.diag([1.0, 2.0**-27])
    with pytest.raises(asn.SchurFactorError) as caught:
        asn.newton_step(border_system(h_bb, np.ones(2)), options=asn.SolveOptions(guards="absolute"))
    assert caught.value.kind == "ill_conditioned"
    assert caught.value.kappa_estimate == pytest.approx(2.0**27)


def test_relative_guard_reports_the_equilibrated_condition_and_accepts_up_to_rounding() -> None:
    # Diagonal: perfectly conditioned after equilibration.
    step = asn.newton_step(border_system(np.diag([1.0, 2.0**-60]), np.ones(2)))
    assert step.diagnostics.kappa_schur == pytest.approx(1.0)
    # Condition 2^30 after equilibration: above SAFE_COND = 2^26, accepted (decision 3).
    near = np.array([[1.0, 1.0 - 2.0**-30], [1.0 - 2.0**-30, 1.0]])
    step = asn.newton_step(border_system(near, np.array([1.0, 0.5])))
    assert step.diagnostics.kappa_schur == pytest.approx(2.0**31, rel=0.5)
    assert step.diagnostics.backward_error < 1e-14
    # Condition 2^52 and more: no digit is left.
    lost = np.array([[1.0, 1.0 - 2.0**-52], [1.0 - 2.0**-52, 1.0]])
    with pytest.raises(asn.SchurFactorError) as caught:
        asn.newton_step(border_system(lost, np.array([1.0, 0.5])))
    assert caught.value.kind == "ill_conditioned"
    assert caught.value.kappa_estimate > 2.0**46


def test_evidence_mode_skips_the_border_guard() -> None:
    lost = np.array([[1.0, 1.0 - 2.0**-52], [1.0 - 2.0**-52, 1.0]])
    factor = asn.factorize(border_system(lost, np.array([1.0, 0.5])), options=EVIDENCE)
    assert factor.log_det() == pytest.approx(reference.exact_log_det(lost), abs=0.5)


def test_condition_estimate_of_the_border_against_numpy() -> None:
    parts = systems.ls(64, 4, 200, 4)
    schur = reference.direct(parts).schur
    scale = np.sqrt(np.diagonal(schur))
    equilibrated = schur / np.outer(scale, scale)
    truth = np.linalg.norm(equilibrated, 1) * np.linalg.norm(np.linalg.inv(equilibrated), 1)
    step = asn.newton_step(parts.system())
    # An estimator from below; the power-of-two scaling moves the condition by a factor of two at most.
    assert truth / 4 <= step.diagnostics.kappa_schur <= 2 * truth
    assert asn.factorize(parts.system()).condition_estimate().border == step.diagnostics.kappa_schur


# ---- equilibration --------------------------------------------------------------------------------------------------
def test_t88_border_columns_over_twelve_decades() -> None:
    parts = systems.ls(40, 3, 17, 1)
    scale = np.logspace(-6, 6, 17)
    scaled = parts.replace(
        h_tb=parts.h_tb * scale, h_bb=parts.h_bb * np.outer(scale, scale), g_beta=parts.g_beta * scale
    )

    step, plain = asn.newton_step(scaled.system()), asn.newton_step(parts.system())

    assert reference.error(scale * step.delta_beta, plain.delta_beta) <= 1e-11
    assert reference.error(step.delta_t, plain.delta_t) <= 1e-11
    assert step.diagnostics.kappa_schur <= 4 * plain.diagnostics.kappa_schur


def test_equilibration_by_powers_of_two_keeps_the_bits_of_a_scaled_border() -> None:
    parts = systems.ls(40, 3, 17, 1)
    scale = 2.0 ** np.arange(-8, 9)
    scaled = parts.replace(
        h_tb=parts.h_tb * scale, h_bb=parts.h_bb * np.outer(scale, scale), g_beta=parts.g_beta * scale
    )
    assert np.array_equal(
        scale * asn.newton_step(scaled.system()).delta_beta, asn.newton_step(parts.system()).delta_beta
    )


# ---- escalation -----------------------------------------------------------------------------------------------------
def test_t11_barely_under_the_absolute_policy() -> None:
    options = asn.SolveOptions(guards="absolute", row_lift="guard")
    system = BARELY.system()
    with pytest.raises(asn.SchurFactorError):
        asn.newton_step(system, options=options)

    step = asn.newton_step_escalated(system, options=options)

    assert np.isfinite(whole(step)).all()
    d = step.diagnostics
    assert d.ridge_escalations == 9
    assert (d.ridge_t, d.ridge_beta) == (pytest.approx(1.0, rel=1e-12), pytest.approx(1.0, rel=1e-12))


def test_t12_collapse_escalated_under_the_absolute_policy() -> None:
    system = collapse(1.0).system()
    step = asn.newton_step_escalated(system, options=asn.SolveOptions(guards="absolute"))
    d = step.diagnostics
    assert d.ridge_escalations == 9
    assert (d.ridge_t, d.ridge_beta) == (pytest.approx(1.0, rel=1e-12), pytest.approx(1.0, rel=1e-12))
    np.testing.assert_allclose(step.delta_beta, [-0.25, 0.125], atol=1e-12)
    np.testing.assert_allclose(step.delta_t, 0, atol=1e-15)
    assert system.gradient_dot(step.delta_t, step.delta_beta) < 0


def test_t12_collapse_escalated_raises_the_border_only() -> None:
    parts = collapse(1.0)
    step = asn.newton_step_escalated(parts.system())
    d = step.diagnostics
    assert d.ridge_t == 0.0
    assert d.ridge_beta == pytest.approx(198.000001, abs=1e-5)
    assert d.ridge_escalations == 1
    assert reference.error(whole(step), reference.step_indefinite(parts, 0.0, d.ridge_beta)) < 1e-12
    assert parts.system().gradient_dot(step.delta_t, step.delta_beta) < 0
    assert d.backward_error_effective <= 1e-14


def test_escalation_raises_the_rows_only_after_a_row_error() -> None:
    system = systems.indefinite_row().system()
    step = asn.newton_step_escalated(system, options=asn.SolveOptions(row_lift="never"))
    d = step.diagnostics
    assert d.ridge_beta == 0.0
    assert d.ridge_t > 1
    assert d.ridge_escalations >= 1
    assert d.rows_lifted == 0


def test_a_healthy_system_is_not_escalated() -> None:
    system = systems.ls(40, 3, 17, 1).system()
    for guards in GUARDS:
        options = asn.SolveOptions(guards=guards)
        step = asn.newton_step_escalated(system, ridge_t=0.5, options=options)
        assert step.diagnostics.ridge_escalations == 0
        assert np.array_equal(whole(step), whole(asn.newton_step(system, ridge_t=0.5, options=options)))


def test_escalation_starts_from_the_requested_ridges() -> None:
    step = asn.newton_step_escalated(
        collapse(1.0).system(), ridge_t=0.001, ridge_beta=0.5, options=asn.SolveOptions(guards="absolute")
    )
    d = step.diagnostics
    mu = 1e-8 * 10.0 ** (d.ridge_escalations - 1)
    assert d.ridge_t == pytest.approx(0.001 + mu, rel=1e-9)
    assert d.ridge_beta == pytest.approx(0.5 + mu, rel=1e-9)


@pytest.mark.parametrize("guards", GUARDS)
def test_a_used_up_escalation_raises_the_last_error(guards: str) -> None:
    escalation = asn.EscalationOptions(max_escalations=0)
    with pytest.raises(asn.SchurFactorError):
        asn.newton_step_escalated(
            collapse(1.0).system(), options=asn.SolveOptions(guards=guards), escalation=escalation
        )


def test_the_number_of_absolute_escalations_is_a_limit() -> None:
    options = asn.SolveOptions(guards="absolute")
    with pytest.raises(asn.SchurFactorError):
        asn.newton_step_escalated(
            collapse(1.0).system(), options=options, escalation=asn.EscalationOptions(max_escalations=8)
        )
    step = asn.newton_step_escalated(
        collapse(1.0).system(), options=options, escalation=asn.EscalationOptions(max_escalations=9)
    )
    assert step.diagnostics.ridge_escalations == 9


def test_growth_and_start_of_the_absolute_escalation() -> None:
    step = asn.newton_step_escalated(
        collapse(1.0).system(),
        options=asn.SolveOptions(guards="absolute"),
        escalation=asn.EscalationOptions(initial_ridge=0.25, ridge_growth=2),
    )
    # S = 1 + mu - 1/(0.01 + mu) > 0 from mu = 0.62 on.
    assert step.diagnostics.ridge_escalations == 3
    assert step.diagnostics.ridge_t == step.diagnostics.ridge_beta == 1.0


def test_structural_errors_are_not_retried() -> None:
    """26.16: an error that no ridge cures ends the escalation at once."""
    for options in (
        asn.SolveOptions(precision="mixed"),
        asn.SolveOptions(streaming_chunk_size=7),
        asn.SolveOptions(mode="inexact_pcg", precision="mixed"),
    ):
        with pytest.raises(asn.UnsupportedConfiguration):
            asn.newton_step_escalated(collapse(1.0).system(), options=options)


def test_certificate_errors_are_retried_and_end_as_certificate_errors() -> None:
    with pytest.raises(asn.CertificateError):
        asn.newton_step_escalated(
            systems.ls(40, 3, 17, 1).system(),
            options=asn.SolveOptions(certificate_tolerance=1e-25),
            escalation=asn.EscalationOptions(max_escalations=3),
        )


def test_diagonal_damping_enters_escalation_unraised() -> None:
    parts = collapse(1.0)
    damping = np.array([1.0, 3.0])
    step = asn.newton_step_escalated(parts.system(), damping_beta=damping)
    d = step.diagnostics
    expected = reference.step_indefinite(parts, d.ridge_t, d.ridge_beta, damping_beta=damping)
    assert reference.error(whole(step), expected) < 1e-11
