"""Rule 4 of docs/accounting.md: interest, borrow, funding, splits, dividends, delisting, in the order of the text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from batchenv.market import MarketData
from stateful import StatefulTradingEnv
from tests.stateful.worlds import FREE, hand_made, started

NAN = math.nan
WEEKEND = 3 / 365
FRIDAY = ["2024-01-05", "2024-01-08", "2024-01-09"]
MARGIN = {"allow_short": True, "leverage": 4.0}
FILLS = ["next_open", "next_close", "close"]


def weekend(price: float = 20.0, **fields: Any) -> MarketData:
    """Three bars of A at one price: Friday, Monday, Tuesday."""
    return hand_made([[price]] * 3, [[price]] * 3, dates=FRIDAY, **fields)


# --- 1.5 and 4.1 --------------------------------------------------------------------------------------------


def test_1_5_time_is_counted_in_years_of_365_days() -> None:
    data = hand_made([[1.0]] * 2, dates=["2024-01-05 10:00", "2024-01-05 11:00"])
    env = started(data, fill="close", carry_config={"cash_rate": 0.5})
    env.step_orders([0.0])
    assert env.cash == pytest.approx(1000 + 1000 * 0.5 / 8760, rel=1e-12)


def test_4_1_example_of_the_text_interest() -> None:
    portfolio = {"initial_cash": 10_000.0, "maintain_history": True}
    env = started(weekend(), carry_config={"cash_rate": 0.04}, portfolio_config=portfolio)
    env.step_orders([0.0])
    assert env.cash == pytest.approx(10_000 + 3.2877, abs=5e-5)
    assert env.history["interest"].tolist() == pytest.approx([0.0, 10_000 * 0.04 * WEEKEND])


def test_4_1_example_of_the_text_borrow() -> None:
    carry = {"borrow_rate": {"A": 0.10}}
    env = started(weekend(), fill="close", margin_config=MARGIN, carry_config=carry)
    env.step_orders([-100.0])
    assert env.cash == pytest.approx(1000 + 2000 - 1.6438, abs=5e-5)
    assert env.history["borrow"].iloc[-1] == pytest.approx(-2000 * 0.10 * WEEKEND)


def test_4_1_a_long_pays_no_borrow_cost() -> None:
    env = started(weekend(), fill="close", margin_config=MARGIN, carry_config={"borrow_rate": 0.5})
    env.step_orders([10.0])
    assert env.cash == 800.0


def test_4_1_borrowed_cash_costs_the_margin_rate() -> None:
    carry = {"cash_rate": 0.5, "margin_rate": 0.08}
    env = started(weekend(), fill="close", margin_config=MARGIN, carry_config=carry)
    env.step_orders([150.0])
    interest = -2000 * 0.08 * WEEKEND
    assert env.cash == pytest.approx(-2000 + interest)
    assert env.statistics()["interest"] == pytest.approx(interest)


@pytest.mark.parametrize("shares", [50.0, -50.0])
def test_4_1_funding_is_paid_by_longs_and_received_by_shorts(shares: float) -> None:
    data = weekend(columns={"funding": np.array([[9.0], [0.001], [NAN]])})
    carry = {"funding_rate": 0.1, "funding_column": "funding"}
    env = started(data, fill="close", margin_config=MARGIN, carry_config=carry)
    env.step_orders([shares])
    value = shares * 20
    assert env.history["funding"].iloc[-1] == pytest.approx(-value * (0.1 * WEEKEND + 0.001))
    env.step_orders([0.0])
    assert env.history["funding"].iloc[-1] == pytest.approx(-value * 0.1 / 365)


def test_4_1_all_four_use_the_account_before_any_of_them() -> None:
    carry = {"cash_rate": 0.1, "borrow_rate": 0.2, "funding_rate": 0.3}
    env = started(weekend(), fill="close", margin_config=MARGIN, carry_config=carry)
    env.step_orders([-50.0])
    cash = 2000 + (2000 * 0.1 - 1000 * 0.2 + 1000 * 0.3) * WEEKEND
    assert env.cash == pytest.approx(cash, rel=1e-12)


@pytest.mark.parametrize(("fill", "cash"), [("close", 0.0), ("next_open", 1000.0), ("next_close", 1000.0)])
def test_4_the_night_comes_after_a_fill_at_the_close_and_before_the_others(fill: str, cash: float) -> None:
    env = started(weekend(), fill=fill, carry_config={"cash_rate": 0.04})
    env.step_orders([50.0])
    assert env.statistics()["interest"] == pytest.approx(cash * 0.04 * WEEKEND)


# --- 4.2 and 4.3 --------------------------------------------------------------------------------------------


def corporate(split: float, dividend: float, before: float = 50.0, after: float = 25.0) -> MarketData:
    """Four bars of A; the third begins with a split and a dividend."""
    closes = [[before], [before], [after], [after]]
    return hand_made(
        closes,
        closes,
        splits=[[1.0], [1.0], [split], [1.0]],
        dividends=[[0.0], [0.0], [dividend], [0.0]],
    )


@pytest.mark.parametrize("fill", FILLS)
def test_4_3_example_of_the_text_split_then_dividend(fill: str) -> None:
    portfolio = {"initial_cash": 5000.0, "maintain_history": True}
    env = started(corporate(2.0, 0.5), fill=fill, portfolio_config=portfolio)
    env.step_orders([100.0])
    env.step_orders([0.0])
    assert (env.holdings.tolist(), env.cash) == ([200.0], 100.0)
    assert env.portfolio.positions.average_price[0] == 25.0
    assert env.history["dividends"].tolist() == [0.0, 0.0, 100.0]
    assert env.equity == 5100.0


@pytest.mark.parametrize("fill", FILLS)
def test_4_3_example_of_the_text_reinvested(fill: str) -> None:
    portfolio = {"initial_cash": 5000.0, "maintain_history": True}
    carry = {"dividends": "reinvest"}
    env = started(corporate(2.0, 0.5), fill=fill, portfolio_config=portfolio, carry_config=carry)
    env.step_orders([100.0])
    env.step_orders([0.0])
    assert env.holdings[0] == pytest.approx(204.0816, abs=5e-5)
    assert env.holdings[0] == pytest.approx(200 * 25 / 24.5)
    assert (env.cash, env.statistics()["dividends"]) == (0.0, 0.0)
    assert env.portfolio.positions.average_price[0] == pytest.approx(25 * 24.5 / 25)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("policy", ["cash", "reinvest"])
def test_4_2_and_4_3_scale_a_pending_order(fill: str, policy: str) -> None:
    env = started(corporate(2.0, 0.5), fill=fill, carry_config={"dividends": policy})
    env.step_orders([0.0])
    env.step_orders([4.0])
    expected = 8 * (25 / 24.5 if policy == "reinvest" else 1.0)
    assert env.holdings[0] == pytest.approx(expected)
    received = 8 * 0.5 if (fill, policy) == ("close", "cash") else 0.0  # the others buy after the ex date
    assert env.statistics()["dividends"] == received


def test_4_3_a_short_pays_the_dividend() -> None:
    env = started(corporate(1.0, 0.5, after=50.0), fill="close", margin_config=MARGIN)
    env.step_orders([-10.0])
    env.step_orders([0.0])
    assert env.history["dividends"].iloc[-1] == -5.0
    env = started(
        corporate(1.0, 0.5, after=50.0), fill="close", margin_config=MARGIN, carry_config={"dividends": "reinvest"}
    )
    env.step_orders([-10.0])
    env.step_orders([0.0])
    assert env.holdings[0] == pytest.approx(-10 * 50 / 49.5)


def test_4_2_a_trade_over_a_split_earns_what_its_prices_say() -> None:
    env = started(
        corporate(2.0, 0.0), fill="close", portfolio_config={"initial_cash": 5000.0, "maintain_history": True}
    )
    env.step_orders([100.0])
    env.step_orders([0.0])
    env.step_orders([-200.0])
    (trade,) = env.trades.to_dict("records")
    assert (trade["shares"], trade["entry_price"], trade["exit_price"], trade["pnl"]) == (200.0, 25.0, 25.0, 0.0)


def test_4_1_to_4_3_come_in_their_order() -> None:
    # Interest is on the cash before the dividend, the dividend on the shares after the split.
    carry = {"cash_rate": 0.365}
    env = started(corporate(2.0, 0.5), fill="close", carry_config=carry)
    env.step_orders([10.0])
    cash, days = env.cash, 1
    env.step_orders([0.0])
    assert env.cash == pytest.approx(cash * (1 + 0.001 * days) + 20 * 0.5)


def test_splits_and_dividends_of_the_first_bar_of_a_symbol_touch_nothing() -> None:
    closes = [[10.0, NAN], [10.0, NAN], [10.0, 5.0], [10.0, 5.0]]
    env = started(
        hand_made(closes, closes, splits=[[1.0, 1.0]] * 2 + [[1.0, 2.0], [1.0, 1.0]]),
        carry_config={"dividends": "reinvest"},
    )
    for _ in range(3):
        env.step_orders([1.0, 1.0])
    assert env.holdings.tolist() == [3.0, 1.0]


# --- 4.4 ----------------------------------------------------------------------------------------------------

CLOSES = [[10.0, 10.0], [10.0, 8.0], [10.0, NAN], [10.0, NAN]]
GONE, GONE_WITH_OPENS = hand_made(CLOSES, gone="B"), hand_made(CLOSES, CLOSES, gone="B")


@pytest.mark.parametrize("fill", FILLS)
def test_4_4_example_of_the_text_delisting(fill: str) -> None:
    costs = {**FREE, "fee_minimum": 0.0}
    env = started(GONE_WITH_OPENS, fill=fill, execution_config={"delisting_haircut": 0.3}, cost_config=costs)
    env.step_orders([0.0, 10.0])
    cash = env.cash
    env.step_orders([0.0, 0.0])
    assert (env.holdings.tolist(), env.cash) == ([0.0, 0.0], pytest.approx(cash + 56))
    last = env.history.iloc[-1]
    assert (last["delisting"], last["fees"], last["turnover"]) == (pytest.approx(56), 0.0, 0.0)
    fill_row, trade = env.fills.iloc[-1], env.trades.iloc[-1]
    assert (fill_row["kind"], fill_row["shares"], fill_row["fee"]) == ("delisting", -10.0, 0.0)
    assert (fill_row["decision_bar"], fill_row["fill_bar"]) == (1, 2)
    assert (trade["reason"], trade["status"], trade["exit_price"]) == ("delisting", "closed", pytest.approx(5.6))
    assert env.statistics()["n_fills"] == 1


def test_4_4_a_short_pays() -> None:
    env = started(GONE, fill="close", execution_config={"delisting_haircut": 0.25}, margin_config={"allow_short": True})
    env.step_orders([0.0, -10.0])
    env.step_orders([0.0, 0.0])
    assert (env.holdings[1], env.cash) == (0.0, 1000 + 100 - 60)


def test_4_4_a_pending_order_of_a_delisted_symbol_is_dropped() -> None:
    env = started(GONE_WITH_OPENS)
    env.step_orders([0.0, 10.0])
    env.step_orders([0.0, 5.0])
    assert (env.holdings[1], env.cash) == (0.0, 900.0 + 80.0 + 20.0)


def test_4_4_a_close_fill_at_the_last_bar_is_exchanged_in_the_same_night() -> None:
    env = started(GONE, fill="close", execution_config={"delisting_haircut": 0.5})
    env.step_orders([0.0, 0.0])
    env.step_orders([0.0, 10.0])
    assert env.fills["kind"].tolist() == ["order", "delisting"]
    assert env.cash == 1000 - 80 + 40


def test_4_4_the_last_bar_of_the_market_is_no_delisting() -> None:
    env = started(hand_made([[10.0], [10.0], [10.0]]), fill="close")
    for _ in range(2):
        env.step_orders([10.0])
    assert env.holdings[0] == 20.0


def test_4_4_a_pause_is_no_delisting() -> None:
    closes = [[10.0, 10.0], [10.0, NAN], [10.0, NAN], [10.0, 10.0]]
    env = started(hand_made(closes), fill="close")
    env.step_orders([0.0, 10.0])
    env.step_orders([0.0, 0.0])
    assert env.holdings[1] == 10.0


# --- metamorphic --------------------------------------------------------------------------------------------


def random_walk(seed: int, n_bars: int = 60, split_at: int | None = None) -> MarketData:
    """Three symbols with volumes; B may be split 2 for 1 at a bar, and has half its prices from then on."""
    rng = np.random.default_rng(seed)
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.03, (n_bars, 3)), axis=0))
    start = close * np.exp(rng.normal(0, 0.02, (n_bars, 3)))
    high = np.maximum(close, start) * 1.01
    low = np.minimum(close, start) * 0.99
    volume = rng.integers(100, 10_000, (n_bars, 3)).astype(float)
    splits = np.ones((n_bars, 3))
    if split_at is not None:
        for prices in (close, start, high, low):
            prices[split_at:, 1] /= 2
        volume[split_at:, 1] *= 2
        splits[split_at, 1] = 2.0
    bars = {"high": high, "low": low, "volume": volume, "splits": splits}
    return hand_made(close.tolist(), start.tolist(), **bars)


RICH: dict[str, Any] = {
    "margin_config": {"allow_short": True, "leverage": 2.0, "maintenance_margin": 0.3, "net_limit": 1.5},
    "cost_config": {"fee_rate": 0.001, "fee_minimum": 1.0, "slippage_rate": 0.001, "impact_coefficient": 0.1},
    "execution_config": {"participation_limit": 0.3, "stop_loss": 0.08, "take_profit": 0.1, "min_notional": 5.0},
    "carry_config": {"cash_rate": 0.02, "margin_rate": 0.07, "borrow_rate": 0.04},
}


def equities(data: MarketData, **changes: Any) -> list[float]:
    env: StatefulTradingEnv = started(
        data, **{**RICH, "action_config": {"mode": "weights", "max_weight": 1.5}, **changes}
    )
    actions = np.random.default_rng(5).uniform(-1, 1, (data.n_bars, 3))
    while env.bar < env.end:
        _, _, terminated, *_ = env.step(actions[env.bar])
        if terminated:
            break
    assert len(env.fills) > 60
    assert {"order", "stop_loss", "take_profit"} <= set(env.fills["kind"])
    return env.history["equity"].tolist()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("split_at", [1, 20, 37, 59])
def test_4_2_a_split_changes_nothing_but_the_count_of_shares(fill: str, split_at: int) -> None:
    plain = equities(random_walk(3), fill=fill)
    assert equities(random_walk(3, split_at=split_at), fill=fill) == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("fill", FILLS)
def test_all_money_in_another_currency_is_the_same_account(fill: str) -> None:
    data, rate = random_walk(3), 7.3
    dearer = MarketData(
        data.symbols,
        data.timestamps,
        data.close * rate,
        data.open * rate,
        data.high * rate,
        data.low * rate,
        data.volume,
    )  # type: ignore[operator]
    changes = {
        "cost_config": {**RICH["cost_config"], "fee_minimum": rate},
        "execution_config": {**RICH["execution_config"], "min_notional": 5 * rate},
        "portfolio_config": {"initial_cash": 1000 * rate, "maintain_history": True},
    }
    plain = np.array(equities(data, fill=fill))
    assert equities(dearer, fill=fill, **changes) == pytest.approx((plain * rate).tolist(), rel=1e-9)
