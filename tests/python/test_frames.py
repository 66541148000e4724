"""Frames, and workspaces bound to a device, through the public API: on the fake device of tests/cpp/backend.

Each program runs in a process of its own, because a process probes once. The device suite (test_on_device.py) runs here
too, on the stand-in: the checks are tried, and no device is proven.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import NO_DEVICE, ROOT

import arrowschur_native as asn

PRELUDE = """
    import copy, logging, pickle
    import numpy as np
    import pytest
    import arrowschur_native as asn
    from arrowschur_native import fixtures
    f = fixtures.coupled_fixture(8, 2, 4, seed=1, coupling=0.5)
    system = f.system()
"""


def environment(backend: Path | str, **more: str) -> dict[str, str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("ARROWSCHUR_", "PYTEST_"))}
    chosen = {"ARROWSCHUR_CUDA_BACKEND": str(backend), "ARROWSCHUR_FAKE_DEVICE": "available"}
    return {**keep, **chosen, "XDG_CACHE_HOME": "/nonexistent", **more}


def run(backend: Path, program: str, **more: str) -> str:
    """Run a program in a fresh process with that backend; its checks are its own."""
    text = textwrap.dedent(PRELUDE) + textwrap.dedent(program) + "\nprint('done')"
    result = subprocess.run(
        [sys.executable, "-c", text],
        env=environment(backend, **more),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")
    return result.stderr


def suite(backend: Path | str, *arguments: str, outcome: str = "available") -> subprocess.CompletedProcess[str]:
    """Run the device suite in a fresh process with that backend."""
    file = ROOT / "tests" / "python" / "test_on_device.py"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    return subprocess.run(
        [*command, "--rootdir", str(ROOT), str(file), *arguments],
        env=environment(backend, ARROWSCHUR_FAKE_DEVICE=outcome),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


# ---- the device suite -----------------------------------------------------------------------------------------------
def test_the_device_suite_on_the_stand_in(fake: Path) -> None:
    result = suite(fake, "--stand-in", "-m", "device and not large")
    assert result.returncode == 0, result.stdout
    assert "device backend: " in result.stdout
    assert " skipped" not in result.stdout


def test_the_stand_in_is_no_device(fake: Path) -> None:
    result = suite(fake, "-m", "device", "-k", "test_td_03")
    assert result.returncode == 1
    assert "backend 'fake'" in result.stdout


def test_without_a_device_every_device_test_is_a_counted_skip() -> None:
    result = suite("/nowhere.so", "-m", "device", "-k", "test_td_11 or test_td_03")
    assert result.returncode == 0, result.stdout
    assert f"{NO_DEVICE}backend_not_compiled: this build has no CUDA backend" in result.stdout
    assert "33 skipped" in result.stdout
    assert "33 tests were skipped for want of a device" in result.stdout


def test_a_required_device_that_is_missing_is_a_failure() -> None:
    result = suite("/nowhere.so", "-m", "device", "-k", "test_td_03", "--require-device")
    assert result.returncode == 1
    assert "a device is required: backend_not_compiled" in result.stdout


def test_a_fault_is_never_a_skip(fake: Path) -> None:
    result = suite(fake, "-k", "test_td_03", outcome="fault")
    assert result.returncode == 1
    assert "fault: scripted fault" in result.stdout


# ---- frames ---------------------------------------------------------------------------------------------------------
def test_a_frame(fake: Path) -> None:
    run(
        fake,
        """
        frame = asn.ArrowFrame.build(system, 0.5, 0.25)
        assert (frame.ridge_t, frame.ridge_beta, frame.system) == (0.5, 0.25, system)
        assert frame.matches_ridge(0.5, 0.25) and not frame.matches_ridge(0.5, float("nan"))
        H, g = system.to_dense()
        H += np.diag(np.r_[np.full(16, 0.5), np.full(4, 0.25)])
        assert np.isclose(frame.log_det_hessian, np.linalg.slogdet(H)[1], rtol=1e-12)
        assert frame.device_bytes > system.nbytes
        step = frame.step(certificate=True)
        assert isinstance(step, asn.FrameStep)
        assert step.delta_t.shape == (8, 2) and step.delta_beta.shape == (4,)
        assert np.allclose(np.r_[step.delta_t.ravel(), step.delta_beta], -np.linalg.solve(H, g), rtol=1e-12)
        assert 0 < step.certificate < 64 * 2**-52
        assert np.isnan(frame.step().certificate)
        # Nothing that the stand-in has made passes for a device's.
        assert (step.execution_path, step.backend, step.used_device) == ("cpu", "fake", False)
        assert step.unproven_path == "gpu-resident-linearization"
        assert step.telemetry.h2d_bytes == 8 * 20 and step.telemetry.device_ordinal is None
        assert frame.telemetry.frame_builds == 1 and step.telemetry.frame_builds == 0
        copied = pickle.loads(pickle.dumps(step))
        assert copied.delta_t.tobytes() == step.delta_t.tobytes() and copied.telemetry == step.telemetry
        assert "certificate" in repr(step) and "ridge_t=0.5" in repr(frame)

        flat = frame.step(f.g_t.ravel(), f.g_beta)
        assert flat.delta_t.tobytes() == step.delta_t.tobytes()
        w_t, w_beta = np.random.default_rng(1).normal(size=(8, 2, 3)), np.ones((4, 3))
        x_t, x_beta = frame.solve(w_t, w_beta)
        assert np.allclose(H @ np.r_[x_t.reshape(16, 3), x_beta], np.r_[w_t.reshape(16, 3), w_beta], atol=1e-13)
        one = frame.solve(w_t.reshape(16, 3)[:, 0], w_beta[:, 0])
        assert one[0].shape == (16,) and one[0].tobytes() == x_t.reshape(16, 3)[:, 0].tobytes()
        assert frame.solve(np.ones((16, 0)), np.ones((4, 0)))[1].shape == (4, 0)
        """,
    )


def test_a_base_frame(fake: Path) -> None:
    run(
        fake,
        """
        def bits(step):
            return step.delta_t.tobytes(), step.delta_beta.tobytes()
        base = asn.BaseArrowFrame(system, cache_entries=2)
        uploaded = base.telemetry.h2d_bytes
        assert uploaded == 8 * (8 * 4 + 16 * 4 + 4 * 4)
        factors = base.factor_at(0.5, 0.25)
        frame = asn.ArrowFrame.build(system, 0.5, 0.25)
        assert (factors.ridge_t, factors.ridge_beta) == (0.5, 0.25)
        assert factors.log_det_hessian == frame.log_det_hessian
        assert bits(base.solve_with(factors)) == bits(frame.step())
        assert bits(base.refactor_and_solve(0.5, 1.0)) == bits(asn.ArrowFrame.build(system, 0.5, 1.0).step())
        assert bits(base.solve_with(factors, 2 * f.g_t, f.g_beta)) == bits(frame.step(2 * f.g_t, f.g_beta))
        # Only gradients have gone up since.
        assert base.telemetry.h2d_bytes == uploaded + 3 * 8 * 20
        other = fixtures.coupled_fixture(8, 2, 4, seed=2, coupling=0.5).system()
        base.refresh(other)
        assert base.system is other
        with pytest.raises(asn.InvalidArgument, match="refresh"):
            base.solve_with(factors)
        assert bits(base.refactor_and_solve()) == bits(asn.newton_step_reupload(other))
        with pytest.raises(asn.InvalidArgument, match="the shape of the frame"):
            base.refresh(fixtures.coupled_fixture(8, 2, 5, seed=2).system())
        assert base.system is other
        del base
        assert factors.ridge_t == 0.5  # they keep their memory
        """,
    )


def test_routes_of_frames_and_fits(fake: Path) -> None:
    run(
        fake,
        """
        wide = fixtures.coupled_fixture(20, 2, 800, seed=3, coupling=0.9, border="tridiagonal").system()
        frame = asn.ArrowFrame.build(wide, 0.5, 0.25)
        plan = frame.plan
        assert frame.route == plan.route == frame.step().route == "dual"
        assert (plan.expected_solves, plan.profile) == (8, "reference")
        direct, dual, iterative = plan.candidates
        assert [c.route for c in plan.candidates] == ["direct", "dual", "inexact_pcg"]
        assert dual.seconds < direct.seconds and dual.peak_bytes < direct.peak_bytes
        assert direct.why_not == dual.why_not == "" and "by name" in iterative.why_not
        assert "dual" in repr(plan) and pickle.loads(pickle.dumps(plan)) == plan
        other = asn.ArrowFrame.build(wide, 0.5, 0.25, route="direct")
        a, b = frame.step(certificate=True), other.step()
        assert np.allclose(a.delta_beta, b.delta_beta, rtol=1e-11) and a.certificate < 64 * 2**-52
        assert np.isclose(frame.log_det_hessian, other.log_det_hessian, rtol=1e-13)
        once = asn.newton_step_reupload(wide, ridge_t=0.5, ridge_beta=0.25)
        assert once.route == "dual" and once.delta_beta.tobytes() == a.delta_beta.tobytes()
        base = asn.BaseArrowFrame(wide)
        assert base.plan.route == base.factor_at(0.5, 0.25).route == "dual"
        tight = asn.ArrowFrame.build(wide, 0.5, 0.25, device_memory_limit=direct.peak_bytes - 1, expected_solves=1)
        assert tight.route == "dual" and "bytes needed" in tight.plan.candidates[0].why_not

        options = asn.PcgOptions(max_iterations=300, relative_tolerance=1e-13)
        pcg = asn.ArrowFrame.build(wide, 0.5, 0.25, route="inexact_pcg", pcg=options)
        step = pcg.step(certificate=True)
        assert np.isnan(pcg.log_det_hessian) and step.pcg.matvec_calls == step.pcg.iterations > 0
        assert step.pcg.stopping_reason == "converged" and np.allclose(step.delta_beta, b.delta_beta, rtol=1e-9)
        few = asn.PcgOptions(max_iterations=3, relative_tolerance=1e-13)
        with pytest.raises(asn.PcgError) as caught:
            asn.ArrowFrame.build(wide, 0.5, 0.25, route="inexact_pcg", pcg=few).step()
        assert caught.value.kind == "budget" and caught.value.diagnostics["iterations"] == 3
        cut = asn.ArrowFrame.build(wide, 0.5, 0.25, route="inexact_pcg", pcg=few, accept_truncated=True).step()
        assert cut.pcg.stopping_reason == "max_iter" and cut.pcg.final_relative_residual > 1e-13

        workspace = asn.ResidentWorkspace.from_system(wide)
        for mode, route in (("auto", "dual"), ("low_rank", "dual"), ("direct", "direct")):
            fit = workspace.device_fit(asn.InnerOptions(solve=asn.SolveOptions(mode=mode)))
            assert fit.converged and fit.route == route and fit.to_dict()["route"] == route
        assert workspace.one_inner_iteration().route == "dual"
        assert workspace.fit(device="off").route == asn.plan(wide).route
        """,
    )


def test_a_batch_on_the_stand_in(fake: Path) -> None:
    run(
        fake,
        """
        systems = [fixtures.coupled_fixture(5 + i, 2, 4, seed=i, coupling=0.5).system() for i in range(1, 9)]
        here = asn.solve_batch(systems, device="off")
        for options in ({"device": "required"}, {"options": asn.SolveOptions(device="required")}):
            there = asn.solve_batch(systems, **options)
            for a, b in zip(there, here, strict=True):
                assert (a.backend, a.unproven_path, b.backend) == ("fake", "gpu-reupload", "cpu")
                assert a.step.diagnostics.execution_path == "cpu" and a.step.diagnostics.plan.backend == "fake"
                assert "batch" in a.step.diagnostics.plan.reasons[0]
                assert np.allclose(a.step.delta_t, b.step.delta_t, rtol=1e-12)
                assert a.step.diagnostics.backward_error < 64 * 2**-52
        assert {r.backend for r in asn.solve_batch(systems)} == {"cpu"}  # below the gate
        deep = asn.ArrowSystem(np.eye(33)[None], np.ones((1, 33, 2)), np.full(2, 99.0), np.ones((1, 33)), np.ones(2))
        good, bad = asn.solve_batch([systems[0], deep], device="required")
        assert good.backend == "fake" and isinstance(bad, asn.UnsupportedConfiguration)
        with pytest.raises(asn.InvalidArgument, match="device"):
            asn.solve_batch(systems, device="yes")
        """,
    )


def test_what_frames_refuse(fake: Path) -> None:
    run(
        fake,
        """
        frame, base = asn.ArrowFrame.build(system), asn.BaseArrowFrame(system)
        for call, name in (
            (lambda: asn.ArrowFrame.build(3), "system"),
            (lambda: asn.ArrowFrame.build(system, -1.0), "ridge_t"),
            (lambda: asn.ArrowFrame.build(system, ridge_beta=float("nan")), "ridge_beta"),
            (lambda: asn.ArrowFrame.build(system, expected_solves=0), "expected_solves"),
            (lambda: asn.ArrowFrame.build(system, border_inverse="half"), "border_inverse"),
            (lambda: asn.ArrowFrame.build(system, device_memory_limit=-1), "device_memory_limit"),
            (lambda: asn.BaseArrowFrame(system, cache_entries=-1), "cache_entries"),
            (lambda: asn.newton_step_reupload(system, certificate=1), "certificate"),
            (lambda: frame.step(f.g_t), "g_beta"),
            (lambda: frame.step(g_beta=f.g_beta), "g_t"),
            (lambda: frame.step(f.g_t[:7], f.g_beta), "g_t"),
            (lambda: frame.step(np.full((8, 2), np.nan), f.g_beta), "g_t"),
            (lambda: frame.solve(np.ones((8, 2)), np.ones(3)), "w_beta"),
            (lambda: frame.solve(np.ones((8, 2)), np.ones((4, 2))), "w_t"),
            (lambda: base.solve_with(3), "factors"),
            (lambda: base.factor_at("x"), "ridge_t"),
        ):
            with pytest.raises(asn.InvalidArgument) as caught:
                call()
            assert caught.value.argument == name, (caught.value.argument, name)
        for keywords in ({"route": "dual"}, {"storage": "float32"}):
            with pytest.raises(asn.UnsupportedConfiguration):
                asn.ArrowFrame.build(system, **keywords)
        for keywords, name in (({"route": "low_rank"}, "route"), ({"pcg": 3}, "pcg"),
                               ({"accept_truncated": 1}, "accept_truncated"),
                               ({"pcg": asn.PcgOptions(storage="float32")}, "pcg.storage")):
            with pytest.raises(asn.InvalidArgument) as caught:
                asn.ArrowFrame.build(system, **keywords)
            assert caught.value.argument == name
        border = asn.OperatorBorder(lambda x: 4 * x, np.full(4, 4.0))
        with pytest.raises(asn.UnsupportedConfiguration, match="needs_dense_system: border operator yes"):
            asn.ArrowFrame.build(asn.ArrowSystem(f.h_tt, f.h_tb, border, f.g_t, f.g_beta))
        with pytest.raises(asn.DeviceUnavailableError, match="bytes needed") as caught:
            asn.ArrowFrame.build(system, device_memory_limit=100)
        assert caught.value.reason.startswith("device memory: ")
        for make in (asn.ArrowFrame, asn.FrameFactors):
            with pytest.raises(TypeError):
                make()
        with pytest.raises(AttributeError):
            frame.ridge_t = 1.0
        """,
    )


# ---- workspaces -----------------------------------------------------------------------------------------------------
def test_a_workspace_is_bound_on_first_need(fake: Path) -> None:
    run(
        fake,
        """
        workspace = asn.ResidentWorkspace.from_system(system)
        assert workspace.fit().backend == "cpu" and not workspace.device_resident
        assert workspace.device_reason.startswith("not bound yet")
        fit = workspace.device_fit()
        assert workspace.device_resident and workspace.device_reason == ""
        assert workspace.resident_device_bytes > workspace.frame_upload_bytes
        assert (fit.execution_path, fit.backend, fit.unproven_path, fit.used_device) == (
            "cpu", "fake", "gpu-resident-full", False)
        assert fit.frame_builds == fit.factorizations == 1
        again = pickle.loads(pickle.dumps(fit))
        assert again.telemetry == fit.telemetry and again.unproven_path == fit.unproven_path
        assert fit.to_dict()["unproven_path"] == "gpu-resident-full"
        step = workspace.inner_iteration(device="required")
        assert (step.backend, step.unproven_path) == ("fake", "gpu-resident-linearization")
        assert step.telemetry.d2h_bytes > 0
        assert workspace.inner_iteration(device="off").unproven_path == ""
        workspace.release_factors()
        assert not workspace.device_resident and workspace.resident_device_bytes == 0
        options = asn.InnerOptions(solve=asn.SolveOptions(device_memory_limit=100))
        with pytest.raises(asn.DeviceUnavailableError, match="bytes needed"):
            workspace.device_fit(options)
        assert "bytes needed" in workspace.device_reason
        with pytest.raises(asn.UnsupportedConfiguration, match="of frames only"):
            workspace.device_fit(asn.InnerOptions(solve=asn.SolveOptions(mode="inexact_pcg")))
        """,
    )


def test_a_sweep_on_the_stand_in(fake: Path) -> None:
    run(
        fake,
        """
        shape = asn.ResidentShape(n=10, p=6, basis_cols=2, d=2)
        variants = [asn.SweepVariant(shape, seed) for seed in range(6)]
        for at_once in (1, 2, 6):
            sweep = asn.run_variant_sweep(variants, runner="device", max_concurrent=at_once)
            assert {fit.unproven_path for fit in sweep} == {"gpu-resident-full"}
            assert asn.check_sweep_parity(variants, None, sweep, runner="device").succeeded == 6
        """,
    )


def test_a_fault_under_auto_is_the_cpu_counted_each_time_and_logged_once(fake: Path) -> None:
    program = """
        # A CPU that is slower than the reference device.
        slow = asn.policy.MachineProfile.built_in().replace(mem_bw=1e4, rate_vec=1e4, rate_mat=1e4)
        asn.policy.set_profile(slow)
        logging.basicConfig()
        host = asn.ResidentWorkspace.from_system(system).fit(device="off")
        reasons = []
        for _ in range(3):
            fit = asn.ResidentWorkspace.from_system(system).fit()
            assert fit.t.tobytes() == host.t.tobytes()
            assert (fit.execution_path, fit.backend, fit.unproven_path) == ("cpu", "cpu", "")
            assert fit.telemetry.cpu_fallbacks == 1
            reasons += fit.telemetry.fallback_reasons
        assert reasons[0] == reasons[1] and "reduce" in reasons[0], reasons
        assert reasons[2] == "device_fault: the device has failed twice"
        assert asn.process_telemetry().cpu_fallbacks == 3
        with pytest.raises(asn.DeviceError, match="reduce") as caught:
            asn.ResidentWorkspace.from_system(system).fit(device="required")
        assert caught.value.stage == "reduce"
    """
    told = run(fake, program, ARROWSCHUR_FAKE_FAIL="reduce:1:-1:1")
    assert told.count("fit ran on the CPU: device_fault: the device failed in reduce") == 1
    assert told.count("WARNING") == 1


def test_each_route_says_once_where_it_runs(fake: Path) -> None:
    program = """
        logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
        for _ in range(3):
            asn.newton_step(system)
            asn.ArrowFrame.build(system)
            workspace = asn.ResidentWorkspace.from_system(system)
            workspace.fit()
            workspace.device_fit()
            workspace.inner_iteration(device="off")
            asn.solve_batch([system] * 3)
            asn.solve_batch([system] * 3, device="required")
        # A CPU that is slower than the reference device, and a device that fails.
        slow = asn.policy.MachineProfile.built_in().replace(mem_bw=1e4, rate_vec=1e4, rate_mat=1e4)
        asn.policy.set_profile(slow)
        many = [fixtures.coupled_fixture(1600, 2, 19, seed=seed).system() for seed in range(8)]
        for _ in range(2):
            assert {r.backend for r in asn.solve_batch(many)} == {"cpu"}
    """
    told = run(fake, program, ARROWSCHUR_FAKE_FAIL="batch_solve:4:-1:1")
    lines = [
        line.removeprefix("arrowschur_native ") for line in told.splitlines() if line.startswith("arrowschur_native")
    ]
    expected = (
        "INFO direct: first run on the CPU (below_threshold), n = 8, T = 16, k = 4",
        "INFO frame: first run on the device (required_supported), n = 8, T = 16, k = 4",
        "INFO fit: first run on the CPU (below_threshold), n = 8, T = 16, k = 4",
        "INFO fit: first run on the device (required_supported), n = 8, T = 16, k = 4",
        "INFO solve_batch: first run on the device (required_supported), n = 24, T = 48, k = 4",
    )
    for line in expected:
        assert lines.count(line) == 1, lines
    assert sum(line.startswith("WARNING solve_batch ran on the CPU: device_fault") for line in lines) == 1, lines


@pytest.mark.usefixtures("no_device")
def test_without_a_device_there_is_no_frame() -> None:
    system = asn.fixtures.small_fixture(0x11).system()
    for build in (asn.ArrowFrame.build, asn.BaseArrowFrame, asn.newton_step_reupload):
        with pytest.raises(asn.DeviceUnavailableError) as caught:
            build(system)
        assert asn.device_info()["reason"] in caught.value.reason
    with pytest.raises(asn.InvalidArgument):
        asn.ArrowFrame.build(system, float("nan"))
