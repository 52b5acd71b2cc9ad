"""What happens to an account between bar t and bar t+1. Rule 4 of ``docs/accounting.md``.

====  ==============================  =========================
rule  what                            where
====  ==============================  =========================
1.5   time                            `Nights.__init__`
4     the order of events             `pass_night`
4.1   interest, borrow, funding       `_carry`
4.2   splits                          `_split`
4.3   dividends                       `_pay_dividends`
4.4   delisting                       `_delist`
====  ==============================  =========================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from batchenv.market import MarketData

if TYPE_CHECKING:
    from stateful.portfolio import Portfolio

Floats = npt.NDArray[np.float64]

_YEAR = np.timedelta64(365, "D") / np.timedelta64(1, "ns")


class Nights:
    """What the market says about every night, looked up once. A night is named by the bar t before it.

    Attributes:
        years: Δ, time to the next bar in years (rule 1.5), float64 ``[bars - 1]``.
        marks: mark[t], money per share, 0 before a listing, float64 ``[bars, symbols]``.
        funding: c of rule 4.1, a fraction of the position, float64 ``[bars, symbols]``, at bar t+1; None without.
        splits: Columns with a split, and its k, by night.
        dividends: Columns with a dividend, and its d per share, by night.
        delisted: Columns whose last bar is t, by night.
    """

    __slots__ = ("delisted", "dividends", "funding", "marks", "splits", "years")

    def __init__(self, market: MarketData, funding_column: str | None = None) -> None:
        """Look up the nights of a market.

        Args:
            market: The bars.
            funding_column: Column of the market with c; None for none.
        """
        stamps = market.timestamps.astype("datetime64[ns]").astype(np.int64)
        self.years: Floats = np.diff(stamps) / _YEAR
        self.marks: Floats = np.nan_to_num(market.mark, nan=0.0)
        self.funding = None if funding_column is None else np.nan_to_num(market.columns[funding_column], nan=0.0)
        self.splits = _events(market.splits, 1.0)
        self.dividends = _events(market.dividends, 0.0)
        self.delisted = _delistings(market)


def pass_night(account: Portfolio, nights: Nights, bar: int, pending: Floats | None) -> None:
    """Take an account from the close of ``bar`` to the next open (rule 4), in the order of the text.

    Args:
        account: The account; changed.
        nights: What the market says.
        bar: Bar t.
        pending: Orders decided at t that fill later, signed shares, float64 ``[symbols]``; changed. None where
            none wait.
    """
    if account.terms.has_carry:
        _carry(account, nights, bar)
    if bar in nights.splits:
        _split(account, nights, bar, pending)
    if bar in nights.dividends:
        _pay_dividends(account, nights, bar, pending)
    if bar in nights.delisted:
        _delist(account, nights, bar)


def _carry(account: Portfolio, nights: Nights, bar: int) -> None:
    """Interest, borrow cost and funding, all on the account before any of them (rule 4.1)."""
    terms, step, years = account.terms, account.step, float(nights.years[bar])
    cash, values = account.cash, account.positions.shares * nights.marks[bar]
    growth = max(terms.cash_rate * years, -1.0) if cash > 0 else terms.margin_rate * years
    interest = cash * growth
    borrow = -float(np.maximum(-values, 0.0) @ terms.borrow_rate) * years
    funding = -float(values @ terms.funding_rate) * years
    if nights.funding is not None:
        funding -= float(values @ nights.funding[bar + 1])
    account.cash = cash + interest + borrow + funding
    step.interest += interest
    step.borrow += borrow
    step.funding += funding


def _split(account: Portfolio, nights: Nights, bar: int, pending: Floats | None) -> None:
    """Turn one old share into k new ones, in positions and in pending orders (rule 4.2)."""
    for column, ratio in nights.splits[bar]:
        _scale(account, column, ratio, pending)


def _pay_dividends(account: Portfolio, nights: Nights, bar: int, pending: Floats | None) -> None:
    """Pay dividends out, or buy shares at the last close with them (rule 4.3)."""
    splits = dict(nights.splits.get(bar, ()))
    for column, dividend in nights.dividends[bar]:
        if account.terms.reinvest:
            close = float(nights.marks[bar, column]) / splits.get(column, 1.0)
            if close > 0:  # else the symbol has its first bar at t+1: there is nothing yet to scale
                _scale(account, column, close / (close - dividend), pending)
        else:
            paid = float(account.positions.shares[column]) * dividend
            account.cash += paid
            account.step.dividends += paid


def _delist(account: Portfolio, nights: Nights, bar: int) -> None:
    """Exchange the positions of symbols that are gone for cash, without fee (rule 4.4)."""
    for column in nights.delisted[bar]:
        price = float(nights.marks[bar, column]) * (1.0 - account.terms.delisting_haircut)
        account.exchange(column, price, bar)


def _scale(account: Portfolio, column: int, factor: float, pending: Floats | None) -> None:
    account.positions.scale(column, factor)
    if pending is not None:
        pending[column] *= factor


def _events(values: Floats | None, none: float) -> dict[int, list[tuple[int, float]]]:
    """Return column and value of all that is not ``none``, by the bar before."""
    events: dict[int, list[tuple[int, float]]] = {}
    if values is not None:
        for bar, column in np.argwhere(values[1:] != none).tolist():
            events.setdefault(bar, []).append((column, float(values[bar + 1, column])))
    return events


def _delistings(market: MarketData) -> dict[int, list[int]]:
    """Return the columns that are delisted before the market's last bar, by their own last bar."""
    bar_of = {stamp: bar for bar, stamp in enumerate(market.timestamps[:-1].tolist())}
    delisted: dict[int, list[int]] = {}
    assert market.delisted is not None
    for column, stamp in enumerate(market.delisted.tolist()):
        if stamp in bar_of:
            delisted.setdefault(bar_of[stamp], []).append(column)
    return delisted
