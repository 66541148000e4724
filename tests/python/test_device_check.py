"""bench/device_check.py: its floors, comparisons and targets; and the whole flow, tried on the fake device.

No test looks at a time of this machine.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import NO_DEVICE, ROOT

import arrowschur_native as asn

BENCH = ROOT / "bench"
CHECK = BENCH / "device_check.py"


def module(name: str) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module(name)


@pytest.fixture(scope="module")
def ledger() -> Iterator[ModuleType]:
    yield from module("device_ledger")


@pytest.fixture(scope="module")
def check() -> Iterator[ModuleType]:
    yield from module("device_check")


@pytest.fixture(scope="module")
def measure() -> Iterator[ModuleType]:
    yield from module("device_measure")


# ---- floors ---------------------------------------------------------------------------------------------------------
# The table of the device specification, section 5.1: floors in microseconds.
FLOORS = {
    "factor_and_whiten": (27.3, 6.1),
    "reduce": (251, 141),
    "factor_border": (42.7, 668),
    "frame_build": (321, 815),
    "reduce_rhs": (13.7, 3.1),
    "border_solve": (7.0, 43.7),
    "expand": (13.7, 3.1),
    "solve": (34.3, 49.8),
    "apply_h": (20.6, 46.8),
}


@pytest.mark.parametrize("stage", FLOORS)
def test_floors_are_those_of_the_specification(ledger: ModuleType, stage: str) -> None:
    shapes = (ledger.Shape(2000, 2, 2048), ledger.Shape(180, 2, 5120))
    for shape, microseconds in zip(shapes, FLOORS[stage], strict=True):
        assert 1e6 * ledger.stage_floor(stage, shape) == pytest.approx(microseconds, rel=0.012)


def test_bytes_and_floors_of_a_tridiagonal_border(ledger: ModuleType) -> None:
    dense, banded = ledger.Shape(2000, 2, 2048), ledger.Shape(2000, 2, 2048, 1)
    assert (ledger.upload_bytes(dense), ledger.upload_bytes(banded)) == (99_202_816, 65_681_152)
    wide = ledger.Shape(180, 2, 5120, 1)
    assert ledger.upload_bytes(wide) == 14_877_120
    assert 1e6 * ledger.stage_floor("apply_h", banded) == pytest.approx(13.7, rel=0.01)
    assert 1e6 * ledger.stage_floor("apply_h", wide) == pytest.approx(3.1, rel=0.01)
    assert (dense.border_name, banded.border_name, ledger.Shape(1, 1, 4, 2).border_name) == (
        "dense",
        "tridiagonal",
        "band 2",
    )


def test_vector_flops_are_not_those_of_products(ledger: ModuleType) -> None:
    rates = ledger.Rates(memory=1e3, link=1.0, matrix=1e2, vector=10.0)
    assert ledger.floor_seconds(ledger.Cost(100.0, 10.0), rates) == 10.0
    assert ledger.floor_seconds(ledger.Cost(100.0, 10.0, matrix=True), rates) == 1.0
    assert ledger.floor_seconds(ledger.Cost(1.0, 1e4), rates) == 10.0


def test_predictions_are_those_of_the_time_model(ledger: ModuleType) -> None:
    profile = asn.policy.MachineProfile.reference().to_dict()
    for n, d, k in ((2000, 2, 2048), (180, 2, 5120), (5, 3, 7)):
        parts = [ledger.predicted_stage(stage, ledger.Shape(n, d, k), profile) for stage in ledger.FRAME_BUILD]
        table = asn.policy.route_table(n=n, d=d, k=k, profile="reference")
        assert sum(parts) == pytest.approx(table["direct"].build_seconds, rel=1e-12)
    assert ledger.predicted_stage("expand", ledger.Shape(5, 3, 7), profile) is None


def test_nodes_of_a_solve(ledger: ModuleType) -> None:
    assert ledger.solve_nodes(ledger.Shape(2000, 2, 2048)) == 2 + 3 + 2 * 16 + 1
    assert ledger.solve_nodes(ledger.Shape(3, 2, 129), groups=2) == 2 + 4 + 2 * 2 + 2
    limit = ledger.warm_solve_limit(ledger.Shape(2000, 2, 2048), 38)
    assert 1e6 * limit == pytest.approx(3 * (34.3 + 38 + 10), rel=1e-3)


def test_percentiles(ledger: ModuleType) -> None:
    assert ledger.percentiles([3.0]) == (3.0, 3.0, 3.0)
    assert ledger.percentiles([float(x) for x in range(10, -1, -1)]) == (1.0, 5.0, 9.0)
    assert ledger.percentiles([1.0, 2.0]) == pytest.approx((1.1, 1.5, 1.9))
    with pytest.raises(ValueError, match="no times"):
        ledger.percentiles([])


# ---- the ledger -----------------------------------------------------------------------------------------------------
def record(ledger: ModuleType, seconds: float, number: int = 0, **more: Any) -> dict[str, Any]:
    environment = {"date": "d", "backend": "cuda", "device": "H", **more}
    shape = ledger.Shape(4, 2, 8)
    item = ledger.Item(kind="stage", name="reduce", fixture="qwen", shape=shape, seconds=(seconds,), floor=0.5)
    return ledger.record_of(item, environment, number)


def test_a_record_has_what_was_measured(ledger: ModuleType) -> None:
    made = record(ledger, 2.0)
    assert (made["id"], made["median"], made["p10"], made["p90"], made["repetitions"]) == ("d#0", 2.0, 2.0, 2.0, 1)
    assert made["shape"] == {"n": 4, "d": 2, "k": 8, "border": "dense"}
    assert made["ratio_to_floor"] == 4.0
    assert made["ratio_to_measured_ceiling"] is None
    with pytest.raises(ValueError, match="kind 'guess'"):
        ledger.record_of(ledger.Item(kind="guess", name=""), {}, 0)


def test_records_are_appended_and_corrected_never_edited(ledger: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert ledger.read(path) == []
    ledger.append(path, [record(ledger, 1.0, 0), record(ledger, 2.0, 1)])
    before = path.read_bytes()
    ledger.append(path, [{**record(ledger, 3.0, 2), "corrects": "d#0"}])
    assert path.read_bytes().startswith(before)
    assert [r["id"] for r in ledger.read(path)] == ["d#1", "d#2"]


def test_records_of_the_stand_in_never_enter_the_ledger_of_devices(ledger: ModuleType, tmp_path: Path) -> None:
    before = ledger.LEDGER.read_bytes() if ledger.LEDGER.exists() else None
    link = tmp_path / "link.jsonl"
    link.symlink_to(ledger.LEDGER)
    for path in (ledger.LEDGER, link):
        with pytest.raises(ValueError, match="stand-in"):
            ledger.append(path, [record(ledger, 1.0), record(ledger, 1.0, backend="fake")])
    assert (ledger.LEDGER.read_bytes() if ledger.LEDGER.exists() else None) == before


def test_the_ledger_of_devices_is_what_it_should_be(ledger: ModuleType) -> None:
    for made in ledger.read(ledger.LEDGER):
        assert made["backend"] == "cuda"
        assert made["kind"] in ledger.KINDS
        assert (made["device"] is None) is (made["kind"] == "compile_only")


def test_slower_is_against_the_best_on_the_same_device(ledger: ModuleType) -> None:
    earlier = [record(ledger, 1.5), record(ledger, 1.0, 7), record(ledger, 0.1, device="other")]
    assert ledger.find_slower([record(ledger, 1.19)], earlier) == []
    [slower] = ledger.find_slower([record(ledger, 1.21)], earlier)
    assert (slower.label, slower.median, slower.best, slower.best_id) == ("reduce qwen dense", 1.21, 1.0, "d#7")
    assert "1.21 times its best" in str(slower)
    assert ledger.find_slower([record(ledger, 9.0, device="third")], earlier) == []


# ---- targets --------------------------------------------------------------------------------------------------------
def test_targets_of_stages_and_solves(ledger: ModuleType) -> None:
    shape = ledger.Shape(2000, 2, 2048)
    rates = ledger.Rates(memory=4e12, link=5e10, matrix=5e13, vector=3e13)

    def item(kind: str, name: str, seconds: float, **more: Any) -> Any:
        cost = ledger.stage_cost(name, shape) if kind == "stage" else None
        return ledger.Item(kind=kind, name=name, fixture="qwen", shape=shape, seconds=(seconds,), cost=cost, **more)

    expand = ledger.stage_cost("expand", shape).bytes / rates.memory
    product = ledger.stage_cost("reduce", shape).flops / rates.matrix
    measured = [
        item("stage", "expand", 1.49 * expand, launches=1),
        item("stage", "expand", 1.51 * expand + 3e-6, launches=1),
        item("stage", "reduce", product / 0.71),
        item("stage", "reduce", product / 0.69),
        item("stage", "factor_border", 1.9e-4, predicted=1e-4),
        item("solve", "warm step", 246e-6, launches=38, figures={"speedup": 3.0, "asked_speedup": 1.0}),
        item("solve", "warm step", 248e-6, launches=38, figures={"speedup": 0.9, "asked_speedup": 1.0}),
        item("solve", "cold step", 1e-3, figures={"uploads": 1.7, "most_uploads": 1.6}),
        item("stage", "log_det", 1.0, launches=2),  # bounded by its launches: nothing is asked
    ]
    targets = ledger.targets_of(measured, rates)
    assert [target.met for target in targets] == [True, False, True, False, True, True, True, False, False, False]
    assert all("qwen, border dense" in str(target) for target in targets)


def test_the_verdict_names_what_failed(
    ledger: ModuleType, check: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = ledger.Target("fine", 1.0, 2.0), ledger.Target("speedup", 1.0, 2.0, at_least=True)
    assert check.verdict([], [good], [], timed=True) == 0
    assert check.verdict([], [good, bad], [], timed=True) == 1
    assert check.verdict([], [good, bad], ["slow"], timed=False) == 0
    assert check.verdict([], [], ["slow"], timed=True) == 1
    assert check.verdict(["test_x"], [], [], timed=False) == 1
    output = capsys.readouterr().out
    assert "MISSED speedup: 1, at least 2 is asked for" in output
    assert "SLOWER slow" in output
    assert "FAILED test_x" in output


def test_disagreement_and_empty_suites_are_failures(ledger: ModuleType, check: ModuleType) -> None:
    def tests(run: int, failed: list[str]) -> Any:
        return ledger.Item(kind="parity", name="suite", tests={"run": run, "failed": failed})

    assert check.failures_of([tests(3, [])]) == []
    assert check.failures_of([tests(3, ["a"])]) == ["suite: a"]
    assert check.failures_of([tests(0, [])]) == ["suite: no test has run"]
    item = ledger.Item(kind="solve", name="warm step", parity={"same_bits": False, "metric_a": 0.5})
    assert check.failures_of([item]) == ["warm step: bits differ, by 0.5"]


# ---- what others print ----------------------------------------------------------------------------------------------
def test_counts_of_both_kinds_of_tests(check: ModuleType) -> None:
    report = """<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure/></testcase>
        <testcase name="c"><skipped message="why"/></testcase><testcase name="d"><error/></testcase>
        </testsuite></testsuites>"""
    assert check.junit_counts(report) == {"run": 3, "passed": 1, "failed": ["b", "d"], "skipped": {"why": 1}}

    output = f"{NO_DEVICE}x\nfile.cpp:3: a == b\nFAILED Two\n2 passed, 1 failed\n"
    counts = {"run": 2, "passed": 1, "failed": ["Two"], "skipped": {f"{NO_DEVICE}x": 1}}
    assert check.cpp_counts("test", output, 1) == counts
    assert check.cpp_counts("test", "5 passed, 0 failed\n", 0)["failed"] == []
    assert check.cpp_counts("test", "", -11)["failed"] == ["test ended with status -11"]


def test_programs_of_the_build_tree_are_run(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    program = tmp_path / "tests" / check.CPP_TESTS[0]
    program.write_text('#!/bin/sh\necho "$ARROWSCHUR_REQUIRE_DEVICE passed, 0 failed"\n', encoding="utf-8")
    program.chmod(0o755)
    there, missing = check.cpp_tests(tmp_path, {"PATH": os.environ["PATH"]})
    assert there.tests == {"run": 1, "passed": 1, "failed": [], "skipped": {}}
    assert missing.tests["failed"] == [f"{tmp_path / 'tests' / check.CPP_TESTS[1]} is not built"]


def test_libraries_are_asked_for_their_versions(measure: ModuleType) -> None:
    versions = measure.library_versions()
    assert set(versions) <= {"cublas", "cusolver"}  # none where no device has been probed
    folders = {str(path.parent) for path in measure.mapped_libraries().values()}
    assert folders <= set(measure.library_environment().get("LD_LIBRARY_PATH", "").split(":"))
    assert measure.source_revision(Path("/")) == "unknown"


def test_generations_are_read_from_the_commands(check: ModuleType) -> None:
    commands = '"--generate-code=arch=compute_80,code=[sm_80]" "arch=compute_120,code=[compute_120,sm_120]"'
    assert check.generations_of(commands + " --generate-code=arch=compute_90,code=[compute_90]") == {80, 120}


# ---- building -------------------------------------------------------------------------------------------------------
def test_a_package_is_laid_of_links(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "_core.cpython-311.so").touch()
    for _ in range(2):  # a second time over what stands
        site = check.lay_package(tmp_path)
        package = site / "arrowschur_native"
        assert (package / "__init__.py").resolve() == ROOT / "python" / "arrowschur_native" / "__init__.py"
        assert (package / "_core.cpython-311.so").is_symlink()
        assert not (package / "__pycache__").exists()


def build_tree(folder: Path, codes: str) -> Path:
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "libarrowschur_cuda.so").touch()
    (folder / "compile_commands.json").write_text(codes, encoding="utf-8")
    compiler = folder / "nvcc"
    compiler.write_text("#!/bin/sh\necho Cuda compilation tools, release 13.0, V13.0.88\n", encoding="utf-8")
    compiler.chmod(0o755)
    cache = f"CMAKE_BUILD_TYPE:STRING=Release\nCMAKE_CUDA_COMPILER:FILEPATH={compiler}\n"
    (folder / "CMakeCache.txt").write_text(cache, encoding="utf-8")
    return folder


def test_compile_only_records_what_was_compiled(ledger: ModuleType, check: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    arguments = ["--compile-only", "--no-build", "--ledger", str(path), "--build-dir"]
    assert check.main([*arguments, str(tmp_path / "nothing")]) == 2
    assert check.main([*arguments, str(build_tree(tmp_path / "one", "code=[sm_80]"))]) == 2
    assert not path.exists()
    assert check.main([*arguments, str(build_tree(tmp_path / "both", "code=[sm_80] code=[sm_90]"))]) == 0
    [made] = ledger.read(path)
    assert (made["kind"], made["device"], made["median"], made["toolkit"]) == ("compile_only", None, None, "13.0.88")
    assert made["figures"] == {"compiled_for": [80, 90], "ran": False}


# ---- the whole ------------------------------------------------------------------------------------------------------
def run(backend: Path | str, *arguments: str, outcome: str = "available") -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("ARROWSCHUR_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, str(CHECK), *arguments],
        env={**keep, "ARROWSCHUR_CUDA_BACKEND": str(backend), "ARROWSCHUR_FAKE_DEVICE": outcome},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_whole_on_the_stand_in(fake: Path, ledger: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    folder = os.environ.get("ARROWSCHUR_BUILD_DIR", str(tmp_path))  # of the C++ tests, where they are built
    arguments = ["--no-build", "--stand-in", "--ledger", str(path), "-k", "td_14", "--build-dir", folder]
    result = run(fake, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("device               fake device\n")
    assert f"records appended to {path}" in result.stdout
    records = ledger.read(path)
    assert {made["backend"] for made in records} == {"fake"}
    kinds = {(made["kind"], made["item"]) for made in records}
    expected = {("parity", "pytest -m device"), ("fit", "device_fit"), ("sweep", "sweep")}
    expected |= {("solve", name) for name in ("upload", "warm step", "cold step", "cold step against newton_step")}
    expected |= {("solve", name) for name in ("pcg step", "batch")}
    stages = ("frame_build", "border_build", "attempt", "dual_build", "dual_border_build", "calibration")
    expected |= {("stage", name) for name in stages}
    if (Path(folder) / "tests" / "device_ceilings").is_file():
        names = ("copy on the device", "float64 product", "reduce", "expand", "apply_h", "solve (graph)")
        expected |= {("stage", name) for name in names}
    assert kinds >= expected
    assert records[0]["tests"] == {"run": 1, "passed": 1, "failed": [], "skipped": {}}
    warm = [made for made in records if made["item"] == "warm step"]
    assert [made["route"] for made in warm] == ["direct", "direct", "dual"]
    dual = warm.pop()
    assert dual["parity"]["metric_a"] < 1e-12
    assert dual["certificate"] < 1e-14
    assert [made["shape"]["border"] for made in warm] == ["dense", "tridiagonal"]
    assert all(made["parity"] == {"metric_a": 0.0, "same_bits": True} for made in warm)
    assert all(made["certificate"] < 1e-15 and made["counters"]["syncs"] >= 1 for made in warm)

    before = path.read_bytes()
    again = run(fake, *arguments, "--no-tests")
    assert again.returncode == 0, again.stdout + again.stderr
    assert path.read_bytes().startswith(before)
    assert len(ledger.read(path)) == 2 * len(records) - 1


def test_without_a_device_nothing_is_written(fake: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    result = run(fake, "--no-build", "--ledger", str(path), outcome="no_device")
    assert (result.returncode, result.stderr) == (2, "no device: no_device: scripted no_device\n")
    result = run(fake, "--no-build", "--ledger", str(path), outcome="fault")
    assert result.returncode == 1
    assert "fault: scripted fault" in result.stderr
    result = run(fake, "--no-build", "--ledger", str(path))
    assert result.returncode == 2
    assert "the backend is 'fake'" in result.stderr
    assert not path.exists()


def test_the_stand_in_is_kept_from_the_ledger_of_devices(fake: Path, ledger: ModuleType) -> None:
    before = ledger.LEDGER.read_bytes() if ledger.LEDGER.exists() else None
    result = run(fake, "--stand-in")
    assert result.returncode == 2
    assert "name another file with --ledger" in result.stderr
    assert (ledger.LEDGER.read_bytes() if ledger.LEDGER.exists() else None) == before


def test_a_failing_device_leaves_what_was_measured(fake: Path, ledger: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    arguments = ["--stand-in", "--no-tests", "--ledger", str(path), "--build-dir", str(tmp_path)]
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("ARROWSCHUR_", "PYTEST_"))}
    scripted = {"ARROWSCHUR_CUDA_BACKEND": str(fake), "ARROWSCHUR_FAKE_FAIL": "measure:1:-1:1"}
    result = subprocess.run(
        [sys.executable, str(CHECK), *arguments], env={**keep, **scripted}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    assert "FAILED measuring: " in result.stdout
    records = ledger.read(path)
    assert records[-1]["item"] == "measuring"
    assert "warm step" in {made["item"] for made in records}


def test_a_failing_program_says_why(measure: ModuleType, tmp_path: Path) -> None:
    program = tmp_path / "device_ceilings"
    program.write_text("#!/bin/sh\necho '{}'\necho $6 failed\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    info = {"devices": [{"l2_bytes": 1}], "library": "backend.so"}
    with pytest.raises(RuntimeError, match="device_ceilings ended with status 1: tiny:12:2:20:-1 failed"):
        measure.run_ceilings(program, info, measure.stand_in_plan())


def test_the_reference_shapes_are_those_of_the_fixtures(measure: ModuleType) -> None:
    plan = measure.device_plan()
    assert [(case.fixture, case.shape.border_name, case.asked_speedup) for case in plan.cases] == [
        ("color_arm", "dense", 20.0),
        ("color_arm", "tridiagonal", 1.5),
        ("qwen", "dense", 1.0),
        ("qwen", "tridiagonal", 1.0),
    ]
    assert (plan.warm_ups, plan.repetitions) >= (5, 20)
    qwen = asn.ResidentShape.qwen()
    assert {(c.shape.n, c.shape.d, c.shape.k) for c in plan.cases} == {(180, 2, 5120), (qwen.n, qwen.d, qwen.p)}
    for case in measure.stand_in_plan().cases:
        system = case.make()
        assert (system.n, system.k, system.total_dim) == (case.shape.n, case.shape.k, case.shape.total)


def test_records_are_one_line_of_json_each(ledger: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, [record(ledger, 1.0)])
    [line] = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["item"] == "reduce"
