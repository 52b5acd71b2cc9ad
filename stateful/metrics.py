"""Performance figures of one account, from its history, fills and trades.

The formulas are those of quantstats and vectorbt (the tests hold them to 1e-9), written out here because both take
seconds to import and quantstats guesses whether a series holds prices or returns. A figure that cannot be had is
None, never NaN or infinity, so that the dict is JSON as it is; `Metric.needs` says what was missing.

With e[0..n] the equity of each bar, start bar included, r[i] = e[i] / e[i-1] - 1, and P bars in a year:

========== ==================================================================================================
cagr       (e[n] / e[0]) ** (P / n) - 1
volatility std(r, ddof=1) * sqrt(P)
sharpe     mean(x) / std(x, ddof=1) * sqrt(P) with x = r - ((1 + risk_free_rate) ** (1 / P) - 1)
sortino    mean(x) / sqrt(mean(min(x, 0) ** 2)) * sqrt(P)
calmar     cagr / -max_drawdown
========== ==================================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]
Kind = Literal["percent", "ratio", "money", "count", "bars", "days", "number", "text"]


@dataclass(frozen=True)
class Metric:
    """How a figure is presented.

    Attributes:
        name: Its key in the metrics dict.
        label: Its name in words.
        kind: How it is formatted.
        group: The part of the table that it stands in.
        needs: What it needs, said where it is missing.
    """

    name: str
    label: str
    kind: Kind
    group: str
    needs: str = "at least one step"


_VARYING = "at least two returns that differ"
_CLOSED = "at least one closed trade"
_CARRY = ("interest", "borrow", "funding", "dividends")

METRICS: tuple[Metric, ...] = (
    Metric("total_return", "Total return", "percent", "Return"),
    Metric("cagr", "Yearly growth (CAGR)", "percent", "Return"),
    Metric("final_equity", "Final equity", "money", "Return"),
    Metric("best_bar", "Best bar", "percent", "Return"),
    Metric("worst_bar", "Worst bar", "percent", "Return"),
    Metric("hit_rate", "Bars with a gain", "percent", "Return"),
    Metric("volatility", "Volatility per year", "percent", "Risk", "at least two returns"),
    Metric("sharpe", "Sharpe ratio", "ratio", "Risk", _VARYING),
    Metric("sortino", "Sortino ratio", "ratio", "Risk", "at least two returns and one below the risk-free rate"),
    Metric("calmar", "Calmar ratio", "ratio", "Risk", "a drawdown"),
    Metric("max_drawdown", "Largest drawdown", "percent", "Risk"),
    Metric("max_drawdown_bars", "Its length, to recovery or the end", "bars", "Risk", "a drawdown"),
    Metric("longest_drawdown_bars", "Longest drawdown", "bars", "Risk", "a drawdown"),
    Metric("exposure", "Average part invested", "percent", "Trading"),
    Metric("time_in_market", "Bars with a position", "percent", "Trading"),
    Metric("fills", "Orders filled", "count", "Trading"),
    Metric("closed_trades", "Closed trades", "count", "Trading"),
    Metric("open_trades", "Lots still open", "count", "Trading"),
    Metric("win_rate", "Closed trades with a profit", "percent", "Trading", _CLOSED),
    Metric("profit_factor", "Profit factor", "ratio", "Trading", "at least one closed trade at a loss"),
    Metric("average_holding_bars", "Average holding time", "bars", "Trading", _CLOSED),
    Metric("turnover_per_year", "Turnover per year", "percent", "Trading"),
    Metric("fees", "Fees paid", "money", "Costs"),
    Metric("slippage", "Slippage paid", "money", "Costs"),
    Metric("costs", "Costs paid in all", "money", "Costs"),
    Metric("interest", "Interest on cash", "money", "Carry"),
    Metric("borrow", "Cost of borrowed shares", "money", "Carry"),
    Metric("funding", "Funding", "money", "Carry"),
    Metric("dividends", "Dividends", "money", "Carry"),
    Metric("total_reward", "Sum of rewards", "number", "Reward"),
)
"""The figures of the report's table, in its order."""

PER_YEAR = ("cagr", "volatility", "sharpe", "sortino", "calmar", "turnover_per_year")
"""Figures that need the number of bars in a year."""


def performance_metrics(
    history: pd.DataFrame,
    fills: pd.DataFrame,
    trades: pd.DataFrame,
    *,
    periods_per_year: float | None,
    risk_free_rate: float = 0.0,
) -> dict[str, Any]:
    """Return the figures of one account as a flat dict.

    Args:
        history: One row per bar, start bar first: columns ``equity``, ``cash``, ``reward``, ``turnover``,
            ``shares[...]`` and ``weight[...]``, and, where there was any, ``interest``, ``borrow``, ``funding`` and
            ``dividends``; the index holds the timestamps.
        fills: One row per fill: columns ``fee`` and ``slippage``, in money, and ``kind``, where some are delistings.
        trades: One row per lot: columns ``pnl``, ``bars_held`` and ``status`` (``closed`` or ``open``).
        periods_per_year: Bars in a year; None where they are not known, and then every figure per year is None.
        risk_free_rate: Yearly rate of the Sharpe and Sortino ratios.

    Returns:
        Numbers, ISO dates, and None where a figure cannot be had. Interest, borrow cost, funding and dividends are
        signed: received above 0, paid below.
    """
    equity = history["equity"].to_numpy(np.float64)
    periods = math.nan if periods_per_year is None else float(periods_per_year)  # NaN makes None of what it touches
    metrics: dict[str, Any] = {
        "first_date": iso_date(history.index[0]),
        "last_date": iso_date(history.index[-1]),
        "bars": len(equity) - 1,
        "years": (len(equity) - 1) / periods,
        "periods_per_year": periods,
        "risk_free_rate": float(risk_free_rate),
        "initial_equity": float(equity[0]),
        "final_equity": float(equity[-1]),
        "final_cash": float(history["cash"].iloc[-1]),
    }
    metrics |= _return_metrics(equity, periods, risk_free_rate)
    metrics |= _drawdown_metrics(equity, history.index)
    drawdown, growth = metrics["max_drawdown"], metrics["cagr"]
    metrics["calmar"] = growth / -drawdown if drawdown and growth is not None else None
    metrics |= _activity_metrics(history, periods)
    metrics |= _fill_metrics(fills)
    metrics |= {name: float(history[name].sum()) if name in history else 0.0 for name in _CARRY}
    metrics |= _trade_metrics(trades)
    return {name: _plain(value) for name, value in metrics.items()}


def bar_returns(equity: FloatArray) -> FloatArray:
    """Return equity[i] / equity[i-1] - 1, float64 ``[bars - 1]``."""
    return equity[1:] / equity[:-1] - 1.0


def drawdowns(equity: FloatArray) -> FloatArray:
    """Return how far each bar lies below the highest equity so far, as a fraction at or below 0."""
    return equity / np.maximum.accumulate(equity) - 1.0


def missing_reason(metric: Metric, metrics: dict[str, Any]) -> str:
    """Say why a figure is None."""
    if not metrics.get("bars"):
        return "needs at least one step"
    if metrics.get("periods_per_year") is None and metric.name in PER_YEAR:
        return "needs the number of bars in a year, which is not known"
    return f"needs {metric.needs}"


def iso_date(when: Any) -> str:
    """Return a timestamp as ISO text, without the time at midnight."""
    stamp = pd.Timestamp(when)
    return stamp.strftime("%Y-%m-%d") if stamp == stamp.normalize() else stamp.strftime("%Y-%m-%d %H:%M")


def _return_metrics(equity: FloatArray, periods: float, risk_free_rate: float) -> dict[str, Any]:
    names = ("total_return", "cagr", "best_bar", "worst_bar", "hit_rate", "volatility", "sharpe", "sortino")
    metrics: dict[str, Any] = dict.fromkeys(names)
    returns = bar_returns(equity)
    n = len(returns)
    if n == 0:
        return metrics
    growth = equity[-1] / equity[0]
    with np.errstate(over="ignore"):
        metrics |= {
            "total_return": growth - 1.0,
            # An account can end below nothing: no growth per year then.
            "cagr": np.float64(growth) ** (periods / n) - 1.0 if growth >= 0 else None,
            "best_bar": returns.max(),
            "worst_bar": returns.min(),
            "hit_rate": (returns > 0).mean(),
        }
    if n < 2:
        return metrics
    excess = returns - ((1.0 + risk_free_rate) ** (1.0 / periods) - 1.0)
    downside = math.sqrt(np.square(np.minimum(excess, 0.0)).mean())
    metrics["volatility"] = returns.std(ddof=1) * math.sqrt(periods)
    if np.ptp(returns) > 0:
        metrics["sharpe"] = excess.mean() / excess.std(ddof=1) * math.sqrt(periods)
    if downside > 0:
        metrics["sortino"] = excess.mean() / downside * math.sqrt(periods)
    return metrics


def _drawdown_metrics(equity: FloatArray, index: pd.Index[Any]) -> dict[str, Any]:
    """Depth, date and length of the largest drawdown, and the longest one; lengths in bars."""
    below = drawdowns(equity)
    metrics: dict[str, Any] = {
        "max_drawdown": below.min() if len(equity) > 1 else None,
        "max_drawdown_date": None,
        "max_drawdown_bars": None,
        "longest_drawdown_bars": None,
    }
    if below.min() >= 0:
        return metrics
    at_peak = np.flatnonzero(below >= 0)
    trough = int(below.argmin())
    # A drawdown lasts from the bar of the peak to the bar that reaches it again, or to the last bar.
    lengths = np.diff(np.append(at_peak, len(equity)))
    lengths[-1] -= 1
    bars_below = np.where(np.diff(np.append(at_peak, len(equity))) > 1, lengths, 0)
    metrics |= {
        "max_drawdown_date": iso_date(index[trough]),
        "max_drawdown_bars": int(bars_below[np.searchsorted(at_peak, trough) - 1]),
        "longest_drawdown_bars": int(bars_below.max()),
    }
    return metrics


def _activity_metrics(history: pd.DataFrame, periods: float) -> dict[str, Any]:
    steps = len(history) - 1
    if steps == 0:
        return dict.fromkeys(("turnover_per_year", "exposure", "time_in_market", "total_reward"))
    later = history.iloc[1:]
    held = later[[c for c in history.columns if c.startswith("shares[")]].to_numpy(np.float64)
    weights = later[[c for c in history.columns if c.startswith("weight[")]].to_numpy(np.float64)
    return {
        "turnover_per_year": float(np.nansum(later["turnover"])) / steps * periods,
        "exposure": np.nansum(np.abs(weights), axis=1).mean(),
        "time_in_market": (held != 0).any(axis=1).mean(),
        "total_reward": float(np.nansum(later["reward"])),
    }


def _fill_metrics(fills: pd.DataFrame) -> dict[str, Any]:
    fees = float(fills["fee"].sum())
    slippage = float(fills["slippage"].sum())
    executed = int((fills["kind"] != "delisting").sum()) if "kind" in fills else len(fills)
    return {"fills": executed, "fees": fees, "slippage": slippage, "costs": fees + slippage}


def _trade_metrics(trades: pd.DataFrame) -> dict[str, Any]:
    is_open = (trades["status"] == "open").to_numpy(bool)
    profit = trades["pnl"].to_numpy(np.float64)[~is_open]
    held = trades["bars_held"].to_numpy(np.float64)[~is_open]
    lost = -profit[profit < 0].sum()
    return {
        "closed_trades": len(profit),
        "open_trades": int(is_open.sum()),
        "win_rate": (profit > 0).mean() if len(profit) else None,
        "profit_factor": profit[profit > 0].sum() / lost if lost > 0 else None,
        "average_holding_bars": held.mean() if len(held) else None,
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: no numpy types, None for NaN and infinity."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
