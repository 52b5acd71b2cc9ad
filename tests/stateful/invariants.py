"""What must hold around every call of a `Portfolio`, checked from the outside; for tests only."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from batchenv.config import CostConfig
from stateful.portfolio import Execution, Portfolio

Floats = npt.NDArray[np.float64]


class AuditedPortfolio(Portfolio):
    """A `Portfolio` that checks itself before and after every public call that changes it.

    Attributes:
        n_checks: Number of calls checked; a test that relies on the audit asserts that it is not 0.
    """

    n_checks = 0

    def __init__(
        self, symbols: tuple[str, ...], initial_cash: float, costs: CostConfig, *, record: bool = True
    ) -> None:
        """Open the account; fills are recorded in any case, because the checks read them."""
        super().__init__(symbols, initial_cash, costs, record=True)
        self._costs = costs
        self._largest = np.zeros(len(symbols))
        check_state(self, self._largest)

    def execute(self, orders: Floats, prices: Floats, decision_bar: int, fill_bar: int) -> Execution:
        """Execute and check."""
        check_state(self, self._largest)
        cash, shares, n_fills = self.cash, self.holdings, self.n_fills
        execution = super().execute(orders, prices, decision_bar, fill_bar)
        self._largest = np.maximum(self._largest, self.holdings)
        check_state(self, self._largest)
        check_execution(self, execution, orders, prices, (cash, shares, n_fills))
        AuditedPortfolio.n_checks += 1
        return execution

    def mark(self, marks: Floats) -> float:
        """Mark and check."""
        check_state(self, self._largest)
        cash, shares = self.cash, self.holdings
        equity = super().mark(marks)
        assert (self.cash, self.equity) == (cash, equity)
        assert (self.holdings == shares).all()
        check_state(self, self._largest)
        check_profit(self, marks)
        AuditedPortfolio.n_checks += 1
        return equity


def check_state(portfolio: Portfolio, largest: Floats) -> None:
    """Check cash and positions at rest.

    Args:
        portfolio: The account.
        largest: Most shares ever held, float64 ``[symbols]``; rounding of the lots is measured against it.
    """
    positions = portfolio.positions
    assert portfolio.cash >= 0
    for column, shares in enumerate(portfolio.holdings.tolist()):
        lots = positions.lots(column)
        assert shares >= 0
        assert math.isclose(sum(lot.shares for lot in lots), shares, rel_tol=1e-9, abs_tol=1e-9 * largest[column])
        assert all(lot.shares > 0 and lot.price > 0 and lot.fee_per_share >= 0 for lot in lots)
        assert [lot.bar for lot in lots] == sorted(lot.bar for lot in lots)
        if shares == 0:
            assert lots == ()
            assert positions.average_price[column] == 0
        else:
            assert positions.average_price[column] > 0


def check_execution(
    portfolio: AuditedPortfolio,
    execution: Execution,
    orders: Floats,
    prices: Floats,
    before: tuple[float, Floats, int],
) -> None:
    """Check the fills of one step against the orders and the account before (rules 3.1 to 3.5).

    Args:
        portfolio: The account after the step.
        execution: What `execute` returned.
        orders: Its orders, float64 ``[symbols]``.
        prices: Its fill prices, float64 ``[symbols]``.
        before: Cash, shares float64 ``[symbols]`` and number of fills before the step.
    """
    cash, shares, n_fills = before
    fills = portfolio.fills[n_fills:]
    assert len(fills) == execution.n_fills == portfolio.n_fills - n_fills
    change = np.zeros(len(shares))
    for fill in fills:
        column = portfolio.symbols.index(fill.symbol)
        change[column] += fill.shares
        assert fill.requested == orders[column] and fill.fill_price == prices[column]
        assert np.sign(fill.shares) == np.sign(fill.requested) != 0
        assert abs(fill.shares) <= abs(fill.requested)
        slipped = 1 + math.copysign(portfolio._costs.slippage_rate, fill.shares)
        assert fill.price == fill.fill_price * slipped  # 3.1
        assert math.isclose(fill.notional, abs(fill.shares) * fill.price)
        assert math.isclose(fill.fee, portfolio._costs.fee_rate * fill.notional)
        assert math.isclose(
            fill.slippage, abs(fill.shares) * abs(fill.price - fill.fill_price), rel_tol=1e-6, abs_tol=1e-12
        )
    assert np.array_equal(portfolio.holdings, shares + change)
    assert (change >= -shares).all()  # 3.2
    sides = [fill.shares > 0 for fill in fills]
    assert sides == sorted(sides)  # 3.2: sells first
    factors = [fill.shares / fill.requested for fill in fills if fill.shares > 0]
    assert not factors or max(factors) - min(factors) <= 1e-12  # 3.3
    if factors and max(factors) < 1 - 1e-12:
        assert portfolio.cash == 0  # 3.4
    paid = sum(fill.shares * fill.price + fill.fee for fill in fills)
    scale = cash + sum(fill.notional for fill in fills)
    assert math.isclose(portfolio.cash - cash, -paid, rel_tol=0, abs_tol=1e-12 * scale)
    assert math.isclose(execution.fees, sum(fill.fee for fill in fills), rel_tol=1e-12)
    assert math.isclose(execution.costs, sum(fill.fee + fill.slippage for fill in fills), rel_tol=1e-12)
    if portfolio.equity > 0:
        traded = sum(fill.notional for fill in fills)
        assert math.isclose(execution.turnover * portfolio.equity, traded, rel_tol=1e-12)  # 3.5


def check_profit(portfolio: Portfolio, marks: Floats) -> None:
    """Check that equity - initial cash = realised + unrealised profit, both before fees, - all fees paid.

    Args:
        portfolio: The account, marked.
        marks: Its marks, float64 ``[symbols]``.
    """
    positions = portfolio.positions
    profit = positions.realized_gross + float(positions.unrealized(marks).sum()) - portfolio.total_fees
    scale = portfolio.initial_cash + portfolio.total_notional
    assert math.isclose(portfolio.equity - portfolio.initial_cash, profit, rel_tol=0, abs_tol=1e-11 * scale)
    open_fees = sum(trade.entry_fee for trade in positions.open_trades(marks, 0))
    assert math.isclose(positions.realized_fees + open_fees, portfolio.total_fees, rel_tol=1e-9, abs_tol=1e-11 * scale)
    assert math.isclose(
        sum(trade.pnl for trade in positions.trades),
        positions.realized_net,
        rel_tol=1e-9,
        abs_tol=1e-11 * scale,
    )
