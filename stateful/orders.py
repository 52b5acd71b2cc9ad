"""From an action to orders: when and at what price an order fills, and how large it is.

Rules 1.3, 1.4 and 2 of ``docs/accounting.md``. How much of an order fills is in ``stateful/execution.py``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchenv.arrays import floats
from batchenv.config import EnvConfig, Fill
from batchenv.errors import ActionError, ConfigError
from batchenv.market import MarketData
from stateful.execution import EPSILON, Quotes

Floats = npt.NDArray[np.float64]
NO_SIZE = 1e-12
"""An order worth less than this, as a fraction of equity, is none (rule 2.3)."""
Bools = npt.NDArray[np.bool_]


class FillRule:
    """Where an order decided at bar t fills, and whether it can.

    Attributes:
        delay: Bars from decision to fill: 0 for `close`, else 1.
        prices: Fill prices by fill bar, money per share, 0 where there is no bar, float64 ``[bars, symbols]``.
    """

    __slots__ = ("_marks", "_tradable", "_volumes", "delay", "prices")

    def __init__(self, market: MarketData, fill: Fill) -> None:
        """Look up prices and tradability once, for all bars.

        Raises:
            ConfigError: ``next_open`` on data without open prices.
        """
        prices = market.open if fill == "next_open" else market.close  # 1.3
        if prices is None:
            raise ConfigError("fill: 'next_open' needs open prices, and these data have closes only")
        self.delay = 0 if fill == "close" else 1
        self.prices: Floats = np.nan_to_num(prices, nan=0.0)
        self._marks: Floats = np.nan_to_num(market.mark, nan=0.0)
        self._volumes = None if market.volume is None else np.nan_to_num(market.volume, nan=0.0)
        last = market.n_bars - self.delay
        self._tradable = ~np.isnan(market.mark[:last]) & market.has_bar[self.delay :]  # 1.4

    def quotes(self, bar: int, allowed: Bools) -> Quotes:
        """Return what the fill bar of orders decided at ``bar`` offers.

        Args:
            bar: Bar t.
            allowed: Which symbols the lane may trade (rule 8.1), bool ``[symbols]``.
        """
        fill_bar = bar + self.delay
        volumes = None if self._volumes is None else self._volumes[fill_bar]
        return Quotes(self.prices[fill_bar], self._marks[bar], self._tradable[bar] & allowed, volumes)


def size_orders(
    numbers: Floats, equity: float, holdings: Floats, marks: Floats, config: EnvConfig, leverage: float = 1.0
) -> Floats:
    """Turn action numbers into orders (rule 2.2), before the rules on what is tradable.

    Args:
        numbers: Action numbers, clipped to the bounds of their mode, float64 ``[symbols]``; in `discrete`
            mode -1 (sell), 0 (hold), 1 (buy).
        equity: equity[t], in money.
        holdings: Shares held, float64 ``[symbols]``.
        marks: mark[t], float64 ``[symbols]``, money per share; NaN before the first bar of a symbol.
        config: The rules.
        leverage: G, the lane's own.

    Returns:
        Signed shares, positive to buy, float64 ``[symbols]``; NaN where the mark is.
    """
    action = config.action_config
    if action.mode == "shares":
        return numbers * action.max_shares
    if action.mode == "weights":
        short = config.margin_config.allow_short
        wanted = action.max_weight * (numbers if short else np.maximum(numbers, 0.0))
        weights = wanted / max(1.0, float(np.abs(wanted).sum()) / leverage)
        orders = weights * equity / marks - holdings
        return np.where(np.abs(orders) <= EPSILON * np.abs(holdings), 0.0, orders)  # 2.3
    return numbers * config.portfolio_config.trade_limit_percent * equity / marks  # trade, discrete


def sizeable_orders(orders: Floats, marks: Floats, equity: float) -> Floats:
    """Drop orders of no size (rule 2.3): worth no more than 1e-12 of equity, or of a symbol without a mark.

    Args:
        orders: Signed shares, float64 ``[symbols]``.
        marks: mark[t], float64 ``[symbols]``, money per share; 0 before the first bar of a symbol.
        equity: equity[t], in money.
    """
    with np.errstate(over="ignore"):  # infinite is of size
        return np.where(np.abs(orders) * marks > NO_SIZE * equity, orders, 0.0)


def check_orders(orders: npt.ArrayLike, symbols: tuple[str, ...]) -> Floats:
    """Return orders given by hand as float64 ``[symbols]``.

    Raises:
        ActionError: Wrong shape, or a value that is not a finite number; names the symbol.
    """
    return floats(orders, "orders", ((len(symbols),),), lambda at: f"[symbol {symbols[at[0]]!r}]", error=ActionError)
