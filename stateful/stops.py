"""Stops and targets: where a position is closed within a bar. Rule 5 of ``docs/accounting.md``.

====  =======================  ===========================================
rule  what                     where
====  =======================  ===========================================
5.1   stop and target prices   `_exit_of_long`, `_exit_of_short`
5.2   which comes first        `_exit_of_long`, `_exit_of_short`
5.3   the fill                 `Portfolio.stop_out`; a pending order: `StatefulTradingEnv._play_bar`
====  =======================  ===========================================
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from batchenv.config import ExecutionConfig
from batchenv.market import MarketData
from stateful.positions import Kind

if TYPE_CHECKING:
    from stateful.portfolio import Portfolio

Floats = npt.NDArray[np.float64]
ROUNDING = 1e-9
"""How close a price must come to a stop or target to reach it, relative to it (5.2)."""


class Bar(NamedTuple):
    """The prices of one symbol in one bar that stops look at, money per share."""

    open: float
    high: float
    low: float


class Exit(NamedTuple):
    """Where a position is closed.

    Attributes:
        price: Fill price p, before slippage, money per share.
        kind: ``stop_loss`` or ``take_profit``.
    """

    price: float
    kind: Kind


class Watch(NamedTuple):
    """The bars of a market, as stops look at them; float64 ``[bars, symbols]``, NaN where a symbol has no bar.

    Attributes:
        open: Opening prices.
        high: Highest prices.
        low: Lowest prices.
        volume: Shares; None where the data have none.
        stop_loss: ℓ, as a fraction; None for no stop.
        take_profit: g, as a fraction; None for no target.
    """

    open: Floats
    high: Floats
    low: Floats
    volume: Floats | None
    stop_loss: float | None
    take_profit: float | None

    @classmethod
    def build(cls, market: MarketData, execution: ExecutionConfig) -> Watch | None:
        """Return a watch over a market, or None where the rules have no stops."""
        if execution.stop_loss is None and execution.take_profit is None:
            return None
        assert market.open is not None and market.high is not None and market.low is not None  # checked by the task
        volume = None if market.volume is None else np.nan_to_num(market.volume, nan=0.0)
        return cls(market.open, market.high, market.low, volume, execution.stop_loss, execution.take_profit)

    def close_positions(self, account: Portfolio, bar: int) -> list[int]:
        """Close every position that reaches its stop or target in ``bar``, and return their columns.

        Args:
            account: The account; changed.
            bar: Bar t+1.
        """
        stopped = []
        positions = account.positions
        volumes = None if self.volume is None else self.volume[bar]
        bars = map(Bar, self.open[bar].tolist(), self.high[bar].tolist(), self.low[bar].tolist())
        held = zip(positions.shares.tolist(), positions.average_price.tolist(), bars, strict=True)
        for column, (shares, average, prices) in enumerate(held):
            if shares == 0 or math.isnan(prices.open):
                continue  # 5.1: no position, or no bar to watch
            found = find_exit(shares > 0, average, prices, self.stop_loss, self.take_profit)
            if found is not None:
                account.stop_out(column, found, volumes, bar)
                stopped.append(column)
        return stopped


def find_exit(
    is_long: bool, average_price: float, bar: Bar, stop_loss: float | None, take_profit: float | None
) -> Exit | None:
    """Return where a bar closes a position, or None where it does not.

    Args:
        is_long: Whether the position is long.
        average_price: Its average entry price a (rule 6.5).
        bar: Bar t+1 of the symbol.
        stop_loss: ℓ, a fraction of a; None for no stop.
        take_profit: g, a fraction of a; None for no target.
    """
    if is_long:
        return _exit_of_long(average_price, bar, stop_loss, take_profit)
    return _exit_of_short(average_price, bar, stop_loss, take_profit)


def _exit_of_long(average_price: float, bar: Bar, stop_loss: float | None, take_profit: float | None) -> Exit | None:
    stop = -math.inf if stop_loss is None else average_price * (1.0 - stop_loss)  # 5.1
    target = math.inf if take_profit is None else average_price * (1.0 + take_profit)
    reaches_stop, reaches_target = stop * (1.0 + ROUNDING), target * (1.0 - ROUNDING)
    # 5.2, in this order.
    if bar.open <= reaches_stop:
        return Exit(bar.open, "stop_loss")
    if bar.open >= reaches_target:
        return Exit(bar.open, "take_profit")
    if bar.low <= reaches_stop:
        return Exit(stop, "stop_loss")
    if bar.high >= reaches_target:
        return Exit(target, "take_profit")
    return None


def _exit_of_short(average_price: float, bar: Bar, stop_loss: float | None, take_profit: float | None) -> Exit | None:
    stop = math.inf if stop_loss is None else average_price * (1.0 + stop_loss)  # 5.1
    target = -math.inf if take_profit is None else average_price * (1.0 - take_profit)
    reaches_stop, reaches_target = stop * (1.0 - ROUNDING), target * (1.0 + ROUNDING)
    # 5.2, mirrored.
    if bar.open >= reaches_stop:
        return Exit(bar.open, "stop_loss")
    if bar.open <= reaches_target:
        return Exit(bar.open, "take_profit")
    if bar.high >= reaches_stop:
        return Exit(stop, "stop_loss")
    if bar.low <= reaches_target:
        return Exit(target, "take_profit")
    return None
