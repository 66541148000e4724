"""Errors: the hierarchy, the data that each error carries, pickling; interrupts."""

from __future__ import annotations

import collections
import math
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import numpy as np
import pytest
import systems
from systems import HAND

import arrowschur_native as asn

BUILT_IN: dict[type[asn.ArrowError], type[Exception]] = {
    asn.InvalidArgument: ValueError,
    asn.UnsupportedConfiguration: ValueError,
    asn.MemoryBudgetExceeded: MemoryError,
    asn.RowFactorError: np.linalg.LinAlgError,
    asn.RowIllConditioned: asn.RowFactorError,
    asn.SchurFactorError: np.linalg.LinAlgError,
    asn.PcgError: np.linalg.LinAlgError,
    asn.NegativeCurvature: asn.PcgError,
    asn.CertificateError: np.linalg.LinAlgError,
    asn.CorrectionError: RuntimeError,
    asn.InnerLoopError: RuntimeError,
    asn.DeviceError: RuntimeError,
    asn.DeviceUnavailableError: asn.DeviceError,
}

FIELDS: dict[type[asn.ArrowError], tuple[str, ...]] = {
    asn.InvalidArgument: ("argument", "got", "expected"),
    asn.UnsupportedConfiguration: ("feature", "route", "hint"),
    asn.MemoryBudgetExceeded: ("bytes_needed", "budget", "what"),
    asn.RowFactorError: ("row", "pivot_index", "pivot", "base_ridge", "last_ridge", "suggested_ridge"),
    asn.RowIllConditioned: (
        *("row", "pivot_index", "pivot", "base_ridge", "last_ridge", "suggested_ridge"),
        *("kappa_estimate", "min_pivot"),
    ),
    asn.SchurFactorError: ("kind", "pivot_index", "kappa_estimate", "suggested_ridge"),
    asn.PcgError: ("kind", "diagnostics"),
    asn.NegativeCurvature: ("kind", "diagnostics", "curvature", "direction_norm_sq", "direction"),
    asn.CertificateError: ("backward_error", "tolerance"),
    asn.CorrectionError: ("attempts", "last_reason"),
    asn.InnerLoopError: ("status", "iterations", "rho", "ridges_t", "ridges_beta", "last_failure"),
    asn.DeviceError: ("stage", "code"),
    asn.DeviceUnavailableError: ("stage", "code", "reason"),
}


@pytest.mark.parametrize("cls", BUILT_IN)
def test_every_error_is_an_arrow_error_and_a_built_in(cls: type[asn.ArrowError]) -> None:
    assert issubclass(cls, asn.ArrowError)
    assert issubclass(cls, BUILT_IN[cls])


@pytest.mark.parametrize("cls", FIELDS)
def test_errors_carry_their_fields_and_pickle(cls: type[asn.ArrowError]) -> None:
    facts = {name: f"value of {name}" for name in FIELDS[cls]}
    error = cls(**facts)
    assert error.facts == facts
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert again.facts == facts
    telling = ["reason"] if cls is asn.DeviceUnavailableError else FIELDS[cls]
    assert all(facts[name] in str(error) for name in telling)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="rows"):
        asn.RowFactorError(rows=1)


def test_which_errors_a_ridge_can_cure() -> None:
    cured = {cls for cls in BUILT_IN if cls().cured_by_ridge}
    assert cured == {
        asn.RowFactorError,
        asn.RowIllConditioned,
        asn.SchurFactorError,
        asn.PcgError,
        asn.NegativeCurvature,
        asn.CertificateError,
    }
    assert not asn.SchurFactorError(kind="capacitance").cured_by_ridge


# ---- what the core throws -------------------------------------------------------------------------------------------
def caught(call: Any) -> asn.ArrowError:
    with pytest.raises(asn.ArrowError) as info:
        call()
    error = info.value
    assert pickle.loads(pickle.dumps(error)).facts == pytest.approx(error.facts, nan_ok=True)
    return error


def test_a_row_error_of_the_core_carries_its_data() -> None:
    system = systems.indefinite_row().system() if callable(systems.indefinite_row) else systems.indefinite_row
    error = caught(lambda: asn.newton_step(system, options=asn.SolveOptions(row_lift="never")))
    assert type(error) is asn.RowFactorError
    assert (error.row, error.base_ridge) == (0, 0.0)
    assert error.pivot <= 0 < error.suggested_ridge
    asn.newton_step(system, ridge_t=error.suggested_ridge)


def test_a_border_error_of_the_core_carries_its_data() -> None:
    system = systems.collapse(1).system()
    error = caught(lambda: asn.newton_step(system))
    assert type(error) is asn.SchurFactorError
    assert (error.kind, error.pivot_index) == ("non_pd", 0)
    asn.newton_step(system, ridge_beta=error.suggested_ridge)


def test_a_certificate_error_of_the_core_carries_its_data() -> None:
    system = systems.ls(40, 3, 17, 1).system()
    error = caught(lambda: asn.newton_step(system, options=asn.SolveOptions(certificate_tolerance=1e-20)))
    assert type(error) is asn.CertificateError
    assert error.tolerance == 1e-20 < error.backward_error < 1e-12


def test_a_memory_error_of_the_core_carries_its_data() -> None:
    error = caught(lambda: asn.plan((1000, 2, 500), options=asn.SolveOptions(memory_limit=1000)))
    assert type(error) is asn.MemoryBudgetExceeded
    assert error.budget == 1000 < error.bytes_needed
    assert error.what
    assert isinstance(error, MemoryError)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, "1", None, [1.0], 1j])
@pytest.mark.parametrize("name", ["ridge_t", "ridge_beta"])
def test_a_bad_ridge_is_named(name: str, bad: Any) -> None:
    error = caught(lambda: asn.newton_step(HAND.system(), **{name: bad}))
    assert type(error) is asn.InvalidArgument
    assert error.argument == name


def test_catching_by_the_built_in_works() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        asn.newton_step(systems.collapse(1).system())
    with pytest.raises(ValueError, match="mode"):
        asn.SolveOptions(mode="fast")


def test_a_failed_call_leaves_no_exception_behind() -> None:
    system = HAND.system()
    before = asn.newton_step(system)
    with pytest.raises(asn.ArrowError):
        asn.newton_step(systems.collapse(1).system())
    after = asn.newton_step(system)
    assert np.array_equal(before.delta_t, after.delta_t)


def test_errors_from_many_threads_reach_their_callers() -> None:
    good, bad = HAND.system(), systems.collapse(1).system()
    kinds: list[str] = []

    def work(index: int) -> None:
        for _ in range(20):
            try:
                asn.newton_step(bad if index % 2 else good)
                kinds.append("step")
            except asn.SchurFactorError as error:
                kinds.append(error.kind)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (kinds.count("step"), kinds.count("non_pd")) == (80, 80)


# ---- interrupts -----------------------------------------------------------------------------------------------------
LONG_CALL = """
    import os, signal, threading, time
    import numpy as np
    import arrowschur_native as asn

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits "ignore"
    # Big enough to run for seconds on any machine: 2.6e11 flops and more.
    system = asn.fixtures.coupled_fixture(6000, 4, 3000, seed=1).system()
    options = asn.SolveOptions(num_threads=1)
    started = threading.Event()

    def interrupt():
        started.wait()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    begin = time.perf_counter()
    try:
        started.set()
        {call}
        print("finished")
    except KeyboardInterrupt:
        print("interrupted")
    print(time.perf_counter() - begin)
    small = asn.fixtures.small_fixture(1).system()
    print(asn.newton_step(small).diagnostics.backward_error < 1e-14)
"""


@pytest.mark.parametrize(
    "call",
    ["asn.newton_step(system, options=options)", "asn.factorize(system, options=options)"],
)
def test_ctrl_c_ends_a_long_call_at_once(call: str) -> None:
    program = textwrap.dedent(LONG_CALL).replace("{call}", call)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    outcome, seconds, works = result.stdout.split()
    assert outcome == "interrupted"
    assert float(seconds) < 2.0
    assert works == "True"


def test_a_signal_handler_that_raises_is_heard() -> None:
    class StopError(Exception):
        pass

    def stop(number: int, frame: Any) -> None:
        raise StopError

    system = asn.fixtures.coupled_fixture(2000, 2, 1500, seed=1).system()
    one_thread = asn.SolveOptions(num_threads=1)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(StopError):
            collections.deque((asn.newton_step(system, options=one_thread) for _ in range(1000)), maxlen=0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert asn.newton_step(HAND.system()).diagnostics.backward_error < 1e-14


def test_a_call_in_another_thread_is_not_interrupted() -> None:
    """Signals belong to the main thread; a worker's solve ends well."""
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    system = asn.fixtures.coupled_fixture(500, 2, 400, seed=1).system()
    errors: list[float] = []
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        worker = threading.Thread(target=lambda: errors.append(asn.newton_step(system).diagnostics.backward_error))
        worker.start()
        worker.join()
        deadline = time.monotonic() + 10
        while not seen and time.monotonic() < deadline:
            time.sleep(0.001)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert seen
    assert errors[0] < 1e-13
