"""Examples of ``docs/accounting.md`` that are no matter of money, in both tiers; the others are in `test_exact`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import BatchTradingEnv, FastTrainingEnv, MarketData
from batchenv.episodes import draw
from batchenv.errors import MarketDataError
from batchenv.features import FeatureScaler
from batchenv.rewards import register_reward
from stateful import StatefulTradingEnv

TEXT = Path(__file__).parents[2] / "docs" / "accounting.md"
TIERS = {"stateful": StatefulTradingEnv, "kernel": FastTrainingEnv}
SHARE = np.float32(1 / 128)
"""The action that orders one share."""


def bars(prices: list[Any]) -> MarketData:
    """Return a market of symbol A: one price for all four of a bar, or (open, high, low, close)."""
    rows = [price if isinstance(price, tuple) else (price,) * 4 for price in prices]
    frame = pd.DataFrame(rows, columns=["open", "high", "low", "close"])
    dates = pd.bdate_range("2024-01-01", periods=len(rows))
    return MarketData.from_frame(frame.assign(date=dates, symbol="A", volume=1e6))


def rules(cash: float = 1_000.0, **sections: Any) -> dict[str, Any]:
    """Return rules without costs, for orders in shares."""
    return {
        "feature_scaling": "none",
        "portfolio_config": {"initial_cash": cash},
        "cost_config": {"fee_rate": 0.0, "slippage_rate": 0.0},
        "action_config": {"mode": "shares", "max_shares": 128.0},
        **sections,
    }


def orders(*shares: float) -> np.ndarray:
    return np.array(shares, np.float32) * SHARE


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> Any:
    return TIERS[request.param]


def sections() -> Mapping[str, str]:
    """Return the text of every rule, by number."""
    text = TEXT.read_text(encoding="utf-8")
    starts = [*re.finditer(r"^\*\*(\d\.\d)[ *]", text, re.M), re.search(r"\Z", text)]
    return {a[1]: text[a.start() : b.start()] for a, b in pairwise(starts)}


def test_every_rule_has_an_example_in_numbers() -> None:
    found = sections()
    assert len(found) == 42
    for number, text in found.items():
        examples = re.findall(r"^> \*Example.*?(?=^[^>]|\Z)", text, re.M | re.S)
        assert examples and all(re.search(r"\d", example) for example in examples), f"rule {number}"


def test_6_4_and_7_5_the_account_as_observed(tier: Any) -> None:
    config = rules(950.0, observation_config={"unrealized_pnl": True, "time_left": True})
    own = {"episode_start": 1, "episode_length": 10}
    env = tier(bars([100.0, 100.0, 100.0, *[110.0] * 9]), config, lane_parameters=own)
    observation, _ = env.reset()
    assert (env.bar, env.cash, env.equity, env.holdings.tolist()) == (1, 950.0, 950.0, [0.0])
    assert observation.tolist() == [0.0, 1.0, 0.0, 1.0]
    env.step(orders(5))
    observation, *_ = env.step(orders(0))
    assert (env.bar, env.cash, env.equity) == (3, 450.0, 1_000.0)
    np.testing.assert_allclose(observation, [0.55, 0.45, 0.1, 0.8], rtol=1e-6)


@pytest.mark.parametrize(("last", "weight"), [(0.9e-11, 0.0), (1.1e-11, 1.0)])
def test_6_4_what_is_left_by_rounding_has_no_weights(tier: Any, last: float, weight: float) -> None:
    """A sign that only rounding decides would turn a weight of 10 into one of 0."""
    env = tier(bars([10.0, 10.0, last, last]), rules(1_000.0))
    env.reset()
    env.step(orders(100))
    observation, _, terminated, _, _ = env.step(orders(0))
    assert (observation.tolist(), terminated) == ([weight, 0.0], weight == 0.0)


def test_6_6_a_scaled_return(tier: Any) -> None:
    scaler = FeatureScaler(("return_1",), (0.02,), (0.04,))
    config = rules(features=["return_1"], feature_scaling="standard")
    env = tier(bars([100.0, 110.0, 110.0]), config, scaler=scaler)
    observation, _ = env.reset(options={"start": 1})
    assert observation[0] == pytest.approx(2.0, rel=1e-6)


def test_7_1_and_7_2_ends(tier: Any) -> None:
    falling = rules(portfolio_config={"initial_cash": 1_000.0, "bankruptcy_fraction": 0.5})
    for low, ends in ((50.1, False), (50.0, True)):
        env = tier(bars([100.0, 100.0, low, low]), falling)
        env.reset()
        env.step(orders(10))
        _, _, terminated, truncated, info = env.step(orders(0))
        assert (terminated, truncated, info["equity"]) == (ends, False, pytest.approx(10 * low))
    env = tier(bars([100.0] * 5), rules(episode_config={"length": 2}))
    env.reset()
    assert [env.step(orders(0))[2:4] for _ in range(2)] == [(False, False), (False, True)]


def hundred() -> MarketData:
    return bars([100.0 + k % 7 for k in range(100)])


def starts_and_ends(config: dict[str, Any], **own: Any) -> set[tuple[int, int]]:
    env = BatchTradingEnv(hundred(), config, n_envs=2_000, seed=0, lane_parameters=own or None)
    env.reset()
    lanes = env._engine.lanes
    return set(zip(lanes.start.tolist(), lanes.end.tolist(), strict=True))


def test_7_3_and_8_3_where_episodes_begin_and_end() -> None:
    late = rules(features=["momentum_20"])
    ten = late | {"episode_config": {"length": 10, "random_start": True}}
    assert starts_and_ends(ten) == {(start, start + 10) for start in range(20, 90)}
    whole = late | {"episode_config": {"random_start": True}}
    assert starts_and_ends(whole) == {(start, 99) for start in range(20, 99)}
    assert starts_and_ends(ten, episode_length=30) == {(start, start + 30) for start in range(20, 70)}
    assert starts_and_ends(rules(), episode_start=5, episode_length=10) == {(5, 15)}
    nothing_seen = rules() | {"episode_config": {"length": 10, "random_start": True}}
    assert starts_and_ends(nothing_seen) == {(start, start + 10) for start in range(90)}
    with pytest.raises(MarketDataError, match="history too short"):
        starts_and_ends(late | {"episode_config": {"length": 80}})


def test_7_4_the_hash_as_the_text_has_it(tier: Any) -> None:
    """Written again from the text, with integers that have no limit."""

    def by_the_text(*arguments: int) -> int:
        z, mask = 0x6A09E667, 2**32 - 1
        for w in (half for argument in arguments for half in (argument & mask, argument >> 32)):
            z = ((z ^ w) + 0x1E3779B9) & mask
            z = (z ^ (z >> 16)) * 0x21F0AAAD & mask
            z = (z ^ (z >> 15)) * 0x735A2D97 & mask
            z = z ^ (z >> 15)
        return z

    assert (by_the_text(0, 0, 0, 0), by_the_text(7, 3, 2, 0)) == (3_324_898_627, 3_025_686_036)
    for arguments in ((0, 0, 0, 0), (7, 3, 2, 0), (2**40 + 5, 4095, 10**6, 6)):
        assert draw(*arguments) == by_the_text(*arguments)
    for cut, end in ((False, 84), (True, 77)):
        episodes = {"length": 10, "random_start": True, "desynchronize": cut}
        env = tier(hundred(), rules(features=["momentum_20"], episode_config=episodes), seed=0)
        env.reset(seed=0)
        assert env.bar == 74
        while not env.step(np.zeros(env.action_space.shape, np.float32))[3]:
            pass
        assert env.bar == end
    assert by_the_text(0, 0, 0, 64) == draw(0, 0, 0, 64) == 1_185_154_697


REWARDS = {"simple_return": 0.01, "log_return": 0.00995033, "fast_profit_reward": 0.76159416}


def step_of_7_6(tier: Any, **reward: Any) -> float:
    """Return the reward of a step from 1 000 to 1 010 with a peak of 1 100 and a turnover of 0.5."""
    env = tier(bars([220.0, 220.0, 200.0, (200.0, 204.0, 200.0, 204.0)]), rules(1_100.0, reward_config=reward))
    env.reset()
    env.step(orders(5))
    env.step(orders(0))
    assert env.equity == 1_000.0
    _, value, *_ = env.step(orders(-2.5))
    assert env.equity == 1_010.0
    return float(value)


def test_7_6_rewards_of_a_step(tier: Any) -> None:
    for name, value in REWARDS.items():
        assert step_of_7_6(tier, type=name) == pytest.approx(value, rel=1e-6)
    penalties = {"turnover_penalty": 0.1, "drawdown_penalty": 0.2}
    assert step_of_7_6(tier, type="simple_return", kwargs=penalties) == pytest.approx(-0.056364, abs=5e-7)
    scaled = step_of_7_6(tier, type="simple_return", kwargs=penalties, reward_scaling=100.0)
    assert scaled == pytest.approx(-5.6364, abs=5e-5)


def test_7_7_differential_sharpe(tier: Any) -> None:
    reward = {"type": "differential_sharpe", "kwargs": {"eta": 0.5}}
    config = rules(12_800.0, reward_config=reward, fill="close")
    env = tier(bars([100.0, 102.0, 102.0 * 0.99, 100.0]), config)
    env.reset()
    assert [env.step(orders(shares))[1] for shares in (128, 0)] == [0.0, pytest.approx(-3.5, rel=1e-9)]


def test_7_7_constant_returns_give_nothing_once_rounding_decides(tier: Any) -> None:
    """The last digits of a return differ from tier to tier; they must not decide whether there is a variance."""
    reward = {"type": "differential_sharpe", "kwargs": {"eta": 0.5}}
    config = rules(12_800.0, reward_config=reward, fill="close")
    env = tier(bars([100.0 * 1.02**k for k in range(60)]), config)
    env.reset()
    rewards = [env.step(orders(128 if k == 0 else 0))[1] for k in range(59)]
    exactly = [0.0] + [0.5 / math.sqrt(2.0**-n * (1 - 2.0**-n)) for n in range(1, 29)]
    assert rewards[:29] == pytest.approx(exactly, rel=1e-9)
    assert rewards[28] == pytest.approx(8192.00, abs=5e-3)
    assert rewards[29:] == [0.0] * 30


def test_7_7_the_variance_that_is_rounding_grows_with_the_returns(tier: Any) -> None:
    """A return of 100 leaves a mean square of 10 000, whose last digit is more than 1e-12."""
    reward = {"type": "differential_sharpe", "kwargs": {"eta": 0.7}}
    config = rules(1_280.0, reward_config=reward, fill="close")
    env = tier(bars([10.0 * 101.0**k for k in range(60)]), config)
    env.reset()
    rewards = [env.step(orders(128 if k == 0 else 0))[1] for k in range(59)]
    left = [0.3**n for n in range(59)]
    known = [n for n in range(1, 59) if left[n] * (1 - left[n]) > 1e-12 * (1e-4 + 1 - left[n])]
    exactly = [0.0] + [0.5 / math.sqrt(left[n] * (1 - left[n])) for n in known]
    assert rewards[: len(exactly)] == pytest.approx(exactly, rel=1e-9)
    assert rewards[len(exactly) :] == [0.0] * (59 - len(exactly)) and len(exactly) == 23


def test_7_8_a_year_of_business_days() -> None:
    closes = [100.0] * 36
    for change in (1.03, 0.99, 1.03, 0.99):
        closes.append(closes[-1] * change)
    config = rules(reward_config={"type": "sharpe_ratio"}, episode_config={"length": 4}, fill="close")
    env = StatefulTradingEnv(bars(closes), config | {"action_config": {"mode": "weights"}})
    env.reset(options={"start": 35})
    assert [env.step(np.ones(1, np.float32))[1] for _ in range(4)][-1] == pytest.approx(6.8739, abs=5e-5)
    assert math.sqrt(3) / 4 * math.sqrt(252) == pytest.approx(6.8739, abs=5e-5)


def test_7_9_a_reward_of_ones_own(tier: Any) -> None:
    register_reward("profit", lambda step: step.equity_after - step.equity_before, replace=True)
    penalties = {"turnover_penalty": 0.1, "drawdown_penalty": 0.2}
    assert step_of_7_6(tier, type="profit") == pytest.approx(10.0, rel=1e-9)
    assert step_of_7_6(tier, type="profit", kwargs=penalties) == pytest.approx(9.933636, abs=5e-7)


def test_8_1_a_fee_of_ones_own(tier: Any) -> None:
    market, config = bars([100.0] * 3), rules(2_000.0)
    batch = BatchTradingEnv(market, config, n_envs=2, lane_parameters={"fee_rate": [0.0, 0.01]})
    batch.reset()
    batch.step(np.tile(orders(10), (2, 1)))
    assert batch.cash.tolist() == [1_000.0, pytest.approx(990.0)]
    env = tier(market, config, lane_parameters={"fee_rate": [0.01]})
    env.reset()
    env.step(orders(10))
    assert env.cash == pytest.approx(990.0)
    own = {"fee_rate": [0.0, 0.01], "fee_minimum": [0.0, 25.0]}
    batch = BatchTradingEnv(market, config, n_envs=2, lane_parameters=own)
    batch.reset()
    batch.step(np.tile(orders(10), (2, 1)))
    assert batch.cash.tolist() == [1_000.0, pytest.approx(975.0)]
    env = tier(market, config, lane_parameters={"fee_rate": [0.01], "fee_minimum": 25.0})
    env.reset()
    env.step(orders(10))
    assert env.cash == pytest.approx(975.0)


def test_8_2_a_fee_that_is_drawn(tier: Any) -> None:
    env = tier(bars([100.0] * 3), rules(2_000.0, randomization={"fee_rate": [0.0, 0.01]}), seed=0)
    env.reset(seed=0)
    env.step(orders(10))
    assert draw(0, 0, 0, 1) == 1_409_454_449
    assert env.cash == pytest.approx(1_000.0 - 1_000.0 * 0.00328164, abs=1e-5)


def test_8_2_symbols_that_are_drawn(tier: Any) -> None:
    market = MarketData.from_frame(pd.DataFrame(100.0, pd.bdate_range("2024-01-01", periods=4), list("ABC")))
    env = tier(market, rules(2_000.0, randomization={"tradable": [1, 2]}, fill="close"), seed=0)
    env.reset(seed=0)
    env.step(np.full(3, 0.01, np.float32))
    assert (env.holdings > 0).tolist() == [True, False, False]
    env.reset()
    env.step(np.full(3, 0.01, np.float32))
    assert (env.holdings > 0).tolist() == [False, True, True]
    assert [draw(0, 0, episode, 10) for episode in (0, 1)] == [683_114_514, 2_315_628_901]
    assert [draw(0, 0, 0, k) for k in (128, 129, 130)] == [838_078_472, 4_039_059_467, 3_344_553_831]
    assert [draw(0, 0, 1, k) for k in (128, 129, 130)] == [2_609_196_789, 1_323_726_962, 2_143_266_898]
