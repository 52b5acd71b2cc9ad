"""Curves that the report draws and that have to be computed: the band around equity, and rolling Sharpe ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.random import default_rng

from batchenv.windows import rolling_moments
from stateful.evaluation.bootstrap import stationary_positions
from stateful.evaluation.estimates import not_enough
from stateful.metrics import bar_returns

if TYPE_CHECKING:
    from stateful.backtest import BacktestResults

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BAND_POINTS = 240
"""At so many bars the band is computed: it is smooth, and drawn as straight lines between them."""


@dataclass(frozen=True, eq=False)
class Band:
    """Where equity lay in the resampled histories, bar by bar.

    Attributes:
        rows: Rows of the account's history, the first and the last included, int64 ``[points]``.
        low: Lower end of the middle part of the histories, in money, float64 ``[points]``.
        high: Upper end.
    """

    rows: IntArray
    low: FloatArray
    high: FloatArray


def equity_band(results: BacktestResults) -> Band | None:
    """Return the pointwise band of the agent's equity, or None where its histories could not be resampled.

    The histories are those of `stateful.evaluation.uncertainty`, draw by draw, so the band ends in the interval of the
    total return. It is pointwise: a single history may leave it for a while.
    """
    found, config = results.uncertainty, results.backtest_config.uncertainty
    if found is None or found.mean_block_length is None or found.agent["total_return"].low is None:
        return None
    equity = np.asarray(results.equity, np.float64)
    steps = np.log1p(bar_returns(equity))
    rows = np.unique(np.linspace(0, len(steps), min(BAND_POINTS, len(steps) + 1)).round().astype(np.int64))
    ends = [(1.0 - found.level) / 2.0, (1.0 + found.level) / 2.0]
    growth = np.zeros(config.resamples)
    edges = [np.zeros(2)]
    generator = default_rng(config.seed)
    for bar, drawn in enumerate(stationary_positions(len(steps), found.mean_block_length, config.resamples, generator)):
        growth += steps[drawn]
        if bar + 1 == rows[len(edges)]:
            edges.append(np.quantile(np.expm1(growth), ends))
    low, high = equity[0] * (1.0 + np.array(edges).T)
    return Band(rows, low, high)


def half_a_year(periods_per_year: float) -> int:
    """Return the bars of half a year, the window of the rolling Sharpe ratio: 126 daily bars."""
    return max(round(periods_per_year / 2), 2)


def rolling_sharpe(
    equity: pd.Series[float], *, window: int, periods_per_year: float, risk_free_rate: float = 0.0
) -> pd.Series[float]:
    """Return the yearly Sharpe ratio of the last ``window`` returns at each bar that has so many behind it.

    Args:
        equity: Equity of each bar, start bar first, in money, by timestamp.
        window: Returns in a window.
        periods_per_year: Bars in a year.
        risk_free_rate: Yearly rate.

    Returns:
        Mean over standard deviation (ddof = 1) of the excess returns times sqrt(periods_per_year), by timestamp; NaN
        where the returns of a window do not differ, which plots as a gap.
    """
    risk_free = (1.0 + risk_free_rate) ** (1.0 / periods_per_year) - 1.0
    mean, squares = rolling_moments(bar_returns(np.asarray(equity, np.float64)) - risk_free, window)
    deviation = np.sqrt(squares / (window - 1))
    deviation[deviation == 0.0] = np.nan
    return pd.Series(mean / deviation * math.sqrt(periods_per_year), equity.index[1:]).iloc[window - 1 :]


def rolling_obstacle(results: BacktestResults) -> str | None:
    """Say why there is no rolling Sharpe ratio, or return None where there is one."""
    year, bars = results.market.year, len(results.equity) - 1
    if year.periods is None:
        return f"the number of bars in a year is not known: {year.reason}"
    window = half_a_year(year.periods)
    return not_enough(window, bars) if bars < window else None
