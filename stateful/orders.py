"""From an action to orders: when and at what price an order fills, and how large it is.

Rules 1.3, 1.4 and 2 of ``docs/accounting.md``. What a fill does to the account is in
``stateful/portfolio.py``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchenv.config import EnvConfig, Fill
from batchenv.errors import ActionError, ConfigError
from batchenv.market import MarketData

Floats = npt.NDArray[np.float64]


class FillRule:
    """Where an order decided at bar t fills, and whether it can.

    Attributes:
        delay: Bars from decision to fill: 0 for `close`, else 1.
        prices: Fill prices by fill bar, float64 ``[bars, symbols]``, money per share; NaN where there is no
            bar.
    """

    __slots__ = ("_tradable", "delay", "prices")

    def __init__(self, market: MarketData, fill: Fill) -> None:
        """Look up prices and tradability once, for all bars.

        Raises:
            ConfigError: ``next_open`` on data without open prices.
        """
        prices = market.open if fill == "next_open" else market.close  # 1.3
        if prices is None:
            raise ConfigError("fill: 'next_open' needs open prices, and these data have closes only")
        self.delay = 0 if fill == "close" else 1
        self.prices: Floats = prices
        last = market.n_bars - self.delay
        self._tradable = ~np.isnan(market.mark[:last]) & market.has_bar[self.delay :]  # 1.4

    def tradable(self, bar: int) -> npt.NDArray[np.bool_]:
        """Return which symbols an order decided at ``bar`` can fill for (rule 1.4), bool ``[symbols]``."""
        row: npt.NDArray[np.bool_] = self._tradable[bar]
        return row


def size_orders(numbers: Floats, equity: float, holdings: Floats, marks: Floats, config: EnvConfig) -> Floats:
    """Turn action numbers into orders (rule 2.2), before the rules on what is tradable.

    Args:
        numbers: Action numbers, clipped to the bounds of their mode, float64 ``[symbols]``; in `discrete`
            mode -1 (sell), 0 (hold), 1 (buy).
        equity: equity[t], in money.
        holdings: Shares held, float64 ``[symbols]``.
        marks: mark[t], float64 ``[symbols]``, money per share; NaN before the first bar of a symbol.
        config: The rules.

    Returns:
        Signed shares, positive to buy, float64 ``[symbols]``; NaN where the mark is.
    """
    mode = config.action_config.mode
    if mode == "shares":
        return numbers * config.action_config.max_shares
    if mode == "weights":
        wanted = np.maximum(numbers, 0.0)
        weights = wanted / max(1.0, float(wanted.sum()))
        return weights * equity / marks - holdings
    return numbers * config.portfolio_config.trade_limit_percent * equity / marks  # trade, discrete


def admit_orders(orders: Floats, tradable: npt.NDArray[np.bool_]) -> Floats:
    """Drop the orders of symbols that are not tradable (rule 2.3).

    Args:
        orders: Signed shares, float64 ``[symbols]``.
        tradable: Rule 1.4, bool ``[symbols]``.

    Returns:
        A new array, float64 ``[symbols]``, 0 where an order is dropped.
    """
    return np.where(tradable, orders, 0.0)


def check_orders(orders: npt.ArrayLike, symbols: tuple[str, ...]) -> Floats:
    """Return orders given by hand as float64 ``[symbols]``.

    Raises:
        ActionError: Wrong shape, or a value that is not a finite number; names the symbol.
    """
    try:
        array = np.asarray(orders)
    except ValueError:
        raise ActionError(f"orders: rows differ in length, expected shape [{len(symbols)}]") from None
    if array.shape != (len(symbols),):
        raise ActionError(f"orders: got shape {list(array.shape)}, expected [{len(symbols)}]")
    if array.dtype.kind not in "fiu":
        raise ActionError(f"orders: got dtype {array.dtype}, expected float64")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        first = int(np.argmin(np.isfinite(array)))
        raise ActionError(f"orders[symbol {symbols[first]!r}]: got {array[first]}, expected a finite number of shares")
    return array
