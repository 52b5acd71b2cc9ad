"""A baseline that could not do what it means to do is named, and left out of every count."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from batchenv import MarketData
from batchenv.cli import screen
from batchenv.config import RunConfig
from stateful import BackTesting, StatefulTradingEnv
from stateful.backtest import BacktestResults
from stateful.baselines import BuyAndHold, EqualWeight, InverseVolatility, Momentum
from stateful.evaluation.compare import compare_runs
from stateful.evaluation.compare_words import words_of
from stateful.evaluation.folds import Fold
from stateful.evaluation.uncertainty import Difference, hold_together
from stateful.evaluation.walk_forward_page import build_page
from stateful.evaluation.walk_forward_results import FoldResult, WalkForwardResults
from stateful.verdict import headlines, no_measure
from tests.markets import frame, market, ragged_market
from tests.stateful.policies import ConstantAgent, RandomAgent
from tests.stateful.reports import page_of
from tests.stateful.worlds import FREE, hand_made
from tests.test_baseline_calendars import sessions, stock_and_coin
from tests.test_compare import run_folder
from tests.test_uncertainty import told

QUICK = {"vectorbt": False, "uncertainty": {"resamples": 200}}


def backtest(
    bars: MarketData, agent: Any = None, baselines: Any = None, settings: Any = (), **config: Any
) -> BacktestResults:
    rules = {"fill": "next_close", "cost_config": FREE, "action_config": {"mode": "weights"}, **config}
    env = StatefulTradingEnv(bars, rules, [], seed=0)
    agent = agent or ConstantAgent(np.eye(bars.n_symbols)[0] * 0.5)
    return BackTesting(agent, env, {**QUICK, **dict(settings)}, baselines=baselines).run()


def kinds(results: BacktestResults) -> dict[str, str]:
    return {name: why["kind"] for name, why in no_measure(results.metrics).items()}


def rising(n: int = 90, symbols: int = 2, **fields: Any) -> MarketData:
    """The first symbol gains 0.1% a bar, the others 0.3%: an agent in the first loses to who holds the others."""
    rates = np.array([1.001, *[1.003] * (symbols - 1)])
    closes = 100.0 * rates ** np.arange(n)[:, None]
    return hand_made(closes.tolist(), dates=pd.bdate_range("2020-01-01", periods=n), **fields)


# --- what could not be bought -------------------------------------------------------------------------------


def test_lots_larger_than_the_money_leave_nothing_that_was_beaten() -> None:
    results = backtest(rising(), execution_config={"lot_size": 2000.0}, agent=ConstantAgent([0.0, 0.0]))
    traders = set(results.baselines) - {"cash", "random"}
    assert {name: kinds(results)[name] for name in traders} == dict.fromkeys(traders, "never_traded")
    summary, plain = results.headlines
    assert "all cash" not in {results.labels[name] for name in no_measure(results.metrics)}
    assert summary.headline.startswith("After costs the agent did not beat the one baseline that could be compared")
    assert plain.outcome == "not_compared"
    assert plain.headline == (
        "The agent is not compared with buy and hold, which never traded: none of its orders, at 1 bars, was filled."
    )
    flag = next(flag for flag in results.flags if flag.name == "no_measure")
    assert (
        flag.severity == "severe"
        and "buy and hold never traded" in flag.text
        and "left out of every count" in flag.text
    )


def test_one_symbol_that_is_too_dear_makes_every_rule_that_wants_it_no_measure() -> None:
    """B gains most, and one lot of it costs more than half of the money: without B everybody looks poor."""
    lots = {"execution_config": {"lot_size": {"A": 1.0, "B": 600.0}}}
    rich = backtest(rising(), ConstantAgent([0.9, 0.0]), **lots, portfolio_config={"initial_cash": 1e8})
    poor = backtest(rising(), ConstantAgent([0.9, 0.0]), **lots)
    assert kinds(rich) == {}
    assert rich.headlines[0].headline.startswith("After costs the agent beat 2 of 8 baselines")  # cash, and at random
    assert {"buy_and_hold", "equal_weight"} <= set(kinds(poor))
    assert kinds(poor)["buy_and_hold"] == "could_not_buy"
    assert "B (ordered 50.0% of the account, held at most 0.0%)" in no_measure(poor.metrics)["buy_and_hold"]["reason"]
    assert poor.metrics["total_return"] > poor.metrics["baselines"]["buy_and_hold"]["total_return"] + 0.01
    for verdict in poor.verdicts:
        assert (verdict.outcome == "not_compared") == (verdict.baseline in kinds(poor))
        assert verdict.outcome != "not_compared" or verdict.distinguishable is None
    assert "baselines that could be compared" in poor.headlines[0].headline
    assert "buy and hold (could not buy all of its symbols)" in poor.headlines[0].detail
    assert poor.headlines[1].headline.startswith("The agent is not compared with buy and hold, which could not buy B")


def test_what_is_left_out_takes_no_part_in_holms_procedure() -> None:
    poor = backtest(rising(), ConstantAgent([0.9, 0.0]), execution_config={"lot_size": {"A": 1.0, "B": 600.0}})
    found = poor.uncertainty.differences
    assert {name for name, gap in found.items() if gap.distinguishable_together is None} == set(kinds(poor))
    gap = Difference(*[None] * 3, probability_better=0.99, p_value=0.03, distinguishable=True)  # type: ignore[misc]
    gaps = dict.fromkeys("abc", gap)
    assert [g.distinguishable_together for g in hold_together(gaps, 0.95).values()] == [False] * 3
    alone = hold_together(gaps, 0.95, left_out=("a", "c"))
    assert [g.distinguishable_together for g in alone.values()] == [None, True, None]


@pytest.mark.parametrize("limit", ["participation", "no volume", "no bars"])
def test_volumes_and_missing_bars_count_like_lots(limit: str) -> None:
    n, volume = 90, np.full((90, 2), 1e9)
    closes = np.full((n, 2), 100.0)
    config: dict[str, Any] = {}
    if limit == "participation":
        volume[:, 1], config = 1.0, {"execution_config": {"participation_limit": 0.1}}
    elif limit == "no volume":
        volume[:, 1], config = 0.0, {"cost_config": {**FREE, "impact_coefficient": 0.1}}
    else:
        closes[20:, 1] = np.nan
    whole = hand_made(
        closes.tolist(), dates=pd.bdate_range("2020-01-01", periods=n), volume=np.where(np.isnan(closes), 0, volume)
    )
    bars = whole.split(whole.timestamps[22])[1]
    results = backtest(bars, baselines=(BuyAndHold(), EqualWeight()), **config)
    assert kinds(results)["buy_and_hold"] == "could_not_buy", limit
    fair = backtest(bars, baselines=(BuyAndHold(), EqualWeight())) if limit != "no bars" else None
    assert fair is None or kinds(fair) == {}


def test_a_purchase_that_a_limit_makes_slow_is_no_reason() -> None:
    """A fifth of what is wanted at a bar: after five bars it is held."""
    volume = np.column_stack([np.full(90, 1e9), np.full(90, 1000.0)])
    results = backtest(rising(volume=volume), execution_config={"participation_limit": 0.1}, baselines=(BuyAndHold(),))
    assert kinds(results) == {}


def test_an_order_at_the_end_had_no_time() -> None:
    class LastFriday:
        name, label = "late", "an order on the last Friday"

        def orders(self, env: Any) -> Any:
            if env.bar == env.start:
                return np.array([0.0, 100.0])
            friday = env.market.timestamps[env.bar] == np.datetime64("2023-06-09")
            return np.array([100.0 * friday, 0.0])

    bars = stock_and_coin().between("2023-05-06", "2023-06-12")  # to Sunday; the stock has no bar after Friday
    results = backtest(bars, ConstantAgent([0.0, 0.5]), baselines=(LastFriday(),))
    assert results.baselines["late"]["shares[STOCK]"].max() == 0
    assert kinds(results) == {}
    longer = stock_and_coin(holidays=["2023-06-12", "2023-06-13", "2023-06-14"]).between("2023-05-06", "2023-06-15")
    assert kinds(backtest(longer, ConstantAgent([0.0, 0.5]), baselines=(LastFriday(),))) == {}  # it took the order back


def test_an_order_with_a_bar_to_fill_at_has_time_only_if_something_is_left_of_the_test() -> None:
    class Once:
        name, label = "once", "one order that is too small for a lot"

        def __init__(self, bar: int) -> None:
            self.bar = bar

        def orders(self, env: Any) -> Any:
            if env.bar == env.start:
                return np.array([100.0, 0.0])
            return np.array([0.0, 300.0 * (env.bar == self.bar)])

    lots = {"execution_config": {"lot_size": {"A": 0.0, "B": 400.0}}}
    assert kinds(backtest(rising(90), baselines=(Once(87),), **lots)) == {}
    assert kinds(backtest(rising(90), baselines=(Once(80),), **lots)) == {"once": "could_not_buy"}


def test_a_short_test_in_which_a_symbol_never_opens_is_none() -> None:
    bars = stock_and_coin().between("2023-06-10", "2023-06-12")  # Saturday and Sunday
    assert kinds(backtest(bars, ConstantAgent([0.0, 0.5]), baselines=(BuyAndHold(),))) == {
        "buy_and_hold": "could_not_buy"
    }


def test_what_is_worth_less_than_one_percent_does_not_matter() -> None:
    many = rising(symbols=5)
    closes = np.repeat(many.close, [1, 1, 1, 1, 1], axis=1)
    wide = MarketData(tuple(f"S{i}" for i in range(120)), many.timestamps, np.tile(closes, (1, 24)), open=None)
    lots = {symbol: 100.0 if symbol == "S7" else 0.0 for symbol in wide.symbols}
    assert kinds(backtest(wide, baselines=(BuyAndHold(),), execution_config={"lot_size": lots})) == {}


# --- a late start -------------------------------------------------------------------------------------------


class Later:
    """Holds the first symbol from a bar on."""

    name, label = "later", "a rule that begins later"

    def __init__(self, bar: int, **more: Any) -> None:
        self.bar = bar
        vars(self).update(more)

    def orders(self, env: Any) -> Any:
        return np.eye(env.market.n_symbols)[0] * (10.0 if env.bar == self.bar else 0.0)


def test_a_start_later_than_the_agents_is_no_comparison() -> None:
    bars = rising()
    results = backtest(bars, baselines=(Later(3), BuyAndHold()))
    assert kinds(results) == {"later": "started_later"}
    assert "its first order was filled on 2020-01-07, the agent's on 2020-01-02" in results.flags[0].text
    assert results.flags[0].severity == "severe"
    assert kinds(backtest(bars, baselines=(Later(3, waits=True), BuyAndHold()))) == {}  # it means to
    assert kinds(backtest(bars, baselines=(Later(0), BuyAndHold()))) == {}


def test_an_early_order_that_could_have_filled_is_no_early_start() -> None:
    class Small:
        name, label = "small", "orders too small for a lot at first"

        def orders(self, env: Any) -> Any:
            return np.array([{0: 0.4, 3: 10.0}.get(env.bar, 0.0), 0.0])

    results = backtest(rising(), baselines=(Small(),), execution_config={"lot_size": 1.0})
    assert kinds(results) == {"small": "started_later"}


def test_a_market_that_is_closed_is_no_late_start() -> None:
    """From Saturday on the agent holds the coin; momentum waits for the stock, which nobody can have before Monday."""
    bars = stock_and_coin(100 * 1.002 ** np.arange(1095), np.full(1095, 100.0)).split("2023-06-03")[1]
    results = backtest(bars, ConstantAgent([0.0, 0.5]), baselines=(BuyAndHold(), Momentum()))
    first = {
        name: history.index[(history["turnover"] > 0).to_numpy()][0] for name, history in results.baselines.items()
    }
    assert first["momentum"] == pd.Timestamp("2023-06-05") > first["buy_and_hold"]
    assert kinds(results) == {}


# --- lost to costs ------------------------------------------------------------------------------------------


def test_a_baseline_that_traded_its_money_away_is_not_counted_as_beaten() -> None:
    """In noise OLMAR turns all of its money over at every bar."""
    costs = {"cost_config": {"fee_rate": 0.002, "slippage_rate": 0.001}}
    results = backtest(market(5, 250), ConstantAgent([0.1] * 4), **costs)
    assert kinds(results) == {"olmar": "lost_to_costs"}
    history = results.baselines["olmar"]
    loss = history["equity"].iloc[0] - history["equity"].iloc[-1]
    assert loss > 0.1 * history["equity"].iloc[0] and history["costs"].sum() >= 0.5 * loss
    assert "OLMAR" not in results.headlines[0].detail.partition("Not counted")[0]
    assert results.headlines[0].detail.endswith("Not counted: OLMAR (lost its money to costs).")
    assert "7 baselines that could be compared" in results.headlines[0].headline
    assert results.uncertainty.differences["olmar"].distinguishable_together is None
    flag = next(flag for flag in results.flags if flag.name == "baseline_lost_to_costs")
    assert flag.severity == "note" and "OLMAR lost " in flag.text
    free = backtest(market(5, 250), ConstantAgent([0.1] * 4))
    assert "olmar" not in kinds(free)


def test_an_agent_that_ends_below_it_is_told_so() -> None:
    metrics, labels = told(-0.6, [-0.5, 0.1])
    metrics["baselines"]["b0"]["not_comparable"] = {"kind": "lost_to_costs", "reason": "lost 50.0%, and so on"}
    summary, plain = headlines(metrics, labels)
    assert summary.headline.startswith(
        "After costs the agent did not beat the one baseline that could be compared, rule 1"
    )
    assert summary.detail.endswith("The agent ended with less than rule 0 all the same.")
    assert plain.baseline == "b1"  # the first that can be compared


# --- words --------------------------------------------------------------------------------------------------


def left_out(*names: str, agent: float = 0.3, others: tuple[float, ...] = (0.1, 0.2, 0.4)) -> Any:
    metrics, labels = told(agent, list(others))
    for name in names:
        metrics["baselines"][name]["not_comparable"] = {"kind": "could_not_buy", "reason": "could not buy B"}
    return headlines(metrics, labels)[0]


def test_the_best_and_the_count_are_of_those_that_can_be_compared() -> None:
    assert left_out().headline.startswith(
        "After costs the agent beat 2 of 3 baselines, but not the best of them, rule 2"
    )
    assert left_out("b2").headline == (
        "After costs the agent beat all 2 baselines that could be compared; the best of them was rule 1 (+20.0% "
        "against its +30.0%)."
    )
    assert left_out("b1", "b2").headline == (
        "After costs the agent beat the one baseline that could be compared, rule 0 (+10.0% against its +30.0%)."
    )
    assert left_out("b0").headline.startswith(
        "After costs the agent beat 1 of the 2 baselines that could be compared, but not the best of them, rule 2"
    )
    assert left_out("b0", agent=0.0).headline.startswith(
        "After costs the agent beat none of the 2 baselines that could be compared; the best of them was rule 2"
    )
    nothing = left_out("b0", "b1", "b2")
    assert (
        nothing.headline == "None of the 3 baselines is a measure of the agent." and nothing.outcome == "not_compared"
    )
    assert "beat" not in nothing.headline + nothing.detail
    assert nothing.detail.startswith("Not counted: rule 0 (could not buy all of its symbols), rule 1 (")


def test_page_and_screen_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    results = backtest(rising(), ConstantAgent([0.9, 0.0]), execution_config={"lot_size": {"A": 1.0, "B": 600.0}})
    page = page_of(results)
    assert "No measure of the agent:" in page.head and "is not compared with buy and hold" in page.head
    assert "Buy and hold<small>not compared</small>" in page.source
    file = io.StringIO()
    monkeypatch.setattr(screen, "console", Console(file=file, width=80, highlight=False))
    screen.print_results(results)
    lines = file.getvalue().splitlines()
    assert any(line.strip().startswith("buy and hold *") for line in lines)
    assert "not compared: no measure of the agent" in file.getvalue() and max(map(len, lines)) <= 80


# --- nothing is said where nothing is wrong -----------------------------------------------------------------


@pytest.mark.parametrize("fill", ["next_open", "next_close", "close"])
def test_ordinary_markets_have_no_such_flag(fill: str) -> None:
    worlds = {
        "random": market(1, 200),
        "ragged": ragged_market(2, 200),
        "weekends": stock_and_coin().split("2023-04-01")[1],
        "from a Saturday, alone": stock_and_coin(days=pd.date_range("2023-04-01", periods=120)),
        "real": MarketData.bundled().between("2011-01-01", "2012-12-31"),  # FB lists in it
        **({"sessions": sessions()} if fill != "next_open" else {}),
    }
    for name, bars in worlds.items():
        results = backtest(bars, RandomAgent(bars.n_symbols, 0.0), fill=fill, cost_config={})
        assert set(kinds(results).values()) <= {"lost_to_costs"}, (name, no_measure(results.metrics))
        assert "no_measure" not in {flag.name for flag in results.flags}


def test_a_rule_that_means_to_rest_is_a_measure() -> None:
    class Nothing:
        name, label = "nothing", "doing nothing"

        def orders(self, env: Any) -> Any:
            return np.zeros(env.market.n_symbols)

    assert kinds(backtest(rising(), baselines=(Nothing(), InverseVolatility()))) == {}
    results = backtest(rising(), settings={"baselines": ["cash", "buy_and_hold"]})
    assert kinds(results) == {}


def test_one_account_under_several_names_is_said_to_be_one() -> None:
    """Twenty bars without a history: nothing has a year to look back on, and there is one date to rebalance."""
    flags = {flag.name: flag for flag in backtest(market(0, 20)).flags}
    assert flags["same_baselines"].severity == "note"
    assert (
        "buy and hold, equal weight, minimum variance, inverse volatility and momentum" in flags["same_baselines"].text
    )
    assert "same_baselines" not in {flag.name for flag in backtest(market(0, 600)).flags}


# --- several tests together ---------------------------------------------------------------------------------


def walk(*folds: dict[str, Any]) -> WalkForwardResults:
    """Folds of 70 bars in which the agent gains 10%, and buy and hold ``made``, with ``costs`` and ``why``."""
    found, labels = [], {"buy_and_hold": "buy and hold"}
    for number, fold in enumerate(folds):
        days = pd.bdate_range("2020-01-01", periods=71 + 70 * number)[-71:]
        ends = {"agent": 0.1, "buy_and_hold": fold["made"]}
        noise = np.random.default_rng(number).normal(0, 1e-3, 70)
        curves = {
            name: 1e5 * np.append(1.0, np.exp(np.cumsum(noise - noise.mean() + np.log1p(end) / 70)))
            for name, end in ends.items()
        }
        figures = {
            name: {
                "total_return": end, "sharpe": 1.0, "max_drawdown": -0.1, "bars": 70, "costs": fold.get("costs", 0.0),
                "initial_equity": 1e5, "not_comparable": fold.get("why") if name != "agent" else None,
            }
            for name, end in ends.items()
        }  # fmt: skip
        metrics = {**figures.pop("agent"), "baselines": figures, "uncertainty": None}
        span = {"first": str(days[0]), "last": str(days[-1])}
        place = Fold(number + 1, 0, 1, 1, 2)
        equity = pd.DataFrame(curves, days)
        found.append(FoldResult(place, Path(place.name), {"train": span, "test": span}, labels, metrics, None, equity))
    data = {"source": "bundled", "train_end": "2010-01-01"}
    config = RunConfig.model_validate({"data": data, "backtest": {"uncertainty": {"resamples": 200}}})
    return WalkForwardResults(config, tuple(found), ("A",), 0, False, 252.0)


def test_a_walk_forward_counts_the_folds_that_can_be_compared() -> None:
    why = {"kind": "could_not_buy", "reason": "could not buy B"}
    fair = walk({"made": 0.05}, {"made": 0.2})
    assert fair.summary.endswith("it beat buy and hold in 1 of 2 folds.") and fair.headlines[-1].outcome == "lost"
    assert fair.uncertainty is not None
    assert fair.uncertainty.differences["buy_and_hold"].distinguishable_together is not None
    found = walk({"made": 0.05}, {"made": -0.05, "why": why})
    assert (found.won, found.compared) == ({"buy_and_hold": 1}, {"buy_and_hold": 1})
    assert found.summary.endswith(
        "the agent made +21.0%, after costs. It is not compared with buy and hold, which could not buy B (fold 2)."
    )
    assert found.headlines[-1].outcome == "not_compared" and "beat" not in str(found.headlines[-1])
    assert found.metrics["baselines"]["buy_and_hold"]["not_comparable"]["kind"] == "could_not_buy"
    assert found.uncertainty is not None
    assert found.uncertainty.differences["buy_and_hold"].distinguishable_together is None
    page = build_page(found)
    assert "1 of 1" in page and "not compared" in page and "beat buy and hold" not in page


def test_a_walk_forward_asks_for_costs_over_all_folds() -> None:
    """6% lost in each fold, 5 points of it to costs: 11.6% in all, and more than half of that is costs."""
    found = walk({"made": -0.06, "costs": 5_000.0}, {"made": -0.06, "costs": 5_000.0})
    assert [fold.verdicts[0].outcome for fold in found.folds] == ["beat", "beat"]
    why = found.not_comparable["buy_and_hold"]
    assert why is not None and why["kind"] == "lost_to_costs"
    costs = 5_000.0 + 5_000.0 * 0.94
    assert f"lost 11.6%, and its costs came to {costs / (1e5 * (1 - 0.94**2)):.0%} of that loss" in why["reason"]
    assert walk({"made": -0.06}, {"made": -0.06}).not_comparable["buy_and_hold"] is None


def test_a_comparison_of_runs_has_no_buy_and_hold_that_could_not_buy(tmp_path: Path) -> None:
    source = tmp_path / "mine.csv"
    frame(4, 400).to_csv(source, index=False)
    dear = {"execution_config": {"lot_size": {"A": 1.0, "B": 1e7, "C": 1.0, "D": 1.0}}}
    runs = [run_folder(tmp_path / str(seed), source, 1e-3, seed=seed, env=dear).path for seed in range(2)]
    found = compare_runs(runs)
    assert found.hold is None and found.gaps == ()
    assert str(found.hold_reason).startswith("buy and hold could not buy B (ordered 25.0% of the account, held at most")
    assert words_of(found).hold == "There is no buy and hold to compare with."
    fair = compare_runs([run_folder(tmp_path / f"fair-{seed}", source, 1e-3, seed=seed).path for seed in range(2)])
    assert fair.hold is not None
