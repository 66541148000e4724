"""Build, test and measure on this host's device, and write the ledger: python bench/device_check.py

One command; that it takes less than 8 minutes once the tree is built waits for a device. It builds the library with the
CUDA backend into build/device, runs the C++ device tests and `pytest -m device --require-device`, measures stages and
solves of the reference shapes beside the device's own ceilings, computes the floors, and appends a record per item to
bench/results/device_ledger.jsonl.

Exit status: 0; 1 where a test failed, a speed that is asked for was missed, an item takes 1.2 times its best on the
same device, or the device is broken; 2 where there is none (the typed reason is printed) or the arguments are wrong,
and then nothing is written.

--compile-only builds the backend for compute capability 8.0 and 9.0, on any host with a toolkit, and records that.
--stand-in tries this program itself on the fake device of the tests (ARROWSCHUR_CUDA_BACKEND names it): tiny shapes,
records that say `fake`, and never in the ledger of devices.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import Any

from device_ledger import (
    DATASHEET,
    LEDGER,
    Item,
    Rates,
    Target,
    append,
    find_slower,
    read,
    record_of,
    refuse_ledger,
    targets_of,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "device"
PROGRAM = "device_ceilings"
CPP_TESTS = ("test.backend.cuda_probe", "test.backend.cuda_stages")
GENERATIONS = (80, 90)
SUCCESS, FAILURE, USAGE = 0, 1, 2


def say(text: str) -> None:
    print(f"-- {text}", flush=True)


# ---- building -------------------------------------------------------------------------------------------------------
def python_packages() -> list[str]:
    """Arguments that show CMake this interpreter and its pybind11."""
    command = [sys.executable, "-m", "pybind11", "--cmakedir"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={found}"]


def build(preset: str, folder: pathlib.Path) -> pathlib.Path:
    """Build library, backend, extension and tests for this device; return a folder to import the package from."""
    settings = ["-DARROWSCHUR_CUDA=ON", "-DARROWSCHUR_PYTHON=ON", "-DCMAKE_CUDA_ARCHITECTURES=native"]
    configure = ["cmake", "--preset", preset, "-B", str(folder), *settings, *python_packages()]
    subprocess.run(configure, cwd=ROOT, check=True)
    subprocess.run(["cmake", "--build", str(folder), "--parallel"], cwd=ROOT, check=True)
    return lay_package(folder)


def lay_package(folder: pathlib.Path) -> pathlib.Path:
    """Lay the Python files and the extension of a build tree side by side, as links: nothing is installed.

    The extension finds the library in the build tree, and the library the backend beside itself.
    """
    package = folder / "site" / "arrowschur_native"
    package.mkdir(parents=True, exist_ok=True)
    files = [*(ROOT / "python" / "arrowschur_native").iterdir(), *(folder / "python").glob("_core*.so")]
    for file in files:
        link = package / file.name
        if file.name != "__pycache__" and not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(file)
    return package.parent


def generations_of(commands: str) -> set[int]:
    """Return the generations for which machine code was asked for, by the text of compile_commands.json."""
    return {int(number) for number in re.findall(r"code=\[?(?:compute_\d+,)?sm_(\d+)", commands)}


def compile_only(folder: pathlib.Path, ledger: pathlib.Path, *, configure: bool) -> int:
    """Compile the backend for the documented generations and record it."""
    if configure:
        generations = ";".join(f"{number}-real" for number in GENERATIONS)
        settings = ["-DARROWSCHUR_CUDA=ON", "-DARROWSCHUR_DEVELOPER=ON", f"-DCMAKE_CUDA_ARCHITECTURES={generations}"]
        command = [
            "cmake",
            "--preset",
            "release",
            "-B",
            str(folder),
            *settings,
            f"-DPython_EXECUTABLE={sys.executable}",
        ]
        subprocess.run(command, cwd=ROOT, check=True)
        subprocess.run(["cmake", "--build", str(folder), "--target", "arrowschur_cuda", "--parallel"], check=True)
    library, commands = folder / "lib" / "libarrowschur_cuda.so", folder / "compile_commands.json"
    if not library.is_file() or not commands.is_file():
        print(f"{folder} is no build tree of the backend", file=sys.stderr)
        return USAGE
    found = generations_of(commands.read_text(encoding="utf-8"))
    if not found.issuperset(GENERATIONS):
        print(f"{folder} is compiled for {sorted(found)}, not for {list(GENERATIONS)}", file=sys.stderr)
        return USAGE
    item = Item(kind="compile_only", name="CUDA backend", figures={"compiled_for": sorted(found), "ran": False})
    append(ledger, [record_of(item, compile_environment(folder), 0)])
    print(f"compiled for {', '.join(f'{number / 10:.1f}' for number in sorted(found))}; recorded in {ledger}")
    return SUCCESS


def cache_values(folder: pathlib.Path, *names: str) -> dict[str, str]:
    """Return entries of the CMake cache of a build tree."""
    text = (folder / "CMakeCache.txt").read_text(encoding="utf-8")
    found = {name: re.search(rf"^{name}:\w+=(.*)$", text, re.MULTILINE) for name in names}
    return {name: match[1] for name, match in found.items() if match}


def compile_environment(folder: pathlib.Path) -> dict[str, Any]:
    """Return what is known of a build that has not run."""
    build_values = cache_values(folder, "CMAKE_BUILD_TYPE", "ARROWSCHUR_DEVELOPER", "CMAKE_CUDA_COMPILER")
    compiler = build_values.get("CMAKE_CUDA_COMPILER", "nvcc")
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release [\d.]+, V([\d.]+)", told)
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    git = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "version": version[1] if version else None,
        "revision": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown",
        "build": build_values,
        "backend": "cuda",
        "device": None,
        "toolkit": release[1] if release else None,
    }


# ---- tests ----------------------------------------------------------------------------------------------------------
def junit_counts(text: str) -> dict[str, Any]:
    """Return tests run, passed, failed and skipped, with the reasons, of a report in JUnit's format."""
    cases = list(ElementTree.fromstring(text).iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    reasons = [skip.get("message", "") for case in cases for skip in case.iter("skipped")]
    run = len(cases) - len(reasons)
    return {
        "run": run,
        "passed": run - len(failed),
        "failed": failed,
        "skipped": {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
    }


def python_tests(stand_in: bool, select: str | None) -> dict[str, Any]:
    """Run the device tests of Python."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
        command += ["--rootdir", str(ROOT), str(ROOT / "tests" / "python"), f"--junitxml={report}"]
        command += ["-m", "device and not large", "--stand-in"] if stand_in else ["-m", "device", "--require-device"]
        command += ["-k", select] if select else []
        status = subprocess.run(command, check=False).returncode
        if not report.is_file():
            return {"run": 0, "passed": 0, "failed": [f"pytest ended with status {status}"], "skipped": {}}
        return junit_counts(report.read_text(encoding="utf-8"))


def cpp_counts(name: str, output: str, status: int) -> dict[str, Any]:
    """Return the same for a C++ test, by what it has printed."""
    failed = re.findall(r"^FAILED (\w+)$", output, re.MULTILINE)
    total = re.search(r"^(\d+) passed, (\d+) failed$", output, re.MULTILINE)
    skipped = re.findall(r"^SKIPPED\(no-device\): .*$", output, re.MULTILINE)
    if total is None or (status != 0 and not failed):
        failed.append(f"{name} ended with status {status}")
    passed = (int(total[1]) if total else 0) - len(skipped)
    return {
        "run": passed + len(failed),
        "passed": passed,
        "failed": failed,
        "skipped": {reason: skipped.count(reason) for reason in dict.fromkeys(skipped)},
    }


def cpp_tests(folder: pathlib.Path, environment: Mapping[str, str]) -> list[Item]:
    """Run the C++ device tests of a build tree; one that is not there counts as failed."""
    items = []
    for name in CPP_TESTS:
        program = folder / "tests" / name
        if program.is_file():
            say(name)
            told = {**environment, "ARROWSCHUR_REQUIRE_DEVICE": "1"}
            result = subprocess.run([str(program)], env=told, capture_output=True, text=True, check=False)
            print(result.stdout, end="")
            counts = cpp_counts(name, result.stdout, result.returncode)
        else:
            counts = {"run": 0, "passed": 0, "failed": [f"{program} is not built"], "skipped": {}}
        items.append(Item(kind="parity", name=name, tests=counts))
    return items


# ---- reporting ------------------------------------------------------------------------------------------------------
def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table."""

    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    if rows:
        lines = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def table(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table: times in microseconds, and their ratios."""

    def microseconds(seconds: float | None) -> float | None:
        return None if seconds is None else 1e6 * seconds

    return [
        {
            "kind": record["kind"],
            "item": record["item"],
            "fixture": record["fixture"],
            "border": (record["shape"] or {}).get("border"),
            "median us": microseconds(record["median"]),
            "p10": microseconds(record["p10"]),
            "p90": microseconds(record["p90"]),
            "floor us": microseconds(record["floor"]),
            "x floor": record["ratio_to_floor"],
            "x ceiling": record["ratio_to_measured_ceiling"],
            "predicted us": microseconds(record["predicted"]),
        }
        for record in records
        if record["median"] is not None
    ]


def failures_of(items: Sequence[Item]) -> list[str]:
    """Return what is wrong, not slow: failed tests, suites that ran none, results that disagree."""
    found = []
    for item in items:
        if item.tests is not None:
            found += [f"{item.name}: {name}" for name in item.tests["failed"]]
            if item.tests["run"] == 0 and not item.tests["failed"]:
                found.append(f"{item.name}: no test has run")
        parity = item.parity or {}
        if not parity.get("same_bits", True):
            found.append(f"{item.label}: bits differ, by {parity.get('metric_a')}")
    return found


def verdict(failures: Sequence[str], targets: Sequence[Target], slower: Sequence[object], *, timed: bool) -> int:
    """Print what is wrong and what is too slow; return the exit status. `timed`: whether times count."""
    missed = [target for target in targets if not target.met]
    met = [target for target in targets if target.met]
    for title, lines in (("met", met), ("MISSED", missed), ("SLOWER", slower), ("FAILED", failures)):
        for line in lines:
            print(f"{title:<6} {line}")
    print(
        f"{len(met)} of {len(targets)} speed targets met" + ("" if timed else "; times of a stand-in count for nothing")
    )
    return FAILURE if failures or (timed and (missed or slower)) else SUCCESS


# ---- the whole ------------------------------------------------------------------------------------------------------
def why_no_driver() -> str:
    """Say why no driver can be opened; empty where one can. Asks it nothing."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"driver_unavailable: {error}"
    return ""


def check(arguments: argparse.Namespace) -> int:
    """Test and measure with the package that is imported."""
    import device_measure as measure  # not before there is something to import

    import arrowschur_native as asn

    info = asn.device_info()
    if not info["available"]:
        print(f"no device: {info['reason']}", file=sys.stderr)
        return FAILURE if info["outcome"] == "fault" else USAGE  # there, and broken, is not absent
    stand_in: bool = arguments.stand_in
    complaint = refuse_ledger(arguments.ledger, info["backend"])
    if (info["backend"] == "fake") is not stand_in:
        complaint = f"the backend is {info['backend']!r}: --stand-in is for the fake device, and for nothing else"
    program = arguments.build_dir / "tests" / PROGRAM
    if not (complaint or stand_in or program.is_file()):
        complaint = f"{program} is not built"
    if complaint:
        print(complaint, file=sys.stderr)
        return USAGE

    environment = measure.environment(info)
    for name in ("device", "compute_capability", "driver", "toolkit", "libraries", "revision", "host_cpu"):
        print(f"{name:<20} {environment[name]}")
    items: list[Item] = []
    if not arguments.no_tests:
        say("device tests")
        items.append(Item(kind="parity", name="pytest -m device", tests=python_tests(stand_in, arguments.k)))
        if not stand_in:  # they are for the real backend
            items += cpp_tests(arguments.build_dir, measure.library_environment())

    plan = measure.stand_in_plan() if stand_in else measure.device_plan()
    rates = DATASHEET
    try:
        if program.is_file():
            say("ceilings and stages")
            rates, stages = measure.ceilings(program, info, plan)
            items += stages
        for item in measure.items(info, plan, rates, say):
            items.append(item)
    except (asn.ArrowError, RuntimeError, subprocess.CalledProcessError) as error:
        # What was measured before is written; the run has failed.
        items.append(Item(kind="parity", name="measuring", tests={"run": 1, "passed": 0, "failed": [str(error)]}))
    return conclude(items, rates, environment, arguments.ledger, timed=not stand_in)


def conclude(
    items: Sequence[Item], rates: Rates, environment: Mapping[str, Any], ledger: pathlib.Path, *, timed: bool
) -> int:
    """Compare with the ledger, write it, print everything; return the exit status."""
    records = [record_of(item, environment, number) for number, item in enumerate(items)]
    slower = find_slower(records, read(ledger))
    targets = targets_of(items, rates)
    append(ledger, records)
    show(table(records))
    print(f"measured: {rates.memory / 1e12:.3g} TB/s copying, {rates.matrix / 1e12:.3g} TFLOP/s in float64 products")
    print(f"{len(records)} records appended to {ledger}")
    return verdict(failures_of(items), targets, slower, timed=timed)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("release", "dev"), default="release", help="of CMake; release by default")
    parser.add_argument("--build-dir", type=pathlib.Path, default=BUILD, help="reused where it stands; build/device")
    parser.add_argument(
        "--no-build", action="store_true", help="take the installed package, and the build folder as it is"
    )
    parser.add_argument("--no-tests", action="store_true", help="only measure")
    parser.add_argument("-k", metavar="EXPRESSION", help="of the Python tests, only these")
    parser.add_argument("--ledger", type=pathlib.Path, default=LEDGER, help="file that records are appended to")
    parser.add_argument("--compile-only", action="store_true", help="compile for 8.0 and 9.0, record that, run nothing")
    parser.add_argument("--stand-in", action="store_true", help="try this program on the fake device; needs --ledger")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    arguments.build_dir = arguments.build_dir.resolve()
    try:
        if arguments.compile_only:
            folder = arguments.build_dir if arguments.build_dir != BUILD else BUILD.with_name("device-compile")
            return compile_only(folder, arguments.ledger, configure=not arguments.no_build)
        if arguments.no_build or arguments.stand_in:
            return check(arguments)
        if reason := why_no_driver():
            print(f"no device: {reason}", file=sys.stderr)
            return USAGE
        site = build(arguments.preset, arguments.build_dir)
    except subprocess.CalledProcessError as error:
        print(f"failed: {json.dumps([str(word) for word in error.cmd])}", file=sys.stderr)
        return FAILURE
    # What was built is imported by a process of its own.
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    again = [sys.executable, str(pathlib.Path(__file__).resolve()), *(sys.argv[1:] if argv is None else argv)]
    command = [*again, "--no-build", "--build-dir", str(arguments.build_dir)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
