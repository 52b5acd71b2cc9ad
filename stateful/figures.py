"""The interactive charts of the report, as plotly figures. Colours of text and grid follow the page, in its script."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from stateful.curves import equity_band, half_a_year, rolling_obstacle, rolling_sharpe
from stateful.metrics import drawdowns

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from stateful.backtest import BacktestResults

AGENT = "#2b7bba"
BASELINES = ("#d9792b", "#159a7c", "#b0699b", "#8a7a2e")
BAND = "rgba(43,123,186,0.14)"
STACK = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a900", "#7f6bb1")
"""Okabe and Ito's palette, which colour-blind readers can tell apart; yellow darkened for a white page."""
CASH, OTHERS = "#b4bbc4", "#7a828c"
QUIET = "rgba(134,142,152,0.6)"
"""Baselines that are there for comparison only."""
DASHES = ("dash", "dot", "dashdot", "longdash")
MAX_STACKED = len(STACK)
MAX_POINTS = 2500
"""Most points of a line: more than twice as many as a chart has pixels."""

Series = npt.NDArray[np.float64]
_LINES: dict[str, dict[str, Any]] = {
    "agent": {"color": AGENT, "width": 2.4},
    "main": {"color": BASELINES[0], "width": 1.7, "dash": "dash"},
    "other": {"color": QUIET, "width": 1},
}
MANIFOLD = 10.0
"""Highest over lowest equity from which on a linear scale shows the beginning as a flat line."""
_RANKS = {"agent": 1, "main": 2, "band": 3, "other": 4}
"""Order in the legend."""


class DrawnAccount(NamedTuple):
    """An account as it is drawn.

    Attributes:
        name: The baseline's name in the results; empty for the agent.
        label: Its name in words.
        history: Its history.
        role: ``agent``, ``main`` for the baseline that counts most, or ``other``.
    """

    name: str
    label: str
    history: pd.DataFrame
    role: str

    @property
    def line(self) -> dict[str, Any]:
        """How plotly draws it."""
        return _LINES[self.role]


def accounts(results: BacktestResults) -> list[DrawnAccount]:
    """Return the agent, the main baseline (buy and hold, else the first) and the others."""
    names = list(results.baselines)
    main = "buy_and_hold" if "buy_and_hold" in names else next(iter(names), None)
    names.sort(key=lambda name: name != main)
    rows = [DrawnAccount("", "Agent", results.history, "agent")]
    for name in names:
        label = results.labels[name]
        role = "main" if name == main else "other"
        rows.append(DrawnAccount(name, label[:1].upper() + label[1:], results.baselines[name], role))
    return rows


def build_figures(results: BacktestResults, learning_curve: pd.DataFrame | None = None) -> dict[str, Figure]:
    """Return the charts of accounts by name: ``rolling_sharpe`` only where there are bars enough for it."""
    figures = {"equity": _equity(results), "drawdown": _drawdown(results)}
    if rolling_obstacle(results) is None:
        figures["rolling_sharpe"] = _rolling_sharpe(results)
    figures |= {"weights": _weights(results.history), "turnover": _turnover(results), "costs": _costs(results)}
    if learning_curve is not None and len(learning_curve):
        figures |= _learning(learning_curve)
    return figures


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


# --- what charts are made of --------------------------------------------------------------------------------


def date_labels(index: Any) -> list[str]:
    """Return timestamps as short text that plotly reads as dates."""
    stamps = pd.DatetimeIndex(index)
    whole_days = bool((stamps == stamps.normalize()).all())
    return [str(text) for text in stamps.strftime("%Y-%m-%d" if whole_days else "%Y-%m-%d %H:%M")]


def milliseconds(index: Any) -> Series:
    """Return timestamps as plotly's date axes have them, milliseconds since 1970: a fraction of the text's size."""
    return pd.DatetimeIndex(index).as_unit("ms").asi8.astype(np.float64)


def short(values: Any) -> npt.NDArray[np.float32]:
    """Return numbers as float32: seven digits are enough to draw."""
    return np.asarray(values, dtype=np.float32)


def bucket_size(n: int) -> int:
    """Return how many of ``n`` bars one point of a line stands for."""
    return -(-n // MAX_POINTS)


def ends_of_buckets(n: int) -> npt.NDArray[np.int64]:
    """Return the rows that a line of ``n`` bars is drawn through: the first, and the last of each bucket."""
    ends = np.arange(n - 1, -1, -bucket_size(n))[::-1]
    return ends if n < 2 or ends[0] == 0 else np.append(0, ends)


def blank(*, dates: bool = True, **layout: Any) -> Figure:
    """Return a figure without traces; its first axis holds dates, unless it is told otherwise."""
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.update_layout(
        template="none",
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        xaxis={"automargin": True, "showgrid": False, "ticks": "outside", "ticklen": 4},
        yaxis={"automargin": True, "zeroline": False, "nticks": 7},
        **{"hovermode": "x unified", "showlegend": True, **layout},
    )
    if dates:
        figure.update_xaxes(type="date")
    return figure


Values = Callable[[pd.DataFrame], Any]


def _lines(figure: Figure, results: BacktestResults, values: Values, hover: str, *, others: Any = True) -> None:
    """Add a line for the agent and for each baseline, the agent's on top.

    Args:
        figure: Where to.
        results: The accounts.
        values: Maps a history to a number for each of its rows.
        hover: Template of the values.
        others: Whether baselines beside the main one are drawn at once: True, or ``legendonly``.
    """
    shown = accounts(results)
    quiet = [account for account in shown if account.role == "other"]
    for account in reversed(shown):
        rows = ends_of_buckets(len(account.history))
        group = {"legendgroup": "others", "showlegend": False, "visible": others} if account.role == "other" else {}
        figure.add_scatter(
            x=milliseconds(account.history.index[rows]),
            y=short(np.asarray(values(account.history))[rows]),
            name=escape(account.label, quote=False),
            mode="lines",
            line=account.line,
            legendrank=_RANKS[account.role],
            hovertemplate=hover,
            **group,
        )
    if quiet:  # one name in the legend for all of them, on a line without points
        figure.add_scatter(
            x=[None],
            y=[None],
            name=escape(quiet[0].label if len(quiet) == 1 else f"{len(quiet)} other baselines", quote=False),
            mode="lines",
            line=quiet[0].line,
            legendrank=_RANKS["other"],
            legendgroup="others",
            visible=others,
            hoverinfo="skip",
        )


def _equity(results: BacktestResults) -> Figure:
    figure = blank()
    _lines(figure, results, lambda history: history["equity"], "%{y:,.0f}")
    band = equity_band(results)
    if band is not None and results.uncertainty is not None:
        times = milliseconds(results.history.index[band.rows])
        edge = {"x": times, "mode": "lines", "line": {"width": 0, "color": AGENT}, "hoverinfo": "skip"}
        name = f"{100 * results.uncertainty.level:g}% of resampled histories"
        figure.add_scatter(y=short(band.low), showlegend=False, legendgroup="band", **edge)
        fill = {"fill": "tonexty", "fillcolor": BAND, "legendgroup": "band", "legendrank": _RANKS["band"]}
        figure.add_scatter(y=short(band.high), name=name, **fill, **edge)
        figure.data = (*figure.data[-2:], *figure.data[:-2])  # under the lines
    figure.update_yaxes(tickformat="~s", type="log" if grows_manifold(results) else "linear")
    return figure


def grows_manifold(results: BacktestResults) -> bool:
    """Return whether equity can be read on a logarithmic scale only: the agent's, or its band's end, is so wide."""
    if any((account.history["equity"] <= 0).any() for account in accounts(results)):
        return False
    spans = [float(results.equity.max() / results.equity.min())]
    band = None if results.uncertainty is None else results.uncertainty.agent["total_return"]
    if band is not None and band.low is not None and band.high is not None:
        spans.append((1.0 + band.high) / (1.0 + band.low))
    return max(spans) >= MANIFOLD


def _drawdown(results: BacktestResults) -> Figure:
    figure = blank()
    _lines(figure, results, _worst_drawdowns, "%{y:.1%}")
    figure.update_traces(fill="tozeroy", fillcolor=BAND, selector={"legendrank": _RANKS["agent"]})
    figure.update_yaxes(tickformat="~%")
    return figure


def _worst_drawdowns(history: pd.DataFrame) -> Series:
    """Return the drawdown of each row; at the rows that are drawn, the worst since the one drawn before."""
    below = drawdowns(history["equity"].to_numpy(np.float64))
    rows = ends_of_buckets(len(below))
    worst = below.copy()
    worst[rows] = np.minimum.reduceat(below, np.append(0, rows[:-1] + 1))
    return worst


def _rolling_sharpe(results: BacktestResults) -> Figure:
    figure = blank()
    periods = results.market.require_year("the rolling Sharpe ratio")
    window = half_a_year(periods)
    for account in reversed(accounts(results)):
        if account.role == "other" or len(account.history) <= window:
            continue
        ratios = rolling_sharpe(
            account.history["equity"],
            window=window,
            periods_per_year=periods,
            risk_free_rate=results.backtest_config.risk_free_rate,
        )
        rows = ends_of_buckets(len(ratios))
        figure.add_scatter(
            x=milliseconds(ratios.index[rows]),
            y=short(ratios.to_numpy()[rows]),
            name=escape(account.label, quote=False),
            mode="lines",
            line=account.line,
            legendrank=_RANKS[account.role],
            hovertemplate="%{y:.2f}",
        )
    figure.update_yaxes(tickformat="~g", zeroline=True, zerolinecolor=OTHERS)
    return figure


def _weights(history: pd.DataFrame) -> Figure:
    figure = blank()
    parts = stacked_weights(history)
    stacked = can_be_stacked(parts)
    rows = ends_of_buckets(len(history))
    for (name, values), colour in zip(parts.items(), part_colours(parts), strict=True):
        how = {"fillcolor": colour, "stackgroup": "weights"} if stacked else {}
        figure.add_scatter(
            x=milliseconds(history.index[rows]),
            y=short(values[rows]),
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
    figure = blank(barmode="group", bargap=0.15)
    for account in accounts(results):
        if account.role == "other":
            continue
        turnover = account.history["turnover"].fillna(0.0)
        monthly = account.history.index[-1] - account.history.index[0] > pd.Timedelta(days=120)
        turnover = turnover.resample("MS").sum() if monthly else turnover
        figure.add_bar(
            x=milliseconds(turnover.index),
            y=short(turnover),
            name=escape(account.label, quote=False),
            marker={"color": account.line["color"], "line": {"width": 0}},
            hovertemplate="%{y:.1%}",
        )
        if monthly:
            figure.update_xaxes(hoverformat="%b %Y")
    figure.update_yaxes(tickformat="~%")
    return figure


def _costs(results: BacktestResults) -> Figure:
    figure = blank()
    _lines(figure, results, lambda history: history["costs"].fillna(0.0).cumsum(), "%{y:,.2f}", others="legendonly")
    figure.update_yaxes(tickformat="~s", rangemode="tozero")
    return figure


def _learning(curve: pd.DataFrame) -> dict[str, Figure]:
    """Return one chart for each measured column, by ``learning_<column>``."""
    figures = {}
    steps = curve["timesteps"] if "timesteps" in curve else pd.Series(range(1, len(curve) + 1))
    for column in curve.columns:
        if column == "timesteps" or not pd.api.types.is_numeric_dtype(curve[column]):
            continue
        as_percent = str(column) in ("total_return", "max_drawdown", "cagr", "volatility", "turnover_per_year")
        figure = blank(dates=False, showlegend=False)
        figure.add_scatter(
            x=short(steps),
            y=short(curve[column]),
            name=escape(str(column).replace("_", " "), quote=False),
            mode="lines+markers",
            line={"color": AGENT, "width": 2},
            hovertemplate="%{y:.1%}" if as_percent else "%{y:,.3~f}",
        )
        figure.update_xaxes(tickformat="~s", hoverformat=",.0f", title={"text": "timesteps"})
        large = float(curve[column].abs().max()) >= 1000.0
        figure.update_yaxes(tickformat="~%" if as_percent else "~s" if large else "~g")
        figures[f"learning_{column}"] = figure
    return figures
