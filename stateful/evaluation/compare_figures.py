"""The figures of a comparison: interactive as plotly figures, and as PNG files by matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from stateful.evaluation.compare_results import HOLD, ComparedRun, Comparison, Group
from stateful.evaluation.estimates import Interval
from stateful.figures import DASHES, OTHERS, STACK, blank, ends_of_buckets, milliseconds, short
from stateful.metrics import drawdowns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure

FloatArray = npt.NDArray[np.float64]
_THIN, _BAND = 0.35, 0.15
_MATPLOTLIB_DASH: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))}


class _Style(NamedTuple):
    colour: str
    dash: str


class _Row(NamedTuple):
    """One line of a forest plot."""

    label: str
    colour: str
    interval: Interval
    seeds: list[float]


def styles(results: Comparison) -> dict[str, _Style]:
    """Return colour and dash of each configuration by its name; more than there are colours change the dash."""
    dashes = ("solid", *DASHES)
    names = [group.name for group in results.groups]
    return {name: _Style(STACK[i % len(STACK)], dashes[i // len(STACK) % len(dashes)]) for i, name in enumerate(names)}


def build_figures(results: Comparison) -> dict[str, Figure]:
    """Return the charts by name; ``learning`` is there where a run was judged during training."""
    figures = {
        "equity": _lines(results, lambda equity: equity, "%{y:,.1f}"),
        "drawdown": _lines(results, drawdowns, "%{y:.1%}"),
        "cagr": _forest(_rows(results, "cagr"), "~%", "%{x:+.1%}"),
        "sharpe": _forest(_rows(results, "sharpe"), "~g", "%{x:.2f}"),
        "gaps": _forest(_gap_rows(results), "~%", "%{x:+.1%}"),
    }
    figures["equity"].update_yaxes(tickformat="~g")
    figures["drawdown"].update_yaxes(tickformat="~%")
    if any(run.learning is not None for run in results.runs):
        figures["learning"] = _learning(results)
    return figures


def _rows(results: Comparison, figure: str) -> list[_Row]:
    """Return a row for each configuration, the one ahead first, and for buy and hold."""
    look = styles(results)
    rows = [
        _Row(group.name, look[group.name].colour, group.figures[figure], _seeds(results, group, figure))
        for group in results.groups
    ]
    if results.hold_account is not None:
        rows.append(_Row(HOLD.capitalize(), OTHERS, results.hold_account.intervals()[figure], []))
    return rows


def _seeds(results: Comparison, group: Group, figure: str) -> list[float]:
    """Return the figure of each seed, where there are several."""
    values = [results.metrics[run.name][figure] for run in group.runs]
    return [value for value in values if value is not None] if len(values) > 1 else []


def _gap_rows(results: Comparison) -> list[_Row]:
    look = styles(results)
    colours = [look[gap.other or gap.one].colour for gap in results.gaps]
    return [
        _Row(f"{gap.one} less {gap.other or HOLD}", colour, gap.cagr, [])
        for gap, colour in zip(results.gaps, colours, strict=True)
    ]


def _typical(values: FloatArray) -> FloatArray:
    """Return the median of the seeds at each bar, NaN where one of them has ended, float64 ``[bars]``."""
    medians: FloatArray = np.median(values, axis=1)
    return medians


# --- plotly -------------------------------------------------------------------------------------------------


def _lines(results: Comparison, measure: Callable[[FloatArray], FloatArray], hover: str) -> Figure:
    """Draw something of every account over time: seeds thin, the median of the seeds thick, buy and hold grey."""
    figure = blank()
    rows = ends_of_buckets(len(results.equity))
    times = milliseconds(results.equity.index[rows])

    def add(name: str, values: FloatArray, **style: Any) -> None:
        figure.add_scatter(x=times, y=short(values[rows]), name=escape(name, quote=False), mode="lines", **style)

    if results.hold is not None:
        line = {"color": OTHERS, "width": 1.6}
        held = measure(np.asarray(results.hold, np.float64))
        add(HOLD.capitalize(), held, line=line, hovertemplate=hover, legendrank=2000)
    look = styles(results)
    for rank, group in reversed(list(enumerate(results.groups))):
        values = np.column_stack([measure(np.asarray(results.equity[run.name], np.float64)) for run in group.runs])
        style, several = look[group.name], len(group.runs) > 1
        for run, own in zip(group.runs, values.T, strict=True):
            if several:
                line = {"color": style.colour, "width": 1}
                add(run.name, own, line=line, opacity=_THIN, hoverinfo="skip", showlegend=False, legendgroup=group.name)
        line = {"color": style.colour, "width": 2.2, "dash": style.dash}
        label = f"{group.name}, median of {len(group.runs)} seeds" if several else group.name
        add(label, _typical(values), line=line, hovertemplate=hover, legendgroup=group.name, legendrank=rank)
    return figure


def _forest(rows: list[_Row], tick_format: str, hover: str) -> Figure:
    """Draw an interval for each row, the first on top."""
    figure = blank(dates=False, hovermode="closest")
    figure.update_layout(showlegend=False)
    for row in rows:
        name, interval = escape(row.label, quote=False), row.interval
        if interval.low is not None and interval.high is not None:
            figure.add_scatter(
                x=short([interval.low, interval.high]), y=[name, name], mode="lines",
                line={"color": row.colour, "width": 3}, opacity=0.55, hovertemplate=f"{hover}<extra></extra>",
            )  # fmt: skip
        figure.add_scatter(
            x=short(row.seeds), y=[name] * len(row.seeds), mode="markers",
            hovertemplate=f"seed: {hover}<extra></extra>",
            marker={"color": row.colour, "size": 7, "symbol": "line-ns", "line": {"color": row.colour, "width": 1.5}},
        )  # fmt: skip
        estimate = [] if interval.estimate is None else [interval.estimate]
        figure.add_scatter(
            x=short(estimate), y=[name] * len(estimate), mode="markers", hovertemplate=f"{hover}<extra></extra>",
            marker={"color": row.colour, "size": 10},
        )  # fmt: skip
    ends = [end for row in rows for end in (row.interval.low, row.interval.high, row.interval.estimate, *row.seeds)]
    known = [0.0, *(end for end in ends if end is not None)]
    room = 0.04 * (max(known) - min(known)) or 1.0
    figure.update_xaxes(
        tickformat=tick_format, zeroline=True, zerolinecolor=OTHERS, showgrid=True, nticks=5, tickangle=0,
        range=[min(known) - room, max(known) + room],
    )  # fmt: skip
    names = [escape(row.label, quote=False) for row in rows]
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names[::-1], range=[-0.6, len(rows) - 0.4],
        showgrid=False, tickmode="array", tickvals=names, ticktext=[_wrapped(name) for name in names],
    )  # fmt: skip
    return figure


def _wrapped(name: str) -> str:
    """Break a long label in two, so that it leaves room for the chart on a small screen."""
    first, less, second = name.partition(" less ")
    return f"{first}<br>less {second}" if less else name


def _learning(results: Comparison) -> Figure:
    """Draw the Sharpe ratio on the validation part during training: the median of the seeds within their range."""
    figure = blank(dates=False)
    look = styles(results)
    for group, curves in _learned(results):
        colour, dash = look[group.name]
        x, name = short(curves.index), escape(group.name, quote=False)
        shared = {"x": x, "legendgroup": group.name, "mode": "lines"}
        if curves.shape[1] > 1:
            edge = {"line": {"width": 0, "color": colour}, "hoverinfo": "skip", "showlegend": False, **shared}
            figure.add_scatter(y=short(curves.min(axis=1)), **edge)
            figure.add_scatter(y=short(curves.max(axis=1)), fill="tonexty", fillcolor=_faint(colour), **edge)
        line = {"color": colour, "width": 2.2, "dash": dash}
        figure.add_scatter(
            y=short(curves.median(axis=1)), name=name, line=line, hovertemplate="%{y:.2f}",
            **{**shared, "mode": "lines+markers"},
        )  # fmt: skip
    figure.update_xaxes(tickformat="~s", hoverformat=",.0f", title={"text": "timesteps"})
    figure.update_yaxes(tickformat="~g", zeroline=True, zerolinecolor=OTHERS)
    return figure


def _learned(results: Comparison) -> Iterator[tuple[Group, pd.DataFrame]]:
    """Yield the learning curves of each configuration: one row per evaluation that all have, one column per seed."""
    for group in results.groups:
        curves = [_curve(run) for run in group.runs if run.learning is not None]
        if curves:
            yield group, pd.concat(curves, axis=1, join="inner")


def _curve(run: ComparedRun) -> pd.Series[float]:
    assert run.learning is not None
    return run.learning.drop_duplicates("timesteps", keep="last").set_index("timesteps")["sharpe"].rename(run.name)


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_BAND})"


# --- PNG ----------------------------------------------------------------------------------------------------


def write_plots(results: Comparison, directory: Path) -> None:
    """Write ``equity.png`` and ``intervals.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(results.groups) + 1
    for name, size in (("equity", (10.0, 4.8)), ("intervals", (11.0, 1.6 + 0.42 * rows))):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        if name == "equity":
            _draw_equity(figure.add_subplot(), results)
        else:
            left, right = figure.subplots(1, 2, sharey=True)
            _draw_forest(left, _rows(results, "cagr"), "Growth a year", as_percent=True)
            _draw_forest(right, _rows(results, "sharpe"), "Sharpe ratio", as_percent=False)
        figure.savefig(directory / f"{name}.png", metadata={"Software": "batchenv"})


def _draw_equity(axes: Axes, results: Comparison) -> None:
    from matplotlib import dates

    untyped: Any = dates
    times, look = results.equity.index.to_numpy(), styles(results)
    for order, group in enumerate(results.groups):
        values, style = results.equity[[run.name for run in group.runs]].to_numpy(np.float64), look[group.name]
        if len(group.runs) > 1:
            axes.plot(times, values, color=style.colour, linewidth=0.8, alpha=_THIN)
        dash = _MATPLOTLIB_DASH[style.dash]
        label = _literal(group.name)
        axes.plot(times, _typical(values), label=label, color=style.colour, linestyle=dash, zorder=3 - order / 100)
    if results.hold is not None:
        axes.plot(times, results.hold.to_numpy(np.float64), label=HOLD.capitalize(), color=OTHERS)
    locator = untyped.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator))
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    axes.set_title("Equity after costs, 100 at the first common bar", loc="left", fontweight="bold")
    axes.legend(frameon=False, loc="best")


def _draw_forest(axes: Axes, rows: list[_Row], title: str, *, as_percent: bool) -> None:
    from matplotlib.ticker import PercentFormatter

    for place, row in enumerate(reversed(rows)):
        interval = row.interval
        if interval.low is not None and interval.high is not None:
            axes.plot([interval.low, interval.high], [place, place], color=row.colour, linewidth=2.5, alpha=0.6)
        axes.plot(row.seeds, [place] * len(row.seeds), "|", color=row.colour, markersize=9)
        if interval.estimate is not None:
            axes.plot([interval.estimate], [place], "o", color=row.colour, markersize=7)
    axes.axvline(0.0, color=OTHERS, linewidth=0.9)
    axes.set_yticks(range(len(rows)), [_literal(row.label) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    if as_percent:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, loc="left", fontweight="bold")


def _literal(text: str) -> str:
    """Return text that matplotlib neither typesets as a formula nor hides from the legend."""
    return text.replace("$", r"\$").removeprefix("_") or text
