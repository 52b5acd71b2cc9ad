"""The out-of-sample curve of a walk-forward: what each account made in each fold, one fold after the other.

Every fold's account starts with cash alone, and what it holds at the end counts at the last close, without the cost of
selling it. So the curve is the growth of money that is moved to the next agent at each border: equity over equity at
the fold's start, multiplied up. Every account goes the same way, the baselines too, which therefore buy anew in every
fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stateful.metrics import METRICS, performance_metrics

CURVE_METRICS = tuple(metric for metric in METRICS if metric.group in ("Return", "Risk"))
"""The figures that an equity curve has by itself."""


def stitch(curves: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Chain the equity of consecutive folds.

    Args:
        curves: For each fold the equity of every account, in money: one row per bar of the test window, one column per
            account, all known in the first row. NaN after an account's last bar, where it ended early: it keeps what it
            had. The last bar of a fold is the first of the next.

    Returns:
        One row per bar, each bar once, starting with the first fold's money. An account that loses everything has NaN
        after that bar.
    """
    index = curves[0].index.append([curve.index[1:] for curve in curves[1:]])
    return pd.DataFrame({name: _chain([curve[name] for curve in curves]) for name in curves[0]}, index=index)


def _chain(curves: Sequence[pd.Series[float]]) -> npt.NDArray[np.float64]:
    first = curves[0].to_numpy(np.float64)[:1]
    parts = [first]
    for curve in curves:
        equity = curve.ffill().to_numpy(np.float64)
        parts.append(equity[1:] * (parts[-1][-1] / equity[0]))
    chained: npt.NDArray[np.float64] = np.concatenate(parts)
    ruined = np.flatnonzero(chained <= 0)
    if len(ruined):
        chained[ruined[0] + 1 :] = np.nan
    return chained


def curve_metrics(equity: pd.Series[float], *, periods_per_year: float, risk_free_rate: float) -> dict[str, Any]:
    """Return dates and the figures of `CURVE_METRICS` for an equity curve, as `stateful.metrics` defines them.

    Args:
        equity: Equity of each bar, in money; NaN after the end of an account.
        periods_per_year: Bars in a year.
        risk_free_rate: Yearly rate of the Sharpe and Sortino ratios.
    """
    known = equity.dropna()
    history = pd.DataFrame({"equity": known, "cash": known, "turnover": 0.0, "reward": 0.0})
    fills = pd.DataFrame({"fee": [], "slippage": []})
    trades = pd.DataFrame({"pnl": [], "bars_held": [], "status": []})
    found = performance_metrics(
        history, fills, trades, periods_per_year=periods_per_year, risk_free_rate=risk_free_rate
    )
    names = ("first_date", "last_date", "bars", "years", "initial_equity", "max_drawdown_date")
    return {name: found[name] for name in (*names, *(metric.name for metric in CURVE_METRICS))}
