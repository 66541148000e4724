"""The command line: output, files, exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import systems
from systems import HAND

import arrowschur_native as asn
from arrowschur_native._cli import main


@pytest.fixture
def saved(tmp_path: Path) -> str:
    path = tmp_path / "system.npz"
    HAND.system().save(path)
    return str(path)


def json_of(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


# ---- success: 0 -----------------------------------------------------------------------------------------------------
def test_info_says_what_was_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert asn.__version__ in text
    for word in ("compiler", "instruction_set", "blas", "num_threads"):
        assert word in text
    assert main(["info", "--json"]) == 0
    assert json_of(capsys)["version"] == asn.__version__


def test_plan_of_a_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--n", "2000", "--d", "2", "--k", "2048"]) == 0
    assert "direct" in capsys.readouterr().out
    assert main(["plan", "--n", "2000", "--d", "2", "--k", "2048", "--json", "--mode", "sqrt_ba"]) == 0
    assert json_of(capsys)["route"] == "sqrt_ba"


def test_solve_writes_the_step(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "step.npz"
    assert main(["solve", saved, "-o", str(output), "--ridge-t", "0.5", "--ridge-beta", "0.25"]) == 0
    expected = asn.newton_step(HAND.system(), ridge_t=0.5, ridge_beta=0.25)
    assert "backward_error" in capsys.readouterr().out
    with np.load(output, allow_pickle=False) as step:
        assert np.array_equal(step["delta_t"], expected.delta_t)
        assert np.array_equal(step["delta_beta"], expected.delta_beta)
        assert step["route"] == "direct"
        assert float(step["ridge_t"]) == 0.5
        assert float(step["backward_error"]) == expected.diagnostics.backward_error


def test_solve_prints_json(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", saved, "--json", "--mode", "sqrt_ba", "--num-threads", "1"]) == 0
    report = json_of(capsys)
    assert report["route"] == "sqrt_ba"
    assert report["system"] == {"n": 2, "k": 3, "total_dim": 4, "dtype": "float64"}
    assert report["diagnostics"]["backward_error"] < 1e-15
    assert report["output"] is None


def test_solve_escalates_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "collapse.npz")
    systems.collapse(1).system().save(path)
    assert main(["solve", path, "--escalate", "--json"]) == 0
    assert json_of(capsys)["diagnostics"]["ridge_escalations"] > 0


def test_sweep_prints_a_table_and_both_throughputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.json"
    arguments = ["sweep", "--shape", "20,6,2,2", "--seeds", "1", "0x22", "3", "--workers", "2", "--parity"]
    assert main([*arguments, "--json", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.count("converged") == 3
    for word in ("fit", "status", "iterations", "objective", "path", "multiplexed", "sequential", "ratio", "every bit"):
        assert word in text
    report = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [entry["seed"] for entry in report["variants"]] == [1, 0x22, 3]
    assert [entry["execution_path"] for entry in report["fits"]] == ["cpu"] * 3
    assert report["multiplexed"]["succeeded"] == report["sequential"]["succeeded"] == 3
    assert report["parity"] is True

    assert main(["sweep", "--shape", "20,6,2,2", "--seeds", "1", "--sequential"]) == 0
    assert "multiplexed" not in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["solve", "--help"], ["demo", "--help"], ["sweep", "--help"]])
def test_help_is_a_success(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "usage" in capsys.readouterr().out


# ---- numerical failure: 1 -------------------------------------------------------------------------------------------
def test_a_numerical_failure_prints_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "collapse.npz")
    output = tmp_path / "step.npz"
    systems.collapse(1).system().save(path)
    assert main(["solve", path, "-o", str(output)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "SchurFactorError" in captured.err
    assert re.search(r"suggested_ridge: \d", captured.err)
    assert not output.exists()


def test_a_numerical_failure_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "collapse.npz")
    systems.collapse(1).system().save(path)
    assert main(["solve", path, "--json"]) == 1
    report = json.loads(capsys.readouterr().err, parse_constant=pytest.fail)
    assert (report["error"], report["kind"], report["pivot_index"]) == ("SchurFactorError", "non_pd", 0)
    assert report["suggested_ridge"] > 0


def test_a_missed_certificate_is_a_numerical_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "ls.npz")
    systems.ls(40, 3, 17, 1).system().save(path)
    assert main(["solve", path, "--certificate-tolerance", "1e-20"]) == 1
    assert "CertificateError" in capsys.readouterr().err


def test_too_little_memory_is_a_failure_with_bytes(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", saved, "--memory-limit", "1"]) == 1
    assert re.search(r"bytes_needed: \d+", capsys.readouterr().err)


# ---- bad usage: 2 ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["plan", "--n", "3"],
        ["plan", "--n", "3", "--d", "two", "--k", "1"],
        ["plan", "--n", "-3", "--d", "2", "--k", "1"],
        ["plan", "--n", "3", "--d", "2", "--k", "1", "--mode", "fast"],
        ["plan", "--n", "3", "--d", "2", "--k", "1", "--mode", "streaming"],
        ["solve"],
        ["solve", "there-is-no-such-file.npz"],
        ["demo", "no_such_demo"],
        ["sweep", "--shape", "round"],
        ["sweep", "--shape", "4,0,1,2"],
        ["sweep", "--shape", "4,3,1,2", "--seeds", "one"],
        ["sweep", "--shape", "4,3,1,2", "--seeds", "-1"],
        ["sweep", "--shape", "4,3,1,2", "--workers", "0"],
        ["sweep", "--shape", "4,3,1,2", "--sequential", "--parity"],
        ["sweep", "--shape", "4,3,1,2", "--json", "no/such/folder.json"],
    ],
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err
    assert "Traceback" not in captured.err


def test_bad_values_of_solve_are_bad_usage(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    garbage = tmp_path / "garbage.npz"
    garbage.write_bytes(b"not a zip file")
    for arguments in (
        [saved, "--ridge-t", "-1"],
        [saved, "--ridge-beta", "nan"],
        [str(garbage)],
        [str(tmp_path)],
        [saved, "-o", str(tmp_path / "no" / "such" / "folder.npz")],
        [saved, "--num-threads", "0"],
    ):
        assert main(["solve", *arguments]) == 2, arguments
        assert capsys.readouterr().err


# ---- as a program ---------------------------------------------------------------------------------------------------
def test_python_m_runs_the_same(saved: str) -> None:
    command = [sys.executable, "-m", "arrowschur_native"]
    good = subprocess.run([*command, "solve", saved, "--json"], capture_output=True, text=True, check=False)
    assert good.returncode == 0
    assert json.loads(good.stdout)["route"] == "direct"
    bad = subprocess.run([*command, "solve", saved, "--mode", "fast"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert "mode" in bad.stderr


def test_bench_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    assert "usage" in capsys.readouterr().out


def test_demo_reports_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "linear_autoencoder", "--json"]) == 0
    (block, *_) = json_of(capsys)
    assert block["title"]
    assert any("backward" in name for name, _ in block["rows"])
