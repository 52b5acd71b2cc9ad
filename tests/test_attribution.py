"""Attribution: by hand, against the FIFO trade list, and exact in every drawn world."""

from __future__ import annotations

import json
import math
import random
from functools import cache

import numpy as np
import pandas as pd
import pytest

from batchenv import EnvConfig
from batchenv.errors import RunError
from stateful import BackTesting, StatefulTradingEnv
from stateful.evaluation.attribution import ACCOUNT, KEYS, KINDS, Attribution, attribute
from tests.markets import market
from tests.proof.scenarios import scenario
from tests.stateful.policies import ConstantAgent, RandomAgent
from tests.stateful.worlds import hand_made, settings, started

DAYS = pd.date_range("2020-01-06", periods=4)
"""Four days in a row: a yearly rate of 0.365 is 0.001 a night (rule 1.5)."""


def explain(env: StatefulTradingEnv) -> Attribution:
    funding = env.config.carry_config.funding_column
    return attribute(env.history, env.fills, env.market, env.portfolio.terms, funding_column=funding)


def amounts(found: Attribution, *keys: str) -> dict[object, float]:
    """Return every total that is not 0."""
    return {name: total for name, total in found.by(*keys)["total"].items() if total}


# --- by hand --------------------------------------------------------------------------------------------------


def test_a_position_turned_over_within_a_bar_by_hand() -> None:
    data = hand_made([[100.0], [110.0], [120.0], [90.0]], [[100.0], [104.0], [115.0], [100.0]], dates=DAYS)
    env = started(
        data,
        cost_config={"fee_rate": 0.01, "slippage_rate": 0.02},
        margin_config={"allow_short": True, "leverage": 2.0},
        carry_config={"cash_rate": 0.365, "borrow_rate": 0.365},
    )
    for shares in (5.0, -8.0, 0.0):
        env.step_orders([shares])
    found = explain(env)
    # Bought 5 at 104 (106.08 with slippage), marked at 110; 5 sold and 3 sold short at 115 (112.70), marked at 120.
    assert amounts(found, "side", "kind") == pytest.approx(
        {
            ("long", "price"): 5 * (110 - 104) + 5 * (115 - 110),
            ("short", "price"): -3 * (120 - 115) - 3 * (90 - 120),
            ("long", "fees"): -0.01 * 5 * 106.08 - 0.01 * 5 * 112.70,
            ("short", "fees"): -0.01 * 3 * 112.70,
            ("long", "slippage"): -0.02 * 5 * 104 - 0.02 * 5 * 115,
            ("short", "slippage"): -0.02 * 3 * 115,
            ("short", "borrow"): -0.001 * 3 * 120,
            ("cash", "interest"): 0.001 * (1000 + 465.296 + 1358.345296),
        },
        rel=1e-12,
    )
    assert found.parts["bar"].unique().tolist() == [1, 2, 3]
    assert found.parts.loc[found.parts["bar"] == 3, "timestamp"].eq(DAYS[3]).all()
    bars = found.by("timestamp")
    assert bars["price"].tolist() == pytest.approx([30, 25 - 15, 90])
    assert bars["total"].tolist() == pytest.approx(np.diff(env.history["equity"]).tolist(), rel=1e-12)


@pytest.mark.parametrize("dividends", ["cash", "reinvest"])
def test_a_split_a_dividend_and_a_delisting_by_hand(dividends: str) -> None:
    nan = np.nan
    data = hand_made(
        [[100.0, 20.0], [50.0, 22.0], [52.0, nan], [51.0, nan]],
        dates=DAYS,
        gone="B",
        splits=[[1.0, 1.0], [2.0, 1.0], [1.0, 1.0], [1.0, 1.0]],
        dividends=[[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]],
    )
    env = started(
        data, fill="close", carry_config={"dividends": dividends}, execution_config={"delisting_haircut": 0.5}
    )
    for orders in ([2.0, 10.0], [0.0, 0.0], [0.0, 0.0]):
        env.step_orders(orders)
    found = explain(env)
    held = 4.0 if dividends == "cash" else 4.0 * 50 / 49  # rule 4.3
    paid = {("A", "dividends"): 4.0 * 1.0} if dividends == "cash" else {}
    assert amounts(found, "symbol", "kind") == pytest.approx(
        {
            ("A", "price"): (4 * 50 - 2 * 100) + (held * 52 - 4 * 50) + held * (51 - 52),
            ("B", "price"): 10 * (22 - 20),
            ("B", "delisting"): -10 * 22 * 0.5,
            **paid,
        },
        rel=1e-12,
    )


def test_funding_and_margin_interest_by_hand() -> None:
    data = hand_made([[100.0, 50.0]] * 4, dates=DAYS)
    env = started(
        data,
        fill="close",
        margin_config={"allow_short": True, "leverage": 3.0},
        carry_config={"margin_rate": 0.365, "cash_rate": 0.73, "funding_rate": {"A": 0.365, "B": 0.73}},
    )
    for orders in ([12.0, -1.0], [-12.0, 0.0], [0.0, 0.0]):
        env.step_orders(orders)
    found = explain(env)
    borrowed = 1000 - 1200 + 50
    then = 1000 + 50 + 0.001 * (borrowed - 1200) + 0.002 * 50
    last = then + 0.002 * then + 0.002 * 50
    assert amounts(found, "symbol", "kind") == pytest.approx(
        {
            ("A", "funding"): -0.001 * 1200,
            ("B", "funding"): 3 * 0.002 * 50,
            (ACCOUNT, "margin_interest"): 0.001 * borrowed,
            (ACCOUNT, "interest"): 0.002 * then + 0.002 * last,
        },
        rel=1e-12,
    )
    assert found.by("side").loc["short", "funding"] == pytest.approx(0.3, rel=1e-12)


def test_a_stop_in_the_bar_of_the_purchase_by_hand() -> None:
    data = hand_made([[100.0], [96.0], [96.0]], [[100.0]] * 3, high=[[100.0]] * 3, low=[[100.0], [90.0], [95.0]])
    env = started(data, execution_config={"stop_loss": 0.05}, cost_config={"fee_rate": 0.01, "slippage_rate": 0.0})
    env.step_orders([5.0])
    found = explain(env)
    assert amounts(found, "kind") == pytest.approx({"price": 5 * (95 - 100), "fees": -5 - 4.75})


# --- drawn worlds ---------------------------------------------------------------------------------------------


@cache
def drawn(seed: int) -> tuple[StatefulTradingEnv, Attribution]:
    """Play a world of ``tests/proof`` to its end, once, and explain it."""
    r = random.Random(seed)
    world = scenario(r, n_bars=50, n_symbols=r.randrange(1, 5), n_envs=1, steps=50)
    account = world.config.portfolio_config.model_dump() | {"maintain_history": True}
    rules = EnvConfig.model_validate(world.config.model_dump() | {"portfolio_config": account})
    env = StatefulTradingEnv(world.market, rules, seed=world.seed, lane_parameters=world.lane_parameters)
    env.reset()
    for action in world.actions:
        _, _, terminated, truncated, _ = env.step(action[0])
        if terminated or truncated:
            break
    return env, explain(env)


def test_the_parts_sum_to_the_total_in_every_drawn_world() -> None:
    """Of 240 worlds, and more until there was one of each kind: few hold what is delisted."""
    seen: set[tuple[str, str]] = set()
    for seed in range(2_000):
        if seed >= 240 and {kind for _, kind in seen} == set(KINDS):
            break
        env, found = drawn(seed)
        history = env.history
        seen |= set(found.parts[["side", "kind"]].itertuples(index=False, name=None))
        handled = history["equity"].abs().max() + (history["turnover"] * history["equity"].shift(1)).abs().max()
        slack = 1e-12 * handled * len(history)
        assert found.residual <= slack, seed
        total = math.fsum(found.parts["amount"])
        assert total == pytest.approx(history["equity"].iloc[-1] - history["equity"].iloc[0], rel=0, abs=slack)
        for key in KEYS if seed % 10 == 0 else ():
            assert found.by(key)["total"].sum() == pytest.approx(found.change, rel=0, abs=slack), (seed, key)
        bars = found.by("timestamp")
        assert np.abs(bars["total"].to_numpy() - np.diff(history["equity"])).max() <= slack
        later = history.iloc[1:]
        for kind, recorded in (
            (bars["fees"], -later["fees"]),
            (bars["slippage"], -later["slippage"]),
            (bars["interest"] + bars["margin_interest"], later["interest"]),
            (bars["borrow"], later["borrow"]),
            (bars["funding"], later["funding"]),
            (bars["dividends"], later["dividends"]),
        ):
            assert np.abs(kind.to_numpy() - recorded.to_numpy()).max() <= slack, seed
    sides = {side for side, _ in seen}
    assert sides == {"long", "short", "cash"}
    assert {kind for _, kind in seen} == set(KINDS)


def test_each_side_of_each_symbol_agrees_with_the_trades_first_in_first_out() -> None:
    """Lots know their side by themselves, through flips, splits and stops; their profits are without rule 4."""
    compared = 0
    for seed in range(120):
        env, found = drawn(seed)
        trades = env.trades
        slack = 1e-11 * (env.history["equity"].abs().max() + env.fills["notional"].sum())
        mine = found.parts[found.parts["kind"].isin(["price", "fees", "slippage", "delisting"])]
        mine = mine.astype({"symbol": str, "side": str}).groupby(["symbol", "side"])["amount"].sum()
        theirs = trades.groupby(["symbol", "side"])["pnl"].sum()
        assert set(mine.index) <= set(theirs.index), seed
        for place, profit in theirs.items():
            assert mine.get(place, 0.0) == pytest.approx(profit, rel=0, abs=slack), (seed, place)
            compared += 1
    assert compared > 250


# --- views ----------------------------------------------------------------------------------------------------


def test_months_and_years_are_changes_of_equity() -> None:
    env = StatefulTradingEnv(market(3), settings(cost_config={"fee_rate": 0.002}), ["momentum_5"], seed=0)
    results = BackTesting(RandomAgent(4), env, {"vectorbt": False}).run()
    found, equity = results.attribution, results.equity
    assert results.attribution is found
    for key, frequency in (("month", "M"), ("year", "Y")):
        ends = equity.groupby(equity.index.to_period(frequency)).last()
        changes = ends.diff().fillna(ends.iloc[0] - equity.iloc[0])
        pd.testing.assert_series_equal(found.by(key)["total"], changes, check_names=False, check_freq=False)
    assert found.by("symbol")["return"].sum() == pytest.approx(results.metrics["total_return"], rel=1e-9)
    assert list(found.by("symbol").index) == [*results.market.symbols, ACCOUNT]
    assert list(found.by("symbol", "side").columns) == [*KINDS, "total", "return"]


def test_an_account_that_did_nothing_has_rows_of_nothing() -> None:
    env = StatefulTradingEnv(market(3), settings(), ["momentum_5"], seed=0)
    found = BackTesting(ConstantAgent([0, 0, 0, 0]), env, {"vectorbt": False}).run().attribution
    assert found.parts.empty
    assert found.residual == found.change == 0
    assert (found.by("month").to_numpy() == 0).all()
    assert len(found.by("month")) >= 5
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_dict_is_json_and_adds_up() -> None:
    env, found = drawn(3)
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    slack = 1e-9 * env.history["equity"].abs().max()
    assert plain["change"] == env.history["equity"].iloc[-1] - env.history["equity"].iloc[0]
    for key in ("by_kind", "by_year", "by_month"):
        assert sum(plain[key].values()) == pytest.approx(plain["change"], abs=slack)
    for key in ("by_side", "by_symbol"):
        assert sum(row["total"] for row in plain[key].values()) == pytest.approx(plain["change"], abs=slack)


@pytest.mark.parametrize("keys", [(), ("day",), ("symbol", "symbol")])
def test_unknown_keys_are_refused(keys: tuple[str, ...]) -> None:
    env = started(hand_made([[1.0], [2.0], [3.0]]), fill="close")
    env.step_orders([1.0])
    with pytest.raises(ValueError, match="keys: got"):
        explain(env).by(*keys)


def test_tables_that_do_not_belong_together_are_refused() -> None:
    env = started(hand_made([[10.0], [11.0], [12.0], [13.0]]), fill="close", cost_config={"fee_rate": 0.01})
    for shares in (5.0, 2.0, -3.0):
        env.step_orders([shares])
    history, fills, terms = env.history, env.fills, env.portfolio.terms
    with pytest.raises(RunError, match="bar 2, symbol 'A': fills"):
        attribute(history, fills.drop(index=1), env.market, terms)
    with pytest.raises(RunError, match="differ from the change of equity by 1"):
        attribute(history, fills.assign(fee=fills["fee"] + [0, 1, 0]), env.market, terms)
    wrong = history.assign(equity=history["equity"] + [0, 0, 1e-4, 0])
    with pytest.raises(RunError, match="most at bar"):
        attribute(wrong, fills, env.market, terms)
