"""Rule 7 of docs/accounting.md, and the ratios against numpy and quantstats on the same returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchenv.config import RewardConfig
from batchenv.errors import ConfigError
from batchenv.rewards import RewardStep, register_reward
from stateful.rewards import Reward, make_reward

Floats = npt.NDArray[np.float64]
YEAR = 252.0
RATE = 0.02
PER_BAR = 1.02 ** (1 / 252) - 1


def reward(kind: str, scaling: float = 1.0, **kwargs: Any) -> Reward:
    made = make_reward(RewardConfig(type=kind, reward_scaling=scaling, kwargs=kwargs), YEAR)
    made.reset(100.0)
    return made


def step(before: float, after: float, peak: float | None = None, turnover: float = 0.0) -> RewardStep:
    return RewardStep(before, after, max(before, after) if peak is None else peak, turnover, 0.0)


def play(made: Reward, returns: Floats) -> list[float]:
    """Feed an account of 100 that makes ``returns``; return its rewards."""
    equity = 100.0 * np.concatenate([[1.0], np.cumprod(1 + returns)])
    peaks = np.maximum.accumulate(equity)
    return [made(step(*rows)) for rows in zip(equity.tolist(), equity[1:].tolist(), peaks[1:].tolist(), strict=False)]


def random_returns(n: int = 300, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_t(3, n) * 0.01


# --- 7.6 and 7.7 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value"),
    [("fast_profit_reward", math.tanh(2.0)), ("simple_return", 0.02), ("log_return", math.log(1.02))],
)
def test_7_6_rewards_of_one_step(kind: str, value: float) -> None:
    assert reward(kind)(step(100.0, 102.0)) == pytest.approx(value, rel=1e-12)
    assert reward(kind, scaling=1e4)(step(100.0, 102.0)) == pytest.approx(1e4 * value, rel=1e-12)


def test_7_6_penalties_are_subtracted_before_the_scaling() -> None:
    made = reward("simple_return", scaling=10.0, turnover_penalty=0.5, drawdown_penalty=2.0)
    value = made(step(100.0, 90.0, peak=120.0, turnover=0.3))
    assert value == pytest.approx(10 * (-0.1 - 0.5 * 0.3 - 2.0 * 0.25))


@pytest.mark.parametrize("left", [0.0, -5.0])
def test_7_6_the_logarithm_of_nothing(left: float) -> None:
    assert reward("log_return")(step(100.0, left)) == math.log(1e-8)


def test_7_7_differential_sharpe_by_hand() -> None:
    made = reward("differential_sharpe", eta=0.5)
    assert made(step(100.0, 110.0)) == 0.0  # V = 0 at the start
    # A = 0.05, B = 0.005, V = 0.0025; r = -0.1
    expected = (0.005 * (-0.1 - 0.05) - 0.5 * 0.05 * (0.01 - 0.005)) / 0.0025**1.5
    assert made(step(100.0, 90.0)) == pytest.approx(expected)


def test_7_7_differential_sharpe_is_the_change_of_the_exponential_sharpe_ratio() -> None:
    # D is the derivative of A / sqrt(B - A^2) by eta; so eta * D is its change, to first order.
    eta, returns = 1e-6, random_returns(50)
    first, second = 0.001, 0.0004
    made: Any = reward("differential_sharpe", eta=eta)
    made._value._mean, made._value._variance = first, second - first**2
    value = made(step(1.0, 1.0 + float(returns[0])))
    after = (first + eta * (returns[0] - first), second + eta * (returns[0] ** 2 - second))
    change = after[0] / math.sqrt(after[1] - after[0] ** 2) - first / math.sqrt(second - first**2)
    assert value == pytest.approx(change / eta, rel=1e-4)


@pytest.mark.parametrize("kind", ["differential_sharpe", "sharpe_ratio", "sortino_ratio", "calmar_ratio"])
def test_reset_forgets_the_episode_before(kind: str) -> None:
    made, returns = reward(kind), random_returns(30)
    once = play(made, returns)
    made.reset(100.0)
    assert play(made, returns) == once
    assert len(set(once)) > 20


# --- ratios -------------------------------------------------------------------------------------------------


def sharpe(returns: Floats, rate: float) -> float:
    deviation = returns.std(ddof=1)
    return float((returns - rate).mean() / deviation * math.sqrt(YEAR)) if deviation > 1e-12 else 0.0


def sortino(returns: Floats, rate: float) -> float:
    excess = returns - rate
    downside = math.sqrt((np.minimum(excess, 0) ** 2).mean())
    return float(excess.mean() / downside * math.sqrt(YEAR)) if downside > 1e-12 else 0.0


def calmar(returns: Floats, rate: float) -> float:
    equity = np.concatenate([[1.0], np.cumprod(1 + returns)])
    drawdown = float((1 - equity / np.maximum.accumulate(equity)).max())
    return float((equity[-1] ** (YEAR / len(returns)) - 1) / drawdown) if drawdown > 1e-12 else 0.0


RATIOS: list[tuple[str, Callable[[Floats, float], float], dict[str, Any]]] = [
    ("sharpe_ratio", sharpe, {"risk_free_rate": RATE}),
    ("sortino_ratio", sortino, {"risk_free_rate": RATE}),
    ("calmar_ratio", calmar, {}),
]
each_ratio = pytest.mark.parametrize(("kind", "formula", "kwargs"), RATIOS, ids=[name for name, *_ in RATIOS])


@each_ratio
@pytest.mark.parametrize("window", [None, 2, 5, 60, 300])
def test_ratios_equal_their_formulas_at_every_step(
    kind: str, formula: Callable[[Floats, float], float], kwargs: dict[str, Any], window: int | None
) -> None:
    returns = random_returns()
    rewards = play(reward(kind, **kwargs, window=window), returns)
    assert rewards[0] == 0.0
    for n in range(2, len(returns) + 1):
        seen = returns[max(0, n - window) if window else 0 : n]
        assert rewards[n - 1] == pytest.approx(formula(seen, PER_BAR), rel=1e-9, abs=1e-9), n


def test_ratios_equal_quantstats() -> None:
    import pandas as pd
    import quantstats

    returns = random_returns(500)
    series = pd.Series(returns, index=pd.bdate_range("2020-01-01", periods=500))
    ratios = quantstats.stats
    last = {kind: play(reward(kind, **kwargs), returns)[-1] for kind, _, kwargs in RATIOS}
    assert last["sharpe_ratio"] == pytest.approx(ratios.sharpe(series, rf=RATE, periods=252), rel=1e-10)
    assert last["sortino_ratio"] == pytest.approx(ratios.sortino(series, rf=RATE, periods=252), rel=1e-10)
    drawdown = ratios.max_drawdown(series)
    assert last["calmar_ratio"] * -drawdown == pytest.approx(np.prod(1 + returns) ** (252 / 500) - 1, rel=1e-10)


@each_ratio
def test_ratios_are_scaled(kind: str, formula: Callable[[Floats, float], float], kwargs: dict[str, Any]) -> None:
    returns = random_returns(20)
    plain, scaled = play(reward(kind, **kwargs), returns), play(reward(kind, 1e6, **kwargs), returns)
    assert scaled == pytest.approx(np.multiply(plain, 1e6).tolist())


@pytest.mark.parametrize("kind", ["sharpe_ratio", "calmar_ratio"])
@pytest.mark.parametrize("value", [0.0, 0.001])
@pytest.mark.parametrize("window", [None, 4])
def test_without_deviation_or_drawdown_a_ratio_is_zero(kind: str, value: float, window: int | None) -> None:
    # 100 * 1.001**n rounds, so the returns differ in their last digits; that is no deviation.
    assert play(reward(kind, window=window), np.full(50, value)) == [0.0] * 50


def test_sortino_without_a_loss_is_zero_and_of_idle_cash_is_minus_root_periods() -> None:
    assert play(reward("sortino_ratio"), np.full(5, 0.01)) == [0.0] * 5
    idle = play(reward("sortino_ratio", risk_free_rate=RATE), np.zeros(5))
    assert idle[1:] == pytest.approx([-math.sqrt(YEAR)] * 4)


@each_ratio
def test_a_huge_return_leaves_nothing_behind_in_the_window(
    kind: str, formula: Callable[[Floats, float], float], kwargs: dict[str, Any]
) -> None:
    returns = random_returns(40)
    returns[3] = 1e6
    rewards = play(reward(kind, **kwargs, window=10), returns)
    assert rewards[-1] == pytest.approx(formula(returns[-10:], PER_BAR), rel=1e-9)


def test_calmar_of_a_total_loss_and_of_a_wild_start_are_finite() -> None:
    assert play(reward("calmar_ratio"), np.array([0.1, -1.0]))[-1] == -1.0
    assert math.isfinite(play(reward("calmar_ratio"), np.array([-0.5, 1e6]))[-1])


@given(st.lists(st.integers(-500, 500), min_size=2, max_size=30), st.integers(2, 8))
def test_a_window_sees_its_last_returns_only(thousandths: list[int], window: int) -> None:
    returns = np.array(thousandths) / 1000
    for kind, formula, kwargs in RATIOS:
        got = play(reward(kind, **kwargs, window=window), returns)[-1]
        assert got == pytest.approx(formula(returns[-window:], PER_BAR), rel=1e-7, abs=1e-7)


# --- a user's own -------------------------------------------------------------------------------------------


def test_7_4_a_registered_reward_gets_the_step_and_its_settings() -> None:
    seen: list[RewardStep] = []

    def mine(step: RewardStep, bonus: float = 0.0) -> Any:
        seen.append(step)
        return np.log(step.equity_after / step.equity_before) + bonus

    register_reward("test_stateful_mine", mine, replace=True)
    made = reward("test_stateful_mine", scaling=2.0, bonus=0.5, turnover_penalty=1.0)
    given_step = RewardStep(100.0, 110.0, 115.0, 0.25, 3.0)
    value = made(given_step)
    assert type(value) is float
    assert value == pytest.approx(2 * (math.log(1.1) + 0.5 - 0.25))
    assert seen == [given_step]


def test_7_4_settings_that_a_registered_reward_does_not_take_are_refused() -> None:
    register_reward("test_stateful_strict", lambda step, bonus: bonus, replace=True)
    with pytest.raises(ConfigError, match=r"kwargs\.bonsu: got 1.*did you mean 'bonus'"):
        reward("test_stateful_strict", bonsu=1)
    with pytest.raises(ConfigError, match=r"cannot take.*missing.*bonus"):
        reward("test_stateful_strict")
    register_reward("test_stateful_loose", lambda step, **anything: anything["x"], replace=True)
    assert reward("test_stateful_loose", x=3)(step(1.0, 1.0)) == 3.0


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        (
            "sharp_ratio",
            {},
            "type: got 'sharp_ratio' .did you mean 'sharpe_ratio'.*expected one of: fast_profit",
        ),
        ("log_return", {"eta": 0.1}, r"kwargs\.eta: got 0.1.*expected one of: turnover_penalty"),
        ("log_return", {"turnover_penaltie": 1}, "did you mean 'turnover_penalty'"),
        (
            "log_return",
            {"turnover_penalty": "1"},
            r"kwargs\.turnover_penalty: got '1', expected a number >= 0",
        ),
        ("log_return", {"drawdown_penalty": -1.0}, r"drawdown_penalty: got -1.0, expected a number >= 0"),
        ("log_return", {"drawdown_penalty": math.inf}, "got inf"),
        ("differential_sharpe", {"eta": 0}, "eta: got 0, expected a number > 0 and <= 1"),
        ("differential_sharpe", {"eta": True}, "eta: got True"),
        ("sharpe_ratio", {"risk_free": 0.1}, "did you mean 'risk_free_rate'"),
        ("sharpe_ratio", {"risk_free_rate": None}, "risk_free_rate: got None, expected a number > -1"),
        ("sharpe_ratio", {"turnover_penalty": 0.1}, "expected one of: risk_free_rate, window"),
        ("sortino_ratio", {"window": 1}, "window: got 1, expected an integer >= 2"),
        ("sortino_ratio", {"window": 2.0}, "window: got 2.0"),
        ("calmar_ratio", {"risk_free_rate": 0.1}, "expected one of: window"),
    ],
)
def test_mistakes_are_named(kind: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reward(kind, **kwargs)
