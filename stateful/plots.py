"""The figures as PNG files, drawn by matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stateful.curves import equity_band
from stateful.figures import AGENT, BASELINES, CASH, accounts, can_be_stacked, part_colours, stacked_weights
from stateful.metrics import drawdowns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stateful.backtest import BacktestResults

_STYLES: dict[str, dict[str, Any]] = {
    "agent": {"color": AGENT, "linewidth": 2.0},
    "main": {"color": BASELINES[0], "linewidth": 1.5, "linestyle": "--"},
    "other": {"color": CASH, "linewidth": 0.9},
}


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
    shown = accounts(results)
    others = [account for account in shown if account.role == "other"]
    for order, account in enumerate(shown):
        label: str | None = _literal(account.label)
        if account.role == "other" and len(others) > 1:
            label = f"{len(others)} other baselines" if account is others[0] else None
        axes.plot(
            account.history.index.to_numpy(),
            values(account.history),
            label=label,
            zorder=3 - order / 10,
            **_STYLES[account.role],
        )
    axes.margins(x=0.01)


def _draw_equity(axes: Axes, results: BacktestResults) -> None:
    _lines(axes, results, lambda history: history["equity"].to_numpy())
    band = equity_band(results)
    if band is not None and results.uncertainty is not None:
        times = results.history.index[band.rows].to_numpy()
        label = f"{100 * results.uncertainty.level:g}% of resampled histories"
        axes.fill_between(times, band.low, band.high, color=AGENT, alpha=0.14, linewidth=0, label=label, zorder=1)
    axes.legend(frameon=False, loc="best")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("Equity after costs", loc="left", fontweight="bold")


def _draw_drawdown(axes: Axes, results: BacktestResults) -> None:
    from matplotlib.ticker import PercentFormatter

    _lines(axes, results, lambda history: drawdowns(history["equity"].to_numpy(np.float64)))
    axes.legend(frameon=False, loc="best")
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
