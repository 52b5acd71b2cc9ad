"""Is a feature a level? Then it looks ahead on adjusted data, whose prices and volumes know later splits and dividends.

Adjusting multiplies all prices of a symbol before a split or dividend by one number, and with a split all volumes. A
feature that is the same for multiplied prices, such as a return, does not see it. A feature that changes, such as the
price itself, tells at bar t what happened after t: a price of 4 in 2003 says that splits followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from batchenv.data.bars import FloatArray
from batchenv.market import MarketData

_PRICES = ("open", "high", "low", "close", "dividends")
_SAME = 1e-6
"""A value that moves by less than this part of the feature's range has not changed."""
_FEW_BARS = 30
"""With fewer bars a column cannot be told to follow the price."""
_FOLLOWS = 0.1
"""A column follows the price where the variance of the log of their ratio is below this part of the log price's."""


def level_of(evaluate: Callable[[MarketData], FloatArray], market: MarketData, values: FloatArray) -> str | None:
    """Return ``prices`` or ``volumes`` where a feature depends on their level, or None.

    The feature is computed again with each symbol's prices, then its volumes, multiplied by a power of two of its own,
    which rounds nothing. The user's columns that follow the price are multiplied with it.

    Args:
        evaluate: Computes the feature, float64 [bars, symbols].
        market: The market, history included.
        values: What ``evaluate`` returns for ``market``.
    """
    factors: FloatArray = np.exp2(1.0 + np.arange(market.n_symbols, dtype=np.float64) % 8.0)
    changes: dict[str, dict[str, Any]] = {"prices": _multiplied(market, _PRICES, factors)}
    changes["prices"]["columns"] = {
        name: column * np.where(follows_price(column, market.mark), factors, 1.0)
        for name, column in market.columns.items()
    }
    if market.volume is not None:
        changes["volumes"] = _multiplied(market, ("volume",), factors)
    for what, fields in changes.items():
        if _differ(values, evaluate(replace(market, **fields))):
            return what
    return None


def _multiplied(market: MarketData, names: tuple[str, ...], factors: FloatArray) -> dict[str, Any]:
    given = {name: getattr(market, name) for name in names}
    return {name: matrix * factors for name, matrix in given.items() if matrix is not None}


def _differ(before: FloatArray, after: FloatArray) -> bool:
    known = ~np.isnan(before)
    if not np.array_equal(known, ~np.isnan(after)):
        return True
    if not known.any():
        return False
    reach = float(np.ptp(before[known])) or float(np.abs(before[known]).max())
    return bool((np.abs(after[known] - before[known]) > _SAME * reach).any())


def follows_price(column: FloatArray, mark: FloatArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which symbols' values in a column follow their price, bool [symbols].

    A moving average of the price does, or a price from another source. The ratio of column and price then stays near 1
    while the price moves: the median ratio is within a factor of two, and the ratio varies far less than the price.

    Args:
        column: The user's column, float64 [bars, symbols].
        mark: The prices, float64 [bars, symbols].
    """
    follows = np.zeros(mark.shape[1], np.bool_)
    for s in range(mark.shape[1]):
        both = (column[:, s] > 0) & (mark[:, s] > 0)  # False where either is NaN
        if both.sum() < _FEW_BARS:
            continue
        price = np.log(mark[both, s])
        ratio = np.log(column[both, s]) - price
        follows[s] = abs(np.median(ratio)) < np.log(2.0) and ratio.var() < _FOLLOWS * price.var()
    return follows
