"""The charts of prices with the agent's fills."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from stateful.figures import AGENT, BASELINES, OTHERS, blank, bucket_size, ends_of_buckets, milliseconds, short

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from stateful.backtest import BacktestResults

MAX_CHARTS = 40
MAX_POINTS = 60_000
"""Most closes in all of these charts together."""
MAX_MARKS = 600
"""Most fills that are marked in one of them."""


def price_figures(results: BacktestResults) -> dict[str, Figure]:
    """Return one chart of closes and fills per symbol that has a bar, the most traded first."""
    bars = results.history["bar"].to_numpy(np.int64)
    has_bar = results.market.has_bar[bars].any(axis=0)
    traded = results.fills.groupby("symbol")["notional"].sum()
    listed = [s for s, known in zip(results.market.symbols, has_bar, strict=True) if known]
    chosen = sorted(listed, key=lambda s: -float(traded.get(s, 0.0)))[:MAX_CHARTS]
    fills = dict(iter(results.fills.groupby("symbol")))
    rows = bars[rows_drawn(len(bars), len(chosen))]
    nothing = results.fills.iloc[:0]
    return {symbol: _price(results, symbol, rows, fills.get(symbol, nothing)) for symbol in chosen}


def rows_drawn(n_bars: int, n_charts: int) -> npt.NDArray[np.int64]:
    """Return which of the bars are drawn, the first and the last included."""
    stride = max(bucket_size(n_bars), -(-n_bars * n_charts // MAX_POINTS))
    if stride == 1:
        return ends_of_buckets(n_bars)
    return np.unique(np.append(np.arange(0, n_bars, stride), n_bars - 1))


def _price(results: BacktestResults, symbol: str, rows: npt.NDArray[np.int64], fills: pd.DataFrame) -> Figure:
    figure = blank()
    column = results.market.symbols.index(symbol)
    figure.add_scatter(
        x=milliseconds(results.market.timestamps[rows]),
        y=short(results.market.close[rows, column]),
        name="Close",
        mode="lines",
        line={"color": OTHERS, "width": 1.3},
        hovertemplate="%{y:,.2f}",
    )
    fills = fills.nlargest(MAX_MARKS, "notional", keep="first").sort_index()
    largest = float(fills["notional"].max()) if len(fills) else 1.0
    for name, sign, colour, shape in (
        ("Buy", 1, AGENT, "triangle-up"),
        ("Sell", -1, BASELINES[0], "triangle-down"),
    ):
        side = fills[np.sign(fills["shares"]) == sign]
        figure.add_scatter(
            x=milliseconds(side["timestamp"]) if len(side) else [],
            y=short(side["price"]),
            customdata=short(side["shares"].abs()),
            name=name,
            mode="markers",
            marker={
                "color": colour,
                "symbol": shape,
                "size": short(4.0 + 8.0 * np.sqrt(side["notional"].to_numpy(np.float64) / largest)),
                "opacity": 0.75,
                "line": {"width": 0},
            },
            hovertemplate="%{customdata:,.4~g} shares at %{y:,.2f}",
        )
    figure.update_yaxes(tickformat="~g")
    return figure
