"""What depends on the machine: instruction sets, the environment, threads of other libraries, fork, scratch memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import systems
from test_newton import whole

import arrowschur_native as asn

INFO = asn.build_info()
SETS = INFO["instruction_sets"].replace(",", " ").split()

SOLVE = """
import json, sys
import numpy as np
import arrowschur_native as asn
worst = 0.0
for n, d, k in ((40, 3, 17), (64, 4, 200), (130, 2, 600), (5, 20, 30), (3, 40, 9)):
    fixture = asn.fixtures.coupled_fixture(n, d, k, seed=3, coupling=0.9)
    system = fixture.system()
    step = asn.newton_step(system)
    H, g = system.to_dense()
    x = np.linalg.solve(H, -g)
    got = np.r_[step.delta_t.ravel(), step.delta_beta]
    worst = max(worst, np.linalg.norm(got - x) / np.linalg.norm(x), step.diagnostics.backward_error)
print(json.dumps({"worst": float(worst), **asn.build_info()}))
"""


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SETS)
def test_the_instruction_set_that_is_forced_is_the_one_that_runs(name: str) -> None:
    report = json.loads(run(SOLVE, ARROWSCHUR_ISA=name))
    assert report["worst"] < 1e-12
    # The sets are listed best first: everything from the one in use on can run here.
    if SETS.index(name) >= SETS.index(INFO["instruction_set"]):
        assert report["instruction_set"] == name


def test_an_unknown_instruction_set_does_not_break_the_import() -> None:
    report = json.loads(run(SOLVE, ARROWSCHUR_ISA="pdp11"))
    assert report["worst"] < 1e-12
    assert report["instruction_set"] in SETS


def test_the_environment_is_the_same_after_a_solve() -> None:
    script = """
import ctypes, os
before = dict(os.environ)
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
names = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
values = [libc.getenv(name.encode()) for name in names]
import numpy as np
import arrowschur_native as asn
asn.factorize(asn.fixtures.coupled_fixture(40, 40, 96, seed=2).system()).solve(np.ones((40, 40, 9)), np.ones((96, 9)))
assert asn.build_info()["blas_kernels"]
assert dict(os.environ) == before
assert [libc.getenv(name.encode()) for name in names] == values
"""
    run(script)


def test_omp_num_threads_is_honoured() -> None:
    script = "import arrowschur_native as asn; print(asn.get_num_threads())"
    assert run(script, OMP_NUM_THREADS="3").strip() == "3"
    # What is not a number >= 1 is ignored.
    default = run(script, OMP_NUM_THREADS="").strip()
    for value in ("0", "-2", "many"):
        assert run(script, OMP_NUM_THREADS=value).strip() == default


def test_threadpoolctl_sees_and_sets_the_threads() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl", minversion="3.3")
    asn.set_num_threads(3)
    with threadpoolctl.threadpool_limits(1, user_api="arrowschur"):
        assert asn.get_num_threads() == 1
    assert asn.get_num_threads() == 3
    (found,) = [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "arrowschur"]
    assert found["num_threads"] == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_can_solve() -> None:
    script = """
import os, warnings
import numpy as np
import arrowschur_native as asn
warnings.simplefilter("ignore", DeprecationWarning)   # Python 3.12 and newer warn of threads and fork
system = asn.fixtures.coupled_fixture(2000, 3, 96, seed=2).system()
expected = asn.newton_step(system, options=asn.SolveOptions(num_threads=3)).delta_beta
child = os.fork()
if child == 0:
    got = asn.newton_step(system, options=asn.SolveOptions(num_threads=3)).delta_beta
    os._exit(0 if np.array_equal(got, expected) else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
"""
    run(script)


def test_scratch_memory_settings_change_no_bit() -> None:
    system = systems.ls(64, 4, 200, 4).system()
    expected = whole(asn.newton_step(system))
    limit = asn.workspace_cache_bytes()
    try:
        assert asn.workspace_cache_bytes(0) == 0
        asn.clear_workspaces()
        assert np.array_equal(whole(asn.newton_step(system)), expected)
        assert asn.workspace_cache_bytes(2**30) == 2**30
        assert np.array_equal(whole(asn.newton_step(system)), expected)
    finally:
        asn.workspace_cache_bytes(limit)
    for bad in (-1, 1.5, True):
        with pytest.raises(asn.InvalidArgument):
            asn.workspace_cache_bytes(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0, -1, 1.5, None, True, 2**40])
def test_bad_thread_counts_are_refused(bad: object) -> None:
    with pytest.raises(asn.InvalidArgument):
        asn.set_num_threads(bad)  # type: ignore[arg-type]
