"""The figures of a walk-forward: interactive as plotly figures, and as a PNG by matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stateful.evaluation.walk_forward_results import WalkForwardResults
from stateful.figures import AGENT, BASELINES, CASH, DASHES, OTHERS, date_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure

_DRAWN = 3
"""Accounts that the equity chart draws by name; the others share one, and are drawn when asked for."""
_MATPLOTLIB_DASH: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))}


class _Account(NamedTuple):
    name: str
    label: str
    colour: str
    dash: str


def _accounts(results: WalkForwardResults) -> Iterator[_Account]:
    """Return the agent, the main baseline, and the others."""
    yield _Account("agent", "Agent", AGENT, "solid")
    for i, (name, label) in enumerate(sorted(results.labels.items(), key=lambda item: item[0] != results.main)):
        shown = label[:1].upper() + label[1:]
        yield _Account(name, shown, BASELINES[i % len(BASELINES)], DASHES[i % len(DASHES)])


def build_figures(results: WalkForwardResults) -> dict[str, Figure]:
    """Return the charts by name; ``sharpe`` is there where a validation part was."""
    figures = {"equity": _equity(results), "returns": _returns(results)}
    if any(fold.validation is not None for fold in results.folds):
        figures["sharpe"] = _sharpe(results)
    return figures


def _figure(y_format: str, **layout: Any) -> Figure:
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.update_layout(
        template="none",
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="x unified",
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        xaxis={"automargin": True, "showgrid": False, "ticks": "outside", "ticklen": 4},
        yaxis={"automargin": True, "zeroline": True, "zerolinecolor": OTHERS, "nticks": 7, "tickformat": y_format},
        **layout,
    )
    return figure


def _equity(results: WalkForwardResults) -> Figure:
    figure = _figure("~s")
    dates = date_labels(results.equity.index)
    accounts = list(_accounts(results))
    named, others = accounts[:_DRAWN], accounts[_DRAWN:]
    for account in reversed(accounts):
        quiet = {"legendgroup": "others", "visible": "legendonly", "showlegend": False} if account in others else {}
        figure.add_scatter(
            x=dates,
            y=_short(results.equity[account.name]),
            name=escape(account.label, quote=False),
            mode="lines",
            line={"color": account.colour, "width": 2.4 if account.name == "agent" else 1.6, "dash": account.dash},
            hovertemplate="%{y:,.0f}",
            legendrank=len(named) if account in others else named.index(account),
            **quiet,
        )
    if others:
        figure.add_scatter(
            x=[None],
            y=[None],
            name=others[0].label if len(others) == 1 else f"{len(others)} other baselines",
            mode="lines",
            line={"color": OTHERS, "width": 1.6},
            hoverinfo="skip",
            legendgroup="others",
            legendrank=len(named),
            visible="legendonly",
        )
    figure.update_layout(yaxis={"zeroline": False})
    for fold in results.folds:
        start = date_labels(fold.curves.index[:1])[0]
        figure.add_vline(x=start, line={"color": OTHERS, "width": 1, "dash": "dot"}, layer="below")
        figure.add_annotation(
            x=start, y=1, yref="paper", yanchor="top", xanchor="left", text=f" {fold.fold.number}", showarrow=False
        )
    return figure


def _returns(results: WalkForwardResults) -> Figure:
    figure = _figure("~%", barmode="group", bargap=0.25)
    for account in list(_accounts(results))[:2]:
        _bars(figure, results, account.label, account.colour, _fold_returns(results, account.name), "%{y:+.1%}")
    return figure


def _sharpe(results: WalkForwardResults) -> Figure:
    figure = _figure("~g", barmode="group", bargap=0.25)
    chosen = [None if fold.validation is None else fold.validation["sharpe"] for fold in results.folds]
    tested = [fold.metrics["sharpe"] for fold in results.folds]
    _bars(figure, results, "Validation, chosen by it", CASH, chosen, "%{y:.2f}")
    _bars(figure, results, "Test, out of sample", AGENT, tested, "%{y:.2f}")
    return figure


def _bars(
    figure: Figure, results: WalkForwardResults, label: str, colour: str, values: list[float | None], hover: str
) -> None:
    figure.add_bar(
        x=[f"Fold {fold.fold.number}" for fold in results.folds],
        y=_short(values),
        name=escape(label, quote=False),
        marker={"color": colour, "line": {"width": 0}},
        hovertemplate=hover,
    )


def _fold_returns(results: WalkForwardResults, account: str) -> list[float | None]:
    """Return what an account made in each fold, as a fraction."""
    if account == "agent":
        return [fold.metrics["total_return"] for fold in results.folds]
    return [fold.metrics["baselines"][account]["total_return"] for fold in results.folds]


def _short(values: Any) -> Any:
    """Return numbers as float32, NaN for None: seven digits are enough to draw."""
    return np.asarray(values, np.float32)


# --- PNG ----------------------------------------------------------------------------------------------------


def write_plot(results: WalkForwardResults, path: Path) -> None:
    """Draw the out-of-sample curves, and the return of each fold below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=[2.2, 1])
    _draw_equity(above, results)
    _draw_returns(below, results)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
    figure.savefig(path, metadata={"Software": "batchenv"})


def _draw_equity(axes: Axes, results: WalkForwardResults) -> None:
    from matplotlib import dates

    untyped: Any = dates
    for account in list(_accounts(results))[:_DRAWN]:
        axes.plot(
            results.equity.index.to_numpy(),
            results.equity[account.name].to_numpy(),
            label=account.label,
            color=account.colour,
            linestyle=_MATPLOTLIB_DASH[account.dash],
            linewidth=2.0 if account.name == "agent" else 1.5,
            zorder=3 if account.name == "agent" else 2,
        )
    for fold in results.folds:
        axes.axvline(fold.curves.index[0], color=OTHERS, linewidth=0.8, linestyle=":")
    locator = untyped.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.01)
    axes.set_title("Equity out of sample, after costs; dotted: a new fold", loc="left", fontweight="bold")
    axes.legend(frameon=False, loc="best")


def _draw_returns(axes: Axes, results: WalkForwardResults) -> None:
    from matplotlib.ticker import PercentFormatter

    accounts = list(_accounts(results))[:2]
    places, width = np.arange(len(results.folds)), 0.75 / len(accounts)
    for i, account in enumerate(accounts):
        offset = (i - (len(accounts) - 1) / 2) * width
        axes.bar(places + offset, _short(_fold_returns(results, account.name)), width, color=account.colour)
    axes.axhline(0.0, color=OTHERS, linewidth=0.9)
    axes.set_xticks(places, [f"Fold {fold.fold.number}" for fold in results.folds])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("Return of each fold", loc="left", fontweight="bold")
