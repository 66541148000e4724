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
