"""The evaluation environment: rules 1, 2, 6 and 7 of docs/accounting.md, its records, and both contracts."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv.config import EnvConfig
from batchenv.errors import ActionError, BatchenvError, ConfigError, EnvironmentStateError
from batchenv.market import MarketData
from stateful import StatefulTradingEnv, TradingEnv
from tests.markets import frame, market, ragged_market
from tests.stateful.invariants import AuditedPortfolio, audit
from tests.stateful.worlds import hand_made, settings, started

MODES: dict[str, dict[str, Any]] = {
    "trade": {"mode": "trade"},
    "weights": {"mode": "weights"},
    "shares": {"mode": "shares", "max_shares": 50.0},
    "discrete": {"mode": "discrete"},
    "joint": {"mode": "discrete", "joint": True},
}
FEATURES = ["momentum_20", "rsi_14"]


def play(env: StatefulTradingEnv, act: Callable[[], Any]) -> list[tuple[Any, ...]]:
    """Reset, then step with ``act()`` to the end of the episode; return all results."""
    env.reset()
    results: list[tuple[Any, ...]] = []
    while not (results and (results[-1][2] or results[-1][3])):
        results.append(env.step(act()))
    return results


def pinned_actions(env: StatefulTradingEnv, seed: int = 1) -> Callable[[], Any]:
    env.action_space.seed(seed)
    return env.action_space.sample


# --- 1 Prices -----------------------------------------------------------------------------------------------

CLOSES = [[10.0], [12.0], [11.0], [13.0]]
OPENS = [[9.0], [10.5], [12.5], [11.5]]


@pytest.mark.parametrize(
    ("fill", "fill_bar", "price"), [("next_open", 1, 10.5), ("next_close", 1, 12.0), ("close", 0, 10.0)]
)
def test_1_3_fill_bar_and_price(fill: str, fill_bar: int, price: float) -> None:
    env = started(hand_made(CLOSES, OPENS), fill=fill)
    *_, info = env.step_orders([10.0])

    filled = env.fills.iloc[0]
    assert (filled["decision_bar"], filled["fill_bar"], filled["fill_price"]) == (0, fill_bar, price)
    assert filled["timestamp"] == env.market.timestamps[fill_bar]
    assert (env.cash, env.equity) == (1000 - 10 * price, 1000 - 10 * price + 10 * 12)
    assert (info["bar"], info["cash"], info["equity"]) == (1, env.cash, env.equity)


def test_1_3_next_open_needs_opens() -> None:
    with pytest.raises(ConfigError, match="next_open"):
        StatefulTradingEnv(hand_made(CLOSES), settings())
    assert started(hand_made(CLOSES), fill="next_close").bar == 0


LATE = [[10.0, math.nan]] * 5 + [[10.0, 20.0], [10.0, 25.0], [10.0, 30.0]]


def test_1_4_example_of_the_text_a_late_listing() -> None:
    env = started(hand_made(LATE, LATE))
    for _ in range(5):  # decided at bars 0 to 4
        env.step_orders([0.0, 1.0])
        assert (env.holdings.tolist(), env.cash) == ([0.0, 0.0], 1000.0)
    env.step_orders([0.0, 1.0])
    assert (env.bar, env.holdings.tolist(), env.cash) == (6, [0.0, 1.0], 975.0)


@pytest.mark.parametrize(("fill", "first"), [("next_open", 5), ("next_close", 5), ("close", 5)])
def test_1_4_the_first_order_of_a_late_listing(fill: str, first: int) -> None:
    env = started(hand_made(LATE, LATE), fill=fill, action_config={"mode": "weights"})
    while env.bar < 7:
        observation, *_ = env.step([0.0, 1.0])
        assert np.isfinite(observation).all()
    assert env.fills["decision_bar"].iloc[0] == first


GAP = [[10.0, 20.0], [10.0, 22.0], [10.0, math.nan], [10.0, math.nan], [10.0, 30.0], [10.0, 31.0]]


def test_1_4_and_6_2_a_gap_drops_orders_and_keeps_the_mark() -> None:
    env = started(hand_made(GAP, GAP))
    env.step_orders([0.0, 1.0])  # filled at bar 1, open 22
    env.step_orders([1.0, -1.0])  # B has no bar 2: dropped; A is not affected
    assert (env.holdings.tolist(), env.equity) == ([1.0, 1.0], 1000.0)  # 6.2: B is marked at 22
    env.step_orders([0.0, -1.0])  # nor bar 3
    assert env.holdings.tolist() == [1.0, 1.0]
    env.step_orders([0.0, -1.0])  # decided at bar 3 at the mark 22, filled at bar 4
    assert (env.holdings.tolist(), env.cash) == ([1.0, 0.0], 1000 - 22 - 10 + 30)


def test_1_4_a_close_fill_needs_a_bar_now() -> None:
    env = started(hand_made(GAP), fill="close")
    env.step_orders([0.0, 1.0])
    env.step_orders([0.0, 0.0])
    env.step_orders([0.0, -1.0])  # bar 2: no bar
    assert env.holdings.tolist() == [0.0, 1.0]
    env.step_orders([0.0, 0.0])
    env.step_orders([0.0, -1.0])  # bar 4
    assert env.holdings.tolist() == [0.0, 0.0]


def test_1_2_a_part_knows_the_marks_of_its_history() -> None:
    whole = MarketData.from_frame(
        pd.DataFrame(
            {"A": [10.0] * 6, "B": [20.0, 21.0, np.nan, np.nan, 24.0, 25.0]},
            index=pd.bdate_range("2020-01-01", periods=6),
        )
    )
    _, test = whole.split(str(whole.timestamps[3])[:10])
    env = started(test, fill="next_close")
    env.step_orders([0.0, 1.0])  # bar 3 of the whole has no B, but a mark from before the split
    assert env.fills["fill_price"].tolist() == [24.0]


# --- 2 Decide -----------------------------------------------------------------------------------------------


def test_2_1_sizes_never_see_the_next_bar() -> None:
    env = started(hand_made([[10.0], [20.0], [20.0]], [[10.0], [20.0], [20.0]]), action_config={"mode": "weights"})
    env.step([0.5])
    assert env.fills["requested"].tolist() == [50.0]  # 0.5 * 1000 / close[0], though it fills at 20


def test_2_3_orders_of_no_size_are_dropped() -> None:
    env = started(hand_made([[10.0], [10.0], [10.0]]), fill="close")
    env.step_orders([0.9e-10])  # 0.9e-9 of money, and equity is 1000
    assert len(env.fills) == 0
    env.step_orders([1.1e-10])
    assert len(env.fills) == 1


@pytest.mark.parametrize("size", [1e308, -1e308])
def test_orders_without_measure_do_no_harm(size: float) -> None:
    env = started(hand_made([[10.0, 5.0], [10.0, 5.0], [10.0, 5.0]]), fill="close", margin_config={"allow_short": True})
    for _ in range(2):
        env.step_orders([size, 10.0])
    assert math.isfinite(env.equity)


def test_2_2_each_mode_orders_what_the_rule_says() -> None:
    data = hand_made([[10.0, 40.0], [10.0, 40.0], [10.0, 40.0]])
    orders = {}
    for name, action in {
        "trade": [0.5, 1.0], "weights": [0.5, 0.2], "shares": [0.5, 0.1], "discrete": [1, 2], "joint": 1 + 3 * 2,
    }.items():  # fmt: skip
        env = started(data, action_config=MODES[name], fill="close")
        env.step(np.array(action))
        orders[name] = env.holdings.tolist()
    assert orders["trade"] == pytest.approx([0.5 * 0.1 * 100, 0.1 * 25])
    assert orders["weights"] == pytest.approx([50.0, 5.0])
    assert orders["shares"] == pytest.approx([25.0, 5.0])
    assert orders["discrete"] == orders["joint"] == pytest.approx([0.0, 2.5])


def test_2_2_actions_are_float32_clipped_then_widened() -> None:
    data = hand_made([[10.0], [10.0], [10.0]])
    env = started(data, fill="close", action_config=MODES["shares"])
    env.step(np.array([0.1]))
    assert env.holdings[0] == float(np.float32(0.1)) * 50
    env.step(np.array([7.0], np.float32))
    assert env.history["action[A]"].tolist() == [0.0, float(np.float32(0.1)), 1.0]
    assert env.holdings[0] == float(np.float32(0.1)) * 50 + 50


BAD_ACTIONS: list[tuple[str, Any]] = [
    ("trade", [0.0, math.nan, 0.0, 0.0]),
    ("trade", [0.0, 0.0, math.inf, 0.0]),
    ("trade", [0.0, 0.0]),
    ("trade", 0.5),
    ("trade", None),
    ("trade", [[0.0], [0.0, 0.0], 0.0, 0.0]),
    ("weights", ["a", "b", "c", "d"]),
    ("discrete", [0, 1, 2, 3]),
    ("discrete", [0.0, 1.0, 2.0, 1.0]),
    ("joint", 81),
    ("joint", -1),
    ("joint", [1]),
]


@pytest.mark.parametrize(("mode", "action"), BAD_ACTIONS)
def test_a_bad_action_changes_nothing(mode: str, action: Any) -> None:
    env = StatefulTradingEnv(market(), settings(action_config=MODES[mode]), FEATURES)
    env.reset()
    act = pinned_actions(env)
    for _ in range(5):
        env.step(act())
    before = (env.bar, env.cash, env.holdings.tolist(), env.fills.to_dict(), env.statistics())
    with pytest.raises(ActionError):
        env.step(action)
    assert (env.bar, env.cash, env.holdings.tolist(), env.fills.to_dict(), env.statistics()) == before
    env.step(act())
    assert env.history["bar"].tolist() == list(range(env.start, env.start + 7))


def test_bad_orders_change_nothing() -> None:
    env = started(hand_made(CLOSES, OPENS))
    for orders in ([math.nan], [1.0, 2.0], 1.0, [math.inf]):
        with pytest.raises(ActionError):
            env.step_orders(orders)
    assert (env.bar, env.cash, len(env.history)) == (0, 1000.0, 1)


# --- 3 and 6.1: the invariants, in the environment ----------------------------------------------------------


@pytest.mark.parametrize("fill", ["next_open", "next_close", "close"])
@pytest.mark.parametrize("mode", MODES)
def test_invariants_hold_in_every_mode(mode: str, fill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    audit(monkeypatch)
    data = ragged_market()
    config = settings(action_config=MODES[mode], fill=fill, cost_config={"fee_rate": 0.002, "slippage_rate": 0.0})
    env = StatefulTradingEnv(data, config, FEATURES)
    results = play(env, pinned_actions(env))

    assert AuditedPortfolio.n_checks >= len(results) > 80
    assert all(observation in env.observation_space for observation, *_ in results)
    assert all(math.isfinite(reward) for _, reward, *_ in results)
    fills = env.fills[env.fills["kind"] == "order"]
    assert len(fills) > 50
    column = fills["symbol"].map(data.symbols.index)
    assert data.low is not None and data.high is not None
    assert (fills["price"] >= data.low[fills["fill_bar"], column] * (1 - 1e-12)).all()
    assert (fills["price"] <= data.high[fills["fill_bar"], column] * (1 + 1e-12)).all()
    assert not np.isnan(data.mark[fills["decision_bar"], column]).any()
    assert (fills["fill_bar"] - fills["decision_bar"] == (0 if fill == "close" else 1)).all()


# --- 6.4 The observation ------------------------------------------------------------------------------------


def test_6_4_every_part_of_an_observation() -> None:
    data = hand_made([[10.0, 50.0], [11.0, 50.0], [12.0, 40.0], [15.0, 40.0]])
    config = settings(fill="close", observation_config={"unrealized_pnl": True, "time_left": True})
    env = StatefulTradingEnv(data, {**config, "feature_scaling": "none"}, ["momentum_1"])
    observation, _ = env.reset()
    start = env.start
    np.testing.assert_array_equal(observation[2:], np.array([0, 0, 1, 0, 0, 1], np.float32))
    env.step_orders([10.0, 0.0])
    observation, *_ = env.step_orders([10.0, 2.0])

    t = start + 2
    close = data.close
    spent = 10 * close[start, 0] + 10 * close[start + 1, 0] + 2 * close[start + 1, 1]
    cash = 1000 - spent
    equity = cash + 20 * close[t, 0] + 2 * close[t, 1]
    average = (close[start, 0] + close[start + 1, 0]) / 2
    expected = [
        20 * close[t, 0] / equity, 2 * close[t, 1] / equity, cash / equity,
        close[t, 0] / average - 1, close[t, 1] / close[start + 1, 1] - 1, (env.end - t) / (env.end - start),
    ]  # fmt: skip
    assert observation.dtype == np.float32
    np.testing.assert_array_equal(observation[:2], env.task.features.values[t])
    np.testing.assert_allclose(observation[2:], expected, rtol=1e-6)


def test_6_4_unrealised_profit_is_limited() -> None:
    env = started(hand_made([[1.0], [100.0], [1.0]]), fill="close", observation_config={"unrealized_pnl": True})
    observation, *_ = env.step_orders([1.0])
    assert observation[-1] == 10.0


def test_observations_are_new_arrays() -> None:
    env = started(hand_made(CLOSES, OPENS))
    first, *_ = env.step_orders([10.0])
    kept = first.copy()
    env.step_orders([-5.0])
    np.testing.assert_array_equal(first, kept)


# --- 7 End --------------------------------------------------------------------------------------------------


def test_7_1_bankruptcy_terminates() -> None:
    data = hand_made([[10.0], [10.0], [4.9], [10.0], [10.0]])
    env = started(data, fill="close", portfolio_config={"initial_cash": 1000.0, "bankruptcy_fraction": 0.5})
    assert env.step_orders([100.0])[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step_orders([0.0])
    assert (terminated, truncated) == (True, False)
    assert reward == pytest.approx(-0.51)
    assert info["length"] == 2


def test_7_1_bankruptcy_includes_equality() -> None:
    data = hand_made([[10.0], [5.0], [5.0]])
    env = started(data, fill="close", portfolio_config={"initial_cash": 1000.0, "bankruptcy_fraction": 0.5})
    assert env.step_orders([100.0])[2] is True


def test_7_2_the_end_of_the_data_truncates() -> None:
    env = started(hand_made(CLOSES, OPENS))
    flags = [env.step_orders([0.0])[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]
    with pytest.raises(EnvironmentStateError, match="reset"):
        env.step_orders([0.0])
    with pytest.raises(EnvironmentStateError, match="reset"):
        env.step([0.0])


def test_7_both_ends_at_once() -> None:
    data = hand_made([[10.0], [10.0], [1.0]])
    env = started(data, fill="close", portfolio_config={"initial_cash": 1000.0, "bankruptcy_fraction": 0.5})
    env.step_orders([100.0])
    assert env.step_orders([0.0])[2:4] == (True, True)


def test_7_3_an_episode_has_its_length() -> None:
    env = StatefulTradingEnv(market(), settings(episode_config={"length": 7, "random_start": True}), seed=3)
    for _ in range(3):
        results = play(env, pinned_actions(env))
        assert len(results) == 7
        assert results[-1][4]["length"] == 7
        assert env.history["bar"].tolist() == list(range(env.start, env.end + 1))


def test_7_4_an_episode_can_be_played_again() -> None:
    config = settings(episode_config={"length": 20, "random_start": True})
    env = StatefulTradingEnv(market(), config, seed=3)
    starts = []
    for _ in range(4):
        env.reset()
        starts.append(env.start)
    assert len(set(starts)) > 1
    env.reset(options={"episode": 2, "lane": 0})
    assert env.start == starts[2]


def test_step_before_reset_is_refused() -> None:
    env = StatefulTradingEnv(market(), settings(), FEATURES)
    with pytest.raises(EnvironmentStateError, match="reset"):
        env.step(np.zeros(4, np.float32))


# --- records ------------------------------------------------------------------------------------------------


def test_history_is_one_row_per_bar() -> None:
    env = StatefulTradingEnv(ragged_market(), EnvConfig.model_validate(settings(cost_config={})), FEATURES)
    results = play(env, pinned_actions(env))
    history = env.history

    assert history.index.name == "timestamp"
    assert list(history.columns) == (
        ["bar", "equity", "cash", "reward", "turnover", "fees", "slippage", "costs"]
        + ["interest", "borrow", "funding", "dividends", "delisting", "margin_call"]
        + [f"{part}[{symbol}]" for part in ("shares", "weight", "action") for symbol in env.market.symbols]
    )
    assert not history.isna().any().any()
    first, after = history.iloc[0], history.iloc[1:]
    assert (first["bar"], first["equity"], first["cash"], first["reward"]) == (env.start, 1000.0, 1000.0, 0.0)
    assert first.filter(regex=r"shares|weight|action").eq(0).all()
    for key, values in {
        "reward": [reward for _, reward, *_ in results],
        **{key: [info[key] for *_, info in results] for key in ("bar", "equity", "cash", "turnover", "fees", "costs")},
    }.items():
        assert after[key].tolist() == values, key
    assert (history.index == env.market.timestamps[history["bar"]]).all()
    np.testing.assert_allclose(history["costs"], history["fees"] + history["slippage"])
    weights = history.filter(like="weight[").to_numpy()
    np.testing.assert_allclose(weights.sum(axis=1) + history["cash"] / history["equity"], 1.0)
    layout = env.task.layout.parts
    np.testing.assert_allclose(weights[1:], [o[layout["weights"]] for o, *_ in results], rtol=1e-6)
    np.testing.assert_array_equal(history.filter(like="shares[").iloc[-1], env.holdings)
    assert after["reward"].tolist() == pytest.approx(history["equity"].pct_change().iloc[1:].tolist(), abs=1e-12)


def test_history_marks_orders_by_hand() -> None:
    env = started(hand_made(CLOSES, OPENS))
    env.step_orders([1.0])
    env.step([0.5])
    assert env.history["action[A]"].isna().tolist() == [False, True, False]


def test_fills_and_trades_explain_the_equity() -> None:
    env = StatefulTradingEnv(ragged_market(), settings(cost_config={}), FEATURES)
    play(env, pinned_actions(env))
    fills, trades, totals = env.fills, env.trades, env.statistics()

    assert list(fills.columns) == [
        "decision_bar", "fill_bar", "timestamp", "symbol", "requested", "shares", "fill_price", "price",
        "notional", "fee", "slippage", "kind",
    ]  # fmt: skip
    assert list(trades.columns) == [
        "symbol", "side", "entry_time", "exit_time", "entry_bar", "exit_bar", "shares", "entry_price", "exit_price",
        "entry_fee", "exit_fee", "pnl", "return", "bars_held", "status", "reason",
    ]  # fmt: skip
    assert env.cash == pytest.approx(1000 - (fills["shares"] * fills["price"] + fills["fee"]).sum())
    held = fills.groupby("symbol")["shares"].sum().reindex(env.market.symbols, fill_value=0.0)
    np.testing.assert_allclose(held, env.holdings, atol=1e-9)
    assert trades["pnl"].sum() == pytest.approx(env.equity - 1000)
    closed = trades[trades["status"] == "closed"]
    assert 0 < len(closed) == totals["n_closed_trades"] < len(trades)
    assert closed["pnl"].sum() == pytest.approx(totals["realized_pnl"])
    assert (trades["bars_held"] == trades["exit_bar"] - trades["entry_bar"]).all()
    assert (trades["exit_time"] == env.market.timestamps[trades["exit_bar"]]).all()
    assert (trades.loc[trades["status"] == "open", "exit_bar"] == env.bar).all()
    np.testing.assert_allclose(trades["return"], trades["pnl"] / (trades["shares"] * trades["entry_price"]))


def test_tables_of_an_account_that_never_traded_are_empty_but_whole() -> None:
    env = started(hand_made(CLOSES, OPENS))
    env.step_orders([0.0])
    assert (len(env.fills), len(env.trades)) == (0, 0)
    assert env.fills["fill_bar"].dtype == np.int64
    assert env.trades["entry_time"].dtype == env.history.index.dtype
    assert env.trades["pnl"].sum() == 0


def test_trade_table_of_a_round_trip() -> None:
    costs = {"fee_rate": 0.01, "slippage_rate": 0.0}
    env = started(hand_made(CLOSES, OPENS), cost_config=costs)
    env.step_orders([10.0])  # at 10.5
    env.step_orders([-4.0])  # at 12.5
    rows = env.trades.drop(columns=["entry_time", "exit_time"]).to_dict("records")
    assert rows[0] == pytest.approx({
        "symbol": "A", "entry_bar": 1, "exit_bar": 2, "shares": 4.0, "entry_price": 10.5, "exit_price": 12.5,
        "entry_fee": 0.42, "exit_fee": 0.5, "pnl": 8 - 0.92, "return": (8 - 0.92) / 42, "bars_held": 1,
        "status": "closed", "side": "long", "reason": "order",
    })  # fmt: skip
    assert rows[1] == pytest.approx({
        "symbol": "A", "entry_bar": 1, "exit_bar": 2, "shares": 6.0, "entry_price": 10.5, "exit_price": 11.0,
        "entry_fee": 0.63, "exit_fee": 0.0, "pnl": 3 - 0.63, "return": (3 - 0.63) / 63, "bars_held": 1,
        "status": "open", "side": "long", "reason": "open",
    })  # fmt: skip


@pytest.mark.parametrize("table", ["history", "fills", "trades"])
def test_without_history_there_is_no_table(table: str) -> None:
    env = started(hand_made(CLOSES, OPENS), portfolio_config={"initial_cash": 1000.0})
    env.step_orders([1.0])
    with pytest.raises(EnvironmentStateError, match=f"{table}.*maintain_history"):
        getattr(env, table)


def test_without_history_everything_else_is_the_same() -> None:
    runs = []
    for keep in (True, False):
        config = settings(portfolio_config={"initial_cash": 1000.0, "maintain_history": keep})
        env = StatefulTradingEnv(market(), config, FEATURES)
        results = play(env, pinned_actions(env))
        runs.append(([(o.tolist(), *rest[:3]) for o, *rest in results], env.statistics()))
    assert runs[0] == runs[1]


def test_statistics_agree_with_the_history() -> None:
    env = StatefulTradingEnv(market(), settings(cost_config={}), FEATURES)
    results = play(env, pinned_actions(env))
    history, totals = env.history, env.statistics()
    assert totals["steps"] == len(results) == len(history) - 1
    assert totals["total_return"] == pytest.approx(history["equity"].iloc[-1] / 1000 - 1)
    assert totals["max_drawdown"] == pytest.approx((1 - history["equity"] / history["equity"].cummax()).max())
    for key in ("reward", "turnover", "fees", "slippage", "costs", "interest", "borrow", "funding", "dividends"):
        assert totals[key] == pytest.approx(history[key].sum()), key
    assert totals["n_fills"] == len(env.fills) > 0
    assert results[-1][4]["return"] == pytest.approx(totals["reward"])
    profit = totals["realized_pnl"] + totals["unrealized_pnl"] - env.trades.query("status == 'open'")["entry_fee"].sum()
    assert profit == pytest.approx(env.equity - 1000)


def test_step_returns_plain_python_numbers() -> None:
    env = StatefulTradingEnv(market(), settings(reward_config={"type": "sharpe_ratio"}), FEATURES)
    for _, reward, terminated, truncated, info in play(env, pinned_actions(env)):
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
        numbers = ("equity", "cash", "turnover", "costs", "fees", "carry")
        assert [type(info[key]) for key in ("bar", "margin_call", *numbers)] == [int, bool] + [float] * 6
        assert ("return" in info) == ("length" in info) == (terminated or truncated)
        assert info["timestamp"] == env.market.timestamps[info["bar"]]
    assert (type(info["return"]), type(info["length"])) == (float, int)
    assert "episode" not in info, "that key is gymnasium's"


def test_7_5_a_new_episode_starts_afresh() -> None:
    env = StatefulTradingEnv(market(), settings(reward_config={"type": "sharpe_ratio"}), FEATURES)
    first = play(env, pinned_actions(env))
    history = env.history
    second = play(env, pinned_actions(env))
    for (one, *rest_one), (two, *rest_two) in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
        assert rest_one[:3] == rest_two[:3]
    pd.testing.assert_frame_equal(env.history, history)
    _, info = env.reset()
    assert (info["equity"], info["turnover"], info["costs"]) == (1000.0, 0.0, 0.0)
    assert (len(env.history), len(env.fills), len(env.trades)) == (1, 0, 0)


def test_7_6_the_reward_is_that_of_the_configuration() -> None:
    config = settings(
        reward_config={
            "type": "fast_profit_reward",
            "reward_scaling": 1e4,
            "kwargs": {"turnover_penalty": 0.1},
        }
    )
    env = StatefulTradingEnv(hand_made(CLOSES, OPENS), config)
    env.reset()
    _, reward, *_ = env.step_orders([10.0])
    gain = 10 * 1.5 / 1000
    assert reward == pytest.approx(1e4 * (math.tanh(100 * gain) - 0.1 * 0.105))
    with pytest.raises(ConfigError, match="did you mean"):
        StatefulTradingEnv(hand_made(CLOSES, OPENS), settings(reward_config={"type": "sharp_ratio"}))


def test_a_copy_goes_on_alone() -> None:
    env = StatefulTradingEnv(
        market(), settings(reward_config={"type": "sharpe_ratio", "kwargs": {"window": 9}}), FEATURES
    )
    env.reset()
    act = pinned_actions(env)
    for _ in range(20):
        env.step(act())
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    actions = [act() for _ in range(20)]
    expected = [env.step(action)[1] for action in actions]
    for twin in copies:
        assert twin.bar == env.bar - 20
        assert [twin.step(action)[1] for action in actions] == expected
        pd.testing.assert_frame_equal(twin.history, env.history)
        pd.testing.assert_frame_equal(twin.trades, env.trades)


# --- the old name, and both contracts -----------------------------------------------------------------------


def test_trading_env_is_the_same_under_its_old_name(tmp_path: Path) -> None:
    path = tmp_path / "env.json"
    path.write_text(json.dumps(settings()))
    plain = StatefulTradingEnv(market(), settings(), FEATURES)
    expected = [reward for _, reward, *_ in play(plain, pinned_actions(plain))]
    forms: list[tuple[Any, Any]] = [
        (market(), EnvConfig.model_validate(settings())),
        (frame(), settings()),
        (market(), str(path)),
        (market(), path),
    ]
    for data, cfg in forms:
        env = TradingEnv(data=data, cfg=cfg, features=FEATURES)
        assert isinstance(env, StatefulTradingEnv)
        assert [reward for _, reward, *_ in play(env, pinned_actions(env))] == expected


def test_trading_env_takes_its_features_from_the_configuration() -> None:
    env = TradingEnv(frame(), settings(features=FEATURES))
    assert env.features == tuple(FEATURES)
    with pytest.raises(BatchenvError):
        TradingEnv(frame(), settings(features=["momentun_20"]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", MODES)
def test_gymnasium_check_env(mode: str) -> None:
    from gymnasium.utils.env_checker import check_env

    config = settings(action_config=MODES[mode], observation_config={"unrealized_pnl": True, "time_left": True})
    check_env(StatefulTradingEnv(ragged_market(), config, FEATURES), skip_render_check=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", MODES)
def test_stable_baselines3_check_env(mode: str) -> None:
    from stable_baselines3.common.env_checker import check_env

    config = settings(action_config=MODES[mode], episode_config={"length": 30, "random_start": True})
    check_env(StatefulTradingEnv(ragged_market(), config, FEATURES))


def test_package_names_are_lazy_and_complete() -> None:
    import stateful

    assert set(dir(stateful)) == set(stateful.__all__)
    assert stateful.TradingEnv is TradingEnv
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = stateful.Nothing


def test_permuting_the_symbols_permutes_the_account() -> None:
    order = [2, 0, 3, 1]
    df = frame()
    renamed = df.assign(symbol=df["symbol"].map({"C": "A", "A": "B", "D": "C", "B": "D"}))
    runs = []
    actions = np.random.default_rng(0).uniform(0, 1, (200, 4)).astype(np.float32)
    for data, columns in ((df, [0, 1, 2, 3]), (renamed, order)):
        env = StatefulTradingEnv(data, settings(cost_config={}, action_config=MODES["weights"]))
        env.reset()
        while env.bar < env.end:
            env.step(actions[env.bar][columns])
        runs.append((env.history[["equity", "cash", "turnover"]].to_numpy(), env.holdings[np.argsort(columns)]))
    np.testing.assert_allclose(runs[0][0], runs[1][0], rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(runs[0][1], runs[1][1], rtol=1e-9)
