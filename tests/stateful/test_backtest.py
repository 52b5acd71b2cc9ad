from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces

from batchenv.errors import ConfigError, RunError
from batchenv.market import MarketData
from stateful import BackTesting, StatefulTradingEnv
from stateful.baselines import BuyAndHold, EqualWeight
from stateful.metrics import METRICS, drawdowns, missing_reason, performance_metrics
from tests.markets import market, ragged_market
from tests.stateful.policies import ConstantAgent, RandomAgent

QUIET = {"vectorbt": False}
FREE = {"fee_rate": 0.0, "slippage_rate": 0.0}


def run(bars, agent, config=None, backtest=None, **kwargs):
    env = StatefulTradingEnv(bars, config or {}, ["momentum_5"], seed=0)
    return BackTesting(agent, env, {**QUIET, **(backtest or {})}, **kwargs).run()


def account(equity, start="2020-01-01"):
    """Return history, fills and trades of an account that has only this equity."""
    index = pd.DatetimeIndex(pd.bdate_range(start, periods=len(equity)), name="timestamp")
    zero = np.zeros(len(equity))
    history = pd.DataFrame(
        {"equity": equity, "cash": equity, "reward": zero, "turnover": zero, "shares[A]": zero, "weight[A]": zero},
        index=index,
    )
    fills = pd.DataFrame({"fee": np.zeros(0), "slippage": np.zeros(0)})
    trades = pd.DataFrame({"pnl": np.zeros(0), "bars_held": np.zeros(0), "status": np.zeros(0, object)})
    return history, fills, trades


def measure(equity, risk_free_rate=0.0, periods=252.0):
    tables = account(np.asarray(equity, float))
    return performance_metrics(*tables, periods_per_year=periods, risk_free_rate=risk_free_rate)


# --- metrics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("risk_free_rate", [0.0, 0.03])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_agree_with_quantstats(seed, risk_free_rate):
    from quantstats import stats

    rng = np.random.default_rng(seed)
    equity = 1000 * np.cumprod(np.concatenate([[1.0], 1 + rng.normal(0.0005, 0.02, 400)]))
    found = measure(equity, risk_free_rate)
    returns = account(equity)[0]["equity"].pct_change().dropna()
    expected = {
        "total_return": stats.comp(returns),
        "cagr": stats.cagr(returns, periods=252),
        "volatility": stats.volatility(returns, periods=252),
        "sharpe": stats.sharpe(returns, rf=risk_free_rate, periods=252),
        "sortino": stats.sortino(returns, rf=risk_free_rate, periods=252),
        "calmar": stats.calmar(returns, periods=252),
        "max_drawdown": stats.max_drawdown(returns),
        "best_bar": stats.best(returns),
        "worst_bar": stats.worst(returns),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_metrics_agree_with_a_plain_loop():
    rng = np.random.default_rng(7)
    equity = list(500 * np.cumprod(1 + rng.normal(0, 0.03, 90)))
    found = measure(equity, risk_free_rate=0.05, periods=52.0)
    free = 1.05 ** (1 / 52) - 1
    excess = [b / a - 1 - free for a, b in pairwise(equity)]
    mean = sum(excess) / len(excess)
    spread = math.sqrt(sum((x - mean) ** 2 for x in excess) / (len(excess) - 1))
    below = math.sqrt(sum(x * x for x in excess if x < 0) / len(excess))
    deepest = min(e / max(equity[: i + 1]) - 1 for i, e in enumerate(equity))
    growth = (equity[-1] / equity[0]) ** (52 / len(excess)) - 1
    assert found["sharpe"] == pytest.approx(mean / spread * math.sqrt(52), rel=1e-12)
    assert found["sortino"] == pytest.approx(mean / below * math.sqrt(52), rel=1e-12)
    assert found["max_drawdown"] == pytest.approx(deepest, rel=1e-12)
    assert found["calmar"] == pytest.approx(growth / -deepest, rel=1e-12)
    assert found["hit_rate"] == sum(b > a for a, b in pairwise(equity)) / len(excess)


def test_drawdown_lengths_by_hand():
    #           peak        back     peak                      (last bar, never back)
    equity = [100, 90, 95, 100, 110, 108, 60, 70, 80, 90]
    found = measure(equity)
    assert found["max_drawdown"] == pytest.approx(60 / 110 - 1)
    assert found["max_drawdown_bars"] == 5  # bar 4 to bar 9, the last
    assert found["longest_drawdown_bars"] == 5
    found = measure([100, 50, 100, 99, 98, 97, 100])
    assert (found["max_drawdown_bars"], found["longest_drawdown_bars"]) == (2, 4)
    assert found["max_drawdown_date"] == "2020-01-02"


def test_drawdown_counts_a_fall_from_the_start():
    assert measure([100.0, 90.0, 95.0])["max_drawdown"] == pytest.approx(-0.1)
    assert drawdowns(np.array([2.0, 1.0, 4.0])).tolist() == [0.0, -0.5, 0.0]


@pytest.mark.parametrize("equity", [[100.0], [100.0, 101.0], [100.0] * 50, [100.0, 0.0], [100.0, 1e200]])
def test_what_cannot_be_had_is_none_with_a_reason(equity):
    found = measure(equity)
    json.dumps(found, allow_nan=False)
    for metric in METRICS:
        if found[metric.name] is None:
            assert missing_reason(metric, found).startswith("needs ")
    assert found["sharpe"] is None or len(equity) > 2


def test_profit_factor_and_holding_time_by_hand():
    history, fills, _ = account(np.array([100.0, 101.0, 102.0]))
    trades = pd.DataFrame(
        {
            "pnl": [30.0, -10.0, -5.0, 99.0],
            "bars_held": [2, 4, 6, 100],
            "status": ["closed", "closed", "closed", "open"],
        }
    )
    found = performance_metrics(history, fills, trades, periods_per_year=252)
    assert found["profit_factor"] == 2.0
    assert found["win_rate"] == pytest.approx(1 / 3)
    assert found["average_holding_bars"] == 4.0
    assert (found["closed_trades"], found["open_trades"]) == (3, 1)


# --- the run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["next_open", "next_close", "close"])
@pytest.mark.parametrize("bars", [market(1), ragged_market(2)], ids=["whole", "ragged"])
def test_tables_and_metrics_tell_one_story(bars, fill):
    results = run(bars, RandomAgent(4), {"fill": fill})
    metrics, history, fills = results.metrics, results.history, results.fills
    json.dumps(metrics, allow_nan=False)
    assert metrics["final_equity"] == history["equity"].iloc[-1] == results.equity.iloc[-1]
    assert metrics["bars"] == len(history) - 1 == history["bar"].iloc[-1] - history["bar"].iloc[0]
    assert metrics["costs"] == pytest.approx(history["costs"].sum(), rel=1e-12)
    assert metrics["fills"] == (fills["kind"] == "order").sum() >= len(fills) - 1  # D is delisted
    # Every gain and loss is in the trade list.
    assert results.trades["pnl"].sum() == pytest.approx(metrics["final_equity"] - metrics["initial_equity"], rel=1e-9)
    assert metrics["turnover_per_year"] == pytest.approx(history["turnover"].sum() / metrics["bars"] * 252)


def test_the_agent_is_asked_as_a_model_is():
    agent = RandomAgent(4)
    env = StatefulTradingEnv(market(0), {}, ["momentum_5"], seed=3)
    BackTesting(agent, env, {**QUIET, "deterministic": False}).run()
    assert len(agent.calls) == env.market.n_bars - 1 - env.task.features.first_bar
    assert all(call["deterministic"] is False for call in agent.calls)
    assert agent.calls[0]["observation"].shape == env.observation_space.shape
    assert "state" not in agent.calls[1]


def test_a_recurrent_policy_gets_its_state_back():
    class Recurrent(RandomAgent):
        def predict(self, observation, deterministic=False, **extra):
            action, _ = super().predict(observation, deterministic, **extra)
            return action, len(self.calls)

    agent = Recurrent(4)
    run(market(0), agent)
    assert "state" not in agent.calls[0]
    assert [call["state"] for call in agent.calls[1:4]] == [1, 2, 3]
    assert not agent.calls[1]["episode_start"].any()


def test_env_is_left_alone_and_the_backtest_covers_all_bars():
    config = {"episode_config": {"length": 10, "random_start": True}, "portfolio_config": {"initial_cash": 5000.0}}
    env = StatefulTradingEnv(market(0), config, ["momentum_5"], seed=1)
    env.reset()
    results = BackTesting(RandomAgent(4), env, QUIET).run()
    assert env.bar == env.start
    assert env.config.episode_config.length == 10
    first = env.task.features.first_bar
    assert results.history["bar"].tolist() == list(range(first, env.market.n_bars))
    assert results.metrics["initial_equity"] == 5000.0


def test_backtest_config_changes_apply():
    changes = {
        "reward_config": {"type": "log_return", "reward_scaling": 2.0},
        "portfolio_config": {"initial_cash": 777.0},
        "cost_config": FREE,
        "risk_free_rate": 0.1,
    }
    results = run(market(0), RandomAgent(4), backtest=changes)
    metrics = results.metrics
    assert metrics["initial_equity"] == 777.0
    assert metrics["costs"] == 0.0
    assert metrics["risk_free_rate"] == 0.1
    assert metrics["total_reward"] == pytest.approx(2 * math.log(metrics["final_equity"] / 777.0), rel=1e-9)


def test_progress_counts_every_bar():
    seen = []
    env = StatefulTradingEnv(market(0), {}, [], seed=0)
    BackTesting(RandomAgent(4), env, QUIET).run(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 119) for i in range(1, 120)]


def test_two_runs_give_the_same():
    first, again = (run(ragged_market(0), RandomAgent(4, seed=5)) for _ in range(2))
    assert first.metrics == again.metrics
    pd.testing.assert_frame_equal(first.history, again.history)


def test_an_agent_that_never_trades():
    results = run(market(0), ConstantAgent(np.zeros(4)))
    metrics = results.metrics
    assert (metrics["fills"], metrics["costs"], metrics["total_return"]) == (0, 0.0, 0.0)
    assert metrics["sharpe"] is None and metrics["win_rate"] is None and metrics["calmar"] is None
    assert len(results.trades) == len(results.fills) == 0
    assert {"symbol", "pnl", "status"} <= set(results.trades.columns)


def test_one_symbol_and_the_shortest_period():
    bars = market(0).select(["A"]).between("2020-01-01", "2020-01-03")
    assert bars.n_bars == 2
    env = StatefulTradingEnv(bars, {}, [], seed=0)
    metrics = BackTesting(ConstantAgent([1.0]), env, QUIET).run().metrics
    assert metrics["bars"] == 1
    assert metrics["sharpe"] is None and metrics["volatility"] is None
    assert metrics["total_return"] is not None


def test_a_symbol_without_any_bar():
    bars = MarketData.bundled().between("2010-01-01", "2010-06-01").select(["FB", "IBM"])
    assert not bars.has_bar[:, 0].any()
    results = run(bars, RandomAgent(2))
    assert set(results.fills["symbol"]) == {"IBM"}
    assert (results.history["shares[FB]"] == 0).all()
    for name, history in results.baselines.items():
        assert (history["shares[FB]"] == 0).all()
        assert (history["shares[IBM]"].iloc[-1] > 0) == (name != "cash")


def test_bankruptcy_ends_the_account_early():
    config = {"portfolio_config": {"bankruptcy_fraction": 0.97}, "action_config": {"mode": "weights"}}
    results = run(market(0), ConstantAgent([1, 0, 0, 0]), config)
    assert len(results.history) < len(run(market(0), ConstantAgent([0, 0, 0, 0])).history)
    assert results.metrics["final_equity"] <= 97_000


# --- what is refused ----------------------------------------------------------------------------------------


def test_an_agent_of_another_shape_is_refused_before_it_runs():
    agent = RandomAgent(4)
    agent.observation_space = spaces.Box(-1, 1, (7,), np.float32)
    agent.action_space = spaces.Box(-1, 1, (3,), np.float32)
    env = StatefulTradingEnv(market(0), {}, ["momentum_5"], seed=0)
    with pytest.raises(RunError, match=r"observation_space.*\[7\].*\[9\].*action_space.*\[3\].*\[4\]") as caught:
        BackTesting(agent, env)
    assert "1 features of 4 symbols" in str(caught.value)
    assert not agent.calls


def test_an_agent_of_another_action_mode_is_refused():
    agent = RandomAgent(4)
    agent.action_space = spaces.Box(0.0, 1.0, (4,), np.float32)
    with pytest.raises(RunError, match=r"action_space: the agent was made for Box\(0"):
        BackTesting(agent, StatefulTradingEnv(market(0), {}, seed=0))
    agent.action_space = spaces.Discrete(81)
    with pytest.raises(RunError, match=r"Discrete\(81\).*Box of shape \[4\]"):
        BackTesting(agent, StatefulTradingEnv(market(0), {}, seed=0))


def test_wrong_arguments_are_refused():
    env = StatefulTradingEnv(market(0), {}, seed=0)
    with pytest.raises(RunError, match="predict"):
        BackTesting(object(), env)
    with pytest.raises(ConfigError, match="env: got str"):
        BackTesting(RandomAgent(4), "env")
    with pytest.raises(ConfigError, match=r"rebalance_bar.*did you mean 'rebalance_bars'"):
        BackTesting(RandomAgent(4), env, {"rebalance_bar": 3})
    with pytest.raises(ConfigError, match="backtest_config: got int"):
        BackTesting(RandomAgent(4), env, 3)
    with pytest.raises(ConfigError, match="baselines"):
        BackTesting(RandomAgent(4), env, baselines=[BuyAndHold(), BuyAndHold()])


# --- baselines ----------------------------------------------------------------------------------------------


def idle(bars, config, **backtest):
    env = StatefulTradingEnv(bars, config, [], seed=0)
    return BackTesting(ConstantAgent(np.zeros(len(bars.symbols))), env, {**QUIET, **backtest}).run()


def test_free_buy_and_hold_is_the_mean_of_the_price_relatives():
    bars = market(3)
    results = idle(bars, {"cost_config": FREE, "fill": "close"})
    relatives = bars.close[-1] / bars.close[0]
    found = results.metrics["baselines"]["buy_and_hold"]
    assert found["total_return"] == pytest.approx(relatives.mean() - 1, rel=1e-12)
    assert found["fills"] == 4


def test_buy_and_hold_at_the_next_open_pays_its_costs_and_never_trades_again():
    bars = market(3)
    costs = {"fee_rate": 0.01, "slippage_rate": 0.02}
    results = idle(bars, {"cost_config": costs})
    history = results.baselines["buy_and_hold"]
    wanted = 100_000 / 4 / bars.close[0]
    needed = (wanted * bars.open[1] * 1.02 * 1.01).sum()
    assert needed > 100_000
    shares = wanted * 100_000 / needed
    held = history[[f"shares[{s}]" for s in bars.symbols]].to_numpy()
    np.testing.assert_allclose(held[1:], np.tile(shares, (119, 1)), rtol=1e-12)
    assert history["cash"].iloc[1:].abs().max() < 1e-9
    assert history["equity"].iloc[-1] == pytest.approx(shares @ bars.close[-1], rel=1e-12)


def test_buy_and_hold_buys_what_is_listed_at_the_start():
    results = idle(ragged_market(0), {})
    history = results.baselines["buy_and_hold"]
    assert (history["shares[B]"] == 0).all()  # lists later
    assert (history[["shares[A]", "shares[C]"]].iloc[1:] > 0).all().all()
    assert (history["shares[D]"].iloc[1:91] > 0).all()
    assert (history["shares[D]"].iloc[91:] == 0).all()  # delisted


def test_equal_weight_restores_equal_weights_and_takes_in_a_late_listing():
    bars = ragged_market(0)
    results = idle(bars, {"cost_config": FREE, "fill": "close"}, rebalance_bars=5)
    history = results.baselines["equal_weight"]
    traded = history["turnover"].to_numpy() > 0
    # Decided at every fifth bar, booked in the bar after; C pauses at bars 30, 70 and 110, and follows a bar later.
    assert set(np.flatnonzero(traded)) == {*range(1, 120, 5), 32, 72, 112}
    for bar in (0, 20, 60):
        active = bars.has_bar[bar]
        held = history[[f"shares[{s}]" for s in bars.symbols]].to_numpy()[bar + 1]
        worth = held[active] * bars.close[bar, active]
        np.testing.assert_allclose(worth, worth.sum() / active.sum(), rtol=1e-12)
    assert history["shares[B]"].iloc[35] == 0 < history["shares[B]"].iloc[46]


def test_equal_weight_with_one_rebalance_is_buy_and_hold():
    bars = market(2)
    results = idle(bars, {}, rebalance_bars=1000)
    pd.testing.assert_frame_equal(results.baselines["equal_weight"], results.baselines["buy_and_hold"])


def test_a_baseline_of_ones_own():
    class FirstSymbol:
        name, label = "first", "the first symbol"

        def orders(self, env):
            orders = np.zeros(4)
            orders[0] = env.cash / env.market.mark[env.bar, 0]
            return orders

    results = run(market(0), ConstantAgent(np.zeros(4)), baselines=[FirstSymbol(), EqualWeight(5)])
    assert list(results.baselines) == ["first", "equal_weight"]
    assert results.baselines["first"]["weight[A]"].iloc[-1] > 0.99
    assert "the first symbol" in results.verdicts[0].headline


# --- the verdict --------------------------------------------------------------------------------------------


def test_the_verdict_is_plain_both_ways():
    bars = market(0)
    relatives = bars.close[-1] / bars.close[6]
    best, worst = np.eye(4)[relatives.argmax()], np.eye(4)[relatives.argmin()]
    config = {"action_config": {"mode": "weights"}}
    won, lost = (run(bars, ConstantAgent(weights), config).verdicts[0] for weights in (best, worst))
    assert won.outcome == "beat" and won.headline.startswith("The agent beat buy and hold: ")
    assert lost.outcome == "lost" and lost.headline.startswith("The agent lost to buy and hold: ")
    assert "after costs" in lost.headline and "points" in lost.headline
    assert "Sharpe ratio is lower" in lost.detail


def test_an_equal_result_is_called_level():
    results = run(market(0), ConstantAgent(np.zeros(4)), baselines=[Nothing()])
    assert results.verdicts[0].outcome == "level"
    assert "ended level with doing nothing" in results.verdicts[0].headline


class Nothing:
    name, label = "nothing", "doing nothing"

    def orders(self, env):
        return np.zeros(4)
