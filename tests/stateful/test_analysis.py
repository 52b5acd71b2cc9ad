from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from batchenv.config import CostConfig
from batchenv.errors import RunError
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
    if fill == "close":  # D is traded at its last close and delisted in the same step
        assert results.vectorbt_obstacle is not None
        agent = RandomAgent(3, low=agent.low)
        results = backtest(ragged_market(1).select(["A", "B", "C"]), agent, config, vectorbt=False)
    assert len(results.fills) > 50
    assert_same_account(results)


def test_a_dropped_fill_would_be_seen(real):
    object.__setattr__(real, "fills", (fills := real.fills).iloc[:-50])
    try:
        with pytest.raises(RunError, match="moves shares by fills only"):
            real.to_vectorbt()
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
    bars = replace(market(0).select(["A"]).between("2020-01-01", "2020-01-03"), stated_periods=252.0)
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


CARRY = {
    "interest": {"carry_config": {"cash_rate": 0.03}},
    "cost of borrowed shares": {"carry_config": {"borrow_rate": 0.03}, "margin_config": {"allow_short": True}},
    "funding": {"carry_config": {"funding_rate": 0.03}, "margin_config": {"allow_short": True}},
    "borrow cash": {"margin_config": {"leverage": 3.0}, "action_config": {"mode": "weights", "max_weight": 3.0}},
    "filled twice": {"execution_config": {"stop_loss": 0.01}},
}


@pytest.mark.parametrize("what", CARRY)
def test_what_vectorbt_cannot_do_is_refused_and_never_guessed(what):
    results = backtest(market(0), RandomAgent(4), CARRY[what], vectorbt=True)
    assert results.metrics["vectorbt"] is None
    assert what in results.vectorbt_obstacle
    with pytest.raises(RunError, match=what):
        results.to_vectorbt()


@pytest.mark.parametrize(("policy", "message"), [("cash", "dividends"), ("reinvest", "moves shares by fills only")])
def test_dividends_and_splits_are_refused(policy, message):
    bars = MarketData.bundled(adjusted=False).between("2004-06-01", "2005-06-01").select(["AAPL", "IBM"])
    results = backtest(bars, RandomAgent(2), {"carry_config": {"dividends": policy}})
    assert results.metrics["vectorbt"] is None
    assert message in results.vectorbt_obstacle


def test_vectorbt_holds_the_same_account_with_shorts_and_turned_positions(real):
    config = {
        "margin_config": {"allow_short": True},
        "action_config": {"mode": "weights"},
        "cost_config": {"fee_rate": {"A": 0.01, "*": 0.002}, "slippage_rate": {"B": 0.02, "*": 0.0}},
    }
    results = backtest(market(1), RandomAgent(4), config, vectorbt=False)
    shares = results.history[[f"shares[{symbol}]" for symbol in "ABCD"]].to_numpy()
    assert (shares < 0).any() and (np.diff(np.sign(shares), axis=0) == 2).any()
    assert_same_account(results)


def test_vectorbt_holds_the_same_account_with_other_fees_and_impact(real):
    config = {
        "cost_config": {"fee_rate": 0.001, "fee_fixed": 1.0, "fee_minimum": 5.0, "fee_per_share": 0.01,
                        "impact_coefficient": 0.1},
        "execution_config": {"lot_size": 1.0, "delisting_haircut": 0.4},
    }  # fmt: skip
    results = backtest(ragged_market(1), RandomAgent(4), config, vectorbt=False)
    assert "delisting" in set(results.fills["kind"])
    assert_same_account(results)
