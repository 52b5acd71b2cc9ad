"""Baselines on clocks with several calendars: they reach what they mean to hold as soon as it can be had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from batchenv import BatchTradingEnv, FastTrainingEnv, MarketData
from batchenv.causality import assert_causal
from stateful import BackTesting, StatefulTradingEnv
from stateful.accounts import Accounts
from stateful.backtest import BacktestResults
from stateful.baselines import (
    OLMAR,
    AllCash,
    BuyAndHold,
    EqualWeight,
    InverseVolatility,
    MinimumVariance,
    Momentum,
    RandomTurnover,
)
from stateful.schedules import MONTH, Calendar
from stateful.verdict import percent
from tests.markets import ragged_market
from tests.stateful.policies import ConstantAgent
from tests.stateful.worlds import FREE, hand_made
from tests.test_baselines import Driven, play

FILLS = ("next_open", "next_close", "close")
SCHEDULED = (BuyAndHold(), EqualWeight(), MinimumVariance(), InverseVolatility(), Momentum())
RULES = (*SCHEDULED, OLMAR(), RandomTurnover(0.05), AllCash())
DAYS = pd.date_range("2021-01-01", "2023-12-31")
WEEK = ("2023-06-01", "2023-06-02", "2023-06-03", "2023-06-04", "2023-06-05")
"""Thursday to Monday."""


def stock_and_coin(
    stock: Any = None, coin: Any = None, days: pd.DatetimeIndex = DAYS, holidays: Sequence[str] = ()
) -> MarketData:
    """STOCK on weekdays, COIN every day; closes by day, or a random walk. Each opens at the close before."""
    rng = np.random.default_rng(0)
    walks = 100 * np.exp(rng.normal(0, 0.01, (len(days), 2)).cumsum(axis=0))
    closes = pd.DataFrame(walks if stock is None else np.column_stack([stock, coin]), days, ["STOCK", "COIN"])
    closed = (days.day_of_week >= 5) | days.isin(pd.DatetimeIndex(holidays))
    closes.loc[closed, "STOCK"] = np.nan
    opens = closes.ffill().shift(1).bfill().where(closes.notna())
    parts = {"open": opens, "high": np.maximum(opens, closes), "low": np.minimum(opens, closes), "close": closes}
    return MarketData.from_frame(pd.concat(parts, axis=1))


def backtest(bars: MarketData, *baselines: Any, agent: Any = None, **config: Any) -> BacktestResults:
    env = StatefulTradingEnv(bars, {"fill": "next_close", "action_config": {"mode": "weights"}, **config}, [], seed=0)
    agent = agent or ConstantAgent(np.eye(bars.n_symbols)[0] * 0.1)
    settings = {"vectorbt": False, "uncertainty": {"resamples": 0}}
    return BackTesting(agent, env, settings, baselines=baselines or None).run()


def weights(results: BacktestResults, name: str) -> npt.NDArray[np.float64]:
    """Weights at every bar, float64 ``[bars, symbols]``."""
    history = results.baselines[name]
    return history[[f"weight[{s}]" for s in results.market.symbols]].to_numpy()


# --- the same portfolio whenever the test begins ---------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("start", WEEK)
def test_a_weekend_at_the_start_takes_no_symbol_out_of_the_portfolio(start: str, fill: str) -> None:
    """Prices rest from 1 June on, so that nothing but the calendar can move weights."""
    bars = stock_and_coin()
    rest = np.where((DAYS >= "2023-05-31")[:, None], bars.mark[DAYS.get_loc("2023-05-31")], bars.mark)
    bars = stock_and_coin(*rest.T)
    results = backtest(bars.split(start)[1], *SCHEDULED, fill=fill, cost_config=FREE)
    monday = backtest(bars.split("2023-06-05")[1], *SCHEDULED, fill=fill, cost_config=FREE)
    tuesday = results.history.index.get_loc("2023-06-06")
    for rule in SCHEDULED:
        found, expected = weights(results, rule.name)[tuesday], weights(monday, rule.name)[1]
        np.testing.assert_allclose(found, expected, atol=0.01, err_msg=rule.name)
        assert found.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights(results, "buy_and_hold")[tuesday], [0.5, 0.5], rtol=1e-12)


def test_equity_of_a_saturdays_start_is_that_of_mondays_within_the_costs() -> None:
    """The issue's market: the stock gains 0.2% a day, and the coin moves by chance."""
    bars = stock_and_coin(100 * 1.002 ** np.arange(len(DAYS)), stock_and_coin().mark[:, 1])
    made = {}
    for start in WEEK:
        results = backtest(bars.split(start)[1])
        figures = results.metrics["baselines"]
        made[start] = {rule.name: figures[rule.name]["total_return"] for rule in SCHEDULED}
        assert all(weights(results, rule.name)[5:, 0].max() > 0.3 for rule in SCHEDULED)
    table = pd.DataFrame(made)
    assert (table.loc["momentum"] > 0.3).all()
    assert float((table.max(axis=1) - table.min(axis=1)).max()) < 0.02, table


def test_a_holiday_after_a_weekend_is_waited_for() -> None:
    bars = stock_and_coin(holidays=["2023-05-29"])  # a Monday
    results = backtest(bars.split("2023-05-27")[1], BuyAndHold(), EqualWeight())
    history = results.baselines["buy_and_hold"]
    assert (history["shares[STOCK]"] > 0).to_numpy().tolist()[:4] == [False, False, False, True]  # Tuesday
    np.testing.assert_array_equal(
        results.baselines["equal_weight"]["shares[STOCK]"][:4] > 0, history["shares[STOCK]"][:4] > 0
    )


@pytest.mark.parametrize("rule", SCHEDULED, ids=lambda rule: rule.name)
@pytest.mark.parametrize("start", WEEK)
def test_without_earlier_bars_a_weekend_is_no_late_listing(start: str, rule: Any) -> None:
    """A file of the test period alone: on a Saturday nobody can know yet that there is a stock."""
    bars = stock_and_coin(days=pd.date_range(start, periods=30))
    found = weights(backtest(bars, rule, cost_config=FREE), rule.name)
    assert (found[7] > 0.45).all(), found[:8]


def test_a_symbol_that_lists_after_the_first_days_is_not_bought_by_buy_and_hold() -> None:
    closes = np.full((60, 2), 10.0)
    closes[:6, 1] = np.nan
    bars = hand_made(closes.tolist(), dates=pd.date_range("2024-01-01", periods=60))
    results = backtest(bars, BuyAndHold(), EqualWeight())
    assert (results.baselines["buy_and_hold"]["shares[B]"] == 0).all()
    held = results.baselines["equal_weight"]["shares[B]"].to_numpy() > 0
    assert held.argmax() == 32  # a month and half a day, and filled a day later


# --- an account by hand -----------------------------------------------------------------------------------------


class Ledger:
    """A baseline's account in plain Python: closes only, fees and slippage in proportion, no dividends, no shorts."""

    def __init__(self, bars: MarketData, fill: str, costs: dict[str, float]) -> None:
        self.closes, self.opens = bars.close.tolist(), (bars.close if bars.open is None else bars.open).tolist()
        self.days = [pd.Timestamp(t) for t in bars.timestamps]
        self.ends = [None if np.isnat(end) else pd.Timestamp(end) for end in bars.delisted]
        self.fill, self.costs, self.n = fill, costs, bars.n_symbols
        self.cash, self.held = 100_000.0, [0.0] * self.n

    def has(self, t: int, s: int) -> bool:
        return 0 <= t < len(self.days) and self.closes[t][s] == self.closes[t][s]

    def mark(self, t: int, s: int) -> float | None:
        return next((self.closes[u][s] for u in range(t, -1, -1) if self.has(u, s)), None)

    def holdable(self, t: int, s: int) -> bool:
        last = next((u for u in range(t, -1, -1) if self.has(u, s)), None)
        if last is None or (self.ends[s] is not None and self.days[t] > self.ends[s]):
            return False
        return (self.days[t] - self.days[last]).days <= 35

    def chance(self, u: int, s: int) -> bool:
        return self.has(u, s) if self.fill == "close" else self.mark(u, s) is not None and self.has(u + 1, s)

    def decisions(self, monthly: bool) -> list[int]:
        opening = next((t for t in range(len(self.days)) if any(self.holdable(t, s) for s in range(self.n))), None)
        if opening is None:
            return []
        found, months = [opening], 1
        for t in range(opening + 1, len(self.days)):
            passed = self.days[t] - self.days[opening]
            new = any(self.mark(t - 1, s) is None and self.mark(t, s) is not None for s in range(self.n))
            if (new and passed <= pd.Timedelta(days=4)) or (monthly and passed >= months * pd.Timedelta(days=30.4375)):
                found.append(t)
            while passed >= months * pd.Timedelta(days=30.4375):
                months += 1
        return found

    def orders(self, t: int, since: int, once: bool) -> list[float]:
        part = [s for s in range(self.n) if self.holdable(since, s) and self.holdable(t, s)]
        chosen = [s for s in range(self.n) if self.holdable(since, s)]
        grown = {s: self.mark(t, s) / self.mark(since, s) / len(chosen) for s in part}
        money = self.cash + sum(self.held[s] * self.mark(t, s) for s in range(self.n) if self.holdable(t, s))
        first = {s: next((u for u in range(since, t) if self.chance(u, s)), None) for s in part}
        last = max((u for u in first.values() if u is not None), default=None)
        orders = [0.0] * self.n
        for s in part:
            order = money * grown[s] / sum(grown.values()) / self.mark(t, s) - self.held[s]
            waits = first[s] is None
            later = None in first.values() or first[s] < last
            again = None in first.values() or not any(self.chance(u, s) for u in range(last, t))
            if waits or (not once and order > 0 and later and again):
                orders[s] = order
        return orders

    def settle(self, t: int, orders: list[float]) -> None:
        at, fee, slip = t if self.fill == "close" else t + 1, self.costs["fee_rate"], self.costs["slippage_rate"]
        table = self.opens if self.fill == "next_open" else self.closes
        fills = [s for s in range(self.n) if orders[s] and self.mark(t, s) is not None and self.has(at, s)]
        for s in fills:
            if orders[s] < 0:
                self.cash += -orders[s] * table[at][s] * (1 - slip) * (1 - fee)
                self.held[s] += orders[s]
        buys = {s: orders[s] * table[at][s] * (1 + slip) * (1 + fee) for s in fills if orders[s] > 0}
        factor = min(1.0, self.cash / sum(buys.values())) if buys else 1.0
        for s, cost in buys.items():
            self.cash -= factor * cost
            self.held[s] += factor * orders[s]

    def play(self, monthly: bool) -> list[float]:
        decisions, equity = self.decisions(monthly), []
        for t in range(len(self.days)):
            equity.append(self.cash + sum(h * self.mark(t, s) for s, h in enumerate(self.held) if h))
            if t == len(self.days) - 1:
                break
            gone = [s for s, end in enumerate(self.ends) if end == self.days[t]]
            since = max((d for d in decisions if d <= t), default=None)
            once = not monthly and since == decisions[0]
            orders = [0.0] * self.n if since is None else self.orders(t, since, once)
            if self.fill == "close":
                self.settle(t, orders)
            for s in gone:  # rule 4.4, before the next bar
                self.cash += self.held[s] * self.mark(t, s)
                self.held[s] = 0.0
            if self.fill != "close":
                self.settle(t, orders)
        return equity


def drawn_world(seed: int) -> MarketData:
    """Symbols with calendars of their own: every day, weekdays, every third day, pauses, late listings, delistings."""
    rng = np.random.default_rng(seed)
    n, symbols = 150, int(rng.integers(2, 5))
    dates = pd.date_range("2024-01-01", periods=n) + pd.Timedelta(days=int(rng.integers(7)))
    closes = 50 * np.exp(rng.normal(0, 0.02, (n, symbols)).cumsum(axis=0))
    ends: list[Any] = ["NaT"] * symbols
    for s in range(symbols):
        kind = rng.integers(6) if s else 0  # the first has every day, so that the clock is whole
        if kind == 1:
            closes[dates.day_of_week >= 5, s] = np.nan
        elif kind == 2:
            closes[np.arange(n) % 3 != rng.integers(3), s] = np.nan
        elif kind == 3:
            closes[: rng.integers(1, 80), s] = np.nan
        elif kind == 4:  # a pause, short or long
            start = rng.integers(0, 60)
            closes[start : start + rng.integers(2, 60), s] = np.nan
        elif kind == 5:
            last = int(rng.integers(20, 100))
            closes[last + 1 :, s], ends[s] = np.nan, dates[last]
    closes[0, 0] = 50.0
    opens = np.roll(pd.DataFrame(closes).ffill().to_numpy(), 1, axis=0) * np.exp(rng.normal(0, 0.01, closes.shape))
    opens[0] = closes[0]
    opens = np.where(np.isnan(closes), np.nan, np.where(np.isnan(opens), closes, opens))
    names = tuple("ABCDE"[:symbols])
    delisted = np.array(ends, "datetime64[ns]")
    return MarketData(names, dates.to_numpy().astype("datetime64[ns]"), closes, open=opens, delisted=delisted)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("costs", [FREE, {"fee_rate": 0.002, "slippage_rate": 0.001}], ids=["free", "costs"])
def test_a_ledger_by_hand_comes_to_the_same_money(fill: str, costs: dict[str, float]) -> None:
    for seed in range(25):
        bars = drawn_world(seed)
        results = backtest(bars, BuyAndHold(), EqualWeight(), fill=fill, cost_config=costs)
        for name, monthly in (("buy_and_hold", False), ("equal_weight", True)):
            expected = Ledger(bars, fill, costs).play(monthly)
            found = results.baselines[name]["equity"]
            np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=f"{name}, world {seed}")


# --- two clocks that never meet ---------------------------------------------------------------------------------


def sessions(days: int = 70, jump: float = 2.0) -> MarketData:
    """Hours of TOKYO (0:00 to 5:00), NEW_YORK (15:00 to 20:00), and of a COIN; Tokyo jumps after a week."""
    hours = pd.date_range("2024-01-01", periods=24 * days, freq="h")
    weekday, hour = hours.day_of_week < 5, hours.hour
    level = np.where(hours < "2024-01-09", 100.0, 100.0 * jump)
    closes = pd.DataFrame(
        {
            "TOKYO": np.where(weekday & (hour < 6), level, np.nan),
            "NEW_YORK": np.where(weekday & (hour >= 15) & (hour < 21), 100.0, np.nan),
            "COIN": 100.0,
        },
        hours,
    )
    return MarketData.from_frame(closes)


def test_exchanges_that_are_never_open_together_are_rebalanced() -> None:
    """What Tokyo sells in its night, New York buys in its own: a purchase waits for the sale that pays for it."""
    bars = sessions()
    results = backtest(bars, EqualWeight(), cost_config=FREE)
    found = pd.DataFrame(weights(results, "equal_weight"), results.history.index, bars.symbols)
    np.testing.assert_allclose(found.loc["2024-01-03 00:00"], 1 / 3, rtol=1e-9)
    assert found.loc["2024-01-31 00:00", "TOKYO"] == pytest.approx(0.5, rel=1e-9)
    np.testing.assert_allclose(found.loc["2024-02-02 00:00"], 1 / 3, rtol=1e-9)
    turnover = results.baselines["equal_weight"]["turnover"]
    assert (turnover.loc["2024-02-02 01:00":"2024-02-29"] == 0).all()


@pytest.mark.parametrize("name", ["trade", "discrete"])
def test_exchanges_that_are_never_open_together_are_rebalanced_through_a_limit(name: str) -> None:
    bars = sessions(40)
    config = {"fill": "next_close", "cost_config": FREE, "action_config": {"mode": name}}
    limits = {"trade_limit_percent": 0.05, "maintain_history": True}
    env = StatefulTradingEnv(bars, {**config, "portfolio_config": limits}, [], seed=0)
    play(env, EqualWeight())
    held = env.history[[f"weight[{s}]" for s in bars.symbols]]
    within = 1e-6 if name == "trade" else 0.05  # to sell or to buy 5% is all that there is
    np.testing.assert_allclose(held.loc["2024-01-08 23:00"], 1 / 3, atol=within)
    np.testing.assert_allclose(held.iloc[-1], 1 / 3, atol=within)


def test_two_exchanges_with_holidays_of_their_own() -> None:
    """One is closed when the decision is made, the other on the day when the first opens."""
    dates = pd.date_range("2024-01-01", periods=40)
    closes = np.full((40, 2), 10.0)
    closes[3:, 0] = 20.0
    closes[[31, 32], 0] = np.nan  # decided at 31 (30.4375 days), A sold at 33
    closes[[33, 34], 1] = np.nan  # B is bought at 35
    results = backtest(hand_made(closes.tolist(), dates=dates), EqualWeight(), cost_config=FREE)
    found = weights(results, "equal_weight")
    assert found[32, 0] == pytest.approx(2 / 3)
    assert found[34, 0] == pytest.approx(0.5) and found[34, 1] == pytest.approx(1 / 3)
    np.testing.assert_allclose(found[35], [0.5, 0.5], rtol=1e-12)


# --- pauses, volumes, participation ------------------------------------------------------------------------------


def test_money_does_not_wait_for_a_symbol_that_has_halted_for_more_than_a_month() -> None:
    n = 140
    closes = np.full((n, 2), 10.0)
    closes[10:100, 1] = np.nan
    bars = hand_made(closes.tolist(), dates=pd.date_range("2024-01-01", periods=n))
    assert Calendar.of(bars).holdable[:, 1].tolist() == [True] * 45 + [False] * 55 + [True] * 40
    part = bars.between("2024-01-20")
    found = weights(backtest(part, EqualWeight(), cost_config=FREE), "equal_weight")
    assert found[20].tolist() == [0.5, 0.0]  # it might come back any day
    assert found[33].tolist() == [1.0, 0.0]  # at the next rebalance it is given up,
    np.testing.assert_allclose(found[-1], [0.5, 0.5])  # and taken in again once it trades
    late = bars.between("2024-03-01")
    assert weights(backtest(late, EqualWeight(), cost_config=FREE), "equal_weight")[1].tolist() == [1.0, 0.0]


def test_what_is_delisted_is_left_out_and_its_money_divided_at_the_next_rebalance() -> None:
    closes = np.full((70, 3), 10.0)
    closes[21:, 2] = np.nan
    bars = hand_made(closes.tolist(), dates=pd.date_range("2024-01-01", periods=70), gone="C")
    results = backtest(bars, BuyAndHold(), EqualWeight(), cost_config=FREE)
    np.testing.assert_allclose(weights(results, "equal_weight")[25], [1 / 3, 1 / 3, 0.0])
    np.testing.assert_allclose(weights(results, "equal_weight")[33], [0.5, 0.5, 0.0])
    np.testing.assert_allclose(weights(results, "buy_and_hold")[-1], [1 / 3, 1 / 3, 0.0])


def test_a_bar_without_volume_is_no_chance_where_volume_matters() -> None:
    n = 12
    volume = np.full((n, 2), 1e9)
    volume[:4, 1] = 0.0
    bars = hand_made(np.full((n, 2), 10.0).tolist(), volume=volume)
    costs = {**FREE, "impact_coefficient": 0.1}
    results = backtest(bars, BuyAndHold(), EqualWeight(), cost_config=costs)
    for name in ("buy_and_hold", "equal_weight"):
        held = results.baselines[name]["shares[B]"].to_numpy()
        assert (held[:4] == 0).all() and (held[4:] > 0).all()
    held = backtest(bars, BuyAndHold(), cost_config=FREE).baselines["buy_and_hold"]["shares[B]"].to_numpy()
    assert held[1] > 0


@pytest.mark.parametrize("splits", [False, True])
def test_a_participation_limit_makes_a_purchase_take_as_many_bars_as_it_needs(splits: bool) -> None:
    """1,000 shares of B may be bought at a bar, and 5,000 are wanted; after the split 2,000 of 10,000."""
    n = 20
    closes, volume, split = np.full((n, 2), 10.0), np.full((n, 2), 1e9), np.ones((n, 2))
    volume[:, 1] = 10_000.0
    if splits:
        closes[3:, 1], volume[3:, 1], split[3, 1] = 5.0, 20_000.0, 2.0
    bars = hand_made(closes.tolist(), volume=volume, splits=split)
    config = {"cost_config": FREE, "execution_config": {"participation_limit": 0.1}}
    results = backtest(bars, BuyAndHold(), EqualWeight(), **config)
    for name in ("buy_and_hold", "equal_weight"):
        worth = results.baselines[name]["shares[B]"].to_numpy() * closes[:, 1]
        np.testing.assert_allclose(worth, np.minimum(np.arange(n) * 10_000.0, 50_000.0), rtol=1e-9)
        assert (results.baselines[name]["turnover"].iloc[6:] == 0).all()


# --- schedules and windows -----------------------------------------------------------------------------------------


def test_a_month_is_as_long_on_every_clock() -> None:
    """Due at the first bar at or after the start and k months of 30.4375 days; worked out date by date."""
    every_day = stock_and_coin()
    weekdays = every_day.select(["STOCK"])
    weekdays = MarketData.from_frame(pd.DataFrame(weekdays.close, weekdays.timestamps, ["STOCK"]).dropna())
    for bars in (every_day, weekdays, sessions()):
        calendar, start = Calendar.of(bars), 4
        at = np.arange(start, bars.n_bars)
        found = calendar.due(np.full_like(at, start), at, None)
        times = pd.DatetimeIndex(bars.timestamps)
        due = [start]
        while times[-1] >= (when := times[start] + len(due) * pd.Timedelta(days=30.4375)):
            due.append(int(np.argmax(times >= when)))
        expected = [max(d for d in due if d <= bar) for bar in at.tolist()]
        # Between a date and the first bar after it the last one stands.
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(calendar.due(np.full_like(at, start), at, 21), at - (at - start) % 21)
    assert pd.Timedelta(MONTH, "ns") == pd.Timedelta(days=30.4375)


def test_a_day_of_minutes_is_rebalanced_once_and_by_bars_when_asked() -> None:
    rng = np.random.default_rng(0)
    minutes = pd.date_range("2024-01-02 14:30", periods=390, freq="min")
    closes = pd.DataFrame(100 * np.exp(rng.normal(0, 1e-3, (390, 2)).cumsum(axis=0)), minutes, ["A", "B"])
    results = backtest(MarketData.from_frame(closes), EqualWeight(), EqualWeight(30, "often", "often"))
    traded = {name: int((history["turnover"] > 0).sum()) for name, history in results.baselines.items()}
    assert traded == {"equal_weight": 1, "often": 13}


@pytest.mark.parametrize("start", ["2023-06-05", "2023-06-03"])
def test_windows_of_time_look_at_the_same_span_on_every_clock(start: str) -> None:
    """Three stocks on their own clock, and beside a coin that makes it a clock of every day."""
    rng = np.random.default_rng(3)
    walks = 100 * np.exp(
        (rng.normal(0, 1, (len(DAYS), 3)) @ [[1, 0.5, 0], [0, 1, 0], [0, 0.2, 3]] * 0.01).cumsum(axis=0)
    )
    stocks = pd.DataFrame(walks, DAYS, ["A", "B", "C"])
    stocks = stocks[DAYS.day_of_week < 5].reindex(DAYS)
    alone = MarketData.from_frame(stocks.dropna()).split(start)[1]
    beside = MarketData.from_frame(stocks.assign(Z=100.0)).split(start)[1]
    only_stocks = np.array([True, True, True, False])
    for rule in (MinimumVariance(), InverseVolatility(), Momentum()):
        found = {}
        for bars, universe in ((alone, only_stocks[:3]), (beside, only_stocks)):
            env = StatefulTradingEnv(bars, {"fill": "next_close"}, [], lane_parameters={"tradable": universe[None]})
            found[len(universe)] = rule.decided(Accounts.of(env))[1][0, :3]
        assert found[3].max() < 1.0 or rule.name == "momentum"
        np.testing.assert_allclose(found[4], found[3], atol=0.01, err_msg=rule.name)


def test_a_window_of_time_is_the_year_the_quarter_and_the_year_without_its_month() -> None:
    bars = stock_and_coin().split("2023-06-05")[1]
    whole = bars.with_history()
    prices, days = pd.DataFrame(whole.mark, pd.DatetimeIndex(whole.timestamps)), pd.Timedelta(days=1)
    now, accounts = pd.Timestamp("2023-06-05"), Accounts.of(StatefulTradingEnv(bars, {}, []))

    def back(span: float) -> pd.Timestamp:
        return prices.index[prices.index <= now - span * days][-1]

    quarter = prices.loc[back(365.25 / 4) : now].pct_change().dropna().std()
    np.testing.assert_allclose(InverseVolatility().decided(accounts)[1][0], (1 / quarter) / (1 / quarter).sum())
    gains = prices.loc[back(365.25 / 12)] / prices.loc[back(365.25)]
    assert Momentum().decided(accounts)[1][0].argmax() == gains.to_numpy().argmax()
    year = prices.loc[back(365.25) : now].to_numpy()
    from stateful.portfolios import minimum_variance

    np.testing.assert_allclose(MinimumVariance().decided(accounts)[1][0], minimum_variance(year), rtol=1e-12)


# --- the same mechanism everywhere -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("world", ["weekend", "ragged", "sessions", "limited"])
def test_what_is_worked_out_ahead_is_what_is_worked_out_bar_by_bar(rule: Any, world: str) -> None:
    config: dict[str, Any] = {"fill": "next_close"}
    if world == "limited":
        config["execution_config"] = {"participation_limit": 0.001}
    bars = {"weekend": stock_and_coin().split("2023-10-07")[1], "sessions": sessions(35, 1.5)}.get(world)
    env = StatefulTradingEnv(ragged_market(1) if bars is None else bars, config, [], seed=0)
    for start in (0, 7):
        env.reset(options={"start": start})
        over = False
        while not over:
            orders = rule.orders(env)
            expected = rule.orders_of(Accounts.of(env))[0]
            np.testing.assert_allclose(orders, expected, rtol=1e-9, atol=1e-9 * env.equity / 100)
            *_, done, ended, _ = env.step_orders(orders)
            over = done or ended


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_policy_and_a_batch_of_lanes_reach_the_same_portfolio(rule: Any) -> None:
    """Four lanes that begin on Friday to Monday, by float32 weights, and single accounts by orders."""
    bars = stock_and_coin().split("2023-06-02")[1]
    config = {"fill": "next_close", "action_config": {"mode": "weights"}}
    lanes = {"episode_start": np.arange(4), "episode_length": np.full(4, 45)}
    batch = BatchTradingEnv(bars, config, [], 4, seed=0, lane_parameters=lanes)
    policy = rule.bind(batch)
    observation, _ = batch.reset()
    singles = []
    for lane in range(4):
        own = {name: values[lane : lane + 1] for name, values in lanes.items()}
        singles.append(StatefulTradingEnv(bars, config, [], seed=0, lane=lane, lane_parameters=own))
        singles[-1].reset()
    for _ in range(44):
        observation, *_ = batch.step(policy.predict(observation)[0])
        for env in singles:
            env.step_orders(rule.orders(env))
    np.testing.assert_allclose(batch.holdings, [env.holdings for env in singles], rtol=1e-4, atol=1e-3)
    if isinstance(rule, (BuyAndHold, EqualWeight)):
        assert (batch.holdings > 100).all()


@pytest.mark.parametrize("rule", RULES[:-1], ids=lambda rule: rule.name)
def test_a_rule_knows_no_later_bar_of_any_calendar(rule: Any) -> None:
    part = stock_and_coin().split("2023-09-02")[1]  # a Saturday
    config = {"fill": "next_close", "action_config": {"mode": "weights"}}
    assert_causal(lambda bars: Driven(StatefulTradingEnv(bars, config, [], seed=0), rule), part, bars=[1, 2, 3, 30, 61])


def test_random_trading_turns_over_as_much_as_the_agent_on_two_calendars() -> None:
    class Restless:
        rng = np.random.default_rng(0)

        def predict(self, observation: Any, deterministic: bool = False) -> tuple[Any, Any]:
            return self.rng.uniform(0, 1, 2).astype(np.float32), None

    results = backtest(stock_and_coin(), RandomTurnover(), agent=Restless(), action_config={"mode": "trade"})
    agent, found = (m["turnover_per_year"] for m in (results.metrics, results.metrics["baselines"]["random"]))
    assert found == pytest.approx(agent, rel=0.05), percent(found / agent)
    assert (results.baselines["random"][["shares[STOCK]", "shares[COIN]"]].iloc[-1] > 0).all()


def test_a_scalar_training_environment_holds_both() -> None:
    env = FastTrainingEnv(stock_and_coin().split("2023-06-03")[1], {"fill": "next_close"}, [], seed=0)
    play(env, BuyAndHold())
    assert (env.holdings > 0).all()
