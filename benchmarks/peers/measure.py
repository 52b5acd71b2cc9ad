"""Steps per second: the median of several repetitions, and their range."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

REPETITIONS = 5


@dataclass(frozen=True)
class Running:
    """An environment that was built and reset.

    Attributes:
        step: Takes every lane one step further with the k-th actions, and begins a new episode where one ended.
        close: Frees what the environment holds.
    """

    step: Callable[[int], None]
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes:
        environment: Its name in the tables.
        lanes: Environments that one step advances.
        symbols: Symbols of each.
        start: Builds and resets it.
    """

    environment: str
    lanes: int
    symbols: int
    start: Callable[[], Running]


@dataclass(frozen=True)
class Rate:
    """Lane-steps per second over several repetitions."""

    median: float
    low: float
    high: float
    repetitions: int

    @property
    def spread(self) -> float:
        """The range of the repetitions as a fraction of their median."""
        return (self.high - self.low) / self.median


def summarize(rates: list[float]) -> Rate:
    """Return median and range."""
    return Rate(statistics.median(rates), min(rates), max(rates), len(rates))


def steps_per_second(case: Case, seconds: float) -> Rate:
    """Time a case.

    Args:
        case: What to time.
        seconds: Duration of each of the `REPETITIONS`.
    """
    running = case.start()
    try:
        running.step(0)
        began = time.perf_counter()
        running.step(1)
        block = max(1, int(0.01 / (time.perf_counter() - began)))
        return summarize([_once(running.step, block, seconds) * case.lanes for _ in range(REPETITIONS)])
    finally:
        running.close()


def _once(step: Callable[[int], None], block: int, seconds: float) -> float:
    """Return calls per second, looking at the clock once per block of calls."""
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        for k in range(count, count + block):
            step(k)
        count += block
    return count / elapsed
