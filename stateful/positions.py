"""Positions: what is held, what was paid for it, and what closing it earned. First in, first out (FIFO).

A position is kept in two ways, because two readers want different things of it:

* its **lots**, oldest first, for the trade list: every fill against the position closes the oldest of them;
* its **share count** and **average entry price** (rule 6.5), for the account and the observation.

Shares are negative in a short position, and so are those of its lots. All lots of a symbol have one sign.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Kind = Literal["order", "stop_loss", "take_profit", "margin_call", "delisting"]
"""Why something was filled: an order, a stop or target (rule 5), a margin call (2.4), a delisting (4.4)."""
KINDS: tuple[Kind, ...] = get_args(Kind)
_CODES = {kind: code for code, kind in enumerate(KINDS)}


class Lot(NamedTuple):
    """Shares of one fill that are still held.

    Attributes:
        shares: Shares left of that fill; negative where they were sold short.
        price: Price paid or received per share, slippage included and fee not (rule 3.3); after splits and
            reinvested dividends, per share of today.
        fee_per_share: Fee of the fill per share, in money, at least 0.
        bar: The fill bar.
    """

    shares: float
    price: float
    fee_per_share: float
    bar: int


_Lot = tuple[float, float, float, int]
"""The fields of a `Lot`, bare: that is what a step handles by the dozen."""


class Trade(NamedTuple):
    """A lot, or a part of one, from the fill that opened it to the one that closed it, or to the present.

    Attributes:
        symbol: Symbol name.
        entry_bar: Fill bar of the opening.
        exit_bar: Fill bar of the closing; the current bar while open.
        side: ``long`` or ``short``.
        shares: Shares opened and closed, positive on both sides; counted at the exit where there was a split.
        entry_price: Price paid or received per share (rule 3.3), for shares as counted at the exit.
        exit_price: Price at which they were closed (rule 3.3); the mark while open.
        entry_fee: Fee paid when opening these shares, in money.
        exit_fee: Fee paid when closing them, in money; 0 while open.
        reason: What closed it: a `Kind`, or ``open``.
    """

    symbol: str
    entry_bar: int
    exit_bar: int
    side: Literal["long", "short"]
    shares: float
    entry_price: float
    exit_price: float
    entry_fee: float
    exit_fee: float
    reason: Kind | Literal["open"]

    @property
    def is_open(self) -> bool:
        """Whether the shares are still held."""
        return self.reason == "open"

    @property
    def gross_pnl(self) -> float:
        """Profit before fees, in money; slippage is already in the prices."""
        gain = self.exit_price - self.entry_price
        return self.shares * (gain if self.side == "long" else -gain)

    @property
    def pnl(self) -> float:
        """Profit after the fees of both sides, in money; interest, borrow cost and dividends are not in it."""
        return self.gross_pnl - self.entry_fee - self.exit_fee

    @property
    def entry_value(self) -> float:
        """Money paid or received for the shares, without fee."""
        return self.shares * self.entry_price


_TRADE = struct.Struct("9d")
"""A closed trade in the log: column, entry and exit bar, code of its kind, signed shares, prices, fees.

Objects kept by the hundred thousand slow every step down, because the garbage collector walks them again and again.
"""


class PositionManager:
    """The positions of one account.

    ``shares`` is authoritative: it moves by exactly the shares of each fill, as the account's rules say. Lots
    are split by subtraction, so their sum may differ from it by rounding; closing all shares of a symbol
    closes all of its lots, whatever the residue.

    Attributes:
        symbols: Symbol names.
        shares: Shares held, negative when short, float64 ``[symbols]``.
        average_price: Average entry price (rule 6.5), float64 ``[symbols]``, money per share; 0 without a
            position.
        n_closed: Number of closed trades.
        realized_gross: Profit of all closed trades before fees, in money.
        realized_fees: Fees of both sides of all closed trades, in money.
    """

    __slots__ = (
        "_lots",
        "_trades",
        "average_price",
        "n_closed",
        "realized_fees",
        "realized_gross",
        "shares",
        "symbols",
    )

    def __init__(self, symbols: tuple[str, ...], *, record_trades: bool = True) -> None:
        """Start without positions.

        Args:
            symbols: Symbol names; methods refer to a symbol by its column, the index in this tuple.
            record_trades: Whether closed trades are kept; the totals are kept in either case.
        """
        self.symbols = symbols
        self.shares: Floats = np.zeros(len(symbols))
        self.average_price: Floats = np.zeros(len(symbols))
        self.n_closed = 0
        self.realized_gross = 0.0
        self.realized_fees = 0.0
        self._lots: tuple[deque[_Lot], ...] = tuple(deque() for _ in symbols)
        self._trades: array[float] | None = array("d") if record_trades else None

    @property
    def realized_net(self) -> float:
        """Profit of all closed trades after the fees of both sides, in money."""
        return self.realized_gross - self.realized_fees

    @property
    def trades(self) -> list[Trade]:
        """Closed trades in order of their exits; empty unless ``record_trades``."""
        return [
            Trade._make((
                self.symbols[int(column)], int(entry), int(end), _side(shares), abs(shares), *numbers, KINDS[int(kind)]
            ))
            for column, entry, end, kind, shares, *numbers in _TRADE.iter_unpack(self._trades or b"")
        ]  # fmt: skip

    def lots(self, column: int) -> tuple[Lot, ...]:
        """Return the open lots of a symbol, oldest first."""
        return tuple(map(Lot._make, self._lots[column]))

    # --- fills ----------------------------------------------------------------------------------------------

    def fill(self, column: int, shares: float, price: float, fee: float, bar: int, kind: Kind = "order") -> None:
        """Trade: close the oldest lots of an opposite position, then open a lot with what is left.

        Args:
            column: The symbol.
            shares: Signed shares, positive to buy, not 0.
            price: Price paid or received per share (rule 3.3).
            fee: Fee of the whole fill, in money; each share bears the same.
            bar: The fill bar.
            kind: Why it was filled; the reason of the trades that it closes.

        Raises:
            ValueError: ``shares`` is 0 or NaN.
        """
        size, held = abs(shares), self.shares.item(column)
        if not size > 0:
            raise ValueError(f"fill of {self.symbols[column]!r}: got {shares} shares, expected more or less than 0")
        new = (shares, price, fee / size, bar)
        if held != 0 and (held > 0) != (shares > 0):
            if size < abs(held):
                self._close(column, size, new, kind)
                self.shares[column] = held + shares
                return
            self._close(column, math.inf, new, kind)
            shares, held = held + shares, 0.0
            self.shares[column] = self.average_price[column] = 0.0  # 6.5: forgotten at zero shares
            if shares == 0:
                return
            new = (shares, price, fee / size, bar)
        total = held + shares
        average = (held * self.average_price.item(column) + shares * price) / total if held else price  # 6.5
        self.average_price[column] = average
        self.shares[column] = total
        self._lots[column].append(new)

    def _close(self, column: int, left: float, new: _Lot, kind: Kind) -> None:
        """Close the oldest lots with a fill against them; the last one touched is split.

        Args:
            column: The symbol.
            left: Unsigned shares to close; infinite for every lot, whatever rounding has left in them.
            new: The fill.
            kind: Why it was filled.
        """
        lots = self._lots[column]
        _, exit_price, exit_fee_rate, exit_bar = new
        while lots and left > 0:
            shares, price, fee_rate, bar = lots.popleft()
            size = abs(shares)
            if size > left:
                closed = left if shares > 0 else -left
                lots.appendleft((shares - closed, price, fee_rate, bar))
                shares, size = closed, left
            left -= size
            entry_fee, exit_fee = size * fee_rate, size * exit_fee_rate
            self.n_closed += 1
            self.realized_gross += shares * (exit_price - price)
            self.realized_fees += entry_fee + exit_fee
            if self._trades is not None:
                code = _CODES[kind]
                self._trades.frombytes(
                    _TRADE.pack(column, bar, exit_bar, code, shares, price, exit_price, entry_fee, exit_fee)
                )

    # --- splits ---------------------------------------------------------------------------------------------

    def scale(self, column: int, factor: float) -> None:
        """Turn each share into ``factor`` shares (rules 4.2 and 4.3); what was paid for all stays the same."""
        self.shares[column] *= factor
        self.average_price[column] /= factor
        lots = self._lots[column]
        for i, (shares, price, fee_per_share, bar) in enumerate(lots):
            lots[i] = (shares * factor, price / factor, fee_per_share / factor, bar)

    # --- what is open ---------------------------------------------------------------------------------------

    def unrealized(self, marks: Floats) -> Floats:
        """Return the open profit of each symbol before fees.

        Args:
            marks: Mark prices (rule 1.2), float64 ``[symbols]``; may be NaN where nothing is held.

        Returns:
            Profit in money, float64 ``[symbols]``; 0 without a position.
        """
        profit = np.zeros(len(self.symbols))
        for column, lots in enumerate(self._lots):
            if lots:
                mark = float(marks[column])
                profit[column] = sum(shares * (mark - price) for shares, price, _, _ in lots)
        return profit

    def open_trades(self, marks: Floats, bar: int) -> Iterator[Trade]:
        """Yield every open lot as a `Trade` that would end at the mark, without an exit fee.

        Args:
            marks: Mark prices (rule 1.2), float64 ``[symbols]``; may be NaN where nothing is held.
            bar: The bar of those marks.
        """
        for column in range(len(self.symbols)):
            for lot in self.lots(column):
                yield Trade(
                    symbol=self.symbols[column],
                    entry_bar=lot.bar,
                    exit_bar=bar,
                    side=_side(lot.shares),
                    shares=abs(lot.shares),
                    entry_price=lot.price,
                    exit_price=float(marks[column]),
                    entry_fee=abs(lot.shares) * lot.fee_per_share,
                    exit_fee=0.0,
                    reason="open",
                )


def _side(shares: float) -> Literal["long", "short"]:
    return "long" if shares > 0 else "short"
