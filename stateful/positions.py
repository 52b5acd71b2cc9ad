"""Positions: what is held, what was paid for it, and what selling it earned. First in, first out (FIFO).

A position is kept in two ways, because two readers want different things of it:

* its **lots**, oldest first, for the trade list: every sale is matched with the purchases it closes;
* its **share count** and **average entry price** (rule 5.2), for the account and the observation.

Long positions only; a lot's shares are positive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stateful.rowlog import RowLog


class Lot(NamedTuple):
    """Shares bought in one fill and not yet sold.

    Attributes:
        shares: Shares left of that fill.
        price: Price paid per share, slippage included and fee not (rule 3.1).
        fee_per_share: Fee of the purchase per share, in money.
        bar: The fill bar.
    """

    shares: float
    price: float
    fee_per_share: float
    bar: int


class Trade(NamedTuple):
    """A lot, or a part of one, from its purchase to its sale, or to the present where it is still open.

    Attributes:
        symbol: Symbol name.
        entry_bar: Fill bar of the purchase.
        exit_bar: Fill bar of the sale; the current bar while open.
        shares: Shares bought and sold.
        entry_price: Price paid per share (rule 3.1).
        exit_price: Price received per share (rule 3.1); the mark while open.
        entry_fee: Fee paid when buying these shares, in money.
        exit_fee: Fee paid when selling them, in money; 0 while open.
        is_open: Whether the shares are still held.
    """

    symbol: str
    entry_bar: int
    exit_bar: int
    shares: float
    entry_price: float
    exit_price: float
    entry_fee: float
    exit_fee: float
    is_open: bool = False

    @property
    def gross_pnl(self) -> float:
        """Profit before fees, in money; slippage is already in the prices."""
        return self.shares * (self.exit_price - self.entry_price)

    @property
    def pnl(self) -> float:
        """Profit after the fees of both sides, in money."""
        return self.gross_pnl - self.entry_fee - self.exit_fee

    @property
    def entry_value(self) -> float:
        """Money paid for the shares, without fee."""
        return self.shares * self.entry_price


class PositionManager:
    """The positions of one account.

    ``shares`` is authoritative: it moves by exactly the shares of each fill, as the account's rules say. Lots
    are split by subtraction, so their sum may differ from it by rounding; selling all shares of a symbol
    closes all of its lots, whatever the residue.

    Attributes:
        symbols: Symbol names.
        shares: Shares held, float64 ``[symbols]``.
        average_price: Average entry price (rule 5.2), float64 ``[symbols]``, money per share; 0 without a
            position.
        n_closed: Number of closed trades.
        realized_gross: Profit of all sales before fees, in money.
        realized_fees: Fees of both sides of all that was sold, in money.
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
        self.shares: npt.NDArray[np.float64] = np.zeros(len(symbols))
        self.average_price: npt.NDArray[np.float64] = np.zeros(len(symbols))
        self.n_closed = 0
        self.realized_gross = 0.0
        self.realized_fees = 0.0
        self._lots: tuple[deque[Lot], ...] = tuple(deque() for _ in symbols)
        self._trades = RowLog(8) if record_trades else None

    @property
    def realized_net(self) -> float:
        """Profit of all sales after the fees of both sides, in money."""
        return self.realized_gross - self.realized_fees

    @property
    def trades(self) -> list[Trade]:
        """Closed trades in order of their exits; empty unless ``record_trades``."""
        rows = [] if self._trades is None else self._trades.rows().tolist()
        return [
            Trade(self.symbols[int(column)], int(entry), int(end), *numbers) for column, entry, end, *numbers in rows
        ]

    def lots(self, column: int) -> tuple[Lot, ...]:
        """Return the open lots of a symbol, oldest first."""
        return tuple(self._lots[column])

    def buy(self, column: int, shares: float, price: float, fee: float, bar: int) -> None:
        """Add a lot.

        Args:
            column: The symbol.
            shares: Shares bought, positive.
            price: Price paid per share (rule 3.1).
            fee: Fee of the whole fill, in money.
            bar: The fill bar.

        Raises:
            ValueError: ``shares`` is not positive.
        """
        if not shares > 0:
            raise ValueError(f"buy {self.symbols[column]!r}: got {shares} shares, expected more than 0")
        held = float(self.shares[column])
        average = float(self.average_price[column])
        self.average_price[column] = (held * average + shares * price) / (held + shares)  # 5.2
        self.shares[column] = held + shares
        self._lots[column].append(Lot(shares, price, fee / shares, bar))

    def sell(self, column: int, shares: float, price: float, fee: float, bar: int) -> None:
        """Close the oldest lots, splitting the last one touched where the sale ends inside it.

        Args:
            column: The symbol.
            shares: Shares sold, positive, at most those held.
            price: Price received per share (rule 3.1).
            fee: Fee of the whole fill, in money.
            bar: The fill bar.

        Raises:
            ValueError: ``shares`` is not positive, or more than held.
        """
        held = float(self.shares[column])
        if not 0 < shares <= held:
            raise ValueError(f"sell {self.symbols[column]!r}: got {shares} shares, expected more than 0, up to {held}")
        lots, fee_per_share = self._lots[column], fee / shares
        all_of_them = shares == held
        remaining = shares
        while lots and (all_of_them or remaining > 0):
            lot = lots[0]
            if all_of_them or lot.shares <= remaining:
                lots.popleft()
                self._close(column, lot, lot.shares, price, fee_per_share, bar)
            else:
                lots[0] = Lot(lot.shares - remaining, lot.price, lot.fee_per_share, lot.bar)
                self._close(column, lot, remaining, price, fee_per_share, bar)
            remaining -= lot.shares
        self.shares[column] = held - shares
        if all_of_them:
            self.average_price[column] = 0.0  # 5.2: forgotten at zero shares

    def _close(self, column: int, lot: Lot, shares: float, price: float, fee_per_share: float, bar: int) -> None:
        """Book the sale of ``shares`` of one lot."""
        entry_fee, exit_fee = shares * lot.fee_per_share, shares * fee_per_share
        self.n_closed += 1
        self.realized_gross += shares * (price - lot.price)
        self.realized_fees += entry_fee + exit_fee
        if self._trades is not None:
            self._trades.append(column, lot.bar, bar, shares, lot.price, price, entry_fee, exit_fee)

    def unrealized(self, marks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
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
                profit[column] = sum(lot.shares * (mark - lot.price) for lot in lots)
        return profit

    def open_trades(self, marks: npt.NDArray[np.float64], bar: int) -> Iterator[Trade]:
        """Yield every open lot as a `Trade` that would end at the mark, without an exit fee.

        Args:
            marks: Mark prices (rule 1.2), float64 ``[symbols]``; may be NaN where nothing is held.
            bar: The bar of those marks.
        """
        for column, lots in enumerate(self._lots):
            for lot in lots:
                yield Trade(
                    symbol=self.symbols[column],
                    entry_bar=lot.bar,
                    exit_bar=bar,
                    shares=lot.shares,
                    entry_price=lot.price,
                    exit_price=float(marks[column]),
                    entry_fee=lot.shares * lot.fee_per_share,
                    exit_fee=0.0,
                    is_open=True,
                )
