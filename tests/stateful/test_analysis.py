from __future__ import annotations

import json

import numpy as np
import pytest

from batchenv.config import CostConfig
from batchenv.market import MarketData
from stateful import BackTesting, StatefulTradingEnv
from stateful.analysis import in_our_terms
from tests.markets import market, ragged_market
from tests.stateful.policies import ConstantAgent, RandomAgent


def backtest(bars, agent, config, **settings):
    env = StatefulTradingEnv(bars, config, [], seed=0)
    return BackTesting(agent, env, settings).run()


@pytest.fixture(scope="module")
def real():
    """A backtest on real bars; the first to run pays for vectorbt's compilation."""
    _, test = MarketData.bundled().split("2010-01-01")
    return backtest(test, RandomAgent(5), {}, risk_free_rate=0.02)


def assert_same_account(results):
    replayed = results.to_vectorbt()
    history = results.history
    scale = history["equity"].iloc[0]
    np.testing.assert_allclose(replayed.value(), history["equity"], rtol=1e-9)
    np.testing.assert_allclose(replayed.cash(), history["cash"], rtol=1e-9, atol=1e-9 * scale)
    shares = history[[f"shares[{symbol}]" for symbol in results.market.symbols]].to_numpy()
    np.testing.assert_allclose(replayed.assets().to_numpy(), shares, rtol=1e-9, atol=1e-9 * shares.max())
    assert replayed.orders.count() == len(results.fills)
    assert replayed.orders.fees.sum() == pytest.approx(results.metrics["fees"], rel=1e-9)


def test_vectorbt_holds_the_same_account_on_real_bars(real):
    assert_same_account(real)


@pytest.mark.parametrize("fill", ["next_open", "next_close", "close"])
@pytest.mark.parametrize("mode", ["trade", "weights"])
def test_vectorbt_holds_the_same_account_for_every_fill(real, fill, mode):
    config = {"fill": fill, "action_config": {"mode": mode}, "cost_config": {"fee_rate": 0.01, "slippage_rate": 0.02}}
    agent = RandomAgent(4, low=0.0 if mode == "weights" else -1.0)
    results = backtest(ragged_market(1), agent, config, vectorbt=False)
    assert len(results.fills) > 50
    assert_same_account(results)


def test_a_dropped_fill_would_be_seen(real):
    replayed = real.to_vectorbt()
    object.__setattr__(real, "fills", (fills := real.fills).iloc[:-50])
    try:
        assert abs(real.to_vectorbt().final_value() - replayed.final_value()) > 1e-6
    finally:
        object.__setattr__(real, "fills", fills)


def test_statistics_agree_where_both_have_them(real):
    metrics = real.metrics
    theirs = in_our_terms(metrics["vectorbt"])
    assert {name: metrics[name] for name in theirs} == pytest.approx(theirs, rel=1e-9)
    assert len(theirs) == 9
    json.dumps(metrics["vectorbt"], allow_nan=False)
    assert "Omega Ratio" in metrics["vectorbt"]


def test_an_agent_that_never_trades(real):
    results = backtest(market(0), ConstantAgent(np.zeros(4)), {})
    assert results.metrics["vectorbt"]["Sharpe Ratio"] is None
    assert results.metrics["vectorbt"]["Total Trades"] == 0
    assert_same_account(results)


def test_the_shortest_period_of_one_symbol(real):
    bars = market(0).select(["A"]).between("2020-01-01", "2020-01-03")
    results = backtest(bars, ConstantAgent([1.0]), {})
    assert results.metrics["vectorbt"]["End Value"] == pytest.approx(results.metrics["final_equity"], rel=1e-12)
    assert_same_account(results)


def test_a_symbol_that_never_has_a_bar(real):
    bars = MarketData.bundled().between("2010-01-01", "2010-06-01").select(["FB", "IBM"])
    assert_same_account(backtest(bars, RandomAgent(2), {}, vectorbt=False))


def test_costs_are_those_of_the_run(real):
    assert real.config.cost_config == CostConfig()
    free = backtest(market(0), RandomAgent(4), {}, vectorbt=False, cost_config={"fee_rate": 0.0, "slippage_rate": 0.0})
    assert free.to_vectorbt().orders.fees.sum() == 0
