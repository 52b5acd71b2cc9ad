"""What the commands print of a backtest, on a screen of 80 columns."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from batchenv.cli import screen
from tests.markets import market
from tests.stateful.policies import ConstantAgent, RandomAgent
from tests.stateful.reports import backtest


@pytest.fixture
def printed(monkeypatch):
    """Return a function that prints results and returns the lines."""

    def lines(results):
        file = io.StringIO()
        monkeypatch.setattr(screen, "console", Console(file=file, width=80, highlight=False))
        screen.print_results(results)
        return file.getvalue().splitlines()

    return lines


def test_the_agent_with_its_intervals_and_every_baseline(printed):
    results = backtest(market(0, n_bars=200), RandomAgent(4))
    lines = printed(results)
    assert max(map(len, lines)) <= 80
    agent = next(line.split() for line in lines if line.split()[:1] == ["Agent"])
    low, high = (next(line.split() for line in lines if line.split()[:2] == ["95%", end]) for end in ("from", "to"))
    for place, name in enumerate(("total_return", "cagr", "sharpe", "max_drawdown")):
        interval = results.uncertainty.agent[name]
        show = "{:.2f}".format if name == "sharpe" else lambda value: f"{100 * value:+.1f}%"
        assert agent[1 + place] == show(results.metrics[name])
        assert (low[2 + place], high[2 + place]) == (show(interval.low), show(interval.high))
    for label in results.labels.values():
        assert any(line.strip().startswith(label) for line in lines)
    text = " ".join(" ".join(lines).split())
    for verdict in results.headlines:
        assert str(verdict) in text


def test_severe_flags_in_full_and_the_names_of_the_others(printed):
    bars = market(0)
    results = backtest(bars, ConstantAgent(np.full(4, 0.2)), trained_on=bars)
    text = " ".join(" ".join(printed(results)).split())
    severe = [flag for flag in results.flags if flag.severity == "severe"]
    warnings = [flag for flag in results.flags if flag.severity == "warning"]
    assert severe and warnings
    for flag in severe:  # before the words that they take back
        assert text.index(flag.text) < text.index(str(results.headlines[0]))
    assert "Not held out: " in text and "Held-out bars" not in text
    names = "; ".join(flag.text.partition(":")[0] for flag in warnings)
    assert f"Red flags, explained in the report: {names}." in text


def test_too_few_bars_for_intervals(printed):
    lines = printed(backtest(market(0, n_bars=30), RandomAgent(4)))
    assert not any("95% from" in line for line in lines)
    assert "not enough data (needs 60 bars, has" in " ".join(" ".join(lines).split())
