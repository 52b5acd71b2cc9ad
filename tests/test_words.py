"""What is claimed, on data where it is false: a claim of skill, of certainty, of bars held out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from batchenv import MarketData
from batchenv.cli import screen
from batchenv.config import UncertaintyConfig
from stateful import BackTesting, StatefulTradingEnv
from stateful.evaluation.planted import TrendMarket
from stateful.evaluation.sharpe import Record, long_run_ratio, minimum_track_record, probabilistic_sharpe
from stateful.evaluation.uncertainty import DRAWDOWN_HOLDS, drawdown_words, measure_uncertainty
from stateful.verdict import headlines, sharpe_sentence
from tests.markets import market
from tests.proof.coverage import noise
from tests.stateful.policies import RandomAgent
from tests.stateful.reports import backtest, page_of
from tests.stateful.worlds import hand_made

# --- a Sharpe ratio of nothing ------------------------------------------------------------------------------


def test_the_long_run_ratio_by_hand() -> None:
    """Andrews & Monahan 1992 with Bartlett weights and 4 (n / 100)^(2/9) lags, written out in plain Python."""
    series = noise("AR(1) 0.4", 1, 150, np.random.default_rng(0))[:, 0]
    x = [float(value - series.mean()) for value in series]
    slope = sum(a * b for a, b in zip(x[1:], x, strict=False)) / sum(a * a for a in x)
    left = [a - slope * b for a, b in zip(x[1:], x, strict=False)]
    lags = int(4 * (len(left) / 100) ** (2 / 9))
    total = sum(e * e for e in left) / len(left)
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * sum(a * b for a, b in zip(left[lag:], left, strict=False)) / len(left)
    expected = total / (1 - slope) ** 2 / (sum(a * a for a in x) / len(x))
    assert lags == 4
    assert long_run_ratio(series) == pytest.approx(expected, rel=1e-12)
    assert long_run_ratio(np.ones(100)) == 1.0


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
def test_the_long_run_ratio_of_an_autoregression_is_known(correlation: float) -> None:
    series = noise(f"AR(1) {correlation}", 1, 200_000, np.random.default_rng(1))[:, 0]
    assert long_run_ratio(series) == pytest.approx((1 + correlation) / (1 - correlation), rel=0.04)
    record = Record.of(series)
    assert record.autocorrelation == pytest.approx(correlation, abs=0.01)
    assert record.dependence >= 1.0


def test_a_record_proves_what_its_dependence_leaves() -> None:
    record = Record(253, 0.1, -0.5, 5.0, dependence=2.0)
    error = np.sqrt((1 + 0.5 * 0.1 + 4 / 4 * 0.01) / 252)
    assert probabilistic_sharpe(record) == pytest.approx(stats.norm.cdf(0.1 / error))
    assert probabilistic_sharpe(record.dependent) == pytest.approx(stats.norm.cdf(0.1 / (error * np.sqrt(2.0))))
    plain, counted = minimum_track_record(record), minimum_track_record(record.dependent)
    assert plain is not None and counted is not None and counted - 1 == pytest.approx(2 * (plain - 1))


@pytest.mark.parametrize(
    ("world", "formula", "counted"),
    [
        ("independent", (0.04, 0.065), (0.03, 0.065)),
        ("AR(1) 0.3", (0.095, 0.13), (0.035, 0.065)),
        ("AR(1) 0.5", (0.15, 0.20), (0.035, 0.07)),
        ("GARCH", (0.035, 0.07), (0.03, 0.065)),
    ],
)
def test_a_test_at_5_percent_errs_in_5_percent_with_the_dependence_counted(
    world: str, formula: tuple[float, float], counted: tuple[float, float]
) -> None:
    """2,000 records of 252 bars without any return: how often the probability is above 95%."""
    records = [Record.of(series) for series in noise(world, 2000, 252, np.random.default_rng(2)).T]
    plain = np.mean([probabilistic_sharpe(record) > 0.95 for record in records])
    found = np.mean([probabilistic_sharpe(record.dependent) > 0.95 for record in records])
    assert formula[0] < plain < formula[1]
    assert counted[0] < found < counted[1]


def equity_of(world: str, seed: int, bars: int = 300, mean: float = 0.0) -> Any:
    returns = mean + 0.01 * noise(world, 1, bars, np.random.default_rng(seed))[:, 0]
    return 1e5 * np.append(1.0, np.cumprod(1 + returns))


def test_both_probabilities_stand_beside_each_other() -> None:
    config = UncertaintyConfig(resamples=200)
    found = measure_uncertainty(equity_of("AR(1) 0.4", 3, mean=1e-3), {}, config=config, periods_per_year=252.0)
    plain, counted = found.probabilistic_sharpe.value, found.dependent["probabilistic_sharpe"].value
    assert plain is not None and counted is not None and 0.5 < counted < plain
    text = sharpe_sentence({"uncertainty": found.as_dict()})
    assert text is not None and text.startswith(
        f"The true Sharpe ratio is above 0 with a probability of {100 * plain:.1f}% if bars are independent of each "
        f"other, and of {100 * counted:.1f}% with their dependence counted, taken by itself; "
    )
    json.dumps(found.as_dict(), allow_nan=False)


def moving(world: str) -> MarketData:
    return hand_made(equity_of(world, 5, 400)[:, None].tolist())


def test_returns_that_depend_on_each_other_are_flagged_and_independent_ones_are_not() -> None:
    rules = {"fill": "next_close", "action_config": {"mode": "weights"}}

    class Invested:
        def predict(self, observation: Any, deterministic: bool = False) -> tuple[Any, Any]:
            return np.ones(1, np.float32), None

    flags = {}
    for world in ("independent", "AR(1) 0.4", "AR(1) -0.4"):
        results = backtest(moving(world), Invested(), rules, features=())
        flags[world] = next((flag for flag in results.flags if flag.name == "dependent_bars"), None)
    assert flags["independent"] is None and flags["AR(1) -0.4"] is None
    flag = flags["AR(1) 0.4"]
    assert flag is not None and flag.severity == "warning"
    assert flag.text.startswith("Bars depend on each other: neighbouring returns correlate by 0.4")


# --- differences that are none --------------------------------------------------------------------------------


def test_accounts_without_any_difference_are_told_apart_in_about_five_percent_of_worlds() -> None:
    """Seven baselines that differ from the agent by luck alone; what the first line says of them."""
    rng, config, worlds, claims = np.random.default_rng(7), UncertaintyConfig(resamples=600), 120, 0
    names = [f"b{i}" for i in range(7)]
    for _ in range(worlds):
        returns = 0.0005 + rng.normal(0, 0.01, (120, 8))
        equity = 1e5 * np.vstack([np.ones(8), np.cumprod(1 + returns, axis=0)])
        found = measure_uncertainty(
            equity[:, 0], dict(zip(names, equity[:, 1:].T, strict=True)), config=config, periods_per_year=252.0
        )
        figures = {
            name: {"total_return": float(end / 1e5 - 1), "sharpe": 0.0, "max_drawdown": 0.0, "bars": 120}
            for name, end in zip(["agent", *names], equity[-1], strict=True)
        }
        metrics = {**figures.pop("agent"), "baselines": figures, "uncertainty": found.as_dict()}
        detail = headlines(metrics, {name: name for name in names})[0].detail
        claimed = "none of the 7 differences is distinguishable from luck" not in detail
        assert claimed == any(gap.distinguishable_together for gap in found.differences.values())
        claims += claimed
    assert claims / worlds < 0.11


@pytest.mark.parametrize("seed", range(6))
def test_an_agent_that_loses_in_noise_is_better_than_nothing_by_nothing(seed: int) -> None:
    """A random agent on fair coins at ordinary costs, beside an OLMAR that trades itself to death."""
    bars = TrendMarket(continuation=0.5, confirmation=0.5).market(1200, seed)
    env = StatefulTradingEnv(bars, {"portfolio_config": {"trade_limit_percent": 0.02}}, [], seed=0)
    settings = {"vectorbt": False, "uncertainty": {"resamples": 800}}
    results = BackTesting(RandomAgent(bars.n_symbols, seed=seed), env, settings).run()
    assert results.metrics["baselines"]["olmar"]["total_return"] < -0.3
    assert -0.3 < results.metrics["total_return"] < 0.0
    summary = results.headlines[0]
    assert "better than" not in summary.detail and "OLMAR (lost its money to costs)" in summary.detail
    verdict = next(verdict for verdict in results.verdicts if verdict.baseline == "olmar")
    assert verdict.outcome == "not_compared" and verdict.distinguishable is None
    assert "beat" not in verdict.headline and "distinguishable" not in verdict.detail


# --- drawdowns ------------------------------------------------------------------------------------------------


def test_the_drawdowns_interval_says_how_often_it_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = backtest(market(0, 200), RandomAgent(4))
    said = drawdown_words(0.95)
    assert said.endswith(f"in {DRAWDOWN_HOLDS} of cases, not 95%.") and "95% is asked for" in drawdown_words(0.8)
    page = page_of(results)
    assert page.source.count(said) == 2  # under the figures, and where intervals are explained
    assert f"that of the drawdown holds in {DRAWDOWN_HOLDS} of cases" in page.head
    file = io.StringIO()
    monkeypatch.setattr(screen, "console", Console(file=file, width=80, highlight=False))
    screen.print_results(results)
    assert f"The drawdown's interval holds in {DRAWDOWN_HOLDS} of cases." in file.getvalue()


def test_its_number_is_the_one_that_the_coverage_command_measured() -> None:
    """The last column of the table in docs/uncertainty.md, which names the command."""
    text = (Path(__file__).parent.parent / "docs" / "uncertainty.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and line.count("|") == 8 and "%" in line]
    measured = [float(line.split("|")[-2].strip().rstrip("%")) for line in rows]
    low, high = (float(part) for part in DRAWDOWN_HOLDS.removesuffix("%").split(" to "))
    assert len(measured) == 10 and low - 1 <= min(measured) and max(measured) <= high + 1


# --- held out ---------------------------------------------------------------------------------------------------


def test_bars_are_called_held_out_where_that_is_known_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = market(0, 200)
    train, test = whole.split("2020-05-01")
    titles = {}
    for name, bars, trained_on in (
        ("held out", test, train), ("seen", test, whole), ("unknown", test, None), ("not split", whole, None),
    ):  # fmt: skip
        file = io.StringIO()
        monkeypatch.setattr(screen, "console", Console(file=file, width=80, highlight=False))
        screen.print_results(backtest(bars, RandomAgent(4), trained_on=trained_on))
        titles[name] = next(line.strip() for line in file.getvalue().splitlines() if ", after costs" in line)
    assert titles["held out"].startswith("Held-out bars 2020-05-01")
    assert titles["seen"].startswith("Not held out: ") and titles["not split"].startswith("Not held out: ")
    assert titles["unknown"].startswith("Tested bars 2020-05-01")
