"""Dictionaries that are routed on a device, on the fake one of tests/cpp/backend: bits, counters, modes, failures.

Each program runs in a process of its own, because a process probes once.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import ROOT
from test_frames import environment

PRELUDE = f"""
    import sys
    sys.path.insert(0, {str(ROOT / "tests" / "python")!r})
    import numpy as np
    import pytest
    import arrowschur_native as asn
    from dictionaries import FIVE, X, bits, model
    def story(fit):
        return bits(fit.decoder, fit.indices, fit.codes, fit.ev_path)
"""
TEXT = "sparse_dictionary: device 'required' but no usable CUDA device: "


def run(backend: Path | str, program: str, **more: str) -> None:
    text = textwrap.dedent(PRELUDE) + textwrap.dedent(program)
    result = subprocess.run(
        [sys.executable, "-c", text],
        env=environment(backend, **more),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "options", ["", "router='refine'", "center=True", "refreshes_per_epoch=4", "batch_size=100, center=True"]
)
def test_a_fit_is_that_of_the_cpu(fake: Path, options: str) -> None:
    run(
        fake,
        f"""
        fits = [asn.SparseDictionary(**{{**FIVE, **dict({options})}}, device=d).fit(X) for d in ("off", "required")]
        here, there = (f.result_ for f in fits)
        assert story(here) == story(there)
        assert there.route.device_minibatches == there.route.minibatches > 0
        assert here.route.cpu_minibatches == here.route.minibatches > 0
        codes = [f.set_params(output="pair").transform(X) for f in fits]
        assert bits(*codes[0]) == bits(*codes[1])
        assert fits[0].score(X) == fits[1].score(X)
        """,
    )


def test_small_work_wakes_no_driver(fake: Path) -> None:
    run(
        fake,
        """
        before = asn.policy.probe_counters()
        result = model().fit(X).result_
        assert result.route.device_minibatches == 0
        assert asn.policy.probe_counters() == before
        """,
    )


@pytest.mark.parametrize("absence", ["driver_unavailable", "runtime_library_unavailable", "no_device"])
def test_a_required_device_that_is_absent(fake: Path, absence: str) -> None:
    run(
        fake,
        f"""
        with pytest.raises(asn.DeviceUnavailableError) as error:
            model(device="required").fit(X)
        assert str(error.value) == {TEXT!r} + error.value.reason
        assert "{absence}" in error.value.reason
        """,
        ARROWSCHUR_FAKE_DEVICE=absence,
    )


def test_a_probe_that_meets_a_fault_is_an_error(fake: Path) -> None:
    run(
        fake,
        """
        with pytest.raises(asn.DeviceError, match="scripted fault"):
            model(device="required").fit(X)
        """,
        ARROWSCHUR_FAKE_DEVICE="fault",
    )


def test_what_a_device_does_not_take(fake: Path) -> None:
    run(
        fake,
        """
        with pytest.raises(asn.UnsupportedConfiguration, match="^sparse_dictionary: router='omp' is not supported"):
            model(device="required", router="omp").fit(X)
        with pytest.raises(asn.UnsupportedConfiguration, match="a search for 160 atoms of a row"):
            model(device="required", n_components=200, n_nonzero_coefs=40, router="refine").fit(X)
        assert model(device="auto", router="omp").fit(X).result_.route.device_minibatches == 0
        """,
    )


def test_memory_that_does_not_suffice(fake: Path) -> None:
    run(
        fake,
        f"""
        with pytest.raises(asn.DeviceUnavailableError) as error:
            model(device="required").fit(X)
        assert str(error.value).startswith({TEXT!r} + "device memory: ")
        """,
        ARROWSCHUR_FAKE_MEMORY="1000000",
    )


def test_a_fault_of_a_minibatch_is_an_error(fake: Path) -> None:
    run(
        fake,
        """
        with pytest.raises(asn.DeviceError, match="scripted failure of route"):
            model(device="required").fit(X)
        assert story(model(device="required").fit(X).result_) == story(model(device="off").fit(X).result_)
        """,
        ARROWSCHUR_FAKE_FAIL="route:3:1:1",
    )
