"""What features of a wide market cost: ``python -m benchmarks.features``.

Turbulence is set beside its definition, a pseudo-inverse of the covariance at every bar, on a few bars of that market.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from batchenv.features import compute_features
from batchenv.market import MarketData
from batchenv.turbulence import turbulence

BARS, SYMBOLS = 2520, 1000
NAMES = ("return_1", "volatility_20", "volatility_252", "rsi_14", "macd", "bollinger_20", "turbulence_252")
WINDOW, BY_DEFINITION = 252, 3


def wide_market() -> MarketData:
    """Ten years of daily bars of symbols that share one factor."""
    rng = np.random.default_rng(0)
    factor = rng.normal(0, 0.01, (BARS, 1)) * rng.uniform(0.5, 1.5, (1, SYMBOLS))
    close = 50.0 * np.exp(np.cumsum(factor + rng.normal(0, 0.015, (BARS, SYMBOLS)), axis=0))
    times = np.datetime64("2010-01-01", "ns") + np.arange(BARS) * np.timedelta64(1, "D")
    return MarketData(tuple(f"S{s}" for s in range(SYMBOLS)), times, close)


def by_definition(returns: np.ndarray, bar: int) -> float:
    """Turbulence of one bar, by the formula."""
    window = returns[bar - WINDOW : bar]
    deviation = returns[bar] - window.mean(axis=0)
    return float(deviation @ np.linalg.pinv(np.cov(window, rowvar=False)) @ deviation)


def main() -> None:
    """Measure, print, and write JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console, market, seconds = Console(), wide_market(), {}
    for name in NAMES:
        began = time.perf_counter()
        compute_features(market, [name], scaling="none")
        seconds[name] = time.perf_counter() - began
        console.print(f"{name:<16}{seconds[name]:>8.2f} s for {SYMBOLS:,} symbols and {BARS:,} bars")
    returns = market.mark[1:] / market.mark[:-1] - 1.0
    began = time.perf_counter()
    expected = [by_definition(returns, bar - 1) for bar in range(BARS - BY_DEFINITION, BARS)]
    each = (time.perf_counter() - began) / BY_DEFINITION
    found = turbulence(returns[-WINDOW - BY_DEFINITION - 2 :], WINDOW)[-BY_DEFINITION:]  # two are set to 0
    worst = float(np.abs(found / np.array(expected) - 1.0).max())
    ratio = each * (BARS - WINDOW) / seconds["turbulence_252"]
    console.print(
        f"turbulence by its definition takes {each:.2f} s a bar, {ratio:,.0f} times as much; "
        f"the largest relative difference is {worst:.0e}"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({"seconds": seconds, "definition": each, "ratio": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
