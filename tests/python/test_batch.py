"""Batches of small systems: one result or one error each, in order."""

from __future__ import annotations

import numpy as np
import pytest

import arrowschur_native as asn
from arrowschur_native import fixtures


def td24_system(n: int, d: int, k: int, s: float, border: float | None = None) -> asn.ArrowSystem:
    """Return the system of T-D-24, with another border diagonal if one is given."""
    i, r, c = np.arange(n), np.arange(d), np.arange(k)
    return asn.ArrowSystem(
        np.broadcast_to((2 + s) * np.eye(d), (n, d, d)).copy(),
        0.05 * (r[None, :, None] + c[None, None, :] + i[:, None, None] + 1),
        np.full(k, 2 + s if border is None else border),
        np.repeat(0.1 * (i[:, None] + 1) + s, d, axis=1),
        0.2 * (c + 1),
    )


def test_td_24_batch() -> None:
    ridges = {"ridge_t": 1e-6, "ridge_beta": 1e-6}
    (only,) = asn.solve_batch([td24_system(5, 2, 3, 0)], **ridges)
    assert isinstance(only, asn.BatchStep)
    np.testing.assert_allclose(only.step.delta_beta, [0.0476419006, -0.0171112619, -0.0818644244], rtol=1e-8)
    assert only.log_det_hessian == pytest.approx(8.4420285342, rel=1e-10)

    systems = [td24_system(*shape) for shape in ((4, 2, 2, 0), (6, 2, 3, 0.5), (3, 1, 2, 1))]
    for system, result in zip(systems, asn.solve_batch(systems, **ridges), strict=True):
        assert isinstance(result, asn.BatchStep)
        H, g = system.to_dense()
        H[np.diag_indices_from(H)] += 1e-6
        x = np.r_[result.step.delta_t.ravel(), result.step.delta_beta]
        np.testing.assert_allclose(x, np.linalg.solve(H, -g), rtol=1e-12, atol=1e-12)
        assert result.log_det_hessian == pytest.approx(np.linalg.slogdet(H)[1], rel=1e-12)
        assert result.step.diagnostics.backward_error < 1e-14

    good, bad = asn.solve_batch([td24_system(4, 2, 2, 0), td24_system(4, 2, 2, 0, border=-2.0)])
    assert isinstance(good, asn.BatchStep)
    assert isinstance(bad, asn.SchurFactorError)
    assert asn.solve_batch([]) == []


def test_results_are_those_of_single_factors_for_any_number_of_threads() -> None:
    shapes = [(3, 1, 1), (40, 3, 20), (1, 5, 2), (200, 2, 60), (7, 2, 0)]
    systems = [fixtures.coupled_fixture(*shape, seed=seed).system() for seed, shape in enumerate(shapes * 4, 1)]
    for threads in (1, 2, 5):
        results = asn.solve_batch(systems, ridge_t=0.1, options=asn.SolveOptions(num_threads=threads))
        for system, result in zip(systems, results, strict=True):
            assert isinstance(result, asn.BatchStep)
            factor = asn.factorize(system, ridge_t=0.1)
            step = factor.step()
            np.testing.assert_array_equal(result.step.delta_t, step.delta_t)
            np.testing.assert_array_equal(result.step.delta_beta, step.delta_beta)
            assert result.log_det_hessian == factor.log_det()
            assert result.step.route == factor.route


def test_failures_stay_with_their_systems() -> None:
    def broken(x: np.ndarray) -> np.ndarray:
        raise ValueError("a callback of the user")

    base = fixtures.coupled_fixture(6, 2, 4, seed=3)
    callback = asn.ArrowSystem(base.h_tt, base.h_tb, asn.OperatorBorder(broken, np.full(4, 4.0)), base.g_t, base.g_beta)
    matrix_free = asn.SolveOptions(mode="inexact_pcg")
    results = asn.solve_batch([base.system(), callback, base.system()], options=matrix_free)
    assert [type(result) for result in results] == [asn.BatchStep, ValueError, asn.BatchStep]
    assert np.isnan(results[0].log_det_hessian)


def test_rows_that_are_lifted_are_told(caplog: pytest.LogCaptureFixture) -> None:
    base = fixtures.coupled_fixture(6, 2, 4, seed=3)
    h_tt = base.h_tt.copy()
    h_tt[2] = -np.eye(2)
    (result,) = asn.solve_batch([asn.ArrowSystem(h_tt, base.h_tb, base.h_bb, base.g_t, base.g_beta)])
    assert isinstance(result, asn.BatchStep)
    assert result.step.diagnostics.rows_lifted == 1
    assert np.isnan(result.log_det_hessian)
    assert "ridges of their own" in caplog.text


def test_what_is_wrong_with_the_call_is_raised() -> None:
    system = fixtures.small_fixture(0x11).system()
    with pytest.raises(asn.InvalidArgument, match="ridge_t"):
        asn.solve_batch([system], ridge_t=-1.0)
    with pytest.raises(asn.InvalidArgument, match="ridge_beta"):
        asn.solve_batch([], ridge_beta=float("nan"))
    with pytest.raises(asn.InvalidArgument, match="system"):
        asn.solve_batch([system, "no system"])  # type: ignore[list-item]
    with pytest.raises(asn.UnsupportedConfiguration, match="schur_apply"):
        asn.solve_batch([system], options=asn.SolveOptions(mode="inexact_pcg", schur_apply=lambda x: x))
    with pytest.raises(asn.DeviceUnavailableError):
        asn.solve_batch([system], options=asn.SolveOptions(device="required"))
