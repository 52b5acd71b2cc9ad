"""What must hold around every call that changes an account, checked from the outside; for tests only."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

import stateful.env
from stateful.execution import Quotes
from stateful.overnight import Nights, pass_night
from stateful.portfolio import Fill, Flows, Portfolio
from stateful.positions import Kind
from stateful.stops import Exit
from stateful.terms import Terms

Floats = npt.NDArray[np.float64]


class AuditedPortfolio(Portfolio):
    """A `Portfolio` that checks itself before and after every public call that changes it.

    Attributes:
        n_checks: Number of calls checked; a test that relies on the audit asserts that it is not 0.
        handled: Most money that any step moved or held; rounding is measured against it.
    """

    n_checks = 0

    def __init__(self, symbols: tuple[str, ...], initial_cash: float, terms: Terms, *, record: bool = True) -> None:
        """Open the account; fills are recorded in any case, because the checks read them."""
        super().__init__(symbols, initial_cash, terms, record=True)
        self.handled = initial_cash
        self.largest = np.zeros(len(symbols))
        self.before_step = (initial_cash, 0)
        check_state(self)

    def open_step(self, bar: int) -> None:
        """Begin a step and check."""
        check_state(self)
        super().open_step(bar)
        self.before_step = (self.cash, len(self.fills))
        assert self.step == Flows()

    def execute(self, orders: Floats, quotes: Quotes, fill_bar: int, kind: Kind = "order") -> None:
        """Execute and check."""
        check_state(self)
        before = Snapshot(self)
        super().execute(orders, quotes, fill_bar, kind)
        self.note(quotes.prices)
        check_fills(self, before, quotes.prices, quotes.volumes, kind)
        check_sizes(self, before, orders, quotes)
        check_state(self)
        AuditedPortfolio.n_checks += 1

    def stop_out(self, column: int, found: Exit, volumes: Floats | None, bar: int) -> None:
        """Stop and check."""
        check_state(self)
        before = Snapshot(self)
        super().stop_out(column, found, volumes, bar)
        prices = np.full(len(self.symbols), found.price)
        self.note(prices)
        check_fills(self, before, prices, volumes, found.kind)
        assert self.positions.shares[column] == 0  # 5.2
        check_state(self)
        AuditedPortfolio.n_checks += 1

    def mark(self, marks: Floats) -> float:
        """Mark and check."""
        check_state(self)
        cash, shares = self.cash, self.holdings
        equity = super().mark(marks)
        self.note(marks)
        assert (self.cash, self.equity) == (cash, equity)
        assert (self.holdings == shares).all()
        check_state(self)
        check_profit(self, marks)
        check_cash(self)
        AuditedPortfolio.n_checks += 1
        return equity

    def note(self, prices: Floats) -> None:
        """Remember the size of what is handled."""
        shares = np.abs(self.positions.shares)
        self.largest = np.maximum(self.largest, shares)
        moved = self.step.notional + abs(self.cash) + float(shares @ prices)
        self.handled = max(self.handled, moved, self.total.notional)


class Snapshot:
    """An account before a call."""

    def __init__(self, portfolio: AuditedPortfolio) -> None:
        self.cash = portfolio.cash
        self.shares = portfolio.holdings
        self.n_fills = len(portfolio.fills)
        self.step = Flows()
        self.step.add(portfolio.step)


def audited_night(account: Portfolio, nights: Nights, bar: int, pending: Floats | None) -> None:
    """Pass a night and check (rule 4)."""
    assert isinstance(account, AuditedPortfolio)
    check_state(account)
    before, spent = Snapshot(account), paid_for_lots(account)
    pass_night(account, nights, bar, pending)
    account.note(nights.marks[bar])
    check_state(account)
    moved = Flows()
    moved.add(account.step)
    change = moved.carry - before.step.carry + moved.delisting - before.step.delisting
    assert math.isclose(account.cash - before.cash, change, rel_tol=0, abs_tol=1e-12 * account.handled)
    assert moved.borrow <= before.step.borrow
    assert (moved.fees, moved.slippage, moved.notional) == (
        before.step.fees,
        before.step.slippage,
        before.step.notional,
    )
    assert (np.sign(account.holdings) * np.sign(before.shares) >= 0).all()
    gone = nights.delisted.get(bar, [])
    assert (account.holdings[gone] == 0).all()
    kept = np.setdiff1d(np.arange(len(account.symbols)), gone)
    np.testing.assert_allclose(paid_for_lots(account)[kept], spent[kept], rtol=1e-12)  # 4.2, 4.3: scaled, not bought
    AuditedPortfolio.n_checks += 1


def audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every environment from now on check its accounts."""
    monkeypatch.setattr(stateful.env, "Portfolio", AuditedPortfolio)
    monkeypatch.setattr(stateful.env, "pass_night", audited_night)
    monkeypatch.setattr(AuditedPortfolio, "n_checks", 0)


# --- the checks ---------------------------------------------------------------------------------------------


def check_state(portfolio: AuditedPortfolio) -> None:
    """Check cash and positions at rest."""
    positions, terms = portfolio.positions, portfolio.terms
    assert portfolio.cash >= 0 or not terms.cash_account
    assert math.isfinite(portfolio.cash)
    for column, shares in enumerate(portfolio.holdings.tolist()):
        lots = positions.lots(column)
        assert shares >= 0 or terms.allow_short
        slack = 1e-9 * portfolio.largest[column]
        assert math.isclose(sum(lot.shares for lot in lots), shares, rel_tol=1e-9, abs_tol=slack)
        assert all(lot.shares * shares > 0 and lot.price >= 0 and lot.fee_per_share >= 0 for lot in lots)
        assert [lot.bar for lot in lots] == sorted(lot.bar for lot in lots)
        if shares == 0:
            assert lots == ()
            assert positions.average_price[column] == 0
        else:
            assert positions.average_price[column] >= 0


def check_fills(
    portfolio: AuditedPortfolio, before: Snapshot, prices: Floats, volumes: Floats | None, kind: Kind
) -> None:
    """Check price, fee and booking of the fills since ``before`` (rules 3.3, 3.7 and 3.8)."""
    terms, fills = portfolio.terms, portfolio.fills[before.n_fills :]
    change = np.zeros(len(prices))
    for fill in fills:
        column = portfolio.symbols.index(fill.symbol)
        change[column] += fill.shares
        assert fill.kind == kind
        assert fill.fill_price == prices[column]
        check_price_and_fee(terms, fill, column, None if volumes is None else volumes[column], before.shares[column])
    np.testing.assert_allclose(portfolio.holdings, before.shares + change, rtol=1e-12, atol=1e-300)
    sides = [fill.shares > 0 for fill in fills]
    assert sides == sorted(sides)  # sells stand first
    paid = sum(fill.shares * fill.price + fill.fee for fill in fills)
    assert math.isclose(portfolio.cash - before.cash, -paid, rel_tol=0, abs_tol=4e-9 * portfolio.handled)
    if not terms.cash_account or portfolio.cash > 0:  # else up to a residue that was set to 0
        assert math.isclose(portfolio.cash - before.cash, -paid, rel_tol=0, abs_tol=1e-12 * portfolio.handled)
    step, old = portfolio.step, before.step
    assert step.n_fills - old.n_fills == len(fills)
    for now, then, name in (
        (step.notional, old.notional, "notional"),
        (step.fees, old.fees, "fee"),
        (step.slippage, old.slippage, "slippage"),
    ):
        total = sum(getattr(fill, name) for fill in fills)
        assert math.isclose(now - then, total, rel_tol=1e-9, abs_tol=1e-12 * portfolio.handled)
    if portfolio.equity > 0:
        assert math.isclose(portfolio.turnover * portfolio.equity, step.notional, rel_tol=1e-12)  # 3.8


def check_price_and_fee(terms: Terms, fill: Fill, column: int, volume: float | None, held: float) -> None:
    """Check one fill against rule 3.3, written out again."""
    size, impact = abs(fill.shares), 0.0
    if terms.impact > 0 and volume:
        impact = terms.impact * math.sqrt(size / volume)
    slippage = min(terms.slippage_rate[column] + impact, 1.0)
    price = fill.fill_price * (1 + math.copysign(slippage, fill.shares))
    assert math.isclose(fill.price, price, rel_tol=1e-12, abs_tol=1e-12 * fill.fill_price)
    assert math.isclose(fill.notional, size * fill.price)
    variable = terms.fee_rate[column] * fill.notional + terms.fee_per_share[column] * size
    fee = max(terms.fee_minimum[column], terms.fee_fixed[column] + variable)
    if fill.shares < 0 < held:
        fee = min(fee, fill.notional)
    assert math.isclose(fill.fee, fee, rel_tol=1e-12, abs_tol=1e-300)
    assert math.isclose(fill.slippage, size * fill.fill_price * slippage, rel_tol=1e-12, abs_tol=1e-300)


def check_sizes(portfolio: AuditedPortfolio, before: Snapshot, orders: Floats, quotes: Quotes) -> None:
    """Check how much of each order filled (rules 3.1, 3.2 and 3.4 to 3.6)."""
    terms, held = portfolio.terms, before.shares
    filled = np.zeros(len(orders))
    for fill in portfolio.fills[before.n_fills :]:
        filled[portfolio.symbols.index(fill.symbol)] = fill.shares
    size = np.abs(filled)
    assert (filled[~quotes.tradable] == 0).all()
    assert (filled * np.where(quotes.tradable, np.sign(orders), 1) >= 0).all()
    beyond = 1 + np.where((filled == -held) & (held != 0), 2.39e-7, 2e-9)  # 3.2 closes what comes this close to it
    assert (size <= np.where(quotes.tradable, np.abs(orders), 0) * beyond).all()
    if not terms.allow_short:
        assert (filled >= -held).all()
    if terms.needs_volume:
        assert quotes.volumes is not None
        share = 1.0 if terms.participation_limit is None else terms.participation_limit
        assert (filled[quotes.volumes == 0] == 0).all()
        if terms.participation_limit is not None:
            assert (size <= share * quotes.volumes * beyond).all()
    reduced = np.where(filled * np.sign(held) < 0, np.minimum(size, np.abs(held)), 0.0)
    increased = size - reduced
    closes = (reduced == np.abs(held)) & (reduced > 0)
    if terms.has_lots:
        for part, free in ((reduced, closes), (increased, np.zeros_like(closes))):
            lots = np.divide(part, terms.lot_size, out=np.zeros_like(part), where=(terms.lot_size > 0) & ~free)
            # The increasing part is what a flip leaves over after subtraction.
            assert (np.abs(lots - np.round(lots)) <= 1e-7 * np.maximum(1.0, lots)).all()
    if terms.min_notional > 0:
        for part, free in ((reduced, closes), (increased, np.zeros_like(closes))):
            small = (part > 0) & ~free & (part * quotes.prices < terms.min_notional * (1 - 1e-7))
            assert not small.any()
    check_exposure(portfolio, before, reduced, increased, filled, quotes)


def check_exposure(
    portfolio: AuditedPortfolio, before: Snapshot, reduced: Floats, increased: Floats, filled: Floats, quotes: Quotes
) -> None:
    """Check leverage and net limit right after the fills, valued at the fill prices (rule 3.4)."""
    terms = portfolio.terms
    if not increased.any():
        return
    value = np.where(quotes.tradable, quotes.prices, quotes.marks)
    equity = portfolio.cash + float(portfolio.holdings @ value)
    gross = float(np.abs(portfolio.holdings) @ value)
    slack = 1e-8 * portfolio.handled
    assert gross <= terms.leverage * equity + terms.leverage * slack
    if terms.net_limit is not None and not terms.has_lots and terms.min_notional == 0:
        # Rounding to lots and dropping small parts come after the factor, and can take away one side of a pair.
        net = float(portfolio.holdings @ value)
        between = float((before.shares + np.sign(filled) * reduced) @ value)
        for side in (1, -1):
            assert side * net <= max(terms.net_limit * equity, side * between) + (1 + terms.net_limit) * slack


def check_profit(portfolio: AuditedPortfolio, marks: Floats) -> None:
    """Check equity - initial cash = realised + unrealised profit, both before fees, - fees + carry.

    Args:
        portfolio: The account, marked.
        marks: Its marks, float64 ``[symbols]``.
    """
    positions, total = portfolio.positions, portfolio.total
    profit = positions.realized_gross + float(positions.unrealized(marks).sum()) - total.fees + total.carry
    # Residues that 3.7 sets to 0 add up, one at most in a step.
    slack = 1e-11 * portfolio.handled * (1 + portfolio.n_fills)
    assert math.isclose(portfolio.equity - portfolio.initial_cash, profit, rel_tol=0, abs_tol=slack)
    open_fees = sum(trade.entry_fee for trade in positions.open_trades(marks, 0))
    assert math.isclose(positions.realized_fees + open_fees, total.fees, rel_tol=1e-9, abs_tol=slack)
    earned = sum(trade.pnl for trade in positions.trades)
    assert math.isclose(earned, positions.realized_net, rel_tol=1e-9, abs_tol=slack)


def check_cash(portfolio: AuditedPortfolio) -> None:
    """Check that fills, delistings and carry explain the change of cash in a step."""
    cash, n_fills = portfolio.before_step
    fills, step = portfolio.fills[n_fills:], portfolio.step
    fees = sum(fill.fee for fill in fills)
    change = step.carry - sum(fill.shares * fill.price for fill in fills) - fees
    assert math.isclose(portfolio.cash - cash, change, rel_tol=0, abs_tol=4e-9 * portfolio.handled)
    proceeds = -sum(fill.shares * fill.price for fill in fills if fill.kind == "delisting")
    assert math.isclose(proceeds, step.delisting, rel_tol=1e-12, abs_tol=1e-12 * portfolio.handled)
    assert math.isclose(fees, step.fees, rel_tol=1e-9, abs_tol=1e-12 * portfolio.handled)


def paid_for_lots(portfolio: Portfolio) -> Floats:
    """Return what the open lots of each symbol cost, float64 ``[symbols]``."""
    columns = range(len(portfolio.symbols))
    return np.array([sum(lot.shares * lot.price for lot in portfolio.positions.lots(c)) for c in columns])
