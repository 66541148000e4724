"""The measurements of bench/device_check.py: the public API, and the program tests/cpp/backend/device_ceilings.cpp.

Stages are timed by device events on inputs that rotate past the cache, solves and fits by the host's clock around calls
that wait for their result: at least 20 repetitions after 5 warm-ups. Clocks and power limits are left as they are.
"""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from device_ledger import (
    DATASHEET,
    Cost,
    Item,
    Rates,
    Shape,
    dual_solve_nodes,
    percentiles,
    predicted_stage,
    solve_nodes,
    stage_cost,
    stage_floor,
    upload_bytes,
)

import arrowschur_native as asn
from arrowschur_native._bench.limits import cpu_name

ROOT = pathlib.Path(__file__).resolve().parents[1]
GRADIENTS = 24


# ---- what is measured -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """A reference system, its border declared dense or as it is, and what is asked of it."""

    fixture: str
    shape: Shape
    make: Callable[[], asn.ArrowSystem]
    asked_speedup: float
    most_uploads: float | None = None


@dataclass(frozen=True)
class Plan:
    """All sizes of a run."""

    cases: tuple[Case, ...]
    wide: Case  # fewer rows than border: of the dual route and of conjugate gradients
    batch: tuple[int, int, int, int]  # systems, n, d, k
    rows: tuple[int, int, int]  # n, d, k: many deep rows, a border of a few unknowns
    variants: Callable[[], Sequence[asn.SweepVariant]]
    product: Shape  # whose reduction gives the rate of products
    copy_bytes: int
    rotate_bytes: int | None  # None: twice the cache
    warm_ups: int = 5
    repetitions: int = 24


def _fixture(make: Callable[..., Any], **keywords: Any) -> Callable[[], asn.ArrowSystem]:
    return lambda: make(with_target=False).system(**keywords)


def device_plan() -> Plan:
    """Return the reference shapes."""
    color_arm, qwen = asn.fixtures.color_arm_fixture, asn.fixtures.qwen_fixture
    return Plan(
        cases=(
            Case("color_arm", Shape(180, 2, 5120), _fixture(color_arm, detect_structure=False), 20.0),
            Case("color_arm", Shape(180, 2, 5120, 1), _fixture(color_arm), 1.5),
            Case("qwen", Shape(2000, 2, 2048), _fixture(qwen, detect_structure=False), 1.0, most_uploads=1.6),
            Case("qwen", Shape(2000, 2, 2048, 1), _fixture(qwen), 1.0),
        ),
        wide=Case("color_arm", Shape(180, 2, 5120, 1), _fixture(color_arm), 1.0),
        batch=(1000, 200, 2, 8),
        rows=(5000, 16, 6),
        variants=asn.fixtures.color_arm_variant_matrix,
        product=Shape(4096, 2, 8192, 0),
        copy_bytes=1 << 30,
        rotate_bytes=None,
    )


def stand_in_plan() -> Plan:
    """Return shapes that the fake device can carry: they try this program, and measure nothing."""

    def make(**keywords: Any) -> asn.ArrowSystem:
        return asn.fixtures.shape_fixture((12, 20, 2, 2), 9, with_target=False).system(**keywords)

    def wide() -> asn.ArrowSystem:
        return asn.fixtures.coupled_fixture(10, 2, 60, seed=1, coupling=0.9, border="tridiagonal").system()

    shape = asn.ResidentShape(n=12, p=20, basis_cols=2, d=2)
    return Plan(
        cases=(
            Case("tiny", Shape(12, 2, 20), lambda: make(detect_structure=False), 1.0, most_uploads=1.6),
            Case("tiny", Shape(12, 2, 20, 1), make, 1.0),
        ),
        wide=Case("tiny, wide", Shape(10, 2, 60, 1), wide, 1.0),
        batch=(9, 5, 2, 3),
        rows=(10, 3, 2),
        variants=lambda: [asn.SweepVariant(shape, seed) for seed in (1, 2)],
        product=Shape(8, 2, 24, 0),
        copy_bytes=1 << 16,
        rotate_bytes=1 << 12,
        warm_ups=1,
        repetitions=2,
    )


# ---- the conditions of a run ----------------------------------------------------------------------------------------
def mapped_libraries() -> dict[str, pathlib.Path]:
    """Return the CUDA libraries that this process has opened, by the beginning of their names."""
    found = {}
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        path = pathlib.Path(line.split(maxsplit=5)[-1])
        for name in ("libcublas", "libcublasLt", "libcusolver"):
            if path.name.startswith(name + ".so"):
                found[name] = path
    return found


def library_versions() -> dict[str, str]:
    """Return the versions of cuBLAS and cuSOLVER, asked of the libraries themselves."""
    versions = {}
    for name, path in mapped_libraries().items():
        function = {"libcublas": "cublasGetProperty", "libcusolver": "cusolverGetProperty"}.get(name)
        if function is not None:
            get, part, parts = getattr(ctypes.CDLL(str(path)), function), ctypes.c_int(), []
            for which in range(3):
                get(which, ctypes.byref(part))
                parts.append(str(part.value))
            versions[name[3:]] = ".".join(parts)
    return versions


def library_environment() -> dict[str, str]:
    """Return the environment for programs that are to find the same CUDA libraries as this process."""
    folders = [str(path.parent) for path in mapped_libraries().values()]
    before = os.environ.get("LD_LIBRARY_PATH", "")
    path = ":".join(dict.fromkeys([*folders, *filter(None, before.split(":"))]))
    return {**os.environ, **({"LD_LIBRARY_PATH": path} if path else {})}


def source_revision(folder: pathlib.Path = ROOT) -> str:
    """Return the commit, with `+` where the files differ from it; `unknown` outside of a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all records of a run have in common (D-19.1)."""
    [device] = info["devices"]
    build = asn.build_info()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "version": build["version"],
        "revision": source_revision(),
        "build": build,
        "backend": info["backend"],
        "device": device["name"],
        "compute_capability": list(device["compute_capability"]),
        "multiprocessors": device["multiprocessors"],
        "driver": device["driver_version"],
        "toolkit": device["runtime_version"],
        "libraries": library_versions(),
        "free_memory": device["free_bytes"],
        "host_cpu": cpu_name(),
        "host_threads": asn.get_num_threads(),
    }


# ---- ceilings and stages: the program beside the C++ tests ----------------------------------------------------------
def run_ceilings(program: pathlib.Path, info: Mapping[str, Any], plan: Plan) -> list[dict[str, Any]]:
    """Return what the program prints, one entry per stage and shape."""
    [device] = info["devices"]
    rotate = 2 * device["l2_bytes"] if plan.rotate_bytes is None else plan.rotate_bytes
    shapes = {case.fixture + case.shape.border_name: (case.fixture, case.shape) for case in plan.cases}
    named = [*shapes.values(), ("product", plan.product)]
    words = [f"{name}:{s.n}:{s.d}:{s.k}:{-1 if s.bandwidth is None else s.bandwidth}" for name, s in named]
    numbers = [plan.warm_ups, plan.repetitions, rotate, plan.copy_bytes]
    command = [str(program), info["library"], *map(str, numbers), *words]
    result = subprocess.run(command, env=library_environment(), capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines()
    if result.returncode != 0:
        words = [line for line in lines if not line.startswith("{")]
        told = "; ".join([*words, *result.stderr.splitlines()])
        raise RuntimeError(f"{program.name} ended with status {result.returncode}: {told}")
    return [json.loads(line) for line in lines if line.startswith("{")]


def measured_rates(stages: Sequence[Mapping[str, Any]], plan: Plan) -> Rates:
    """Return the datasheet's rates with those in their place that were measured: copies and products."""

    def median(stage: str, fixture: str) -> float:
        [entry] = [e for e in stages if (e["stage"], e["fixture"]) == (stage, fixture)]
        return percentiles(entry["seconds"])[1]

    flops = stage_cost("reduce", plan.product).flops
    return dataclasses.replace(
        DATASHEET,
        memory=2 * plan.copy_bytes / median("copy", "bytes"),
        matrix=flops / median("reduce", "product"),
    )


def stage_items(stages: Sequence[Mapping[str, Any]], plan: Plan, rates: Rates) -> Iterator[Item]:
    """Two ceilings, then every stage of every reference shape."""
    profile = asn.policy.MachineProfile.reference().to_dict()
    for entry in stages:
        bandwidth = None if entry["bandwidth"] < 0 else entry["bandwidth"]
        shape = Shape(entry["n"], entry["d"], entry["k"], bandwidth)
        seconds = tuple(entry["seconds"])
        if entry["stage"] == "copy":
            figures = {"bytes_per_second": rates.memory}
            yield Item(
                kind="stage", name="copy on the device", seconds=seconds, warm_ups=plan.warm_ups, figures=figures
            )
            continue
        name, fixture = entry["stage"], entry["fixture"]
        if fixture == "product":
            if name != "reduce":
                continue
            figures = {"flops_per_second": rates.matrix, "n": shape.n, "d": shape.d, "k": shape.k}
            yield Item(kind="stage", name="float64 product", seconds=seconds, warm_ups=plan.warm_ups, figures=figures)
            continue
        yield Item(
            kind="stage",
            name="solve (graph)" if name == "solve" else name,
            fixture=fixture,
            shape=shape,
            seconds=seconds,
            warm_ups=plan.warm_ups,
            cost=stage_cost(name, shape),
            floor=stage_floor(name, shape),
            ceiling=stage_floor(name, shape, rates),
            predicted=predicted_stage(name, shape, profile),
            launches=entry["launches"],
            figures={"frames": entry["frames"]},
        )


# ---- through the public API -----------------------------------------------------------------------------------------
def timed(run: Callable[[int], object], plan: Plan) -> tuple[float, ...]:
    """Return the host's seconds of each counted call; `run` gets their number and waits for its result."""
    seconds = []
    for i in range(plan.warm_ups + plan.repetitions):
        start = time.perf_counter()
        run(i)
        seconds.append(time.perf_counter() - start)
    return tuple(seconds[plan.warm_ups :])


def recorded(run: Callable[[int], object], name: str, plan: Plan) -> tuple[float, ...]:
    """Return the device's seconds of the stage of that name in the counted calls."""
    for i in range(plan.warm_ups):
        run(i)
    with asn.stage_window() as window:
        for i in range(plan.repetitions):
            run(plan.warm_ups + i)
    return tuple(1e-3 * record.device_ms for record in window.records if record.name == name)


def gradients(system: asn.ArrowSystem) -> list[tuple[np.ndarray, np.ndarray]]:
    """The 24 gradients of T-D-7."""
    i, j = np.arange(system.total_dim).reshape(system.g_t.shape), np.arange(system.k)
    return [(np.sin(0.001 * (i + s)), np.cos(0.0007 * (j + 7 * s))) for s in range(GRADIENTS)]


def difference(a: asn.FrameStep, b: asn.FrameStep) -> float:
    """The largest deviation of two steps, relative to the second (at least to 1)."""
    pairs = ((a.delta_t, b.delta_t), (a.delta_beta, b.delta_beta))
    return max(float(np.abs(x - y).max() / max(1.0, np.abs(y).max())) for x, y in pairs)


def residency(system: asn.ArrowSystem, case: Case, plan: Plan, backend: str) -> Iterator[Item]:
    """Warm steps on a frame, and whole reuploads, of the same 24 gradients."""
    frame = asn.ArrowFrame.build(system, route="direct")
    pairs = gradients(system)
    aimed = [system.with_gradient(*pair) for pair in pairs]
    steps = [frame.step(*pair) for pair in pairs]
    once = [asn.newton_step_reupload(s, route="direct") for s in aimed]
    if {step.backend for step in (*steps, *once)} != {backend}:
        raise RuntimeError(f"a step did not run on {backend}")
    same = all(a.delta_t.tobytes() == b.delta_t.tobytes() for a, b in zip(steps, once, strict=True))
    same &= all(a.delta_beta.tobytes() == b.delta_beta.tobytes() for a, b in zip(steps, once, strict=True))
    parity = {"metric_a": max(map(difference, steps, once)), "same_bits": same}

    warm = timed(lambda i: frame.step(*pairs[i % GRADIENTS]), plan)
    cold = timed(lambda i: asn.newton_step_reupload(aimed[i % GRADIENTS], route="direct"), plan)
    base = asn.BaseArrowFrame(
        system, route="direct"
    )  # a refresh waits for the one before it: the whole of an upload is timed
    upload = timed(lambda _: base.refresh(system), plan)
    predicted = predicted_times(case.shape)
    common: dict[str, Any] = {"kind": "solve", "fixture": case.fixture, "shape": case.shape, "warm_ups": plan.warm_ups}
    yield Item(
        name="upload",
        seconds=upload,
        cost=Cost(0.0, upload_bytes(case.shape)),
        floor=upload_bytes(case.shape) / DATASHEET.link,
        predicted=predicted["up"],
        **common,
    )
    yield Item(
        name="warm step",
        seconds=warm,
        solves=1,
        cost=stage_cost("solve", case.shape),
        floor=stage_floor("solve", case.shape),
        predicted=predicted["solve"],
        launches=solve_nodes(case.shape),
        parity=parity,
        certificate=frame.step(*pairs[0], certificate=True).certificate,
        counters=steps[-1].telemetry.to_dict(),
        figures={"asked_speedup": case.asked_speedup, "speedup": mean(cold) / mean(warm), "gradients": GRADIENTS},
        **common,
    )
    uploads = percentiles(cold)[1] / percentiles(upload)[1]
    limit = {} if case.most_uploads is None else {"most_uploads": case.most_uploads}
    yield Item(
        name="cold step",
        seconds=cold,
        cost=stage_cost("frame_build", case.shape),
        floor=upload_bytes(case.shape) / DATASHEET.link + stage_floor("frame_build", case.shape),
        predicted=predicted["up"] + predicted["build"] + predicted["solve"],
        counters=once[-1].telemetry.to_dict(),
        figures={"uploads": uploads, **limit},
        **common,
    )


def mean(seconds: Sequence[float]) -> float:
    """Return their mean: the ratio of two totals of as many calls."""
    return sum(seconds) / len(seconds)


def predicted_times(shape: Shape, name: str = "direct") -> dict[str, float]:
    """Return upload, build and solve of a route by the time model, on the machine `reference`."""
    border = {None: "dense", 0: "diagonal", 1: "tridiagonal"}[shape.bandwidth]
    table = asn.policy.route_table(n=shape.n, d=shape.d, k=shape.k, border=border, profile="reference")
    route = table[name]
    return {"up": route.up_seconds, "build": route.build_seconds, "solve": route.solve_seconds}


def builds(system: asn.ArrowSystem, case: Case, plan: Plan, rates: Rates) -> Iterator[Item]:
    """Factors from blocks that are there: all of it at a new ridge_t, the border alone at a new ridge_beta."""
    frame = asn.BaseArrowFrame(system, route="direct", cache_entries=1)
    runs: dict[str, Callable[[int], object]] = {
        "frame_build": lambda i: frame.factor_at(1e-3 * (i + 1), 0.0),
        "border_build": lambda i: frame.factor_at(1e-3, 1e-3 * (i + 1)),
    }
    for name, run in runs.items():
        if seconds := recorded(run, name, plan):
            predicted = predicted_times(case.shape)["build"] if name == "frame_build" else None
            yield by_events(name, seconds, case, plan, rates, predicted)


def by_events(
    name: str, seconds: tuple[float, ...], case: Case, plan: Plan, rates: Rates, predicted: float | None = None
) -> Item:
    return Item(
        kind="stage",
        name=name,
        fixture=case.fixture,
        shape=case.shape,
        seconds=seconds,
        warm_ups=plan.warm_ups,
        cost=stage_cost(name, case.shape),
        floor=stage_floor(name, case.shape),
        ceiling=stage_floor(name, case.shape, rates),
        predicted=predicted,
    )


def fits(system: asn.ArrowSystem, case: Case, plan: Plan, rates: Rates) -> Iterator[Item]:
    """Whole loops of a bound workspace, and their attempts by events."""
    workspace = asn.ResidentWorkspace.from_system(system)
    options = asn.InnerOptions(solve=asn.SolveOptions(mode="direct"))
    fit = workspace.device_fit(options)
    seconds = timed(lambda _: workspace.device_fit(options), plan)
    if attempts := recorded(lambda _: workspace.device_fit(options), "attempt", plan):
        yield by_events("attempt", attempts, case, plan, rates)
    yield Item(
        kind="fit",
        name="device_fit",
        fixture=case.fixture,
        shape=case.shape,
        seconds=seconds,
        warm_ups=plan.warm_ups,
        solves=fit.iterations,
        counters=workspace.device_fit(options).telemetry.to_dict(),
        figures={"iterations": fit.iterations, "status": fit.status},
    )


def dual(plan: Plan, rates: Rates) -> Iterator[Item]:
    """The dual route: a build by events, warm steps against those of the direct route, whole reuploads, loops."""
    case, system = plan.wide, plan.wide.make()
    frame = asn.ArrowFrame.build(system, route="dual")
    direct = asn.ArrowFrame.build(system, route="direct")
    base = asn.BaseArrowFrame(system, route="dual", cache_entries=1)
    pairs = gradients(system)
    predicted = predicted_times(case.shape, "low_rank")
    common: dict[str, Any] = {"fixture": case.fixture, "shape": case.shape, "route": "dual", "warm_ups": plan.warm_ups}
    if built := recorded(lambda i: base.factor_at(1e-3 * (i + 1), 0.0), "frame_build", plan):
        yield Item(
            kind="stage",
            name="dual_build",
            seconds=built,
            cost=stage_cost("dual_build", case.shape),
            floor=stage_floor("dual_build", case.shape),
            ceiling=stage_floor("dual_build", case.shape, rates),
            predicted=predicted["build"],
            **common,
        )
    if moved := recorded(lambda i: base.factor_at(1e-3, 1e-3 * (i + 1)), "border_build", plan):
        yield Item(kind="stage", name="dual_border_build", seconds=moved, **common)
    warm = timed(lambda i: frame.step(*pairs[i % GRADIENTS]), plan)
    other = timed(lambda i: direct.step(*pairs[i % GRADIENTS]), plan)
    yield Item(
        kind="solve",
        name="warm step",
        seconds=warm,
        cost=stage_cost("dual_solve", case.shape),
        floor=stage_floor("dual_solve", case.shape),
        predicted=predicted["solve"],
        launches=dual_solve_nodes(case.shape),
        parity={"metric_a": max(difference(frame.step(*p), direct.step(*p)) for p in pairs)},
        certificate=frame.step(*pairs[0], certificate=True).certificate,
        counters=frame.step(*pairs[0]).telemetry.to_dict(),
        figures={
            "over_direct": mean(other) / mean(warm),
            "device_bytes": frame.device_bytes,
            "device_bytes_direct": direct.device_bytes,
            "chosen": asn.BaseArrowFrame(system).plan.route,
        },
        **common,
    )
    cold = timed(lambda _: asn.newton_step_reupload(system, route="dual"), plan)
    yield Item(kind="solve", name="cold step", seconds=cold, predicted=sum(predicted.values()), **common)
    workspace = asn.ResidentWorkspace.from_system(system)
    options = asn.InnerOptions(solve=asn.SolveOptions(mode="low_rank"))
    fit = workspace.device_fit(options)
    seconds = timed(lambda _: workspace.device_fit(options), plan)
    yield Item(kind="fit", name="device_fit", seconds=seconds, solves=fit.iterations, **common)


def iterations(plan: Plan) -> Iterator[Item]:
    """Conjugate gradients on a frame, against the floor of their products, and the same on the CPU."""
    case, system = plan.wide, plan.wide.make()
    pcg = asn.PcgOptions(max_iterations=500, relative_tolerance=1e-10)
    frame = asn.ArrowFrame.build(system, route="inexact_pcg", pcg=pcg)
    pairs = gradients(system)
    account = frame.step(*pairs[0]).pcg
    assert account is not None
    seconds = timed(lambda i: frame.step(*pairs[i % GRADIENTS]), plan)
    options = asn.SolveOptions(mode="inexact_pcg", preconditioner="diagonal", pcg=pcg, device="off")
    host = timed(lambda _: asn.newton_step(system, options=options), plan)
    yield Item(
        kind="solve",
        name="pcg step",
        fixture=case.fixture,
        shape=case.shape,
        route="inexact_pcg",
        seconds=seconds,
        warm_ups=plan.warm_ups,
        floor=account.iterations * stage_floor("schur_apply", case.shape),
        counters=frame.step(*pairs[0]).telemetry.to_dict(),
        figures={
            "iterations": account.iterations,
            "seconds_per_iteration": percentiles(seconds)[1] / max(account.iterations, 1),
            "true_residual": account.final_relative_residual,
            "host_seconds": percentiles(host)[1],
        },
    )


def batches(plan: Plan) -> Iterator[Item]:
    """Small systems at once, against a thread per system."""
    count, n, d, k = plan.batch
    systems = [asn.fixtures.coupled_fixture(n, d, k, seed=i, coupling=0.9).system() for i in range(1, count + 1)]
    device = timed(lambda _: asn.solve_batch(systems, device="required"), plan)
    host = timed(lambda _: asn.solve_batch(systems, device="off"), plan)
    shape = Shape(n, d, k)
    yield Item(
        kind="solve",
        name="batch",
        fixture="coupled",
        shape=shape,
        seconds=device,
        warm_ups=plan.warm_ups,
        solves=count,
        floor=count * upload_bytes(shape) / DATASHEET.link,
        figures={"systems": count, "host_seconds": percentiles(host)[1], "speedup": mean(host) / mean(device)},
    )


def calibration() -> Item:
    """The thresholds that this device sets, and how long it took to find them; last, as it changes what is in force."""
    start = time.perf_counter()
    asn.policy.calibrate()
    seconds = time.perf_counter() - start
    policy = asn.policy.current_policy()
    names = ("gemm_min_flops", "xtwx_flops_min", "potrf_min_p")
    return Item(kind="stage", name="calibration", seconds=(seconds,), figures={n: getattr(policy, n) for n in names})


def deep_rows(plan: Plan) -> Iterator[Item]:
    """Many deep rows and a border of a few unknowns (T-D-12): against the elimination of the CPU. Reported only."""
    n, d, k = plan.rows
    system = asn.fixtures.coupled_fixture(n, d, k, 4, 0.9, "dense").system()
    device = timed(lambda _: asn.newton_step_reupload(system), plan)
    options = asn.SolveOptions(device="off")
    host = timed(lambda _: asn.newton_step(system, options=options), plan)
    shape = Shape(n, d, k)
    yield Item(
        kind="solve",
        name="cold step against newton_step",
        fixture="coupled",
        shape=shape,
        seconds=device,
        warm_ups=plan.warm_ups,
        floor=upload_bytes(shape) / DATASHEET.link + stage_floor("frame_build", shape),
        figures={"host_seconds": percentiles(host)[1], "speedup": mean(host) / mean(device)},
    )


def sweeps(plan: Plan) -> Iterator[Item]:
    """The battery of variants at once, and one after another (T-D-9)."""
    variants = plan.variants()
    result = asn.run_variant_sweep(variants, runner="device")
    asn.check_sweep_parity(variants, None, result, runner="device")  # raises where a bit differs
    workspaces = asn.build_sweep_workspaces(variants)
    together = timed(lambda _: asn.run_fits_multiplexed(workspaces, runner="device"), plan)
    apart = timed(lambda _: asn.run_fits_sequential(workspaces, runner="device"), plan)
    first = variants[0].shape
    yield Item(
        kind="sweep",
        name="sweep",
        fixture="battery",
        shape=Shape(first.n, first.d, first.p, 1),
        seconds=together,
        warm_ups=plan.warm_ups,
        solves=len(variants),
        parity={"same_bits": True},
        figures={
            "fits_per_second": len(variants) / percentiles(together)[1],
            "fits_per_second_sequential": len(variants) / percentiles(apart)[1],
            "succeeded": result.throughput.succeeded,
        },
    )


def ceilings(program: pathlib.Path, info: Mapping[str, Any], plan: Plan) -> tuple[Rates, list[Item]]:
    """Return the rates of this device, and the items that the program measures."""
    stages = run_ceilings(program, info, plan)
    rates = measured_rates(stages, plan)
    return rates, list(stage_items(stages, plan, rates))


def items(info: Mapping[str, Any], plan: Plan, rates: Rates, say: Callable[[str], object]) -> Iterator[Item]:
    """Measure through the public API, item by item."""
    for case in plan.cases:
        say(f"{case.fixture}, border {case.shape.border_name}")
        system = case.make()
        yield from builds(system, case, plan, rates)
        yield from residency(system, case, plan, info["backend"])
        yield from fits(system, case, plan, rates)
    say("dual route, conjugate gradients, batches")
    yield from dual(plan, rates)
    yield from iterations(plan)
    yield from batches(plan)
    say("deep rows, sweeps")
    yield from deep_rows(plan)
    yield from sweeps(plan)
    say("calibration")
    yield calibration()
