"""The figures of a stress test: interactive as plotly figures, and as PNG files by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from stateful.evaluation.stress_results import Scale, Statistic, StressResults
from stateful.figures import AGENT, BASELINES, OTHERS, STACK, date_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure

BAND = "rgba(43,123,186,0.16)"
_DIVERGING = ("#c2601a", "#e6a873", "#f5f3ee", "#8db9dc", "#2b7bba")
_BELOW_ZERO = ("#c2601a", "#e6a873", "#f5f3ee")


class Map(NamedTuple):
    """A heat map of fees and slippage.

    Attributes:
        title: Heading.
        metric: One of `stress_results.METRICS`.
        statistic: As in `StressResults.surface`.
        kind: ``percent``, ``share`` or ``ratio``.
        caption: What the numbers are.
    """

    title: str
    metric: str
    statistic: Statistic
    kind: str
    caption: str


MAPS = {
    "return": Map(
        "Growth a year", "cagr", "median", "percent", "Median growth over the start dates, in percent a year."
    ),
    "gains": Map("Made money", "total_return", "share", "share", "Start dates from which it made money, in percent."),
    "excess": Map("Difference", "excess", "median", "percent", "Median difference to buy and hold, in points a year."),
    "wins": Map(
        "Beat buy and hold", "excess", "share", "share", "Start dates from which it beat buy and hold, in percent."
    ),
    "sharpe": Map("Sharpe ratio", "sharpe", "median", "ratio", "Median Sharpe ratio over the start dates."),
    "drawdown": Map(
        "Largest drawdown", "max_drawdown", "median", "percent", "Median of the largest drawdowns, in percent."
    ),
}
"""Heat maps by name, in the order of the page."""


def build_figures(results: StressResults) -> dict[str, Figure]:
    """Return the charts by name; ``cash`` is there where the size of the account makes a difference."""
    figures = {"costs": _costs(results), **{name: _heat_map(results, one) for name, one in MAPS.items()}}
    figures |= {"starts": _starts(results), "distribution": _distribution(results)}
    if results.depends_on_cash:
        figures["cash"] = _cash(results)
    return figures


def main_figures(results: StressResults) -> dict[str, Figure]:
    """Return the two heat maps that say most, for another page: ``return`` and ``wins`` of `MAPS`."""
    return {name: _heat_map(results, MAPS[name]) for name in ("return", "wins")}


def tick_labels(scale: Scale) -> list[str]:
    """Return a label for each multiple: the rate, or the multiple where symbols have rates of their own."""
    alike = scale.low == scale.high
    return [scale.rate(m) if alike else f"{m:g}×" for m in scale.multiples]


def cell_texts(values: npt.NDArray[np.float64], kind: str) -> list[list[str]]:
    """Return the numbers of a heat map as short text, without a percent sign."""
    return [[_cell(value, kind) for value in row] for row in values.tolist()]


def _cell(value: float, kind: str) -> str:
    if not np.isfinite(value):
        return "n/a"
    if kind == "ratio":
        return f"{round(value, 2) + 0.0:.2f}"
    digits = 0 if kind == "share" or abs(value) >= 0.9995 else 1
    return f"{round(100 * value, digits) + 0.0:,.{digits}f}"


# --- plotly -------------------------------------------------------------------------------------------------


def _figure(x_title: str, y_format: str, **layout: Any) -> Figure:
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.update_layout(
        template="none",
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        xaxis={
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
            "title": {"text": x_title},
            "ticks": "outside",
            "ticklen": 4,
        },
        yaxis={"automargin": True, "zeroline": True, "zerolinecolor": OTHERS, "nticks": 7, "tickformat": y_format},
        **{"hovermode": "x unified", **layout},
    )
    return figure


def _line(figure: Figure, x: Any, y: Any, name: str, colour: str, **style: Any) -> None:
    dash, width = style.pop("dash", "solid"), style.pop("width", 2.4)
    figure.add_scatter(
        x=x,
        y=np.asarray(y, np.float32),
        name=name,
        line={"color": colour, "width": width, "dash": dash, "shape": style.pop("shape", "linear")},
        **{"mode": "lines", "hovertemplate": "%{y:+.1%}", **style},
    )


def _band(figure: Figure, x: Any, low: Any, high: Any, name: str) -> None:
    """Draw an area between two lines."""
    edge = {"width": 0.0, "hoverinfo": "skip", "hovertemplate": None}
    _line(figure, x, low, name, AGENT, showlegend=False, **edge)
    _line(figure, x, high, name, AGENT, fill="tonexty", fillcolor=BAND, **edge)


def _costs(results: StressResults) -> Figure:
    """Return over the costs. The multiples stand at equal distances, and lines between them are straight."""
    agent, held = results.curve(), results.curve("buy_and_hold")
    multiples, places = agent.index.to_numpy(np.float64), np.arange(len(agent))
    figure = _figure("times the costs of the backtest", "~%")
    _band(figure, places, agent["low"], agent["high"], "10% to 90% of the start dates")
    _line(figure, places, held["median"], "Buy and hold, median", BASELINES[0], dash="dash", width=1.8)
    _line(figure, places, agent["median"], "Agent, median", AGENT)
    labels = [f"{m:g}×" for m in multiples]
    figure.update_xaxes(tickvals=places, ticktext=labels, range=[-0.15, places[-1] + 0.15])
    found = results.break_even().multiple
    if found is not None:
        at = float(np.interp(found, multiples, places))
        figure.add_vline(x=at, line={"color": OTHERS, "width": 1.2, "dash": "dot"})
        # Returns fall to the right, so there is room below them on the left; at the very left, above on the right.
        place = {"xanchor": "left", "y": 0.98} if at < 1.5 else {"xanchor": "right", "y": 0.02}
        words = f" no profit at {found:.2g}× "
        figure.add_annotation(x=at, yref="paper", text=words, showarrow=False, **place)
    return figure


def _heat_map(results: StressResults, one: Map) -> Figure:
    surface = results.surface(one.metric, statistic=one.statistic)
    values = surface.to_numpy(np.float64)
    setting = results.setting
    fees, slippages = ([label.removesuffix("%") for label in tick_labels(s)] for s in (setting.fee, setting.slippage))
    figure = _figure(_axis_title("fee", setting.fee), "", hovermode="closest", showlegend=False)
    low, high, colours = _colours(values, one)
    figure.add_heatmap(
        x=fees,
        y=slippages,
        z=values,
        zmin=low,
        zmax=high,
        text=cell_texts(values, one.kind),
        texttemplate="%{text}",
        colorscale=[[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)],
        showscale=False,
        xgap=1,
        ygap=1,
        hovertemplate="fee %{x}, slippage %{y}: %{text}<extra></extra>",
    )
    figure.update_xaxes(type="category", ticks="", ticktext=_bold(fees, setting.fee), tickvals=fees)
    figure.update_yaxes(
        type="category",
        title={"text": _axis_title("slippage", setting.slippage), "standoff": 14, "font": {"size": 12}},
        ticktext=_bold(slippages, setting.slippage),
        tickvals=slippages,
        zeroline=False,
        showgrid=False,
    )
    return figure


def _colours(values: npt.NDArray[np.float64], one: Map) -> tuple[float, float, tuple[str, ...]]:
    """Return the values of the first and the last colour, and the colours: white is zero, or half of the dates."""
    if one.kind == "share":
        return 0.0, 1.0, _DIVERGING
    if one.metric == "max_drawdown":
        return -0.5, 0.0, _BELOW_ZERO
    # The last colour is for the largest fifth: else one extreme corner leaves the rest without colour.
    finite = np.abs(values[np.isfinite(values)])
    most = max(float(np.quantile(finite, 0.8)), 1e-3) if finite.size else 1.0
    return -most, most, _DIVERGING


def _axis_title(name: str, scale: Scale) -> str:
    return f"{name}, %" if scale.low == scale.high else f"{name}, times its own"


def _bold(labels: list[str], scale: Scale) -> list[str]:
    """Return the labels with the configuration's own cost in bold."""
    pairs = zip(scale.multiples, labels, strict=True)
    return [f"<b>{label}</b>" if multiple == scale.base else label for multiple, label in pairs]


def _starts(results: StressResults) -> Figure:
    base = results.base.set_index("start")
    by_start = results.lanes.groupby("start")["cagr"]
    dates = date_labels(base.index)
    figure = _figure("start date", "~%")
    mode = {"mode": "lines+markers"} if len(base) == 1 else {}
    _band(figure, dates, by_start.quantile(0.1), by_start.quantile(0.9), "10% to 90% of all costs and sizes")
    _line(figure, dates, base["buy_and_hold"], "Buy and hold", BASELINES[0], dash="dash", width=1.6, **mode)
    _line(figure, dates, base["cagr"], "Agent", AGENT, **mode)
    return figure


def _distribution(results: StressResults) -> Figure:
    """Return the share of start dates with at most a return: one line for each of a few costs."""
    figure = _figure("return a year", "~%", hovermode="closest")
    lanes = results.lanes[results.lanes["initial_cash"] == results.setting.initial_cash]
    by_costs = lanes.groupby(["fee_multiple", "slippage_multiple"])
    own = results.setting.fee.base or results.setting.slippage.base
    path = results.path()
    chosen = sorted({0.0, own, *[m for m in path if m > own][1::2]})
    colours = (STACK[2], AGENT, STACK[5], STACK[3])
    for multiple, colour in zip(chosen, colours, strict=False):
        name = "Agent without costs" if multiple == 0 else f"Agent, {multiple:g}× the costs"
        _steps(figure, by_costs.get_group(path[multiple])["cagr"], name, colour, width=2.6 if multiple == own else 1.5)
    _steps(figure, results.base["buy_and_hold"], "Buy and hold", BASELINES[0], dash="dash", width=1.6)
    figure.update_xaxes(tickformat="~%", zeroline=True, zerolinecolor=OTHERS)
    figure.update_yaxes(range=[0, 1.02])
    return figure


def _steps(figure: Figure, values: pd.Series[float], name: str, colour: str, **style: Any) -> None:
    """Draw an empirical distribution function."""
    ordered = np.sort(values.dropna().to_numpy(np.float64))
    if not len(ordered):
        return
    share = np.arange(1, len(ordered) + 1) / len(ordered)
    x, y = np.append(ordered[0], ordered), np.append(0.0, share)
    hover = f"{name}: %{{y:.0%}} of the start dates at most %{{x:+.1%}}<extra></extra>"
    _line(figure, x.astype(np.float32), y, name, colour, shape="hv", hovertemplate=hover, **style)


def _cash(results: StressResults) -> Figure:
    """Return over initial cash, at the configuration's own costs and at some that are higher."""
    figure = _figure("initial cash", "~%")
    scale = results.setting.fee
    surface = results.surface("cagr", "initial_cash", "fee_multiple")
    higher = [m for m in scale.multiples if m > scale.base]
    for multiple, colour in zip([scale.base, *higher[:3]], (AGENT, *STACK[2:5]), strict=False):
        name = f"Fee {scale.rate(multiple)}" + (", as in the backtest" if multiple == scale.base else "")
        _line(figure, surface.columns.to_numpy(np.float64), surface.loc[multiple], name, colour, mode="lines+markers")
    figure.update_xaxes(type="log", tickvals=list(surface.columns), tickformat="~s", hoverformat=",.0f")
    return figure


# --- PNG ----------------------------------------------------------------------------------------------------


def write_plots(results: StressResults, directory: Path) -> None:
    """Write ``costs.png`` and ``surface.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for name, size in (("costs", (10, 4.8)), ("surface", (12, 5.2))):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        if name == "costs":
            _draw_costs(figure.add_subplot(), results)
        else:
            for axes, key in zip(figure.subplots(1, 2), ("return", "wins"), strict=True):
                _draw_map(axes, results, MAPS[key])
        figure.savefig(directory / f"{name}.png", metadata={"Software": "batchenv"})


def _draw_costs(axes: Axes, results: StressResults) -> None:
    from matplotlib.ticker import PercentFormatter

    agent, held = results.curve(), results.curve("buy_and_hold")
    places = np.arange(len(agent))
    label = "10% to 90% of the start dates"
    axes.fill_between(places, agent["low"], agent["high"], color=AGENT, alpha=0.16, linewidth=0, label=label)
    axes.plot(places, held["median"], color=BASELINES[0], linestyle="--", label="Buy and hold, median")
    axes.plot(places, agent["median"], color=AGENT, linewidth=2.2, label="Agent, median")
    axes.axhline(0.0, color=OTHERS, linewidth=0.9)
    axes.set_xticks(places, [f"{m:g}×" for m in agent.index])
    axes.set_xlabel("times the costs of the backtest")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    axes.set_title(f"Return a year, over {results.n_starts:,} start dates", loc="left", fontweight="bold")
    axes.legend(frameon=False)


def _draw_map(axes: Axes, results: StressResults, one: Map) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    values = results.surface(one.metric, statistic=one.statistic).to_numpy(np.float64)
    low, high, colours = _colours(values, one)
    axes.imshow(
        values,
        cmap=LinearSegmentedColormap.from_list("stress", list(colours)),
        vmin=low,
        vmax=high,
        origin="lower",
        aspect="auto",
    )
    for i, row in enumerate(cell_texts(values, one.kind)):
        for j, shown in enumerate(row):
            strong = values[i, j] <= low + 0.1 * (high - low) or (values[i, j] - low > 0.9 * (high - low) and high > 0)
            axes.text(j, i, shown, ha="center", va="center", fontsize=9, color="white" if strong else "#1a1f26")
    fee, slippage = results.setting.fee, results.setting.slippage
    axes.set_xticks(range(len(fee.multiples)), tick_labels(fee))
    axes.set_yticks(range(len(slippage.multiples)), tick_labels(slippage))
    axes.set_xlabel("fee")
    axes.set_ylabel("slippage")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(one.caption.rstrip("."), loc="left", fontsize=10.5, fontweight="bold")
