"""Settings shared by all tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import hypothesis
import pytest

import arrowschur_native as asn

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


@pytest.fixture
def device() -> None:
    """For tests that need a device."""
    info = asn.device_info()
    assert info["outcome"] != "fault", info["reason"]
    if not info["available"]:
        pytest.skip(NO_DEVICE + info["reason"])
    if not info["has_solver_stages"]:
        pytest.skip(NO_DEVICE + "the backend has no solver stages")


@pytest.fixture
def no_device() -> None:
    """For tests of what happens without a device."""
    if asn.device_info()["has_solver_stages"]:
        pytest.skip("this host has a device")
