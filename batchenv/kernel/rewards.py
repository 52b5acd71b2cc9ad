"""Training rewards, O(1) in the step. Rule 7 of ``docs/accounting.md``."""

from __future__ import annotations

import math

from batchenv.kernel.jit import inlined
from batchenv.kernel.state import F64, Rules

_LEAST_RATIO = 1e-8
_LEAST_VARIANCE = 1e-12
"""Rule 7.7: the least variance, relative to 1 and the mean square, that is more than rounding."""
_DOUBLINGS = 6


@inlined
def tanh(x: float) -> float:
    """Return the hyperbolic tangent, within a few units in the last place, by arithmetic that a loop can vectorise.

    tanh x = e / (e + 2) with e = exp(2x) - 1, which for x >= 0 is reached from its Taylor series at x / 2**5 by
    doublings: exp(2y) - 1 = d (d + 2) with d = exp(y) - 1. A call of the C library costs four times as much.
    """
    size = min(abs(x), 20.0)  # where it is 1 to the last digit
    y = 2.0 * size / 2.0**_DOUBLINGS
    series = 1.0
    for k in range(13, 1, -1):
        series = 1.0 + series * y * (1.0 / k)
    e = series * y
    for _ in range(_DOUBLINGS):
        e = e * (e + 2.0)
    return math.copysign(e / (e + 2.0), x)


@inlined
def simple_return(before: float, after: float) -> float:
    """Rule 7.6, `simple_return`."""
    return after / before - 1.0


@inlined
def fast_profit(simple_return: float) -> float:
    """Rule 7.6, `fast_profit_reward`."""
    return tanh(100.0 * simple_return)


@inlined
def log_return(before: float, after: float) -> float:
    """Rule 7.6, `log_return`."""
    return math.log(max(after / before, _LEAST_RATIO))


@inlined
def differential_sharpe(i: int, simple_return: float, moments: F64, eta: float) -> float:
    """Rule 7.7: Moody & Saffell (2001), eq. 11; updates row ``i`` of ``moments`` (A, V)."""
    mean, variance = moments[i, 0], moments[i, 1]
    change = simple_return - mean
    moments[i, 0] = mean + eta * change
    moments[i, 1] = (1.0 - eta) * (variance + eta * change * change)
    if variance <= _LEAST_VARIANCE * (1.0 + mean * mean + variance):
        return 0.0
    sharpe: float = (variance * change + 0.5 * mean * (variance - change * change)) / variance**1.5
    return sharpe


@inlined
def finished_reward(rules: Rules, base: float, turnover: float, drawdown: float) -> float:
    """Rule 7.6: penalties and scaling."""
    penalty = rules.turnover_penalty * turnover + rules.drawdown_penalty * drawdown
    return (base - penalty) * rules.reward_scaling
