"""The dispatch policy: the acceptance tests T-DP-1 to T-DP-45 of the specification, each under its number."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrowschur_native as asn
from arrowschur_native import _core
from arrowschur_native import policy as p

DEFAULT = p.DispatchPolicy()
BUILT_IN = p.MachineProfile.built_in()
REFERENCE = p.MachineProfile.reference()


def fresh(program: str, **environment: str) -> str:
    """Run a program in a process of its own, without a calibration record."""
    keep = {name: value for name, value in os.environ.items() if name not in ("ARROWSCHUR_DEVICE", "XDG_CACHE_HOME")}
    environment.setdefault("XDG_CACHE_HOME", "/nonexistent")
    head = "import arrowschur_native as asn\nfrom arrowschur_native import policy as p\n"
    result = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program)],
        env={**keep, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# ---- refinement -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("width", "attempt"), [(512, True), (64, True), (63, False), (0, False)])
def test_dp_1_refinement_is_attempted_from_64_columns(width: int, attempt: bool) -> None:
    assert DEFAULT.iterative_refinement_should_attempt(width) is attempt


@pytest.mark.parametrize("value", ["off", "never"])
def test_dp_2_and_3_off_and_never_forbid_it_and_stay_apart(value: str) -> None:
    record = DEFAULT.replace(mixed_precision=value)
    assert not record.iterative_refinement_should_attempt(1024)
    again = p.DispatchPolicy.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record
    assert again.mixed_precision == value


@pytest.mark.parametrize("value", ["off", "refinement", "never"])
def test_dp_1_to_3_float64_never_leads_to_an_attempt(value: str) -> None:
    record = DEFAULT.replace(mixed_precision=value)
    assert not any(record.iterative_refinement_should_attempt(w, precision="float64") for w in (0, 64, 4096))


def modelled(rho: float, max_steps: int | None = None) -> p.Refinement:
    diagonal = np.array([1.0, 2.0, 3.0, 4.0])
    return p.refine(np.diag(diagonal), np.ones(4), lambda r: (1 - rho) * r / diagonal, max_steps=max_steps)


def test_dp_4_acceptance_of_a_low_precision_factor() -> None:
    slow = modelled(0.5)
    assert not slow.accepted
    assert slow.steps == 3
    assert "residual 0.0625" in slow.message
    assert "tolerance 1e-12" in slow.message

    good = modelled(1e-8)
    assert good.accepted
    assert np.abs(good.x - 1 / np.array([1.0, 2.0, 3.0, 4.0])).max() <= 1e-14

    worse = modelled(-2.0)
    assert not worse.accepted
    assert "did not decrease" in worse.message

    assert not modelled(math.nan).accepted
    assert modelled(1e-8, max_steps=0).steps == 0


def test_dp_4_contraction_is_linear_in_the_condition() -> None:
    assert p.refinement_can_succeed(1.6e4)
    assert not p.refinement_can_succeed(1e5)


# ---- dense ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n", "width", "admitted"),
    [
        (2000, 8, False),
        (48_828, 32, False),
        (48_829, 32, True),
        (11, 2048, False),
        (12, 2048, True),
        (0, 4096, False),
    ],
)
def test_dp_5_dense_hessian_work(n: int, width: int, admitted: bool) -> None:
    assert DEFAULT.dense_hessian_work_target_is_gpu(n, width) is admitted


def test_dp_6_dense_gemv() -> None:
    assert DEFAULT.dense_gemv_target_is_gpu(10, 10, True)
    assert not DEFAULT.dense_gemv_target_is_gpu(10, 10, False)
    assert DEFAULT.dense_gemv_target_is_gpu(50_000, 1000, False)  # exactly 1e8


def test_dp_7_potrf() -> None:
    assert DEFAULT.potrf_target_is_gpu(512, True)
    assert not DEFAULT.potrf_target_is_gpu(511, True)
    assert not DEFAULT.potrf_target_is_gpu(4096, False)


def test_dp_8_gram_products() -> None:
    big = 10**6
    assert DEFAULT.xtwx_target_is_gpu(big, 100, True)
    assert not DEFAULT.xtwx_target_is_gpu(big, 100, False)
    assert not DEFAULT.xtwx_target_is_gpu(0, 100, True)
    assert not DEFAULT.xtwx_target_is_gpu(big, 0, True)
    assert DEFAULT.xtwy_target_is_gpu(big, 100, 1, True)
    assert not DEFAULT.xtwy_target_is_gpu(big, 100, 1, False)
    for sizes in ((0, 1, 1), (big, 0, 1), (big, 1, 0)):
        assert not DEFAULT.xtwy_target_is_gpu(*sizes, True)
    for low, high in (("xtwx_flops_min", "gemm_min_flops"), ("gemm_min_flops", "xtwx_flops_min")):
        record = DEFAULT.replace(**{low: 10**6, high: 10**8})
        assert record.dense_reduction_flops_min == 10**6
        assert record.xtwx_target_is_gpu(5000, 10, True)  # exactly 1e6
        assert not record.xtwx_target_is_gpu(4999, 10, True)


def test_dp_9_counts_saturate() -> None:
    huge = 2**63
    assert p.flops("gemm", huge, huge, huge) == 2**128 - 1
    assert p.flops("xtwy", huge, huge, 1) == 2**127
    assert p.flops("joint_hessian_2x2", 1, huge, huge) == 2**128 - 1
    assert p.flops("potrf", 2**40, 1) == 2**120 // 3
    assert p.reduced_schur_apply_flops(huge, huge, huge) == 2**128 - 1
    assert p.admission_work_lower_bound(1, huge, huge) == 2**127 + 2**126
    assert p.admission_work_lower_bound(2, huge, huge) == 2**128 - 1
    plan = p.border_plan(n=huge, k=huge, d=huge, cg_iters=huge)
    assert plan.dense_direct_flops == plan.reduced_iterative_flops == 2**128 - 1
    assert plan.data_fit_rank == huge
    assert DEFAULT.xtwx_target_is_gpu(huge, huge, True)


# ---- offload --------------------------------------------------------------------------------------------------------
offload = p.reduced_schur_matvec_should_offload


def test_dp_10_and_11_wide_border_few_rows() -> None:
    assert offload(2000, 2048, 8, 8)
    assert 8 * p.admission_work_lower_bound(2000, 2048, 8) == 525_312_000
    assert not DEFAULT.dense_hessian_work_target_is_gpu(2000, 8)
    assert offload(2000, 2048, 8, 1)
    assert p.admission_work_lower_bound(2000, 2048, 8) == 65_664_000
    assert p.reduced_schur_apply_flops(2000, 2048, 8) == 131_200_000


@pytest.mark.parametrize(
    ("sizes", "work", "admitted"),
    [((24_576, 64, 1, 1), 3_170_304, True), ((40_456, 256, 1, 1), 20_753_928, True), ((300, 6, 1, 8), 3900, False)],
)
def test_dp_12_scalar_rows(sizes: tuple[int, int, int, int], work: int, admitted: bool) -> None:
    n, k, d, iterations = sizes
    assert p.admission_work_lower_bound(n, k, d) == work
    assert offload(n, k, d, iterations) is admitted


@pytest.mark.parametrize("sizes", [(30, 8, 2, 8), (300, 8, 4, 16)])
def test_dp_13_small(sizes: tuple[int, int, int, int]) -> None:
    assert not offload(*sizes)


def test_dp_14_narrow_border() -> None:
    assert not offload(1_000_000, 31, 64, 64)


@pytest.mark.parametrize("position", range(4))
def test_dp_15_degenerate(position: int) -> None:
    sizes = [2000, 2048, 8, 8]
    sizes[position] = 0
    assert not offload(*sizes)


@pytest.mark.parametrize(
    ("iterations", "admitted"), [(1, False), (183, False), (184, True), (1000, True), (5000, True)]
)
def test_dp_16_monotone(iterations: int, admitted: bool) -> None:
    assert p.admission_work_lower_bound(200, 32, 4) == 54_400
    assert offload(200, 32, 4, iterations) is admitted


@pytest.mark.parametrize(
    ("sizes", "bound", "honest"),
    [((2000, 2048, 8), 65_664_000, 131_200_000), ((200, 32, 4), 54_400, 105_600), ((1, 1, 1), 3, 5)],
)
def test_dp_17_the_bound_is_below_the_honest_count(sizes: tuple[int, int, int], bound: int, honest: int) -> None:
    assert p.admission_work_lower_bound(*sizes) == bound
    assert p.reduced_schur_apply_flops(*sizes) == honest


# ---- the published plan ---------------------------------------------------------------------------------------------
def border_plan(n: int, k: int, d: int, cg_iters: int) -> p.BorderSolvePlan:
    return p.border_plan(n=n, k=k, d=d, cg_iters=cg_iters)


def ratio(plan: p.BorderSolvePlan) -> float:
    return plan.dense_direct_flops / plan.reduced_iterative_flops


def test_dp_18_the_motivating_instance() -> None:
    plan = border_plan(180, 15_360, 2, 30)
    assert plan.recommended == "reduced_iterative"
    assert plan.dense_border_rank_deficient
    assert plan.data_fit_rank == 360
    assert plan.assembly_flops == 169_869_312_000
    assert plan.border_cholesky_flops == 1_207_959_552_000
    assert plan.reduced_iterative_flops == 663_573_600
    assert ratio(plan) == pytest.approx(2076.4, rel=1e-4)
    assert plan.device_favorable
    assert 30 * p.admission_work_lower_bound(180, 15_360, 2) == 331_797_600


@pytest.mark.parametrize(
    ("iterations", "recommended", "flops"),
    [(8, "reduced_iterative", 825_600), (32, "reduced_iterative", 3_302_400), (33, "dense_direct", 3_405_600)],
)
def test_dp_19_a_small_square_border(iterations: int, recommended: str, flops: int) -> None:
    plan = border_plan(200, 64, 2, iterations)
    assert plan.data_fit_rank == 64
    assert not plan.dense_border_rank_deficient
    assert plan.dense_direct_flops == 3_364_181
    assert (plan.recommended, plan.reduced_iterative_flops) == (recommended, flops)
    assert not plan.device_favorable


@pytest.mark.parametrize(("n", "rank", "deficient"), [(50, 100, False), (49, 98, True)])
def test_dp_20_rank(n: int, rank: int, deficient: bool) -> None:
    plan = border_plan(n, 100, 2, 8)
    assert (plan.data_fit_rank, plan.dense_border_rank_deficient) == (rank, deficient)


def test_dp_21_a_wider_border_moves_to_the_iteration() -> None:
    wide, narrow = border_plan(200, 8192, 4, 16), border_plan(200, 128, 4, 16)
    assert wide.recommended == "reduced_iterative"
    assert ratio(wide) == pytest.approx(692.8, rel=1e-3)
    assert ratio(narrow) == pytest.approx(4.07, rel=1e-2)


def test_dp_22_a_larger_budget_moves_to_the_factor() -> None:
    plans = {iterations: border_plan(200, 96, 3, iterations) for iterations in (4, 48, 49, 400)}
    assert all(plan.dense_direct_flops == 11_354_112 for plan in plans.values())
    assert plans[4].reduced_iterative_flops == 4 * 232_200
    assert [plan.recommended for plan in plans.values()] == ["reduced_iterative"] * 2 + ["dense_direct"] * 2
    assert plans[400].reduced_iterative_flops >= plans[4].reduced_iterative_flops


@pytest.mark.parametrize("sizes", [(0, 100, 2), (100, 0, 2), (100, 100, 0)])
def test_dp_23_degenerate(sizes: tuple[int, int, int]) -> None:
    plan = border_plan(*sizes, 8)
    assert plan.cg_iters == 8
    counts = plan.assembly_flops, plan.border_cholesky_flops, plan.dense_direct_flops, plan.reduced_iterative_flops
    assert (*counts, plan.data_fit_rank) == (0, 0, 0, 0, 0)
    assert not plan.dense_border_rank_deficient
    assert plan.recommended == "dense_direct"
    assert not plan.device_favorable


def test_dp_24_no_iterations_count_as_one() -> None:
    plan = border_plan(180, 15_360, 2, 0)
    assert (plan.cg_iters, plan.reduced_iterative_flops) == (1, 22_119_120)


def test_dp_25_a_favorable_dense_plan_exists() -> None:
    plan = border_plan(20_000, 64, 4, 10**6)
    assert plan.recommended == "dense_direct"
    assert (plan.assembly_flops, plan.border_cholesky_flops) == (655_360_000, 87_381)
    assert plan.device_favorable


# ---- throughput -----------------------------------------------------------------------------------------------------
def test_dp_26_there_is_no_door_for_a_cpu_rate() -> None:
    decision = p.EncodeDeploymentDecision
    blocked = decision.blocked("no_device")
    assert blocked.is_undetermined()
    assert not blocked.surrogate_unneeded()
    assert not blocked.surrogate_justified()
    idle = decision.from_device_measurement(False, 1e9)
    assert (idle.state, idle.reason) == ("undetermined", "device_not_engaged")
    for sealed, doors in (
        (decision, {"blocked", "from_device_measurement"}),
        (p.ThroughputVerdict, {"from_measurement"}),
    ):
        made_by_class = {n for n in dir(sealed) if not n.startswith("_") and callable(getattr(sealed, n))}
        methods = {n for n in made_by_class if getattr(getattr(sealed, n), "__self__", None) is sealed}
        assert methods == doors
        with pytest.raises(TypeError, match="class methods"):
            sealed()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            sealed(200_000.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(("rate", "state"), [(200_000, "met"), (25_000, "unmet"), (100_000, "met")])
def test_dp_27_a_device_measurement_decides(rate: float, state: str) -> None:
    decision = p.EncodeDeploymentDecision.from_device_measurement(True, rate)
    assert decision.state == state
    assert decision.surrogate_unneeded() is (state == "met")
    assert decision.surrogate_justified() is (state == "unmet")
    assert not decision.is_undetermined()
    assert (decision.measured_rows_per_sec, decision.target_rows_per_sec) == (rate, 100_000.0)


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_dp_28_unusable_rates_decide_nothing(rate: float) -> None:
    decision = p.EncodeDeploymentDecision.from_device_measurement(True, rate)
    assert (decision.state, decision.reason) == ("undetermined", "device_not_engaged")


@pytest.mark.parametrize("reason", ["no_device", "no_device_encode_kernel", "device_not_engaged"])
def test_dp_29_blocked_is_undetermined(reason: str) -> None:
    decision = p.EncodeDeploymentDecision.blocked(reason)
    assert decision.reason == reason
    assert decision.is_undetermined()
    assert not decision.surrogate_unneeded()
    assert not decision.surrogate_justified()


def test_dp_30_verdicts() -> None:
    verdict = p.ThroughputVerdict.from_measurement
    assert (verdict(100_000).fraction_of_target, verdict(100_000).meets_target) == (1.0, True)
    assert not verdict(99_999.9).meets_target
    for rate in (0.0, -1.0, math.nan, math.inf):
        assert (verdict(rate).fraction_of_target, verdict(rate).meets_target) == (0.0, False)
    for target in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(asn.InvalidArgument, match="target"):
            verdict(1.0, target)
        with pytest.raises(asn.InvalidArgument, match="target"):
            p.EncodeDeploymentDecision.from_device_measurement(True, 1.0, target)


def test_dp_31_a_full_encode_and_its_quality() -> None:
    assert p.FullEncodeThroughput(n_rows=8000, seconds=0.1, device_engaged=True).rows_per_sec == 80_000
    assert p.FullEncodeThroughput(n_rows=8000, seconds=0.0, device_engaged=True).rows_per_sec == 0.0
    flags, coordinates = np.array([True, True]), np.array([[0.5, 1.0], [2.0, -1.0]])
    output = np.array([[1.0, 2.0], [3.0, -4.0]])
    same = p.encode_quality(flags, flags, coordinates, coordinates, output, output)
    assert same == p.EncodeQuality(
        certified=2,
        fallback_rate=0.0,
        flag_agreement=1.0,
        coordinate_error=0.0,
        reconstruction_error=0.0,
        explained_variance=1.0,
    )
    moved, off = coordinates.copy(), output.copy()
    moved[1, 0] += 0.10
    off[0, 1] -= 0.25
    other = p.encode_quality([True, False], flags, moved, coordinates, off, output)
    assert (other.flag_agreement, other.fallback_rate) == (0.5, 0.5)
    assert other.coordinate_error == pytest.approx(0.10)
    assert other.reconstruction_error == 0.25
    assert 0.0 < other.explained_variance < 1.0
    with pytest.raises(asn.InvalidArgument, match="reference_coordinates"):
        p.encode_quality(flags, flags, coordinates, coordinates[:1], output, output)


# ---- loops ----------------------------------------------------------------------------------------------------------
def test_dp_32_fitting_loops() -> None:
    def inner(**changes: Any) -> bool:
        given = {"n": 12, "p": 2048, "family": "poisson_log", "curvature": "fisher", "gpu_available": True, **changes}
        return DEFAULT.should_use_gpu_inner_loop(p.InnerLoopAdmission(**given))

    assert inner()
    assert not inner(gpu_available=False)
    assert not inner(family=None)
    assert not inner(p=31, n=10**9)
    for num_rho, admitted in ((1, False), (2, True)):
        outer = p.OuterLoopAdmission(
            n=12, p=2048, num_rho=num_rho, family="poisson_log", curvature="observed", gpu_available=True
        )
        assert DEFAULT.should_run_outer_on_device(outer) is admitted
    with pytest.raises(asn.InvalidArgument, match="family"):
        p.InnerLoopAdmission(n=1, p=1, family="cauchy")
    with pytest.raises(asn.InvalidArgument, match="curvature"):
        p.InnerLoopAdmission(n=1, p=1, family=None, curvature="exact")


# ---- modes ----------------------------------------------------------------------------------------------------------
def test_dp_33_absent_and_fault() -> None:
    assert p.decide("auto", "eligible", "no driver") == (False, "runtime_unavailable")
    with pytest.raises(asn.DeviceUnavailableError) as caught:
        p.decide("required", "eligible", "no driver")
    assert "no driver" in caught.value.reason

    asked = []

    def broken() -> bool:
        asked.append(1)
        raise asn.DeviceError(stage="probe", code="library found, not loadable")

    for mode in ("auto", "required"):
        with pytest.raises(asn.DeviceError, match="not loadable") as fault:
            p.decide(mode, "eligible", broken)
        assert not isinstance(fault.value, asn.DeviceUnavailableError)
    assert len(asked) == 2
    assert p.decide("off", "eligible", broken) == (False, "policy_off")
    assert p.decide("auto", "below_threshold", broken).reason == "below_threshold"
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("call", "process", "probe"),
    [(20_000_000, 0, False), (20_000_001, 0, True), (1, 999_999_999, False), (1, 1_000_000_000, True)],
)
def test_dp_34_size_before_driver(call: int, process: int, probe: bool) -> None:
    assert p.should_probe(call, process) is probe


@pytest.mark.parametrize(
    ("shape", "border", "route", "milliseconds"),
    [
        ((8, 2, 4), "dense", "direct", 0.000163),
        ((200, 2, 200), "dense", "direct", 0.299),
        ((2000, 2, 2048), "dense", "direct", 117.2),
        ((1, 1, 5120), "dense", "direct", 260.7),
        ((180, 2, 5120), "tridiagonal", "low_rank", 7.53),
    ],
)
def test_dp_34_predicted_times(shape: tuple[int, int, int], border: str, route: str, milliseconds: float) -> None:
    n, d, k = shape
    table = p.route_table(n=n, d=d, k=k, border=border, profile=BUILT_IN)
    assert 1e3 * table[route].seconds == pytest.approx(milliseconds, rel=0.01)


PLANS = """
    def plans(shape, count, **options):
        chosen = asn.SolveOptions(mode="direct", calibrate="off", **options)
        for _ in range(count):
            asn.plan(shape, options=chosen)
        return tuple(p.probe_counters())
"""


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("plans((2000, 2, 2048), 1)[0]", "1"),
        ("plans((1, 1, 5120), 1)[0]", "1"),  # 260 ms: asked for although the gate refuses it
        ("plans((7, 2, 4), 4096)", "(0, 0)"),
        ("plans((200, 2, 200), 3343), plans((200, 2, 200), 1)[0]", "(0, 999988247) 1"),
        ("plans((2000, 2, 2048), 8, device='off')", "(0, 0)"),
    ],
)
def test_dp_34_what_raises_the_counter(calls: str, expected: str) -> None:
    assert fresh(textwrap.dedent(PLANS) + f"print({calls})") == expected


def test_dp_34_required_always_asks() -> None:
    program = """
        try:
            asn.plan((8, 2, 4), options=asn.SolveOptions(mode="direct", device="required"))
        except asn.DeviceUnavailableError as error:
            info = asn.device_info()
            why = info["reason"] or "this call runs on the host"
            print(p.probe_counters().availability_requests, why in str(error))
    """
    assert fresh(program) == "1 True"


ABSENT: list[tuple[str, str, bool | None, bool | None, str]] = [
    ("off", "eligible", None, False, "policy_off"),
    ("auto", "backend_not_compiled", None, False, "backend_not_compiled"),
    ("auto", "capability_missing", None, False, "kernel_lacks_capability"),
    ("auto", "below_threshold", None, False, "below_threshold"),
    ("auto", "measured_slower", None, False, "device_measured_slower"),
    ("auto", "eligible", False, False, "runtime_unavailable"),
    ("auto", "eligible", True, True, "auto_supported"),
    ("required", "backend_not_compiled", None, None, "required_unsupported"),
    ("required", "capability_missing", None, None, "required_capability_missing"),
    ("required", "below_threshold", True, True, "required_supported"),
    ("required", "measured_slower", True, True, "required_supported"),
    ("required", "eligible", True, True, "required_supported"),
    ("required", "below_threshold", False, None, "runtime_unavailable"),
    ("required", "measured_slower", False, None, "runtime_unavailable"),
    ("required", "eligible", False, None, "runtime_unavailable"),
]


@pytest.mark.parametrize(("mode", "kind", "runtime", "use", "reason"), ABSENT)
def test_dp_35_the_decision_table(mode: str, kind: str, runtime: bool | None, use: bool | None, reason: str) -> None:
    eligibility = p.Eligibility(kind, "ragged rows")
    for available in (True, False) if runtime is None else (runtime,):
        if use is None:
            with pytest.raises(asn.DeviceUnavailableError) as caught:
                p.decide(mode, eligibility, available)
            assert caught.value.reason.startswith(reason)
        else:
            assert p.decide(mode, eligibility, available) == (use, reason)


def test_dp_35_off_covers_every_eligibility() -> None:
    kinds = ("backend_not_compiled", "capability_missing", "below_threshold", "measured_slower", "eligible")
    assert {p.decide(" Off ", kind, True).reason for kind in kinds} == {"policy_off"}


@pytest.mark.parametrize(("value", "expected"), [("", "auto"), (" OFF ", "off"), ("Required", "required")])
def test_dp_36_the_environment_sets_the_mode(value: str, expected: str) -> None:
    assert fresh("print(p.device_mode())", ARROWSCHUR_DEVICE=value) == expected
    assert fresh("print(p.device_mode('required'))", ARROWSCHUR_DEVICE=value) == "required"


def test_dp_36_the_environment_is_read_once() -> None:
    assert fresh("print(p.device_mode())") == "auto"
    program = """
        try:
            asn.plan((8, 2, 4))
        except asn.InvalidArgument as error:
            print(error.argument)
        print(asn.plan((8, 2, 4), options=asn.SolveOptions(device="off")).route)
    """
    assert fresh(program, ARROWSCHUR_DEVICE="fast") == "ARROWSCHUR_DEVICE\ndirect"
    program = """
        import os
        first = p.device_mode()
        os.environ["ARROWSCHUR_DEVICE"] = "required"
        print(first, p.device_mode())
    """
    assert fresh(program, ARROWSCHUR_DEVICE="off") == "off off"
    program = """
        try:
            asn.plan((8, 2, 4), options=asn.SolveOptions(device="required"))
        except asn.DeviceUnavailableError:
            print("required")
    """
    assert fresh(program, ARROWSCHUR_DEVICE="off") == "required"


# ---- operations -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("operation", "inside", "outside"),
    [
        ("gemm", (500, 500, 200), (500, 500, 199)),
        ("gemm", (500, 500, 200), (10**9, 10**9, 0)),
        ("batched_gemm", (2, 500, 500, 100), (1, 500, 500, 200)),
        ("gemv", (50_000, 1000), (49_999, 1000)),
        ("potrf", (512, 1), (511, 1)),
        ("potrf", (300, 12), (300, 11)),
        ("small_batched_potrf", (32, 8), (33, 8)),
        ("small_batched_potrf", (2, 8), (32, 7)),
        ("trsm", (1000, 100), (1000, 99)),
        ("xtwx", (50_000, 32), (48_000, 32)),
        ("xtwy", (50_000, 10, 100), (49_999, 10, 100)),
        ("joint_hessian_2x2", (50_000, 16, 16), (48_000, 16, 16)),
        ("joint_hessian_2x2", (50_000, 32, 0), (50_000, 0, 0)),
    ],
)
def test_dp_37_gates_at_their_boundaries(operation: str, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    assert DEFAULT.admits(operation, *inside)
    assert not DEFAULT.admits(operation, *outside)


def test_dp_37_what_no_policy_admits() -> None:
    assert p.admissible_under_any_policy("potrf", 64, 1)
    assert not p.admissible_under_any_policy("potrf", 63, 1)
    assert p.admissible_under_any_policy("gemm", 64, 64, 64)
    assert not p.admissible_under_any_policy("gemm", 64, 64, 63)
    assert p.flops("gemm", 512, 512, 200) == 104_857_600  # a dense border iteration: k = 512, 200 of them
    assert DEFAULT.admits("gemm", 512, 512, 200)


# ---- calibration ----------------------------------------------------------------------------------------------------
def test_dp_38_a_crossover() -> None:
    times = [(64, 1.0, 4.0), (128, 10.0, 9.0), (256, 80.0, 10.0)]
    measured = [p.Measurement("gemm", (m, m, m), cpu, gpu) for m, cpu, gpu in times]
    record = DEFAULT.calibrated(measured)
    assert record.gemm_min_flops == 4_194_304
    assert record.xtwx_flops_min == DEFAULT.xtwx_flops_min


def test_dp_39_a_product_that_was_never_won() -> None:
    shapes = ((2048, 32), (4096, 64), (8192, 96))
    record = DEFAULT.calibrated([p.Measurement("xtwx", shape, 1.0, 2.0) for shape in shapes])
    assert record.xtwx_flops_min == 301_989_888


def test_dp_40_where_the_record_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fields = _core.policy_fingerprint()
    path = _core.policy_record_path(fields)
    assert path.startswith(str(tmp_path))
    assert Path(path).parent.parts[-3:] == ("arrowschur_native", "policy", f"v{dict(fields)['schema']}")
    assert Path(path).suffix == ".json"
    for i, (name, value) in enumerate(fields):
        changed = [*fields[:i], (name, value + "x"), *fields[i + 1 :]]
        assert _core.policy_record_path(changed) != path
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _core.policy_record_path(fields).startswith(str(tmp_path / ".cache" / "arrowschur_native"))
    monkeypatch.delenv("HOME")
    assert _core.policy_record_path(fields) == ""


CALIBRATED = """
    profile = p.calibrate()
    print(profile.name)
"""


def test_dp_40_foreign_and_truncated_records_are_ignored(tmp_path: Path) -> None:
    name = fresh(CALIBRATED, XDG_CACHE_HOME=str(tmp_path))
    (record,) = tmp_path.glob("arrowschur_native/policy/v*/*.json")
    text, fields = record.read_text(), _core.policy_fingerprint()
    current = "print(asn.plan((8, 2, 4)).profile)"
    assert fresh(current, XDG_CACHE_HOME=str(tmp_path)) == name
    assert fresh("print(asn.plan((8, 2, 4), options=asn.SolveOptions(calibrate='off')).profile)") == "built-in"

    stored = json.loads(text.replace("1e999", "Infinity"))
    assert dict(stored["fingerprint"]).keys() == dict(fields).keys()
    own = list(stored["fingerprint"].items())
    assert _core.policy_read_record(text, own) is not None
    assert _core.policy_read_record(text, [*own[:-1], ("library", "0.0.0")]) is None
    for cut in range(0, len(text) - 2, 37):
        assert _core.policy_read_record(text[:cut], own) is None
    for broken in (
        text.replace('"schema": 1', '"schema": 2', 1),
        text.replace('"mem_bw"', '"memory"'),
        text.replace('"route_rule": "cost"', '"route_rule": "guess"'),
    ):
        assert broken != text
        assert _core.policy_read_record(broken, own) is None
    for damaged in (text[: len(text) // 2], "[]", "not JSON"):
        record.write_text(damaged)
        assert fresh(current, XDG_CACHE_HOME=str(tmp_path)) == "built-in"


def test_dp_40_a_cache_that_cannot_be_written_is_no_error() -> None:
    assert "measured" in fresh(CALIBRATED, XDG_CACHE_HOME="/proc/nothing")


def test_dp_41_a_series_that_is_not_monotone() -> None:
    assert p.crossover([(64, 1.0, 0.5), (128, 1.0, 2.0), (256, 4.0, 1.0)], 1000) == 256
    assert p.crossover([(64, 1.0, 0.95)], 1000) == 64  # 0.95 wins
    assert p.crossover([(64, 1.0, 0.96)], 1000) == 1000
    assert p.crossover([], 1000) == 1000
    floor = [p.Measurement("potrf", (1,), 1.0, 0.1), p.Measurement("potrf", (64,), 1.0, 0.1)]
    assert DEFAULT.calibrated(floor).potrf_min_p == p.MIN_CALIBRATABLE_POTRF_P


# ---- routes ---------------------------------------------------------------------------------------------------------
def milliseconds(cost: p.RouteCost) -> list[float]:
    return [1e3 * x for x in (cost.up_seconds, cost.build_seconds, cost.solve_seconds)]


def test_dp_42_qwen() -> None:
    shape: dict[str, Any] = {"n": 2000, "d": 2, "k": 2048, "profile": "reference", "cg_iters": 30}
    table = p.route_table(**shape, solves=24)
    assert milliseconds(table["direct"]) == pytest.approx([1.804, 0.635, 0.106], rel=0.01)
    assert 1e3 * table["direct"].seconds == pytest.approx(4.98, rel=0.01)
    assert 1e3 * table["inexact_pcg"].seconds == pytest.approx(25.6, rel=0.01)
    assert table.chosen == "direct"
    band = p.route_table(**shape, border="tridiagonal")
    assert 1e3 * band["direct"].up_seconds == pytest.approx(1.194, rel=0.01)


def test_dp_43_color_arm() -> None:
    shape: dict[str, Any] = {"n": 180, "d": 2, "k": 5120, "profile": "reference", "cg_iters": 30, "solves": 24}
    dense = p.route_table(**shape)
    assert milliseconds(dense["direct"]) == pytest.approx([4.082, 1.769, 0.193], rel=0.01)
    assert not dense["low_rank"].feasible
    assert "no cheap factor" in dense["low_rank"].why_not
    totals = [1e3 * dense[route].seconds for route in ("direct", "inexact_pcg")]
    assert totals == pytest.approx([10.5, 46.7], rel=0.01)
    assert dense.chosen == "direct"

    band = p.route_table(**shape, border="tridiagonal")
    assert milliseconds(band["low_rank"]) == pytest.approx([0.270, 0.088, 0.054], rel=0.01)
    totals = [1e3 * band[route].seconds for route in ("low_rank", "direct", "inexact_pcg")]
    assert totals == pytest.approx([1.65, 6.68, 11.5], rel=0.01)
    assert band.chosen == "low_rank"


def test_dp_44_monotone_and_budgets() -> None:
    def seconds(route: str, **changes: int) -> float:
        shape: dict[str, Any] = {"n": 180, "d": 2, "k": 5120, "border": "tridiagonal", "profile": REFERENCE, **changes}
        return p.route_table(**shape)[route].seconds

    for route in ("direct", "low_rank", "inexact_pcg"):
        series = [seconds(route, solves=count) for count in (0, 1, 8, 24)]
        assert series == sorted(series)
        assert len(set(series)) == 4
    series = [seconds("inexact_pcg", cg_iters=count) for count in (1, 8, 30)]
    assert series == sorted(series)

    needed = {c.route: c.peak_bytes for c in asn.plan((500, 2, 3000)).candidates}
    assert asn.plan((500, 2, 3000)).route == "direct"
    assert needed["inexact_pcg"] < needed["direct"]
    dropped = asn.plan((500, 2, 3000), options=asn.SolveOptions(memory_limit=needed["direct"] - 1))
    assert dropped.route == "inexact_pcg"
    (direct,) = (c for c in dropped.candidates if c.route == "direct")
    assert not direct.feasible
    assert "memory_limit" in direct.why_not
    with pytest.raises(asn.MemoryBudgetExceeded) as caught:
        asn.plan((500, 2, 3000), options=asn.SolveOptions(memory_limit=1000))
    assert caught.value.bytes_needed == needed["inexact_pcg"]


def test_dp_45_the_profile_does_not_change_in_mid_process(tmp_path: Path) -> None:
    program = """
        def seen(**options):
            plan = asn.plan((2000, 2, 2048), options=asn.SolveOptions(**options))
            return plan.profile, plan.predicted_seconds
        first = seen()
        import subprocess, sys
        subprocess.run([sys.executable, "-c", "import arrowschur_native as asn; asn.policy.calibrate()"], check=True)
        kept = {seen(calibrate=value) for value in ("off", "cache", "measure")}
        assert kept == {first}, kept
        assert asn.newton_step(asn.fixtures.small_fixture(1).system()).diagnostics.plan.profile == first[0]
        profile = p.calibrate()
        after = seen()
        assert after[0] == profile.name == p.current_profile().name
        assert after[0] != first[0] and after[1] != first[1]
        p.set_profile(p.MachineProfile.built_in())
        assert seen() == first
        print("fixed")
    """
    assert fresh(program, XDG_CACHE_HOME=str(tmp_path)) == "fixed"
    measured = "print(asn.plan((8, 2, 4), options=asn.SolveOptions(calibrate='measure')).profile)"
    assert "measured" in fresh(measured, XDG_CACHE_HOME=str(tmp_path / "new"))
    assert list((tmp_path / "new").glob("arrowschur_native/policy/v*/*.json"))


def test_a_measured_profile_is_plausible() -> None:
    values = json.loads(fresh("import json; print(json.dumps(p.calibrate().to_dict()))"))
    assert 1e9 < values["mem_bw"] < 1e13
    assert 1e8 < values["rate_vec"] < 1e14
    assert 1e9 < values["rate_mat"] < 1e14
    assert 0 <= values["half_reduce"] < 1e5
    assert 0 <= values["half_factor"] < 1e6
    assert values["link_bw"] == math.inf


# ---- values ---------------------------------------------------------------------------------------------------------
VALUES: list[Callable[[], Any]] = [
    lambda: p.DispatchPolicy(gemm_min_flops=2**63, mixed_precision="never"),
    lambda: BUILT_IN,
    lambda: border_plan(180, 15_360, 2, 30),
    lambda: p.ThroughputVerdict.from_measurement(math.nan, 5.0),
    lambda: p.EncodeDeploymentDecision.from_device_measurement(True, 0.1 + 0.2, 0.25),
    lambda: p.EncodeDeploymentDecision.blocked("no_device_encode_kernel"),
    lambda: p.FullEncodeThroughput(n_rows=3, seconds=0.1, device_engaged=False),
    lambda: p.InnerLoopAdmission(n=1, p=2, family=None),
    lambda: p.OuterLoopAdmission(n=1, p=2, num_rho=3, family="gamma_log"),
    lambda: p.Eligibility("capability_missing", "callbacks"),
    lambda: p.Measurement("gemm", (1, 2, 3), 0.5, 0.25),
    lambda: p.Decision(True, "auto_supported"),
    lambda: p.ProbeCounters(1, 2),
    lambda: p.route_table(n=180, d=2, k=5120, border="diagonal", profile="reference"),
]


@pytest.mark.parametrize("make", VALUES)
def test_values_print_exactly_compare_and_pickle(make: Callable[[], Any]) -> None:
    value = make()
    assert value == make()
    assert hash(value) == hash(make())
    for again in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
        assert again == value
        assert repr(again) == repr(value)
    names = {**vars(p), "nan": math.nan, "inf": math.inf}
    assert eval(repr(value), names) == value
    assert value != object()


def test_values_are_frozen() -> None:
    for value, name in ((DEFAULT, "potrf_min_p"), (BUILT_IN, "mem_bw"), (p.Eligibility("eligible"), "kind")):
        with pytest.raises(AttributeError):
            setattr(value, name, 1)
    with pytest.raises(AttributeError):
        p.EncodeDeploymentDecision.blocked("no_device").state = "met"


def test_defaults_are_those_of_the_core() -> None:
    assert DEFAULT.to_dict() == json.loads(_core.DispatchPolicy.defaults())
    assert p.current_policy() == DEFAULT
    assert p.REFINEMENT_MIN_P == 64
    assert p.MIN_CALIBRATABLE_GEMM_FLOPS == 2 * 64**3


@pytest.mark.parametrize("bad", [-1, 1.5, "2", None, True, 2**63 + 1])
def test_sizes_are_checked_by_name(bad: Any) -> None:
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("n", lambda: p.border_plan(n=bad, k=1, d=1, cg_iters=1)),
        ("cg_iters", lambda: p.border_plan(n=1, k=1, d=1, cg_iters=bad)),
        ("k", lambda: p.route_table(n=1, d=1, k=bad)),
        ("p", lambda: DEFAULT.dense_hessian_work_target_is_gpu(1, bad)),
        ("sizes", lambda: p.flops("gemv", 1, bad)),
        ("d", lambda: offload(1, 1, bad, 1)),
        ("call_ns", lambda: p.should_probe(bad, 0)),
        ("potrf_min_p", lambda: p.DispatchPolicy(potrf_min_p=bad)),
        ("n_rows", lambda: p.FullEncodeThroughput(n_rows=bad, seconds=1.0, device_engaged=True)),
    ]
    for argument, call in calls:
        with pytest.raises(asn.InvalidArgument) as caught:
            call()
        assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("mixed_precision", lambda: p.DispatchPolicy(mixed_precision="maybe")),
        ("route_rule", lambda: p.DispatchPolicy(route_rule=3)),  # type: ignore[arg-type]
        ("policy", lambda: p.DispatchPolicy.from_dict({**DEFAULT.to_dict(), "xtwx_n_min": 1})),
        ("potrf_min_p", lambda: p.DispatchPolicy.from_dict({"gemm_min_flops": 1, "xtwx_flops_min": 1})),
        ("policy", lambda: p.border_plan(n=1, k=1, d=1, cg_iters=1, policy={})),  # type: ignore[arg-type]
        ("mem_bw", lambda: BUILT_IN.replace(mem_bw=0.0)),
        ("rate_vec", lambda: BUILT_IN.replace(rate_vec=math.nan)),
        ("rate_mat", lambda: BUILT_IN.replace(rate_mat=math.inf)),
        ("t_sync", lambda: BUILT_IN.replace(t_sync=-1.0)),
        ("half_reduce", lambda: BUILT_IN.replace(half_reduce="wide")),
        ("profile", lambda: p.route_table(n=1, d=1, k=1, profile="fast")),
        ("profile", lambda: p.set_profile("reference")),  # type: ignore[arg-type]
        ("border", lambda: p.route_table(n=1, d=1, k=1, border="round")),
        ("mode", lambda: p.decide("sometimes", "eligible", True)),
        ("kind", lambda: p.decide("auto", "perhaps", True)),
        ("runtime_available", lambda: p.decide("auto", "eligible", 3)),  # type: ignore[arg-type]
        ("reason", lambda: p.EncodeDeploymentDecision.blocked("tired")),
        ("operation", lambda: p.flops("axpy", 1)),
        ("sizes", lambda: p.flops("gemm", 1, 2)),
        ("precision", lambda: DEFAULT.iterative_refinement_should_attempt(64, precision="half")),
        ("a", lambda: p.refine(np.eye(2), np.ones(3), lambda r: r)),
        ("sizes", lambda: DEFAULT.calibrated([p.Measurement("gemm", (1,), 1.0, 1.0)])),
    ],
)
def test_bad_values_are_refused_by_name(argument: str, call: Callable[[], Any]) -> None:
    with pytest.raises(asn.InvalidArgument) as caught:
        call()
    assert caught.value.argument == argument


def test_a_route_table_prints() -> None:
    table = p.route_table(n=180, d=2, k=5120, solves=24, cg_iters=30, profile="reference")
    title, *lines = str(table).splitlines()
    assert "profile reference" in title
    assert [line.split()[0] for line in lines] == [c.route for c in table]
    assert "chosen" in lines[0]
    assert "no cheap factor" in lines[1]
    with pytest.raises(KeyError):
        table["streaming"]
