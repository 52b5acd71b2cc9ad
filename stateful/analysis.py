"""VectorBT: a second opinion on a backtest. The only module that knows it.

The fills of a run are replayed in a vectorbt `Portfolio`, whose cash and value must then equal ours at every bar. Its
license is Apache 2.0 with the Commons Clause. Importing it takes seconds and its first run compiles for half a minute,
so it is imported when asked for.

It knows no interest, borrow cost, funding, dividends or splits, cannot borrow cash, and takes one order per symbol and
bar. `obstacle` says where an account did one of these; there it is not asked, because its numbers would be wrong.

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

from batchenv.errors import RunError
from batchenv.market import MarketData
from stateful.metrics import iso_date
from stateful.terms import Terms

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


def obstacle(history: pd.DataFrame, fills: pd.DataFrame) -> str | None:
    """Say why vectorbt cannot replay an account, or return None where it can.

    Args:
        history: The account, one row per bar, start bar first; see `StatefulTradingEnv.history`.
        fills: Its fills; see `StatefulTradingEnv.fills`.
    """
    for name, words in _UNKNOWN_FLOWS.items():
        if history[name].any():
            return f"VectorBT knows no {words}, and this account had some"
    if (history["cash"] < -1e-9 * history["equity"].iloc[0]).any():
        return "VectorBT cannot borrow cash, and this account did"
    if _changed_without_fills(history, fills):
        return "VectorBT moves shares by fills only, and splits or reinvested dividends moved some of this account's"
    twice = fills[fills.duplicated(["decision_bar", "symbol"])]
    if len(twice):
        symbol, when = twice["symbol"].iloc[0], twice["timestamp"].iloc[0]
        return f"VectorBT takes one order per symbol and bar, and {symbol} was filled twice around {iso_date(when)}"
    return None


_UNKNOWN_FLOWS = {
    "interest": "interest on cash",
    "borrow": "cost of borrowed shares",
    "funding": "funding",
    "dividends": "dividends",
}


def _changed_without_fills(history: pd.DataFrame, fills: pd.DataFrame) -> bool:
    """Return whether shares moved by anything but fills."""
    columns = [name for name in history.columns if name.startswith("shares[")]
    held = history[columns].to_numpy(np.float64)
    explained = np.zeros_like(held)
    rows = fills["decision_bar"].to_numpy(np.int64) + 1 - int(history["bar"].iloc[0])
    places = fills["symbol"].map({name[7:-1]: i for i, name in enumerate(columns)}).to_numpy(np.int64)
    np.add.at(explained, (rows, places), fills["shares"].to_numpy(np.float64))
    gap = np.abs(held - explained.cumsum(axis=0))
    return bool((gap > 1e-9 * np.abs(held).max(initial=0.0)).any())


def replay(market: MarketData, history: pd.DataFrame, fills: pd.DataFrame, terms: Terms) -> Any:
    """Return a `vectorbt.Portfolio` that made the same fills.

    An order stands on the bar after its decision, the first whose equity it moves. That is its fill bar, except with
    `close` fills, which execute at the price of the bar before. Where costs are plain rates, vectorbt works them out
    on its own; other fees and prices paid are taken from the fills.

    Args:
        market: The bars that were traded.
        history: One row per bar, start bar first; see `StatefulTradingEnv.history`.
        fills: One row per fill; see `StatefulTradingEnv.fills`.
        terms: What the account traded under.

    Raises:
        RunError: The account did what vectorbt cannot; see `obstacle`.
    """
    reason = obstacle(history, fills)
    if reason is not None:
        raise RunError(f"vectorbt: {reason}")
    import matplotlib

    with matplotlib.rc_context():  # importing it changes how every later figure of matplotlib looks
        import vectorbt as vbt

    bars = history["bar"].to_numpy(np.int64)
    symbols = list(market.symbols)
    marks = pd.DataFrame(market.mark[bars], index=history.index, columns=symbols)
    sizes = np.full(marks.shape, np.nan)
    prices = marks.to_numpy(copy=True)
    rows = fills["decision_bar"].to_numpy(np.int64) + 1 - bars[0]
    columns = fills["symbol"].map({symbol: i for i, symbol in enumerate(symbols)}).to_numpy(np.int64)
    sizes[rows, columns] = fills["shares"].to_numpy(np.float64)
    plain = terms.proportional_fees and terms.impact == 0
    prices[rows, columns] = fills["fill_price" if plain else "price"].to_numpy(np.float64)
    rates, slippages, fees = (np.zeros(marks.shape) for _ in range(3))
    if plain:
        charged = fills["kind"].to_numpy() != "delisting"  # rule 4.4
        rates[rows, columns] = np.where(charged, terms.fee_rate[columns], 0.0)
        slippages[rows, columns] = np.where(charged, terms.slippage_rate[columns], 0.0)
    else:
        fees[rows, columns] = fills["fee"].to_numpy(np.float64)
    return vbt.Portfolio.from_orders(
        marks,
        size=sizes,
        price=prices,
        size_type="amount",
        direction="both",
        fees=rates,
        fixed_fees=fees,
        slippage=slippages,
        init_cash=float(history["equity"].iloc[0]),
        cash_sharing=True,
        group_by=True,
        call_seq=np.argsort(sizes > 0, axis=1, kind="stable"),  # sells first (rule 3.7)
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
