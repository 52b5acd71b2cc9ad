"""Training rewards, O(1) in the step. Rule 7 of ``docs/accounting.md``."""

from __future__ import annotations

import math

from batchenv.kernel.jit import inlined
from batchenv.kernel.state import DIFFERENTIAL_SHARPE, F64, FAST_PROFIT, LOG_RETURN, SIMPLE_RETURN, Rules

_LEAST_RATIO = 1e-8
_LEAST_VARIANCE = 1e-12


@inlined
def differential_sharpe(i: int, simple_return: float, moments: F64, eta: float) -> float:
    """Rule 7.2: Moody & Saffell (2001), eq. 11; updates row ``i`` of ``moments`` (A, B)."""
    first, second = moments[i, 0], moments[i, 1]
    variance = second - first * first
    change_first = simple_return - first
    change_second = simple_return * simple_return - second
    moments[i, 0] = first + eta * change_first
    moments[i, 1] = second + eta * change_second
    if variance <= _LEAST_VARIANCE:
        return 0.0
    sharpe: float = (second * change_first - 0.5 * first * change_second) / variance**1.5
    return sharpe


@inlined
def base_reward(i: int, rules: Rules, before: float, after: float, moments: F64) -> float:
    """Rule 7.1: the reward before penalties and scaling; 0 for a reward that Python computes afterwards."""
    simple_return = after / before - 1.0
    if rules.reward == FAST_PROFIT:
        return math.tanh(100.0 * simple_return)
    if rules.reward == LOG_RETURN:
        return math.log(max(after / before, _LEAST_RATIO))
    if rules.reward == SIMPLE_RETURN:
        return simple_return
    if rules.reward == DIFFERENTIAL_SHARPE:
        return differential_sharpe(i, simple_return, moments, rules.eta)
    return 0.0


@inlined
def finished_reward(rules: Rules, base: float, turnover: float, drawdown: float) -> float:
    """Rule 7.1: penalties and scaling."""
    penalty = rules.turnover_penalty * turnover + rules.drawdown_penalty * drawdown
    return (base - penalty) * rules.reward_scaling
