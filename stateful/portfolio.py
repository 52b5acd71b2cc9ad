"""The account: orders in, fills out, then the mark.

Rules 3 and 4 of ``docs/accounting.md``, each in one place.

=====  ========================  =======================================
rule   what                      where
=====  ========================  =======================================
3.1    price paid                `Portfolio._fill`
3.2    sells first               `Portfolio.execute`
3.3    buys share one factor     `Portfolio.execute`, `Portfolio._factor`
3.4    cash is never negative    `Portfolio.execute`
3.5    turnover and costs        `Portfolio._book`, `Execution`
4.1    equity                    `Portfolio.mark`
4.2    marks without a bar       `Portfolio.mark` (the caller's marks)
=====  ========================  =======================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchenv.config import CostConfig
from stateful.positions import PositionManager
from stateful.rowlog import RowLog

Floats = npt.NDArray[np.float64]


class Fill(NamedTuple):
    """An executed order.

    Attributes:
        decision_bar: Bar t at whose close the order was decided.
        fill_bar: Bar at which it was filled (rule 1.3).
        symbol: Symbol name.
        requested: Shares ordered, signed, before rules 3.2 and 3.3 limit them.
        shares: Shares filled, signed.
        fill_price: Price p of rule 1.3, money per share.
        price: Price paid or received, p with slippage (rule 3.1).
        notional: abs(shares) * price, in money.
        fee: In money.
        slippage: Money lost to slippage, abs(shares) * abs(price - fill_price).
    """

    decision_bar: int
    fill_bar: int
    symbol: str
    requested: float
    shares: float
    fill_price: float
    price: float
    notional: float
    fee: float
    slippage: float


class Execution(NamedTuple):
    """What the fills of one step add up to (rule 3.5).

    Attributes:
        turnover: Sum of the notionals as a fraction of equity[t].
        fees: In money.
        slippage: In money.
        n_fills: Number of fills.
    """

    turnover: float
    fees: float
    slippage: float
    n_fills: int

    @property
    def costs(self) -> float:
        """Fees and slippage, in money."""
        return self.fees + self.slippage


NO_EXECUTION = Execution(0.0, 0.0, 0.0, 0)
"""A step without a fill."""


class Portfolio:
    """One long-only account.

    Every step is `execute`, which trades, then `mark`, which moves the clock. ``equity`` is that of the last
    mark.

    Attributes:
        symbols: Symbol names.
        initial_cash: Money at the start.
        cash: Money now; never negative.
        equity: Cash and positions at the last mark, in money.
        positions: Shares and lots.
        n_fills: Number of fills so far.
        total_fees: Fees paid so far, in money.
        total_slippage: Money lost to slippage so far.
        total_notional: Sum of the notionals so far, in money.
    """

    __slots__ = (
        "_fee_rate",
        "_fills",
        "_slippage_rate",
        "cash",
        "equity",
        "initial_cash",
        "n_fills",
        "positions",
        "symbols",
        "total_fees",
        "total_notional",
        "total_slippage",
    )

    def __init__(
        self, symbols: tuple[str, ...], initial_cash: float, costs: CostConfig, *, record: bool = True
    ) -> None:
        """Open the account (rule 6.5): cash, and no shares.

        Args:
            symbols: Symbol names; orders and prices come in this order.
            initial_cash: Money at the start.
            costs: Fee and slippage rates.
            record: Whether fills and closed trades are kept.
        """
        self.symbols = symbols
        self.initial_cash = self.cash = self.equity = initial_cash
        self.positions = PositionManager(symbols, record_trades=record)
        self.n_fills = 0
        self.total_fees = self.total_slippage = self.total_notional = 0.0
        self._fee_rate, self._slippage_rate = costs.fee_rate, costs.slippage_rate
        self._fills = RowLog(10) if record else None

    @property
    def holdings(self) -> Floats:
        """Shares held, float64 ``[symbols]``, a copy."""
        return self.positions.shares.copy()

    @property
    def fills(self) -> list[Fill]:
        """Every fill so far, in order of execution; empty unless ``record``."""
        rows = [] if self._fills is None else self._fills.rows().tolist()
        return [Fill(int(row[0]), int(row[1]), self.symbols[int(row[2])], *row[3:]) for row in rows]

    def execute(self, orders: Floats, prices: Floats, decision_bar: int, fill_bar: int) -> Execution:
        """Fill orders: all sells, then all buys.

        Args:
            orders: Signed shares, positive to buy, float64 ``[symbols]``; finite, 0 where not tradable.
            prices: Fill prices (rule 1.3), float64 ``[symbols]``, money per share; read where there is an
                order.
            decision_bar: Bar t at whose close the orders were decided.
            fill_bar: Bar of the prices.

        Returns:
            Turnover and costs of the step.
        """
        columns = orders.nonzero()[0].tolist()
        if not columns:
            return NO_EXECUTION
        wanted = list(zip(columns, orders[columns].tolist(), prices[columns].tolist(), strict=True))
        bars = (decision_bar, fill_bar)
        fills: list[tuple[float, float, float]] = []

        # 3.2 Sells first, each limited to the shares held.
        held = self.positions.shares
        for column, order, p in wanted:
            if order < 0 < held[column]:
                fills.append(self._fill(column, order, max(order, -float(held[column])), p, bars))

        # 3.3 Buys share one factor, so the order of the symbols never matters.
        buys = [(column, order, p) for column, order, p in wanted if order > 0]
        factor = self._factor(buys)
        for column, order, p in buys:
            if factor * order > 0:
                fills.append(self._fill(column, order, factor * order, p, bars))

        # 3.4 Cash is never below zero: all is spent when f < 1; else only a rounding residue is removed.
        self.cash = 0.0 if factor < 1 else max(self.cash, 0.0)
        return self._book(fills)

    def _factor(self, buys: Iterable[tuple[int, float, float]]) -> float:
        """Return the factor f of rule 3.3 for buys given as (column, shares, fill price)."""
        needed = sum(q * p * (1 + self._slippage_rate) * (1 + self._fee_rate) for _, q, p in buys)
        return self.cash / needed if needed > self.cash else 1.0

    def _fill(
        self, column: int, requested: float, shares: float, p: float, bars: tuple[int, int]
    ) -> tuple[float, float, float]:
        """Execute ``shares`` (signed, not 0) of one symbol at fill price ``p``.

        Returns:
            Notional, fee and slippage, in money.
        """
        # 3.1 A buy pays more than the fill price, a sell gets less.
        is_buy = shares > 0
        quantity = abs(shares)
        price = p * (1 + self._slippage_rate) if is_buy else p * (1 - self._slippage_rate)
        notional = quantity * price
        fee = self._fee_rate * notional
        if is_buy:
            self.cash -= notional + fee
            self.positions.buy(column, quantity, price, fee, bars[1])
        else:
            self.cash += notional - fee
            self.positions.sell(column, quantity, price, fee, bars[1])
        slippage = quantity * p * self._slippage_rate
        if self._fills is not None:
            self._fills.append(*bars, column, requested, shares, p, price, notional, fee, slippage)
        return notional, fee, slippage

    def _book(self, fills: list[tuple[float, float, float]]) -> Execution:
        """Add the fills of a step, as notional, fee and slippage, to the totals, and return their sums."""
        if not fills:
            return NO_EXECUTION
        notional, fees, slippage = map(sum, zip(*fills, strict=True))
        self.n_fills += len(fills)
        self.total_notional += notional
        self.total_fees += fees
        self.total_slippage += slippage
        # 3.5 Turnover and costs. ``equity`` is still that of bar t.
        return Execution(notional / self.equity if self.equity > 0 else 0.0, fees, slippage, len(fills))

    def mark(self, marks: Floats) -> float:
        """Value the account at the marks of the new bar (rule 4.1).

        Args:
            marks: mark[t+1], float64 ``[symbols]``, money per share; the last known close of a symbol without
                a bar (4.2), and 0 in place of NaN before its first bar, where nothing can be held.

        Returns:
            equity[t+1], in money.
        """
        self.equity = self.cash + float(self.positions.shares @ marks)
        return self.equity
