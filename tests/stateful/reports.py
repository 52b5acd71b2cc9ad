"""Backtests and their pages, for the tests of the report."""

from __future__ import annotations

from typing import Any

from batchenv.market import MarketData
from stateful import BackTesting, StatefulTradingEnv
from stateful.backtest import BacktestResults
from stateful.report_page import Beside, build_page
from tests.pages import Page


def backtest(
    bars: MarketData,
    agent: Any,
    config: dict[str, Any] | None = None,
    features: tuple[str, ...] = ("momentum_5",),
    trained_on: Any = None,
    **settings: Any,
) -> BacktestResults:
    """Play an agent without VectorBT and with few resamples, unless otherwise is asked for."""
    env = StatefulTradingEnv(bars, config or {}, features, seed=0)
    quick = {"vectorbt": False, "uncertainty": {"resamples": 200}}
    return BackTesting(agent, env, {**quick, **settings}, trained_on=trained_on).run()


def page_of(results: BacktestResults, **beside: Any) -> Page:
    """Return the report of a backtest as a page."""
    return Page(build_page(results, Beside(**beside)))
