"""Every rule at once: random hostile play in random markets under random terms, audited around every call."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchenv.market import MarketData
from stateful import StatefulTradingEnv
from tests.stateful.invariants import AuditedPortfolio, audit

SYMBOLS = ("A", "B", "C", "D")
N_BARS = 40


def hostile_market(seed: int) -> MarketData:
    """Jumps, late listings, pauses, delistings, splits, dividends, bars without volume, and long holidays."""
    rng = np.random.default_rng(seed)
    shape = (N_BARS, len(SYMBOLS))
    jumps = rng.normal(0, 0.04, shape) + (rng.random(shape) < 0.04) * rng.normal(0, 0.6, shape)
    close = 30 * np.exp(np.cumsum(jumps, axis=0))
    has_bar = rng.random(shape) > 0.05
    for column in range(len(SYMBOLS)):
        if rng.random() < 0.4:
            has_bar[: rng.integers(1, N_BARS // 2), column] = False
        if rng.random() < 0.4:
            has_bar[rng.integers(N_BARS // 2, N_BARS) :, column] = False
    has_bar[0, 0] = has_bar[-1, 0] = True
    splits = np.where(has_bar & (rng.random(shape) < 0.05), rng.choice([2.0, 3.0, 0.1, 1.5], shape), 1.0)
    # A split moves all prices from then on.
    close /= np.cumprod(splits, axis=0)
    close = np.where(has_bar, close, np.nan)
    before = pd.DataFrame(close).ffill().shift(1).to_numpy() / splits
    dividends = np.where(has_bar & (rng.random(shape) < 0.08) & (before > 0), 0.1 * np.nan_to_num(before), 0.0)
    start = close * np.exp(rng.normal(0, 0.03, shape))
    high = np.maximum(start, close) * (1 + rng.uniform(0, 0.05, shape))
    low = np.minimum(start, close) * (1 - rng.uniform(0, 0.05, shape))
    volume = np.where(rng.random(shape) < 0.1, 0.0, rng.integers(1, 5000, shape).astype(float))
    days = np.cumsum(rng.choice([1, 1, 1, 3, 40], N_BARS)).astype("timedelta64[D]")
    return MarketData(
        symbols=SYMBOLS,
        timestamps=np.datetime64("2020-01-01", "ns") + days,
        close=close,
        open=start,
        high=high,
        low=low,
        volume=np.where(has_bar, volume, np.nan),
        dividends=dividends,
        splits=splits,
        columns={"funding": rng.normal(0, 0.002, shape)},
    )


def choices(**options: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in options.items()})


COSTS = choices(
    fee_rate=[0.0, 0.001, {"A": 0.05, "*": 0.0}],
    fee_fixed=[0.0, 1.0, {"B": 30.0, "*": 0.0}],
    fee_per_share=[0.0, 0.02],
    fee_minimum=[0.0, 5.0],
    slippage_rate=[0.0, 0.001, 0.2],
    impact_coefficient=[0.0, 0.0, 0.1, 3.0],
)
EXECUTION = choices(
    lot_size=[0.0, 0.0, 1.0, {"A": 0.3, "B": 7.0, "*": 0.0}],
    min_notional=[0.0, 0.0, 40.0],
    participation_limit=[None, None, 0.1],
    stop_loss=[None, 0.05],
    take_profit=[None, 0.05],
    delisting_haircut=[0.0, 0.3, 1.0],
)
MARGIN = st.sampled_from(
    [
        {},
        {"net_limit": 0.6},
        {"leverage": 1.7},
        {"allow_short": True},
        {"allow_short": True, "leverage": 3.0, "maintenance_margin": 0.3},
        {"allow_short": True, "leverage": 5.0, "maintenance_margin": 0.15, "net_limit": 1.2},
    ]
)
CARRY = choices(
    cash_rate=[0.0, 0.05, -0.02], margin_rate=[0.0, 0.1], borrow_rate=[0.0, {"A": 0.3, "*": 0.02}],
    dividends=["cash", "reinvest"],
)  # fmt: skip
FUNDING = st.sampled_from([{}, {"funding_rate": 0.2}, {"funding_column": "funding", "funding_rate": -0.1}])
ACTION = st.sampled_from(
    [
        {"mode": "trade"},
        {"mode": "weights", "max_weight": 2.0},
        {"mode": "shares", "max_shares": 1e5},
        {"mode": "discrete"},
    ]
)


@pytest.mark.parametrize("fill", ["next_open", "next_close", "close"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**20), COSTS, EXECUTION, MARGIN, CARRY, FUNDING, ACTION)
def test_the_invariants_hold_whatever_is_played(
    fill: str,
    seed: int,
    costs: dict[str, Any],
    execution: dict[str, Any],
    margin: dict[str, Any],
    carry: dict[str, Any],
    funding: dict[str, Any],
    action: dict[str, Any],
) -> None:
    is_cash_account = not margin.get("allow_short") and margin.get("leverage", 1.0) == 1.0
    config = {
        "fill": fill,
        "portfolio_config": {"initial_cash": 1000.0, "trade_limit_percent": 1.0, "maintain_history": True},
        "cost_config": costs,
        "execution_config": execution,
        "margin_config": margin,
        "carry_config": {**carry, **({} if is_cash_account else funding)},
        "action_config": action,
        "observation_config": {"unrealized_pnl": True, "time_left": True},
        "reward_config": {"type": "log_return"},
    }
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        audit(patch)
        env = StatefulTradingEnv(hostile_market(seed), config)
        observation, _ = env.reset()
        ended = False
        while not ended:
            assert observation in env.observation_space
            if rng.random() < 0.5:
                outcome = env.step(_hostile_action(rng, action["mode"]))
            else:
                outcome = env.step_orders(rng.normal(0, 1, 4) * 10.0 ** rng.integers(-9, 12) * (rng.random(4) < 0.7))
            observation, reward, terminated, truncated, info = outcome
            assert math.isfinite(reward)
            ended = terminated or truncated
            assert info["equity"] > 0 or terminated
        assert observation in env.observation_space
        assert AuditedPortfolio.n_checks >= 3 * (env.bar - env.start)
    check_tables(env)


def _hostile_action(rng: np.random.Generator, mode: str) -> Any:
    if mode == "discrete":
        return rng.integers(0, 3, 4)
    return (rng.normal(0, 1, 4) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)


def check_bar_range(env: StatefulTradingEnv, fills: pd.DataFrame) -> None:
    """Check that nothing fills outside its bar's range, but for slippage; a stop is reached to 1e-9 (5.2)."""
    low, high = env.market.low, env.market.high
    assert low is not None and high is not None
    at = fills["fill_bar"].to_numpy(), [env.market.symbols.index(symbol) for symbol in fills["symbol"]]
    assert (fills["fill_price"] >= low[at] * (1 - 1e-9)).all()
    assert (fills["fill_price"] <= high[at] * (1 + 1e-9)).all()
    none = fills["slippage"] == 0
    np.testing.assert_allclose(fills["price"][none], fills["fill_price"][none], rtol=1e-12)


def check_tables(env: StatefulTradingEnv) -> None:
    """Check that history, fills, trades and totals tell one story."""
    history, fills, trades, totals = env.history, env.fills, env.trades, env.statistics()
    account = env.portfolio
    assert isinstance(account, AuditedPortfolio)
    slack = 1e-10 * account.handled * (1 + account.n_fills)
    assert not history.drop(columns=[name for name in history if name.startswith("action[")]).isna().any().any()
    for name in ("fees", "slippage", "costs", "interest", "borrow", "funding", "dividends", "delisting", "turnover"):
        assert math.isclose(history[name].sum(), totals[name], rel_tol=1e-9, abs_tol=slack)
    carried = history[["interest", "borrow", "funding", "dividends"]].to_numpy().sum()
    assert math.isclose(trades["pnl"].sum() + carried, env.equity - 1000, rel_tol=0, abs_tol=slack)
    executed = fills["kind"] != "delisting"
    assert executed.sum() == totals["n_fills"]
    check_bar_range(env, fills[executed])
    assert math.isclose(fills["fee"].sum(), totals["fees"], rel_tol=1e-9, abs_tol=slack)
    closed = trades[trades["status"] == "closed"]
    assert len(closed) == totals["n_closed_trades"]
    assert set(closed["reason"]) <= set(fills["kind"])
    assert set(trades["side"]) <= ({"long", "short"} if account.terms.allow_short else {"long"})
    assert (trades["shares"] > 0).all()
    if account.terms.cash_account:
        assert (history["cash"] >= 0).all()
        assert not history["margin_call"].any()
    called = history["margin_call"].to_numpy()[:-1]
    forced = np.isin(history["bar"].to_numpy()[:-1], fills["decision_bar"][fills["kind"] == "margin_call"])
    assert (forced <= called).all()
    ordered = np.isin(history["bar"].to_numpy()[:-1], fills["decision_bar"][fills["kind"] == "order"])
    assert not (ordered & called).any()
