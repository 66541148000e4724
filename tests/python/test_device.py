"""The device backend: what is reported of it, and what the modes make of it; on the fake device of tests/cpp/backend.

Each program runs in a process of its own, because a process probes once.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import arrowschur_native as asn

ABSENCES = ("driver_unavailable", "runtime_library_unavailable", "no_device")

PROGRAM = """
    import arrowschur_native as asn
    def plan(device, shape=(2000, 2, 2048)):  # large enough to be worth a driver
        options = asn.SolveOptions(mode="direct", calibrate="off", device=device)
        try:
            return [reason for reason in asn.plan(shape, options=options).reasons if "CPU" in reason][0]
        except asn.DeviceError as error:
            return type(error).__name__ + ": " + str(error)
"""


def evaluate(backend: Path | str, outcome: str, expression: str) -> Any:
    """Return the value of an expression in a fresh process whose backend is that file."""
    keep = {name: value for name, value in os.environ.items() if name != "ARROWSCHUR_DEVICE"}
    chosen = {"ARROWSCHUR_CUDA_BACKEND": str(backend), "ARROWSCHUR_FAKE_DEVICE": outcome}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM) + f"print(repr({expression}))"],
        env={**keep, **chosen, "XDG_CACHE_HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return ast.literal_eval(result.stdout)


def test_the_report_of_this_host_is_consistent() -> None:
    info = asn.device_info()
    assert list(info) == [
        *("available", "outcome", "absence", "reason", "backend", "library", "has_solver_stages", "devices"),
    ]
    assert info["outcome"] in ("available", "absent", "fault")
    assert info["available"] is (info["outcome"] == "available") is (len(info["devices"]) == 1)
    assert info["reason"].startswith(info["absence"] if info["outcome"] == "absent" else info["outcome"]) or (
        info["available"] and info["reason"] == ""
    )
    assert (info["absence"] == "backend_not_compiled") is (info["library"] == "")
    assert asn.build_info()["cuda"] == (info["library"] or "not built")
    assert asn.device_info() == info


def test_an_available_device(fake: Path) -> None:
    info = evaluate(fake, "available", "asn.device_info()")
    (device,) = info.pop("devices")
    assert info == {
        "available": True,
        "outcome": "available",
        "absence": "",
        "reason": "",
        "backend": "fake",
        "library": str(fake),
        "has_solver_stages": True,
    }
    assert (device["ordinal"], device["name"], device["compute_capability"]) == (0, "fake device", (9, 0))
    assert (device["ecc"], device["integrated"], device["mig"]) == (True, False, None)
    assert device["free_bytes"] <= device["total_bytes"] == 1 << 30


@pytest.mark.parametrize("absence", ABSENCES)
def test_an_absence_is_typed(fake: Path, absence: str) -> None:
    info, auto, off, required = evaluate(
        fake, absence, "(asn.device_info(), plan('auto'), plan('off'), plan('required'))"
    )
    assert (info["available"], info["outcome"], info["absence"]) == (False, "absent", absence)
    assert info["reason"] == f"{absence}: scripted {absence}"
    assert info["devices"] == []
    assert "runtime_unavailable" in auto
    assert "policy_off" in off
    assert required.startswith("DeviceUnavailableError: ")
    assert info["reason"] in required


def test_a_missing_file_and_another_version_are_absences(fake: Path) -> None:
    assert evaluate("/nowhere.so", "", "asn.device_info()['absence']") == "backend_not_compiled"
    info = evaluate(fake, "version", "asn.device_info()")
    assert (info["outcome"], info["absence"]) == ("absent", "version_mismatch")
    assert "version 3" in info["reason"]


def test_a_seam_without_a_device_route_declines(fake: Path) -> None:
    auto, required = evaluate(fake, "available", "(plan('auto'), plan('required'))")
    assert "kernel_lacks_capability" in auto
    assert required.startswith("DeviceUnavailableError: ")
    assert "this call runs on the host" in required


def test_a_fault_is_an_error_and_never_an_absence(fake: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_text("no machine code")
    for backend in (fake, broken):
        expression = "(asn.device_info(), plan('auto'), plan('required'), plan('off'), plan('auto', (7, 2, 4)))"
        info, auto, required, off, small = evaluate(backend, "fault", expression)
        assert (info["outcome"], info["absence"], info["available"]) == ("fault", "", False)
        assert auto == required
        assert auto.startswith("DeviceError: the device failed in probe: ")
        assert "policy_off" in off
        assert "below_threshold" in small


def test_the_child_of_a_process_with_a_device_has_none(fake: Path) -> None:
    program = """
        import os
        import arrowschur_native as asn
        def outcome_in_child():
            read, write = os.pipe()
            if os.fork() == 0:
                os.write(write, asn.device_info()["reason"].encode() or b"available")
                os._exit(0)
            os.wait()
            return os.read(read, 1000).decode()
        first = outcome_in_child()
        asn.device_info()
        print([first, outcome_in_child()])
    """
    keep = {**os.environ, "ARROWSCHUR_CUDA_BACKEND": str(fake), "ARROWSCHUR_FAKE_DEVICE": "available"}
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=keep, capture_output=True, text=True, check=True
    ).stdout
    before, after = ast.literal_eval(output)
    assert before == "available"
    assert after.startswith("driver_unavailable: forked")
