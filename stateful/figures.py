"""The interactive charts of the report, as plotly figures. Colours of text and grid follow the page, in its script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stateful.metrics import drawdowns

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from stateful.backtest import BacktestResults

AGENT = "#2b7bba"
BASELINES = ("#d9792b", "#159a7c", "#b0699b", "#8a7a2e")
STACK = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a900", "#7f6bb1")
"""Okabe and Ito's palette, which colour-blind readers can tell apart; yellow darkened for a white page."""
CASH, OTHERS = "#b4bbc4", "#7a828c"
DASHES = ("dash", "dot", "dashdot", "longdash")
MAX_STACKED = len(STACK)
MAX_PRICE_CHARTS = 40
MAX_PRICE_POINTS = 300_000

Series = npt.NDArray[np.float64]


def build_figures(results: BacktestResults, learning_curve: pd.DataFrame | None = None) -> dict[str, Figure]:
    """Return the charts by name, in the order of the page; those of prices are in `price_figures`."""
    figures = {
        "equity": _equity(results),
        "drawdown": _drawdown(results),
        "weights": _weights(results.history),
        "turnover": _turnover(results),
        "costs": _costs(results),
    }
    if learning_curve is not None and len(learning_curve):
        figures |= _learning(learning_curve)
    return figures


def price_figures(results: BacktestResults) -> dict[str, Figure]:
    """Return one chart of closes and fills per symbol that has a bar, the most traded first."""
    bars = results.history["bar"].to_numpy(np.int64)
    has_bar = results.market.has_bar[bars].any(axis=0)
    traded = results.fills.groupby("symbol")["notional"].sum()
    listed = [s for s, known in zip(results.market.symbols, has_bar, strict=True) if known]
    chosen = sorted(listed, key=lambda s: -float(traded.get(s, 0.0)))[:MAX_PRICE_CHARTS]
    stride = max(1, -(-len(bars) * len(chosen) // MAX_PRICE_POINTS))
    return {symbol: _price(results, symbol, bars, stride) for symbol in chosen}


def stacked_weights(history: pd.DataFrame) -> dict[str, Series]:
    """Return the weight of each symbol by name, the largest on average first, then ``Others`` and ``Cash``.

    Symbols beyond the colours there are, and those never held, are added up or left out.
    """
    columns = [column for column in history.columns if column.startswith("weight[")]
    weights = history[columns].to_numpy(np.float64)
    order = [i for i in np.argsort(-np.abs(weights).mean(axis=0), kind="stable") if weights[:, i].any()]
    shown = order if len(order) <= MAX_STACKED else order[: MAX_STACKED - 1]
    parts: dict[str, Series] = {columns[i][7:-1]: weights[:, i] for i in shown}
    if len(order) > len(shown):
        parts["Others"] = weights[:, order[len(shown) :]].sum(axis=1)
    equity = history["equity"].to_numpy(np.float64)
    parts["Cash"] = np.divide(history["cash"].to_numpy(np.float64), equity, out=np.zeros_like(equity), where=equity > 0)
    return parts


def can_be_stacked(parts: dict[str, Series]) -> bool:
    """Return whether no part is below zero, as a short position or borrowed cash is: else lines show them."""
    return all(float(values.min(initial=0.0)) > -1e-6 for values in parts.values())


def part_colours(parts: dict[str, Series]) -> list[str]:
    """Return a colour for each of `stacked_weights`."""
    fixed = {"Cash": CASH, "Others": OTHERS}
    return [fixed.get(name, STACK[i % len(STACK)]) for i, name in enumerate(parts)]


def date_labels(index: Any) -> list[str]:
    """Return timestamps as short text that plotly reads as dates."""
    stamps = pd.DatetimeIndex(index)
    whole_days = bool((stamps == stamps.normalize()).all())
    return [str(text) for text in stamps.strftime("%Y-%m-%d" if whole_days else "%Y-%m-%d %H:%M")]


def accounts(results: BacktestResults) -> list[tuple[str, pd.DataFrame, str, str]]:
    """Return label, history, colour and dash of the agent and of each baseline."""
    rows = [("Agent", results.history, AGENT, "solid")]
    for i, (name, history) in enumerate(results.baselines.items()):
        label = results.labels[name]
        rows.append((label[:1].upper() + label[1:], history, BASELINES[i % len(BASELINES)], DASHES[i % len(DASHES)]))
    return rows


def _figure(**layout: Any) -> Figure:
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.update_layout(
        template="none",
        showlegend=True,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        hovermode="x unified",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        xaxis={"automargin": True, "showgrid": False, "ticks": "outside", "ticklen": 4},
        yaxis={"automargin": True, "zeroline": False, "nticks": 7},
        **layout,
    )
    return figure


def _lines(results: BacktestResults, figure: Figure, values: Any, hover: str) -> None:
    """Add a line for the agent and for each baseline; ``values`` maps a history to its numbers."""
    for i, (label, history, colour, dash) in enumerate(reversed(accounts(results))):
        is_agent = label == "Agent" and i == len(results.baselines)
        figure.add_scatter(
            x=date_labels(history.index),
            y=_short(values(history)),
            name=escape(label, quote=False),
            mode="lines",
            line={"color": colour, "width": 2.4 if is_agent else 1.6, "dash": dash},
            hovertemplate=hover,
        )
    figure.update_layout(legend={"traceorder": "reversed"})


def _equity(results: BacktestResults) -> Figure:
    figure = _figure()
    _lines(results, figure, lambda history: history["equity"], "%{y:,.0f}")
    figure.update_yaxes(tickformat="~s")
    return figure


def _drawdown(results: BacktestResults) -> Figure:
    figure = _figure()
    _lines(results, figure, lambda history: drawdowns(history["equity"].to_numpy(np.float64)), "%{y:.1%}")
    figure.data[-1].update(fill="tozeroy", fillcolor="rgba(43,123,186,0.15)")
    figure.update_yaxes(tickformat="~%")
    return figure


def _weights(history: pd.DataFrame) -> Figure:
    figure = _figure()
    parts = stacked_weights(history)
    stacked = can_be_stacked(parts)
    for (name, values), colour in zip(parts.items(), part_colours(parts), strict=True):
        how = {"fillcolor": colour, "stackgroup": "weights"} if stacked else {}
        figure.add_scatter(
            x=date_labels(history.index),
            y=_short(values),
            name=escape(name, quote=False),
            mode="lines",
            line={"width": 0 if stacked else 1.5, "color": colour},
            hovertemplate="%{y:.1%}",
            **how,
        )
    figure.update_yaxes(tickformat="~%", **({"range": [0, 1]} if stacked else {}))
    return figure


def _turnover(results: BacktestResults) -> Figure:
    """Bars of traded notional over equity: by month where there are several, else by bar."""
    figure = _figure(barmode="group", bargap=0.15)
    for label, history, colour, _ in accounts(results):
        turnover = history["turnover"].fillna(0.0)
        monthly = history.index[-1] - history.index[0] > pd.Timedelta(days=120)
        turnover = turnover.resample("MS").sum() if monthly else turnover
        figure.add_bar(
            x=date_labels(turnover.index),
            y=_short(turnover),
            name=escape(label, quote=False),
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{y:.1%}",
        )
        if monthly:
            figure.update_xaxes(hoverformat="%b %Y")
    figure.update_yaxes(tickformat="~%")
    return figure


def _costs(results: BacktestResults) -> Figure:
    figure = _figure()
    _lines(results, figure, lambda history: history["costs"].fillna(0.0).cumsum(), "%{y:,.2f}")
    figure.update_yaxes(tickformat="~s", rangemode="tozero")
    return figure


def _price(results: BacktestResults, symbol: str, bars: npt.NDArray[np.int64], stride: int) -> Figure:
    figure = _figure()
    column = results.market.symbols.index(symbol)
    rows = bars[::stride]
    figure.add_scatter(
        x=date_labels(results.market.timestamps[rows]),
        y=_short(results.market.close[rows, column]),
        name="Close",
        mode="lines",
        line={"color": OTHERS, "width": 1.3},
        hovertemplate="%{y:,.2f}",
    )
    fills = results.fills[results.fills["symbol"] == symbol]
    largest = float(results.fills["notional"].max()) if len(fills) else 1.0
    for name, sign, colour, shape in (
        ("Buy", 1, AGENT, "triangle-up"),
        ("Sell", -1, "#d9792b", "triangle-down"),
    ):
        side = fills[np.sign(fills["shares"]) == sign]
        figure.add_scatter(
            x=date_labels(side["timestamp"]) if len(side) else [],
            y=_short(side["price"]),
            customdata=_short(side["shares"].abs()),
            name=name,
            mode="markers",
            marker={
                "color": colour,
                "symbol": shape,
                "size": _short(4.0 + 8.0 * np.sqrt(side["notional"].to_numpy(np.float64) / largest)),
                "opacity": 0.75,
                "line": {"width": 0},
            },
            hovertemplate="%{customdata:,.4~g} shares at %{y:,.2f}",
        )
    figure.update_yaxes(tickformat="~g")
    return figure


def _learning(curve: pd.DataFrame) -> dict[str, Figure]:
    """Return one chart for each measured column, by ``learning_<column>``."""
    figures = {}
    steps = curve["timesteps"] if "timesteps" in curve else pd.Series(range(1, len(curve) + 1))
    for column in curve.columns:
        if column == "timesteps" or not pd.api.types.is_numeric_dtype(curve[column]):
            continue
        as_percent = str(column) in ("total_return", "max_drawdown", "cagr", "volatility")
        figure = _figure()
        figure.update_layout(showlegend=False)
        figure.add_scatter(
            x=_short(steps),
            y=_short(curve[column]),
            name=escape(str(column).replace("_", " "), quote=False),
            mode="lines+markers",
            line={"color": AGENT, "width": 2},
            hovertemplate="%{y:.1%}" if as_percent else "%{y:,.3~f}",
        )
        figure.update_xaxes(tickformat="~s", hoverformat=",.0f", title={"text": "timesteps"})
        figure.update_yaxes(tickformat="~%" if as_percent else "~g")
        figures[f"learning_{column}"] = figure
    return figures


def _short(values: Any) -> npt.NDArray[np.float32]:
    """Return numbers as float32: seven digits are enough to draw, and the page is half the size."""
    return np.asarray(values, dtype=np.float32)
