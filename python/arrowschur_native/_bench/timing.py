"""Timing of several contenders in turn, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Contender", "Times", "once", "race"]

# The worker threads of OpenBLAS spin after a call before they go to sleep, for up to 100 ms as measured: a step of
# 26 ms took 52 ms when it began 50 ms after a SYRK of SciPy's, and 26 ms again 300 ms after it. The next contender
# must not share the cores with them.
SETTLE_SECONDS = 0.2
# Calls shorter than this are repeated within a turn, after one call that is not counted: it wakes the threads and fills
# the caches. For longer ones waking up does not matter, and a wasted call would.
SHORT_SECONDS = 0.03
TURN_SECONDS = 0.02
MAX_CALLS_PER_TURN = 200


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes
    ----------
    run : callable
        Without arguments; what is timed.
    prepare : callable, optional
        Called before every `run`, not timed.
    """

    run: Callable[[], object]
    prepare: Callable[[], object] | None = None

    def seconds(self) -> float:
        """Run once and return the wall time."""
        if self.prepare is not None:
            self.prepare()
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start


@dataclass(frozen=True)
class Times:
    """Seconds of all counted calls of one contender."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the calls."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """Shortest call."""
        return min(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return median, minimum and number of calls."""
        return {"median": self.median, "min": self.best, "calls": len(self.seconds)}


def once(contender: Contender) -> float:
    """Return the shorter of two calls, or the first one where it is long enough to be meant."""
    time.sleep(SETTLE_SECONDS)
    first = contender.seconds()
    if first > 10 * SHORT_SECONDS:
        return first
    return min(first, *(contender.seconds() for _ in range(3)))


def race(contenders: Mapping[str, Contender], budget: float, *, rounds: int = 3) -> dict[str, Times]:
    """Time the contenders in turns (A B C A B C ...) for about `budget` seconds, but at least `rounds` rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    # The uncounted first call of each also warms up code, caches and memory.
    last = {name: contender.seconds() for name, contender in contenders.items()}
    start = time.perf_counter()
    done = 0
    while done < rounds or time.perf_counter() - start < budget:
        for name, contender in contenders.items():
            time.sleep(SETTLE_SECONDS)
            if last[name] < SHORT_SECONDS:
                contender.seconds()
            turn = time.perf_counter()
            for _ in range(MAX_CALLS_PER_TURN):
                last[name] = contender.seconds()
                seconds[name].append(last[name])
                if time.perf_counter() - turn > TURN_SECONDS:
                    break
        done += 1
    return {name: Times(tuple(values)) for name, values in seconds.items()}
