"""Sharpe, Sortino and Calmar ratios of the returns so far, as rewards, in O(1) amortised per step.

What a ratio needs to know of a stretch of returns is a `Summary`, and two adjacent summaries merge into one.
The whole episode is one summary that grows; a sliding window is a queue made of two stacks of partial merges
(B. Tangwongsan et al., "General incremental sliding-window aggregation", PVLDB 8(7), 2015). Nothing is ever
subtracted, so a large return leaves no rounding residue behind when it drops out of the window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from batchenv.rewards import RewardStep

NOISE = 1e-12
"""A deviation or drawdown of returns not above this is rounding, and counts as none."""

_LARGEST_EXPONENT = 700.0


class Summary(NamedTuple):
    """What the ratios need to know of some consecutive returns.

    Attributes:
        n: Number of returns.
        mean: Their mean.
        squares: Sum of their squared differences from the mean.
        downside: Sum of min(excess return, 0) squared.
        growth: Product of 1 + return.
        peak: Highest value of an account that starts the stretch with 1, the start included.
        trough: Its lowest value, the start included.
        drawdown: Its largest fall from an earlier high, as a fraction.
    """

    n: int
    mean: float
    squares: float
    downside: float
    growth: float
    peak: float
    trough: float
    drawdown: float


NOTHING = Summary(0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0)
"""The summary of no returns."""


def summary_of(value: float, risk_free: float) -> Summary:
    """Return the summary of one return.

    Args:
        value: The simple return of a bar.
        risk_free: The risk-free return of a bar, which the downside is measured from.
    """
    growth = 1.0 + value
    below = min(value - risk_free, 0.0)
    return Summary(1, value, 0.0, below * below, growth, max(growth, 1.0), min(growth, 1.0), max(-value, 0.0))


def merged(first: Summary, second: Summary) -> Summary:
    """Return the summary of ``first`` followed by ``second``.

    Moments merge as in T. Chan, G. Golub & R. LeVeque, "Algorithms for computing the sample variance", The
    American Statistician 37(3), 1983.
    """
    if not first.n:
        return second
    n = first.n + second.n
    gap = second.mean - first.mean
    across = (first.peak - first.growth * second.trough) / first.peak
    return Summary(
        n=n,
        mean=first.mean + gap * second.n / n,
        squares=first.squares + second.squares + gap * gap * first.n * second.n / n,
        downside=first.downside + second.downside,
        growth=first.growth * second.growth,
        peak=max(first.peak, first.growth * second.peak),
        trough=min(first.trough, first.growth * second.trough),
        drawdown=max(first.drawdown, second.drawdown, across),
    )


class Window:
    """The summary of the last returns: of all of them, or of as many as ``size``."""

    __slots__ = ("_back", "_back_summary", "_front", "_size")

    def __init__(self, size: int | None) -> None:
        """Start empty; ``size`` None keeps everything."""
        self._size = size
        self._front: list[Summary] = []  # merges of the older half: the last entry covers all of it
        self._back: list[Summary] = []  # single returns of the newer half
        self._back_summary = NOTHING

    def add(self, one: Summary) -> Summary:
        """Append the summary of one return, and return that of the window."""
        self._back_summary = merged(self._back_summary, one)
        if self._size is None:
            return self._back_summary
        self._back.append(one)
        if len(self._front) + len(self._back) > self._size:
            self._drop_oldest()
        return merged(self._front[-1], self._back_summary) if self._front else self._back_summary

    def _drop_oldest(self) -> None:
        if not self._front:
            running = NOTHING
            while self._back:
                newest = self._back.pop()
                running = merged(newest, running) if running.n else newest
                self._front.append(running)
            self._back_summary = NOTHING
        self._front.pop()


def sharpe(returns: Summary, periods: float, risk_free: float) -> float:
    """Mean excess return / standard deviation (ddof = 1), annualised; 0 below 2 returns or without any.

    Args:
        returns: The returns.
        periods: Bars per year.
        risk_free: Risk-free return of a bar.
    """
    deviation = math.sqrt(returns.squares / (returns.n - 1)) if returns.n > 1 else 0.0
    return (returns.mean - risk_free) / deviation * math.sqrt(periods) if deviation > NOISE else 0.0


def sortino(returns: Summary, periods: float, risk_free: float) -> float:
    """Mean excess return / root mean square of the negative excess returns, annualised; 0 as in `sharpe`.

    Args:
        returns: The returns.
        periods: Bars per year.
        risk_free: Risk-free return of a bar.
    """
    deviation = math.sqrt(returns.downside / returns.n) if returns.n > 1 else 0.0
    return (returns.mean - risk_free) / deviation * math.sqrt(periods) if deviation > NOISE else 0.0


def calmar(returns: Summary, periods: float, risk_free: float) -> float:
    """(end / start)^(periods / n) - 1 over the largest drawdown; 0 below 2 returns or without one.

    Args:
        returns: The returns.
        periods: Bars per year.
        risk_free: Not used.
    """
    if returns.n < 2 or returns.drawdown <= NOISE:
        return 0.0
    if returns.growth <= 0:
        return -1.0 / returns.drawdown
    exponent = min(math.log(returns.growth) * periods / returns.n, _LARGEST_EXPONENT)  # keeps exp finite
    return math.expm1(exponent) / returns.drawdown


Ratio = Callable[[Summary, float, float], float]


class RatioReward:
    """A ratio of the account's returns so far in the episode, times the scaling."""

    __slots__ = ("_periods", "_ratio", "_risk_free", "_scaling", "_size", "_window")

    def __init__(self, ratio: Ratio, scaling: float, periods: float, risk_free: float, window: int | None) -> None:
        """Put the parts together.

        Args:
            ratio: `sharpe`, `sortino` or `calmar`.
            scaling: Factor on the ratio.
            periods: Bars per year.
            risk_free: Risk-free return of a bar.
            window: How many bars to look back; None for all of the episode.
        """
        self._ratio, self._scaling = ratio, scaling
        self._periods, self._risk_free = periods, risk_free
        self._size = window
        self._window = Window(window)

    def reset(self, initial_equity: float) -> None:
        """Forget the returns so far."""
        self._window = Window(self._size)

    def __call__(self, step: RewardStep) -> float:
        """Return the ratio of the returns up to and with this step, scaled."""
        value = step.equity_after / step.equity_before - 1.0
        returns = self._window.add(summary_of(value, self._risk_free))
        return self._ratio(returns, self._periods, self._risk_free) * self._scaling
