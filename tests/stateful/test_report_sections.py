"""Each section of the report shows what the results hold, or says why it cannot."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from batchenv.market import MarketData
from stateful.attribution_figures import MAX_SYMBOLS, kinds_booked, symbol_parts
from stateful.evaluation.attribution import ACCOUNT
from stateful.figures import MAX_POINTS, ends_of_buckets
from stateful.price_figures import MAX_MARKS
from stateful.report_evidence import Stress
from stateful.verdict import money, percent
from tests.markets import frame, market, ragged_market
from tests.stateful.policies import ConstantAgent, RandomAgent
from tests.stateful.reports import backtest, page_of
from tests.test_stress import made_up

WEIGHTS = {"action_config": {"mode": "weights"}}
BARE = {"baselines": (), "uncertainty": {"resamples": 0}}


@pytest.fixture(scope="module")
def results():
    return backtest(ragged_market(0, n_bars=400), RandomAgent(4))


@pytest.fixture(scope="module")
def page(results):
    return page_of(results)


@pytest.fixture(scope="module")
def shorting():
    """An account with short positions, interest, dividends in no bar and costs."""
    config = {
        "margin_config": {"allow_short": True, "leverage": 2.0},
        "carry_config": {"cash_rate": 0.03, "margin_rate": 0.05, "borrow_rate": 0.02},
        "action_config": {"mode": "weights", "max_weight": 1.0},
    }
    return backtest(ragged_market(1, n_bars=150), RandomAgent(4), config)


# --- accounts -----------------------------------------------------------------------------------------------


def test_the_comparison_shows_every_account_and_the_agents_intervals(results, page):
    heads, agent, *rest = page.tables["Main figures of all accounts"]
    assert heads[:5] == ["Account", "Return", "Growth a year", "Sharpe ratio", "Largest drawdown"]
    assert [row[0].lower() for row in rest] == [label.lower() for label in results.labels.values()]
    interval = results.uncertainty.agent["sharpe"]
    assert agent[3] == f"{results.metrics['sharpe']:.2f} {interval.low:.2f} to {interval.high:.2f}"
    drawdown = results.uncertainty.agent["max_drawdown"]
    assert agent[4].endswith(f"{percent(drawdown.low)} to {percent(drawdown.high)}")
    for row, figures in zip(rest, results.metrics["baselines"].values(), strict=True):
        assert row[1] == percent(figures["total_return"], digits=2)
        assert row[3] == ("n/a" if figures["sharpe"] is None else f"{figures['sharpe']:.2f}")
        assert row[6] == money(figures["costs"])


def test_the_agent_less_each_baseline(results, page):
    _, *rows = page.tables["The agent less each baseline"]
    for row, (name, gap) in zip(rows, results.uncertainty.differences.items(), strict=True):
        low, high = 100 * gap.cagr.low, 100 * gap.cagr.high
        assert row[0].lower() == results.labels[name].lower()
        assert row[1] == f"{100 * gap.cagr.estimate:+.1f} {low:+.1f} to {high:+.1f}"
        assert row[3] == percent(gap.probability_better, digits=0)
        assert row[4] == f"{gap.p_value:.3f}"
        alone = "only by itself" if low > 0 or high < 0 else "not distinguishable"
        assert row[5] == ("distinguishable" if gap.distinguishable_together else alone)
    assert any("The true Sharpe ratio is above 0 with a probability of" in text for text in page.said("p"))


def test_the_equity_chart_has_the_agent_the_main_baseline_and_one_name_for_the_rest(results, page):
    traces = page.charts["equity"]["data"]
    named = {trace["name"]: trace for trace in traces if trace.get("showlegend", True)}
    assert set(named) == {"Agent", "Buy and hold", "95% of resampled histories", "7 other baselines"}
    assert named["Agent"]["y"] == pytest.approx(results.equity.to_numpy(), rel=1e-6)
    times = results.history.index.as_unit("ms").asi8
    assert named["Agent"]["x"] == times.tolist()
    quiet = [trace["name"] for trace in traces if trace.get("legendgroup") == "others"]
    assert len(quiet) == 8 and "Momentum" in quiet
    interval = results.uncertainty.agent["total_return"]
    band = [trace for trace in traces if trace.get("legendgroup") == "band"]
    ends = [trace["y"][-1] / results.equity.iloc[0] - 1 for trace in band]
    assert ends == pytest.approx([interval.low, interval.high], rel=1e-5)
    costs = page.charts["costs"]["data"]
    assert {t["visible"] for t in costs if t.get("legendgroup") == "others"} == {"legendonly"}


@pytest.mark.parametrize(("growth", "scale"), [(1.002, "linear"), (1.02, "log")])
def test_an_account_that_grows_tenfold_is_drawn_on_a_logarithmic_scale(growth, scale):
    """On a linear one the first years, and every baseline, would be one flat line."""
    dates = pd.bdate_range("2020-01-01", periods=200)
    bars = MarketData.from_frame(pd.DataFrame({"A": 100.0 * growth ** np.arange(200)}, index=dates))
    page = page_of(backtest(bars, ConstantAgent([1.0]), {**WEIGHTS, "fill": "close"}))
    assert page.charts["equity"]["layout"]["yaxis"]["type"] == scale
    pressed = "true" if scale == "log" else "false"
    assert f"data-log=equity-chart aria-pressed={pressed}>" in page.body


def test_the_rolling_sharpe_ratio_ends_in_that_of_the_last_half_year(results, page):
    agent = next(trace for trace in page.charts["rolling_sharpe"]["data"] if trace["name"] == "Agent")
    returns = np.diff(results.equity.to_numpy()[-127:]) / results.equity.to_numpy()[-127:-1]
    assert agent["y"][-1] == pytest.approx(returns.mean() / returns.std(ddof=1) * np.sqrt(252), rel=1e-5)
    assert len(agent["y"]) == len(results.equity) - 1 - 125


def test_long_lines_are_thinned_and_keep_their_ends_and_their_deepest_fall():
    n = 3 * MAX_POINTS + 1
    rows = ends_of_buckets(n)
    assert (rows[0], rows[-1]) == (0, n - 1) and len(rows) <= MAX_POINTS + 2
    assert ends_of_buckets(MAX_POINTS).tolist() == list(range(MAX_POINTS))
    assert ends_of_buckets(1).tolist() == [0]
    found = backtest(market(0, n_bars=n), ConstantAgent([0.25] * 4), WEIGHTS, **BARE)
    drawn = page_of(found)
    below = drawn.charts["drawdown"]["data"][0]["y"]
    assert len(found.history) > 2 * MAX_POINTS >= 2 * len(below) - 2
    assert min(below) == pytest.approx(found.metrics["max_drawdown"], rel=1e-6)
    assert "Every 3rd bar is drawn." in drawn.body


def test_only_the_largest_fills_are_marked():
    found = backtest(market(0, n_bars=900), RandomAgent(4, seed=3), **BARE)
    page = page_of(found)
    symbol = found.fills.groupby("symbol")["notional"].sum().idxmax()
    fills = found.fills[found.fills["symbol"] == symbol]
    marks = [trace for trace in page.charts["price-0"]["data"] if trace["mode"] == "markers"]
    assert len(fills) > MAX_MARKS == sum(len(trace["y"]) for trace in marks)
    prices = sorted(price for trace in marks for price in trace["y"])
    assert prices == pytest.approx(sorted(fills.nlargest(MAX_MARKS, "notional")["price"]), rel=1e-6)
    assert f"the {MAX_MARKS} largest fills are marked" in page.body


# --- where it came from -------------------------------------------------------------------------------------


def test_contributions_of_symbols_and_kinds_are_those_of_the_attribution(shorting):
    page, found = page_of(shorting), shorting.attribution
    parts = symbol_parts(found)
    assert parts["Total"].sum() == pytest.approx(found.change, abs=1e-6)
    assert parts.drop(columns="Total").sum(axis=1).to_numpy() == pytest.approx(parts["Total"].to_numpy(), abs=1e-8)
    sides = found.by("symbol", "side")
    assert parts.loc["A", "Prices, short"] == sides.loc[("A", "short"), "price"]
    heads, *rows = page.tables["Contribution of each symbol"]
    assert heads[-1] == "Total" and "Prices, short" in heads
    assert [row[0] for row in rows] == [*parts.drop(ACCOUNT).index, "Cash", "All"]
    assert rows[-1][-1] == money(found.change)
    traces = {trace["name"]: trace for trace in page.charts["by_symbol"]["data"]}
    assert sum(sum(trace["x"]) for trace in traces.values()) == pytest.approx(found.change, rel=1e-9)
    steps = page.charts["by_kind"]["data"][0]
    assert steps["x"][:-1] == kinds_booked(found).tolist() and steps["measure"][-1] == "total"
    assert sum(steps["x"]) == pytest.approx(found.change, rel=1e-9)
    assert steps["y"][-1] == f"Change of equity  <b>{found.change:+,.0f}</b>"
    years = page.tables["Contribution of each year"]
    assert years[-1][-1] == money(found.change) and years[1][0] == str(shorting.equity.index[0].year)
    assert any(text.startswith(f"Equity changed by {money(found.change)}.") for text in page.said("p"))


def test_small_contributions_are_added_up():
    names = tuple(f"S{i:02d}" for i in range(MAX_SYMBOLS + 5))
    bars = MarketData.from_frame(frame(n_bars=30, symbols=names))
    found = backtest(bars, RandomAgent(len(names)), features=(), **BARE)
    traces = page_of(found).charts["by_symbol"]["data"]
    assert len(traces[0]["y"]) == MAX_SYMBOLS and "6 others" in traces[0]["y"][-1]
    assert sum(sum(trace["x"]) for trace in traces) == pytest.approx(found.attribution.change, rel=1e-9)


# --- what is not there, or not to be believed ----------------------------------------------------------------


def test_a_period_seen_in_training_is_flagged_before_anything_else():
    bars = market(0, n_bars=200)
    found = backtest(bars, RandomAgent(4), trained_on=bars)
    page, n = page_of(found), len(found.history)
    alarm = page.head.index("class=alarm")
    assert alarm < page.head.index("<h1")
    assert f"<strong>This is not a test:</strong> {n} of its {n} bars (100.0%) lie in the period" in page.head
    _, later = bars.split(bars.timestamps[100])
    small = {"portfolio_config": {"initial_cash": 1000.0}}  # orders of its size are filled
    held_out = page_of(backtest(later, RandomAgent(4), small, trained_on=("2010-01-01", "2015-01-01")))
    assert "class=alarm" not in held_out.head and "This is not a test" not in held_out.body


def test_warnings_are_on_top_and_what_was_not_checked_is_below():
    _, later = market(0, n_bars=200).split(market(0, n_bars=200).timestamps[80])
    found = backtest(later, RandomAgent(4), {"cost_config": {"fee_rate": 0.0, "slippage_rate": 0.0}})
    page = page_of(found)
    assert {flag.severity for flag in found.flags} == {"warning", "note"}
    for flag in found.flags:
        assert page.said().count(flag.text) == 1
        assert (flag.text in page_head_texts(page)) == (flag.severity == "warning")


@pytest.mark.parametrize("mode", ["trade", "weights"])
def test_what_limits_the_agent_and_not_the_baselines_is_said(mode):
    rules = {"action_config": {"mode": mode}, "portfolio_config": {"trade_limit_percent": 0.25}}
    said = [text for text in page_of(backtest(market(0), RandomAgent(4), rules)).said("li") if "at a time" in text]
    assert said == ([] if mode == "weights" else [
        "The agent trades at most 25.0% of its equity in a symbol at a time (trade_limit_percent); the baselines take "
        "the positions of their rule at once."
    ])  # fmt: skip


def test_a_buy_and_hold_that_could_not_buy_is_said_to_be_no_measure():
    said = "No measure of the agent:"
    large = {"execution_config": {"participation_limit": 0.05}, "portfolio_config": {"initial_cash": 1e12}}
    found = backtest(market(0), RandomAgent(4), large)
    (told,) = [text for text in page_head_texts(page_of(found)) if text.startswith(said)]
    most = percent(float(found.baselines["buy_and_hold"]["weight[A]"].max()))
    assert re.search(rf"buy and hold could not buy A \(ordered [23]\d\.\d% of the account, held at most {most}\)", told)
    small = {"execution_config": {"participation_limit": 0.05}, "portfolio_config": {"initial_cash": 100.0}}
    for rules in (small, {"portfolio_config": {"initial_cash": 1e12}}):
        assert said not in page_of(backtest(market(0), RandomAgent(4), rules)).source


def page_head_texts(page):
    texts = page.said()
    return texts[: texts.index("Equity")]


def test_without_any_flag_the_page_says_so(results):
    calm = dataclasses.replace(results)
    calm.__dict__["flags"] = ()
    assert "None of the checks for red flags found anything." in page_of(calm).head


@pytest.mark.parametrize("config", [{}, {"fill": "close", "cost_config": {"fee_rate": 0.0, "slippage_rate": 0.0}}])
def test_nothing_is_said_twice(config):
    bars = market(0)
    page = page_of(backtest(bars, RandomAgent(4), config, trained_on=bars))
    counts = Counter(text for text in page.said("p", "li", "figcaption", "h1", "h2") if len(text) > 40)
    assert [text for text, n in counts.items() if n > 1] == []
    if config:
        assert page.head.count("Optimistic fills") == 1 and page.head.count("Trading was free") == 1


def test_a_ruined_account():
    config = {"portfolio_config": {"bankruptcy_fraction": 0.97}, **WEIGHTS}
    found = backtest(market(0, n_bars=200), ConstantAgent([1, 0, 0, 0]), config)
    page = page_of(found)
    bars, all_bars = len(found.history) - 1, max(map(len, found.baselines.values())) - 1
    assert 0 < bars < all_bars
    assert "The account was ruined on" in page.head
    reason = f"the account ended early, after {bars} of {all_bars} bars"
    assert f"Intervals of the agent's figures: {reason}." in page.said("p")
    assert any(f"No band is drawn: {reason}." in text for text in page.said("figcaption"))
    assert page.source.count("n/a") > 0


def test_an_account_that_lost_everything_and_more():
    bars = market(0, 40)
    crash = bars.close.copy()
    crash[20:] *= 0.2
    bars = dataclasses.replace(bars, close=crash, open=crash, high=crash, low=crash)
    config = {"margin_config": {"leverage": 4.0}, "action_config": {"mode": "weights", "max_weight": 4.0}}
    found = backtest(bars, ConstantAgent([1.0, 1.0, 1.0, 1.0]), config)
    assert found.metrics["final_equity"] < 0
    page = page_of(found)
    assert "The account was ruined on" in page.head
    assert page.tables["Contribution of each year"][-1][-1] == money(found.attribution.change)


def test_an_agent_that_never_traded_has_nothing_to_attribute():
    found = backtest(market(0), ConstantAgent(np.zeros(4)))
    page = page_of(found)
    assert "<strong>The agent never traded:</strong>" in page.head
    assert "There is nothing to say: nothing was traded, and cash earned nothing." in page.said("p")
    assert "by_kind" not in page.charts and "by_kind" not in page.boxes


def test_statistics_of_a_year_need_more_than_a_few_bars():
    few, enough = (backtest(market(0, n_bars=n), RandomAgent(4)) for n in (40, 100))
    assert few.metrics["sharpe"] is not None
    page, bars = page_of(few), len(few.history) - 1
    _, agent, held, *_ = page.tables["Main figures of all accounts"]
    assert agent[2:4] == held[2:4] == ["n/a", "n/a"] and agent[1] == percent(few.metrics["total_return"], digits=2)
    assert f"n/a: Sharpe ratio: not enough data (needs 60 bars, has {bars})." in page.said("li")
    assert page.head.count(f"not enough data (needs 60 bars, has {bars})</small>") == 4
    assert f"{enough.metrics['sharpe']:.2f} " in page_of(enough).tables["Main figures of all accounts"][1][3]


def test_one_symbol_and_no_baselines():
    found = backtest(market(0).select(["A"]), ConstantAgent([1.0]), features=(), baselines=())
    page = page_of(found)
    assert "The agent was compared with nothing." in page.said("h1")
    assert page.tables["Main figures of all accounts"][1][0] == "Agent"
    assert "data-group" not in page.body


def test_uncertainty_that_was_switched_off(results):
    found = backtest(market(0), RandomAgent(4), uncertainty={"resamples": 0})
    page = page_of(found)
    assert any(text.startswith("Uncertainty was switched off") for text in page.said("p"))
    assert "The agent less each baseline" not in page.tables


# --- how far it carries -------------------------------------------------------------------------------------


def test_without_a_stress_test_the_page_says_how_to_make_one(page):
    assert any("batchenv stress --run DIR plays them all" in text for text in page.said("p"))


def test_a_stress_test_is_shown_and_linked(results, tmp_path):
    stress = made_up(lambda start, fee, slip, cash: 0.08 + 0.06 * (start - 1) - 0.02 * fee - 0.01 * slip)
    stress.write(tmp_path / "stress", title="x")
    path = results.write(tmp_path / "backtest", stress=tmp_path / "stress")
    page = type(page_of(results))(path.read_text(encoding="utf-8"))
    assert set(stress.sentences) <= set(page.said("li"))
    assert {"stress-return", "stress-wins"} <= set(page.boxes)
    shown = np.array(page.charts["stress-return"]["data"][0]["z"]).ravel()
    assert shown == pytest.approx(stress.surface().to_numpy().ravel())
    link = next(link for link in page.links if link.endswith("stress.html"))
    assert (path.parent / link).resolve() == (tmp_path / "stress" / "stress.html").resolve()


def test_a_broken_stress_test_does_not_break_the_report(results, tmp_path):
    (tmp_path / "stress.json").write_text("{")
    found = page_of(results, stress=Stress.find(tmp_path, tmp_path))
    assert any(text.startswith("The stress test cannot be read: ") for text in found.said("p"))
    assert Stress.find(tmp_path / "nowhere", tmp_path).results is None
