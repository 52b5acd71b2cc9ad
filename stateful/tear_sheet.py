"""QuantStats' tear sheet of a backtest, made by a Python process of its own.

QuantStats takes seconds to import, sets matplotlib's and seaborn's styles for everybody and writes warnings to the
console. A process of its own keeps all of that to itself, and works while the rest of the report is written. It gets
returns, never a ticker, so it has no reason to ask the network for anything.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stateful.evaluation.estimates import not_enough
from stateful.evaluation.uncertainty import MINIMUM_BARS
from stateful.figures import accounts
from stateful.metrics import bar_returns

if TYPE_CHECKING:
    from stateful.backtest import BacktestResults

FILE = "quantstats.html"
_SECONDS = 120.0
_INPUT = ".quantstats.json"


@dataclass(frozen=True)
class TearSheet:
    """What became of a tear sheet.

    Attributes:
        file: Its name, beside the report.
        reason: Why there is none.
    """

    file: str = FILE
    reason: str | None = None


class TearSheetProcess:
    """A tear sheet that is being made."""

    def __init__(self, results: BacktestResults, directory: Path, title: str) -> None:
        """Start making ``quantstats.html`` in a folder, where there are bars enough for it."""
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None
        bars = len(results.equity) - 1
        self._reason = not_enough(MINIMUM_BARS, bars) if bars < MINIMUM_BARS else _obstacle(results)
        if self._reason is None:
            (directory / _INPUT).write_text(json.dumps(_content(results, title)), encoding="utf-8")
            here = Path(__file__).parent.parent  # the package may not be installed
            path = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "stateful.tear_sheet", str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg", "SOURCE_DATE_EPOCH": "0"},
            )

    def finish(self) -> TearSheet:
        """Wait until it is there, or say why it is not."""
        if self._process is None:
            return TearSheet(reason=self._reason)
        try:
            _, errors = self._process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()
            return TearSheet(reason=f"QuantStats took more than {_SECONDS:g} seconds")
        finally:
            (self._directory / _INPUT).unlink(missing_ok=True)
        if self._process.returncode or not (self._directory / FILE).is_file():
            (self._directory / FILE).unlink(missing_ok=True)
            lines = errors.strip().splitlines()
            return TearSheet(reason=f"QuantStats failed: {lines[-1] if lines else 'without a word'}")
        return TearSheet()

    def stop(self) -> None:
        """End the process, whatever it was doing."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _obstacle(results: BacktestResults) -> str | None:
    if not (results.equity > 0).all():
        return "the account lost everything"
    if results.market.periods_per_year is None:
        return f"the number of bars in a year is not known: {results.market.year.reason}"
    return None if len(results.fills) else "the agent never traded"


def _content(results: BacktestResults, title: str) -> dict[str, Any]:
    """Return what the other process needs to know."""
    index = results.equity.index
    main = next((account for account in accounts(results) if account.role == "main"), None)
    content = {
        "title": title,
        "times": [str(stamp) for stamp in index[1:]],
        "agent": bar_returns(np.asarray(results.equity, np.float64)).tolist(),
        "periods_per_year": round(results.market.require_year("the tear sheet")),
        "risk_free_rate": results.backtest_config.risk_free_rate,
    }
    if main is not None and len(main.history) >= len(index) and (main.history["equity"] > 0).all():
        returns = bar_returns(np.asarray(main.history["equity"], np.float64))
        content |= {"benchmark": returns[: len(index) - 1].tolist(), "benchmark_title": main.label}
    return content


def _make(directory: Path) -> None:
    """Write the tear sheet that ``.quantstats.json`` describes; what the other process does."""
    import logging

    logging.disable()
    import matplotlib
    from quantstats import reports

    untyped: Any = reports
    matplotlib.rcParams["svg.hashsalt"] = "batchenv"  # else the names inside the figures are random
    content = json.loads((directory / _INPUT).read_text(encoding="utf-8"))
    times = pd.DatetimeIndex(content["times"])
    benchmark = content.get("benchmark")
    page = directory / FILE
    untyped.html(
        pd.Series(content["agent"], times, name="Agent"),
        benchmark=None if benchmark is None else pd.Series(benchmark, times),
        rf=content["risk_free_rate"],
        title=html.escape(content["title"]),
        output=str(page),
        periods_per_year=content["periods_per_year"],
        match_dates=False,
        strategy_title="Agent",
        benchmark_title=html.escape(content.get("benchmark_title", "")) or None,
    )
    # Its template asks a server for an icon, and calls a function on loading that is not there.
    text = page.read_text(encoding="utf-8").replace(' onload="save()"', "")
    page.write_text(re.sub(r'<link rel="shortcut icon"[^>]*>', "", text), encoding="utf-8")


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
