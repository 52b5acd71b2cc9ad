"""Rules 2 and 3 of docs/accounting.md: sizing, fills and cash, with the examples of the text."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchenv.config import EnvConfig
from batchenv.errors import ActionError
from stateful.execution import permitted_orders
from stateful.orders import check_orders, size_orders
from stateful.portfolio import Flows
from tests.stateful.worlds import FREE, account, quotes, terms_of, trade

Floats = npt.NDArray[np.float64]
ONE_PERCENT = {"fee_rate": 0.01, "slippage_rate": 0.01}
SHORT = {"allow_short": True, "leverage": 2.0}


def sized(
    mode: str,
    numbers: list[float],
    marks: list[float],
    holdings: list[float],
    equity: float,
    *,
    leverage: float = 1.0,
    short: bool = False,
    max_weight: float = 1.0,
) -> list[float]:
    config = EnvConfig.model_validate(
        {
            "action_config": {"mode": mode, "max_shares": 40.0, "max_weight": max_weight},
            "portfolio_config": {"trade_limit_percent": 0.1},
            "margin_config": {"allow_short": short, "leverage": leverage},
        }
    )
    orders = size_orders(np.array(numbers), equity, np.array(holdings), np.array(marks), config, leverage)
    return [float(order) for order in orders]


# --- 2 Decide -----------------------------------------------------------------------------------------------


def test_2_2_example_of_the_text() -> None:
    assert sized("trade", [0.5], [100.0], [50.0], 15_000.0) == [7.5]
    assert sized("weights", [0.4], [100.0], [50.0], 15_000.0) == pytest.approx([10.0])


def test_2_2_weights_are_scaled_down_only_above_one() -> None:
    assert sized("weights", [0.5, 0.25], [10.0, 10.0], [0.0, 0.0], 1000.0) == [50.0, 25.0]
    assert sized("weights", [1.0, 1.0], [10.0, 10.0], [0.0, 0.0], 1000.0) == [50.0, 50.0]
    assert sized("weights", [0.0, 0.0], [10.0, 10.0], [7.0, 0.1], 1000.0) == [-7.0, -0.1]


def test_2_2_weights_count_symbols_that_are_not_listed() -> None:
    orders = sized("weights", [1.0, 1.0], [10.0, np.nan], [0.0, 0.0], 1000.0)
    assert orders[0] == 50.0


def test_2_2_shares_and_discrete() -> None:
    assert sized("shares", [0.25, -1.0], [3.0, np.nan], [0.0, 0.0], 1000.0) == [10.0, -40.0]
    assert sized("discrete", [-1.0, 1.0], [10.0, 20.0], [0.0, 0.0], 1000.0) == [-10.0, 5.0]


def test_2_2_example_of_the_text_with_leverage_and_shorts() -> None:
    orders = sized("weights", [1.0, -1.0], [100.0, 100.0], [0.0, 0.0], 1000.0, leverage=1.5, short=True)
    assert orders == pytest.approx([7.5, -7.5])


def test_2_2_a_negative_weight_is_no_position_without_shorts() -> None:
    assert sized("weights", [-1.0, 0.5], [10.0, 10.0], [30.0, 0.0], 1000.0) == [-30.0, 50.0]
    assert sized("weights", [-1.0, 0.5], [10.0, 10.0], [30.0, 0.0], 1000.0, leverage=2.0) == [-30.0, 50.0]


def test_2_2_the_largest_weight() -> None:
    assert sized("weights", [1.0, 0.5], [10.0, 10.0], [0.0, 0.0], 1000.0, max_weight=0.4) == pytest.approx([40.0, 20.0])
    doubled = sized("weights", [1.0, -0.5], [10.0] * 2, [0.0] * 2, 1000.0, max_weight=4.0, leverage=3.0, short=True)
    assert doubled == pytest.approx([200.0, -100.0])


def test_2_3_what_is_not_tradable_is_dropped_whatever_its_order() -> None:
    orders, shares, terms = np.array([1.0, np.nan, -2.0]), np.array([0.0, 0.0, 5.0]), terms_of(("A", "B", "C"))
    for tradable, expected in (([True, False, True], [1.0, 0.0, -2.0]), ([False, False, True], [0.0, 0.0, -2.0])):
        bar = quotes([1.0, 0.0, 1.0], tradable=tradable)
        assert permitted_orders(orders, shares, bar, terms).tolist() == expected


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        ([1.0], r"got shape \[1\], expected \[2\]"),
        ([[1.0, 2.0]], r"got shape \[1, 2\]"),
        ([1.0, np.nan], r"symbol 'B'.*got nan"),
        ([-np.inf, 1.0], r"symbol 'A'.*got -inf"),
        (["1", "2"], "got dtype <U1"),
        ([[1.0], [1.0, 2.0]], "differ in length"),
    ],
)
def test_bad_orders_are_refused_by_name(orders: list[object], message: str) -> None:
    with pytest.raises(ActionError, match=message):
        check_orders(orders, ("A", "B"))  # type: ignore[arg-type]


def test_orders_are_copied() -> None:
    mine = np.array([1.0, 2.0])
    check_orders(mine, ("A", "B"))[0] = 9.0
    assert mine.tolist() == [1.0, 2.0]


# --- 3.1 Permitted size -------------------------------------------------------------------------------------


def test_3_1_a_sale_is_limited_to_the_shares_held() -> None:
    portfolio = account()
    trade(portfolio, [3, 0], [100, 50])
    trade(portfolio, [-5, -5], [110, 50], bar=1)

    assert portfolio.holdings.tolist() == [0.0, 0.0]
    assert portfolio.cash == 1030.0
    assert [(fill.requested, fill.shares) for fill in portfolio.fills] == [(3.0, 3.0), (-5.0, -3.0)]


def test_3_1_a_participation_limit() -> None:
    portfolio = account(1e6, execution_config={"participation_limit": 0.1})
    trade(portfolio, [500, 50], [10, 10], [1000, 1000])
    assert portfolio.holdings.tolist() == [100.0, 50.0]
    trade(portfolio, [-500, -500], [10, 10], [200, 10_000], bar=1)
    assert portfolio.holdings.tolist() == [80.0, 0.0]


@pytest.mark.parametrize(
    "sections", [{"execution_config": {"participation_limit": 0.5}}, {"cost_config": {**FREE, "impact_coefficient": 1}}]
)
def test_3_1_nothing_fills_without_volume(sections: dict[str, Any]) -> None:
    portfolio = account(1000.0, **sections)
    assert trade(portfolio, [1, 1], [10, 10], [0, 100]).n_fills == 1
    assert portfolio.holdings.tolist() == [0.0, 1.0]
    assert trade(portfolio, [0, -1], [10, 10], [100, 0], bar=1) == Flows()


def test_3_1_volume_does_not_matter_without_impact_or_limit() -> None:
    portfolio = account()
    trade(portfolio, [1, 1], [10, 10], [0, 0])
    assert portfolio.holdings.tolist() == [1.0, 1.0]


# --- 3.2 Two parts ------------------------------------------------------------------------------------------


def test_3_2_an_order_through_zero_closes_and_turns_the_position() -> None:
    portfolio = account(1000.0, margin_config=SHORT)
    trade(portfolio, [5, 0], [100, 1])
    trade(portfolio, [-8, 0], [110, 1], bar=1)
    assert portfolio.holdings.tolist() == [-3.0, 0.0]
    assert portfolio.cash == 500 + 880
    assert (portfolio.positions.average_price[0], len(portfolio.fills)) == (110.0, 2)
    trade(portfolio, [3, 0], [100, 1], bar=2)
    assert (portfolio.holdings[0], portfolio.cash) == (0.0, 1380 - 300)


@pytest.mark.parametrize("near", [1 - 2.38e-7, 1 + 2.38e-7, 1 - 2.39e-7, 1 + 2.39e-7])
@pytest.mark.parametrize("side", [1, -1])
def test_3_2_an_order_that_comes_close_to_the_position_closes_it(near: float, side: int) -> None:
    portfolio = account(1000.0, ("A",), margin_config=SHORT)
    trade(portfolio, [side * 5], [100])
    trade(portfolio, [side * -5 * near], [100], bar=1)
    assert (portfolio.holdings[0] == 0) == (abs(near - 1) < 1.001 * 2**-22)


def test_3_2_reducing_parts_execute_in_full_when_nothing_else_is_affordable() -> None:
    # Everything is in A, which has halved: exposure is above its limit, so B cannot be bought, but A can be sold.
    portfolio = account(1000.0, margin_config={"leverage": 4.0})
    trade(portfolio, [40, 0], [100, 10])
    assert portfolio.cash == -3000.0
    trade(portfolio, [-10, 100], [80, 10], bar=1)  # equity 200, gross 3200
    assert portfolio.holdings.tolist() == [30.0, 0.0]


def test_3_2_sales_pay_for_purchases_of_the_same_step() -> None:
    portfolio = account()
    trade(portfolio, [0, 10], [50, 100])
    assert portfolio.cash == 0.0
    trade(portfolio, [20, -10], [50, 100], bar=1)
    assert portfolio.holdings.tolist() == [20.0, 0.0]


# --- 3.3 Price paid and fee ---------------------------------------------------------------------------------


def test_3_3_example_of_the_text() -> None:
    costs = {"slippage_rate": 0.001, "impact_coefficient": 0.1, "fee_rate": 0.001, "fee_fixed": 1.0}
    for minimum, fee in ((0.0, 17.335), (20.0, 20.0)):
        portfolio = account(1e6, ("A",), cost_config={**costs, "fee_per_share": 0.005, "fee_minimum": minimum})
        trade(portfolio, [300], [50], [1e12])
        trade(portfolio, [-300], [50], [30_000], bar=1)
        sold = portfolio.fills[1]
        assert (sold.price, sold.notional) == pytest.approx((49.45, 14_835))
        assert sold.fee == pytest.approx(fee)
        assert sold.slippage == pytest.approx(300 * 50 * 0.011)


def test_3_3_a_buy_pays_more_and_a_sale_gets_less() -> None:
    portfolio = account(1000.0, ("A",), cost_config=ONE_PERCENT)
    trade(portfolio, [2], [100])
    assert portfolio.cash == pytest.approx(1000 - 2 * 101 * 1.01)
    trade(portfolio, [-1], [100], bar=1)
    assert portfolio.cash == pytest.approx(1000 - 2 * 101 * 1.01 + 99 * 0.99)
    bought, sold = portfolio.fills
    assert (bought.price, sold.price) == (101.0, 99.0)
    assert (bought.slippage, sold.slippage) == (2.0, 1.0)
    assert (bought.fee, sold.fee) == pytest.approx((2.02, 0.99))


def test_3_3_costs_differ_by_symbol() -> None:
    costs = {"slippage_rate": {"A": 0.01, "*": 0.0}, "fee_rate": {"B": 0.1, "*": 0.0}, "fee_fixed": {"A": 3.0, "*": 0}}
    portfolio = account(1000.0, cost_config=costs)
    trade(portfolio, [1, 1], [100, 100])
    assert {fill.symbol: (fill.price, fill.fee) for fill in portfolio.fills} == {"A": (101.0, 3.0), "B": (100.0, 10.0)}


def test_3_3_the_fee_of_a_sale_of_held_shares_is_at_most_what_it_brings() -> None:
    costs = {**FREE, "fee_minimum": 30.0}
    portfolio = account(1000.0, ("A",), cost_config=costs)
    trade(portfolio, [1], [100])
    trade(portfolio, [-1], [20], bar=1)
    assert portfolio.fills[1].fee == 20.0
    assert portfolio.cash == 1000 - 130
    short = account(1000.0, ("A",), cost_config=costs, margin_config=SHORT)
    trade(short, [-1], [20])
    assert short.fills[0].fee == 30.0  # nothing was held


def test_3_3_slippage_is_at_most_everything() -> None:
    portfolio = account(1000.0, ("A",), cost_config={**FREE, "impact_coefficient": 5.0})
    trade(portfolio, [1], [100], [100])
    trade(portfolio, [-1], [100], [1], bar=1)
    assert (portfolio.fills[1].price, portfolio.fills[1].slippage) == (0.0, 100.0)


# --- 3.4 The common factor ----------------------------------------------------------------------------------


def test_3_4_example_of_the_text_in_a_cash_account() -> None:
    portfolio = account(1000.0, cost_config=ONE_PERCENT)
    step = trade(portfolio, [6, 4], [100, 200])

    factor = 1000 / 1428.14
    assert portfolio.holdings == pytest.approx([6 * factor, 4 * factor], rel=1e-12)
    assert portfolio.holdings == pytest.approx([4.2013, 2.8008], abs=5e-5)
    assert portfolio.cash == pytest.approx(0.0, abs=1e-9)
    notional = factor * (606 + 808)
    assert portfolio.turnover == pytest.approx(notional / 1000)
    assert step.fees == pytest.approx(0.01 * notional)
    assert step.slippage == pytest.approx(factor * (600 + 800) * 0.01)


def test_3_4_example_of_the_text_in_a_margin_account() -> None:
    portfolio = account(500.0, margin_config=SHORT)
    trade(portfolio, [-5, 0], [100, 50])
    assert portfolio.cash == 1000.0
    trade(portfolio, [0, 10], [100, 50], bar=1)
    assert portfolio.holdings.tolist() == [-5.0, 10.0]
    more = trade(portfolio, [0, 1], [100, 50], bar=2)
    assert more == Flows()  # gross is 1000 = 2 * 500 already


def test_3_4_buying_power_with_leverage() -> None:
    portfolio = account(1000.0, ("A",), margin_config={"leverage": 3.0})
    trade(portfolio, [1000], [10])
    assert (portfolio.holdings[0], portfolio.cash) == pytest.approx((300.0, -2000.0))


def test_3_4_short_selling_is_limited_too() -> None:
    portfolio = account(1000.0, ("A",), margin_config={"allow_short": True})
    trade(portfolio, [-1000], [10])
    assert (portfolio.holdings[0], portfolio.cash) == pytest.approx((-100.0, 2000.0))


def test_3_4_fees_count_at_their_upper_bound_when_not_all_is_affordable() -> None:
    portfolio = account(1000.0, cost_config={"fee_rate": 0.01, "slippage_rate": 0.0, "fee_minimum": 10.0})
    trade(portfolio, [10, 10], [100, 50])
    factor = (1000 - 20) / (1500 + 15)
    assert portfolio.holdings == pytest.approx([10 * factor, 10 * factor])
    assert portfolio.cash == pytest.approx(1000 - 1500 * factor - 10 - 10)


def test_3_4_a_fee_that_exceeds_all_cash_leaves_the_order_undone() -> None:
    portfolio = account(10.0, ("A",), cost_config={**FREE, "fee_minimum": 20.0})
    assert trade(portfolio, [1], [5]) == Flows()


def test_3_4_what_cannot_be_traded_counts_at_its_mark() -> None:
    portfolio = account(1000.0, margin_config={"leverage": 2.0})
    trade(portfolio, [0, 10], [1, 100])
    portfolio.open_step(1)
    bar = quotes([10.0, 0.0], marks=[10.0, 150.0], tradable=[True, False])
    portfolio.execute(np.array([1000.0, 0.0]), bar, 2)
    # Equity 1500, gross allowed 3000, of which B takes 1500.
    assert portfolio.holdings == pytest.approx([150.0, 10.0])


@pytest.mark.parametrize(("net_limit", "shares"), [(0.5, [50.0, 0.0]), (2.0, [100.0, 0.0])])
def test_3_4_a_net_limit(net_limit: float, shares: list[float]) -> None:
    portfolio = account(1000.0, margin_config={"net_limit": net_limit})
    trade(portfolio, [100, 0], [10, 10])
    assert portfolio.holdings == pytest.approx(shares)


def test_3_4_a_net_limit_lets_longs_and_shorts_offset() -> None:
    margin = {"allow_short": True, "leverage": 4.0, "net_limit": 0.1}
    portfolio = account(1000.0, margin_config=margin)
    trade(portfolio, [100, -100], [10, 10])
    assert portfolio.holdings.tolist() == [100.0, -100.0]
    trade(portfolio, [0, -100], [10, 10], bar=1)
    assert portfolio.holdings == pytest.approx([100.0, -110.0])
    trade(portfolio, [0, -100], [10, 10], bar=2)
    assert len(portfolio.fills) == 3
    trade(portfolio, [100, 0], [10, 10], bar=3)  # the way back crosses the other limit
    assert portfolio.holdings == pytest.approx([120.0, -110.0])


def test_3_4_a_net_limit_counts_costs() -> None:
    portfolio = account(1000.0, ("A",), margin_config={"net_limit": 0.5}, cost_config=ONE_PERCENT)
    trade(portfolio, [100], [10])
    value = float(portfolio.holdings[0]) * 10
    assert value == pytest.approx(0.5 * (portfolio.cash + value))


@pytest.mark.parametrize(("cash", "fills"), [(0.9e-9, 0), (1.1e-9, 1)])
def test_3_4_what_rounding_left_over_buys_nothing(cash: float, fills: int) -> None:
    portfolio = account(1000.0, ("A",))
    trade(portfolio, [100], [10])
    portfolio.cash = cash  # equity[t] is 1000
    assert trade(portfolio, [5], [10], bar=1).n_fills == fills


@pytest.mark.parametrize(("held", "fills"), [(1e-10, 0), (1e-6, 1)])
def test_3_4_what_rounding_left_of_a_net_limit_buys_nothing(held: float, fills: int) -> None:
    portfolio = account(1000.0, ("A",), margin_config={"net_limit": 0.5})
    trade(portfolio, [50 - held], [10])
    assert trade(portfolio, [5], [10], bar=1).n_fills == fills


@given(st.permutations(range(3)), st.data())
def test_3_4_the_order_of_the_symbols_does_not_matter(order: list[int], data: st.DataObject) -> None:
    rate = data.draw(rates)
    sections = data.draw(st.sampled_from([{}, {"margin_config": SHORT}, {"execution_config": {"lot_size": 0.5}}]))
    symbols = ("A", "B", "C")
    costs = {"fee_rate": rate, "slippage_rate": rate, "fee_minimum": data.draw(st.sampled_from([0.0, 2.0]))}
    plain, mixed = (account(1000.0, symbols, cost_config=costs, **sections) for _ in range(2))
    for bar, rows in enumerate(data.draw(steps)):
        orders, prices = np.array(rows).T
        trade(plain, orders, prices, bar=bar)
        trade(mixed, orders[order], prices[order], bar=bar)
        assert mixed.holdings == pytest.approx(plain.holdings[order], rel=1e-9, abs=1e-9)
        assert mixed.cash == pytest.approx(plain.cash, rel=1e-9, abs=1e-9)


# --- 3.5 Lots and 3.6 Smallest order ------------------------------------------------------------------------


def test_3_5_example_of_the_text() -> None:
    portfolio = account(1e6, ("A",), execution_config={"lot_size": 10.0})
    trade(portfolio, [27], [1])
    assert portfolio.holdings[0] == 20.0
    for held, sold, left in ((35.0, 35.0, 0.0), (35.0, 34.0, 5.0)):
        odd = account(1e6, ("A",))
        trade(odd, [held], [1])
        odd.terms = portfolio.terms
        trade(odd, [-sold], [1], bar=1)
        assert odd.holdings[0] == left


def test_3_5_lots_are_rounded_after_the_common_factor() -> None:
    portfolio = account(1000.0, execution_config={"lot_size": {"A": 3.0, "*": 0.0}})
    trade(portfolio, [10, 20], [100, 50])
    assert portfolio.holdings == pytest.approx([3.0, 10.0])
    assert portfolio.cash == pytest.approx(200.0)


@given(st.integers(1, 10**6), st.sampled_from([0.1, 0.01, 1e-3, 7.0, 1 / 3]))
def test_3_5_whole_lots_survive_rounding(n: int, lot: float) -> None:
    portfolio = account(1e12, ("A",), execution_config={"lot_size": lot})
    trade(portfolio, [n * lot], [1])
    assert portfolio.holdings[0] == pytest.approx(n * lot)


def test_3_5_a_sale_never_rounds_up_beyond_the_shares_held() -> None:
    portfolio = account(1e6, ("A",))
    trade(portfolio, [30 * (1 - 1e-10)], [1])
    portfolio.terms = terms_of(("A",), execution_config={"lot_size": 10.0})
    trade(portfolio, [-30 * (1 - 2e-10)], [1], bar=1)
    assert portfolio.holdings[0] == 0.0


def test_3_6_small_orders_are_dropped_unless_they_close() -> None:
    portfolio = account(1000.0, execution_config={"min_notional": 50.0})
    trade(portfolio, [4.9, 5.0], [10, 10])
    assert portfolio.holdings.tolist() == [0.0, 5.0]
    trade(portfolio, [0, -4.9], [10, 10], bar=1)
    assert portfolio.holdings.tolist() == [0.0, 5.0]
    trade(portfolio, [0, -5.0], [10, 1], bar=2)
    assert portfolio.holdings.tolist() == [0.0, 0.0]


def test_3_6_each_part_of_an_order_counts_alone() -> None:
    portfolio = account(1000.0, ("A",), execution_config={"min_notional": 50.0}, margin_config=SHORT)
    trade(portfolio, [10], [10])
    trade(portfolio, [-14], [10], bar=1)  # the short part is worth 40
    assert portfolio.holdings[0] == 0.0


# --- 3.7 Settlement and 3.8 Turnover ------------------------------------------------------------------------


def test_3_7_all_in_and_all_out() -> None:
    portfolio = account(1000.0, ("A",), cost_config=ONE_PERCENT)
    trade(portfolio, [1e9], [100])
    assert portfolio.cash == pytest.approx(0.0, abs=1e-9)
    assert portfolio.holdings[0] == pytest.approx(1000 / (101 * 1.01))
    trade(portfolio, [-1e9], [100], bar=1)
    assert portfolio.holdings[0] == 0.0
    assert portfolio.cash == pytest.approx(1000 / (101 * 1.01) * 99 * 0.99)


def test_3_7_without_cash_a_purchase_is_no_fill() -> None:
    portfolio = account()
    trade(portfolio, [10, 0], [100, 50])
    assert trade(portfolio, [0, 1], [100, 50], bar=1) == Flows()
    assert len(portfolio.fills) == 1


def test_3_7_dust_is_traded_like_everything_else() -> None:
    portfolio = account(1e-9, ("A",), cost_config=ONE_PERCENT)
    trade(portfolio, [5], [100])
    assert portfolio.holdings[0] == pytest.approx(1e-9 / (101 * 1.01))
    trade(portfolio, [-5], [100], bar=1)
    assert (portfolio.holdings[0], portfolio.cash > 0) == (0.0, True)


def test_3_7_rounding_never_makes_cash_negative() -> None:
    rng = np.random.default_rng(0)
    left = set()
    for _ in range(1000):
        # Exactly as much as cash pays for, but for rounding.
        prices, weights = rng.uniform(1, 500, 3), rng.dirichlet(np.ones(3))
        portfolio = account(1000.0, ("A", "B", "C"), cost_config=ONE_PERCENT)
        trade(portfolio, weights * 1000 / (prices * 1.01 * 1.01), prices)
        left.add(portfolio.cash)
    assert 0.0 in left and len(left) > 1
    assert max(left) < 1e-9


@pytest.mark.parametrize("size", [1e300, 1e308])
@pytest.mark.parametrize("margin", [{}, SHORT, {"allow_short": True, "net_limit": 0.5}])
def test_orders_without_measure_do_no_harm(size: float, margin: dict[str, Any]) -> None:
    portfolio = account(1000.0, margin_config=margin)
    trade(portfolio, [2, 0], [100, 100])
    trade(portfolio, [size, -size], [1e5, 1e5], bar=1)
    assert np.isfinite(portfolio.cash)


def test_3_8_turnover_is_measured_against_the_equity_before() -> None:
    portfolio = account(1000.0)
    trade(portfolio, [5, 0], [100, 50])
    assert portfolio.mark(np.array([200.0, 50.0])) == 1500.0
    trade(portfolio, [-1, 2], [300, 50], bar=1)
    assert portfolio.turnover == pytest.approx((300 + 100) / 1500)


def test_a_step_without_orders_changes_nothing() -> None:
    portfolio = account()
    assert trade(portfolio, [0, 0], [0, 1]) == Flows()
    assert (portfolio.cash, portfolio.fills) == (1000.0, [])


def test_6_1_marks_value_the_positions() -> None:
    portfolio = account()
    trade(portfolio, [2, 4], [100, 50])
    assert portfolio.mark(np.array([150.0, 25.0])) == 600 + 300 + 100
    assert portfolio.equity == 1000.0


def test_holdings_are_a_copy() -> None:
    portfolio = account()
    portfolio.holdings[0] = 5.0
    assert portfolio.holdings[0] == 0.0


# --- every rule at once -------------------------------------------------------------------------------------

rates = st.sampled_from([0.0, 0.0005, 0.01, 0.3])
sizes = st.floats(-60.0, 60.0).map(lambda size: size if abs(size) > 1e-9 else 0.0)
steps = st.lists(st.lists(st.tuples(sizes, st.floats(0.5, 200.0)), min_size=3, max_size=3), max_size=12)
costs = st.fixed_dictionaries(
    {
        "fee_rate": rates,
        "slippage_rate": rates,
        "fee_fixed": st.sampled_from([0.0, 1.0]),
        "fee_per_share": st.sampled_from([0.0, 0.1]),
        "fee_minimum": st.sampled_from([0.0, 5.0]),
        "impact_coefficient": st.sampled_from([0.0, 0.2, 3.0]),
    }
)
margins = st.sampled_from(
    [{}, {"allow_short": True}, {"leverage": 3.0}, SHORT, {**SHORT, "net_limit": 0.5}, {"net_limit": 0.7}]
)
executions = st.sampled_from(
    [{}, {"lot_size": 1.0}, {"min_notional": 40.0}, {"participation_limit": 0.1, "lot_size": {"A": 0.5, "*": 0.0}}]
)


@given(costs, margins, executions, steps, st.lists(st.sampled_from([0.0, 10.0, 300.0, 1e4]), min_size=3, max_size=3))
def test_the_invariants_hold_for_any_orders(
    costs: dict[str, float],
    margin: dict[str, Any],
    execution: dict[str, Any],
    steps: list[list[tuple[float, float]]],
    volumes: list[float],
) -> None:
    symbols = ("A", "B", "C")
    portfolio = account(1000.0, symbols, cost_config=costs, margin_config=margin, execution_config=execution)
    for bar, rows in enumerate(steps):
        orders, prices = np.array(rows).T
        trade(portfolio, orders, prices, volumes, bar=bar)
        if portfolio.mark(prices) <= 0:
            return
    if not costs["impact_coefficient"] and "participation_limit" not in execution:
        trade(portfolio, -portfolio.holdings, [7.0] * 3, volumes, bar=99)
        assert portfolio.mark(np.full(3, 7.0)) == portfolio.cash
