"""Rules 2 to 4 of docs/accounting.md: sizing, fills and cash, with the examples of the text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchenv.config import CostConfig, EnvConfig
from batchenv.errors import ActionError
from stateful.orders import admit_orders, check_orders, size_orders
from stateful.portfolio import NO_EXECUTION
from tests.stateful.invariants import AuditedPortfolio

Floats = npt.NDArray[np.float64]
FREE = CostConfig(fee_rate=0.0, slippage_rate=0.0)
ONE_PERCENT = CostConfig(fee_rate=0.01, slippage_rate=0.01)


def account(cash: float = 1000.0, costs: CostConfig = FREE, symbols: tuple[str, ...] = ("A", "B")) -> AuditedPortfolio:
    return AuditedPortfolio(symbols, cash, costs)


def sized(mode: str, numbers: list[float], marks: list[float], holdings: list[float], equity: float) -> list[float]:
    config = EnvConfig.model_validate(
        {
            "action_config": {"mode": mode, "max_shares": 40.0},
            "portfolio_config": {"trade_limit_percent": 0.1},
        }
    )
    orders = size_orders(np.array(numbers), equity, np.array(holdings), np.array(marks), config)
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


def test_2_3_what_is_not_tradable_is_dropped_whatever_its_order() -> None:
    orders = np.array([1.0, np.nan, -2.0])
    assert admit_orders(orders, np.array([True, False, True])).tolist() == [1.0, 0.0, -2.0]
    assert admit_orders(orders, np.array([False, False, True])).tolist() == [0.0, 0.0, -2.0]


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


# --- 3 Fill -------------------------------------------------------------------------------------------------


def test_3_3_example_of_the_text() -> None:
    portfolio = account(1000.0, ONE_PERCENT)
    execution = portfolio.execute(np.array([6.0, 4.0]), np.array([100.0, 200.0]), 0, 1)

    factor = 1000 / 1428.14
    assert portfolio.holdings == pytest.approx([6 * factor, 4 * factor], rel=1e-12)
    assert portfolio.holdings == pytest.approx([4.2013, 2.8008], abs=5e-5)
    assert portfolio.cash == 0.0
    notional = factor * (606 + 808)
    assert execution.turnover == pytest.approx(notional / 1000)
    assert execution.fees == pytest.approx(0.01 * notional)
    assert execution.slippage == pytest.approx(factor * (600 + 800) * 0.01)


def test_3_1_a_buy_pays_more_and_a_sale_gets_less() -> None:
    portfolio = account(1000.0, ONE_PERCENT, ("A",))
    portfolio.execute(np.array([2.0]), np.array([100.0]), 0, 1)
    assert portfolio.cash == pytest.approx(1000 - 2 * 101 * 1.01)
    portfolio.execute(np.array([-1.0]), np.array([100.0]), 1, 2)
    assert portfolio.cash == pytest.approx(1000 - 2 * 101 * 1.01 + 99 * 0.99)
    bought, sold = portfolio.fills
    assert (bought.price, sold.price) == (101.0, 99.0)
    assert (bought.slippage, sold.slippage) == (2.0, 1.0)
    assert (bought.fee, sold.fee) == pytest.approx((2.02, 0.99))


def test_3_2_a_sale_is_limited_to_the_shares_held() -> None:
    portfolio = account()
    portfolio.execute(np.array([3.0, 0.0]), np.array([100.0, 50.0]), 0, 1)
    portfolio.execute(np.array([-5.0, -5.0]), np.array([110.0, 50.0]), 1, 2)

    assert portfolio.holdings.tolist() == [0.0, 0.0]
    assert portfolio.cash == 1030.0
    assert [(fill.requested, fill.shares) for fill in portfolio.fills] == [(3.0, 3.0), (-5.0, -3.0)]


def test_3_2_sales_pay_for_purchases_of_the_same_step() -> None:
    portfolio = account()
    portfolio.execute(np.array([0.0, 10.0]), np.array([50.0, 100.0]), 0, 1)
    assert portfolio.cash == 0.0
    portfolio.execute(np.array([20.0, -10.0]), np.array([50.0, 100.0]), 1, 2)
    assert portfolio.holdings.tolist() == [20.0, 0.0]


def test_all_in_and_all_out() -> None:
    portfolio = account(1000.0, ONE_PERCENT, ("A",))
    portfolio.execute(np.array([1e9]), np.array([100.0]), 0, 1)
    assert portfolio.cash == 0.0
    assert portfolio.holdings[0] == pytest.approx(1000 / (101 * 1.01))
    portfolio.execute(np.array([-1e9]), np.array([100.0]), 1, 2)
    assert portfolio.holdings[0] == 0.0
    assert portfolio.cash == pytest.approx(1000 / (101 * 1.01) * 99 * 0.99)


def test_without_cash_a_purchase_is_no_fill() -> None:
    portfolio = account()
    portfolio.execute(np.array([10.0, 0.0]), np.array([100.0, 50.0]), 0, 1)
    assert portfolio.execute(np.array([0.0, 1.0]), np.array([100.0, 50.0]), 1, 2) == NO_EXECUTION
    assert len(portfolio.fills) == 1


def test_dust_is_traded_like_everything_else() -> None:
    portfolio = account(1e-9, ONE_PERCENT, ("A",))
    portfolio.execute(np.array([5.0]), np.array([100.0]), 0, 1)
    assert portfolio.holdings[0] == pytest.approx(1e-9 / (101 * 1.01))
    portfolio.execute(np.array([-5.0]), np.array([100.0]), 1, 2)
    assert (portfolio.holdings[0], portfolio.cash > 0) == (0.0, True)


def test_3_4_rounding_never_makes_cash_negative() -> None:
    rng = np.random.default_rng(0)
    left = set()
    for _ in range(2000):
        # Exactly as much as cash pays for, but for rounding: the factor is 1 or a hair below.
        prices, weights = rng.uniform(1, 500, 3), rng.dirichlet(np.ones(3))
        portfolio = account(1000.0, ONE_PERCENT, ("A", "B", "C"))
        portfolio.execute(weights * 1000 / (prices * 1.01 * 1.01), prices, 0, 1)
        left.add(portfolio.cash)
    assert 0.0 in left and len(left) > 1
    assert max(left) < 1e-9


def test_3_5_turnover_is_measured_against_the_equity_before() -> None:
    portfolio = account(1000.0)
    portfolio.execute(np.array([5.0, 0.0]), np.array([100.0, 50.0]), 0, 1)
    assert portfolio.mark(np.array([200.0, 50.0])) == 1500.0
    execution = portfolio.execute(np.array([-1.0, 2.0]), np.array([300.0, 50.0]), 1, 2)
    assert execution.turnover == pytest.approx((300 + 100) / 1500)


def test_a_step_without_orders_changes_nothing() -> None:
    portfolio = account()
    assert portfolio.execute(np.zeros(2), np.array([np.nan, 1.0]), 0, 1) == NO_EXECUTION
    assert (portfolio.cash, portfolio.n_fills) == (1000.0, 0)


def test_4_1_marks_value_the_positions() -> None:
    portfolio = account()
    portfolio.execute(np.array([2.0, 4.0]), np.array([100.0, 50.0]), 0, 1)
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


@given(rates, rates, steps)
def test_the_invariants_hold_for_any_orders(
    fee: float, slippage: float, steps: list[list[tuple[float, float]]]
) -> None:
    portfolio = account(1000.0, CostConfig(fee_rate=fee, slippage_rate=slippage), ("A", "B", "C"))
    for bar, rows in enumerate(steps):
        orders, prices = np.array(rows).T
        portfolio.execute(orders, prices, bar, bar + 1)
        portfolio.mark(prices)
    portfolio.execute(-portfolio.holdings, np.full(3, 7.0), 99, 100)
    assert portfolio.mark(np.full(3, 7.0)) == portfolio.cash


@given(rates, steps, st.permutations(range(3)))
def test_3_3_the_order_of_the_symbols_does_not_matter(
    rate: float, steps: list[list[tuple[float, float]]], order: list[int]
) -> None:
    costs = CostConfig(fee_rate=rate, slippage_rate=rate)
    plain, mixed = account(1000.0, costs, ("A", "B", "C")), account(1000.0, costs, ("A", "B", "C"))
    for bar, rows in enumerate(steps):
        orders, prices = np.array(rows).T
        plain.execute(orders, prices, bar, bar + 1)
        mixed.execute(orders[order], prices[order], bar, bar + 1)
        assert mixed.holdings == pytest.approx(plain.holdings[order], rel=1e-9, abs=1e-9)
        assert mixed.cash == pytest.approx(plain.cash, rel=1e-9, abs=1e-9)
