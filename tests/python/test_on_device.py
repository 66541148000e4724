"""The device suite: parity, equal bits, counters and failures on a real device. `pytest -m device`.

Without a device each test is skipped by the marker that conftest.py fixes. With `--stand-in`, and the fake device as
backend, the same checks run on the host (test_frames.py does so): that tries the tests, and proves no device. Fixed
fixtures are the specification's; the others draw new numbers in every run and print their seed.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from conftest import Place

import arrowschur_native as asn
from arrowschur_native import fixtures

EPS = np.finfo(float).eps
RESIDENT, REUPLOAD, FULL = "gpu-resident-linearization", "gpu-reupload", "gpu-resident-full"


# ---- helpers --------------------------------------------------------------------------------------------------------
def metric_a(x: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(x - reference).max() / max(1.0, np.abs(reference).max()))


def metric_n(x: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))


def bits(step: Any) -> tuple[bytes, bytes]:
    if isinstance(step, asn.InnerFit):
        return step.t.tobytes(), step.beta.tobytes()
    return step.delta_t.tobytes(), step.delta_beta.tobytes()


def random_system(rng: np.random.Generator, n: int, d: int, k: int, scale: float = 0.5) -> asn.ArrowSystem:
    """A system whose reduced border keeps a distance from singular, with a cross block of full rank."""
    rows = rng.uniform(-0.5, 0.5, (n, d, d)) / d
    h_tt = rows + rows.transpose(0, 2, 1) + 3 * np.eye(d)
    h_tb = rng.normal(size=(n, d, k)) * scale / (np.sqrt(n * d) + np.sqrt(k))
    m = rng.uniform(-0.5, 0.5, (k, k)) / k
    return asn.ArrowSystem(h_tt, h_tb, m + m.T + 4 * np.eye(k), rng.normal(size=(n, d)), rng.normal(size=k))


def random_ragged(rng: np.random.Generator, dims: list[int], k: int) -> asn.ArrowSystem:
    blocks = []
    for d in dims:
        block = rng.uniform(-0.5, 0.5, (d, d)) / max(d, 1)
        blocks.append(block + block.T + 3 * np.eye(d))
    total = sum(dims)
    h_tb = rng.normal(size=(total, k)) * 0.5 / (np.sqrt(total) + np.sqrt(k))
    return asn.ArrowSystem(blocks, h_tb, 4 * np.eye(k), rng.normal(size=total), rng.normal(size=k))


def check_step(step: asn.FrameStep, system: asn.ArrowSystem, tolerance: float, ridges: tuple[float, float]) -> None:
    dense = asn.newton_step_dense_reference(system, *ridges)
    assert metric_n(step.delta_t, dense.delta_t) < tolerance
    assert metric_n(step.delta_beta, dense.delta_beta) < tolerance
    assert step.log_det_hessian == pytest.approx(dense.log_det, rel=tolerance)
    assert step.certificate < 64 * EPS


# ---- T-D-3, T-D-6, T-D-17: loops ------------------------------------------------------------------------------------
def test_td_03_resident_parity(device: Place) -> None:
    fixture = fixtures.small_fixture(0x5AE1017)
    workspace = asn.ResidentWorkspace.from_system(fixture.system())
    reference = workspace.cpu_reference_fit()
    for method, path in (("device_fit", FULL), ("device_reupload_fit", REUPLOAD)):
        fit = getattr(workspace, method)()
        assert workspace.device_resident, workspace.device_reason  # a silent decline is a fault
        assert fit.status == "converged"
        assert device.ran(fit, path)
        assert metric_a(fit.t, reference.t) < 1e-9
        assert metric_a(fit.beta, reference.beta) < 1e-9
    step = asn.ArrowFrame.build(workspace.to_system()).step()
    dense = workspace.cpu_reference_step()
    assert metric_a(step.delta_t, dense.delta_t) < 1e-9
    assert metric_a(step.delta_beta, dense.delta_beta) < 1e-9
    steps = workspace.one_inner_iteration(), workspace.inner_iteration(device="required")
    assert all(device.ran(step, RESIDENT) for step in steps)
    assert bits(steps[0]) == bits(steps[1])
    assert steps[0].certificate < 64 * EPS
    assert workspace.resident_device_bytes > workspace.frame_upload_bytes


def test_fits_of_new_numbers(device: Place, random: np.random.Generator) -> None:
    for n, d, k in ((20, 2, 12), (9, 5, 30), (40, 1, 7), (10, 17, 5)):
        workspace = asn.ResidentWorkspace.from_system(random_system(random, n, d, k))
        options = asn.InnerOptions(initial_ridge_t=0.1, initial_ridge_beta=0.05)
        fit, reference = workspace.device_fit(options), workspace.cpu_reference_fit(options)
        assert device.ran(fit, FULL)
        assert fit.iterations == reference.iterations
        assert metric_n(fit.t, reference.t) < 1e-9
        assert metric_n(fit.beta, reference.beta) < 1e-9
        assert bits(workspace.device_fit(options)) == bits(fit)


def outers(total: int, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    i, j = np.arange(total), np.arange(k)
    return [(0.01 * np.sin(0.002 * (i + 3 * s)), 0.001 * np.cos(0.0009 * (j + 11 * s))) for s in range(3)]


def check_outer_sequence(system: asn.ArrowSystem, device: Place) -> asn.OuterSequence:
    workspace = asn.ResidentWorkspace.from_system(system)
    gradients = outers(system.total_dim, system.k)
    resident = workspace.device_fit_outer_sequence(gradients)
    assert resident.frame_builds == 1
    host = workspace.fit_outer_sequence(gradients, device="off")
    for fit, reference, (g_t, g_beta) in zip(resident.fits, host.fits, gradients, strict=True):
        assert device.ran(fit, FULL)
        assert metric_a(fit.t, reference.t) < 1e-9
        assert metric_n(fit.t, reference.t) < 1e-10
        assert metric_n(fit.beta, reference.beta) < 1e-10
        own = system.with_gradient(g_t, g_beta)
        assert bits(asn.ResidentWorkspace.from_system(own).device_fit()) == bits(fit)
    return resident


def test_td_06_outer_sequence(device: Place) -> None:
    check_outer_sequence(fixtures.coupled_fixture(30, 2, 24, seed=3).system(), device)


@pytest.mark.large
def test_td_06_outer_sequence_on_color_arm(device: Place) -> None:
    resident = check_outer_sequence(fixtures.color_arm_fixture().system(), device)
    norms = [(np.linalg.norm(fit.t), np.linalg.norm(fit.beta)) for fit in resident.fits]
    expected = [(0.0243738155, 0.0127238630), (0.0246569059, 0.0126972132), (0.0249404852, 0.0126704617)]
    np.testing.assert_allclose(norms, expected, rtol=1e-8)


@pytest.mark.parametrize(("ridge", "iterations"), [(1e-3, 3), (0.1, 5), (1.0, 7)])
def test_td_17_builds_follow_the_schedule(device: Place, ridge: float, iterations: int) -> None:
    workspace = asn.ResidentWorkspace.from_system(fixtures.small_fixture(0xABCD0001).system())
    options = asn.InnerOptions(initial_ridge_t=ridge, initial_ridge_beta=ridge, shrink_rule="always")
    fit = workspace.device_fit(options)
    assert device.ran(fit, FULL)
    assert (fit.iterations, fit.accepted_iterations, fit.frame_builds, fit.factorizations) == (iterations,) * 4


# ---- T-D-7: frames and reuploads -----------------------------------------------------------------------------------
def check_residency(system: asn.ArrowSystem, device: Place, seeds: int) -> list[asn.FrameStep]:
    frame = asn.ArrowFrame.build(system)
    i, j = np.arange(system.total_dim), np.arange(system.k)
    steps = []
    for s in range(seeds):
        g_t, g_beta = np.sin(0.001 * (i + s)), np.cos(0.0007 * (j + 7 * s))
        step = frame.step(g_t, g_beta)
        once = asn.newton_step_reupload(system.with_gradient(g_t, g_beta))
        assert device.ran(step, RESIDENT)
        assert device.ran(once, REUPLOAD)
        assert bits(step) == bits(once) == bits(frame.step(g_t, g_beta))
        steps.append(step)
    assert frame.telemetry.frame_builds == 1
    assert frame.telemetry.capture_failures == 0
    return steps


def test_td_07_frame_and_reupload_have_the_same_bits(device: Place, random: np.random.Generator) -> None:
    check_residency(random_system(random, 50, 3, 70), device, 4)
    check_residency(fixtures.coupled_fixture(30, 2, 40, seed=5, border="tridiagonal").system(), device, 4)


@pytest.mark.large
@pytest.mark.parametrize("declared", ["dense", "as it is"])
@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("color_arm_fixture", [(1.26754200, 13.24837971), (1.38626341, 13.16340130)]),
        ("qwen_fixture", [(13.68539423, 8.32950772), (13.73742111, 7.71589263)]),
    ],
)
def test_td_07_reference_shapes(device: Place, name: str, norms: list[tuple[float, float]], declared: str) -> None:
    f = getattr(fixtures, name)()
    dense = declared == "dense"
    system = asn.ArrowSystem(f.h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta, detect_structure=not dense)
    steps = check_residency(system, device, 24)
    for step, (norm_t, norm_beta) in zip((steps[0], steps[-1]), norms, strict=True):
        assert np.linalg.norm(step.delta_t) == pytest.approx(norm_t, rel=1e-8)
        assert np.linalg.norm(step.delta_beta) == pytest.approx(norm_beta, rel=1e-8)


# ---- the dual route: T-D-7, T-D-10, T-D-11 once more ---------------------------------------------------------------
def random_banded(rng: np.random.Generator, n: int, d: int, k: int, width: int) -> asn.ArrowSystem:
    rows = rng.uniform(-0.5, 0.5, (n, d, d)) / d
    h_tb = rng.normal(size=(n, d, k)) * 0.5 / (np.sqrt(n * d) + np.sqrt(k))
    bands = rng.uniform(-0.5, 0.5, (width + 1, k)) / max(width, 1)
    bands[0] = 4.0
    h_tt = rows + rows.transpose(0, 2, 1) + 3 * np.eye(d)
    return asn.ArrowSystem(h_tt, h_tb, asn.BandedBorder(bands), rng.normal(size=(n, d)), rng.normal(size=k))


def test_td_07_dual_frame_and_reupload_have_the_same_bits(device: Place, random: np.random.Generator) -> None:
    for system in (
        random_banded(random, 20, 2, 300, 1),
        fixtures.coupled_fixture(30, 2, 200, seed=5, border="diagonal").system(),
    ):
        frame = asn.ArrowFrame.build(system, 1e-3, 1e-2, route="dual")
        base = asn.BaseArrowFrame(system, route="dual")
        for _ in range(4):
            g_t, g_beta = random.normal(size=(system.n, 2)), random.normal(size=system.k)
            step = frame.step(g_t, g_beta)
            own = system.with_gradient(g_t, g_beta)
            once = asn.newton_step_reupload(own, ridge_t=1e-3, ridge_beta=1e-2, route="dual")
            assert device.ran(step, RESIDENT)
            assert device.ran(once, REUPLOAD)
            assert step.route == once.route == "dual"
            assert bits(step) == bits(once) == bits(frame.step(g_t, g_beta))
            assert bits(step) == bits(base.refactor_and_solve(1e-3, 1e-2, g_t, g_beta))
        assert frame.telemetry.capture_failures == 0


@pytest.mark.parametrize("width", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("shape", [(8, 6, 60), (12, 10, 130), (3, 20, 70), (60, 2, 500)])
def test_td_11_dual_step_parity(
    device: Place, shape: tuple[int, int, int], width: int, random: np.random.Generator
) -> None:
    system = random_banded(random, *shape, width)
    for ridges in ((0.0, 0.0), (1e-9, 1e-2)):
        step = asn.ArrowFrame.build(system, *ridges, route="dual").step(certificate=True)
        assert device.ran(step, RESIDENT)
        assert step.route == "dual"
        check_step(step, system, 1e-10, ridges)


@pytest.mark.large
def test_td_10_color_arm_takes_the_dual_route(device: Place) -> None:
    system = fixtures.coupled_fixture(180, 2, 5120, seed=3, coupling=0.9, border="tridiagonal").system()
    frame = asn.ArrowFrame.build(system)
    step, direct = frame.step(certificate=True), asn.ArrowFrame.build(system, route="direct").step()
    assert device.ran(step, RESIDENT)
    assert (frame.route, direct.route) == ("dual", "direct")
    check_step(step, system, 1e-11, (0.0, 0.0))
    assert step.log_det_hessian == pytest.approx(7096.4982008185, rel=1e-11)
    assert metric_n(step.delta_beta, direct.delta_beta) < 1e-10
    # T-D-28: without the memory of k x k numbers too, whatever is predicted.
    need = frame.plan.candidates[0].peak_bytes
    tight = asn.ArrowFrame.build(system, device_memory_limit=need - 1)
    assert tight.route == "dual"
    assert bits(tight.step()) == bits(frame.step())
    least = frame.plan.candidates[1].peak_bytes
    with pytest.raises(asn.DeviceUnavailableError, match=f"{least} bytes needed"):
        asn.ArrowFrame.build(system, device_memory_limit=least - 1)


def test_fits_on_the_dual_route(device: Place, random: np.random.Generator) -> None:
    workspace = asn.ResidentWorkspace.from_system(random_banded(random, 20, 2, 300, 1))
    options = asn.InnerOptions(solve=asn.SolveOptions(mode="low_rank"))
    fit, reference = workspace.device_fit(options), workspace.cpu_reference_fit()
    assert device.ran(fit, FULL)
    assert fit.route == "dual"
    assert metric_n(fit.t, reference.t) < 1e-9
    assert metric_n(fit.beta, reference.beta) < 1e-9


# ---- T-D-21: conjugate gradients -----------------------------------------------------------------------------------
def test_td_21_dense_pcg(device: Place) -> None:
    k = 512
    i = np.arange(k)
    border = np.diag(2.5 + 0.001 * (i % 17))
    for offset, value in ((1, -0.05), (7, 0.01)):
        border += value * (np.eye(k, k=offset) + np.eye(k, k=-offset))
    g_beta = -np.sin(0.013 * (i + 1))
    none = np.zeros((0, 1, 1)), np.zeros((0, 1, k)), border, np.zeros((0, 1)), g_beta
    pcg = asn.PcgOptions(max_iterations=200, relative_tolerance=1e-12)
    options = asn.SolveOptions(mode="inexact_pcg", preconditioner="diagonal", pcg=pcg, device="off")
    for detect in (False, True):
        system = asn.ArrowSystem(*none, detect_structure=detect)
        step = asn.ArrowFrame.build(system, route="inexact_pcg", pcg=pcg).step(certificate=True)
        assert device.ran(step, RESIDENT)  # one that declines is a failure
        host = asn.newton_step(system, options=options)
        assert metric_a(step.delta_beta, host.delta_beta) < 1e-10
        assert step.pcg is not None
        assert step.pcg.matvec_calls == step.pcg.iterations > 0
        assert step.pcg.stopping_reason == "converged"
        assert step.pcg.final_relative_residual < 2e-12


def test_pcg_of_new_numbers(device: Place, random: np.random.Generator) -> None:
    pcg = asn.PcgOptions(max_iterations=500, relative_tolerance=1e-13)
    for n, d, k in ((40, 3, 96), (12, 16, 6), (200, 2, 700)):
        system = random_system(random, n, d, k)
        frame = asn.ArrowFrame.build(system, 1e-3, 1e-2, route="inexact_pcg", pcg=pcg)
        step, dense = frame.step(), asn.newton_step_dense_reference(system, 1e-3, 1e-2)
        assert device.ran(step, RESIDENT)
        assert metric_n(step.delta_t, dense.delta_t) < 1e-10
        assert metric_n(step.delta_beta, dense.delta_beta) < 1e-10
        assert bits(step) == bits(frame.step()) == bits(frame.step())


# ---- T-D-24: batches -----------------------------------------------------------------------------------------------
def td24_system(n: int, d: int, k: int, s: float, border: float | None = None) -> asn.ArrowSystem:
    i, r, c = np.arange(n), np.arange(d), np.arange(k)
    return asn.ArrowSystem(
        np.broadcast_to((2 + s) * np.eye(d), (n, d, d)).copy(),
        0.05 * (r[None, :, None] + c[None, None, :] + i[:, None, None] + 1),
        np.full(k, 2 + s if border is None else border),
        np.repeat(0.1 * (i[:, None] + 1) + s, d, axis=1),
        0.2 * (c + 1),
    )


def ran_in_a_batch(device: Place, result: asn.BatchStep | Exception) -> bool:
    assert isinstance(result, asn.BatchStep)
    told = result.step.diagnostics.execution_path, result.backend, result.unproven_path
    return told == (("cpu", "fake", REUPLOAD) if device.stand_in else (REUPLOAD, "cuda", ""))


def test_td_24_batch(device: Place, random: np.random.Generator) -> None:
    ridges = {"ridge_t": 1e-6, "ridge_beta": 1e-6}
    (only,) = asn.solve_batch([td24_system(5, 2, 3, 0)], device="required", **ridges)
    assert ran_in_a_batch(device, only)
    np.testing.assert_allclose(only.step.delta_beta, [0.0476419006, -0.0171112619, -0.0818644244], rtol=1e-8)
    assert only.log_det_hessian == pytest.approx(8.4420285342, rel=1e-10)
    systems = [td24_system(*shape) for shape in ((4, 2, 2, 0), (6, 2, 3, 0.5), (3, 1, 2, 1))]
    systems += [random_system(random, int(n), int(d), int(k)) for n, d, k in random.integers(1, 33, size=(20, 3))]
    systems += [random_system(random, 5000, 2, 5), random_system(random, 300, 16, 32)]
    results = asn.solve_batch(systems, device="required", **ridges)
    for system, there, here in zip(systems, results, asn.solve_batch(systems, device="off", **ridges), strict=True):
        assert ran_in_a_batch(device, there)
        assert metric_a(there.step.delta_t, here.step.delta_t) < 1e-12
        assert metric_a(there.step.delta_beta, here.step.delta_beta) < 1e-12
        assert there.log_det_hessian == pytest.approx(here.log_det_hessian, rel=1e-12)
        assert there.step.diagnostics.backward_error < 64 * EPS, system
    for first, second in zip(results, asn.solve_batch(systems, device="required", **ridges), strict=True):
        assert bits(first.step) == bits(second.step)
    good, bad = asn.solve_batch([td24_system(4, 2, 2, 0), td24_system(4, 2, 2, 0, border=-2.0)], device="required")
    assert ran_in_a_batch(device, good)
    assert isinstance(bad, asn.SchurFactorError)
    assert asn.solve_batch([], device="required") == []


# ---- T-D-9: sweeps --------------------------------------------------------------------------------------------------
def check_sweep(variants: list[asn.SweepVariant], device: Place) -> None:
    sweep = asn.run_variant_sweep(variants, runner="device")
    assert sweep.throughput.succeeded == len(variants)
    assert all(device.ran(fit, FULL) for fit in sweep)
    sequential = asn.check_sweep_parity(variants, None, sweep, runner="device")
    print(f"multiplexed {sweep.throughput.fits_per_second:.4g}, sequential {sequential.fits_per_second:.4g} fits/s")


def test_td_09_sweep(device: Place, random: np.random.Generator) -> None:
    shape = asn.ResidentShape(n=12, p=20, basis_cols=2, d=2)
    check_sweep([asn.SweepVariant(shape, int(seed)) for seed in random.integers(2**40, size=9)], device)


@pytest.mark.large
def test_td_09_battery(device: Place) -> None:
    check_sweep(list(fixtures.color_arm_variant_matrix()), device)


# ---- T-D-10, T-D-11, T34: steps -------------------------------------------------------------------------------------
# The published log-determinant of the second has a wrong digit (test_loops.py).
COUPLED = [
    ((8, 2, 4, 1, 0.5, "dense"), 22.566434312700, 0.6836738698063, 0.3125207146706),
    ((40, 3, 96, 2, 0.9, "dense"), 235.92956806080, 3.8422258655703, 2.9980351328343),
    ((12, 16, 6, 5, 0.9, "dense"), 211.02616058903, 3.5144799181035, 1.9711041399750),
]
LARGE = [
    ((2000, 2, 2048, 4, 0.9, "dense"), 6431.4108503066, 19.496403781517, 14.364557401311),
    ((180, 2, 5120, 3, 0.9, "tridiagonal"), 7096.4982008185, 13.260131987436, 15.781487294067),
]


@pytest.mark.parametrize(
    ("arguments", "log_det", "norm_t", "norm_beta"),
    [*COUPLED, *(pytest.param(*row, marks=pytest.mark.large) for row in LARGE)],
)
def test_td_10_coupled_fixtures(
    device: Place, arguments: tuple[Any, ...], log_det: float, norm_t: float, norm_beta: float
) -> None:
    n, d, k, seed, coupling, border = arguments
    system = fixtures.coupled_fixture(n, d, k, seed=seed, coupling=coupling, border=border).system()
    step = asn.ArrowFrame.build(system).step(certificate=True)
    assert device.ran(step, RESIDENT)
    assert step.log_det_hessian == pytest.approx(log_det, rel=1e-11)
    assert np.linalg.norm(step.delta_t) == pytest.approx(norm_t, rel=1e-11)
    assert np.linalg.norm(step.delta_beta) == pytest.approx(norm_beta, rel=1e-11)
    check_step(step, system, 1e-11, (0.0, 0.0))


@pytest.mark.parametrize("shape", [(8, 6, 4), (12, 10, 5), (8, 16, 5), (4, 30, 5), (5, 8, 3), (10, 12, 4), (3, 20, 6)])
def test_td_11_step_parity(device: Place, shape: tuple[int, int, int], random: np.random.Generator) -> None:
    for seed in range(1, 6):
        system = fixtures.coupled_fixture(*shape, seed=seed, coupling=0.9).system()
        step = asn.ArrowFrame.build(system).step(certificate=True)
        assert device.ran(step, RESIDENT)
        check_step(step, system, 1e-10, (0.0, 0.0))
    system = random_system(random, *shape)
    check_step(asn.ArrowFrame.build(system).step(certificate=True), system, 1e-10, (0.0, 0.0))


@pytest.mark.parametrize("ridge", [1e-12, 1e-9, 1e-6, 1e-3, 1e-2])
def test_td_11_ridges(device: Place, ridge: float) -> None:
    system = fixtures.coupled_fixture(6, 12, 4, seed=1, coupling=0.9).system()
    step = asn.ArrowFrame.build(system, ridge, ridge).step(certificate=True)
    assert device.ran(step, RESIDENT)
    check_step(step, system, 1e-10, (ridge, ridge))


def test_t34_rows_of_every_depth(device: Place, random: np.random.Generator) -> None:
    for d in range(1, 33):
        system = random_system(random, 5, d, 6)
        step = asn.newton_step_reupload(system, ridge_t=0.1, ridge_beta=0.2, certificate=True)
        assert device.ran(step, REUPLOAD)
        check_step(step, system, 1e-10, (0.1, 0.2))
    dims = [*random.integers(1, 33, size=20).tolist(), 0, 1, 32]
    system = random_ragged(random, [int(d) for d in dims], 11)
    check_step(asn.ArrowFrame.build(system).step(certificate=True), system, 1e-10, (0.0, 0.0))


def test_t34_border_forms_and_float32(device: Place, random: np.random.Generator) -> None:
    f = fixtures.coupled_fixture(12, 3, 8, seed=4, coupling=0.5)
    blocks = random.uniform(-0.2, 0.2, (2, 4, 4))
    borders = [
        np.full(8, 4.0),
        asn.BandedBorder(np.vstack([np.full(8, 4.0), np.full(8, -0.5), np.full(8, 0.25)])),
        asn.BlockDiagonalBorder([b + b.T + 4 * np.eye(4) for b in blocks]),
        asn.KroneckerBorder([np.array([[4.0, 0.5], [0.5, 3.0]])], 4),
        asn.DiagonalBorder(np.full(8, 1.0)) + asn.BandedBorder(np.vstack([np.full(8, 3.0), np.full(8, -0.5)])),
    ]
    for border in borders:
        system = asn.ArrowSystem(f.h_tt, f.h_tb, border, f.g_t, f.g_beta)
        step = asn.ArrowFrame.build(system).step(certificate=True)
        assert device.ran(step, RESIDENT)
        check_step(step, system, 1e-11, (0.0, 0.0))
    single = asn.ArrowSystem(*(np.asarray(part, np.float32) for part in (f.h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta)))
    check_step(asn.ArrowFrame.build(single).step(certificate=True), single, 1e-11, (0.0, 0.0))


@pytest.mark.large
def test_wide_borders_of_new_numbers(device: Place, random: np.random.Generator) -> None:
    for n, d, k in ((700, 3, 1500), (100, 8, 3000)):
        system = random_system(random, n, d, k, scale=1.0)
        step = asn.ArrowFrame.build(system).step(certificate=True)
        assert device.ran(step, RESIDENT)
        check_step(step, system, 1e-10, (0.0, 0.0))


# ---- T-D-14, T34, T69: failures -------------------------------------------------------------------------------------
def test_td_14_one_retry_repairs_every_row(device: Place) -> None:
    f = fixtures.coupled_fixture(4, 8, 3, seed=11, coupling=0.5)
    h_tt = f.h_tt.copy()
    h_tt[2], h_tt[3] = -np.eye(8), -250 * np.eye(8)
    system = asn.ArrowSystem(h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta)
    with pytest.raises(asn.RowFactorError) as failed:
        asn.ArrowFrame.build(system)
    assert (failed.value.row, failed.value.pivot_index) == (2, 0)
    assert failed.value.suggested_ridge == pytest.approx(251.5761727, rel=1e-7)
    with pytest.raises(asn.SchurFactorError):
        asn.ArrowFrame.build(system, asn.examine_rows(system).bump)
    step = asn.ArrowFrame.build(system, failed.value.suggested_ridge).step()
    assert device.ran(step, RESIDENT)
    dense = asn.newton_step_dense_reference(system, failed.value.suggested_ridge)
    assert metric_n(step.delta_t, dense.delta_t) < 1e-10
    assert metric_n(step.delta_beta, dense.delta_beta) < 1e-10


def test_t34_one_bad_row_among_many(device: Place, random: np.random.Generator) -> None:
    f = fixtures.coupled_fixture(4096, 2, 4, seed=5, coupling=0.5)
    bad = int(random.integers(4096))
    h_tt = f.h_tt.copy()
    h_tt[bad, 1, 1] = -2.0
    system = asn.ArrowSystem(h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta)
    frame = asn.BaseArrowFrame(system)
    with pytest.raises(asn.RowFactorError) as failed:
        frame.factor_at()
    assert (failed.value.row, failed.value.pivot_index) == (bad, 1)
    step = frame.refactor_and_solve(failed.value.suggested_ridge, certificate=True)
    assert device.ran(step, RESIDENT)
    assert step.certificate < 64 * EPS


def test_t69_an_escalation_uploads_the_blocks_once(device: Place) -> None:
    f = fixtures.coupled_fixture(8, 2, 4, seed=1, coupling=0.5)
    system = asn.ArrowSystem(f.h_tt, f.h_tb, f.h_bb - 5 * np.eye(4), f.g_t, f.g_beta)
    frame = asn.BaseArrowFrame(system)
    uploaded, failures = frame.telemetry.h2d_bytes, 0
    ridge = 0.01
    while failures < 8:
        try:
            factors = frame.factor_at(0.0, ridge)
            break
        except asn.SchurFactorError:
            failures += 1
            ridge *= 4.0
    assert failures == 4  # the fifth attempt succeeds
    assert frame.telemetry.h2d_bytes == uploaded > 0
    step = frame.solve_with(factors)
    assert device.ran(step, RESIDENT)
    assert bits(step) == bits(asn.ArrowFrame.build(system, 0.0, ridge).step())


# ---- T-D-19: counters -----------------------------------------------------------------------------------------------
def check_counters(system: asn.ArrowSystem, device: Place, slabs: int) -> None:
    workspace = asn.ResidentWorkspace.from_system(system)
    first = workspace.device_fit()
    vector, iterates = 8 * (system.total_dim + system.k), first.iterations
    assert device.ran(first, FULL)
    assert first.telemetry.frame_builds == 1
    assert first.telemetry.h2d_bytes == slabs
    assert first.telemetry.d2h_bytes == vector + 64 * (3 + iterates)
    assert (first.telemetry.device_ordinal is None) is device.stand_in
    again = workspace.device_fit()
    assert bits(again) == bits(first)
    assert (again.telemetry.h2d_bytes, again.telemetry.allocations, again.telemetry.handle_creations) == (0, 0, 0)
    assert again.telemetry.d2h_bytes == vector + 64 * (2 + iterates)
    reupload = workspace.device_reupload_fit()
    assert reupload.telemetry.h2d_bytes == reupload.iterations * slabs


def test_td_19_counters(device: Place) -> None:
    f = fixtures.shape_fixture(asn.ResidentShape(n=50, p=64, basis_cols=4, d=2), 9)
    check_counters(f.system(), device, 8 * (50 * 4 + 100 * 64 + 2 * 64 + 100 + 64))


@pytest.mark.large
@pytest.mark.parametrize(("detect", "slabs"), [(False, 99_202_816), (True, 65_681_152)])
def test_td_19_counters_of_qwen(device: Place, detect: bool, slabs: int) -> None:
    f = fixtures.qwen_fixture()
    check_counters(asn.ArrowSystem(f.h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta, detect_structure=detect), device, slabs)


# ---- T-D-26: determinism --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("route", ["direct", "dual", "inexact_pcg"])
def test_td_26_equal_bits_while_others_work(device: Place, route: str, random: np.random.Generator) -> None:
    system = random_system(random, 60, 3, 80) if route != "dual" else random_banded(random, 20, 3, 200, 1)
    frame = asn.ArrowFrame.build(system, route=route)
    expected = bits(frame.step())
    batch = [random_system(random, 20, 2, 9) for _ in range(8)]
    solved = [bits(result.step) for result in asn.solve_batch(batch, device="required")]
    others = [random_system(random, 40, 2, 60) for _ in range(8)]
    stop = threading.Event()

    def work(other: asn.ArrowSystem) -> None:
        while not stop.is_set():
            asn.newton_step_reupload(other)

    threads = [threading.Thread(target=work, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            step = frame.step()
            assert device.ran(step, RESIDENT)
            assert bits(step) == bits(asn.newton_step_reupload(system, route=route)) == expected
            assert [bits(result.step) for result in asn.solve_batch(batch, device="required")] == solved
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# ---- dictionaries ---------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:sparse_dictionary. no convergence")
@pytest.mark.parametrize(("router", "k", "s"), [("topk", 64, 3), ("refine", 64, 3), ("topk", 1000, 32)])
def test_dictionaries_have_the_bits_of_the_cpu(
    device: Place, random: np.random.Generator, router: str, k: int, s: int
) -> None:
    """A whole fit: decoder, supports, codes and the path of explained variance; and what comes back over the link."""
    x = random.normal(size=(1500, 48)).astype(np.float32)
    x[7], x[8:12] = 0.0, x[20]  # a row of zeros, equal rows
    options = {"n_components": k, "n_nonzero_coefs": s, "router": router, "max_iter": 3, "tol": 0.0, "patience": 0}
    here, there = (asn.SparseDictionary(**options, device=where).fit(x).result_ for where in ("off", "required"))
    for name in ("decoder", "indices", "codes", "ev_path"):
        assert getattr(there, name).tobytes() == getattr(here, name).tobytes(), name
    route = there.route
    assert route.device_minibatches == route.minibatches > 0 == route.cpu_minibatches
    wanted = min(k, 4 * s) if router == "refine" else s
    assert route.device_to_host_bytes == 4 * 12 * len(x) * wanted + 16  # four passes; one count of each lane
    assert here.route.device_minibatches == here.route.device_to_host_bytes == 0


@pytest.mark.large
@pytest.mark.filterwarnings("ignore:sparse_dictionary. no convergence")
def test_dictionaries_of_many_atoms_have_the_bits_of_the_cpu(device: Place, random: np.random.Generator) -> None:
    """32 tiles and more; half of the atoms come 64 times, so that some rows are scanned whole."""
    atoms = random.normal(size=(16384, 256)).astype(np.float32)
    atoms[8192:] = np.repeat(atoms[:128], 64, axis=0)
    atoms /= np.linalg.norm(atoms.astype(np.float64), axis=1, keepdims=True).astype(np.float32)
    x = random.normal(size=(5000, 256)).astype(np.float32)
    model = asn.SparseDictionary(n_components=16384, n_nonzero_coefs=16, max_iter=1, init="given", dict_init=atoms)
    here, there = (model.set_params(device=where, decoder_ridge=1.0).fit(x).result_ for where in ("off", "required"))
    for name in ("decoder", "indices", "codes", "ev_path"):
        assert getattr(there, name).tobytes() == getattr(here, name).tobytes(), name
