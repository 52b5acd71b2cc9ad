"""Rules 2.4, 6.3, 6.4 and 7.1 of docs/accounting.md in margin accounts, and rule 8: lanes that differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from batchenv.episodes import draw
from batchenv.errors import ConfigError
from stateful import BackTesting, StatefulTradingEnv
from tests.markets import market
from tests.stateful.policies import RandomAgent
from tests.stateful.worlds import FREE, hand_made, settings, started

FOURFOLD = {"leverage": 4.0, "maintenance_margin": 0.1}
SHORT = {"allow_short": True, "leverage": 2.0}


# --- 2.4 and 6.3 --------------------------------------------------------------------------------------------

CRASH = [[100.0], [100.0], [82.0], [61.5], [61.5]]
CRASH_OPENS = [[100.0], [100.0], [100.0], [61.5], [61.5]]


def test_6_3_example_of_the_text() -> None:
    env = started(hand_made(CRASH, CRASH_OPENS), margin_config=FOURFOLD)
    env.step_orders([1000.0])
    assert (env.holdings[0], env.equity) == (40.0, 1000.0)
    *_, info = env.step_orders([0.0])
    assert (env.equity, info["margin_call"]) == (280.0, True)
    assert env.history["margin_call"].tolist() == [False, False, True]
    _, _, terminated, truncated, info = env.step_orders([100.0])  # ignored
    assert (env.equity, env.cash, env.holdings[0]) == (-540.0, -540.0, 0.0)
    assert (terminated, truncated, info["margin_call"]) == (True, False, False)
    assert env.fills["kind"].tolist() == ["order", "margin_call"]
    assert env.trades["reason"].tolist() == ["margin_call"]


@pytest.mark.parametrize("mode", ["trade", "weights", "shares"])
def test_2_4_an_action_is_ignored_too(mode: str) -> None:
    closes = [[100.0], [100.0], [82.0], [82.0], [82.0]]
    env = started(hand_made(closes), fill="close", margin_config=FOURFOLD, action_config={"mode": mode})
    env.step_orders([40.0])
    env.step_orders([0.0])
    env.step([1.0])
    assert (env.holdings[0], env.cash) == (0.0, 280.0)
    _, _, _, _, info = env.step([1.0])  # and the call is over
    assert not info["margin_call"]
    assert env.holdings[0] > 0


def test_2_4_a_bad_action_is_refused_all_the_same() -> None:
    env = started(hand_made(CRASH), fill="close", margin_config=FOURFOLD)
    env.step_orders([40.0])
    env.step_orders([0.0])
    with pytest.raises(ValueError, match="nan"):
        env.step([np.nan])
    assert env.bar == 2


def test_2_4_a_call_waits_while_the_symbol_has_no_bar_and_then_goes_by_the_latest_mark() -> None:
    closes = [[100.0], [82.0], [np.nan], [110.0], [110.0], [110.0]]
    env = started(hand_made(closes), fill="close", margin_config=FOURFOLD)
    env.step_orders([40.0])
    env.step_orders([0.0])  # bar 1: liquidation at the close of bar 1 is possible
    assert env.holdings[0] == 0.0
    later = started(hand_made([[100.0], [100.0], [82.0], [np.nan], [110.0], [110.0]]), fill="next_close",
                    margin_config=FOURFOLD)  # fmt: skip
    later.step_orders([40.0])
    later.step_orders([0.0])
    assert later.portfolio.margin_call
    later.step_orders([0.0])  # no bar at 3
    assert (later.holdings[0], later.portfolio.margin_call) == (40.0, True)
    later.step_orders([0.0])
    assert (later.holdings[0], later.cash) == (0.0, -3000.0 + 4400.0)


def test_2_4_liquidation_keeps_to_the_participation_limit() -> None:
    closes = [[100.0], [82.0], [82.0], [82.0]]
    data = hand_made(closes, volume=[[1e6], [1e6], [10.0], [10.0]])
    env = started(data, fill="next_close", margin_config=FOURFOLD, execution_config={"participation_limit": 0.5})
    env.step_orders([40.0])
    assert not env.portfolio.margin_call or env.equity > 0
    env = started(
        hand_made([[100.0], [100.0], [82.0], [82.0]], volume=[[1e6], [1e6], [10.0], [10.0]]),
        fill="next_close",
        margin_config=FOURFOLD,
        execution_config={"participation_limit": 0.5},
    )
    env.step_orders([40.0])
    env.step_orders([0.0])
    env.step_orders([0.0])
    assert env.holdings[0] == 35.0


@pytest.mark.parametrize("fill", ["next_open", "next_close"])
def test_2_4_a_call_before_a_split_still_closes_everything(fill: str) -> None:
    closes = [[100.0], [100.0], [82.0], [41.0], [41.0]]
    data = hand_made(closes, closes, splits=[[1.0], [1.0], [1.0], [2.0], [1.0]])
    env = started(data, fill=fill, margin_config=FOURFOLD)
    env.step_orders([40.0])
    env.step_orders([0.0])
    env.step_orders([0.0])
    assert (env.holdings[0], env.cash) == (0.0, 280.0)


def test_6_3_a_cash_account_has_no_margin_calls() -> None:
    closes = [[100.0], [1.0], [1.0]]
    env = started(hand_made(closes), fill="close", margin_config={"maintenance_margin": 1.0 - 1e-9})
    env.step_orders([10.0])
    assert env.equity == 10.0
    assert not env.portfolio.margin_call


# --- 6.4 and 7.1 --------------------------------------------------------------------------------------------


def test_6_4_the_observation_of_a_margin_account() -> None:
    data = hand_made([[10.0, 20.0], [11.0, 22.0], [10.0, 30.0]])
    env = started(data, fill="close", margin_config=SHORT, observation_config={"unrealized_pnl": True})
    observation, *_ = env.step_orders([50.0, -25.0])
    equity = 1000 + 50 - 50
    expected = [550 / equity, -550 / equity, 1000 / equity, 0.1, -0.1]
    np.testing.assert_allclose(observation, expected, rtol=1e-6)
    assert observation in env.observation_space


def test_6_4_weights_and_cash_are_limited() -> None:
    data = hand_made([[100.0], [97.6], [97.6]])
    env = started(data, fill="close", margin_config={"leverage": 40.0})
    observation, *_ = env.step_orders([400.0])  # equity 40 of 39 040
    assert env.equity == pytest.approx(40)
    assert observation.tolist() == [10.0, -10.0]
    assert observation in env.observation_space


def test_6_4_without_equity_there_are_no_weights() -> None:
    data = hand_made([[100.0], [90.0], [90.0]])
    env = started(data, fill="close", margin_config={"leverage": 40.0}, observation_config={"unrealized_pnl": True})
    observation, _, terminated, *_ = env.step_orders([400.0])
    assert terminated
    assert observation.tolist() == [0.0, 0.0, pytest.approx(-0.1)]
    assert env.history["weight[A]"].tolist() == [0.0, 0.0]


def test_7_1_an_account_can_end_below_nothing() -> None:
    data = hand_made([[100.0], [100.0], [210.0], [1.0]])
    env = started(data, fill="close", margin_config={"allow_short": True}, reward_config={"type": "log_return"})
    env.step_orders([-10.0])
    _, reward, terminated, *_ = env.step_orders([0.0])
    assert (terminated, env.equity, reward) == (True, -100.0, pytest.approx(np.log(1e-8)))
    assert env.trades["pnl"].tolist() == [-1100.0]


# --- 8 ------------------------------------------------------------------------------------------------------


def test_8_1_a_lane_has_its_own_parameters() -> None:
    data = hand_made([[10.0, 10.0]] * 5)
    own = {
        "fee_rate": np.array([[0.1, 0.2]]), "slippage_rate": 0.5, "initial_cash": 5000.0, "episode_start": 1,
        "episode_length": 2, "tradable": np.array([[True, False]]),
    }  # fmt: skip
    env = StatefulTradingEnv(data, settings(fill="close"), lane_parameters=own)
    env.reset()
    assert (env.cash, env.bar, env.end) == (5000.0, 1, 3)
    env.step_orders([10.0, 10.0])
    assert env.holdings.tolist() == [10.0, 0.0]
    (fill,) = env.fills.to_dict("records")
    assert (fill["price"], fill["fee"]) == (15.0, pytest.approx(15.0))
    assert env.step_orders([0.0, 0.0])[3] is True


def test_8_1_leverage_and_borrow_cost_of_a_lane() -> None:
    data = hand_made([[10.0], [10.0], [10.0]])
    margin = {"allow_short": True, "leverage": 2.0}
    own = {"leverage": 3.0, "borrow_rate": np.array([[0.365]])}
    env = started(data, fill="close", margin_config=margin, lane_parameters=own)
    env.step_orders([-1000.0])
    assert env.holdings[0] == pytest.approx(-300.0)
    assert env.statistics()["borrow"] == pytest.approx(-3000 * 0.001)
    weights = started(
        data,
        fill="close",
        margin_config=margin,
        lane_parameters=own,
        action_config={"mode": "weights", "max_weight": 9.0},
    )
    weights.step([1.0])
    assert weights.holdings[0] == pytest.approx(300.0)


def test_8_1_a_lane_ends_by_its_own_initial_cash() -> None:
    data = hand_made([[10.0], [10.0], [5.0], [5.0]])
    portfolio = {"initial_cash": 1000.0, "bankruptcy_fraction": 0.6, "maintain_history": True}
    env = started(data, fill="close", portfolio_config=portfolio, lane_parameters={"initial_cash": 100.0})
    assert env.step_orders([0.0])[2] is False
    assert env.step_orders([1000.0])[2] is True
    assert env.statistics()["total_return"] == -0.5


def test_8_1_wrong_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lane_parameters: unknown name 'fees'"):
        StatefulTradingEnv(market(), settings(), lane_parameters={"fees": 0.1})
    with pytest.raises(ConfigError, match="leverage"):
        StatefulTradingEnv(market(), settings(), lane_parameters={"leverage": 2.0})


def test_8_2_drawn_parameters_belong_to_lane_and_episode() -> None:
    config = settings(
        randomization={"initial_cash": [500.0, 1500.0], "episode_length": [5, 9], "fee_rate": [0.0, 0.1]},
        episode_config={"random_start": True},
    )
    env = StatefulTradingEnv(market(), config, seed=7)
    env.reset(options={"lane": 3, "episode": 2})
    assert env.cash == 500 + 1000 * draw(7, 3, 2, 5) / 2**32
    assert env.end - env.start == 5 + (draw(7, 3, 2, 6) * 5 >> 32)
    assert (env.portfolio.terms.fee_rate == 0.1 * draw(7, 3, 2, 1) / 2**32).all()
    env.reset()
    assert env.cash == 500 + 1000 * draw(7, 3, 3, 5) / 2**32


def play(env: StatefulTradingEnv) -> list[float]:
    while True:
        _, _, terminated, truncated, _ = env.step(np.sin(np.arange(4) + env.bar).astype(np.float32))
        if terminated or truncated:
            return list(env.history["equity"])


def test_8_2_an_episode_can_be_played_again_alone() -> None:
    drawn: dict[str, Any] = {"slippage_rate": [0.0, 0.02], "episode_length": [10, 30]}
    config = settings(randomization=drawn, episode_config={"random_start": True}, cost_config=FREE)
    whole = StatefulTradingEnv(market(), config, seed=1, lane=2)
    episodes = []
    for _ in range(4):
        whole.reset()
        episodes.append(play(whole))
    alone = StatefulTradingEnv(market(), config, seed=1)
    alone.reset(options={"lane": 2, "episode": 3})
    assert play(alone) == episodes[3]
    assert len({tuple(episode) for episode in episodes}) == 4


def test_a_backtest_keeps_the_lane_and_draws_nothing() -> None:
    config = settings(randomization={"slippage_rate": [0.0, 0.02], "episode_length": [10, 30]})
    own = {"fee_rate": 0.01, "initial_cash": 5000.0, "tradable": np.array([[True, False, True, True]])}
    env = StatefulTradingEnv(market(), config, seed=1, lane_parameters=own)
    results = BackTesting(RandomAgent(4), env, {"vectorbt": False}).run()
    assert results.metrics["initial_equity"] == 5000.0
    assert results.metrics["bars"] == market().n_bars - 1
    assert "B" not in set(results.fills["symbol"])
    np.testing.assert_allclose(results.fills["fee"], 0.01 * results.fills["notional"])
    assert results.fills["slippage"].eq(0).all()
    for history in results.baselines.values():
        assert history["equity"].iloc[0] == 5000.0
        assert history["shares[B]"].eq(0).all()
    assert results.baselines["buy_and_hold"]["shares[A]"].iloc[-1] > 0
