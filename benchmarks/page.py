"""What a report costs to open, beside a page of one empty chart with the same plotly: ``python -m benchmarks.page``.

The time is that of the page's own thread by the browser's clock of processor time, so that other work on the machine
counts little; the ratio is between the fastest of several openings of each, in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import pandas as pd
from plotly.graph_objects import Figure
from rich.console import Console

from stateful.evaluation.page import Page, chart
from tests.browser import browsing, find_browser
from tests.markets import market
from tests.stateful.policies import RandomAgent
from tests.stateful.reports import backtest
from tests.test_stress import made_up

OPENINGS = 5
WINDOW = (1240, 900)
REACH = 2.5
"""The report costs at most so many times what the empty page does."""


def write_pages(folder: Path) -> dict[str, Path]:
    """Write a report with everything in it, and a page of one empty chart."""
    bars = market(0, n_bars=400)
    results = backtest(bars, RandomAgent(4), trained_on=bars)
    made_up(lambda start, fee, slip, cash: 0.1 - 0.02 * fee - 0.01 * slip).write(folder / "stress", title="x")
    curve = pd.DataFrame({"timesteps": [1000, 2000, 3000], "sharpe": [0.1, 0.5, 0.4]})
    report = results.write(folder / "backtest", title="PPO", learning_curve=curve, stress=folder / "stress")
    empty = folder / "empty.html"
    blank = Page("Empty", "", "", {"Chart": chart("blank", "A chart of nothing")}, {"blank": Figure()}, "")
    empty.write_text(blank.html(), encoding="utf-8")
    return {"report": report, "empty": empty}


def seconds_to_open(browser: str, page: Path) -> float:
    """Return the processor time of the page's thread until the page says that it is ready."""
    with browsing(browser) as tab:
        tab.resize(*WINDOW)
        tab.call("Performance.enable", timeDomain="threadTicks")
        tab.open(page)
        tab.wait("performance.getEntriesByName('ready').length === 1")
        measured = tab.call("Performance.getMetrics")["metrics"]
        return float(next(m["value"] for m in measured if m["name"] == "TaskDuration"))


def main() -> None:
    """Measure, print, and write JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console, browser = Console(), find_browser()
    if browser is None:
        console.print("page: there is no Chromium or Chrome on this machine, so nothing was measured")
        sys.exit(0)
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        pages = write_pages(Path(folder))
        for _ in range(OPENINGS):
            for name, page in pages.items():
                best[name] = min(best.get(name, float("inf")), seconds_to_open(browser, page))
    ratio = best["report"] / best["empty"]
    console.print(
        f"report {best['report']:.2f} s, empty page {best['empty']:.2f} s: ratio {ratio:.2f}, to reach <= {REACH}"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({**best, "ratio": ratio, "reach": REACH}, indent=2) + "\n")


if __name__ == "__main__":
    main()
