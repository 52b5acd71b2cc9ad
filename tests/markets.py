"""Small markets for tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from batchenv import MarketData


def frame(seed: int = 0, n_bars: int = 120, symbols: tuple[str, ...] = ("A", "B", "C", "D")) -> pd.DataFrame:
    """Long frame of random daily bars, all symbols at every date."""
    rng = np.random.default_rng(seed)
    dates = pd.bdate_range("2020-01-01", periods=n_bars)
    parts = []
    for symbol in symbols:
        close = 50.0 * np.exp(np.cumsum(rng.normal(0, 0.03, n_bars)))
        start = close * np.exp(rng.normal(0, 0.02, n_bars))
        high = np.maximum(start, close) * (1 + rng.uniform(0, 0.01, n_bars))
        low = np.minimum(start, close) * (1 - rng.uniform(0, 0.01, n_bars))
        volume = rng.integers(1_000, 100_000, n_bars).astype(float)
        columns = {"open": start, "high": high, "low": low, "close": close, "volume": volume}
        parts.append(pd.DataFrame({"date": dates, "symbol": symbol, **columns}))
    return pd.concat(parts, ignore_index=True)


def ragged_frame(seed: int = 0, n_bars: int = 120) -> pd.DataFrame:
    """As `frame`, but B lists late, C pauses twice, and D stops early."""
    df = frame(seed, n_bars)
    bar = df.groupby("symbol").cumcount()
    late = (df["symbol"] == "B") & (bar < n_bars // 3)
    pause = (df["symbol"] == "C") & (bar % 40).isin([11, 12, 30])
    stopped = (df["symbol"] == "D") & (bar > n_bars - n_bars // 4)
    return df[~(late | pause | stopped)].reset_index(drop=True)


def market(seed: int = 0, n_bars: int = 120) -> MarketData:
    """Market of `frame`."""
    return MarketData.from_frame(frame(seed, n_bars))


def ragged_market(seed: int = 0, n_bars: int = 120) -> MarketData:
    """Market of `ragged_frame`."""
    return MarketData.from_frame(ragged_frame(seed, n_bars))


def rich_market(n_bars: int = 120) -> MarketData:
    """Ragged, with a column of the user's, splits and dividends."""
    bars = ragged_market(n_bars=n_bars)
    rng = np.random.default_rng(5)
    signal = np.where(rng.random(bars.close.shape) < 0.1, np.nan, rng.normal(size=bars.close.shape))
    happens = (rng.random(bars.close.shape) < 0.05) & bars.has_bar
    dividends, splits = np.where(happens, 0.2, 0.0), np.where(happens, 2.0, 1.0)
    return replace(bars, columns={"signal": signal}, dividends=dividends, splits=splits)


def later_part(n_bars: int = 120) -> MarketData:
    """The second half of `rich_market`, with the first as its history."""
    whole = rich_market(n_bars)
    return whole.split(whole.timestamps[n_bars // 2])[1]
