"""Formulas of the built-in features. None changes when all prices of a symbol are multiplied by a constant.

Each takes the market, history included, and whole numbers of bars; each returns float64 [bars, symbols], NaN while
there are too few bars.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd

from batchenv.data.bars import FloatArray, format_time
from batchenv.errors import FeatureError
from batchenv.market import MarketData
from batchenv.turbulence import turbulence as turbulences
from batchenv.windows import rolling_mean, rolling_moments, rolling_std

_TOO_LARGE = 1e150
"""Larger returns overflow when they are squared and summed."""


def change(market: MarketData, n: int) -> FloatArray:
    """Simple return over n bars: close[t] / close[t - n] - 1."""
    mark = market.mark
    result = np.full_like(mark, np.nan)
    with np.errstate(over="ignore"):  # an infinite value is refused with its place, like any other
        result[n:] = mark[n:] / mark[: max(len(mark) - n, 0)] - 1.0
    return result


def log_return(market: MarketData, n: int) -> FloatArray:
    """Log return over n bars: ln(close[t] / close[t - n])."""
    return np.log1p(change(market, n))


def volatility(market: MarketData, n: int) -> FloatArray:
    """Sample standard deviation (n - 1 below) of the last n one-bar returns; per bar, not per year."""
    return rolling_std(change(market, 1), n, ddof=1)


def rsi(market: MarketData, n: int) -> FloatArray:
    """Relative strength index: 100 * G / (G + L); 50 where the price did not move.

    G and L are the average gain and loss in Wilder's smoothing: the mean of the first n changes, then avg[t]
    = avg[t - 1] + (x[t] - avg[t - 1]) / n. Source: Wilder, New Concepts in Technical Trading Systems (1978).
    """
    moves = np.full_like(market.mark, np.nan)
    moves[1:] = np.diff(market.mark, axis=0)
    gain, loss = _wilder(np.maximum(moves, 0.0), n), _wilder(np.maximum(-moves, 0.0), n)
    total = gain + loss
    with np.errstate(invalid="ignore"):
        return np.where(total == 0.0, 50.0, 100.0 * gain / total)


def _wilder(x: FloatArray, n: int) -> FloatArray:
    """Wilder's smoothing by column; NaN until n values are there. Missing values may only lead."""
    mean = rolling_mean(x, n)
    warm = ~np.isnan(mean)
    seed = warm.copy()
    seed[1:] &= ~warm[:-1]
    steps = pd.DataFrame(np.where(seed, mean, np.where(warm, x, np.nan)))
    return _values(steps.ewm(alpha=1.0 / n, adjust=False).mean())


def macd(market: MarketData, fast: int, slow: int, signal: int) -> FloatArray:
    """MACD histogram over the close, free of scale: (line - EMA(line, signal)) / close.

    line = EMA(close, fast) - EMA(close, slow); EMA(x, n)[t] = EMA[t - 1] + 2 / (n + 1) * (x[t] - EMA[t - 1]),
    seeded with the first value. Source: Appel, Technical Analysis: Power Tools for Active Investors (2005).
    """
    close = pd.DataFrame(market.mark)
    line = _ema(close, fast) - _ema(close, slow)
    return _values((line - _ema(line, signal)) / close)


def _ema(x: pd.DataFrame, n: int) -> pd.DataFrame:
    return x.ewm(span=n, adjust=False, min_periods=n).mean()


def sma_distance(market: MarketData, n: int) -> FloatArray:
    """Distance to the simple moving average: close / SMA(n) - 1."""
    return market.mark / rolling_mean(market.mark, n) - 1.0


def bollinger(market: MarketData, n: int) -> FloatArray:
    """Position in the Bollinger bands: (close - SMA(n)) / (2 * std(n)); -1 and 1 at the bands.

    0 where std is 0; std is the population's (n below). Source: Bollinger, Bollinger on Bollinger
    Bands (2001).
    """
    return _zscore(market.mark, n) / 2.0


def volume_zscore(market: MarketData, n: int) -> FloatArray:
    """Volume against its own last n bars: (volume - SMA(n)) / std(n), population std; 0 where std is 0.

    A listed symbol without a bar counts as zero volume.
    """
    if market.volume is None:
        raise FeatureError(f"feature 'volume_zscore' needs volume, and the market data ({market.source}) have none")
    idle = np.isnan(market.volume) & ~np.isnan(market.mark)
    return _zscore(np.where(idle, 0.0, market.volume), n)


def _zscore(x: FloatArray, n: int) -> FloatArray:
    mean, squares = rolling_moments(x, n)
    std = np.sqrt(squares / n)
    usable = (std > 0.0) & (std < np.inf)
    return np.where(usable, np.divide(x - mean, std, out=np.zeros_like(std), where=usable), std)


def turbulence(market: MarketData, n: int) -> FloatArray:
    """Turbulence of today's returns against those of the n bars before; one value for all symbols."""
    returns = change(market, 1)
    if (np.abs(returns) > _TOO_LARGE).any():
        bar, s = (int(i) for i in np.argwhere(np.abs(returns) > _TOO_LARGE)[0])
        raise FeatureError(
            f"feature 'turbulence': the return of symbol {market.symbols[s]!r} at bar {bar} "
            f"({format_time(market.timestamps[bar])}) is {returns[bar, s]:g}, which cannot be squared; expected prices"
        )
    values = turbulences(returns, n)
    return np.repeat(values[:, None], market.n_symbols, axis=1)


def _values(frame: pd.DataFrame) -> FloatArray:
    return cast(FloatArray, frame.to_numpy(dtype=np.float64))
