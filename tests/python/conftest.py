"""Settings shared by all tests."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

import arrowschur_native as asn

ROOT = Path(__file__).resolve().parents[2]

# Derandomised: a run is repeatable, and a failure is a fact about the code, not about the day. No deadline: shared
# machines are slow at times.
hypothesis.settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("thorough", parent=hypothesis.settings.get_profile("default"), max_examples=1000)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = asn.get_num_threads()
    yield
    asn.set_num_threads(before)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The records of the library's logger."""
    caplog.set_level(logging.DEBUG, logger="arrowschur_native")
    return caplog


# Skips for want of a device are counted by this marker: its spelling is fixed.
NO_DEVICE = "SKIPPED(no-device): "


# ---- devices --------------------------------------------------------------------------------------------------------
def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-device", action="store_true", help="a missing device is a failure, not a skip")
    parser.addoption("--stand-in", action="store_true", help="run device tests on the fake device (proves no device)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.device)


def pytest_report_header(config: pytest.Config) -> list[str]:
    if "device" not in (config.getoption("-m") or ""):
        return []
    info = asn.device_info()
    lines = [f"device backend: {info['library'] or 'none'} ({info['reason'] or info['backend']})"]
    return lines + [
        f"device: {d['name']}, compute capability {d['compute_capability'][0]}.{d['compute_capability'][1]}, "
        f"driver {d['driver_version']}, runtime {d['runtime_version']}"
        for d in info["devices"]
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    without = [report for report in skipped if NO_DEVICE in str(report.longrepr)]
    if without:
        terminalreporter.write_line(f"{len(without)} tests were skipped for want of a device")


class Place:
    """Where a device test runs: on a device, or, to try the test itself, on the stand-in."""

    def __init__(self, stand_in: bool) -> None:
        self.stand_in = stand_in

    def ran(self, result: object, path: str) -> bool:
        """Whether a result says that it ran there by this path."""
        told = (result.execution_path, result.backend, result.unproven_path)  # type: ignore[attr-defined]
        return told == (("cpu", "fake", path) if self.stand_in else (path, "cuda", ""))


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Place:
    """For tests that need a device. A fault is never a skip, and the fake device is none."""
    info = asn.device_info()
    assert info["outcome"] != "fault", info["reason"]
    required = request.config.getoption("--require-device") or os.environ.get("ARROWSCHUR_DEVICE") == "required"
    stand_in = bool(request.config.getoption("--stand-in"))
    if info["available"]:
        assert (info["backend"] == "fake") is stand_in, f"backend {info['backend']!r}"
        return Place(stand_in)
    assert not required, "a device is required: " + info["reason"]
    pytest.skip(NO_DEVICE + info["reason"])


@pytest.fixture
def random(request: pytest.FixtureRequest) -> np.random.Generator:
    """New numbers in every run; the seed is printed where a test fails."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake device of tests/cpp/backend, compiled."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("fake") / "libarrowschur_fake_device.so"
    folder = ROOT / "tests" / "cpp" / "backend"
    sources = [f for f in sorted(folder.glob("fake_*.cpp")) if f.stem != "fake_driver" and not f.stem.endswith("_test")]
    options = ["-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-o", str(library)]
    folders = [f"-I{ROOT / folder}" for folder in ("cpp/src", "cuda")]
    subprocess.run([*compiler.split(), *map(str, sources), *options, *folders], check=True)
    return library


@pytest.fixture
def no_device() -> None:
    """For tests of what happens without a device."""
    if asn.device_info()["available"]:
        pytest.skip("this host has a device")
