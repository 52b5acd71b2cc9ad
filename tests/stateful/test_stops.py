"""Rule 5 of docs/accounting.md: where stops and targets close a position, and what the fill costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchenv.errors import ConfigError
from batchenv.market import MarketData
from stateful.stops import Bar, Exit, find_exit
from tests.stateful.worlds import FREE, hand_made, started

NAN = math.nan
FILLS = ["next_open", "next_close", "close"]
BOTH = {"stop_loss": 0.05, "take_profit": 0.05}


def bars(*rows: tuple[float, float, float, float], volume: float = 1e6) -> MarketData:
    """Market of A with open, high, low, close of each bar; the first is 100 throughout."""
    table = [(100.0,) * 4, *rows]
    start, high, low, close = ([[row[i]] for row in table] for i in range(4))
    return hand_made(close, start, high=high, low=low, volume=[[volume]] * len(table))


QUIET = (100.0, 101.0, 99.0, 100.0)


# --- 5.1 and 5.2 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bar", "price"), [((97.0, 106.0, 94.0, 100.0), 95.0), ((90.0, 92.0, 88.0, 91.0), 90.0)], ids=["tie", "gap"]
)
def test_5_2_example_of_the_text(bar: tuple[float, float, float, float], price: float) -> None:
    env = started(bars(QUIET, bar), fill="close", execution_config=BOTH)
    env.step_orders([5.0])
    env.step_orders([0.0])
    assert (env.holdings[0], env.cash) == (0.0, 500 + 5 * price)
    assert env.fills["kind"].tolist() == ["order", "stop_loss"]
    assert env.trades["reason"].tolist() == ["stop_loss"]


LONG_CASES = [
    ((95.0, 99.0, 94.0), Exit(95.0, "stop_loss")),
    ((90.0, 120.0, 80.0), Exit(90.0, "stop_loss")),
    ((105.0, 106.0, 90.0), Exit(105.0, "take_profit")),
    ((110.0, 120.0, 80.0), Exit(110.0, "take_profit")),
    ((100.0, 106.0, 95.0), Exit(95.0, "stop_loss")),
    ((100.0, 105.0, 95.5), Exit(105.0, "take_profit")),
    ((100.0, 104.9, 95.1), None),
]


@pytest.mark.parametrize(("prices", "expected"), LONG_CASES)
def test_5_2_the_first_that_holds_closes_a_long(prices: tuple[float, float, float], expected: Exit | None) -> None:
    assert find_exit(True, 100.0, Bar(*prices), 0.05, 0.05) == expected


@pytest.mark.parametrize(("prices", "expected"), LONG_CASES)
def test_5_2_a_short_is_the_mirror_image(prices: tuple[float, float, float], expected: Exit | None) -> None:
    start, high, low = (200.0 - price for price in prices)
    found = find_exit(False, 100.0, Bar(start, low, high), 0.05, 0.05)
    assert found == (None if expected is None else Exit(200.0 - expected.price, expected.kind))


prices = st.floats(1.0, 200.0)


@given(st.booleans(), prices, st.tuples(prices, prices, prices))
def test_5_2_without_a_stop_or_a_target_nothing_is_reached(
    long: bool, average: float, three: tuple[float, ...]
) -> None:
    low, start, high = sorted(three)
    assert find_exit(long, average, Bar(start, high, low), None, None) is None
    stopped, taken = (
        find_exit(long, average, Bar(start, high, low), loss, gain) for loss, gain in ((0.1, None), (None, 0.1))
    )
    assert stopped is None or stopped.kind == "stop_loss"
    assert taken is None or taken.kind == "take_profit"
    for found in (stopped, taken):
        assert found is None or low <= found.price <= high


def test_5_1_a_symbol_without_a_bar_is_not_watched() -> None:
    data = bars(QUIET, (NAN,) * 4, (80.0, 80.0, 80.0, 80.0))
    env = started(data, fill="close", execution_config=BOTH)
    env.step_orders([5.0])
    env.step_orders([0.0])
    assert env.holdings[0] == 5.0
    env.step_orders([0.0])
    assert (env.holdings[0], env.cash) == (0.0, 900.0)


def test_5_1_stops_are_measured_from_the_average_price_paid() -> None:
    # Bought at 100 with 2% slippage: a = 102, stop at 96.9.
    env = started(
        bars(QUIET, (100.0, 101.0, 97.0, 97.0), (97.0, 97.0, 96.9, 97.0)),
        fill="close",
        execution_config={"stop_loss": 0.05},
        cost_config={"fee_rate": 0.0, "slippage_rate": 0.02},
    )
    env.step_orders([5.0])
    env.step_orders([0.0])
    assert env.holdings[0] == 5.0
    env.step_orders([0.0])
    assert env.holdings[0] == 0.0
    assert env.fills["fill_price"].iloc[-1] == pytest.approx(96.9)
    assert env.fills["price"].iloc[-1] == pytest.approx(96.9 * 0.98)


# --- 5.3 ----------------------------------------------------------------------------------------------------


def test_5_3_no_limit_lot_or_smallest_order_holds_a_stop_back_and_impact_counts() -> None:
    execution = {"stop_loss": 0.05, "participation_limit": 0.01, "lot_size": 10.0, "min_notional": 900.0}
    costs = {**FREE, "impact_coefficient": 0.1, "fee_minimum": 7.0}
    data = hand_made([[100.0], [100.0], [90.0]], [[100.0]] * 3, high=[[100.0]] * 3, low=[[100.0], [100.0], [90.0]],
                     volume=[[1000.0], [1000.0], [40.0]])  # fmt: skip
    env = started(data, fill="close", execution_config=execution, cost_config=costs,
                  portfolio_config={"initial_cash": 1e4, "maintain_history": True})  # fmt: skip
    env.step_orders([10.0])
    before = env.cash
    _, _, _, _, info = env.step_orders([0.0])
    sold = env.fills.iloc[-1]
    slippage = 0.1 * math.sqrt(10 / 40)
    assert (sold["shares"], sold["fill_price"]) == (-10.0, pytest.approx(95.1, abs=1))
    stop = 100 * (1 + 0.1 * math.sqrt(10 / 1000)) * 0.95
    assert sold["fill_price"] == pytest.approx(stop)
    assert sold["price"] == pytest.approx(stop * (1 - slippage))
    assert env.cash == pytest.approx(before + 10 * stop * (1 - slippage) - 7)
    assert info["costs"] == pytest.approx(7 + 10 * stop * slippage)


def test_5_3_without_volume_there_is_no_impact() -> None:
    data = hand_made([[100.0], [100.0], [90.0]], [[100.0], [100.0], [90.0]], high=[[100.0]] * 3,
                     low=[[100.0], [100.0], [90.0]], volume=[[1000.0], [1000.0], [0.0]])  # fmt: skip
    costs = {**FREE, "impact_coefficient": 0.001}
    env = started(data, fill="close", execution_config={"stop_loss": 0.05}, cost_config=costs)
    env.step_orders([1.0])
    env.step_orders([0.0])
    assert env.fills[["fill_price", "price"]].iloc[-1].tolist() == [90.0, 90.0]


def test_5_3_with_next_close_a_pending_order_of_a_stopped_symbol_is_dropped() -> None:
    data = bars((100.0, 100.0, 100.0, 100.0), (100.0, 100.0, 90.0, 92.0), QUIET)
    env = started(data, fill="next_close", execution_config={"stop_loss": 0.05})
    env.step_orders([5.0])
    env.step_orders([3.0])
    assert (env.holdings[0], env.cash) == (0.0, 500 + 5 * 95)
    assert env.fills["kind"].tolist() == ["order", "stop_loss"]


def test_5_3_with_next_open_what_was_bought_at_the_open_can_be_stopped_in_the_same_bar() -> None:
    data = bars((100.0, 100.0, 90.0, 92.0), QUIET)
    env = started(data, execution_config={"stop_loss": 0.05})
    env.step_orders([5.0])
    assert env.fills["kind"].tolist() == ["order", "stop_loss"]
    assert (env.holdings[0], env.cash) == (0.0, 500 + 475)
    assert env.history["turnover"].iloc[-1] == pytest.approx((500 + 475) / 1000)


@pytest.mark.parametrize("fill", FILLS)
def test_5_3_a_stopped_short_is_bought_back(fill: str) -> None:
    data = bars((100.0, 100.0, 100.0, 100.0), (100.0, 107.0, 100.0, 101.0), QUIET)
    env = started(data, fill=fill, execution_config=BOTH, margin_config={"allow_short": True})
    env.step_orders([-5.0])
    env.step_orders([0.0])
    assert (env.holdings[0], env.cash) == (0.0, 1000 + 500 - 5 * 105)
    trade = env.trades.iloc[0]
    assert (trade["side"], trade["shares"], trade["pnl"]) == ("short", 5.0, -25.0)


@pytest.mark.parametrize("setting", [{"stop_loss": 0.1}, {"take_profit": 0.1}])
def test_5_3_stops_need_open_high_and_low(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="stop"):
        started(hand_made([[1.0], [1.0]], [[1.0], [1.0]]), execution_config=setting)
