"""The account: orders in, fills out, the night, the stops, then the mark.

Rules of ``docs/accounting.md``, each in one place.

========  ==============================  ==============================
rule      what                            where
========  ==============================  ==============================
3.1-3.6   how much fills, at what price   `stateful.execution`
3.7       settlement                      `Portfolio._settle`, `Portfolio._pay_for`
3.8       turnover and costs              `Portfolio._pay_for`, `Flows`
4         overnight                       `stateful.overnight`
4.4       delisting                       `Portfolio.exchange`
5         stops                           `Portfolio.stop_out`, `stateful.stops`
6.1       equity                          `Portfolio.mark`
6.3       margin call                     `Portfolio.mark`
6.5       average entry price, lots       `stateful.positions`
========  ==============================  ==============================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stateful.execution import Account, Priced, Quotes, fill_quantities, priced
from stateful.positions import Kind, PositionManager
from stateful.stops import Exit
from stateful.terms import Terms

Floats = npt.NDArray[np.float64]


class Fill(NamedTuple):
    """An executed order, or another event that changed shares for cash.

    Attributes:
        decision_bar: Bar t at whose close the step began.
        fill_bar: Bar at which it was filled (rule 1.3); t+1 for stops and delistings.
        symbol: Symbol name.
        requested: Shares ordered, signed, before rules 3.1 to 3.6 limit them; counted at the fill bar.
        shares: Shares filled, signed.
        fill_price: Price p of rule 1.3 or 5.2, money per share; what is paid per share at a delisting.
        price: Price paid or received, p with slippage (rule 3.3).
        notional: abs(shares) * price, in money.
        fee: In money.
        slippage: Money lost to slippage, abs(shares) * abs(price - fill_price).
        kind: Why it was filled.
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
    kind: Kind


_Fills = tuple[int, int, npt.NDArray[np.int64], Floats, Kind]
"""Fills of one moment: decision bar, fill bar, columns, ``requested`` to ``slippage`` ``[7, fills]``, kind."""


@dataclass(slots=True)
class Flows:
    """What moved in a step, or in all steps so far; money, and as a change of cash where it has a sign.

    Attributes:
        n_fills: Fills of orders and stops.
        notional: Sum of their notionals.
        fees: Fees paid.
        slippage: Lost to slippage.
        interest: Interest on cash, received or paid (rule 4.1).
        borrow: Cost of borrowed shares (4.1), at most 0.
        funding: Funding received or paid (4.1).
        dividends: Dividends received or paid in cash (4.3).
        delisting: Cash for delisted positions (4.4).
    """

    n_fills: int = 0
    notional: float = 0.0
    fees: float = 0.0
    slippage: float = 0.0
    interest: float = 0.0
    borrow: float = 0.0
    funding: float = 0.0
    dividends: float = 0.0
    delisting: float = 0.0

    @property
    def costs(self) -> float:
        """Fees and slippage (rule 3.8)."""
        return self.fees + self.slippage

    @property
    def carry(self) -> float:
        """Interest, borrow cost, funding and dividends."""
        return self.interest + self.borrow + self.funding + self.dividends

    def add(self, other: Flows) -> None:
        """Add what moved in another step."""
        self.n_fills += other.n_fills
        self.notional += other.notional
        self.fees += other.fees
        self.slippage += other.slippage
        self.interest += other.interest
        self.borrow += other.borrow
        self.funding += other.funding
        self.dividends += other.dividends
        self.delisting += other.delisting


class Portfolio:
    """One account.

    Every step is `open_step`, then `execute`, `stop_out` and `stateful.overnight.pass_night` in the order that the
    fill convention asks for, then `mark`, which moves the clock. ``equity`` is that of the last mark.

    Attributes:
        symbols: Symbol names.
        terms: What the account trades under.
        initial_cash: Money at the start.
        cash: Money now; never negative in a cash account.
        equity: Cash and positions at the last mark, in money.
        margin_call: Whether a margin call stands (rule 6.3).
        positions: Shares and lots.
        step: What has moved in the current step, or in the last one.
        total: What has moved in all steps that are marked.
    """

    __slots__ = (
        "_bar",
        "_fills",
        "cash",
        "equity",
        "initial_cash",
        "margin_call",
        "positions",
        "step",
        "symbols",
        "terms",
        "total",
    )

    def __init__(self, symbols: tuple[str, ...], initial_cash: float, terms: Terms, *, record: bool = True) -> None:
        """Open the account (rule 7.5): cash, and no shares.

        Args:
            symbols: Symbol names; orders and prices come in this order.
            initial_cash: Money at the start.
            terms: What the account trades under.
            record: Whether fills and closed trades are kept.
        """
        self.symbols = symbols
        self.terms = terms
        self.initial_cash = self.cash = self.equity = initial_cash
        self.margin_call = False
        self.positions = PositionManager(symbols, record_trades=record)
        self.step, self.total = Flows(), Flows()
        self._bar = 0
        self._fills: list[_Fills] | None = [] if record else None

    @property
    def holdings(self) -> Floats:
        """Shares held, negative when short, float64 ``[symbols]``, a copy."""
        return self.positions.shares.copy()

    @property
    def n_fills(self) -> int:
        """Number of fills of orders and stops in all steps that are marked; a delisting is none."""
        return self.total.n_fills

    @property
    def turnover(self) -> float:
        """Notional of the current step as a fraction of equity[t] (rule 3.8); until `mark` moves equity."""
        return self.step.notional / self.equity if self.step.notional else 0.0

    @property
    def fills(self) -> list[Fill]:
        """Every fill so far, in order of execution; empty unless ``record``."""
        return [
            Fill._make((decided, filled, self.symbols[column], *numbers, kind))
            for decided, filled, columns, facts, kind in self._fills or ()
            for column, numbers in zip(columns.tolist(), facts.T.tolist(), strict=True)
        ]

    # --- one step -------------------------------------------------------------------------------------------

    def open_step(self, bar: int) -> None:
        """Begin the step that decides at the close of ``bar``."""
        self._bar = bar
        self.step = Flows()

    def execute(self, orders: Floats, quotes: Quotes, fill_bar: int, kind: Kind = "order") -> None:
        """Fill orders (rule 3).

        Args:
            orders: Signed shares, positive to buy, float64 ``[symbols]``, finite.
            quotes: Prices and volumes of the fill bar.
            fill_bar: The fill bar.
            kind: Why there are orders.
        """
        account = Account(self.cash, self.positions.shares, self.equity)
        # Orders without measure overflow to infinity, and then the common factor is 0.
        with np.errstate(over="ignore", invalid="ignore"):
            quantities = fill_quantities(orders, account, quotes, self.terms)
        if np.count_nonzero(quantities):
            fills = priced(quantities, quotes.prices, quotes.volumes, account.shares, self.terms)
            self._settle(orders, fills, fill_bar, kind)

    def stop_out(self, column: int, found: Exit, volumes: Floats | None, bar: int) -> None:
        """Close a position at its stop or target: a fill like any other, of any size (rule 5.3).

        Args:
            column: The symbol; it has a position.
            found: Where and why.
            volumes: V of the bar in shares, float64 ``[symbols]``; None where the data have none.
            bar: The bar.
        """
        quantities = np.zeros(len(self.symbols))
        quantities[column] = -self.positions.shares[column]
        prices = np.full(len(self.symbols), found.price)
        fills = priced(quantities, prices, volumes, self.positions.shares, self.terms)
        self._settle(quantities, fills, bar, found.kind)

    def exchange(self, column: int, price: float, bar: int) -> None:
        """Exchange a whole position for cash without fee or slippage (rule 4.4); nothing where nothing is held.

        Args:
            column: The symbol.
            price: Cash per share.
            bar: Bar t, the symbol's last.
        """
        shares = float(self.positions.shares[column])
        if shares == 0:
            return
        self.cash += shares * price
        self.step.delisting += shares * price
        self.positions.fill(column, -shares, price, 0.0, bar + 1, "delisting")
        facts = np.array([-shares, -shares, price, price, abs(shares) * price, 0.0, 0.0])
        self._record(bar + 1, np.array([column]), facts[:, None], "delisting")

    def mark(self, marks: Floats) -> float:
        """Value the account at the marks of the new bar (rule 6.1), which ends the step.

        Args:
            marks: mark[t+1], float64 ``[symbols]``, money per share; the last known close of a symbol without
                a bar (6.2), and 0 in place of NaN before its first bar, where nothing can be held.

        Returns:
            equity[t+1], in money.
        """
        shares = self.positions.shares
        self.equity = self.cash + float(shares @ marks)
        if not self.terms.cash_account:  # 6.3; a cash account has at least the worth of its positions
            exposure = float(np.abs(shares) @ marks)
            self.margin_call = exposure > 0 and self.equity < self.terms.maintenance_margin * exposure * (1 - 1e-9)
        self.total.add(self.step)
        return self.equity

    # --- fills ----------------------------------------------------------------------------------------------

    def _settle(self, orders: Floats, fills: Priced, bar: int, kind: Kind) -> None:
        """Settle fills (rule 3.7), sells first, and count turnover and costs (3.8).

        Args:
            orders: Signed shares ordered, float64 ``[symbols]``.
            fills: What fills, at which price and cost.
            bar: The fill bar.
            kind: Why they fill.
        """
        step, quantities = self.step, fills.quantities
        columns = np.concatenate(((quantities < 0).nonzero()[0], (quantities > 0).nonzero()[0]))
        facts = np.array((orders, *fills)).take(columns, axis=1)
        notional, fee, slippage = facts[4:].sum(axis=1).tolist()

        self.cash -= float(quantities @ fills.paid)
        self.cash -= fee
        if self.terms.cash_account and self.cash < 0:
            self.cash = 0.0  # a residue of rounding
        _, shares, _, paid, _, fees, _ = facts.tolist()
        for column, quantity, price, cost in zip(columns.tolist(), shares, paid, fees, strict=True):
            self.positions.fill(column, quantity, price, cost, bar, kind)
        self._record(bar, columns, facts, kind)

        step.n_fills += len(columns)  # 3.8
        step.notional += notional
        step.fees += fee
        step.slippage += slippage

    def _record(self, bar: int, columns: npt.NDArray[np.int64], facts: Floats, kind: Kind) -> None:
        """Keep fills of ``columns``; ``facts`` are ``requested`` to ``slippage`` of `Fill`, ``[7, fills]``."""
        if self._fills is not None:
            self._fills.append((self._bar, bar, columns, facts, kind))
