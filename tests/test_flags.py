"""Red flags: each is raised where it should be, with the right number, and not just beyond its threshold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import MarketData
from batchenv.errors import ConfigError
from stateful import BackTesting, StatefulTradingEnv
from stateful.backtest import BacktestResults
from stateful.baselines import BuyAndHold, EqualWeight
from stateful.evaluation.flags import MIN_TRADES, SEVERITIES, Flag
from stateful.evaluation.sharpe import Trials
from tests.markets import market
from tests.stateful.policies import ConstantAgent, RandomAgent
from tests.stateful.worlds import FREE, hand_made

ALTERNATING = [[1.0], [0.0]]


class Script:
    """An agent that acts by a list, over and over."""

    def __init__(self, actions: Any) -> None:
        self.actions, self.at = np.asarray(actions, np.float32), 0

    def predict(self, observation: Any, deterministic: bool = False) -> tuple[Any, Any]:
        action = self.actions[self.at % len(self.actions)]
        self.at += 1
        return action, None


def play(
    bars: Any, actions: Any, *, baselines: Any = (), trained_on: Any = None, **config: Any
) -> tuple[BacktestResults, dict[str, Flag]]:
    """Play a script on closes ``[bars][symbols]``, or on a market; return the results and their flags by name."""
    if not isinstance(bars, MarketData):
        bars = hand_made(np.asarray(bars, float).reshape(len(bars), -1).tolist())
    rules = {"fill": "next_close", "cost_config": FREE, "action_config": {"mode": "weights"}, **config}
    env = StatefulTradingEnv(bars, rules, seed=0)
    agent = actions if hasattr(actions, "predict") else Script(actions)
    results = BackTesting(agent, env, {"vectorbt": False}, baselines=baselines, trained_on=trained_on).run()
    assert len({flag.name for flag in results.flags}) == len(results.flags)
    return results, {flag.name: flag for flag in results.flags}


def flat(n_bars: int, price: float = 100.0) -> list[float]:
    return [price] * n_bars


# --- is it a test at all --------------------------------------------------------------------------------------


def test_bars_seen_in_training_are_counted() -> None:
    bars = hand_made([[price] for price in flat(10)], dates=pd.date_range("2020-01-01", periods=10))
    _, flags = play(bars, ALTERNATING, trained_on=("2019-01-01", "2020-01-04"))
    assert flags["seen_in_training"].severity == "severe"
    assert "4 of its 10 bars (40.0%)" in flags["seen_in_training"].text
    assert "2019-01-01 to 2020-01-04" in flags["seen_in_training"].text
    _, flags = play(bars, ALTERNATING, trained_on=bars)
    assert "10 of its 10 bars" in flags["seen_in_training"].text
    for clear in (("2018-01-01", "2019-12-31"), ("2020-01-11", "2021-01-01"), ("2019-01-01", "2020-01-01T02:00+03:00")):
        _, flags = play(bars, ALTERNATING, trained_on=clear)
        assert not {"seen_in_training", "seen_in_training_unknown"} & set(flags)


def test_what_is_not_known_about_training_is_said() -> None:
    whole = hand_made([[price] for price in flat(10)])
    for bars in (whole, whole.split(whole.timestamps[4])[1]):
        _, flags = play(bars, ALTERNATING)
        assert flags["seen_in_training_unknown"].severity == "note"
        assert "scaled_by_tested_bars" not in flags  # there are no features


def test_scaling_that_was_fitted_on_tested_bars_is_severe_whatever_else_is_said() -> None:
    whole = hand_made([[price] for price in np.linspace(100.0, 120.0, 12).round(2)])
    before, test = whole.split(whole.timestamps[6])
    said = ("2000-01-01", "2000-12-31")
    for trained_on in (None, said):
        flag = play(whole, ALTERNATING, features=("return_1",), trained_on=trained_on)[1]["scaled_by_tested_bars"]
        assert flag.severity == "severe"
        assert "11 of the 11 bars tested" in flag.text  # the first bar has no return, and is not played
    for bars in (test, before):
        flags = play(bars, ALTERNATING, features=("return_1",), trained_on=said)[1]
        assert ("scaled_by_tested_bars" in flags) == (bars is before)
    assert "scaled_by_tested_bars" not in play(whole, ALTERNATING, features=("return_1",), feature_scaling="none")[1]


def test_bars_that_many_configurations_were_tried_on() -> None:
    bars = hand_made([[price] for price in flat(5)])
    env = StatefulTradingEnv(bars, {"fill": "next_close"}, seed=0)

    def flags(others: int) -> dict[str, str]:
        testing = BackTesting(Script([[0.0]]), env, {"vectorbt": False}, baselines=(), trials=Trials(others))
        return {flag.name: flag.text for flag in testing.run().flags}

    assert "5 configurations" in flags(4)["tried_before"]
    assert "a chance of 23%" in flags(4)["tried_before"]
    assert "tried_before" not in flags(3)


@pytest.mark.parametrize("wrong", ["2020-01-01", ("2020-01-01",), ("2021-01-01", "2020-01-01"), ("a", "b"), 3])
def test_a_training_period_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="trained_on: got"):
        play(flat(5), ALTERNATING, trained_on=wrong)


def test_fills_at_the_close_of_the_decision_are_flagged() -> None:
    assert play(flat(5), ALTERNATING, fill="close")[1]["optimistic_fills"].severity == "severe"
    assert "optimistic_fills" not in play(flat(5), ALTERNATING)[1]


def test_ruin_is_flagged_and_an_episode_that_ends_in_time_is_not() -> None:
    prices = [100.0, 100.0, 40.0, 40.0, 40.0]
    account = {"initial_cash": 1000.0, "bankruptcy_fraction": 0.5}
    results, flags = play(prices, [[1.0]], portfolio_config=account)
    assert "with 400.00 left of 1,000" in flags["ruined"].text
    assert str(results.metrics["last_date"]) in flags["ruined"].text
    assert "ruined" not in play(prices, [[1.0]], portfolio_config={**account, "bankruptcy_fraction": 0.3})[1]


# --- does it trade, and could anybody -------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [MIN_TRADES - 1, MIN_TRADES])
def test_few_trades(closed: int) -> None:
    results, flags = play(flat(2 * closed + 1), ALTERNATING)
    assert results.metrics["closed_trades"] == closed
    assert ("few_trades" in flags) == (closed < MIN_TRADES)
    if closed < MIN_TRADES:
        assert "29 closed (flagged below 30)" in flags["few_trades"].text
        assert "standard error of 9%" in flags["few_trades"].text  # sqrt(0.25 / 29) = 0.093


def test_no_trade_at_all() -> None:
    _, flags = play(flat(40), [[0.0]])
    assert flags["never_traded"].severity == "severe"
    assert not {"few_trades", "free_trading", "unfillable_unknown"} & set(flags)
    _, flags = play(flat(40), [[1.0]])
    assert "0 closed" in flags["few_trades"].text


def sized(volumes: list[float], shares: float, **config: Any) -> dict[str, Flag]:
    """Buy and sell ``shares`` in turn, at a price of 10 and with the given volumes."""
    n = len(volumes)
    bars = hand_made([[10.0]] * n, volume=[[v] for v in volumes])
    shares_mode = {"mode": "shares", "max_shares": shares}
    return play(bars, [[1.0], [-1.0]], action_config=shares_mode, portfolio_config={"initial_cash": 1e6}, **config)[1]


def test_orders_that_nobody_could_fill() -> None:
    assert "unfillable" not in sized([1000.0] * 9, 10.0)  # exactly 1% of the volume
    flag = sized([1000.0] * 9, 11.0)["unfillable"]
    assert flag.severity == "warning"
    assert "100.0% of the money traded went into orders beyond 1%" in flag.text
    assert "at most 1.1% of it (A, " in flag.text
    assert f"starts with {1e6 / 1.1:,.0f} stays within 1%" in flag.text
    flag = sized([1000.0] * 8 + [80.0], 10.0)["unfillable"]  # one fill of eight takes an eighth of its bar
    assert flag.severity == "severe"
    assert "12.5% of the money traded went into orders beyond 10%" in flag.text
    assert "at most 12.5% of it" in flag.text
    assert "starts with 80,000 stays" in flag.text


def test_a_bar_without_volume_fills_nobody() -> None:
    flag = sized([1000.0] * 8 + [0.0], 1.0)["unfillable"]
    assert flag.severity == "severe"
    assert "a fill in a bar without any volume" in flag.text
    assert "starts with" not in flag.text


def test_impact_that_is_paid_for_is_not_flagged_below_a_tenth() -> None:
    paid = {"cost_config": {**FREE, "impact_coefficient": 0.1}}
    assert "unfillable" not in sized([1000.0] * 9, 50.0, **paid)
    assert "unfillable" in sized([1000.0] * 9, 101.0, **paid)


def test_without_volumes_it_is_said_that_nothing_was_checked() -> None:
    assert play(flat(5), ALTERNATING)[1]["unfillable_unknown"].severity == "note"


def test_costs_that_decide() -> None:
    def bought(price: float) -> dict[str, Flag]:
        # 9,900.99 go into shares at 100 and 99.01 into the fee of 1%.
        return play(
            [100.0, 100.0, price],
            [[1.0], [1.0]],
            cost_config={"fee_rate": 0.01, "slippage_rate": 0.0},
            portfolio_config={"initial_cash": 10_000.0},
        )[1]

    assert "free_trading" in play(flat(3), [[1.0]])[1]
    flags = bought(101.5)
    assert "free_trading" not in flags
    assert "took 66.7% of the 148.51 made before them" in flags["costs_decide"].text
    assert "Costs 1.5 times as high" in flags["costs_decide"].text
    assert "Nothing was left" in bought(100.5)["costs_decide"].text
    assert "costs_decide" not in bought(103.0)
    assert "costs_decide" not in bought(99.0)  # lost before them: costs decide nothing


# --- where the profit comes from ------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "flagged"), [(90, 10, True), (89, 11, False), (150, -50, True), (-90, -10, False)])
def test_one_symbol(a: float, b: float, flagged: bool) -> None:
    prices = [[100.0, 100.0], [100.0, 100.0], [100.0 + a, 100.0 + b]]
    shares = {"action_config": {"mode": "shares", "max_shares": 1.0}}
    _, flags = play(prices, [[1.0, 1.0], [0.0, 0.0]], **shares)
    assert ("one_symbol" in flags) == flagged
    if flagged:
        assert f"of 100.00 in all, A brought {a:.2f} and everything else together {b:.2f}" in flags["one_symbol"].text


def test_one_symbol_alone_is_not_flagged_for_being_one() -> None:
    assert "one_symbol" not in play([100.0, 100.0, 150.0], [[1.0]])[1]


def grown(months: int, best: float, other: float) -> dict[str, Flag]:
    """Hold one symbol that grows by ``other`` in every month, and by ``best`` in 2020-05; a bar on each last day."""
    dates = pd.date_range("2019-12-31", periods=months + 1, freq="ME")
    growth = [best if (date.year, date.month) == (2020, 5) else other for date in dates[2:]]
    prices = np.cumprod([100.0, 1.0, *(1 + g for g in growth)])
    return play(hand_made([[p] for p in prices], dates=dates), [[1.0]])[1]


def test_one_month() -> None:
    flag = grown(13, 0.5, 0.0)["one_month"]
    assert flag.text.startswith("The return hangs on one month: ")  # screens show the words up to the colon alone
    assert "without its best month, 2020-05 (+50.0%), the total of +50.0% would be +0.0%" in flag.text
    assert "would be -9.6%" in grown(13, 0.5, -0.01 + 0.0009)["one_month"].text  # 0.9909 ** 11 = 0.9043
    assert "one_month" not in grown(13, 0.5, 0.01)
    assert "one_month" not in grown(13, -0.5, 0.01)  # no profit, nothing to explain
    assert "needs 12, has 8" in grown(7, 0.5, 0.0)["one_month_unknown"].text


def test_a_handful_of_bars() -> None:
    jumps = np.where(np.isin(np.arange(260), [50, 51, 90, 130, 200]), 1.02, 1.0)
    _, flags = play(np.cumprod([100.0, *jumps]), [[1.0]])
    assert flags["few_bars"].text.startswith("The return hangs on 5 bars: ")
    assert "without its best 5 bars (+10.4%), the total of +10.4% would be" in flags["few_bars"].text  # 1.02 ** 5
    jumps[[10, 20]] = 1.02
    _, flags = play(np.cumprod([100.0, *jumps]), [[1.0]])
    assert "few_bars" not in flags  # five of seven equal jumps
    _, flags = play(np.cumprod([100.0, *jumps[:249]]), [[1.0]])
    assert "needs 250, has 249" in flags["few_bars_unknown"].text


# --- is there a policy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("others", "flagged"), [(0, True), (2, True), (3, False)])
def test_a_constant_policy(others: int, flagged: bool) -> None:
    actions = np.full((40, 2), [0.5, -0.2]) + np.linspace(-0.009, 0.009, 40)[:, None]  # within 1% of the range
    actions[5 : 5 + others, 1] = 0.4
    _, flags = play([[100.0, 50.0]] * 41, actions)
    assert ("constant_policy" in flags) == flagged
    if flagged:
        assert f"in {100 - others * 2.5:.1f}% of the bars" in flags["constant_policy"].text


def test_constancy_is_not_judged_on_a_few_bars() -> None:
    assert "constant_policy" not in play(flat(30), [[0.5]])[1]
    assert "constant_policy" in play(flat(31), [[0.5]])[1]


def test_an_agent_that_follows_a_baseline() -> None:
    bars, rules = market(5, 200), (BuyAndHold(), EqualWeight(1))
    flag = play(bars, ConstantAgent([0.125] * 4), baselines=rules)[1]["follows_baseline"]
    assert "does what equal weight does" in flag.text
    assert "correlation 1.000" in flag.text
    assert "beta 0.50" in flag.text  # half of what equal weight holds
    assert "follows_baseline" not in play(bars, RandomAgent(4), baselines=rules)[1]
    assert "follows_baseline" not in play(bars, ConstantAgent([0.125] * 4))[1]


# --- all of them ----------------------------------------------------------------------------------------------


def test_flags_stand_in_the_order_of_severity_and_in_the_json(tmp_path: Path) -> None:
    _, test = market(5, 90).split(market(5, 90).timestamps[30])
    results, flags = play(test, ConstantAgent([1.0] * 4), fill="close")
    ranks = [SEVERITIES.index(flag.severity) for flag in results.flags]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 3
    assert str(flags["optimistic_fills"]) == flags["optimistic_fills"].text
    results.write(tmp_path / "report")
    written = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert [flag["name"] for flag in written["flags"]] == [flag.name for flag in results.flags]
    assert set(written["flags"][0]) == {"name", "severity", "text"}
    assert written["attribution"]["change"] == pytest.approx(results.equity.iloc[-1] - results.equity.iloc[0])


def test_a_sound_backtest_has_no_flag() -> None:
    """A policy that reacts, trades small and often, pays, gains slowly and says what it was trained on."""
    n, rng = 800, np.random.default_rng(4)
    dates = pd.bdate_range("2020-01-01", periods=n)
    prices = 100 * np.exp(np.cumsum(rng.normal(0.0008, 0.006, (n, 4)), axis=0))
    bars = hand_made(prices.tolist(), dates=dates, volume=np.full((n, 4), 1e7))
    actions = np.repeat(np.where(rng.random((n // 10, 4)) < 0.5, 0.25, 0.0), 10, axis=0)  # a new mind every 10 bars
    rules = {"baselines": (BuyAndHold(),), "cost_config": {"fee_rate": 0.0001, "slippage_rate": 0.0001}}
    results, flags = play(bars, actions, trained_on=("2010-01-01", "2019-12-31"), **rules)
    assert results.metrics["total_return"] > 0
    assert flags == {}


# --- the command line -----------------------------------------------------------------------------------------


def test_a_model_of_a_run_brings_the_run_s_training_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that tests a run's model on other bars than the run held out is found out by ``run.json``."""
    from batchenv.config import RunConfig
    from batchenv.features import FeatureScaler
    from batchenv.runs import RunFolder
    from stateful import command

    def part(first: str, last: str) -> dict[str, Any]:
        return {"first": first, "last": last, "bars": 100, "fingerprint": "0"}

    data = {"train": part("2000-03-01", "2009-12-31"), "validation": part("2010-01-04", "2010-12-31")}
    data["test"] = part("2011-01-03", "2011-12-30")
    config = RunConfig.model_validate({"data": {"source": "bundled", "train_end": "2011-01-01"}})
    run = RunFolder.create(tmp_path / "run", config, FeatureScaler.identity(()), {"symbols": [], "data": data})
    monkeypatch.setattr(command.Agent, "load", lambda *_: ConstantAgent([0.1] * 5))

    def flags_of(model: Path, train_end: str) -> set[str]:
        path = tmp_path / "test.json"
        data = {"source": "bundled", "train_end": train_end, "end": "2011-02-01"}
        path.write_text(json.dumps({"data": data, "backtest": {"model": str(model), "vectorbt": False}}))
        plan = command.prepare_config(path)
        plan.testing.baselines = ()
        assert plan.facts.get("Trained on", "").startswith("2000-03-01 to 2009-12-31") == (run.path in model.parents)
        return {flag.name for flag in plan.testing.run().flags}

    for model in (run.model, run.checkpoints / "model_10.zip"):
        assert "seen_in_training" in flags_of(model, "2010-12-01")
        assert not {"seen_in_training", "seen_in_training_unknown"} & flags_of(model, "2011-01-01")
    assert "seen_in_training_unknown" in flags_of(tmp_path / "elsewhere" / "model.zip", "2010-12-01")
