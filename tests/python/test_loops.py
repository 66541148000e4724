"""Resident workspaces, the inner loop, outer sequences, telemetry, and the references of parity.

`test_td_NN` is test T-D-NN of the specification, as far as it concerns the CPU.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import types
from typing import Any

import numpy as np
import pytest
from conftest import NO_DEVICE

import arrowschur_native as asn
from arrowschur_native import fixtures

EPS = np.finfo(float).eps
ALWAYS = asn.InnerOptions(shrink_rule="always")


# ---- helpers --------------------------------------------------------------------------------------------------------
def workspace_of(fixture: Any, **keywords: Any) -> asn.ResidentWorkspace:
    """The workspace of a fixture; its target, basis and gates are made where it defines none."""
    shape = asn.ResidentShape(fixture.n, fixture.k, fixture.basis_cols, fixture.d)
    given = {"target": np.zeros((fixture.n, fixture.k)), "slabs": fixture.system()}
    given |= {name: np.ones((fixture.n, fixture.basis_cols)) for name in ("basis", "gates")}
    given |= {
        name: getattr(fixture, name) for name in ("target", "basis", "gates") if getattr(fixture, name) is not None
    }
    return asn.ResidentWorkspace(shape, **(given | keywords))


def small(seed: int) -> asn.ResidentWorkspace:
    return workspace_of(fixtures.small_fixture(seed))


def indefinite(shift: float = 1e6) -> asn.ResidentWorkspace:
    """Its border stays indefinite at every ridge below `shift`."""
    f = fixtures.small_fixture(0x11)
    return asn.ResidentWorkspace.from_system(
        asn.ArrowSystem(f.h_tt, f.h_tb, f.h_bb - shift * np.eye(4), f.g_t, f.g_beta)
    )


def metric_a(x: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(x - reference).max() / max(1.0, np.abs(reference).max()))


def metric_n(x: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))


def same_bits(one: asn.InnerFit, other: asn.InnerFit) -> bool:
    return (
        one.t.tobytes() == other.t.tobytes()
        and one.beta.tobytes() == other.beta.tobytes()
        and one.objective == other.objective
    )


def caught(kind: type[asn.ArrowError], call: Any) -> Any:
    with pytest.raises(kind) as info:
        call()
    assert type(info.value) is kind
    return info.value


def test_the_marker_of_skips_is_spelled_as_it_is_counted() -> None:
    assert NO_DEVICE == "SKIPPED(no-device): "


# ---- T-D-1: the minimiser -------------------------------------------------------------------------------------------
SMALL = [
    (0xABCD0001, -0.5579806235950775, 31.152806515729573, 0.42430416540129645, 0.21708794960739886),
    (0x5AE1017, -0.5349983106002303, 31.196597373221934, 0.4379390831641221, 0.1879914304836487),
    (0x1017F17, -0.5948562422235808, 31.01399862653501, 0.4464168192843344, 0.20966582489274865),
]


@pytest.mark.parametrize("method", ["cpu_reference_fit", "fit"])
@pytest.mark.parametrize(("seed", "phi", "log_det", "norm_t", "norm_beta"), SMALL)
def test_td_01_minimiser(seed: int, phi: float, log_det: float, norm_t: float, norm_beta: float, method: str) -> None:
    workspace = small(seed)
    fit = getattr(workspace, method)()
    assert fit.converged
    assert (fit.status, fit.execution_path, fit.backend) == ("converged", "cpu", "cpu")
    H, g = workspace.to_system().to_dense()
    residual = H @ np.r_[fit.t.ravel(), fit.beta] - g
    assert np.abs(residual).max() < 1e-9
    assert fit.gradient_norm == pytest.approx(np.linalg.norm(residual), abs=1e-14)
    assert fit.step_gradient_norm == pytest.approx(np.linalg.norm(g), rel=1e-14)
    assert fit.objective == pytest.approx(phi, rel=1e-11)
    assert fit.log_det_hessian == pytest.approx(log_det, rel=1e-11)
    assert np.linalg.norm(fit.t) == pytest.approx(norm_t, rel=1e-11)
    assert np.linalg.norm(fit.beta) == pytest.approx(norm_beta, rel=1e-11)
    assert (fit.iterations, fit.accepted_iterations) == (1, 1)


@pytest.mark.parametrize(
    ("seed", "phi", "log_det"),
    [
        (0x11, -0.8729669986, 31.0928815),
        (0x22, -0.6690840819, 31.0668484),
        (0x33, -0.8021548983, 31.1242976),
        (0x44, -0.9000650615, 31.0413198),
        (0x55, -0.5526835683, 31.1040422),
        (0x66, -0.9703153165, 31.1784314),
    ],
)
def test_td_01_more_small_fixtures(seed: int, phi: float, log_det: float) -> None:
    fit = small(seed).fit()
    assert fit.objective == pytest.approx(phi, abs=6e-11)
    assert fit.log_det_hessian == pytest.approx(log_det, abs=1e-7)  # published digits are cut off, not rounded


def test_td_01_reference_shapes() -> None:
    """Golden values of section 12.2."""
    for fixture, at_zero, decrease, norm_t, norm_beta, log_det, host, upload in (
        (
            *(fixtures.qwen_fixture(), 552.0801116575556, 0.0259511594325183, 0.1299991858070117, 0.008146170922300891),
            *(7311.3149536193, 132_226_816, 99_202_816),
        ),
        (
            *(fixtures.color_arm_fixture(), 122.04296710583543, 0.00341685143508656, 0.04492753407599125),
            *(0.012237194870155729, 7503.7867040787, 231_909_120, 224_510_400),
        ),
    ):
        workspace = workspace_of(fixture)
        assert (workspace.host_shadow_bytes, workspace.frame_upload_bytes) == (host, upload)
        assert workspace.resident_device_bytes == 0
        assert not workspace.device_resident
        fit = workspace.fit()
        assert (fit.status, fit.iterations, fit.accepted_iterations, fit.factorizations) == ("converged", 1, 1, 1)
        assert workspace.objective_at_zero == pytest.approx(at_zero, rel=1e-11)
        # Six digits of the decrease are left in phi(0) - phi(z).
        assert at_zero - fit.objective == pytest.approx(decrease, rel=1e-9)
        assert np.linalg.norm(fit.t) == pytest.approx(norm_t, rel=1e-11)
        assert np.linalg.norm(fit.beta) == pytest.approx(norm_beta, rel=1e-11)
        assert fit.log_det_hessian == pytest.approx(log_det, rel=1e-11)


# ---- T-D-4: no device (with one: test_on_device.py) -----------------------------------------------------------------
@pytest.mark.usefixtures("no_device")
def test_td_04_no_device() -> None:
    workspace = small(0x5AE1017)
    gradients = [(np.ones((8, 2)), np.ones(4))]
    for call in (
        workspace.device_fit,
        workspace.device_reupload_fit,
        workspace.one_inner_iteration,
        lambda: workspace.device_fit_outer_sequence(gradients),
        lambda: workspace.fit(device="required"),
        lambda: workspace.fit_outer_sequence(gradients, device="required"),
        lambda: workspace.inner_iteration(device="required"),
        lambda: asn.ArrowFrame.build(workspace.to_system()),
        lambda: asn.BaseArrowFrame(workspace.to_system()),
        lambda: asn.newton_step_reupload(workspace.to_system()),
    ):
        error = caught(asn.DeviceUnavailableError, call)
        assert error.reason
        assert pickle.loads(pickle.dumps(error)).facts == error.facts
    assert workspace.cpu_reference_fit().converged
    auto, off = workspace.inner_iteration(), workspace.inner_iteration(device="off")
    assert np.array_equal(auto.delta_t, off.delta_t)
    assert np.array_equal(auto.delta_beta, off.delta_beta)
    dense = asn.newton_step_dense_reference(workspace.to_system())
    assert metric_a(auto.delta_t, dense.delta_t) < 1e-9
    assert metric_a(auto.delta_beta, dense.delta_beta) < 1e-9
    assert (auto.execution_path, auto.used_device, workspace.device_resident) == ("cpu", False, False)
    assert workspace.device_reason
    assert workspace.resident_device_bytes == 0


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 2.0])
def test_td_04_steps_are_what_they_say(ridge: float) -> None:
    workspace = small(0x5AE1017)
    system = workspace.to_system()
    H, g = system.to_dense()
    H += ridge * np.eye(20)
    for step in (
        workspace.inner_iteration(ridge, ridge),
        workspace.cpu_reference_step(ridge, ridge),
    ):
        np.testing.assert_allclose(H @ np.r_[step.delta_t.ravel(), step.delta_beta], -g, atol=1e-13)
        assert step.log_det_hessian == pytest.approx(np.linalg.slogdet(H)[1], rel=1e-12)
        assert step.gradient_norm == pytest.approx(system.gradient_norm(), rel=1e-14)
        assert step.objective == workspace.objective_at_zero == 0.0
        assert step.certificate < 64 * EPS
        assert step.execution_path == "cpu"


# ---- T-D-5: same system ---------------------------------------------------------------------------------------------
def test_td_05_newton_step_is_minus_the_minimiser() -> None:
    workspace = small(0x1017F17)
    fit = workspace.fit()
    step = asn.newton_step(workspace.to_system())
    for part, delta, z in (("t", step.delta_t.ravel(), -fit.t.ravel()), ("beta", step.delta_beta, -fit.beta)):
        worst = int(np.argmax(np.abs(delta - z)))
        assert metric_a(delta, z) < 1e-9, f"{part} differs most at index {worst}"


# ---- T-D-6: outer sequence ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def color_arm() -> asn.ArrowSystem:
    return fixtures.color_arm_fixture(with_target=False).system()


@pytest.fixture(scope="module")
def outers() -> list[tuple[np.ndarray, np.ndarray]]:
    i, j = np.arange(360), np.arange(5120)
    return [(0.01 * np.sin(0.002 * (i + 3 * s)), 0.001 * np.cos(0.0009 * (j + 11 * s))) for s in range(3)]


NORMS = ((0.0243738155, 0.0127238630), (0.0246569059, 0.0126972132), (0.0249404852, 0.0126704617))


def test_td_06_outer_sequence(color_arm: asn.ArrowSystem, outers: Any) -> None:
    workspace = asn.ResidentWorkspace.from_system(color_arm)
    sequence = workspace.fit_outer_sequence(outers)
    assert (len(sequence.fits), sequence.frame_builds, sequence.factorizations) == (3, 0, 1)
    assert [fit.factorizations for fit in sequence.fits] == [1, 0, 0]
    for fit, (norm_t, norm_beta), (g_t, g_beta) in zip(sequence.fits, NORMS, outers, strict=True):
        assert fit.converged
        assert np.linalg.norm(fit.t) == pytest.approx(norm_t, abs=6e-11)
        assert np.linalg.norm(fit.beta) == pytest.approx(norm_beta, abs=6e-11)
        alone = asn.ResidentWorkspace.from_system(color_arm.with_gradient(g_t.reshape(180, 2), g_beta)).fit()
        assert same_bits(fit, alone)


def test_td_06_outer_sequence_of_the_dense_reference(color_arm: asn.ArrowSystem, outers: Any) -> None:
    workspace = asn.ResidentWorkspace.from_system(color_arm)
    dense = workspace.cpu_reference_fit_outer_sequence(outers[:2])
    assert (len(dense.fits), dense.frame_builds) == (2, 0)
    for fit, reference in zip(workspace.fit_outer_sequence(outers[:2]).fits, dense.fits, strict=True):
        for part in ("t", "beta"):
            assert metric_a(getattr(fit, part), getattr(reference, part)) < 1e-9
            assert metric_n(getattr(fit, part), getattr(reference, part)) < 1e-10


def test_td_06_a_wrong_length_raises_before_any_work() -> None:
    workspace = small(0x11)
    good = (np.ones((8, 2)), np.ones(4))
    before = asn.process_telemetry()
    for bad, name in (
        ((np.ones(15), np.ones(4)), "gradients[2].g_t"),
        ((np.ones((8, 2)), np.ones(5)), "gradients[2].g_beta"),
        ((np.full(16, np.nan), np.ones(4)), "gradients[2].g_t"),
        (np.ones(16), "gradients[2]"),
    ):
        error = caught(asn.InvalidArgument, lambda bad=bad: workspace.fit_outer_sequence([good, good, bad]))
        assert error.argument == name
        assert error.got
        assert error.expected
    assert caught(asn.InvalidArgument, lambda: workspace.fit_outer_sequence(3)).argument == "gradients"
    assert asn.process_telemetry() == before
    assert workspace.fit_outer_sequence([]).fits == ()


# ---- T-D-10: coupled fixtures ---------------------------------------------------------------------------------------
# The log-determinant of the second is that of a dense factorization; the published 235.92956808080 has a wrong digit.
COUPLED = [
    ((8, 2, 4, 1, 0.5, "dense"), 22.566434312700, 0.6836738698063, 0.3125207146706, -0.8345564023229),
    ((40, 3, 96, 2, 0.9, "dense"), 235.92956806080, 3.8422258655703, 2.9980351328343, -15.031417836836),
    ((12, 16, 6, 5, 0.9, "dense"), 211.02616058903, 3.5144799181035, 1.9711041399750, -12.612401224011),
    ((2000, 2, 2048, 4, 0.9, "dense"), 6431.4108503066, 19.496403781517, 14.364557401311, -423.72589384087),
    ((180, 2, 5120, 3, 0.9, "tridiagonal"), 7096.4982008185, 13.260131987436, 15.781487294067, -300.56143245343),
]


@pytest.mark.parametrize("golden", COUPLED, ids=lambda golden: "x".join(map(str, golden[0][:3])))
def test_td_10_coupled_fixtures(golden: Any) -> None:
    arguments, log_det, norm_t, norm_beta, phi = golden
    system = fixtures.coupled_fixture(*arguments).system()
    workspace = asn.ResidentWorkspace.from_system(system)
    dense = asn.newton_step_dense_reference(system)
    assert dense.log_det == pytest.approx(log_det, rel=1e-11)
    assert np.linalg.norm(dense.delta_t) == pytest.approx(norm_t, rel=1e-11)
    assert np.linalg.norm(dense.delta_beta) == pytest.approx(norm_beta, rel=1e-11)
    assert dense.delta_t.shape == (arguments[0], arguments[1])

    modes = ["auto", "direct", "sqrt_ba"]
    if arguments[5] == "tridiagonal":
        modes.append("low_rank")
    for mode in modes:
        fit = workspace.fit(asn.InnerOptions(solve=asn.SolveOptions(mode=mode)))
        assert fit.converged
        assert metric_n(fit.t, -dense.delta_t) < 1e-11
        assert metric_n(fit.beta, -dense.delta_beta) < 1e-11
        assert fit.log_det_hessian == pytest.approx(dense.log_det, rel=1e-11)
        assert fit.objective == pytest.approx(phi, rel=1e-11)
    assert workspace.inner_iteration().certificate < 64 * EPS
    if arguments[0] * arguments[1] < 1000 and arguments[2] < 1000:
        reference = workspace.cpu_reference_fit()
        assert reference.objective == pytest.approx(phi, rel=1e-11)
        assert reference.log_det_hessian == pytest.approx(log_det, rel=1e-11)


def test_td_10_spot_values() -> None:
    for arguments, spots in (
        (COUPLED[0][0], (3.066561575172281, -0.05564078294422792, 0.6956104141174644)),
        (COUPLED[4][0], (2.6134503420571544, -0.05095713296182407, 0.9375139061009299)),
    ):
        f = fixtures.coupled_fixture(*arguments)
        assert (f.h_tt[0, 0, 0], f.h_tb[0, 0, 0], f.g_beta[0]) == pytest.approx(spots, rel=1e-11)


# ---- T-D-13: the bump -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("block", "deficit", "excess"),
    [
        (-np.eye(8), 1.0, 1.75e-14),
        (-250.0 * np.eye(4), 250.0, 1.36e-12),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), 1.0, 2.9e-15),
        (5.0 * np.eye(3), 0.0, 1.0e-14),
        (np.array([[-2.0, 0.3, 0.1], [0.3, 0.5, -0.4], [0.1, -0.4, 1.0]]), 2.4, 7.5e-15),
    ],
)
def test_td_13_bump(block: np.ndarray, deficit: float, excess: float) -> None:
    bump = asn.ridge_bump(block)
    # The excess is a small difference: the rounding of the sum belongs to its tolerance.
    assert excess / 1.5 - deficit * EPS < bump - deficit < 1.5 * excess + deficit * EPS
    np.linalg.cholesky(block + bump * np.eye(len(block)))
    assert asn.ridge_bump(np.asfortranarray(block)) == bump


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 7.3e5])
@pytest.mark.parametrize("d", [2, 3, 5, 8, 12])
def test_td_13_bump_of_laplacians(d: int, unit: float, half: bool) -> None:
    ridge = unit / 2 if half else 0.0
    block = unit * (d * np.eye(d) - np.ones((d, d)))
    bump = asn.ridge_bump(block, ridge)
    assert 0 < bump < math.sqrt(EPS) * max(1.0, (d - 1) * unit)
    np.linalg.cholesky(block + (ridge + bump) * np.eye(d))
    if d == 2 and unit == 1.0 and not half:  # where the second pivot is exactly 0
        with pytest.raises(np.linalg.LinAlgError):
            np.linalg.cholesky(block)


@pytest.mark.parametrize("bad", [np.ones(4), np.ones((2, 3)), [[1.0, np.nan], [np.nan, 1.0]], "block"])
def test_td_13_a_bad_block_is_named(bad: Any) -> None:
    assert caught(asn.InvalidArgument, lambda: asn.ridge_bump(bad)).argument == "block"
    assert caught(asn.InvalidArgument, lambda: asn.ridge_bump(np.eye(2), -1.0)).argument == "ridge_t"


# ---- T-D-14: recovery -----------------------------------------------------------------------------------------------
def broken_rows() -> asn.ArrowSystem:
    f = fixtures.coupled_fixture(4, 8, 3, 11, 0.5, "dense")
    h_tt = f.h_tt.copy()
    h_tt[2], h_tt[3] = -np.eye(8), -250.0 * np.eye(8)
    return asn.ArrowSystem(h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta)


def smallest_eigenvalue_of_s(system: asn.ArrowSystem, ridge_t: float) -> float:
    schur = system.h_bb.copy()
    for block, cross in zip(system.h_tt, system.h_tb, strict=True):
        schur -= cross.T @ np.linalg.solve(block + ridge_t * np.eye(8), cross)
    return float(np.linalg.eigvalsh(schur)[0])


def test_td_14_recovery() -> None:
    system = broken_rows()
    found = asn.examine_rows(system)
    # Pivot 1 of the specification counts from 1.
    assert (found.failing_rows, found.first_row, found.first_pivot) == (2, 2, 0)
    assert found.bump == pytest.approx(250.0000000000044, rel=1e-15)
    assert found.suggested_bump == pytest.approx(251.5761727, rel=1e-7)

    assert asn.examine_rows(system, found.bump).failing_rows == 0
    assert smallest_eigenvalue_of_s(system, found.bump) < -1e11
    workspace = asn.ResidentWorkspace.from_system(system)
    caught(asn.SchurFactorError, lambda: workspace.inner_iteration(found.bump))

    assert smallest_eigenvalue_of_s(system, found.suggested_bump) == pytest.approx(3.449, abs=1e-3)
    step = workspace.inner_iteration(found.suggested_bump)
    dense = asn.newton_step_dense_reference(system, found.suggested_bump)
    assert metric_n(step.delta_t, dense.delta_t) < 1e-10
    assert metric_n(step.delta_beta, dense.delta_beta) < 1e-10


def test_td_14_rows_are_not_lifted() -> None:
    workspace = asn.ResidentWorkspace.from_system(broken_rows())
    for call in (
        workspace.inner_iteration,
        workspace.cpu_reference_step,
        lambda: asn.newton_step_dense_reference(workspace.to_system()),
    ):
        error = caught(asn.RowFactorError, call)
        assert error.row == 2
    assert asn.examine_rows(small(0x11).to_system()) == (0, -1, -1, 0.0, 0.0)


# ---- T-D-16: bookkeeping of the loop, as far as it shows without a fake device --------------------------------------
def test_td_16_a_loop_without_an_accepted_step_is_an_error() -> None:
    error = caught(asn.InnerLoopError, indefinite().fit)
    assert (error.status, error.iterations) == ("max_iterations", 16)
    assert math.isnan(error.rho)
    assert error.ridges_t == error.ridges_beta == pytest.approx([0.0, *(1e-6 * 4**i for i in range(16))])
    assert error.last_failure
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is asn.InnerLoopError
    assert str(again) == str(error)
    assert repr(again.facts) == repr(error.facts)  # rho is NaN
    assert isinstance(error, RuntimeError)

    error = caught(asn.InnerLoopError, lambda: indefinite().fit(asn.InnerOptions(max_ridge=1e-5)))
    assert (error.status, error.iterations) == ("ridge_exhausted", 3)


def test_td_16_nothing_to_do_is_convergence_without_a_factor() -> None:
    system = fixtures.small_fixture(0x11).system().with_gradient(np.zeros((8, 2)), np.zeros(4))
    for method in ("fit", "cpu_reference_fit"):
        fit = getattr(asn.ResidentWorkspace.from_system(system, 2.5), method)()
        assert (fit.status, fit.iterations, fit.gradient_norm, fit.factorizations) == ("converged", 0, 0.0, 0)
        assert fit.objective == 2.5
        assert math.isnan(fit.log_det_hessian)
        assert not fit.t.any()


def test_td_16_the_last_step_may_converge() -> None:
    assert small(0x11).fit(asn.InnerOptions(max_iterations=1)).converged
    fit = small(0x11).fit(ALWAYS.replace(max_iterations=2, initial_ridge_t=1.0, initial_ridge_beta=1.0))
    assert (fit.status, fit.iterations, fit.accepted_iterations, fit.converged) == ("max_iterations", 2, 2, False)


def test_td_16_a_loop_recovers_by_growing_its_ridges() -> None:
    fit = asn.ResidentWorkspace.from_system(broken_rows()).fit()
    assert fit.accepted_iterations >= 1
    assert fit.ridge_t > 0


# ---- T-D-17: the ridge schedule -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ridge", "iterations", "prediction"), [(1e-3, 3, 0.5579806), (0.1, 5, 0.5577543), (1.0, 7, 0.5418870)]
)
def test_td_17_ridge_schedule(ridge: float, iterations: int, prediction: float) -> None:
    workspace = small(0xABCD0001)
    fit = workspace.fit(ALWAYS.replace(initial_ridge_t=ridge, initial_ridge_beta=ridge))
    assert fit.converged
    assert fit.iterations == fit.accepted_iterations == fit.factorizations == iterations
    assert fit.ridge_t == fit.ridge_beta == ridge * 0.5**iterations
    step = workspace.inner_iteration(ridge, ridge)
    predicted = asn.model_reduction(workspace.to_system(), step.delta_t, step.delta_beta)
    assert predicted == pytest.approx(prediction, abs=6e-8)


def test_td_17_factors_are_kept_by_their_ridges() -> None:
    workspace = small(0xABCD0001)
    system = workspace.to_system()
    options = ALWAYS.replace(initial_ridge_t=1e-3, initial_ridge_beta=1e-3)
    three = [(system.g_t, system.g_beta)] * 3
    assert workspace.fit_outer_sequence(three, options).factorizations == 3

    fit = small(0xABCD0001).fit(options.replace(shrink_rule="relevant"))
    assert fit.converged
    assert fit.factorizations == 1
    assert fit.ridge_t == 1e-3

    forgetful = options.replace(solve=asn.SolveOptions(frame_cache_entries=1))
    assert small(0xABCD0001).fit_outer_sequence(three, forgetful).factorizations == 9


def test_a_second_fit_reuses_the_factor() -> None:
    workspace = small(0x11)
    first, second = workspace.fit(), workspace.fit()
    assert (first.factorizations, second.factorizations) == (1, 0)
    assert same_bits(first, second)
    assert second.log_det_hessian == first.log_det_hessian
    workspace.release_factors()
    third = workspace.fit()
    assert third.factorizations == 1
    assert same_bits(third, first)


# ---- T-D-18: scaling ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_td_18_scaling(factor: float) -> None:
    fixture = fixtures.small_fixture(0xABCD0001)
    scaled = dataclasses.replace(
        fixture, target=factor * fixture.target, g_t=factor * fixture.g_t, g_beta=factor * fixture.g_beta
    )
    one, other = workspace_of(fixture).fit(), workspace_of(scaled).fit()
    assert (one.iterations, one.accepted_iterations) == (other.iterations, other.accepted_iterations)
    np.testing.assert_allclose(other.t, factor * one.t, rtol=1e-12)
    np.testing.assert_allclose(other.beta, factor * one.beta, rtol=1e-12)


def test_relative_convergence_does_not_depend_on_units() -> None:
    system = fixtures.small_fixture(0xABCD0001).system()
    relative = ALWAYS.replace(convergence="relative", initial_ridge_t=0.1, initial_ridge_beta=0.1)
    counts = {
        asn.ResidentWorkspace.from_system(system.with_gradient(a * system.g_t, a * system.g_beta))
        .fit(relative)
        .iterations
        for a in (2.0**-40, 1.0, 2.0**40)
    }
    assert len(counts) == 1


# ---- T-D-20: lengths ------------------------------------------------------------------------------------------------
def test_td_20_lengths_of_a_shape() -> None:
    s = asn.ResidentShape.qwen()
    assert (s.target, s.basis, s.gates, s.row_hessian) == (4_096_000, 16_000, 16_000, 8_000)
    assert (s.row_cross, s.row_gradient, s.border_hessian) == (8_192_000, 4_000, 4_194_304)
    assert asn.ResidentShape.color_arm() == asn.ResidentShape(180, 5120, 9, 2)
    for name in ("n", "p", "basis_cols", "d"):
        for bad in (0, -1, 2.5, "2", True, None):
            error = caught(asn.InvalidArgument, lambda name=name, bad=bad: s.replace(**{name: bad}))
            assert error.argument == name
    error = caught(asn.InvalidArgument, lambda: asn.ResidentShape(2**40, 2**40, 1, 1))
    assert (error.argument, "2^63" in error.expected) == ("shape", True)


PARTS: dict[str, tuple[int, ...]] = {
    "target": (5, 4),
    "basis": (5, 3),
    "gates": (5, 3),
    "row_hessian": (5, 2, 2),
    "row_cross": (5, 2, 4),
    "row_gradient": (5, 2),
    "border_hessian": (4, 4),
    "border_gradient": (4,),
}
SHAPE = asn.ResidentShape(n=5, p=4, basis_cols=3, d=2)


def parts(**changes: Any) -> dict[str, Any]:
    f = fixtures.coupled_fixture(5, 2, 4, seed=3, coupling=0.5)
    made = {name: np.ones(shape) for name, shape in PARTS.items()}
    made |= {"row_hessian": f.h_tt, "row_cross": f.h_tb, "row_gradient": f.g_t}
    made |= {"border_hessian": f.h_bb, "border_gradient": f.g_beta}
    return made | changes


def assembled(given: dict[str, Any], *, as_object: bool = False) -> asn.ResidentWorkspace:
    slabs = {name: given[name] for name in PARTS if name in given and name not in ("target", "basis", "gates")}
    return asn.ResidentWorkspace(
        SHAPE, given["target"], given["basis"], given["gates"], types.SimpleNamespace(**slabs) if as_object else slabs
    )


@pytest.mark.parametrize("name", PARTS)
def test_td_20_a_wrong_length_is_named_in_order(name: str) -> None:
    # Everything after it is wrong too: the first one is blamed.
    later = list(PARTS)[list(PARTS).index(name) :]
    error = caught(asn.InvalidArgument, lambda: assembled(parts(**{part: np.ones(7) for part in later})))
    assert error.argument == name
    assert "(7,)" in error.got
    assert str(PARTS[name]) in error.expected


@pytest.mark.parametrize("name", PARTS)
def test_td_20_a_system_of_other_sizes_is_named(name: str) -> None:
    sizes = {"row_hessian": (6, 2, 4), "row_cross": (5, 2, 3)}
    given = parts()
    if name in sizes:
        n, d, k = sizes[name]
        slabs = fixtures.coupled_fixture(n, d, k, seed=3, coupling=0.5).system()
    else:
        slabs = fixtures.coupled_fixture(5, 2, 4, seed=3, coupling=0.5).system()
        if name in ("target", "basis", "gates"):
            given[name] = np.ones(3)
    call = lambda: asn.ResidentWorkspace(SHAPE, given["target"], given["basis"], given["gates"], slabs)  # noqa: E731
    if name in ("target", "basis", "gates", *sizes):
        assert caught(asn.InvalidArgument, call).argument == name
    else:
        assert call().shape == SHAPE


@pytest.mark.parametrize("as_object", [False, True])
def test_slabs_may_be_flat_and_the_system_has_the_callers_memory(as_object: bool) -> None:
    given = parts()
    flat = {name: array.ravel() for name, array in given.items()}
    one, other = assembled(given, as_object=as_object), assembled(flat, as_object=as_object)
    assert same_bits(one.fit(), other.fit())
    system = other.to_system()
    for slab, part in (("row_hessian", "h_tt"), ("row_cross", "h_tb"), ("row_gradient", "g_t")):
        assert np.shares_memory(getattr(system, part), given[slab])
        assert getattr(system, part).shape == PARTS[slab]
    assert system is other.to_system()
    assert np.shares_memory(system.h_bb, given["border_hessian"])
    assert one.objective_at_zero == 10.0


def test_what_a_slab_breaks_is_said_in_its_own_name() -> None:
    broken = parts()["row_cross"].copy()
    broken[1, 1, 1] = np.nan
    assert caught(asn.InvalidArgument, lambda: assembled(parts(row_cross=broken))).argument.startswith("row_cross")
    skew = np.eye(4)
    skew[0, 1] = 1.0
    error = caught(asn.InvalidArgument, lambda: assembled(parts(border_hessian=skew)))
    assert error.argument.startswith("border_hessian")
    given = parts()
    del given["row_gradient"]
    error = caught(asn.InvalidArgument, lambda: assembled(given))
    assert error.argument == "slabs"
    assert "row_gradient" in error.got
    broken = parts()["target"].copy()
    broken[0, 0] = np.inf
    assert caught(asn.InvalidArgument, lambda: assembled(parts(target=broken))).argument == "target"


def test_a_border_object_is_a_slab() -> None:
    bands = np.zeros((2, 4))
    bands[0], bands[1, :3] = 5.0, 0.5
    border = asn.BandedBorder(bands)
    one = assembled(parts(border_hessian=border))
    other = assembled(parts(border_hessian=border.to_dense()))
    np.testing.assert_allclose(one.fit().beta, other.fit().beta, rtol=1e-12)
    assert np.array_equal(
        assembled(parts(border_hessian=np.full(4, 5.0))).to_system().border.diagonal(), np.full(4, 5.0)
    )
    narrow = asn.BandedBorder(bands[:, :3])
    assert caught(asn.InvalidArgument, lambda: assembled(parts(border_hessian=narrow))).argument == "border_hessian"


def test_from_system_refuses_what_is_no_workspace() -> None:
    ragged = asn.ArrowSystem([np.eye(1), np.eye(2)], np.zeros((3, 2)), np.eye(2), np.ones(3), np.ones(2))
    good = fixtures.small_fixture(1).system()
    for system in (
        ragged,
        asn.ArrowSystem(np.zeros((0, 2, 2)), np.zeros((0, 2, 3)), np.eye(3), np.zeros((0, 2)), np.ones(3)),
        asn.ArrowSystem(np.ones((3, 1, 1)), np.zeros((3, 1, 0)), np.zeros((0, 0)), np.ones((3, 1)), np.ones(0)),
    ):
        caught(asn.InvalidArgument, lambda system=system: asn.ResidentWorkspace.from_system(system))
    for bad in (math.nan, math.inf, "1", None):
        error = caught(asn.InvalidArgument, lambda bad=bad: asn.ResidentWorkspace.from_system(good, bad))
        assert error.argument == "objective_at_zero"
    assert caught(asn.InvalidArgument, lambda: asn.ResidentWorkspace.from_system(3)).argument == "system"
    assert asn.ResidentWorkspace.from_system(good, 1.5).shape == asn.ResidentShape(8, 4, 1, 2)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda w: w.fit(asn.SolveOptions()), "options"),
        (lambda w: w.fit(device="gpu"), "device"),
        (lambda w: w.inner_iteration(device=None), "device"),
        (lambda w: w.inner_iteration(-1.0), "ridge_t"),
        (lambda w: w.inner_iteration(0.0, math.nan), "ridge_beta"),
        (lambda w: w.cpu_reference_step("1"), "ridge_t"),
        (lambda w: asn.newton_step_dense_reference(w.to_system(), ridge_beta=-1.0), "ridge_beta"),
        (lambda w: asn.newton_step_dense_reference(w), "system"),
        (lambda w: asn.examine_rows(w.to_system(), math.inf), "ridge_t"),
        (lambda w: asn.ResidentWorkspace((5, 4, 3, 2), 0, 0, 0, w.to_system()), "shape"),
    ],
)
def test_a_bad_argument_is_named(call: Any, argument: str) -> None:
    assert caught(asn.InvalidArgument, lambda: call(small(0x11))).argument == argument


# ---- T-D-15: capability ---------------------------------------------------------------------------------------------
def test_td_15_forms_that_the_dense_reference_needs_written_out() -> None:
    """A border that lives in an operator is solved with, or refused; no ridge is moved on its account."""
    f = fixtures.small_fixture(0x11)
    border = asn.OperatorBorder(lambda x: f.h_bb @ x, np.diagonal(f.h_bb).copy())
    workspace = asn.ResidentWorkspace.from_system(asn.ArrowSystem(f.h_tt, f.h_tb, border, f.g_t, f.g_beta))
    fit = workspace.fit()
    assert (fit.converged, fit.ridge_t, fit.ridge_beta, fit.execution_path) == (True, 0.0, 0.0, "cpu")
    np.testing.assert_allclose(fit.beta, small(0x11).fit().beta, rtol=1e-11)
    for solve in (
        asn.SolveOptions(streaming_chunk_size=3),
        asn.SolveOptions(schur_apply=lambda x: x),
        asn.SolveOptions(trust_region=asn.TrustRegionOptions(radius=1.0)),
    ):
        caught(asn.UnsupportedConfiguration, lambda solve=solve: workspace.fit(asn.InnerOptions(solve=solve)))


def test_conjugate_gradients_may_carry_the_loop() -> None:
    system = fixtures.coupled_fixture(40, 3, 96, 2, 0.9).system()
    options = asn.InnerOptions(solve=asn.SolveOptions(mode="inexact_pcg"))
    fit = asn.ResidentWorkspace.from_system(system).fit(options)
    assert fit.converged
    assert fit.iterations > 1  # 1e-4 per solve
    dense = asn.newton_step_dense_reference(system)
    assert metric_a(fit.beta, -dense.delta_beta) < 1e-8


# ---- telemetry ------------------------------------------------------------------------------------------------------
def test_telemetry_counts_what_was_done() -> None:
    before = asn.process_telemetry()
    fit = small(0x11).fit(device="off")
    after = asn.process_telemetry()
    assert fit.telemetry.factorizations == 1
    assert fit.telemetry == asn.Telemetry(factorizations=1)
    assert after.factorizations - before.factorizations == 1
    for name in ("h2d_bytes", "d2h_bytes", "frame_builds", "kernel_launches", "allocations"):
        assert getattr(after, name) == getattr(before, name)
    assert fit.telemetry.device_ordinal is None
    assert after.cpu_fallbacks == before.cpu_fallbacks
    assert pickle.loads(pickle.dumps(after)) == after


@pytest.mark.usefixtures("no_device")
def test_a_fallback_has_its_reason() -> None:
    # Whether a call is large enough to ask for a device is the policy's to say.
    told = workspace_of(fixtures.coupled_fixture(300, 2, 400, seed=1)).fit().telemetry
    assert told.cpu_fallbacks in (0, 1)
    assert len(told.fallback_reasons) == told.cpu_fallbacks
    assert told.device_ordinal is None


def test_telemetry_is_the_sum_over_threads() -> None:
    before = asn.process_telemetry().factorizations
    threads = [threading.Thread(target=lambda seed=seed: small(seed).fit()) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asn.process_telemetry().factorizations - before == 6


def test_stages_are_recorded_while_a_window_is_open() -> None:
    with asn.stage_window() as window:
        small(0x11).fit()
        seen = window.records
        assert seen
        with asn.stage_window() as inner:
            small(0x22).fit()
        assert len(inner.records) > len(seen)
    assert len(window.records) == len(inner.records)
    small(0x33).fit()
    assert len(window.records) == len(inner.records)
    for record in window.records:
        assert record.name
        assert (record.n, record.d, record.k) == (8, 2, 4)
        assert record.flops >= 0
        assert record.bytes >= 0
        assert record.cpu_ms >= 0
        assert record.device_ms == 0
    with asn.stage_window() as window:
        assert window.records == ()


def test_the_ring_keeps_the_last_1024_records() -> None:
    workspace = small(0x11)
    with asn.stage_window() as window:
        for _ in range(1100):
            workspace.fit()
        assert len(window.records) == 1024


def test_a_window_changes_no_bit() -> None:
    plain = small(0x11).fit()
    with asn.stage_window():
        assert same_bits(small(0x11).fit(), plain)


# ---- objects --------------------------------------------------------------------------------------------------------
def test_results_are_frozen_printed_and_pickled() -> None:
    workspace = small(0x11)
    fit, step = workspace.fit(), workspace.inner_iteration()
    sequence = workspace.fit_outer_sequence([(np.ones(16), np.ones(4))])
    for result in (fit, step, sequence, sequence.fits[0], fit.telemetry):
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.status = 1
        assert type(result).__name__ in repr(result)
        again = pickle.loads(pickle.dumps(result))
        assert repr(again) == repr(result)
        assert set(result.to_dict()) >= {f.name for f in dataclasses.fields(result)}
    assert same_bits(pickle.loads(pickle.dumps(fit)), fit)
    assert "converged" in repr(fit)
    assert fit.to_dict()["telemetry"]["factorizations"] == fit.factorizations


def test_fits_own_their_memory() -> None:
    workspace = small(0x11)
    fit = workspace.fit()
    kept = fit.t.copy()
    workspace.fit().t[:] = 7.0
    del workspace
    assert np.array_equal(fit.t, kept)


def test_a_workspace_is_immutable_and_pickles() -> None:
    for workspace in (small(0x11), asn.ResidentWorkspace.from_system(fixtures.small_fixture(0x11).system(), 3.0)):
        with pytest.raises(AttributeError, match="immutable"):
            workspace.shape = None
        with pytest.raises(AttributeError, match="immutable"):
            del workspace.shape
        for again in (pickle.loads(pickle.dumps(workspace)), copy.deepcopy(workspace)):
            assert repr(again) == repr(workspace)
            assert again.objective_at_zero == workspace.objective_at_zero
            assert same_bits(again.fit(), workspace.fit())


@pytest.mark.parametrize("flat", [False, True])
def test_a_fit_has_the_shape_of_the_gradient(flat: bool) -> None:
    f = fixtures.small_fixture(0x11)
    system = asn.ArrowSystem(f.h_tt, f.h_tb, f.h_bb, f.g_t.ravel() if flat else f.g_t, f.g_beta)
    workspace = asn.ResidentWorkspace.from_system(system)
    shape = (16,) if flat else (8, 2)
    assert workspace.fit().t.shape == shape
    assert workspace.inner_iteration().delta_t.shape == shape
    assert workspace.fit_outer_sequence([(f.g_t, f.g_beta)]).fits[0].t.shape == shape
    assert asn.newton_step_dense_reference(system).delta_t.shape == shape


def test_a_workspace_keeps_its_arrays_alive() -> None:
    workspace = small(0x11)
    expected = small(0x11).fit()
    fixtures.coupled_fixture(50, 2, 40, seed=1)  # takes memory that was set free
    assert same_bits(workspace.fit(), expected)


def test_calls_on_one_workspace_wait_for_each_other() -> None:
    workspace = asn.ResidentWorkspace.from_system(fixtures.coupled_fixture(60, 2, 80, seed=1).system())
    expected = workspace.fit()
    fits: list[asn.InnerFit] = []
    threads = [threading.Thread(target=lambda: fits.extend(workspace.fit() for _ in range(10))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fits) == 60
    assert all(same_bits(fit, expected) for fit in fits)


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    system = fixtures.coupled_fixture(600, 2, 300, seed=1).system()
    options = [asn.InnerOptions(solve=asn.SolveOptions(num_threads=n)) for n in (1, 2, 5)]
    one, *others = [asn.ResidentWorkspace.from_system(system).fit(o) for o in options]
    assert all(same_bits(fit, one) for fit in others)


def test_inputs_are_not_modified() -> None:
    f = fixtures.coupled_fixture(40, 3, 96, 2, 0.9)
    arrays = (f.h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta)
    before = [array.tobytes() for array in arrays]
    workspace = asn.ResidentWorkspace.from_system(f.system())
    workspace.fit(asn.InnerOptions(initial_ridge_t=0.5))
    workspace.fit_outer_sequence([(f.g_t, f.g_beta)])
    workspace.cpu_reference_fit()
    assert [array.tobytes() for array in arrays] == before


@pytest.mark.parametrize(
    "call",
    [
        lambda w: w.fit(asn.InnerOptions(solve=asn.SolveOptions(num_threads=1))),
        lambda w: asn.run_fits_multiplexed([w], max_concurrent=1),
        lambda w: w.cpu_reference_step(),
    ],
)
def test_the_gil_is_released(call: Any) -> None:
    workspace = asn.ResidentWorkspace.from_system(fixtures.coupled_fixture(700, 2, 1400, seed=1).system())
    ticks = 0
    running = True

    def count() -> None:
        nonlocal ticks
        while running:
            ticks += 1
            time.sleep(0.001)

    counter = threading.Thread(target=count)
    counter.start()
    try:
        time.sleep(0.01)
        before, begin = ticks, time.perf_counter()
        call(workspace)
        seconds, during = time.perf_counter() - begin, ticks - before
    finally:
        running = False
        counter.join()
    # With the GIL held there would be no tick but the one that waited.
    assert during > max(2, 50 * seconds)


# ---- interrupts -----------------------------------------------------------------------------------------------------
LONG_CALL = """
    import os, signal, threading, time
    import arrowschur_native as asn

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits "ignore"
    {setup}
    begin = []

    def interrupt():
        while not begin:
            time.sleep(0.001)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        begin.append(time.process_time())
        {call}
        print("finished")
    except KeyboardInterrupt:
        print("interrupted")
    print(time.process_time() - begin[0])
    print(asn.ResidentWorkspace.from_system(asn.fixtures.small_fixture(1).system()).fit().converged)
"""
CALLS = {
    "fit": (
        "workspace = asn.ResidentWorkspace.from_system(asn.fixtures.coupled_fixture(4000, 4, 3000, seed=1).system())",
        "workspace.fit(asn.InnerOptions(solve=asn.SolveOptions(num_threads=1)))",
    ),
    "dense reference": (
        "system = asn.fixtures.coupled_fixture(3000, 2, 2500, seed=1).system()",
        "asn.newton_step_dense_reference(system)",
    ),
    "sweep": (
        "system = asn.fixtures.coupled_fixture(600, 2, 800, seed=1).system()",
        "asn.run_fits_multiplexed([asn.ResidentWorkspace.from_system(system) for _ in range(2000)])",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_ends_a_long_call(name: str) -> None:
    setup, call = CALLS[name]
    program = textwrap.dedent(LONG_CALL).replace("{setup}", setup).replace("{call}", call)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    outcome, seconds, works = result.stdout.split()
    assert (outcome, works) == ("interrupted", "True")
    assert float(seconds) < 3.0  # of the CPU, so that other tests beside this one do not count


# ---- T-D-23, T-D-28: what these tests ask of every host --------------------------------------------------------------
def test_td_23_row_product() -> None:
    n, d, k = 352, 3, 24
    f = asn.fixtures.coupled_fixture(n, d, k, seed=23)
    B = f.h_tb.reshape(n * d, k)
    cross = asn.OperatorCross(lambda x: B @ x, lambda y: B.T @ y, k=k, row_dims=np.full(n, d))
    x = np.sin(0.1 * np.arange(1, k + 1))
    H = asn.ArrowSystem(f.h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta).to_dense()[0]
    T = n * d
    expected = H[T:, T:] @ x - H[T:, :T] @ np.linalg.solve(H[:T, :T], H[:T, T:] @ x)
    products = {}
    for name, h_tb in (("operator", cross), ("dense", f.h_tb)):
        system = asn.ArrowSystem(f.h_tt, h_tb, f.h_bb, f.g_t, f.g_beta)
        for threads in (1, 2):
            options = asn.SolveOptions(mode="inexact_pcg", num_threads=threads)
            factor = asn.factorize(system, options=options)
            products[name, threads] = factor.schur_apply(x)
            assert np.array_equal(factor.schur_apply(x), products[name, threads])  # two runs, every bit
    bound = 1e-12 * (1 + np.abs(expected).max())
    for product in products.values():  # serial and chunked
        assert np.abs(product - expected).max() <= bound
        assert np.abs(product - products["operator", 1]).max() <= bound


def test_td_28_memory() -> None:
    system = asn.fixtures.color_arm_fixture().system()
    direct = asn.plan(system, options=asn.SolveOptions(mode="direct"))
    tight = asn.plan(system, options=asn.SolveOptions(memory_limit=direct.peak_bytes - 1))
    assert tight.route == "low_rank"
    assert tight.peak_bytes < direct.peak_bytes
    with pytest.raises(asn.MemoryBudgetExceeded) as caught:
        asn.plan(system, options=asn.SolveOptions(memory_limit=1000))
    assert caught.value.budget == 1000
    assert caught.value.bytes_needed > 1000
