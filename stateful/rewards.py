"""Rewards: rule 7 of ``docs/accounting.md`` for one account, and ratios of the whole episode so far.

`make_reward` is the way in. Every reward is a function of the step and of a small state; none reads the
history.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from batchenv.config import RewardConfig
from batchenv.errors import ConfigError, did_you_mean
from batchenv.rewards import (
    EVALUATION_REWARDS,
    TRAINING_REWARDS,
    RewardFunction,
    RewardStep,
    registered_reward,
    registered_rewards,
    reward_hint,
)
from stateful.ratios import RatioReward, calmar, sharpe, sortino

_SMALLEST_RATIO = 1e-8
"""What equity[t+1] / equity[t] counts as at least in a logarithm (rule 7.6)."""

_SMALLEST_VARIANCE = 1e-12
"""Up to this multiple of 1 + B a variance is rounding, and the differential Sharpe ratio is 0 (rule 7.7)."""

_PENALTIES = ("turnover_penalty", "drawdown_penalty")


class Reward(Protocol):
    """A reward of one account."""

    def reset(self, initial_equity: float) -> None:
        """Begin an episode that starts with ``initial_equity``, in money."""

    def __call__(self, step: RewardStep) -> float:
        """Return the reward of the step, scaled."""


class StepValue(Protocol):
    """The value of a step before penalties and scaling, with whatever state it needs."""

    def reset(self) -> None:
        """Forget the steps so far."""

    def __call__(self, step: RewardStep) -> float:
        """Return the value of the step."""


def make_reward(config: RewardConfig, periods_per_year: float | None) -> Reward:
    """Build the reward that a configuration describes.

    Args:
        config: Type, factor and settings. The training types and registered rewards take ``turnover_penalty``
            and ``drawdown_penalty``; ``differential_sharpe`` takes ``eta``; the three ratios take ``window``
            (bars, None for all so far) and, but for ``calmar_ratio``, ``risk_free_rate`` (yearly).
        periods_per_year: Bars in a year, for the ratios; 252 for daily bars. None where they are not known.

    Raises:
        ConfigError: The type or a key of ``kwargs`` is unknown, or a value is out of range; or the type is one of the
            ratios, and the number of bars in a year is not known.
    """
    if config.type in EVALUATION_REWARDS:
        return _make_ratio(config, periods_per_year)
    kwargs = dict(config.kwargs)
    turnover = _number(kwargs, "turnover_penalty", 0.0, 0.0)
    drawdown = _number(kwargs, "drawdown_penalty", 0.0, 0.0)
    own = {key: value for key, value in kwargs.items() if key not in _PENALTIES}
    return StepReward(_make_value(config.type, own), config.reward_scaling, turnover, drawdown)


def _make_value(kind: str, kwargs: dict[str, Any]) -> StepValue:
    function = registered_reward(kind)
    if function is not None:
        _check_call(kind, function, kwargs)
        return Stateless(partial(function, **kwargs))
    if kind not in TRAINING_REWARDS:
        known = TRAINING_REWARDS + EVALUATION_REWARDS + registered_rewards()
        hint = reward_hint(kind, known)
        raise ConfigError(f"reward_config.type: got {kind!r}{hint}; expected one of: {', '.join(known)}")
    if kind == "differential_sharpe":
        _check_keys(kind, kwargs, ("eta", *_PENALTIES))
        return DifferentialSharpe(_number(kwargs, "eta", 0.01, 0.0, 1.0, lowest_excluded=True))
    _check_keys(kind, kwargs, _PENALTIES)
    return Stateless(_STATELESS[kind])


def _make_ratio(config: RewardConfig, periods_per_year: float | None) -> Reward:
    kind, kwargs = config.type, config.kwargs
    if periods_per_year is None:
        raise ConfigError(
            f"reward_config.type: {kind!r} is a ratio per year, and these bars do not tell how many a year has; "
            "expected data.periods_per_year (periods_per_year= where the market is made in Python), or another reward"
        )
    _check_keys(kind, kwargs, ("window",) if kind == "calmar_ratio" else ("risk_free_rate", "window"))
    window = kwargs.get("window")
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 2):
        raise ConfigError(f"reward_config.kwargs.window: got {window!r}, expected an integer >= 2 (bars), or null")
    yearly = _number(kwargs, "risk_free_rate", 0.0, -1.0, lowest_excluded=True)
    per_bar = (1.0 + yearly) ** (1.0 / periods_per_year) - 1.0
    ratio = {"sharpe_ratio": sharpe, "sortino_ratio": sortino, "calmar_ratio": calmar}[kind]
    return RatioReward(ratio, config.reward_scaling, periods_per_year, per_bar, window)


# --- one step (rule 7.6) ------------------------------------------------------------------------------------


def fast_profit(step: RewardStep) -> float:
    """tanh(100 r)."""
    return math.tanh(100.0 * simple_return(step))


def simple_return(step: RewardStep) -> float:
    """Equity[t+1] / equity[t] - 1."""
    return float(step.equity_after / step.equity_before - 1.0)


def log_return(step: RewardStep) -> float:
    """ln(equity[t+1] / equity[t]), the ratio at least 1e-8."""
    ratio = max(step.equity_after / step.equity_before, _SMALLEST_RATIO)
    return math.log(ratio)


_STATELESS: dict[str, Callable[[RewardStep], float]] = {
    "fast_profit_reward": fast_profit,
    "simple_return": simple_return,
    "log_return": log_return,
}


class Stateless:
    """A value that depends on its own step only."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[RewardStep], float]) -> None:
        """Wrap ``function``."""
        self._function = function

    def reset(self) -> None:
        """Nothing to forget."""

    def __call__(self, step: RewardStep) -> float:
        """Return the value of the step."""
        return float(self._function(step))


class DifferentialSharpe:
    """The differential Sharpe ratio (rule 7.7; Moody & Saffell 2001)."""

    __slots__ = ("_eta", "_mean", "_variance")

    def __init__(self, eta: float) -> None:
        """Take the decay ``eta`` of the moments."""
        self._eta = eta
        self.reset()

    def reset(self) -> None:
        """Start with mean A and variance V at 0."""
        self._mean = self._variance = 0.0

    def __call__(self, step: RewardStep) -> float:
        """Return D of the step, then move the moments."""
        a, v = self._mean, self._variance
        d = simple_return(step) - a
        value = 0.0
        if v > _SMALLEST_VARIANCE * (1.0 + v + a * a):
            value = (v * d + 0.5 * a * (v - d * d)) / v**1.5
        self._mean = a + self._eta * d
        self._variance = (1.0 - self._eta) * (v + self._eta * d * d)
        return value


class StepReward:
    """Value, less the penalties, times the scaling (rule 7.6)."""

    __slots__ = ("_drawdown_penalty", "_scaling", "_turnover_penalty", "_value")

    def __init__(self, value: StepValue, scaling: float, turnover_penalty: float, drawdown_penalty: float) -> None:
        """Put the parts together."""
        self._value = value
        self._scaling = scaling
        self._turnover_penalty = turnover_penalty
        self._drawdown_penalty = drawdown_penalty

    def reset(self, initial_equity: float) -> None:
        """Begin an episode; the peak comes with each step."""
        self._value.reset()

    def __call__(self, step: RewardStep) -> float:
        """Return the reward of the step."""
        drawdown = 1.0 - step.equity_after / step.peak_equity
        penalty = self._turnover_penalty * step.turnover + self._drawdown_penalty * drawdown
        return float((self._value(step) - penalty) * self._scaling)


# --- checks -------------------------------------------------------------------------------------------------


def _check_keys(kind: str, kwargs: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key, value in kwargs.items():
        if key not in known:
            raise ConfigError(
                f"reward_config.kwargs.{key}: got {value!r}, but {kind!r} has no such setting"
                f"{did_you_mean(key, known)}; expected one of: {', '.join(known)}"
            )


def _check_call(kind: str, function: RewardFunction, kwargs: Mapping[str, Any]) -> None:
    """Refuse settings that a registered reward cannot be called with."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some compiled functions tell nothing about themselves
        return
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if not takes_any:
        _check_keys(kind, kwargs, (*list(signature.parameters)[1:], *_PENALTIES))
    try:
        signature.bind(None, **kwargs)
    except TypeError as error:
        raise ConfigError(f"reward_config.kwargs: {kind!r} cannot take {dict(kwargs)}: {error}") from None


def _number(
    kwargs: Mapping[str, Any],
    key: str,
    default: float,
    low: float,
    high: float = math.inf,
    *,
    lowest_excluded: bool = False,
) -> float:
    value = kwargs.get(key, default)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high or (lowest_excluded and value == low):
        bounds = f"{'>' if lowest_excluded else '>='} {low:g}"
        bounds += f" and <= {high:g}" if high < math.inf else ""
        raise ConfigError(f"reward_config.kwargs.{key}: got {value!r}, expected a number {bounds}")
    return float(value)
