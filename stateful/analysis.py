"""VectorBT: a second opinion on a backtest. The only module that knows it.

The fills of a run are replayed in a vectorbt `Portfolio`, whose cash and value must then equal ours at every bar. Its
license is Apache 2.0 with the Commons Clause. Importing it takes seconds and its first run compiles for half a minute,
so it is imported when asked for.

Two of its habits are turned off, so that both mean the same by a word:

* it counts 365 days to a year; here it is given the market's bars per year;
* it counts the start bar, where nothing has happened yet, as a return of 0; its ratios are computed without it.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from batchenv.config import CostConfig
from batchenv.market import MarketData

OWN_NAMES: dict[str, tuple[str, float]] = {
    "final_equity": ("End Value", 1.0),
    "total_return": ("Total Return [%]", 0.01),
    "cagr": ("Annualized Return [%]", 0.01),
    "volatility": ("Annualized Volatility [%]", 0.01),
    "sharpe": ("Sharpe Ratio", 1.0),
    "sortino": ("Sortino Ratio", 1.0),
    "calmar": ("Calmar Ratio", 1.0),
    "max_drawdown": ("Max Drawdown [%]", -0.01),
    "fees": ("Total Fees Paid", 1.0),
}
"""Our metrics that vectorbt has too: its name, and the factor that brings its number to our unit and sign.

Its trades are not here: it averages the entry price where we match first in, first out.
"""


def replay(market: MarketData, history: pd.DataFrame, fills: pd.DataFrame, costs: CostConfig) -> Any:
    """Return a `vectorbt.Portfolio` that made the same fills.

    An order stands on the bar after its decision, the first whose equity it moves. That is its fill bar, except with
    `close` fills, which execute at the price of the bar before.

    Args:
        market: The bars that were traded.
        history: One row per bar, start bar first, with columns ``bar`` and ``equity``.
        fills: One row per fill: ``decision_bar``, ``symbol``, signed ``shares`` and ``fill_price``.
        costs: Fee and slippage rates.
    """
    import vectorbt as vbt

    bars = history["bar"].to_numpy(np.int64)
    symbols = list(market.symbols)
    marks = pd.DataFrame(market.mark[bars], index=history.index, columns=symbols)
    sizes = np.full(marks.shape, np.nan)
    prices = marks.to_numpy(copy=True)
    rows = fills["decision_bar"].to_numpy(np.int64) + 1 - bars[0]
    columns = fills["symbol"].map({symbol: i for i, symbol in enumerate(symbols)}).to_numpy(np.int64)
    sizes[rows, columns] = fills["shares"].to_numpy(np.float64)
    prices[rows, columns] = fills["fill_price"].to_numpy(np.float64)
    return vbt.Portfolio.from_orders(
        marks,
        size=sizes,
        price=prices,
        size_type="amount",
        direction="longonly",
        fees=costs.fee_rate,
        slippage=costs.slippage_rate,
        init_cash=float(history["equity"].iloc[0]),
        cash_sharing=True,
        group_by=True,
        call_seq=np.argsort(sizes > 0, axis=1, kind="stable"),  # sells first (rule 3.2)
        freq=_bar_length(history.index),
    )


def statistics(portfolio: Any, *, periods_per_year: float, risk_free_rate: float = 0.0) -> dict[str, Any]:
    """Return vectorbt's statistics under its own names, as JSON has them: dates and durations as text.

    Its benchmark is left out: ours trade at the same costs, and before a listing it would need made-up prices.

    Args:
        portfolio: What `replay` returned.
        periods_per_year: Bars in a year.
        risk_free_rate: Yearly rate of the Sharpe and Sortino ratios.
    """
    year = portfolio.wrapper.freq * periods_per_year
    on_returns = ("sharpe_ratio", "calmar_ratio", "omega_ratio", "sortino_ratio")
    names = [name for name in portfolio.metrics if name not in ("benchmark_return", *on_returns)]
    # Without a closed trade vectorbt means over nothing; the NaN it answers with becomes None.
    with np.errstate(all="ignore"):
        stats = portfolio.stats(metrics=names, silence_warnings=True, settings={"year_freq": year})
    found = {str(name): _plain(value) for name, value in stats.items()}

    returns = portfolio.returns().iloc[1:]
    if len(returns) < 2:
        return found
    free = (1.0 + risk_free_rate) ** (1.0 / periods_per_year) - 1.0
    ratios = returns.vbt.returns(freq=portfolio.wrapper.freq, year_freq=year)
    found |= {
        "Annualized Return [%]": _plain(ratios.annualized() * 100.0),
        "Annualized Volatility [%]": _plain(ratios.annualized_volatility() * 100.0),
        "Sharpe Ratio": _plain(ratios.sharpe_ratio(risk_free=free)),
        "Calmar Ratio": _plain(ratios.calmar_ratio()),
        "Omega Ratio": _plain(ratios.omega_ratio(risk_free=free)),
        "Sortino Ratio": _plain(ratios.sortino_ratio(required_return=free)),
    }
    return found


def in_our_terms(stats: dict[str, Any]) -> dict[str, float | None]:
    """Return vectorbt's statistics under our metric names and in our units, where both have them."""
    found: dict[str, float | None] = {}
    for name, (theirs, factor) in OWN_NAMES.items():
        value = stats.get(theirs)
        found[name] = None if value is None else float(value) * factor
    return found


def _bar_length(index: pd.Index[Any]) -> pd.Timedelta:
    """Return the usual distance between bars, which vectorbt takes for the length of all."""
    return pd.Timedelta(pd.Series(index).diff().median())


def _plain(value: Any) -> Any:
    if isinstance(value, (timedelta, datetime)) or value is pd.NaT:
        return None if pd.isna(value) else str(value)
    if isinstance(value, str):
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if isinstance(value, (int, np.integer)) else number
