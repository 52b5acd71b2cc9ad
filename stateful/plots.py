"""The figures as PNG files, drawn by matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stateful.figures import accounts, can_be_stacked, part_colours, stacked_weights
from stateful.metrics import drawdowns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stateful.backtest import BacktestResults

_DASH = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))}


def write_plots(results: BacktestResults, directory: Path) -> None:
    """Write ``equity.png``, ``drawdown.png`` and ``weights.png``."""
    _write(directory / "equity.png", lambda axes: _draw_equity(axes, results))
    _write(directory / "drawdown.png", lambda axes: _draw_drawdown(axes, results))
    _write(directory / "weights.png", lambda axes: _draw_weights(axes, results))


def _write(path: Path, draw: Callable[[Axes], None]) -> None:
    from matplotlib import dates
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    untyped: Any = dates
    locator = untyped.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    figure.savefig(path, metadata={"Software": "batchenv"})


def _lines(axes: Axes, results: BacktestResults, values: Callable[[Any], Any]) -> None:
    for order, (label, history, colour, dash) in enumerate(accounts(results)):
        axes.plot(
            history.index.to_numpy(),
            values(history),
            label=_literal(label),
            color=colour,
            linestyle=_DASH[dash],
            linewidth=2.0 if order == 0 else 1.5,
            zorder=3 - order / 10,
        )
    axes.margins(x=0.01)
    axes.legend(frameon=False, loc="best")


def _draw_equity(axes: Axes, results: BacktestResults) -> None:
    _lines(axes, results, lambda history: history["equity"].to_numpy())
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("Equity after costs", loc="left", fontweight="bold")


def _draw_drawdown(axes: Axes, results: BacktestResults) -> None:
    from matplotlib.ticker import PercentFormatter

    _lines(axes, results, lambda history: drawdowns(history["equity"].to_numpy(np.float64)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("Drawdown from the highest equity so far", loc="left", fontweight="bold")


def _draw_weights(axes: Axes, results: BacktestResults) -> None:
    from matplotlib.ticker import PercentFormatter

    parts = stacked_weights(results.history)
    times, colours = results.history.index.to_numpy(), part_colours(parts)
    if can_be_stacked(parts):
        labels = [_literal(name) for name in parts]
        axes.stackplot(times, np.array(list(parts.values())), labels=labels, colors=colours, linewidth=0)
        axes.set_ylim(0, 1)
    else:
        for (name, values), colour in zip(parts.items(), colours, strict=True):
            axes.plot(times, values, label=_literal(name), color=colour, linewidth=1.5)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("Weights of the agent's portfolio", loc="left", fontweight="bold")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _literal(text: str) -> str:
    """Return text that matplotlib neither typesets as a formula nor hides from the legend."""
    return text.replace("$", r"\$").removeprefix("_") or text
