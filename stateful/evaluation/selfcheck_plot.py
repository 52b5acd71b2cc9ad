"""The picture of a self-check: every account of every seed, drawn by matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stateful.figures import AGENT, BASELINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stateful.evaluation.selfcheck import Outcome, SelfCheck

FloatArray = npt.NDArray[np.float64]
_COLUMNS = 5


def _accounts(outcome: Outcome) -> list[tuple[str, FloatArray, str, str]]:
    """Return label, equity, colour and line of each account; the agent last, which is drawn on top."""
    equity = outcome.equity
    return [
        ("Buy and hold", equity["buy_and_hold"], BASELINES[3], ":"),
        ("Ignoring costs", equity["eager"], BASELINES[0], "-."),
        ("Optimum", equity[outcome.optimum], BASELINES[1], "--"),
        ("Agent", equity["agent"], AGENT, "-"),
    ]


def draw(check: SelfCheck, path: Path) -> None:
    """Write the equity curves of all trials as a PNG: a row of panels for each market, one panel for each seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    planted, noise = check.of("planted"), check.of("noise")
    columns = min(len(planted), _COLUMNS)
    rows = [group[i : i + columns] for group in (planted, noise) for i in range(0, len(group), columns)]
    figure = Figure(figsize=(1.5 + 2.6 * columns, 0.7 + 2.5 * len(rows)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, outcomes in zip(grid, rows, strict=True):
        limits = _limits(outcomes)
        for axes, outcome in zip(axes_row, outcomes, strict=False):
            _draw_outcome(axes, outcome)
            axes.set_yscale("log", base=2)
            axes.set_ylim(*limits)
            axes.yaxis.set_major_formatter("{x:g}")
        for axes in axes_row[len(outcomes) :]:
            axes.set_axis_off()
        axes_row[0].set_ylabel("Equity, as a multiple")
    for axes in grid[-1]:
        axes.set_xlabel("Held-out bars")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(path, metadata={"Software": "batchenv"})


def _draw_outcome(axes: Axes, outcome: Outcome) -> None:
    planted = outcome.kind == "planted"
    for label, equity, colour, line in _accounts(outcome):
        width = 1.8 if label == "Agent" else 1.3
        axes.plot(equity / equity[0], label=label, color=colour, linestyle=line, linewidth=width)
    share = f"{outcome.share():.1%} of the best" if planted else "nothing to be found"
    axes.set_title(f"{'Planted' if planted else 'Noise'}, seed {outcome.seed}: {share}", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.tick_params(labelsize=8)
    axes.set_axisbelow(True)


def _limits(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Return one range for a row of panels, so that they can be compared."""
    curves = [equity / equity[0] for outcome in outcomes for _, equity, _, _ in _accounts(outcome)]
    return min(float(curve.min()) for curve in curves) / 1.05, max(float(curve.max()) for curve in curves) * 1.05
